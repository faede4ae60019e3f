"""Small ONNX models for tests, made operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Net", "run"]


class Net:
    """A model under construction: every method appends a node and returns its output's name."""

    def __init__(self, opset: int = 18, seed: int = 0) -> None:
        self.opset, self.rng = opset, np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.count = 0

    def input(self, name: str, shape: Sequence[Any], kind: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, value: str, shape: Sequence[Any] | None, name: str | None = None) -> None:
        name = name or value
        if name != value:
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def const(self, array: Any, dtype: Any = np.float32) -> str:
        self.count += 1
        name = f"w{self.count}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weight(self, *shape: int, scale: float = 0.4) -> str:
        return self.const(self.rng.normal(size=shape) * scale)

    def op(self, kind: str, *inputs: str, outputs: int | Sequence[str] = 1, **attrs: Any) -> Any:
        self.count += 1
        names = (
            [f"{kind.lower()}{self.count}_{i}" for i in range(outputs)]
            if isinstance(outputs, int)
            else list(outputs)
        )
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attrs))
        return names[0] if len(names) == 1 else names

    def conv(self, x: str, out: int, inner: int, kernel: int, **attrs: Any) -> str:
        group = attrs.get("group", 1)
        w = self.weight(out, inner // group, kernel)
        return self.op("Conv", x, w, self.weight(out), **attrs)

    def recurrent(self, kind: str, x: str, size: int, hidden: int, **more: Any) -> Any:
        gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
        ways = 2 if more.get("direction") == "bidirectional" else 1
        initial = more.pop("initial", [])
        extra = more.pop("extra", [])
        w, r = self.weight(ways, gates * hidden, size), self.weight(ways, gates * hidden, hidden)
        b = self.weight(ways, 2 * gates * hidden)
        return self.op(
            kind, x, w, r, b, "", *initial, *extra, hidden_size=hidden,
            outputs=3 if kind == "LSTM" else 2, **more,
        )  # fmt: skip

    def save(self, path: Path) -> Path:
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 10
        onnx.save(model, path)
        return path


def run(path: Path, **feed: Any) -> dict[str, np.ndarray]:
    """Outputs of the file in ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))
