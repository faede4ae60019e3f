"""ONNX operators on constants that move elements or make them from sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend._onnx_calls import (
    Array,
    Call,
    FoldError,
    axis_of,
    direct,
    ints,
    same_type,
)
from edgeseq.frontend._onnx_tensor import numpy_type

# -- shapes ------------------------------------------------------------------------------------


@direct("Shape")
def _shape(call: Call) -> Any:
    return np.array(call.inputs[0].shape[slice(call.attrs["start"], call.attrs["end"])], np.int64)


@direct("Size")
def _size(call: Call) -> Any:
    return np.array(call.inputs[0].size, np.int64)


def reshaped(shape: Sequence[int], sizes: Sequence[int], allow_zero: bool) -> tuple[int, ...]:
    """Sizes of a Reshape: 0 keeps a size, -1 takes the rest."""
    new = [
        shape[i] if n == 0 and not allow_zero else n for i, n in enumerate(sizes)
    ]  # an IndexError ends as any other failure
    if new.count(-1) == 1:
        rest = math.prod(n for n in new if n != -1)
        if rest <= 0 or math.prod(shape) % rest:
            raise FoldError(f"{list(shape)} as {list(sizes)}")
        new[new.index(-1)] = math.prod(shape) // rest
    if min(new, default=0) < 0 or math.prod(new) != math.prod(shape):
        raise FoldError(f"{list(shape)} as {list(sizes)}")
    return tuple(new)


@direct("Reshape")
def _reshape(call: Call) -> Any:
    x, shape = call.inputs
    return x.reshape(reshaped(x.shape, ints(shape), bool(call.attrs["allowzero"])))


@direct("Flatten")
def _flatten(call: Call) -> Any:
    x, axis = call.inputs[0], call.attrs["axis"]
    at = axis if axis == x.ndim else axis_of(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))


@direct("Squeeze")
def _squeeze(call: Call) -> Any:
    x, axes = call.inputs
    return np.squeeze(x, None if axes is None else tuple(ints(axes)))


@direct("Unsqueeze")
def _unsqueeze(call: Call) -> Any:
    return np.expand_dims(call.inputs[0], tuple(ints(call.inputs[1])))


@direct("Transpose")
def _transpose(call: Call) -> Any:
    return np.transpose(call.inputs[0], call.attrs["perm"])


@direct("Expand")
def _expand(call: Call) -> Any:
    x, shape = call.inputs
    return np.broadcast_to(x, call.room.sizes(np.broadcast_shapes(x.shape, tuple(ints(shape)))))


@direct("Tile")
def _tile(call: Call) -> Any:
    x, repeats = call.inputs[0], ints(call.inputs[1])
    if len(repeats) != x.ndim:
        raise FoldError(f"{len(repeats)} repeats of {x.ndim} axes")
    call.room.sizes([n * r for n, r in zip(x.shape, repeats, strict=True)])
    return np.tile(x, repeats)


@direct("Concat")
def _concat(call: Call) -> Any:
    same_type(call.inputs)
    call.room.sizes([sum(x.size for x in call.inputs)])
    return np.concatenate(call.inputs, axis=axis_of(call.attrs["axis"], call.inputs[0].ndim))


@direct("Split")
def _split(call: Call) -> Any:
    x, sizes = call.inputs
    axis = axis_of(call.attrs["axis"], x.ndim)
    if sizes is None:
        if not 1 <= call.attrs["num_outputs"] <= 1 << 16:
            raise FoldError(f"{call.attrs['num_outputs']} pieces")
        step = -(-x.shape[axis] // call.attrs["num_outputs"])
        cuts = [min(i * step, x.shape[axis]) for i in range(1, call.attrs["num_outputs"])]
    else:
        parts = [int(n) for n in sizes]
        if min(parts, default=0) < 0 or sum(parts) != x.shape[axis]:
            raise FoldError(f"{x.shape[axis]} split into {parts[:32]}")
        cuts = [int(n) for n in np.cumsum(parts)[:-1]]
    return np.split(x, cuts, axis=axis)


@direct("Slice")
def _slice(call: Call) -> Any:
    x, starts, ends, axes, steps = call.inputs
    first, last = ints(starts), ints(ends)
    along = list(range(len(first))) if axes is None else [axis_of(a, x.ndim) for a in ints(axes)]
    by = [1] * len(first) if steps is None else ints(steps)
    if len(set(along)) != len(along):
        raise FoldError("an axis is sliced twice")
    cut: list[Any] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        cut[axis] = slice(start, end, step)
    return x[tuple(cut)]


@direct("Gather")
def _gather(call: Call) -> Any:
    x, index = call.inputs
    axis = axis_of(call.attrs["axis"], x.ndim)
    call.room.sizes([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])
    return np.asarray(np.take(x, _positions(index), axis=axis))


def _positions(index: Array) -> Array:
    if index.dtype.kind not in "iu":
        raise FoldError(f"{index.dtype} as an index")
    return index


@direct("GatherElements")
def _gather_elements(call: Call) -> Any:
    x, index = call.inputs
    axis = axis_of(call.attrs["axis"], x.ndim)
    if index.ndim != x.ndim:
        raise FoldError(f"an index of {index.ndim} axes for {x.ndim}")
    return x[_along(x, _positions(index), axis)]


def _along(x: Array, index: Array, axis: int) -> tuple[Array, ...]:
    """Where each element of `index` points: itself along `axis`, its own place along the others."""
    grid = np.ogrid[tuple(slice(n) for n in index.shape)]
    return tuple(index if i == axis else g for i, g in enumerate(grid))


@direct("GatherND")
def _gather_nd(call: Call) -> Any:
    x, index = call.inputs
    lead = call.attrs["batch_dims"]
    if not 0 <= lead < min(x.ndim, index.ndim) or x.shape[:lead] != index.shape[:lead]:
        raise FoldError(f"{lead} common axes of {list(x.shape)} and {list(index.shape)}")
    depth = index.shape[-1]
    if not 1 <= depth <= x.ndim - lead:
        raise FoldError(f"positions of {depth} axes in {x.ndim}")
    call.room.sizes([*index.shape[:-1], *x.shape[lead + depth :]])
    batch = np.ogrid[tuple(slice(n) for n in x.shape[:lead])]
    where = tuple(np.moveaxis(_positions(index), -1, 0))
    extra = (1,) * (index.ndim - 1 - lead)
    return np.asarray(x[(*(b.reshape(b.shape + extra) for b in batch), *where)])


_SCATTER: dict[str, Any] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _scattered(x: Array, where: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    out = x.copy()
    if reduction == "none":
        out[where] = updates
    else:
        _SCATTER[reduction].at(out, where, updates)
    return out


@direct("ScatterND")
def _scatter_nd(call: Call) -> Any:
    x, index, updates = call.inputs
    if updates.shape != index.shape[:-1] + x.shape[index.shape[-1] :] or not index.shape[-1]:
        raise FoldError(f"updates of shape {list(updates.shape)}")
    where = tuple(np.moveaxis(_positions(index), -1, 0))
    return _scattered(x, where, updates, call.attrs["reduction"])


@direct("ScatterElements")
def _scatter_elements(call: Call) -> Any:
    x, index, updates = call.inputs
    axis = axis_of(call.attrs["axis"], x.ndim)
    if updates.shape != index.shape or index.ndim != x.ndim:
        raise FoldError(f"updates of shape {list(updates.shape)}")
    return _scattered(x, _along(x, _positions(index), axis), updates, call.attrs["reduction"])


@direct("NonZero")
def _non_zero(call: Call) -> Any:
    x = np.atleast_1d(call.inputs[0])
    call.room.sizes([x.ndim, np.count_nonzero(x)])
    return np.array(np.nonzero(x), np.int64)


@direct("Pad")
def _pad(call: Call) -> Any:
    x, pads, value, axes = call.inputs
    along = list(range(x.ndim)) if axes is None else [axis_of(a, x.ndim) for a in ints(axes)]
    amounts = ints(pads)
    if len(amounts) != 2 * len(along) or len(set(along)) != len(along):
        raise FoldError(f"{len(amounts)} pads for {len(along)} axes")
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(along):
        before[axis], after[axis] = amounts[i], amounts[i + len(along)]
    # A negative amount cuts, before anything is added.
    cut = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, b, a in
                zip(x.shape, before, after, strict=True))  # fmt: skip
    x = x[cut]
    grow = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    call.room.sizes([n + b + a for n, (b, a) in zip(x.shape, grow, strict=True)])
    mode = call.attrs["mode"]
    if mode == "constant":
        fill = 0 if value is None else value.reshape(()).astype(x.dtype)
        return np.pad(x, grow, constant_values=fill)
    if mode not in ("reflect", "edge", "wrap"):
        raise FoldError(f"mode {mode[:20]!r}")
    limit = {"reflect": -1, "wrap": 0, "edge": call.room.bound}[mode]
    if any(max(pair) > max(n + limit, 0) for n, pair in zip(x.shape, grow, strict=True)):
        raise FoldError(f"pads {grow} of {list(x.shape)} by {mode}")
    return np.pad(x, grow, mode)


@direct("Trilu")
def _trilu(call: Call) -> Any:
    x, k = call.inputs
    shift = max(min(0 if k is None else ints(k)[0], x.shape[-1]), -x.shape[-2])
    return (np.triu if call.attrs["upper"] else np.tril)(x, shift)


# -- what is made from sizes ---------------------------------------------------------------------


@direct("ConstantOfShape")
def _constant_of_shape(call: Call) -> Any:
    value = call.attrs["value"]
    return np.full(call.room.sizes(ints(call.inputs[0])), value.reshape(()), value.dtype)


@direct("Range")
def _range(call: Call) -> Any:
    dtype = same_type(call.inputs)
    start, limit, delta = (x.item() for x in call.inputs)
    if delta == 0:
        raise FoldError("a step of 0")
    call.room.sizes([max(0, math.ceil((limit - start) / delta))])
    return np.arange(start, limit, delta).astype(dtype)


@direct("EyeLike")
def _eye_like(call: Call) -> Any:
    x, shift = call.inputs[0], call.attrs["k"]
    dtype = x.dtype if call.attrs["dtype"] is None else numpy_type(call.attrs["dtype"])
    if x.ndim != 2 or dtype is None or dtype.kind == "O":
        raise FoldError(f"an identity like {list(x.shape)}")
    rows, columns = np.ogrid[: x.shape[0], : x.shape[1]]
    return (columns - rows == shift).astype(dtype)


@direct("OneHot")
def _one_hot(call: Call) -> Any:
    index, count, values = call.inputs
    depth = int(count.reshape(()))
    axis = axis_of(call.attrs["axis"], index.ndim + 1)
    call.room.sizes([*index.shape, depth])
    hot = np.where(index < 0, index + depth, index)[..., None] == np.arange(depth)
    return np.moveaxis(np.where(hot, values[1], values[0]), -1, axis)


@direct("CumSum")
def _cum_sum(call: Call) -> Any:
    x, axis = call.inputs[0], axis_of(int(call.inputs[1].reshape(())), call.inputs[0].ndim)
    order = slice(None, None, -1) if call.attrs["reverse"] else slice(None)
    flipped = np.moveaxis(x, axis, -1)[..., order]
    sums = np.cumsum(flipped, axis=-1, dtype=x.dtype)
    if call.attrs["exclusive"]:
        sums = np.concatenate([np.zeros_like(sums[..., :1]), sums[..., :-1]], -1)
    return np.moveaxis(sums[..., order], -1, axis)
