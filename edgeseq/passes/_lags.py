"""By how many frames each value of a stream lags, and what a step must remember for that.

Time is counted in slots. A step takes `frames` input frames; a value of period p then has
m = frames / p slots a step, and slot k (the j-th of step tau, k = tau*m + j) holds index k - lag of
its sequence. Slots k < lag hold no data.

- ``window`` with `ahead`: index i needs frame i + ahead, so the lag grows by `ahead`.
- ``decimate`` by f: index i is index i*f of x, in slot i*f + lag = (i + lag // f)*f + lag % f of x.
  So of every f slots, number lag % f is taken, and the lag becomes lag // f.
- ``interleave`` of f: index i*f + r is part r of index i, and slots follow alike: all times f.
- Operands of one operation must have one lag: the earlier ones are delayed to the greatest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgeseq.errors import GraphError, UnsupportedError
from edgeseq.ir.graph import Graph, Node

__all__ = ["Lags"]


@dataclass
class Lags:
    """The schedule of a stream.

    Attributes:
        frames: input frames a step takes.
        period: input frames per element, by value; of values that are sequences.
        lag: slots by which a value lags.
        end: elements by which the sequence of T input frames is shorter than T / period, where T
            fills whole steps (unpadded convolutions).
        open: elements at the end of T / period that are missing, or take what comes after the end
            of a sequence for zeros; never less than the lag.
        past: slots before a step's own that are read again.
        padded: lagging values whose slots before the first frame are read and must be zero.
        marks: greatest lag at which a step must know whether a slot holds data, by slots a step.
        delay: input frames by which every sequence among the outputs lags.
        late: input frames by which values at the last frame come after that frame.
    """

    frames: int
    period: dict[str, int] = field(default_factory=dict)
    lag: dict[str, int] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    past: dict[str, int] = field(default_factory=dict)
    padded: set[str] = field(default_factory=set)
    marks: dict[int, int] = field(default_factory=dict)
    delay: int = 0
    late: int = 0

    @classmethod
    def of(cls, graph: Graph, frames: int | None = None) -> Lags:
        """The schedule of `graph`, a real Graph over time without dead nodes.

        Args:
            graph: the whole.
            frames: input frames a step takes; None for the least number.

        Raises:
            UnsupportedError: the frames do not fill whole periods of every value, or a node needs
                frames from the end of the sequence.
            GraphError: sequences of different lengths meet.
        """
        periods = {v: t.time.period for v, t in graph.types.items() if t.time is not None}
        least = math.lcm(*periods.values())
        if frames is None:
            frames = least
        if frames < 1 or frames % least:
            raise UnsupportedError(
                f"cannot take {frames} frames at a time: it makes something of every {least}",
                where=f"graph {graph.name!r}",
                fix=f"take a multiple of {least} frames",
            )
        lags = cls(frames, periods)
        for v in graph.inputs:
            t = graph.types[v].time
            if t is not None:
                lags.lag[v] = lags.open[v] = -(-t.delay // t.period)
                lags.end[v] = 0
        for node in graph.nodes:
            lags._node(graph, node)
        lags._finish(graph)
        return lags

    def slots(self, value: str) -> int:
        """Slots of a sequence in one step."""
        return self.frames // self.period[value]

    def meet(self, values: Iterable[str]) -> int:
        """The lag at which sequences meet in one operation."""
        return max(self.lag[v] for v in values)

    def ending(self, value: str) -> int:
        """The lag of `value` at which its last slot of a step is the last frame so far."""
        return self.end[value] + self.late // self.period[value]

    def _node(self, graph: Graph, node: Node) -> None:
        timed = [v for v in node.inputs if v in self.lag]
        if not timed or node.op == "last":
            return
        x = timed[0]
        lag, end = self.lag[x], self.end[x]
        unknown = max(self.open[v] for v in timed)
        if node.op == "window":
            length, ahead = int(node.attrs["length"]), int(node.attrs["ahead"])
            self._remember(x, length - 1)
            # Frame i + ahead - length + 1, the first of a window, is before frame 0 for some i.
            if lag and ahead < length - 1:
                self.padded.add(x)
                self._mark(x, lag)
            lag, end = lag + ahead, end + int(node.attrs["cut"])
            unknown = max(end, unknown + ahead)
        elif node.op == "decimate":
            factor = int(node.attrs["factor"])
            lag, end, unknown = lag // factor, end // factor, unknown // factor
        elif node.op == "interleave":
            factor = self.period[x] // self.period[node.output]
            lag, end, unknown = lag * factor, end * factor, unknown * factor
        else:
            odd = next((v for v in timed if self.end[v] != end), None)
            if odd is not None:
                raise GraphError(
                    f"combines sequences of different lengths: {x!r} ends {end} frames early, "
                    f"{odd!r} {self.end[odd]}",
                    where=f"node {node.name!r} ({node.op})",
                )
            lag = self.meet(timed)
            for v in timed:
                self._remember(v, lag - self.lag[v])
        if node.op == "scan":
            if node.attrs["reverse"]:
                raise UnsupportedError(
                    "runs from the last frame to the first (a bidirectional layer): it looks ahead "
                    "by the whole sequence and cannot stream",
                    where=f"node {node.name!r}",
                    fix="compile in window mode (--window N --hop N), or train the model with "
                    "bidirectional=False",
                )
            if lag and node.attrs["body"].states:
                self._mark(x, lag)
        for v in node.outputs:
            self.lag[v], self.end[v], self.open[v] = lag, end, unknown

    def _finish(self, graph: Graph) -> None:
        """Let all outputs lag by the same time."""
        timed = [v for v in graph.outputs if v in self.lag]
        self.delay = self._common((self.lag[v], v) for v in timed)
        for v in timed:
            self._remember(v, self.delay // self.period[v] - self.lag[v])
        last = [node.inputs[0] for node in graph.nodes if node.op == "last"]
        self.late = max(0, self._common((self.open[v] - self.end[v], v) for v in last))
        for v in last:
            self._remember(v, self.ending(v) - self.lag[v])

    def _common(self, lags: Iterable[tuple[int, str]]) -> int:
        """The least time that is none of `lags` (in slots) too early and whole for each."""
        pairs = [(n * self.period[v], self.period[v]) for n, v in lags]
        unit = math.lcm(*(p for _, p in pairs))
        return max((-(-n // unit) * unit for n, _ in pairs), default=0) if pairs else 0

    def _remember(self, value: str, slots: int) -> None:
        if slots > self.past.get(value, 0):
            self.past[value] = slots

    def _mark(self, value: str, lag: int) -> None:
        m = self.slots(value)
        self.marks[m] = max(lag, self.marks.get(m, 0))
