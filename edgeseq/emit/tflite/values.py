"""The values of a step as TFLite stores them: in which forms, with which scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._convolution import convolutions
from edgeseq.emit._unroll import carried_values, plain_name
from edgeseq.emit.tflite.exact import ExactMath
from edgeseq.emit.tflite.forms import BITS, Form, Tensors, off_power_of_two
from edgeseq.emit.tflite.ranges import NATIVE, bounds
from edgeseq.emit.tflite.writer import SubgraphWriter
from edgeseq.errors import UnsupportedError
from edgeseq.fixed import INT_RANGE, multiplier
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.ops import ELEMENTWISE, MOVEMENT
from edgeseq.quant.calibrate import Stats, clip_range

__all__ = ["DTYPE", "Values"]

Array = npt.NDArray[Any]

DTYPE = {"i8": "int8", "i16": "int16", "i32": "int32"}
"""Name of each element type of the Graph in TFLite."""

#: Room over the largest magnitude seen in calibration, for a 16-bit form.
_MARGIN = 1.25

_PRODUCTS = frozenset({"linear", "depthwise", "matmul"})


class Values:
    """Forms of the values of `graph`, made when something first asks for them.

    Args:
        graph: an integer step without loops.
        subgraph: where to write.
        matrix: 'int16' or 'int8', width of what matrix products take and give.
        observed: magnitudes seen in calibration (`edgeseq.emit.tflite.ranges.observe`); without
            them the proved bounds are taken, which are wide.

    Attributes:
        float_nodes: names of the nodes computed in float32.
    """

    def __init__(
        self, graph: Graph, subgraph: SubgraphWriter, matrix: str, observed: Mapping[str, Stats]
    ) -> None:
        self.graph, self.matrix, self.observed = graph, matrix, observed
        self.tensors = Tensors(subgraph)
        self.float_nodes: list[str] = []
        self._exact = ExactMath(self.tensors)
        self._bounds = bounds(graph)
        self._uses = graph.consumers()
        self._wide = self._find_wide()
        self._precise = self._find_precise()
        self._convs, self._unused = convolutions(graph, without=self._precise)
        self._best: dict[str, Form] = {}
        self._made: dict[tuple[str, str, float], Form] = {}
        self._truth: dict[str, Form] = {}
        self._gates: dict[str, float | None] = {}
        for node in reversed(graph.nodes):  # users first, so that none waits for another
            self._gate_limit(node.output)

    # -- forms of values -------------------------------------------------------------------

    def define(self, value: str, form: Form) -> None:
        """Declare the most precise form of `value`; an 8-bit one is rounded as the Graph does."""
        t = self.graph.types[value]
        if t.dtype == "i8" and form.dtype in ("int16", "int32", "float32"):
            form = self.tensors.convert(form, "int8", t.scalar_scale)
        self._best[value] = form

    def form(self, value: str, dtype: str, scale: float) -> Form:
        """`value` with the given width and scale, made on first use."""
        key = (value, dtype, scale)
        if key not in self._made:
            source = self._source(value)
            if (source.dtype, dtype) == ("int32", "int32") and source.scale != scale:
                # QUANTIZE makes no int32 of an int32.
                m, s = multiplier(np.array([source.scale / scale]))
                self._made[key] = self._exact.rescale(source, m, s, scale, 1 << 31)
            else:
                self._made[key] = self.tensors.convert(source, dtype, scale)
        return self._made[key]

    def _source(self, value: str) -> Form:
        if value not in self._best:
            t = self.graph.types[value]
            if value in self._truth:
                self.define(value, self.tensors.cast(self._truth[value], DTYPE[t.dtype]))
            else:
                self.define(value, self.tensors.constant(self.graph.consts[value], t.scalar_scale))
        return self._best[value]

    def narrow(self, value: str) -> Form:
        """A 16-bit form for element-wise arithmetic."""
        source = self._source(value)
        if source.dtype == "int16":
            return source
        if source.dtype == "int8":
            return self.form(value, "int16", source.scale)
        return self.form(value, "int16", self.scale(value, "int16"))

    def operand(self, value: str) -> Form:
        """The form a matrix product reads."""
        source = self._source(value)
        if source.dtype == self.matrix:
            found = source
        elif (source.dtype, self.matrix) == ("int8", "int16"):
            found = self.narrow(value)
        else:
            found = self.form(value, self.matrix, self.scale(value, self.matrix))
        return self.tensors.batched(found)

    def stored(self, value: str) -> Form:
        """`value` in the Graph's own width and scale."""
        t = self.graph.types[value]
        return self.form(value, DTYPE[t.dtype], t.scalar_scale)

    def real(self, value: str) -> Form:
        """`value` as float32."""
        return self.form(value, "float32", 1.0)

    def truth(self, value: str) -> Form:
        """A bool that is true where `value` is not 0."""
        if value not in self._truth:
            t = self.tensors
            if value in self.graph.consts:
                found = t.constant(self.graph.consts[value] != 0)
            else:
                number = self._integer(value)
                zero = t.constant(np.zeros(1, np.int32), number.scale)
                found = t.binary("NOT_EQUAL", number, zero, "bool")
            self._truth[value] = found
        return self._truth[value]

    def _integer(self, value: str) -> Form:
        """`value` as int32 in the Graph's units."""
        scale = self.graph.types[value].scalar_scale
        source = self._source(value)
        if source.dtype == "int32" and source.scale != scale:
            # Over the width the Graph stores.
            return self.tensors.cast(self.stored(value), "int32")
        return self.form(value, "int32", scale)

    def alike(self, values: Iterable[str], out: str) -> list[Form]:
        """Forms of one width and scale, of operands that share the format of value `out`."""
        values = list(values)
        if out in self._wide:
            return [self._integer(v) for v in values]
        t = self.graph.types[out]
        sources = [self._source(v) for v in values]
        if len({(s.dtype, s.scale) for s in sources}) == 1:
            return sources
        if t.dtype != "i32":
            return [self.stored(v) for v in values]
        if any(s.dtype == "float32" for s in sources):
            return [self.real(v) for v in values]
        scale = self.scale(out, "int16")
        return [self.form(v, "int16", scale) for v in values]

    # -- scales ----------------------------------------------------------------------------

    def scale(self, value: str, dtype: str) -> float:
        """The scale of a narrow form of `value`: the Graph's where it has one, else by range."""
        t = self.graph.types[value]
        if DTYPE[t.dtype] == dtype:
            return t.scalar_scale
        if t.dtype == "i8":  # the same range on more levels
            return t.scalar_scale * 2.0 ** (8 - BITS[dtype])
        limit = self._limit(value, dtype)
        if t.dtype == "i16":
            limit = min(limit, t.scalar_scale * 2.0**15)
        gate = self._gate_limit(value)
        if gate is not None:
            limit = min(limit, gate)
        scale = limit / ((1 << (BITS[dtype] - 1)) - 1)
        return scale if gate is None else off_power_of_two(scale)

    def _limit(self, value: str, dtype: str) -> float:
        return self._tighter(self._proved(value), value, dtype)

    def _tighter(self, proved: float, key: str, dtype: str) -> float:
        seen = self.observed.get(key)
        if seen is None or seen.top == 0.0:
            return max(proved, 1e-9)
        # 16 bits have room to spare; of 8 bits every one counts, and rare peaks may saturate
        # where they only feed gates.
        if dtype == "int16" or key in self.graph.outputs:
            return min(proved, seen.top * _MARGIN)
        return min(proved, clip_range(seen, "mse") if seen.sampled else seen.top)

    def _gate_limit(self, value: str) -> float | None:
        """The range of `value` that matters where it ends in LOGISTIC and TANH only.

        On the way there it may be moved, and added to something: a sum is beyond the range that
        matters if one operand is further beyond it than the other reaches.
        """
        if value not in self._gates:
            self._gates[value] = self._find_gate_limit(value)
        return self._gates[value]

    def _find_gate_limit(self, value: str) -> float | None:
        if value in self.graph.outputs or any(value == s.output for s in self.graph.states):
            return None
        limits = [self._use_limit(value, n) for n in self._uses[value]]
        known = [v for v in limits if v is not None]
        return max(known) if known and len(known) == len(limits) else None

    def _use_limit(self, value: str, node: Node) -> float | None:
        if node.op == "lut" and node.attrs["fn"] in NATIVE:
            return NATIVE[node.attrs["fn"]][1]
        if node.op in ("slice", "reshape", "strided"):
            return self._gate_limit(node.output)
        if node.op == "add" and node.output not in self._wide:
            limit = self._gate_limit(node.output)
            reach = [self._proved(v) for v in node.inputs if v != value]
            return limit + reach[0] if limit is not None and len(reach) == 1 else None
        return None

    def _proved(self, value: str) -> float:
        """Largest real magnitude of `value`, for all inputs."""
        return self._bounds[value] * self.graph.types[value].scalar_scale

    # -- which values need more than 16 bits -----------------------------------------------

    def _find_wide(self) -> set[str]:
        """The 32-bit values on the way to a 32-bit state: they keep all their bits, exactly.

        So do those that are compared or decide: what is equal in the Graph must be equal here.
        """
        types = self.graph.types
        kept = {s.output for s in self.graph.states} | set(carried_values(self.graph))
        wide = {v for v in kept if types[v].dtype == "i32"}
        for node in reversed(self.graph.nodes):
            leads = node.op in (ELEMENTWISE | MOVEMENT) - {"wide"} and node.output in wide
            asks = {"compare": node.inputs, "select": node.inputs[:1]}.get(node.op, ())
            reads = node.inputs if leads else asks
            wide.update(v for v in reads if types[v].dtype == "i32")
        return wide | {s.input for s in self.graph.states if types[s.input].dtype == "i32"}

    def _find_precise(self) -> set[str]:
        """The 32-bit values that float32 holds better than 16 bits do.

        They end in a function of large dynamic range, where small values count as much as large
        ones, or in a softmax, to which large negative numbers may be added as a mask. A product
        that ends in a softmax is none of them: its range is that of what was multiplied.
        """
        long = {v for v, t in self.graph.types.items() if t.dtype == "i32"} - {*self.graph.consts}
        long |= self._halves(long)
        found: set[str] = set()
        ranged: set[str] = set()  # those that end in a wide function
        for node in reversed(self.graph.nodes):
            operands = long.intersection(node.inputs)
            if node.op == "wide" or (
                node.output in ranged and node.op in ELEMENTWISE | MOVEMENT | _PRODUCTS
            ):
                ranged |= operands
            elif node.op == "softmax" or (
                node.output in found and node.op in ELEMENTWISE | MOVEMENT
            ):
                found |= operands
        products = {n.output for n in self.graph.nodes if n.op in _PRODUCTS}
        return (ranged | (found - products)) - self._wide

    def _halves(self, long: set[str]) -> set[str]:
        """The 16-bit parts of 32-bit values that are read in two: what is rounded, and the rest."""
        types, high, found = self.graph.types, dict[str, str](), set[str]()
        for node in self.graph.nodes:
            if types[node.output].dtype != "i16" or node.inputs[0] not in long:
                continue
            if node.op == "rescale":
                high[node.output] = node.inputs[0]
            elif node.op == "add" and high.get(node.inputs[1]) == node.inputs[0]:
                found |= {node.output, node.inputs[1]}
        return found

    def delicate(self) -> set[str]:
        """Values on the way to an index, a comparison or a function of large dynamic range.

        There 8 bits in the place of 16 do not add noise, they change what is computed.
        """
        found: set[str] = set()
        for node in reversed(self.graph.nodes):
            moves = node.op in ELEMENTWISE | MOVEMENT and node.output in found
            if moves or node.op in ("embed", "compare", "wide"):
                found.update(node.inputs)
        return found

    # -- for the nodes ---------------------------------------------------------------------

    def _unsupported(self, node: Node, why: str) -> UnsupportedError:
        return UnsupportedError(
            f"{node.op} {why} has no TFLite form",
            where=f"TFLite, node {node.name!r}",
            fix="use the native or the ONNX artifact for this model",
        )

    def _const(self, node: Node, value: str) -> Array:
        if value not in self.graph.consts:
            raise self._unsupported(node, f"with a computed operand {value!r}")
        return self.graph.consts[value]

    def _note_float(self, node: Node) -> None:
        name = plain_name(node.name)
        if name not in self.float_nodes:
            self.float_nodes.append(name)

    def _saturated(self, node: Node, number: Form) -> Form:
        """An int32 in the units of a node's result, in the width of that."""
        t = self.graph.types[node.output]
        if t.dtype == "i32":
            return number
        return self.tensors.cast(self._exact.clamp(number, *INT_RANGE[t.dtype]), DTYPE[t.dtype])

    def _settle(self, node: Node, real: Form) -> None:
        """Define what a node computed in float32: in the Graph's format, if that is narrow."""
        t = self.graph.types[node.output]
        if t.dtype == "i32":
            self.define(node.output, real)
        else:
            self.define(node.output, self.tensors.convert(real, DTYPE[t.dtype], t.scalar_scale))
