"""TFLite models against the integer interpreter, in every runtime there is."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import numpy.typing as npt
import pytest

from edgeseq.emit.tflite import (
    ENGINES,
    TfliteModel,
    compare_tflite,
    emit_tflite,
    engine_status,
    read_tflite,
    run_tflite,
)
from edgeseq.errors import (
    ArtifactError,
    BackendError,
    DataError,
    UnsupportedError,
    UsageError,
)
from edgeseq.fixed import lut_fit
from edgeseq.ir import Graph, Interpreter, Type, check
from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.io import to_stored

Array = npt.NDArray[Any]

CASES: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn"},
    "rnn_relu": {"cell": "rnn_relu"},
    "gru": {"cell": "gru"},
    "lstm": {"cell": "lstm"},
    "stack": {"cell": "gru", "layers": 2, "norm": True, "residual": True, "inputs": 8},
    "wide-weights": {"cell": "gru", "weight_bits": 16},
    "narrow-frames": {"cell": "lstm", "frame": graphs.FRAME8},
}
#: `Close(n LSB)` of the output, n by width; 8-bit pre-activations move an output by a few of its
#: (256 times coarser) units.
LEVELS = {"int16": 2, "int8": 4}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each runtime; a missing one is skipped, with the reason."""
    status = engine_status(request.param)
    if not status.available:
        pytest.skip(f"{request.param} is not available: {status.reason}")
    return str(request.param)


def made(
    case: str, activations: str = "int16", state: str = "explicit"
) -> tuple[Graph, TfliteModel, list[Array]]:
    """A case's integer step, its model, and frames to run."""
    graph = graphs.step(integer=True, **CASES[case])
    calibration = graphs.stored_frames(graph, batch=8, steps=100, seed=5)
    model = emit_tflite(graph, activations=activations, state=state, frames=calibration)  # type: ignore[arg-type]
    return graph, model, graphs.stored_frames(graph, batch=3, steps=40)


@pytest.mark.parametrize(
    ("case", "activations"),
    [*((c, "int16") for c in CASES), *((c, "int8") for c in ("rnn_relu", "lstm", "stack"))],
)
def test_close_to_the_interpreter(case: str, activations: str, engine: str) -> None:
    graph, model, frames = made(case, activations)
    found = compare_tflite(graph, model, *frames, engine=engine)
    assert found.lsb <= LEVELS[activations], found
    assert found.steps == 120
    # Wide states keep all their bits; what differs comes from the gates.
    assert max(found.states.values()) < (0.001 if activations == "int16" else 0.12), found


@pytest.mark.parametrize("wide", [False, True])
def test_every_function_and_movement(wide: bool, engine: str) -> None:
    graph = graphs.functions_step(integer=True, wide=wide)
    frames = graphs.stored_frames(graph, batch=4, steps=30)
    model = emit_tflite(graph, frames=frames)
    assert compare_tflite(graph, model, *frames, engine=engine).lsb <= 1


@pytest.mark.parametrize("case", ["gru", "lstm"])
def test_internal_state_equals_explicit_state(case: str, engine: str) -> None:
    """... from a non-zero start, over several sequences, so that `reset` has to work."""
    graph = graphs.step(integer=True, **CASES[case])
    for i, s in enumerate(graph.states):
        s.init = (np.arange(s.init.size, dtype=s.init.dtype) * 700 * (i + 1)).astype(s.init.dtype)
    frames = graphs.stored_frames(graph, batch=3, steps=12)
    inside = emit_tflite(graph, state="internal", frames=frames)
    outside = emit_tflite(graph, frames=frames)
    a, b = (run_tflite(m, *frames, engine=engine).outputs[0] for m in (inside, outside))
    np.testing.assert_array_equal(a, b)
    assert inside.operators["CALL_ONCE"] == 1


def test_batch_equals_one_by_one(engine: str) -> None:
    _, model, frames = made("gru", "int8")
    together = run_tflite(model, *frames, engine=engine, trace=True)
    alone = run_tflite(model, frames[0][1:2], engine=engine, trace=True)
    np.testing.assert_array_equal(together.outputs[0][1:2], alone.outputs[0])
    np.testing.assert_array_equal(together.trace["h0"][1:2], alone.trace["h0"])
    np.testing.assert_array_equal(together.trace["h0"][:, -1], together.states["h0"])


# -- exact arithmetic ----------------------------------------------------------------------------


