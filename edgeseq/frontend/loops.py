"""A loop over the elements of an axis: a recurrence over time, or within a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, kind_of, size_of
from edgeseq.frontend.build import views
from edgeseq.frontend.build.spectrum import Complex
from edgeseq.frontend.context import Array
from edgeseq.frontend.interpret import Lost, Lowering, Outside
from edgeseq.frontend.past import refuse_scores
from edgeseq.frontend.program import Operation, refs_of
from edgeseq.frontend.reroll import Collected, Loop
from edgeseq.frontend.rolled import MOST_BACK
from edgeseq.ir import Graph, Type

__all__ = ["run_loop"]

_MOST_WRITTEN_OUT = 8
"""Turns over an axis of a frame beyond which a loop stays a loop."""


def run_loop(low: Lowering, op: Operation) -> None:
    """Lower a loop and bind its results."""
    loop: Loop = op.args["loop"]
    read = [low.resolve(r) for r in op.args["inputs"]]
    lost = next((v for v in read if isinstance(v, Lost)), None)
    if lost is not None:
        low.bind_outputs(op, [lost] * len(op.outputs))
        return
    sources = [low.resolve(ref) for ref, _, _ in loop.sources]
    for v in (*read, *sources):
        if isinstance(v, Value):
            refuse_scores(v)
    timed = [isinstance(p, Value) and p.kind(d) == "T"
             for v, (_, d, _) in zip(sources, loop.sources, strict=True)
             for p in _parts(v)]  # fmt: skip
    if any(timed):
        if not all(timed):
            raise LayoutError("runs over frames and over something else at once")
        results = _Recurrence(low, op, loop, sources).over_time()
        low.bind_outputs(op, results)
        return
    moving = [v for v in sources if isinstance(v, Value | Complex)]
    if len(moving) == len(sources) and (loop.turns > _MOST_WRITTEN_OUT or not loop.plain):
        before = len(low.problems)
        try:
            results = _Recurrence(low, op, loop, sources).over_frame()
            low.bind_outputs(op, results)
            return
        except LayoutError:
            if not loop.plain:
                raise
            del low.problems[before:]
    for inner in loop.plain:
        low.c.used.update(r.name for a in inner.args.values() for r in refs_of(a))
    for inner in loop.plain:
        low.operation(inner)
    low.c.op = op


class _Recurrence:
    """One loop as a `scan`."""

    def __init__(
        self, low: Lowering, op: Operation, loop: Loop, sources: list[Value | Complex]
    ) -> None:
        self.low, self.c, self.op, self.loop, self.given = low, low.c, op, loop, sources
        # Complex numbers run as two sequences and two states.
        self.sources: list[Value] = []
        self.dims: list[int] = []
        self.elements: list[Axes] = []
        for source, (_, d, keep) in zip(sources, loop.sources, strict=True):
            for v in _parts(source):
                self.sources.append(v)
                self.dims.append(d)
                self.elements.append((*v.axes[:d], *([()] if keep else []), *v.axes[d + 1 :]))
        self.starts = [low.resolve(a) for a in loop.initial]
        self.pairs = [len(_parts(s)) == 2 for s in self.starts]

    @property
    def initial(self) -> list[Any]:
        """The states before the first turn, complex ones as two."""
        return [p for s, pair in zip(self.starts, self.pairs, strict=True) for p in _parts(s, pair)]

    # -- the body --------------------------------------------------------------------------

    def _body(self, axes: list[Axes]) -> tuple[Lowering, list[Any], list[Any]]:
        """The lowered body, its states after a turn and the collected values, given the states'
        axes."""
        loop, low = self.loop, self.low
        inner = Lowering(loop.body, Graph("turn"), context=low.c.context, mode="step", outer=low)
        inner.c.used |= {c.source.name for c in loop.collected} | loop.body.used()
        g = inner.c.graph
        parts: list[Value] = []
        for k, element in enumerate(self.elements):
            shape = Value("", element).frame or (1,)
            made = g.add_input(f"x{k}" if k else "x", Type(shape))
            parts.append(inner.c.view(Value(made, element), element))
        for k, layout in enumerate(axes):
            shape = Value("", layout).frame or (1,)
            made = g.add_state(f"s{k}", Type(shape), self._start(k, layout, shape))
            parts.append(inner.c.view(Value(made, layout), layout))
        double = [*(isinstance(v, Complex) for v in self.given), *self.pairs]
        inner.env.update(zip(loop.body.inputs, _joined(parts, double), strict=True))
        before = len(low.problems)
        inner.run()
        after = [inner.resolve(r) for r in loop.body.outputs]
        found = [inner.resolve(c.source) for c in loop.collected]
        if len(low.problems) > before or any(isinstance(v, Lost) for v in (*after, *found)):
            raise LayoutError("is a loop over the frames whose body cannot be compiled")
        return inner, after, found

    def _start(self, k: int, axes: Axes, shape: tuple[int, ...]) -> Array:
        """The state before the first turn, as the body holds it."""
        start = self.initial[k]
        if isinstance(start, Value | Outside):
            return np.zeros(shape)
        array = np.asarray(0.0 if start is None else start, np.float64)
        for i, axis in enumerate(axes):
            if any(a.label == "B" for a in axis) and array.ndim == len(axes):
                if np.ptp(array, axis=i).max(initial=0.0) > 0:
                    raise LayoutError(
                        "starts a loop from a state that differs within the batch",
                        "start all sequences alike",
                    )
                array = array.take([0], axis=i)
        return np.broadcast_to(
            array.reshape(-1) if array.size == 1 else array.reshape(shape), shape
        )

    def _settled(self) -> tuple[Lowering, list[Value], list[Value]]:
        """The body with states whose axes are those that a turn gives them.

        Sizes do not say which axis of a state is the batch: it is tried, and a turn shows it. Where
        a state is passed on to another, that one shows it a turn later.
        """
        axes = [self._guess(k) for k in range(len(self.initial))]
        for _ in range(4 + min(len(self.initial), MOST_BACK)):
            inner, states, found = self._body(axes)
            became = [isinstance(v, Complex) for v in states]
            if became != self.pairs:
                if any(pair and not now for pair, now in zip(self.pairs, became, strict=True)):
                    raise LayoutError("carries a complex state that becomes real")
                self.pairs = became
                axes = [self._guess(k) for k in range(len(self.initial))]
                continue
            after = [p for v in states for p in _parts(v)]
            made: list[Axes] = []
            for k, v in enumerate(after):
                if not isinstance(v, Value):
                    raise LayoutError("carries a constant from turn to turn")
                v = inner.c.real(v)
                after[k] = v
                made.append(v.axes)
            pairs = [(Value("", a), Value("", b)) for a, b in zip(made, axes, strict=True)]
            if all(a.layout == b.layout and a.sizes == b.sizes for a, b in pairs):
                return inner, after, found
            axes = made
        raise LayoutError(
            "changes the axes of its state from turn to turn", "keep the shape of the state"
        )

    def _guess(self, k: int) -> Axes:
        start = self.initial[k]
        if isinstance(start, Value):
            return start.axes
        if isinstance(start, Outside) and isinstance(start.value, Value):
            return start.value.axes
        batch = [a for axes in self.elements for axis in axes for a in axis if a.label == "B"]
        axes: list[tuple[Atom, ...]] = []
        for i, n in enumerate(np.shape(start)):
            first = not any(a.label == "B" for axis in axes for a in axis)
            uniform = np.ptp(np.asarray(start), axis=i).max(initial=0.0) == 0
            if batch and first and n == batch[0].size and uniform:
                axes.append((batch[0],))
            else:
                axes.append((Atom("F", n),) if n != 1 else ())
        return tuple(axes)

    def _finish(
        self, inner: Lowering, after: list[Value], found: list[Any]
    ) -> tuple[Graph, list[str], list[Value]]:
        """The body's Graph with its states set; the names of the collected values in it.

        Of complex ones, those of both parts, one after the other.
        """
        g = inner.c.graph
        for state, v in zip(list(g.states), after, strict=True):
            name = v.name
            if g.types[name].shape != g.types[state.input].shape:
                name = g.add_node(
                    "reshape", [name], name=f"{state.name}.next", shape=g.types[state.input].shape
                )
            state.output = name
        values: list[Value] = []
        for v in (part for value in found for part in _parts(value)):
            if not isinstance(v, Value):
                raise LayoutError("collects a constant in every turn")
            values.append(inner.c.real(v))
        made = {o for node in g.nodes for o in node.outputs}
        names = []
        for v in values:
            name = v.name
            if name not in made:
                name = g.add_node("reshape", [name], name=f"{name}.out", shape=g.types[name].shape)
            names.append(name)
        g.outputs = list(dict.fromkeys(names))
        g.prune()
        return g, names, values

    # -- over time, over a frame -----------------------------------------------------------

    def over_time(self) -> list[Any]:
        """A `scan` over the sequence, whose states the stream keeps."""
        c = self.c
        if any(isinstance(s, Value | Outside) for s in self.initial):
            raise LayoutError(
                "starts a loop from a state that depends on the input", "start from a constant"
            )
        inner, after, found = self._settled()
        body, names, values = self._finish(inner, after, found)
        name = c.unique(c.name())
        c.charge(sum(a.size for a in body.consts.values()))
        inputs = []
        for x, want in zip(self.sources, body.inputs, strict=False):
            v = c.real(x)
            shape = body.types[want].shape
            source = v.name
            if c.graph.types[source].shape != shape:
                source = c.graph.add_node("reshape", [source], name=c.name("element"), shape=shape)
            inputs.append(source)
        inputs = inputs[: len(body.inputs)]
        c.graph.add_node("scan", inputs, name=name, body=body, reverse=self.loop.reverse)
        made = dict(zip(body.outputs, c.graph.nodes[-1].outputs, strict=True))
        time = (Atom("T", self.loop.turns),)
        results = []
        collected = [what for what, v in zip(self.loop.collected, found, strict=True)
                     for _ in _parts(v)]  # fmt: skip
        for what, inside, v in zip(collected, names, values, strict=True):
            out = made[inside]
            if what.kind == "last":
                if self.loop.reverse:
                    raise LayoutError(
                        "gives the last state of a loop that runs backward", "use its outputs"
                    )
                last = c.graph.add_node("last", [out], name=c.unique(f"{name}.last"))
                results.append(c.view(Value(last, v.axes), v.axes))
            else:
                results.append(self._placed(what, out, v, time))
        return _joined(results, [isinstance(v, Complex) for v in found])

    def _placed(self, what: Collected, out: str, v: Value, turns: tuple[Atom, ...]) -> Value:
        """All turns of a value, along the axis where they are collected."""
        c, inner = self.c, v.axes
        rank = len(inner) + (what.kind == "stack")
        d = what.dim % rank
        several = what.kind == "cat" and size_of(inner[d]) != 1
        if what.kind == "cat" and not several:
            inner = (*inner[:d], *inner[d + 1 :])
        axes = (turns, *inner)
        seen = c.view(Value(out, axes), axes)
        order = [*range(1, len(axes))]
        order.insert(d, 0)
        y = views.permute(c, seen, order)
        if several:  # the elements of a turn, then those of the next, as one axis
            sizes = y.sizes
            y = views.reshape(c, y, [*sizes[:d], sizes[d] * sizes[d + 1], *sizes[d + 2 :]])
        return y

    def over_frame(self) -> list[Any]:
        """A `scan` within one frame."""
        c, n = self.c, self.loop.turns
        inner, after, found = self._settled()
        body, names, values = self._finish(inner, after, found)
        name = c.unique(c.name())
        inputs = []
        for x, d, want in zip(self.sources, self.dims, body.inputs, strict=True):
            if kind_of(x.axes[d]) != "F":
                raise LayoutError("runs over an axis that is not of features")
            order = [d, *(i for i in range(len(x.axes)) if i != d)]
            v = c.real(views.permute(c, x, order))
            inputs.append(self._shaped(v.name, (n, *body.types[want].shape)))
        for start, state in zip(self.initial, body.states, strict=True):
            if isinstance(start, Value):
                source = c.real(start).name
            else:
                source = c.const(state.init, "start")
            inputs.append(self._shaped(source, body.types[state.input].shape))
        op = "loop" if any(c.timed(x) for x in self.sources) else "scan"
        c.graph.add_node(op, inputs, name=name, body=body, reverse=self.loop.reverse)
        outs = c.graph.nodes[-1].outputs
        made = dict(zip(body.outputs, outs, strict=False))
        turns = (Atom("F", n),)
        results = []
        collected = [what for what, v in zip(self.loop.collected, found, strict=True)
                     for _ in _parts(v)]  # fmt: skip
        for what, inside, v in zip(collected, names, values, strict=True):
            stacked = self._placed(replace_kind(what), made[inside], v, turns)
            if what.kind == "last":
                stacked = views.select(c, stacked, 0, 0 if self.loop.reverse else n - 1)
            results.append(stacked)
        return _joined(results, [isinstance(v, Complex) for v in found])

    def _shaped(self, name: str, shape: tuple[int, ...]) -> str:
        if self.c.graph.types[name].shape == shape:
            return name
        return self.c.graph.add_node("reshape", [name], name=self.c.name("turns"), shape=shape)


def _parts(x: Any, pair: bool = False) -> list[Any]:
    """The real and the imaginary part of something complex, or of what is to be; else itself."""
    if isinstance(x, Complex):
        return [x.re, x.im]
    if isinstance(x, Outside) and isinstance(x.value, Complex):
        return [Outside(x.value.re), Outside(x.value.im)]
    if np.iscomplexobj(x):
        return [np.real(x), np.imag(x)]
    if not pair:
        return [x]
    if isinstance(x, Value | Outside):
        raise LayoutError("starts a complex state from a real value", "make it complex before")
    return [x, None if x is None else np.zeros_like(x)]


def _joined(parts: Sequence[Any], double: Sequence[bool]) -> list[Any]:
    """Values again: two parts of each that is complex."""
    left = iter(parts)
    return [Complex(next(left), next(left)) if two else next(left) for two in double]


def replace_kind(what: Collected) -> Collected:
    """A last value is that of all turns at the end."""
    return Collected(what.name, what.source, "stack", 0) if what.kind == "last" else what
