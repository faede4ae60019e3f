"""Element-wise arithmetic, comparisons and activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, size_of
from edgeseq.frontend.build import arith, products, views
from edgeseq.frontend.build.reduce import extreme
from edgeseq.frontend.context import Context, lowers
from edgeseq.frontend.past import file_sizes

# -- the same values -----------------------------------------------------------------------------


@lowers("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "lift_fresh", "alias_copy",
        "requires_grad", "positive", "resolve_conj", "resolve_neg", "view_of")  # fmt: skip
def _same(c: Context, self: Value, **_: Any) -> Value:
    return self


@lowers("dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def _dropout(c: Context, input: Value, p: float, train: bool | None = False) -> list[Value]:
    if train and p:
        raise LayoutError("is in training mode", "call model.eval() before exporting")
    return [input, input]


@lowers("rrelu")
def _rrelu(
    c: Context, self: Value, lower: float = 0.125, upper: float = 1 / 3, training: bool = False,
    generator: Any = None,
) -> Value:  # fmt: skip
    if training:
        raise LayoutError("is in training mode", "call model.eval() before exporting")
    return arith.leaky(c, self, (lower + upper) / 2)


_BOOL = 12
_FLOATS = (6, 7, 8, 13)


@lowers("_to_copy", "to", "type_as", "to_dtype")
def _to(c: Context, self: Any, dtype: Any = None, other: Any = None, **_: Any) -> Value:
    if not isinstance(self, Value):
        return self
    if dtype is None or dtype in _FLOATS or _whole(c, self):
        return self
    if dtype == _BOOL:
        return _truth(c, self)
    raise LayoutError("converts to integers", "quantisation is done after import")


def _whole(c: Context, v: Value) -> bool:
    """Whether a value is a whole number already: a comparison, or an input of indices."""
    if v.name in c.indices:
        return True
    node = c.graph.producers().get(v.name)
    if node is not None and node.op in ("reshape", "slice", "strided", "concat"):
        return all(_whole(c, Value(n, ())) for n in node.inputs)
    return node is not None and node.op == "compare"


def _truth(c: Context, v: Value) -> Value:
    """1 where v is not zero."""
    node = c.graph.producers().get(v.name)
    if node is not None and node.op == "compare":
        return v
    up = arith.compare(c, "gt", v, np.zeros(1))
    down = arith.compare(c, "gt", np.zeros(1), v)
    return extreme(c, "max", [up, down])


@lowers("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
        "new_empty", "fill", "zero")  # fmt: skip
def _constant(
    c: Context, self: Value, size: Any = None, fill_value: Any = None, value: Any = None, **_: Any
) -> Any:
    """A constant in the shape of a value, or in one of its own."""
    number = fill_value if fill_value is not None else value
    if isinstance(number, Value):
        raise LayoutError("fills a tensor with a value", "multiply a tensor of ones by it")
    if number is None:
        number = 1.0 if "ones" in c.op.base else 0.0
    sizes = file_sizes(self) if size is None else tuple(size)
    if math.prod(sizes) > c.most_frame << 4:
        raise LayoutError(f"a constant of {list(sizes)} elements is too large")
    return np.full(sizes, float(np.reshape(number, ())))


# -- arithmetic ----------------------------------------------------------------------------------


def _scaled(c: Context, x: Any, alpha: Any, suffix: str = "alpha") -> Any:
    if alpha == 1:
        return x
    return c.binary("mul", x, alpha, suffix=suffix) if isinstance(x, Value) else x * alpha


def _added(c: Context, a: Any, b: Any) -> Value:
    """a + b, where one may be a mask of scores."""
    for scores, mask in ((a, b), (b, a)):
        is_mask = not isinstance(mask, Value) and np.ndim(mask) > 1
        if isinstance(scores, Value) and scores.keys and is_mask:
            return products.masked(c, scores, np.asarray(mask))
    return c.binary("add", a, b)


@lowers("add")
def _add(c: Context, self: Any, other: Any, alpha: Any = 1) -> Value:
    return _added(c, self, _scaled(c, other, alpha))


@lowers("sub", "subtract")
def _sub(c: Context, self: Any, other: Any, alpha: Any = 1) -> Value:
    if not isinstance(other, Value) and np.ndim(other) > 1:
        return _added(c, self, -np.asarray(_scaled(c, other, alpha), np.float64))
    return c.binary("sub", self, _scaled(c, other, alpha))


@lowers("rsub")
def _rsub(c: Context, self: Any, other: Any, alpha: Any = 1) -> Value:
    return c.binary("sub", other, _scaled(c, self, alpha))


@lowers("mul", "multiply")
def _mul(c: Context, self: Any, other: Any) -> Value:
    return products.scaled(c, self, other)


@lowers("addcmul")
def _addcmul(c: Context, self: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Value:
    moving = isinstance(tensor1, Value) or isinstance(tensor2, Value)
    product = c.binary("mul", tensor1, tensor2, suffix="product") if moving else tensor1 * tensor2
    return c.binary("add", self, _scaled(c, product, value))


@lowers("addcdiv")
def _addcdiv(c: Context, self: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Value:
    moving = isinstance(tensor1, Value) or isinstance(tensor2, Value)
    quotient = arith.divide(c, tensor1, tensor2) if moving else tensor1 / tensor2
    return c.binary("add", self, _scaled(c, quotient, value))


@lowers("lerp")
def _lerp(c: Context, self: Any, end: Any, weight: Any) -> Value:
    """a + w (b - a)"""
    moving = isinstance(self, Value) or isinstance(end, Value)
    gap = c.binary("sub", end, self, suffix="gap") if moving else np.asarray(end - self)
    part = (
        c.binary("mul", gap, weight, suffix="part")
        if moving or isinstance(weight, Value)
        else gap * weight
    )
    return c.binary("add", self, part)


@lowers("div", "true_divide", "divide")
def _div(c: Context, self: Any, other: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode is not None:
        raise LayoutError("rounds a quotient", "remove the rounding")
    if isinstance(self, Value) and isinstance(other, Value) and _is_one_plus_abs(c, other, self):
        return c.lut("softsign", self)
    return arith.divide(c, self, other)


def _is_one_plus_abs(c: Context, y: Value, x: Value) -> bool:
    """Whether y is 1 + |x|: the exporter takes softsign apart."""
    producers = c.graph.producers()
    total = producers.get(y.name)
    if total is None or total.op != "add" or total.inputs[1] not in c.graph.consts:
        return False
    inner = producers.get(total.inputs[0])
    return (
        inner is not None
        and (inner.op, inner.attrs.get("fn"), inner.inputs) == ("lut", "abs", (x.name,))
        and bool(np.all(c.graph.consts[total.inputs[1]] == 1))
    )


@lowers("neg", "negative")
def _neg(c: Context, self: Value) -> Value:
    return c.binary("mul", self, -1.0)


@lowers("square")
def _square(c: Context, self: Value) -> Value:
    return c.binary("mul", self, self)


@lowers("pow")
def _pow(c: Context, self: Any, exponent: Any) -> Value:
    if isinstance(exponent, Value):
        base = None if isinstance(self, Value) else np.asarray(self, np.float64)
        if base is None or base.size != 1 or float(base.reshape(())) <= 0:
            raise LayoutError("is a power with an exponent that is a value", "use a constant one")
        log = float(np.log(base.reshape(())))
        return c.lut("exp", c.binary("mul", exponent, log, suffix="log"))
    power = np.asarray(exponent, np.float64)
    if power.size != 1:
        raise LayoutError("has an exponent per element", "use one number")
    return arith.power(c, self, float(power.reshape(())))


def _wide(fn: str) -> Any:
    def apply(c: Context, self: Value) -> Value:
        return arith.wide(c, fn, self)

    return apply


for _fn in ("sqrt", "rsqrt", "log"):
    lowers(_fn)(_wide(_fn))


@lowers("reciprocal")
def _reciprocal(c: Context, self: Value) -> Value:
    return arith.divide(c, 1.0, self)


@lowers("log2", "log10", "log1p")
def _logs(c: Context, self: Value) -> Value:
    if c.op.base == "log1p":
        return arith.wide(c, "log", c.binary("add", self, 1.0, suffix="plus"))
    scale = {"log2": 1 / np.log(2), "log10": 1 / np.log(10)}[c.op.base]
    return c.binary("mul", arith.wide(c, "log", self), scale)


@lowers("exp2", "expm1")
def _exps(c: Context, self: Value) -> Value:
    if c.op.base == "expm1":
        return c.binary("sub", c.lut("exp", self, suffix="exp"), 1.0)
    return c.lut("exp", c.binary("mul", self, float(np.log(2)), suffix="log"))


@lowers("logaddexp")
def _logaddexp(c: Context, self: Any, other: Any) -> Value:
    """b + softplus(a - b)"""
    gap = c.binary("sub", self, other, suffix="gap")
    return c.binary("add", c.lut("softplus", gap, suffix="softplus"), other)


@lowers("maximum", "fmax")
def _maximum(c: Context, self: Any, other: Any) -> Value:
    return c.binary("max", self, other)


@lowers("minimum", "fmin")
def _minimum(c: Context, self: Any, other: Any) -> Value:
    return c.binary("min", self, other)


# -- comparisons ---------------------------------------------------------------------------------


def _comparison(cmp: str) -> Any:
    def apply(c: Context, self: Any, other: Any) -> Value:
        y = arith.compare(c, "eq" if cmp == "ne" else cmp, self, other)
        return arith.logical_not(c, y) if cmp == "ne" else y

    return apply


for _name, _cmp in (
    ("gt", "gt"), ("ge", "ge"), ("lt", "lt"), ("le", "le"), ("eq", "eq"), ("ne", "ne"),
    ("greater", "gt"), ("less", "lt"), ("greater_equal", "ge"), ("less_equal", "le"),
):  # fmt: skip
    lowers(_name)(_comparison(_cmp))


@lowers("logical_not", "bitwise_not")
def _not(c: Context, self: Value) -> Value:
    return arith.logical_not(c, _truth(c, self))


def _bits(c: Context, op: str, a: Any, b: Any) -> Value:
    x, y = (_truth(c, t) if isinstance(t, Value) else np.asarray(t) != 0 for t in (a, b))
    x, y = (t if isinstance(t, Value) else t.astype(np.float64) for t in (x, y))
    if op == "xor":
        gap = c.binary("sub", x, y, suffix="gap")
        return c.binary("mul", gap, gap)
    return c.binary({"and": "mul", "or": "max"}[op], x, y)


@lowers("logical_and", "bitwise_and", "__and__")
def _and(c: Context, self: Any, other: Any) -> Value:
    return _bits(c, "and", self, other)


@lowers("logical_or", "bitwise_or", "__or__")
def _or(c: Context, self: Any, other: Any) -> Value:
    return _bits(c, "or", self, other)


@lowers("logical_xor", "bitwise_xor", "__xor__")
def _xor(c: Context, self: Any, other: Any) -> Value:
    return _bits(c, "xor", self, other)


@lowers("sign", "sgn")
def _sign(c: Context, self: Value) -> Value:
    return arith.sign(c, self)


@lowers("heaviside")
def _heaviside(c: Context, self: Value, values: Any) -> Value:
    """0, `values` at zero, 1."""
    up = arith.compare(c, "gt", self, np.zeros(1))
    at = c.binary("mul", arith.compare(c, "eq", self, np.zeros(1)), values, suffix="at")
    return c.binary("add", up, at)


# -- bounded pieces of straight lines ------------------------------------------------------------


def _number(x: Any) -> float | None:
    if x is None:
        return None
    array = np.asarray(x, np.float64)
    if array.size != 1:
        raise LayoutError("has a bound per element", "use one number")
    number = float(array.reshape(()))
    return number if np.isfinite(number) else None


def _bounded(c: Context, v: Value, lo: Any, hi: Any) -> Value:
    """max(lo, min(hi, v)) with bounds that are numbers, arrays or values."""
    plain = [isinstance(b, Value) or np.size(b) != 1 for b in (lo, hi) if b is not None]
    if not any(plain):
        low, high = _number(lo), _number(hi)
        if low is None and high is None:
            return v
        if low is not None and high is not None and low > high:
            low = high  # as torch: min(max(x, lo), hi)
        return c.unary("clamp", v, lo=low, hi=high)
    if lo is not None:
        v = c.binary("max", v, lo, suffix="low")
    return v if hi is None else c.binary("min", v, hi, suffix="high")


@lowers("relu")
def _relu(c: Context, self: Value) -> Value:
    return c.relu(self)


@lowers("relu6")
def _relu6(c: Context, self: Value) -> Value:
    return c.unary("clamp", self, lo=0.0, hi=6.0)


@lowers("hardtanh")
def _hardtanh(c: Context, self: Value, min_val: Any = -1.0, max_val: Any = 1.0) -> Value:
    return _bounded(c, self, min_val, max_val)


@lowers("clamp", "clip")
def _clamp(c: Context, self: Value, min: Any = None, max: Any = None) -> Value:
    return _bounded(c, self, min, max)


@lowers("clamp_min")
def _clamp_min(c: Context, self: Value, min: Any) -> Value:
    return _bounded(c, self, min, None)


@lowers("clamp_max")
def _clamp_max(c: Context, self: Value, max: Any) -> Value:
    return _bounded(c, self, None, max)


@lowers("leaky_relu")
def _leaky_relu(c: Context, self: Value, negative_slope: float = 0.01) -> Value:
    return arith.leaky(c, self, float(negative_slope))


@lowers("prelu", "_prelu_kernel")
def _prelu(c: Context, self: Value, weight: Any) -> Value:
    if isinstance(weight, Value):
        raise LayoutError("has a slope that depends on the input", "use a constant slope")
    w = np.asarray(weight, np.float64)
    if w.ndim == 1 and w.size > 1 and len(self.axes) > 2:
        w = w.reshape(-1, *[1] * (len(self.axes) - 2))  # a slope per channel: axis 1
    return arith.leaky(c, self, w.reshape(()) if w.size == 1 else w)


@lowers("threshold")
def _threshold(c: Context, self: Value, threshold: float, value: float) -> Value:
    """x where x > threshold, else value."""
    above = arith.compare(c, "gt", self, np.full(1, threshold))
    y = c.binary("mul", self, above, suffix="above")
    if value == 0:
        return y
    rest = c.binary("mul", arith.logical_not(c, above), float(value), suffix="rest")
    return c.binary("add", y, rest)


@lowers("hardshrink", "softshrink")
def _shrink(c: Context, self: Value, lambd: float = 0.5) -> Value:
    lam = float(np.reshape(lambd, ()))
    inner = c.unary("clamp", self, suffix="inner", lo=-lam, hi=lam)
    soft = c.binary("sub", self, inner, suffix="soft")
    if c.op.base == "softshrink":
        return soft
    return c.binary(
        "mul", self, arith.compare(c, "gt", c.lut("abs", self, suffix="abs"), np.full(1, lam))
    )


# -- curves --------------------------------------------------------------------------------------

_CURVES = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "silu": "silu",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "softsign": "softsign",
    "erf": "erf",
    "abs": "abs",
    "absolute": "abs",
    "exp": "exp",
    "sin": "sin",
    "cos": "cos",
}


def _curve(fn: str) -> Any:
    def apply(c: Context, self: Value) -> Value:
        return c.lut(fn, self)

    return apply


for _op, _fn in _CURVES.items():
    lowers(_op)(_curve(_fn))


@lowers("gelu")
def _gelu(c: Context, self: Value, approximate: str = "none") -> Value:
    return c.lut("gelu_tanh" if approximate == "tanh" else "gelu", self)


@lowers("elu", "celu", "selu")
def _elu(
    c: Context, self: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> Value:
    """scale·(relu(x) + alpha·(elu(s·x) - relu(s·x))), with torch's definitions of CELU and SELU."""
    if c.op.base == "selu":
        alpha, scale = 1.6732632423543772, 1.0507009873554805
    elif c.op.base == "celu":
        input_scale = 1.0 / alpha
    inner = _scaled(c, self, input_scale, "input_scale")
    y = c.lut("elu", inner, suffix="" if alpha == scale == 1 else "elu")
    if alpha != 1 or input_scale != 1:
        bend = c.binary("sub", y, c.relu(inner, suffix="inner_relu"), suffix="bend")
        bend = _scaled(c, bend, alpha)
        y = c.binary("add", c.relu(self, suffix="relu"), bend, suffix="sum")
    return _scaled(c, y, scale, "scale")


