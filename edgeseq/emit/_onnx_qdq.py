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

from edgeseq.emit._numbers import NEAR_ONE, channel_scales, matmul_gain, softmax_gain, wide_terms
from edgeseq.emit._onnx_builder import Builder
from edgeseq.emit._onnx_float import COMPARE_OPS, FUNCTION_OPS, MOVES, FloatLowering
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Graph, Node, State

__all__ = ["QdqLowering"]


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
        # The largest float32 below 2^31: the cast of 2^31 itself is undefined.
        top = np.nextafter(np.float32(2.0**31), np.float32(0))
        lo, hi = self.b.f32(-(2.0**31), "bound"), self.b.f32(top, "bound")
        clipped = self.b.node("Clip", self.b.node("Round", self._units(value)), lo, hi)
        return self.b.cast(clipped, np.int32, value)

    def _units(self, value: str) -> str:
        """A 32-bit value that is kept real, in its units, not rounded."""
        scale = self._scale(value)
        return self.b.node("Div", self._real[value], self.b.f32(scale, "scale"))

    def _kept_real(self, value: str) -> bool:
        return self.graph.types[value].dtype == "i32"

    def carrier(self, value: str) -> str:
        return self.real(value) if self._kept_real(value) else self.stored(value)

    def carrier_type(self, value: str) -> npt.DTypeLike:
        return np.float32 if self._kept_real(value) else self.graph.types[value].numpy

    def receive(self, value: str, tensor: str) -> None:
        (self._real if self._kept_real(value) else self._stored)[value] = tensor

    def start(self, state: State) -> npt.NDArray[Any]:
        if not self._kept_real(state.input):
            return state.init
        return (state.init * self._scale(state.input)).astype(np.float32)

    # -- operations ----------------------------------------------------------------------------

    def run(self) -> None:
        """Write every node of the Graph."""
        for node in self.nodes:
            if node.op in MOVES:
                self._movement(node)
            elif node.op == "scan":
                self.scan(node)
            elif node.op in ("compare", "embed"):
                getattr(self, f"_{node.op}")(node)
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
        if abs(factor - 1.0) < NEAR_ONE:
            return tensor
        if abs(factor + 1.0) < NEAR_ONE:
            return self.b.node("Neg", tensor)
        return self.b.node("Mul", tensor, self.b.f32(factor))

    def _linear(self, node: Node) -> str:
        if node.output in self._convs:
            return self._with_bias(node, self._conv(node))
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
        return self._with_bias(node, total)

    def _filters(self, node: Node, array: npt.NDArray[Any]) -> str:
        if node.op == "depthwise":
            scale = channel_scales(self.graph, node)
        else:
            m, s, unit = node.attrs["m"][0], node.attrs["s"][0], self._scale(node.output)
            scale = m.astype(np.float64) / 2.0**s * unit / self._scale(node.inputs[0])
        name = node.inputs[1]
        return self._dequantise(self.b.const(array, name), scale.astype(np.float32), name)

    def _bias(self, node: Node) -> str:
        name = node.inputs[-1]
        bias = self.b.const(self.graph.consts[name], name)
        return self._dequantise(bias, np.float32(self._scale(node.output)), name)

    def _depthwise(self, node: Node) -> str:
        if node.output in self._convs:
            return self._with_bias(node, self._conv(node))
        x, w = node.inputs[:2]
        scales = channel_scales(self.graph, node)
        stored = self.b.const(self.graph.consts[w], w)
        weights = self._dequantise(stored, scales.astype(np.float32), w, axis=1)
        product = self.b.node("Mul", self.real(x), weights)
        total = self.b.node("ReduceSum", product, self.b.ints([-2]), keepdims=0, hint=node.name)
        return self._with_bias(node, total)

    def _matmul(self, node: Node) -> str:
        return self._times(super()._matmul(node), matmul_gain(self.graph, node))

    def _softmax(self, node: Node) -> str:
        x = self._times(self._grid(node.inputs[0]), softmax_gain(self.graph, node))
        return self.b.node("Softmax", x, axis=-1, hint=node.name)

    def _lut(self, node: Node) -> str:
        return FUNCTION_OPS[node.attrs["fn"]](self.b, self.real(node.inputs[0]))

    def _add(self, node: Node) -> str:
        unit = self._scale(node.output) / 2.0 ** node.attrs["s"]
        a, b = node.inputs
        fa = node.attrs["ma"] * unit / self._scale(a)
        fb = node.attrs["mb"] * unit / self._scale(b)
        left = self._times(self.real(a), fa)
        if abs(fb + 1.0) < NEAR_ONE:
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

    def _grid(self, value: str) -> str:
        """`value` in real units, rounded to its format."""
        if value in self._stored or value in self.graph.consts:
            return self.real(value)
        scale = self.b.f32(self._scale(value), "scale")
        return self.b.node("Mul", self.b.node("Round", self._units(value)), scale)

    def _wide(self, node: Node) -> str:
        fn, x = node.attrs["fn"], self._grid(node.inputs[0])
        unit = self._scale(node.inputs[0])
        if fn in ("rsqrt", "log"):  # of nothing: as of one unit
            x = self.b.node("Max", x, self.b.f32(unit))
        elif fn == "reciprocal":  # of nothing: large enough to saturate
            zero = self.b.node("Not", self.b.cast(x, np.bool_))
            x = self.b.node("Where", zero, self.b.f32(unit * 2.0**-40), x)
        gain, offset = wide_terms(self.graph, node)
        y = self._times(self.wide(fn, x), gain)
        return self.b.node("Add", y, self.b.f32(offset)) if offset else y

    def _compare(self, node: Node) -> str:
        """Of stored integers, so that what is equal in the Graph is equal here."""
        a, b = (self.b.cast(self.stored(v), np.int32) for v in node.inputs)
        truth = self.b.node(COMPARE_OPS[node.attrs["cmp"]], a, b, hint=f"{node.output}_set")
        self._truth[node.output] = truth
        self._stored[node.output] = self.b.cast(truth, np.int8, node.output)
        return truth

    def _number(self, value: str) -> str:
        return self._stored[value] if value in self._stored else self._grid(value)

    def _embed(self, node: Node) -> str:
        index, table = node.inputs
        wide = self.graph.types[table].dtype == "i32"
        source = self.real(table) if wide else self.stored(table)
        rows = self.rows(self._grid(index), source, table, node.output)
        (self._real if wide else self._stored)[node.output] = rows
        return rows

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
