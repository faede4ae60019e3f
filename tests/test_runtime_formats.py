"""A compiled artifact in every back end that is installed gives what was built."""

from __future__ import annotations

import platform
import warnings
from pathlib import Path

import numpy as np
import pytest

from edgeseq.errors import ArtifactError
from edgeseq.runtime import Stream

pytestmark = pytest.mark.slow

FRAMES = 400


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from edgeseq.compiler import Settings, compile_model
    from edgeseq.target import load_target

    class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.cell = torch.nn.LSTM(5, 6, batch_first=True)
            self.head = torch.nn.Linear(6, 3)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.head(self.cell(x)[0])

    folder = tmp_path_factory.mktemp("formats")
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export speaks about its own future
        exported = torch.export.export(Net().eval(), (torch.randn(1, 20, 5),))
        torch.export.save(exported, folder / "net.pt2")
    frames = np.sin(np.cumsum(np.random.default_rng(0).normal(0, 0.1, (1200, 5)), axis=0))
    np.savez(folder / "frames.npz", x=frames.astype(np.float32))
    name = "linux-x86-64" if platform.machine() in ("x86_64", "AMD64") else "rpi"
    target = load_target(name)
    (made,) = compile_model(
        folder / "net.pt2",
        [target],
        folder / "out",
        calib=folder / "frames.npz",
        name="net",
        settings=Settings(tiers=("S",), steps=300),
    )
    return Path(made.folder) / "S"


@pytest.fixture(scope="module")
def frames(built: Path) -> np.ndarray:
    with np.load(built.parents[2] / "frames.npz") as data:
        return data["x"][:FRAMES]


def test_native_reproduces_the_golden_frames(built: Path) -> None:
    stream = Stream(built, "native")
    (x,), (y,) = (
        [v.name for v in group] for group in (stream.manifest.inputs, stream.manifest.outputs)
    )
    with np.load(built / "golden.npz") as golden:
        got = stream.push_stored(golden[f"input.{x}"])
        np.testing.assert_array_equal(got, golden[f"output.{y}"])


@pytest.mark.parametrize(
    ("backend", "snr"),
    [("onnx_int", 50.0), ("onnx_float", 30.0), ("tflite_int16x8", 50.0), ("tflite_int8", 10.0)],
)
def test_fallbacks_follow_the_native_step(
    built: Path, frames: np.ndarray, backend: str, snr: float
) -> None:
    try:
        stream = Stream(built, backend)
    except ArtifactError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise
    want = Stream(built, "native").push(frames)
    got = stream.push(frames)
    noise = ((got - want) ** 2).sum()
    assert 10 * np.log10((want**2).sum() / noise) > snr
    stream.reset()
    head = stream.push(frames[:123])
    state = stream.state()
    np.testing.assert_array_equal(np.concatenate([head, stream.push(frames[123:])]), got)
    other = Stream(built, backend)
    other.restore(state)
    np.testing.assert_array_equal(other.push(frames[123:]), got[123:])
