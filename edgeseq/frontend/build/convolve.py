"""Convolution, transposed convolution and pooling, over time and over axes of a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, size_of
from edgeseq.frontend.build.reduce import extreme
from edgeseq.frontend.build.views import permute
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.move import carried, grid, place

__all__ = ["Sliding", "avg_pool", "conv", "conv_transpose", "max_pool", "same_pads"]

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
        v = c.whole(v, longer=True)
    extra, v = v.extra, replace(v, extra=0)
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
    return replace(v, extra=extra), at, spatial


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
    if v.extra and (s.reach(i), s.stride[i], s.pads[i]) != (1, 1, (0, 0)):
        c.whole(v)
    n = size_of(v.axes[d]) - sum(v.pad)
    front, back = v.pad[0] + s.pads[i][0], v.pad[1] + s.pads[i][1]
    reach = s.reach(i)
    if s.ceil:
        raise LayoutError("rounds the number of frames up", "pool with ceil_mode=False")
    # More zeros in front than the kernel reaches delay the result: the newest frames go unread.
    held = max(reach, front + 1)
    ahead, cut = max(reach - 1 - front, 0), reach - 1 - front - back
    extra = max(-cut, 0)
    if extra and (ahead > 0 or s.stride[i] > 1):
        raise LayoutError(
            f"pads time by {front} and {back} frames around a kernel that reaches {reach}",
            "pad by at most the reach of the kernel less one in all",
        )
    kept = v.extra
    v = c.natural(replace(v, pad=(0, 0), extra=0))
    frames = n - max(cut, 0)
    if frames < 1:
        raise LayoutError(
            f"has a kernel that reaches over {reach} of {n} frames",
            "give a longer example (--set for a named axis)",
        )
    name = v.name
    if held > 1 or ahead or cut > 0:
        c.charge(0)
        name = c.graph.add_node(
            "window", [name], name=c.name("window"), length=held, ahead=ahead, cut=max(cut, 0)
        )
    else:
        frame = c.graph.types[name].shape
        name = c.graph.add_node("reshape", [name], name=c.name("window"), shape=(1, *frame))
    if s.stride[i] > 1:
        name = c.graph.add_node("decimate", [name], name=c.name("every"), factor=s.stride[i])
        frames = -(-frames // s.stride[i])
    time = (Atom("T", frames + extra),)
    axes = ((Atom("F", held),), *v.axes[:d], time, *v.axes[d + 1 :])
    return Value(name, axes, extra=extra or kept)


def _finish(
    c: Context, v: Value, name: str, batch: Axes, channels: int, spatial: list[Axes], extra: int
) -> Value:
    """The result [N, C, spatial...] of a node that stores [N, spatial..., C]."""
    axes: Axes = (batch[0], (Atom("F", channels),), *(a[0] for a in spatial))
    rank = sum(a.label == "F" for axis in axes for a in axis)
    n = sum(a.label == "F" for a in batch[0])
    order = (*range(n), *range(n + 1, rank), n)
    out = Value(name, axes, order=None if order == tuple(range(rank)) else order, extra=extra)
    shape = out.stored
    if c.graph.types[name].shape != shape:
        name = c.graph.add_node("reshape", [name], name=c.name("reshape"), shape=shape)
    if len(out.axes) and all(d == 1 for i, d in enumerate(out.frame) if i != n):
        return Value(c.natural(replace(out, name=name, extra=0)).name, axes, extra=extra)
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
    extra = v.extra
    v = replace(v, extra=0)
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
        return _finish(c, v, name, batch, out, spatial, extra)
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
    return _finish(c, v, name, batch, out, spatial, extra)


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


def conv_transpose(
    c: Context,
    v: Value,
    w: Array,
    bias: Array | None,
    s: Sliding,
    groups: int = 1,
    output_padding: Sequence[int] | None = None,
) -> Value:
    """Transposed convolution of [N, C, positions...] with w [C, O / groups, taps...].

    It is a convolution of the input with zeros between its elements and the kernel reversed; over
    time that would make several frames of one, so only axes of a frame can be widened.
    """
    w = np.asarray(w, np.float64)
    rank = len(s.kernel)
    if any(v.kind(2 + i) == "mixed" for i in range(rank)):
        raise LayoutError(
            f"slides along an axis of {describe(v.axes)} that mixes time with features",
            "give time an axis of its own",
        )
    more = list(output_padding or [0] * rank)
    if any(v.kind(2 + i) == "T" and s.stride[i] > 1 for i in range(rank)):
        raise LayoutError(
            "makes several frames of one", "compile in window mode (--window N --hop N)"
        )
    if w.ndim != rank + 2 or size_of(v.axes[1]) != w.shape[0] or w.shape[0] % groups:
        raise LayoutError(f"has weights of {list(w.shape)} for {describe(v.axes)}")
    pads = []
    for i in range(rank):
        full = s.reach(i) - 1
        lo, hi = full - s.pads[i][0], full - s.pads[i][1] + more[i]
        pads.append((lo, hi))
    if any(v.kind(2 + i) == "T" for i in range(rank)) and any(p < 0 for q in pads for p in q):
        raise LayoutError("cuts off more than the kernel reaches")
    if any(s.stride[i] > 1 for i in range(rank)):
        at = grid(c.whole(v))
        for i in range(rank):
            axis, n = 2 + i, at.shape[2 + i]
            # Zeros after the last element, too, where padding follows: a regular pattern.
            tail = s.stride[i] - 1 if pads[i][1] >= s.stride[i] - 1 else 0
            pads[i] = (pads[i][0], pads[i][1] - tail)
            count = (n - 1) * s.stride[i] + 1 + tail
            wide = np.full((*at.shape[:axis], count, *at.shape[axis + 1 :]), -1, np.int64)
            wide[(*[slice(None)] * axis, slice(None, None, s.stride[i]))] = at
            at = wide
        axes = list(v.axes)
        for i in range(rank):
            if v.kind(2 + i) != "T":
                n = at.shape[2 + i]
                axes[2 + i] = (Atom("F", n),) if n != 1 else ()
        v = place(c, v, at, tuple(axes), "spread")
    inner = [(max(a, 0), max(b, 0)) for a, b in pads]
    per_in, per_out = w.shape[0] // groups, w.shape[1]
    flipped = np.flip(w, tuple(range(2, w.ndim)))
    flipped = flipped.reshape(groups, per_in, per_out, *w.shape[2:])
    flipped = np.moveaxis(flipped, 2, 1).reshape(groups * per_out, per_in, *w.shape[2:])
    y = conv(c, v, flipped, bias, Sliding(s.kernel, None, s.dilation, inner), groups)
    if any(p < 0 for pair in pads for p in pair):
        from edgeseq.frontend.build.views import slice_axis

        for i, (lo, hi) in enumerate(pads):
            n = size_of(y.axes[2 + i])
            y = slice_axis(c, y, 2 + i, max(-lo, 0), n - max(-hi, 0))
    return y


# -- pooling -------------------------------------------------------------------------------------


def max_pool(c: Context, v: Value, s: Sliding) -> Value:
    """The greatest of each window of [N, C, positions...]; padding never wins."""
    padded = any(p for pair in s.pads for p in pair) or s.ceil or v.pad != (0, 0)
    times = [i for i in range(len(s.kernel)) if v.kind(2 + i) == "T"]
    if times and (v.pad != (0, 0) or s.pads[times[0]] != (0, 0)):
        raise LayoutError(
            "takes the greatest over padded time", "pool without padding, or over a frame axis"
        )
    batch: Axes = (v.axes[0],)
    channels = size_of(v.axes[1])
    v, at, spatial = _windows(c, v, s, zeros=False)
    extra, v = v.extra, replace(v, extra=0)
    at = np.moveaxis(at, 1, 1 + len(s.kernel))  # [N, positions..., C, taps...]
    head = at.shape[: 2 + len(s.kernel)]
    taps = at.reshape(*head, -1)
    if padded:  # a tap outside repeats one inside
        inside = np.take_along_axis(taps, np.argmax(taps >= 0, axis=-1)[..., None], -1)
        taps = np.where(taps >= 0, taps, inside)
    axes = _position_axes(v, spatial, [channels])
    parts = [place(c, v, taps[..., k], axes, f"tap{k}") for k in range(taps.shape[-1])]
    y = extreme(c, "max", parts)
    return _finish(c, v, y.name, batch, channels, spatial, extra)


def avg_pool(c: Context, v: Value, s: Sliding, *, count_pads: bool) -> Value:
    """The mean of each window; with `count_pads` padding counts as zeros."""
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
    extra, v = v.extra, replace(v, extra=0)
    at = np.moveaxis(at, 1, -1).reshape(*at.shape[:1], *at.shape[2 : 2 + rank], taps, channels)
    weight = np.full((channels, taps), 1.0 / taps)
    name = _depthwise(c, v, at, weight, None, spatial)
    y = _finish(c, v, name, batch, channels, spatial, extra)
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
