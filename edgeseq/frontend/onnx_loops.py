"""Scan and Loop operators that are recurrences: over time, or over an axis of the frame.

A loop that counts its way through a sequence (`Gather(x, i)`) is a scan over that sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.frontend.axes import Atom, LayoutError, Value, size_of
from edgeseq.frontend.build import views
from edgeseq.frontend.build.recurrent import written_out
from edgeseq.frontend.onnx_registry import Frames, Growing, Several
from edgeseq.frontend.program import Operation, Program, Ref
from edgeseq.ir import Graph, Type

if TYPE_CHECKING:
    from edgeseq.frontend.onnx_lower import Lowering

__all__ = ["LOOPS", "Counter", "body_input", "nested", "run_body"]


@dataclass(frozen=True)
class Counter:
    """The number of the current turn of a loop, plus `offset`; `limit`: a condition on it.

    Attributes:
        offset: added to the number of the turn, which starts at 0.
        limit: None, or the value stands for "this turn's number + offset < limit".
    """

    offset: int = 0
    limit: int | None = None

    @staticmethod
    def operate(low: Lowering, kind: str, args: Sequence[Any], attrs: dict[str, Any]) -> Any:
        """An operation on the number of a turn."""
        from edgeseq.frontend.onnx_lower import outside

        a = args[0]
        if kind in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze") and isinstance(
            a, Counter
        ):
            return a
        if kind in ("Add", "Sub") and sum(isinstance(x, Counter) for x in args) == 1:
            count = next(x for x in args if isinstance(x, Counter))
            other = next(x for x in args if not isinstance(x, Counter))
            if np.size(other) == 1 and not isinstance(other, Value):
                step = int(np.reshape(other, ()))
                if kind == "Add":
                    return Counter(count.offset + step)
                if isinstance(a, Counter):
                    return Counter(count.offset - step)
        if kind in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual") and len(args) == 2:
            forward = kind.startswith("Less") == isinstance(a, Counter)
            count, bound = (a, args[1]) if isinstance(a, Counter) else (args[1], a)
            if forward and isinstance(count, Counter) and np.size(bound) == 1:
                more = int(kind.endswith("OrEqual"))
                return Counter(count.offset, int(np.reshape(bound, ())) + more)
        if kind == "And":
            rest = [x for x in args if not (not isinstance(x, Counter) and np.all(x))]
            if len(rest) == 1:
                return rest[0]
        if kind in ("Gather", "GatherND") and isinstance(args[1], Counter):
            x = outside(a)
            axis = int(attrs.get("axis") or 0) if kind == "Gather" else 0
            if isinstance(x, Value) and args[1].offset == 0 and args[1].limit is None:
                return _element(low, x, axis)
        if kind == "SequenceAt" and isinstance(args[1], Counter):
            x = outside(a)
            if isinstance(x, Frames) and args[1].offset == 0 and args[1].limit is None:
                y = _element(low, x.value, x.dim)
                return views.unsqueeze(low.c, y, [x.dim]) if x.keep else y
        raise LayoutError(
            "computes with the number of a turn of a loop",
            "let the loop read a sequence element by element (Scan), or use GRU, LSTM or RNN",
        )


def _element(low: Lowering, x: Value, axis: int) -> Value:
    """The element of an outer sequence that belongs to the current turn."""
    d = x.axis(axis)
    key = (x.name, d)
    if key not in low.gathered:
        axes = tuple(a for i, a in enumerate(x.axes) if i != d)
        low.gathered[key] = body_input(low, axes)
        low.sources.append((x, d))
    return low.gathered[key]


def body_input(low: Lowering, axes: Any) -> Value:
    """An input of a body, an element of these axes."""
    g = low.c.graph
    plain = tuple(tuple(a for a in axis if a.label == "F") for axis in axes)
    v = Value("", plain)
    name = g.add_input("x", Type(v.frame or (1,)))
    return low.c.view(Value(name, plain), plain)


def _scan(low: Lowering, op: Operation, args: list[Any], attrs: dict[str, Any]) -> list[Any]:
    """ONNX Scan: states and inputs in, states and outputs out."""
    body: Program = attrs["body"]
    count = int(attrs["num_scan_inputs"])
    states, xs = args[: len(args) - count], args[len(args) - count :]
    in_axes = list(attrs["scan_input_axes"])
    directions = {int(d) for d in attrs["scan_input_directions"]}
    outs = list(attrs["scan_output_directions"])
    if len(directions | {int(d) for d in outs}) > 1:
        raise LayoutError("runs in both directions at once", "use two loops")
    inner = nested(low, body)
    sources: list[tuple[Value, int]] = []
    for name, x, axis in zip(body.inputs[len(states) :], xs, in_axes, strict=True):
        if not isinstance(x, Value):
            raise LayoutError("runs over a constant", "run over a sequence")
        d = x.axis(int(axis))
        inner.env[name] = body_input(inner, tuple(a for i, a in enumerate(x.axes) if i != d))
        sources.append((x, d))
    results = _recur(
        low, inner, sources, states, body.inputs[: len(states)], body.outputs,
        reverse=directions == {1}, turns=None,
    )  # fmt: skip
    finals, stacked = results
    axes = list(attrs["scan_output_axes"])
    moved = [_to_axis(low, y, int(a)) for y, a in zip(stacked, axes, strict=True)]
    return [*finals, *moved]


def _to_axis(low: Lowering, y: Any, axis: int) -> Any:
    if not isinstance(y, Value):
        return y
    d = axis % len(y.axes)
    order = list(range(1, len(y.axes)))
    order.insert(d, 0)
    return views.permute(low.c, y, order)


def _loop(low: Lowering, op: Operation, args: list[Any], attrs: dict[str, Any]) -> list[Any]:
    """ONNX Loop with a number of turns that is known."""
    body: Program = attrs["body"]
    trips, start, carried = args[0], args[1], args[2:]
    if isinstance(trips, Value) or isinstance(start, Value):
        raise LayoutError("runs for a number of turns that depends on the input")
    if start is not None and not np.all(start):
        raise LayoutError("never runs")
    inner = nested(low, body)
    inner.env[body.inputs[0]] = Counter()
    inner.env[body.inputs[1]] = np.array(True)
    counters: dict[int, Counter] = {}
    for k, (name, value) in enumerate(zip(body.inputs[2:], carried, strict=True)):
        if _counts(body, name, body.outputs[1 + k]) and not isinstance(value, Value):
            counters[k] = Counter(int(np.reshape(value, ())))
            inner.env[name] = counters[k]
    growing = [k for k, v in enumerate(carried) if isinstance(v, Several)]
    for k in growing:
        if carried[k].parts:
            raise LayoutError("appends to a sequence of tensors that is not empty")
        inner.env[body.inputs[2 + k]] = Growing(body.inputs[2 + k])
    plain = [k for k in range(len(carried)) if k not in counters and k not in growing]
    names = [body.inputs[2 + k] for k in plain]
    values = [carried[k] for k in plain]
    outs = [body.outputs[1 + k] for k in plain]
    rest = body.outputs[1 + len(carried) :]
    grown = [body.outputs[1 + k] for k in growing]
    turns = None if trips is None else int(np.reshape(trips, ()))
    finals, stacked = _recur(
        low, inner, [], values, names, [*outs, *rest, *grown], reverse=False, turns=turns,
        condition=body.outputs[0],
    )  # fmt: skip
    ends: list[Any] = [None] * len(carried)
    for k, counter in counters.items():
        ends[k] = np.array(counter.offset + inner.turns, np.int64)
    for k, value in zip(plain, finals, strict=True):
        ends[k] = value
    for k, value in zip(growing, stacked[len(rest) :], strict=True):
        ends[k] = Frames(value, 0)
    return [*ends, *stacked[: len(rest)]]


LOOPS: dict[str, Callable[..., list[Any]]] = {"Scan": _scan, "Loop": _loop}
"""Operators that hold a body which runs many times."""


def _counts(body: Program, name: str, out: Any) -> bool:
    """Whether a carried value is raised by one each turn."""
    made = {o: op for op in body.operations for o in op.outputs}
    seen = out.name if isinstance(out, Ref) else ""
    for _ in range(8):
        op = made.get(seen)
        if op is None:
            return False
        inputs = op.args.get("inputs", [])
        if op.target in ("onnx.Identity", "onnx.Cast"):
            seen = inputs[0].name
            continue
        refs = [r for r in inputs if isinstance(r, Ref)]
        if op.target != "onnx.Add" or name not in [r.name for r in refs]:
            return False
        other = next((r.name for r in refs if r.name != name), "")
        step = body.constants.get(other)
        return step is not None and np.size(step) == 1 and float(np.reshape(step, ())) == 1.0
    return False


def nested(low: Lowering, body: Program) -> Lowering:
    """The lowering of a body, which reads what is around it."""
    from edgeseq.frontend.onnx_lower import Lowering

    inner = Lowering(body, Graph("body"), outer=low)
    inner.c.used |= {r.name for r in body.outputs if isinstance(r, Ref)}
    return inner


def _recur(
    low: Lowering,
    inner: Lowering,
    sources: list[tuple[Value, int]],
    states: Sequence[Any],
    names: Sequence[str],
    outputs: Sequence[Any],
    *,
    reverse: bool,
    turns: int | None,
    condition: Any = None,
) -> tuple[list[Any], list[Any]]:
    """Lower a body and run it over its sources; returns (final states, stacked outputs)."""
    c, g = low.c, inner.c.graph
    starts: list[Any] = []
    for name, value in zip(names, states, strict=True):
        if isinstance(value, Value):
            v = c.real(value)
            plain = tuple(tuple(a for a in axis if a.label == "F") for axis in v.axes)
            init = np.zeros(v.frame or (1,))
            starts.append(v)
        else:
            array = np.asarray(value, np.float64)
            plain = tuple(((Atom("F", n),) if n != 1 else ()) for n in array.shape)
            init = array.reshape(Value("", plain).frame or (1,))
            starts.append(init)
        held = g.add_state(f"s{len(starts)}", Type(init.shape), init)
        inner.env[name] = inner.c.view(Value(held, plain), plain)
    ends = [s.input for s in g.states]
    before = len(low.spent.problems)
    inner.run()
    results = [inner.resolve(r) for r in outputs]
    if len(low.spent.problems) > before:
        raise LayoutError(f"has a body with {len(low.spent.problems) - before} of them")
    sources = sources + inner.sources
    if not sources:
        raise LayoutError("reads no sequence", "a loop must run over a sequence")
    counts = {size_of(x.axes[d]) for x, d in sources}
    limit = inner.resolve(condition) if condition is not None else None
    if isinstance(limit, Counter) and limit.limit is not None:
        # True while turn + offset < limit; checked after a turn for the next one.
        end = limit.limit - limit.offset + 1
        turns = end if turns is None else min(turns, end)
    if turns is not None and counts != {turns} and not (turns >= max(counts) and limit is not None):
        raise LayoutError(f"runs {turns} turns over {sorted(counts)} elements")
    if len(counts) != 1:
        raise LayoutError(f"runs over sequences of {sorted(counts)} elements")
    n = counts.pop()
    inner.turns = n
    made: list[Value] = []
    for k, r in enumerate(results):
        if isinstance(r, Growing) and r.last is not None:
            r = r.last
        if not isinstance(r, Value):
            raise LayoutError("has an output that does not depend on its input")
        v = inner.c.real(r)
        if k < len(ends):
            want = g.types[ends[k]]
            have = g.types[v.name]
            if have.size != want.size:
                raise LayoutError("changes the shape of its state")
            if have.shape != want.shape:
                made_as = g.add_node("reshape", [v.name], name="state", shape=want.shape)
                v = Value(made_as, v.axes)
        made.append(v)
    for state, v in zip(g.states, made, strict=False):
        state.output = v.name
    outs = made[len(ends) :]
    g.outputs = [v.name for v in outs] or [made[0].name]
    return run_body(low, g, sources, starts, made[: len(ends)], outs, n, reverse)


def run_body(
    low: Lowering,
    body: Graph,
    sources: list[tuple[Value, int]],
    starts: list[Any],
    ends: list[Value],
    outs: list[Value],
    n: int,
    reverse: bool,
) -> tuple[list[Any], list[Any]]:
    """Run a body over its sources, over time or within a frame.

    Args:
        low: the lowering around it.
        body: what a turn does; its inputs are the elements.
        sources: the sequences and the axis of each that the turns take apart.
        starts: the states before the first turn, Values or arrays.
        ends: the states after a turn, in the body.
        outs: what every turn gives, in the body.
        n: turns.
        reverse: from the last element to the first.

    Returns:
        The states after the last turn; what the turns give, stacked along a first axis.
    """
    c = low.c
    timed = {x.kind(d) == "T" for x, d in sources}
    if len(timed) > 1:
        raise LayoutError("runs over time and over features at once")
    name = c.unique(c.name())
    _refuse_batch(sources)
    if timed == {True}:
        if any(isinstance(s, Value) for s in starts):
            raise LayoutError("starts from a state that depends on the input")
        for state, start in zip(body.states, starts, strict=True):
            state.init = np.asarray(start, np.float32)
        inputs = []
        for element, (x, _) in zip(body.inputs, sources, strict=True):
            value, shape = c.real(x).name, body.types[element].shape
            if c.graph.types[value].shape != shape:  # frames of one number
                value = c.graph.add_node("reshape", [value], name=f"{name}.element", shape=shape)
            inputs.append(value)
        extra = [s.output for s in body.states if s.output not in body.outputs]
        count = len(outs)
        body.outputs = (
            [*body.outputs[:count], *extra]
            if outs
            else [*dict.fromkeys(s.output for s in body.states)]
        )
        c.graph.add_node("scan", inputs, name=name, body=body, reverse=reverse)
        over = dict(zip(body.outputs, c.graph.nodes[-1].outputs, strict=True))
        time = (Atom("T", n),)
        finals: list[Any] = []
        for state, v in zip(body.states, ends, strict=True):
            last = c.graph.add_node("last", [over[state.output]], name=c.unique(f"{name}.last"))
            finals.append(Value(last, v.axes))
        stacked = [Value(over[v.name], (time, *v.axes)) for v in outs]
        return finals, stacked
    inputs = []
    for x, d in sources:
        order = [d, *(i for i in range(len(x.axes)) if i != d)]
        first = c.real(views.permute(c, x, order))
        rest = body.types[body.inputs[len(inputs)]].shape
        shape = rest if n == 1 else (n, *rest)
        value = first.name
        if c.graph.types[value].shape != shape:
            value = c.graph.add_node("reshape", [value], name=c.name("turns"), shape=shape)
        inputs.append(value)
    begin = [s.name if isinstance(s, Value) else c.const(s, "start") for s in starts]
    for i, (value, state) in enumerate(zip(begin, body.states, strict=True)):
        want = body.types[state.input].shape
        if c.graph.types[value].shape != want:
            begin[i] = c.graph.add_node("reshape", [value], name=c.name("start"), shape=want)
    if n == 1:
        values, ended = written_out(c, inputs, body, begin)
    else:
        op = "loop" if any(c.timed(x) for x, _ in sources) else "scan"
        c.graph.add_node(op, [*inputs, *begin], name=name, body=body, reverse=reverse)
        produced = list(c.graph.nodes[-1].outputs)
        values, ended = produced[: len(body.outputs)], produced[len(body.outputs) :]
    finals = [c.view(Value(name, e.axes), e.axes) for name, e in zip(ended, ends, strict=True)]
    head = (Atom("F", n),) if n > 1 else ()
    stacked = []
    for name, e in zip(values, outs, strict=False):
        axes = (head, *e.axes)
        stacked.append(c.view(Value(name, axes), axes))
    return finals, stacked


def _refuse_batch(sources: list[tuple[Value, int]]) -> None:
    found = [
        a
        for x, d in sources
        for i, axis in enumerate(x.axes)
        if i != d
        for a in axis
        if a.label in "BT"
    ]
    if any(a.size > 1 for a in found):
        raise LayoutError("runs over features of a sequence", "run over time, or over one frame")
