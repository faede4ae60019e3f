"""ONNX models of the operations on whole frames, in ONNX Runtime against the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_graphs import CASES, MID, IntegerOps, RealOps, op_frames, op_step, stored_op_frames

from edgeseq.compiler.runtimes import level_of
from edgeseq.emit.onnx import OPSETS, emit_onnx
from edgeseq.emit.onnx_run import OnnxStep, run_onnx
from edgeseq.errors import DataError
from edgeseq.fixed import lut_fit, wide_table
from edgeseq.ir import Graph, Interpreter, Type, check
from edgeseq.ir.io import from_stored, to_stored

HOW = {"batch": 3, "steps": 40}


@pytest.mark.parametrize("case", CASES)
def test_float_equals_the_interpreter(case: str) -> None:
    graph = op_step(case)
    raw = op_frames(graph, **HOW)
    want = Interpreter(graph, batch=3).sequence(*raw)
    for y, expected in zip(run_onnx(emit_onnx(graph), raw), want, strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_exact_is_the_interpreter(case: str) -> None:
    graph = op_step(case, integer=True)
    machine = Interpreter(graph, batch=3)
    want = machine.sequence(*stored_op_frames(graph, **HOW))
    model = OnnxStep(emit_onnx(graph, kind="exact"), batch=3)
    got = model.sequence(*op_frames(graph, **HOW))
    for name, y, expected in zip(graph.outputs, got, want, strict=True):
        np.testing.assert_array_equal(y, from_stored(graph, name, expected), err_msg=name)
    for state in graph.states:
        np.testing.assert_array_equal(model.state[state.name], machine.state[state.name])


@pytest.mark.parametrize("case", CASES)
def test_integer_keeps_its_level(case: str) -> None:
    graph = op_step(case, integer=True)
    want = Interpreter(graph, batch=3).sequence(*stored_op_frames(graph, **HOW))
    got = run_onnx(emit_onnx(graph), op_frames(graph, **HOW))
    level = level_of("onnx_int", 16)
    for name, y, stored in zip(graph.outputs, got, want, strict=True):
        assert level.passes(level.worst(from_stored(graph, name, stored), y)), name
        units = y / graph.types[name].scalar_scale
        np.testing.assert_allclose(units, np.round(units), atol=1e-3)


def test_integer_moves_and_compares_exactly() -> None:
    """... stored integers, also 32-bit ones and at equal numbers: not real ones beside them."""
    for case, exact in (("views", range(11)), ("choices", [0, 1, *range(3, 9), 10, 11])):
        graph = op_step(case, integer=True)
        frames = stored_op_frames(graph, **HOW)
        frames = [np.round(x / 2048).astype(np.int16) * 2048 for x in frames]  # many are equal
        want = Interpreter(graph, batch=3).sequence(*frames)
        raw = [x * 2.0**-13 for x in frames]
        for i, y in enumerate(run_onnx(emit_onnx(graph), raw)):
            if i in exact:
                np.testing.assert_array_equal(y, from_stored(graph, graph.outputs[i], want[i]))


@pytest.mark.parametrize("opset", [OPSETS.start, OPSETS.stop - 1])
@pytest.mark.parametrize("kind", ["float", "integer", "exact"])
def test_oldest_and_newest_opset(kind: str, opset: int) -> None:
    for case in ("attention", "choices", "wide"):
        graph = op_step(case, integer=kind != "float")
        raw = op_frames(graph, steps=3)
        want, got = (
            run_onnx(emit_onnx(graph, kind=kind, opset=o), raw) for o in (OPSETS.start, opset)
        )
        np.testing.assert_allclose(got[0], want[0], atol=1e-5)


@pytest.mark.parametrize("longest", [0, 60])
@pytest.mark.parametrize("kind", ["float", "integer", "exact"])
def test_long_loops_stay_loops(kind: str, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    graph = op_step("loop", integer=kind != "float")
    raw = op_frames(graph, **HOW)
    want = run_onnx(emit_onnx(graph, kind=kind), raw)
    monkeypatch.setattr("edgeseq.emit.onnx.LONGEST_LOOP", longest)
    data = emit_onnx(graph, kind=kind)
    scans = [n for n in onnx.load_from_string(data).graph.node if n.op_type == "Scan"]
    assert len(scans) == (3 if longest == 0 else 1)
    for a, b in zip(run_onnx(data, raw), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if kind == "exact" else 1e-5)


# -- exact arithmetic ----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    fn=st.sampled_from(["sqrt", "rsqrt", "reciprocal", "log"]),
    m=st.integers(-(1 << 31), (1 << 31) - 1),
    s=st.integers(15, 32),
    b=st.integers(-1000, 1000),
    seed=st.integers(0, 1 << 16),
)
def test_exact_holds_for_any_wide_function(fn: str, m: int, s: int, b: int, seed: int) -> None:
    g = Graph("wide")
    x = g.add_input("x", Type((64,), "i32", 1.0))
    c = g.add_const("table", wide_table(fn), Type((193,), "i32", 1.0))
    offset = 0 if fn == "reciprocal" else b
    m = m >> 2 if fn == "log" else m  # beyond 2^29 a logarithm does not fit 64 bits
    for dtype in ("i16", "i32"):
        t = Type((64,), dtype, 1.0)
        g.outputs.append(g.add_node("wide", [x, c], types=[t], fn=fn, m=m, s=s, b=offset))
    check(g)
    rng = np.random.default_rng(seed)
    top = 1 << rng.integers(0, 32, 64)
    stored = rng.integers(-top, top).clip(-(1 << 31), (1 << 31) - 1)[None, None].astype(np.int32)
    stored[0, 0, :6] = [0, 1, -1, -(1 << 31), (1 << 31) - 1, 1 << 30]
    want = Interpreter(g).sequence(stored)
    got = run_onnx(emit_onnx(g, kind="exact"), stored.astype(np.float64))
    for y, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(y, expected)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(0, 1 << 30),
    s=st.integers(0, 62),
    k=st.integers(0, 10),
    dtype=st.sampled_from(["i8", "i16", "i32"]),
    seed=st.integers(0, 1 << 16),
)
def test_exact_holds_for_any_softmax(m: int, s: int, k: int, dtype: str, seed: int) -> None:
    g = Graph("softmax")
    x = g.add_input("x", Type((5, 7), dtype, 1.0))
    c = g.add_const(
        "table", lut_fit(np.exp, -16.0, 0.0, 256, 2.0**-15, "i16"), Type((257,), "i16", 2.0**-15)
    )
    t = Type((5, 7), "i16", 2.0**-15)
    g.outputs.append(g.add_node("softmax", [x, c], types=[t], m=m, s=s, lo=-(256 << k), k=k))
    check(g)
    info = np.iinfo(g.types["x"].numpy)
    rng = np.random.default_rng(seed)
    stored = rng.integers(info.min, info.max, (1, 8, 5, 7), endpoint=True).astype(info.dtype)
    stored[0, 0], stored[0, 1] = 3, stored[0, 1] // 100
    stored[0, 2, 0, :2] = info.min, info.max
    want = Interpreter(g).sequence(stored)[0]
    got = run_onnx(emit_onnx(g, kind="exact"), stored.astype(np.float64))[0]
    np.testing.assert_array_equal(got, want * 2.0**-15)


# -- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float", "integer", "exact"])
def test_constant_outputs_and_states_get_the_batch_axis(kind: str) -> None:
    b = (RealOps if kind == "float" else IntegerOps)("constant")
    x = b.frame("x", (3,), MID)
    c = b.const("c", np.arange(6.0).reshape(2, 3) / 4, MID)
    h = b.memory("h", (2, 3), MID)
    b.graph.set_state(h, b.strided(c, (2, 3), (3, -1), 2))
    b.graph.outputs += [c, b.add(h, c, MID), b.concat(b.strided(c, (3,), (1,)), x)]
    graph = b.graph
    check(graph)
    raw = np.round(op_frames(graph, steps=3)[0] * 64) / 64
    frames = raw if kind == "float" else to_stored(graph, x, raw)
    want = Interpreter(graph, batch=2).sequence(frames)
    got = run_onnx(emit_onnx(graph, kind=kind), raw)
    for name, y, expected in zip(graph.outputs, got, want, strict=True):
        np.testing.assert_allclose(y, from_stored(graph, name, expected), atol=1e-6)


def test_a_step_of_several_frames_takes_whole_sequences() -> None:
    b = RealOps("block")
    x = b.frame("x", (4, 3))
    b.graph.meta["frames_per_step"] = 4
    y = b.strided(x, (2, 3), (6, 1))
    b.graph.meta["elements"] = {y: 2}
    b.graph.outputs.append(y)
    (raw,) = (np.random.default_rng(0).normal(size=(2, 12, 3)),)
    (got,) = run_onnx(emit_onnx(b.graph), raw)
    np.testing.assert_allclose(got, raw[:, ::2], atol=1e-6)
    with pytest.raises(DataError, match="4. frames a step"):
        run_onnx(emit_onnx(b.graph), raw[:, :10])


def test_no_constant_is_infinite() -> None:
    import onnx

    b = RealOps("far")
    b.graph.outputs.append(b.clamp(b.frame("x", (3,)), -1e300, 1e300))
    graphs = [b.graph, *(op_step(c, integer=i) for c in CASES for i in (False, True))]
    for graph in graphs:
        for t in onnx.load_from_string(emit_onnx(graph)).graph.initializer:
            assert np.all(np.isfinite(onnx.numpy_helper.to_array(t))), t.name


def test_weights_stay_small_integers() -> None:
    import onnx

    for case in ("convolutions", "attention"):
        model = onnx.load_from_string(emit_onnx(op_step(case, integer=True)))
        kinds: dict[Any, int] = {}
        for t in model.graph.initializer:
            kinds[t.data_type] = kinds.get(t.data_type, 0) + int(np.prod(t.dims))
        small = kinds[onnx.TensorProto.INT8] + kinds.get(onnx.TensorProto.INT16, 0)
        assert small > 2 * kinds[onnx.TensorProto.FLOAT]
