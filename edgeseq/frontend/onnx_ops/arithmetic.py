"""Element-wise operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.build import arith
from edgeseq.frontend.build.products import masked, running_sum, scaled
from edgeseq.frontend.build.reduce import extreme
from edgeseq.frontend.context import Context
from edgeseq.frontend.onnx_dynamic import ROUNDED
from edgeseq.frontend.onnx_registry import Inputs, constant, number, onnx
from edgeseq.ir.ops import MOVEMENT, OVER_TIME

_FLOATS = frozenset({1, 10, 11, 16})  # float, float16, double, bfloat16
_BOOL = 9


@onnx("Identity")
def _identity(c: Context, x: Inputs, **_: Any) -> Value:
    return x[0]


@onnx("Dropout")
def _dropout(c: Context, x: Inputs, **_: Any) -> list[Any]:
    if len(x) > 2 and x[2] is not None and bool(np.any(constant(x[2], "training mode"))):
        ratio = 0.5 if x[1] is None else float(constant(x[1], "ratio"))
        if ratio:
            raise LayoutError("is in training mode", "export in eval mode")
    return [x[0], np.ones(x[0].sizes, bool)]


@onnx("Cast")
def _cast(c: Context, x: Inputs, to: int = 1, **_: Any) -> Value:
    if to in _FLOATS:
        return x[0]
    if to == _BOOL:
        up = arith.compare(c, "gt", x[0], np.zeros(1))
        down = arith.compare(c, "gt", np.zeros(1), x[0])
        return extreme(c, "max", [up, down])
    if _whole(c, x[0]):
        return x[0]
    raise LayoutError("converts to whole numbers", "quantisation is done after import")


@onnx("CastLike")
def _cast_like(c: Context, x: Inputs, **_: Any) -> Value:
    return x[0]


def _whole(c: Context, v: Value) -> bool:
    """Whether a value is a whole number already: a comparison, or an input of indices."""
    if v.name in c.indices:
        return True
    node = c.producer(v.name)
    return node is not None and node.op == "compare"


def _binary(op: str) -> Any:
    def lower(c: Context, x: Inputs, **_: Any) -> Value:
        return c.binary(op, x[0], x[1])

    return lower


@onnx("Add")
def _add(c: Context, x: Inputs, **_: Any) -> Value:
    for v, other in ((x[0], x[1]), (x[1], x[0])):
        if isinstance(v, Value) and not isinstance(other, Value):
            array = np.asarray(other, np.float64)
            if v.keys or np.any(np.isneginf(array)):  # a mask of scores
                return masked(c, v, array)
    return c.binary("add", x[0], x[1])


onnx("Sub")(_binary("sub"))


@onnx("Mul")
def _mul(c: Context, x: Inputs, **_: Any) -> Value:
    return scaled(c, x[0], x[1])


@onnx("Div")
def _div(c: Context, x: Inputs, **_: Any) -> Value:
    return arith.divide(c, x[0], x[1])


@onnx("Neg")
def _neg(c: Context, x: Inputs, **_: Any) -> Value:
    return c.binary("mul", x[0], -1.0)


@onnx("Pow")
def _pow(c: Context, x: Inputs, **_: Any) -> Value:
    if not isinstance(x[0], Value):
        base = number(x[0], "base")
        if base is None or base <= 0:
            raise LayoutError("is a power of a base that is not positive")
        return c.lut("exp", c.binary("mul", x[1], float(np.log(base)), suffix="log"))
    exponent = np.unique(constant(x[1], "exponent"))
    if exponent.size != 1 or any(n > m for n, m in zip(np.shape(x[1]), x[0].sizes, strict=False)):
        raise LayoutError("is a power per element", "use one exponent")
    return arith.power(c, x[0], float(exponent[0]))


@onnx("Sqrt")
def _sqrt(c: Context, x: Inputs, **_: Any) -> Value:
    return arith.wide(c, "sqrt", x[0])


@onnx("Reciprocal")
def _reciprocal(c: Context, x: Inputs, **_: Any) -> Value:
    return arith.divide(c, 1.0, x[0])


@onnx("Log")
def _log(c: Context, x: Inputs, **_: Any) -> Value:
    return arith.wide(c, "log", x[0])


@onnx("Sum")
def _sum(c: Context, x: Inputs, **_: Any) -> Value:
    y = x[0]
    for other in x[1:]:
        y = (
            c.binary("add", y, other)
            if isinstance(y, Value) or isinstance(other, Value)
            else (np.asarray(y) + np.asarray(other))
        )
    return y


@onnx("Mean")
def _mean(c: Context, x: Inputs, **_: Any) -> Value:
    return c.binary("mul", _sum(c, x), 1.0 / len(x))


def _extreme(op: str) -> Any:
    never = {"max": np.isneginf, "min": np.isposinf}[op]

    def lower(c: Context, x: Inputs, **_: Any) -> Value:
        # What never wins is left out: a mask of infinities, the start of a running extreme.
        x = [v for v in x if isinstance(v, Value) or not np.all(never(np.asarray(v, float)))]
        y = x[0]
        for other in x[1:]:
            y = (
                c.binary(op, y, other)
                if isinstance(y, Value) or isinstance(other, Value)
                else ({"max": np.maximum, "min": np.minimum}[op](y, other))
            )
        return y

    return lower


_EXTREMES = {op: _extreme(op) for op in ("max", "min")}
onnx("Max")(_EXTREMES["max"])
onnx("Min")(_EXTREMES["min"])


# -- comparisons ---------------------------------------------------------------------------------


def _comparison(cmp: str) -> Any:
    def lower(c: Context, x: Inputs, **_: Any) -> Any:
        for v, other, sign in ((x[0], x[1], 1), (x[1], x[0], -1)):
            if not isinstance(v, Value) or isinstance(other, Value):
                continue
            if np.all(np.isinf(np.asarray(other, np.float64))):
                # No value is infinite: the answer is known.
                zero = np.zeros(v.sizes)
                pair = (zero, other) if sign == 1 else (other, zero)
                return _NUMPY[cmp](*pair)
        return arith.compare(c, cmp, x[0], x[1])

    return lower


_NUMPY = {
    "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal, "eq": np.equal,
}  # fmt: skip


for _name, _cmp in (
    ("Greater", "gt"),
    ("GreaterOrEqual", "ge"),
    ("Less", "lt"),
    ("LessOrEqual", "le"),
    ("Equal", "eq"),
):
    onnx(_name)(_comparison(_cmp))


@onnx("Not")
def _not(c: Context, x: Inputs, **_: Any) -> Value:
    return arith.logical_not(c, x[0])


@onnx("And")
def _and(c: Context, x: Inputs, **_: Any) -> Value:
    return c.binary("mul", *(v if isinstance(v, Value) else np.asarray(v, float) for v in x[:2]))


@onnx("Or")
def _or(c: Context, x: Inputs, **_: Any) -> Value:
    return c.binary("max", *(v if isinstance(v, Value) else np.asarray(v, float) for v in x[:2]))


@onnx("Where")
def _where(c: Context, x: Inputs, **_: Any) -> Value:
    return arith.where(c, x[0], x[1], x[2])


@onnx("Sign")
def _sign(c: Context, x: Inputs, **_: Any) -> Value:
    return arith.sign(c, x[0])


# -- pieces of straight lines ---------------------------------------------------------------------


@onnx("Relu")
def _relu(c: Context, x: Inputs, **_: Any) -> Value:
    return c.relu(x[0])


@onnx("Clip")
def _clip(c: Context, x: Inputs, **_: Any) -> Value:
    if any(isinstance(v, Value) for v in x[1:3]):
        y = x[0]
        for op, bound in zip(("max", "min"), x[1:3], strict=False):
            if bound is not None:
                y = _EXTREMES[op](c, [y, bound])
        return y
    lo, hi = (number(x[i], "bound") if len(x) > i else None for i in (1, 2))
    lo = None if lo is not None and not np.isfinite(lo) else lo
    hi = None if hi is not None and not np.isfinite(hi) else hi
    if lo is not None and hi is not None and lo > hi:
        lo = hi  # ONNX: min(max(x, lo), hi)
    return x[0] if lo is None and hi is None else c.unary("clamp", x[0], lo=lo, hi=hi)


@onnx("LeakyRelu")
def _leaky(c: Context, x: Inputs, alpha: float = 0.01, **_: Any) -> Value:
    return arith.leaky(c, x[0], alpha)


@onnx("PRelu")
def _prelu(c: Context, x: Inputs, **_: Any) -> Value:
    return arith.leaky(c, x[0], constant(x[1], "slope"))


@onnx("ThresholdedRelu")
def _thresholded(c: Context, x: Inputs, alpha: float = 1.0, **_: Any) -> Value:
    return c.binary("mul", x[0], arith.compare(c, "gt", x[0], np.full(1, alpha)))


@onnx("HardSigmoid")
def _hard_sigmoid(c: Context, x: Inputs, alpha: float = 0.2, beta: float = 0.5, **_: Any) -> Value:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return c.lut("hard_sigmoid", x[0])
    y = c.binary("add", c.binary("mul", x[0], alpha, suffix="times"), beta, suffix="plus")
    return c.unary("clamp", y, lo=0.0, hi=1.0)


# -- curves ----------------------------------------------------------------------------------------


def _curve(fn: str) -> Any:
    def lower(c: Context, x: Inputs, **_: Any) -> Value:
        return c.lut(fn, x[0])

    return lower


for _name, _fn in (
    ("Sigmoid", "sigmoid"),
    ("Tanh", "tanh"),
    ("HardSwish", "hard_swish"),
    ("Softplus", "softplus"),
    ("Softsign", "softsign"),
    ("Erf", "erf"),
    ("Abs", "abs"),
    ("Exp", "exp"),
    ("Sin", "sin"),
    ("Cos", "cos"),
):
    onnx(_name)(_curve(_fn))


@onnx("Swish")
def _swish(c: Context, x: Inputs, alpha: float = 1.0, **_: Any) -> Value:
    if alpha == 1.0:
        return c.lut("silu", x[0])
    gate = c.lut("sigmoid", c.binary("mul", x[0], alpha, suffix="times"), suffix="gate")
    return c.binary("mul", x[0], gate)


@onnx("Gelu")
def _gelu(c: Context, x: Inputs, approximate: str = "none", **_: Any) -> Value:
    return c.lut("gelu_tanh" if approximate == "tanh" else "gelu", x[0])


@onnx("Mish")
def _mish(c: Context, x: Inputs, **_: Any) -> Value:
    gate = c.lut("tanh", c.lut("softplus", x[0], suffix="softplus"), suffix="tanh")
    return c.binary("mul", x[0], gate)


def _bent(c: Context, v: Value, alpha: float, gamma: float, inner: float) -> Value:
    """gamma (relu(x) + alpha (elu(inner x) - relu(inner x)))"""
    u = v if inner == 1.0 else c.binary("mul", v, inner, suffix="inner")
    y = c.lut("elu", u, suffix="elu")
    if alpha != 1.0 or inner != 1.0:
        bend = c.binary("sub", y, c.relu(u, suffix="inner_relu"), suffix="bend")
        if alpha != 1.0:
            bend = c.binary("mul", bend, alpha, suffix="alpha")
        y = c.binary("add", c.relu(v, suffix="relu"), bend, suffix="sum")
    return y if gamma == 1.0 else c.binary("mul", y, gamma)


@onnx("Elu")
def _elu(c: Context, x: Inputs, alpha: float = 1.0, **_: Any) -> Value:
    return _bent(c, x[0], alpha, 1.0, 1.0)


@onnx("Celu")
def _celu(c: Context, x: Inputs, alpha: float = 1.0, **_: Any) -> Value:
    return _bent(c, x[0], alpha, 1.0, 1.0 / alpha)


@onnx("Selu")
def _selu(
    c: Context, x: Inputs, alpha: float = 1.6732632, gamma: float = 1.050701, **_: Any
) -> Value:
    return _bent(c, x[0], alpha, gamma, 1.0)


# -- quantised models: the quantiser chooses formats of its own ------------------------------------


@onnx("QuantizeLinear")
def _quantize(c: Context, x: Inputs, output_dtype: int = 0, axis: int = 1, **_: Any) -> Value:
    """Kept real: rounding is left out, saturation is kept."""
    scale = constant(x[1], "scale").astype(np.float64)
    zero = np.zeros(1) if len(x) < 3 or x[2] is None else constant(x[2], "zero point")
    ranges = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}
    kind = output_dtype or {"uint8": 2, "int8": 3, "uint16": 4, "int16": 5}.get(zero.dtype.name, 2)
    if kind not in ranges or scale.ndim > 1:
        raise LayoutError("quantises to a type that is not 8 or 16 bits wide, or by blocks")
    lo, hi = ((bound - zero.astype(np.float64)) * scale for bound in ranges[kind])
    c.note(ROUNDED)
    if lo.size == 1 and hi.size == 1:
        y = c.unary("clamp", x[0], lo=float(lo.reshape(())), hi=float(hi.reshape(())))
    else:
        rank, d = len(x[0].axes), x[0].axis(axis)
        shape = [-1 if i == d else 1 for i in range(rank)]
        y = c.binary("max", x[0], np.reshape(lo, shape), suffix="low")
        y = c.binary("min", y, np.reshape(hi, shape))
    c.quantised[y.name] = (float(scale.reshape(-1)[0]), float(zero.reshape(-1)[0]))
    return y


@onnx("DequantizeLinear")
def _dequantize(c: Context, x: Inputs, axis: int = 1, **_: Any) -> Value:
    v = x[0]
    if not isinstance(v, Value):
        raise LayoutError("has a scale that depends on the input")
    if _kept_real(c, v.name):
        # The same numbers under a name that is not that of stored integers.
        v = v if v.pieces is None else c.whole(v)
        shape = c.graph.types[v.name].shape
        return replace(v, name=c.graph.add_node("reshape", [v.name], name=c.name(), shape=shape))
    if not _whole_numbers(c, v.name):
        raise LayoutError("reads stored integers that depend on the input")
    y = v
    for op, i, what in (("sub", 2, "zero point"), ("mul", 1, "scale")):
        if len(x) > i and x[i] is not None:
            array = constant(x[i], what).astype(np.float64)
            if array.ndim == 1 and array.size > 1:
                d, rank = v.axis(axis), len(v.axes)
                array = array.reshape([-1 if k == d else 1 for k in range(rank)])
            y = c.binary(op, y, array, suffix="" if i == 1 else "zero")
    return y


_MOVES = MOVEMENT | OVER_TIME | {"clamp", "max", "min"}


def _kept_real(c: Context, name: str) -> bool:
    """Whether a value is one that was quantised and kept real, seen through movements."""
    while name not in c.quantised:
        node = c.producer(name)
        if node is None or node.op not in _MOVES:
            return False
        name = node.inputs[0]
    return True


def _whole_numbers(c: Context, name: str) -> bool:
    """Whether a value holds stored integers themselves: an input's, or rows of a table of them."""
    while name not in c.indices:
        node = c.producer(name)
        if node is None:
            return False
        if node.op == "embed":
            table = c.graph.consts[node.inputs[1]]
            return bool(np.all(table == np.rint(table)))
        if node.op not in _MOVES:
            return False
        name = node.inputs[0]
    return True


@onnx("CumSum")
def _cum_sum(c: Context, x: Inputs, exclusive: int = 0, reverse: int = 0, **_: Any) -> Value:
    axis = int(constant(x[1], "axis").reshape(()))
    return running_sum(c, x[0], axis, exclusive=bool(exclusive), reverse=bool(reverse))
