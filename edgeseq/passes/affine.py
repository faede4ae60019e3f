"""Reading multiplications and additions of constants as affine maps; shared by two passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph, Node

__all__ = ["affine_map"]

Array = npt.NDArray[Any]


def affine_map(graph: Graph, node: Node) -> tuple[str, Array, Array] | None:
    """(x, a, c) where `node` computes ``a * x + c`` element by element of the last axis.

    a and c have the shape of x's last axis. None where the node is no such map.
    """
    if node.op not in ("add", "sub", "mul"):
        return None
    left, right = node.inputs
    if (left in graph.consts) == (right in graph.consts):
        return None
    x, c = (right, left) if left in graph.consts else (left, right)
    t = graph.types[x]
    value = np.asarray(graph.consts[c], np.float64)
    if not t.shape or graph.types[node.output].shape != t.shape:
        return None
    if value.size != 1 and (value.shape[-1] != t.shape[-1] or value.size != t.shape[-1]):
        return None
    flat = np.broadcast_to(value.reshape(-1), t.shape[-1:]).copy()
    one, zero = np.ones(t.shape[-1]), np.zeros(t.shape[-1])
    if node.op == "mul":
        return x, flat, zero
    if node.op == "add":
        return x, one, flat
    return (x, one, -flat) if c == right else (x, -one, flat)
