"""Planner: where states lie, what is computed in place, and the copies that remain."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.ir.graph import Node, State
from edgeseq.kernels.access import plain
from edgeseq.kernels.plan import Place, Slot
from edgeseq.kernels.plan_moves import Move, MovePlanner

__all__ = ["StatePlanner"]


@dataclass(frozen=True)
class _Shift:
    """A state that is a window over past values: a part of ``seen = concat(state, new)``.

    Its slot holds all of `seen`, so that new values are appended in place, everything reads the
    slot, and the state after the step is moved inside of it.

    Attributes:
        seen: the joined value.
        before: element of it at which the state lies.
    """

    seen: str
    before: int


class StatePlanner(MovePlanner):
    """Decides on memory before any call is planned."""

    def layout(self) -> list[Slot]:
        """Place states and ports."""
        slots, offset = [], 0
        self.shifts = self._shifts()
        for state in self.graph.states:
            t = self.graph.types[state.input]
            size, start, shift = t.nbytes, offset, self.shifts.get(state.input)
            if shift is not None:
                size = self.nbytes(shift.seen)
                self.places[shift.seen] = Place("state", offset)
                start += shift.before * self.size(shift.seen)
            slots.append(Slot(state.name, start, t.dtype, t.shape, t.scale, state.init))
            self.places[state.input] = Place("state", start)
            offset += -(-size // self.align) * self.align
        self.state_bytes = offset
        for i, name in enumerate(self.graph.inputs):
            self.places[name] = Place(f"in{i}", 0)
        return slots

    # -- windows ---------------------------------------------------------------------------

    def _shifts(self) -> dict[str, _Shift]:
        """The states whose slot holds the joined value, by the value before the step."""
        found: dict[str, _Shift] = {}
        for state in self.graph.states:
            shift = self._shift_of(state)
            if shift is not None and all(s.seen != shift.seen for s in found.values()):
                found[state.input] = shift
        if not self.kernels.small or not found:
            return found
        # The new values take memory in the slot for good, where scratch could be used again.
        whole = {s: self.nbytes(f.seen) for s, f in found.items()}
        more = {s: whole[s] - self.nbytes(s) for s in found}
        if sum(more.values()) <= max(whole.values()):
            return found
        return {s: f for s, f in found.items() if 4 * more[s] <= self.nbytes(s)}

    def _shift_of(self, state: State) -> _Shift | None:
        after, size = self.table[state.output], self.graph.types[state.input].size
        node = self._maker(after.root)
        if node is None or node.op != "concat" or not self._is_flat(node):
            return None
        if not after.is_plain or after.size == self.graph.types[after.root].size:
            return None
        column = 0
        for value in node.inputs:
            view = self.table[value]
            if (view.root, view.offset, view.dims) == (state.input, 0, plain(size)):
                return _Shift(after.root, column)
            column += view.size
        return None

    def _maker(self, root: str) -> Node | None:
        """The node that makes a stored value."""
        if root not in self.made:
            return None
        return next(n for n in self.steps[self.made[root]].nodes if root in n.outputs)

    def _is_flat(self, node: Node) -> bool:
        """Whether the parts of a concat follow each other in memory."""
        t = self.graph.types[node.output]
        return t.size == t.shape[-1]

    # -- destinations ----------------------------------------------------------------------

    def destinations(self) -> None:
        """Let values be computed where they have to end up; note the copies that remain.

        Sets `places` (values computed in a state's slot, an output or a joined value), `extra`
        (outputs that a loop stores besides), `late` (values that a copy reads) and `moves`
        (copies to outputs and states, by the step after which they are made).
        """
        taken: set[str] = set(self.places)
        states: list[tuple[str, Move]] = []
        outputs: list[Move] = []
        for state in self.graph.states:
            slot, root = self.places[state.input], self.table[state.output].root
            if self._whole(state.output) == state.input:
                continue
            if root not in taken and self._may_replace(state.output, state.input):
                taken.add(root)
                self.places[root] = slot
            else:
                dims = plain(self.graph.types[state.input].size)
                states.append((state.input, Move(state.output, slot, dims, state.name)))
        for j, value in enumerate(self.graph.outputs):
            root, whole = self.table[value].root, self._whole(value)
            if whole in self.made and self.steps[self.made[root]].is_loop:
                self.extra.setdefault(root, []).append(f"out{j}")
            elif whole in self.made and root not in taken and self._only_output(root):
                taken.add(root)
                self.places[root] = Place(f"out{j}", 0)
            else:
                dims = plain(self.graph.types[value].size)
                outputs.append(Move(value, Place(f"out{j}", 0), dims, value))
        self.late = {self.table[m.value].root for m in outputs}
        self.late |= {self.table[m.value].root for _, m in states}
        self._time(states, outputs)
        self._join_parts(taken)

    def _time(self, states: list[tuple[str, Move]], outputs: list[Move]) -> None:
        """When each copy is made: a state's as soon as nothing needs what it overwrites."""
        end = len(self.steps)
        self.moves: dict[int, list[Move]] = {}
        for move in outputs:
            root = self.table[move.value].root
            self.moves.setdefault(self.made.get(root, end), []).append(move)
        sources = [self.table[m.value].root for _, m in states] + [
            self.table[m.value].root for m in outputs
        ]
        for before, move in states:
            source = self.table[move.value].root
            overwritten = {before}
            if before in self.shifts:
                overwritten.add(self.shifts[before].seen)
            at = max([self.made.get(source, end), *map(self._last_use, overwritten)])
            if sum(s in overwritten for s in sources) > (source in overwritten):
                at = end
            self.moves.setdefault(at, []).append(move)

    def _last_use(self, root: str) -> int:
        return max((i for i, _ in self.uses.get(root, [])), default=-1)

    def _whole(self, value: str) -> str | None:
        """The stored value that `value` is all of, None if it is a part."""
        view = self.table[value]
        whole = plain(self.graph.types[view.root].size)
        return view.root if (view.offset, view.dims) == (0, whole) else None

    def _may_replace(self, value: str, before: str) -> bool:
        """Whether a state's new value may be computed over its old one."""
        root = self._whole(value)
        if root is None or root not in self.made:
            return False
        at = self.made[root]
        ends = [*self.graph.outputs, *(s.output for s in self.graph.states)]
        if any(self.table[v].root == before for v in ends) or not self._unpadded(root):
            return False
        return all(
            i < at or (i == at and self._in_place_at(at, v, before))
            for i, v in self.uses.get(before, [])
        )

    def _only_output(self, root: str) -> bool:
        """Whether a value is needed nowhere but in one output, unpadded."""
        ends = [*self.graph.outputs, *(s.output for s in self.graph.states)]
        once = sum(self.table[v].root == root for v in ends) == 1
        return once and root not in self.uses and self._unpadded(root)

    def _in_place_at(self, at: int, value: str, before: str) -> bool:
        """Whether step `at` may read the state and overwrite it."""
        step = self.steps[at]
        if step.nodes[0].op == "concat":
            return True  # moves are put in order
        if not step.is_loop or self._whole(value) != before:
            return False
        length = max(self.graph.types[n.output].size for n in step.nodes)
        return self.graph.types[before].size == length

    def _unpadded(self, root: str) -> bool:
        """Whether the node that makes a value writes nothing beyond it."""
        node = self._maker(root)
        assert node is not None
        rows = self.graph.types[root].shape[-1] if node.op == "linear" else 0
        return node.op != "linear" or self.kernels.written(rows) == rows

    # -- joined values ---------------------------------------------------------------------

    def _join_parts(self, taken: set[str]) -> None:
        """Let parts of a joined value be computed inside of it; the outermost one first."""
        self.joined: dict[str, list[str]] = {}
        states = {s.input for s in self.graph.states}
        slots = {self.places[s] for s in states - set(self.shifts)}
        for step in reversed(self.steps):
            node = step.nodes[0]
            if node.op != "concat" or not self._is_flat(node):
                continue
            place = self.places.get(node.output, Place(f"buffer:{node.output}", 0))
            if place in slots:  # until this step it holds the state before
                continue
            column = 0
            for value in node.inputs:
                root, at = self._whole(value), place + column * self.size(value)
                column += self.graph.types[value].size
                if root in self.made and root not in taken and self._joins(root, at):
                    taken.add(root)
                    self.places[root] = at
                    if at.base.startswith("buffer:"):
                        self.joined.setdefault(at.base[7:], []).append(root)

    def _joins(self, root: str, at: Place) -> bool:
        """Whether a value may be made at a place inside a joined one."""
        read_again = len(self.uses.get(root, [])) > 1
        straight = at.offset % self.kernels.x_align == 0
        return self._unpadded(root) and (straight or not read_again)
