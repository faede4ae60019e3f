"""Operators on constants alone, evaluated with numpy.

Weight normalisation, masks, initial states and tables are sub-graphs without an input. Every
function takes the operator's arguments by name and returns an array, a number, or a list of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["FOLD", "MAX_ELEMENTS"]

# Largest constant that is computed: 64 MB as float32, far above any weight of an edge model.
MAX_ELEMENTS = 1 << 24

FOLD: dict[str, Callable[..., Any]] = {}

# Element types as the schema numbers them (an argument `dtype` arrives as such a number).
_TYPES = {
    1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 6: "f4", 7: "f4", 8: "f8", 10: "c8", 11: "c16",
    12: "?", 13: "f4",
}  # fmt: skip
"""Half precision counts as float32: constants are stored as such."""


def _fold(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            FOLD[name] = fn
        return fn

    return register


def _type(code: object, default: str = "f4") -> np.dtype[Any]:
    return np.dtype(_TYPES.get(code, default) if isinstance(code, int) else default)


def _bounded(sizes: Sequence[int]) -> tuple[int, ...]:
    if any(n < 0 for n in sizes) or math.prod(sizes) > MAX_ELEMENTS:
        raise ValueError(f"a constant of {list(sizes)} elements is too large")
    return tuple(sizes)


def _unary(fn: Callable[[Any], Any]) -> Callable[..., Any]:
    def apply(self: Any = None, input: Any = None, **_: Any) -> Any:
        return fn(np.asarray(self if self is not None else input))

    return apply


def _number(fn: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """A binary operator on tensors, or on symbolic sizes (whose arguments are a and b)."""

    def apply(self: Any = None, other: Any = None, a: Any = None, b: Any = None, **_: Any) -> Any:
        left, right = (self, other) if self is not None else (a, b)
        _bounded(np.broadcast_shapes(np.shape(left), np.shape(right)))
        return fn(left, right)

    return apply


_UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "square": np.square,
    "floor": np.floor,
    "softplus": lambda x: np.logaddexp(x, 0),
    "ceil": np.ceil,
    "round": np.round,
    "trunc": np.trunc,
    "sign": np.sign,
    "log1p": np.log1p,
    "log2": np.log2,
    "log10": np.log10,
    "expm1": np.expm1,
    "exp2": np.exp2,
    "isinf": np.isinf,
    "isnan": np.isnan,
    "logical_not": np.logical_not,
    "bitwise_not": np.invert,
    "numpy_T": np.transpose,
    "mT": lambda x: np.swapaxes(x, -1, -2),
    "view_of": lambda x: x,
    "gelu": lambda x: np.array(
        [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()], x.dtype
    ).reshape(x.shape),
    "erf": lambda x: np.array([math.erf(v) for v in x.ravel()], x.dtype).reshape(x.shape),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "clone": lambda x: x,
    "contiguous": lambda x: x,
    "detach": lambda x: x,
    "alias": lambda x: x,
    "lift_fresh_copy": lambda x: x,
    "lift_fresh": lambda x: x,
    "dropout": lambda x: x,
    "t": lambda x: x.T,
    "item": lambda x: x.item(),
}

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "mul": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "remainder": np.remainder,
    "fmod": np.fmod,
    "floor_divide": np.floor_divide,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "__and__": np.bitwise_and,
    "__or__": np.bitwise_or,
    "sym_max": np.maximum,
    "sym_min": np.minimum,
    "truediv": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "eq": np.equal,
    "ne": np.not_equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
}

for _name, _fn in _UNARY.items():
    FOLD[_name] = _unary(_fn)
for _name, _op in _BINARY.items():
    FOLD[_name] = _number(_op)


@_fold("add")
def _add(self: Any = None, other: Any = None, alpha: Any = 1, a: Any = 0, b: Any = 0) -> Any:
    return self + alpha * other if self is not None else a + b


@_fold("sub")
def _sub(self: Any = None, other: Any = None, alpha: Any = 1, a: Any = 0, b: Any = 0) -> Any:
    return self - alpha * other if self is not None else a - b


@_fold("pow", "float_power")
def _pow(self: Any, exponent: Any) -> Any:
    a, b = np.asarray(self), np.asarray(exponent)
    _bounded(np.broadcast_shapes(a.shape, b.shape))
    if a.dtype.kind in "iu" and (b.dtype.kind == "f" or np.any(b < 0)):
        a = a.astype("f4")
    return np.power(a, b)


@_fold("rsub")
def _rsub(self: Any, other: Any, alpha: Any = 1) -> Any:
    return other - alpha * self


@_fold("to", "_to_copy")
def _to(self: Any, dtype: Any = None, **_: Any) -> Any:
    return np.asarray(self) if dtype is None else np.asarray(self).astype(_type(dtype))


@_fold("div", "true_divide", "divide")
def _div(self: Any, other: Any, rounding_mode: str | None = None) -> Any:
    quotient = np.true_divide(self, other)
    if rounding_mode is None:
        return quotient
    rounded = np.floor(quotient) if rounding_mode == "floor" else np.trunc(quotient)
    whole = np.asarray(self).dtype.kind in "iu" and np.asarray(other).dtype.kind in "iu"
    return rounded.astype("i8") if whole else rounded


@_fold("clamp", "hardtanh", "clamp_min", "clamp_max", "clip")
def _clamp(
    self: Any, min: Any = None, max: Any = None, min_val: Any = None, max_val: Any = None
) -> Any:
    lo, hi = (min if min is not None else min_val), (max if max is not None else max_val)
    return self if lo is None and hi is None else np.clip(self, lo, hi)


@_fold("zeros", "new_zeros", "empty", "new_empty")
def _zeros(size: Sequence[int], dtype: Any = None, **_: Any) -> Any:
    return np.zeros(_bounded(size), _type(dtype))


@_fold("ones", "new_ones")
def _ones(size: Sequence[int], dtype: Any = None, **_: Any) -> Any:
    return np.ones(_bounded(size), _type(dtype))


@_fold("full", "new_full")
def _full(size: Sequence[int], fill_value: Any, dtype: Any = None, **_: Any) -> Any:
    default = "f4" if isinstance(fill_value, float) else "i8"
    return np.full(_bounded(size), fill_value, _type(dtype, default))


@_fold("full_like", "fill")
def _full_like(
    self: Any, fill_value: Any = None, value: Any = None, dtype: Any = None, **_: Any
) -> Any:
    kind = None if dtype is None else _type(dtype)
    return np.full_like(self, value if fill_value is None else fill_value, dtype=kind)


@_fold("zeros_like", "empty_like")
def _zeros_like(self: Any, dtype: Any = None, **_: Any) -> Any:
    return np.zeros_like(self, dtype=None if dtype is None else _type(dtype))


@_fold("ones_like")
def _ones_like(self: Any, dtype: Any = None, **_: Any) -> Any:
    return np.ones_like(self, dtype=None if dtype is None else _type(dtype))


@_fold("scalar_tensor", "tensor")
def _scalar(s: Any = None, data: Any = None, dtype: Any = None, **_: Any) -> Any:
    return np.asarray(data if s is None else s, _type(dtype))


@_fold("arange")
def _arange(end: Any, start: Any = 0, step: Any = 1, dtype: Any = None, **_: Any) -> Any:
    _bounded([max(0, math.ceil((end - start) / step))])
    default = "f4" if any(isinstance(v, float) for v in (start, end, step)) else "i8"
    return np.arange(start, end, step).astype(_type(dtype, default))


@_fold("linspace")
def _linspace(start: Any, end: Any, steps: int, dtype: Any = None, **_: Any) -> Any:
    return np.linspace(start, end, _bounded([steps])[0]).astype(_type(dtype))


@_fold("eye")
def _eye(n: int, m: int | None = None, dtype: Any = None, **_: Any) -> Any:
    return np.eye(*_bounded([n, n if m is None else m]), dtype=_type(dtype))


@_fold("tril")
def _tril(self: Any, diagonal: int = 0) -> Any:
    return np.tril(self, diagonal)


@_fold("triu")
def _triu(self: Any, diagonal: int = 0) -> Any:
    return np.triu(self, diagonal)


@_fold("tril_indices")
def _tril_indices(row: int, col: int, offset: int = 0, **_: Any) -> Any:
    _bounded([row, col])
    return np.stack(np.tril_indices(row, offset, col))


@_fold("triu_indices")
def _triu_indices(row: int, col: int, offset: int = 0, **_: Any) -> Any:
    _bounded([row, col])
    return np.stack(np.triu_indices(row, offset, col))


@_fold("where")
def _where(condition: Any, self: Any, other: Any) -> Any:
    return np.where(condition, self, other)


@_fold("cumsum")
def _cumsum(self: Any, dim: int, dtype: Any = None) -> Any:
    whole = "i8" if self.dtype.kind in "biu" else self.dtype
    return np.cumsum(self, axis=dim, dtype=whole if dtype is None else _type(dtype))


# -- shapes ------------------------------------------------------------------------------------


@_fold("view", "reshape", "_unsafe_view", "view_copy", "_reshape_copy")
def _view(self: Any, size: Any = None, shape: Any = None) -> Any:
    return np.reshape(self, size if size is not None else shape)


@_fold("flatten")
def _flatten(self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    end = end_dim % max(self.ndim, 1)
    start = start_dim % max(self.ndim, 1)
    return self.reshape(*self.shape[:start], -1, *self.shape[end + 1 :])


@_fold("expand", "broadcast_to")
def _expand(self: Any, size: Sequence[int], **_: Any) -> Any:
    lead = len(size) - self.ndim
    full = [self.shape[i - lead] if n == -1 else n for i, n in enumerate(size)]
    return np.broadcast_to(self, _bounded(full))


@_fold("repeat")
def _repeat(self: Any, repeats: Sequence[int]) -> Any:
    lead = len(repeats) - self.ndim
    _bounded([r * (self.shape[i - lead] if i >= lead else 1) for i, r in enumerate(repeats)])
    return np.tile(self, repeats)


@_fold("permute", "permute_copy")
def _permute(self: Any, dims: Sequence[int]) -> Any:
    return np.transpose(self, dims)


@_fold("transpose", "swapaxes", "transpose_copy")
def _transpose(self: Any, dim0: int = 0, dim1: int = 1) -> Any:
    return np.swapaxes(self, dim0, dim1)


@_fold("unsqueeze")
def _unsqueeze(self: Any, dim: int) -> Any:
    return np.expand_dims(self, dim)


@_fold("squeeze")
def _squeeze(self: Any, dim: Any = None) -> Any:
    if dim is None:
        return np.squeeze(self)
    dims = [dim] if isinstance(dim, int) else dim
    return np.squeeze(self, tuple(d for d in dims if self.shape[d] == 1))


@_fold("select", "select_copy")
def _select(self: Any, dim: int, index: int) -> Any:
    return np.take(self, index, axis=dim)


@_fold("slice", "narrow", "slice_copy")
def _slice(
    self: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1, length: Any = None
) -> Any:
    if length is not None:
        end = start + length
    cut: list[Any] = [slice(None)] * self.ndim
    cut[dim] = slice(start, end, step)
    return self[tuple(cut)]


@_fold("cat", "concat")
def _cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    return np.concatenate(tensors, axis=dim)


@_fold("stack")
def _stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    return np.stack(tensors, axis=dim)


@_fold("unbind")
def _unbind(self: Any, dim: int = 0) -> Any:
    return [np.take(self, i, axis=dim) for i in range(self.shape[dim])]


@_fold("split", "split_with_sizes")
def _split(self: Any, split_size: Any = None, split_sizes: Any = None, dim: int = 0) -> Any:
    sizes = split_size if split_sizes is None else split_sizes
    n = self.shape[dim]
    at = list(range(sizes, n, sizes)) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    return np.split(self, at, axis=dim)


@_fold("chunk")
def _chunk(self: Any, chunks: int, dim: int = 0) -> Any:
    return _split(self, -(-self.shape[dim] // chunks), dim=dim)


@_fold("sym_size")
def _sym_size(self: Any, dim: int) -> Any:
    return int(self.shape[dim])


# -- reductions and products -------------------------------------------------------------------


def _dims(dim: Any) -> Any:
    """Axes as numpy takes them; an empty list, as None, is all of them."""
    return None if dim is None or dim == [] else tuple(dim) if isinstance(dim, list) else dim


@_fold("sum")
def _sum(self: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    return np.sum(self, axis=_dims(dim), keepdims=keepdim, dtype=self.dtype)


@_fold("mean")
def _mean(self: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    return np.mean(self, axis=_dims(dim), keepdims=keepdim, dtype=self.dtype)


@_fold("linalg_vector_norm", "norm")
def _norm(
    self: Any, ord: Any = 2, p: Any = None, dim: Any = None, keepdim: bool = False, **_: Any
) -> Any:
    order = ord if p is None else p
    if order != 2:
        raise ValueError(f"a norm of order {order}")
    return np.sqrt(np.sum(np.square(self), axis=_dims(dim), keepdims=keepdim))


@_fold("_weight_norm_interface", "_weight_norm")
def _weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    axes = tuple(i for i in range(v.ndim) if i != dim % v.ndim) if dim != -1 else None
    norm = np.sqrt(np.sum(np.square(v, dtype=np.float64), axis=axes, keepdims=True))
    return [(v * (g / norm)).astype(v.dtype), norm.astype(v.dtype)]


@_fold("mm", "bmm", "mv", "dot", "matmul")
def _matmul(self: Any, **other: Any) -> Any:
    right = next(iter(other.values()))
    _bounded([*self.shape[:-1], *right.shape[-1:]])
    return self @ right


@_fold("linear")
def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    y = input @ weight.T
    return y if bias is None else y + bias
