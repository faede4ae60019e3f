"""Lowering of an integer step Graph to ONNX in quantise / dequantise (QDQ) form.

Every value has up to two tensors: its stored integers and its real numbers (float32). Values of 8
and 16 bits are stored: what a node computes in float32 passes QuantizeLinear, and readers see
DequantizeLinear of that. Values of 32 bits are kept real and clamped to their range; they become
integers only where a state leaves the step.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._onnx_builder import Builder
from edgeseq.emit._onnx_float import FUNCTION_OPS, FloatLowering
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Graph, Node

__all__ = ["QdqLowering"]

_NEAR_ONE = 2.0**-10
"""A multiplier this close to the ratio of the scales is that ratio, rounded."""


class QdqLowering(FloatLowering):
    """Walks an integer step Graph and writes QDQ operators."""

    def __init__(self, graph: Graph, builder: Builder) -> None:
        super().__init__(graph, builder)
        self._stored: dict[str, str] = {}

    # -- the two tensors of a value ------------------------------------------------------------

    def bind_input(self, value: str, tensor: str) -> None:
        self._store(value, tensor)

    def bind_state(self, value: str, tensor: str) -> None:
        self._stored[value] = tensor

    def real(self, value: str) -> str:
        if value not in self._real:
            t = self.graph.types[value]
            scale = np.asarray(t.scale, np.float32)
            self._real[value] = self._dequantise(self.stored(value), scale, value)
        return self._real[value]

    def stored(self, value: str) -> str:
        if value not in self._stored:
            if value in self.graph.consts:
                self._stored[value] = self.b.const(self.graph.consts[value], value)
            else:
                self._stored[value] = self._to_int32(value)
        return self._stored[value]

    def _dequantise(self, tensor: str, scale: npt.ArrayLike, hint: str, axis: int = 0) -> str:
        where: dict[str, Any] = {"axis": axis} if np.ndim(scale) else {}
        name = self.b.f32(scale, "scale")
        return self.b.node("DequantizeLinear", tensor, name, hint=f"{hint}_real", **where)

    def _store(self, value: str, real: str) -> None:
        """Bind `value` to the real tensor `real`, through its stored format."""
        t = self.graph.types[value]
        if t.dtype == "i32":
            lo, hi = (self.b.f32(v * t.scalar_scale, "bound") for v in INT_RANGE["i32"])
            self._real[value] = self.b.node("Clip", real, lo, hi, hint=f"{value}_real")
        else:
            scale = self.b.f32(t.scalar_scale, "scale")
            zero = self.b.const(np.zeros((), t.numpy), "zero")
            self._stored[value] = self.b.node("QuantizeLinear", real, scale, zero, hint=value)

    def _to_int32(self, value: str) -> str:
        """Stored integers of a 32-bit value that is kept real."""
        t = self.graph.types[value]
        units = self.b.node("Div", self._real[value], self.b.f32(t.scalar_scale, "scale"))
        # The largest float32 below 2^31: the cast of 2^31 itself is undefined.
        top = np.nextafter(np.float32(2.0**31), np.float32(0))
        lo, hi = self.b.f32(-(2.0**31), "bound"), self.b.f32(top, "bound")
        clipped = self.b.node("Clip", self.b.node("Round", units), lo, hi)
        return self.b.node("Cast", clipped, to=self.b.onnx.TensorProto.INT32, hint=value)

    # -- operations ----------------------------------------------------------------------------

    def run(self) -> None:
        """Write every node of the Graph."""
        for node in self.graph.nodes:
            if node.op in ("reshape", "slice", "concat"):
                self._movement(node)
            else:
                self._store(node.output, getattr(self, f"_{node.op}")(node))

    def _movement(self, node: Node) -> None:
        if all(v in self._stored or v in self.graph.consts for v in node.inputs):
            tensors = [self.stored(v) for v in node.inputs]
            self._stored[node.output] = self.move(node, tensors)
        else:
            self._real[node.output] = self.move(node, [self.real(v) for v in node.inputs])

    def _scale(self, value: str) -> float:
        return self.graph.types[value].scalar_scale

    def _times(self, tensor: str, factor: float) -> str:
        """`tensor` times a factor; one that is 1 up to a multiplier's rounding costs nothing."""
        if abs(factor - 1.0) < _NEAR_ONE:
            return tensor
        if abs(factor + 1.0) < _NEAR_ONE:
            return self.b.node("Neg", tensor)
        return self.b.node("Mul", tensor, self.b.f32(factor))

    def _linear(self, node: Node) -> str:
        out = self._scale(node.output)
        total = ""
        for g, (m, s) in enumerate(zip(node.attrs["m"], node.attrs["s"], strict=True)):
            x, w = node.inputs[2 * g : 2 * g + 2]
            # What the multipliers make of a weight, exactly; the scale in its type is its origin.
            scale = m.astype(np.float64) / 2.0**s * out / self._scale(x)
            stored = self.b.const(self.graph.consts[w].T.copy(), w)
            weights = self._dequantise(stored, scale.astype(np.float32), w, axis=1)
            part = self.b.node("MatMul", self.real(x), weights, hint=f"{node.name}.{g}")
            total = self.b.node("Add", total, part) if total else part
        if len(node.inputs) % 2:
            bias = self.b.const(self.graph.consts[node.inputs[-1]], node.inputs[-1])
            real = self._dequantise(bias, np.float32(out), node.inputs[-1])
            total = self.b.node("Add", total, real)
        return total

    def _lut(self, node: Node) -> str:
        return FUNCTION_OPS[node.attrs["fn"]](self.b, self.real(node.inputs[0]))

    def _add(self, node: Node) -> str:
        unit = self._scale(node.output) / 2.0 ** node.attrs["s"]
        a, b = node.inputs
        fa = node.attrs["ma"] * unit / self._scale(a)
        fb = node.attrs["mb"] * unit / self._scale(b)
        left = self._times(self.real(a), fa)
        if abs(fb + 1.0) < _NEAR_ONE:
            return self.b.node("Sub", left, self.real(b))
        return self.b.node("Add", left, self._times(self.real(b), fb))

    def _mul(self, node: Node) -> str:
        a, b = node.inputs
        unit = self._scale(node.output) / 2.0 ** node.attrs["s"]
        factor = node.attrs["m"] * unit / (self._scale(a) * self._scale(b))
        return self._times(self.b.node("Mul", self.real(a), self.real(b)), factor)

    def _clamp(self, node: Node) -> str:
        scale = self._scale(node.output)
        bounds = [
            "" if v is None else self.b.f32(v * scale, "bound")
            for v in (node.attrs["lo"], node.attrs["hi"])
        ]
        while bounds and not bounds[-1]:
            bounds.pop()
        return self.b.node("Clip", self.real(node.inputs[0]), *bounds)

    def _rescale(self, node: Node) -> str:
        x = node.inputs[0]
        unit = self._scale(node.output) / 2.0 ** node.attrs["s"]
        return self._times(self.real(x), node.attrs["m"] * unit / self._scale(x))

    def _norm(self, node: Node) -> str:
        x, gain, bias = node.inputs
        n, out = self.graph.types[x].shape[-1], self._scale(node.output)
        gamma = np.float32(2.0 ** (24 - node.attrs["s"]) * out / sqrt(n))
        tensors = [
            self.real(x),
            self._dequantise(self.b.const(self.graph.consts[gain], gain), gamma, gain),
            self._dequantise(self.b.const(self.graph.consts[bias], bias), np.float32(out), bias),
        ]
        eps = node.attrs["eps"] * self._scale(x) ** 2 / n**3
        return self.b.node("LayerNormalization", *tensors, axis=-1, epsilon=float(eps))
