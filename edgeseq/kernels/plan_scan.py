"""Planner: recurrences over an axis inside one step.

The body is planned like a step of its own, with its memory in scratch; its calls are made once
per element, with pointers to the elements of inputs and outputs that advance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeseq.ir.graph import Graph, Node
from edgeseq.kernels.access import plain
from edgeseq.kernels.plan import Call, Place, Repeat
from edgeseq.kernels.plan_values import ValuePlanner

if TYPE_CHECKING:
    from edgeseq.kernels.plan import Plan

__all__ = ["ScanPlanner"]


class ScanPlanner(ValuePlanner):
    """Adds `do_scan(at, node)`."""

    def body_plan(self, body: Graph, port_align: dict[str, int], every_state: bool) -> Plan:
        """The plan of a body, with the constants of this one."""
        raise NotImplementedError

    def do_scan(self, at: int, node: Node) -> None:
        body: Graph = node.attrs["body"]
        inputs, outputs = len(body.inputs), len(body.outputs)
        count = self.graph.types[node.inputs[0]].shape[0]
        back = bool(node.attrs["reverse"])
        moving: list[tuple[Place, int]] = []
        for value in node.inputs[:inputs]:
            width = self.graph.types[value].size // count
            place, step = self.one_step(at, value, width, node.name)
            moving.append(self._from_end(place, step * self.size(value), count, back))
        for value in node.outputs[:outputs]:
            step = self.nbytes(value) // count
            moving.append(self._from_end(self.origin(value), step, count, back))
        names = [f"in{i}" for i in range(inputs)] + [f"out{j}" for j in range(outputs)]
        align = {
            name: min(self.alignment(place), step & -step if step else self.align)
            for name, (place, step) in zip(names, moving, strict=True)
        }
        plan = self.body_plan(body, align, len(node.inputs) > inputs)
        state = self.temporary(f"{node.name}.state", plan.state_bytes, at)
        scratch = self.temporary(f"{node.name}.scratch", plan.scratch_bytes, at)
        self._start(at, node, plan, state, node.inputs[inputs:])
        with self.repeated(at, count, moving) as places:
            table = dict(zip(names, places, strict=True)) | {"state": state, "scratch": scratch}
            self.items += _relocated(plan.items, table)
        for slot, value in zip(plan.slots, node.outputs[outputs:], strict=False):
            t, size = self.graph.types[value], self.size(value)
            target, dims = self.origin(value), plain(t.size)
            self.move(at, state + slot.offset, dims, target, dims, node.name, (size, size))
            self.use(at, target)

    def _from_end(self, place: Place, step: int, count: int, back: bool) -> tuple[Place, int]:
        """The first address of a scan and its step, from whichever end it starts."""
        return (place + step * (count - 1), -step) if back else (place, step)

    def _start(self, at: int, node: Node, plan: Plan, state: Place, given: tuple[str, ...]) -> None:
        """Give the body's states their first values: `given`, or those of a reset."""
        for i, slot in enumerate(plan.slots):
            size = slot.init.itemsize
            dims = plain(slot.init.size)
            target = state + slot.offset
            if given:
                self.put(at, given[i], target, dims, node.name)
            elif (slot.init == slot.init.flat[0]).all():
                self.fill(at, target, dims, int(slot.init.flat[0]), size, node.name)
            else:
                first = self.array(slot.init)
                self.move(at, first, dims, target, dims, node.name, (size, size))


def _relocated(items: list[Call | Repeat], table: dict[str, Place]) -> list[Call | Repeat]:
    """Items of a body's plan with its memory at the places of `table`."""

    def to(argument: Place | int) -> Place | int:
        if isinstance(argument, Place) and argument.base in table:
            return table[argument.base] + argument.offset
        return argument

    place: Callable[[Place], Place] = to  # type: ignore[assignment]
    out: list[Call | Repeat] = []
    for item in items:
        if isinstance(item, Repeat):
            moving = {n: (place(p), s) for n, (p, s) in item.moving.items()}
            out.append(Repeat(item.count, moving, _relocated(item.items, table)))
        else:
            out.append(Call(item.kernel, [to(a) for a in item.arguments], item.nodes, item.macs))
    return out