def _exact_graph() -> Graph:
    """32-bit arithmetic with every kind of multiplier and shift, each result a state."""
    g = Graph("exact")
    wide = [g.add_input(n, Type((4,), "i32", 1.0)) for n in ("a", "b")]
    narrow = g.add_input("n", Type((4,), "i16", 1.0))
    row = g.add_const("row", np.array([-3, 7, 1 << 20, -(1 << 30)]), Type((4,), "i32", 1.0))

    def keep(op: str, inputs: list[str], **attrs: Any) -> None:
        t = Type((4,), "i32", 1.0)
        state = g.add_state("s", t)
        out = g.add_node(op, inputs, types=[t], **attrs)
        g.set_state(state, out)
        g.outputs.append(out)

    a, b = wide
    for ma, mb, s in ((1, 1, 0), (1, -1, 0), (-5, 3, 2), (1024, 1, 10), (1, 32, 5), (77, -3, 33)):
        keep("add", [a, b], ma=ma, mb=mb, s=s)
    keep("add", [narrow, narrow], ma=-32768, mb=-1, s=3)
    keep("add", [a, row], ma=3, mb=1, s=1)
    for m, s in ((1, 15), (1, 16), (3, 15), (1, 32), (-7, 40), (1, 2), (1, 0)):
        keep("mul", [narrow, a], m=m, s=s)
    keep("mul", [narrow, narrow], m=1, s=10)
    keep("mul", [a, narrow], m=1, s=15)
    for m, s in ((1, 5), (3, 33), (1 << 20, 31), (-2, 0), (1, 32)):
        keep("rescale", [b], m=m, s=s)
    keep("rescale", [narrow], m=32768, s=0)
    keep("clamp", [a], lo=-1000, hi=1 << 28)
    check(g)
    return g


@pytest.mark.parametrize("activations", ["int16", "int8"])
def test_wide_arithmetic_is_exact(activations: str, engine: str) -> None:
    g = _exact_graph()
    rng = np.random.default_rng(3)
    magnitude = rng.integers(1, 32, (500, 2, 4))
    a, b = (rng.integers(-(1 << magnitude), 1 << magnitude).clip(-(2**31), 2**31 - 1) for _ in "ab")
    ends = [-(2**31), 2**31 - 1, -1, 0]
    a[0], b[1], a[2], b[2] = ends, ends, ends, ends[::-1]
    n = rng.integers(-32768, 32768, (500, 2, 4))
    n[:3] = [-32768, 32767, 0, 1]
    frames = [a.astype(np.int32), b.astype(np.int32), n.astype(np.int16)]
    want = Interpreter(g, batch=500).sequence(*frames)
    model = emit_tflite(g, activations=activations)  # type: ignore[arg-type]
    if activations == "int8":  # the 16-bit input is rounded to 8 bits there: compare the others
        used = [i for i, node in enumerate(g.nodes) if "n" not in node.inputs]
    else:
        used = list(range(len(g.nodes)))
    got = run_tflite(model, *frames, engine=engine).outputs
    for i in used:
        np.testing.assert_array_equal(got[i], want[i], err_msg=str(g.nodes[i]))


def test_a_slow_gate_does_not_stall(engine: str) -> None:
    """h' = n + z*(h - n) with z = 1 - 2^-9: a 16-bit state would stop 256 units away from n."""
    g = Graph("slow")
    n = g.add_input("n", Type((2,), "i16", 2.0**-15))
    wide = Type((2,), "i32", 2.0**-30)
    h = g.add_state("h", wide, bound=1.0)
    z = g.add_const("z", np.full(2, 32704), Type((2,), "i16", 2.0**-15))
    d = g.add_node("add", [h, n], types=[wide], ma=1, mb=-32768, s=0)
    zd = g.add_node("mul", [z, d], types=[wide], m=1, s=15)
    g.set_state(h, g.add_node("add", [n, zd], types=[wide], ma=32768, mb=1, s=0))
    y = g.add_node("rescale", [g.states[0].output], types=[Type((2,), "i16", 2.0**-15)], m=1, s=15)
    g.outputs.append(y)
    check(g)
    frames = np.tile(np.array([1000, -30000], np.int16), (1, 7000, 1))
    run = run_tflite(emit_tflite(g), frames, engine=engine)
    machine = Interpreter(g)
    for _ in range(frames.shape[1]):
        machine(frames[:, 0])
    np.testing.assert_array_equal(run.states["h"], machine.state["h"])
    assert np.abs(run.outputs[0][0, -1] - frames[0, 0]).max() <= 1


