"""Element-wise arithmetic and activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.context import Context, lowers

# -- the same values -----------------------------------------------------------------------------


@lowers("clone", "contiguous", "detach", "alias", "lift_fresh_copy", "lift_fresh")
def _same(c: Context, self: Value, **_: Any) -> Value:
    return self


@lowers("dropout", "native_dropout", "feature_dropout", "alpha_dropout")
def _dropout(c: Context, input: Value, p: float, train: bool = False) -> Value:
    if train and p:
        raise LayoutError("is in training mode", "call model.eval() before exporting")
    return input


@lowers("_to_copy", "to")
def _to(c: Context, self: Value, dtype: int | None = None, **other: Any) -> Value:
    if dtype not in (None, 6, 7, 8, 13):
        raise LayoutError("converts to integers", "quantisation is done after import")
    return self


# -- arithmetic ----------------------------------------------------------------------------------


def _scaled(c: Context, x: Any, alpha: Any, suffix: str = "alpha") -> Any:
    if alpha == 1:
        return x
    return c.binary("mul", x, alpha, suffix=suffix) if isinstance(x, Value) else x * alpha


@lowers("add")
def _add(c: Context, self: Any, other: Any, alpha: Any = 1) -> Value:
    return c.binary("add", self, _scaled(c, other, alpha))


@lowers("sub", "subtract")
def _sub(c: Context, self: Any, other: Any, alpha: Any = 1) -> Value:
    return c.binary("sub", self, _scaled(c, other, alpha))


@lowers("rsub")
def _rsub(c: Context, self: Any, other: Any, alpha: Any = 1) -> Value:
    return c.binary("sub", other, _scaled(c, self, alpha))


@lowers("mul", "multiply")
def _mul(c: Context, self: Any, other: Any) -> Value:
    return c.binary("mul", self, other)


@lowers("div", "true_divide")
def _div(c: Context, self: Any, other: Any, rounding_mode: str | None = None) -> Value:
    if isinstance(self, Value) and isinstance(other, Value) and _is_one_plus_abs(c, other, self):
        return c.lut("softsign", self)
    if isinstance(other, Value):
        raise LayoutError("divides by a value that is not constant", "multiply instead")
    if rounding_mode is not None:
        raise LayoutError("rounds a quotient", "remove the rounding")
    if np.any(np.asarray(other) == 0):
        raise LayoutError("divides by a constant that holds zero", "remove constant channels")
    return c.binary("mul", self, 1.0 / np.asarray(other, np.float64))


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


@lowers("neg")
def _neg(c: Context, self: Value) -> Value:
    return c.binary("mul", self, -1.0)


@lowers("square")
def _square(c: Context, self: Value) -> Value:
    return c.binary("mul", self, self)


@lowers("pow")
def _pow(c: Context, self: Any, exponent: Any) -> Value:
    if not isinstance(self, Value) or isinstance(exponent, Value) or exponent not in (1, 2, 3):
        raise LayoutError("is a power other than 1, 2 or 3", "use an activation")
    y = self
    for i in range(int(exponent) - 1):
        y = c.binary("mul", y, self, suffix="" if i == exponent - 2 else "square")
    return y


@lowers("maximum")
def _maximum(c: Context, self: Any, other: Any) -> Value:
    """max(a, b) = relu(a - b) + b"""
    return c.binary("add", c.relu(c.binary("sub", self, other, suffix="sub"), suffix="relu"), other)


@lowers("minimum")
def _minimum(c: Context, self: Any, other: Any) -> Value:
    """min(a, b) = a - relu(a - b)"""
    return c.binary("sub", self, c.relu(c.binary("sub", self, other, suffix="sub"), suffix="relu"))


# -- bounded pieces of straight lines ------------------------------------------------------------


def _number(x: Any) -> float | None:
    if isinstance(x, Value):
        raise LayoutError("has a bound that is not constant", "use constant bounds")
    if x is not None and np.size(x) != 1:
        raise LayoutError("has a bound per element", "use one number")
    return None if x is None or not np.isfinite(x) else float(np.reshape(x, ()))


@lowers("relu")
def _relu(c: Context, self: Value) -> Value:
    return c.relu(self)


@lowers("relu6")
def _relu6(c: Context, self: Value) -> Value:
    return c.unary("clamp", self, lo=0.0, hi=6.0)


@lowers("hardtanh")
def _hardtanh(c: Context, self: Value, min_val: Any = -1.0, max_val: Any = 1.0) -> Value:
    return c.unary("clamp", self, lo=_number(min_val), hi=_number(max_val))


@lowers("clamp", "clip")
def _clamp(c: Context, self: Value, min: Any = None, max: Any = None) -> Value:
    return c.unary("clamp", self, lo=_number(min), hi=_number(max))


@lowers("clamp_min")
def _clamp_min(c: Context, self: Value, min: Any) -> Value:
    return c.unary("clamp", self, lo=_number(min), hi=None)


@lowers("clamp_max")
def _clamp_max(c: Context, self: Value, max: Any) -> Value:
    return c.unary("clamp", self, lo=None, hi=_number(max))


def _leaky(c: Context, x: Value, slope: Any) -> Value:
    """slope·x + (1 - slope)·relu(x)"""
    line = c.binary("mul", x, slope, suffix="slope")
    bend = c.binary("mul", c.relu(x, suffix="relu"), 1.0 - np.asarray(slope), suffix="bend")
    return c.binary("add", line, bend)


@lowers("leaky_relu")
def _leaky_relu(c: Context, self: Value, negative_slope: float = 0.01) -> Value:
    return _leaky(c, self, negative_slope)


@lowers("prelu", "_prelu_kernel")
def _prelu(c: Context, self: Value, weight: Any) -> Value:
    w = np.asarray(weight)
    if w.ndim == 1 and w.size > 1 and len(self.axes) > 2:
        w = w.reshape(-1, *[1] * (len(self.axes) - 2))  # a slope per channel: axis 1
    return _leaky(c, self, w.reshape(()) if w.size == 1 else w)


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
