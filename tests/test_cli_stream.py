"""`edgeseq stream`: what goes in, what lines come out. The stepping itself is the runtime's."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgeseq.runtime
from edgeseq.cli import app
from edgeseq.cli.streaming import CHUNK, read_lines
from edgeseq.errors import DataError
from edgeseq.runtime import Decision


class Doubler:
    """Stands for a Stream: twice the frame, and the index of the larger of two channels."""

    made: tuple[Any, ...] = ()

    def __init__(self, folder: Path, backend: str, *, windows: bool) -> None:
        Doubler.made = (Path(folder), backend, windows)
        output = SimpleNamespace(name="logits", labels=("left", "right"))
        frame = SimpleNamespace(name="x", shape=(2,), frames=1, hop=None)
        model = SimpleNamespace(mode="stream")
        self.manifest = SimpleNamespace(inputs=(frame,), outputs=(output,), model=model)
        self.pushes: list[int] = []
        self.reset()

    def reset(self) -> None:
        self.frames = 0

    def push(self, frames: np.ndarray) -> np.ndarray:
        assert frames.dtype == np.float32 and len(frames) <= CHUNK
        self.positions = np.arange(self.frames, self.frames + len(frames))
        self.frames += len(frames)
        return frames.astype(np.float64) * 2

    def decide(self, outputs: np.ndarray) -> list[Decision]:
        chosen = [int(index) for index in outputs.argmax(axis=1)]
        return [Decision(("left", "right")[index], index, 0.75) for index in chosen]


@pytest.fixture(autouse=True)
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(edgeseq.runtime, "Stream", Doubler)
    folder = tmp_path / "build" / "rpi" / "S"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def stream(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["stream", *args], input=stdin)


def answers(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_standard_input() -> None:
    lines = answers(stream("build", "--input", "-", stdin="ax,ay\n1,2\n4,3\n"))
    assert lines == [
        {"frame": 0, "label": "right", "score": 0.75, "logits": [2.0, 4.0]},
        {"frame": 1, "label": "left", "score": 0.75, "logits": [8.0, 6.0]},
    ]


def test_files_of_every_kind() -> None:
    frames = np.array([[1, 2], [4, 3]], np.float32)
    Path("f.csv").write_text("1,2\n4,3\n")
    np.save("f.npy", frames)
    np.savez("f.npz", x=frames)
    expected = answers(stream("build", "--input", "-", stdin="1,2\n4,3\n"))
    for name in ("f.csv", "f.npy", "f.npz"):
        assert answers(stream("build", "--input", name)) == expected


def test_a_long_file_is_pushed_in_pieces_and_counted_through() -> None:
    np.save("long.npy", np.tile(np.float32([[1, 2]]), (2 * CHUNK + 3, 1)))
    lines = answers(stream("build", "--input", "long.npy"))
    assert [line["frame"] for line in lines] == list(range(2 * CHUNK + 3))
    assert "sequence" not in lines[0]


def test_each_sequence_starts_from_a_reset() -> None:
    np.save("two.npy", np.zeros((2, 3, 2), np.float32))
    lines = answers(stream("build", "--input", "two.npy"))
    places = [(line["sequence"], line["frame"]) for line in lines]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_options_reach_the_stream(artifact: Path) -> None:
    args = ("--input", "-", "--windows", "--backend", "onnx")
    assert answers(stream("build/rpi/S", *args, stdin="1,2\n"))
    assert Doubler.made == (Path("build/rpi/S"), "onnx", True)
    answers(stream(str(artifact), "--input", "-", stdin=""))
    assert Doubler.made == (artifact, "auto", False)


def test_several_artifacts(artifact: Path) -> None:
    other = artifact.with_name("M")
    other.mkdir()
    (other / "manifest.json").write_text("{}")
    result = stream("build", "--input", "-", stdin="1,2\n")
    assert result.exit_code == 2
    assert "holds 2 artifacts" in result.stderr and "build/rpi/M" in result.stderr


@pytest.mark.parametrize("args", [("nothing", "--input", "-"), ("build", "--input", "no.csv")])
def test_what_is_not_there(args: tuple[str, ...]) -> None:
    result = stream(*args, stdin="")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_a_bad_line_ends_the_stream_after_what_came_before() -> None:
    result = stream("build", "--input", "-", stdin="1,2\n1,oops\n")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert "standard input, line 2: 'oops' is not a finite number" in result.stderr


# Reading lines.


def lines_of(text: str) -> np.ndarray:
    return np.concatenate(list(read_lines(io.StringIO(text))))


def test_read_lines() -> None:
    expected = np.array([[1, 2.5], [-3, 1e3]], np.float32)
    for text in ("1,2.5\n-3,1e3\n", "ax, ay\n1, 2.5\n\n-3, 1e3", "1,2.5\r\n-3,1e3\r\n"):
        read = lines_of(text)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, expected)


def test_read_lines_yields_each_line_at_once() -> None:
    def source() -> Iterator[str]:
        yield "1,2\n"
        raise AssertionError("read ahead")

    frame = next(read_lines(source()))
    np.testing.assert_array_equal(frame, [[1, 2]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n1\n", "line 2: has 1 fields, the lines before have 2"),
        ("a,b\n1,2,3\n", "line 2: has 3 fields"),
        ("1,2\n1,x\n", "line 2: 'x' is not a finite number"),
        ("1,nan\n", "line 1: 'nan' is not a finite number"),
        ("1,\n", "line 1: '' is not a finite number"),
    ],
)
def test_read_lines_names_the_line(text: str, expected: str) -> None:
    with pytest.raises(DataError, match=f"standard input, {expected}"):
        lines_of(text)
