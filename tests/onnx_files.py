"""Small ONNX models for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

from edgeseq.frontend.onnx_fold import fold_onnx
from edgeseq.frontend.program import Program

NEWEST = onnx.defs.onnx_opset_version()
X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def info(name: str, *shape: Any, kind: int = T.FLOAT) -> Any:
    return h.make_tensor_value_info(name, kind, list(shape))


def model(
    nodes: list[Any],
    *,
    opset: int = 17,
    inputs: Any = (("x", 2, 3, 4),),
    outputs: Any = ("y",),
    consts: dict[str, Any] | None = None,
    functions: Any = (),
    **more: Any,
) -> Any:
    inits = [
        onnx.numpy_helper.from_array(np.asarray(v), k) if not isinstance(v, T) else v
        for k, v in (consts or {}).items()
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [info(*i) if isinstance(i, tuple) else i for i in inputs],
        [h.make_empty_tensor_value_info(o) if isinstance(o, str) else o for o in outputs],
        inits,
    )
    opsets = [h.make_opsetid("", opset), h.make_opsetid("mine", 1)]
    return h.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8, **more)


def node(op: str, inputs: str, outputs: str = "y", **attrs: Any) -> Any:
    """A node of the inputs and outputs that the strings list; '-' is one left out."""
    names = ["" if n == "-" else n for n in inputs.split()]
    return h.make_node(op, names, ["" if n == "-" else n for n in outputs.split()], **attrs)


def evaluate(program: Program, values: dict[str, Any]) -> list[Any]:
    """Outputs of a program of which every operator is folded."""
    env: dict[str, Any] = {**program.constants, **values}
    for op in program.operations:
        args = [None if r is None else env[r.name] for r in op.args["inputs"]]
        env |= zip(op.outputs, fold_onnx(op, args, outer=env), strict=True)
    return [env[r.name] for r in program.outputs]


def inputs_of(program: Program, op: str) -> list[Any]:
    """Inputs of the only operation `op`; constants by value."""
    (found,) = (o for o in program.operations if o.target == f"onnx.{op}")
    return [
        program.constants.get(r.name, r.name) if r is not None else None
        for r in found.args["inputs"]
    ]


def conditional(*, name: str = "r") -> Any:
    def branch(op: str) -> Any:
        return h.make_graph([node(op, "x", name)], "b", [], [info(name, 3)])

    return node("If", "c", then_branch=branch("Relu"), else_branch=branch("Neg"))


def function(name: str, inputs: str, outputs: str, nodes: list[Any], **more: Any) -> Any:
    opsets = [h.make_opsetid("", 17), h.make_opsetid("mine", 1)]
    return h.make_function("mine", name, inputs.split(), outputs.split(), nodes, opsets, **more)


def call(name: str, inputs: str, outputs: str = "y", **attrs: Any) -> Any:
    made = node(name, inputs, outputs, **attrs)
    made.domain = "mine"
    return made
