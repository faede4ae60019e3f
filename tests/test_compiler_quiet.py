"""A detector that says "no" to all its recordings: outputs of a few units, of a range of 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeseq.compiler import Settings
from edgeseq.compiler.build import compile_graph
from edgeseq.ir import Graph, Type
from edgeseq.manifest import Manifest
from edgeseq.quant import ranges
from edgeseq.quant.measure import Bench
from edgeseq.target import load_target


def detector(bias: float) -> Graph:
    """A step: y = sigmoid(v relu(W x) + bias), x [24]."""
    rng = np.random.default_rng(3)
    g = Graph("detector")
    x = g.add_input("x", Type((24,)))
    w, v = (
        g.add_const("w", rng.normal(0, 0.3, (16, 24))),
        g.add_const("v", rng.normal(0, 0.3, (1, 16))),
    )
    hidden = g.add_node("linear", [x, w, g.add_const("b", rng.normal(0, 0.3, 16))])
    active = g.add_node("clamp", [hidden], lo=0.0, hi=None)
    logit = g.add_node("linear", [active, v, g.add_const("c", np.full(1, bias))])
    g.outputs = [g.add_node("reshape", [g.add_node("lut", [logit], fn="sigmoid")], shape=(1, 1))]
    return g


def compiled(folder: Path, bias: float) -> Manifest:
    calib = folder / "frames.npy"
    np.save(calib, np.random.default_rng(4).normal(size=(700, 24)).astype(np.float32))
    settings = Settings(tiers=("M",), formats=("onnx", "tflite"), steps=300)
    (built,) = compile_graph(
        detector(bias),
        [load_target("linux-x86-64")],
        folder / "out",
        calib=calib,
        settings=settings,
    )
    return built.manifests[0]


@pytest.mark.parametrize("bias", [-11.0, -14.0])
def test_it_compiles_and_the_report_says_what_is_not_known(bias: float, tmp_path: Path) -> None:
    manifest = compiled(tmp_path, bias)
    checks = [v for v in manifest.verification if v.reference != "torch module"]
    assert {v.status for v in checks if "tflite" not in v.stage} == {"passed"}
    assert any(", or " in v.level for v in checks)
    assert not manifest.model.widened  # no weight brings an output from its own last bit
    (note,) = [n for n in manifest.notes if "frames to which the model answers" in n]
    assert note.startswith("Output ") and "of a range of 1:" in note


def test_one_that_answers_is_not_told_so(tmp_path: Path) -> None:
    manifest = compiled(tmp_path, 0.0)
    assert not any("frames to which" in n for n in manifest.notes)
    assert not any(", or " in v.level for v in manifest.verification)


def test_the_signal_is_at_least_a_share_of_the_range() -> None:
    step = detector(-14.0)
    (name,) = step.outputs
    assert ranges(step) == {name: 1.0}
    x = np.random.default_rng(5).normal(size=(2, 50, 24))
    assert Bench(step, [x]).signal[name] == pytest.approx(100 * 2.0**-20)
    (loud,) = Bench(detector(0.0), [x]).signal.values()
    assert loud > 1.0


def test_a_file_that_8_bits_are_too_few_for_is_left_out(tmp_path: Path) -> None:
    """A small difference of large numbers, which 16-bit activations hold."""
    g = Graph("difference")
    x = g.add_input("x", Type((4,)))
    weights = np.array([[1.0, 1.0, -1.0, -1.0]])
    total = g.add_node("linear", [x, g.add_const("w", weights), g.add_const("b", np.zeros(1))])
    g.outputs = [g.add_node("lut", [total], fn="elu")]
    rng = np.random.default_rng(6)
    level = rng.uniform(-100, 100, (700, 1))
    frames = level + rng.normal(0, 0.05, (700, 4))
    np.save(tmp_path / "frames.npy", frames.astype(np.float32))
    settings = Settings(tiers=("M",), formats=("onnx", "tflite"), steps=300)
    (built,) = compile_graph(
        g, [load_target("linux-x86-64")], tmp_path / "out", calib=tmp_path / "frames.npy",
        settings=settings,
    )  # fmt: skip
    (manifest,) = built.manifests
    runs = {v.stage: v for v in manifest.verification if "tflite" in v.stage}
    if not any(v.status == "passed" for v in runs.values()):
        pytest.skip("no TFLite runtime here")
    left = runs["model_int8.tflite"]
    assert left.status == "not run"
    assert left.reason is not None and "use model_int16x8.tflite" in left.reason
    folder = next((tmp_path / "out").rglob("model_int16x8.tflite")).parent
    assert not (folder / "model_int8.tflite").exists()
    assert not any(f.file == "model_int8.tflite" for f in manifest.formats)
    assert "model_int8.tflite" not in {f.name for f in manifest.files}
