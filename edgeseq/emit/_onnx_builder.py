"""A small builder of ONNX models: names, initialisers, nodes, and the check at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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
        self._taken = set(reserved)
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._shared: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def fresh(self, hint: str) -> str:
        """A tensor name not yet in use."""
        name, i = hint, 1
        while name in self._taken:
            i += 1
            name = f"{hint}_{i}"
        self._taken.add(name)
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
        """A float32 initialiser."""
        return self.const(np.asarray(array, np.float32), hint)

    def node(self, op: str, *inputs: str, out: str = "", hint: str = "", **attrs: Any) -> str:
        """Append a node with one output and return the output's name.

        Args:
            op: ONNX operator.
            inputs: tensor names ("" for an absent optional one).
            out: exact name of the output; by default a fresh one made from `hint` or `op`.
            attrs: the operator's attributes.
        """
        name = out or self.fresh(hint or op.lower())
        self._nodes.append(
            self.onnx.helper.make_node(op, list(inputs), [name], name=f"{name}:{op}", **attrs)
        )
        return name

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
