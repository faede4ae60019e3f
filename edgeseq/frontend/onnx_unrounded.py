"""A quantised ONNX file as the real model that it rounds: what the Graph read from it must answer.

The front end keeps the values that such a file stores as 8- or 16-bit integers real: their
saturation, where scales are fixed, and no rounding. Here the same is done to the file itself, with
standard operators, so that ONNX Runtime computes what the Graph has to be compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeseq.frontend.onnx_dynamic import lstm_weight, product_weight
from edgeseq.frontend.onnx_fold import fold_onnx
from edgeseq.frontend.program import Operation, Ref

if TYPE_CHECKING:
    import onnx

__all__ = ["unrounded"]

Array = npt.NDArray[Any]

_DYNAMIC_LSTM = ("com.microsoft", "DynamicQuantizeLSTM")
_MOVES = (
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool",
    "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip


def unrounded(path: Path) -> bytes | None:
    """The file at `path` without the rounding of values that depend on its inputs.

    Stored weights become real numbers as well: ONNX Runtime rounds what a product of integers
    reads, even where the file does not say so.

    Returns:
        The file's bytes; None where the file stores and rounds nothing.

    Raises:
        ValueError: a value is rounded by a scale that is no constant.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        return None  # ONNX Runtime says what is wrong with it
    if not any(_key(node) in _RULES for node in _nodes(model.graph)):
        return None
    onnx.load_external_data_for_model(model, str(path.parent))
    _Rewriter().graph(model.graph)
    return bytes(model.SerializeToString())


def _key(node: onnx.NodeProto) -> tuple[str, str]:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return domain, node.op_type


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _nodes(body)


class _Rewriter:
    """Rewrites the graphs of one model in place."""

    def __init__(self) -> None:
        self.constants: dict[str, Array] = {}
        # Values that the file stores as integers, kept real.
        self.real: set[str] = set()
        self.count = 0

    def graph(self, graph: onnx.GraphProto) -> None:
        """Rewrite a graph and the bodies inside it."""
        from onnx import numpy_helper

        for tensor in graph.initializer:
            self.constants[tensor.name] = numpy_helper.to_array(tensor)
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if _key(node) == ("", "Constant") and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            rule = _RULES.get(_key(node))
            if rule is not None:
                nodes += rule(self, node)
                continue
            if node.op_type in _MOVES and self.real.intersection(node.input):
                self.real.update(node.output)
            for body in _bodies(node):
                self.graph(body)
            nodes.append(node)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)

    # -- fixed scales ----------------------------------------------------------------------

    def _rounded(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        import onnx

        if node.input[0] in self.constants:
            return [node]
        scale = self._known(node, 1)
        zero = self._known(node, 2) if len(node.input) > 2 and node.input[2] else np.uint8(0)
        said = {a.name: a.i for a in node.attribute}
        kind = said.get("output_dtype") or onnx.helper.np_dtype_to_tensor_dtype(
            np.asarray(zero).dtype
        )
        limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kind))
        bounds = [
            ((np.float64(v) - np.asarray(zero, np.float64)) * scale.astype(np.float64))
            for v in (limits.min, limits.max)
        ]
        self.real.add(node.output[0])
        if scale.size == 1:
            lo, hi = (self._constant(b.reshape(()).astype(scale.dtype)) for b in bounds)
            return [*lo[1], *hi[1], self._node("Clip", [node.input[0], lo[0], hi[0]], node)]
        raise ValueError(f"node '{node.name}' rounds by a scale for each channel")

    def _read_back(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        import onnx

        if node.input[0] in self.real:
            return [self._node("Identity", [node.input[0]], node)]
        arrays = [self.constants.get(name) if name else None for name in node.input]
        if any(name and a is None for name, a in zip(node.input, arrays, strict=True)):
            return [node]
        # ONNX Runtime rounds what a product of stored weights reads: they are to be real as well.
        said = {"axis": 1, "block_size": 0, "output_dtype": 0}
        said |= {a.name: a.i for a in node.attribute}
        inputs = [Ref(name) if name else None for name in node.input]
        op = Operation("onnx.DequantizeLinear", {"inputs": inputs, **said}, tuple(node.output))
        (real,) = fold_onnx(op, [*arrays, None][:3])
        tensor = onnx.numpy_helper.from_array(np.asarray(real))
        return [onnx.helper.make_node("Constant", [], [node.output[0]], value=tensor)]

    # -- scales that the file chooses while it runs ----------------------------------------

    def _scaled(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        import onnx

        self.real.add(node.output[0])
        made = [onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]])]
        for name, value in zip(node.output[1:], (np.float32(1.0), np.uint8(0)), strict=False):
            if name:
                tensor = onnx.numpy_helper.from_array(np.asarray(value))
                made.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
        return made

    def _matmul(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return self._product(node, "MatMul")

    def _convolution(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return self._product(node, "Conv")

    def _product(self, node: onnx.NodeProto, op: str) -> list[onnx.NodeProto]:
        if node.input[0] not in self.real:
            return [node]
        zero = self._known(node, 3) if len(node.input) > 3 and node.input[3] else None
        weight = product_weight(self._known(node, 1), zero, rows=op == "Conv")
        name, made = self._constant(weight)
        return [*made, self._node(op, [node.input[0], name], node, [*node.attribute])]

    def _lstm(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        inputs = [*node.input, *[""] * (12 - len(node.input))]
        made: list[onnx.NodeProto] = []
        names = []
        for at, scale, zero in ((1, 8, 9), (2, 10, 11)):
            arrays = [self._known(node, i) for i in (at, scale, zero)]
            name, more = self._constant(lstm_weight(*arrays))
            names.append(name)
            made += more
        read = [inputs[0], *names, *inputs[3:8]]
        return [*made, self._node("LSTM", read, node, [*node.attribute])]

    # -- nodes -----------------------------------------------------------------------------

    def _known(self, node: onnx.NodeProto, i: int) -> Array:
        found = self.constants.get(node.input[i])
        if found is None:
            raise ValueError(f"node '{node.name}' rounds by a scale that is no constant")
        return found

    def _constant(self, value: Array) -> tuple[str, list[onnx.NodeProto]]:
        import onnx

        self.count += 1
        name = f"edgeseq.real.{self.count}"
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape))
        return name, [onnx.helper.make_node("Constant", [], [name], value=tensor)]

    @staticmethod
    def _node(
        op: str, inputs: list[str], like: onnx.NodeProto, attributes: list[Any] | None = None
    ) -> onnx.NodeProto:
        import onnx

        made = onnx.helper.make_node(op, inputs, list(like.output), name=like.name)
        made.attribute.extend(attributes or [])
        return made


_RULES = {
    ("", "QuantizeLinear"): _Rewriter._rounded,
    ("", "DequantizeLinear"): _Rewriter._read_back,
    ("", "DynamicQuantizeLinear"): _Rewriter._scaled,
    ("", "MatMulInteger"): _Rewriter._matmul,
    ("", "ConvInteger"): _Rewriter._convolution,
    _DYNAMIC_LSTM: _Rewriter._lstm,
}
