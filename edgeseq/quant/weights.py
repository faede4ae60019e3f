"""Quantisation of matrices, and the proof that no accumulator overflows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import QuantiseError
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Graph, Node
from edgeseq.quant.rounding import round_matrix

__all__ = ["Proof", "prove", "quantise_matrix"]

Array = npt.NDArray[Any]

_ACC_MAX = (1 << 31) - 1


def quantise_matrix(
    w: Array, bits: int, x_max: int, gram: Array | None = None
) -> tuple[Array, Array]:
    """Signed integers and one scale per row, such that no row's int32 accumulator overflows.

    The scale is the finest for which every weight fits and ``sum |q| * x_max < 2^31``.

    Args:
        w: real matrix [O, K].
        bits: 8 or 16.
        x_max: greatest magnitude of the stored input (32768 or 128).
        gram: of its inputs over calibration (`Stats.gram`), [K, K]; with it the error of the
            product is made small (`round_matrix`), without it weights are rounded to nearest.

    Returns:
        (q int8 or int16 [O, K], scale float64 [O]).

    Raises:
        QuantiseError: a row has more inputs than any scale allows.
    """
    w = np.asarray(w, np.float64)
    q_max = (1 << (bits - 1)) - 1
    top = np.abs(w).max(axis=1)
    total = np.abs(w).sum(axis=1)
    budget = _ACC_MAX // x_max
    scale = np.maximum(top / q_max, total / budget)
    scale[scale <= np.finfo(np.float32).tiny] = 1.0  # a row of zeros
    for _ in range(64):
        q = round_matrix(w, scale, q_max, gram)
        over = np.abs(q).sum(axis=1) * x_max > _ACC_MAX
        if not over.any():
            return q.astype(np.int8 if bits == 8 else np.int16), scale
        scale[over] *= 1.01
    raise QuantiseError(f"{w.shape[1]} inputs of one row do not fit a 32-bit accumulator")


@dataclass(frozen=True)
class Proof:
    """Bound on one matrix product.

    Attributes:
        node: its name.
        accumulator: greatest magnitude any group's accumulator can reach.
        total: greatest magnitude of the sum before saturation.
    """

    node: str
    accumulator: int
    total: int

    @property
    def headroom(self) -> float:
        """2^31 over the greatest magnitude; more than 1."""
        return 2.0**31 / max(self.accumulator, self.total, 1)


def stored_max(graph: Graph, value: str) -> int:
    """Greatest magnitude a value can have as stored."""
    if value in graph.consts:
        return int(np.abs(graph.consts[value].astype(np.int64)).max())
    for node in graph.nodes:
        if value in node.outputs and node.op == "lut":
            return int(np.abs(graph.consts[node.inputs[1]].astype(np.int64)).max())
    return -INT_RANGE[graph.types[value].dtype][0]


def prove(graph: Graph) -> list[Proof]:
    """Bound every accumulator of an integer Graph by the actual weights and stored formats.

    Raises:
        QuantiseError: a bound reaches 2^31; names the node.
    """
    return [_prove(graph, node) for _, node in graph.walk() if node.op == "linear"]


def _prove(graph: Graph, node: Node) -> Proof:
    pairs = len(node.inputs) // 2
    worst = 0
    rows = graph.types[node.inputs[1]].shape[0]
    total = np.zeros(rows)
    if len(node.inputs) % 2:
        total += np.abs(graph.consts[node.inputs[-1]].astype(np.float64))
    for g in range(pairs):
        x_max = stored_max(graph, node.inputs[2 * g])
        q = np.abs(graph.consts[node.inputs[2 * g + 1]].astype(np.float64)).sum(axis=1)
        bound = q * x_max
        worst = max(worst, int(bound.max()))
        m = np.abs(node.attrs["m"][g].astype(np.float64))
        total += np.ceil(bound * m / 2.0 ** node.attrs["s"][g]) + 1
    proof = Proof(node.name, worst, int(total.max()))
    if proof.accumulator > _ACC_MAX or proof.total > _ACC_MAX:
        raise QuantiseError(
            f"an accumulator can reach {max(proof.accumulator, proof.total)}, beyond 2^31",
            where=f"node {node.name!r}",
            fix="scale the layer's weights down, or split it",
        )
    return proof
