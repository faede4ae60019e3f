"""Sums of products: constant matrices, one filter per channel, products of two values, norms."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import QuantiseError
from edgeseq.fixed import INT_RANGE, multiplier
from edgeseq.ir.types import Type
from edgeseq.quant.converter import Converter, stored
from edgeseq.quant.structure import Site
from edgeseq.quant.weights import group_ends, quantise_channels, quantise_groups

__all__ = ["depthwise", "linear", "matmul", "norm"]

Array = npt.NDArray[Any]


def linear(c: Converter, site: Site) -> str:
    """Every group of the real node becomes one or more, each with an accumulator of its own."""
    node = site.node
    rows = c.graph.types[node.inputs[1]].shape[0]
    bits = c.options.weights_of(site.name)
    inputs: list[str] = []
    scales: list[Array] = []  # real value of one unit of each group's accumulator, per row
    reach = np.zeros(rows)
    for g in range(len(node.inputs) // 2):
        name, matrix = node.inputs[2 * g], node.inputs[2 * g + 1]
        views = _views(c, site, name)
        x_max = max(-INT_RANGE[c.type(v).dtype][0] for v in views)
        q, parts, names = _rounded(c, c.path + name, matrix, bits, x_max)
        for view in views:
            unit = c.type(view).scalar_scale
            for (start, stop, scale), w in zip(parts, names, strict=True):
                inputs += [c.part(view, start, stop), w]
                levels = np.abs(q[:, start:stop].astype(np.float64)).sum(axis=1)
                # A row of zeros multiplies by zero: its scale means nothing and must not count.
                scales.append(np.where(levels > 0, scale * unit, 0.0))
                reach += levels * x_max * scales[-1]
    bias = c.array(node.inputs[-1]) if len(node.inputs) % 2 else np.zeros(rows)
    reach += np.abs(bias)
    t = _holds(c, site, float(reach.max()))
    ms, ss = [], []
    for scale in scales:
        m, s = multiplier(scale / t.scalar_scale)
        ms.append(m)
        ss.append(s)
    if len(node.inputs) % 2:
        inputs.append(c.constant(node.inputs[-1], Type((rows,), "i32", t.scale)))
    return c.emit(site, inputs, t, m=ms, s=ss)


def _holds(c: Converter, site: Site, reach: float) -> Type:
    """Format of a sum of products: the sum before saturation must fit 32 bits too."""
    t = c.formats.result_type(site.outputs[0], reach)
    least = reach / 2.0**30
    if t.scalar_scale < least:
        t = Type(t.shape, t.dtype, 2.0 ** math.ceil(math.log2(least)))
    return t


def _views(c: Converter, site: Site, name: str) -> tuple[str, ...]:
    """What the node reads of a value: a view of it, or all of its bits as two values."""
    bits = c.options.activations_of(site.name)
    if bits == 32 or c.formats.structure.is_relative(site.outputs[0]):
        value = c.value(name)
        have = c.type(value)
        if have.dtype == "i32":
            # What the format has beyond the range would only count as reach of the sum.
            want = c.formats.whole_type(c.path + name)
            if have.scalar_scale >= 2.0 * want.scalar_scale:
                value = c.as_type(value, want)
            return c.halves(value)
    return (c.matrix_view(name, min(bits, 16)),)


def _rounded(
    c: Converter, key: str, matrix: str, bits: int, x_max: int
) -> tuple[Array, list[tuple[int, int, Array]], list[str]]:
    """A matrix in integers.

    Returns:
        (levels [O, K], per accumulator its first column, the one after its last and the scales of
        its rows, names of the stored parts).
    """
    w = c.array(matrix)
    stats = c.formats.stats.get(key)

    def make() -> tuple[Array, list[int], list[Array]]:
        ends = group_ends(w, bits, x_max)
        q, scales = quantise_groups(w, bits, x_max, ends, c.weights.factor(stats))
        return q, ends, scales

    q, ends, scales = c.weights.once((c.path + matrix, key, bits, x_max), make)
    dtype = "i8" if bits == 8 else "i16"
    parts, names, start = [], [], 0
    for stop, scale in zip(ends, scales, strict=True):
        part = q[:, start:stop]
        t = Type(tuple(part.shape), dtype, tuple(float(v) for v in scale))
        names.append(c.out.add_const(matrix, part, t))
        parts.append((start, stop, scale))
        start = stop
    return q, parts, names


def depthwise(c: Converter, site: Site) -> str:
    """The scale of each channel is in the multipliers alone; weights are stored in scale 1."""
    node = site.node
    w = c.array(node.inputs[1])
    bits = c.options.weights_of(site.name)
    x = c.matrix_view(node.inputs[0], min(c.options.activations_of(site.name), 16))
    tx = c.type(x)
    x_max = -INT_RANGE[tx.dtype][0]
    q, scale = c.weights.once(
        (c.path + node.inputs[1], site.inputs[0], bits, x_max),
        partial(quantise_channels, w, bits, x_max),
    )
    levels = np.abs(q.astype(np.float64)).sum(axis=0)
    units = np.where(levels > 0, scale * tx.scalar_scale, 0.0)
    reach = levels * x_max * units
    if len(node.inputs) == 3:
        reach = reach + np.abs(c.array(node.inputs[2]))
    t = _holds(c, site, float(reach.max()))
    m, s = multiplier(units / t.scalar_scale)
    tw = Type(tuple(q.shape), "i8" if bits == 8 else "i16", 1.0)
    inputs = [x, c.out.add_const(node.inputs[1], q, tw)]
    if len(node.inputs) == 3:
        inputs.append(c.constant(node.inputs[2], Type(w.shape[1:], "i32", t.scale)))
    return c.emit(site, inputs, t, m=m, s=s)


def matmul(c: Converter, site: Site) -> str:
    """Both operands have 16 bits (8 bits of keys and values would cost 35 to 45 dB)."""
    a, b = (c.narrow(v) for v in site.node.inputs)
    t = c.formats.result_type(site.outputs[0])
    unit = c.type(a).scalar_scale * c.type(b).scalar_scale
    if unit / t.scalar_scale >= 2.0**14:  # finer than the factors can tell
        t = Type(t.shape, t.dtype, unit / 2.0**13)
    ratio = unit / t.scalar_scale
    s = min(62, 15 - math.frexp(ratio)[1])
    m = min(math.floor(ratio * 2.0**s + 0.5), (1 << 15) - 1)
    return c.emit(site, [a, b], t, m=m, s=s)


def norm(c: Converter, site: Site) -> str:
    """Layer normalisation; the scale of its input cancels, but for eps."""
    node = site.node
    x = c.narrow(node.inputs[0])
    tx = c.type(x)
    n = tx.shape[-1]
    if not 2 <= n <= 1024:
        raise QuantiseError(f"layer normalisation over {n} elements; 2 to 1024 are supported")
    # Where eps outweighs all that x can be, x is coarser, so that eps still fits 2^60.
    least = math.sqrt(node.attrs["eps"] * n**3) / 2.0**29
    if tx.scalar_scale < least:
        tx = Type(tx.shape, tx.dtype, least)
        x = c.as_type(x, tx)
    t = c.formats.result_type(site.outputs[0])
    gamma, beta = (c.array(v) for v in node.inputs[1:])
    m, s = multiplier(gamma * math.sqrt(n) / 2.0**24 / t.scalar_scale)
    eps = round(node.attrs["eps"] * n**3 / tx.scalar_scale**2)
    bias = stored(beta, t.scalar_scale, "i32")
    gain_name = c.out.add_const(node.inputs[1], m, Type((n,), "i32", 2.0**-s))
    bias_name = c.out.add_const(node.inputs[2], bias, Type((n,), "i32", t.scale))
    return c.emit(site, [x, gain_name, bias_name], t, eps=max(eps, 1), s=s)
