"""Functions of one value: tables, softmax, and functions of large dynamic range."""

from __future__ import annotations

import math

import numpy as np

from edgeseq.errors import QuantiseError
from edgeseq.fixed import INT_RANGE, lut_fit, wide_table
from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.types import Type
from edgeseq.quant.converter import Converter, power_of_two, ratio_of
from edgeseq.quant.formats import PRE_FRACTION
from edgeseq.quant.structure import Site

__all__ = ["lut", "softmax", "wide"]

_INTERVALS = 512
_EXP_FROM = -16.0


def lut(c: Converter, site: Site) -> str:
    """An interpolated table over the function's domain, or over the range of its input."""
    name = site.node.attrs["fn"]
    if name == "abs":
        return _abs(c, site)
    fn = FUNCTIONS[name]
    x = c.value(site.node.inputs[0])
    t = c.type(x)
    out = c.formats.group_type(site.outputs[0])
    if fn.domain is not None:
        lo, hi = fn.domain
        fraction = power_of_two(1.0 / t.scalar_scale) if t.dtype == "i32" else None
        width = int(math.log2((hi - lo) / _INTERVALS))
        if fraction is None or not 0 <= fraction + width <= 16:
            fraction = PRE_FRACTION
            x = c.as_type(x, Type(t.shape, "i32", 2.0**-fraction))
        k = fraction + width
        first = int(lo * 2**fraction)
    else:
        if t.dtype != "i16":
            x = c.as_type(x, c.formats.narrow_type(site.inputs[0], 16))
        t = c.type(x)
        first, k = INT_RANGE["i16"][0], 7
        lo = first * t.scalar_scale
        hi = lo + (_INTERVALS << k) * t.scalar_scale
    nodes = lut_fit(fn.fn, lo, hi, _INTERVALS, out.scalar_scale, out.dtype)
    table = c.table(f"{name}.table", nodes, Type(nodes.shape, out.dtype, out.scale))
    return c.emit(site, [x, table], out, fn=name, lo=first, k=k)


def _abs(c: Converter, site: Site) -> str:
    """The greater of x and -x, exact in any format."""
    t = c.formats.group_type(site.outputs[0])
    x = c.value(site.node.inputs[0])
    if c.formats.is_free(site.outputs[0]):
        t = Type(t.shape, c.type(x).dtype, c.type(x).scale)
    x = c.as_type(x, t)
    minus = c.out.add_node("rescale", [x], name=f"{site.node.name}.minus", types=[t], m=-1, s=0)
    return c.emit(site, [x, minus], t, "max")


def softmax(c: Converter, site: Site) -> str:
    """exp of the distance to the greatest from a table over [-16, 0), Q0.15."""
    x = c.value(site.node.inputs[0])
    t = c.formats.group_type(site.outputs[0])
    nodes = lut_fit(np.exp, _EXP_FROM, 0.0, _INTERVALS, 2.0**-15, "i16")
    nodes = np.maximum(nodes, 0).astype(np.int16)
    table = c.table("exp.table", nodes, Type(nodes.shape, "i16", 2.0**-15))
    m, s = ratio_of(c.type(x).scalar_scale * 2.0**PRE_FRACTION)
    if m > 1 << 30:
        if s == 0:
            raise QuantiseError(
                "scores beyond 2^30 have no meaning", fix="scale the scores down before softmax"
            )
        m, s = (m + 1) >> 1, s - 1
    lo = int(_EXP_FROM * 2**PRE_FRACTION)
    k = PRE_FRACTION + int(math.log2(-_EXP_FROM / _INTERVALS))
    return c.emit(site, [x, table], t, m=m, s=s, lo=lo, k=k)


_SHIFTS = {"sqrt": (15, 62), "rsqrt": (0, 47), "reciprocal": (0, 32), "log": (0, 62)}


def wide(c: Converter, site: Site) -> str:
    """A function that follows the exponent of its argument (`edgeseq.fixed.wide_apply`)."""
    fn = site.node.attrs["fn"]
    x = c.value(site.node.inputs[0])
    unit = c.type(x).scalar_scale
    least = abs(math.log(unit)) if fn == "log" else 0.0  # of the smallest argument
    t = c.formats.result_type(site.outputs[0], least * 1.01)
    if least > t.scalar_scale * INT_RANGE["i32"][1]:
        t = Type(t.shape, t.dtype, 2.0 ** math.ceil(math.log2(least / 2.0**30)))
    gain = {"sqrt": math.sqrt(unit), "rsqrt": 1 / math.sqrt(unit), "reciprocal": 1 / unit}
    low, high = _SHIFTS[fn]
    ratio = gain.get(fn, 1.0) * 2.0**-28 / t.scalar_scale
    # A logarithm of 31 bits with 28 fractional ones takes 33 of the 63 there are.
    s = min(high, (29 if fn == "log" else 31) - math.frexp(ratio)[1])
    if s < low:  # finer than a multiplier can make it
        t = Type(t.shape, t.dtype, t.scalar_scale * 2.0 ** (low - s))
        ratio, s = ratio / 2.0 ** (low - s), low
    m = min(math.floor(ratio * 2.0**s + 0.5), (1 << 31) - 1)
    b = round(math.log(unit) / t.scalar_scale) if fn == "log" else 0
    nodes = wide_table(fn)
    table = c.table(f"{fn}.table", nodes, Type(nodes.shape, "i32", 2.0**-28))
    return c.emit(site, [x, table], t, fn=fn, m=m, s=s, b=b)
