"""Evaluate nodes whose inputs are all constants."""

from __future__ import annotations

import numpy as np

from edgeseq.errors import GraphError
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter

__all__ = ["fold_constants"]

_MOST_ELEMENTS = 1 << 26


def fold_constants(graph: Graph) -> Graph:
    """`graph` with every real node that reads constants only replaced by its value.

    Raises:
        GraphError: the folded constant would have more than 2^26 elements, or is not finite.
    """
    graph = graph.copy()
    kept = []
    for node in graph.nodes:
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            node.attrs["body"] = fold_constants(body)
        inputs_const = bool(node.inputs) and all(v in graph.consts for v in node.inputs)
        if not inputs_const or node.op in ("scan", "last") or graph.types[node.output].is_integer:
            kept.append(node)
            continue
        if graph.types[node.output].size > _MOST_ELEMENTS:
            raise GraphError("a constant sub-graph is too large", where=f"node {node.name!r}")
        part = Graph("constant", dict(graph.types), outputs=[node.output])
        part.consts = {v: graph.consts[v] for v in node.inputs}
        part.nodes = [node]
        value = Interpreter(part)()[0][0]  # of a batch of one
        if not np.all(np.isfinite(value)):
            raise GraphError("a constant is NaN or infinite", where=f"node {node.name!r}")
        graph.consts[node.output] = np.ascontiguousarray(value, np.float32)
    graph.nodes = kept
    graph.prune()
    return graph
