"""Real step Graphs for the quantiser: a short way to write them, and random mixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir import Graph, Type

__all__ = ["Build", "decades", "noise", "random_frames", "random_step"]

Array = npt.NDArray[Any]


def noise(*shape: int, batch: int = 4, steps: int = 48, seed: int = 1, size: float = 1.0) -> Array:
    """Normal frames, [batch, steps, *shape]."""
    return size * np.random.default_rng(seed).normal(size=(batch, steps, *shape))


def decades(n: int, low: float, high: float, *, seed: int = 3) -> Array:
    """Positive frames whose logarithms are uniform between powers of ten, [4, 48, n]."""
    return np.asarray(10.0 ** np.random.default_rng(seed).uniform(low, high, (4, 48, n)))


class Build:
    """A Graph under construction, with short names for its operations."""

    def __init__(self, name: str = "g", seed: int = 0) -> None:
        self.g, self.rng = Graph(name), np.random.default_rng(seed)

    def input(self, name: str, *shape: int) -> str:
        return self.g.add_input(name, Type(shape))

    def const(self, array: Any) -> str:
        return self.g.add_const("c", np.asarray(array, np.float64))

    def __call__(self, op: str, *inputs: str, **attrs: Any) -> str:
        return self.g.add_node(op, list(inputs), **attrs)

    def shape(self, x: str) -> tuple[int, ...]:
        return self.g.types[x].shape

    def weights(self, *shape: int, gain: float = 1.0) -> str:
        return self.const(self.rng.normal(size=shape) * gain / np.sqrt(shape[-1]))

    def linear(self, x: str, rows: int, *, bias: bool = True, **attrs: Any) -> str:
        args = [x, self.weights(rows, self.shape(x)[-1])]
        if bias:
            args.append(self.const(0.2 * self.rng.normal(size=rows)))
        return self("linear", *args, **attrs)

    def ring(self, x: str, length: int, name: str = "ring") -> str:
        """The last `length` frames of x [n], one after another: [length * n]."""
        (n,) = self.shape(x)
        state = self.g.add_state(name, Type((length * n,)))
        past = self("slice", state, start=n, stop=length * n)
        new = self("concat", past, x)
        self.g.set_state(state, new)
        return new

    def repeat(self, x: str, n: int) -> str:
        """x [1] as [n]."""
        return self("strided", x, shape=(n,), strides=(0,), offset=0)

    def done(self, *outputs: str) -> Graph:
        for v in outputs:
            if v in self.g.inputs or v in self.g.consts or v in self.g.outputs:
                v = self("reshape", v, shape=self.shape(v))
            self.g.outputs.append(v)
        return self.g


class _Random(Build):
    """Grows a Graph of vectors of one width; every value stays within a few units."""

    def __init__(self, seed: int, width: int) -> None:
        super().__init__("random", seed)
        self.n = width
        self.pool = [self.input("x", width), self.input("y", width)]

    def pick(self) -> str:
        # Mostly recent values, so that the Graph gets deep.
        at = min(int(self.rng.exponential(2.5)), len(self.pool) - 1)
        return self.pool[-1 - at]

    def tame(self, x: str) -> str:
        return self("clamp", x, lo=-4.0, hi=4.0)

    def positive(self, x: str) -> str:
        return self("add", self("mul", x, x), self.const(np.full(self.n, 0.05)))

    def grow(self) -> None:
        rule = str(self.rng.choice(sorted(_RULES)))
        self.pool.append(_RULES[rule](self))


def _cell(b: _Random) -> str:
    h = b.g.add_state(b.g.fresh("h"), Type((b.n,)))
    x = b.pick()
    gates = [x, b.weights(b.n, b.n), h, b.weights(b.n, b.n)]
    z = b("lut", b("linear", *gates), fn="sigmoid")
    new = b("lut", b("linear", x, b.weights(b.n, b.n)), fn="tanh")
    rest = b("sub", b.const(np.ones(b.n)), z)
    y = b("add", b("mul", rest, new), b("mul", z, h))
    b.g.set_state(h, y)
    return y


def _mean(b: _Random) -> str:
    h = b.g.add_state(b.g.fresh("m"), Type((b.n,)))
    y = b("add", b("mul", h, b.const([0.9])), b("mul", b.pick(), b.const([0.1])))
    b.g.set_state(h, y)
    return y


def _taps(b: _Random) -> str:
    past = b.ring(b.pick(), 5, b.g.fresh("taps"))
    window = b("strided", past, shape=(3, b.n), strides=(2 * b.n, 1), offset=0)
    return b("depthwise", window, b.weights(3, b.n), b.const(0.1 * b.rng.normal(size=b.n)))


def _attend(b: _Random) -> str:
    keys = b("reshape", b.ring(b.pick(), 6, b.g.fresh("keys")), shape=(6, b.n))
    query = b("mul", b("reshape", b.pick(), shape=(1, b.n)), b.const([1 / np.sqrt(b.n)]))
    score = b("add", b("matmul", query, keys), b.const(np.where(np.arange(6) < 2, -1e4, 0.0)))
    turned = b("strided", keys, shape=(b.n, 6), strides=(1, b.n), offset=0)
    return b("reshape", b("matmul", b("softmax", score), turned), shape=(b.n,))


def _loop(b: _Random) -> str:
    inner = Build("body", int(b.rng.integers(1 << 20)))
    x = inner.input("x", 4)
    h = inner.g.add_state("h", Type((b.n,)))
    args = [x, inner.weights(b.n, 4), h, inner.weights(b.n, b.n, gain=0.5)]
    y = inner("lut", inner("linear", *args), fn="tanh")
    inner.g.set_state(h, y)
    inner.g.outputs = [inner("reshape", y, shape=(b.n,))]
    xs = b("strided", b.pick(), shape=(3, 4), strides=(1, 1), offset=0)
    out = b("scan", xs, body=inner.g, reverse=bool(b.rng.integers(2)), name=b.g.fresh("loop"))
    return b.linear(b("reshape", out, shape=(3 * b.n,)), b.n)


def _ratio(b: _Random) -> str:
    """x / sqrt(mean of squares)."""
    x = b.pick()
    total = b("linear", b("mul", x, x), b.const(np.full((1, b.n), 1 / b.n)))
    root = b("wide", b("wide", b("add", total, b.const([1e-2])), fn="sqrt"), fn="reciprocal")
    return b("mul", x, b.repeat(root, b.n))


def _either(b: _Random) -> str:
    truth = b("compare", b.pool[0], b.const(np.zeros(b.n)), cmp="gt")
    return b("select", truth, b.pick(), b.pick())


_RULES: dict[str, Callable[[_Random], str]] = {
    "add": lambda b: b.tame(b("add", b.pick(), b.pick())),
    "sub": lambda b: b.tame(b("sub", b.pick(), b.pool[1])),
    "mul": lambda b: b.tame(b("mul", b.pick(), b.pick())),
    "gain": lambda b: b.tame(b("mul", b.pick(), b.const(b.rng.normal(size=b.n)))),
    "dense": lambda b: b.tame(b.linear(b.pick(), b.n)),
    "joined": lambda b: b.tame(b.linear(b("concat", b.pick(), b.pick()), b.n)),
    "silu": lambda b: b("lut", b.pick(), fn="silu"),
    "sigmoid": lambda b: b("lut", b.pick(), fn="sigmoid"),
    "abs": lambda b: b("lut", b.pick(), fn="abs"),
    "norm": lambda b: b("norm", b.pick(), b.const(np.ones(b.n)), b.const(np.zeros(b.n)),
                        eps=1e-3),
    "sqrt": lambda b: b("wide", b.positive(b.pick()), fn="sqrt"),
    "log": lambda b: b("wide", b.positive(b.pick()), fn="log"),
    "rsqrt": lambda b: b("wide", b.positive(b.pick()), fn="rsqrt"),
    "max": lambda b: b("max", b.pick(), b.pick()),
    "min": lambda b: b("min", b.pick(), b.const(np.full(b.n, 0.5))),
    "reverse": lambda b: b("strided", b.pick(), shape=(b.n,), strides=(-1,), offset=b.n - 1),
    "cell": _cell, "mean": _mean, "taps": _taps, "attend": _attend, "loop": _loop,
    "ratio": _ratio, "either": _either,
}  # fmt: skip


def random_step(seed: int, *, size: int = 12, width: int = 8) -> Graph:
    """A real step of `size` random operations on vectors of `width`; inputs x and y.

    Signs of x choose between values: frames of `random_frames` keep away from zero, so that
    rounding turns no sign.
    """
    b = _Random(seed, width)
    for _ in range(size):
        b.grow()
    return b.done(b.pool[-1], b.linear(b("concat", *b.pool[-3:]), 3))


def random_frames(seed: int, *, width: int = 8, steps: int = 40) -> list[Array]:
    """Frames for `random_step`."""
    x, y = (noise(width, steps=steps, seed=seed + k) for k in (0, 1 << 20))
    return [x + 0.02 * np.sign(x), y]
