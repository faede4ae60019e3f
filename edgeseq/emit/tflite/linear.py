"""FULLY_CONNECTED: the one operator that multiplies by stored weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit.tflite.forms import Form, Tensors
from edgeseq.emit.tflite.writer import Quant

__all__ = ["fully_connected", "split_weights"]

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
    flat = x if len(x.shape) == 1 else t.reshape(x, (x.shape[-1],))
    real_bias = np.zeros(len(rows)) if bias is None else bias
    w, rows = _fit_rows(w, rows, real_bias / x.scale, 2.0**44 if wide else 2.0**29)
    # The scales are stored as float32; the bias is rounded against what the runtime will read.
    single = rows.astype(np.float32)
    unit = single.astype(np.float64) * np.float64(np.float32(x.scale))
    stored = np.floor(real_bias / unit + 0.5)
    scale = max(scale, float(unit.max()))  # multipliers above one are not taken everywhere
    scales = tuple(float(s) for s in single)
    weights = t.graph.constant(f"{t.where}_weights", w, Quant(scales))
    inputs: list[Form | int] = [flat, Form(weights, "int8", 1.0, w.shape)]
    if bias is None:
        inputs.append(-1)
    else:
        # An int64 bias: with int32 a 16-bit product needs a flag older runtimes do not know.
        dtype = np.int64 if wide else np.int32
        quant = Quant(tuple(float(u) for u in unit))
        inputs.append(t.graph.constant(f"{t.where}_bias", stored.astype(dtype), quant))
    lead = int(np.prod(x.shape[:-1], dtype=np.int64))
    y = t.new((len(rows),), x.dtype, scale, rows=lead)
    # Version 6 is the first that may lack a bias; 16-bit products came with 7.
    version = 7 if wide else 6 if bias is None else 4
    out = t.apply("FULLY_CONNECTED", inputs, y, version=version)
    return out if len(x.shape) == 1 else t.reshape(out, (*x.shape[:-1], len(rows)))


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
