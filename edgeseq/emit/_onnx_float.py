"""Lowering of a real step Graph to float32 ONNX operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._convolution import convolutions
from edgeseq.emit._onnx_builder import Builder
from edgeseq.emit._views import Move, moves
from edgeseq.errors import BackendError
from edgeseq.ir.graph import Graph, Node, State

__all__ = ["COMPARE_OPS", "FUNCTION_OPS", "MOVES", "FloatLowering"]


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

COMPARE_OPS = {"gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal"}
"""ONNX operator of each comparison."""

MOVES = ("reshape", "slice", "concat", "strided")
"""Operations that only move elements, of whatever type."""


class FloatLowering:
    """Walks a real step Graph and writes float32 operators.

    Args:
        graph: the step.
        builder: takes the operators.
    """

    convolves = True
    """Whether products with windows are written as Conv."""

    def __init__(self, graph: Graph, builder: Builder) -> None:
        self.graph, self.b = graph, builder
        self._convs, unused = convolutions(graph) if self.convolves else ({}, set[str]())
        self.nodes = [n for n in graph.nodes if n.outputs[0] not in unused]
        self._real: dict[str, str] = {}
        self._truth: dict[str, str] = {}

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

    def truth(self, value: str) -> str:
        """The bool tensor that is true where `value` is not 0."""
        if value not in self._truth:
            if value in self.graph.consts:
                truth = self.b.const(self.graph.consts[value] != 0, f"{value}_set")
            else:
                truth = self.b.cast(self._number(value), np.bool_, f"{value}_set")
            self._truth[value] = truth
        return self._truth[value]

    def _number(self, value: str) -> str:
        """Some tensor that is 0 where `value` is 0."""
        return self.real(value)

    def run(self) -> None:
        """Write every node of the Graph.

        Raises:
            BackendError: a node has no ONNX form.
        """
        for node in self.nodes:
            if node.op == "scan":
                self.scan(node)
                continue
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
        if node.output in self._convs:
            return self._with_bias(node, self._conv(node))
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
        return self._with_bias(node, total)

    def _with_bias(self, node: Node, total: str) -> str:
        if len(node.inputs) % 2 == 0:
            return total
        return self.b.node("Add", total, self._bias(node), hint=node.name)

    def _conv(self, node: Node) -> str:
        """The product of a `linear` or `depthwise` node that is a convolution, without bias."""
        conv, depthwise = self._convs[node.output], node.op == "depthwise"
        filters = conv.filters(self.graph.consts[node.inputs[1]], depthwise=depthwise)
        b, flat = self.b, conv.image[1] == 1
        axes = [0] if flat else [0, 1]  # along rows, and columns where there are several
        spatial = len(axes)

        def shape(height: int, width: int, channels: int) -> list[int]:
            return [height, *([] if flat else [width]), channels]

        x = b.node("Reshape", self.real(conv.source), b.ints([0, *shape(*conv.image)], "shape"))
        if conv.part != conv.image:
            starts = [conv.start[i] for i in axes]
            stops = [a + conv.part[i] for a, i in zip(starts, axes, strict=True)]
            x = b.node("Slice", x, *(b.ints(v) for v in (starts, stops, [i + 1 for i in axes])))
        x = b.node("Transpose", x, perm=[0, spatial + 1, *range(1, spatial + 1)])
        weights = filters.transpose(3, 2, 0, 1)
        y = b.node(
            "Conv",
            x,
            self._filters(node, weights[..., 0] if flat else weights),
            kernel_shape=[conv.kernel[i] for i in axes],
            strides=[conv.stride[i] for i in axes],
            dilations=[conv.dilation[i] for i in axes],
            group=conv.image[2] if depthwise else 1,
            hint=node.name,
        )
        y = b.node("Transpose", y, perm=[0, *range(2, spatial + 2), 1])
        out = self.graph.types[node.output].shape
        return b.node("Reshape", y, b.ints([0, *out], "shape"))

    def _filters(self, node: Node, array: npt.NDArray[Any]) -> str:
        return self.b.f32(array, node.inputs[1])

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

    def _depthwise(self, node: Node) -> str:
        if node.output in self._convs:
            return self._with_bias(node, self._conv(node))
        x, w = (self.real(v) for v in node.inputs[:2])
        product = self.b.node("Mul", x, w)
        total = self.b.node("ReduceSum", product, self.b.ints([-2]), keepdims=0, hint=node.name)
        return self._with_bias(node, total)

    def _bias(self, node: Node) -> str:
        return self.real(node.inputs[-1])

    def _matmul(self, node: Node) -> str:
        a, b = node.inputs
        return self.b.node("MatMul", self.real(a), self.turned(self.real(b), b), hint=node.name)

    def turned(self, tensor: str, value: str) -> str:
        """`tensor`, which holds `value`, with its last two axes swapped."""
        rank = len(self.graph.types[value].shape) + (value not in self.graph.consts)
        perm = [*range(rank - 2), rank - 1, rank - 2]
        return self.b.node("Transpose", tensor, perm=perm, hint=f"{value}_turned")

    def _softmax(self, node: Node) -> str:
        return self.b.node("Softmax", self.real(node.inputs[0]), axis=-1, hint=node.name)

    def _wide(self, node: Node) -> str:
        return self.wide(node.attrs["fn"], self.real(node.inputs[0]))

    def wide(self, fn: str, x: str) -> str:
        """A function of `edgeseq.ir.functions.WIDE` of a float tensor."""
        if fn in ("sqrt", "rsqrt"):
            x = self.b.node("Sqrt", self.b.node("Relu", x))
        op = {"sqrt": "", "rsqrt": "Reciprocal", "reciprocal": "Reciprocal", "log": "Log"}[fn]
        return self.b.node(op, x) if op else x

    def _max(self, node: Node) -> str:
        return self._binary("Max", node)

    def _min(self, node: Node) -> str:
        return self._binary("Min", node)

    def _compare(self, node: Node) -> str:
        a, b = (self._exactly(v) for v in node.inputs)
        truth = self.b.node(COMPARE_OPS[node.attrs["cmp"]], a, b, hint=f"{node.output}_set")
        self._truth[node.output] = truth
        return self.b.cast(truth, np.float32, node.name)

    def _exactly(self, value: str) -> str:
        """The tensor by which `value` is compared."""
        return self.real(value)

    def _select(self, node: Node) -> str:
        c, a, b = node.inputs
        return self.b.node("Where", self.truth(c), self.real(a), self.real(b), hint=node.name)

    def _embed(self, node: Node) -> str:
        index, table = node.inputs
        half = self.b.node("Add", self.real(index), self.b.f32(0.5))
        return self.rows(self.b.node("Floor", half), self.real(table), table, node.name)

    def rows(self, index: str, table: str, value: str, hint: str) -> str:
        """Rows of `table`, which holds constant `value`, by a float tensor of whole numbers."""
        last = self.graph.types[value].shape[0] - 1
        within = self.b.node("Clip", index, self.b.f32(0), self.b.f32(last))
        return self.b.node("Gather", table, self.b.cast(within, np.int64), hint=hint)

    # -- loops ---------------------------------------------------------------------------------

    def scan(self, node: Node) -> None:
        """A loop over axis 0 that is too long to be written out, as Scan."""
        body: Graph = node.attrs["body"]
        inner = self.b.body()
        lowering = type(self)(body, inner)
        n = len(body.inputs)
        for value in (*(s.input for s in body.states), *body.inputs):
            t = body.types[value]
            name = inner.input(inner.fresh(value), lowering.carrier_type(value), t.shape)
            lowering.receive(value, name)
        lowering.run()
        for value in (*(s.output for s in body.states), *body.outputs):
            tensor = lowering.batched(value, lowering.carrier(value))
            dtype, shape = lowering.carrier_type(value), body.types[value].shape
            inner.output(inner.fresh(f"{value}_out"), tensor, dtype, shape)
        starts = [self._start(v) for v in node.inputs[n:]] or [
            self.b.batched(self.b.const(lowering.start(s)), s.init.shape) for s in body.states
        ]
        ends = [self.b.fresh(f"{s.name}_end") for s in body.states]
        outs = [self.b.fresh(v) for v in node.outputs[: len(body.outputs)]]
        backwards = int(bool(node.attrs["reverse"]))
        self.b.nodes(
            "Scan",
            [*starts, *(self._start(v) for v in node.inputs[:n])],
            [*ends, *outs],
            body=inner.body_graph(f"{node.name}_body"),
            num_scan_inputs=n,
            scan_input_axes=[1] * n,
            scan_output_axes=[1] * len(outs),
            scan_input_directions=[backwards] * n,
            scan_output_directions=[backwards] * len(outs),
        )
        for value, tensor in zip(node.outputs, [*outs, *ends], strict=False):
            self.receive(value, tensor)

    def _start(self, value: str) -> str:
        return self.batched(value, self.carrier(value))

    def carrier(self, value: str) -> str:
        """The tensor that takes `value` into a loop and out of it."""
        return self.real(value)

    def carrier_type(self, value: str) -> npt.DTypeLike:
        """Element type of `carrier`."""
        return np.float32

    def receive(self, value: str, tensor: str) -> None:
        """Bind `value` to a tensor that a `carrier` came through."""
        self._real[value] = tensor

    def start(self, state: State) -> npt.NDArray[Any]:
        """The initial value of a state of a loop as a carrier holds it."""
        return state.init.astype(np.float32)

    # -- movement ------------------------------------------------------------------------------

    def _reshape(self, node: Node) -> str:
        return self.move(node, [self.real(node.inputs[0])])

    _slice = _strided = _reshape

    def _concat(self, node: Node) -> str:
        return self.move(node, [self.real(v) for v in node.inputs])

    def move(self, node: Node, tensors: list[str]) -> str:
        """A movement operation on tensors of any element type."""
        tensors = [self.batched(v, x) for v, x in zip(node.inputs, tensors, strict=True)]
        if node.op == "concat":
            return self.b.node("Concat", *tensors, axis=-1, hint=node.name)
        if node.op == "slice":
            start, stop = node.attrs["start"], node.attrs["stop"]
            ends = [self.b.ints([v]) for v in (start, stop, -1)]
            return self.b.node("Slice", tensors[0], *ends, hint=node.name)
        if node.op == "reshape":
            return self._step(tensors[0], Move("reshape", tuple(node.attrs["shape"])), node.name)
        source = self.graph.types[node.inputs[0]].shape
        view = (node.attrs[k] for k in ("shape", "strides", "offset"))
        x = tensors[0]
        for step in moves(source, *view):
            x = self._step(x, step, node.name)
        return x

    def batched(self, value: str, tensor: str) -> str:
        """`tensor`, which holds `value`, with the batch axis that a constant lacks."""
        if value not in self.graph.consts:
            return tensor
        return self.b.batched(tensor, self.graph.types[value].shape, f"{value}_batched")

    def _step(self, x: str, step: Move, hint: str) -> str:
        if step.kind == "reshape":  # a 0 keeps the batch axis
            return self.b.node("Reshape", x, self.b.ints([0, *step.shape], "shape"), hint=hint)
        if step.kind == "transpose":
            perm = [0, *(p + 1 for p in step.perm)]
            return self.b.node("Transpose", x, perm=perm, hint=hint)
        if step.kind == "slice":
            stops = [a + n for a, n in zip(step.starts, step.shape, strict=True)]
            axes = range(1, len(stops) + 1)
            ends = (self.b.ints(v) for v in (step.starts, stops, list(axes)))
            return self.b.node("Slice", x, *ends, hint=hint)
        indices = self.b.ints(step.indices, "indices")
        return self.b.node("Gather", x, indices, axis=step.axis + 1, hint=hint)
