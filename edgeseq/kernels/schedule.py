"""The order in which nodes run, and which of them run together.

Heavy nodes (matrix products, normalisations, moves) run as early as they can; element-wise ones
together, as late as they can, as loops over the same elements.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from edgeseq.errors import BackendError
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.ops import ELEMENTWISE
from edgeseq.kernels.access import View, stretch, suffixes
from edgeseq.kernels.expressions import INPUTS

__all__ = ["Step", "data_inputs", "is_loop_node", "schedule"]


@dataclass
class Step:
    """What runs at one point of the schedule: a heavy or moving node, or one loop of nodes."""

    nodes: list[Node]

    @property
    def is_loop(self) -> bool:
        """Whether the nodes are element-wise."""
        return is_loop_node(self.nodes[0])


def is_loop_node(node: Node) -> bool:
    """Whether the node computes every element from the same element of its inputs."""
    return node.op in ELEMENTWISE


def data_inputs(node: Node) -> tuple[str, ...]:
    """Inputs of an element-wise node that are not tables."""
    return node.inputs[: INPUTS.get(node.op)]


@dataclass
class _Group:
    """Nodes of one loop over `size` elements; its operands are read in runs of `runs` elements."""

    size: int
    nodes: list[Node]
    runs: set[int]
    lanes: int

    def takes(self, runs: set[int]) -> bool:
        """Whether a node with these runs may join: one nest of loops serves both."""
        both = _chain(self.runs | runs)
        if both is None or _chain(self.runs) is None:
            return False
        # Short rows would keep the others from being computed a register at a time.
        inner = _inner(both)
        alike = inner == _inner(self.runs) == _inner(runs)
        return alike or self.lanes == 1 or inner >= 2 * self.lanes


def _chain(runs: set[int]) -> list[int] | None:
    """The runs in order if each divides the next."""
    ordered = sorted(runs)
    return None if any(b % a for a, b in pairwise(ordered)) else ordered


def _inner(runs: Iterable[int]) -> int:
    return min((r for r in runs if r > 1), default=1)


def _runs(graph: Graph, table: dict[str, View], node: Node) -> set[int]:
    """Lengths after which the operands of an element-wise node jump, and the node's own."""
    size = graph.types[node.output].size
    ends = {1, size}
    for value in data_inputs(node):
        view = table[value]
        dims = stretch(view.dims, size // view.size)
        for unit, (count, _) in zip(suffixes(dims), dims, strict=True):
            ends |= {unit, unit * count}
    return ends


def schedule(
    graph: Graph, table: dict[str, View], stored: dict[str, View], lanes: int
) -> list[Step]:
    """The nodes in an order that runs; views left out.

    Args:
        graph: prepared.
        table, stored: from `views`.
        lanes: elements of a SIMD register, 1 without.

    Raises:
        BackendError: a node reads what nothing defines.
    """
    nodes = [n for n in graph.nodes if any(table[v].root == v for v in n.outputs)]
    maker = {v: i for i, n in enumerate(nodes) for v in n.outputs}
    users: dict[int, list[int]] = {}
    waits = []
    for i, node in enumerate(nodes):
        # A stored view is made from its input, as that lies.
        roots = (
            {stored[node.outputs[0]].root}
            if node.outputs[0] in stored
            else {table[v].root for v in node.inputs}
        )
        sources = {maker[r] for r in roots if r in maker}
        waits.append(len(sources))
        for s in sources:
            users.setdefault(s, []).append(i)
    heavy = [i for i, n in enumerate(nodes) if not waits[i] and not is_loop_node(n)]
    light = [i for i, n in enumerate(nodes) if not waits[i] and is_loop_node(n)]
    steps: list[Step] = []
    count = 0

    def finish(i: int) -> None:
        for user in users.get(i, []):
            waits[user] -= 1
            if not waits[user]:
                heapq.heappush(light if is_loop_node(nodes[user]) else heavy, user)

    while heavy or light:
        while heavy:
            i = heapq.heappop(heavy)
            steps.append(Step([nodes[i]]))
            count += 1
            finish(i)
        groups: dict[int, list[_Group]] = {}
        while light:
            i = heapq.heappop(light)
            _join(graph, table, groups, nodes[i], lanes)
            count += 1
            finish(i)
        loops = [g.nodes for same in groups.values() for g in same]
        _append_loops(graph, steps, loops, table)
    if count < len(nodes):
        raise BackendError(
            "a node depends on itself or on a value that nothing defines",
            where=f"graph {graph.name!r}",
            fix="check the Graph before it is compiled",
        )
    return steps


def _join(
    graph: Graph,
    table: dict[str, View],
    groups: dict[int, list[_Group]],
    node: Node,
    lanes: int,
) -> None:
    """Add a node to the first loop that it fits, or to a new one."""
    runs = _runs(graph, table, node)
    size = graph.types[node.output].size
    same = groups.setdefault(size, [])
    for group in same:
        if group.takes(runs):
            group.nodes.append(node)
            group.runs |= runs
            return
    same.append(_Group(size, [node], runs, lanes))


def _append_loops(
    graph: Graph, steps: list[Step], loops: list[list[Node]], table: dict[str, View]
) -> None:
    """Order loops made in one round; a loop that two others need in turn is split per node."""
    owner = {n.output: i for i, loop in enumerate(loops) for n in loop}
    needs: list[set[int]] = []
    for i, loop in enumerate(loops):
        needs.append(set())
        for value in (v for n in loop for v in n.inputs):
            view = table[value]
            at = owner.get(view.root)
            # A member read elsewhere than at the same index cannot be read inside its own loop.
            whole = view.is_plain and view.size == graph.types[view.root].size
            if at is not None and (at != i or not whole):
                needs[i].add(at)
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
