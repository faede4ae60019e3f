"""Products, convolutions, pooling, normalisations, reductions and softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, size_of
from edgeseq.frontend.build import arith, convolve, products, reduce, transpose, views
from edgeseq.frontend.build.convolve import Sliding
from edgeseq.frontend.context import Context
from edgeseq.frontend.onnx_registry import Inputs, constant, ints, onnx


@onnx("MatMul")
def _matmul(c: Context, x: Inputs, **_: Any) -> Value:
    return products.matmul(c, x[0], x[1])


@onnx("Gemm")
def _gemm(
    c: Context, x: Inputs, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,
    **_: Any,
) -> Value:  # fmt: skip
    a, b = x[0], x[1]
    if transA:
        a = views.permute(c, a, [1, 0]) if isinstance(a, Value) else np.transpose(a)
    if transB:
        b = views.permute(c, b, [1, 0]) if isinstance(b, Value) else np.transpose(b)
    bias = x[2] if len(x) > 2 else None
    if isinstance(a, Value) and not isinstance(b, Value):
        w = np.asarray(b, np.float64) * alpha
        if bias is not None and not isinstance(bias, Value):
            flat = np.asarray(bias, np.float64) * beta
            if flat.size in (1, w.shape[1]) and (flat.ndim < 2 or flat.shape[0] == 1):
                full = np.broadcast_to(flat.reshape(-1), (w.shape[1],))
                return products.linear(c, a, w.T, full)
        y = products.linear(c, a, w.T)
    else:
        y = products.matmul(c, a, b)
        y = y if alpha == 1.0 else c.binary("mul", y, alpha, suffix="alpha")
    if bias is None:
        return y
    if beta != 1.0:
        bias = (
            c.binary("mul", bias, beta, suffix="beta")
            if isinstance(bias, Value)
            else np.asarray(bias) * beta
        )
    return c.binary("add", y, bias)


@onnx("Einsum")
def _einsum(c: Context, x: Inputs, equation: str = "", **_: Any) -> Value:
    return products.einsum(c, equation, [t for t in x if t is not None])


# -- convolution and pooling ---------------------------------------------------------------------


def _sliding(
    v: Value, kernel: Any, auto_pad: str, dilations: Any, pads: Any, strides: Any, ceil: int = 0
) -> Sliding:
    kernel = list(kernel)
    rank = len(kernel)
    given = list(pads) if pads is not None else [0] * (2 * rank)
    pairs = [(given[i], given[rank + i]) for i in range(rank)]
    s = Sliding(kernel, strides, dilations, pairs, ceil=bool(ceil))
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        if any(v.kind(2 + i) == "T" and s.stride[i] > 1 for i in range(rank)):
            raise LayoutError("pads by the length of the sequence", "state the padding in numbers")
        sizes = [size_of(v.axes[2 + i]) for i in range(rank)]
        s = Sliding(kernel, strides, dilations, convolve.same_pads(auto_pad, sizes, s))
    elif auto_pad == "VALID":
        s = Sliding(kernel, strides, dilations, None, ceil=bool(ceil))
    return s


@onnx("Conv")
def _conv(
    c: Context, x: Inputs, auto_pad: str = "NOTSET", dilations: Any = None, group: int = 1,
    kernel_shape: Any = None, pads: Any = None, strides: Any = None, **_: Any,
) -> Value:  # fmt: skip
    w = constant(x[1], "weight")
    bias = None if len(x) < 3 or x[2] is None else constant(x[2], "bias")
    s = _sliding(x[0], w.shape[2:], auto_pad, dilations, pads, strides)
    return convolve.conv(c, x[0], w, bias, s, group)


@onnx("ConvTranspose")
def _conv_transpose(
    c: Context, x: Inputs, auto_pad: str = "NOTSET", dilations: Any = None, group: int = 1,
    kernel_shape: Any = None, output_padding: Any = None, output_shape: Any = None,
    pads: Any = None, strides: Any = None, **_: Any,
) -> Value:  # fmt: skip
    w = constant(x[1], "weight")
    bias = None if len(x) < 3 or x[2] is None else constant(x[2], "bias")
    rank = w.ndim - 2
    s = _sliding(x[0], w.shape[2:], "NOTSET", dilations, pads, strides)
    more = list(output_padding or [0] * rank)
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        pairs = []
        for i in range(rank):
            n = size_of(x[0].axes[2 + i])
            want = output_shape[-rank + i] if output_shape is not None else n * s.stride[i]
            total = s.stride[i] * (n - 1) + more[i] + s.reach(i) - want
            lo = total // 2 if auto_pad != "SAME_LOWER" else total - total // 2
            if total < 0:
                more[i], total, lo = more[i] - total, 0, 0
            pairs.append((lo, total - lo))
        s = Sliding(s.kernel, s.stride, s.dilation, pairs)
    return transpose.conv_transpose(c, x[0], w, bias, s, group, more)


@onnx("MaxPool")
def _max_pool(
    c: Context, x: Inputs, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = None,
    kernel_shape: Any = None, pads: Any = None, strides: Any = None, **_: Any,
) -> list[Any]:  # fmt: skip
    s = _sliding(x[0], kernel_shape, auto_pad, dilations, pads, strides, ceil_mode)
    if len(c.op.outputs) > 1 and c.op.outputs[1] in c.used:
        raise LayoutError("gives the places of the greatest")
    y = convolve.max_pool(c, x[0], s)
    return [y, y]


@onnx("AveragePool")
def _average_pool(
    c: Context, x: Inputs, auto_pad: str = "NOTSET", ceil_mode: int = 0,
    count_include_pad: int = 0, dilations: Any = None, kernel_shape: Any = None, pads: Any = None,
    strides: Any = None, **_: Any,
) -> Value:  # fmt: skip
    s = _sliding(x[0], kernel_shape, auto_pad, dilations, pads, strides, ceil_mode)
    return convolve.avg_pool(c, x[0], s, count_pads=bool(count_include_pad))


@onnx("LpPool")
def _lp_pool(
    c: Context, x: Inputs, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = None,
    kernel_shape: Any = None, p: int = 2, pads: Any = None, strides: Any = None, **_: Any,
) -> Value:  # fmt: skip
    if p != 2:
        raise LayoutError(f"pools with power {p}", "use 2")
    s = _sliding(x[0], kernel_shape, auto_pad, dilations, pads, strides, ceil_mode)
    square = c.binary("mul", x[0], x[0], suffix="square")
    y = convolve.avg_pool(c, square, s, count_pads=True)
    return arith.wide(c, "sqrt", c.binary("mul", y, float(math.prod(s.kernel)), suffix="sum"))


@onnx("GlobalAveragePool")
def _global_average(c: Context, x: Inputs, **_: Any) -> Value:
    return reduce.mean(c, x[0], range(2, len(x[0].axes)), keep=True)


@onnx("GlobalMaxPool")
def _global_max(c: Context, x: Inputs, **_: Any) -> Value:
    return reduce.greatest(c, x[0], range(2, len(x[0].axes)), keep=True)


# -- normalisations ------------------------------------------------------------------------------


@onnx("BatchNormalization")
def _batch_norm(
    c: Context, x: Inputs, epsilon: float = 1e-5, training_mode: int = 0, **_: Any
) -> list[Any]:
    if training_mode:
        raise LayoutError("uses the statistics of the batch", "export in eval mode")
    scale, bias, mean, var = (
        np.asarray(constant(x[i], what), np.float64)
        for i, what in enumerate(("scale", "bias", "mean", "variance"), 1)
    )
    gain = scale / np.sqrt(var + epsilon)
    if len(x[0].axes) < 2 or x[0].kind(1) not in "F1":
        raise LayoutError("normalises an axis that is not of features")
    return [reduce.channel_affine(c, x[0], gain, bias - mean * gain)] * 5


@onnx("LayerNormalization")
def _layer_norm(
    c: Context, x: Inputs, axis: int = -1, epsilon: float = 1e-5, **_: Any
) -> list[Any]:
    d = x[0].axis(axis)
    bias = x[2] if len(x) > 2 else None
    if any(o in c.used for o in c.op.outputs[1:] if o):
        raise LayoutError("gives its statistics")
    y = reduce.layer_norm(c, x[0], len(x[0].axes) - d, x[1], bias, epsilon)
    return [y, y, y]


@onnx("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(c: Context, x: Inputs, axis: int = -1, epsilon: float = 1e-5, **_: Any) -> Value:
    v = x[0]
    dims = list(range(v.axis(axis), len(v.axes)))
    square = reduce.mean(c, c.binary("mul", v, v, suffix="square"), dims, keep=True)
    root = arith.wide(c, "rsqrt", c.binary("add", square, epsilon, suffix="eps"))
    return c.binary("mul", c.binary("mul", v, root, suffix="unit"), constant(x[1], "scale"))


@onnx("GroupNormalization")
def _group_norm(
    c: Context, x: Inputs, epsilon: float = 1e-5, num_groups: int = 1, legacy: bool = False,
    **_: Any,
) -> Value:  # fmt: skip
    scale, bias = constant(x[1], "scale"), constant(x[2], "bias")
    if legacy:
        channels = size_of(x[0].axes[1])
        scale, bias = (np.repeat(v, channels // num_groups) for v in (scale, bias))
    return reduce.group_norm(c, x[0], num_groups, scale, bias, epsilon)


@onnx("InstanceNormalization")
def _instance_norm(c: Context, x: Inputs, epsilon: float = 1e-5, **_: Any) -> Value:
    channels = size_of(x[0].axes[1])
    return reduce.group_norm(c, x[0], channels, x[1], x[2], epsilon)


@onnx("LpNormalization")
def _lp_norm(c: Context, x: Inputs, axis: int = -1, p: int = 2, **_: Any) -> Value:
    v = x[0]
    if p == 1:
        total = reduce.mean(c, c.lut("abs", v, suffix="abs"), [axis], keep=True, total=True)
        return arith.divide(c, v, c.unary("clamp", total, suffix="floor", lo=1e-30, hi=None))
    square = c.binary("mul", v, v, suffix="square")
    total = reduce.mean(c, square, [axis], keep=True, total=True)
    total = c.unary("clamp", total, suffix="floor", lo=1e-30, hi=None)  # zeros stay zeros
    return c.binary("mul", v, arith.wide(c, "rsqrt", total))


@onnx("LRN")
def _lrn(
    c: Context, x: Inputs, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0,
    size: int = 1, **_: Any,
) -> Value:  # fmt: skip
    v = x[0]
    channels = size_of(v.axes[1])
    lo = (size - 1) // 2
    near = np.subtract.outer(np.arange(channels), np.arange(channels))
    band = ((near <= lo) & (near >= lo + 1 - size)).astype(np.float64)
    square = c.binary("mul", v, v, suffix="square")
    rank = len(v.axes)
    last = [0, *range(2, rank), 1]
    total = products.linear(c, views.permute(c, square, last), band * alpha / size)
    total = views.permute(c, total, [0, rank - 1, *range(1, rank - 1)])
    return c.binary("mul", v, arith.power(c, c.binary("add", total, bias, suffix="bias"), -beta))


# -- reductions and softmax ------------------------------------------------------------------------


def _axes(x: Inputs, attrs: dict[str, Any]) -> list[int] | str | None:
    axes = ints(x[1], "axes") if len(x) > 1 else None
    if axes is None or axes == []:
        return "same" if attrs.get("noop_with_empty_axes") else None
    return axes


def _reduction(kind: str) -> Any:
    def lower(c: Context, x: Inputs, keepdims: int = 1, **attrs: Any) -> Value:
        v, axes, keep = x[0], _axes(x, attrs), bool(keepdims)
        if axes == "same":
            if kind in ("mean", "sum", "max", "min"):
                return v
            raise LayoutError("reduces over nothing")
        assert not isinstance(axes, str)
        if kind in ("mean", "sum"):
            return reduce.mean(c, v, axes, keep=keep, total=kind == "sum")
        if kind in ("max", "min"):
            return reduce.greatest(c, v, axes, keep=keep, op=kind)
        if kind in ("square", "l2"):
            y = reduce.mean(c, c.binary("mul", v, v, suffix="square"), axes, keep=keep, total=True)
            return y if kind == "square" else arith.wide(c, "sqrt", y)
        if kind == "l1":
            return reduce.mean(c, c.lut("abs", v, suffix="abs"), axes, keep=keep, total=True)
        if kind == "logsum":
            return arith.wide(c, "log", reduce.mean(c, v, axes, keep=keep, total=True))
        top = reduce.greatest(c, v, axes, keep=True)
        total = reduce.mean(
            c, c.lut("exp", c.binary("sub", v, top, suffix="less"), suffix="exp"), axes,
            keep=True, total=True,
        )  # fmt: skip
        y = c.binary("add", arith.wide(c, "log", total), top)
        if keep:
            return y
        gone = range(len(v.axes)) if axes is None else axes
        return views.squeeze(c, y, [v.axis(d) for d in gone])

    return lower


for _name, _kind in (
    ("ReduceMean", "mean"),
    ("ReduceSum", "sum"),
    ("ReduceMax", "max"),
    ("ReduceMin", "min"),
    ("ReduceSumSquare", "square"),
    ("ReduceL2", "l2"),
    ("ReduceL1", "l1"),
    ("ReduceLogSum", "logsum"),
    ("ReduceLogSumExp", "logsumexp"),
):
    onnx(_name)(_reduction(_kind))


@onnx("Softmax")
def _softmax(c: Context, x: Inputs, axis: int = -1, legacy: bool = False, **_: Any) -> Value:
    v = x[0]
    d = v.axis(axis)
    if legacy and any(size_of(a) != 1 for a in v.axes[d + 1 :]):
        flat = views.reshape(c, v, [*v.sizes[:d], math.prod(v.sizes[d:])])
        return views.reshape(c, reduce.softmax(c, flat, d), v.sizes)
    return reduce.softmax(c, v, d)


@onnx("LogSoftmax")
def _log_softmax(c: Context, x: Inputs, axis: int = -1, legacy: bool = False, **_: Any) -> Value:
    v = x[0]
    d = v.axis(axis)
    if legacy and any(size_of(a) != 1 for a in v.axes[d + 1 :]):
        raise LayoutError("is a softmax over several axes")
    top = reduce.greatest(c, v, [d], keep=True)
    less = c.binary("sub", v, top, suffix="less")
    total = reduce.mean(c, c.lut("exp", less, suffix="exp"), [d], keep=True, total=True)
    return c.binary("sub", less, arith.wide(c, "log", total))


# -- attention -----------------------------------------------------------------------------------


@onnx("Attention")
def _attention(
    c: Context, x: Inputs, is_causal: int = 0, kv_num_heads: int | None = None,
    q_num_heads: int | None = None, scale: float | None = None, softcap: float = 0.0,
    qk_matmul_output_mode: int = 0, **other: Any,
) -> list[Any]:  # fmt: skip
    other.pop("softmax_precision", None)
    odd = sorted(k for k, value in other.items() if value not in (None, -1, 0))
    if odd:
        raise LayoutError(f"has the setting {odd[0]!r}", "state the window as a mask")
    q, k, v = x[:3]
    if not all(isinstance(t, Value) for t in (q, k, v)):
        raise LayoutError("attends with constants")
    if any(t is not None for t in x[4:]) or softcap or any(o in c.used for o in c.op.outputs[1:]):
        raise LayoutError("keeps a cache of its own, or a soft cap", "use MatMul and Softmax")
    flat = len(q.axes) == 3
    if flat:
        if any(t.kind(2) not in "F1" for t in (q, k, v)):
            raise LayoutError("divides time among its heads", "transpose so that features are last")
        q, k, v = (
            views.permute(
                c, views.reshape(c, t, [*t.sizes[:2], n or 1, t.sizes[2] // (n or 1)]), [0, 2, 1, 3]
            )
            for t, n in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads))
        )
    heads, shared = size_of(q.axes[1]), size_of(k.axes[1])
    if heads != shared:
        index = np.repeat(np.arange(shared), heads // shared)
        k, v = views.take(c, k, 1, index), views.take(c, v, 1, index)
    mask = None if len(x) < 4 or x[3] is None else constant(x[3], "mask")
    if mask is not None and is_causal:
        n, m = mask.shape[-2:]
        if mask.dtype == bool:
            mask = np.where(mask, 0.0, -np.inf)
        mask = np.where(np.tril(np.ones((n, m), bool)), mask, -np.inf)
    y = products.attention(c, q, k, v, mask, scale, causal=bool(is_causal))
    if flat:
        y = views.permute(c, y, [0, 2, 1, 3])
        y = views.reshape(c, y, [*y.sizes[:2], y.sizes[2] * y.sizes[3]])
    return [y, y, y, y]
