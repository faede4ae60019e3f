"""Integer steps in the shapes of real networks, by hand: convolutions, attention, loops."""

from __future__ import annotations

import numpy as np
from kernel_models import table, typed

from edgeseq import fixed
from edgeseq.ir.graph import Graph
from edgeseq.ir.types import Type


class Net:
    """Builds a step of int16 values with random weights."""

    def __init__(self, name: str, seed: int = 0) -> None:
        self.r = np.random.default_rng(seed)
        self.g = Graph(name)

    def node(
        self,
        op: str,
        inputs: list[str],
        shape: tuple[int, ...],
        dtype: str = "i16",
        /,
        **attrs: object,
    ) -> str:
        """A node whose scale does not matter; returns its first output."""
        return self.g.add_node(op, inputs, types=[typed(shape, dtype)], **attrs)

    def linear(self, xs: list[str], rows: int, dtype: str = "i16", w: str = "i8") -> str:
        inputs: list[str] = []
        top = 127 if w == "i8" else 180
        for x in xs:
            k = self.g.types[x].shape[-1]
            array = self.r.integers(-top, top + 1, (rows, k))
            inputs += [x, self.g.add_const("w", array, typed((rows, k), w))]
        m = [self.r.integers(2**24, 2**25, rows).astype(np.int32) for _ in xs]
        bias = self.r.integers(-3000, 3000, rows)
        inputs.append(self.g.add_const("b", bias, typed(rows, "i32")))
        shape = (*self.g.types[xs[0]].shape[:-1], rows)
        return self.node("linear", inputs, shape, dtype, m=m, s=[32] * len(xs))

    def lut(self, x: str, fn: str, width: float, k: int, frac: int = 16) -> str:
        nodes = self.g.add_const(fn, table(fn, -width, width), typed(513, "i16"))
        lo = -int(width) << frac
        return self.node("lut", [x, nodes], self.g.types[x].shape, fn=fn, lo=lo, k=k)

    def relu(self, x: str) -> str:
        return self.node("clamp", [x], self.g.types[x].shape, lo=0, hi=None)

    def part(self, x: str, start: int, stop: int) -> str:
        t = self.g.types[x]
        shape = (*t.shape[:-1], stop - start)
        return self.node("slice", [x], shape, t.dtype, start=start, stop=stop)

    def reshape(self, x: str, *shape: int) -> str:
        return self.node("reshape", [x], shape, self.g.types[x].dtype, shape=shape)

    def view(self, x: str, shape: tuple[int, ...], strides: tuple[int, ...], at: int = 0) -> str:
        dtype = self.g.types[x].dtype
        return self.node("strided", [x], shape, dtype, shape=shape, strides=strides, offset=at)

    def window(self, x: str, past: int) -> str:
        """`past` frames before this one and this one, [(past + 1) * size]."""
        t = self.g.types[x]
        n = t.size
        state = self.g.add_state("past", typed(past * n, t.dtype))
        seen = self.node("concat", [state, x], ((past + 1) * n,), t.dtype)
        self.g.set_state(state, self.part(seen, n, (past + 1) * n))
        return seen

    def lstm(self, x: str, hidden: int) -> str:
        h = self.g.add_state("h", typed(hidden, "i16"))
        c = self.g.add_state("c", typed(hidden, "i32"))
        z = self.linear([x, h], 4 * hidden, "i32")
        gates = self.lut(self.part(z, 0, 3 * hidden), "sigmoid", 16, 12)
        i, f, o = (self.part(gates, k * hidden, (k + 1) * hidden) for k in range(3))
        new = self.lut(self.part(z, 3 * hidden, 4 * hidden), "tanh", 8, 11)
        kept = self.node("mul", [f, c], (hidden,), "i32", m=1, s=15)
        added = self.node("mul", [i, new], (hidden,), "i32", m=1, s=10)
        after = self.node("add", [kept, added], (hidden,), "i32", ma=1, mb=1, s=0)
        out = self.node("mul", [o, self.lut(after, "tanh", 8, 15, 20)], (hidden,), m=1, s=15)
        self.g.set_state(h, out)
        self.g.set_state(c, after)
        return out

    def conv(self, x: str, rows: int, k: int, stride: int, pad: int) -> str:
        """A convolution over the first axis of x [T, C]."""
        t, c = self.g.types[x].shape
        flat = self.reshape(x, t * c)
        if pad:
            zeros = self.g.add_const("zeros", np.zeros(pad * c), typed(pad * c, "i16"))
            flat = self.node("concat", [zeros, flat, zeros], ((t + 2 * pad) * c,))
        steps = (t + 2 * pad - k) // stride + 1
        return self.linear([self.view(flat, (steps, k * c), (stride * c, 1))], rows)


def dilated(channels: int = 16, layers: int = 3, k: int = 3) -> Graph:
    """Causal convolutions of growing dilation, with their caches as states."""
    net = Net("dilated")
    y = net.linear([net.g.add_input("x", typed(channels, "i16"))], channels)
    for layer in range(layers):
        step = 2**layer
        seen = net.window(y, (k - 1) * step)
        taps = net.view(seen, (k, channels), (step * channels, 1))
        y = net.relu(net.linear([net.reshape(taps, k * channels)], channels))
    net.g.outputs = [net.linear([y], 5)]
    return net.g


