"""An If of which the input decides: both branches are computed, one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import Net, run

from edgeseq.errors import UnsupportedError
from edgeseq.frontend.load import from_onnx
from edgeseq.ir import Interpreter
from edgeseq.passes import to_step


def branch(nodes: list[Any], *outputs: str) -> Any:
    results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
    return helper.make_graph(nodes, "branch", [], results)


def either(n: Net, condition: str, first: Any, second: Any, outputs: int = 1) -> Any:
    return n.op("If", condition, outputs=outputs, then_branch=first, else_branch=second)


def node(kind: str, inputs: str, output: str, **attrs: Any) -> Any:
    return helper.make_node(kind, inputs.split(), [output], **attrs)


def positive(n: Net, x: str, shape: list[int] | None) -> str:
    """Whether the first element is above 0, as a tensor of one element."""
    first = n.op("Slice", x, *(n.const([v], np.int64) for v in (0, 1, 1)))
    above = n.op("Greater", first, n.const(0.0))
    return n.op("Reshape", above, n.const(shape or [], np.int64))


def verified(n: Net) -> None:
    """A small model whose doubts a larger one settles."""
    x = n.input("x", [1, 6])
    score = n.op("Sigmoid", n.op("MatMul", x, n.weight(6, 1, scale=2)))
    sure = n.op("GreaterOrEqual", score, n.const([0.5]))
    w = n.weight(6, 1)
    second = [node("MatMul", f"{x} {w}", "m"), node("Sigmoid", "m", "p")]
    n.output(either(n, sure, branch(second, "p"), branch([node("Identity", score, "q")], "q")),
             [1, 1], "y")  # fmt: skip


def with_a_constant(n: Net) -> None:
    x = n.input("x", [1, 6])
    c = n.const(np.arange(6.0)[None])
    names = either(n, positive(n, x, None), branch([node("Identity", c, "a")], "a"),
                   branch([node("Tanh", x, "a")], "a"))  # fmt: skip
    n.output(names, [1, 6], "y")


def several_outputs(n: Net) -> None:
    x = n.input("x", [1, 6])
    a, b = either(
        n, positive(n, x, [1]), branch([node("Neg", x, "a"), node("Abs", x, "b")], "a", "b"),
        branch([node("Abs", x, "b"), node("Relu", "b", "a")], "b", "a"), 2,
    )  # fmt: skip
    n.output(n.op("Concat", a, b, axis=1), [1, 12], "y")


def nested(n: Net) -> None:
    x = n.input("x", [1, 6])
    inner = node("If", positive(n, n.op("Neg", x), [1]), "i",
                 then_branch=branch([node("Sin", x, "s")], "s"),
                 else_branch=branch([node("Cos", x, "t")], "t"))  # fmt: skip
    n.output(either(n, positive(n, n.op("Sub", x, n.const(0.5)), None),
                    branch([node("Relu", x, "r")], "r"), branch([inner], "i")),
             [1, 6], "y")  # fmt: skip


@pytest.mark.parametrize("build", [verified, with_a_constant, several_outputs, nested])
def test_the_branch_that_the_runtime_takes(build: Callable[[Net], None], tmp_path: Path) -> None:
    n = Net()
    build(n)
    path = n.save(tmp_path / "m.onnx")
    step = to_step(from_onnx(path))
    frames = np.random.default_rng(0).normal(size=(40, 1, 6)).astype(np.float32)
    want = np.concatenate([run(path, x=f)["y"] for f in frames])
    machine = Interpreter(step)
    got = np.concatenate([machine(f)[0].reshape(1, -1) for f in frames])
    np.testing.assert_allclose(got, want, atol=1e-5)


def in_a_scan() -> Any:
    """A loop over frames whose state rises or falls, as the frame says."""
    n = Net()
    x = n.input("x", ["time", 3])
    start = n.const(np.zeros(3))
    half, zero = n.const(0.5), n.const(0.0)
    body = helper.make_graph(
        [
            node("ReduceSum", "v", "sum", keepdims=0),
            node("Greater", f"sum {zero}", "rises"),
            node("If", "rises", "t",
                 then_branch=branch([node("Mul", f"s {half}", "h"), node("Add", "h v", "a")], "a"),
                 else_branch=branch([node("Mul", f"s {half}", "a")], "a")),
            node("Identity", "t", "o"),
        ],
        "body",
        [helper.make_tensor_value_info(i, TensorProto.FLOAT, [3]) for i in ("s", "v")],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, [3]) for o in ("t", "o")],
    )  # fmt: skip
    _, y = n.op("Scan", start, x, outputs=2, body=body, num_scan_inputs=1)
    n.output(y, ["time", 3], "y")
    return n


def test_in_a_loop_over_frames(tmp_path: Path) -> None:
    path = in_a_scan().save(tmp_path / "m.onnx")
    x = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    got = Interpreter(to_step(from_onnx(path))).sequence(x[None])[0][0]
    np.testing.assert_allclose(got, run(path, x=x)["y"], atol=1e-5)


def test_branches_of_two_shapes_are_refused(tmp_path: Path) -> None:
    n = Net()
    x = n.input("x", [1, 6])
    one = branch([node("ReduceSum", x, "a", keepdims=1)], "a")
    n.output(either(n, positive(n, x, None), one, branch([node("Neg", x, "b")], "b")), None, "y")
    with pytest.raises(UnsupportedError, match=r"sizes \[1, 1\] and \[1, 6\].*one shape"):
        from_onnx(n.save(tmp_path / "m.onnx"))


def test_a_condition_of_the_whole_sequence_is_refused(tmp_path: Path) -> None:
    n = Net()
    x = n.input("x", ["time", 6])
    test = n.op("Greater", n.op("ReduceSum", x, keepdims=0), n.const(0.0))
    n.output(either(n, test, branch([node("Relu", x, "a")], "a"),
                    branch([node("Neg", x, "b")], "b")), ["time", 6], "y")  # fmt: skip
    with pytest.raises(UnsupportedError, match="reduces over time"):
        from_onnx(n.save(tmp_path / "m.onnx"))
