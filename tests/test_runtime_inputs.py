"""Streams of several inputs, and of steps that take several frames at once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from made_up_manifest import manifest

from edgeseq import manifest as m
from edgeseq.cli import app
from edgeseq.errors import ArtifactError, DataError, UsageError
from edgeseq.runtime import Stream
from edgeseq.runtime import stream as stream_module

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)


class Plain:
    """y = the first of a frame's numbers plus b; one frame a step."""

    name = "native"

    def __init__(self) -> None:
        self.last = np.zeros(2, np.int16)

    def reset(self) -> None:
        self.last = np.zeros(2, np.int16)

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        outputs[0][:] = inputs[0][:, 0, :1] + inputs[1][:, None]

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        return partial(self.run, inputs, outputs)

    def state(self) -> dict[str, Array]:
        return {"last": self.last.copy()}

    def restore(self, state: Mapping[str, Array]) -> None:
        self.last = state["last"].copy()


class Thinning(Plain):
    """Of steps of 4 frames [2]: every second frame, 2 frames late; and the step's last frame."""

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        for s, frames in enumerate(inputs[0]):
            outputs[0][s] = [self.last, frames[0]]
            self.last = frames[2].copy()
            outputs[1][s] = frames[3]


def folder_of(path: Path, made: m.Manifest) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    m.write(made, path / "manifest.json")
    return path


def entry(name: str, shape: tuple[int, ...], **more: Any) -> m.InputInfo:
    return m.InputInfo(name=name, shape=shape, dtype="i16", scale=1.0, **more)


def answer(name: str, shape: tuple[int, ...], **more: Any) -> m.OutputInfo:
    return m.OutputInfo(name=name, shape=shape, dtype="i16", scale=0.5, **more)


PLAIN = manifest(
    inputs=(entry("a", (2, 3)), entry("b", ())), outputs=(answer("y", (1,)),), states=()
)
THINNING = manifest(
    model=dataclasses.replace(manifest().model, frames_per_step=4),
    inputs=(entry("x", (4, 2), frames=4),),
    outputs=(answer("y", (2, 2), frames=2, delay=2), answer("z", (2,), emission="last")),
    states=(),
)


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stream_module, "open_backend", lambda *_: Plain())
    return folder_of(tmp_path / "plain", PLAIN)


def test_a_mapping_or_an_array_for_each_input(plain: Path) -> None:
    stream = Stream(plain)
    a, b = RNG.integers(-99, 99, (5, 2, 3)), RNG.integers(-99, 99, 5)
    want = (a[:, 0, :1] + b[:, None]) * 0.5
    np.testing.assert_array_equal(stream.push({"b": b, "a": a}), want)
    np.testing.assert_array_equal(stream.push(a, b), want)
    np.testing.assert_array_equal(stream.push(a[0], b[0]), want[:1])
    np.testing.assert_array_equal(stream.push_stored(a.astype(np.int16), b), want * 2)
    assert stream.frames == 16


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((np.zeros((5, 2, 3)),), "the model has several inputs\n  -> push a mapping of a, b"),
        (tuple(np.zeros(5) for _ in range(3)), "got 3 arrays"),
        ((np.zeros((5, 2, 3)), np.zeros(4)), "the inputs have 5, 4 frames"),
        ((np.zeros((5, 6)), np.zeros(5)), "input 'a': got shape \\[5, 6\\], a frame is \\[2, 3\\]"),
        (({"a": np.zeros((5, 2, 3))},), "has inputs \\['a'\\]\n  -> give exactly a, b"),
    ],
)
def test_what_several_inputs_refuse(plain: Path, given: tuple[Any, ...], text: str) -> None:
    stream = Stream(plain)
    with pytest.raises(DataError, match=text):
        stream.push(*given)
    assert stream.frames == 0


def test_the_command_reads_an_array_for_each_input(plain: Path, tmp_path: Path) -> None:
    a, b = RNG.integers(-9, 9, (600, 2, 3)), RNG.integers(-9, 9, 600)
    np.savez(tmp_path / "x.npz", a=a, b=b)
    done = CliRunner().invoke(app, ["stream", str(plain), "--input", str(tmp_path / "x.npz")])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frame"] for line in lines] == list(range(600))
    assert [line["y"][0] for line in lines] == ((a[:, 0, 0] + b) * 0.5).tolist()
    refused = CliRunner().invoke(app, ["stream", str(plain), "--input", "-"], input="1,2\n")
    assert refused.exit_code == 1 and "the model takes 2 inputs" in refused.stderr


