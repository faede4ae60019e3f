"""Matrix products: by stored weights, and of two values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._convolution import convolutions
from edgeseq.emit._numbers import NEAR_ONE, channel_scales, matmul_gain
from edgeseq.emit.tflite.forms import BITS, Form
from edgeseq.emit.tflite.linear import (
    column,
    conv_options,
    convolve,
    fully_connected,
    product_error,
    split_weights,
)
from edgeseq.emit.tflite.ranges import group_key, group_limits, low_key, row_scales
from edgeseq.emit.tflite.values import Values
from edgeseq.emit.tflite.whole import ExactProducts, Group
from edgeseq.emit.tflite.writer import SubgraphWriter
from edgeseq.ir.graph import Graph, Node
from edgeseq.quant.calibrate import Stats

__all__ = ["Products"]

Array = npt.NDArray[Any]

#: Units of a result that its product may be off by, the Graph's rounding included, before its sum
#: is computed exactly. Before a gate more do not matter: its operator is off by more.
_MOST_OFF, _MOST_OFF_AT_GATE = 2.1, 6.0

_TOP = (1 << 31) - 1


@dataclass(frozen=True)
class _Part:
    """One of the TFLite products that make up a node.

    Attributes:
        group: index of the product in the node.
        w: int8 [O, K].
        rows: real value of one stored weight of each row [O].
        bias: real [O], or None.
        scale: wanted of the result.
    """

    group: int
    w: Array
    rows: Array
    bias: Array | None
    scale: float


class Products(Values):
    """Nodes that multiply and add up in the width of matrix products."""

    def __init__(
        self, graph: Graph, subgraph: SubgraphWriter, matrix: str, observed: Mapping[str, Stats]
    ) -> None:
        super().__init__(graph, subgraph, matrix, observed)
        self._whole = {
            n.output
            for n in graph.nodes
            if n.op in ("linear", "depthwise") and self._needs_all_bits(n)
        }
        self._convs, self._unused = convolutions(graph, without=self._precise | self._whole)
        self._exact_products = ExactProducts(self.tensors, self._exact)

    def _linear(self, node: Node) -> None:
        if node.output in self._whole:
            self._exact_linear(node)
            return
        parts = self._parts(node)
        sources = [self._fine(node, p.group, p.rows) for p in parts]
        self._sum(node, [self._product(node, x, p) for x, p in zip(sources, parts, strict=True)])

    def _depthwise(self, node: Node) -> None:
        if node.output in self._whole:
            self._exact_depthwise(node)
        else:
            self._linear(node)

    def _product(self, node: Node, x: Form, p: _Part) -> Form:
        """``W x + b`` of a part, of what it multiplies."""
        t, shape = self.tensors, self.graph.types[node.output].shape
        conv, depthwise = self._convs.get(node.output), node.op == "depthwise"
        if conv is None and not depthwise:
            return fully_connected(t, x, p.w, p.rows, p.bias, p.scale)
        if conv is None:
            conv = column(*x.shape[-2:])
            x = t.reshape(x, (*x.shape[:-2], *conv.image))
        else:
            x = t.reshape(x, conv.image)
        y = convolve(t, x, conv, p.w, p.rows, p.bias, p.scale, depthwise=depthwise)
        return t.reshape(y, shape)

    def _fine(self, node: Node, g: int, rows: Array) -> Form:
        """What group `g` of a product multiplies, in units small enough for the result's.

        A bias is stored in units of the product, input unit times weight unit, and no runtime
        gives a result finer than that. Of an input that uses few of its bits (a mask of ones) the
        spare ones are filled with zeros.
        """
        conv = self._convs.get(node.output)
        source = conv.source if conv else node.inputs[2 * g]
        x = self.operand(source)
        scale = self._fine_scale(node, source, x.dtype, x.scale, rows)
        return self.tensors.convert(x, x.dtype, scale)

    def _fine_scale(self, node: Node, x: str, dtype: str, scale: float, rows: Array) -> float:
        unit, wanted = scale * float(np.abs(rows).max()), self.scale(node.output, self.matrix)
        room = ((1 << (BITS[dtype] - 1)) - 1) / max(self._proved(x) / scale, 1.0)
        if unit <= wanted or room < 2.0:
            return scale
        bits = min(math.ceil(math.log2(unit / wanted)) + 1, math.floor(math.log2(room)))
        return scale * 2.0**-bits

    def _sum(self, node: Node, parts: Sequence[Form]) -> None:
        """Define the output as the sum of partial products."""
        if len(parts) > 2:  # small ones first: their sums are rounded less
            parts = sorted(parts, key=lambda p: p.scale)
        scales = self._sum_scales(node, [p.scale for p in parts])
        out = parts[0]
        for part, scale in zip(parts[1:], scales, strict=True):
            a, b = (self.tensors.cast(f, "int16") for f in (out, part))
            out = self.tensors.binary("ADD", a, b, "int16", scale)
        self.define(node.output, out)

    def _sum_scales(self, node: Node, parts: Sequence[float]) -> list[float]:
        """Scales of the sums of two, three, ... parts of ascending scales.

        Only the last may saturate: what the others add up to may be large and cancel out.
        """
        if len(parts) < 2:
            return []
        sums = np.cumsum(parts)[1:-1]
        last = max(self.scale(node.output, "int16"), parts[-1] * 2.0**-13)
        return [*(float(s) for s in sums), last]

    def _parts(self, node: Node) -> list[_Part]:
        """The products that make up a `linear` or `depthwise` node.

        16-bit weights become two, of their high and low bytes; where matrix products give 8 bits
        the low bytes would be lost in the rounding and are left out.
        """
        names = [node.inputs[1]] if node.op == "depthwise" else node.inputs[1::2]
        weights = [self._const(node, name) for name in names]
        if node.op == "depthwise":
            weights, scales = [weights[0].T], [channel_scales(self.graph, node)]
        else:
            scales = [row_scales(self.graph, name) for name in names]
        bias = self._real_bias(node, len(node.inputs) % 2)
        finest = self._group_scales(node)
        top = (1 << (BITS[self.matrix] - 1)) - 1
        parts: list[_Part] = []
        for g, (w, rows, scale) in enumerate(zip(weights, scales, finest, strict=True)):
            if w.dtype == np.int8:
                parts.append(_Part(g, w, rows, bias, scale))
            else:
                high, low, base = split_weights(w)
                rest = 0.0
                if self.matrix == "int16" and np.any(low):
                    rest = self._reach(low, rows, node.inputs[2 * g])
                    rest = self._tighter(rest, low_key(node, g), self.matrix)
                # That with the high bytes is as large as all of it, up to that with the low ones.
                parts.append(_Part(g, high, rows * base, bias, scale + rest / top))
                if rest:
                    parts.append(_Part(g, low, rows, None, rest / top))
            bias = None
        return parts

    def _group_scales(self, node: Node) -> list[float]:
        """The scale that the range of each group's sum asks for."""
        top = (1 << (BITS[self.matrix] - 1)) - 1
        if node.op == "depthwise" or len(node.inputs) <= 3:
            return [self.scale(node.output, self.matrix)]
        proved = group_limits(self.graph, node, self._bounds)
        gate, reach = self._gate_limit(node.output), sum(proved)
        scales = []
        for g, most in enumerate(proved):
            limit = self._tighter(most, group_key(node, g), self.matrix)
            if gate is not None:  # a part may saturate where no other can bring the sum back
                limit = min(limit, gate + reach - most)
            scales.append(limit / top)
        return scales

    def _real_bias(self, node: Node, has: int) -> Array | None:
        if not has:
            return None
        name = node.inputs[-1]
        real: Array = self._const(node, name) * self.graph.types[name].scalar_scale
        return real

    def _reach(self, w: Array, rows: Array, x: str) -> float:
        """Largest real magnitude of a product of `x` with weights [O, K]."""
        return float((np.abs(w.astype(np.float64)).sum(1) * np.abs(rows)).max()) * self._proved(x)

    # -- exactly ---------------------------------------------------------------------------

    def _needs_all_bits(self, node: Node) -> bool:
        """Whether the sum of the parts would be too far off, and can be computed exactly."""
        if self.matrix == "int8" or node.output in self._precise:
            return False
        if any(w not in self.graph.consts for w in node.inputs[1::2]) or not self._fits(node):
            return False
        gate, t = self._gate_limit(node.output), self.graph.types[node.output]
        unit = self.scale(node.output, "int16")
        if t.dtype == "i8":  # what is rounded to 8 bits may be off by a little of their unit
            unit *= 16.0
        # The Graph rounds each product.
        off = self._off(node) + self._unit_of(node.output) * (len(node.inputs) // 2) / 2.0
        return off > unit * (_MOST_OFF if gate is None else _MOST_OFF_AT_GATE)

    def _fits(self, node: Node) -> bool:
        """Whether every sum of products, and their sum, is proved to fit 32 bits."""
        a = node.attrs
        axis, ms, ss = (0, [a["m"]], [a["s"]]) if node.op == "depthwise" else (1, a["m"], a["s"])
        bias = self._stored_bias(node)
        total = np.zeros(1) if bias is None else np.abs(bias.astype(np.float64))
        for g, (m, s) in enumerate(zip(ms, ss, strict=True)):
            x, w = node.inputs[2 * g : 2 * g + 2]
            most = np.abs(self.graph.consts[w].astype(np.float64)).sum(axis) * self._bounds[x]
            if most.max() > _TOP:
                return False
            total = total + np.ceil(most * np.abs(m.astype(np.float64)) / 2.0**s) + 1.0
        return bool(total.max() <= _TOP)

    def _off(self, node: Node) -> float:
        """How far the sum of the parts may be off; real."""
        off, scales = 0.0, []
        for p in self._parts(node):
            name = node.inputs[2 * p.group]
            x = self._fine_scale(node, name, "int16", self._unit_of(name), p.rows)
            scale, part = product_error(x, "int16", p.w, p.rows, p.bias, p.scale)
            off += part
            scales.append(scale)
        return off + sum(self._sum_scales(node, sorted(scales))) / 2.0

    def _unit_of(self, value: str) -> float:
        return self.graph.types[value].scalar_scale

    def _exact_linear(self, node: Node) -> None:
        shifts = zip(node.attrs["m"], node.attrs["s"], strict=True)
        groups = [
            Group(self._bytes_of(x), self._const(node, w), m, s)
            for x, w, (m, s) in zip(node.inputs[::2], node.inputs[1::2], shifts, strict=False)
        ]
        out = self._exact_products.linear(
            groups, self._stored_bias(node), self._unit_of(node.output)
        )
        self.define(node.output, self._saturated(node, out))

    def _exact_depthwise(self, node: Node) -> None:
        x, w = self._bytes_of(node.inputs[0]), self._const(node, node.inputs[1])
        m, s = node.attrs["m"], node.attrs["s"]
        out = self._exact_products.depthwise(
            x, w, m, s, self._stored_bias(node), self._unit_of(node.output)
        )
        self.define(node.output, self._saturated(node, out))

    def _bytes_of(self, value: str) -> Form:
        return self.tensors.batched(self.stored(value))

    def _stored_bias(self, node: Node) -> Array | None:
        return self._const(node, node.inputs[-1]) if len(node.inputs) % 2 else None

    def _matmul(self, node: Node) -> None:
        gain = matmul_gain(self.graph, node)
        if abs(gain - 1.0) > NEAR_ONE:
            self._float_matmul(node)
            return
        a, b = (self.operand(v) for v in node.inputs)
        scale = max(self.scale(node.output, self.matrix), a.scale * b.scale * 1.0001)
        self.define(node.output, self._batch_matmul(node, a, b, self.matrix, scale))

    def _batch_matmul(self, node: Node, a: Form, b: Form, dtype: str, scale: float) -> Form:
        """``a b^T`` over the last two axes, all before them joined."""
        t = self.tensors
        x, y = (t.rows(t.batched(f), 2) for f in (a, b))
        shape = (a.shape[-2], b.shape[-2])
        lead = a.shape[:-2]
        out = t.new(shape, dtype, scale, rows=int(np.prod(lead, dtype=np.int64)))
        out = t.apply("BATCH_MATMUL", [x, y], out)
        return t.reshape(out, (*lead, *shape)) if lead else out

    # -- in float32 ------------------------------------------------------------------------

    def _float_matmul(self, node: Node) -> None:
        self._note_float(node)
        a, b = (self.real(v) for v in node.inputs)
        out = self._batch_matmul(node, a, b, "float32", 1.0)
        gain = matmul_gain(self.graph, node)
        if abs(gain - 1.0) > NEAR_ONE:
            out = self.tensors.binary("MUL", out, self.tensors.floats([gain]), "float32")
        self._settle(node, out)

    def _float_linear(self, node: Node) -> None:
        xs = node.inputs[: len(node.inputs) // 2 * 2 : 2]
        if self._fits(node) and all(self._source(v).dtype != "float32" for v in xs):
            # All bits of the sum, and the weights as they are: a quarter of float32's bytes.
            self._exact_linear(node)
            return
        self._note_float(node)
        t, unit = self.tensors, self.graph.types[node.output].scalar_scale
        bias = self._real_bias(node, len(node.inputs) % 2)
        total: Form | None = None
        for g, (m, s) in enumerate(zip(node.attrs["m"], node.attrs["s"], strict=True)):
            x, name = node.inputs[2 * g : 2 * g + 2]
            rows = m / 2.0**s * unit / self.graph.types[x].scalar_scale
            weights = self._const(node, name) * rows[:, None]
            inputs: list[Form | int] = [t.rows(t.batched(self.real(x)), 1), t.floats(weights)]
            inputs.append(-1 if bias is None else t.floats(bias))
            bias = None
            shape = self.graph.types[node.output].shape
            lead = int(np.prod(shape[:-1], dtype=np.int64))
            out = t.new(shape[-1:], "float32", rows=lead)
            # Version 6 is the first that may lack a bias.
            part = t.apply("FULLY_CONNECTED", inputs, out, version=6 if -1 in inputs else 1)
            total = part if total is None else t.binary("ADD", total, part, "float32")
        assert total is not None
        self._settle(node, total if len(shape) == 1 else t.reshape(total, shape))

    def _float_depthwise(self, node: Node) -> None:
        self._note_float(node)
        t, x = self.tensors, self.tensors.batched(self.real(node.inputs[0]))
        k, channels = x.shape[-2:]
        weights = self._const(node, node.inputs[1]) * channel_scales(self.graph, node)
        bias = self._real_bias(node, len(node.inputs) == 3)
        inputs = [
            t.reshape(x, (k, 1, channels)),
            t.floats(weights.reshape(1, k, 1, channels)),
            t.floats(np.zeros(channels) if bias is None else bias),
        ]
        lead = int(np.prod(x.shape[:-2], dtype=np.int64))
        out = t.new((1, 1, channels), "float32", rows=lead)
        options = conv_options(column(k, channels), depthwise=True)
        out = t.apply("DEPTHWISE_CONV_2D", inputs, out, options=options)
        self._settle(node, t.reshape(out, (*x.shape[:-2], channels)))
