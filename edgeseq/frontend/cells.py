"""The step of each recurrent cell as a body Graph of primitive operations.

Weights are in PyTorch's order of gates, one merged `linear` per group of gates; equations as in the
documentation of torch.nn.RNN, GRU and LSTM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeseq.ir import Graph, Type

__all__ = ["Weights", "gru", "lstm", "rnn"]

Array = npt.NDArray[np.floating]


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


def _body(name: str, w: Weights) -> tuple[Graph, str]:
    body = Graph(name)
    return body, body.add_input("x", Type((w.w_ih.shape[1],)))


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


def rnn(name: str, w: Weights, h0: Array, *, fn: str) -> Graph:
    """h' = fn(W_ih x + b_ih + W_hh h + b_hh); fn is 'tanh' or 'relu'.

    Args:
        name: prefix of the nodes.
        w: parameters.
        h0: initial state [H].
        fn: the activation.
    """
    body, x = _body("rnn", w)
    bound = _limit(h0) if fn == "tanh" else None
    h = body.add_state("h", Type(h0.shape), h0, bound=bound)
    pre = _linear(
        body, f"{name}.pre", [(x, w.w_ih, "w_ih"), (h, w.w_hh, "w_hh")], w.bias(0, w.w_ih.shape[0])
    )
    if fn == "tanh":
        new = body.add_node("lut", [pre], name=f"{name}.out", fn="tanh")
    else:
        new = body.add_node("clamp", [pre], name=f"{name}.out", lo=0.0, hi=None)
    body.set_state(h, new)
    body.outputs = [new]
    return body


def gru(name: str, w: Weights, h0: Array) -> Graph:
    """PyTorch's GRU, whose reset gate acts after the recurrent product.

    r, z = sigmoid(W_ih x + b_ih + W_hh h + b_hh); n = tanh(W_in x + b_in + r (W_hn h + b_hn));
    h' = n + z (h - n).
    """
    body, x = _body("gru", w)
    size = h0.shape[0]
    h = body.add_state("h", Type((size,)), h0, bound=_limit(h0))
    two = 2 * size
    rz = _linear(
        body,
        f"{name}.rz",
        [(x, w.w_ih[:two], "w_ih"), (h, w.w_hh[:two], "w_hh")],
        w.bias(0, two),
    )
    r_pre = body.add_node("slice", [rz], name=f"{name}.r_pre", start=0, stop=size)
    z_pre = body.add_node("slice", [rz], name=f"{name}.z_pre", start=size, stop=two)
    r = body.add_node("lut", [r_pre], name=f"{name}.r", fn="sigmoid")
    z = body.add_node("lut", [z_pre], name=f"{name}.z", fn="sigmoid")
    b_in = None if w.b_ih is None else w.b_ih[two:]
    b_hn = None if w.b_hh is None else w.b_hh[two:]
    nx = _linear(body, f"{name}.nx", [(x, w.w_ih[two:], "w_ih")], b_in)
    nh = _linear(body, f"{name}.nh", [(h, w.w_hh[two:], "w_hh")], b_hn)
    gated = body.add_node("mul", [r, nh], name=f"{name}.rn")
    n_pre = body.add_node("add", [nx, gated], name=f"{name}.n_pre")
    n = body.add_node("lut", [n_pre], name=f"{name}.n", fn="tanh")
    gap = body.add_node("sub", [h, n], name=f"{name}.gap")
    kept = body.add_node("mul", [z, gap], name=f"{name}.kept")
    new = body.add_node("add", [n, kept], name=f"{name}.out")
    body.set_state(h, new)
    body.outputs = [new]
    return body


def lstm(name: str, w: Weights, h0: Array, c0: Array, *, cell_output: bool) -> Graph:
    """PyTorch's LSTM; with a projection h' = W_hr (o tanh(c')).

    i, f, g, o = gates of W_ih x + b_ih + W_hh h + b_hh; c' = f c + i g; h' = o tanh(c').

    Args:
        name, w: as `rnn`.
        h0: initial output [R].
        c0: initial cell state [H].
        cell_output: whether the body also outputs c'.
    """
    body, x = _body("lstm", w)
    size = c0.shape[0]
    # |o tanh(c)| <= 1, so a projection is bounded by the sums over its rows.
    reach = 1.0 if w.w_hr is None else float(np.abs(w.w_hr.astype(np.float64)).sum(1).max())
    h = body.add_state("h", Type(h0.shape), h0, bound=_limit(h0, reach))
    c = body.add_state("c", Type((size,)), c0)
    gates = _linear(
        body, f"{name}.ifgo", [(x, w.w_ih, "w_ih"), (h, w.w_hh, "w_hh")], w.bias(0, 4 * size)
    )
    value: dict[str, str] = {}
    for k, gate in enumerate("ifgo"):
        pre = body.add_node(
            "slice", [gates], name=f"{name}.{gate}_pre", start=k * size, stop=(k + 1) * size
        )
        fn = "tanh" if gate == "g" else "sigmoid"
        value[gate] = body.add_node("lut", [pre], name=f"{name}.{gate}", fn=fn)
    kept = body.add_node("mul", [value["f"], c], name=f"{name}.kept")
    added = body.add_node("mul", [value["i"], value["g"]], name=f"{name}.added")
    c_new = body.add_node("add", [kept, added], name=f"{name}.cell")
    squashed = body.add_node("lut", [c_new], name=f"{name}.cell_tanh", fn="tanh")
    new = body.add_node("mul", [value["o"], squashed], name=f"{name}.out")
    if w.w_hr is not None:
        new = _linear(body, f"{name}.projection", [(new, w.w_hr, "w_hr")], None)
    body.set_state(h, new)
    body.set_state(c, c_new)
    body.outputs = [new, c_new] if cell_output else [new]
    return body
