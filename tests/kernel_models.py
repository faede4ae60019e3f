"""Integer steps for the tests of kernels: a GRU by hand, and random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeseq import fixed
from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.graph import Graph
from edgeseq.ir.types import Type

BITS = {"i8": 8, "i16": 16, "i32": 32}


def typed(shape: tuple[int, ...] | int, dtype: str) -> Type:
    """A type whose scale does not matter."""
    return Type((shape,) if isinstance(shape, int) else shape, dtype, 1.0)


def table(fn: str, lo: float, hi: float) -> np.ndarray:
    """A 512-interval table of Q0.15."""
    return fixed.lut_fit(FUNCTIONS[fn].fn, lo, hi, 512, 2**-15, "i16")


def gru(inputs: int = 5, hidden: int = 8, outputs: int = 3, seed: int = 1, w: str = "i8") -> Graph:
    """A GRU cell with a dense layer, as the quantiser makes it; random weights."""
    r = np.random.default_rng(seed)
    g = Graph("gru")
    top = 127 if w == "i8" else 300

    def weights(n: int, k: int) -> str:
        return g.add_const("w", r.integers(-top, top + 1, (n, k)), typed((n, k), w))

    def bias(n: int) -> str:
        return g.add_const("b", r.integers(-60000, 60000, n), typed(n, "i32"))

    def m(n: int) -> np.ndarray:
        return r.integers(2**26, 2**27, n).astype(np.int32)

    x = g.add_input("x", typed(inputs, "i16"))
    h = g.add_state("h", typed(hidden, "i32"), r.integers(-(2**30), 2**30, hidden))
    view = g.add_node("rescale", [h], types=[typed(hidden, "i16")], m=1, s=15)
    both = [typed(2 * hidden, "i32")]
    one = [typed(hidden, "i32")]
    gate = [typed(hidden, "i16")]
    rz = g.add_node(
        "linear",
        [x, weights(2 * hidden, inputs), view, weights(2 * hidden, hidden), bias(2 * hidden)],
        types=both, m=[m(2 * hidden), m(2 * hidden)], s=[32, 32],
    )  # fmt: skip
    sig = g.add_const("sigmoid", table("sigmoid", -16, 16), typed(513, "i16"))
    tanh = g.add_const("tanh", table("tanh", -8, 8), typed(513, "i16"))
    gates = g.add_node(
        "lut", [rz, sig], types=[typed(2 * hidden, "i16")], fn="sigmoid", lo=-(16 << 16), k=12
    )
    reset = g.add_node("slice", [gates], types=gate, start=0, stop=hidden)
    update = g.add_node("slice", [gates], types=gate, start=hidden, stop=2 * hidden)
    nx = g.add_node(
        "linear", [x, weights(hidden, inputs), bias(hidden)], types=one, m=[m(hidden)], s=[32]
    )
    nh = g.add_node(
        "linear", [view, weights(hidden, hidden), bias(hidden)], types=one, m=[m(hidden)], s=[32]
    )
    rn = g.add_node("mul", [reset, nh], types=one, m=1, s=15)
    pre = g.add_node("add", [nx, rn], types=one, ma=1, mb=1, s=0)
    n = g.add_node("lut", [pre, tanh], types=gate, fn="tanh", lo=-(8 << 16), k=11)
    d = g.add_node("add", [h, n], types=one, ma=1, mb=-32768, s=0)
    zd = g.add_node("mul", [update, d], types=one, m=1, s=15)
    new = g.add_node("add", [n, zd], types=one, ma=32768, mb=1, s=0)
    g.set_state(h, new)
    out = g.add_node("rescale", [new], types=gate, m=1, s=15)
    y = g.add_node(
        "linear", [out, weights(outputs, hidden), bias(outputs)],
        types=[typed(outputs, "i16")], m=[m(outputs)], s=[32],
    )  # fmt: skip
    g.outputs = [y]
    return g


class RandomStep:
    """Builds an integer step of random operations over random shapes and widths."""

    def __init__(self, seed: int, nodes: int = 12) -> None:
        self.r = np.random.default_rng(seed)
        self.g = Graph(f"random{seed}")
        g = self.g
        self.values: list[str] = []
        for i in range(self.pick([1, 1, 2])):
            self.values.append(g.add_input(f"x{i}", self.some_type(["i8", "i16"])))
        states = []
        for i in range(self.pick([0, 1, 2, 3])):
            t = self.some_type(["i8", "i16", "i32"])
            lo, hi = fixed.INT_RANGE[t.dtype]
            init = self.r.integers(lo, hi + 1, t.shape) if self.pick([0, 1]) else None
            states.append(g.add_state(f"s{i}", t, init))
        self.values += states
        made = 0
        while made < nodes:
            before = len(g.nodes)
            getattr(self, f"add_{self.pick(self.KINDS)}")()
            made += len(g.nodes) > before
        for s in states:
            same = [v for v in self.values if g.types[v] == g.types[s]]
            # Mostly computed values, sometimes another state or an input: a delay line.
            computed = [v for v in same if v in g.producers()]
            pool = computed if computed and self.pick([0, 1, 1]) else same
            g.set_state(s, self.pick(pool))
        outputs = self.pick([1, 2, 3])
        g.outputs = [self.pick(self.values[-8:]) for _ in range(outputs)]

    KINDS = ("linear", "linear", "lut", "rescale", "add", "mul", "clamp", "norm", "slice",
             "concat", "reshape", "add")  # fmt: skip

    def pick(self, options):  # type: ignore[no-untyped-def]
        return options[int(self.r.integers(len(options)))]

    def some_type(self, dtypes: list[str]) -> Type:
        shape = self.pick([(4,), (5,), (8,), (8,), (9,), (16,), (2, 7), (3, 8)])
        return typed(shape, self.pick(dtypes))

    def value(self, dtypes: tuple[str, ...] = ("i8", "i16", "i32")) -> str | None:
        found = [v for v in self.values if self.g.types[v].dtype in dtypes]
        return self.pick(found) if found else None

    def node(self, op: str, inputs: list[str], t: Type, **attrs: object) -> None:
        self.values.append(self.g.add_node(op, inputs, types=[t], **attrs))

    def add_linear(self) -> None:
        x = self.value(("i8", "i16"))
        if x is None:
            return
        t = self.g.types[x]
        same = [
            v for v in self.values
            if self.g.types[v].shape[:-1] == t.shape[:-1] and self.g.types[v].dtype != "i32"
        ]  # fmt: skip
        xs = [x] + [self.pick(same) for _ in range(self.pick([0, 0, 1, 2]))]
        rows = self.pick([1, 3, 4, 8, 12, 17, 33])
        dtype = self.pick(["i8", "i16", "i32"])
        inputs, ms, ss = [], [], []
        for v in xs:
            w = self.pick(["i8", "i16"])
            top = 127 if w == "i8" else 200
            k = self.g.types[v].shape[-1]
            array = self.r.integers(-top, top + 1, (rows, k))
            inputs += [v, self.g.add_const("w", array, typed((rows, k), w))]
            s = self.pick([32, 32, 20, 1, 40])
            m = self.r.integers(1, max(2, min(2**30, 2 ** (s - 4) if s > 5 else 2)), rows)
            ms.append(m.astype(np.int32))
            ss.append(s)
        if self.pick([0, 1]):
            b = self.r.integers(-5000, 5000, rows)
            inputs.append(self.g.add_const("b", b, typed(rows, "i32")))
        self.node("linear", inputs, typed((*t.shape[:-1], rows), dtype), m=ms, s=ss)

    def add_lut(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        dtype = self.pick(["i8", "i16"])
        n, k, lo = {
            "i8": (256, 0, -128), "i16": (512, 7, -32768), "i32": (512, 12, -(16 << 16)),
        }[t.dtype]  # fmt: skip
        low, high = fixed.INT_RANGE[dtype]
        nodes = self.r.integers(low, high + 1, n + 1)
        name = self.g.add_const("t", nodes, typed(n + 1, dtype))
        self.node("lut", [x, name], typed(t.shape, dtype), fn="tanh", lo=lo, k=k)

    def add_rescale(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        m, s = self.pick([(1, 15), (1, 1), (77, 6), (1 << 30, 32), (-3, 2), (5, 0), (123457, 40)])
        self.node("rescale", [x], typed(t.shape, self.pick(["i8", "i16", "i32"])), m=m, s=s)

    def pair(self) -> tuple[str, str, tuple[int, ...]]:
        x = self.value()
        assert x is not None
        shape = self.g.types[x].shape
        fitting = [v for v in self.values if self.g.types[v].shape == shape]
        if self.pick([0, 0, 1]):
            dtype = self.pick(["i8", "i16", "i32"])
            lo, hi = fixed.INT_RANGE[dtype]
            array = self.r.integers(lo, hi + 1, shape[-1:])
            if self.pick([0, 1]):
                array[:] = array[0]
            return x, self.g.add_const("c", array, typed(shape[-1:], dtype)), shape
        other = self.pick(fitting)
        return (x, other, shape) if self.pick([0, 1]) else (other, x, shape)

    def add_add(self) -> None:
        a, b, shape = self.pair()
        ma, mb, s = self.pick([(1, 1, 0), (1, -1, 0), (32768, 1, 0), (300, -7, 9), (1, 1, 1),
                               (2**14, 2**14 + 3, 15)])  # fmt: skip
        self.node("add", [a, b], typed(shape, self.pick(["i8", "i16", "i32"])), ma=ma, mb=mb, s=s)

    def add_mul(self) -> None:
        a, b, shape = self.pair()
        wide = "i32" in (self.g.types[a].dtype, self.g.types[b].dtype)
        m, s = self.pick([(1, 15), (1, 0), (1, 7)] if wide else [(1, 15), (9, 12), (30000, 32)])
        if self.g.types[a].dtype == self.g.types[b].dtype == "i32":
            return
        self.node("mul", [a, b], typed(shape, self.pick(["i16", "i32"])), m=m, s=s)

    def add_clamp(self) -> None:
        x = self.value()
        assert x is not None
        lo, hi = self.pick([(0, None), (None, 5), (-20, 100), (None, None)])
        self.node("clamp", [x], self.g.types[x], lo=lo, hi=hi)

    def add_norm(self) -> None:
        x = self.value(("i8", "i16"))
        if x is None or self.g.types[x].shape[-1] < 2:
            return
        t = self.g.types[x]
        n = t.shape[-1]
        gain = self.g.add_const("gain", self.r.integers(-(2**20), 2**20, n), typed(n, "i32"))
        bias = self.g.add_const("bias", self.r.integers(-3000, 3000, n), typed(n, "i32"))
        dtype = self.pick(["i8", "i16"])
        self.node("norm", [x, gain, bias], typed(t.shape, dtype), eps=self.pick([1, 5000]), s=30)

    def add_slice(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        n = t.shape[-1]
        if n < 3:
            return
        start = int(self.r.integers(0, n - 1))
        stop = int(self.r.integers(start + 1, n + 1))
        out = replace(t, shape=(*t.shape[:-1], stop - start))
        self.node("slice", [x], out, start=start, stop=stop)

    def add_concat(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        fit = [
            v for v in self.values
            if replace(self.g.types[v], shape=t.shape) == t
            and self.g.types[v].shape[:-1] == t.shape[:-1]
        ]  # fmt: skip
        parts = [x, self.pick(fit)]
        total = sum(self.g.types[v].shape[-1] for v in parts)
        if total <= 40:
            self.node("concat", parts, replace(t, shape=(*t.shape[:-1], total)))

    def add_reshape(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        shape = (t.size,) if len(t.shape) > 1 else (2, t.size // 2) if t.size % 2 == 0 else t.shape
        self.node("reshape", [x], replace(t, shape=shape), shape=shape)


def random_step(seed: int) -> Graph:
    """A random integer step."""
    return RandomStep(seed).g


def frames(graph: Graph, batch: int, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Random input frames over the whole range, [batch, steps, *shape] per input."""
    r = np.random.default_rng(seed)
    out = []
    for name in graph.inputs:
        t = graph.types[name]
        lo, hi = fixed.INT_RANGE[t.dtype]
        array = r.integers(lo, hi + 1, (batch, steps, *t.shape)).astype(t.numpy)
        array[:, :2] = 0
        out.append(array)
    return out
