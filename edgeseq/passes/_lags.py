"""By how many frames each value of a stream lags, and what a step must remember for that.

Time is counted in slots. A step takes `ticks` ticks, which are whole input frames; a value of
period p then has m = ticks / p slots a step, and slot k (the j-th of step tau, k = tau*m + j) holds
index k - lag of its sequence. Slots k < lag hold no data.

- ``window`` with `ahead`: index i needs frame i + ahead, so the lag grows by `ahead`.
- ``shift`` by n frames: index i is index i - n of x, so the lag shrinks by n. Below 0 the first
  frames, which are zero, lie before the first slot: a window reads them as it does what was before
  the first frame; everything else is computed at a lag of 0 or more.
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
        ticks: that a step takes.
        period: ticks per element, by value; of values that are sequences.
        lag: slots by which a value lags; below 0 where its first frames need no slot.
        same: values whose slots are those of another one.
        end: elements by which a sequence of T ticks is shorter than T / period, where T fills
            whole steps (unpadded convolutions); negative where it is longer (padded ones).
        open: elements at the end of T / period that are missing, or take what comes after the end
            of a sequence for zeros; never less than the lag.
        over: input frames by which the whole is longer than T: sequences that a model cuts and
            pads to one length may have it at other lengths than those of whole steps alone.
        past: slots before a step's own that are read again.
        padded: lagging values whose slots before the first frame are read and must be zero.
        marks: greatest lag at which a step must know whether a slot holds data, by slots a step.
        delay: ticks by which every sequence among the outputs lags, whole input frames.
        late: ticks by which values at the last frame come after that frame, whole input frames.
        tick: ticks of an input frame.
    """

    ticks: int
    period: dict[str, int] = field(default_factory=dict)
    lag: dict[str, int] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)
    past: dict[str, int] = field(default_factory=dict)
    padded: set[str] = field(default_factory=set)
    marks: dict[int, int] = field(default_factory=dict)
    delay: int = 0
    late: int = 0
    tick: int = 1
    over: int = 0

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
        tick = graph.tick
        least = math.lcm(tick, *periods.values()) // tick
        if frames is None:
            frames = least
        if frames < 1 or frames % least:
            raise UnsupportedError(
                f"cannot take {frames} frames at a time: it makes something of every {least}",
                where=f"graph {graph.name!r}",
                fix=f"take a multiple of {least} frames",
            )
        over = int(graph.meta.get("length", 0)) % frames
        ends = any(node.op == "last" for node in graph.nodes)
        for more in (0, over):
            lags = cls(frames * tick, dict(periods), tick=tick, over=more)
            try:
                lags._schedule(graph)
            except GraphError:
                # What is at the last frame of whole steps is never at that of other lengths.
                if more == over or ends:
                    raise
                continue
            break
        return lags

    def _schedule(self, graph: Graph) -> None:
        for v in graph.inputs:
            t = graph.types[v].time
            if t is not None:
                self.lag[v] = self.open[v] = -(-t.delay // t.period)
                self.end[v] = -(self.over * self.tick // t.period)
        for node in graph.nodes:
            self._node(graph, node)
        self._finish(graph)

    def slots(self, value: str) -> int:
        """Slots of a sequence in one step."""
        return self.ticks // self.period[value]

    def meet(self, values: Iterable[str]) -> int:
        """The lag at which sequences meet in one operation."""
        return max(0, *(self.lag[v] for v in values))

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
            # A window that could come early reads slots further back instead.
            behind = max(0, -(lag + ahead))
            self._remember(x, length - 1 + behind)
            # Frame i + ahead - length + 1, the first of a window, is before frame 0 for some i.
            if lag > 0 and ahead < length - 1:
                self.padded.add(self.same.get(x, x))
                self._mark(x, lag)
            lag, end = lag + ahead + behind, end + int(node.attrs["cut"])
            unknown = max(end, unknown + ahead)
        elif node.op == "shift":
            later = int(node.attrs["frames"])
            if later > 0 and lag > 0:  # slots without data become frames of zeros
                self._mark(x, lag)
            elif later >= 0:
                self.same[node.output] = self.same.get(x, x)
            lag, end = lag - later, end + int(node.attrs["cut"])
            unknown = max(end, unknown - later)
        elif node.op == "decimate":
            factor = int(node.attrs["factor"])
            lag = self._at_least_now(x)
            unknown = max(unknown, lag)
            lag, end, unknown = lag // factor, end // factor, unknown // factor
        elif node.op == "interleave":
            lag = self._at_least_now(x)
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
            self.lag[v], self.end[v], self.open[v] = lag, end, max(unknown, lag)

    def _at_least_now(self, value: str) -> int:
        """The lag of `value` where it may not be negative."""
        lag = self.meet([value])
        self._remember(value, lag - self.lag[value])
        return lag

    def _finish(self, graph: Graph) -> None:
        """Let all outputs lag by the same time."""
        timed = [v for v in graph.outputs if v in self.lag]
        self.delay = max(0, self._common((self.lag[v], v) for v in timed))
        for v in timed:
            self._remember(v, self.delay // self.period[v] - self.lag[v])
        last = [node.inputs[0] for node in graph.nodes if node.op == "last"]
        self.late = max(0, self._common((self.open[v] - self.end[v], v) for v in last))
        for v in last:
            self._remember(v, self.ending(v) - self.lag[v])

    def _common(self, lags: Iterable[tuple[int, str]]) -> int:
        """The least time that is none of `lags` (in slots) too early, and whole for each."""
        pairs = [(n * self.period[v], self.period[v]) for n, v in lags]
        unit = math.lcm(self.tick, *(p for _, p in pairs))
        return max((-(-n // unit) * unit for n, _ in pairs), default=0) if pairs else 0

    def _remember(self, value: str, slots: int) -> None:
        value = self.same.get(value, value)
        if slots > self.past.get(value, 0):
            self.past[value] = slots

    def _mark(self, value: str, lag: int) -> None:
        m = self.slots(value)
        self.marks[m] = max(lag, self.marks.get(m, 0))
