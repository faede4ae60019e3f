"""Rewrites of an integer step that only matter to kernels.

`prepare` moves slices in front of element-wise nodes, so that gates computed side by side in one
matrix product are read in place by the loop that combines them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseq.errors import GraphError, UnsupportedError
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.ops import MOVEMENT
from edgeseq.ir.types import Type
from edgeseq.kernels.schedule import data_inputs, is_loop_node

__all__ = ["prepare"]

#: Operations that have a kernel of their own, besides the element-wise ones and moves.
_HEAVY = frozenset({"linear", "norm", "depthwise", "matmul", "softmax", "embed", "scan"})


def prepare(graph: Graph, *, every_state: bool = False) -> Graph:
    """A copy of `graph` with dead nodes dropped and slices moved in front of element-wise nodes.

    Args:
        graph: an integer step.
        every_state: keep the states that no output depends on.

    Raises:
        UnsupportedError: the Graph is not an integer step, or holds an operation without a kernel.
        GraphError: an attribute that becomes part of a kernel is not a whole number.
    """
    if not graph.is_step or not graph.is_integer:
        raise UnsupportedError(
            "only an integer step can be compiled",
            where=f"graph {graph.name!r}",
            fix="run the stream pass and quantise first",
        )
    for node in graph.nodes:
        if not (is_loop_node(node) or node.op in _HEAVY | MOVEMENT) or node.op == "sub":
            raise UnsupportedError(
                f"operation {node.op!r} has no kernel",
                where=f"node {node.name!r}",
                fix="express it with the operations of the integer table",
            )
        _require_numbers(node)
    graph = graph.copy()
    outputs = list(graph.outputs)
    if every_state:
        graph.outputs += [v for s in graph.states for v in (s.input, s.output)]
    graph.prune()
    _Sinker(graph).run()
    graph.prune()
    graph.outputs = outputs
    return graph


def _require_numbers(node: Node) -> None:
    """Attributes become part of generated source, so nothing but whole numbers may get there."""
    for key, value in node.attrs.items():
        if key in ("body", "fn", "cmp", "reverse") or value is None:
            continue
        if not all(isinstance(v, int | np.integer) for v in _numbers(value)):
            raise GraphError(
                f"attribute {key!r} is {value!r}, not a whole number",
                where=f"node {node.name!r} ({node.op})",
                fix="check the Graph before it is compiled",
            )


def _numbers(value: Any) -> list[Any]:
    """The numbers of an attribute: itself, the members of a list, one element of an array."""
    if isinstance(value, np.ndarray):
        return [value.dtype.type()]
    if isinstance(value, list | tuple):
        return [n for v in value for n in _numbers(v)]
    return [value]


class _Sinker:
    """Moves slices in front of element-wise nodes, from the last node to the first."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.fixed = set(graph.outputs) | {s.output for s in graph.states}
        #: Nodes by their place in the list: what a slice is replaced by takes its place.
        self.buckets = [[n] for n in graph.nodes]
        self.readers: dict[str, list[tuple[int, Node]]] = {}
        for i, node in enumerate(graph.nodes):
            for value in node.inputs:
                self.readers.setdefault(value, []).append((i, node))

    def run(self) -> None:
        for i in range(len(self.buckets) - 1, -1, -1):
            for maker in list(reversed(self.buckets[i])):
                if is_loop_node(maker) and self._moves(maker):
                    self._sink(maker)
        self.graph.nodes = [n for bucket in self.buckets for n in bucket]

    def _moves(self, maker: Node) -> bool:
        """Whether only slices read the output, and every input can be sliced as it is."""
        readers = self.readers.get(maker.output, [])
        if maker.output in self.fixed or not readers:
            return False
        if any(n.op != "slice" for _, n in readers):
            return False
        shape = self.graph.types[maker.output].shape
        taken = sum(int(n.attrs["stop"]) - int(n.attrs["start"]) for _, n in readers)
        return taken <= shape[-1] and all(
            self._sliceable(self.graph.types[v], shape) for v in data_inputs(maker)
        )

    @staticmethod
    def _sliceable(t: Type, shape: tuple[int, ...]) -> bool:
        """Whether a slice of the last axis of an operand is the operand of that slice."""
        return t.size == 1 or (t.shape[-1:] == shape[-1:] and t.size % shape[-1] == 0)

    def _sink(self, maker: Node) -> None:
        for i, node in self.readers.pop(maker.output):
            made = self._sliced(maker, node)
            at = next(k for k, n in enumerate(self.buckets[i]) if n is node)
            self.buckets[i][at : at + 1] = made
            for value in node.inputs:
                self.readers[value] = [r for r in self.readers.get(value, []) if r[1] is not node]
            for new in made:
                for value in new.inputs:
                    self.readers.setdefault(value, []).append((i, new))
        for value in maker.inputs:
            self.readers[value] = [r for r in self.readers[value] if r[1] is not maker]

    def _sliced(self, maker: Node, node: Node) -> list[Node]:
        """`maker` applied to slices of its inputs, defining the output of the slice `node`."""
        graph = self.graph
        start, stop = int(node.attrs["start"]), int(node.attrs["stop"])
        made: list[Node] = []
        inputs: list[str] = []
        data = data_inputs(maker)
        for value in maker.inputs:
            t = graph.types[value]
            if value not in data or t.size == 1:
                inputs.append(value)
                continue
            part = graph.fresh(f"{value}.{start}.{stop}")
            graph.types[part] = Type((*t.shape[:-1], stop - start), t.dtype, t.scale)
            if value in graph.consts:
                graph.consts[part] = graph.consts[value][..., start:stop].copy()
            else:
                attrs = {"start": start, "stop": stop}
                made.append(Node("slice", (value,), (part,), attrs, f"{part}.slice"))
            inputs.append(part)
        name = f"{maker.name}[{start}:{stop}]"
        made.append(Node(maker.op, tuple(inputs), node.outputs, dict(maker.attrs), name))
        return made
