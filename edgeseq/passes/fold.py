"""Evaluate nodes whose inputs are all constants."""

from __future__ import annotations

import numpy as np

from edgeseq.errors import GraphError
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter

__all__ = ["fold_constants"]

_MOST_ELEMENTS = 1 << 26


def fold_constants(graph: Graph) -> Graph:
    """`graph` with every real node that reads constants only replaced by its values.

    What lies in time (`window`, `decimate`, `interleave`, `last`) reads no constants, a `scan` over
    the first axis of constants may.

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
        if not inputs_const or graph.types[node.outputs[0]].is_integer:
            kept.append(node)
            continue
        if sum(graph.types[v].size for v in node.outputs) > _MOST_ELEMENTS:
            raise GraphError("a constant sub-graph is too large", where=f"node {node.name!r}")
        types = {v: graph.types[v] for v in (*node.inputs, *node.outputs)}
        part = Graph("constant", types, outputs=list(node.outputs))
        part.consts = {v: graph.consts[v] for v in node.inputs}
        part.nodes = [node]
        for name, value in zip(node.outputs, Interpreter(part)(), strict=True):
            if not np.all(np.isfinite(value)):
                raise GraphError("a constant is NaN or infinite", where=f"node {node.name!r}")
            graph.consts[name] = np.ascontiguousarray(value[0], np.float32)  # of a batch of one
    graph.nodes = kept
    graph.prune()
    return graph
