"""Rewrites of a real step that keep what it computes and make its integer form better.

What is right in real numbers may lose more than it must in 16 bits: parts of very different range
in one vector, or the square of a value stored on the way to a sum of squares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph, Node
from edgeseq.quant.calibrate import Stats
from edgeseq.quant.structure import Structure

__all__ = ["prepare_step", "rewrite"]

Array = npt.NDArray[Any]
Relative = Callable[[str], bool]

_NORM = 1024  # elements that a `norm` takes in an integer Graph
_APART = 4.0  # ranges that differ by more than two bits keep scales of their own


def prepare_step(step: Graph) -> Graph:
    """The step with normalisations of more elements than the operation takes written out."""
    if not any(_too_long(g, n) for g, n in step.walk()):
        return step
    step = step.copy()
    for graph in {id(g): g for g, _ in step.walk()}.values():
        for node in [n for n in graph.nodes if _too_long(graph, n)]:
            _write_out(graph, node)
    return step


def _too_long(graph: Graph, node: Node) -> bool:
    return node.op == "norm" and not 2 <= graph.types[node.inputs[0]].shape[-1] <= _NORM


def _write_out(graph: Graph, node: Node) -> None:
    """``(x - mean) / sqrt(mean of squares + eps) * gamma + beta`` in operations of their own."""
    x, gamma, beta = node.inputs
    shape = graph.types[x].shape
    at, tail = graph.nodes.index(node), len(graph.nodes)
    mean = graph.add_const(f"{node.name}.mean", np.full((1, shape[-1]), 1.0 / shape[-1]))
    eps = graph.add_const(f"{node.name}.eps", np.array([node.attrs["eps"]]))
    steps = [int(np.prod(shape[i + 1 : -1])) for i in range(len(shape) - 1)]

    def make(op: str, *inputs: str, name: str, **attrs: Any) -> str:
        return graph.add_node(op, inputs, name=f"{node.name}.{name}", **attrs)

    def spread(value: str, name: str) -> str:
        return make("strided", value, name=name, shape=shape, strides=(*steps, 0), offset=0)

    centred = make("sub", x, spread(make("linear", x, mean, name="mean"), "mean.all"), name="rest")
    squares = make("linear", make("mul", centred, centred, name="square"), mean, name="power")
    root = make("wide", make("add", squares, eps, name="floor"), name="root", fn="rsqrt")
    unit = make("mul", centred, spread(root, "root.all"), name="unit")
    scaled = make("mul", unit, gamma, name="gain")
    new, graph.nodes[tail:] = graph.nodes[tail:], []
    node.op, node.inputs, node.attrs = "add", (scaled, beta), {}
    graph.nodes[at:at] = new


def rewrite(step: Graph, stats: dict[str, Stats]) -> tuple[Graph, dict[str, Stats]]:
    """The step and the ranges of its values after all rewrites; its outputs keep their names.

    Args:
        step: real step Graph.
        stats: from `calibrate`.
    """
    step, stats = step.copy(), dict(stats)
    relative = Structure(step).is_relative
    _each(step, "", stats, relative)
    return step, stats


def _each(graph: Graph, path: str, stats: dict[str, Stats], relative: Relative) -> None:
    for node in graph.nodes:
        if node.op == "scan":
            _each(node.attrs["body"], f"{path}{node.name}/", stats, relative)
    rewriter = _Rewriter(graph, path, stats)
    rewriter.roots()
    rewriter.products(relative)
    rewriter.concats()
    _drop(graph)


def _drop(graph: Graph) -> None:
    """Drop nodes that nothing reads; states and inputs stay, for a scan counts them."""
    live = {*graph.outputs, *(s.output for s in graph.states)}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs):
            kept.append(node)
            live.update(node.inputs)
    graph.nodes = kept[::-1]
    live.update(graph.inputs, (s.input for s in graph.states))
    live.update(v for n in graph.nodes for v in n.outputs)
    graph.consts = {k: v for k, v in graph.consts.items() if k in live}
    graph.types = {k: t for k, t in graph.types.items() if k in live}


class _Rewriter:
    def __init__(self, graph: Graph, path: str, stats: dict[str, Stats]) -> None:
        self.graph, self.path, self.stats = graph, path, stats
        self.maker = graph.producers()
        self.uses = graph.consumers()
        self.kept = {*graph.outputs, *(s.output for s in graph.states)}

    def _inner(self, value: str) -> bool:
        """True where one node alone reads the value."""
        return len(self.uses[value]) == 1 and value not in self.kept

    # -- 1 / sqrt(x) -----------------------------------------------------------------------

    def roots(self) -> None:
        """``reciprocal(sqrt(x))`` is ``rsqrt(x)``."""
        for node in self.graph.nodes:
            if node.op != "wide" or node.attrs["fn"] != "reciprocal":
                continue
            inner = self.maker.get(node.inputs[0])
            if inner is not None and inner.op == "wide" and inner.attrs["fn"] == "sqrt":
                node.inputs, node.attrs = inner.inputs, {"fn": "rsqrt"}

    # -- sums of products ------------------------------------------------------------------

    def products(self, relative: Relative) -> None:
        """``sum_k c a_k b_k`` of two values, where small sums matter, as a product of rows.

        Its accumulator has 64 bits, where every stored product would have 16 to the sum.
        """
        graph = self.graph
        for at, node in reversed(list(enumerate(graph.nodes))):
            if node.op != "linear" or not relative(self.path + node.outputs[0]):
                continue
            factor, product = self._uniform(node), self.maker.get(node.inputs[0])
            if factor is None or product is None or product.op != "mul":
                continue
            if any(v in graph.consts for v in product.inputs):
                continue
            shape = graph.types[node.inputs[0]].shape
            if any(graph.types[v].shape != shape for v in product.inputs):
                continue
            self._as_product(at, node, product, factor)

    def _uniform(self, node: Node) -> float | None:
        """c where the node computes c times the sum of its input."""
        if len(node.inputs) != 2:
            return None
        w = np.asarray(self.graph.consts[node.inputs[1]], np.float64)
        if w.shape[0] != 1 or np.ptp(w) != 0 or w.flat[0] <= 0:
            return None
        return float(w.flat[0])

    def _as_product(self, at: int, node: Node, product: Node, factor: float) -> None:
        graph, name = self.graph, node.name
        lead = graph.types[node.inputs[0]].shape
        tail = len(graph.nodes)
        rows = []
        for value in dict.fromkeys(product.inputs):
            shape = (*lead[:-1], 1, lead[-1])
            rows.append(graph.add_node("reshape", [value], name=f"{name}.row", shape=shape))
            self._known(rows[-1], self.stats[self.path + value].scaled(1.0))
        pair = rows if len(rows) == 2 else rows * 2
        total = graph.add_node("matmul", pair, name=f"{name}.product")
        made = self.stats[self.path + node.outputs[0]]
        self._known(total, made.scaled(1.0 / factor))
        last = graph.add_node("reshape", [total], name=f"{name}.sum", shape=(*lead[:-1], 1))
        self._known(last, self.stats[self.path + total])
        weight = graph.add_const(f"{name}.factor", np.array([factor]))
        new, graph.nodes[tail:] = graph.nodes[tail:], []
        node.op, node.inputs, node.attrs = "mul", (last, weight), {}
        graph.nodes[at:at] = new

    def _known(self, value: str, stats: Stats) -> None:
        self.stats[self.path + value] = stats

    # -- matrices that read several values -------------------------------------------------

    def concats(self) -> None:
        """``W [a, b]`` as ``Wa a + Wb b`` where a and b differ much in range."""
        graph = self.graph
        for node in graph.nodes:
            if node.op != "linear":
                continue
            groups: list[str] = []
            for g in range(len(node.inputs) // 2):
                x, w = node.inputs[2 * g : 2 * g + 2]
                groups += self._split(x, w)
            node.inputs = (*groups, *node.inputs[len(node.inputs) // 2 * 2 :])

    def _split(self, x: str, w: str) -> list[str]:
        concat = self.maker.get(x)
        if concat is None or concat.op != "concat" or x in self.kept:
            return [x, w]
        if any(n.op != "linear" for n in self.uses[x]):
            return [x, w]
        parts = concat.inputs
        if any(v in self.graph.consts for v in parts):
            return [x, w]
        tops = [self.stats[self.path + v].top for v in parts]
        if min(tops) * _APART >= max(tops):
            return [x, w]
        matrix, whole = self.graph.consts[w], self.stats[self.path + x]
        groups, start = [], 0
        for part in parts:
            stop = start + self.graph.types[part].shape[-1]
            key = self.path + part
            if self.stats[key].gram is None and whole.gram is not None:
                self.stats[key] = self.stats[key].with_gram(whole.gram[start:stop, start:stop])
            groups += [part, self.graph.add_const(w, matrix[:, start:stop])]
            start = stop
        return groups
