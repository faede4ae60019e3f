"""Quantisation of matrices, and the proof that no accumulator overflows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import QuantiseError
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Graph, Node
from edgeseq.quant.rounding import Factor, decompose, round_matrix

__all__ = [
    "Proof",
    "group_ends",
    "prove",
    "quantise_channels",
    "quantise_groups",
    "quantise_matrix",
]

Array = npt.NDArray[Any]

_ACC_MAX = (1 << 31) - 1
_COARSER = 1.3
_LEVELS = 2048.0
_LEAST_GROUP = 64


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
    factor = None if gram is None else decompose(gram)
    q, scales = quantise_groups(w, bits, x_max, [w.shape[1]], factor)
    return q, scales[0]


def quantise_groups(
    w: Array, bits: int, x_max: int, ends: Sequence[int], factor: Factor | None = None
) -> tuple[Array, list[Array]]:
    """As `quantise_matrix`, for a matrix whose columns are shared out to several accumulators.

    Args:
        ends: the column after the last of each group.
        factor: `decompose` of the gram of all inputs: errors of a group are made up for by others.

    Returns:
        (q [O, K], a scale [O] per group).
    """
    w = np.asarray(w, np.float64)
    q_max = (1 << (bits - 1)) - 1
    parts = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    scales = np.stack([_finest(w[:, p], q_max, x_max) for p in parts])
    widths = [p.stop - p.start for p in parts]
    q = np.empty_like(w)
    todo = np.arange(len(w))
    for _ in range(64):
        columns = np.repeat(scales[:, todo], widths, axis=0).T
        q[todo] = round_matrix(w[todo], columns, q_max, None, factor)
        over = np.stack([np.abs(q[:, p]).sum(axis=1) * x_max > _ACC_MAX for p in parts])
        if not over.any():
            return q.astype(np.int8 if bits == 8 else np.int16), list(scales)
        scales[over] *= 1.01
        todo = np.flatnonzero(over.any(axis=0))
    raise QuantiseError(f"{max(widths)} inputs of one row do not fit a 32-bit accumulator")


def _finest(w: Array, q_max: int, x_max: int) -> Array:
    """The finest scale per row that fits the width and the accumulator."""
    size = np.abs(w)
    top, total = size.max(axis=1), size.sum(axis=1)
    scale = np.maximum(top / q_max, total / (_ACC_MAX // x_max))
    scale[scale <= np.finfo(np.float32).tiny] = 1.0  # a row of zeros
    # Weights of one size, as those of a mean: rounding them alike would be an error of the gain.
    even = _even(w)
    scale[even] = top[even] / np.maximum(np.floor(top[even] / scale[even] + 1e-9), 1.0)
    return np.asarray(scale)


def _even(w: Array) -> Array:
    """Rows whose weights are of one size, or zero."""
    size = np.abs(w)
    top = size.max(axis=1, keepdims=True)
    even = ((size == 0.0) | (size == top)).all(axis=1) & (top[:, 0] > np.finfo(np.float32).tiny)
    return np.asarray(even)


def group_ends(w: Array, bits: int, x_max: int) -> list[int]:
    """Where to divide the columns of `w` [O, K] so that accumulators do not cost it precision.

    One group where that is precise enough: 8-bit weights may be up to 1.3 times as coarse as
    their width alone makes them, 16-bit weights keep 12 bits. Groups end at multiples of 16.
    """
    k = w.shape[1]
    w = w[~_even(w)]  # the others are exact in any scale
    if not w.size:
        return [k]
    q_max = (1 << (bits - 1)) - 1
    wanted = 127.0 / _COARSER if bits == 8 else _LEVELS
    top = np.maximum(np.abs(w).max(axis=1), np.finfo(np.float32).tiny)
    ends = [k]
    for count in range(1, max(1, k // _LEAST_GROUP) + 1):
        size = -(-k // count // 16) * 16 if count > 1 else k
        ends = [*range(size, k, size), k]
        coarse = []
        for a, b in zip([0, *ends[:-1]], ends, strict=True):
            levels = _finest(w[:, a:b], q_max, x_max) * wanted / top
            coarse.append(np.where(w[:, a:b].any(axis=1), levels, 0.0))
        if np.sqrt(np.mean(np.square(coarse))) <= 1.0:
            break
    return ends


def quantise_channels(w: Array, bits: int, x_max: int) -> tuple[Array, Array]:
    """Weights of a `depthwise` node: a few per channel, so that the scale is worth choosing well.

    Of scales up to a third coarser than the finest, the one with the least squared error.

    Args:
        w: real [K, C].
        bits: 8 or 16.
        x_max: greatest magnitude of the stored input.

    Returns:
        (q int8 or int16 [K, C], scale float64 [C]).
    """
    w = np.asarray(w, np.float64)
    q_max = (1 << (bits - 1)) - 1
    finest = _finest(w.T, q_max, x_max)
    best, error = finest.copy(), np.full(w.shape[1], np.inf)
    for factor in np.linspace(1.0, 4.0 / 3.0, 65):
        scale = finest * factor
        q = np.clip(np.floor(w / scale + 0.5), -q_max, q_max)
        e = ((q * scale - w) ** 2).sum(axis=0)
        fits = np.abs(q).sum(axis=0) * x_max <= _ACC_MAX
        better = fits & (e < error)
        best, error = np.where(better, scale, best), np.where(better, e, error)
    if not np.all(np.isfinite(error)):
        raise QuantiseError(f"{w.shape[0]} inputs of one channel do not fit a 32-bit accumulator")
    q = np.clip(np.floor(w / best + 0.5), -q_max, q_max)
    return q.astype(np.int8 if bits == 8 else np.int16), best


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
    """Bound every 32-bit accumulator of an integer Graph by its weights and stored formats.

    Raises:
        QuantiseError: a bound reaches 2^31; names the node.
    """
    rules = {"linear": _linear, "depthwise": _depthwise}
    return [rules[n.op](g, n) for g, n in graph.walk() if n.op in rules]


def _linear(graph: Graph, node: Node) -> Proof:
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
    return _proved(Proof(node.name, worst, int(total.max())))


def _depthwise(graph: Graph, node: Node) -> Proof:
    x_max = stored_max(graph, node.inputs[0])
    bound = np.abs(graph.consts[node.inputs[1]].astype(np.float64)).sum(axis=0) * x_max
    m = np.abs(node.attrs["m"].astype(np.float64))
    total = np.ceil(bound * m / 2.0 ** node.attrs["s"]) + 1
    if len(node.inputs) == 3:
        total += np.abs(graph.consts[node.inputs[2]].astype(np.float64))
    return _proved(Proof(node.name, int(bound.max()), int(total.max())))


def _proved(proof: Proof) -> Proof:
    if proof.accumulator > _ACC_MAX or proof.total > _ACC_MAX:
        raise QuantiseError(
            f"an accumulator can reach {max(proof.accumulator, proof.total)}, beyond 2^31",
            where=f"node {proof.node!r}",
            fix="scale the layer's weights down, or split it",
        )
    return proof
