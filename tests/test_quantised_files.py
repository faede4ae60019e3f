"""Quantised ONNX files are the real models that they round, whoever chooses the scales."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import Net, run

from edgeseq.compiler import Settings
from edgeseq.compiler.build import _build
from edgeseq.compiler.models import Silent, imported_model
from edgeseq.compiler.original import NotComparable, OnnxFile
from edgeseq.errors import EdgeseqError, UnsupportedError
from edgeseq.frontend.onnx_dynamic import ROUNDED
from edgeseq.frontend.onnx_import import import_onnx
from edgeseq.frontend.onnx_unrounded import unrounded
from edgeseq.frontend.options import ImportOptions
from edgeseq.ir import Interpreter
from edgeseq.quant import snr_db
from edgeseq.target import load_target

quantization = pytest.importorskip("onnxruntime.quantization")

T, WIDTH, HIDDEN = 40, 6, 10


def recurrent(kind: str) -> Callable[[Net], str]:
    def model(n: Net) -> str:
        x = n.op("Transpose", n.input("x", [1, T, WIDTH]), perm=[0, 2, 1])
        x = n.op("Relu", n.conv(x, 8, WIDTH, 3, pads=[2, 0]))
        x = n.op("Transpose", x, perm=[2, 0, 1])
        y = n.recurrent(kind, x, 8, HIDDEN)[0]
        y = n.op("Squeeze", y, n.const([1], np.int64))
        return n.op("Add", n.op("MatMul", y, n.weight(HIDDEN, 3)), n.weight(3))

    return model


def shared(n: Net) -> str:
    """One rounded value read by two products."""
    x = n.input("x", [1, T, WIDTH])
    a, b = n.op("MatMul", x, n.weight(WIDTH, 8)), n.op("MatMul", x, n.weight(WIDTH, 8))
    return n.op("MatMul", n.op("Mul", n.op("Sigmoid", a), b), n.weight(8, 3))


def peepholes(n: Net) -> str:
    x = n.op("Transpose", n.input("x", [1, T, WIDTH]), perm=[1, 0, 2])
    more = {"initial": ["", ""], "extra": [n.weight(1, 3 * HIDDEN)]}
    y = n.recurrent("LSTM", x, WIDTH, HIDDEN, **more)[0]
    return n.op("MatMul", n.op("Squeeze", y, n.const([1], np.int64)), n.weight(HIDDEN, 3))


MODELS: dict[str, Callable[[Net], str]] = {
    "gru": recurrent("GRU"), "lstm": recurrent("LSTM"), "shared": shared, "peepholes": peepholes,
}  # fmt: skip


def saved(model: Callable[[Net], str], path: Path) -> Path:
    net = Net(17)
    net.output(model(net), None, "y")
    return net.save(path)


def dynamic(model: Callable[[Net], str], folder: Path, **how: Any) -> Path:
    path = folder / "dynamic.onnx"
    quantization.quantize_dynamic(saved(model, folder / "real.onnx"), path, **how)
    return path


class _Frames:
    """What `quantize_static` measures ranges on."""

    def __init__(self) -> None:
        self.left = 8

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.left -= 1
        return {"x": frames(self.left)} if self.left >= 0 else None


def frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, T, WIDTH)).astype(np.float32)


def static(model: Callable[[Net], str], folder: Path, **how: Any) -> Path:
    path = folder / "static.onnx"
    quantization.quantize_static(saved(model, folder / "real.onnx"), path, _Frames(), **how)
    return path


WAYS: dict[str, Callable[..., Path]] = {
    "dynamic": dynamic,
    "dynamic, unsigned, per channel": lambda m, f: dynamic(
        m, f, weight_type=quantization.QuantType.QUInt8, per_channel=True
    ),
    "static": static,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_the_graph_is_what_the_file_rounds(way: str, name: str, tmp_path: Path) -> None:
    path = WAYS[way](MODELS[name], tmp_path)
    made, x = import_onnx(path, name="m", options=ImportOptions(time_axis=1)), frames(20)
    assert ROUNDED in made.notes
    file = OnnxFile(path, made.graph, {})
    assert file.rounds
    want = np.squeeze(file([x])[0])
    got = np.squeeze(Interpreter(made.graph)(x)[0])
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
    rounded = np.squeeze(run(path, x=x)["y"])
    assert 15.0 < snr_db(rounded, got) < 100.0  # it is not the same: the file does round


def test_a_file_without_rounding_is_run_as_it_is(tmp_path: Path) -> None:
    assert unrounded(saved(shared, tmp_path / "real.onnx")) is None


def test_stored_weights_alone_are_real_numbers(tmp_path: Path) -> None:
    """ONNX Runtime multiplies by stored weights in integers, and rounds what they are read with."""

    def model(n: Net) -> str:
        x = n.input("x", [1, T, WIDTH])
        one = n.const(n.rng.integers(-127, 128, (WIDTH, 32)), np.int8)
        two = n.const(n.rng.integers(-127, 128, (32, 3)), np.int8)
        scales, zeros = n.const(n.rng.uniform(0.001, 0.011, 32)), n.const(np.zeros(32), np.int8)
        h = n.op("Tanh", n.op("MatMul", x, n.op("DequantizeLinear", one, scales, zeros, axis=1)))
        return n.op("MatMul", h, n.op("DequantizeLinear", two, n.const(0.01), n.const(3, np.int8)))

    path, x = saved(model, tmp_path / "m.onnx"), frames(3)
    graph = import_onnx(path, name="m", options=ImportOptions(time_axis=1)).graph
    got = np.squeeze(Interpreter(graph)(x)[0])
    want = np.squeeze(OnnxFile(path, graph, {})([x])[0])
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("sizes", [(2,), (WIDTH,), (3, 3)])
def test_a_zero_point_that_does_not_fit_is_an_error(sizes: tuple[int, ...], tmp_path: Path) -> None:
    def model(n: Net) -> str:
        q, scale, zero = n.op("DynamicQuantizeLinear", n.input("x", [1, T, WIDTH]), outputs=3)
        w = n.const(n.rng.integers(-100, 100, (WIDTH, 3)), np.int8)
        product = n.op("MatMulInteger", q, w, zero, n.const(np.ones(sizes), np.int8))
        real = n.op("Cast", product, to=onnx.TensorProto.FLOAT)
        return n.op("Mul", real, n.op("Mul", scale, n.const(0.01)))

    with pytest.raises(UnsupportedError, match="chooses its scale while it runs"):
        import_onnx(saved(model, tmp_path / "m.onnx"), name="m", options=ImportOptions())


@pytest.mark.parametrize("wrong", range(1, 12))
def test_damage_of_a_quantised_layer_is_an_error(wrong: int, tmp_path: Path) -> None:
    """An input of another shape than the contributed LSTM takes."""
    path = dynamic(MODELS["lstm"], tmp_path)
    model = onnx.load(path)
    (node,) = [n for n in model.graph.node if n.op_type == "DynamicQuantizeLSTM"]
    kind = np.int8 if wrong in (1, 2, 9, 11) else np.float32
    bad = onnx.numpy_helper.from_array(np.ones((5, 2), kind), "bad")
    model.graph.initializer.append(bad)
    node.input.extend([""] * (12 - len(node.input)))
    node.input[wrong] = "bad"
    onnx.save(model, path)
    with pytest.raises(EdgeseqError):
        import_onnx(path, name="m", options=ImportOptions(time_axis=1))


@pytest.mark.parametrize("read", ["integers", "scale", "zero", "product"])
def test_what_reads_more_than_the_product_is_refused(read: str, tmp_path: Path) -> None:
    """The scale is only known not to matter where it is undone."""

    def model(n: Net) -> str:
        x = n.input("x", [1, T, WIDTH])
        q, scale, zero = n.op("DynamicQuantizeLinear", x, outputs=3)
        w = n.const(n.rng.integers(-100, 100, (WIDTH, 3)), np.int8)
        product = n.op("MatMulInteger", q, w, zero)
        real = n.op("Cast", product, to=onnx.TensorProto.FLOAT)
        y = n.op("Mul", real, n.op("Mul", scale, n.const(0.01)))
        more = {"integers": q, "scale": scale, "zero": zero, "product": product}[read]
        more = n.op("Cast", more, to=onnx.TensorProto.FLOAT)
        return n.op(
            "Add", y, n.op("MatMul", more, n.weight(WIDTH, 3)) if read == "integers" else more
        )

    path = saved(model, tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="chooses its scale while it runs"):
        import_onnx(path, name="m", options=ImportOptions(time_axis=1))


def test_two_scales_may_not_be_exchanged(tmp_path: Path) -> None:
    """Each product has to be multiplied by the scale of its own integers."""

    def model(n: Net) -> str:
        x = n.input("x", [1, T, WIDTH])
        parts = [n.op("DynamicQuantizeLinear", v, outputs=3) for v in (x, n.op("Tanh", x))]
        found = []
        for (q, _, zero), (_, scale, _) in zip(parts, parts[::-1], strict=True):
            w = n.const(n.rng.integers(-100, 100, (WIDTH, 3)), np.int8)
            real = n.op("Cast", n.op("MatMulInteger", q, w, zero), to=1)
            found.append(n.op("Mul", real, n.op("Mul", scale, n.const(0.01))))
        return n.op("Add", *found)

    with pytest.raises(UnsupportedError, match="chooses its scale while it runs"):
        import_onnx(saved(model, tmp_path / "m.onnx"), name="m", options=ImportOptions())


def test_a_scale_that_is_no_constant_cannot_be_compared(tmp_path: Path) -> None:
    def model(n: Net) -> str:
        x = n.input("x", [1, T, WIDTH])
        scale = n.op("ReduceMax", x, keepdims=0)
        return n.op("DequantizeLinear", n.op("QuantizeLinear", x, scale), scale)

    path = saved(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="no constant"):
        unrounded(path)
    graph = import_onnx(saved(shared, tmp_path / "real.onnx"), name="m",
                        options=ImportOptions(time_axis=1)).graph  # fmt: skip
    with pytest.raises(NotComparable, match="no constant"):
        OnnxFile(path, graph, {})


@pytest.mark.parametrize("way", ["dynamic", "static"])
def test_from_a_quantised_file_to_verified_artifacts(way: str, tmp_path: Path) -> None:
    path = WAYS[way](MODELS["lstm"], tmp_path)
    np.save(tmp_path / "x.npy", np.concatenate([frames(i)[0] for i in range(40)]))
    options = ImportOptions(time_axis=1)
    model = imported_model(path, tmp_path / "x.npy", "m", 1000, options, None)
    settings = Settings(tiers=("S",), formats=("native",), steps=50)
    (built,) = _build(
        [model], [load_target("linux-x86-64")], tmp_path / "out", settings, None, Silent()
    )
    rows = {v.stage: v for v in built.manifests[0].verification}
    assert rows["real graph"].reference == f"{path.name} without rounding"
    assert rows["real graph"].status == rows["rounding of the file"].status == "passed"
    assert any("quantised" in note for note in built.manifests[0].notes)
