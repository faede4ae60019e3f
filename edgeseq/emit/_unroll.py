"""Loops inside a step, written out: file formats without a loop of their own need it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import UnsupportedError
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.types import Type

__all__ = ["MOST_NODES", "carried_values", "plain_name", "row_strides", "unroll_scans"]

Array = npt.NDArray[Any]

MOST_NODES = 20_000
"""Nodes beyond which a step is not written out: runtimes take minutes to load such a file."""

_CARRIED = "carried"


def unroll_scans(graph: Graph, *, longest: int | None = None, most: int = MOST_NODES) -> Graph:
    """`graph` with its scans replaced by copies of their bodies, one an element of axis 0.

    The copies share their constants. What reads constants only is evaluated. The states a body
    carries are in ``meta["carried"]`` of the result: value after an element to its bound, see
    `carried_values`. A node of a copy is called ``scan[element].node``.

    Args:
        graph: a step, real or integer; not changed.
        longest: a scan that would become more nodes than this stays one (its body is treated
            alike); None: all are written out.
        most: greatest number of nodes of the result.

    Raises:
        UnsupportedError: the result would have more than `most` nodes; names the scan that has
            the largest part.
    """
    _limit(graph, longest, most)
    return _Unrolled(graph, longest).graph


def carried_values(graph: Graph) -> Mapping[str, float | None]:
    """Values of an unrolled step that its scans carried, each with its bound (`State.bound`)."""
    found: Mapping[str, float | None] = graph.meta.get(_CARRIED, {})
    return found


def plain_name(name: str) -> str:
    """The name of an unrolled node without the elements it was copied for."""
    return re.sub(r"\[\d+\]", "", name)


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements from one index of each axis to the next, of an array stored row by row."""
    strides = [1]
    for d in reversed(shape[1:]):
        strides.append(strides[-1] * d)
    return tuple(reversed(strides)) if shape else ()


def _count(graph: Graph, longest: int | None) -> int:
    return sum(_size(graph, node, longest) for node in graph.nodes)


def _written_out(graph: Graph, scan: Node, longest: int | None) -> int:
    """Nodes that a scan becomes where it is written out."""
    body: Graph = scan.attrs["body"]
    times = graph.types[scan.inputs[0]].shape[0]
    ends = len(body.inputs) + len(body.outputs)
    return times * (_count(body, longest) + ends) + 2 * len(body.outputs)


def _stays(graph: Graph, node: Node, longest: int | None) -> bool:
    """Whether `node` is a scan that stays one."""
    if node.op != "scan" or longest is None:
        return False
    return _written_out(graph, node, longest) > longest


def _size(graph: Graph, node: Node, longest: int | None) -> int:
    """Nodes that `node` becomes."""
    if _stays(graph, node, longest):
        return 1 + _count(node.attrs["body"], longest)
    return _written_out(graph, node, longest) if node.op == "scan" else 1


def _limit(graph: Graph, longest: int | None, most: int) -> None:
    total = _count(graph, longest)
    if total <= most:
        return
    largest = max(graph.nodes, key=lambda node: _size(graph, node, longest))
    raise UnsupportedError(
        f"the step has {total} nodes with its loops written out, {most} are the most",
        where=f"graph {graph.name!r}, node {largest.name!r} ({largest.op})",
        fix="use the native artifact, which keeps loops, or loop over fewer elements",
    )


