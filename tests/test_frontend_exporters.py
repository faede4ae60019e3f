"""What both ONNX exporters of PyTorch make of common models: read, streamed, compared."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exported_models import MODELS, Written  # noqa: E402

from edgeseq.errors import UnsupportedError  # noqa: E402
from edgeseq.frontend import from_onnx  # noqa: E402
from edgeseq.ir import Interpreter  # noqa: E402
from edgeseq.passes import to_step  # noqa: E402

T = 20


def inputs(w: Written, frames: int, seed: int) -> list[Any]:
    """What the module is called with, states at rest."""
    make = torch.Generator().manual_seed(seed)
    sizes = [n or frames for n in w.sizes]
    if w.tokens:
        x = torch.randint(0, w.tokens, sizes, generator=make)
    else:
        x = torch.randn(sizes, generator=make)
    return [x, *(torch.zeros(s) for s in w.states)]


def export(w: Written, module: Any, path: Path, dynamo: bool, fixed: bool) -> Path:
    """The file that PyTorch writes, quietly."""
    names = ["x", *(f"state{i}" for i in range(len(w.states)))]
    outs = ["y", *(f"new_state{i}" for i in range(len(w.states)))] if w.step else ["y"]
    axes = {"x": {w.sizes.index(0): "frames"}, "y": {w.time: "frames"}} if 0 in w.sizes else {}
    more: dict[str, Any] = {}
    if not fixed and axes:
        if dynamo:
            shapes: list[Any] = [{w.sizes.index(0): torch.export.Dim("frames", min=2, max=4096)}]
            more["dynamic_shapes"] = {"x": (*shapes, *({} for _ in w.states))}
        else:
            more["dynamic_axes"] = axes
    frames = 1 if w.step and fixed else T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tuple(inputs(w, frames, 0)), str(path), dynamo=dynamo, input_names=names,
            output_names=outs, verbose=False, **more,
        )  # fmt: skip
    return path


def streamed(w: Written, path: Path, x: Any, fixed: bool) -> tuple[np.ndarray, int]:
    """Outputs of the step, a row per frame, and how many frames they come late."""
    step = to_step(from_onnx(path, **w.options | (w.fixed if fixed else {})))
    at = w.sizes.index(0) if 0 in w.sizes else 0
    frames = np.moveaxis(np.asarray(x, np.float64), at, 0)
    many = step.frames_of(step.inputs[0])
    shape = step.types[step.inputs[0]].shape[1 if many > 1 else 0 :]
    rows = Interpreter(step).sequence(frames.reshape(1, len(frames), *shape))[0][0]
    return np.asarray(rows).reshape(len(rows), -1), step.meta.get("delay", 0)


def made(w: Written) -> Any:
    """The module, its statistics of batches not those of a new one."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older weight_norm
        module = w.make().eval()
    for name, value in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return module


def whole(w: Written, module: Any, feed: list[Any]) -> np.ndarray:
    """What the module says of the whole sequence, a row per frame."""
    with torch.no_grad():
        if 0 in w.sizes:
            y = module(*feed)
            y = np.moveaxis((y[0] if w.step else y).numpy(), w.time, 0)
            return y.reshape(len(y), -1)
        x, *states = feed
        rows = []
        for t in range(len(x)):
            y, *states = module(x[t : t + 1], *states)
            rows.append(y[0])
        return torch.stack(rows).numpy()


def check_streams(name: str, path: Path, exporter: str, fixed: bool) -> None:
    w = MODELS[name]
    if exporter == "newer" and exporter in w.unrolled and not fixed:
        pytest.skip("this exporter unrolls the loop and lets no length be open then")
    if exporter in w.unexported:
        pytest.skip("this exporter refuses it")
    module = made(w)
    export(w, module, path, exporter == "newer", fixed)
    feed = inputs(w, T, 1)
    if 0 not in w.sizes:
        feed[0] = torch.cat([inputs(w, 1, t)[0] for t in range(T)])
    want = whole(w, module, feed)
    got, delay = streamed(w, path, feed[0], fixed)
    lag = delay * len(want) // T
    n = len(want) - lag
    assert n > 6
    assert np.abs(got[lag : lag + n] - want[:n]).max() < 1e-4 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize("time", ["open", "fixed"])
@pytest.mark.parametrize("name", MODELS)
def test_the_older_exporter(name: str, time: str, tmp_path: Path) -> None:
    check_streams(name, tmp_path / "m.onnx", "older", time == "fixed")


@pytest.mark.slow
@pytest.mark.parametrize("time", ["open", "fixed"])
@pytest.mark.parametrize("name", MODELS)
def test_the_newer_exporter(name: str, time: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs onnxscript")
    check_streams(name, tmp_path / "m.onnx", "newer", time == "fixed")


def test_an_initial_state_that_nothing_carries_on_is_asked_for(tmp_path: Path) -> None:
    w = MODELS["gru_h0"]
    path = export(w, made(w), tmp_path / "m.onnx", False, False)
    with pytest.raises(UnsupportedError, match="--set NAME=0"):
        from_onnx(path)
