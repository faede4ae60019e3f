"""Random real Graphs over time, for what must hold of every stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from timed_graphs import CELLS, body

from edgeseq.ir import Graph, Time, Type, check

__all__ = ["Whole", "draw_frames", "graphs"]

Draw = Any


@dataclass
class Whole:
    """A Graph over time.

    Attributes:
        graph: its outputs are the sequences `sequences`, then the values at the last frame of
            `lasts`.
        sequences, lasts: names of sequences.
        cut: input frames at the end that some sequence lacks or does not know, at most.
        open: by sequence, elements at its end that are missing or depend on what follows the end.
    """

    graph: Graph
    sequences: list[str]
    lasts: list[str]
    cut: int
    open: dict[str, int]


class _Maker:
    """Builds one Graph, a drawn operation at a time.

    Every value is a sequence of [4] or [2, 2]; weights keep numbers around 1.
    """

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.g = Graph("random")
        self.rng = np.random.default_rng(draw(st.integers(0, 999)))
        self.cut = 0
        self.end: dict[str, int] = {}
        self.open: dict[str, int] = {}
        self.tick = draw(st.sampled_from([1, 1, 2, 3]))
        for name in ("x", "z")[: draw(st.integers(1, 2))]:
            x = self.g.add_input(name, Type((4,), time=Time(self.tick)))
            self.end[x] = self.open[x] = 0
        self.pool = list(self.g.inputs)
        if draw(st.booleans()):  # normalised inputs, which a pass takes out of the model
            self.pool = [self.node("mul", self.node("sub", x, self.const(4)), self.scale())
                         for x in self.pool]  # fmt: skip

    def pick(self, *like: str) -> str:
        """A value made so far, of the same place in time and shape as those of `like`."""
        types, end = self.g.types, self.end
        fits = [
            v for v in self.pool
            if all((types[v], end[v]) == (types[w], end[w]) for w in like)
        ]  # fmt: skip
        # The last ones are the most interesting.
        return fits[-1 - self.draw(st.integers(0, min(len(fits) - 1, 4)))]

    def const(self, *shape: int) -> str:
        return self.g.add_const("c", self.rng.normal(size=shape) / np.sqrt(shape[-1]))

    def scale(self) -> str:
        return self.g.add_const("scale", self.rng.uniform(0.5, 2.0, 4))

    def node(self, op: str, *inputs: str, **attrs: Any) -> str:
        y = self.g.add_node(op, inputs, **attrs)
        timed = [v for v in inputs if v in self.end]
        for v in self.g.nodes[-1].outputs:
            self.end[v] = self.end[timed[0]]
            self.open[v] = max(self.open[w] for w in timed)
        return y

    def flat(self, x: str) -> str:
        return self.node("reshape", x, shape=(self.g.types[x].size,))

    def squash(self, x: str) -> str:
        """x as [4] within ±1."""
        n = self.g.types[x].size
        return self.node("lut", self.node("linear", self.flat(x), self.const(4, n)), fn="tanh")

    # -- operations ------------------------------------------------------------------------

    def window(self, x: str, length: int, ahead: int, cut: int) -> str:
        y = self.node("window", x, length=length, ahead=ahead, cut=cut)
        self.end[y] += cut
        self.open[y] = max(self.end[y], self.open[y] + ahead)
        period = self.g.types[y].time.period  # type: ignore[union-attr]
        self.cut = max(self.cut, self.open[y] * period)
        return y

    def convolution(self) -> str:
        length = self.draw(st.integers(1, 5))
        ahead = self.draw(st.integers(0, length + 1))
        cut = self.draw(st.sampled_from([0, 0, ahead, length - 1, 2, -1, -3]))
        y = self.window(self.pick(), length, ahead, cut)
        if self.draw(st.booleans()):  # right after the window, as front ends do
            y = self.thin(y)
        if length > 2 and self.draw(st.booleans()):  # dilation
            taps = (length + 1) // 2
            y = self.node("strided", self.flat(y), shape=(taps, 4), strides=(8, 1), offset=0)
            length = taps
        if self.draw(st.booleans()):
            y = self.node("reshape", y, shape=(length, 4))
            y = self.node("depthwise", y, self.const(length, 4), self.const(4))
        return self.squash(y)

    def shift(self) -> str:
        """Frames of zeros before or after a sequence, or frames cut off."""
        later = self.draw(st.integers(-2, 4))
        cut = self.draw(st.sampled_from([0, -later, 1, -2]))
        y = self.node("shift", self.pick(), frames=later, cut=cut)
        self.end[y] += cut
        self.open[y] = max(self.end[y], self.open[y] - later)
        period = self.g.types[y].time.period  # type: ignore[union-attr]
        self.cut = max(self.cut, self.open[y] * period)
        return y

    def thin(self, x: str) -> str:
        factor = self.draw(st.sampled_from([1, 2, 3]))
        period = self.g.types[x].time.period  # type: ignore[union-attr]
        if period * factor > 6:
            return x
        y = self.node("decimate", x, factor=factor)
        self.end[y], self.open[y] = self.end[x] // factor, self.open[x] // factor
        return y

    def decimate(self) -> str:
        return self.thin(self.pick())

    def interleave(self) -> str:
        slow = [v for v in self.pool if self.g.types[v].time.period > 1]  # type: ignore[union-attr]
        if not slow:
            return self.decimate()
        x = slow[-1]
        period = self.g.types[x].time.period  # type: ignore[union-attr]
        factor = self.draw(st.sampled_from([k for k in (2, 3, 4, 6) if period % k == 0]))
        wide = self.node("linear", self.flat(x), self.const(4 * factor, 4))
        y = self.node("interleave", self.node("reshape", wide, shape=(factor, 4)))
        self.end[y], self.open[y] = self.end[x] * factor, self.open[x] * factor
        return self.squash(y)

    def recurrence(self) -> str:
        x = self.pick()
        cell = self.draw(st.sampled_from([*sorted(CELLS), "square", "plain"]))
        seed = int(self.rng.integers(999))
        if cell == "square":
            layer = _square(seed)
        elif cell == "plain":
            layer = Graph("plain")
            layer.outputs = [layer.add_node("lut", [layer.add_input("x", Type((4,)))], fn="sin")]
        else:
            layer = body(cell, 4, 4, seed=seed)
        if self.draw(st.booleans()):
            for s in layer.states:
                s.init = self.rng.uniform(-1, 1, s.init.shape).astype(np.float32)
        y = self.node("scan", self.flat(x), body=layer, reverse=False)
        return y if self.g.types[y].shape == (4,) else self.squash(y)

    def element(self) -> str:
        x = self.pick()
        kind = self.draw(st.sampled_from(["lut", "norm", "softmax", "clamp", "wide", "mul"]))
        if kind == "lut":
            return self.node("lut", x, fn=self.draw(st.sampled_from(["tanh", "sigmoid", "gelu"])))
        if kind == "norm":
            n = self.g.types[x].shape[-1]
            return self.node("norm", x, self.const(n), self.const(n), eps=0.1)
        if kind == "clamp":
            return self.node("clamp", x, lo=-0.7, hi=None)
        if kind == "wide":
            return self.node("wide", self.node("lut", x, fn="softplus"), fn="log")
        return self.node("mul", x, self.const(1)) if kind == "mul" else self.node("softmax", x)

    def pair(self) -> str:
        a = self.pick()
        b = self.pick(a)
        op = self.draw(st.sampled_from(["add", "sub", "mul", "max", "min", "concat", "select"]))
        if op == "concat":
            more = [self.const(*self.g.types[a].shape)] if self.draw(st.booleans()) else []
            return self.squash(self.node("concat", a, b, *more))
        if op == "select":
            limit = self.g.add_const("limit", np.array([0.123]))
            return self.node("select", self.node("compare", a, limit, cmp="gt"), a, b)
        y = self.node(op, a, b)
        return self.node("lut", y, fn="tanh") if op == "mul" else y

    def spread(self) -> str:
        a = self.pick()
        b = self.pick(a)
        one = self.node("linear", self.flat(b), self.const(1, self.g.types[b].size))
        return self.node("add", self.flat(a), one)

    def movement(self) -> str:
        x = self.pick()
        kind = self.draw(st.sampled_from(["square", "flip", "transpose", "slice"]))
        if kind == "square":
            return self.node("reshape", x, shape=(2, 2))
        if kind == "slice":
            y = self.flat(x)
            return self.node(
                "concat",
                self.node("slice", y, start=1, stop=4),
                self.node("slice", y, start=0, stop=1),
            )
        strides, offset = ((1, 2), 0) if kind == "transpose" else ((-2, -1), 3)
        return self.node("strided", x, shape=(2, 2), strides=strides, offset=offset)

    def attention(self) -> str:
        q = self.flat(self.pick())
        length, ahead = self.draw(st.integers(2, 5)), self.draw(st.integers(0, 2))
        keys = self.window(q, length, ahead, 0)
        scores = self.node(
            "softmax", self.node("matmul", self.node("reshape", q, shape=(1, 4)), keys)
        )
        turned = self.node("strided", keys, shape=(4, length), strides=(1, 4), offset=0)
        return self.flat(self.node("matmul", scores, turned))

    def embedding(self) -> str:
        x = self.flat(self.pick())
        one = self.node("slice", x, start=2, stop=3)
        limit = self.g.add_const("limit", np.array([0.0321]))
        index = self.node("reshape", self.node("compare", one, limit, cmp="ge"), shape=())
        return self.node("embed", index, self.const(3, 4))


def _square(seed: int) -> Graph:
    """A body with a state of two axes and one without any."""
    rng = np.random.default_rng(seed)
    g = Graph("square")
    x = g.add_input("x", Type((4,)))
    h = g.add_state("h", Type((2, 2)), rng.uniform(-1, 1, (2, 2)))
    n = g.add_state("n", Type(()))
    y = g.add_node("lut", [g.add_node("reshape", [x], shape=(2, 2))], fn="tanh")
    half = g.add_const("half", np.array(0.5))
    mixed = g.add_node("mul", [g.add_node("add", [y, h]), half])
    g.set_state(h, mixed)
    count = g.add_node("mul", [g.add_node("add", [n, g.add_const("one", np.array(1.0))]), half])
    g.set_state(n, count)
    flat = g.add_node("reshape", [mixed], shape=(4,))
    g.outputs = [
        g.add_node("concat", [flat, g.add_node("reshape", [count], shape=(1,))]),
    ]
    check(g)
    return g


_OPERATIONS = (
    "convolution", "convolution", "convolution", "shift", "shift", "decimate", "interleave",
    "recurrence",
    "recurrence",
    "element", "pair", "pair", "spread", "movement", "attention", "embedding",
)  # fmt: skip


@st.composite
def graphs(draw: Draw, *, most: int = 8) -> Whole:
    """A checked Graph over time of up to `most` drawn operations."""
    maker = _Maker(draw)
    for _ in range(draw(st.integers(1, most))):
        maker.pool.append(getattr(maker, draw(st.sampled_from(_OPERATIONS)))())
    g = maker.g
    sequences = list(dict.fromkeys(maker.pick() for _ in range(draw(st.integers(1, 3)))))
    lasts = list(dict.fromkeys(maker.pick() for _ in range(draw(st.integers(0, 2)))))
    g.outputs = sequences + [g.add_node("last", [v]) for v in lasts]
    g.prune()  # what nobody reads does not set how many frames a step takes
    check(g)
    return Whole(g, sequences, lasts, maker.cut, maker.open)


def draw_frames(draw: Draw, whole: Whole, block: int, *, batch: int = 2) -> list[np.ndarray]:
    """Random frames for the inputs of `whole`, [batch, T, 4]: T fills steps of `block` frames."""
    steps = -(-(whole.cut + 7) // block) + draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return [rng.normal(size=(batch, steps * block, 4)) for _ in whole.graph.inputs]
