"""Rewrites of an integer step that only matter to kernels, and its schedule.

`prepare` moves slices in front of element-wise nodes, so that gates computed side by side in one
matrix product are read in place by the loop that combines them. `schedule` orders the nodes into
steps: matrix products as early as they can run, element-wise nodes together, as late as they can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseq.errors import BackendError, GraphError, UnsupportedError
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.types import Type

__all__ = ["Step", "View", "is_loop_node", "prepare", "reshaped", "schedule", "view_of", "views"]

_LOOP = frozenset({"add", "mul", "clamp", "rescale", "lut"})
_HEAVY = frozenset({"linear", "norm"})
_MOVE = frozenset({"reshape", "slice", "concat"})


@dataclass(frozen=True)
class View:
    """A value as part of another one: elements offset.. of `root`."""

    root: str
    offset: int


@dataclass
class Step:
    """What runs at one point of the schedule: a heavy or moving node, or one loop of nodes."""

    nodes: list[Node]

    @property
    def is_loop(self) -> bool:
        """Whether the nodes are element-wise."""
        return self.nodes[0].op in _LOOP


def is_loop_node(node: Node) -> bool:
    """Whether the node computes every element from the same element of its inputs."""
    return node.op in _LOOP


def _lead(t: Type) -> int:
    size = 1
    for d in t.shape[:-1]:
        size *= d
    return size


def is_view(graph: Graph, node: Node) -> bool:
    """Whether the node's output is part of its input as stored."""
    if node.op == "reshape":
        return True
    return node.op == "slice" and _lead(graph.types[node.inputs[0]]) == 1


def view_of(graph: Graph, node: Node) -> tuple[str, int]:
    """Input and element offset of a view node."""
    return node.inputs[0], int(node.attrs["start"]) if node.op == "slice" else 0


def views(graph: Graph) -> dict[str, View]:
    """Root and offset of every value; a value that is stored on its own is its own root."""
    table = {name: View(name, 0) for name in graph.types}
    for node in graph.nodes:
        if is_view(graph, node):
            source, offset = view_of(graph, node)
            base = table[source]
            table[node.output] = View(base.root, base.offset + offset)
    return table


def reshaped(graph: Graph, table: dict[str, View]) -> dict[str, str]:
    """Values that are a whole other value under a different shape, with that value."""
    return {
        name: view.root
        for name, view in table.items()
        if view.root != name
        and view.offset == 0
        and graph.types[name].size == graph.types[view.root].size
    }


def prepare(graph: Graph) -> Graph:
    """A copy of `graph` with dead nodes dropped and slices moved in front of element-wise nodes.

    Raises:
        UnsupportedError: the Graph is not an integer step, or holds an operation without a kernel.
        GraphError: an attribute of an element-wise node is not a whole number.
    """
    if not graph.is_step or not graph.is_integer:
        raise UnsupportedError(
            "only an integer step can be compiled",
            where=f"graph {graph.name!r}",
            fix="run the stream pass and quantise first",
        )
    for node in graph.nodes:
        if node.op not in _LOOP | _HEAVY | _MOVE:
            raise UnsupportedError(
                f"operation {node.op!r} has no kernel",
                where=f"node {node.name!r}",
                fix="express it with the operations of the integer table",
            )
    for node in graph.nodes:
        _require_numbers(node)
    graph = graph.copy()
    graph.prune()
    while _sink_one(graph):
        graph.prune()
    return graph


def _require_numbers(node: Node) -> None:
    """Attributes become part of generated source, so nothing but whole numbers may get there."""
    if node.op not in _LOOP:
        return
    for key in ("m", "s", "ma", "mb", "lo", "hi", "k"):
        value = node.attrs.get(key)
        if value is not None and not isinstance(value, int | np.integer):
            raise GraphError(
                f"attribute {key!r} is {value!r}, not a whole number",
                where=f"node {node.name!r} ({node.op})",
                fix="check the Graph before it is compiled",
            )


def _sink_one(graph: Graph) -> bool:
    producers, consumers = graph.producers(), graph.consumers()
    fixed = set(graph.outputs) | {s.output for s in graph.states}
    for index, node in enumerate(graph.nodes):
        if node.op != "slice" or not is_view(graph, node):
            continue
        source = node.inputs[0]
        maker = producers.get(source)
        if maker is None or not is_loop_node(maker) or source in fixed:
            continue
        if any(c.op != "slice" for c in consumers[source]):
            continue
        size = graph.types[source].size
        data = maker.inputs[:1] if maker.op == "lut" else maker.inputs
        if any(graph.types[v].size not in (1, size) for v in data):
            continue
        graph.nodes[index : index + 1] = _sliced(graph, maker, node, data)
        return True
    return False


