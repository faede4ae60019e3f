"""What the values of a real step are made of and who reads them, scan bodies included.

A value of a scan's body is known by a *key*: the names of the scans around it and its own, with
slashes between. Inside a body, the elements of a value of the step are that value: a `Link` says
so, and all that follows movements follows links as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.graph import Graph, Node, State
from edgeseq.ir.ops import ELEMENTWISE, MOVEMENT

__all__ = ["CHOICES", "MOVES", "Held", "Link", "Site", "Structure"]

Array = npt.NDArray[Any]

MOVES = (MOVEMENT - {"concat"}) | {"clamp", "rescale"}
"""Operations with one input whose result has its format."""
CHOICES = frozenset({"concat", "select", "max", "min"})
"""Operations whose result is made of elements of several operands, in one format."""

_ARITHMETIC = frozenset({"add", "sub", "mul"})
_PLAIN = (ELEMENTWISE | MOVEMENT) - {"lut", "wide", "compare"}
# What is read in proportion to itself: sums and choices keep the proportions of their operands.
_PROPORTIONAL = MOVEMENT | {"add", "mul", "max", "min", "select", "clamp", "rescale"}


@dataclass(frozen=True)
class Site:
    """A node and the Graph it stands in.

    Attributes:
        node: the node.
        graph: the step, or a body.
        path: what comes before the names of its values in their keys.
    """

    node: Node
    graph: Graph
    path: str

    @property
    def op(self) -> str:
        return self.node.op

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.path + v for v in self.node.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.path + v for v in self.node.outputs)

    @property
    def name(self) -> str:
        """Of the node, with the scans around it."""
        return self.path + self.node.name


@dataclass(frozen=True)
class Link:
    """One value under two keys: outside and inside a scan."""

    source: str
    target: str


@dataclass(frozen=True)
class Held:
    """A state by the keys of its values; `start` holds it before a scan's first round."""

    input: str
    output: str
    state: State
    start: str | None = None


