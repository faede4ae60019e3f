"""Long runs: does the integer step drift away, or oscillate on silence?

Errors of a recurrent integer model feed back. A few thousand frames of test data do not show a
slow drift or a limit cycle; 100 000 steps do, and cost little on the host kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ModelError, VerifyError
from edgeseq.ir.blocks import run_steps
from edgeseq.ir.cost import frame_cost
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.io import from_stored, store_prepared
from edgeseq.manifest import Verification
from edgeseq.verify.levels import Snr, not_run

__all__ = ["LONG", "check_sensitivity", "check_stability", "long_run"]

Array = npt.NDArray[Any]
Runner = Callable[[list[Array]], list[Array]]
"""Stored inputs [1, T, *shape] to stored outputs, from a reset state."""

LONG = 100_000
"""Steps of each long run, fewer where a step is large (`long_run`)."""

# Two long runs take about a minute and half a gigabyte at most.
_LONG_MACS = 1 << 36
_LONG_BYTES = 1 << 28

_SNR = Snr(0.0)
_PERIOD = 1000
_LOSS_DB = 3.0
_RIPPLE = 0.01
_NUDGE = 2.0**-24
_AMPLIFIED = 1e-2
_LARGEST = float(np.finfo(np.float32).max)


def long_run(step: Graph, integer: Graph) -> int:
    """Steps of the long runs of a model: `LONG`, or what time and memory allow of a large one."""
    ports = [integer.types[v].nbytes for v in (*integer.inputs, *integer.outputs)]
    fits = min(_LONG_MACS // max(frame_cost(step).macs, 1), _LONG_BYTES // max(sum(ports), 1))
    return max(min(LONG, fits), 4 * _PERIOD)


def check_sensitivity(
    step: Graph, frames: list[Array], reference: list[Array], *, exact: Collection[str] = ()
) -> None:
    """Refuse a model whose outputs are not determined to float32 precision.

    A recurrence with large weights may be chaotic, or grow without bound. Then no two ways of
    computing it agree, PyTorch on two machines included, and an integer step has nothing to follow.

    Args:
        step: the real step.
        frames: prepared real frames per input and step, [1, S, *shape]; the first 1 000 are run
            again, changed by half a unit of the last place of float32.
        reference: the real step's outputs over them.
        exact: names of inputs that hold whole numbers, which are not changed.

    Raises:
        ModelError: an output leaves float32, or moves by over 1 % of its largest magnitude.
    """
    names = step.outputs
    for name, y in zip(names, reference, strict=True):
        beyond = ~(np.abs(y) <= _LARGEST)
        if beyond.any():
            frame = int(np.argwhere(beyond)[0][1])
            raise ModelError(
                f"grows without bound: frame {frame} is beyond what float32 holds",
                where=f"the model, output {name!r}",
                fix="train with smaller recurrent weights, or use tanh in place of relu",
            )
    period = min(_PERIOD, frames[0].shape[1])
    signs = np.where(np.arange(period) % 2, -1.0, 1.0)
    nudged = []
    for name, x in zip(step.inputs, frames, strict=True):
        size = 0.0 if name in exact else _NUDGE
        nudged.append(x[:, :period] * (1.0 + size * signs.reshape(1, -1, *[1] * (x.ndim - 2))))
    for name, y, z in zip(names, reference, run_steps(Interpreter(step), nudged), strict=True):
        moved = float(np.abs(y[:, :period] - z).max(initial=0.0))
        if moved > _AMPLIFIED * float(np.abs(y).max(initial=0.0)):
            raise ModelError(
                f"is chaotic: changing the frames by 1 part in 2^24 moves it by {moved:.2g}",
                where=f"the model, output {name!r}",
                fix="train with smaller recurrent weights (weight decay): no rounding of this "
                "model, float32 included, keeps its outputs",
            )


def check_stability(
    step: Graph, integer: Graph, frames: list[Array], run: Runner, steps: int = LONG
) -> list[Verification]:
    """Two runs of many carried steps.

    *Drift*: 1 000 real frames over and over. The real step's answer repeats after a while; the
    integer one's last repetition must be as close to it (within 3 dB) as its third.

    *Silence*: the same number of frames of zeros, the mean of normalised inputs. Over the last
    1 000 steps no output may swing by more than the real step's does plus 1 % of the output's range
    over the real frames.

    Args:
        step: the real step.
        integer: the integer step.
        frames: prepared real frames per input and step, [1, S, *shape].
        run: executes the integer step.
        steps: of each run, at least.

    Raises:
        VerifyError: it drifts or oscillates.
    """
    period = min(_PERIOD, frames[0].shape[1])
    repeats = max(-(-steps // period), 4)
    segment = [x[:, :period] for x in frames]
    three = [np.concatenate([x] * 3, axis=1) for x in segment]
    real = run_steps(Interpreter(step), three)
    stored = [store_prepared(integer, v, x) for v, x in zip(integer.inputs, segment, strict=True)]
    long = run([np.concatenate([x] * repeats, axis=1) for x in stored])
    results = [_drift(integer, real, long, period, repeats)]
    quiet_real = run_steps(Interpreter(step), [np.zeros_like(x) for x in three])
    zeros = [np.zeros((1, period * repeats, *x.shape[2:]), x.dtype) for x in stored]
    results.append(_silence(integer, real, quiet_real, run(zeros), period, repeats))
    return results


def _drift(
    integer: Graph, real: list[Array], long: list[Array], period: int, repeats: int
) -> Verification:
    stage, against = "drift over a long run", "real step"
    level = f"loss below {_LOSS_DB:g} dB"
    worst = -np.inf
    for i, name in enumerate(integer.outputs):
        second, third = real[i][:, period : 2 * period], real[i][:, 2 * period :]
        if _SNR.worst(third, second) < 60.0:
            return not_run(stage, against, level, "the real model's own answer does not repeat")
        value = from_stored(integer, name, long[i])
        early = _SNR.worst(third, value[:, 2 * period : 3 * period])
        late = _SNR.worst(third, value[:, -period:])
        worst = max(worst, early - late)
        if early - late > _LOSS_DB:
            raise VerifyError(
                f"the signal-to-noise ratio falls from {early:.1f} to {late:.1f} dB over "
                f"{period * repeats} steps",
                where=f"stage {stage!r}, output {name!r}",
                fix="use 16-bit activations, or report the model",
            )
    return _passed(stage, against, level, period * repeats, float(worst), "dB lost")


def _silence(
    integer: Graph,
    real: list[Array],
    quiet_real: list[Array],
    quiet: list[Array],
    period: int,
    repeats: int,
) -> Verification:
    stage, against = "silence over a long run", "real step"
    level = f"ripple below {_RIPPLE:g} of the range"
    worst = 0.0
    for i, name in enumerate(integer.outputs):
        span = float(np.ptp(real[i])) or 1.0
        tail = from_stored(integer, name, quiet[i][:, -period:])
        ripple = float(np.ptp(tail, axis=1).max()) / span
        allowed = _RIPPLE + float(np.ptp(quiet_real[i][:, -period:], axis=1).max()) / span
        worst = max(worst, ripple)
        if ripple > allowed:
            raise VerifyError(
                f"swings by {ripple:.2%} of its range on silence after {period * repeats} steps, "
                f"more than {allowed:.2%}",
                where=f"stage {stage!r}, output {name!r}",
                fix="use 16-bit activations, or report the model",
            )
    return _passed(stage, against, level, period * repeats, worst, "of the range")


def _passed(
    stage: str, against: str, level: str, steps: int, worst: float, unit: str
) -> Verification:
    return Verification(
        stage=stage,
        reference=against,
        level=level,
        steps=steps,
        worst=worst,
        unit=unit,
        status="passed",
    )
