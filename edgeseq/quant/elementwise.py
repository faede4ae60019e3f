"""Element-wise arithmetic, choices between values, and movements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.fixed import INT_RANGE
from edgeseq.ir.types import Type
from edgeseq.quant.converter import Converter, power_of_two, stored
from edgeseq.quant.structure import Site

__all__ = ["add", "choice", "clamp", "compare", "embed", "move", "mul", "rescale", "sub"]

Array = npt.NDArray[Any]

_SPREAD = 256.0  # of the magnitudes of a constant factor; beyond it 16 bits are too few


def _most(t: Type) -> float:
    """The greatest magnitude a format holds."""
    return -INT_RANGE[t.dtype][0] * t.scalar_scale


def add(c: Converter, site: Site) -> str:
    return _sum(c, site, 1)


def sub(c: Converter, site: Site) -> str:
    return _sum(c, site, -1)


def _sum(c: Converter, site: Site, sign: int) -> str:
    t = c.formats.result_type(site.outputs[0])
    terms = [_term(c, v, t) for v in site.node.inputs]
    return _added(c, terms, t, site.node.name, sign)


def _added(c: Converter, terms: list[str], t: Type, name: str, sign: int) -> str:
    ta, tb = (c.type(v) for v in terms)
    limit = 2.0**28 if "i32" in (ta.dtype, tb.dtype) else 2.0**12
    coarser = max(ta.scalar_scale, tb.scalar_scale)
    if coarser / t.scalar_scale >= limit:  # finer than the operands can tell
        t = Type(t.shape, t.dtype, coarser / limit)
    ra, rb = ta.scalar_scale / t.scalar_scale, sign * tb.scalar_scale / t.scalar_scale
    ea, eb = power_of_two(ra), power_of_two(rb)
    if ea is not None and eb is not None and max(ea, eb) <= 30:
        s = min(max(0, -min(ea, eb)), 30 - max(ea, eb), 62)
    else:
        wide = "i32" in (ta.dtype, tb.dtype)
        # 14-bit multipliers keep sums of 16-bit operands within 32 bits.
        s = min(62, (29 if wide else 13) - math.frexp(max(abs(ra), abs(rb)))[1])
    ma, mb = (math.floor(r * 2.0**s + 0.5) for r in (ra, rb))
    return c.out.add_node("add", terms, name=name, types=[t], ma=ma, mb=mb, s=s)


def _term(c: Converter, name: str, t: Type) -> str:
    """An operand of a sum in the format `t`: a constant beyond all that `t` holds is cut off."""
    if not c.is_const(name):
        return c.value(name)
    most = 4.0 * _most(t)
    array = np.clip(c.array(name), -most, most)
    short = c.const_type(array)
    exact = np.array_equal(stored(array, short.scalar_scale, "i16") * short.scalar_scale, array)
    if t.dtype == "i32" and not exact and array.size <= 1024 and np.abs(array).max() < _most(t):
        return c.constant(name, Type(short.shape, "i32", t.scale))
    return c.constant(name, short, most)


def mul(c: Converter, site: Site) -> str:
    """At most one factor has 32 bits; where both must, one is read in two halves."""
    t = c.formats.result_type(site.outputs[0])
    names = site.node.inputs
    made = [
        c.value(n) if not c.is_const(n) or c.is_const(o) else _gain(c, n, c.value(o), t)
        for n, o in zip(names, reversed(names), strict=True)
    ]
    a, b = made
    if a is None or b is None:
        gain, x = names if a is None else reversed(names)
        return _by_two_gains(c, site, gain, c.value(x), t)
    if c.type(a).dtype == c.type(b).dtype == "i32":
        steep = c.formats.structure.is_steep(site.outputs[0])
        if steep or (a != b and all(_proportional(c, k) for k in site.inputs)):
            return _whole_product(c, site, a, b, t)
        if _steadier(c, site.inputs[0], site.inputs[1]):
            a = c.narrow(names[0])
        else:
            b = c.narrow(names[1])
    return _product(c, [a, b], t, site.node.name)


def _product(c: Converter, factors: list[str], t: Type, name: str) -> str:
    unit = c.type(factors[0]).scalar_scale * c.type(factors[1]).scalar_scale
    if unit / t.scalar_scale >= 2.0**14:  # finer than the factors can tell
        t = Type(t.shape, t.dtype, unit / 2.0**13)
    ratio = unit / t.scalar_scale
    e = power_of_two(ratio)
    if e is not None and -62 <= e <= 14:
        m, s = (1, -e) if e <= 0 else (1 << e, 0)
    else:
        # 15-bit multipliers: a 32 x 16-bit product times one still fits 64 bits.
        s = min(62, 15 - math.frexp(ratio)[1])
        m = math.floor(ratio * 2.0**s + 0.5)
    return c.out.add_node("mul", factors, name=name, types=[t], m=m, s=s)


def _gain(c: Converter, name: str, other: str, t: Type) -> str | None:
    """A constant factor, cut off where any product saturates; None where 16 bits are too few."""
    have = c.type(other)
    most = 4.0 * _most(t) / have.scalar_scale
    array = np.clip(c.array(name), -most, most)
    short = c.const_type(array)
    sizes = np.abs(array[array != 0])
    if sizes.size and sizes.max() > _SPREAD * sizes.min() and most > sizes.max():
        if have.dtype == "i32":
            return None
        return c.constant(name, Type(short.shape, "i32", float(sizes.max()) / 2.0**30))
    return c.constant(name, short, most)


def _by_two_gains(c: Converter, site: Site, name: str, x: str, t: Type) -> str:
    """A value of 32 bits times constants of very different size: their bits, then their size."""
    array, have = c.array(name), c.type(x)
    bits, exponents = np.frexp(array)
    top = int(exponents[array != 0].max())
    sizes = np.where(array != 0, 2.0 ** np.maximum(exponents - top, -14), 0.0)
    bits = np.where(array != 0, array / sizes / 2.0**top, 0.0)
    shape = tuple(array.shape)
    first = c.out.add_const(name, stored(bits, 2.0**-15, "i16"), Type(shape, "i16", 2.0**-15))
    shift = c.out.add_const(
        f"{name}.size", stored(sizes, 2.0**-14, "i16"), Type(shape, "i16", 2.0 ** (top - 14))
    )
    inner = Type(t.shape, "i32", have.scalar_scale)
    y = _product(c, [x, first], inner, f"{site.node.name}.bits")
    return _product(c, [y, shift], t, site.node.name)


def _whole_product(c: Converter, site: Site, a: str, b: str, t: Type) -> str:
    """``a b`` with all bits of both: ``high b + low b``."""
    if _steadier(c, site.inputs[1], site.inputs[0]):
        a, b = b, a
    wide = t if t.dtype == "i32" else Type(t.shape, "i32", t.scalar_scale / 2.0**12)
    terms = [
        _product(c, [half, b], wide, f"{site.node.name}.{word}")
        for half, word in zip(c.halves(a), ("high", "low"), strict=True)
    ]
    return _added(c, terms, t, site.node.name, 1)


def _proportional(c: Converter, key: str) -> bool:
    """True where small values matter in proportion, or follow one that does."""
    maker = c.formats.structure.maker.get(c.formats.structure.root(key))
    return c.formats.structure.is_relative(key) or (maker is not None and maker.op == "wide")


def _steadier(c: Converter, a: str, b: str) -> bool:
    """True where 16 bits cost `a` less than `b`: its peaks are lower over what is usual."""
    made = [c.formats.structure.maker.get(c.formats.structure.root(k)) for k in (a, b)]
    follows = [m is not None and m.op == "wide" for m in made]
    if follows[0] != follows[1]:
        return follows[1]
    peaks = [s.top / s.rms if (s := c.formats.stats[k]).rms > 0 else 1.0 for k in (a, b)]
    return peaks[0] < peaks[1]


def clamp(c: Converter, site: Site) -> str:
    x = c.value(site.node.inputs[0])
    t = c.type(x)
    lo, hi = (
        None if v is None else int(stored(np.array(v), t.scalar_scale, t.dtype))
        for v in (site.node.attrs["lo"], site.node.attrs["hi"])
    )
    return c.emit(site, [x], t, lo=lo, hi=hi)


def choice(c: Converter, site: Site) -> str:
    """concat, select, max, min: operands take the format of the result.

    What saturates on the way there would have saturated in the result.
    """
    t = c.formats.group_type(site.outputs[0])
    inputs = []
    for i, name in enumerate(site.node.inputs):
        if site.op == "select" and i == 0:
            inputs.append(c.value(name))
        else:
            inputs.append(c.as_type(c.value(name, t), t))
    return c.emit(site, inputs, t)


def compare(c: Converter, site: Site) -> str:
    """Operands in one format: as fine as the finer one, over what the smaller one can be."""
    names, keys = site.node.inputs, site.inputs
    types = [c.type(c.value(n)) for n in names if not c.is_const(n)]
    tops = [_top(c, n, k) for n, k in zip(names, keys, strict=True)]
    if len({(t.dtype, t.scale) for t in types}) == 1 and min(tops) < _most(types[0]):
        want = types[0]
    else:
        scale = min((t.scalar_scale for t in types), default=max(tops) / 2.0**30 or 1.0)
        while min(tops) * 2.0 >= 2.0**31 * scale:
            scale *= 2.0
        want = Type((), "i32", scale)
    inputs = [c.as_type(c.value(n, want), want) for n in names]
    return c.emit(site, inputs, c.formats.group_type(site.outputs[0]), cmp=site.node.attrs["cmp"])


def _top(c: Converter, name: str, key: str) -> float:
    if c.is_const(name):
        return float(np.abs(c.array(name)).max())
    return _most(c.type(c.value(name)))


def embed(c: Converter, site: Site) -> str:
    """Rows of a table of 16 bits; the index counts in ones."""
    name, table = site.node.inputs
    index = c.value(name)
    if c.type(index).scale != 1.0:
        index = c.as_type(index, Type(c.type(index).shape, "i32", 1.0))
    t = c.formats.group_type(site.outputs[0])
    rows = c.constant(table, Type(c.graph.types[table].shape, t.dtype, t.scale))
    return c.emit(site, [index, rows], t)


def move(c: Converter, site: Site) -> str:
    """reshape, slice, strided: the same format."""
    x = c.value(site.node.inputs[0], c.formats.group_type(site.inputs[0]))
    t = c.type(x)
    shape = c.graph.types[site.node.output].shape
    return c.emit(site, [x], Type(shape, t.dtype, t.scale), **site.node.attrs)


def rescale(c: Converter, site: Site) -> str:
    """The same real value: nothing to do."""
    return c.value(site.node.inputs[0])
