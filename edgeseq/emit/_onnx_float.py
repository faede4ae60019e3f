"""Lowering of a real step Graph to float32 ONNX operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeseq.emit._onnx_builder import Builder
from edgeseq.errors import BackendError
from edgeseq.ir.graph import Graph, Node

__all__ = ["FUNCTION_OPS", "FloatLowering"]


def _op(name: str, **attrs: Any) -> Callable[[Builder, str], str]:
    return lambda b, x: b.node(name, x, **attrs)


FUNCTION_OPS: dict[str, Callable[[Builder, str], str]] = {
    "sigmoid": _op("Sigmoid"),
    "tanh": _op("Tanh"),
    "hard_sigmoid": _op("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard_swish": _op("HardSwish"),
    "silu": lambda b, x: b.node("Mul", x, b.node("Sigmoid", x)),
    "gelu": _op("Gelu"),
    "gelu_tanh": _op("Gelu", approximate="tanh"),
    "elu": _op("Elu"),
    "softplus": _op("Softplus"),
    "softsign": _op("Softsign"),
    "erf": _op("Erf"),
    "abs": _op("Abs"),
    "exp": _op("Exp"),
    "sin": _op("Sin"),
    "cos": _op("Cos"),
}
"""How each function of `edgeseq.ir.functions` is written in ONNX."""


class FloatLowering:
    """Walks a real step Graph and writes float32 operators.

    Args:
        graph: the step.
        builder: takes the operators.
    """

    def __init__(self, graph: Graph, builder: Builder) -> None:
        self.graph, self.b = graph, builder
        self._real: dict[str, str] = {}

    def bind_input(self, value: str, tensor: str) -> None:
        """The prepared frame of input `value` is float tensor `tensor`."""
        self._real[value] = tensor

    def bind_state(self, value: str, tensor: str) -> None:
        """State `value` is the model input `tensor`."""
        self._real[value] = tensor

    def real(self, value: str) -> str:
        """The float32 tensor that holds `value` in real units."""
        if value not in self._real:
            self._real[value] = self.b.f32(self.graph.consts[value], value)
        return self._real[value]

    def stored(self, value: str) -> str:
        """The tensor that holds `value` as a state is carried."""
        return self.real(value)

    def run(self) -> None:
        """Write every node of the Graph.

        Raises:
            BackendError: a node has no ONNX form.
        """
        for node in self.graph.nodes:
            handler = getattr(self, f"_{node.op}", None)
            if handler is None:
                raise BackendError(
                    f"operation {node.op!r} has no ONNX form in a step",
                    where=f"graph {self.graph.name!r}, node {node.name!r}",
                    fix="run the streaming pass first; it removes operations over time",
                )
            self._real[node.output] = handler(node)

    # -- one method per operation -------------------------------------------------------------

    def _linear(self, node: Node) -> str:
        total = ""
        for g in range(len(node.inputs) // 2):
            x, w = node.inputs[2 * g : 2 * g + 2]
            # ONNX multiplies from the right: the weights are stored transposed, [K, O].
            wt = (
                self.b.f32(self.graph.consts[w].T.copy(), w)
                if w in self.graph.consts
                else self.b.node("Transpose", self.real(w), perm=[0, 2, 1])
            )
            part = self.b.node("MatMul", self.real(x), wt, hint=f"{node.name}.{g}")
            total = self.b.node("Add", total, part) if total else part
        if len(node.inputs) % 2:
            total = self.b.node("Add", total, self.real(node.inputs[-1]), hint=node.name)
        return total

    def _add(self, node: Node) -> str:
        return self._binary("Add", node)

    def _sub(self, node: Node) -> str:
        return self._binary("Sub", node)

    def _mul(self, node: Node) -> str:
        return self._binary("Mul", node)

    def _binary(self, op: str, node: Node) -> str:
        return self.b.node(op, *(self.real(v) for v in node.inputs), hint=node.name)

    def _lut(self, node: Node) -> str:
        return FUNCTION_OPS[node.attrs["fn"]](self.b, self.real(node.inputs[0]))

    def _clamp(self, node: Node) -> str:
        lo, hi = node.attrs["lo"], node.attrs["hi"]
        bounds = ["" if v is None else self.b.f32(v, "bound") for v in (lo, hi)]
        while bounds and not bounds[-1]:
            bounds.pop()
        return self.b.node("Clip", self.real(node.inputs[0]), *bounds, hint=node.name)

    def _rescale(self, node: Node) -> str:
        return self.real(node.inputs[0])

    def _norm(self, node: Node) -> str:
        tensors = [self.real(v) for v in node.inputs]
        eps = float(node.attrs["eps"])
        return self.b.node("LayerNormalization", *tensors, axis=-1, epsilon=eps, hint=node.name)

    def _reshape(self, node: Node) -> str:
        return self.move(node, [self.real(node.inputs[0])])

    def _slice(self, node: Node) -> str:
        return self.move(node, [self.real(node.inputs[0])])

    def _concat(self, node: Node) -> str:
        return self.move(node, [self.real(v) for v in node.inputs])

    def move(self, node: Node, tensors: list[str]) -> str:
        """A movement operation on tensors of any element type."""
        if node.op == "concat":
            return self.b.node("Concat", *tensors, axis=-1, hint=node.name)
        if node.op == "slice":
            ends = [
                self.b.const(np.array([v], np.int64), "axis_index")
                for v in (node.attrs["start"], node.attrs["stop"], -1)
            ]
            return self.b.node("Slice", tensors[0], *ends, hint=node.name)
        # A 0 keeps the batch axis; a constant has none.
        batch = [] if node.inputs[0] in self.graph.consts else [0]
        shape = self.b.const(np.array([*batch, *node.attrs["shape"]], np.int64), "shape")
        return self.b.node("Reshape", tensors[0], shape, hint=node.name)
