"""Ranges of values, from running the real step over recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import DataError
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter

__all__ = ["Observer", "Stats", "calibrate", "clip_range"]

Array = npt.NDArray[Any]

_SAMPLE = 1 << 16
_LEVELS = 128  # positive levels of an 8-bit value
_BINS = 2048
_PENDING = 1 << 25  # bytes of values that are kept before they are counted, together
_GRAM_ROWS = 8192  # vectors that the gram of a large matrix is made of


@dataclass
class Stats:
    """What a value did over all calibration frames.

    Attributes:
        lo, hi: least and greatest value.
        count: how many elements were seen.
        energy: sum of their squares.
        whole: whether all of them were whole numbers, as counts and masks are.
        gram: sum of ``x x^T`` over vectors x along the last axis, of what matrix products read;
            None of other values.
        thin: every how many of the vectors the gram takes in.
        grid: of an input, the power of two that all its values are multiples of, if 16 bits hold
            them as such (samples of a converter): stored in these units they are exact.
        sampled: whether magnitudes are kept.
        sample: at most 65 536 magnitudes, evenly spread over what was seen.
    """

    lo: float = np.inf
    hi: float = -np.inf
    count: int = 0
    energy: float = 0.0
    whole: bool = True
    gram: Array | None = None
    thin: int = 1
    grid: float | None = None
    sampled: bool = True
    _parts: list[Array] = field(default_factory=list)
    _kept: int = 0
    _stride: int = 1

    @property
    def top(self) -> float:
        """The greatest magnitude."""
        return max(abs(self.lo), abs(self.hi)) if self.count else 0.0

    @property
    def rms(self) -> float:
        """The root of the mean square."""
        return float(np.sqrt(self.energy / self.count)) if self.count else 0.0

    @property
    def sample(self) -> Array:
        return np.concatenate(self._parts) if self._parts else np.zeros(1)

    def add(self, array: Array) -> None:
        """Take in another array of the value."""
        if self.gram is not None:
            rows = array.reshape(-1, array.shape[-1])[:: self.thin]
            self.gram += rows.T @ rows
        self.lo = min(self.lo, float(array.min()))
        self.hi = max(self.hi, float(array.max()))
        flat = np.ravel(array)
        self.energy += float(np.vdot(flat, flat))
        self.whole = self.whole and np.array_equal(flat, np.floor(flat))
        if self.sampled:
            self._keep(np.abs(flat[(-self.count) % self._stride :: self._stride]))
        self.count += array.size

    def _keep(self, part: Array) -> None:
        self._parts.append(part.astype(np.float64))
        self._kept += part.size
        while self._kept > _SAMPLE:  # keep every second one, and every second one from now on
            self._parts = [np.concatenate(self._parts)[::2]]
            self._kept = self._parts[0].size
            self._stride *= 2

    def scaled(self, factor: float) -> Stats:
        """Of the value times a positive factor; without gram and sample."""
        energy = self.energy * factor**2
        return Stats(self.lo * factor, self.hi * factor, self.count, energy, whole=False)

    def with_gram(self, gram: Array) -> Stats:
        """The same with a gram."""
        twin = replace(self, gram=gram)
        twin._parts = list(self._parts)
        return twin


class Observer:
    """Counts what the values of a step do, many steps at a time.

    Args:
        step: the real step Graph.
        runs: about how often it will be run, batch included.
        sampled: values of which a sample is kept; all by default.

    Attributes:
        stats: by the value's name; values of a scan's body by the scan's name, a slash and their
            own. Complete after `flush`.
    """

    def __init__(self, step: Graph, runs: int, sampled: frozenset[str] | None = None) -> None:
        self.stats: dict[str, Stats] = {}
        self._sampled = sampled
        self._pending: dict[str, list[Array]] = {}
        self._bytes = 0
        self._expect_grams(step, "", runs)

    def _expect_grams(self, graph: Graph, path: str, runs: int) -> None:
        for node in graph.nodes:
            if node.op == "linear":
                for value in node.inputs[: len(node.inputs) // 2 * 2 : 2]:
                    shape, key = graph.types[value].shape, path + value
                    k, rows = shape[-1], runs * int(np.prod(shape[:-1]))
                    thin = max(1, rows // max(_GRAM_ROWS, 8 * k)) if k > 64 else 1
                    self.stats[key] = self._new(key)
                    self.stats[key].gram, self.stats[key].thin = np.zeros((k, k)), thin
            elif node.op == "scan":
                rounds = graph.types[node.inputs[0]].shape[0]
                self._expect_grams(node.attrs["body"], f"{path}{node.name}/", runs * rounds)

    def _new(self, key: str) -> Stats:
        return Stats(sampled=self._sampled is None or key in self._sampled)

    def __call__(self, name: str, array: Array) -> None:
        self._pending.setdefault(name, []).append(array)
        self._bytes += array.nbytes
        if self._bytes > _PENDING:
            self.flush()

    def flush(self) -> None:
        """Take in what is pending.

        Raises:
            DataError: a value became NaN or infinite.
        """
        for name, arrays in self._pending.items():
            if name not in self.stats:
                self.stats[name] = self._new(name)
            stats = self.stats[name]
            stats.add(arrays[0] if len(arrays) == 1 else np.stack(arrays))
            # NaN wins over every number in numpy's least and greatest, but not in Python's.
            if not np.isfinite(stats.energy):
                raise DataError(
                    "became NaN or infinite during calibration",
                    where=f"value {name!r}",
                    fix="check the model's weights and the scale of the calibration frames",
                )
        self._pending.clear()
        self._bytes = 0


def calibrate(
    step: Graph, frames: Sequence[Array], observer: Observer | None = None
) -> dict[str, Stats]:
    """Run the real `step` over `frames` from reset states and note every value's range.

    Args:
        step: a real step Graph.
        frames: one array per input, prepared frames, [batch, T, *shape]. Many sequences side by
            side are much faster than one long one.
        observer: what else counts towards the ranges.

    Returns:
        `Observer.stats`.

    Raises:
        DataError: the frames are empty, not finite, or drive a value to infinity.
    """
    for name, x in zip(step.inputs, frames, strict=True):
        if x.ndim < 2 or 0 in x.shape:
            raise DataError("no calibration frames", where=f"input {name!r}")
        if not np.all(np.isfinite(x)):
            raise DataError("calibration frames hold NaN or infinity", where=f"input {name!r}")
    batch, steps = frames[0].shape[:2]
    observer = observer or Observer(step, batch * steps)
    machine = Interpreter(step, batch=batch, observe=observer)
    with np.errstate(all="ignore"):  # the observer says what overflowed, and where
        for t in range(steps):
            machine(*(x[:, t] for x in frames))
        observer.flush()
    for name, x in zip(step.inputs, frames, strict=True):
        observer.stats[name].grid = _grid(x)
    return observer.stats


def _grid(x: Array) -> float | None:
    """The coarsest power of two with which 16 bits hold twice `x`, or `x`, exactly."""
    top = float(np.abs(x).max())
    if top == 0.0:
        return None
    for room in (2.0, 1.0):
        unit = 2.0 ** np.ceil(np.log2(top * room / 32768.0))
        units = x / unit
        if np.all(units == np.floor(units)):
            return float(unit)
    return None


def _expect_grams(
    graph: Graph, path: str, runs: int, stats: dict[str, Stats], sampled: frozenset[str] | None
) -> None:
    """Set up the grams of what matrices read; `runs` is how often the Graph will be run."""
    for node in graph.nodes:
        if node.op == "linear":
            for value in node.inputs[: len(node.inputs) // 2 * 2 : 2]:
                shape = graph.types[value].shape
                k, rows = shape[-1], runs * int(np.prod(shape[:-1]))
                thin = max(1, rows // max(_GRAM_ROWS, 8 * k)) if k > 64 else 1
                keep = sampled is None or path + value in sampled
                stats[path + value] = Stats(gram=np.zeros((k, k)), thin=thin, sampled=keep)
        elif node.op == "scan":
            rounds = graph.types[node.inputs[0]].shape[0]
            body: Graph = node.attrs["body"]
            _expect_grams(body, f"{path}{node.name}/", runs * rounds, stats, sampled)


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
