"""The step of each recurrent cell as a body Graph of primitive operations.

Weights are in PyTorch's order of gates, one merged `linear` per group of gates; equations as in the
documentation of torch.nn.RNN, GRU and LSTM, and of ONNX for what only ONNX has (peepholes, coupled
gates, clipping, other activations, a reset before the recurrent product).

Bodies may run several sequences side by side (`rows`): values are then [rows, H].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseq.ir import Graph, Type

__all__ = ["Activation", "Weights", "gru", "lstm", "rnn"]

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Activation:
    """A function of one variable: ``outer * fn(inner * x)``, or a piece of straight lines.

    Attributes:
        fn: in `edgeseq.ir.functions`, or 'relu', 'affine', 'identity', 'hard_sigmoid'.
        a, b: 'affine': a x + b. 'hard_sigmoid': max(0, min(1, a x + b)). 'scaled': outer a and
            inner b of `tanh`. 'leaky': slope a below zero.
        scaled: a and b are outer and inner factors of `fn`.
    """

    fn: str
    a: float = 1.0
    b: float = 0.0
    scaled: bool = False

    @property
    def bounded(self) -> bool:
        """Values never leave [-1, 1]."""
        return not self.scaled and self.fn in ("tanh", "sigmoid", "hard_sigmoid", "softsign")

    def build(self, g: Graph, x: str, name: str) -> str:
        """Append it to a Graph; returns its output."""

        def const(value: float) -> str:
            return g.add_const(f"{name}.k", np.full(1, value))

        if self.fn == "identity":
            return x
        if self.fn == "relu":
            return g.add_node("clamp", [x], name=name, lo=0.0, hi=None)
        if self.fn == "leaky":
            line = g.add_node("mul", [x, const(self.a)], name=f"{name}.line")
            up = g.add_node("clamp", [x], name=f"{name}.up", lo=0.0, hi=None)
            bend = g.add_node("mul", [up, const(1.0 - self.a)], name=f"{name}.bend")
            return g.add_node("add", [line, bend], name=name)
        if self.fn in ("affine", "hard_sigmoid") and (self.fn == "affine" or self.a):
            y = g.add_node("mul", [x, const(self.a)], name=f"{name}.times")
            y = g.add_node("add", [y, const(self.b)], name=f"{name}.plus")
            if self.fn == "affine":
                return y
            return g.add_node("clamp", [y], name=name, lo=0.0, hi=1.0)
        if self.scaled:
            inner = g.add_node("mul", [x, const(self.b)], name=f"{name}.inner")
            y = g.add_node("lut", [inner], name=f"{name}.fn", fn=self.fn)
            return g.add_node("mul", [y, const(self.a)], name=name)
        return g.add_node("lut", [x], name=name, fn=self.fn)


SIGMOID, TANH, RELU = Activation("sigmoid"), Activation("tanh"), Activation("relu")


@dataclass(frozen=True)
class Weights:
    """Parameters of one direction of one layer.

    Attributes:
        w_ih: [gates*H, inputs].
        w_hh: [gates*H, R], R the width of h (H, or the projection's).
        b_ih, b_hh: [gates*H] or None.
        w_hr: the projection [R, H], or None.
    """

    w_ih: Array
    w_hh: Array
    b_ih: Array | None
    b_hh: Array | None
    w_hr: Array | None = None

    def bias(self, start: int, stop: int) -> Array | None:
        """Both biases, which only ever occur as a sum, of rows start..stop-1."""
        if self.b_ih is None or self.b_hh is None:
            return None
        return np.asarray(self.b_ih[start:stop].astype(np.float64) + self.b_hh[start:stop])


def _body(name: str, w: Weights, rows: int | None) -> tuple[Graph, str]:
    body = Graph(name)
    lead = () if rows is None else (rows,)
    return body, body.add_input("x", Type((*lead, w.w_ih.shape[1])))


def _linear(body: Graph, name: str, pairs: list[tuple[str, Array, str]], bias: Array | None) -> str:
    inputs: list[str] = []
    for x, weight, label in pairs:
        inputs += [x, body.add_const(f"{name}.{label}", weight)]
    if bias is not None:
        inputs.append(body.add_const(f"{name}.bias", bias))
    return body.add_node("linear", inputs, name=name)


def _limit(init: Array, by_cell: float = 1.0) -> float:
    """A state that starts within the cell's own bound stays within it."""
    return max(by_cell, float(np.max(np.abs(init), initial=0.0)))


def _clipped(body: Graph, x: str, clip: float | None, name: str) -> str:
    if clip is None:
        return x
    return body.add_node("clamp", [x], name=f"{name}.clip", lo=-clip, hi=clip)


def rnn(
    name: str,
    w: Weights,
    h0: Array,
    *,
    act: Activation = TANH,
    clip: float | None = None,
    rows: int | None = None,
) -> Graph:
    """h' = act(W_ih x + b_ih + W_hh h + b_hh).

    Args:
        name: prefix of the nodes.
        w: parameters.
        h0: initial state [H], or [rows, H].
        act: the activation.
        clip: bound of what an activation reads.
        rows: sequences side by side.
    """
    body, x = _body("rnn", w, rows)
    bound = _limit(h0) if act.bounded else None
    h = body.add_state("h", Type(h0.shape), h0, bound=bound)
    pre = _linear(
        body, f"{name}.pre", [(x, w.w_ih, "w_ih"), (h, w.w_hh, "w_hh")], w.bias(0, w.w_ih.shape[0])
    )
    new = act.build(body, _clipped(body, pre, clip, f"{name}.pre"), f"{name}.out")
    body.set_state(h, new)
    body.outputs = [new]
    return body


def gru(
    name: str,
    w: Weights,
    h0: Array,
    *,
    acts: Sequence[Activation] = (SIGMOID, TANH),
    clip: float | None = None,
    reset_before: bool = False,
    rows: int | None = None,
) -> Graph:
    """PyTorch's GRU, whose reset gate acts after the recurrent product.

    r, z = f(W_ih x + b_ih + W_hh h + b_hh); n = g(W_in x + b_in + r (W_hn h + b_hn));
    h' = n + z (h - n). With `reset_before`: n = g(W_in x + b_in + W_hn (r h) + b_hn)
    (Cho et al. 2014, arXiv 1406.1078; ONNX linear_before_reset = 0).

    Args:
        name, w, h0, clip, rows: as `rnn`.
        acts: f and g.
        reset_before: the reset gate acts on h before the recurrent product.
    """
    body, x = _body("gru", w, rows)
    size = h0.shape[-1]
    f, g = acts
    h = body.add_state("h", Type(h0.shape), h0, bound=_limit(h0) if g.bounded else None)
    two = 2 * size
    rz = _linear(
        body,
        f"{name}.rz",
        [(x, w.w_ih[:two], "w_ih"), (h, w.w_hh[:two], "w_hh")],
        w.bias(0, two),
    )
    rz = _clipped(body, rz, clip, f"{name}.rz")
    r_pre = body.add_node("slice", [rz], name=f"{name}.r_pre", start=0, stop=size)
    z_pre = body.add_node("slice", [rz], name=f"{name}.z_pre", start=size, stop=two)
    r = f.build(body, r_pre, f"{name}.r")
    z = f.build(body, z_pre, f"{name}.z")
    if reset_before:
        gated = body.add_node("mul", [r, h], name=f"{name}.rh")
        n_pre = _linear(
            body,
            f"{name}.n_pre",
            [(x, w.w_ih[two:], "w_ih"), (gated, w.w_hh[two:], "w_hh")],
            w.bias(two, 3 * size),
        )
    else:
        b_in = None if w.b_ih is None else w.b_ih[two:]
        b_hn = None if w.b_hh is None else w.b_hh[two:]
        nx = _linear(body, f"{name}.nx", [(x, w.w_ih[two:], "w_ih")], b_in)
        nh = _linear(body, f"{name}.nh", [(h, w.w_hh[two:], "w_hh")], b_hn)
        gated = body.add_node("mul", [r, nh], name=f"{name}.rn")
        n_pre = body.add_node("add", [nx, gated], name=f"{name}.n_pre")
    n = g.build(body, _clipped(body, n_pre, clip, f"{name}.n_pre"), f"{name}.n")
    gap = body.add_node("sub", [h, n], name=f"{name}.gap")
    kept = body.add_node("mul", [z, gap], name=f"{name}.kept")
    new = body.add_node("add", [n, kept], name=f"{name}.out")
    body.set_state(h, new)
    body.outputs = [new]
    return body


def lstm(
    name: str,
    w: Weights,
    h0: Array,
    c0: Array,
    *,
    cell_output: bool,
    acts: Sequence[Activation] = (SIGMOID, TANH, TANH),
    clip: float | None = None,
    peephole: Array | None = None,
    coupled: bool = False,
    rows: int | None = None,
) -> Graph:
    """PyTorch's LSTM; with a projection h' = W_hr (o k(c')).

    i, f, g, o = gates of W_ih x + b_ih + W_hh h + b_hh; c' = f c + i g; h' = o k(c').
    With peepholes p (Gers and Schmidhuber 2000) i, f also read p c and o reads p c'; coupled:
    f = 1 - i.

    Args:
        name, w, clip, rows: as `rnn`; with `coupled` the weights still hold rows of f (unused).
        h0: initial output [R].
        c0: initial cell state [H].
        cell_output: whether the body also outputs c'.
        acts: of the gates i, f, o; of g; of c'.
        peephole: [3, H] for i, f, o, or None.
    """
    body, x = _body("lstm", w, rows)
    size = c0.shape[-1]
    f, g, k = acts
    # |o k(c)| <= 1, so a projection is bounded by the sums over its rows.
    reach = 1.0 if w.w_hr is None else float(np.abs(w.w_hr.astype(np.float64)).sum(1).max())
    bound = _limit(h0, reach) if f.bounded and k.bounded else None
    h = body.add_state("h", Type(h0.shape), h0, bound=bound)
    c = body.add_state("c", Type(c0.shape), c0)
    gates = _linear(
        body, f"{name}.ifgo", [(x, w.w_ih, "w_ih"), (h, w.w_hh, "w_hh")], w.bias(0, 4 * size)
    )
    value: dict[str, str] = {}

    def gate(letter: str, place: int, act: Activation, cell: str | None) -> None:
        pre = body.add_node(
            "slice", [gates], name=f"{name}.{letter}_pre", start=place * size,
            stop=(place + 1) * size,
        )  # fmt: skip
        if cell is not None and peephole is not None:
            row = peephole["ifo".index(letter)]
            seen = body.add_node(
                "mul", [cell, body.add_const(f"{name}.{letter}_peep", row)],
                name=f"{name}.{letter}_seen",
            )  # fmt: skip
            pre = body.add_node("add", [pre, seen], name=f"{name}.{letter}_sum")
        pre = _clipped(body, pre, clip, f"{name}.{letter}")
        value[letter] = act.build(body, pre, f"{name}.{letter}")

    gate("i", 0, f, c)
    if coupled:
        one = body.add_const(f"{name}.one", np.ones(1))
        value["f"] = body.add_node("sub", [one, value["i"]], name=f"{name}.f")
    else:
        gate("f", 1, f, c)
    gate("g", 2, g, None)
    kept = body.add_node("mul", [value["f"], c], name=f"{name}.kept")
    added = body.add_node("mul", [value["i"], value["g"]], name=f"{name}.added")
    c_new = body.add_node("add", [kept, added], name=f"{name}.cell")
    gate("o", 3, f, c_new)
    squashed = k.build(body, c_new, f"{name}.cell_tanh")
    new = body.add_node("mul", [value["o"], squashed], name=f"{name}.out")
    if w.w_hr is not None:
        new = _linear(body, f"{name}.projection", [(new, w.w_hr, "w_hr")], None)
    body.set_state(h, new)
    body.set_state(c, c_new)
    body.outputs = [new, c_new] if cell_output else [new]
    return body
