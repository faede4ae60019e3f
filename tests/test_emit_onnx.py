"""ONNX step models in ONNX Runtime against the interpreter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from graphs import CELLS, FRAME8, functions_step, raw_frames, step, stored_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq.emit import format_of, formats
from edgeseq.emit.onnx import OPSETS, emit_onnx, state_names
from edgeseq.emit.onnx_run import OnnxStep, run_onnx
from edgeseq.errors import BackendError, DataError
from edgeseq.ir import Graph, Interpreter, Type, check
from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.io import from_stored, prepare, to_stored

VARIANTS = {
    "plain": {},
    "deep": {"layers": 2, "norm": True, "residual": True, "hidden": 5, "affine": True},
    "w16": {"weight_bits": 16, "hidden": 16},
}
# Greatest difference of an output, in units of its int16 format, over 200 carried steps.
CLOSE = {"plain": 2, "deep": 3, "w16": 1}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", [*CELLS, "dense"])
def test_float_equals_the_interpreter(cell: str, variant: str) -> None:
    graph = step(cell, **VARIANTS[variant])
    (raw,) = raw_frames(graph, batch=3, steps=60)
    want = Interpreter(graph, batch=3).sequence(prepare(graph, "x", raw))[0]
    got = run_onnx(emit_onnx(graph), raw)[0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=2e-6, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", [*CELLS, "dense"])
def test_integer_is_close_to_the_interpreter(cell: str, variant: str) -> None:
    graph = step(cell, integer=True, **VARIANTS[variant])
    raw = raw_frames(graph, batch=3, steps=200)
    interpreter = Interpreter(graph, batch=3)
    want = interpreter.sequence(*stored_frames(graph, batch=3, steps=200))[0]
    model = OnnxStep(emit_onnx(graph), batch=3)
    units = model.sequence(*raw)[0] / graph.types[graph.outputs[0]].scalar_scale
    # Outputs are whole multiples of the output's scale ...
    np.testing.assert_allclose(units, np.round(units), atol=1e-3)
    # ... and close to the definition after 200 carried steps, the states too.
    assert np.abs(np.round(units) - want).max() <= CLOSE[variant]
    for state in graph.states:
        t = graph.types[state.input]
        assert model.state[state.name].dtype == t.numpy
        away = model.state[state.name].astype(np.float64) - interpreter.state[state.name]
        assert np.abs(away).max() * t.scalar_scale <= 4 * 2.0**-12


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cell", [*CELLS, "dense"])
def test_exact_is_the_interpreter(cell: str, variant: str) -> None:
    graph = step(cell, integer=True, **VARIANTS[variant])
    raw = raw_frames(graph, batch=3, steps=100)
    interpreter = Interpreter(graph, batch=3)
    want = interpreter.sequence(*stored_frames(graph, batch=3, steps=100))[0]
    model = OnnxStep(emit_onnx(graph, kind="exact"), batch=3)
    got = model.sequence(*raw)[0]
    np.testing.assert_array_equal(got, from_stored(graph, graph.outputs[0], want))
    for state in graph.states:
        np.testing.assert_array_equal(model.state[state.name], interpreter.state[state.name])


@pytest.mark.parametrize("wide", [False, True])
def test_exact_holds_for_every_function_and_extreme_frames(wide: bool) -> None:
    graph = functions_step(integer=True, wide=wide)
    stored = np.linspace(-32768, 32767, 8 * 97).round().reshape(1, 97, 8)
    raw = stored * graph.types["x"].scalar_scale
    raw[0, -1] = [1e30, -1e30, np.inf, -np.inf, 0.0, 2.0**-14, -(2.0**-14), 3 * 2.0**-14]
    want = Interpreter(graph).sequence(to_stored(graph, "x", raw))
    got = run_onnx(emit_onnx(graph, kind="exact"), raw)
    for name, y, expected in zip(graph.outputs, got, want, strict=True):
        np.testing.assert_array_equal(y, from_stored(graph, name, expected))


_WORD = st.integers(-(1 << 20), 1 << 20)


@settings(max_examples=30, deadline=None)
@given(ma=_WORD, mb=_WORD, m=_WORD, s=st.integers(0, 30), seed=st.integers(0, 1 << 16))
def test_exact_holds_for_any_multiplier(ma: int, mb: int, m: int, s: int, seed: int) -> None:
    graph = Graph("any")
    narrow, wide = Type((8,), "i16", 1.0), Type((8,), "i32", 1.0)
    a, b = graph.add_input("a", narrow), graph.add_input("b", narrow)
    total = graph.add_node("add", [a, b], types=[wide], ma=ma, mb=mb, s=s)
    product = graph.add_node("mul", [a, b], types=[narrow], m=m, s=s)
    again = graph.add_node("rescale", [total], types=[narrow], m=m, s=s)
    rng = np.random.default_rng(seed)
    gain = graph.add_const("gain", rng.integers(-(1 << 30), 1 << 30, 8), Type((8,), "i32", 1.0))
    bias = graph.add_const("bias", rng.integers(-30000, 30000, 8), Type((8,), "i32", 1.0))
    norm = graph.add_node(
        "norm", [a, gain, bias], types=[narrow], eps=1 + abs(ma) ** 3 % (1 << 60), s=max(s, 1)
    )
    graph.outputs += [total, product, again, norm]
    check(graph)
    x = rng.integers(-32768, 32768, (2, 1, 16, 8)).astype(np.int16)
    x[0, 0, 0], x[0, 0, 1, 1:], x[0, 0, 2] = 7, -32768, x[0, 0, 2] >> 14
    want = Interpreter(graph).sequence(*x)
    got = run_onnx(emit_onnx(graph, kind="exact"), list(x.astype(np.float64)))
    for y, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(y, expected)


def test_eight_bit_frames() -> None:
    graph = step("gru", integer=True, frame=FRAME8)
    raw = raw_frames(graph, steps=100)
    want = Interpreter(graph).sequence(*stored_frames(graph, steps=100))[0]
    got = run_onnx(emit_onnx(graph), raw)[0] / graph.types[graph.outputs[0]].scalar_scale
    assert np.abs(np.round(got) - want).max() <= 2
    exact = run_onnx(emit_onnx(graph, kind="exact"), raw)[0]
    np.testing.assert_array_equal(exact, from_stored(graph, graph.outputs[0], want))


@pytest.mark.parametrize("wide", [False, True])
def test_every_function_and_movement(wide: bool) -> None:
    real, integer = functions_step(wide=wide), functions_step(integer=True, wide=wide)
    raw = raw_frames(real, batch=2, steps=40)
    want = Interpreter(real, batch=2).sequence(*raw)
    for got, expected in zip(run_onnx(emit_onnx(real), raw), want, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)
    exact = Interpreter(integer, batch=2).sequence(*stored_frames(integer, batch=2, steps=40))
    for got, expected in zip(run_onnx(emit_onnx(integer), raw), exact, strict=True):
        assert np.abs(np.round(got * 2.0**9) - expected).max() <= 1
    assert want[0].shape[2] == len(FUNCTIONS)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_runs(opset: int) -> None:
    for kind in ("float", "integer", "exact"):
        graph = functions_step(integer=kind != "float")
        raw = raw_frames(graph, steps=2)
        assert np.isfinite(run_onnx(emit_onnx(graph, kind=kind, opset=opset), raw)[0]).all()


def test_streaming_equals_the_whole_and_reset_starts_again() -> None:
    graph = step("lstm", integer=True, affine=True)
    (raw,) = raw_frames(graph, batch=2, steps=12)
    whole = OnnxStep(emit_onnx(graph), batch=2)
    want = whole.sequence(raw)[0]
    parts = [whole.reset(), *(whole.sequence(raw[:, a:b])[0] for a, b in ((0, 5), (5, 12)))][1:]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), want)


def test_a_state_starts_from_its_init() -> None:
    graph = step("gru", integer=True)
    graph.states[0].init[:] = np.arange(8) << 20
    model = OnnxStep(emit_onnx(graph), batch=2)
    np.testing.assert_array_equal(model.state["h0"], np.stack([np.arange(8) << 20] * 2))


def test_the_file_describes_itself() -> None:
    import onnx

    graph = step("lstm", integer=True, affine=True)
    info = {"classes": ["a", "b", "c"]}
    data = emit_onnx(graph, kind="integer", info=info)
    assert data == emit_onnx(graph, info=info)
    model = onnx.load_from_string(data)
    assert [i.name for i in model.graph.input] == ["x", "h0", "c0"]
    assert [o.name for o in model.graph.output] == [graph.outputs[0], "h0_next", "c0_next"]
    assert all(i.type.tensor_type.shape.dim[0].dim_param == "N" for i in model.graph.input)
    facts = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert facts["edgeseq.classes"] == ["a", "b", "c"]
    assert facts["edgeseq.states"][1]["scale"] == 2.0**-20
    kinds = {n.op_type for n in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    # Weights stay integers: one byte each.
    sizes = {t.name: t.data_type for t in model.graph.initializer if len(t.dims) == 2}
    assert set(sizes.values()) == {onnx.TensorProto.INT8}


def test_names_that_clash_are_told_apart() -> None:
    graph = step("lstm")
    graph.outputs = [graph.outputs[0], graph.outputs[0], graph.states[0].output, "x"]
    graph.states[0].name = "x"
    assert state_names(graph)[0] == ("x_2", "x_2_next")
    raw = raw_frames(graph, steps=3)
    y = run_onnx(emit_onnx(graph), raw)
    np.testing.assert_array_equal(y[0], y[1])
    np.testing.assert_array_equal(y[3], raw[0].astype(np.float32))


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    graph = step("gru")
    with pytest.raises(BackendError, match="is float, 'integer' was asked for"):
        emit_onnx(graph, kind="integer")
    with pytest.raises(BackendError, match="is integer, 'float' was asked for"):
        emit_onnx(step("gru", integer=True), kind="float")
    with pytest.raises(BackendError, match="opset 7 is not supported"):
        emit_onnx(graph, opset=7)
    with pytest.raises(BackendError, match="runs over time"):
        from edgeseq.ir import Time

        over = Graph("over")
        over.add_input("x", Type((2,), time=Time()))
        emit_onnx(over)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(BackendError, match=r"broken\.onnx: ONNX Runtime .* refuses"):
        OnnxStep(broken)
    with pytest.raises(DataError, match="needs"):
        run_onnx(emit_onnx(graph), np.zeros((2, 3, 4)))
    with pytest.raises(DataError, match="equally long"):
        run_onnx(emit_onnx(graph), np.zeros((2, 0, 5)))


def test_formats_are_found_by_place() -> None:
    assert {"native", "onnx"} <= set(formats())
    assert format_of("onnx").name == "onnx"
    with pytest.raises(BackendError, match="did you mean 'onnx'"):
        format_of("onxx")
