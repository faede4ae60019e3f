"""More operators on constants: indexing, masks, norms and what weights are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend.fold import _bounded, _dims, _fold, _type

# -- elements by number --------------------------------------------------------------------------


@_fold("index_select")
def _index_select(self: Any, dim: int, index: Any) -> Any:
    return np.take(self, index, axis=dim)


@_fold("index")
def _index(self: Any, indices: Sequence[Any]) -> Any:
    return np.asarray(self)[tuple(slice(None) if i is None else np.asarray(i) for i in indices)]


@_fold("gather")
def _gather(self: Any, dim: int, index: Any, **_: Any) -> Any:
    cut = tuple(
        slice(0, n) if i != dim % self.ndim else slice(None) for i, n in enumerate(index.shape)
    )
    return np.take_along_axis(self[cut], index, axis=dim)


@_fold("index_put", "_unsafe_index_put")
def _index_put(self: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    out = np.array(self)
    where: Any = tuple(slice(None) if i is None else np.asarray(i) for i in indices)
    if accumulate:
        np.add.at(out, where, values)
    else:
        out[where] = values
    return out


@_fold("select_scatter")
def _select_scatter(self: Any, src: Any, dim: int, index: int) -> Any:
    out = np.array(self)
    where: Any = (*[slice(None)] * (dim % out.ndim), index)
    out[where] = src
    return out


@_fold("slice_scatter")
def _slice_scatter(
    self: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    out = np.array(self)
    out[(*[slice(None)] * (dim % out.ndim), slice(start, end, step))] = src
    return out


@_fold("copy")
def _copy(self: Any, src: Any, **_: Any) -> Any:
    return np.broadcast_to(np.asarray(src).astype(np.asarray(self).dtype), np.shape(self))


@_fold("embedding")
def _embedding(weight: Any, indices: Any, **_: Any) -> Any:
    _bounded([*np.shape(indices), weight.shape[1]])
    return np.asarray(weight)[np.asarray(indices)]


@_fold("one_hot")
def _one_hot(self: Any, num_classes: int = -1) -> Any:
    count = int(np.max(self)) + 1 if num_classes < 0 else num_classes
    _bounded([*np.shape(self), count])
    return np.eye(count, dtype="i8")[np.asarray(self)]


@_fold("diagonal")
def _diagonal(self: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return np.diagonal(self, offset, dim1, dim2)


@_fold("diag", "diag_embed")
def _diag(self: Any, diagonal: int = 0, offset: int = 0, **_: Any) -> Any:
    if np.ndim(self) > 2 or (np.ndim(self) == 1 and len(self) > 1 << 12):
        raise ValueError("a diagonal of many axes")
    return np.diag(self, diagonal or offset)


# -- masks ---------------------------------------------------------------------------------------


@_fold("masked_fill")
def _masked_fill(self: Any, mask: Any, value: Any) -> Any:
    _bounded(np.broadcast_shapes(np.shape(self), np.shape(mask)))
    return np.where(mask, np.asarray(value, np.asarray(self).dtype), self)


@_fold("any")
def _any(self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return np.any(self, axis=_dims(dim), keepdims=keepdim)


@_fold("all")
def _all(self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return np.all(self, axis=_dims(dim), keepdims=keepdim)


# -- shapes --------------------------------------------------------------------------------------


@_fold("unflatten")
def _unflatten(self: Any, dim: int, sizes: Sequence[int]) -> Any:
    d = dim % self.ndim
    return self.reshape(*self.shape[:d], *sizes, *self.shape[d + 1 :])


@_fold("view_as", "reshape_as")
def _like(self: Any, other: Any) -> Any:
    return np.reshape(self, np.shape(other))


@_fold("expand_as")
def _expand_as(self: Any, other: Any) -> Any:
    return np.broadcast_to(self, np.shape(other))


@_fold("movedim", "moveaxis")
def _movedim(self: Any, source: Any, destination: Any) -> Any:
    return np.moveaxis(self, source, destination)


@_fold("flip")
def _flip(self: Any, dims: Sequence[int]) -> Any:
    return np.flip(self, tuple(dims))


@_fold("roll")
def _roll(self: Any, shifts: Any, dims: Any = ()) -> Any:
    axes = list(dims) if isinstance(dims, list | tuple) else [dims]
    return np.roll(self, shifts, axes) if axes else np.roll(self, shifts)


@_fold("repeat_interleave")
def _repeat_interleave(self: Any, repeats: Any, dim: int | None = None, **_: Any) -> Any:
    _bounded([int(np.size(self) * np.max(repeats))])
    return np.repeat(self, repeats, axis=dim)


@_fold("unfold")
def _unfold(self: Any, dimension: int, size: int, step: int) -> Any:
    wide = np.lib.stride_tricks.sliding_window_view(self, size, axis=dimension)
    return np.take(wide, np.arange(0, wide.shape[dimension], step), axis=dimension)


@_fold("constant_pad_nd", "pad")
def _pad(self: Any, pad: Sequence[int], value: Any = 0, mode: str = "constant") -> Any:
    how: dict[str, Any] = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if mode != "constant" and mode not in how:
        raise ValueError(f"constants padded in mode {mode}")
    widths = [(0, 0)] * self.ndim
    for i in range(len(pad) // 2):
        widths[-1 - i] = (pad[2 * i], pad[2 * i + 1])
    _bounded([n + a + b for n, (a, b) in zip(self.shape, widths, strict=True)])
    cut = tuple(
        slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(self.shape, widths, strict=True)
    )
    grown = [(max(a, 0), max(b, 0)) for a, b in widths]
    if mode == "constant":
        return np.pad(self[cut], grown, constant_values=value or 0)
    return np.pad(self[cut], grown, mode=how[mode])


@_fold("meshgrid")
def _meshgrid(tensors: Sequence[Any], indexing: str = "ij") -> Any:
    _bounded([len(t) for t in tensors])
    return list(np.meshgrid(*tensors, indexing="xy" if indexing == "xy" else "ij"))


@_fold("hann_window")
def _window(window_length: int, periodic: bool = True, **_: Any) -> Any:
    n = _bounded([window_length])[0]
    at = np.arange(n) * 2 * math.pi / max(n if periodic else n - 1, 1)
    return (0.5 - 0.5 * np.cos(at)).astype("f4")


@_fold("hamming_window")
def _hamming(
    window_length: int, periodic: bool = True, alpha: float = 0.54, beta: float = 0.46, **_: Any
) -> Any:
    n = _bounded([window_length])[0]
    at = np.arange(n) * 2 * math.pi / max(n if periodic else n - 1, 1)
    return (alpha - beta * np.cos(at)).astype("f4")


# -- sums and products ---------------------------------------------------------------------------


@_fold("amax")
def _amax(self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return np.max(self, axis=_dims(dim), keepdims=keepdim)


@_fold("amin")
def _amin(self: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return np.min(self, axis=_dims(dim), keepdims=keepdim)


@_fold("max")
def _max(self: Any, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    if other is not None:
        return np.maximum(self, other)
    if dim is None:
        return np.max(self)
    return [np.max(self, axis=dim, keepdims=keepdim), np.argmax(self, axis=dim, keepdims=keepdim)]


@_fold("min")
def _min(self: Any, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    if other is not None:
        return np.minimum(self, other)
    if dim is None:
        return np.min(self)
    return [np.min(self, axis=dim, keepdims=keepdim), np.argmin(self, axis=dim, keepdims=keepdim)]


@_fold("var")
def _var(
    self: Any, dim: Any = None, correction: Any = None, unbiased: bool = True, keepdim: bool = False
) -> Any:
    less = (1 if unbiased else 0) if correction is None else correction
    return np.var(self, axis=_dims(dim), ddof=less, keepdims=keepdim)


@_fold("std")
def _std(
    self: Any, dim: Any = None, correction: Any = None, unbiased: bool = True, keepdim: bool = False
) -> Any:
    less = (1 if unbiased else 0) if correction is None else correction
    return np.std(self, axis=_dims(dim), ddof=less, keepdims=keepdim)


@_fold("prod")
def _prod(self: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    return np.prod(self, axis=dim, keepdims=keepdim)


@_fold("softmax", "_softmax")
def _softmax(self: Any, dim: int, *_: Any, **__: Any) -> Any:
    grown = np.exp(self - np.max(self, axis=dim, keepdims=True))
    return grown / np.sum(grown, axis=dim, keepdims=True)


@_fold("vdot")
def _vdot(self: Any, other: Any) -> Any:
    return np.dot(self, other)


@_fold("outer", "ger")
def _outer(self: Any, vec2: Any) -> Any:
    _bounded([len(self), len(vec2)])
    return np.outer(self, vec2)


@_fold("einsum")
def _einsum(equation: str, tensors: Sequence[Any], path: Any = None) -> Any:
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    if "..." not in equation:
        for term, t in zip(terms, tensors, strict=True):
            sizes.update(zip(term, np.shape(t), strict=True))
        _bounded([n for ch, n in sizes.items() if ch in equation.partition("->")[2]])
    return np.einsum(equation, *tensors)


@_fold("addmm", "baddbmm")
def _addmm(self: Any, beta: Any = 1, alpha: Any = 1, **factors: Any) -> Any:
    a, b = factors.values()
    return beta * self + alpha * (a @ b)


@_fold("matrix_exp", "linalg_matrix_exp")
def _matrix_exp(self: Any) -> Any:
    """By scaling and squaring; orthogonal weights are made of it."""
    a = np.asarray(self, np.float64)
    scale = max(0, math.ceil(math.log2(max(float(np.abs(a).sum(-1).max()), 1e-9))) + 4)
    if scale > 60 or a.shape[-1] > 1 << 11:
        raise ValueError("a matrix exponential that is too large")
    a = a / 2.0**scale
    term = total = np.broadcast_to(np.eye(a.shape[-1]), a.shape).copy()
    for k in range(1, 13):
        term = term @ a / k
        total = total + term
    for _ in range(scale):
        total = total @ total
    return total.astype(np.asarray(self).dtype)


@_fold("layer_norm")
def _layer_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None,
    eps: float = 1e-5, **_: Any,
) -> Any:  # fmt: skip
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    gap = input - input.mean(axes, keepdims=True)
    y = gap / np.sqrt(np.square(gap).mean(axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@_fold("_local_scalar_dense")
def _item(self: Any, **_: Any) -> Any:
    return np.asarray(self).item()


@_fold("type_as")
def _cast(self: Any, other: Any = None, dtype: Any = None) -> Any:
    return np.asarray(self).astype(np.asarray(other).dtype if dtype is None else _type(dtype))