def test_a_matrix_product_into_a_wide_state(engine: str) -> None:
    """h' = a*h + W x in Q1.30, as a state-space model has it."""
    g = Graph("space")
    x = g.add_input("x", Type((3,), "i16", 2.0**-13))
    wide = Type((2,), "i32", 2.0**-30)
    h = g.add_state("h", wide)
    rng = np.random.default_rng(0)
    w = g.add_const("w", rng.integers(-127, 128, (2, 3)), Type((2, 3), "i8", (2.0**-14, 2.0**-13)))
    gain = np.array([2.0**-27, 2.0**-26]) / 2.0**-30
    u = g.add_node("linear", [x, w], types=[wide], m=[(gain * 2).astype(np.int32)], s=[1])
    a = g.add_const("a", np.array([32000, 32767]), Type((2,), "i16", 2.0**-15))
    ah = g.add_node("mul", [a, h], types=[wide], m=1, s=15)
    g.set_state(h, g.add_node("add", [ah, u], types=[wide], ma=1, mb=1, s=0))
    y = g.add_node("rescale", [g.states[0].output], types=[Type((2,), "i16", 2.0**-14)], m=1, s=16)
    g.outputs.append(y)
    check(g)
    frames = rng.integers(-8000, 8000, (4, 60, 3)).astype(np.int16)
    frames[3] = 32767  # saturates
    found = compare_tflite(g, emit_tflite(g, frames=[frames]), frames, engine=engine)
    assert found.lsb <= 3, found


# -- the file, the options, the errors -----------------------------------------------------------


def test_raw_frames_are_normalised_and_stored() -> None:
    graph = graphs.step("rnn", integer=True, affine=True)
    raw = graphs.raw_frames(graph, batch=2, steps=5)[0]
    info = read_tflite(emit_tflite(graph).data).inputs[0]
    np.testing.assert_array_equal(info.store(raw), to_stored(graph, "x", raw))
    np.testing.assert_array_equal(info.store(to_stored(graph, "x", raw)), info.store(raw))


def test_a_file_tells_all_that_running_it_needs() -> None:
    _, model, _ = made("stack", "int8")
    again = read_tflite(model.data)
    assert again.facts() == model.facts()
    assert again.nbytes == len(model.data)
    assert [s.name for s in again.states] == ["h0", "h1"]
    assert again.float_nodes == ("norm", "norm.2")


def test_same_graph_same_bytes() -> None:
    assert made("gru")[1].data == made("gru")[1].data


def test_calibration_makes_8_bit_models_better() -> None:
    graph, tight, frames = made("lstm", "int8")
    loose = emit_tflite(graph, activations="int8")
    errors = []
    for model in (tight, loose):
        found = compare_tflite(graph, model, *frames)
        errors.append(max(found.states.values()))
    assert errors[0] < errors[1]


def test_a_real_or_unknown_request_is_refused() -> None:
    with pytest.raises(BackendError, match="integer step"):
        emit_tflite(graphs.step("gru"))
    graph = graphs.step("gru", integer=True)
    with pytest.raises(UsageError, match="int4"):
        emit_tflite(graph, activations="int4")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="hidden"):
        emit_tflite(graph, state="hidden")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown engine 'onnx'"):
        engine_status("onnx")


def test_what_has_no_tflite_form_is_named() -> None:
    g = Graph("computed")
    x = g.add_input("x", Type((3,), "i16", 1.0))
    w = g.add_input("w", Type((2, 3), "i16", 1.0))
    t = Type((2,), "i16", 1.0)
    y = g.add_node("linear", [x, w], types=[t], name="product", m=[np.ones(2, np.int32)], s=[1])
    g.outputs.append(y)
    with pytest.raises(UnsupportedError, match="product.*linear.*'w'"):
        emit_tflite(g)


@pytest.mark.parametrize(("top", "m", "s"), [(900, 28802, 4), (1_000_000, 2_000_061, 0)])
def test_a_gate_of_a_large_value(top: int, m: int, s: int, engine: str) -> None:
    """LOGISTIC's multiplier overflows where its input's scale is coarse, QUANTIZE's further on."""
    g = Graph("large")
    x = g.add_input("x", Type((6,), "i16", top / 32767))
    wide = g.add_node("rescale", [x], types=[Type((6,), "i32", 2.0**-16)], m=m, s=s)
    table = lut_fit(FUNCTIONS["sigmoid"].fn, -16.0, 16.0, 512, 2.0**-15, "i16")
    c = g.add_const("table", table, Type((513,), "i16", 2.0**-15))
    unit = Type((6,), "i16", 2.0**-15)
    g.outputs.append(g.add_node("lut", [wide, c], types=[unit], fn="sigmoid", lo=-(16 << 16), k=12))
    check(g)
    frames = np.array([-32768, -50, -1, 0, 60, 32767], np.int16).reshape(1, 1, 6)
    for width in ("int16", "int8"):
        model = emit_tflite(g, activations=width)  # type: ignore[arg-type]
        if width == "int16":
            assert compare_tflite(g, model, frames, engine=engine).lsb <= 8
        else:
            real = run_tflite(model, frames, engine=engine).real[0][0, 0]
            assert real[0] < 0.01 and real[-1] > 0.98


