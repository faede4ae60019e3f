"""Products with stored weights: FULLY_CONNECTED, CONV_2D and DEPTHWISE_CONV_2D."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._convolution import Convolution
from edgeseq.emit.tflite.forms import Form, Tensors
from edgeseq.emit.tflite.writer import Quant

__all__ = [
    "column",
    "conv_options",
    "convolve",
    "fully_connected",
    "product_error",
    "split_weights",
]

Array = npt.NDArray[Any]


def split_weights(w: Array) -> tuple[Array, Array, Array]:
    """16-bit weights as ``high * base + low`` with int8 parts and a base per row.

    Args:
        w: int16 [O, K].

    Returns:
        high int8 [O, K], low int8 [O, K], base float64 [O, 1 per row]; low is exact except in
        rows that use nearly all 16 bits, where it may be off by 2.
    """
    top = np.abs(w.astype(np.int64)).max(axis=1)
    base = np.maximum(-(-top // 127), 1)
    high = np.clip(np.floor(w / base[:, None] + 0.5), -127, 127).astype(np.int64)
    low = np.clip(w - high * base[:, None], -128, 127)
    return high.astype(np.int8), low.astype(np.int8), base.astype(np.float64)


def fully_connected(
    t: Tensors, x: Form, w: Array, rows: Array, bias: Array | None, scale: float
) -> Form:
    """``y = W x + b`` over the last axis of `x`, in the width of `x`.

    Args:
        t: what to write to.
        x: int8 or int16, [..., K].
        w: int8 [O, K].
        rows: real value of one stored weight of each row, float64 [O].
        bias: real, float64 [O], or None for none.
        scale: of the result, or the finest that the runtimes take if that is coarser.

    Returns:
        [..., O], the width of `x`.
    """
    wide = x.dtype == "int16"
    # tflite-runtime 2.14 is wrong for rank 3 with per-channel weights: the product is of rank 2.
    flat = t.rows(x, 1)
    w, scales, stored = _stored(x.scale, x.dtype, w, rows, bias)
    weights = t.graph.constant(f"{t.where}_weights", w, Quant(scales))
    inputs: list[Form | int] = [flat, Form(weights, "int8", 1.0, w.shape)]
    inputs.append(-1 if bias is None else _bias(t, x, scales, stored))
    # Multipliers above one are not taken everywhere.
    scale = max(scale, float(_units(x.scale, scales).max()))
    y = t.new((len(rows),), x.dtype, scale, rows=math.prod(x.shape[:-1]))
    # Version 6 is the first that may lack a bias; 16-bit products came with 7.
    version = 7 if wide else 6 if bias is None else 4
    out = t.apply("FULLY_CONNECTED", inputs, y, version=version)
    return out if len(x.shape) == 1 else t.reshape(out, (*x.shape[:-1], len(rows)))


def column(k: int, channels: int) -> Convolution:
    """The one window of a `depthwise` product that is no convolution: [k, 1, channels]."""
    return Convolution("", (k, 1, channels), (0, 0), (k, 1), (1, 1), (1, 1), (1, 1))


def conv_options(conv: Convolution, *, depthwise: bool) -> tuple[str, dict[str, Any]]:
    """Options of CONV_2D or DEPTHWISE_CONV_2D, without padding."""
    (h, w), (dh, dw) = conv.stride, conv.dilation
    options = {"padding": 1, "strideH": h, "strideW": w}
    options |= {"dilationHFactor": dh, "dilationWFactor": dw}
    if depthwise:
        return "DepthwiseConv2DOptions", {**options, "depthMultiplier": 1}
    return "Conv2DOptions", options


def convolve(
    t: Tensors,
    x: Form,
    conv: Convolution,
    w: Array,
    rows: Array,
    bias: Array | None,
    scale: float,
    *,
    depthwise: bool,
) -> Form:
    """Products with the windows of an image, in the width of `x`.

    Args:
        t: what to write to.
        x: int8 or int16, [*image of conv] (before it axes that are joined with the batch).
        conv: the windows.
        w: int8 [O, K], of a depthwise product [C, K].
        rows: real value of one stored weight of each row of w, float64 [O].
        bias: real, float64 [O], or None for none.
        scale: as of `fully_connected`.
        depthwise: every channel has weights of its own.

    Returns:
        [rows, columns, O], the width of `x`.
    """
    w, scales, stored = _stored(x.scale, x.dtype, w, rows, bias)
    filters = conv.filters(w.T if depthwise else w, depthwise=depthwise)
    axis = 3 if depthwise else 0
    order = (2, 0, 1, 3) if depthwise else (3, 0, 1, 2)
    weights = t.graph.constant(
        f"{t.where}_weights", filters.transpose(order), Quant(scales, axis=axis)
    )
    image = t.rows(x, 3)
    if conv.part != conv.image:
        image = t.part(image, (*conv.start, 0), conv.part)
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    shape = (*conv.positions, len(rows))
    # Multipliers above one are not taken everywhere.
    scale = max(scale, float(_units(x.scale, scales).max()))
    out = t.new(shape, x.dtype, scale, rows=math.prod(x.shape[:-3]))
    inputs: list[Form | int] = [image, weights, _bias(t, x, scales, stored)]
    return t.apply(kind, inputs, out, options=conv_options(conv, depthwise=depthwise))


def product_error(
    unit: float, dtype: str, w: Array, rows: Array, bias: Array | None, scale: float
) -> tuple[float, float]:
    """The scale that a product's result gets, and how far it may be off; both real.

    The bias is rounded to a unit of the accumulator, input unit times row unit; so is the result
    where that is coarser than `scale`, in units of the coarsest row: the others are rounded to it.

    Args:
        unit, dtype: scale and width of the input.
        w, rows, bias, scale: as of `fully_connected`.
    """
    _, scales, stored = _stored(unit, dtype, w, rows, bias)
    units = _units(unit, scales)
    scale = max(scale, float(units.max()))
    off = np.where(units == scale, 0.0, scale / 2.0)
    if bias is not None:
        off = off + np.abs(stored * units - bias)
    return scale, float(off.max())


def _stored(
    unit: float, dtype: str, w: Array, rows: Array, bias: Array | None
) -> tuple[Array, tuple[float, ...], Array]:
    """Weights, their scales, and the stored bias, for an input of scale `unit`."""
    real = np.zeros(len(rows)) if bias is None else bias
    w = np.where(rows[:, None] < 0, -np.maximum(w, -127), w) * (rows[:, None] != 0)
    w, rows = _fit_rows(w, np.abs(rows), real / unit, 2.0 ** (44 if dtype == "int16" else 29))
    # The scales are stored as float32; the bias is rounded against what the runtime will read.
    single = rows.astype(np.float32)
    stored = np.floor(real / _units(unit, single) + 0.5)
    return w, tuple(float(s) for s in single), stored


def _units(unit: float, scales: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Real value of one unit of each row's accumulator."""
    return np.asarray(scales, np.float64) * np.float64(np.float32(unit))


def _bias(t: Tensors, x: Form, scales: tuple[float, ...], stored: Array) -> int:
    # An int64 bias: with int32 a 16-bit product needs a flag older runtimes do not know.
    dtype = np.int64 if x.dtype == "int16" else np.int32
    quant = Quant(tuple(float(u) for u in _units(x.scale, scales)))
    return t.graph.constant(f"{t.where}_bias", stored.astype(dtype), quant)


def _fit_rows(w: Array, rows: Array, bias: Array, top: float) -> tuple[Array, Array]:
    """Coarsen the rows whose bias would not fit its integer: their weights hardly count.

    Args:
        w, rows: weights and their scales.
        bias: real bias over the input's scale [O].
        top: largest stored bias.
    """
    used = np.any(w != 0, axis=1)
    typical = float(rows[used].max()) if used.any() else 1.0
    wanted = np.where(used, rows, typical)
    wanted = np.maximum(wanted, np.abs(bias) / top)
    if np.array_equal(wanted, rows):
        return w, rows
    moved = np.clip(np.floor(w * (rows / wanted)[:, None] + 0.5), -127, 127).astype(np.int8)
    return np.where((wanted == rows)[:, None], w, moved), wanted
