"""Fold affine maps after a matrix product or a norm into its constants (BatchNorm, biases)."""

from __future__ import annotations

import numpy as np

from edgeseq.ir.graph import Graph, Node
from edgeseq.passes.affine import affine_map

__all__ = ["fuse_affine"]


def fuse_affine(graph: Graph) -> Graph:
    """`graph` with every ``a * f(...) + c`` as one f, where f is linear, depthwise or norm.

    a and c are constants per element of the last axis, the weights of f are constants, and nobody
    else reads f's result.
    """
    graph = graph.copy()
    for node in graph.nodes:
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            node.attrs["body"] = fuse_affine(body)
    uses = graph.consumers()
    carried = {s.output for s in graph.states} | set(graph.outputs)
    gone: set[int] = set()
    for node in graph.nodes:
        if node.op not in _APPLY or any(v not in graph.consts for v in _weights(node)):
            continue
        while node.output not in carried and len(uses[node.output]) == 1:
            (user,) = uses[node.output]
            step = affine_map(graph, user)
            shape = graph.types[node.output].shape
            if step is None or graph.types[user.output].shape != shape:
                break
            _APPLY[node.op](graph, node, step[1], step[2])
            node.outputs = user.outputs
            gone.add(id(user))
    graph.nodes = [n for n in graph.nodes if id(n) not in gone]
    graph.prune()
    return graph


def _weights(node: Node) -> tuple[str, ...]:
    """The constants that take an affine map in."""
    if node.op == "linear":
        pairs = len(node.inputs) // 2
        return node.inputs[1 : 2 * pairs : 2] + node.inputs[2 * pairs :]
    return node.inputs[1:]


def _linear(graph: Graph, linear: Node, a: np.ndarray, c: np.ndarray) -> None:
    pairs = len(linear.inputs) // 2
    inputs = list(linear.inputs)
    for g in range(pairs):
        w = inputs[2 * g + 1]
        if np.any(a != 1.0):
            inputs[2 * g + 1] = graph.add_const(w, graph.consts[w] * a[:, None])
    bias = graph.consts[inputs[-1]] if len(inputs) % 2 else np.zeros(a.shape)
    name = graph.add_const(f"{linear.name}.bias", bias * a + c)
    linear.inputs = (*inputs[: 2 * pairs], name)


def _depthwise(graph: Graph, node: Node, a: np.ndarray, c: np.ndarray) -> None:
    x, w, *rest = node.inputs
    if np.any(a != 1.0):
        w = graph.add_const(w, graph.consts[w] * a)
    bias = graph.consts[rest[0]] if rest else np.zeros(a.shape)
    node.inputs = (x, w, graph.add_const(f"{node.name}.bias", bias * a + c))


def _norm(graph: Graph, node: Node, a: np.ndarray, c: np.ndarray) -> None:
    x, gain, bias = node.inputs
    if np.any(a != 1.0):
        gain = graph.add_const(gain, graph.consts[gain] * a)
    node.inputs = (x, gain, graph.add_const(f"{node.name}.bias", graph.consts[bias] * a + c))


_APPLY = {"linear": _linear, "depthwise": _depthwise, "norm": _norm}
"""How each operation takes ``a * y + c`` of its result y into its constants."""
