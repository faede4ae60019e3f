"""From settings to a trained model: caching, launching, measuring, keeping."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from edgeseq import nn as cells
from edgeseq.config import Config
from edgeseq.data import SequenceSet, load_set, normalisation, split, windows
from edgeseq.errors import ConfigError, TrainError, unknown_name
from edgeseq.nn._classifier import Classifier
from edgeseq.train import _checkpoint
from edgeseq.train._epochs import Job, State, read_state, run
from edgeseq.train.evaluate import evaluate_float
from edgeseq.train.result import (
    Event,
    Progress,
    TrainResult,
    fingerprint,
    restore,
    save_trained,
    to_result,
)

# Only the command line prints. Set on import, so that it holds in spawned processes too.
logging.getLogger("lightning_fabric").setLevel(logging.ERROR)

# Products in one step of a recurrence (hidden * hidden * batch) from which threads pay.
_DIVISIBLE = 1 << 22


if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    config: Config,
    out_dir: str | Path,
    progress: Progress | None = None,
    *,
    data: SequenceSet | None = None,
) -> TrainResult:
    """Train one model, or read it back when nothing that decides the result has changed.

    The groups of the validation part decide when to stop and which epoch is kept; those of the
    test part are only measured, once, at the end.

    Args:
        config: settings with a single entry in ``[model] hidden`` (see `Config.candidates`).
        out_dir: this candidate's own folder. An interrupted run leaves ``resume.pt`` there and
            goes on from it; a finished one leaves ``model.safetensors`` and ``trained.json``.
        progress: called several times per epoch.
        data: the set, where it is already in memory; else ``[data]`` is loaded.

    Raises:
        ConfigError: settings that do not fit the data.
        DataError: data that cannot be read or trained on.
        TrainError: the folder cannot be written, a checkpoint is damaged, or the loss diverged.
    """
    if len(config.model.hidden) != 1:
        raise ConfigError(
            f"[model] hidden has {len(config.model.hidden)} candidates, one is trained at a time",
            fix="use train_candidates, or config.candidates()",
        )
    folder = Path(out_dir)
    data = load_set(config.data.source, config.data.channels or None) if data is None else data
    _fits(config, data)
    parts = split(data, config.data.test_groups, config.data.validation_groups or None)
    key = fingerprint(config, data, parts)
    kept = restore(folder, key)
    if kept is not None:
        if progress is not None:
            progress(_final(config, kept))
        return kept
    _checkpoint.clean(folder)
    mean, std = normalisation(data.take(parts.train), data.channels, data.source)
    cut = {
        part: windows(data, config.data.window, config.data.hop, groups)
        for part, groups in asdict(parts).items()
    }
    job = Job(config, data, parts, cut, key, folder, mean, std)
    with _threads(config):
        result = _keep(job, _launch(job, progress))
    if progress is not None:
        progress(_final(config, result))
    return result


def train_candidates(
    config: Config, out_dir: str | Path, progress: Progress | None = None
) -> tuple[TrainResult, ...]:
    """Train every entry of ``[model] hidden`` in ``out_dir/NAME``, largest first.

    Raises:
        ConfigError, DataError, TrainError: as `train`.
    """
    data = load_set(config.data.source, config.data.channels or None)
    return tuple(
        train(candidate, Path(out_dir) / candidate.candidate_name, progress, data=data)
        for candidate in config.candidates()
    )


def _fits(config: Config, data: SequenceSet) -> None:
    """Names of channels in ``[train.augment]`` must exist, and signs match their number."""
    augment = config.train.augment
    for name in [*augment.rates, *(name for triple in augment.vectors for name in triple)]:
        if name not in data.channels:
            raise ConfigError(
                f"[train.augment] {unknown_name('channel', name, data.channels)}",
                fix="use the channels of the data, or leave the key out",
            )
    if augment.mirror and len(augment.mirror) != len(data.channels):
        raise ConfigError(
            f"[train.augment] mirror has {len(augment.mirror)} signs for {len(data.channels)} "
            f"channels ({', '.join(data.channels)})",
            fix="give one sign per channel",
        )


def _launch(job: Job, progress: Progress | None) -> State:
    """Run the epochs on every device that is to be used; the state comes from the first."""
    settings = job.config.train
    fabric = _fabric(settings.devices, settings.precision)
    if fabric.world_size == 1:
        with _repeatable():
            return fabric.launch(run, job, progress)  # type: ignore[arg-type]
    # Several processes: the callback stays here, its events arrive through a queue.
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    listener = threading.Thread(target=_listen, args=(queue, progress), daemon=True)
    listener.start()
    try:
        fabric.launch(_Process(job, queue))
    except ProcessRaisedException as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise TrainError(
            f"a training process failed: {lines[-1] if lines else error}",
            where=job.config.candidate_name,
            fix="set [train] devices = 1 to see whether one device works",
        ) from error
    finally:
        queue.put(None)
        listener.join()
    # A tensor sent between processes dies with its sender; the last checkpoint has it all.
    return read_state(job)


def _fabric(devices: int, precision: str) -> Fabric:
    """A Fabric for all (0) or so many devices."""
    # Imported here: it takes a second, which reading back a trained model need not wait for.
    from lightning_fabric import Fabric

    cuda = torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true"
    count = devices or (torch.cuda.device_count() if cuda else 1)
    if cuda and count > torch.cuda.device_count():
        raise ConfigError(
            f"[train] devices = {devices}, this machine has {torch.cuda.device_count()} GPUs",
            fix="set devices = 0 to use all of them",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Fabric(
            accelerator="cuda" if cuda else "cpu",
            devices=count,
            strategy="ddp_spawn" if count > 1 else "auto",
            precision=precision,  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class _Process:
    """One process of several. An object rather than arguments: Fabric walks through those, and
    stops at a frozen dataclass such as `Job`."""

    job: Job
    queue: Any

    def __call__(self, fabric: Fabric) -> None:
        with _repeatable(), _threads(self.job.config):
            run(fabric, self.job, self.queue.put)


def _listen(queue: Any, progress: Progress | None) -> None:
    while (event := queue.get()) is not None:
        if progress is not None:
            progress(event)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Deterministic kernels inside, and the caller's generators and switches untouched after."""
    before = torch.are_deterministic_algorithms_enabled()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


