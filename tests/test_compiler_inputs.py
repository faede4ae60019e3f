"""Models made elsewhere: several inputs, frames of any shape, their file, what is missing here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.compiler import Settings
from edgeseq.compiler import placed as placed_module
from edgeseq.compiler.build import Built, _build
from edgeseq.compiler.candidate import Candidate, _check_frontend, _check_stream
from edgeseq.compiler.models import Model, Silent, _chunks, _continuous, imported_model
from edgeseq.emit.golden import read_golden
from edgeseq.errors import VerifyError
from edgeseq.frontend import ImportOptions
from edgeseq.ir import Graph, Type
from edgeseq.ir.blocks import delay_of, frame_shape, per_frame, per_step, run_steps
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.types import Time
from edgeseq.manifest import Verification
from edgeseq.passes import to_step
from edgeseq.target import load_target
from edgeseq.verify import verify_artifact

RNG = np.random.default_rng(0)


def two_inputs() -> Graph:
    """A step: h' = tanh(W [a, b] + U h), frames a [2, 3] and b [4]; y = V h'."""
    g = Graph("two")
    a, b = g.add_input("a", Type((2, 3))), g.add_input("b", Type((4,)))
    h = g.add_state("h", Type((5,)), bound=1.0)
    flat = g.add_node("reshape", [a], shape=(6,))
    joined = g.add_node("concat", [flat, b])
    w, u, v = (g.add_const(n, RNG.normal(0, 0.4, s)) for n, s in
               (("w", (5, 10)), ("u", (5, 5)), ("v", (2, 5))))  # fmt: skip
    pre = g.add_node("linear", [joined, w, h, u, g.add_const("c", np.zeros(5))], name="cell")
    new = g.add_node("lut", [pre], fn="tanh")
    g.set_state(h, new)
    g.outputs = [g.add_node("linear", [new, v, g.add_const("d", np.zeros(2))], name="head")]
    return g


def model_of(graph: Graph, **changes: Any) -> Model:
    frames = [RNG.normal(size=(1, 1200, *graph.types[v].shape)) for v in graph.inputs]
    calibration = [x[:, :400].reshape(4, 100, *x.shape[2:]) for x in frames]
    made = Model("two", "two", "a test", None, graph, None, calibration, frames)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def compiled(out: Path, *formats: str, target: str = "cortex-m4") -> Built:
    settings = Settings(tiers=("S",), formats=formats, steps=60)
    (built,) = _build(
        [model_of(two_inputs())], [load_target(target)], out, settings, None, Silent()
    )
    return built


def rows(built: Built) -> dict[str, Verification]:
    return {v.stage: v for v in built.manifests[0].verification}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pytest.importorskip("unicorn")
    pytest.importorskip("onnxruntime")
    return compiled(tmp_path_factory.mktemp("two"), "native", "onnx")


def test_each_input_has_its_frames(built: Built) -> None:
    (m,) = built.manifests
    assert [(i.name, i.shape, i.frames, i.hop) for i in m.inputs] == [
        ("a", (2, 3), 1, None),
        ("b", (4,), 1, None),
    ]
    assert (m.model.mode, m.model.frames_per_step, m.model.widened) == ("stream", 1, ())
    assert [s.name for s in m.states] == ["h"]
    checks = rows(built)
    assert checks["real step, simplified"].status == "passed"
    assert checks["kernels on emulated cortex-m4"].level == "Exact"
    assert {v.status for k, v in checks.items() if k != "real graph"} == {"passed"}
    golden = read_golden(built.folder / "S" / "golden.npz")
    assert [x.shape for x in golden.inputs.values()] == [(256, 2, 3), (256, 4)]
    header = (built.folder / "S" / "two.h").read_text()
    assert "#define TWO_INPUT_A_SIZE 6" in header and "two_quantise_frame_b" in header
    assert m.accuracy[0].reason == "there is no labelled test set"
    assert m.result("integer").snr_db > 20  # type: ignore[union-attr,operator]


def test_the_artifact_is_verified_again(built: Built) -> None:
    lines = list(verify_artifact(built.folder / "S"))
    assert any("machine code on an emulated cortex-m4: Exact" in line for line in lines)


def test_the_onnx_files_run_as_a_stream(built: Built) -> None:
    from edgeseq.runtime import Stream

    stream = Stream(built.folder / "S", "onnx")
    a, b = RNG.normal(size=(20, 2, 3)), RNG.normal(size=(20, 4))
    got = stream.push({"a": a, "b": b})
    stream.reset()
    np.testing.assert_array_equal(np.concatenate([stream.push(a[:7], b[:7]),
                                                  stream.push(a[7:], b[7:])]), got)  # fmt: skip


# What is missing on this machine.


def test_nothing_is_missing_but_the_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placed_module, "missing_emulator", lambda: "unicorn cannot be imported")
    made = compiled(tmp_path, "native")
    row = rows(made)["kernels on emulated cortex-m4"]
    assert (row.status, row.reason) == ("not run", "unicorn cannot be imported")
    (m,) = made.manifests
    assert m.instructions_per_step.mean is None and m.latency is None
    assert m.instructions_per_step.method == "not measured: unicorn cannot be imported"
    assert m.memory.ram.stack is None


def test_without_onnx_runtime_files_are_written_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    made = compiled(tmp_path, "onnx")
    row = rows(made)["model_int.onnx in ONNX Runtime"]
    assert row.status == "not run" and "cannot be imported" in str(row.reason)
    (m,) = made.manifests
    info = m.format("onnx_int")
    assert info is not None and info.inputs == ("a", "b") and info.states == (("h", "h_next"),)
    result = m.result("onnx_float")
    assert result is not None and result.bytes and "cannot be imported" in str(result.reason)
    assert {f.name: f.kind for f in m.files}["model.onnx"] == "onnx_float"
    monkeypatch.undo()
    if pytest.importorskip("onnxruntime"):
        from edgeseq.runtime import Stream

        Stream(made.folder / "S", "onnx_int").push(np.zeros((2, 2, 3)), np.zeros((2, 4)))


def test_without_litert_the_formats_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeseq.emit.installed", lambda name: name != "ai_edge_litert")
    made = compiled(tmp_path, "native", "tflite")
    row = rows(made)["model_int8.tflite"]
    assert row.status == "not run"
    assert row.reason == "not written: ai_edge_litert cannot be imported"
    (m,) = made.manifests
    assert m.format("tflite_int8") is None
    assert m.result("tflite_int16x8").reason == row.reason  # type: ignore[union-attr]


# From a file and recordings to a model.


def read(monkeypatch: pytest.MonkeyPatch, graph: Graph, calib: Path, **how: Any) -> Model:
    monkeypatch.setattr("edgeseq.frontend.load_model", lambda *_, **__: graph)
    frame_hop = how.pop("frame_hop", None)
    return imported_model(Path("two.onnx"), calib, "two", 1000, ImportOptions(**how), frame_hop)


def test_recordings_of_several_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = RNG.normal(size=(3, 90, 2, 3)), RNG.normal(size=(3, 90, 4))
    np.savez(tmp_path / "x.npz", a=a, b=b)
    made = read(monkeypatch, two_inputs(), tmp_path / "x.npz")
    assert [x.shape for x in made.calibration] == [(3, 90, 2, 3), (3, 90, 4)]
    assert [x.shape for x in made.frames] == [(1, 1080, 2, 3), (1, 1080, 4)]  # repeated
    np.testing.assert_allclose(made.frames[1][0, 90:180], b[1], atol=1e-6)
    assert made.cut == {} and made.rate_hz is None and made.notes == ()


def test_audio_is_cut_as_the_device_has_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    g = Graph("audio")
    x = g.add_input("x", Type((576,)))
    g.outputs = [g.add_node("linear", [x, g.add_const("w", np.ones((1, 576)))])]
    np.save(tmp_path / "x.npy", RNG.uniform(-1, 1, 512 * 40))
    made = read(monkeypatch, g, tmp_path / "x.npy", frame_hop=512)
    assert made.frames[0].shape == (1, 1000, 576) and made.cut == {"x": 512}
    assert made.notes == (
        "Frames of 576 samples every 512 were cut from recordings: the device has to cut them "
        "likewise.",
    )
    assert made.mode == "stream"
    made = read(monkeypatch, g, tmp_path / "x.npy", window=576, hop=100)
    assert made.mode == "window" and made.cut == {"x": 100}


def test_pieces_and_continuous_recordings() -> None:
    parts = [[np.arange(n * 2.0).reshape(n, 2), np.arange(n)] for n in (50, 3000, 2100)]
    pieces = _chunks(parts, 10_000, 1000)
    assert [p.shape for p in pieces] == [(5, 1000, 2), (5, 1000)]
    assert pieces[1][:, 0].tolist() == [0, 1000, 2000, 0, 1000]
    assert [len(p) for p in _chunks(parts, 2000, 1000)] == [2, 2]
    assert [x.shape for x in _continuous(parts, 100, 300)] == [(1, 250, 2), (1, 250)]
    assert [x.shape for x in _continuous(parts[:1], 120, 300)] == [(1, 150, 2), (1, 150)]


# Stages over whole sequences.


def bare(graph: Graph, frames: list[np.ndarray]) -> Candidate:
    """A candidate as far as these checks look at it."""
    made = Candidate.__new__(Candidate)
    made.model = Model("m", "m", "a test", None, graph, None, frames, frames)
    made.step = to_step(graph)
    return made


def thinned(delay: int) -> Graph:
    """y: a weighted sum of 3 frames, `delay` of them still to come, at every second frame."""
    g = Graph("thinned")
    x = g.add_input("x", Type((3,), time=Time()))
    past = g.add_node("window", [x], length=3, ahead=delay, cut=0)
    flat = g.add_node("reshape", [past], shape=(9,))
    y = g.add_node("linear", [flat, g.add_const("w", RNG.normal(size=(2, 9)))])
    g.outputs = [g.add_node("decimate", [y], factor=2)]
    return g


@pytest.mark.parametrize("delay", [0, 2])
def test_a_step_of_several_frames_and_a_delay(delay: int) -> None:
    made = bare(thinned(delay), [RNG.normal(size=(3, 101, 3))])
    step = made.step
    assert step.frames_of("x") == 2 and frame_shape(step, "x") == (3,)
    assert delay_of(step, step.outputs[0]) == delay
    check = _check_stream(made)
    assert check.status == "passed" and check.steps == 303
    assert check.worst is not None and check.worst < 1e-12


def test_such_a_step_in_every_executor(tmp_path: Path) -> None:
    pytest.importorskip("unicorn")
    pytest.importorskip("onnxruntime")
    from edgeseq.runtime import Stream

    graph, x = thinned(2), RNG.normal(size=(1, 601, 3))
    made = model_of(graph, calibration=[x[:, :600].reshape(4, 150, 3)], frames=[x], rate_hz=100.0)
    settings = Settings(tiers=("S",), formats=("native", "onnx"), steps=50)
    (built,) = _build([made], [load_target("cortex-m4")], tmp_path, settings, None, Silent())
    checks = rows(built)
    assert {v.status for k, v in checks.items() if k != "real graph"} == {"passed"}
    assert checks["kernels on emulated cortex-m4"].steps == 50
    (m,) = built.manifests
    assert (m.model.frames_per_step, m.inputs[0].shape, m.inputs[0].frames) == (2, (2, 3), 2)
    assert (m.outputs[0].shape, m.outputs[0].frames, m.outputs[0].delay) == ((2,), 1, 2)
    stream = Stream(built.folder / "S", "onnx_float")
    got = np.concatenate([stream.push(x[0, :13]), stream.push(x[0, 13:])])
    (whole,) = Interpreter(graph)(x)
    np.testing.assert_allclose(got, whole[0, : len(got)], atol=2e-3)
    assert len(got) == 299 and stream.positions[-1] == 596


def test_frames_and_steps() -> None:
    step = to_step(thinned(0))
    x = RNG.normal(size=(2, 7, 3))
    taken = per_step(step, "x", x)
    assert taken.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(per_frame(step, "x", taken), x[:, :6])
    (got,) = run_steps(Interpreter(step, batch=2), [taken])
    (want,) = Interpreter(step, batch=2).sequence(x[:, :6])
    np.testing.assert_array_equal(per_frame(step, step.outputs[0], got), want)


def test_recordings_shorter_than_the_delay() -> None:
    made = bare(thinned(2), [RNG.normal(size=(1, 2, 3))])
    check = _check_stream(made)
    assert check.status == "not run" and "frames that come after" in str(check.reason)


# An ONNX file beside the Graph that was read from it.


@pytest.fixture
def from_file(tmp_path: Path) -> Candidate:
    pytest.importorskip("onnxruntime")
    from test_model_files import leaky

    from edgeseq.frontend import load_model

    path = leaky(tmp_path / "leaky.onnx")
    made = bare(load_model(path), [RNG.normal(size=(2, 30, 4))])
    made.model.file = path
    return made


def test_the_file_is_run_beside_the_graph(from_file: Candidate) -> None:
    (check,) = _check_frontend(from_file)
    assert (check.stage, check.reference) == ("real graph", "leaky.onnx in ONNX Runtime")
    assert check.status == "passed" and check.steps == 60 and check.level == "Within(0.0001)"


def averaging(path: Path) -> Path:
    """Write a file: the mean over all frames of relu(convolution over time)."""
    onnx = pytest.importorskip("onnx")
    h, real = onnx.helper, onnx.TensorProto.FLOAT
    consts = (("w", (6, 4, 5)), ("b", (6,)), ("m", (2, 6)))
    weights = [
        onnx.numpy_helper.from_array(RNG.normal(0, 0.3, s).astype(np.float32), n) for n, s in consts
    ]
    nodes = [
        h.make_node("Conv", ["x", "w", "b"], ["c"], pads=[2, 2]),
        h.make_node("Relu", ["c"], ["r"]),
        h.make_node("ReduceMean", ["r"], ["p"], axes=[2], keepdims=0),
        h.make_node("Gemm", ["p", "m"], ["y"], transB=1),
    ]
    ports = (("x", ["batch", 4, "time"]), ("y", ["batch", 2]))
    x, y = (h.make_tensor_value_info(n, real, s) for n, s in ports)
    graph = h.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize(("window", "hop"), [(20, 5), (20, 20), (7, 1)])
def test_windows_of_a_file(tmp_path: Path, window: int, hop: int) -> None:
    pytest.importorskip("onnxruntime")
    np.save(tmp_path / "x.npy", RNG.normal(size=(2, 400, 4)))
    path = averaging(tmp_path / "mean.onnx")
    options = ImportOptions(window=window, hop=hop)
    model = imported_model(path, tmp_path / "x.npy", "mean", 50, options)
    assert model.calibration[0].shape[2:] == (hop, 4) and model.mode == "window"
    made = bare(model.graph, model.calibration)
    made.model = model
    (check,) = _check_frontend(made)
    assert check.status == "passed", check.reason
    assert check.steps >= 40
    assert model.notes[0].startswith(f"A step takes {hop} frames and answers for the {window}")


def test_a_graph_that_is_not_the_file(from_file: Candidate) -> None:
    graph = from_file.model.graph
    name = next(n for n, a in graph.consts.items() if a.ndim == 2)
    graph.consts[name] = graph.consts[name] * np.float32(1.01)
    with pytest.raises(VerifyError, match="leaky.onnx in ONNX Runtime"):
        _check_frontend(from_file)


def test_a_file_that_cannot_be_run_here(
    from_file: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = from_file.model.file
    assert path is not None
    path.write_bytes(path.read_bytes()[:-20])
    (check,) = _check_frontend(from_file)
    assert check.status == "not run" and "refuses the file" in str(check.reason)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "cannot be imported" in str(_check_frontend(from_file)[0].reason)


def test_other_names_are_no_error(from_file: Candidate) -> None:
    from_file.model.graph.meta["onnx"]["outputs"] = {"z": "BF"}
    (check,) = _check_frontend(from_file)
    assert check.status == "not run" and "other names" in str(check.reason)