def test_a_part_that_drowns_the_other(engine: str) -> None:
    """One row of a product reaches a million: it saturates, so that the others keep precision."""
    g = Graph("huge")
    x = g.add_input("x", Type((4,), "i16", 1e6 / 32767))
    small = g.add_input("small", Type((4,), "i16", 4 / 32767))
    eye = np.eye(4, dtype=np.int8)
    w = g.add_const("w", np.concatenate([100 * eye, eye]), Type((8, 4), "i8", 0.01))
    u = g.add_const("u", np.concatenate([100 * eye, 100 * eye]), Type((8, 4), "i8", 0.01))
    shifts = [8, 24]
    gains = [
        s * 0.01 * 2.0 ** (16 + k) for s, k in zip((1e6 / 32767, 4 / 32767), shifts, strict=True)
    ]
    m = [np.full(8, round(gain), np.int32) for gain in gains]
    pre = Type((8,), "i32", 2.0**-16)
    y = g.add_node("linear", [x, w, small, u], types=[pre], m=m, s=shifts)
    part = g.add_node("slice", [y], types=[pre], start=0, stop=8)
    table = lut_fit(FUNCTIONS["sigmoid"].fn, -16.0, 16.0, 512, 2.0**-15, "i16")
    c = g.add_const("table", table, Type((513,), "i16", 2.0**-15))
    unit = Type((8,), "i16", 2.0**-15)
    g.outputs.append(g.add_node("lut", [part, c], types=[unit], fn="sigmoid", lo=-(16 << 16), k=12))
    check(g)
    frames = np.array([[-32768, 32767, 0, 9], [5, -3, 1, -1]], np.int16)[None]
    others = np.array([[32767, -32768, 9000, -9000], [0, 8000, 0, 32767]], np.int16)[None]
    (want,) = Interpreter(g).sequence(frames, others)
    run = run_tflite(emit_tflite(g), frames, others, engine=engine)
    assert np.abs(run.real[0] - want * 2.0**-15).max() < 0.03


def test_a_table_of_a_wide_state(engine: str) -> None:
    """An activation straight after a recurrent layer: no runtime requantises int32 to int32."""
    g = Graph("after")
    x = g.add_input("x", Type((3,), "i16", 2.0**-15))
    wide, scale = Type((3,), "i32", 2.0**-30), 1.3 / 32767
    h = g.add_state("h", wide, bound=1.0)
    part = g.add_node("mul", [x, h], types=[wide], m=1, s=15)
    g.set_state(h, g.add_node("add", [x, part], types=[wide], ma=32768, mb=1, s=1))
    narrow = Type((3,), "i16", scale)
    m = round(2.0**-30 / scale * 2**32)
    y = g.add_node("rescale", [g.states[0].output], types=[narrow], m=m, s=32)
    top = 32768 * scale
    table = lut_fit(FUNCTIONS["gelu"].fn, -top, top, 512, scale, "i16")
    c = g.add_const("table", table, Type((513,), "i16", scale))
    g.outputs.append(g.add_node("lut", [y, c], types=[narrow], fn="gelu", lo=-32768, k=7))
    check(g)
    frames = np.random.default_rng(0).integers(-32768, 32768, (2, 20, 3)).astype(np.int16)
    for width in ("int16", "int8"):
        model = emit_tflite(g, activations=width)  # type: ignore[arg-type]
        assert compare_tflite(g, model, frames, engine=engine).lsb <= 2


def test_frames_that_do_not_fit_are_refused() -> None:
    _, model, frames = made("gru")
    with pytest.raises(DataError, match="needs 1"):
        run_tflite(model)
    with pytest.raises(DataError, match="'x'"):
        run_tflite(model, frames[0][..., :2])


def test_a_missing_engine_is_never_taken_for_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model, frames = made("rnn")
    for python, reason in (("/nonexistent/python", "not a program"), ("/bin/false", "/bin/false")):
        monkeypatch.setenv("EDGESEQ_TFLITE_PYTHON", python)
        status = engine_status("tflite-runtime")
        assert not status.available
        assert reason in status.reason
        with pytest.raises(BackendError, match="not available"):
            run_tflite(model, *frames, engine="tflite-runtime")


def test_damaged_files_are_refused(tmp_path: Any) -> None:
    _, model, _ = made("rnn")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_tflite(tmp_path / "none.tflite")
    with pytest.raises(ArtifactError, match="not a TFLite model"):
        read_tflite(b"something else entirely")
    for cut in (9, 20, len(model.data) // 4, len(model.data) // 2):
        with pytest.raises(ArtifactError, match="damaged|metadata"):
            read_tflite(model.data[:cut])


def test_a_refusing_runtime_ends_in_an_error() -> None:
    _, model, frames = made("rnn")
    broken = TfliteModel(
        model.data[:64], "int16", "explicit", model.inputs, model.outputs, model.states
    )
    with pytest.raises(BackendError, match="failed"):
        run_tflite(broken, *frames)
