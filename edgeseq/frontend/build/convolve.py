"""Convolution and pooling, over time and over axes of a frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgeseq.frontend.axes import (
    Atom,
    Axes,
    LayoutError,
    Value,
    describe,
    size_of,
)
from edgeseq.frontend.build import mirror as mirrored
from edgeseq.frontend.build.arith import where
from edgeseq.frontend.build.rates import framed, framed_axis
from edgeseq.frontend.build.reduce import extreme
from edgeseq.frontend.build.views import permute, shifted, slice_axis
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.move import carried, grid, moved, place

__all__ = [
    "Sliding",
    "avg_pool",
    "conv",
    "frames_of_time",
    "max_pool",
    "pieces",
    "same_pads",
    "taps",
]

_MAX_GROUPS = 64


class Sliding:
    """How a kernel slides: per spatial axis its size, step, spacing and padding.

    Args:
        kernel: sizes.
        stride, dilation: per axis, 1 by default.
        pads: (before, after) per axis, 0 by default; zeros.
        ceil: round the number of positions up (pooling).
    """

    def __init__(
        self,
        kernel: Sequence[int],
        stride: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        pads: Sequence[tuple[int, int]] | None = None,
        *,
        ceil: bool = False,
    ) -> None:
        rank = len(kernel)
        self.kernel = [int(k) for k in kernel]
        self.stride = [int(s) for s in stride or [1] * rank]
        self.dilation = [int(d) for d in dilation or [1] * rank]
        self.pads = [(int(a), int(b)) for a, b in pads or [(0, 0)] * rank]
        self.ceil = ceil
        sizes = {len(self.kernel), len(self.stride), len(self.dilation), len(self.pads)}
        if len(sizes) != 1:
            raise LayoutError("has settings for different numbers of axes")
        if min(*self.kernel, *self.stride, *self.dilation) < 1 or any(
            p < 0 for pair in self.pads for p in pair
        ):
            raise LayoutError("has a kernel, stride, dilation or padding that is not positive")

    def reach(self, i: int) -> int:
        """Elements from the first to the last that one position reads."""
        return (self.kernel[i] - 1) * self.dilation[i] + 1


def same_pads(mode: str, sizes: Sequence[int], s: Sliding) -> list[tuple[int, int]]:
    """Padding of ONNX's SAME_UPPER and SAME_LOWER for frame axes of the given sizes."""
    out = []
    for i, n in enumerate(sizes):
        total = max((-(-n // s.stride[i]) - 1) * s.stride[i] + s.reach(i) - n, 0)
        small = total // 2
        out.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return out


def _windows(
    c: Context, v: Value, s: Sliding, *, zeros: bool = True
) -> tuple[Value, Array, list[Axes]]:
    """What every position reads.

    Args:
        zeros: padding of frame axes is made as zeros; else it is -1 in the index array.

    Returns:
        The value (with windows over time made), an index array [N, C, out..., taps...] into it
        (time axes have size 1), and the axes of the spatial result.
    """
    rank = len(s.kernel)
    if len(v.axes) != rank + 2:
        raise LayoutError(
            f"slides over {rank} axes of {describe(v.axes)}", "pass [batch, channels, positions]"
        )
    times = [i for i in range(rank) if v.kind(2 + i) == "T"]
    if len(times) > 1 or any(v.kind(2 + i) not in "TF1" for i in range(rank)):
        raise LayoutError(f"slides over {describe(v.axes)}", "undo the view first")
    if v.kind(1) not in "F1":
        raise LayoutError(
            f"takes axis 1 of {describe(v.axes)} for channels",
            "transpose so that the features are axis 1",
        )
    if any(a.label == "F" for a in v.axes[0]) and carried(v, 0):
        raise LayoutError(f"takes a merged axis of {describe(v.axes)} for the batch")
    spatial: list[Axes] = []
    lead = 0
    if times:
        v = _over_time(c, v, times[0], s)
        lead = 1
    else:
        v = c.whole(v)
    v, at, margins = _padded(c, v, s, [i for i in range(rank) if i not in times], lead, zeros)
    # `at` is [taps of time, N, C, spatial...] with a window over time, else without the first.
    taps: list[int] = []
    for i in range(rank):
        axis = 2 + i + lead
        if i in times:
            spatial.append((v.axes[axis],))
            continue
        n, count = at.shape[axis], margins[i]
        if count * s.kernel[i] * at.size // max(n, 1) > c.most_frame * 8:
            raise LayoutError(f"reads {count} windows of {s.kernel[i]} elements: too large")
        reads = np.arange(count)[:, None] * s.stride[i] + np.arange(s.kernel[i]) * s.dilation[i]
        at = np.take(at, reads.reshape(-1), axis=axis)
        at = at.reshape(*at.shape[:axis], count, s.kernel[i], *at.shape[axis + 1 :])
        at = np.moveaxis(at, axis + 1, -1)  # taps go last, in order
        taps.append(i)
        spatial.append((((Atom("F", count),) if count > 1 else ()),))
    if times:
        at = at[: s.reach(times[0]) : s.dilation[times[0]]]
        at = np.moveaxis(at, 0, -1)  # the taps of time last of all ...
        taps.append(times[0])
        order = sorted(range(len(taps)), key=lambda k: taps[k])
        at = np.moveaxis(at, [2 + rank + k for k in order], [2 + rank + k for k in range(rank)])
    return v, at, spatial


def _padded(
    c: Context, v: Value, s: Sliding, frame_axes: Sequence[int], lead: int, zeros: bool
) -> tuple[Value, Array, dict[int, int]]:
    """`v` with its frame axes padded, its index array, and the number of positions along each."""
    at = grid(v)
    counts: dict[int, int] = {}
    widths = [(0, 0)] * at.ndim
    for i in frame_axes:
        n = at.shape[2 + i + lead]
        lo, hi = s.pads[i]
        room = n + lo + hi - s.reach(i)
        if room < 0:
            raise LayoutError(f"has a kernel of {s.reach(i)} for {n} elements")
        counts[i] = room // s.stride[i] + 1
        if s.ceil and room % s.stride[i] and counts[i] * s.stride[i] < n + lo:
            hi += s.stride[i] - room % s.stride[i]
            counts[i] += 1
        widths[2 + i + lead] = (lo, hi)
    if not any(a or b for a, b in widths):
        return v, at, counts
    if math.prod(n + a + b for n, (a, b) in zip(at.shape, widths, strict=True)) > c.most_frame * 2:
        raise LayoutError("pads a frame to more than 2^21 elements")
    at = np.pad(at, widths, constant_values=-1)
    if not zeros:
        return v, at, counts
    # Channels last: then every window is one run of memory.
    order = [*range(1 + lead), *range(2 + lead, at.ndim), 1 + lead]
    axes: list[tuple[Atom, ...]] = []
    for d, n in enumerate(at.shape):
        held = carried(v, d)
        axes.append(held if held else ((Atom("F", n),) if n != 1 else ()))
    turned = place(c, v, at.transpose(order), tuple(axes[d] for d in order), "pad")
    back = [order.index(d) for d in range(at.ndim)]
    v = permute(c, turned, back)
    return v, grid(v), counts


def _over_time(c: Context, v: Value, i: int, s: Sliding) -> Value:
    """`v` with a first axis of the frames that one position of time reads."""
    d = 2 + i
    if v.mirror and s.pads[i] != (0, 0):
        v = c.whole(v)
    mirror, more = (v.mirror, mirrored.more_taps(v, s.reach(i))) if v.mirror else ("", 0)
    c.ends_otherwise = c.ends_otherwise or bool(mirror and v.pad[1])
    n = size_of(v.axes[d]) - sum(v.pad)
    front, back = v.pad[0] + s.pads[i][0], v.pad[1] + s.pads[i][1]
    reach = s.reach(i)
    if s.ceil:
        raise LayoutError("rounds the number of frames up", "pool with ceil_mode=False")
    v = c.natural(replace(v, pad=(0, 0)))
    if front >= reach:  # more zeros in front than the kernel reaches make the result late
        late = front - reach + 1
        axes = (*v.axes[:d], (Atom("T", n + late),), *v.axes[d + 1 :])
        v, n, front = shifted(c, v, axes, late, 0), n + late, reach - 1
    # Frames by which the result is shorter, or longer: those take what comes after the end for
    # zeros, and a stream never gets there.
    ahead, cut = reach - 1 - front, reach - 1 - front - back
    frames = n - cut
    if frames < 1:
        raise LayoutError(
            f"has a kernel that reaches over {reach} of {n} frames",
            "give a longer example (--set for a named axis)",
        )
    name = v.name
    if reach > 1 or ahead or cut:
        c.charge(0)
        name = c.graph.add_node(
            "window", [name], name=c.name("window"), length=reach + more, ahead=ahead + more,
            cut=cut,
        )  # fmt: skip
    else:
        frame = c.graph.types[name].shape
        name = c.graph.add_node("reshape", [name], name=c.name("window"), shape=(1, *frame))
    if s.stride[i] > 1:
        name = c.graph.add_node("decimate", [name], name=c.name("every"), factor=s.stride[i])
        frames = -(-frames // s.stride[i])
    axes = (*v.axes[:d], (Atom("T", frames),), *v.axes[d + 1 :])
    seen = Value(name, ((Atom("F", reach + more),), *axes))
    if mirror and front:
        seen = mirrored.first_positions(c, seen, mirror, front, s.stride[i])
    if more:
        seen = place(c, seen, grid(seen)[:reach], ((Atom("F", reach),), *axes), "taps")
    return seen


def _finish(
    c: Context, v: Value, name: str, batch: Axes, channels: int, spatial: list[Axes]
) -> Value:
    """The result [N, C, spatial...] of a node that stores [N, spatial..., C]."""
    axes: Axes = (batch[0], (Atom("F", channels),), *(a[0] for a in spatial))
    rank = sum(a.label == "F" for axis in axes for a in axis)
    n = sum(a.label == "F" for a in batch[0])
    order = (*range(n), *range(n + 1, rank), n)
    out = Value(name, axes, order=None if order == tuple(range(rank)) else order)
    shape = out.stored
    if c.graph.types[name].shape != shape:
        name = c.graph.add_node("reshape", [name], name=c.name("reshape"), shape=shape)
    if len(out.axes) and all(d == 1 for i, d in enumerate(out.frame) if i != n):
        return Value(c.natural(replace(out, name=name)).name, axes)
    return replace(out, name=name)


def _position_axes(v: Value, spatial: list[Axes], more: Sequence[int]) -> Axes:
    """Axes of an index array [N, positions..., more...] of the value `v`."""
    lead = len(v.axes) - 2 - len(spatial)
    return (
        v.axes[lead],
        *(a[0] for a in spatial),
        *(((Atom("F", n),) if n != 1 else ()) for n in more),
    )


def conv(c: Context, v: Value, w: Array, bias: Array | None, s: Sliding, groups: int = 1) -> Value:
    """Cross-correlation of [N, C, positions...] with w [O, C / groups, taps...].

    Args:
        c: the Graph under construction.
        v: input; at most one of its spatial axes is time.
        w: weights.
        bias: [O] or None.
        s: how the kernel slides; its sizes are those of `w`.
        groups: independent groups of channels.

    Raises:
        LayoutError: shapes that do not fit, or padding that a stream cannot have.
    """
    w = np.asarray(w, np.float64)
    v = framed(c, v, range(2, len(v.axes)))
    channels = size_of(v.axes[1])
    if w.ndim != len(s.kernel) + 2 or list(w.shape[2:]) != s.kernel:
        raise LayoutError(f"has weights of {list(w.shape)} for a kernel of {s.kernel}")
    if groups < 1 or channels != w.shape[1] * groups or w.shape[0] % groups:
        raise LayoutError(
            f"multiplies {channels} channels in {groups} groups by weights of {list(w.shape)}"
        )
    rank, out = len(s.kernel), w.shape[0]
    batch: Axes = (v.axes[0],)
    v, at, spatial = _windows(c, v, s)
    # [N, positions..., taps..., C]
    at = np.moveaxis(at, 1, -1)
    taps = math.prod(s.kernel)
    head = at.shape[: 1 + rank]
    at = at.reshape(*head, taps, channels)
    b = None if bias is None else np.ravel(np.asarray(bias, np.float64))
    if b is not None and b.shape != (out,):
        raise LayoutError(f"has a bias of {list(b.shape)} for {out} channels")
    w = w.reshape(out, -1, taps)
    if groups > 1 and groups == channels:
        name = _depthwise(c, v, at, w[:, 0, :], b, spatial)
        return _finish(c, v, name, batch, out, spatial)
    if groups > _MAX_GROUPS:
        raise LayoutError(f"has {groups} groups", f"use at most {_MAX_GROUPS}, or one per channel")
    per_in, per_out = channels // groups, out // groups
    names = []
    for g in range(groups):
        part = at[..., g * per_in : (g + 1) * per_in].reshape(*head, taps * per_in)
        rows = slice(g * per_out, (g + 1) * per_out)
        matrix = w[rows].transpose(0, 2, 1).reshape(per_out, -1)
        x = place(c, v, part, _position_axes(v, spatial, [taps * per_in]), "taps")
        x = c.view(x, (*x.axes[:-1], (Atom("F", taps * per_in),)))
        suffix = f"g{g}" if groups > 1 else ""
        y = c.linear(x, matrix, None if b is None else b[rows], suffix=suffix)
        names.append(y.name)
    name = names[0] if groups == 1 else c.graph.add_node("concat", names, name=c.name("groups"))
    return _finish(c, v, name, batch, out, spatial)


def _depthwise(
    c: Context, v: Value, at: Array, w: Array, b: Array | None, spatial: list[Axes]
) -> str:
    """A kernel per channel: w [O, taps], O a multiple of the channels."""
    out, taps = w.shape
    at = np.repeat(at, out // at.shape[-1], axis=-1)
    axes = _position_axes(v, spatial, [taps, out])
    x = place(c, v, at, axes, "taps")
    frame = c.graph.types[x.name].shape
    positions = math.prod(frame) // (taps * out)
    shape = (positions, taps, out) if positions > 1 else (taps, out)
    name = x.name
    if frame != shape:
        name = c.graph.add_node("reshape", [name], name=c.name("reshape"), shape=shape)
    inputs = [name, c.const(w.T, "weight")]
    if b is not None:
        inputs.append(c.const(b, "bias"))
    return c.graph.add_node("depthwise", inputs, name=c.name())


def taps(c: Context, v: Value, s: Sliding) -> Value:
    """What the kernel reads of [N, C, positions...] at each: [N, C, taps..., positions...]."""
    v = framed(c, v, range(2, len(v.axes)))
    rank, channels = len(s.kernel), v.axes[1]
    v, at, spatial = _windows(c, v, s)
    # [N, C, positions..., taps...] to positions last
    at = np.moveaxis(at, range(2, 2 + rank), range(2 + rank, 2 + 2 * rank))
    lead = len(v.axes) - 2 - rank
    kernel = tuple((Atom("F", n),) if n != 1 else () for n in s.kernel)
    axes: Axes = (v.axes[lead], channels, *kernel, *(a[0] for a in spatial))
    return place(c, v, at, axes, "taps")


def frames_of_time(
    c: Context, v: Value, d: int, size: int, step: int = 1, dilation: int = 1
) -> Value:
    """Pieces of `size` frames along axis `d`, time, every `step` frames: a new last axis of them.

    Padding of time is taken in, as a convolution does.
    """
    rank = len(v.axes)
    kernel, steps, wide = [1] * rank, [1] * rank, [1] * rank
    kernel[d], steps[d], wide[d] = size, step, dilation
    # As the positions of a convolution, of one sequence with one channel.
    seen = _over_time(c, replace(v, axes=((), (), *v.axes)), d, Sliding(kernel, steps, wide))
    pieces = replace(seen, axes=(seen.axes[0], *seen.axes[3:]))
    pieces = permute(c, pieces, [*range(1, rank + 1), 0])
    return slice_axis(c, pieces, rank, 0, (size - 1) * dilation + 1, dilation)


def pieces(c: Context, self: Value, dim: int, size: int, step: int) -> Value:
    """Overlapping pieces of an axis, time or one of the frame, as a new last axis.

    Raises:
        LayoutError: the axis is the batch or a mixture, or shorter than a piece.
    """
    v = framed_axis(c, self, dim)
    d = v.axis(dim)
    n = size_of(v.axes[d])
    if step < 1 or not 1 <= size <= n:
        raise LayoutError(f"takes pieces of {size} of an axis of {n}")
    if v.kind(d) == "T":
        return frames_of_time(c, v, d, size, step)
    v = c.real(v)
    if v.kind(d) not in "F1":
        raise LayoutError(f"takes pieces of axis {d} of {describe(v.axes)}")
    reads = np.arange((n - size) // step + 1)[:, None] * step + np.arange(size)
    at = np.moveaxis(np.take(grid(v), reads, axis=d), d + 1, -1)
    return moved(c, v, at, [*range(len(v.axes)), None], "pieces")


# -- pooling -------------------------------------------------------------------------------------


def _stands_for_channels(c: Context, v: Value) -> bool:
    """Whether axis 1 is time, and a layer before has run along it or beside it.

    Of a model that begins with a pool, [batch, channels, time...] is meant.
    """
    layers = ("depthwise", "linear", "scan", "window")
    return v.kind(1) == "T" and v.pad == (0, 0) and any(n.op in layers for n in c.graph.nodes)


def _frame_by_frame(c: Context, v: Value, pool: Callable[[Value], Value]) -> Value:
    """A pool of [N, T, positions...]: it keeps channels apart, so time may stand in their place."""
    batch, time = v.axes[:2]
    y = c.natural(pool(replace(v, axes=((*batch, *time), (), *v.axes[2:]))))
    y = c.view(y, (y.axes[0], (), *y.axes[2:]))
    return replace(y, axes=(batch, time, *y.axes[2:]))


def max_pool(c: Context, v: Value, s: Sliding) -> Value:
    """The greatest of each window of [N, C, positions...]; padding of the pool never wins."""
    v = framed(c, v, range(2, len(v.axes)))
    if _stands_for_channels(c, v):
        return _frame_by_frame(c, c.natural(v), lambda u: max_pool(c, u, s))
    rank = len(s.kernel)
    times = [i for i in range(rank) if v.kind(2 + i) == "T"]
    short = bool(times) and s.pads[times[0]] != (0, 0)  # the first windows reach over fewer frames
    if short and v.pad != (0, 0):
        raise LayoutError("pads padded time", "pad once")
    batch: Axes = (v.axes[0],)
    channels = size_of(v.axes[1])
    there = _frames_there(c, v, times[0], s) if short else []
    v, at, spatial = _windows(c, v, s, zeros=False)
    at = np.moveaxis(at, 1, 1 + rank)  # [N, positions..., C, taps...]
    head = at.shape[: 2 + rank]
    taps = at.reshape(*head, -1)
    # The tap of time that each is of. That of the frame itself is never outside.
    number = np.arange(taps.shape[-1])
    when = np.unravel_index(number, s.kernel)[times[0]] if times else 0 * number
    own = s.pads[times[0]][0] // s.dilation[times[0]] if short else 0
    for j in np.unique(when):  # a tap outside of the frame repeats one inside, of the same time
        here = taps[..., when == j]
        inside = np.take_along_axis(here, np.argmax(here >= 0, axis=-1)[..., None], -1)
        taps[..., when == j] = np.where(here >= 0, here, inside)
    axes = _position_axes(v, spatial, [channels])

    def greatest(of: Array) -> Value:
        return extreme(
            c, "max", [place(c, v, of[..., k], axes, f"tap{k}") for k in range(of.shape[-1])]
        )

    if not short:
        y = greatest(taps)
    else:
        mine = greatest(taps[..., when == own])
        front, back = s.pads[times[0]]
        if front + back >= s.reach(times[0]):  # the last positions are of no frame
            if back >= s.reach(times[0]):
                raise LayoutError(
                    f"takes the greatest of {s.reach(times[0])} frames, padded by {back}",
                    "pad by less than the kernel reaches",
                )
            mine = where(c, there[own], mine, greatest(taps[..., when == 0]))
        parts = [mine]
        for j, known in enumerate(there):
            if j != own:
                parts.append(where(c, known, greatest(taps[..., when == j]), mine))
        y = c.natural(extreme(c, "max", parts))
    return _finish(c, v, y.name, batch, channels, spatial)


def _frames_there(c: Context, v: Value, i: int, s: Sliding) -> list[Value]:
    """For each tap of time, whether there is a frame: 1, or 0 before the first and after the last.

    Raises:
        LayoutError: no tap reads the frame that the position is of.
    """
    if s.pads[i][0] % s.dilation[i] or s.pads[i][0] >= s.reach(i):
        raise LayoutError(
            f"takes the greatest over time padded by {s.pads[i][0]} frames, of every "
            f"{s.dilation[i]}th frame",
            "pad by a multiple of the dilation, less than the kernel reaches",
        )
    one = c.ones(v)
    axes = [tuple(a for a in axis if a.label != "F") for axis in v.axes]
    axes[1] = (Atom("F", 1),)
    seen = _over_time(c, Value(one, tuple(axes)), i, s)
    at = grid(seen)
    made = []
    for k in range(0, s.reach(i), s.dilation[i]):
        known = place(c, seen, at[k], seen.axes[1:], f"there{k}")
        # The axes of a position: channels last.
        made.append(permute(c, known, [0, *range(2, len(known.axes)), 1]))
    return made


def avg_pool(c: Context, v: Value, s: Sliding, *, count_pads: bool) -> Value:
    """The mean of each window; with `count_pads` padding counts as zeros."""
    v = framed(c, v, range(2, len(v.axes)))
    if _stands_for_channels(c, v):
        return _frame_by_frame(c, c.natural(v), lambda u: avg_pool(c, u, s, count_pads=count_pads))
    channels, taps = size_of(v.axes[1]), math.prod(s.kernel)
    batch: Axes = (v.axes[0],)
    rank = len(s.kernel)
    sizes = [size_of(v.axes[2 + i]) for i in range(rank)]
    times = [i for i in range(rank) if v.kind(2 + i) == "T"]
    if not count_pads and any(s.pads[i] != (0, 0) for i in times):
        raise LayoutError(
            "averages the first frames over fewer than the others",
            "count the padding (count_include_pad), or pad by zeros before it",
        )
    v, at, spatial = _windows(c, v, s)
    at = np.moveaxis(at, 1, -1).reshape(*at.shape[:1], *at.shape[2 : 2 + rank], taps, channels)
    weight = np.full((channels, taps), 1.0 / taps)
    name = _depthwise(c, v, at, weight, None, spatial)
    y = _finish(c, v, name, batch, channels, spatial)
    inside = _counted(s, sizes, times, at.shape[1 : 1 + rank], count_pads)
    if np.any(inside != taps):
        inside = np.broadcast_to(inside[..., None], (*inside.shape, channels))
        gain = np.moveaxis(taps / np.maximum(inside, 1), -1, 0)[None]
        y = c.binary("mul", y, gain, suffix="count")
    return y


def _counted(
    s: Sliding, sizes: Sequence[int], times: Sequence[int], counts: Sequence[int], pads: bool
) -> Array:
    """How many elements each position of a pool counts: [positions...]."""
    out = np.ones((1,) * len(sizes), np.int64)
    for i, (n, count) in enumerate(zip(sizes, counts, strict=True)):
        if i in times:
            per = np.full(1, s.kernel[i])
        else:
            at = np.arange(count)[:, None] * s.stride[i] + np.arange(s.kernel[i]) * s.dilation[i]
            at = at - s.pads[i][0]
            lo, hi = (-s.pads[i][0], n + s.pads[i][1]) if pads else (0, n)
            per = ((at >= lo) & (at < hi)).sum(1)
        out = out * per.reshape([-1 if j == i else 1 for j in range(len(sizes))])
    return out
