"""Recurrent layers over time, or over an axis of the frame.

Over time a layer is a `scan` over the sequence, whose state the stream pass makes the step's. Over
an axis of the frame (one frame of an exported step, a window, frequency bands) it runs inside one
step: for one element the body is written out, for more it is a `scan` with the states to start
from as inputs; within the frames of a sequence a `loop`, of which the stream pass makes a `scan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, size_of
from edgeseq.frontend.build.rates import framed_axis
from edgeseq.frontend.build.views import concat, permute, unsqueeze
from edgeseq.frontend.context import Array, AxisConflict, Context
from edgeseq.ir import Graph

__all__ = [
    "Direction",
    "Initial",
    "Outcome",
    "both_directions",
    "run_layer",
    "stacked_states",
    "time_first",
    "written_out",
]

Initial = Value | Array
"""State before the first element: constant [H], or a value [batch, H]."""

_BACKWARD = (
    "the last state of the backward direction is its output at the first frame",
    "use the outputs of the layer, or a layer of one direction",
)


@dataclass(frozen=True)
class Direction:
    """One direction of one layer.

    Attributes:
        label: for names.
        body: makes the body Graph from (name, rows, initial arrays): see `edgeseq.frontend.cells`.
            Its outputs are those over time, its states those of `initial`, in order.
        initial: per state.
        reverse: from the last element to the first.
    """

    label: str
    body: Callable[[str, int | None, list[Array]], Graph]
    initial: Sequence[Initial]
    reverse: bool = False


@dataclass(frozen=True)
class Outcome:
    """What one direction gives.

    Attributes:
        output: [time, batch, H].
        finals: per state [batch, H] after the last element; None where it cannot be had (the
            backward direction of a stream) or nobody asked.
    """

    output: Value
    finals: list[Value | None]


def run_layer(
    c: Context, x: Value, d: Direction, *, final: Sequence[bool] | None = None
) -> Outcome:
    """Run one direction over x [time, batch, features].

    Args:
        c: the Graph under construction.
        x: the input, axes in that order.
        d: the direction.
        final: which final states somebody reads (all by default).

    Raises:
        LayoutError: axes that do not fit, or an initial state that varies within a batch.
        AxisConflict: batch and time are in the other order.
    """
    if len(x.axes) != 3:
        raise LayoutError(f"runs over {describe(x.axes)}", "pass [time, batch, features]")
    x = framed_axis(c, x, 0)
    wanted = list(final) if final is not None else [True] * len(d.initial)
    kinds = x.kind(0), x.kind(1)
    if kinds == ("B", "T"):
        raise AxisConflict(str(c.op))
    if x.kind(2) not in "F1" or kinds[0] == "mixed":
        raise LayoutError(
            f"runs over {describe(x.axes)}",
            "the first axis must be time, the second the batch, the third features "
            "(give --time-axis if it was taken wrongly)",
        )
    if kinds[0] == "T":
        return _over_time(c, x, d, wanted)
    if kinds[0] == "B":
        raise LayoutError(
            f"runs over the batch of {describe(x.axes)}",
            "the first axis must be time, the second the batch, the third features",
        )
    return _over_frame(c, x, d, wanted)


def _rows(x: Value) -> int | None:
    n = size_of(tuple(a for a in x.axes[1] if a.label == "F"))
    return n if any(a.label == "F" for a in x.axes[1]) else None


def _constant(h: Initial) -> Array | None:
    return None if isinstance(h, Value) else np.asarray(h, np.float64)


def _over_time(c: Context, x: Value, d: Direction, wanted: list[bool]) -> Outcome:
    x = c.real(x)
    x = c.view(x, (*x.axes[:2], (Atom("F", size_of(x.axes[2])),)))
    rows = _rows(x)
    arrays: list[Array] = []
    for h in d.initial:
        array = _constant(h)
        if array is None:
            raise LayoutError(
                "starts from a state that depends on the input",
                "start from a constant (an input is made one by --set NAME=0), or name the state "
                "that is carried: --state IN:OUT",
            )
        arrays.append(_per_row(array, rows))
    name = c.unique(c.name(d.label))
    body = d.body(name, rows, arrays)
    c.charge(sum(a.size for a in body.consts.values()))
    # Final states that are no output of the body become one, to be read at the last frame.
    outs = list(body.outputs)
    places: list[int | None] = []
    for state, want in zip(body.states, wanted, strict=True):
        if not want or d.reverse:
            places.append(None)
            continue
        if state.output not in outs:
            outs.append(state.output)
        places.append(outs.index(state.output))
    body.outputs = outs
    c.graph.add_node("scan", [x.name], name=name, body=body, reverse=d.reverse)
    made = c.graph.nodes[-1].outputs
    batch = x.axes[1]

    def axes_of(i: int) -> Axes:
        width = c.graph.types[made[i]].shape[-1]
        return (batch, (Atom("F", width),))

    finals: list[Value | None] = []
    for i, place in enumerate(places):
        if place is None:
            finals.append(None)
            continue
        last = c.graph.add_node("last", [made[place]], name=f"{name}.{body.states[i].name}_n")
        finals.append(Value(last, axes_of(place)))
    return Outcome(Value(made[0], (x.axes[0], *axes_of(0))), finals)


def _per_row(h: Array, rows: int | None) -> Array:
    """A constant state [H] or [batch, H] as the body holds it: [H], or [rows, H]."""
    if h.ndim == 1:
        return h if rows is None else np.broadcast_to(h, (rows, len(h))).copy()
    if rows is not None and (h.shape[0] in (1, rows) or np.ptp(h, axis=0).max(initial=0.0) == 0):
        return np.broadcast_to(h if h.shape[0] == rows else h[:1], (rows, h.shape[1])).copy()
    if np.ptp(h, axis=0).max(initial=0.0) > 0:
        raise LayoutError(
            "has an initial state that differs within the batch",
            "use one initial state for all sequences: state.expand(layers, batch, hidden)",
        )
    return np.asarray(h[0])


def _over_frame(c: Context, x: Value, d: Direction, wanted: list[bool]) -> Outcome:
    x = c.real(x)
    n, rows = size_of(x.axes[0]), _rows(x)
    if n == 1 and x.kind(1) == "T" and not any(isinstance(h, Value) for h in d.initial):
        raise LayoutError(
            f"runs over one element of {describe(x.axes)}, with time as its batch",
            "the first axis must be time, the second the batch, the third features "
            "(batch_first=True takes the second for time)",
        )
    features = size_of(x.axes[2])
    row_axis = x.axes[1]
    inner = (*x.axes[1:2], (Atom("F", features),))
    x = c.view(x, ((Atom("F", n),) if n > 1 else (), *inner))
    lead = () if rows is None else (rows,)
    starts: list[Array | str] = []
    for h in d.initial:
        array = _constant(h)
        if array is not None:
            starts.append(_per_row(array, rows))
            continue
        assert isinstance(h, Value)
        v = c.real(h)
        if rows is not None and size_of(v.axes[0]) == 1 and rows > 1:
            raise LayoutError("starts from one state for several sequences")
        width = size_of(v.axes[-1])
        flat = c.view(v, (*v.axes[:-1], (Atom("F", width),)))
        name = flat.name
        if c.graph.types[name].shape != (*lead, width):
            name = c.graph.add_node("reshape", [name], name=c.name("initial"), shape=(*lead, width))
        starts.append(name)
    name = c.unique(c.name(d.label))
    shapes = [c.graph.types[s].shape if isinstance(s, str) else s.shape for s in starts]
    arrays = [np.zeros(p) if isinstance(s, str) else s for s, p in zip(starts, shapes, strict=True)]
    body = d.body(name, rows, arrays)
    c.charge(sum(a.size for a in body.consts.values()))
    if n == 1:
        first, want = x.name, body.types[body.inputs[0]].shape
        if c.graph.types[first].shape != want:
            first = c.graph.add_node("reshape", [first], name=c.name("element"), shape=want)
        begin = [s if isinstance(s, str) else c.const(s, "initial") for s in starts]
        outs, finals = written_out(c, [first], body, begin)
        output = Value(outs[0], ((), *inner[:1], (Atom("F", c.graph.types[outs[0]].shape[-1]),)))
    else:
        inputs = [x.name]
        inputs += [s if isinstance(s, str) else c.const(s, "start") for s in starts]
        op = "loop" if c.timed(x) else "scan"
        c.graph.add_node(op, inputs, name=name, body=body, reverse=d.reverse)
        made = c.graph.nodes[-1].outputs
        outs, finals = list(made[: len(body.outputs)]), list(made[len(body.outputs) :])
        width = c.graph.types[outs[0]].shape[-1]
        output = Value(outs[0], ((Atom("F", n),), *inner[:1], (Atom("F", width),)))
    result: list[Value | None] = []
    for value, asked in zip(finals, wanted, strict=True):
        width = c.graph.types[value].shape[-1]
        seen = Value(value, (row_axis, (Atom("F", width),)))
        result.append(c.view(seen, seen.axes) if asked else None)
    return Outcome(c.view(output, output.axes), result)


def written_out(
    c: Context, inputs: Sequence[str], body: Graph, starts: Sequence[str]
) -> tuple[list[str], list[str]]:
    """A body's nodes in the Graph itself, for one element; returns (outputs, states after it)."""
    g = c.graph
    env = dict(zip(body.inputs, inputs, strict=True))
    env |= {s.input: v for s, v in zip(body.states, starts, strict=True)}
    for name, array in body.consts.items():
        env[name] = g.add_const(name, array, body.types[name])
    for node in body.nodes:
        g.add_node(node.op, [env[v] for v in node.inputs], name=c.unique(node.name), **node.attrs)
        for value, made in zip(node.outputs, g.nodes[-1].outputs, strict=True):
            env[value] = made
    return [env[v] for v in body.outputs], [env[s.output] for s in body.states]


