"""Remove the time axis: what an operation needs of other frames becomes states, the Graph a step.

What comes out computes, step by step with its states carried, exactly what the Graph over time
computes on the whole sequence:

- A recurrence keeps its own states.
- A window keeps the frames it still needs. Where it looks ahead, its result *lags*: it comes out
  once the last frame it needs is there.
- Where results of different lag meet, the earlier ones are delayed.
- Slots that hold no data yet, because their value lags, count as zeros in a window, as frames
  before the first do in the whole, and leave the states of a recurrence as they began.
- A value of every f-th frame exists once in f frames; a step takes as many frames as it needs to
  make a whole number of every value. Values of several frames may be laid out as frames again
  (`interleave`): those come together, in one step. They may be more than the input's frames, which
  then have a period above 1 (`Graph.tick`); a step always takes whole input frames.

Of a sequence of S steps the stream gives, of an output of m elements a step, the first
S*m - delay elements, after the delay's slots without meaning. The rest of the whole's elements
take what comes after the end of a sequence for zeros, and a stream does not know its end. (Where a
model cuts a sequence off and then looks past the cut, the elements that do so are of that rest.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeseq.errors import UnsupportedError
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.types import Type
from edgeseq.passes._blocks import lift, pick
from edgeseq.passes._lags import Lags
from edgeseq.passes._past import Past, lead
from edgeseq.passes._recur import inline, loop

__all__ = ["keep_names", "past_the_end", "stream"]


def stream(graph: Graph, frames: int | None = None) -> Graph:
    """The step of `graph`.

    An outermost scan's body is inlined and its states become the step's. A value at the last frame
    becomes a running value, and the whole-sequence result is the output of the sequence's last
    step. Every output is a value of its own, made by a node: an input, a state, a constant or
    another output that is asked for is copied.

    In ``meta``:

    - emission: by output, 'frame', or 'last' of a running value.
    - delay: input frames by which outputs lag, the most of all outputs. All outputs that are
      sequences lag by the same time.
    - delays: by output, where they are not all the same: a running value can be on time although
      sequences lag.
    - rest: by output, elements at the end that are not those of the whole, where they are more
      than the delay: the model cuts a sequence off and then looks past the cut.
    - frames_per_step: frames a step takes, where above 1. Inputs are then [frames, *shape].
    - over: input frames by which the whole is longer than the stream it is compared with, where
      its sequences fit together at such lengths only.
    - elements: by name, elements of an input or output a step takes or gives, where they are not
      frames_per_step. They are a leading axis unless it is 1 (`Graph.frames_of`). A running value
      comes once a step.

    Args:
        graph: a real Graph over time; or a step, for `frames`.
        frames: how many frames a step takes: a multiple of the least number, which is the default.

    Raises:
        UnsupportedError: a node looks at frames that have not come yet, or `frames` does not fit;
            names it.
        GraphError: sequences of different lengths meet in one operation.
    """
    if graph.is_step:
        return _of_step(graph, frames)
    return _Streaming(graph, frames).run()


def past_the_end(graph: Graph) -> dict[str, int]:
    """By output, how many elements at its end depend on what comes after the end of the input.

    Args:
        graph: over time.

    Raises:
        UnsupportedError, GraphError: as of `stream`.
    """
    lags = Lags.of(graph)
    return {v: lags.open[v] - lags.end[v] for v in graph.outputs if v in lags.lag}


@dataclass
class _Output:
    """An output of a step under construction.

    Attributes:
        value: that is given.
        emission: 'frame' or 'last'.
        delay: input frames by which it lags.
        elements: of it that a step gives.
        rest: elements at the end of a sequence that are not those of the whole.
    """

    value: str
    emission: str
    delay: int
    elements: int
    rest: int = 0


class _Streaming:
    """One run of the pass."""

    def __init__(self, graph: Graph, frames: int | None) -> None:
        self.graph = graph = graph.copy()
        graph.prune()
        self.final: set[str] = set()  # values that exist only once the sequence has ended
        for node in graph.nodes:
            self._refuse_mixing(node)
        self.lags = Lags.of(graph, frames)
        self.step = Graph(graph.name, meta=dict(graph.meta))
        self.past = Past(self.step, graph, self.lags)
        self.env: dict[str, str] = {}  # of values without time

    def run(self) -> Graph:
        graph, step, lags = self.graph, self.step, self.lags
        for name in graph.inputs:
            t = graph.types[name]
            if t.time is None:
                self.env[name] = step.add_input(name, t)
            else:
                shape = (*lead(lags.slots(name)), *t.shape)
                self.past.keep(name, step.add_input(name, Type(shape)))
        for name, array in graph.consts.items():
            self.env[name] = step.add_const(name, array, graph.types[name])
        for node in graph.nodes:
            if node.op == "last":
                self.env[node.output] = self._last(node)
            elif graph.types[node.outputs[0]].time is None:
                types = [graph.types[v] for v in node.outputs]
                args = [self.env[v] for v in node.inputs]
                step.add_node(node.op, args, name=node.name, types=types, **node.attrs)
                self.env.update(zip(node.outputs, step.nodes[-1].outputs, strict=True))
            else:
                for name, now in zip(node.outputs, self._timed(node), strict=True):
                    self.past.keep(name, now)
        taken = {v: lags.slots(v) for v in graph.inputs if v in lags.period}
        outputs = [self._output(v) for v in graph.outputs]
        step.meta.pop("over", None)
        if lags.over:
            step.meta["over"] = lags.over
        _finish(step, outputs, lags.ticks // lags.tick, taken)
        keep_names(step, dict(zip(step.outputs, graph.outputs, strict=True)))
        return step

    def _timed(self, node: Node) -> Sequence[str]:
        """A node that makes sequences, in the step."""
        lags = self.lags
        timed = [v for v in node.inputs if v in lags.lag]
        m = lags.slots(timed[0])
        if node.op == "window":
            behind = lags.lag[node.output] - lags.lag[timed[0]] - int(node.attrs["ahead"])
            return [self.past.window(timed[0], int(node.attrs["length"]), behind, node.name)]
        if node.op == "shift":
            x = timed[0]
            now = self.past.at(x, lags.lag[x])
            if lags.lag[x] > 0 and int(node.attrs["frames"]) > 0:
                now = self.past.data(x, now)
            return [now]
        if node.op == "decimate":
            x, every = timed[0], int(node.attrs["factor"])
            lag = lags.meet([x])
            now = self.past.at(x, lag)
            if m == 1:  # of every frame
                return [now]
            return [pick(self.step, now, lag % every, every, m // every, node.name)]
        if node.op == "interleave":
            now = self.past.at(timed[0], lags.meet(timed))
            shape = (*lead(lags.slots(node.output)), *self.graph.types[node.output].shape)
            return [self.step.add_node("reshape", [now], name=node.name, shape=shape)]
        lag = lags.meet(timed)
        args = [self.past.at(v, lag) if v in lags.lag else self.env[v] for v in node.inputs]
        if node.op != "scan":
            return lift(self.graph, node, self.step, args, m)
        if m == 1:
            return inline(self.step, node, args, self.past, lag)
        return loop(self.step, node, args, self.past, lag, m)

    def _last(self, node: Node) -> str:
        """The running value of a sequence: its last slot of the step."""
        (x,) = node.inputs
        now = self.past.at(x, self.lags.ending(x))
        m = self.lags.slots(x)
        return now if m == 1 else pick(self.step, now, m - 1, 1, 1, node.name)

    def _output(self, name: str) -> _Output:
        lags = self.lags
        if name in lags.lag:
            value = self.past.at(name, lags.delay // lags.period[name])
            late, each = lags.delay // lags.tick, lags.slots(name)
            return _Output(value, "frame", late, each, lags.open[name])
        late = lags.late // lags.tick if name in self.final else 0
        return _Output(self.env[name], "last", late, 1)

    def _refuse_mixing(self, node: Node) -> None:
        timed = [v for v in node.inputs if self.graph.types[v].time is not None]
        ended = [v for v in node.inputs if v in self.final]
        if timed and ended:
            raise UnsupportedError(
                f"combines every frame with {ended[0]!r}, which is known only after the last frame",
                where=f"node {node.name!r} ({node.op})",
                fix="a stream cannot look ahead; take the running value, or drop the connection",
            )
        if node.op == "last" or ended:
            self.final.update(node.outputs)


def keep_names(step: Graph, names: Mapping[str, str]) -> None:
    """Call outputs as in the whole, where they are those values delayed; and so in ``meta``.

    Args:
        step: changed.
        names: by output, what to call it.
    """
    became = {v: step.call(v, names[v]) for v in list(step.outputs) if v in names}
    for key in ("delays", "elements", "emission", "rest"):
        if key in step.meta:
            step.meta[key] = {became.get(v, v): n for v, n in step.meta[key].items()}


def _of_step(graph: Graph, frames: int | None) -> Graph:
    """A step as it is, or as a loop over `frames` frames."""
    meta = graph.meta
    block = int(meta.get("frames_per_step", 1))
    emission, delays = meta.get("emission", {}), meta.get("delays", {})
    taken = {v: graph.frames_of(v) for v in graph.inputs}
    outputs = [
        _Output(
            v, emission.get(v, "frame"), delays.get(v, meta.get("delay", 0)), graph.frames_of(v)
        )
        for v in graph.outputs
    ]
    if frames is None or frames == block:
        return _finish(graph.copy(), outputs, block, taken)
    if frames < 1 or frames % block:
        raise UnsupportedError(
            f"cannot take {frames} frames at a time: a step takes {block}",
            where=f"graph {graph.name!r}",
            fix=f"take a multiple of {block} frames",
        )
    n = frames // block
    step = Graph(graph.name, meta=dict(meta))
    xs = []
    for v in graph.inputs:
        m, shape = graph.frames_of(v), graph.types[v].shape
        x = step.add_input(v, Type((n * m, *shape[m > 1 :])))
        want = (n, *shape)
        if step.types[x].shape != want:
            x = step.add_node("reshape", [x], name=f"{v}.steps", shape=want)
        xs.append(x)
    states = [
        step.add_state(s.name, graph.types[s.input], s.init, bound=s.bound) for s in graph.states
    ]
    body = graph.copy()
    body.meta = {}
    step.add_node("scan", [*xs, *states], name="steps", body=body, reverse=False)
    made = step.nodes[-1].outputs
    for state, new in zip(states, made[len(outputs) :], strict=True):
        step.set_state(state, new)
    for out, value in zip(outputs, made, strict=False):
        m, shape = graph.frames_of(out.value), graph.types[out.value].shape
        if out.emission != "last":
            out.elements = n * m
        if out.emission == "last":
            value = pick(step, value, n - 1, 1, 1, f"{out.value}.last")
        elif m > 1:
            value = step.add_node(
                "reshape", [value], name=f"{out.value}.frames", shape=(n * m, *shape[1:])
            )
        out.value = value
    return _finish(step, outputs, frames, {v: n * m for v, m in taken.items()})


def _finish(step: Graph, outputs: Sequence[_Output], frames: int, taken: dict[str, int]) -> Graph:
    """Set the outputs of `step`, each a node's and none twice, and what `meta` says of them."""
    emission: dict[str, str] = {}
    delays: dict[str, int] = {}
    elements = {v: taken[v] for v in step.inputs if taken.get(v, frames) != frames}
    made = {v for node in step.nodes for v in node.outputs}
    for out in outputs:
        value = out.value
        if value in emission or value not in made:
            value = step.add_node("reshape", [value], name=f"{value}.out",
                                  shape=list(step.types[value].shape))  # fmt: skip
        emission[value], delays[value] = out.emission, out.delay
        if out.elements != frames:
            elements[value] = out.elements
    step.outputs, step.meta["emission"] = list(emission), emission
    step.meta["delay"] = max(delays.values(), default=0)
    for key in ("delays", "elements", "frames_per_step", "rest"):
        step.meta.pop(key, None)
    if len(set(delays.values())) > 1:
        step.meta["delays"] = delays
    rest = {
        v: out.rest
        for v, out in zip(emission, outputs, strict=True)
        if out.rest > out.delay * out.elements // frames
    }
    if rest:
        step.meta["rest"] = rest
    if frames > 1:
        step.meta["frames_per_step"] = frames
    if elements:
        step.meta["elements"] = elements
    return step
