"""Reductions over the features of a frame, softmax and normalisations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, describe, size_of
from edgeseq.frontend.build import arith, reduce, views
from edgeseq.frontend.context import Context, lowers
from edgeseq.frontend.lowerings.products import constant


def _dims(dim: Any) -> list[int] | None:
    if dim is None or dim == []:
        return None
    return [dim] if isinstance(dim, int) else list(dim)


@lowers("mean", "sum")
def _mean(
    c: Context, self: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    return reduce.mean(c, self, _dims(dim), keep=keepdim, total=c.op.base == "sum")


@lowers("max", "min")
def _extreme(
    c: Context, self: Any, dim: Any = None, keepdim: bool = False, other: Any = None
) -> Any:
    if other is not None:
        return c.binary(c.op.base, self, other)
    if dim is None:
        return reduce.greatest(c, self, None, keep=False, op=c.op.base)
    if len(c.op.outputs) > 1 and c.op.outputs[1] in c.used:
        raise LayoutError(
            f"gives the place of the {'greatest' if c.op.base == 'max' else 'least'}",
            "return the scores: the device compares them",
        )
    y = reduce.greatest(c, self, _dims(dim), keep=keepdim, op=c.op.base)
    return [y, y]


def _variance(
    c: Context, v: Value, dim: Any, correction: Any, unbiased: bool | None, keep: bool
) -> tuple[Value, Value]:
    """(variance, mean) over feature axes."""
    dims = _dims(dim)
    n = math.prod(
        size_of(v.axes[v.axis(d)]) for d in (range(len(v.axes)) if dims is None else dims)
    )
    less = (1 if unbiased in (None, True) else 0) if correction is None else float(correction)
    if n <= less:
        raise LayoutError(f"is the variance of {n} elements")
    center = reduce.mean(c, v, dims, keep=True)
    gap = c.binary("sub", v, center, suffix="gap")
    square = c.binary("mul", gap, gap, suffix="square")
    var = reduce.mean(c, square, dims, keep=keep)
    if less:
        var = c.binary("mul", var, n / (n - less), suffix="correction")
    if not keep:
        gone = range(len(v.axes)) if dims is None else [v.axis(d) for d in dims]
        center = views.squeeze(c, center, list(gone))
    return var, center


@lowers("var", "std", "var_mean", "std_mean")
def _var(
    c: Context, self: Value, dim: Any = None, correction: Any = None, unbiased: bool | None = None,
    keepdim: bool = False,
) -> Any:  # fmt: skip
    var, center = _variance(c, self, dim, correction, unbiased, keepdim)
    if c.op.base.startswith("std"):
        var = arith.wide(c, "sqrt", var)
    return [var, center] if c.op.base.endswith("_mean") else var


@lowers("linalg_vector_norm", "norm", "linalg_norm")
def _norm(
    c: Context, self: Value, ord: Any = 2, p: Any = None, dim: Any = None, keepdim: bool = False,
    dtype: Any = None,
) -> Value:  # fmt: skip
    order = 2 if (ord if p is None else p) is None else float(ord if p is None else p)
    dims = _dims(dim)
    if order == 2:
        square = c.binary("mul", self, self, suffix="square")
        return arith.wide(c, "sqrt", reduce.mean(c, square, dims, keep=keepdim, total=True))
    size = c.lut("abs", self, suffix="abs")
    if order == 1:
        return reduce.mean(c, size, dims, keep=keepdim, total=True)
    if order in (float("inf"), float("-inf")):
        return reduce.greatest(c, size, dims, keep=keepdim, op="max" if order > 0 else "min")
    raise LayoutError(f"is a norm of order {order:g}", "use 1, 2 or infinity")


@lowers("cosine_similarity")
def _cosine(c: Context, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Value:
    product = reduce.mean(c, c.binary("mul", x1, x2), [dim], keep=False, total=True)
    for x in (x1, x2):
        if isinstance(x, Value):
            square = c.binary("mul", x, x, suffix="square")
            total = reduce.mean(c, square, [dim], keep=False, total=True)
            floor = c.binary("max", total, np.full(1, eps * eps), suffix="floor")
            product = c.binary("mul", product, arith.wide(c, "rsqrt", floor))
        else:
            length = np.maximum(np.sqrt(np.sum(np.square(x), axis=dim)), eps)
            product = c.binary("mul", product, 1.0 / length)
    return product


@lowers("prod")
def _prod(
    c: Context, self: Value, dim: int | None = None, keepdim: bool = False, **_: Any
) -> Value:
    v = self
    if dim is None:
        raise LayoutError("multiplies all elements", "name an axis")
    d = v.axis(dim)
    if v.kind(d) not in "F1":
        raise LayoutError("multiplies over time or the batch")
    parts = [views.select(c, v, d, i) for i in range(size_of(v.axes[d]))]
    y = parts[0]
    for part in parts[1:]:
        y = c.binary("mul", y, part)
    return views.unsqueeze(c, y, [d]) if keepdim else y


@lowers("logsumexp")
def _logsumexp(c: Context, self: Value, dim: Any, keepdim: bool = False) -> Value:
    dims = _dims(dim)
    top = reduce.greatest(c, self, dims, keep=True)
    grown = c.lut("exp", c.binary("sub", self, top, suffix="less"), suffix="exp")
    total = reduce.mean(c, grown, dims, keep=True, total=True)
    y = c.binary("add", arith.wide(c, "log", total), top)
    if keepdim:
        return y
    gone = range(len(self.axes)) if dims is None else dims
    return views.squeeze(c, y, [self.axis(d) for d in gone])


# -- softmax -------------------------------------------------------------------------------------


@lowers("softmax", "_softmax", "_safe_softmax")
def _softmax(c: Context, self: Value, dim: int, **_: Any) -> Value:
    return reduce.softmax(c, self, dim)


@lowers("softmin")
def _softmin(c: Context, self: Value, dim: int, **_: Any) -> Value:
    return reduce.softmax(c, c.binary("mul", self, -1.0, suffix="neg"), dim)


@lowers("log_softmax", "_log_softmax")
def _log_softmax(c: Context, self: Value, dim: int, **_: Any) -> Value:
    """x - max - log sum exp(x - max)"""
    d = self.axis(dim)
    top = reduce.greatest(c, self, [d], keep=True)
    less = c.binary("sub", self, top, suffix="less")
    total = reduce.mean(c, c.lut("exp", less, suffix="exp"), [d], keep=True, total=True)
    return c.binary("sub", less, arith.wide(c, "log", total))


# -- normalisations ------------------------------------------------------------------------------


@lowers("layer_norm", "native_layer_norm")
def _layer_norm(
    c: Context, input: Value, normalized_shape: list[int], weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> list[Value]:  # fmt: skip
    k = len(normalized_shape)
    if list(input.sizes[len(input.axes) - k :]) != list(normalized_shape):
        raise LayoutError(f"normalises {list(normalized_shape)} of {describe(input.axes)}")
    _unread(c, 1)
    y = reduce.layer_norm(c, input, k, weight, bias, eps)
    return [y, y, y] if c.op.base == "native_layer_norm" else [y]


def _unread(c: Context, first: int) -> None:
    if any(o in c.used for o in c.op.outputs[first:] if o):
        raise LayoutError("gives its statistics", "compute them with mean and var")


@lowers("rms_norm", "_fused_rms_norm")
def _rms_norm(
    c: Context, input: Value, normalized_shape: list[int], weight: Any = None,
    eps: float | None = None,
) -> list[Value]:  # fmt: skip
    """x / sqrt(mean x² + eps) · w"""
    _unread(c, 1)
    dims = [len(input.axes) - 1 - i for i in range(len(normalized_shape))]
    epsilon = float(np.finfo(np.float32).eps) if eps is None else float(eps)
    square = c.binary("mul", input, input, suffix="square")
    power = c.binary("add", reduce.mean(c, square, dims, keep=True), epsilon, suffix="eps")
    y = c.binary("mul", input, arith.wide(c, "rsqrt", power), suffix="unit")
    y = y if weight is None else c.binary("mul", y, constant(weight, "weight"))
    return [y, y]


@lowers("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm")  # fmt: skip
def _batch_norm(
    c: Context, input: Value, weight: Any = None, bias: Any = None, running_mean: Any = None,
    running_var: Any = None, training: bool = False, momentum: Any = 0.1, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> list[Value]:  # fmt: skip
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


@lowers("group_norm")
def _group_norm(
    c: Context, input: Value, num_groups: int, weight: Any = None, bias: Any = None,
    eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Value:  # fmt: skip
    return reduce.group_norm(c, input, num_groups, weight, bias, eps)


@lowers("native_group_norm")
def _native_group_norm(
    c: Context, input: Value, weight: Any, bias: Any, N: int, C: int, HxW: int, group: int,
    eps: float,
) -> list[Value]:  # fmt: skip
    _unread(c, 1)
    y = reduce.group_norm(c, input, group, weight, bias, eps)
    return [y, y, y]


@lowers("instance_norm")
def _instance_norm(
    c: Context, input: Value, weight: Any = None, bias: Any = None, running_mean: Any = None,
    running_var: Any = None, use_input_stats: bool = True, momentum: Any = 0.1, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:  # fmt: skip
    if not use_input_stats:
        return _batch_norm(c, input, weight, bias, running_mean, running_var, eps=eps)[0]
    return reduce.group_norm(c, input, size_of(input.axes[1]), weight, bias, eps)
