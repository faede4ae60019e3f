"""Steps of every operation on whole frames: views, products of values, choices, loops.

`op_step(case, integer=False)` and `op_step(case, integer=True)` hold the same weights, as those of
`graphs` do, whose builders these extend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from graphs import FRAME, GATE, PRE, Format, IntegerBuilder, RealBuilder, raw_frames

from edgeseq.fixed import lut_fit, multiplier, wide_table
from edgeseq.ir import Graph, Type, check
from edgeseq.ir.io import to_stored

__all__ = ["CASES", "image_windows", "op_frames", "op_step", "stored_op_frames"]

Array = npt.NDArray[Any]

MID: Format = ("i16", 2.0**-12)
SCORE: Format = ("i16", 2.0**-10)
INDEX: Format = ("i16", 1.0)
MASK: Format = ("i8", 1.0)
BOUND: Format = ("i32", 2.0**-30)


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


class RealOps(RealBuilder):
    """Builds a real step of operations on frames of any rank."""

    def frame(self, name: str, shape: tuple[int, ...], fmt: Format = FRAME) -> str:
        return self.graph.add_input(name, self.type(shape, fmt))

    def memory(
        self, name: str, shape: tuple[int, ...], fmt: Format, bound: float | None = None
    ) -> str:
        return self.graph.add_state(name, self.type(shape, fmt), bound=bound)

    def shape(self, x: str) -> tuple[int, ...]:
        return self.graph.types[x].shape

    def _op(
        self, op: str, inputs: Sequence[str], out: Sequence[int], fmt: Format, /, **attrs: Any
    ) -> str:
        return self.graph.add_node(op, inputs, types=[self.type(tuple(out), fmt)], **attrs)

    def fmt(self, x: str) -> Format:
        t = self.graph.types[x]
        return (t.dtype, t.scale if isinstance(t.scale, float) else 1.0)

    def _wider(self, *xs: str) -> tuple[int, ...]:
        return tuple(max((self.shape(x) for x in xs), key=lambda s: (len(s), math.prod(s))))

    def strided(self, x: str, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> str:
        view = {"shape": tuple(shape), "strides": tuple(strides), "offset": offset}
        return self._op("strided", [x], shape, self.fmt(x), **view)

    def transpose(self, x: str, *perm: int) -> str:
        shape = self.shape(x)
        strides = _strides(shape)
        return self.strided(x, [shape[p] for p in perm], [strides[p] for p in perm])

    def windows(self, x: str, length: int, step: int = 1) -> str:
        """[F, C] -> [F', length, C]."""
        f, c = self.shape(x)
        return self.strided(x, ((f - length) // step + 1, length, c), (step * c, c, 1))

    def depthwise(self, x: str, w: Array, b: Array | None, fmt: Format, *, bits: int = 8) -> str:
        args = [x, self.graph.add_const("w", w)]
        args += [] if b is None else [self.graph.add_const("b", b)]
        return self.graph.add_node("depthwise", args)

    def matmul(self, a: str, b: str, fmt: Format) -> str:
        return self.graph.add_node("matmul", [a, b])

    def softmax(self, x: str) -> str:
        return self.graph.add_node("softmax", [x])

    def wide(self, fn: str, x: str, fmt: Format) -> str:
        return self.graph.add_node("wide", [x], fn=fn, name=fn)

    def pick(self, op: str, a: str, b: str) -> str:
        return self._op(op, [a, b], self._wider(a, b), self.fmt(a))

    def compare(self, cmp: str, a: str, b: str) -> str:
        return self._op("compare", [a, b], self._wider(a, b), MASK, cmp=cmp)

    def select(self, c: str, a: str, b: str) -> str:
        return self._op("select", [c, a, b], self._wider(c, a, b), self.fmt(a))

    def embed(self, index: str, table: str) -> str:
        shape = (*self.shape(index), self.shape(table)[1])
        return self._op("embed", [index, table], shape, self.fmt(table))

    def scan(
        self, body: RealOps, inputs: Sequence[str], *, reverse: bool = False
    ) -> tuple[str, ...]:
        self.graph.add_node("scan", inputs, body=body.graph, reverse=reverse)
        return self.graph.nodes[-1].outputs


class IntegerOps(RealOps, IntegerBuilder):
    """Builds the integer step of the same operations."""

    def depthwise(self, x: str, w: Array, b: Array | None, fmt: Format, *, bits: int = 8) -> str:
        top = 127 if bits == 8 else 8191
        scale = np.maximum(np.abs(w).max(axis=0), 1e-6) / top
        stored = np.round(w / scale).astype(np.int8 if bits == 8 else np.int16)
        m, s = multiplier(scale * self.scale(x) / fmt[1])
        args = [x, self.graph.add_const("w", stored, Type(w.shape, f"i{bits}", 1.0))]
        if b is not None:
            bias = np.floor(b / fmt[1] + 0.5).astype(np.int32)
            args.append(self.graph.add_const("b", bias, Type(b.shape, "i32", fmt[1])))
        shape = (*self.shape(x)[:-2], w.shape[1])
        return self._op("depthwise", args, shape, fmt, m=m, s=s)

    def matmul(self, a: str, b: str, fmt: Format) -> str:
        m, s = self._ratio(self.scale(a) * self.scale(b) / fmt[1])
        shape = (*self.shape(a)[:-1], self.shape(b)[-2])
        return self._op("matmul", [a, b], shape, fmt, m=m, s=s)

    def softmax(self, x: str) -> str:
        table = lut_fit(np.exp, -16.0, 0.0, 512, 2.0**-15, "i16")
        c = self.graph.add_const("table", table, Type((513,), *GATE))
        m, s = self._ratio(self.scale(x) * 2.0**11)
        return self._op("softmax", [x, c], self.shape(x), GATE, m=m, s=s, lo=-32768, k=6)

    def wide(self, fn: str, x: str, fmt: Format) -> str:
        c = self.graph.add_const("table", wide_table(fn), Type((193,), "i32", 1.0))
        unit, b = self.scale(x), 0
        ratio = 2.0**-28 / fmt[1]
        ratio *= {"sqrt": unit**0.5, "rsqrt": unit**-0.5, "reciprocal": 1 / unit, "log": 1}[fn]
        if fn == "log":
            b = round(math.log(unit) / fmt[1])
        s = min({"rsqrt": 47, "reciprocal": 32}.get(fn, 62), 30 - math.frexp(ratio)[1])
        m = round(ratio * 2.0**s)
        return self._op("wide", [x, c], self.shape(x), fmt, fn=fn, m=m, s=s, b=b, name=fn)

    def add(self, a: str, b: str, fmt: Format, *, sign: int = 1) -> str:
        y = super().add(a, b, fmt, sign=sign)
        self.graph.types[y] = self.type(self._wider(a, b), fmt)
        return y

    def mul(self, a: str, b: str, fmt: Format) -> str:
        y = super().mul(a, b, fmt)
        self.graph.types[y] = self.type(self._wider(a, b), fmt)
        return y

    def linear(
        self, pairs: list[tuple[str, Array]], bias: Array, fmt: Format, *, bits: int = 8
    ) -> str:
        y = super().linear(pairs, bias, fmt, bits=bits)
        self.graph.types[y] = self.type((*self.shape(pairs[0][0])[:-1], len(bias)), fmt)
        return y


def _weights(rng: np.random.Generator, *shape: int) -> Array:
    return rng.uniform(-1.0, 1.0, shape) / np.sqrt(shape[-1])


def _views(b: RealOps, rng: np.random.Generator) -> None:
    x = b.frame("x", (4, 6, 2))
    ys = [
        b.transpose(x, 2, 0, 1),  # a permutation
        b.transpose(x, 1, 0, 2),
        b.strided(x, (3, 2), (2, 1), 14),  # a contiguous part
        b.strided(x, (2, 6, 2), (24, 2, 1)),  # every second row
        b.strided(x, (4, 6, 2), (-12, -2, 1), 46),  # backwards
        b.strided(x, (4, 5, 2, 2), (12, 2, 2, 1)),  # windows
        b.strided(x, (3, 4), (0, 1), 8),  # repeated
        b.strided(x, (3,), (7,), 5),  # steps that divide nothing
        b.strided(x, (6, 2), (2, 1), 24),  # one row
        b.strided(x, (), (), 17),  # one element
        b.strided(x, (2, 3, 2, 1, 2, 2), (12, 2, 12, 1, 4, 1), 2),  # rank 6
    ]
    b.graph.outputs += ys


def _convolutions(b: RealOps, rng: np.random.Generator) -> None:
    x = b.frame("x", (12, 3))
    part = b.reshape(b.windows(x, 3, 2), (5, 9))
    y = b.clamp(b.linear([(part, _weights(rng, 8, 9))], _weights(rng, 8), MID), 0.0, None)
    z = b.depthwise(b.windows(y, 3), _weights(rng, 3, 8), _weights(rng, 8), MID)
    fine = b.depthwise(b.windows(y, 2), _weights(rng, 2, 8), None, MID, bits=16)
    wide = b.depthwise(b.windows(y, 4), _weights(rng, 4, 8), _weights(rng, 8), PRE)
    flat = b.depthwise(y, _weights(rng, 5, 8), _weights(rng, 8), MID)
    b.graph.outputs += [z, fine, b.lut("tanh", wide, GATE, span=8.0), flat]


def image_windows(
    b: RealOps,
    x: str,
    image: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    start: tuple[int, int] = (0, 0),
) -> str:
    """Windows of an image [H, W, C]: [rows, columns, kernel rows, kernel columns, C]."""
    h, w, c = image
    units = (w * c, c)
    counts = [
        (n - a - (k - 1) * d - 1) // s + 1
        for n, a, k, d, s in zip((h, w), start, kernel, dilation, stride, strict=True)
    ]
    steps = [s * u for s, u in zip(stride, units, strict=True)]
    taps = [d * u for d, u in zip(dilation, units, strict=True)]
    first = start[0] * units[0] + start[1] * units[1]
    return b.strided(x, (*counts, *kernel, c), (*steps, *taps, 1), first)


def _images(b: RealOps, rng: np.random.Generator) -> None:
    """Convolutions over two axes, along one of them, of flat frames, of one channel."""
    x, y = b.frame("x", (7, 6, 3)), b.frame("y", (40,))

    def conv(windows: str, out: int, fmt: Format = MID, *, bits: int = 8) -> str:
        *lead, kh, kw, c = b.shape(windows)
        flat = b.reshape(windows, (math.prod(lead), kh * kw * c))
        w = _weights(rng, out, kh * kw * c)
        z = b.linear([(flat, w)], _weights(rng, out), fmt, bits=bits)
        return b.reshape(z, (*lead, out))

    def own(windows: str, fmt: Format = MID) -> str:
        *lead, kh, kw, c = b.shape(windows)
        flat = b.reshape(windows, (math.prod(lead), kh * kw, c))
        return b.reshape(b.depthwise(flat, _weights(rng, kh * kw, c), None, fmt), (*lead, c))

    whole = (7, 6, 3)
    first = conv(image_windows(b, x, whole, (3, 3), (2, 1)), 4)
    shared = image_windows(b, x, whole, (2, 2), (1, 2), (2, 1), (1, 1))
    b.graph.outputs += [
        first,
        conv(image_windows(b, x, whole, (1, 4), (1, 1), (1, 1), (2, 0)), 2, bits=16),
        own(shared),
        conv(shared, 5),
        own(image_windows(b, first, (3, 4, 4), (2, 3))),
        conv(image_windows(b, y, (20, 1, 2), (4, 1), (2, 1), (3, 1)), 3),
        b.lut(
            "tanh", conv(image_windows(b, y, (40, 1, 1), (5, 1), (3, 1)), 6, PRE), GATE, span=8.0
        ),
        b.linear([(b.strided(y, (8, 9), (-4, 1), 29), _weights(rng, 2, 9))], _weights(rng, 2), MID),
        b.slice(shared, 0, 1),
    ]


def _attention(b: RealOps, rng: np.random.Generator) -> None:
    """Two heads over the frames of a window that the step carries, unfilled places masked."""
    x = b.frame("x", (8,))
    keys, full = b.memory("keys", (5, 8), MID), b.memory("full", (5,), MASK)
    row = b.linear([(x, 2 * _weights(rng, 8, 8))], _weights(rng, 8), MID)
    joined = b.concat(b.reshape(keys, (40,)), row)
    window = b.reshape(b.strided(joined, (5, 8), (8, 1), 8), (5, 8))
    b.graph.set_state(keys, window)
    one = b.const("one", np.ones(1), MASK)
    valid = b.concat(b.slice(full, 1, 5), b.strided(one, (1,), (1,)))
    b.graph.set_state(full, valid)
    q = b.linear([(row, 2 * _weights(rng, 8, 8))], _weights(rng, 8), MID)
    k = b.linear([(window, 2 * _weights(rng, 8, 8))], _weights(rng, 8), MID)
    v = b.linear([(window, 2 * _weights(rng, 8, 8))], _weights(rng, 8), MID)
    heads = [b.transpose(b.reshape(t, (5, 2, 4)), 1, 0, 2) for t in (k, v)]
    scores = b.matmul(b.reshape(q, (2, 1, 4)), heads[0], SCORE)
    low = b.const("low", np.full(1, -31.0), SCORE)
    kept = b.select(b.strided(valid, (2, 1, 5), (0, 0, 1)), scores, low)
    y = b.matmul(b.softmax(kept), b.transpose(heads[1], 0, 2, 1), MID)
    b.graph.outputs.append(b.reshape(y, (8,)))


def _norms(b: RealOps, rng: np.random.Generator) -> None:
    """Root mean square norm over the last of three axes, and a softmax of 32-bit scores."""
    x = b.frame("x", (2, 3, 8))
    square = b.mul(x, x, ("i16", 2.0**-11))
    mean = b.linear([(square, np.full((1, 8), 0.125))], np.full(1, 1e-3), ("i32", 2.0**-20))
    scale = b.wide("rsqrt", mean, ("i32", 2.0**-20))
    near = b.strided(scale, (2, 3, 8), (3, 1, 0))
    y = b.mul(x, near, MID)
    z = b.norm(b.add(y, x, MID), 1 + _weights(rng, 8), _weights(rng, 8), MID)
    total = b.add(b.rescale(y, PRE), b.const("low", -20.0 * np.eye(8)[1], PRE), PRE)
    b.graph.outputs += [y, z, b.softmax(total), b.softmax(x)]


def _wide(b: RealOps, rng: np.random.Generator) -> None:
    x = b.frame("x", (16,))
    negative = b.add(b.const("zero", np.zeros(1), FRAME), x, FRAME, sign=-1)
    size = b.pick("max", x, negative)
    some = b.add(size, b.const("floor", np.full(1, 0.25), ("i16", 2.0**-12)), ("i16", 2.0**-12))
    both = b.mul(x, some, ("i32", 2.0**-20))
    b.graph.outputs += [
        b.wide("sqrt", size, ("i16", 2.0**-13)),
        b.wide("rsqrt", some, ("i16", 2.0**-11)),
        b.wide("reciprocal", some, ("i16", 2.0**-10)),
        b.wide("log", some, MID),
        b.wide("sqrt", b.mul(some, some, ("i32", 2.0**-20)), ("i16", 2.0**-12)),
        b.clamp(b.wide("reciprocal", both, ("i16", 2.0**-5)), -900.0, 900.0),
    ]


def _choices(b: RealOps, rng: np.random.Generator) -> None:
    x, y = b.frame("x", (2, 3, 4)), b.frame("y", (1, 3, 4))
    half = b.const("half", np.round(_weights(rng, 4) * 64) / 64, FRAME)
    one = b.const("one", np.full((1, 1, 1), 0.25), FRAME)
    gt, ge = b.compare("gt", x, y), b.compare("ge", y, half)
    eq = b.compare("eq", b.clamp(x, -0.5, 0.5), b.const("edge", np.full(1, 0.5), FRAME))
    picked = b.select(gt, x, y)
    long = b.rescale(x, PRE)
    least = b.pick("min", long, b.rescale(y, PRE))
    other = b.select(ge, half, y)
    b.graph.outputs += [
        b.pick("max", x, y),
        b.pick("min", picked, half),
        b.pick("max", b.rescale(x, PRE), b.const("p", np.linspace(-1, 1, 4), PRE)),
        gt,
        ge,
        eq,
        b.select(eq, one, picked),
        b.select(b.const("mask", np.array([1.0, 0.0, 1.0, 0.0]), MASK), x, other),
        b.mul(gt, x, FRAME),
        b.add(x, y, MID),
        b.select(b.strided(x, (1, 1, 1), (1, 1, 1), 3), x, one),  # a condition that is a number
        b.compare("gt", long, least),  # equal where x is the lesser, in 32 bits too
    ]


def _embed(b: RealOps, rng: np.random.Generator) -> None:
    i, x = b.frame("i", (3,), INDEX), b.frame("x", (3, 4))
    table = b.const("table", 4 * _weights(rng, 40, 4), MID)
    rows = b.embed(i, table)
    one = b.embed(b.strided(i, (), (), 1), table)
    b.graph.outputs += [b.add(rows, x, MID), one]


def _ranks(b: RealOps, rng: np.random.Generator) -> None:
    """Frames and states with up to four axes, operands with leading axes of 1, and none at all."""
    x = b.frame("x", (2, 2, 3, 2))
    h = b.memory("h", (2, 2, 3, 2), MID)
    new = b.add(x, b.mul(h, b.const("a", np.full((1, 1, 3, 2), 0.7), GATE), MID), MID)
    new = b.clamp(new, -1.5, 1.5)
    b.graph.set_state(h, new)
    row = b.strided(new, (1, 1, 1, 2), (1, 1, 1, 1), 4)
    y = b.add(b.mul(new, row, MID), b.const("c", _weights(rng, 3, 2), MID), MID)
    z = b.linear([(y, _weights(rng, 5, 2))], _weights(rng, 5), PRE)
    scalar = b.strided(x, (), (), 3)
    count = b.memory("count", (), BOUND, 1.0)
    less = b.mul(count, b.const("rate", np.array(0.75), GATE), BOUND)
    more = b.add(less, b.const("step", np.array(0.2), GATE), BOUND)
    b.graph.set_state(count, more)
    b.graph.outputs += [
        b.lut("sigmoid", z, GATE, span=16.0),
        b.softmax(y),
        b.lut("gelu", y, MID),
        b.lut("tanh", scalar, GATE),
        b.rescale(more, GATE),
        b.concat(y, new),
        b.pick("max", y, row),
    ]


def _loop(b: RealOps, rng: np.random.Generator) -> None:
    """A cell run over the rows of a frame, both ways, one loop within another, states carried."""
    wx, wh, bias = _weights(rng, 6, 3), _weights(rng, 6, 6), _weights(rng, 6)

    def cell(name: str) -> RealOps:
        c = type(b)(name)
        x, h = c.frame("x", (3,)), c.memory("h", (6,), BOUND, 1.0)
        near = c.rescale(h, GATE)
        y = c.lut("tanh", c.linear([(x, wx), (near, wh)], bias, PRE), GATE, span=8.0)
        z = c.lut("sigmoid", c.linear([(x, -wx), (near, wh)], bias, PRE), GATE, span=16.0)
        new = c.add(y, c.mul(z, c.add(h, y, BOUND, sign=-1), BOUND), BOUND)
        c.graph.set_state(h, new)
        c.graph.outputs += [c.rescale(new, GATE), y]
        return c

    x = b.frame("x", (4, 3))
    h = b.memory("h", (6,), BOUND, 1.0)
    there, gates, last = b.scan(cell("there"), [x, h])
    b.graph.set_state(h, last)
    back, _ = b.scan(cell("back"), [x], reverse=True)
    both = type(b)("both")
    rows = both.frame("rows", (2, 3))
    count = both.memory("count", (3,), MID)
    inner, _ = both.scan(cell("inner"), [rows])
    count_new = both.clamp(both.add(count, both.strided(rows, (3,), (1,), 3), MID), -6.0, 6.0)
    both.graph.set_state(count, count_new)
    both.graph.outputs += [inner, count_new]
    nested, counts = b.scan(both, [b.reshape(x, (2, 2, 3))])
    top = b.linear([(b.concat(there, back), _weights(rng, 5, 12))], _weights(rng, 5), MID)
    b.graph.outputs += [top, gates, nested, counts, there]


CASES: dict[str, Callable[[RealOps, np.random.Generator], None]] = {
    "views": _views,
    "convolutions": _convolutions,
    "images": _images,
    "attention": _attention,
    "norms": _norms,
    "wide": _wide,
    "choices": _choices,
    "embed": _embed,
    "ranks": _ranks,
    "loop": _loop,
}


def op_step(case: str, *, integer: bool = False) -> Graph:
    """The checked step Graph of a case of `CASES`."""
    b = (IntegerOps if integer else RealOps)(case)
    CASES[case](b, np.random.default_rng(7))
    check(b.graph)
    return b.graph


def op_frames(graph: Graph, *, batch: int = 2, steps: int = 12, seed: int = 1) -> list[Array]:
    """Raw frames for each input, on the grid of `FRAME`; an index is a whole number, -2 to 45."""
    rng = np.random.default_rng(seed)
    frames = raw_frames(graph, batch=batch, steps=steps, seed=seed)
    return [
        rng.integers(-2, 46, x.shape).astype(np.float64)
        if name == "i"
        else np.round(x * 2.0**13) / 2.0**13
        for name, x in zip(graph.inputs, frames, strict=True)
    ]


def stored_op_frames(graph: Graph, **how: int) -> list[Array]:
    """`op_frames` as an integer Graph reads them."""
    raw = op_frames(graph, **how)
    return [to_stored(graph, name, x) for name, x in zip(graph.inputs, raw, strict=True)]
