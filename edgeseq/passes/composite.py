"""Recognise what an exporter took apart: layer normalisation, and x * sigmoid(x).

A file from TensorFlow holds the arithmetic of a layer normalisation, not its name. Taken together
it is one operation whose integer form needs no format for a mean square or a reciprocal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph, Node

__all__ = ["fuse_composites"]

Array = npt.NDArray[Any]

_GATED = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}
"""f(x) = x * g(x), by g."""

_LONGEST = 4
"""Terms or factors among which a normalisation is looked for."""


def fuse_composites(graph: Graph) -> Graph:
    """`graph` with decomposed layer normalisations as `norm`, and x * sigmoid(x) as one `lut`.

    A normalisation over the last axis of x, of 2 or more elements, is one of

        (x - mean) * r * gain          x * r * gain - mean * r * gain + bias

    where mean is a `linear` with rows of 1/n, r is rsqrt(var + eps) or reciprocal(sqrt(var + eps)),
    and var is the mean of (x - mean)^2. Gain and bias are constants or left out; a bias after the
    first form is folded into the `norm` by `fuse_affine`.
    """
    graph = graph.copy()
    for node in graph.nodes:
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            node.attrs["body"] = fuse_composites(body)
    if graph.is_integer and graph.nodes:
        return graph
    match = _Match(graph)
    for i, node in enumerate(graph.nodes):
        if node.op in ("mul", "add", "sub"):
            found = match.norm(node)
            if found is not None:
                x, gain, bias, eps = found
                g = graph.add_const(f"{node.name}.gain", gain)
                b = graph.add_const(f"{node.name}.bias", bias)
                graph.nodes[i] = Node("norm", (x, g, b), node.outputs, {"eps": eps}, node.name)
                match.made[node.output] = graph.nodes[i]
                continue
        if node.op == "mul":
            _gate(graph, node, match.made)
    graph.prune()
    return graph


def _gate(graph: Graph, node: Node, made: Mapping[str, Node]) -> None:
    for x, y in (node.inputs, node.inputs[::-1]):
        gate = made.get(y)
        if gate is None or gate.op != "lut" or gate.inputs[0] != x:
            continue
        fn = _GATED.get(gate.attrs["fn"])
        readers = sum(n.inputs.count(y) for n in graph.nodes)
        if fn is not None and readers == 1 and y not in graph.outputs:
            node.op, node.inputs, node.attrs = "lut", (x,), {"fn": fn}
            return


class _Match:
    """Reads values of a Graph as parts of a normalisation."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.made = graph, graph.producers()

    def norm(self, node: Node) -> tuple[str, Array, Array, float] | None:
        """(x, gain [n], bias [n], eps) where `node` is the last of a layer normalisation."""
        shape = self.graph.types[node.output].shape
        if not shape or shape[-1] < 2:
            return None
        found = self._found(node, shape[-1])
        return found if found is None or self.graph.types[found[0]].shape == shape else None

    def _found(self, node: Node, n: int) -> tuple[str, Array, Array, float] | None:
        constant, products = np.zeros(n), []
        for sign, term in self._terms(node.output):
            array = self._constant(term, n)
            if array is not None:
                constant = constant + sign * array
                continue
            gain, parts = np.full(n, float(sign)), []
            for factor in self._factors(term):
                array = self._constant(factor, n)
                if array is None:
                    parts.append(factor)
                else:
                    gain = gain * array
            products.append((gain, parts))
        if any(len(parts) != 2 for _, parts in products):
            return None
        if node.op == "mul" and len(products) == 1 and not np.any(constant):
            return self._centred(*products[0], constant)
        if node.op != "mul" and len(products) == 2:
            return self._expanded(products, constant)
        return None

    def _centred(
        self, gain: Array, parts: list[str], bias: Array
    ) -> tuple[str, Array, Array, float] | None:
        for centred, scale in (parts, parts[::-1]):
            x = self._centre(centred)
            eps = None if x is None else self._scale(scale, x)
            if x is not None and eps is not None:
                return x, gain, bias, eps
        return None

    def _expanded(
        self, products: list[tuple[Array, list[str]]], bias: Array
    ) -> tuple[str, Array, Array, float] | None:
        for (gain, parts), (other, rest) in (products, products[::-1]):
            for x, scale in (parts, parts[::-1]):
                eps = self._scale(scale, x)
                if eps is None or not np.array_equal(gain, -other):
                    continue
                for mean, again in (rest, rest[::-1]):
                    if self._mean(mean) == x and self._scale(again, x) == eps:
                        return x, gain, bias, eps
        return None

    # -- parts -----------------------------------------------------------------------------

    def _terms(self, value: str) -> list[tuple[int, str]]:
        """The terms of a sum and their signs; the sum itself where there are too many."""
        terms = [(1, value)]
        while True:
            for i, (sign, v) in enumerate(terms):
                node = self.made.get(v)
                if node is not None and node.op in ("add", "sub"):
                    a, b = node.inputs
                    terms[i : i + 1] = [(sign, a), (sign if node.op == "add" else -sign, b)]
                    break
            else:
                return terms
            if len(terms) > _LONGEST:
                return [(1, value)]

    def _factors(self, value: str) -> list[str]:
        """The factors of a product; the product itself where there are too many."""
        factors = [value]
        while True:
            for i, v in enumerate(factors):
                node = self.made.get(self._spread(v))
                if node is not None and node.op == "mul" and node.inputs[0] != node.inputs[1]:
                    factors[i : i + 1] = node.inputs
                    break
            else:
                return factors
            if len(factors) > _LONGEST:
                return [value]

    def _constant(self, value: str, n: int) -> Array | None:
        """A constant that is one number, or one per element of the last axis: float64 [n]."""
        array = self.graph.consts.get(value)
        if array is None or array.size not in (1, n):
            return None
        if array.size != 1 and array.shape[-1] != n:
            return None
        return np.broadcast_to(array.reshape(-1).astype(np.float64), (n,))

    def _spread(self, value: str) -> str:
        """The value of which `value` repeats each element along the last axis, or `value`."""
        while True:
            node = self.made.get(value)
            if node is None or node.op not in ("reshape", "strided"):
                return value
            x, out = (self.graph.types[v].shape for v in (node.inputs[0], value))
            rows = math.prod(x)
            if node.op == "strided":
                if not out or math.prod(out) % rows or node.attrs["offset"]:
                    return value
                index = np.zeros((), np.int64)
                for d, s in zip(node.attrs["shape"], node.attrs["strides"], strict=True):
                    index = index[..., None] + np.arange(d) * s
                want = np.repeat(np.arange(rows), index.size // rows)
                if not np.array_equal(index.reshape(-1), want):
                    return value
            elif not (x[-1:] == (1,) or out[-1:] == (1,)):
                return value
            value = node.inputs[0]

    def _mean_of(self, value: str) -> tuple[str, float] | None:
        """(x, offset) where `value` is the mean over the last axis of x, plus a number."""
        node = self.made.get(self._spread(value))
        if node is None or node.op != "linear" or len(node.inputs) > 3:
            return None
        x, w = node.inputs[:2]
        matrix, n = self.graph.consts.get(w), self.graph.types[x].shape[-1]
        if matrix is None or not np.allclose(matrix, 1.0 / n, rtol=1e-6, atol=0.0):
            return None
        if matrix.shape[0] not in (1, n):
            return None
        bias = self.graph.consts.get(node.inputs[2]) if len(node.inputs) == 3 else np.zeros(1)
        if bias is None or np.any(bias != bias[0]):
            return None
        return x, float(bias[0])

    def _by_row(self, value: str, x: str) -> bool:
        """Whether `value` broadcasts against x as one number per row of the last axis."""
        have, want = self.graph.types[value].shape, self.graph.types[x].shape
        return have in (want, (*want[:-1], 1))

    def _mean(self, value: str) -> str | None:
        """x where `value` is its mean over the last axis."""
        found = self._mean_of(value)
        if found is None or found[1] != 0.0 or not self._by_row(value, found[0]):
            return None
        return found[0]

    def _centre(self, value: str, *, negated: bool = False) -> str | None:
        """x where `value` is x less its mean; with `negated` also where it is the mean less x."""
        node = self.made.get(value)
        if node is None or node.op != "sub":
            return None
        for x, mean in (node.inputs, node.inputs[::-1])[: 2 if negated else 1]:
            if self._mean(mean) == x:
                return x
        return None

    def _scale(self, value: str, x: str) -> float | None:
        """eps where `value` is 1 / sqrt(variance of x + eps)."""
        node = self._wide(value)
        if (
            node is None
            or not self._by_row(value, x)
            or node.attrs["fn"] not in ("rsqrt", "reciprocal")
        ):
            return None
        if node.attrs["fn"] == "reciprocal":
            node = self._wide(node.inputs[0])
            if node is None or node.attrs["fn"] != "sqrt":
                return None
        eps, mean = 0.0, self._spread(node.inputs[0])
        added = self.made.get(mean)
        if added is not None and added.op == "add":
            for a, b in (added.inputs, added.inputs[::-1]):
                number = self._constant(b, 1)
                if number is not None:
                    eps, mean = float(number[0]), a
                    break
        found = self._mean_of(mean)
        if found is None or eps + found[1] < 0.0:
            return None
        square = self.made.get(found[0])
        if square is None or square.op != "mul" or square.inputs[0] != square.inputs[1]:
            return None
        centred = self._centre(square.inputs[0], negated=True)
        return eps + found[1] if centred == x else None

    def _wide(self, value: str) -> Node | None:
        node = self.made.get(self._spread(value))
        return node if node is not None and node.op == "wide" else None