@contextmanager
def _threads(config: Config) -> Iterator[None]:
    """One thread inside, unless the steps of the recurrence are large enough to be divided.

    A step of a small model takes less time than handing half of it to another core: measured with
    GRU-64 on two busy cores, a second thread made training six times slower, since it waits for
    the first at every frame. One thread also makes the result independent of the number of cores.
    """
    before = torch.get_num_threads()
    if config.model.hidden[0] ** 2 * config.train.batch_size < _DIVISIBLE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep(job: Job, state: State) -> TrainResult:
    """Measure the kept weights and write them with their description."""
    config, data, parts = job.config, job.data, job.parts
    arguments = {
        "cell": config.model.cell,
        "inputs": len(data.channels),
        "hidden": config.model.hidden[0],
        "classes": len(data.classes),
        "layers": config.model.layers,
        "dropout": config.model.dropout,
        "norm": config.model.norm,
        "residual": config.model.residual,
    }
    with torch.random.fork_rng(devices=[]):
        model: Classifier = cells.build(**arguments)  # type: ignore[arg-type]
    model.load_state_dict(state["best"])
    model.eval()
    metrics: dict[str, float] = {
        "best_epoch": state["best_epoch"],
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    for part, cut in job.windows.items():
        measured = evaluate_float(model, cut)
        metrics[f"{part}_accuracy"] = measured.accuracy
        metrics[f"{part}_loss"] = measured.loss
    _, meta = save_trained(
        job.folder,
        model,
        {
            "name": config.candidate_name,
            "model": arguments,
            "classes": list(data.classes),
            "channels": list(data.channels),
            "units": list(data.units),
            "rate_hz": data.rate_hz,
            "window": config.data.window,
            "hop": config.data.hop,
            "split": {part: list(groups) for part, groups in asdict(parts).items()},
            "data": {"name": data.name, "sha256": data.sha256},
            "metrics": metrics,
            "history": state["history"],
            "fingerprint": job.key,
            "seconds": state["seconds"],
            "torch": torch.__version__,
        },
    )
    (job.folder / _checkpoint.RESUME).unlink(missing_ok=True)
    return to_result(model, meta, job.folder, cached=False)


def _final(config: Config, result: TrainResult) -> Event:
    epochs = len(result.history)
    best = next(e for e in result.history if e.epoch == int(result.metrics["best_epoch"]))
    return Event(
        name=config.candidate_name,
        epoch=epochs,
        epochs=config.train.epochs,
        step=epochs,
        steps=epochs,
        loss=best.train_loss,
        accuracy=best.train_accuracy,
        val_loss=best.val_loss,
        val_accuracy=best.val_accuracy,
        done=True,
        cached=result.cached,
    )
