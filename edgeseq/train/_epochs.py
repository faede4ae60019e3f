"""The epochs of one training run, in one process of however many there are."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeseq import nn as cells
from edgeseq.config import Config, Train
from edgeseq.data import SequenceSet, Split, Windows
from edgeseq.errors import TrainError
from edgeseq.nn._classifier import Classifier
from edgeseq.train import _checkpoint
from edgeseq.train._batches import WindowSource
from edgeseq.train.evaluate import evaluate_float
from edgeseq.train.result import EpochMetrics, Event

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_REPORT_EVERY = 8  # steps


@dataclass(frozen=True)
class Job:
    """What a process needs to train: settings, data, where to keep checkpoints.

    Attributes:
        windows: of each part of `parts`, as they are stored.
        mean, std: [C] of the training frames.
    """

    config: Config
    data: SequenceSet
    parts: Split
    windows: dict[str, Windows]
    key: str
    folder: Path
    mean: np.ndarray
    std: np.ndarray


class State(TypedDict):
    """A run between two epochs; with the settings it decides everything that follows.

    It holds no generator states: every epoch seeds its generators from (seed, epoch, process), so
    there are none to lose.
    """

    key: str
    epoch: int
    step: int
    seconds: float
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: dict[str, Any]
    best: dict[str, Tensor]
    best_epoch: int
    best_loss: float
    history: list[dict[str, Any]]
    finished: bool


class Objective(nn.Module):
    """The classifier with its loss, so that a data-parallel wrapper sees one forward call."""

    def __init__(self, classifier: Classifier, loss_frames: int, smoothing: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.loss_frames = loss_frames
        self.smoothing = smoothing

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss over the last frames of each window; how many last frames are right."""
        model = self.classifier
        logits = model.head(model.dropout(model.features(x)[:, -self.loss_frames :]))
        wanted = y[:, None].expand(-1, logits.shape[1])
        loss = functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), label_smoothing=self.smoothing
        )
        return loss, (logits[:, -1].argmax(dim=1) == y).sum()