class Structure:
    """The values of `step` and of the bodies of its scans.

    Attributes:
        order: nodes (scans left out) and links, every value defined before it is read.
        readers: (node, number of the operand) by key.
        maker: the node that makes a value.
        consts: arrays of constants by key.
        states: of the step and of all bodies.
        source: by key, the value of which it is a movement; a state's value before the step is one
            of that after it.
        outputs: keys of the step's outputs.
        integrator: values on a path of element-wise arithmetic from a state to itself, and the key
            of that state's value.
    """

    def __init__(self, step: Graph) -> None:
        self.step = step
        self.order: list[Site | Link] = []
        self.readers: dict[str, list[tuple[Site, int]]] = defaultdict(list)
        self.maker: dict[str, Site] = {}
        self.consts: dict[str, Array] = {}
        self.states: list[Held] = []
        self.source: dict[str, str] = {}
        self.outputs = set(step.outputs)
        self.shape: dict[str, tuple[int, ...]] = {}
        self._starts: list[Link] = []
        self._enter(step, "", {})
        self._ahead, self._behind = self._edges(self._plain)
        self.integrator = dict(self._integrators())
        self._tabled = self._reach(self._table_inputs(), self._behind)
        _, back = self._edges(self._proportional)
        for held in self.states:
            back[held.input].append(held.output)
        read = [(site, key) for key, uses in self.readers.items() for site, _ in uses]
        wide = [(site.node.attrs["fn"], key) for site, key in read if site.op == "wide"]
        self._relative = self._reach((key for _, key in wide), back)
        for site, key in read:
            if site.op == "wide" and site.node.attrs["fn"] == "sqrt":
                back[site.outputs[0]].append(key)
        self._steep = self._reach((key for fn, key in wide if fn != "sqrt"), back)

    # -- building --------------------------------------------------------------------------

    def _enter(self, graph: Graph, path: str, starts: Mapping[str, str]) -> None:
        for name, t in graph.types.items():
            self.shape[path + name] = t.shape
        for name, array in graph.consts.items():
            self.consts[path + name] = array
        for s in graph.states:
            held = Held(path + s.input, path + s.output, s, starts.get(s.input))
            self.states.append(held)
            self.source[held.input] = held.output
            if held.start is not None:
                self._starts.append(Link(held.start, held.input))
        for node in graph.nodes:
            site = Site(node, graph, path)
            if node.op == "scan":
                self._enter_scan(site)
                continue
            self.order.append(site)
            for i, key in enumerate(site.inputs):
                self.readers[key].append((site, i))
            self.maker.update(dict.fromkeys(site.outputs, site))
            if node.op in MOVES:
                self.source[site.outputs[0]] = site.inputs[0]

    def _enter_scan(self, site: Site) -> None:
        body: Graph = site.node.attrs["body"]
        path, n = f"{site.name}/", len(body.inputs)
        for source, name in zip(site.inputs[:n], body.inputs, strict=True):
            self._link(source, path + name)
        starts = dict(zip((s.input for s in body.states), site.inputs[n:], strict=False))
        self._enter(body, path, starts)
        made = [*body.outputs, *(s.output for s in body.states)]
        for name, target in zip(made, site.outputs, strict=False):
            self._link(path + name, target)

    def _link(self, source: str, target: str) -> None:
        self.order.append(Link(source, target))
        self.source[target] = source

    # -- reading ---------------------------------------------------------------------------

    @property
    def sites(self) -> Iterator[Site]:
        return (item for item in self.order if isinstance(item, Site))

    @property
    def links(self) -> Iterator[Link]:
        return (item for item in self.order if isinstance(item, Link))

    def root(self, key: str) -> str:
        """The value that `key` is a movement of; of a state that never changes, one of its own."""
        seen = {key}
        while key in self.source:
            key = self.source[key]
            if key in seen:
                return min(seen)
            seen.add(key)
        return key

    def meets_table(self, key: str) -> bool:
        """True where a function of fixed domain reads the value or what is made of it."""
        return key in self._tabled

    def is_relative(self, key: str) -> bool:
        """True where small values of it matter in proportion: a logarithm or a root reads it."""
        return key in self._relative

    def is_steep(self, key: str) -> bool:
        """True where the smallest values of it matter most: a logarithm or a quotient reads it."""
        return key in self._steep

    # -- paths -----------------------------------------------------------------------------

    def _edges(
        self, reads: Callable[[Site], Iterable[str]]
    ) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Values made of a value, and values a value is made of.

        Args:
            reads: the inputs of a node from which an edge leads to its output.
        """
        ahead: dict[str, list[str]] = defaultdict(list)
        behind: dict[str, list[str]] = defaultdict(list)
        pairs = [(link.source, link.target) for link in (*self.links, *self._starts)]
        for site in self.sites:
            pairs += [(a, b) for a in reads(site) for b in site.outputs]
        for a, b in pairs:
            ahead[a].append(b)
            behind[b].append(a)
        return ahead, behind

    @staticmethod
    def _plain(site: Site) -> Iterable[str]:
        return site.inputs if site.op in _PLAIN else ()

    def _proportional(self, site: Site) -> Iterable[str]:
        if site.op == "linear":
            return site.inputs[:-1:2]
        if site.op == "mul" and not any(k in self.consts for k in site.inputs):
            return ()  # a factor of 16 bits spans the range of a product of 32
        return site.inputs if site.op in _PROPORTIONAL else ()

    @staticmethod
    def _reach(start: Iterable[str], edges: Mapping[str, list[str]]) -> set[str]:
        seen = set(start)
        stack = list(seen)
        while stack:
            for key in edges.get(stack.pop(), ()):
                if key not in seen:
                    seen.add(key)
                    stack.append(key)
        return seen

    def _table_inputs(self) -> Iterator[str]:
        for key, uses in self.readers.items():
            if any(_has_domain(site) or site.op == "softmax" for site, _ in uses):
                yield key

    def _integrators(self) -> Iterator[tuple[str, str]]:
        for held in self.states:
            if held.input == held.output:
                continue
            ahead = self._reach([held.input], self._ahead)
            if held.output not in ahead:
                continue
            path = ahead & self._reach([held.output], self._behind)
            # A ring of past frames only moves: nothing accumulates.
            if any(k in self.maker and self.maker[k].op in _ARITHMETIC for k in path):
                yield from ((k, held.input) for k in path)


def _has_domain(site: Site) -> bool:
    return site.op == "lut" and FUNCTIONS[site.node.attrs["fn"]].domain is not None
