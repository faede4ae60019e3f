"""Fold affine maps after a matrix product into its weights and bias (BatchNorm, biases)."""

from __future__ import annotations

import numpy as np

from edgeseq.ir.graph import Graph, Node
from edgeseq.passes.affine import affine_map

__all__ = ["fuse_affine"]


def fuse_affine(graph: Graph) -> Graph:
    """`graph` with every ``a * linear(...) + c`` that has no other reader as one `linear`."""
    graph = graph.copy()
    for node in graph.nodes:
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            node.attrs["body"] = fuse_affine(body)
    while _fuse_one(graph):
        pass
    graph.prune()
    return graph


def _fuse_one(graph: Graph) -> bool:
    uses = graph.consumers()
    carried = {s.output for s in graph.states} | set(graph.outputs)
    for linear in graph.nodes:
        if linear.op != "linear" or linear.output in carried or len(uses[linear.output]) != 1:
            continue
        (user,) = uses[linear.output]
        step = affine_map(graph, user)
        if step is None or graph.types[user.output].shape != graph.types[linear.output].shape:
            continue
        _apply(graph, linear, step[1], step[2])
        linear.outputs = user.outputs
        graph.nodes.remove(user)
        return True
    return False


def _apply(graph: Graph, linear: Node, a: np.ndarray, c: np.ndarray) -> None:
    pairs = len(linear.inputs) // 2
    inputs = list(linear.inputs)
    for g in range(pairs):
        w = inputs[2 * g + 1]
        if np.any(a != 1.0):
            inputs[2 * g + 1] = graph.add_const(w, graph.consts[w] * a[:, None])
    bias = graph.consts[inputs[-1]] if len(inputs) % 2 else np.zeros(a.shape)
    name = graph.add_const(f"{linear.name}.bias", bias * a + c)
    linear.inputs = (*inputs[: 2 * pairs], name)
