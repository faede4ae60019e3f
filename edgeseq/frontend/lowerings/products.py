"""Matrix products with constant weights, and normalisations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, LayoutError, Value, describe, kind_of, size_of
from edgeseq.frontend.context import Array, Context, lowers

_TWO_MOVING = "multiplies two values that both depend on the input"


def _constant(x: Any, what: str) -> Array:
    if isinstance(x, Value):
        raise LayoutError(f"has a {what} that depends on the input", "use constant weights")
    return np.asarray(x)


@lowers("linear")
def _linear(c: Context, input: Any, weight: Any, bias: Any = None) -> Value:
    w = _constant(weight, "weight")
    b = None if bias is None else _constant(bias, "bias")
    if w.ndim != 2:
        raise LayoutError(f"has a weight of shape {list(w.shape)}", "use a matrix")
    return c.linear(c.last_axis(input), w, b)


@lowers("addmm")
def _addmm(c: Context, self: Any, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Value:
    w = _constant(mat2, "second factor").T * alpha
    if isinstance(self, Value) or not isinstance(mat1, Value):
        product = _matmul(c, mat1, np.asarray(mat2) * alpha)
        return c.binary("add", product, c.binary("mul", self, beta) if beta != 1 else self)
    bias = np.asarray(self) * beta
    x = c.last_axis(mat1)
    if bias.size in (1, w.shape[0]):
        return c.linear(x, w, bias)
    return c.binary("add", c.linear(x, w, suffix="product"), bias)


@lowers("mm", "matmul", "bmm")
def _matmul(c: Context, self: Any, other: Any = None, mat2: Any = None) -> Value:
    right = other if mat2 is None else mat2
    if isinstance(self, Value) and isinstance(right, Value):
        raise LayoutError(_TWO_MOVING, "attention is not compiled yet; use recurrent layers")
    if isinstance(self, Value):
        w = _flat(np.asarray(right))
        x = c.last_axis(self)
        if w.ndim == 1:
            y = c.linear(x, w[None, :])
            return c.view(y, y.axes[:-1])
        return c.linear(x, w.T)
    w = _flat(np.asarray(self))
    if w.ndim != 2 or len(right.axes) < 2:
        raise LayoutError("is a product of unusual shapes", "use nn.Linear")
    # W @ x contracts the second last axis: [batch, features, time] with a point-wise convolution.
    v = c.real(right)
    if kind_of(v.axes[-2]) != "F" or len(v.frame) != 1:
        raise LayoutError(f"multiplies along {describe(v.axes)}", "use nn.Linear on [.., features]")
    moved = (*v.axes[:-2], v.axes[-1], v.axes[-2])
    y = c.linear(Value(v.name, moved), w)
    return Value(y.name, (*y.axes[:-2], y.axes[-1], y.axes[-2]))


def _flat(w: Array) -> Array:
    """A stack of one matrix, or of equal ones, as that matrix."""
    while w.ndim > 2 and (w.shape[0] == 1 or np.array_equal(w[:-1], w[1:])):
        w = w[0]
    if w.ndim > 2:
        raise LayoutError("multiplies by a different matrix per batch or frame", "use nn.Linear")
    return w


# -- reductions over the features ----------------------------------------------------------------


@lowers("mean", "sum")
def _mean(
    c: Context, self: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    if dim is None:
        raise LayoutError("reduces over everything", "reduce over the features only: dim=-1")
    v = c.real(self)
    dims = sorted(v.axis(d) for d in ([dim] if isinstance(dim, int) else dim))
    for d in dims:
        if v.kind(d) in ("T", "B", "mixed"):
            word = "the batch" if v.kind(d) == "B" else "time"
            raise LayoutError(
                f"reduces over {word}",
                "take the last frame of a recurrent layer instead: y[:, -1]",
            )
    kept = [i for i in range(len(v.axes)) if i not in dims]
    if any(v.kind(i) == "F" and i > dims[0] and size_of(v.axes[i]) > 1 for i in kept):
        raise LayoutError("reduces over features that are not the last", "transpose first")
    n = math.prod(size_of(v.axes[d]) for d in dims)
    flat = c.view(v, (*(v.axes[i] for i in kept), (Atom("F", n),)))
    y = c.linear(flat, np.full((1, n), 1.0 / n if c.op.base == "mean" else 1.0))
    axes = [() if i in dims else v.axes[i] for i in range(len(v.axes))]
    return c.view(y, tuple(a for i, a in enumerate(axes) if keepdim or i not in dims))


# -- normalisations ------------------------------------------------------------------------------


@lowers("layer_norm", "native_layer_norm")
def _layer_norm(
    c: Context,
    input: Value,
    normalized_shape: list[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> list[Value]:
    v = c.real(input)
    k = len(normalized_shape)
    tail = v.axes[len(v.axes) - k :]
    if any(kind_of(axis) not in "F1" for axis in tail):
        raise LayoutError(
            f"normalises over {describe(tail)}, which holds time or the batch",
            "normalise over the features only",
        )
    n = math.prod(size_of(axis) for axis in tail)
    if n != math.prod(normalized_shape):
        raise LayoutError(f"normalises {list(normalized_shape)} of {describe(v.axes)}")
    gamma = np.ones(n) if weight is None else np.ravel(_constant(weight, "weight"))
    beta = np.zeros(n) if bias is None else np.ravel(_constant(bias, "bias"))
    flat = c.view(v, (*v.axes[: len(v.axes) - k], (Atom("F", n),)))
    y = c.emit(
        "norm",
        [flat.name, c.const(gamma, "weight"), c.const(beta, "bias")],
        flat.axes,
        eps=float(eps),
    )
    out = c.view(y, v.axes)
    return [out, out, out] if c.op.base == "native_layer_norm" else [out]


@lowers("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(
    c: Context,
    input: Value,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> list[Value]:
    """An affine function per channel (axis 1), with the statistics of training."""
    if training or running_mean is None or running_var is None:
        raise LayoutError("uses the statistics of the batch", "call model.eval() before exporting")
    mean, var = (np.asarray(a, np.float64) for a in (running_mean, running_var))
    scale = (1.0 if weight is None else np.asarray(weight)) / np.sqrt(var + eps)
    shift = (0.0 if bias is None else np.asarray(bias)) - mean * scale
    if len(input.axes) < 2 or input.kind(1) not in "F1":
        raise LayoutError(
            f"normalises axis 1 of {describe(input.axes)}, which is not a feature axis",
            "transpose so that the features are axis 1",
        )
    lead = (-1, *[1] * (len(input.axes) - 2))
    y = c.binary("mul", input, scale.reshape(lead), suffix="scale")
    out = c.binary("add", y, shift.reshape(lead))
    return [out, out, out]