def test_the_command_cuts_audio_as_for_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class First(Plain):
        def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
            outputs[0][:] = inputs[0][:, :1]

    monkeypatch.setattr(stream_module, "open_backend", lambda *_: First())
    made = manifest(inputs=(entry("x", (10,), hop=8),), outputs=(answer("y", (1,)),), states=())
    folder = folder_of(tmp_path / "audio", made)
    np.save(tmp_path / "x.npy", np.arange(1, 41))
    done = CliRunner().invoke(app, ["stream", str(folder), "--input", str(tmp_path / "x.npy")])
    values = [2 * json.loads(line)["y"][0] for line in done.stdout.splitlines()]
    assert values == [0, 7, 15, 23, 31]  # frames overlap by 2, zeros before the first sample


# Several frames at once.


@pytest.fixture(scope="module")
def thinning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("thinning") / "a", THINNING)


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "thinning" in request.fixturenames:
        monkeypatch.setattr(stream_module, "open_backend", lambda *_: Thinning())


@given(st.lists(st.integers(0, 41), max_size=8), st.integers(0, 41))
def test_any_chunking_of_steps_of_several_frames(
    thinning: Path, cuts: list[int], moved: int
) -> None:
    x = np.arange(82).reshape(41, 2)
    stream, y, z, at_y, at_z = Stream(thinning), [], [], [], []
    pushed = 0
    for piece in np.split(x, sorted(cuts)):
        if pushed >= moved:  # go on in another Stream
            state, stream = stream.state(), Stream(thinning)
            stream.restore(state)
        got = stream.push(piece)
        pushed += len(piece)
        y.append(got["y"])
        z.append(got["z"])
        np.testing.assert_array_equal(stream.positions, stream.positions_of("y"))
        at_y.append(stream.positions)
        at_z.append(stream.positions_of("z"))
    # Ten steps are complete: 20 values of y, the first of which comes before the delay has passed.
    np.testing.assert_array_equal(np.concatenate(y), x[0:38:2] * 0.5)
    np.testing.assert_array_equal(np.concatenate(at_y), np.arange(0, 38, 2))
    np.testing.assert_array_equal(np.concatenate(z), x[3:40:4] * 0.5)
    np.testing.assert_array_equal(np.concatenate(at_z), np.arange(3, 40, 4))
    assert stream.frames == 41


def test_golden_steps_are_pushed_as_they_are(thinning: Path) -> None:
    x = np.arange(48, dtype=np.int16).reshape(6, 4, 2)
    stream = Stream(thinning)
    whole = stream.push_stored(x)["y"]
    stream.reset()
    np.testing.assert_array_equal(stream.push_stored(x.reshape(24, 2))["y"], whole)
    assert whole.shape == (11, 2)


def test_a_line_for_each_frame_that_has_an_answer(thinning: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(16).reshape(8, 2))
    done = CliRunner().invoke(app, ["stream", str(thinning), "--input", str(tmp_path / "x.npy")])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["frame"], sorted(set(line) - {"frame"})) for line in lines] == [
        (0, ["y"]), (2, ["y"]), (3, ["z"]), (4, ["y"]), (7, ["z"]),
    ]  # fmt: skip


def test_what_steps_of_several_frames_refuse(thinning: Path) -> None:
    with pytest.raises(UsageError, match="no windows"):
        Stream(thinning, windows=True)
    stream = Stream(thinning)
    with pytest.raises(DataError, match="there is no output 'w'\n  -> name one of y, z"):
        stream.positions_of("w")
    stream.push(np.zeros((3, 2)))
    state = stream.state()
    state["edgeseq.pending.0"] = np.zeros((4, 2), np.int16)
    with pytest.raises(DataError, match="does not fit"):
        Stream(thinning).restore(state)


def test_frames_must_fit_the_step(tmp_path: Path) -> None:
    for inputs, frames in (
        ((entry("x", (4, 2), frames=3),), 4),
        ((entry("x", (3, 2), frames=3),), 4),
        ((entry("x", (4, 2), frames=0),), 4),
        ((entry("x", (4, 2)),), 0),
    ):
        model = dataclasses.replace(manifest().model, frames_per_step=frames)
        with pytest.raises(ArtifactError, match="frames"):
            folder_of(tmp_path / "bad", manifest(inputs=inputs, model=model))
