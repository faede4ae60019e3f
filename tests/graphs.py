"""Random step Graphs, real and integer, of the same small models.

`step(cell, integer=False)` and `step(cell, integer=True)` with the same seed hold the same
weights: the integer Graph is the real one quantised by hand with fixed formats (inputs within
+-4, pre-activations Q16, gates Q0.15, GRU states Q1.30, LSTM cells Q11.20).  Every cell is
written once against a builder; `RealBuilder` ignores the formats, `IntegerBuilder` obeys them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.fixed import lut_fit, multiplier
from edgeseq.ir import Graph, Type, check
from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.io import to_stored

__all__ = ["CELLS", "functions_step", "raw_frames", "step", "stored_frames"]

Array = npt.NDArray[Any]
Format = tuple[str, float]

FRAME: Format = ("i16", 2.0**-13)
FRAME8: Format = ("i8", 2.0**-5)
OUT: Format = ("i16", 2.0**-12)
PRE: Format = ("i32", 2.0**-16)
GATE: Format = ("i16", 2.0**-15)
WIDE: Format = ("i32", 2.0**-30)
CELL: Format = ("i32", 2.0**-20)
NARROW: Format = ("i16", 2.0**-12)
CELLS = ("rnn", "rnn_relu", "gru", "lstm")


class RealBuilder:
    """Builds a real step Graph."""

    integer = False

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)

    def type(self, shape: tuple[int, ...], fmt: Format) -> Type:
        return Type(shape)

    def input(self, name: str, size: int, fmt: Format) -> str:
        return self.graph.add_input(name, self.type((size,), fmt))

    def state(self, name: str, size: int, fmt: Format, bound: float | None = None) -> str:
        return self.graph.add_state(name, self.type((size,), fmt), bound=bound)

    def const(self, name: str, array: Array, fmt: Format) -> str:
        return self.graph.add_const(name, array)

    def linear(
        self, pairs: list[tuple[str, Array]], bias: Array, fmt: Format, *, bits: int = 8
    ) -> str:
        args = []
        for x, w in pairs:
            args += [x, self.graph.add_const("w", w)]
        return self.graph.add_node("linear", [*args, self.graph.add_const("b", bias)])

    def lut(self, fn: str, x: str, fmt: Format, *, span: float | None = None) -> str:
        return self.graph.add_node("lut", [x], fn=fn, name=fn)

    def add(self, a: str, b: str, fmt: Format, *, sign: int = 1) -> str:
        return self.graph.add_node("add" if sign > 0 else "sub", [a, b])

    def mul(self, a: str, b: str, fmt: Format) -> str:
        return self.graph.add_node("mul", [a, b])

    def clamp(self, x: str, lo: float | None, hi: float | None) -> str:
        return self.graph.add_node("clamp", [x], lo=lo, hi=hi)

    def rescale(self, x: str, fmt: Format) -> str:
        return x

    def norm(self, x: str, gamma: Array, beta: Array, fmt: Format) -> str:
        args = [x, self.graph.add_const("gamma", gamma), self.graph.add_const("beta", beta)]
        return self.graph.add_node("norm", args, eps=1e-5)

    def slice(self, x: str, start: int, stop: int) -> str:
        return self.graph.add_node(
            "slice", [x], start=start, stop=stop, types=self._same(x, stop - start)
        )

    def concat(self, *xs: str) -> str:
        size = sum(self.graph.types[x].shape[-1] for x in xs)
        return self.graph.add_node("concat", xs, types=self._same(xs[0], size))

    def reshape(self, x: str, shape: tuple[int, ...]) -> str:
        t = self.graph.types[x]
        return self.graph.add_node(
            "reshape", [x], shape=shape, types=[Type(shape, t.dtype, t.scale)]
        )

    def _same(self, x: str, size: int) -> list[Type]:
        t = self.graph.types[x]
        return [Type((*t.shape[:-1], size), t.dtype, t.scale)]


class IntegerBuilder(RealBuilder):
    """Builds the integer step Graph of the same model."""

    integer = True

    def type(self, shape: tuple[int, ...], fmt: Format) -> Type:
        return Type(shape, fmt[0], fmt[1])

    def scale(self, x: str) -> float:
        return self.graph.types[x].scalar_scale

    def const(self, name: str, array: Array, fmt: Format) -> str:
        t = self.type(array.shape, fmt)
        return self.graph.add_const(name, np.floor(array / fmt[1] + 0.5).astype(t.numpy), t)

    def linear(
        self, pairs: list[tuple[str, Array]], bias: Array, fmt: Format, *, bits: int = 8
    ) -> str:
        args: list[str] = []
        ms, ss = [], []
        for x, w in pairs:
            top = 127 if bits == 8 else 8191
            scale = np.maximum(np.abs(w).max(axis=1), 1e-6) / top
            q = np.round(w / scale[:, None])
            t = Type(w.shape, f"i{bits}", tuple(float(s) for s in scale))
            args += [x, self.graph.add_const("w", q.astype(t.numpy), t)]
            m, s = multiplier(scale * self.scale(x) / fmt[1])
            ms.append(m)
            ss.append(s)
        b = np.floor(np.asarray(bias, np.float64) / fmt[1] + 0.5).astype(np.int32)
        args.append(self.graph.add_const("b", b, Type(b.shape, "i32", fmt[1])))
        return self.graph.add_node("linear", args, types=[self.type(bias.shape, fmt)], m=ms, s=ss)

    def lut(self, fn: str, x: str, fmt: Format, *, span: float | None = None) -> str:
        t = self.graph.types[x]
        if span is not None:  # a symmetric range: [-span, span) in 512 intervals
            n, lo = 512, -round(span / self.scale(x))
            k = (-2 * lo // n).bit_length() - 1
            assert n << k == -2 * lo
        elif t.dtype == "i8":
            n, lo, k = 256, -128, 0
        else:
            n, lo, k = 512, -32768, 7
        real_lo = lo * self.scale(x)
        real_hi = (lo + (n << k)) * self.scale(x)
        if k:
            table = lut_fit(FUNCTIONS[fn].fn, real_lo, real_hi, n, fmt[1], fmt[0])
        else:
            nodes = FUNCTIONS[fn].fn((np.arange(n + 1) + lo) * self.scale(x))
            table = np.clip(
                np.floor(nodes / fmt[1] + 0.5),
                -128 if fmt[0] == "i8" else -32768,
                127 if fmt[0] == "i8" else 32767,
            ).astype(self.type((), fmt).numpy)
        c = self.graph.add_const("table", table, self.type(table.shape, fmt))
        return self.graph.add_node(
            "lut", [x, c], types=[self.type(t.shape, fmt)], fn=fn, lo=lo, k=k, name=fn
        )

    def add(self, a: str, b: str, fmt: Format, *, sign: int = 1) -> str:
        m, s = multiplier(np.array([self.scale(a), sign * self.scale(b)]) / fmt[1], prefer=0)
        while s > 0 and not np.any(m & 1):
            m, s = m >> 1, s - 1
        return self.graph.add_node(
            "add",
            [a, b],
            types=[self.type(self.graph.types[a].shape, fmt)],
            ma=int(m[0]),
            mb=int(m[1]),
            s=s,
        )

    def mul(self, a: str, b: str, fmt: Format) -> str:
        m, s = self._ratio(self.scale(a) * self.scale(b) / fmt[1])
        shape = self.graph.types[a].shape
        return self.graph.add_node("mul", [a, b], types=[self.type(shape, fmt)], m=m, s=s)

    def clamp(self, x: str, lo: float | None, hi: float | None) -> str:
        lo_q, hi_q = (None if v is None else round(v / self.scale(x)) for v in (lo, hi))
        return self.graph.add_node("clamp", [x], types=[self.graph.types[x]], lo=lo_q, hi=hi_q)

    def rescale(self, x: str, fmt: Format) -> str:
        m, s = self._ratio(self.scale(x) / fmt[1])
        shape = self.graph.types[x].shape
        return self.graph.add_node("rescale", [x], types=[self.type(shape, fmt)], m=m, s=s)

    def norm(self, x: str, gamma: Array, beta: Array, fmt: Format) -> str:
        n = gamma.size
        gain, shift = multiplier(gamma * np.sqrt(n) / 2.0**24 / fmt[1])
        bias = np.floor(beta / fmt[1] + 0.5).astype(np.int32)
        args = [
            x,
            self.graph.add_const("gain", gain, Type(gain.shape, "i32", 1.0)),
            self.graph.add_const("bias", bias, Type(bias.shape, "i32", fmt[1])),
        ]
        eps = max(1, round(1e-5 * n**3 / self.scale(x) ** 2))
        shape = self.graph.types[x].shape
        return self.graph.add_node("norm", args, types=[self.type(shape, fmt)], eps=eps, s=shift)

    @staticmethod
    def _ratio(ratio: float) -> tuple[int, int]:
        """One multiplier below 2^15 and its shift, reduced to lowest terms."""
        m, s = multiplier(np.array([ratio]), prefer=0)
        value = int(m[0])
        while s > 0 and (value % 2 == 0 or value >= 1 << 15):
            value, s = (value + 1) >> 1 if value % 2 else value >> 1, s - 1
        return value, s


def _uniform(rng: np.random.Generator, *shape: int) -> Array:
    return rng.uniform(-1.0, 1.0, shape) / np.sqrt(shape[-1])


def _rnn(b: RealBuilder, x: str, size: int, h: int, rng: np.random.Generator, i: int) -> str:
    state = b.state(f"h{i}", h, WIDE, 1.0)
    pairs = [(x, 2 * _uniform(rng, h, size)), (b.rescale(state, GATE), _uniform(rng, h, h))]
    y = b.lut("tanh", b.linear(pairs, 0.1 * _uniform(rng, h), PRE), GATE, span=8.0)
    b.graph.set_state(state, b.rescale(y, WIDE))
    return y


def _rnn_relu(b: RealBuilder, x: str, size: int, h: int, rng: np.random.Generator, i: int) -> str:
    state = b.state(f"h{i}", h, NARROW)
    pairs = [(x, _uniform(rng, h, size)), (state, 0.5 * _uniform(rng, h, h))]
    y = b.clamp(b.linear(pairs, 0.1 * _uniform(rng, h), NARROW), 0.0, None)
    b.graph.set_state(state, y)
    return y


def _gru(b: RealBuilder, x: str, size: int, h: int, rng: np.random.Generator, i: int) -> str:
    state = b.state(f"h{i}", h, WIDE, 1.0)
    narrow = b.rescale(state, GATE)
    wx, wh = 2 * _uniform(rng, 3 * h, size), _uniform(rng, 3 * h, h)
    bx, bh = 0.2 * _uniform(rng, 3 * h), 0.2 * _uniform(rng, 3 * h)
    gates = [(x, wx[: 2 * h]), (narrow, wh[: 2 * h])]
    rz = b.lut("sigmoid", b.linear(gates, (bx + bh)[: 2 * h], PRE), GATE, span=16.0)
    r, z = b.slice(rz, 0, h), b.slice(rz, h, 2 * h)
    nx = b.linear([(x, wx[2 * h :])], bx[2 * h :], PRE)
    nh = b.linear([(narrow, wh[2 * h :])], bh[2 * h :], PRE)
    n = b.lut("tanh", b.add(nx, b.mul(r, nh, PRE), PRE), GATE, span=8.0)
    new = b.add(n, b.mul(z, b.add(state, n, WIDE, sign=-1), WIDE), WIDE)
    b.graph.set_state(state, new)
    return b.rescale(new, GATE)


def _lstm(b: RealBuilder, x: str, size: int, h: int, rng: np.random.Generator, i: int) -> str:
    state = b.state(f"h{i}", h, GATE, 1.0)
    cell = b.state(f"c{i}", h, CELL)
    pairs = [(x, 2 * _uniform(rng, 4 * h, size)), (state, _uniform(rng, 4 * h, h))]
    pre = b.linear(pairs, 0.2 * _uniform(rng, 4 * h), PRE)
    ifo = b.lut("sigmoid", b.slice(pre, 0, 3 * h), GATE, span=16.0)
    g = b.lut("tanh", b.slice(pre, 3 * h, 4 * h), GATE, span=8.0)
    gate = [b.slice(ifo, k * h, (k + 1) * h) for k in range(3)]
    kept, fresh = b.mul(gate[1], cell, CELL), b.mul(gate[0], g, WIDE)
    c = b.add(kept, fresh, CELL)
    y = b.mul(gate[2], b.lut("tanh", c, GATE, span=8.0), GATE)
    b.graph.set_state(cell, c)
    b.graph.set_state(state, y)
    return y


_CELLS: dict[str, Callable[..., str]] = {
    "rnn": _rnn,
    "rnn_relu": _rnn_relu,
    "gru": _gru,
    "lstm": _lstm,
}


def step(
    cell: str = "gru",
    *,
    integer: bool = False,
    inputs: int = 5,
    hidden: int = 8,
    outputs: int = 3,
    layers: int = 1,
    norm: bool = False,
    residual: bool = False,
    affine: bool = False,
    frame: Format = FRAME,
    weight_bits: int = 8,
    seed: int = 0,
    name: str | None = None,
) -> Graph:
    """A checked step Graph: `layers` cells, then a dense layer to `outputs`.

    Args:
        cell: of `CELLS`, or "dense" for a stack without states (linear and silu).
        norm: a layer norm after each cell.
        residual: add the cell's input to its output where the sizes agree.
        affine: give the input a normalisation in `Graph.meta["input_affine"]`.
        frame: format of the input.
    """
    rng = np.random.default_rng(seed)
    b = (IntegerBuilder if integer else RealBuilder)(name or f"{cell}{hidden}")
    x, size = b.input("x", inputs, frame), inputs
    for i in range(layers):
        if cell == "dense":
            y = b.linear([(x, _uniform(rng, hidden, size))], _uniform(rng, hidden), NARROW)
            y = b.lut("silu", y, NARROW)
        else:
            y = _CELLS[cell](b, x, size, hidden, rng, i)
        if residual and size == hidden:
            y = b.add(y, x, NARROW)
        if norm:
            y = b.norm(y, rng.uniform(0.5, 1.5, hidden), _uniform(rng, hidden), NARROW)
        x, size = y, hidden
    weights = [(x, _uniform(rng, outputs, size))]
    y = b.linear(weights, _uniform(rng, outputs), OUT, bits=weight_bits)
    b.graph.outputs.append(y)
    if affine:
        b.graph.meta["input_affine"] = {
            "x": {
                "scale": [float(v) for v in rng.uniform(0.5, 3.0, inputs)],
                "offset": [float(v) for v in rng.uniform(-10.0, 10.0, inputs)],
            }
        }
    b.graph.meta["delay"], b.graph.meta["emission"] = 0, {y: "frame"}
    check(b.graph)
    return b.graph


def functions_step(*, integer: bool = False, size: int = 8, wide: bool = False) -> Graph:
    """One step that applies every function of `edgeseq.ir.functions` and every movement."""
    b = (IntegerBuilder if integer else RealBuilder)("functions")
    x = b.input("x", size, FRAME)
    if wide:
        x = b.rescale(x, PRE)
    # Largest magnitude on [-4, 4] is exp(4) = 55: one format that holds all of them.
    fmt: Format = ("i16", 2.0**-9)
    ys = [b.lut(fn, x, fmt, span=4.0 if wide else None) for fn in FUNCTIONS]
    grid = b.reshape(b.concat(*ys), (len(ys), size))
    offset = b.const("offset", np.linspace(-1.0, 1.0, size), ("i16", 2.0**-14))
    grid = b.add(grid, offset, fmt)
    grid = b.mul(grid, b.const("gain", np.linspace(0.5, 0.9, size), ("i16", 2.0**-15)), fmt)
    half = b.slice(b.clamp(grid, -3.0, 20.0), 1, size - 1)
    b.graph.outputs += [half, b.reshape(half, (len(ys) * (size - 2),))]
    check(b.graph)
    return b.graph


def raw_frames(graph: Graph, *, batch: int = 1, steps: int = 20, seed: int = 1) -> list[Array]:
    """Smooth random raw frames for each input: float64 [batch, steps, *shape], prepared +-3."""
    rng = np.random.default_rng(seed)
    out = []
    for name in graph.inputs:
        shape = graph.types[name].shape
        noise = rng.normal(size=(batch, steps, *shape))
        slow = np.cumsum(rng.normal(size=(batch, steps, *shape)), axis=1) * 0.2
        prepared = np.clip(noise + slow, -3.0, 3.0)
        entry = graph.meta.get("input_affine", {}).get(name)
        scale, offset = (np.asarray(entry[k]) for k in ("scale", "offset")) if entry else (1.0, 0.0)
        out.append(prepared * scale + offset)
    return out


def stored_frames(graph: Graph, *, batch: int = 1, steps: int = 20, seed: int = 1) -> list[Array]:
    """`raw_frames` as an integer Graph reads them."""
    raw = raw_frames(graph, batch=batch, steps=steps, seed=seed)
    return [to_stored(graph, name, x) for name, x in zip(graph.inputs, raw, strict=True)]
