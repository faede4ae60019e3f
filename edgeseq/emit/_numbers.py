"""Numbers that formats in real units need: what the multipliers of an integer node mean."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph, Node

__all__ = ["NEAR_ONE", "channel_scales", "finite", "matmul_gain", "softmax_gain", "wide_terms"]

NEAR_ONE = 2.0**-10
"""A factor this close to 1 is 1, up to the rounding of a multiplier."""


def finite(array: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """`array` as float32; what is beyond its range becomes the end of it, not infinity."""
    top = float(np.finfo(np.float32).max)
    return np.clip(np.asarray(array, np.float64), -top, top).astype(np.float32)


def _scale(graph: Graph, value: str) -> float:
    return graph.types[value].scalar_scale


def channel_scales(graph: Graph, node: Node) -> npt.NDArray[np.float64]:
    """Real value of one unit of each channel's weights in a `depthwise` node, float64 [C]."""
    unit = _scale(graph, node.output) / _scale(graph, node.inputs[0])
    scales: npt.NDArray[np.float64] = (
        node.attrs["m"].astype(np.float64) / 2.0 ** node.attrs["s"] * unit
    )
    return scales


def matmul_gain(graph: Graph, node: Node) -> float:
    """g of ``y = g a b^T`` in real numbers."""
    a, b = node.inputs
    unit = _scale(graph, node.output) / (_scale(graph, a) * _scale(graph, b))
    return float(node.attrs["m"] / 2.0 ** node.attrs["s"] * unit)


def softmax_gain(graph: Graph, node: Node) -> float:
    """g of ``y = softmax(g x)``: 1 unless the multiplier holds a factor of its own."""
    x, name = node.inputs
    a, table = node.attrs, graph.consts[name].astype(np.float64) / 2.0**15
    at = a["lo"] + (np.arange(len(table)) << a["k"])
    # The table's unit, from the nodes that are large enough to be known well.
    known = (table > 0.2) & (at < 0)
    if not np.any(known):
        return 1.0
    unit = float(np.sum(np.log(table[known]) * at[known]) / np.sum(at[known].astype(float) ** 2))
    gain = a["m"] / 2.0 ** a["s"] * unit / _scale(graph, x)
    return 1.0 if abs(gain - 1.0) < 0.01 else float(gain)


def wide_terms(graph: Graph, node: Node) -> tuple[float, float]:
    """g and c of ``y = g f(x) + c`` in real numbers, for a `wide` node that computes f.

    Source: `edgeseq.fixed.wide_apply`, with the table in Q28.
    """
    unit, out, a = _scale(graph, node.inputs[0]), _scale(graph, node.output), node.attrs
    gain, offset = a["m"] * 2.0 ** (28 - a["s"]) * out, a["b"] * out
    if a["fn"] == "log":
        offset -= gain * log(unit)
    else:
        gain *= {"sqrt": 1 / sqrt(unit), "rsqrt": sqrt(unit), "reciprocal": unit}[a["fn"]]
    if abs(gain - 1.0) < NEAR_ONE:
        gain = 1.0
    return gain, 0.0 if abs(offset) < out / 2 else offset
