"""Operations that no integer operator of TFLite computes well enough: in float32."""

from __future__ import annotations

import numpy as np

from edgeseq.emit._numbers import softmax_gain, wide_terms
from edgeseq.emit.tflite.arith import Arithmetic
from edgeseq.emit.tflite.forms import Form
from edgeseq.ir.graph import Node

__all__ = ["Reals"]


class Reals(Arithmetic):
    """Layer normalisation, functions of large dynamic range, softmax of 32-bit values."""

    def _unary(self, kind: str, x: Form) -> Form:
        return self.tensors.apply(kind, [x], self.tensors.new(x.shape, "float32"))

    def _norm(self, node: Node) -> None:
        """Layer normalisation, computed in float32: no integer operator is accurate enough."""
        x, gain, bias = node.inputs
        t, tx = self.graph.types[node.output], self.graph.types[x]
        n = tx.shape[-1]
        gamma = self._const(node, gain) * (2.0**24 * t.scalar_scale / n**0.5)
        gamma = gamma / 2.0 ** node.attrs["s"]
        beta = self._const(node, bias) * t.scalar_scale
        eps = node.attrs["eps"] * tx.scalar_scale**2 / n**3
        ts = self.tensors
        self._note_float(node)
        whole = self.narrow(x)
        source = ts.rows(whole, 1) if len(whole.shape) > 3 else whole
        last = ts.raw(np.array([len(source.shape)], np.int32))
        kept = (*source.shape[:-1], 1)
        real = ts.apply("DEQUANTIZE", [source], ts.new(source.shape, "float32"))

        def mean(form: Form) -> Form:
            return ts.apply("MEAN", [form, last], ts.new(kept, "float32"))

        centred = ts.binary("SUB", real, mean(real), "float32")
        variance = mean(ts.binary("MUL", centred, centred, "float32"))
        safe = ts.binary("ADD", variance, ts.floats([eps]), "float32")
        root = ts.apply("RSQRT", [safe], ts.new(kept, "float32"))
        unit = ts.binary("MUL", centred, root, "float32")
        scaled = ts.binary("MUL", unit, ts.floats(gamma), "float32")
        moved = ts.binary("ADD", scaled, ts.floats(beta), "float32")
        out = ts.like(source, "int16", self.scale(node.output, "int16"))
        stored = ts.apply("QUANTIZE", [moved], out)
        self.define(node.output, stored if source is whole else ts.reshape(stored, whole.shape))

    def _softmax(self, node: Node) -> None:
        """SOFTMAX on 16 bits (within 5 units of 2^-15), on float32 where the input has 32."""
        (x, _), ts = node.inputs, self.tensors
        gain = softmax_gain(self.graph, node)
        integer = gain == 1.0 and self._source(x).dtype in ("int8", "int16")
        whole = self.narrow(x) if integer else self._times(self.real(x), gain)
        source = ts.rows(whole, 1) if len(whole.shape) > 3 else whole
        scale = self.graph.types[node.output].scalar_scale if integer else 1.0
        out = ts.apply("SOFTMAX", [source], ts.like(source, source.dtype, scale))
        out = out if source is whole else ts.reshape(out, whole.shape)
        if integer:
            self.define(node.output, out)
        else:
            self._note_float(node)
            self._settle(node, out)

    def _wide_op(self, node: Node) -> None:
        """A function of large dynamic range."""
        self._note_float(node)
        ts, fn, name = self.tensors, node.attrs["fn"], node.inputs[0]
        unit = self._scale_of(name)
        x = self.real(name)
        if self._source(name).dtype == "float32":  # small values: as the Graph rounds them
            near = ts.binary("ADD", self._times(x, 1.0 / unit), ts.floats([0.5]), "float32")
            x = self._times(self._unary("FLOOR", near), unit)
        if fn == "reciprocal":
            zero = ts.binary("EQUAL", x, ts.floats([0.0]), "bool")
            # Of nothing: large enough to saturate.
            divisor = ts.select(zero, ts.floats([unit * 2.0**-40]), x)
            y = ts.binary("DIV", ts.floats([1.0]), divisor, "float32")
        else:
            # Of nothing: as of one unit (the root is 0).
            least = ts.floats([0.0 if fn == "sqrt" else unit])
            y = self._unary(fn.upper(), ts.binary("MAXIMUM", x, least, "float32"))
        gain, offset = wide_terms(self.graph, node)
        y = self._times(y, gain)
        if offset:
            y = ts.binary("ADD", y, ts.floats([offset]), "float32")
        top = 2.0**31 * self._scale_of(node.output)
        self._settle(node, ts.within(y, -top, top) if fn == "reciprocal" else y)