def learning_rate(settings: Train, step: int, steps: int) -> float:
    """The rate of step 0, 1, ...: linear warm-up, then constant or half a cosine down to zero."""
    ramp = max(1, round(settings.warmup * steps))
    if step < ramp:
        return settings.lr * (step + 1) / ramp
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1.0 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def run(fabric: Fabric, job: Job, report: Callable[[Event], None] | None) -> State:
    """Train from the beginning or from the last checkpoint to the end.

    Raises:
        TrainError: the loss is not finite, or a checkpoint cannot be read or written.
    """
    # cuBLAS, which cuDNN's recurrent layers use, is deterministic only with a fixed workspace; it
    # reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings, device = job.config.train, fabric.device
    source = WindowSource(
        job.data.take(job.parts.train),
        job.config.data.window,
        job.config.data.hop,
        settings.augment,
        job.data.channels,
        job.std,
        device,
    )
    checked = job.windows["validation"]
    _seed(settings.seed, 0, 0)  # the same weights in every process
    classifier = _build(job)
    objective = Objective(classifier, settings.loss_frames, settings.label_smoothing)
    optimiser = torch.optim.AdamW(
        objective.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    average = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    state = _resume(job)
    if state is None:
        state = _fresh(job, classifier, average)
    else:
        classifier.load_state_dict(state["model"])
        average = dict(state["average"])
    average = {name: tensor.to(device) for name, tensor in average.items()}
    measured = _build(job).to(device)  # carries the averaged weights
    wrapped, wrapped_optimiser = fabric.setup(objective, optimiser)
    if state["optimiser"]:  # now that the parameters are where its moments have to be
        optimiser.load_state_dict(state["optimiser"])
    steps = settings.epochs * math.ceil(len(source) / settings.batch_size)
    began, spent, resumed_at = time.monotonic(), state["seconds"], state["step"]

    while not state["finished"]:
        epoch = state["epoch"] + 1
        _seed(settings.seed, epoch, fabric.global_rank)
        progress = _Progress(fabric, job, report, epoch, steps, began, resumed_at)
        loss, accuracy, step = _one_epoch(
            fabric, wrapped, wrapped_optimiser, classifier, source, average,
            settings, state["step"], steps, epoch, progress,
        )  # fmt: skip
        measured.load_state_dict(average)
        result = evaluate_float(measured, checked)
        val_loss = float(fabric.broadcast(result.loss, src=0))
        if not (math.isfinite(loss) and math.isfinite(val_loss)):
            raise TrainError(
                f"the loss is not finite in epoch {epoch}",
                where=job.config.candidate_name,
                fix="lower [train] lr, or set clip_norm",
            )
        metrics = EpochMetrics(
            epoch, learning_rate(settings, step - 1, steps), loss, accuracy, val_loss,
            result.accuracy,
        )  # fmt: skip
        better = val_loss < state["best_loss"]
        waited = 0 if better else epoch - state["best_epoch"]
        state = State(
            key=job.key,
            epoch=epoch,
            step=step,
            seconds=spent + time.monotonic() - began,
            model=_copy(classifier.state_dict()),
            average=_copy(average),
            optimiser=wrapped_optimiser.optimizer.state_dict(),
            best=_copy(average) if better else state["best"],
            best_epoch=epoch if better else state["best_epoch"],
            best_loss=val_loss if better else state["best_loss"],
            history=[*state["history"], asdict(metrics)],
            finished=epoch == settings.epochs or 0 < settings.patience <= waited,
        )
        if fabric.is_global_zero:
            _checkpoint.save_state(job.folder / _checkpoint.RESUME, dict(state))
        fabric.barrier()
        progress.end_of_epoch(metrics, step)
    return state


def _one_epoch(
    fabric: Fabric, wrapped: Any, optimiser: Any, classifier: Classifier, source: WindowSource,
    average: dict[str, Tensor], settings: Train, step: int, steps: int, epoch: int,
    progress: _Progress,
) -> tuple[float, float, int]:  # fmt: skip
    """One pass over the training windows: mean loss, accuracy, and the steps done so far."""
    generator = torch.Generator().manual_seed(_mix(settings.seed, epoch, -1))
    order = torch.randperm(len(source), generator=generator)
    total = torch.zeros(2, device=fabric.device, dtype=torch.float64)
    seen = 0
    wrapped.train()
    for first in range(0, len(order), settings.batch_size):
        index = order[first : first + settings.batch_size]
        if len(index) % fabric.world_size:  # every process needs a share of the same size
            index = torch.cat([index, order[: -len(index) % fabric.world_size]])
        share = slice(fabric.global_rank, None, fabric.world_size)
        x, y = source.batch(index, generator, share)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(settings, step, steps)
        loss, right = wrapped(x, y)
        optimiser.zero_grad()
        fabric.backward(loss)
        if settings.clip_norm:
            fabric.clip_gradients(
                wrapped, optimiser, max_norm=settings.clip_norm, error_if_nonfinite=False
            )
        if settings.clip_value:
            fabric.clip_gradients(wrapped, optimiser, clip_val=settings.clip_value)
        optimiser.step()
        step += 1
        _update_average(average, classifier, settings.ema, step)
        seen += len(y)
        total += torch.stack([loss.detach().double() * len(y), right.double()])
        if step % _REPORT_EVERY == 0:
            progress.step(step, total, seen)
    summed = fabric.all_reduce(torch.cat([total, total.new_tensor([seen])]), reduce_op="sum")
    assert isinstance(summed, Tensor)
    mean_loss, accuracy = (summed[:2] / summed[2]).tolist()
    return mean_loss, accuracy, step


def _update_average(
    average: dict[str, Tensor], classifier: Classifier, decay: float, step: int
) -> None:
    """Move the average towards the weights; early on faster, or it would remember the start."""
    keep = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    with torch.no_grad():
        for name, tensor in classifier.named_parameters():
            average[name].lerp_(tensor, 1.0 - keep)


class _Progress:
    """Turns steps into events; only the first process reports."""

    def __init__(
        self, fabric: Fabric, job: Job, report: Callable[[Event], None] | None,
        epoch: int, steps: int, began: float, first_step: int,
    ) -> None:  # fmt: skip
        self.report = report if fabric.is_global_zero else None
        self.job, self.epoch, self.steps, self.began = job, epoch, steps, began
        self.first_step = first_step

    def step(self, step: int, total: Tensor, seen: int) -> None:
        if self.report is not None:
            loss, accuracy = (total / seen).tolist()
            self._send(step, loss, accuracy, None, None)

    def end_of_epoch(self, metrics: EpochMetrics, step: int) -> None:
        if self.report is not None:
            self._send(
                step, metrics.train_loss, metrics.train_accuracy, metrics.val_loss,
                metrics.val_accuracy,
            )  # fmt: skip

    def _send(
        self, step: int, loss: float, accuracy: float, val_loss: float | None, val: float | None
    ) -> None:
        assert self.report is not None
        pace = (time.monotonic() - self.began) / max(1, step - self.first_step)
        self.report(
            Event(
                name=self.job.config.candidate_name,
                epoch=self.epoch,
                epochs=self.job.config.train.epochs,
                step=step,
                steps=self.steps,
                loss=loss,
                accuracy=accuracy,
                val_loss=val_loss,
                val_accuracy=val,
                seconds_left=pace * (self.steps - step),
            )
        )


def _build(job: Job) -> Classifier:
    model = job.config.model
    built = cells.build(
        model.cell,
        len(job.data.channels),
        model.hidden[0],
        len(job.data.classes),
        layers=model.layers,
        dropout=model.dropout,
        norm=model.norm,
        residual=model.residual,
    )
    built.normalise_with(torch.from_numpy(job.mean), torch.from_numpy(job.std))
    return built


def _fresh(job: Job, classifier: Classifier, average: dict[str, Tensor]) -> State:
    return State(
        key=job.key,
        epoch=0,
        step=0,
        seconds=0.0,
        model=_copy(classifier.state_dict()),
        average=average,
        optimiser={},
        best=_copy(average),
        best_epoch=0,
        best_loss=math.inf,
        history=[],
        finished=False,
    )


def read_state(job: Job) -> State:
    """The last checkpoint in the job's folder.

    Raises:
        TrainError: it cannot be read, or misses parts of the state.
    """
    path = job.folder / _checkpoint.RESUME
    state = _checkpoint.load_state(path)
    missing = sorted(set(State.__annotations__) - set(state))
    if missing:
        raise TrainError(
            f"lacks {', '.join(missing)}",
            where=str(path),
            fix="delete the file: training then starts from the beginning",
        )
    return State(**state)  # type: ignore[typeddict-item]


def _resume(job: Job) -> State | None:
    """The last checkpoint if it belongs to this job; settings or data may have changed since."""
    if not (job.folder / _checkpoint.RESUME).exists():
        return None
    state = read_state(job)
    return state if state["key"] == job.key else None


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _mix(*parts: int) -> int:
    """One 63-bit seed out of several numbers."""
    words = np.random.SeedSequence([part % 2**32 for part in parts]).generate_state(1, np.uint64)
    return int(words[0]) >> 1


def _seed(seed: int, epoch: int, rank: int) -> None:
    torch.manual_seed(_mix(seed, epoch, rank))