def depthwise(channels: int = 24, k: int = 7, after: int = 8) -> Graph:
    """A depthwise convolution over time and a pointwise one."""
    net = Net("depthwise")
    x = net.g.add_input("x", typed(channels, "i16"))
    taps = net.reshape(net.window(x, k - 1), k, channels)
    w = net.g.add_const("w", net.r.integers(-127, 128, (k, channels)), typed((k, channels), "i8"))
    b = net.g.add_const("b", net.r.integers(-999, 999, channels), typed(channels, "i32"))
    m = net.r.integers(2**24, 2**25, channels).astype(np.int32)
    y = net.node("depthwise", [taps, w, b], (channels,), m=m, s=32)
    net.g.outputs = [net.linear([net.relu(y)], after)]
    return net.g


def attention(frames: int = 12, width: int = 16, heads: int = 2) -> Graph:
    """Attention over a window of keys and values."""
    net = Net("attention")
    x = net.g.add_input("x", typed(width, "i16"))
    q, k, v = (net.linear([x], width) for _ in range(3))
    keys, values = net.window(k, frames - 1), net.window(v, frames - 1)
    d = width // heads
    queries = net.reshape(q, heads, 1, d)
    by_head = net.view(keys, (heads, frames, d), (d, width, 1))
    scores = net.node("matmul", [queries, by_head], (heads, 1, frames), m=1, s=17)
    exp = net.g.add_const("exp", table("exp", -16, 0), Type((513,), "i16", 2.0**-15))
    weights = net.g.add_node(
        "softmax", [scores, exp], types=[Type((heads, 1, frames), "i16", 2.0**-15)],
        m=1, s=1, lo=-(512 << 6), k=6,
    )  # fmt: skip
    across = net.view(values, (heads, d, frames), (d, 1, width))
    context = net.node("matmul", [weights, across], (heads, 1, d), m=1, s=15)
    net.g.outputs = [net.linear([net.reshape(context, width)], width)]
    return net.g


def bands(count: int = 6, width: int = 4, hidden: int = 8) -> Graph:
    """A recurrence over the bands of one frame, forwards and backwards, its end carried on."""
    net = Net("bands")
    x = net.g.add_input("x", typed((count, width), "i16"))
    start = net.g.add_state("start", typed(hidden, "i16"))
    c0 = net.g.add_const("c0", net.r.integers(-9999, 9999, hidden), typed(hidden, "i32"))
    ways = []
    for back in (False, True):
        body = Net("body", seed=int(back))
        y = body.lstm(body.g.add_input("x", typed(width, "i16")), hidden)
        body.g.outputs = [y]
        stacked = typed((count, hidden), "i16")
        finals = [typed(hidden, "i16"), typed(hidden, "i32")]
        given = [] if back else [start, c0]
        ways.append(
            net.g.add_node(
                "scan",
                [x, *given],
                types=[stacked, *(finals if given else [])],
                body=body.g,
                reverse=back,
            )
        )
    both = net.node("concat", ways, (count, 2 * hidden))
    net.g.set_state(start, net.g.nodes[0].outputs[1])
    net.g.outputs = [net.linear([both], 3)]
    return net.g


def speech(size: int = 1) -> Graph:
    """Framing, a spectrum, convolutions over it and an LSTM: a voice detector's shape."""
    net = Net("speech")
    hop = 16 * size
    x = net.g.add_input("x", typed(4 * hop, "i16"))
    seen = net.node("concat", [net.g.add_state("ctx", typed(hop, "i16")), x], (5 * hop,))
    net.g.set_state("ctx", net.part(seen, 4 * hop, 5 * hop))
    mirrored = net.view(seen, (hop,), (-1,), 5 * hop - 2)
    padded = net.node("concat", [seen, mirrored], (6 * hop,))
    bins = hop + 1
    parts = net.linear([net.view(padded, (5, 2 * hop), (hop, 1))], 2 * bins)
    shape = (5, bins)
    real, imaginary = net.part(parts, 0, bins), net.part(parts, bins, 2 * bins)
    squares = [net.node("mul", [p, p], shape, "i32", m=1, s=1) for p in (real, imaginary)]
    power = net.node("add", squares, shape, "i32", ma=1, mb=1, s=0)
    nodes = net.g.add_const("sqrt", fixed.wide_table("sqrt"), typed(193, "i32"))
    y = net.node("wide", [power, nodes], shape, fn="sqrt", m=1 << 29, s=43, b=0)
    for rows, stride in ((8 * size, 1), (4 * size, 2), (8 * size, 2)):
        y = net.relu(net.conv(y, rows, 3, stride, 1))
    t = net.g.types[y]
    y = net.lstm(net.reshape(y, t.size), 8 * size)
    net.g.outputs = [net.lut(net.linear([net.relu(y)], 1, "i32"), "sigmoid", 16, 12)]
    return net.g


NETS = {
    "dilated": dilated, "depthwise": depthwise, "attention": attention, "bands": bands,
    "speech": speech,
}  # fmt: skip
