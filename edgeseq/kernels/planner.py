"""From an integer step to a plan: destinations, loops, and the order of everything."""

from __future__ import annotations

from edgeseq.ir.graph import Graph
from edgeseq.kernels.access import Dims, View, plain, refine, stretch
from edgeseq.kernels.linear import LinearSet
from edgeseq.kernels.loops import Operand, build_loop
from edgeseq.kernels.memory import place
from edgeseq.kernels.plan import Call, Place, Plan, Repeat
from edgeseq.kernels.plan_base import Shared
from edgeseq.kernels.plan_scan import ScanPlanner
from edgeseq.kernels.schedule import Step, data_inputs

__all__ = ["make_plan"]


class _Planner(ScanPlanner):
    def run(self) -> Plan:
        slots = self.layout()
        self.destinations()
        self._allocate()
        for i, step in enumerate(self.steps):
            if step.is_loop:
                self.loop(i, step)
            else:
                getattr(self, f"do_{step.nodes[0].op}")(i, step.nodes[0])
            self.parallel(i, self.moves.get(i, []))
        end = len(self.steps)
        self.parallel(end, self.moves.get(end, []))
        offsets, scratch = place(list(self.buffers.values()), self.align)
        items = self._resolved(self.items, offsets)
        shared = self.shared
        return Plan(
            self.graph, items, shared.constants, slots, self.state_bytes, scratch, shared.parts
        )

    def body_plan(self, body: Graph, port_align: dict[str, int], every_state: bool) -> Plan:
        return _Planner(body, self.shared, port_align, every_state=every_state).run()

    def _allocate(self) -> None:
        """Buffers of values that nodes other than loops make, and of joined values."""
        for i, step in enumerate(self.steps):
            for value in (v for n in step.nodes for v in n.outputs):
                if value in self.joined:  # made when its first part is
                    first = min(self.made[root] for root in self.joined[value])
                    self.new_buffer(value, self.nbytes(value), first)
                    self.touch(value, i)
                elif value not in self.places and not step.is_loop:
                    self.new_buffer(value, self.nbytes(value), i)

    def _resolved(self, items: list[Call | Repeat], offsets: dict[str, int]) -> list[Call | Repeat]:
        """The same with the buffers' addresses in scratch."""

        def to(at: Place) -> Place:
            if at.base.startswith("buffer:"):
                return Place("scratch", offsets[at.base[7:]] + at.offset)
            return at

        for item in items:
            if isinstance(item, Repeat):
                item.moving = {n: (to(p), s) for n, (p, s) in item.moving.items()}
                self._resolved(item.items, offsets)
            else:
                item.arguments = [to(a) if isinstance(a, Place) else a for a in item.arguments]
        return items

    # -- loops -----------------------------------------------------------------------------

    def loop(self, at: int, step: Step) -> None:
        """The call of one loop of element-wise nodes."""
        stores: dict[str, list[str]] = {}
        targets: dict[str, Place] = {}
        for node in step.nodes:
            value = node.output
            buffers = list(self.extra.get(value, []))
            targets |= {name: Place(name, 0) for name in buffers}
            if value in self.places:
                buffers.append(f"place:{value}")
                targets[buffers[-1]] = self.places[value]
            elif value in self.late or any(i != at for i, _ in self.uses.get(value, [])):
                buffers.append(f"buffer:{value}")
                targets[buffers[-1]] = self.new_buffer(value, self.nbytes(value), at)
            if buffers:
                stores[value] = buffers
        table = self._readable(at, step)
        merged = self._merged(step, targets)
        built = build_loop(self.graph, step.nodes, stores, self.known, merged, table)
        self.known |= {v: r for v, r in built.ranges.items() if v in stores}
        arguments = [self._operand(o, targets, table) for o in built.operands]
        self.call(at, built.source, list(arguments), tuple(n.name for n in step.nodes))

    def _readable(self, at: int, step: Step) -> dict[str, View]:
        """Views of the operands; where their rows cut each other, those of copies."""
        length = max(self.graph.types[n.output].size for n in step.nodes)
        inside = {n.output for n in step.nodes}
        values = [v for n in step.nodes for v in data_inputs(n) if self.table[v].root not in inside]

        def dims(views: dict[str, View]) -> list[Dims]:
            return [stretch(views[v].dims, length // views[v].size) for v in values]

        table = self.table
        if refine(dims(table), length) is not None:
            return table
        table = dict(table)
        for value in values:
            view = table[value]
            if not view.is_plain:
                name = self._copied(at, view, self.size(value), step.nodes[0].name).base[7:]
                self.places[name] = Place(f"buffer:{name}", 0)
                self.graph.types[name] = self.graph.types[value]
                table[value] = View(name, 0, plain(view.size))
        return table

    def _merged(self, step: Step, targets: dict[str, Place]) -> dict[str, str]:
        """Targets that are the memory of a state the loop reads: one pointer serves both."""
        inside = {n.output for n in step.nodes}
        read = {self._whole(v) for n in step.nodes for v in n.inputs} - inside
        by_place = {self.places[v]: v for v in sorted(filter(None, read)) if v in self.places}
        return {
            name: by_place[place]
            for name, place in targets.items()
            if place.base == "state" and place in by_place
        }

    def _operand(
        self, operand: Operand, targets: dict[str, Place], table: dict[str, View]
    ) -> Place:
        if operand.kind == "out":
            return targets[operand.value]
        if operand.kind == "table":
            return self.array(self.graph.consts[operand.value], "table", "tables")
        return self.first(table[operand.value])


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
    return _Planner(graph, Shared(kernels, align)).run()
