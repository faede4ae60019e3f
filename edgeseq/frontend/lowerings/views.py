"""Views: bookkeeping where they move batch and time, nodes where they move features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, describe, size_of
from edgeseq.frontend.build import convolve, views
from edgeseq.frontend.build.convolve import Sliding
from edgeseq.frontend.context import Context, lowers
from edgeseq.frontend.move import grid, moved
from edgeseq.frontend.past import file_sizes
from edgeseq.frontend.program import Symbol

Sizes = Sequence[int]


def listed(x: Any) -> list[int]:
    """One number or several as a list."""
    return [int(x)] if isinstance(x, int | np.integer) else [int(n) for n in x]


@lowers("view", "reshape", "_unsafe_view", "view_copy", "_reshape_copy")
def _view(c: Context, self: Value, size: Sizes | None = None, shape: Sizes | None = None) -> Value:
    sizes = list(size if size is not None else shape or [])
    return views.reshape(c, self, sizes)


@lowers("view_as", "reshape_as")
def _view_as(c: Context, self: Value, other: Any) -> Value:
    return views.reshape(c, self, _sizes(other))


def _sizes(x: Any) -> tuple[int, ...]:
    return file_sizes(x) if isinstance(x, Value) else np.shape(x)


@lowers("flatten")
def _flatten(c: Context, self: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    sizes = list(self.sizes)
    start, end = self.axis(start_dim), self.axis(end_dim)
    merged = math.prod(sizes[start : end + 1])
    return views.reshape(c, self, [*sizes[:start], merged, *sizes[end + 1 :]])


@lowers("unflatten")
def _unflatten(c: Context, self: Value, dim: int, sizes: Sizes) -> Value:
    d = self.axis(dim)
    have = list(self.sizes)
    filled = views.resolve_sizes([have[d]], sizes)
    return views.reshape(c, self, [*have[:d], *filled, *have[d + 1 :]])


@lowers("sym_size")
def _sym_size(c: Context, self: Value, dim: int) -> Symbol:
    return Symbol(file_sizes(self)[self.axis(dim)])


@lowers("unsqueeze")
def _unsqueeze(c: Context, self: Value, dim: int) -> Value:
    return views.unsqueeze(c, self, [dim])


@lowers("squeeze")
def _squeeze(c: Context, self: Value, dim: Any = None) -> Value:
    if self.pieces is not None and len(self.pieces) == 1:
        dims = None if dim is None else [self.axis(d) for d in listed(dim)]
        if dims is None or 0 in dims:
            rest = views.select(c, self, 0, 0)
            left = [d - 1 for d in dims or range(len(self.axes)) if d]
            return views.squeeze(c, rest, left) if left else rest
    return views.squeeze(c, self, None if dim is None else listed(dim))


@lowers("permute", "permute_copy")
def _permute(c: Context, self: Value, dims: Sizes) -> Value:
    return views.permute(c, self, list(dims))


@lowers("transpose", "swapaxes", "swapdims", "transpose_copy")
def _transpose(
    c: Context, self: Value, dim0: int = 0, dim1: int = 1, axis0: int | None = None,
    axis1: int | None = None,
) -> Value:  # fmt: skip
    order = list(range(len(self.axes)))
    a = self.axis(dim0 if axis0 is None else axis0)
    b = self.axis(dim1 if axis1 is None else axis1)
    order[a], order[b] = b, a
    return views.permute(c, self, order)


@lowers("t", "numpy_T", "t_copy")
def _t(c: Context, self: Value) -> Value:
    return views.permute(c, self, list(reversed(range(len(self.axes)))))


@lowers("mT", "adjoint")
def _mt(c: Context, self: Value) -> Value:
    return _transpose(c, self, -2, -1)


@lowers("movedim", "moveaxis")
def _movedim(c: Context, self: Value, source: Any, destination: Any) -> Value:
    sources, targets = listed(source), listed(destination)
    pairs = sorted((self.axis(t), self.axis(s)) for s, t in zip(sources, targets, strict=True))
    order = [i for i in range(len(self.axes)) if i not in {s for _, s in pairs}]
    for target, s in pairs:
        order.insert(target, s)
    return views.permute(c, self, order)


@lowers("expand", "broadcast_to", "expand_copy")
def _expand(c: Context, self: Value, size: Sizes, implicit: bool = False) -> Value:
    return views.expand(c, self, list(size))


@lowers("expand_as")
def _expand_as(c: Context, self: Value, other: Any) -> Value:
    return views.expand(c, self, _sizes(other))


@lowers("repeat", "tile")
def _repeat(c: Context, self: Value, repeats: Sizes | None = None, dims: Sizes = ()) -> Value:
    times = list(dims if repeats is None else repeats)
    lead = len(times) - len(self.axes)
    if lead < 0:
        times, lead = [1] * -lead + times, 0
    v = views.unsqueeze(c, self, range(lead)) if lead else c.whole(self)
    if all(n == 1 for n in times):
        return v
    for d, n in enumerate(times):
        if n != 1 and v.kind(d) in ("T", "B", "mixed") and v.sizes[d] > 1:
            raise LayoutError(f"repeats {describe(v.axes)} {times} times: time or the batch")
    return moved(c, v, np.tile(grid(v), times), range(len(times)), "repeat")


@lowers("repeat_interleave")
def _repeat_interleave(
    c: Context, self: Value, repeats: Any, dim: int | None = None, output_size: Any = None
) -> Value:
    if isinstance(repeats, Value):
        raise LayoutError("repeats as often as a value says", "repeat a fixed number of times")
    if dim is None:
        self, dim = views.reshape(c, self, [-1]), 0
    d = self.axis(dim)
    times = np.asarray(repeats)
    if self.kind(d) == "T" and times.size == 1 and times.item() > 1:
        return views.repeat_frames(c, self, d, int(times.item()))
    index = np.repeat(np.arange(size_of(self.axes[d])), times)
    return views.take(c, self, d, index)


@lowers("flip")
def _flip(c: Context, self: Value, dims: Sizes) -> Value:
    return views.flip(c, self, list(dims))


@lowers("roll")
def _roll(c: Context, self: Value, shifts: Any, dims: Any = ()) -> Value:
    axes = [self.axis(d) for d in listed(dims)]
    if not axes:
        flat = _roll(c, views.reshape(c, self, [-1]), shifts, [0])
        return views.reshape(c, flat, self.sizes)
    if any(self.kind(d) in ("T", "mixed") for d in axes):
        raise LayoutError(
            "rotates time", "a stream has no end to rotate; compile in window mode (--window N)"
        )
    if any(self.kind(d) == "B" and size_of(self.axes[d]) > 1 for d in axes):
        raise LayoutError("rotates the batch", "process all sequences alike")
    v = c.whole(self)
    return moved(c, v, np.roll(grid(v), listed(shifts), axes), range(len(v.axes)), "roll")


@lowers("as_strided", "as_strided_copy")
def _as_strided(
    c: Context, self: Value, size: Sizes, stride: Sizes, storage_offset: int | None = None
) -> Value:
    """Elements of a tensor that lies row by row; batch and time may only be whole axes of it."""
    v = c.real(self)
    have = [int(np.prod(v.sizes[i + 1 :])) for i in range(len(v.sizes))]
    held = {i: (v.sizes[i], have[i]) for i in range(len(v.sizes)) if v.kind(i) not in "F1"}
    origin: list[int | None] = []
    at = np.asarray(storage_offset or 0, np.int64)
    for n, s in zip(size, stride, strict=True):
        source = next((i for i, pair in held.items() if pair == (n, s) and i not in origin), None)
        origin.append(source)
        steps = np.arange(1 if source is not None else n, dtype=np.int64) * s
        at = at[..., None] + steps
    total = math.prod(v.sizes)
    if any(i not in origin and v.sizes[i] > 1 for i in held) or at.min() < 0 or at.max() >= total:
        raise LayoutError(f"sees {describe(v.axes)} with strides {list(stride)}")
    place = np.unravel_index(at, v.sizes)
    if any(np.any(place[i]) for i in held):
        raise LayoutError(f"sees {describe(v.axes)} with strides {list(stride)}: across time")
    features = grid(v)
    index = features[tuple(np.zeros_like(p) if i in held else p for i, p in enumerate(place))]
    return moved(c, v, index, origin, "strided")


@lowers("unfold", "unfold_copy")
def _unfold(c: Context, self: Value, dimension: int, size: int, step: int) -> Value:
    """Overlapping pieces of an axis, as a new last axis."""
    d = self.axis(dimension)
    n = size_of(self.axes[d])
    if not 1 <= size <= n or step < 1:
        raise LayoutError(f"takes pieces of {size} of an axis of {n}")
    if self.kind(d) == "T":
        return convolve.frames_of_time(c, self, d, size, step)
    v = c.real(self)
    count = (n - size) // step + 1
    if v.kind(d) not in "F1":
        raise LayoutError(f"takes pieces of axis {d} of {describe(v.axes)}")
    reads = np.arange(count)[:, None] * step + np.arange(size)
    at = np.take(grid(v), reads, axis=d)
    at = np.moveaxis(at, d + 1, -1)
    return moved(c, v, at, [*range(len(v.axes)), None], "unfold")


@lowers("diff")
def _diff(
    c: Context, self: Value, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None
) -> Value:
    """Every element less the one before it, n times."""
    ends = [x for x in (prepend, self, append) if x is not None]
    d = self.axis(dim)
    v = views.concat(c, ends, d) if len(ends) > 1 else self
    for _ in range(n):
        v = c.binary("sub", views.slice_axis(c, v, d, 1, None), views.slice_axis(c, v, d, 0, -1))
    return v


@lowers("im2col")
def _im2col(
    c: Context, self: Value, kernel_size: Sizes, dilation: Sizes, padding: Sizes, stride: Sizes
) -> Value:
    """[N, C kh kw, positions]: what a kernel reads at every position (torch.nn.Unfold)."""
    added = len(self.axes) == 3
    v = views.unsqueeze(c, self, [0]) if added else self
    s = Sliding(kernel_size, stride, dilation, [(n, n) for n in padding])
    y = convolve.taps(c, v, s)  # [N, C, kh, kw, h, w]
    n, ch, kh, kw, h, w = y.sizes
    y = views.reshape(c, y, [n, ch * kh * kw, h * w])
    return views.squeeze(c, y, [0]) if added else y


@lowers("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
def _shuffle(
    c: Context, self: Value, upscale_factor: int = 1, downscale_factor: int = 1, groups: int = 1
) -> Value:
    v = c.whole(self)
    at = grid(v)
    n, ch, *rest = at.shape
    if any(v.kind(d) not in "F1" for d in range(1, len(v.axes))) and c.op.base != "channel_shuffle":
        raise LayoutError(f"moves channels of {describe(v.axes)} to positions")
    if c.op.base == "channel_shuffle":
        at = at.reshape(n, groups, ch // groups, *rest).swapaxes(1, 2).reshape(n, ch, *rest)
        return moved(c, v, at, range(len(v.axes)), "shuffle")
    h, w = rest
    if c.op.base == "pixel_shuffle":
        r = upscale_factor
        at = at.reshape(n, ch // r**2, r, r, h, w).transpose(0, 1, 4, 2, 5, 3)
        at = at.reshape(n, ch // r**2, h * r, w * r)
    else:
        r = downscale_factor
        at = at.reshape(n, ch, h // r, r, w // r, r).transpose(0, 1, 3, 5, 2, 4)
        at = at.reshape(n, ch * r**2, h // r, w // r)
    return moved(c, v, at, [0, None, None, None], "shuffle")


@lowers("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d")  # fmt: skip
def _upsample(
    c: Context, self: Any = None, input: Any = None, output_size: Any = None,
    scale_factors: Any = None, scales: Any = None, scales_h: Any = None, scales_w: Any = None,
) -> Value:  # fmt: skip
    """Nearest neighbours along axes of a frame: element i is that at floor(i / factor)."""
    v = c.whole(self if self is not None else input)
    rank = len(v.axes) - 2
    have = v.sizes[2:]
    factors = scale_factors if scale_factors is not None else [scales, scales_h, scales_w]
    factors = [s for s in factors if s is not None] or [None] * rank
    if output_size is None:
        output_size = [int(n * s) for n, s in zip(have, factors, strict=True)]
    shift = 0.5 if "exact" in c.op.base else 0.0
    at = grid(v)
    for i in range(rank):
        n, m = have[i], int(output_size[i])
        # In float32, and by the factor that was given rather than by that of the sizes.
        by = np.float32(1.0 / factors[i] if factors[i] else n / m)
        reads = ((np.arange(m, dtype=np.float32) + np.float32(shift)) * by).astype(int)
        reads = reads.clip(0, n - 1)
        if np.array_equal(reads, np.arange(n)):
            continue
        if v.kind(2 + i) == "T" and np.array_equal(reads, np.arange(m) // max(m // n, 1)):
            moved_so_far = moved(c, v, at, range(len(v.axes)), "resize")
            v = views.repeat_frames(c, moved_so_far, 2 + i, m // n)
            at = grid(v)
            continue
        if v.kind(2 + i) not in "F1":
            raise LayoutError("resizes time or the batch", "resize time by a whole factor")
        at = np.take(at, reads, axis=2 + i)
    return moved(c, v, at, range(len(v.axes)), "resize")
