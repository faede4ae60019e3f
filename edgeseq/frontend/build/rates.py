"""Other rates of frames: several made of one, one made of several, and what lies between two.

A view may lay frames out: [T, k F] seen as [T k, F] has an axis of time and features. While only
features are computed with it stays that view, so that a batch into which time and bands were merged
costs nothing. Who needs frames (a convolution over time, a recurrence, an operation with another
sequence at that rate, an output) asks for them here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from edgeseq.frontend.axes import Atom, Axis, LayoutError, Value, size_of
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.move import grid, place

__all__ = [
    "at_one_rate",
    "between",
    "finer",
    "framed",
    "framed_axis",
    "grouped",
    "interleave",
    "is_laid_out",
    "repeat_frames",
]

MAX_TICK = 4096
"""Elements that may be made of one input frame."""


# -- more frames ---------------------------------------------------------------------------------


def interleave(c: Context, v: Value, dim: int) -> Value:
    """Frames of several, one after another: axis 0 of `v`, [k, ...], moves into time, axis `dim`.

    Returns:
        The tensor without axis 0; its sequence is k times as long.

    Raises:
        LayoutError: a step would make more frames than it takes.
    """
    v = c.natural(c.whole(v))
    k, n = size_of(v.axes[0]), size_of(v.axes[dim])
    if not _affords(c, v, k):
        _ask(c, v, k)
        raise LayoutError(
            f"makes {k} frames of one, in all more than {MAX_TICK} of each that comes in",
            "keep them as an axis of the frame and lay them out after the model, or compile in "
            "window mode (--window N --hop N)",
        )
    out = c.graph.add_node("interleave", [v.name], name=c.name("frames"))
    axes = [*v.axes[1:dim], (Atom("T", n * k),), *v.axes[dim + 1 :]]
    return Value(out, tuple(axes))


def _affords(c: Context, v: Value, k: int) -> bool:
    """Whether k frames of each of `v` are no more than come in: as many were taken together."""
    time = c.graph.types[v.name].time
    return time is not None and time.period % k == 0


def _ask(c: Context, v: Value, k: int) -> None:
    """Note how fine time must be for k frames of each of `v` (`finer`)."""
    time = c.graph.types[v.name].time
    if time is not None:
        c.finer = math.lcm(c.finer or 1, c.tick * k // math.gcd(time.period, k))


def finer(c: Context) -> int:
    """Ticks of an input frame to read the model with again, where that helps; else 0."""
    return c.finer if c.tick < c.finer <= MAX_TICK else 0


def repeat_frames(c: Context, v: Value, dim: int, k: int) -> Value:
    """Every frame k times: nearest-neighbour interpolation over time, axis `dim`."""
    v = c.natural(c.whole(v))
    shape = v.frame
    name = c.graph.add_node(
        "strided", [v.name], name=c.name("repeat"), shape=(k, *shape),
        strides=(0, *(math.prod(shape[i + 1 :]) for i in range(len(shape)))), offset=0,
    )  # fmt: skip
    return interleave(c, Value(name, ((Atom("F", k),), *v.axes)), dim + 1)


# -- frames that a view lays out -----------------------------------------------------------------


def is_laid_out(axis: Axis) -> bool:
    """Whether the elements of an axis are frames, several of each of a sequence, in order.

    With the features before time they are not: the first of all frames would come before the
    second of the first.
    """
    return len(axis) > 1 and axis[0].label == "T" and all(a.label == "F" for a in axis[1:])


def framed_axis(c: Context, v: Value, dim: int) -> Value:
    """`v` with frames along axis `dim` where a view lays them out there; else `v` itself.

    Raises:
        LayoutError: a step would make more frames than it takes.
    """
    d = v.axis(dim)
    if not is_laid_out(v.axes[d]):
        return v
    key = (v.name, v.axes, v.order, d)
    if v.pieces is None and key in c.framed:  # a second reader needs no memory of its own
        return c.framed[key]
    v = c.real(v)
    time, *inner = v.axes[d]
    k = math.prod(a.size for a in inner)
    apart = c.view(v, (*v.axes[:d], (time,), (Atom("F", k),), *v.axes[d + 1 :]))
    at = np.moveaxis(grid(apart), d + 1, 0)
    axes = ((Atom("F", k),), *v.axes[:d], (time,), *v.axes[d + 1 :])
    c.framed[key] = interleave(c, place(c, apart, at, axes, "apart"), d + 1)
    return c.framed[key]


def framed(c: Context, v: Value, dims: Iterable[int] | None = None, *, must: bool = True) -> Value:
    """`v` with frames along the axes `dims` (by default all) where a view lays them out.

    Args:
        c: the Graph under construction.
        v: a tensor.
        dims: axes.
        must: False leaves it as it is where a step would make more frames than it takes.

    Raises:
        LayoutError: a step would make more frames than it takes.
    """
    for d in range(len(v.axes)) if dims is None else dims:
        if not is_laid_out(v.axes[d]):
            continue
        if must or (v.pieces is None and _affords(c, v, size_of(v.axes[d][1:]))):
            v = framed_axis(c, v, d)
    return v


def at_one_rate(c: Context, values: Sequence[Value]) -> list[Value]:
    """Tensors that meet in one operation, axes aligned at the end, in frames alike.

    Where one has frames and a view lays them out for another, both get frames.
    """
    out = list(values)
    for i in range(1, max(len(v.axes) for v in out) + 1):
        have = [v for v in out if i <= len(v.axes) and size_of(v.axes[-i]) > 1]
        if len({v.axes[-i] for v in have}) > 1:
            out = [framed_axis(c, v, -i) if i <= len(v.axes) else v for v in out]
    return out


# -- fewer frames --------------------------------------------------------------------------------


def grouped(c: Context, v: Value, sizes: Sequence[int]) -> Value:
    """Frames taken in groups, where a view asks for that: [T, F] seen as [T / k, k F].

    Returns:
        The tensor with an axis of k after that of time; `v` itself where no group is asked for.
    """
    times = [d for d in range(len(v.axes)) if v.kind(d) == "T"]
    if len(times) != 1 or math.prod(sizes) != math.prod(v.sizes):
        return v
    (d,) = times
    n, before = size_of(v.axes[d]), math.prod(v.sizes[:d])
    ends = [math.prod(sizes[:i]) for i in range(len(sizes))]
    frames = next((m for m, e in zip(sizes, ends, strict=True) if e == before and m > 1), n)
    if frames >= n or n % frames or (d + 1 == len(v.axes) and before * frames == math.prod(sizes)):
        return v
    k = n // frames
    v = c.natural(v)
    out = c.graph.add_node(
        "window", [v.name], name=c.name("group"), length=k, ahead=k - 1, cut=k - 1
    )
    out = c.graph.add_node("decimate", [out], name=c.name("every"), factor=k)
    # The frames of a group come first; they belong right after time.
    held = Value(out, ((Atom("F", k),), *v.axes[:d], (Atom("T", frames),), *v.axes[d + 1 :]))
    at = np.moveaxis(grid(held), 0, d + 1)
    axes = (*v.axes[:d], (Atom("T", frames),), (Atom("F", k),), *v.axes[d + 1 :])
    return place(c, held, at, axes, "group")


# -- between frames ------------------------------------------------------------------------------


def between(c: Context, v: Value, dim: int, places: Array) -> Value:
    """Linear interpolation over time, axis `dim`.

    Result i lies at ``places[i]`` between the frames; before the first and after the last it is
    that frame. It is a mix of a frame with the one before or after it, alike for every k-th result.

    Args:
        places: [k n] for n frames, in frames, not clipped.

    Raises:
        LayoutError: the mixes depend on how many frames there are, or a result lies further away.
    """
    v = c.natural(c.whole(framed_axis(c, v, dim)))
    d = v.axis(dim)
    n = size_of(v.axes[d])
    if len(places) % n:
        raise LayoutError(
            f"makes {len(places)} frames of {n}", "interpolate time by a whole factor"
        )
    steps = places.reshape(n, -1) - np.arange(n)[:, None]
    if np.ptp(steps, axis=0).max() > _ALIKE:
        raise LayoutError(
            "interpolates over time by weights that depend on the length of the sequence",
            "use align_corners=False (ONNX: half_pixel or asymmetric)",
        )
    shifts = steps[0]
    if np.abs(shifts).max() >= 1:
        raise LayoutError("interpolates between frames that are not neighbours")
    return interleave(c, _mixes(c, v, shifts), d + 1)


_ALIKE = 1e-6
"""Of a frame: less is rounding of `places`."""


def _mixes(c: Context, v: Value, shifts: Array) -> Value:
    """For every frame those that lie `shifts` away from it: [k, ...] with the axes of `v`."""
    g, size, shape = c.graph, math.prod(v.frame), (math.prod(v.frame),)
    before, after = bool(shifts.min() < 0), bool(shifts.max() > 0)
    length, ahead = 1 + before + after, int(after)

    def near(name: str, width: int) -> list[str]:
        """A sequence of [width]: the frames before, at and after each."""
        seen = g.add_node("window", [name], name=c.name("near"), length=length, ahead=ahead, cut=0)
        flat = g.add_node("reshape", [seen], name=c.name("near"), shape=(length * width,))
        return [
            g.add_node("slice", [flat], name=c.name("near"), start=i * width, stop=(i + 1) * width)
            for i in range(length)
        ]

    flat = v.name
    if g.types[flat].shape != shape:
        flat = g.add_node("reshape", [flat], name=c.name("flat"), shape=shape)
    if length == 1:  # nothing lies between
        parts = [flat] * len(shifts)
    else:
        frames, exists = near(flat, size), near(_ones(c, flat), 1)
        now = frames[int(before)]
        gaps: dict[int, str] = {}
        for sign, i in ((-1, 0), (1, length - 1)):
            if not (before if sign < 0 else after):
                continue
            # Beyond either end the last frame stands still. That the sequence ends shows in the
            # whole only: a stream has always seen the next frame, or does not answer yet.
            real = g.add_node("strided", [exists[i]], name=c.name("real"), shape=shape,
                              strides=(0,), offset=0)  # fmt: skip
            other = g.add_node("select", [real, frames[i], now], name=c.name("edge"))
            gaps[sign] = g.add_node("sub", [other, now], name=c.name("gap"))
        parts = []
        for shift in shifts:
            if shift == 0:
                parts.append(now)
                continue
            part = c.const(np.full(1, abs(shift)), "part")
            gap = gaps[-1 if shift < 0 else 1]
            move = g.add_node("mul", [gap, part], name=c.name("move"))
            parts.append(g.add_node("add", [now, move], name=c.name("mix")))
    c.charge(0)
    out = g.add_node("concat", parts, name=c.name("mixes")) if len(parts) > 1 else parts[0]
    axes = ((Atom("F", len(parts)),), *v.axes)
    seen = Value(out, axes)
    if g.types[out].shape != seen.frame:
        out = g.add_node("reshape", [out], name=c.name("mixes"), shape=seen.frame)
    return Value(out, axes)


def _ones(c: Context, name: str) -> str:
    """A sequence of ones [1], as long as `name` and in step with it."""
    g = c.graph
    one = g.add_node("strided", [name], name=c.name("one"), shape=(1,), strides=(0,), offset=0)
    none = g.add_node("mul", [one, c.const(np.zeros(1), "zero")], name=c.name("none"))
    return g.add_node("add", [none, c.const(np.ones(1), "one")], name=c.name("now"))
