"""Which integer format each value of a real step gets.

The rules follow what measurement showed: what a matrix product reads is narrow (16 or 8 bits),
pre-activations have 16 fractional bits, a state that adds to itself is wide (32 bits) with a
narrow view for the product, and gates are Q0.15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.ops import ELEMENTWISE, MOVEMENT
from edgeseq.ir.types import Type
from edgeseq.quant.calibrate import Stats, clip_range
from edgeseq.quant.options import QuantOptions

__all__ = ["CELL_FRACTION", "PRE_FRACTION", "UNIT_FRACTION", "Formats", "unit_type"]

PRE_FRACTION = 16
"""Fractional bits of a pre-activation (int32)."""
CELL_FRACTION = 20
"""Fractional bits of an unbounded accumulating state: Q11.20, saturating at 2048."""
UNIT_FRACTION = 30
"""Fractional bits of an accumulating state within [-1, 1] (int32)."""

_LOOK_THROUGH = MOVEMENT | {"clamp"}
_ARITHMETIC = frozenset({"add", "sub", "mul"})
_PLAIN = (ELEMENTWISE | MOVEMENT) - {"lut"}
_MOST_FRACTION = 40


def unit_type(shape: tuple[int, ...]) -> Type:
    """Q0.15: gates, tanh outputs."""
    return Type(shape, "i16", 2.0**-15)


@dataclass(frozen=True)
class Demand:
    """Who reads a value, seen through movements and clamps."""

    narrow: bool  # a matrix product, a norm, an output or a copied state
    matrix: bool  # a matrix product
    element: bool  # element-wise arithmetic or a table


class Formats:
    """Formats of the values of one real step.

    Args:
        step: the real step Graph.
        stats: ranges of its values.
        options: widths and method.
    """

    def __init__(self, step: Graph, stats: dict[str, Stats], options: QuantOptions) -> None:
        self.step, self.stats, self.options = step, stats, options
        self._uses = step.consumers()
        self._producers = step.producers()
        self._state_of = {s.input: s for s in step.states}
        self.integrator: dict[str, str] = {}  # value on an accumulating path -> state input
        for s in step.states:
            path = self._path(s.input, s.output)
            made_by = {self._producers[v].op for v in path if v in self._producers}
            if made_by & _ARITHMETIC:  # a ring of past frames only moves: nothing accumulates
                self.integrator.update(dict.fromkeys(path, s.input))
        self._movable = {s.output for s in step.states} | set(step.outputs)

    # -- structure -------------------------------------------------------------------------

    def _path(self, start: str, end: str) -> set[str]:
        """Values between `start` and `end` on element-wise arithmetic paths."""
        if start == end:
            return set()
        ahead = self._ahead(start)
        if end not in ahead:
            return set()
        behind = {end}
        for node in reversed(self.step.nodes):
            if node.op in _PLAIN and any(v in behind for v in node.outputs):
                behind.update(v for v in node.inputs if v in ahead)
        return (ahead & behind) | {start, end}

    def _ahead(self, start: str) -> set[str]:
        """What is made of `start` by element-wise arithmetic and movement alone."""
        ahead = {start}
        for node in self.step.nodes:
            if node.op in _PLAIN and any(v in ahead for v in node.inputs):
                ahead.update(node.outputs)
        return ahead

    def _meets_table(self, value: str) -> bool:
        """True where a function of fixed domain reads `value` or what is made of it."""
        return any(
            node.op == "lut" and FUNCTIONS[node.attrs["fn"]].domain is not None
            for v in self._ahead(value)
            for node in self._uses[v]
        )

    def demand(self, value: str) -> Demand:
        """Who reads `value`."""
        narrow = matrix = element = False
        stack, seen = [value], set()
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen.add(v)
            if v in self._movable and v not in self.integrator:
                narrow = True
            for node in self._uses[v]:
                if node.op in _LOOK_THROUGH:
                    stack.extend(node.outputs)
                    narrow = narrow or node.op == "concat"
                    # What a clamp cuts off would cost an 8-bit format bits: narrow after it.
                    element = element or node.op == "clamp"
                elif node.op == "linear":
                    narrow = matrix = True
                elif node.op == "norm" or (
                    node.op == "lut" and FUNCTIONS[node.attrs["fn"]].domain is None
                ):
                    narrow = element = True
                else:
                    element = True
        return Demand(narrow, matrix, element)

    # -- formats ---------------------------------------------------------------------------

    def state_type(self, value: str) -> Type:
        """Format of the state held by `value`, the same before and after the step."""
        s = self._state_of[value]
        shape = self.step.types[value].shape
        if value in self.integrator:
            return Type(shape, "i32", self._wide_scale(value, s.bound))
        producer = self._source(s.output)
        if producer is not None and producer.op == "lut":
            return self.lut_type(producer)
        if s.bound is not None:
            return Type(shape, "i16", s.bound * 2.0**-15)
        return self.narrow_type(s.output, 16)

    def _wide_scale(self, value: str, bound: float | None) -> float:
        if bound is not None:
            return 2.0 ** (math.ceil(math.log2(bound)) - UNIT_FRACTION)
        top = max(self.stats[v].top for v in (value, self._state_of[value].output))
        fraction = CELL_FRACTION
        if not self._meets_table(value):  # precise in proportion; a long run may go far beyond
            while top * 2.0 ** (fraction + 1) * 256.0 < 2.0**31 and fraction < _MOST_FRACTION:
                fraction += 1
        while top * 4.0 * 2.0**fraction >= 2.0**31:
            fraction -= 1
        return 2.0**-fraction

    def _source(self, value: str) -> Node | None:
        """The node that makes `value`, seen through movements."""
        node = self._producers.get(value)
        while node is not None and node.op in MOVEMENT and len(node.inputs) == 1:
            node = self._producers.get(node.inputs[0])
        return node

    def is_unit(self, value: str) -> bool:
        """True where `value` comes from a table whose image lies within [-1, 1]."""
        node = self._source(value)
        if node is None or node.op != "lut":
            return False
        image = FUNCTIONS[node.attrs["fn"]].image
        return image is not None and max(map(abs, image)) <= 1.0

    def lut_type(self, node: Node) -> Type:
        """Format of a table's output: Q0.15 where its image is within [-1, 1]."""
        shape = self.step.types[node.output].shape
        if self.is_unit(node.output):
            return unit_type(shape)
        return self.narrow_type(node.output, 16)

    def narrow_type(self, value: str, bits: int) -> Type:
        """The calibrated format of `value` with `bits` bits."""
        shape = self.step.types[value].shape
        stats = self._stats(value)
        if bits == 8:
            top = clip_range(stats, self.options.method)
            return Type(shape, "i8", top / 127.0)
        top = stats.top * self.options.margin
        return Type(shape, "i16", (top if top > 0 else 1.0) / 32767.0)

    def _stats(self, value: str) -> Stats:
        if value in self.step.consts:
            stats = Stats()
            stats.add(self.step.consts[value])
            return stats
        return self.stats[value]

    def view_bits(self) -> int:
        """Width of what a matrix product reads."""
        return self.options.activation_bits

    def arithmetic_type(self, node: Node, bound: float | None = None) -> Type:
        """Format of the result of linear, add, sub, mul or norm.

        Args:
            bound: for a linear, the greatest magnitude its sum can have, in real units.
        """
        value = node.output
        shape = self.step.types[value].shape
        if value in self.integrator:
            scale = self.state_type(self.integrator[value]).scalar_scale
            while self.stats[value].top >= 2.0**31 * scale:  # larger than the state itself
                scale *= 2.0
            return Type(shape, "i32", scale)
        demand = self.demand(value)
        carried = [s for s in self.step.states if s.output == value]
        if carried:
            return self.state_type(carried[0].input)
        if demand.narrow:
            only_matrix = demand.matrix and not demand.element and value not in self.step.outputs
            return self.narrow_type(value, self.view_bits() if only_matrix else 16)
        if node.op == "mul" and all(self.is_unit(v) for v in node.inputs):
            return Type(shape, "i32", 2.0**-30)
        fraction = PRE_FRACTION if self._meets_table(value) else _MOST_FRACTION
        top = max(self.stats[value].top * 4.0, bound or 0.0)
        while top * 2.0**fraction >= 2.0**31:
            fraction -= 1
        return Type(shape, "i32", 2.0**-fraction)
