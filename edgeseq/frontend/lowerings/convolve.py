"""Convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value, size_of
from edgeseq.frontend.build import convolve, reduce, transpose, views
from edgeseq.frontend.build.convolve import Sliding
from edgeseq.frontend.context import Array, Context, lowers
from edgeseq.frontend.lowerings.products import constant

Numbers = Any


def _per_axis(x: Numbers, rank: int, default: int = 1) -> list[int]:
    """A setting for each spatial axis; one number stands for all."""
    if x is None or x == []:
        return [default] * rank
    values = [int(x)] if isinstance(x, int | np.integer) else [int(n) for n in x]
    if len(values) not in (1, rank):
        raise LayoutError(f"has settings {values} for {rank} axes")
    return values * rank if len(values) == 1 else values


def _weights(weight: Any, bias: Any) -> tuple[Array, Array | None]:
    return constant(weight, "weight"), None if bias is None else constant(bias, "bias")


def _batched(c: Context, v: Value, rank: int) -> tuple[Value, bool]:
    """`v` with a batch axis; whether it was added."""
    if len(v.axes) == rank + 1:
        return views.unsqueeze(c, v, [0]), True
    return v, False


def _unbatched(c: Context, v: Value, added: bool) -> Value:
    if not added:
        return v
    rank = len(v.axes)
    y = views.squeeze(c, v, [0])
    assert len(y.axes) == rank - 1
    return y


def _conv(
    c: Context, v: Any, weight: Any, bias: Any, stride: Numbers, padding: Any, dilation: Numbers,
    groups: int,
) -> Value:  # fmt: skip
    if not isinstance(v, Value):
        raise LayoutError("filters a constant by weights that depend on the input")
    w, b = _weights(weight, bias)
    rank = w.ndim - 2
    v, added = _batched(c, v, rank)
    steps, wide = _per_axis(stride, rank), _per_axis(dilation, rank)
    kernel = list(w.shape[2:])
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise LayoutError(f"pads {padding!r}")
        pads = []
        for k, d in zip(kernel, wide, strict=True):
            total = d * (k - 1) if padding == "same" else 0
            pads.append((total // 2, total - total // 2))
    else:
        pads = [(p, p) for p in _per_axis(padding, rank, 0)]
    y = convolve.conv(c, v, w, b, Sliding(kernel, steps, wide, pads), groups)
    return _unbatched(c, y, added)


@lowers("conv1d", "conv2d", "conv3d")
def _conv_nd(
    c: Context, input: Any, weight: Any, bias: Any = None, stride: Numbers = 1, padding: Any = 0,
    dilation: Numbers = 1, groups: int = 1,
) -> Value:  # fmt: skip
    return _conv(c, input, weight, bias, stride, padding, dilation, groups)


@lowers("convolution", "_convolution")
def _convolution(
    c: Context, input: Any, weight: Any, bias: Any = None, stride: Numbers = 1, padding: Any = 0,
    dilation: Numbers = 1, transposed: bool = False, output_padding: Numbers = 0, groups: int = 1,
    **_: Any,
) -> Value:  # fmt: skip
    if transposed:
        return _transposed(
            c, input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return _conv(c, input, weight, bias, stride, padding, dilation, groups)


@lowers("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(
    c: Context, input: Any, weight: Any, bias: Any = None, stride: Numbers = 1,
    padding: Numbers = 0, output_padding: Numbers = 0, groups: int = 1, dilation: Numbers = 1,
) -> Value:  # fmt: skip
    w, b = _weights(weight, bias)
    rank = w.ndim - 2
    v, added = _batched(c, input, rank)
    s = Sliding(
        list(w.shape[2:]), _per_axis(stride, rank), _per_axis(dilation, rank),
        [(p, p) for p in _per_axis(padding, rank, 0)],
    )  # fmt: skip
    y = transpose.conv_transpose(c, v, w, b, s, groups, _per_axis(output_padding, rank, 0))
    return _unbatched(c, y, added)


# -- pooling -------------------------------------------------------------------------------------


def _pooling(
    kernel_size: Numbers,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    ceil: bool,
    rank: int,
) -> Sliding:
    kernel = _per_axis(kernel_size, rank)
    steps = kernel if stride is None or stride == [] else _per_axis(stride, rank)
    pads = [(p, p) for p in _per_axis(padding, rank, 0)]
    return Sliding(kernel, steps, _per_axis(dilation, rank), pads, ceil=ceil)


def _whole_windows(v: Value, s: Sliding) -> Sliding:
    """Without `ceil` along time where the example's length fits whole windows."""
    if not s.ceil:
        return s
    for i in range(len(s.kernel)):
        if v.kind(2 + i) == "T":
            raise LayoutError(
                "rounds the number of frames up (ceil_mode)", "pool without ceil_mode over time"
            )
    return s


