"""ONNX operators on constants that compute: arithmetic, reductions, products, quantisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeseq.frontend._onnx_calls import (
    Array,
    Call,
    FoldError,
    Room,
    axis_of,
    direct,
    ints,
    same_type,
)
from edgeseq.frontend._onnx_tensor import element_type, numpy_type

_BFLOAT16 = 16
_NARROW = {21: (0, 15), 22: (-8, 7), 25: (0, 3), 26: (-2, 1)}  # range of types under 8 bits


# -- element by element --------------------------------------------------------------------------

_UNARY: dict[str, Callable[[Array], Any]] = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "BitwiseNot": np.invert,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Exp": np.exp,
    "Floor": np.floor,
    "Identity": lambda x: x,
    "Log": np.log,
    "Neg": np.negative,
    "Reciprocal": lambda x: 1 / x,
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.rint,
    "Sigmoid": lambda x: np.where(x >= 0, 1, np.exp(-abs(x))) / (1 + np.exp(-abs(x))),
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Softplus": lambda x: np.logaddexp(x, np.zeros((), x.dtype)),
    "Softsign": lambda x: x / (1 + abs(x)),
    "Sqrt": np.sqrt,
    "Tan": np.tan,
    "Tanh": np.tanh,
}

_COMPARE: dict[str, Callable[[Array, Array], Any]] = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}

_BINARY: dict[str, Callable[[Array, Array], Any]] = {
    "Add": np.add,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "Max": np.maximum,
    "Mean": np.add,
    "Min": np.minimum,
    "Mul": np.multiply,
    "Sub": np.subtract,
    "Sum": np.add,
}


@direct(*_UNARY)
def _unary(call: Call) -> Any:
    return np.asarray(_UNARY[call.name](call.inputs[0]), call.inputs[0].dtype)


@direct(*_COMPARE)
def _compare(call: Call) -> Any:
    same_type(call.inputs)
    call.room.together(call.inputs)
    return np.asarray(_COMPARE[call.name](*call.inputs))


@direct(*_BINARY)
def _binary(call: Call) -> Any:
    dtype = same_type(call.inputs)
    call.room.together(call.inputs)
    total = call.inputs[0]
    for other in call.inputs[1:]:
        total = _BINARY[call.name](total, other)
    return np.asarray(total / len(call.inputs) if call.name == "Mean" else total, dtype)


@direct("Not")
def _not(call: Call) -> Any:
    return np.asarray(np.logical_not(call.inputs[0]))


@direct("IsNaN")
def _is_nan(call: Call) -> Any:
    return np.asarray(np.isnan(call.inputs[0]))


@direct("Div")
def _div(call: Call) -> Any:
    a, b = call.inputs
    dtype = same_type(call.inputs)
    call.room.together(call.inputs)
    if dtype.kind in "iu":  # towards zero; the remainder takes the sign of a
        if np.any(b == 0):
            raise FoldError("an integer is divided by zero")
        return np.asarray((a - np.fmod(a, b)) // b, dtype)
    return np.asarray(a / b, dtype)


@direct("Mod")
def _mod(call: Call) -> Any:
    dtype = same_type(call.inputs)
    call.room.together(call.inputs)
    if dtype.kind in "iu" and np.any(call.inputs[1] == 0):
        raise FoldError("an integer is divided by zero")
    return np.asarray((np.fmod if call.attrs["fmod"] else np.mod)(*call.inputs), dtype)


@direct("Pow")
def _pow(call: Call) -> Any:
    base, exponent = call.inputs
    call.room.together(call.inputs)
    if base.dtype.kind in "iu" and exponent.dtype.kind in "iu" and np.any(exponent < 0):
        raise FoldError("an integer to a negative power")
    return np.asarray(np.power(base, exponent)).astype(base.dtype)


@direct("Where")
def _where(call: Call) -> Any:
    same_type(call.inputs[1:])
    call.room.together(call.inputs)
    return np.where(*call.inputs)


@direct("Clip")
def _clip(call: Call) -> Any:
    x, low, high = call.inputs
    for bound, fn in ((low, np.maximum), (high, np.minimum)):
        if bound is not None:
            x = fn(x, bound.reshape(()).astype(x.dtype))
    return np.asarray(x)


@direct("Dropout")
def _dropout(call: Call) -> Any:
    x, _, training = call.inputs
    if training is not None and training.any():
        raise FoldError("drops elements at random")
    return [x, np.ones(x.shape, bool)]


def cast(x: Array, code: int) -> Array:
    """`x` in an element type given by its number."""
    dtype = numpy_type(code)
    if dtype is None or dtype.kind == "O" or code in _NARROW:
        raise FoldError(f"a cast to {element_type(code)}")
    if x.dtype.kind == "f" and dtype.kind in "iu":
        # What numpy does beyond the range differs from machine to machine.
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max) + 1
        whole = np.trunc(x).astype(np.float64)
        if not np.all((whole >= low) & (whole < high)):
            raise FoldError(f"a cast of values beyond {dtype}")
    if code == _BFLOAT16:  # float32 of which 8 bits of fraction remain, ties to even
        bits = np.asarray(x, np.float32).view(np.uint32)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(x), np.float32(np.nan), rounded.view(np.float32))
    return x.astype(dtype)


@direct("Cast")
def _cast(call: Call) -> Any:
    return cast(call.inputs[0], call.attrs["to"])


@direct("CastLike")
def _cast_like(call: Call) -> Any:
    return call.inputs[0].astype(call.inputs[1].dtype)


# -- reductions and products ---------------------------------------------------------------------

_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceL1": lambda x, **k: np.sum(np.abs(x), **k),
    "ReduceL2": lambda x, **k: np.sqrt(np.sum(np.square(x), **k)),
    "ReduceLogSum": lambda x, **k: np.log(np.sum(x, **k)),
    "ReduceLogSumExp": lambda x, **k: _log_sum_exp(x, **k),
    "ReduceMax": np.max,
    "ReduceMean": lambda x, **k: np.sum(x, **k) / _count(x, k["axis"]),
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, **k: np.sum(np.square(x), **k),
}


def _count(x: Array, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[a] for a in axes)


def _log_sum_exp(x: Array, axis: tuple[int, ...], keepdims: bool) -> Any:
    top = np.max(x, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else np.squeeze(total, axis)


@direct(*_REDUCE)
def _reduce(call: Call) -> Any:
    x, axes = call.inputs
    given = [] if axes is None else ints(axes)
    along = tuple(axis_of(a, x.ndim) for a in given) or tuple(range(x.ndim))
    keep = bool(call.attrs["keepdims"])
    if not given and call.attrs["noop_with_empty_axes"]:
        if call.name in ("ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum"):
            raise FoldError("no axes")
        return np.asarray(x)
    # Sums of narrow integers wrap as ONNX's do.
    wide = x.astype(np.float64) if x.dtype.kind == "f" else x
    return np.asarray(_REDUCE[call.name](wide, axis=along, keepdims=keep)).astype(x.dtype)


@direct("MatMul")
def _matmul(call: Call) -> Any:
    a, b = call.inputs
    return product(a, b, call.room)


def product(a: Array, b: Array, room: Room) -> Array:
    """``a @ b`` as MatMul defines it, its work bounded."""
    dtype = same_type([a, b])
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        raise FoldError(f"the product of {list(a.shape)} and {list(b.shape)}")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows = a.shape[-2] if a.ndim > 1 else 1
    columns = b.shape[-1] if b.ndim > 1 else 1
    room.sizes([*lead, rows, columns])
    work = math.prod([*lead, rows, columns, a.shape[-1]])
    room.budget.spend(work / 8 if dtype.str[1:] in ("f4", "f8") else 4 * work)
    return np.asarray(np.matmul(a, b), dtype)


@direct("Gemm")
def _gemm(call: Call) -> Any:
    a, b, c = call.inputs
    if a.ndim != 2 or b.ndim != 2:
        raise FoldError(f"Gemm of {list(a.shape)} and {list(b.shape)}")
    y = product(a.T if call.attrs["transA"] else a, b.T if call.attrs["transB"] else b, call.room)
    y = y * a.dtype.type(call.attrs["alpha"])
    if c is not None:
        if np.broadcast_shapes(y.shape, c.shape) != y.shape:
            raise FoldError(f"C of shape {list(c.shape)}")
        y = y + c * a.dtype.type(call.attrs["beta"])
    return np.asarray(y, a.dtype)


# -- functions along axes --------------------------------------------------------------------------


@direct("Softmax", "LogSoftmax", "Hardmax")
def _softmax(call: Call) -> Any:
    x, axis = call.inputs[0], call.attrs["axis"]
    flat = x
    if call.attrs["legacy"]:
        at = axis if axis == x.ndim else axis_of(axis, x.ndim)
        flat, axis = x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:])), -1
    axis = axis_of(axis, flat.ndim)
    if call.name == "Hardmax":
        top = np.expand_dims(np.argmax(flat, axis), axis)
        places = np.arange(flat.shape[axis]).reshape([-1] + [1] * (flat.ndim - 1 - axis))
        return (top == places).astype(x.dtype).reshape(x.shape)
    shifted = flat - np.max(flat, axis, keepdims=True)
    total = np.sum(np.exp(shifted), axis, keepdims=True)
    y = np.exp(shifted) / total if call.name == "Softmax" else shifted - np.log(total)
    return np.asarray(y, x.dtype).reshape(x.shape)


def _per_element(param: Array, x: Array, attrs: dict[str, Any]) -> Array:
    """A scale or zero point in a shape that broadcasts to `x`: of all, per axis, or per block."""
    if param.size == 1:
        return param.reshape(())
    axis, block = axis_of(attrs["axis"], x.ndim), attrs["block_size"]
    if block:
        want = tuple(-(-n // block) if i == axis else n for i, n in enumerate(x.shape))
        if block < 1 or param.shape != want:
            raise FoldError(f"{list(param.shape)} scales in blocks of {block}")
        long = np.repeat(param, min(block, x.shape[axis]), axis)
        return np.take(long, np.arange(x.shape[axis]), axis)
    if param.shape != (x.shape[axis],):
        raise FoldError(f"{list(param.shape)} scales for {list(x.shape)} along axis {axis}")
    return param.reshape([-1] + [1] * (x.ndim - 1 - axis))


def _check_pair(scale: Array, zero: Array | None) -> None:
    """One zero point belongs to each scale; of a single one, the rank says nothing."""
    if zero is not None and zero.shape != scale.shape and not zero.size == scale.size == 1:
        raise FoldError("scales and zero points differ in shape")


@direct("DequantizeLinear")
def _dequantize(call: Call) -> Any:
    x, scale, zero = call.inputs
    factor = _per_element(scale, x, call.attrs)
    _check_pair(scale, zero)
    wide = np.int64 if x.dtype.kind in "iu" else np.float64
    offset = 0 if zero is None else _per_element(zero, x, call.attrs).astype(wide)
    y = (x.astype(wide) - offset).astype(scale.dtype) * factor
    code = call.attrs.get("output_dtype") or 0
    return np.asarray(cast(y, code) if code else y)


@direct("QuantizeLinear")
def _quantize(call: Call) -> Any:
    x, scale, zero = call.inputs
    _check_pair(scale, zero)
    code = call.attrs["output_dtype"] or 0
    dtype = numpy_type(code) if code or zero is None else zero.dtype
    if dtype is None or dtype.kind not in "iu" or dtype.itemsize > 2:
        raise FoldError(f"quantises to {element_type(code) if code else dtype}")
    low, high = _NARROW.get(code, (np.iinfo(dtype).min, np.iinfo(dtype).max))
    offset = 0 if zero is None else _per_element(zero, x, call.attrs).astype(np.float64)
    # The quotient is of the elements' own precision; integers are exact in float64.
    steps = np.rint(x.astype(scale.dtype) / _per_element(scale, x, call.attrs)).astype(np.float64)
    if np.isnan(steps).any():
        raise FoldError("quantises NaN")
    return np.clip(steps + offset, low, high).astype(dtype)
