"""nn.RNN, nn.GRU and nn.LSTM: one `scan` per layer and direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseq.frontend import cells
from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe
from edgeseq.frontend.cells import Weights
from edgeseq.frontend.context import Array, AxisConflict, Context, lowers
from edgeseq.ir import Graph

_BACKWARD = (
    "the last state of the backward direction is its output at the first frame",
    "use the outputs of the layer, or a layer of one direction",
)


@dataclass
class _Layer:
    """Arguments that all recurrent operators share."""

    input: Value
    initial: list[Array]
    params: Sequence[Any]
    biases: bool
    layers: int
    directions: int
    batch_first: bool


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
    """Check the arguments common to all cells.

    Raises:
        LayoutError: packed sequences, training mode, moving weights or initial states.
        AxisConflict: batch and time are in the other order.
    """
    if other or params is None:
        raise LayoutError("runs on a packed sequence", "pass plain tensors of one length")
    if train and dropout:
        raise LayoutError("is in training mode", "call model.eval() before exporting")
    if any(isinstance(p, Value) for p in params):
        raise LayoutError("has weights that depend on the input", "use constant weights")
    if not isinstance(input, Value):
        raise LayoutError("has a constant input")
    v = c.real(input)
    batch, time = (0, 1) if batch_first else (1, 0)
    if len(v.axes) != 3:
        raise LayoutError(f"runs over {describe(v.axes)}", "pass [batch, time, features]")
    kinds = v.kind(batch), v.kind(time), v.kind(2)
    if kinds[:2] == ("T", "B"):
        raise AxisConflict(str(c.op))
    if kinds[1] != "T" or kinds[0] not in "B1" or kinds[2] not in "F1":
        raise LayoutError(
            f"runs over {describe(v.axes)}",
            f"axis {time} must be time and axis {batch} the batch "
            f"(batch_first={'True' if batch_first else 'False'}); give time_axis and batch_axis",
        )
    states = hx if isinstance(hx, list) else [hx]
    initial = [_initial(h) for h in states]
    return _Layer(
        c.last_axis(v),
        initial,
        params,
        bool(has_biases),
        num_layers,
        2 if bidirectional else 1,
        bool(batch_first),
    )


def _initial(h: Any) -> Array:
    """[layers * directions, H] from [layers * directions, batch, H]."""
    if isinstance(h, Value):
        raise LayoutError(
            "has an initial state that depends on an input",
            "leave the state out (it starts at zero) and let the device carry it",
        )
    a = np.asarray(h, np.float64)
    if a.ndim != 3:
        raise LayoutError(f"has an initial state of shape {list(a.shape)}")
    if np.ptp(a, axis=1).max(initial=0.0) > 0:
        raise LayoutError(
            "has an initial state that differs within the batch",
            "use one initial state for all sequences: state.expand(layers, batch, hidden)",
        )
    return a[:, 0]


def _weights(layer: _Layer, index: int, projection: bool) -> Weights:
    per = 2 + 2 * layer.biases + projection
    group = [np.asarray(p) for p in layer.params[index * per : (index + 1) * per]]
    if len(group) != per or any(p.ndim not in (1, 2) for p in group):
        raise LayoutError("has weights that do not fit its options")
    b_ih, b_hh = (group[2], group[3]) if layer.biases else (None, None)
    return Weights(group[0], group[1], b_ih, b_hh, group[-1] if projection else None)


def _run(
    c: Context, layer: _Layer, body_of: Any, *, projection: bool = False, cell: bool = False
) -> list[Value]:
    """Build the scans; returns output, h_n and, for a cell with one, c_n."""
    x = layer.input.name
    batch_axis = layer.input.axes[0 if layer.batch_first else 1]
    finals: list[list[str | None]] = [[], []]
    for k in range(layer.layers):
        outs: list[str] = []
        for d in range(layer.directions):
            label = f"l{k}" + ("_reverse" if d else "")
            name = c.unique(c.name(label))
            index = k * layer.directions + d
            body: Graph = body_of(name, _weights(layer, index, projection), index)
            c.charge(sum(a.size for a in body.consts.values()))
            node = c.graph.add_node("scan", [x], name=name, body=body, reverse=bool(d))
            outs.append(node)
            made = c.graph.nodes[-1].outputs
            for i in range(2 if cell else 1):
                final = None
                if not d and i < len(made) and c.op.outputs[1 + i] in c.used:
                    final = c.graph.add_node("last", [made[i]], name=f"{name}.{'hc'[i]}_n")
                finals[i].append(final)
        x = (
            outs[0]
            if len(outs) == 1
            else c.graph.add_node("concat", outs, name=c.name(f"l{k}_both"))
        )
    width = c.graph.types[x].shape[0]
    lead = layer.input.axes[:2]
    results = [Value(x, (*lead, (Atom("F", width),)))]
    for i in range(2 if cell else 1):
        known = next((f for f in finals[i] if f is not None), None)
        n = len(finals[i])
        if known is None:  # nothing reads it
            results.append(results[0])
            continue
        h = c.graph.types[known].shape[0]
        first: Axes = ((Atom("F", n),),) if n > 1 else ((),)
        axes = (*first, batch_axis, (Atom("F", h),))
        results.append(Value("", axes, tuple(finals[i]), *_BACKWARD))
    return results


@lowers("rnn_tanh", "rnn_relu")
def _rnn(c: Context, **args: Any) -> list[Value]:
    layer = _layer(c, **args)
    fn = c.op.base.removeprefix("rnn_")
    return _run(c, layer, lambda name, w, i: cells.rnn(name, w, layer.initial[0][i], fn=fn))


@lowers("gru")
def _gru(c: Context, **args: Any) -> list[Value]:
    layer = _layer(c, **args)
    return _run(c, layer, lambda name, w, i: cells.gru(name, w, layer.initial[0][i]))


@lowers("lstm")
def _lstm(c: Context, **args: Any) -> list[Value]:
    layer = _layer(c, **args)
    h0, c0 = layer.initial
    cell_output = c.op.outputs[2] in c.used
    return _run(
        c,
        layer,
        lambda name, w, i: cells.lstm(name, w, h0[i], c0[i], cell_output=cell_output),
        projection=h0.shape[1] != c0.shape[1],
        cell=True,
    )