@lowers("max_pool1d", "max_pool2d", "max_pool1d_with_indices", "max_pool2d_with_indices")
def _max_pool(
    c: Context, self: Value, kernel_size: Numbers, stride: Numbers = None, padding: Numbers = 0,
    dilation: Numbers = 1, ceil_mode: bool = False,
) -> list[Any]:  # fmt: skip
    if len(c.op.outputs) > 1 and c.op.outputs[1] in c.used:
        raise LayoutError("gives the places of the greatest", "do not use the indices")
    rank = 1 if "1d" in c.op.base else 2
    v, added = _batched(c, self, rank)
    s = _whole_windows(v, _pooling(kernel_size, stride, padding, dilation, ceil_mode, rank))
    y = _unbatched(c, convolve.max_pool(c, v, s), added)
    return [y, y]


@lowers("avg_pool1d", "avg_pool2d")
def _avg_pool(
    c: Context, self: Value, kernel_size: Numbers, stride: Numbers = None, padding: Numbers = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None,
) -> Value:  # fmt: skip
    rank = 1 if c.op.base == "avg_pool1d" else 2
    v, added = _batched(c, self, rank)
    s = _whole_windows(v, _pooling(kernel_size, stride, padding, 1, ceil_mode, rank))
    y = convolve.avg_pool(c, v, s, count_pads=bool(count_include_pad))
    if divisor_override:
        y = c.binary("mul", y, float(np.prod(s.kernel)) / divisor_override, suffix="divisor")
    return _unbatched(c, y, added)


@lowers("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d",
        "adaptive_max_pool1d", "adaptive_max_pool2d")  # fmt: skip
def _adaptive(c: Context, self: Value, output_size: Any) -> Any:
    """Windows whose number is given: element i reads from floor(i n/m) to ceil((i+1) n/m)."""
    greatest = "max" in c.op.base
    if greatest and len(c.op.outputs) > 1 and c.op.outputs[1] in c.used:
        raise LayoutError("gives the places of the greatest", "do not use the indices")
    rank = 1 if "1d" in c.op.base else 2
    v = self
    wanted = list(_sizes_of(output_size, rank))
    for i, m in enumerate(wanted):
        d = len(v.axes) - rank + i
        n = size_of(v.axes[d])
        m = n if m is None else m
        if v.kind(d) == "T" and m == n > 1:
            c.note(f"pools to {m} frames, as many as the example has: read as all frames")
            continue
        if v.kind(d) not in "F1":
            word = "time" if v.kind(d) in ("T", "mixed") else "the batch"
            raise LayoutError(
                f"pools all of {word} into {m}",
                "a stream has no end: take the last frame of a recurrent layer (y[:, -1]), or "
                "compile in window mode (--window N --hop N)",
            )
        if m == n:
            continue
        parts = []
        for k in range(m):
            piece = views.slice_axis(c, v, d, k * n // m, -(-(k + 1) * n // m))
            one = (
                reduce.greatest(c, piece, [d], keep=True)
                if greatest
                else reduce.mean(c, piece, [d], keep=True)
            )
            parts.append(one)
        v = views.concat(c, parts, d) if m > 1 else parts[0]
    return [v, v] if greatest else v


def _sizes_of(size: Any, rank: int) -> Sequence[int | None]:
    if isinstance(size, int | np.integer):
        return [int(size)] * rank
    return [None if n is None else int(n) for n in size]
