"""nn.RNN, nn.GRU, nn.LSTM and their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseq.frontend import cells
from edgeseq.frontend.axes import LayoutError, Value, describe, size_of
from edgeseq.frontend.build import views
from edgeseq.frontend.build.recurrent import (
    Direction,
    Initial,
    both_directions,
    run_layer,
    stacked_states,
    time_first,
)
from edgeseq.frontend.cells import Weights
from edgeseq.frontend.context import Array, AxisConflict, Context, lowers
from edgeseq.ir import Graph

PACKED = (
    "runs on a packed sequence",
    "pass plain tensors of one length: a stream has no padding",
)


@dataclass
class _Layer:
    """Arguments that all recurrent operators share; `input` is [time, batch, features]."""

    input: Value
    initial: list[Any]
    params: Sequence[Any]
    biases: bool
    layers: int
    directions: int
    batch_first: bool
    batched: bool


def _layer(
    c: Context,
    input: Any,
    hx: Any,
    params: Sequence[Any] | None = None,
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    **other: Any,
) -> _Layer:
    """Check the arguments common to all layers.

    Raises:
        LayoutError: packed sequences, training mode, moving weights.
        AxisConflict: batch and time are in the other order.
    """
    if other or params is None:
        raise LayoutError(*PACKED)
    if train and dropout:
        raise LayoutError("is in training mode", "call model.eval() before exporting")
    if any(isinstance(p, Value) for p in params):
        raise LayoutError("has weights that depend on the input", "use constant weights")
    if not isinstance(input, Value):
        raise LayoutError("has a constant input", "feed the layer from the input")
    states = list(hx) if isinstance(hx, list) else [hx]
    batched = len(input.axes) == 3
    if len(input.axes) == 2:
        input = views.unsqueeze(c, input, [1])
        states = [
            views.unsqueeze(c, h, [1]) if isinstance(h, Value) else np.asarray(h)[:, None]
            for h in states
        ]
        batch_first = False
    if len(input.axes) != 3:
        raise LayoutError(f"runs over {describe(input.axes)}", "pass [batch, time, features]")
    x = time_first(c, input, bool(batch_first))
    if x.kind(0) == "B":
        raise AxisConflict(str(c.op))
    return _Layer(
        x, states, params, bool(has_biases), num_layers, 2 if bidirectional else 1,
        bool(batch_first), batched,
    )  # fmt: skip


def _initial(c: Context, h: Any, index: int) -> Initial:
    """State [batch, H] of a layer and direction, from [layers * directions, batch, H]."""
    if isinstance(h, Value):
        return views.select(c, h, 0, index)
    return np.asarray(h, np.float64)[index]


def _weights(params: Sequence[Any], index: int, biases: bool, projection: bool) -> Weights:
    per = 2 + 2 * biases + projection
    group = [np.asarray(p) for p in params[index * per : (index + 1) * per]]
    if len(group) != per or any(p.ndim not in (1, 2) for p in group):
        raise LayoutError("has weights that do not fit its options")
    b_ih, b_hh = (group[2], group[3]) if biases else (None, None)
    return Weights(group[0], group[1], b_ih, b_hh, group[-1] if projection else None)


def _run(c: Context, layer: _Layer, body_of: Any, *, projection: bool = False) -> list[Any]:
    """Build the layers; returns output, h_n (and c_n)."""
    x, states = layer.input, len(layer.initial)
    wanted = [len(c.op.outputs) > 1 + i and c.op.outputs[1 + i] in c.used for i in range(states)]
    finals: list[list[Value | None]] = [[] for _ in range(states)]
    for k in range(layer.layers):
        outcomes = []
        for d in range(layer.directions):
            index = k * layer.directions + d
            w = _weights(layer.params, index, layer.biases, projection)

            def body(name: str, rows: Any, init: list[Array], w: Weights = w) -> Graph:
                return body_of(name, w, init, rows)

            label = f"l{k}" + ("_reverse" if d else "")
            initial = [_initial(c, h, index) for h in layer.initial]
            outcomes.append(run_layer(c, x, Direction(label, body, initial, bool(d)), final=wanted))
            for i, value in enumerate(outcomes[-1].finals):
                finals[i].append(value)
        x = both_directions(c, outcomes)
    output = views.permute(c, x, [1, 0, 2]) if layer.batch_first else x
    results: list[Any] = [output if layer.batched else views.squeeze(c, output, [1])]
    for i in range(states):
        if not wanted[i]:
            results.append(None)
            continue
        if all(f is None for f in finals[i]):
            raise LayoutError("gives the last state of a backward direction", "use its outputs")
        h = stacked_states(c, finals[i])
        results.append(h if layer.batched else views.squeeze(c, h, [1]))
    return results


@lowers("rnn_tanh", "rnn_relu")
def _rnn(c: Context, **args: Any) -> list[Any]:
    act = cells.TANH if c.op.base == "rnn_tanh" else cells.RELU

    def body(name: str, w: Weights, init: list[Array], rows: Any) -> Graph:
        return cells.rnn(name, w, init[0], act=act, rows=rows)

    return _run(c, _layer(c, **args), body)


@lowers("gru")
def _gru(c: Context, **args: Any) -> list[Any]:
    def body(name: str, w: Weights, init: list[Array], rows: Any) -> Graph:
        return cells.gru(name, w, init[0], rows=rows)

    return _run(c, _layer(c, **args), body)


@lowers("lstm")
def _lstm(c: Context, **args: Any) -> list[Any]:
    layer = _layer(c, **args)
    cell_output = layer.input.kind(0) == "T" and len(c.op.outputs) > 2 and c.op.outputs[2] in c.used
    widths = [h.sizes[-1] if isinstance(h, Value) else np.shape(h)[-1] for h in layer.initial]

    def body(name: str, w: Weights, init: list[Array], rows: Any) -> Graph:
        return cells.lstm(name, w, init[0], init[1], cell_output=cell_output, rows=rows)

    return _run(c, layer, body, projection=widths[0] != widths[1])


# -- cells ---------------------------------------------------------------------------------------


def _cell(c: Context, input: Any, states: Sequence[Any], w: Weights, body_of: Any) -> list[Value]:
    """One element; a cell is a layer over a sequence of one. Returns the new states."""
    if any(isinstance(p, Value) for p in (w.w_ih, w.w_hh)):
        raise LayoutError("has weights that depend on the input", "use constant weights")
    moving = next((x for x in (input, *states) if isinstance(x, Value)), None)
    assert moving is not None
    if not isinstance(input, Value):
        like = moving if isinstance(moving, Value) else input
        width = np.shape(input)[-1]
        zero = c.linear(c.last_axis(like), np.zeros((width, size_of(like.axes[-1]))), suffix="none")
        input = c.binary("add", zero, input, suffix="input")
    x = input
    if len(x.axes) not in (1, 2) or x.kind(-1) not in "F1":
        raise LayoutError(f"is a cell on {describe(x.axes)}", "pass [batch, features]")
    row = views.unsqueeze(c, x, [0]) if len(x.axes) == 1 else x
    row = views.unsqueeze(c, row, [0])
    if row.kind(1) == "T":
        raise LayoutError(
            f"is a cell on all frames of {describe(x.axes)} at once",
            "call the cell frame by frame: for t in range(x.size(1)): h = cell(x[:, t], h)",
        )
    initial: list[Initial] = []
    for h in states:
        if isinstance(h, Value):
            initial.append(views.unsqueeze(c, h, [0]) if len(h.axes) == 1 else h)
        else:
            initial.append(np.asarray(h, np.float64))

    def body(name: str, rows: Any, init: list[Array]) -> Graph:
        return body_of(name, w, init, rows)

    made = run_layer(c, row, Direction("cell", body, initial)).finals
    out = []
    for v in made:
        assert v is not None
        out.append(views.squeeze(c, v, [0]) if len(x.axes) == 1 else v)
    return out


def _cell_weights(w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Weights:
    arrays = [None if p is None else p if isinstance(p, Value) else np.asarray(p)
              for p in (w_ih, w_hh, b_ih, b_hh)]  # fmt: skip
    return Weights(*arrays)  # type: ignore[arg-type]


@lowers("gru_cell")
def _gru_cell(
    c: Context, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
) -> Value:
    def body(name: str, w: Weights, init: list[Array], rows: Any) -> Graph:
        return cells.gru(name, w, init[0], rows=rows)

    return _cell(c, input, [hx], _cell_weights(w_ih, w_hh, b_ih, b_hh), body)[0]


@lowers("rnn_tanh_cell", "rnn_relu_cell")
def _rnn_cell(
    c: Context, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
) -> Value:
    act = cells.TANH if c.op.base == "rnn_tanh_cell" else cells.RELU

    def body(name: str, w: Weights, init: list[Array], rows: Any) -> Graph:
        return cells.rnn(name, w, init[0], act=act, rows=rows)

    return _cell(c, input, [hx], _cell_weights(w_ih, w_hh, b_ih, b_hh), body)[0]


@lowers("lstm_cell")
def _lstm_cell(
    c: Context, input: Any, hx: Sequence[Any], w_ih: Any, w_hh: Any, b_ih: Any = None,
    b_hh: Any = None,
) -> list[Value]:  # fmt: skip
    def body(name: str, w: Weights, init: list[Array], rows: Any) -> Graph:
        return cells.lstm(name, w, init[0], init[1], cell_output=False, rows=rows)

    return _cell(c, input, hx, _cell_weights(w_ih, w_hh, b_ih, b_hh), body)


@lowers("_pack_padded_sequence", "_pad_packed_sequence")
def _packed(c: Context, **_: Any) -> Value:
    raise LayoutError(*PACKED)
