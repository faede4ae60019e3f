"""Where a model to compile comes from: trained from settings, or a file made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseq.config import Config
from edgeseq.data import Windows, load_frames, load_set, split, windows
from edgeseq.errors import DataError, UnsupportedError
from edgeseq.ir.graph import Graph

__all__ = ["Model", "Progress", "Silent", "imported_model", "trained_models"]

Array = npt.NDArray[Any]

_CHUNK = 1000
_FRAMES = 8192  # enough to judge by; the interpreter takes about 0.1 ms for each
_EXAMPLE = 16


class Progress(Protocol):
    """Receives what a long command does."""

    def stage(self, text: str) -> None:
        """A new stage begins."""
        ...

    def training(self, event: Any) -> None:
        """Where a training is (`edgeseq.train.Event`)."""
        ...


class Silent:
    """Progress that nobody watches."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def training(self, event: Any) -> None:
        """Nothing."""


@dataclass
class Model:
    """A model and the data it is calibrated, verified and judged with.

    Attributes:
        name: short name of the candidate, such as "gru64".
        c_name: prefix of the C functions.
        source: where it came from, for the manifest.
        cell: kind of recurrence, None if not known.
        graph: real Graph over time, on raw frames.
        module: the torch module it was read from, None if there is none.
        calibration: raw frames [B, T, *shape] that ranges are taken from.
        frames: raw frames [1, T, *shape] that were not trained on, for verification.
        test: labelled windows of raw frames, None if there are none.
        validation_accuracy: what candidates are ranked by, None if not known.
        labels, channels: names, or empty.
        rate_hz, window, hop: of the data, None if not known.
    """

    name: str
    c_name: str
    source: str
    cell: str | None
    graph: Graph
    module: Any
    calibration: Array
    frames: Array
    test: Windows | None = None
    validation_accuracy: float | None = None
    labels: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    rate_hz: float | None = None
    window: int | None = None
    hop: int | None = None


def trained_models(config: Config, work: Path, progress: Progress) -> list[Model]:
    """Train every candidate of `config` where needed.

    Args:
        config: the settings.
        work: folder that keeps trained models.
        progress: told where the training is.

    Raises:
        ConfigError, DataError, TrainError: as `edgeseq.train.train`.
    """
    progress.stage("reading the recordings")
    data = load_set(config.data.source, config.data.channels or None)
    parts = split(data, config.data.test_groups, config.data.validation_groups or None)
    train_windows = windows(data, config.data.window, config.data.hop, parts.train)
    test = windows(data, config.data.window, config.data.hop, parts.test)
    count = max(1, min(len(train_windows), config.quant.calibration_frames // config.data.window))
    pick = np.linspace(0, len(train_windows) - 1, count).astype(int)
    unseen = [r.frames for r in data.take(parts.test)]
    from edgeseq.frontend import from_torch
    from edgeseq.frontend.reference import as_tensor
    from edgeseq.train import train

    models = []
    for candidate in config.candidates():
        name = candidate.candidate_name
        result = train(candidate, work / name, progress.training, data=data)
        progress.stage(f"{name}: reading the model")
        example = as_tensor(test.x[:1, : min(_EXAMPLE, config.data.window)])
        graph = from_torch(result.model, example, name=name)
        models.append(
            Model(
                name=name,
                c_name=config.project.name,
                source="trained from edgeseq.toml",
                cell=candidate.model.cell,
                graph=graph,
                module=result.model,
                calibration=train_windows.x[pick],
                frames=_continuous(unseen, config.compile.verify_steps),
                test=test,
                validation_accuracy=result.metrics["validation_accuracy"],
                labels=data.classes,
                channels=data.channels,
                rate_hz=data.rate_hz,
                window=config.data.window,
                hop=config.data.hop,
            )
        )
    return models


def imported_model(path: Path, calib: str | Path, name: str, verify_steps: int) -> Model:
    """Read a saved `.pt2` file, without running anything in it.

    Args:
        path: of the file.
        calib: frames to calibrate and verify with (`edgeseq.data.load_frames`).
        name: prefix of the C functions.
        verify_steps: frames that verification needs; fewer are repeated.

    Raises:
        ModelError, UnsupportedError: the file cannot be read or compiled.
        DataError: the frames cannot be read or do not fit the model.
    """
    from edgeseq.frontend import load_pt2

    graph = load_pt2(path, name=name)
    if len(graph.inputs) != 1:
        raise UnsupportedError(
            f"has {len(graph.inputs)} sequence inputs ({', '.join(graph.inputs)})",
            where=str(path),
            fix="wrap the module so that it takes one tensor and splits it inside",
        )
    shape = graph.types[graph.inputs[0]].shape
    if len(shape) != 1:
        raise UnsupportedError(
            f"takes frames of shape {list(shape)}; recordings have one axis of channels",
            where=str(path),
            fix="wrap the module so that it takes [batch, time, channels]",
        )
    sequences = load_frames(calib, channels=shape[0])
    return Model(
        name=name,
        c_name=name,
        source=path.name,
        cell=None,
        graph=graph,
        module=None,
        calibration=_chunks(sequences, str(calib)),
        frames=_continuous(sequences, verify_steps),
    )


def _continuous(sequences: Sequence[Array], least: int) -> Array:
    """Recordings one after another, [1, T, C]: at least `least` frames, from all of them."""
    most = max(least, _FRAMES)
    share = -(-most // len(sequences))
    joined = np.concatenate([s[:share] for s in sequences])[:most]
    if len(joined) < least:
        joined = np.concatenate([joined] * -(-least // len(joined)))
    return joined[None].astype(np.float64)


def _chunks(sequences: Sequence[Array], where: str) -> Array:
    """Recordings cut into pieces of one length, [B, T, C].

    The length is the greatest, up to 1 000 frames, at which pieces cover four fifths of all frames:
    states need long sequences to reach what they reach in use.
    """
    sizes = [len(s) for s in sequences if len(s)]
    if not sizes:
        raise DataError("holds no frames", where=where, fix="add recordings")
    covered = {n: sum(size // n * n for size in sizes) for n in {min(_CHUNK, s) for s in sizes}}
    length = max(n for n, frames in covered.items() if frames >= 0.8 * max(covered.values()))
    pieces = [s[i : i + length] for s in sequences for i in range(0, len(s) - length + 1, length)]
    return np.stack(pieces).astype(np.float64)
