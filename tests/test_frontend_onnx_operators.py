"""The node tests of the onnx package: what is lowered is right, the rest says why it is not."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.node import collect_testcases

from edgeseq.errors import ModelError, UnsupportedError
from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.onnx_file import read_onnx
from edgeseq.frontend.onnx_lower import InputPlan, Lost, Lowering
from edgeseq.frontend.onnx_registry import ONNX
from edgeseq.ir import Graph, Interpreter, check

# Operators of several values; of the others only the first input depends on the input.
SEVERAL = {
    "Add", "Sub", "Mul", "Div", "MatMul", "Max", "Min", "Sum", "Mean", "Where", "Concat", "Greater",
    "Less", "Equal", "GreaterOrEqual", "LessOrEqual", "Einsum", "Gemm", "Scan", "ScatterND",
    "ScatterElements", "Attention",
}  # fmt: skip
# The package's expected values hold NaN, depend on a row in which nothing may be attended to, or
# are written with four digits.
EXCEPTIONS = ("qk_matmul_bias", "nan_robustness", "ceil_last_window_starts_on_pad")

# Those that the package has no case of which is a step of tensors: lists, statistics as outputs,
# stored integers, lengths that differ. `test_frontend_onnx` has models of them.
ELSEWHERE = {
    "ConcatFromSequence", "DequantizeLinear", "LayerNormalization", "QuantizeLinear",
    "ReverseSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
    "SequenceInsert", "SequenceLength", "SimplifiedLayerNormalization", "SplitToSequence",
}  # fmt: skip


def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


def lowered(path: Path, ins: list[np.ndarray]) -> tuple[Lowering, list[np.ndarray]]:
    """The case as a step in which the first (or every) real input is a value."""
    program = read_onnx(path)
    kinds = {op.target.removeprefix("onnx.") for op in program.operations}
    values = [n for n, a in zip(program.inputs, ins, strict=False) if a.dtype.kind == "f"]
    if not kinds & SEVERAL:
        values = values[:1]
    low = Lowering(program, Graph("m"))
    feed = []
    plans = {}
    for name, array in zip(program.inputs, ins, strict=False):
        if name in values and 0 not in array.shape:
            plans[name] = InputPlan(array.shape, None)
            feed.append(array)
        else:
            low.env[name] = array
    program.inputs[:] = list(plans)
    low.bind_inputs(plans, [], stream=False)
    low.run()
    return low, feed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_node_tests_of_the_onnx_package(tmp_path: Path) -> None:
    outcome: Counter[str] = Counter()
    wrong: list[str] = []
    covered: set[str] = set()
    for case in cases():
        name, kinds = case.name, {n.op_type for n in case.model.graph.node}
        if not kinds & {*ONNX, "If", "Loop", "Scan"} or any(e in name for e in EXCEPTIONS):
            continue
        try:
            ins, outs = ([np.asarray(a) for a in part] for part in case.data_sets[0])
        except (ValueError, TypeError):
            continue  # sequences and optionals
        path = tmp_path / "m.onnx"
        onnx.save(case.model, path)
        try:
            low, feed = lowered(path, ins)
            got = [low.resolve(r) for r in low.program.outputs]
            if any(isinstance(v, Lost) for v in got) or not feed:
                outcome["refused"] += 1
                continue
            got = [low.c.real(v) if isinstance(v, Value) else v for v in got]
        except (UnsupportedError, ModelError, LayoutError):
            outcome["refused"] += 1
            continue
        g = low.c.graph
        g.outputs = [v.name for v in got if isinstance(v, Value)]
        if not g.outputs or any(v.name in low.c.quantised for v in got if isinstance(v, Value)):
            outcome["constant or stored"] += 1
            continue
        g.prune()
        check(g)
        frames = [x.reshape(1, *g.types[n].shape) for x, n in zip(feed, g.inputs, strict=True)]
        with np.errstate(all="ignore"):
            made = iter(Interpreter(g)(*frames))
        for v, want in zip(got, outs, strict=True):
            y = next(made)[0] if isinstance(v, Value) else np.asarray(v)
            want = np.asarray(want, np.float64)
            if isinstance(v, Value) and v.sizes != want.shape:
                wrong.append(f"{name}: {v.sizes} instead of {want.shape}")
                break
            tolerance = 2e-3 if "16" in name else 1e-5
            error = np.abs(np.asarray(y, np.float64).reshape(want.shape) - want).max(initial=0)
            if not error <= tolerance * max(float(np.abs(want).max(initial=0)), 1e-6):
                wrong.append(f"{name}: off by {error}")
                break
        else:
            outcome["right"] += 1
            covered |= kinds & set(ONNX)
    print(dict(outcome), sorted(set(ONNX) - covered))
    assert not wrong
    assert outcome["right"] > 740
    assert set(ONNX) - covered == ELSEWHERE