def stacked_states(c: Context, finals: Sequence[Value | None]) -> Value:
    """Final states of all layers and directions: [layers * directions, batch, H]."""
    known = next((f for f in finals if f is not None), None)
    assert known is not None
    if all(f is not None for f in finals) and not c.timed(known):
        values = [unsqueeze(c, f, [0]) for f in finals if f is not None]
        if not any(_sequence_end(c, f) for f in finals if f is not None):
            return concat(c, values, 0) if len(values) > 1 else values[0]
    n = len(finals)
    first: Axes = ((Atom("F", n),),) if n > 1 else ((),)
    names = tuple(None if f is None else f.name for f in finals)
    h = size_of(known.axes[-1])
    axes = (*first, known.axes[0], (Atom("F", h),))
    return Value("", axes, names, *_BACKWARD)


def _sequence_end(c: Context, v: Value) -> bool:
    """Whether a value is known at the end of the sequence only."""
    producer = c.producer(v.name)
    return producer is not None and producer.op == "last"


def both_directions(c: Context, outcomes: Sequence[Outcome]) -> Value:
    """Outputs of the directions side by side: [time, batch, H * directions]."""
    if len(outcomes) == 1:
        return outcomes[0].output
    return concat(c, [o.output for o in outcomes], 2)


def time_first(c: Context, x: Value, batch_first: bool) -> Value:
    """[time, batch, features] of what a layer reads."""
    return permute(c, x, [1, 0, 2]) if batch_first else x
