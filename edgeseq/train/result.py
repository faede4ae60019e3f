"""What training leaves: the result, its files, and the key that says they are current."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edgeseq import nn as cells
from edgeseq.config import Config
from edgeseq.data import SequenceSet, Split
from edgeseq.errors import TrainError
from edgeseq.nn._classifier import Classifier
from edgeseq.train import _checkpoint

_FORMAT = 1


@dataclass(frozen=True)
class Event:
    """Where training is; given to the progress callback.

    Attributes:
        name: the candidate, such as ``gru64``.
        epoch, epochs: running (from 1) and at most.
        step, steps: done and at most, over all epochs.
        loss, accuracy: of the training windows in this epoch so far (accuracy 0 to 1).
        val_loss, val_accuracy: of the validation windows at the end of the epoch, else None.
        seconds_left: estimate to the last epoch; early stopping may end sooner.
        done: the last event.
        cached: nothing was trained, since nothing changed.
    """

    name: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    val_loss: float | None = None
    val_accuracy: float | None = None
    seconds_left: float = 0.0
    done: bool = False
    cached: bool = False


Progress = Callable[[Event], None]


@dataclass(frozen=True)
class EpochMetrics:
    """One line of the history; losses as trained (train: smoothed labels), accuracies 0 to 1."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """A trained model.

    Attributes:
        model: in eval mode, on the CPU.
        history: one entry per epoch.
        metrics: ``{train,validation,test}_{accuracy,loss}`` of the kept weights, each window from
            a reset state; ``best_epoch``; ``parameters``.
        checkpoint: the weights file.
        seconds: spent training (of the run that trained it, all its resumed parts together).
        cached: it was read back, since neither data nor settings nor code changed.
        meta: what `load_trained` returns beside the module.
    """

    model: Classifier
    history: tuple[EpochMetrics, ...]
    metrics: dict[str, float]
    checkpoint: Path
    seconds: float
    cached: bool
    meta: dict[str, Any]


def fingerprint(config: Config, data: SequenceSet, parts: Split) -> str:
    """SHA-256 over all that decides what training results in.

    The values of the data, the windows and the split, the settings of model and training, and the
    source of `edgeseq.nn` and `edgeseq.train`.
    """
    key = {
        "data": data.sha256,
        "window": [config.data.window, config.data.hop],
        "split": asdict(parts),
        "model": config.model.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "code": _code_sha256(),
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def save_trained(
    folder: Path, model: Classifier, meta: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """Write weights, then the description that vouches for them. Returns the weights' path."""
    weights = folder / _checkpoint.WEIGHTS
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    _checkpoint.write_atomically(weights, lambda temporary: save_file(state, str(temporary)))
    described = {
        **meta,
        "format": _FORMAT,
        "weights": {"file": weights.name, "sha256": _checkpoint.sha256(weights)},
    }
    _checkpoint.save_json(folder / _checkpoint.META, described)
    return weights, described


def load_trained(folder: str | Path) -> tuple[Classifier, dict[str, Any]]:
    """Read a trained model back, in eval mode, on the CPU.

    Returns:
        the module ([batch, T, C] in sensor units -> [batch, classes]) and its description:
        ``name``, ``model`` (arguments of `edgeseq.nn.build`), ``classes``, ``channels``, ``units``,
        ``rate_hz``, ``window``, ``hop``, ``split``, ``data`` (name, sha256), ``metrics``,
        ``history``, ``fingerprint``, ``seconds``.

    Raises:
        TrainError: nothing trained there, or a damaged file.
    """
    folder = Path(folder)
    path = folder / _checkpoint.META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TrainError(
            "holds no trained model", where=str(folder), fix="run `edgeseq train` first"
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise _damaged(path, "not a description in a known format")
    try:
        weights = folder / _checkpoint.WEIGHTS
        if _checkpoint.sha256(weights) != meta["weights"]["sha256"]:
            raise _damaged(weights, "its SHA-256 is not the one recorded")
        model = cells.build(**meta["model"])
        model.load_state_dict(load_file(str(weights)))
    except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, " ".join(str(error).split())[:200]) from error
    return model.eval(), meta


def restore(folder: Path, key: str) -> TrainResult | None:
    """The result kept in `folder` if it belongs to `key`, else None."""
    try:
        model, meta = load_trained(folder)
    except TrainError:
        return None  # absent or damaged: it is trained again and replaced
    if meta.get("fingerprint") != key:
        return None
    try:
        return to_result(model, meta, folder, cached=True)
    except (KeyError, TypeError):
        return None  # as if it were damaged


def to_result(model: Classifier, meta: dict[str, Any], folder: Path, cached: bool) -> TrainResult:
    """Put a result together from a module and its description."""
    return TrainResult(
        model=model,
        history=tuple(EpochMetrics(**entry) for entry in meta["history"]),
        metrics=meta["metrics"],
        checkpoint=folder / _checkpoint.WEIGHTS,
        seconds=meta["seconds"],
        cached=cached,
        meta=meta,
    )


def _code_sha256() -> str:
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "nn", package / "train"):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _damaged(path: Path, reason: str) -> TrainError:
    return TrainError(
        f"is damaged ({reason})", where=str(path), fix="delete the folder and train again"
    )
