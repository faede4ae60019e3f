"""Random real Graphs over time: what a front end would make of small stacked models.

Weights are uniform within ±gain/sqrt(hidden), twice what PyTorch starts with for ``gain=2``: gates
then leave the linear part of their curves, as they do after training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir import Graph, Time, Type, check

__all__ = ["CELLS", "body", "frames", "model"]

Array = npt.NDArray[Any]


class _Body:
    """A scan's body under construction: one cell with its weights."""

    def __init__(self, size: int, hidden: int, rng: np.random.Generator, gain: float) -> None:
        self.g = Graph("body")
        self.x = self.g.add_input("x", Type((size,)))
        self.size, self.hidden, self.rng = size, hidden, rng
        self.limit = gain / np.sqrt(hidden)

    def weights(self, name: str, *shape: int) -> str:
        return self.g.add_const(name, self.rng.uniform(-self.limit, self.limit, shape))

    def linear(self, name: str, *xs: str, rows: int) -> str:
        args = []
        for i, x in enumerate(xs):
            args += [x, self.weights(f"{name}.w{i}", rows, self.g.types[x].shape[0])]
        return self.g.add_node("linear", [*args, self.weights(f"{name}.b", rows)], name=name)

    def lut(self, fn: str, x: str) -> str:
        return self.g.add_node("lut", [x], fn=fn, name=fn)

    def add(self, a: str, b: str) -> str:
        return self.g.add_node("add", [a, b])

    def sub(self, a: str, b: str) -> str:
        return self.g.add_node("sub", [a, b])

    def mul(self, a: str, b: str) -> str:
        return self.g.add_node("mul", [a, b])

    def slice(self, x: str, i: int) -> str:
        start, stop = i * self.hidden, (i + 1) * self.hidden
        return self.g.add_node("slice", [x], start=start, stop=stop)

    def done(self, carried: Sequence[tuple[str, str]], output: str) -> Graph:
        for value, new in carried:
            self.g.set_state(value, new)
        self.g.outputs = [output]
        return self.g


def _rnn(b: _Body) -> Graph:
    h = b.g.add_state("h", Type((b.hidden,)), bound=1.0)
    y = b.lut("tanh", b.linear("cell", b.x, h, rows=b.hidden))
    return b.done([(h, y)], y)


def _rnn_relu(b: _Body) -> Graph:
    b.limit *= 0.5  # an unbounded cell: keep its loop gain below one
    h = b.g.add_state("h", Type((b.hidden,)))
    y = b.g.add_node("clamp", [b.linear("cell", b.x, h, rows=b.hidden)], lo=0.0, hi=None)
    return b.done([(h, y)], y)


def _gru(b: _Body) -> Graph:
    h = b.g.add_state("h", Type((b.hidden,)), bound=1.0)
    rz = b.linear("rz", b.x, h, rows=2 * b.hidden)
    r, z = b.lut("sigmoid", b.slice(rz, 0)), b.lut("sigmoid", b.slice(rz, 1))
    nx, nh = b.linear("nx", b.x, rows=b.hidden), b.linear("nh", h, rows=b.hidden)
    n = b.lut("tanh", b.add(nx, b.mul(r, nh)))
    y = b.add(n, b.mul(z, b.sub(h, n)))
    return b.done([(h, y)], y)


def _lstm(b: _Body) -> Graph:
    h, c = b.g.add_state("h", Type((b.hidden,)), bound=1.0), b.g.add_state("c", Type((b.hidden,)))
    return _lstm_cell(b, h, c, project=False)


def _lstm_projected(b: _Body) -> Graph:
    h = b.g.add_state("h", Type((max(1, b.hidden // 2),)))
    c = b.g.add_state("c", Type((b.hidden,)))
    return _lstm_cell(b, h, c, project=True)


def _lstm_cell(b: _Body, h: str, c: str, *, project: bool) -> Graph:
    pre = b.linear("gates", b.x, h, rows=4 * b.hidden)
    fns = ("sigmoid", "sigmoid", "tanh", "sigmoid")
    i, f, g, o = (b.lut(fn, b.slice(pre, k)) for k, fn in enumerate(fns))
    new_c = b.add(b.mul(f, c), b.mul(i, g))
    y = b.mul(o, b.lut("tanh", new_c))
    if project:
        w = b.weights("project", b.g.types[h].shape[0], b.hidden)
        y = b.g.add_node("linear", [y, w], name="project")
    return b.done([(h, y), (c, new_c)], y)


CELLS: dict[str, Callable[[_Body], Graph]] = {
    "rnn": _rnn,
    "rnn_relu": _rnn_relu,
    "gru": _gru,
    "lstm": _lstm,
    "lstm_projected": _lstm_projected,
}


def body(cell: str, size: int, hidden: int, *, seed: int = 0, gain: float = 2.0) -> Graph:
    """The body of one recurrent layer of `CELLS`: input [size], output [hidden]."""
    return CELLS[cell](_Body(size, hidden, np.random.default_rng(seed), gain))


def model(
    *cells: str,
    inputs: int = 5,
    hidden: int = 8,
    outputs: int = 3,
    affine: bool = False,
    norm: bool = False,
    residual: bool = False,
    activation: str | None = None,
    emit: str = "last",
    seed: int = 0,
    gain: float = 2.0,
) -> Graph:
    """A checked Graph over time: the cells one on another, then a dense head.

    Args:
        cells: of `CELLS`; none makes a model without recurrence.
        affine: normalise the input with per-channel constants first.
        norm: a layer norm after every cell.
        residual: add a cell's input to its output where their sizes agree.
        activation: of `edgeseq.ir.functions`, before the head.
        emit: "last", "frame" or "both" (two outputs: the hidden sequence and the last answer).
    """
    rng = np.random.default_rng(seed + 1000)
    g = Graph("model")
    x = g.add_input("x", Type((inputs,), time=Time()))
    if affine:
        x = g.add_node("sub", [x, g.add_const("mean", rng.normal(size=inputs))])
        x = g.add_node("mul", [x, g.add_const("inverse", rng.uniform(0.5, 2.0, inputs))])
    for i, cell in enumerate(cells):
        size = g.types[x].shape[0]
        layer = body(cell, size, hidden, seed=seed + i, gain=gain)
        y = g.add_node("scan", [x], body=layer, reverse=False, name=f"layer{i}")
        if residual and g.types[y].shape == g.types[x].shape:
            y = g.add_node("add", [y, x])
        if norm:
            n = g.types[y].shape[0]
            gamma, beta = rng.uniform(0.5, 1.5, n), 0.3 * rng.normal(size=n)
            y = g.add_node("norm", [y, g.add_const("gamma", gamma), g.add_const("beta", beta)],
                           eps=1e-5)  # fmt: skip
        x = y
    if activation is not None:
        x = g.add_node("lut", [x], fn=activation)
    size = g.types[x].shape[0]
    w, b = rng.normal(size=(outputs, size)) / np.sqrt(size), 0.2 * rng.normal(size=outputs)
    head = [g.add_const("head.w", w), g.add_const("head.b", b)]
    if emit == "both":
        g.outputs.append(x)
    y = g.add_node("linear", [x, *head], name="head")
    g.outputs.append(y if emit == "frame" else g.add_node("last", [y]))
    check(g)
    return g


def frames(*, batch: int = 3, steps: int = 60, inputs: int = 5, seed: int = 7) -> Array:
    """Smooth noise of unit size, [batch, steps, inputs]."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(batch, steps + 8, inputs))
    smooth = sum(noise[:, i : i + steps] for i in range(5)) / np.sqrt(5.0)
    return np.asarray(0.5 * noise[:, 8:] + smooth)
