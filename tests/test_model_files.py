"""Model files: what is said about them, which are read, what `edgeseq inspect` shows."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeseq.cli import app
from edgeseq.cli.reading import options_of
from edgeseq.errors import ModelError, UnsupportedError, UsageError
from edgeseq.frontend import ImportOptions, Inspection, inspect_model, load_model
from edgeseq.frontend.inspection import inspect_graph
from edgeseq.ir import Graph, Type
from edgeseq.ir.cost import frame_cost, token_inputs
from edgeseq.ir.types import Time

onnx = pytest.importorskip("onnx")

SAID: dict[str, Any] = {
    "sets": (), "states": (), "time_axes": (), "batch_axis": None, "window": None, "hop": None,
    "context": None,
}  # fmt: skip


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


# A file: h' = tanh(W [x, h] + b), y = V h', its state passed in and out.


def leaky(path: Path, *, extra: str = "") -> Path:
    """Write the file; `extra` is an operator that nothing compiles."""
    h, rng = onnx.helper, np.random.default_rng(0)
    real = onnx.TensorProto.FLOAT
    consts = {"w": (3, 7), "b": (3,), "v": (2, 3), "c": (2,)}
    weights = [
        onnx.numpy_helper.from_array(rng.normal(0, 0.4, s).astype(np.float32), n)
        for n, s in consts.items()
    ]
    last = "q" if extra else "hn"
    nodes = [
        h.make_node("Concat", ["x", "h"], ["xh"], axis=1, name="join"),
        h.make_node("Gemm", ["xh", "w", "b"], ["pre"], transB=1, name="cell"),
        h.make_node("Tanh", ["pre"], ["hn"], name="act"),
        *([h.make_node(extra, ["hn"], ["q"], name="strange")] if extra else []),
        h.make_node("Gemm", [last, "v", "c"], ["y"], transB=1, name="head"),
    ]
    graph = h.make_graph(
        nodes,
        "leaky",
        [h.make_tensor_value_info(n, real, ["batch", k]) for n, k in (("x", 4), ("h", 3))],
        [h.make_tensor_value_info(n, real, ["batch", k]) for n, k in (("y", 2), ("hn", 3))],
        weights,
    )
    opsets = [h.make_opsetid("", 17)]
    model = h.make_model(graph, opset_imports=opsets, producer_name="a test", ir_version=8)
    onnx.save(model, path)
    return path


def test_a_file_that_is_a_step(tmp_path: Path) -> None:
    found = inspect_model(leaky(tmp_path / "leaky.onnx"))
    assert (found.kind, found.mode, found.delay) == ("ONNX, opset 17", "step", 0)
    assert found.compiles and found.notes[0] == "written by a test"
    assert [(p.name, p.dtype, p.shape, p.role) for p in found.inputs] == [
        ("x", "float32", "[batch, 4]", "frames"),
        ("h", "float32", "[batch, 3]", "state"),
    ]
    assert [(p.name, p.role) for p in found.outputs] == [("y", "answer"), ("hn", "state")]
    ((state),) = found.states
    assert (state.name, state.input, state.output, state.shape) == ("h", "h", "hn", "[batch, 3]")
    assert state.how
    assert (found.parameters, found.macs_per_frame) == (3 * 7 + 3 + 2 * 3 + 2, 3 * 7 + 2 * 3)
    assert found.operations == {"Gemm": 2, "Concat": 1, "Tanh": 1}


def test_inspect_prints_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    path = leaky(tmp_path / "leaky.onnx")
    result = run("inspect", str(path))
    assert result.exit_code == 0, result.output
    for text in ("a step with its states", "32 parameters", "delay: none", "[batch, 4]", "Gemm"):
        assert text in result.stdout
    assert result.stdout.rstrip().endswith("compiles")


def test_inspect_prints_json(tmp_path: Path) -> None:
    path = leaky(tmp_path / "leaky.onnx", extra="Unique")
    result = run("inspect", str(path), "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert facts["compiles"] is False and facts["inputs"][0]["name"] == "x"
    assert {"operation", "where", "why", "fix"} == set(facts["problems"][0])
    assert "Unique" in facts["problems"][0]["operation"]


def test_inspect_lists_what_does_not_compile(tmp_path: Path) -> None:
    result = run("inspect", str(leaky(tmp_path / "leaky.onnx", extra="Unique")))
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "does not compile: 1 problem" in result.stdout and "strange" in result.stdout


def test_inspect_shows_of_what_something_has_to_be_said(tmp_path: Path) -> None:
    result = run("inspect", str(leaky(tmp_path / "leaky.onnx")), "--set", "rate=3")
    assert result.exit_code == 1 and "[batch, 4]" in result.stdout
    assert "options" in result.stdout and "'rate'" in result.stdout


def test_inspect_of_no_file() -> None:
    result = run("inspect", "nothing.onnx")
    assert result.exit_code == 1 and result.stdout == ""
    assert "error: nothing.onnx: no such file" in result.stderr


def test_problems_of_a_graph() -> None:
    graph = Graph("g")
    x = graph.add_input("x", Type((3,), time=Time()))
    last = graph.add_node("last", [x])
    graph.outputs = [graph.add_node("add", [x, last], types=[Type((3,), time=Time())])]
    found = inspect_graph(graph, source="here")
    assert not found.compiles and found.mode == "stream" and found.delay is None
    ((operation, where, why, fix),) = found.problems
    assert operation == "model" and "add" in where and "last frame" in why and fix
    assert found.inputs[0].shape == "[time, 3]"


def test_json_of_an_empty_inspection() -> None:
    facts = Inspection("a", "b").to_json()
    assert facts["compiles"] and facts["problems"] == [] and facts["mode"] is None
    json.dumps(facts)


# Options.


def test_options_of_a_command_line() -> None:
    made = options_of(
        **SAID
        | {
            "sets": ("sr=16000", "x:1=576", "gain=0.5", "flag=true"),
            "states": ("h:hn", "a:b:c"),
            "time_axes": ("1:2", "y:0"),
        }
    )
    assert made.values == {"sr": 16000, "x:1": 576, "gain": 0.5, "flag": True}
    assert type(made.values["sr"]) is int
    assert made.states == (("h", "hn"), ("a:b", "c"))
    assert made.time_axis == {"1": 2, "y": 0}
    assert made.time_axis_of("y") == 0 and made.time_axis_of("z") is None
    assert made.sample_rate == ("sr", 16000.0)
    assert options_of(**SAID | {"time_axes": ("1",)}).time_axis_of("any") == 1
    assert options_of(**SAID) == ImportOptions()
    assert options_of(**SAID | {"window": 50}).step == 50
    assert options_of(**SAID | {"window": 50, "hop": 10}).step == 10


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"sets": ("sr",)}, "--set: 'sr' is not understood\n  -> give NAME=VALUE"),
        ({"sets": ("=3",)}, "--set: '=3'"),
        ({"sets": ("sr=many",)}, "with a number"),
        ({"sets": ("sr=1", "sr=2")}, "sr is set twice"),
        ({"states": ("h",)}, "--state: 'h' is not understood"),
        ({"states": ("h:",)}, "--state"),
        ({"states": ("h:a", "h:b")}, "input 'h' carries several states"),
        ({"states": ("h:a", "g:a")}, "output 'a' carries several states"),
        ({"time_axes": ("x:y",)}, "--time-axis: 'x:y'"),
        ({"time_axes": ("-1",)}, "--time-axis: '-1'"),
        ({"time_axes": ("1", "x:2")}, "one axis for all inputs, and one for a single input"),
        ({"time_axes": ("9",)}, "axis 9 as time"),
        ({"time_axes": ("1",), "batch_axis": 1}, "axis 1 as time and as batch"),
        ({"hop": 3}, "a hop without a window\n  -> give --window too; of audio.*--frame-hop"),
        ({"window": 1 << 30}, "a window of"),
    ],
)
def test_options_that_are_refused(said: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        options_of(**SAID | said)


@pytest.mark.parametrize(
    "args",
    [
        ["--set", "sr=1"], ["--state", "a:b"], ["--time-axis", "1"], ["--batch-axis", "0"],
        ["--window", "5"], ["--context", "5"], ["--frame-hop", "5"], ["--calib", "x"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_about_a_model_needs_one(args: list[str]) -> None:
    result = run("compile", "--target", "rpi", *args)
    assert result.exit_code == 2 and "goes with a MODEL" in result.stderr


# Files that are no models.


def test_files_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"\x80\x02}q\x00.")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("net/code/__torch__.py", "def forward(self): ...")
        archive.writestr("net/constants.pkl", b"")
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"")
    (tmp_path / "a.jit").write_bytes(b"junk")
    (tmp_path / "a.tflite").write_bytes(b"")
    (tmp_path / "a.h5").write_bytes(b"")
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "a.onnx").write_bytes(b"\0" * 40)
    for name, text in {
        "a.pth": "is a pickled checkpoint.*-> save the model with torch.export.save",
        "script.pt": "is a TorchScript archive.*torch.export.export.*torch.export.save",
        "weights.pt": "is a pickled checkpoint.*torch.export.save",
        "a.jit": "is no model file that is known.*torch.export.save",
        "a.tflite": "is a TFLite model\n  -> convert it to ONNX",
        "a.h5": "is a Keras model",
        "a.txt": "models of type .txt are not read\n  -> give an ONNX file",
        "a.onnx": "a.onnx",
        "gone.onnx": "no such file",
        ".": "is a folder",
    }.items():
        with pytest.raises(ModelError, match=f"(?s){text}") as caught:
            load_model(tmp_path / name)
        assert (name in str(caught.value)) or name == "."
        assert caught.value.fix


def test_top_level_names_are_there() -> None:
    import edgeseq

    assert edgeseq.from_onnx.__name__ == "from_onnx"
    with pytest.raises(ModelError, match="no such file"):
        edgeseq.from_onnx("gone.onnx")


def test_from_onnx(tmp_path: Path) -> None:
    import edgeseq

    path = leaky(tmp_path / "leaky.onnx")
    graph = edgeseq.from_onnx(path, states={"h": "hn"})
    assert graph.name == "leaky" and graph.is_step and len(graph.states) == 1
    assert edgeseq.from_onnx(path, name="other").name == "other"


def test_problems_travel_with_the_error() -> None:
    error = UnsupportedError("two things", problems=[("Loop", "a", "b", "c")])
    assert error.problems == (("Loop", "a", "b", "c"),)
    assert UnsupportedError("one thing", where="x").problems == ()


# Costs.


def test_cost_of_a_frame() -> None:
    graph = Graph("g")
    x = graph.add_input("x", Type((5, 4)))
    y = graph.add_node("linear", [x, graph.add_const("w", np.ones((3, 4)))])
    z = graph.add_node("depthwise", [y, graph.add_const("k", np.ones((5, 3)))])
    graph.outputs = [graph.add_node("matmul", [y, y]), z]
    assert frame_cost(graph).macs == 5 * 3 * 4 + 5 * 3 + 5 * 5 * 3
    assert frame_cost(graph).nodes == 3


def test_inputs_that_hold_tokens() -> None:
    graph = Graph("g")
    x = graph.add_input("x", Type((2,)))
    other = graph.add_input("other", Type((4,)))
    index = graph.add_node("reshape", [x], shape=(2, 1))
    table = graph.add_const("table", np.ones((50, 4)))
    graph.outputs = [
        graph.add_node("embed", [index, table]),
        graph.add_node("lut", [other], fn="tanh"),
    ]
    assert token_inputs(graph) == {"x": 50}