class _Unrolled:
    """Builds the result while it walks the nodes; what is constant is evaluated on the way."""

    def __init__(self, graph: Graph, longest: int | None) -> None:
        out = graph.copy()
        out.nodes = []
        self._longest = longest
        # Types of values that get other producers are declared again when they are made.
        self.graph = out
        self._taken = dict.fromkeys(graph.types, 2)
        self._shared: dict[tuple[int, str], str] = {}
        self._inits: dict[tuple[int, str], str] = {}
        self._bodies: list[Graph] = []  # keeps the ids above in use
        self._carried: dict[str, float | None] = {}
        names = {name: name for name in graph.types}
        self._walk(graph, graph.nodes, names, "", top=True)
        out.rename_uses({v: w for v, w in names.items() if v != w})
        _drop_unused(out)
        out.meta[_CARRIED] = {v: b for v, b in self._carried.items() if v in out.types}

    def _fresh(self, base: str) -> str:
        if base not in self._taken:
            self._taken[base] = 2
            return base
        i = self._taken[base]
        while f"{base}_{i}" in self._taken:
            i += 1
        self._taken[base], self._taken[f"{base}_{i}"] = i + 1, 2
        return f"{base}_{i}"

    def _walk(
        self,
        graph: Graph,
        nodes: Sequence[Node],
        names: dict[str, str],
        prefix: str,
        *,
        top: bool = False,
        suffix: str = "",
    ) -> None:
        """Append copies of `nodes`; `names` maps values of `graph` to those of the result."""
        for node in nodes:
            inputs = tuple(names[v] for v in node.inputs)
            if node.op == "scan" and not _stays(graph, node, self._longest):
                results = self._scan(graph, node, inputs, prefix)
                names.update(zip(node.outputs, results, strict=True))
                for v in {*node.outputs} & {*graph.outputs} if top else ():
                    self._keep_name(v, names)
                continue
            outputs = node.outputs
            if not top:
                outputs = tuple(self._fresh(f"{v}{suffix}") for v in node.outputs)
                names.update(zip(node.outputs, outputs, strict=True))
            types = [graph.types[v] for v in node.outputs]
            attrs = node.attrs
            if node.op == "scan":
                attrs = {**attrs, "body": _Unrolled(attrs["body"], self._longest).graph}
            self._node(Node(node.op, inputs, outputs, attrs, f"{prefix}{node.name}"), types)

    def _node(self, node: Node, types: Sequence[Type]) -> None:
        out = self.graph
        out.types.update(zip(node.outputs, types, strict=True))
        if node.op != "scan" and node.inputs and all(v in out.consts for v in node.inputs):
            value = _evaluate(out, node)
            if value is not None:
                out.consts[node.output] = value
                return
        out.nodes.append(node)

    def _keep_name(self, value: str, names: dict[str, str]) -> None:
        """Let an output of the step have the name it had, by a copy."""
        new = names[value]
        t = self.graph.types[new]
        attrs = {"shape": t.shape}
        self._node(Node("reshape", (new,), (value,), attrs, f"reshape {value}"), [t])
        names[value] = value

    def _add(self, op: str, inputs: Sequence[str], base: str, type: Type, **attrs: Any) -> str:
        name = self._fresh(base)
        self._node(Node(op, tuple(inputs), (name,), attrs, f"{op} {name}"), [type])
        return name

    def _const(
        self, table: dict[tuple[int, str], str], body: Graph, name: str, array: Array, type: Type
    ) -> str:
        """A constant of `body`, entered once however often the body is copied."""
        key = (id(body), name)
        if key not in table:
            self._bodies.append(body)
            table[key] = new = self._fresh(name)
            self.graph.types[new], self.graph.consts[new] = type, array
        return table[key]

    def _scan(self, graph: Graph, node: Node, inputs: tuple[str, ...], prefix: str) -> list[str]:
        body: Graph = node.attrs["body"]
        n = len(body.inputs)
        times = graph.types[node.inputs[0]].shape[0]
        consts = {
            v: self._const(self._shared, body, v, a, body.types[v]) for v, a in body.consts.items()
        }
        if len(inputs) > n:
            state = list(inputs[n:])
        else:
            state = [
                self._const(self._inits, body, s.name, s.init, body.types[s.input])
                for s in body.states
            ]
        ys: list[list[str]] = [[] for _ in body.outputs]
        order = range(times)
        for i in reversed(order) if node.attrs["reverse"] else order:
            names = dict(consts)
            names.update(zip((s.input for s in body.states), state, strict=True))
            for v, x in zip(body.inputs, inputs, strict=False):
                names[v] = self._element(x, body.types[v], i)
            self._walk(body, body.nodes, names, f"{prefix}{node.name}[{i}].", suffix=f".{i}")
            state = [names[s.output] for s in body.states]
            for s, v in zip(body.states, state, strict=True):
                self._carried.setdefault(v, s.bound)
            for y, v in zip(ys, body.outputs, strict=True):
                y.append(names[v])
        if node.attrs["reverse"]:
            ys = [y[::-1] for y in ys]
        out = [self._stack(y, graph.types[v]) for y, v in zip(ys, node.outputs, strict=False)]
        return out + (state if len(inputs) > n else [])

    def _element(self, x: str, type: Type, i: int) -> str:
        where = {"strides": row_strides(type.shape), "offset": i * type.size}
        return self._add("strided", [x], f"{x}.{i}", type, shape=type.shape, **where)

    def _stack(self, parts: Sequence[str], type: Type) -> str:
        """Values joined along a new axis 0."""
        size = type.size // len(parts)
        flat = [
            v
            if self.graph.types[v].shape == (size,)
            else self._add("reshape", [v], f"{v}.flat", self._flat(v, size), shape=(size,))
            for v in parts
        ]
        # The type of a part, not of the scan: a batch of parts shares the format of the first.
        row = self._flat(flat[0], size * len(parts))
        joined = self._add("concat", flat, "stack", row) if len(flat) > 1 else flat[0]
        if type.shape == row.shape:
            return joined
        full = Type(type.shape, row.dtype, row.scale)
        return self._add("reshape", [joined], "stacked", full, shape=type.shape)

    def _flat(self, value: str, size: int) -> Type:
        t = self.graph.types[value]
        return Type((size,), t.dtype, t.scale)


def _drop_unused(graph: Graph) -> None:
    """Drop nodes and constants that no output and no state depends on; every state is kept."""
    live = {*graph.outputs, *(s.output for s in graph.states)}
    nodes = []
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs):
            live.update(node.inputs, node.outputs)
            nodes.append(node)
    graph.nodes = nodes[::-1]
    live.update(graph.inputs, (s.input for s in graph.states))
    graph.consts = {v: a for v, a in graph.consts.items() if v in live}
    graph.types = {v: t for v, t in graph.types.items() if v in live}


def _evaluate(graph: Graph, node: Node) -> Array | None:
    """What `node` makes of constants; None where it is not finite."""
    part = Graph("constant", graph.types, outputs=[node.output])
    part.consts = {v: graph.consts[v] for v in node.inputs}
    part.nodes = [node]
    with np.errstate(all="ignore"):
        value = Interpreter(part)()[0][0]  # of a batch of one
    t = graph.types[node.output]
    if not t.is_integer and not np.all(np.isfinite(value)):
        return None
    return np.ascontiguousarray(value, t.numpy)
