"""From an integer step to a plan: destinations, loops, and the order of everything."""

from __future__ import annotations

from edgeseq.ir.graph import Graph
from edgeseq.kernels.linear import LinearSet
from edgeseq.kernels.loops import Operand, build_loop
from edgeseq.kernels.memory import place
from edgeseq.kernels.plan import KernelSource, Place, Plan, Slot
from edgeseq.kernels.plan_base import SIZE
from edgeseq.kernels.plan_nodes import NodePlanner
from edgeseq.kernels.prepare import Step

__all__ = ["make_plan"]

#: A step after every other: when copies to outputs and states are made.
_END = 1 << 30


class _Planner(NodePlanner):
    def run(self) -> Plan:
        slots = self.layout()
        self.destinations()
        for i, step in enumerate(self.steps):
            for node in step.nodes:
                root = node.output
                if root not in self.places and not step.is_loop:
                    self.new_buffer(root, self.nbytes(root), i)
        for i, step in enumerate(self.steps):
            if step.is_loop:
                self.loop(i, step)
            else:
                getattr(self, f"do_{step.nodes[0].op}")(i, step.nodes[0])
        self.finish(len(self.steps))
        offsets, scratch = place(list(self.buffers.values()), self.align)
        calls = []
        for _, call in self.calls:
            call.arguments = [self._resolved(a, offsets) for a in call.arguments]
            calls.append(call)
        return Plan(self.graph, calls, self.constants, slots, self.state_bytes, scratch, self.parts)

    @staticmethod
    def _resolved(argument: Place | int, offsets: dict[str, int]) -> Place | int:
        if isinstance(argument, Place) and argument.base.startswith("buffer:"):
            return Place("scratch", offsets[argument.base[7:]] + argument.offset)
        return argument

    def layout(self) -> list[Slot]:
        slots, offset = [], 0
        for state in self.graph.states:
            t = self.graph.types[state.input]
            slots.append(Slot(state.name, offset, t.dtype, t.shape, t.scale, state.init))
            self.places[state.input] = Place("state", offset)
            offset += -(-t.nbytes // self.align) * self.align
        self.state_bytes = offset
        for i, name in enumerate(self.graph.inputs):
            self.places[name] = Place(f"in{i}", 0)
        return slots

    def destinations(self) -> None:
        """Let values be computed where they have to end up; note the copies that remain.

        Sets `places` (values computed in a state's slot or an output), `extra` (outputs that a
        loop stores besides) and `final` (value, destination, phase) of copies after all steps:
        phase 0 to outputs, phase 1 to states.
        """
        uses = self.reads()
        self.final: list[tuple[str, Place, int]] = []
        taken: set[str] = set()
        for state in self.graph.states:
            slot = self.places[state.input]
            root = self.table[state.output].root
            if self._whole(state.output) == state.input:
                continue
            if root not in taken and self._may_replace(state.output, state.input, uses):
                taken.add(root)
                self.places[root] = slot
            else:
                self.final.append((state.output, slot, 1))
        for j, value in enumerate(self.graph.outputs):
            root, whole = self.table[value].root, self._whole(value)
            if whole in self.made and self.steps[self.made[root]].is_loop:
                self.extra.setdefault(root, []).append(f"out{j}")
            elif whole in self.made and root not in taken and self._only_output(root, uses):
                taken.add(root)
                self.places[root] = Place(f"out{j}", 0)
            else:
                self.final.append((value, Place(f"out{j}", 0), 0))
        self.late = {self.table[value].root for value, _, _ in self.final}

    def _whole(self, value: str) -> str | None:
        """The stored value that `value` is all of, None if it is a part."""
        root = self.table[value].root
        return root if root == value or value in self.same else None

    def _may_replace(
        self, value: str, state_input: str, uses: dict[str, list[tuple[int, str]]]
    ) -> bool:
        """Whether a state's new value may be computed over its old one."""
        root = self._whole(value)
        if root is None or root not in self.made:
            return False
        at = self.made[root]
        ends = [*self.graph.outputs, *(s.output for s in self.graph.states)]
        if any(self.table[v].root == state_input for v in ends) or not self._unpadded(at):
            return False
        return all(
            i < at or (i == at and self._in_place(at, v, state_input))
            for i, v in uses.get(state_input, [])
        )

    def _only_output(self, root: str, uses: dict[str, list[tuple[int, str]]]) -> bool:
        """Whether a value is needed nowhere but in one output, unpadded."""
        ends = [*self.graph.outputs, *(s.output for s in self.graph.states)]
        once = sum(self.table[v].root == root for v in ends) == 1
        return once and root not in uses and self._unpadded(self.made[root])

    def _in_place(self, at: int, value: str, state_input: str) -> bool:
        """Whether the loop at step `at` reads the state at the index that it writes."""
        step = self.steps[at]
        if not step.is_loop or self.same.get(value, value) != state_input:
            return False
        length = max(self.graph.types[n.output].size for n in step.nodes)
        return self.graph.types[state_input].size == length

    def _unpadded(self, at: int) -> bool:
        node = self.steps[at].nodes[0]
        return (
            node.op != "linear" or self.graph.types[node.output].shape[-1] % self.kernels.rows == 0
        )

    def loop(self, at: int, step: Step) -> None:
        """The call of one loop of element-wise nodes."""
        uses = self.reads()
        stores: dict[str, list[str]] = {}
        targets: dict[str, Place] = {}
        for node in step.nodes:
            value = node.output
            buffers = list(self.extra.get(value, []))
            targets |= {name: Place(name, 0) for name in buffers}
            if value in self.places:
                buffers.append(f"state:{value}")
                targets[buffers[-1]] = self.places[value]
            elif value in self.late or any(i != at for i, _ in uses.get(value, [])):
                self.new_buffer(value, self.nbytes(value), at)
                buffers.append(f"buffer:{value}")
                targets[buffers[-1]] = Place(buffers[-1], 0)
            if buffers:
                stores[value] = buffers
        merged = self._merged(step, targets)
        built = build_loop(self.graph, step.nodes, stores, self.known, merged, self.same)
        arguments = [self._operand(o, targets) for o in built.operands]
        kernel = KernelSource(built.source, ("ptr",) * len(arguments))
        self.call(at, kernel, list(arguments), tuple(n.name for n in step.nodes))

    def _merged(self, step: Step, targets: dict[str, Place]) -> dict[str, str]:
        """Targets that are the memory of a state the loop reads: one pointer serves both."""
        inside = {n.output for n in step.nodes}
        read = {self.same.get(v, v) for n in step.nodes for v in n.inputs} - inside
        by_place = {self.places[v]: v for v in sorted(read) if v in self.places}
        return {
            name: by_place[place]
            for name, place in targets.items()
            if place.base == "state" and place in by_place
        }

    def _operand(self, operand: Operand, targets: dict[str, Place]) -> Place:
        if operand.kind == "out":
            return targets[operand.value]
        if operand.kind == "table":
            return self.array(operand.value, "table", "tables")
        return self.where(operand.value)

    def finish(self, at: int) -> None:
        """Copies to outputs, then to states; a state about to be overwritten is saved first."""
        slots = {s.input for s in self.graph.states}
        moves: list[tuple[Place, Place, str, int]] = []
        for value, target, phase in sorted(self.final, key=lambda f: f[2]):
            source = self.where(value)
            if phase and self.table[value].root in slots:
                name = f"save.{value}.{len(self.copies)}"
                self.copies[(name,)] = name
                self.new_buffer(name, self.nbytes(value), at)
                self._move(at, source, Place(f"buffer:{name}", 0), value)
                source = Place(f"buffer:{name}", 0)
            moves.append((source, target, value, phase))
        for source, target, value, _ in moves:
            self._move(at + 1, source, target, value)

    def _move(self, at: int, source: Place, target: Place, value: str) -> None:
        t = self.graph.types[value]
        bits = SIZE[t.dtype] * 8
        self._copy(at, source, target, bits, bits, 1, t.size, 0, 0, value)


def make_plan(graph: Graph, kernels: LinearSet, align: int) -> Plan:
    """Plan an integer step.

    Args:
        graph: as `edgeseq.ir.check` accepts it: integer, without time.
        kernels: family of matrix kernels.
        align: of states and scratch buffers in bytes, a power of two and at least 4.

    Raises:
        UnsupportedError: an operation or an operand has no kernel.
        BackendError: a sum could exceed 32 bits.
    """
    return _Planner(graph, kernels, align).run()