def _sliced(graph: Graph, maker: Node, node: Node, data: tuple[str, ...]) -> list[Node]:
    """`maker` applied to slices of its inputs, defining the output of the slice `node`."""
    start, stop = int(node.attrs["start"]), int(node.attrs["stop"])
    made: list[Node] = []
    inputs: list[str] = []
    for value in maker.inputs:
        t = graph.types[value]
        if value not in data or t.size == 1:
            inputs.append(value)
            continue
        if value in graph.consts:
            flat = graph.consts[value].reshape(-1)[start:stop]
            part = graph.fresh(f"{value}_{start}")
            graph.types[part] = Type((stop - start,), t.dtype, t.scale)
            graph.consts[part] = flat.copy()
        else:
            part = graph.fresh(f"{value}_{start}")
            graph.types[part] = Type((stop - start,), t.dtype, t.scale)
            made.append(
                Node("slice", (value,), (part,), {"start": start, "stop": stop}, f"{part}.slice")
            )
        inputs.append(part)
    made.append(
        Node(
            maker.op,
            tuple(inputs),
            node.outputs,
            dict(maker.attrs),
            f"{maker.name}[{start}:{stop}]",
        )
    )
    return made


def _domain(graph: Graph, node: Node) -> tuple[int, int]:
    """Elements of an element-wise node, and the period of a repeating operand (0: none)."""
    size = graph.types[node.output].size
    data = node.inputs[:1] if node.op == "lut" else node.inputs
    periods = {graph.types[v].size for v in data if 1 < graph.types[v].size < size}
    return size, min(periods, default=0)


def schedule(graph: Graph) -> list[Step]:
    """The nodes in an order that runs, element-wise ones grouped into loops; views left out."""
    table = views(graph)
    pending = [n for n in graph.nodes if not is_view(graph, n)]
    done = set(graph.inputs) | {s.input for s in graph.states} | set(graph.consts)
    steps: list[Step] = []

    def ready(node: Node, have: set[str]) -> bool:
        return all(table[v].root in have for v in node.inputs)

    while pending:
        heavy = [n for n in pending if not is_loop_node(n) and ready(n, done)]
        if heavy:
            for node in heavy:
                steps.append(Step([node]))
                done.update(node.outputs)
                pending.remove(node)
            continue
        before = len(pending)
        groups: dict[int, list[tuple[list[Node], int]]] = {}
        for node in list(pending):
            if not is_loop_node(node) or not ready(node, done):
                continue
            size, period = _domain(graph, node)
            for i, (members, known) in enumerate(groups.setdefault(size, [])):
                if period == 0 or known in (0, period):
                    members.append(node)
                    groups[size][i] = (members, known or period)
                    break
            else:
                groups[size].append(([node], period))
            done.update(node.outputs)
            pending.remove(node)
        if len(pending) == before:
            raise BackendError(
                "depends on itself or on a value that nothing defines",
                where=f"node {pending[0].name!r}",
                fix="check the Graph before it is compiled",
            )
        _append_loops(graph, steps, [g for groups_ in groups.values() for g, _ in groups_], table)
    return steps


def _append_loops(
    graph: Graph, steps: list[Step], loops: list[list[Node]], table: dict[str, View]
) -> None:
    """Order loops made in one round; a loop that two others need in turn is split per node."""
    same = reshaped(graph, table)
    owner = {n.output: i for i, loop in enumerate(loops) for n in loop}
    needs: list[set[int]] = []
    for i, loop in enumerate(loops):
        sources = {table[v].root for n in loop for v in n.inputs}
        # A member read through a view (shifted) cannot be read inside its own loop.
        shifted = {
            table[v].root
            for n in loop
            for v in n.inputs
            if owner.get(table[v].root) == i and v not in same and v != table[v].root
        }
        needs.append({owner[s] for s in sources if s in owner and owner[s] != i})
        if shifted:
            needs[i].add(i)
    order: list[int] = []
    left = set(range(len(loops)))
    while left:
        free = sorted(i for i in left if not needs[i] & left)
        if not free:
            break
        order += free
        left -= set(free)
    steps += [Step(loops[i]) for i in order]
    if left:
        members = {n.name for i in left for n in loops[i]}
        steps += [Step([n]) for n in graph.nodes if n.name in members]
