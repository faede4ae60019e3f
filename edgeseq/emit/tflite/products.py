"""Matrix products: by stored weights, and of two values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._numbers import NEAR_ONE, channel_scales, matmul_gain
from edgeseq.emit.tflite.forms import BITS, Form
from edgeseq.emit.tflite.linear import (
    column,
    conv_options,
    convolve,
    fully_connected,
    split_weights,
)
from edgeseq.emit.tflite.ranges import group_key, group_limits, row_scales
from edgeseq.emit.tflite.values import Values
from edgeseq.ir.graph import Node

__all__ = ["Products"]

Array = npt.NDArray[Any]

_Group = tuple[Form, Array, Array, Array | None, str, float]


class Products(Values):
    """Nodes that multiply and add up in the width of matrix products."""

    def _linear(self, node: Node) -> None:
        groups = self._groups(node)
        total = self.scale(node.output, self.matrix)
        gate, reach = self._gate_limit(node.output), sum(g[-1] for g in groups)
        parts = []
        for x, w, rows, bias, key, proved in groups:
            scale = total
            if len(groups) > 1:
                limit = self._tighter(proved, key, self.matrix)
                if gate is not None:  # a part may saturate where no other can bring the sum back
                    limit = min(limit, gate + reach - proved)
                scale = limit / ((1 << (BITS[self.matrix] - 1)) - 1)
            parts.append(self._product(node, x, w, rows, bias, scale))
        self._sum(node, parts)

    def _product(
        self, node: Node, x: Form, w: Array, rows: Array, bias: Array | None, scale: float
    ) -> Form:
        """``W x + b`` of a `linear` or `depthwise` node; arguments as of `convolve`."""
        t, shape = self.tensors, self.graph.types[node.output].shape
        conv, depthwise = self._convs.get(node.output), node.op == "depthwise"
        if conv is None and not depthwise:
            return fully_connected(t, x, w, rows, bias, scale)
        if conv is None:
            conv = column(*x.shape[-2:])
            x = t.reshape(x, (*x.shape[:-2], *conv.image))
        else:
            x = t.reshape(x, conv.image)
        return t.reshape(convolve(t, x, conv, w, rows, bias, scale, depthwise=depthwise), shape)

    def _fine(self, node: Node, g: int, rows: Array) -> Form:
        """What group `g` of a product multiplies, in units small enough for the result's.

        A bias is stored in units of the product, input unit times weight unit, and no runtime
        gives a result finer than that. Of an input that uses few of its bits (a mask of ones) the
        spare ones are filled with zeros.
        """
        conv = self._convs.get(node.output)
        source = conv.source if conv else node.inputs[2 * g]
        x = self.operand(source)
        unit, wanted = x.scale * float(np.abs(rows).max()), self.scale(node.output, self.matrix)
        top = self._proved(source) / x.scale
        room = ((1 << (BITS[x.dtype] - 1)) - 1) / max(top, 1.0)
        if unit <= wanted or room < 2.0:
            return x
        bits = min(math.ceil(math.log2(unit / wanted)) + 1, math.floor(math.log2(room)))
        return self.tensors.convert(x, x.dtype, x.scale * 2.0**-bits)

    def _sum(self, node: Node, parts: Sequence[Form]) -> None:
        """Define the output as the sum of partial products."""
        if len(parts) == 1:
            self.define(node.output, parts[0])
            return
        scale = max(self.scale(node.output, "int16"), max(p.scale for p in parts) * 2.0**-13)
        out = self.tensors.cast(parts[0], "int16")
        for part in parts[1:]:
            other = self.tensors.cast(part, "int16")
            out = self.tensors.binary("ADD", out, other, "int16", scale)
        self.define(node.output, out)

    def _groups(self, node: Node) -> list[_Group]:
        """(input, weights int8, row scales, real bias, range key, proved limit) of each product.

        16-bit weights become two products, of their high and low bytes; where matrix products
        give 8 bits the low bytes would be lost in the rounding and are left out.
        """
        for name in node.inputs[1::2]:
            self._const(node, name)
        bias = self._real_bias(node, len(node.inputs) % 2)
        proved = group_limits(self.graph, node, self._bounds)
        groups: list[_Group] = []
        for g in range(len(node.inputs) // 2):
            name = node.inputs[2 * g + 1]
            w, rows = self._const(node, name), row_scales(self.graph, name)
            if w.dtype == np.int8:
                x = self._fine(node, g, rows)
                groups.append((x, w, rows, bias, group_key(node, g), proved[g]))
            else:
                high, low, base = split_weights(w)
                x = self._fine(node, g, rows * base)
                groups.append((x, high, rows * base, bias, group_key(node, g), proved[g]))
                if self.matrix == "int16" and np.any(low):
                    top = self._reach(low, rows, node.inputs[2 * g])
                    groups.append((x, low, rows, None, "", top))
            bias = None
        return groups

    def _real_bias(self, node: Node, has: int) -> Array | None:
        if not has:
            return None
        name = node.inputs[-1]
        real: Array = self._const(node, name) * self.graph.types[name].scalar_scale
        return real

    def _reach(self, w: Array, rows: Array, x: str) -> float:
        """Largest real magnitude of a product of `x` with weights [O, K]."""
        return float((np.abs(w.astype(np.float64)).sum(1) * np.abs(rows)).max()) * self._proved(x)

    def _depthwise(self, node: Node) -> None:
        x, name = node.inputs[:2]
        w, rows = self._const(node, name).T, channel_scales(self.graph, node)
        bias = self._real_bias(node, len(node.inputs) == 3)
        scale = self.scale(node.output, self.matrix)
        if w.dtype == np.int8:
            source = self._fine(node, 0, rows)
            self.define(node.output, self._product(node, source, w, rows, bias, scale))
            return
        high, low, base = split_weights(w)
        source = self._fine(node, 0, rows * base)
        if self.matrix == "int8" or not np.any(low):
            form = self._product(node, source, high, rows * base, bias, scale)
            self.define(node.output, form)
            return
        # The product with the high bytes is as large as all of it, up to that with the low ones.
        rest = self._reach(low, rows, x)
        limits = (self._limit(node.output, "int16") + rest, rest)
        groups = ((high, rows * base, bias), (low, rows, None))
        parts = [
            self._product(node, source, *group, max(limit, 1e-9) / 32767.0)
            for group, limit in zip(groups, limits, strict=True)
        ]
        self._sum(node, parts)

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
