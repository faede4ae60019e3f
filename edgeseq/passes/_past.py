"""What a step remembers of earlier ones: past slots of a value, and whether slots hold data.

Everything here moves or selects elements, so an integer step computes exactly what the real one
does, whatever formats its values have.
"""

from __future__ import annotations

import numpy as np

from edgeseq.ir.graph import Graph
from edgeseq.ir.types import Type
from edgeseq.passes._lags import Lags

__all__ = ["Past", "lead", "rows", "zero"]

Shape = tuple[int, ...]


def lead(m: int) -> Shape:
    """The axis of m slots at once; one slot has none."""
    return () if m == 1 else (m,)


def rows(shape: Shape) -> list[int]:
    """Strides of an array of `shape` that is stored row by row."""
    out, n = [], 1
    for d in reversed(shape):
        out.append(n)
        n *= d
    return out[::-1]


def zero(step: Graph, shape: Shape) -> str:
    """A constant zero for an operand of `shape`.

    Each has its own, since each gets the format of the value it stands in for.
    """
    return step.add_const("zero", np.zeros((1,) if shape else ()))


class Past:
    """The memory of a step under construction.

    Args:
        step: gets the states and the nodes that keep them.
        graph: the whole, for the shapes of single elements.
        lags: its schedule.
    """

    def __init__(self, step: Graph, graph: Graph, lags: Lags) -> None:
        self.step, self.graph, self.lags = step, graph, lags
        self._now: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        self._delayed: dict[tuple[str, int], str] = {}
        self._marks: dict[int, str] = {}
        self._valid: dict[tuple[int, int, Shape], str] = {}

    def keep(self, value: str, now: str) -> None:
        """Let `now` be the slots of the sequence `value` in this step; remember what is read later.

        The past of a value is one state, however many windows and delays read it:
        ``seen = concat(past, now)``, of which the last slots are the next step's past.
        """
        self._now[value] = now
        if value in self.lags.same:
            return
        past = self.lags.past.get(value, 0)
        if not past:
            return
        step, m = self.step, self.lags.slots(value)
        if value in self.lags.padded:
            now = self.data(value, now)
        n = self.graph.types[value].size
        if step.types[now].shape != (m * n,):
            now = self._reshape(now, (m * n,), f"{value}.flat")
        state = step.add_state(f"{value}.past", Type((past * n,)))
        seen = step.add_node("concat", [state, now], name=f"{value}.seen")
        step.set_state(state, self._slice(seen, m * n, past * n, f"{value}.keep"))
        self._seen[value] = seen

    def data(self, value: str, now: str) -> str:
        """The slots `now` of a lagging sequence, those before its first frame zero."""
        shape = self.graph.types[value].shape
        valid = self.valid(self.lags.slots(value), self.lags.lag[value], shape)
        return self.step.add_node(
            "select", [valid, now, zero(self.step, shape)], name=f"{value}.data"
        )

    def at(self, value: str, lag: int) -> str:
        """The slots of a sequence, delayed to `lag`."""
        slots = lag - self.lags.lag[value]
        if slots == 0:
            return self._now[value]
        value = self.lags.same.get(value, value)
        if (value, slots) not in self._delayed:
            m, t = self.lags.slots(value), self.graph.types[value]
            start = (self.lags.past[value] - slots) * t.size
            name = f"{value}.delay"
            late = self._slice(self._seen[value], start, m * t.size, name)
            late = self._reshape(late, (*lead(m), *t.shape), name)
            self._delayed[value, slots] = late
        return self._delayed[value, slots]

    def window(self, value: str, length: int, behind: int, name: str) -> str:
        """For each slot of a sequence `length` slots, [*lead, length, *shape].

        The last of them is the slot itself, or `behind` slots earlier.
        """
        value = self.lags.same.get(value, value)
        m, t = self.lags.slots(value), self.graph.types[value]
        shape = (*lead(m), length, *t.shape)
        if length == 1 and not behind:
            return self._reshape(self._now[value], shape, name)
        start = (self.lags.past[value] - behind - length + 1) * t.size
        if m == 1:
            inside = self._slice(self._seen[value], start, length * t.size, name)
            return self._reshape(inside, shape, name)
        return self.step.add_node(
            "strided",
            [self._seen[value]],
            name=name,
            shape=shape,
            strides=(t.size, t.size, *rows(t.shape)),
            offset=start,
        )

    def valid(self, m: int, lag: int, shape: Shape) -> str:
        """1 for the slots of a step that hold data of a sequence lagging by `lag`, else 0.

        Args:
            m: slots of the sequence in a step.
            lag: above 0.
            shape: of one element of the operand it selects for.

        Returns:
            [1, ..., 1] with as many axes as `shape`, or [m, *shape] of several slots.
        """
        key = (m, lag, shape if m > 1 else (1,) * len(shape))
        if key in self._valid:
            return self._valid[key]
        step, most = self.step, self.lags.marks[m]
        if m not in self._marks:  # ones are shifted in, one a slot
            state = step.add_state("begun", Type((most,)))
            ones = step.add_const("one", np.ones(m))
            seen = step.add_node("concat", [state, ones], name="begun.seen")
            step.set_state(state, self._slice(seen, m, most, "begun.keep"))
            self._marks[m] = seen
        start = most - lag
        if m == 1:
            flag = self._slice(self._marks[m], start, 1, "valid")
            flag = self._reshape(flag, key[2], "valid")
        else:
            flag = step.add_node(
                "strided",
                [self._marks[m]],
                name="valid",
                shape=(m, *shape),
                strides=(1, *[0] * len(shape)),
                offset=start,
            )
        self._valid[key] = flag
        return flag

    def _slice(self, flat: str, start: int, size: int, name: str) -> str:
        if self.step.types[flat].shape == (size,):
            return flat
        return self.step.add_node("slice", [flat], name=name, start=start, stop=start + size)

    def _reshape(self, value: str, shape: Shape, name: str) -> str:
        if self.step.types[value].shape == shape:
            return value
        return self.step.add_node("reshape", [value], name=name, shape=shape)
