"""Ranges of values, from running the real step over recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import DataError
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter

__all__ = ["Stats", "calibrate", "clip_range"]

Array = npt.NDArray[Any]

_SAMPLE = 1 << 16
_LEVELS = 128  # positive levels of an 8-bit value
_BINS = 2048


@dataclass
class Stats:
    """What a value did over all calibration frames.

    Attributes:
        lo, hi: least and greatest value.
        count: how many elements were seen.
        gram: sum of ``x x^T`` over all vectors x along the last axis, of what matrix products
            read; None of other values.
        sample: at most 65 536 magnitudes, evenly spread over what was seen.
    """

    lo: float = np.inf
    hi: float = -np.inf
    count: int = 0
    gram: Array | None = None
    _parts: list[Array] = field(default_factory=list)
    _kept: int = 0
    _stride: int = 1

    @property
    def top(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.lo), abs(self.hi)) if self.count else 0.0

    @property
    def sample(self) -> Array:
        return np.concatenate(self._parts) if self._parts else np.zeros(1)

    def add(self, array: Array) -> None:
        """Take in another array of the value."""
        if self.gram is not None:
            rows = array.reshape(-1, array.shape[-1])
            self.gram = self.gram + rows.T @ rows
        self.lo = min(self.lo, float(array.min()))
        self.hi = max(self.hi, float(array.max()))
        part = np.abs(array).ravel()[(-self.count) % self._stride :: self._stride]
        self.count += array.size
        self._parts.append(part.astype(np.float64))
        self._kept += part.size
        while self._kept > _SAMPLE:  # keep every second one, and every second one from now on
            self._parts = [np.concatenate(self._parts)[::2]]
            self._kept = self._parts[0].size
            self._stride *= 2


def calibrate(step: Graph, frames: Sequence[Array]) -> dict[str, Stats]:
    """Run the real `step` over `frames` from reset states and note every value's range.

    Args:
        step: a real step Graph.
        frames: one array per input, prepared frames, [batch, T, *shape].

    Raises:
        DataError: the frames are empty, not finite, or drive a value to infinity.
    """
    for name, x in zip(step.inputs, frames, strict=True):
        if x.ndim < 2 or 0 in x.shape:
            raise DataError("no calibration frames", where=f"input {name!r}")
        if not np.all(np.isfinite(x)):
            raise DataError("calibration frames hold NaN or infinity", where=f"input {name!r}")
    stats: dict[str, Stats] = {}
    for node in step.nodes:
        if node.op == "linear":
            for value in node.inputs[: len(node.inputs) // 2 * 2 : 2]:
                k = step.types[value].shape[-1]
                stats[value] = Stats(gram=np.zeros((k, k)))

    def observe(name: str, array: Array) -> None:
        if not np.all(np.isfinite(array)):
            raise DataError(
                "became NaN or infinite during calibration",
                where=f"value {name!r}",
                fix="check the model's weights and the scale of the calibration frames",
            )
        stats.setdefault(name, Stats()).add(array)

    with np.errstate(all="ignore"):  # `observe` says what overflowed, and where
        Interpreter(step, batch=frames[0].shape[0], observe=observe).sequence(*frames)
    return stats


def clip_range(stats: Stats, method: str) -> float:
    """The magnitude at which to saturate an 8-bit value.

    Args:
        method: 'minmax' the greatest magnitude; 'percentile' the 99.99th percentile; 'mse' the
            clip with the least mean squared rounding and clipping error; 'entropy' the clip with
            the least Kullback-Leibler divergence between the histogram and its 128-level version
            (Migacz, "8-bit inference with TensorRT", GTC 2017).

    Returns:
        A positive magnitude in real units.
    """
    top = stats.top
    if top <= 0.0:
        return 1.0
    sample = stats.sample
    if method == "percentile":
        return float(max(np.percentile(sample, 99.99), top * 1e-3))
    if method == "mse":
        clips = top * np.linspace(0.2, 1.0, 65)
        errors = []
        for clip in clips:
            step = clip / (_LEVELS - 1)
            q = np.minimum(np.floor(sample / step + 0.5), _LEVELS - 1) * step
            errors.append(float(np.mean((q - sample) ** 2)))
        return float(clips[int(np.argmin(errors))])
    if method == "entropy":
        return _entropy_clip(sample, top)
    return top


def _entropy_clip(sample: Array, top: float) -> float:
    sample = sample[sample > 0.0]  # zeros (half of what a ReLU makes) are exact at any clip
    hist, _ = np.histogram(sample, bins=_BINS, range=(0.0, top))
    best, best_divergence = _BINS, np.inf
    for bins in range(_LEVELS, _BINS + 1, 16):
        p = hist[:bins].astype(np.float64)
        p[-1] += hist[bins:].sum()
        occupied = hist[:bins] > 0
        level = (np.arange(bins) * _LEVELS) // bins
        total = np.bincount(level, hist[:bins], _LEVELS)
        used = np.bincount(level, occupied, _LEVELS)
        q = np.where(occupied, (total / np.maximum(used, 1))[level], 0.0)
        if q.sum() == 0:
            continue
        p, q = p / p.sum(), q / q.sum()
        both = (p > 0) & (q > 0)
        missing = float(p[(p > 0) & (q == 0)].sum())
        divergence = float(np.sum(p[both] * np.log(p[both] / q[both]))) + missing * 10.0
        if divergence < best_divergence:
            best, best_divergence = bins, divergence
    return top * best / _BINS
