"""Reductions over the features of a frame, normalisations and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, kind_of, size_of
from edgeseq.frontend.build.views import permute, slice_axis
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.past import far, refuse_future, refuse_scores

__all__ = ["channel_affine", "extreme", "greatest", "group_norm", "layer_norm", "mean", "softmax"]

_OVER_TIME = (
    "take the last frame of a recurrent layer instead (y[:, -1]), or compile in window mode "
    "(--window N --hop N)"
)


def _dims(v: Value, dims: Sequence[int] | None) -> list[int]:
    """Reduced axes, counted from the front; time and batch among them are refused."""
    found = sorted({v.axis(d) for d in (range(len(v.axes)) if dims is None else dims)})
    if v.keys and found:
        refuse_scores(v)  # distances, or what lies beside them, are no features to sum over
    for d in found:
        if v.kind(d) in ("T", "B", "mixed") and size_of(v.axes[d]) > 1:
            word = "the batch" if v.kind(d) == "B" else "time"
            raise LayoutError(f"reduces over {word}", _OVER_TIME)
    return found


def mean(
    c: Context, v: Value, dims: Sequence[int] | None, *, keep: bool, total: bool = False
) -> Value:
    """The mean (or with `total` the sum) over feature axes."""
    v = c.whole(v)
    gone = _dims(v, dims)
    kept = [i for i in range(len(v.axes)) if i not in gone]
    n = math.prod(size_of(v.axes[d]) for d in gone)
    factor = 1.0 if total else 1.0 / n
    v = c.natural(permute(c, v, [*kept, *gone]))
    flat = c.view(v, (*v.axes[: len(kept)], (Atom("F", n),)))
    y = c.linear(flat, np.full((1, n), factor))
    kept_axes = dict(zip(kept, v.axes[: len(kept)], strict=True))
    axes = [() if i in gone else kept_axes[i] for i in range(len(kept) + len(gone))]
    return c.view(y, tuple(a for i, a in enumerate(axes) if keep or i not in gone))


def extreme(c: Context, op: str, values: Sequence[Value]) -> Value:
    """The greatest ('max') or least ('min') of several values, in pairs."""
    left = list(values)
    while len(left) > 1:
        pairs = [c.binary(op, a, b) for a, b in zip(left[::2], left[1::2], strict=False)]
        left = pairs + left[len(left) // 2 * 2 :]
    return left[0]


def greatest(
    c: Context, v: Value, dims: Sequence[int] | None, *, keep: bool, op: str = "max"
) -> Value:
    """The greatest (or with op 'min' the least) over feature axes, by halving."""
    v = c.whole(v)
    gone = _dims(v, dims)
    kept = [i for i in range(len(v.axes)) if i not in gone]
    n = math.prod(size_of(v.axes[d]) for d in gone)
    v = c.natural(permute(c, v, [*kept, *gone]))
    # The reduced axis first: halves are then parts of memory.
    y = c.view(v, (*v.axes[: len(kept)], (Atom("F", n),)))
    while n > 1:
        half = n // 2
        d = len(kept)
        a = slice_axis(c, y, d, 0, half)
        b = slice_axis(c, y, d, half, 2 * half)
        z = c.binary(op, a, b)
        if n % 2:
            from edgeseq.frontend.build.views import concat

            z = concat(c, [z, slice_axis(c, y, d, n - 1, n)], d)
        y, n = z, half + n % 2
        y = c.view(y, (*y.axes[:d], (Atom("F", n),)))
    kept_axes = dict(zip(kept, v.axes[: len(kept)], strict=True))
    axes = [() if i in gone else kept_axes[i] for i in range(len(kept) + len(gone))]
    return c.view(y, tuple(a for i, a in enumerate(axes) if keep or i not in gone))


def softmax(c: Context, v: Value, dim: int) -> Value:
    """exp(x) / sum exp(x) along a feature axis."""
    d = v.axis(dim)
    if v.kind(d) not in "F1":
        raise LayoutError(
            f"is a softmax along {'time' if v.kind(d) == 'T' else describe(v.axes)}",
            "only the features of one frame can be combined; " + _OVER_TIME,
        )
    if v.keys:
        if d != len(v.axes) - 1:
            refuse_scores(v)
        if not far(v.future):
            refuse_future(masked=v.future is not None)
        v = _only_known(c, v)
    order = [*(i for i in range(len(v.axes)) if i != d), d]
    x = c.last_axis(permute(c, c.whole(v), order))
    y = c.emit("softmax", [x.name], x.axes)
    back = np.argsort(order)
    if list(back) == list(range(len(back))):
        return replace(c.view(y, v.axes), keys=v.keys, future=0.0 if v.keys else None)
    return permute(c, y, [int(i) for i in back])


def _only_known(c: Context, v: Value) -> Value:
    """Scores of frames that have not been yet, far below all others."""
    valid = c.valid_keys(v)
    # 0 where a key is known and -10 000 where not: exp makes exactly 0 of it.
    return replace(c.binary("add", replace(v, keys=0), valid, suffix="known"), keys=v.keys)


# -- normalisations ------------------------------------------------------------------------------


def _array(x: Any, what: str) -> Array:
    if isinstance(x, Value):
        raise LayoutError(f"has a {what} that depends on the input", "use constant weights")
    return np.asarray(x, np.float64)


def layer_norm(c: Context, v: Value, axes: int, weight: Any, bias: Any, eps: float) -> Value:
    """Layer normalisation over the last `axes` axes."""
    v = c.real(v)
    tail = v.axes[len(v.axes) - axes :]
    if any(kind_of(axis) not in "F1" for axis in tail):
        raise LayoutError(
            f"normalises over {describe(tail)}, which holds time or the batch",
            "normalise over the features only",
        )
    n = math.prod(size_of(axis) for axis in tail)
    sizes = tuple(size_of(axis) for axis in tail)
    gamma = np.ones(n) if weight is None else np.broadcast_to(_array(weight, "weight"), sizes)
    beta = np.zeros(n) if bias is None else np.broadcast_to(_array(bias, "bias"), sizes)
    flat = c.view(v, (*v.axes[: len(v.axes) - axes], (Atom("F", n),)))
    y = c.emit(
        "norm",
        [flat.name, c.const(gamma.reshape(n), "weight"), c.const(beta.reshape(n), "bias")],
        flat.axes,
        eps=float(eps),
    )
    return c.view(y, v.axes)


def group_norm(c: Context, v: Value, groups: int, weight: Any, bias: Any, eps: float) -> Value:
    """Group normalisation of [N, C, ...]: over the channels of a group and all positions.

    One group per channel is instance normalisation.
    """
    v = c.real(v)
    if len(v.axes) < 2 or v.kind(1) not in "F1":
        raise LayoutError(f"normalises channels of {describe(v.axes)}")
    channels = size_of(v.axes[1])
    if any(kind_of(a) not in "F1" for a in v.axes[2:]):
        raise LayoutError(
            f"normalises over {describe(v.axes[2:])}: statistics over time are not known while "
            "the frames arrive",
            "use LayerNorm or BatchNorm, or compile in window mode (--window N --hop N)",
        )
    if groups < 1 or channels % groups:
        raise LayoutError(f"normalises {channels} channels in {groups} groups")
    n = channels // groups * math.prod(size_of(a) for a in v.axes[2:])
    lead: Axes = ((Atom("F", groups),),) if groups > 1 else ()
    flat = c.view(v, (v.axes[0], *lead, (Atom("F", n),)))
    one, zero = c.const(np.ones(n), "weight"), c.const(np.zeros(n), "bias")
    y = c.view(c.emit("norm", [flat.name, one, zero], flat.axes, eps=float(eps)), v.axes)
    return channel_affine(c, y, weight, bias)


def channel_affine(c: Context, v: Value, weight: Any, bias: Any) -> Value:
    """``weight * v + bias`` with a number per channel (axis 1)."""
    shape = (-1, *[1] * (len(v.axes) - 2))
    if weight is not None:
        v = c.binary("mul", v, _array(weight, "weight").reshape(shape), suffix="scale")
    if bias is not None:
        v = c.binary("add", v, _array(bias, "bias").reshape(shape), suffix="shift")
    return v
