"""A loop over frames that an exporter unrolled, as the recurrence that it is.

Over time it becomes a `scan`. Within a frame a short one is left as the exporter wrote it, and so
is one of any length that makes no recurrence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, size_of
from edgeseq.frontend.build import views
from edgeseq.frontend.onnx_loops import body_input, nested, run_body
from edgeseq.frontend.past import refuse_scores
from edgeseq.frontend.program import refs_of
from edgeseq.frontend.rolled import MOST_BACK, Collected, Loop
from edgeseq.ir import Graph, Type

if TYPE_CHECKING:
    from edgeseq.frontend.onnx_lower import Lowering

__all__ = ["run_rolled"]

_MOST_WRITTEN_OUT = 8
"""Turns over an axis of a frame beyond which a loop stays a loop."""
_ELEMENTWISE = frozenset({"Where", "Add", "Sub", "Mul", "Div", "Max", "Min"})


def run_rolled(low: Lowering, loop: Loop) -> list[Any]:
    """Lower a loop; returns what is collected of it.

    Raises:
        LayoutError: it runs over time and is no recurrence.
    """
    sources = [low.resolve(ref) for ref, _, _ in loop.sources]
    moving = [(v, v.axis(d)) for v, (_, d, _) in zip(sources, loop.sources, strict=True)
              if isinstance(v, Value)]  # fmt: skip
    timed = [v.kind(d) == "T" for v, d in moving]
    sizes = {size_of(v.axes[d]) for v, d in moving}
    whole = len(moving) == len(sources) and sizes == {loop.turns}
    if timed and all(timed):
        if not whole:
            raise LayoutError(
                f"runs {loop.turns} turns, one per frame, over {max(sizes)} frames: the sizes do "
                "not match",
                "the exporter unrolled a loop over time: export with as many frames as are to be "
                "read, or use nn.RNN, nn.GRU or nn.LSTM",
            )
        return _recurrence(low, loop, moving)
    if any(timed):
        raise LayoutError("runs over frames and over something else at once")
    if whole and loop.turns > _MOST_WRITTEN_OUT:
        problems, lost = len(low.spent.problems), low.spent.lost
        try:
            return _recurrence(low, loop, moving)
        except LayoutError:
            del low.spent.problems[problems:]
            low.spent.lost = lost
    return _written_out(low, loop)


def _written_out(low: Lowering, loop: Loop) -> list[Any]:
    """The operations as they stand in the file."""
    around = low.c.op
    low.c.used |= {r.name for op in loop.plain for a in op.args.values() for r in refs_of(a)}
    for op in loop.plain:
        low.operation(op)
    low.c.op = around
    return [low.result(c.name) for c in loop.collected]


def _recurrence(low: Lowering, loop: Loop, sources: list[tuple[Value, int]]) -> list[Any]:
    if loop.reverse and any(c.kind == "last" for c in loop.collected):
        raise LayoutError("gives the last state of a loop that runs backward", "use its outputs")
    for x, _ in sources:
        refuse_scores(x)
    starts = [_start(low, loop, k) for k in range(len(loop.initial))]
    for _ in range(3 + min(len(starts), MOST_BACK)):
        inner, made, outs = _turn(low, loop, sources, starts)
        odd = [k for k, (s, v) in enumerate(zip(starts, made, strict=True)) if _sizes(s) != v.sizes]
        if not odd:
            break
        for k in odd:
            starts[k] = _widened(loop, k, starts[k], made[k])
    else:
        raise LayoutError("changes the shape of its state", "keep the shape of the state")
    graph = inner.c.graph
    for state, v in zip(graph.states, made, strict=True):
        state.output = v.name
    graph.outputs = [v.name for v in outs]
    begins = [s if isinstance(s, Value) else _framed(s)[1] for s in starts]
    _, stacked = run_body(low, graph, sources, begins, made, outs, loop.turns, loop.reverse)
    return [_placed(low, c, y, loop.turns) for c, y in zip(loop.collected, stacked, strict=True)]


def _start(low: Lowering, loop: Loop, k: int) -> Any:
    start = low.resolve(loop.initial[k])
    if isinstance(start, Value):
        return low.c.real(start)
    if not isinstance(start, np.ndarray | np.generic | float | int):
        raise LayoutError("starts from what is no tensor")
    return np.asarray(start)


def _sizes(start: Any) -> tuple[int, ...]:
    return start.sizes if isinstance(start, Value) else np.shape(start)


def _framed(array: Any) -> tuple[Axes, Any]:
    """An array as axes of features, and in the shape of a frame of these."""
    axes: Axes = tuple(((Atom("F", n),) if n != 1 else ()) for n in array.shape)
    return axes, array.astype(np.float64).reshape(Value("", axes).frame or (1,))


def _turn(
    low: Lowering, loop: Loop, sources: list[tuple[Value, int]], starts: Sequence[Any]
) -> tuple[Lowering, list[Value], list[Value]]:
    """A turn, lowered, with its states after it and what it gives."""
    inner = nested(low, loop.body)
    inner.c.used |= {c.source.name for c in loop.collected} | loop.body.used()
    graph: Graph = inner.c.graph
    names = loop.body.inputs
    for name, (x, d), (_, _, keep) in zip(names, sources, loop.sources, strict=False):
        rest = (*x.axes[:d], *([()] if keep else []), *x.axes[d + 1 :])
        inner.env[name] = body_input(inner, rest)
    for k, (name, start) in enumerate(zip(names[len(sources) :], starts, strict=True)):
        if isinstance(start, Value):
            axes: Axes = tuple(tuple(a for a in axis if a.label == "F") for axis in start.axes)
            begin = np.zeros(Value("", axes).frame or (1,))
        else:
            axes, begin = _framed(start)
        held = graph.add_state(f"s{k + 1}", Type(begin.shape), begin)
        inner.env[name] = inner.c.view(Value(held, axes), axes)
    before = len(low.spent.problems)
    inner.run()
    if count := len(low.spent.problems) - before:
        raise LayoutError(f"is a loop over frames whose body has {count} of them")
    if inner.sources:
        raise LayoutError("reads a sequence inside the loop over another")
    made = [_value(inner, r) for r in loop.body.outputs]
    for k, (state, v) in enumerate(zip(graph.states, made, strict=True)):
        have, want = graph.types[v.name], graph.types[state.input]
        if have.size == want.size and have.shape != want.shape:
            name = graph.add_node("reshape", [v.name], name="state", shape=want.shape)
            made[k] = Value(name, v.axes)
    return inner, made, [_value(inner, c.source) for c in loop.collected]


def _value(inner: Lowering, ref: Any) -> Value:
    found = inner.resolve(ref)
    if not isinstance(found, Value):
        raise LayoutError("is a loop over frames of which a result does not depend on its frame")
    return inner.c.real(found)


def _widened(loop: Loop, k: int, start: Any, made: Value) -> Any:
    """A state that begins as one number, as the tensor that the turns make of it."""
    name = loop.body.inputs[len(loop.sources) + k]
    readers = [op for op in loop.body.operations if any(
        r.name == name for a in op.args.values() for r in refs_of(a))]  # fmt: skip
    if (
        isinstance(start, Value)
        or np.size(start) != 1
        or np.ndim(start) > len(made.axes)
        or any(op.base not in _ELEMENTWISE for op in readers)
    ):
        raise LayoutError(
            f"begins with a state of {list(_sizes(start))} that is {list(made.sizes)} after a turn",
            "let the state begin with the shape that it keeps",
        )
    return np.broadcast_to(start, made.sizes)


def _placed(low: Lowering, what: Collected, y: Value, turns: int) -> Any:
    """What was collected, of all turns along a first axis, as the file has it."""
    c = low.c
    if what.kind == "last":
        if y.kind(0) == "T":
            return views.squeeze(c, views.last_frame(c, y, 0), [0])
        return views.select(c, y, 0, turns - 1)
    rank = len(y.axes) - (what.kind == "cat")
    if not -rank <= what.dim < rank:
        raise LayoutError(f"collects along axis {what.dim} of {rank}")
    d = what.dim % rank
    several = what.kind == "cat" and size_of(y.axes[1 + d]) != 1
    if what.kind == "cat" and not several:
        y = views.squeeze(c, y, [1 + d])
    order = [*range(1, len(y.axes))]
    order.insert(d, 0)
    y = views.permute(c, y, order)
    if several:  # the elements of a turn, then those of the next, as one axis
        sizes = y.sizes
        y = views.reshape(c, y, [*sizes[:d], sizes[d] * sizes[d + 1], *sizes[d + 2 :]])
    return y
