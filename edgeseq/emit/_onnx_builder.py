"""A small builder of ONNX models: names, initialisers, nodes, and the check at the end."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._numbers import finite
from edgeseq.errors import BackendError

__all__ = ["Builder", "load_onnx"]

Array = npt.NDArray[Any]


def load_onnx() -> Any:
    """The onnx package.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendError(
            f"onnx cannot be imported ({error})",
            where="ONNX emitter",
            fix="pip install 'edgeseq[compile]'",
        ) from error
    return onnx


class Builder:
    """Collects the parts of one ONNX graph with a dynamic batch axis `N`.

    Args:
        name: of the graph.
        opset: of the default domain.
        reserved: names of the model's inputs and outputs; inner tensors get others.
    """

    def __init__(self, name: str, opset: int, reserved: Sequence[str]) -> None:
        self.onnx = load_onnx()
        self.name, self.opset = name, opset
        self._taken = dict.fromkeys(reserved, 2)
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._batch: list[str] = []
        self._root = self

    def fresh(self, hint: str) -> str:
        """A tensor name not yet in use."""
        name = hint
        if hint in self._taken:
            i = self._taken[hint]
            while f"{hint}_{i}" in self._taken:
                i += 1
            self._taken[hint], name = i + 1, f"{hint}_{i}"
        self._taken[name] = 2
        return name

    def const(self, array: npt.ArrayLike, hint: str = "const") -> str:
        """An initialiser; equal arrays are stored once."""
        value = np.asarray(array)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._shared:
            name = self.fresh(hint)
            self._initializers.append(self.onnx.numpy_helper.from_array(value, name))
            self._shared[key] = name
        return self._shared[key]

    def f32(self, array: npt.ArrayLike, hint: str = "const") -> str:
        """A float32 initialiser; what is beyond its range is the end of it, not infinity."""
        return self.const(finite(array), hint)

    def ints(self, values: npt.ArrayLike, hint: str = "axis_index") -> str:
        """An int64 initialiser: a shape, axes, indices."""
        return self.const(np.asarray(values, np.int64), hint)

    def cast(self, tensor: str, dtype: npt.DTypeLike, hint: str = "") -> str:
        """The same numbers as another element type."""
        to = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", tensor, to=to, hint=hint)

    def batched(self, tensor: str, shape: Sequence[int], hint: str = "batched") -> str:
        """A tensor [N, *shape] that holds `tensor` [*shape] for every row of the batch."""
        if not self._batch:
            root = self._root
            self._batch.append(root.node("Shape", root._inputs[0].name, start=0, end=1))
        full = self.node("Concat", self._batch[0], self.ints(shape, "shape"), axis=0)
        return self.node("Expand", tensor, full, hint=hint)

    def node(self, op: str, *inputs: str, out: str = "", hint: str = "", **attrs: Any) -> str:
        """Append a node with one output and return the output's name.

        Args:
            op: ONNX operator.
            inputs: tensor names ("" for an absent optional one).
            out: exact name of the output; by default a fresh one made from `hint` or `op`.
            attrs: the operator's attributes.
        """
        name = out or self.fresh(hint or op.lower())
        self.nodes(op, inputs, [name], **attrs)
        return name

    def nodes(self, op: str, inputs: Sequence[str], outs: Sequence[str], **attrs: Any) -> None:
        """Append a node with the given outputs."""
        make = self.onnx.helper.make_node
        self._nodes.append(make(op, list(inputs), list(outs), name=f"{outs[0]}:{op}", **attrs))

    def body(self) -> Builder:
        """A builder of the body of a loop; names and initialisers are those of this graph."""
        twin = copy.copy(self)
        twin._nodes, twin._inputs, twin._outputs = [], [], []
        return twin

    def body_graph(self, name: str) -> Any:
        """What a `body` collected, as the attribute of a node."""
        return self.onnx.helper.make_graph(self._nodes, name, self._inputs, self._outputs)

    def input(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int], doc: str = "") -> str:
        """Declare a model input [N, *shape]."""
        self._inputs.append(self._info(name, dtype, shape, doc))
        return name

    def output(
        self, name: str, tensor: str, dtype: npt.DTypeLike, shape: Sequence[int], doc: str = ""
    ) -> None:
        """Declare a model output [N, *shape] that holds `tensor`."""
        self.node("Identity", tensor, out=name)
        self._outputs.append(self._info(name, dtype, shape, doc))

    def serialise(self, *, doc: str, metadata: dict[str, str], version: str) -> bytes:
        """The checked model as bytes; the same parts give the same bytes.

        Raises:
            BackendError: the ONNX checker refuses it (a bug of the emitter).
        """
        helper = self.onnx.helper
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, self._initializers
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="edgeseq",
            producer_version=version,
            doc_string=doc,
        )
        helper.set_model_props(model, metadata)
        try:
            self.onnx.checker.check_model(model, full_check=True)
        except (
            self.onnx.checker.ValidationError,
            self.onnx.shape_inference.InferenceError,
        ) as error:
            raise BackendError(
                f"the ONNX checker refuses the model: {error}",
                where=f"graph {self.name!r}",
                fix="this is a bug in edgeseq; please report the model",
            ) from error
        return bytes(model.SerializeToString(deterministic=True))

    def _info(self, name: str, dtype: npt.DTypeLike, shape: Sequence[int], doc: str) -> Any:
        helper = self.onnx.helper
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, element, ["N", *shape], doc_string=doc)