@lowers("softplus")
def _softplus(c: Context, self: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """softplus(beta·x) / beta; beyond `threshold` torch returns x, which differs by < 2^-28."""
    if threshold < 15:
        raise LayoutError("has a threshold below 15", "use the default threshold")
    y = c.lut("softplus", _scaled(c, self, beta, "beta"), suffix="" if beta == 1 else "softplus")
    return _scaled(c, y, 1.0 / beta, "unscale")


@lowers("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(c: Context, self: Value) -> list[Value]:
    y = c.lut("softplus", c.binary("mul", self, -1.0, suffix="neg"), suffix="softplus")
    out = c.binary("mul", y, -1.0)
    return [out, out]


@lowers("mish")
def _mish(c: Context, self: Value) -> Value:
    """x·tanh(softplus(x))"""
    gate = c.lut("tanh", c.lut("softplus", self, suffix="softplus"), suffix="tanh")
    return c.binary("mul", self, gate)


@lowers("glu")
def _glu(c: Context, self: Value, dim: int = -1) -> Value:
    """The first half times the sigmoid of the second."""
    d = self.axis(dim)
    n = size_of(self.axes[d])
    if n % 2:
        raise LayoutError(f"halves an axis of {n}")
    a, b = views.split(c, self, d, [n // 2, n // 2])
    return c.binary("mul", a, c.lut("sigmoid", b, suffix="gate"))
