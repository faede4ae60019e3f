"""Views: bookkeeping where they move batch and time, nodes where they move features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, describe, size_of
from edgeseq.frontend.build import convolve, rates, resize, views
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
    self = rates.framed_axis(c, self, d)
    if self.kind(d) == "T" and times.size == 1 and times.item() > 1:
        return rates.repeat_frames(c, self, d, int(times.item()))
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
    return convolve.pieces(c, self, dimension, size, step)


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
    pads, kernel, steps = [(n, n) for n in padding], list(kernel_size), list(stride)
    # A kernel over all frames reads every frame once, as if they were its positions.
    whole = [i for i in range(2) if v.kind(2 + i) == "T" and pads[i] == v.pad == (0, 0)
             and kernel[i] == size_of(v.axes[2 + i]) and dilation[i] == 1]  # fmt: skip
    for i in whole:
        kernel[i] = steps[i] = 1
    y = convolve.taps(c, v, Sliding(kernel, steps, dilation, pads))  # [N, C, kh, kw, h, w]
    for i in whole:
        order = list(range(6))
        order[2 + i], order[4 + i] = order[4 + i], order[2 + i]
        y = views.permute(c, y, order)
    n, ch, kh, kw, h, w = y.sizes
    y = views.reshape(c, y, [n, ch * kh * kw, h * w])
    return views.squeeze(c, y, [0]) if added else y


@lowers("channel_shuffle")
def _channel_shuffle(c: Context, self: Value, groups: int = 1) -> Value:
    v = c.whole(self)
    at = grid(v)
    n, ch, *rest = at.shape
    at = at.reshape(n, groups, ch // groups, *rest).swapaxes(1, 2).reshape(n, ch, *rest)
    return moved(c, v, at, range(len(v.axes)), "shuffle")


@lowers("pixel_shuffle")
def _pixel_shuffle(c: Context, self: Value, upscale_factor: int) -> Value:
    return resize.depth_to_space(c, self, upscale_factor)


@lowers("pixel_unshuffle")
def _pixel_unshuffle(c: Context, self: Value, downscale_factor: int) -> Value:
    return resize.space_to_depth(c, self, downscale_factor)


def _resized(
    v: Value, output_size: Any, scale_factors: Any, scales: Sequence[Any]
) -> list[tuple[int, float]]:
    """New size of each axis after the first two, and old elements per new one."""
    have = v.sizes[2:]
    given = list(scale_factors or scales)
    factors = given[: len(have)] + [None] * (len(have) - len(given))
    sizes = output_size or [int(n * s) for n, s in zip(have, factors, strict=True)]
    return [
        (int(m), n / int(m) if s is None else 1.0 / float(s))
        for n, m, s in zip(have, sizes, factors, strict=True)
    ]


@lowers("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d")  # fmt: skip
def _upsample(
    c: Context, self: Any = None, input: Any = None, output_size: Any = None,
    scale_factors: Any = None, scales: Any = None, scales_h: Any = None, scales_w: Any = None,
) -> Value:  # fmt: skip
    """Nearest neighbours: element i is that at floor(i / factor), by the factor that was given."""
    v = c.whole(self if self is not None else input)
    axes = [scales] if len(v.axes) == 3 else [scales_h, scales_w]
    shift = np.float32(0.5 if "exact" in c.op.base else 0.0)
    for d, (m, step) in enumerate(_resized(v, output_size, scale_factors, axes), 2):
        n = size_of(v.axes[d])
        places = (np.arange(m, dtype=np.float32) + shift) * np.float32(step)  # as torch counts
        index = places.astype(int).clip(0, n - 1)
        if not np.array_equal(index, np.arange(n)):
            v = resize.nearest(c, v, d, index)
    return v


@lowers("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")
def _upsample_linear(
    c: Context, self: Any = None, input: Any = None, output_size: Any = None,
    align_corners: bool = False, scale_factors: Any = None, scales: Any = None,
    scales_d: Any = None, scales_h: Any = None, scales_w: Any = None,
) -> Value:  # fmt: skip
    """Linear along every axis, one after another."""
    v = c.whole(self if self is not None else input)
    axes = [[scales], [scales_h, scales_w], [scales_d, scales_h, scales_w]][len(v.axes) - 3]
    for d, (m, step) in enumerate(_resized(v, output_size, scale_factors, axes), 2):
        n, i = size_of(v.axes[d]), np.arange(m, dtype=float)
        if n == m and (step == 1.0 or align_corners):
            continue
        places = i * (n - 1) / max(m - 1, 1) if align_corners else (i + 0.5) * step - 0.5
        v = resize.linear(c, v, d, places)
    return v
