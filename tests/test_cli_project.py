"""A small project through every command, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeseq.cli import app

CONFIG = """
[project]
name = "tiny"
[data]
path = "data.npz"
window = 20
hop = 20
test_groups = ["c"]
validation_groups = ["b"]
[model]
hidden = [4]
[train]
epochs = 2
batch_size = 16
"""


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(args), input=stdin)


def message(result: Result, code: int = 1) -> str:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert re.search("^error: ", result.stderr, re.MULTILINE)
    return result.stderr


def write_project(folder: Path) -> None:
    """Two classes (a slow and a fast oscillation), three groups, 12 recordings."""
    random = np.random.default_rng(0)
    time = np.arange(100)[None, :, None]
    labels = np.tile([0, 1], 6)
    pitch = np.where(labels, 0.9, 0.2)[:, None, None]
    x = np.sin(pitch * time + random.uniform(0, 6, (12, 1, 2))) + random.normal(
        0, 0.1, (12, 100, 2)
    )
    np.savez(
        folder / "data.npz",
        x=x.astype(np.float32),
        y=labels,
        group=np.repeat(["a", "b", "c"], 4),
        classes=np.array(["slow", "fast"]),
    )
    (folder / "edgeseq.toml").write_text(CONFIG)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = run(
            *("compile", "--target", "linux-x86-64", "--target", "cortex-m4", "--tier", "S"),
            *("--formats", "native", "--name", "renamed", "--dump", "graphs"),
        )
    finally:
        os.chdir(before)
    assert result.exit_code == 0, result.output
    assert "report: build/cortex-m4/report.html" in result.stdout
    assert "trained (2 epochs" in result.stderr
    return folder


@pytest.fixture
def project(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built)
    return built


def test_compile_writes_what_was_asked_for(project: Path) -> None:
    for target, library in (("linux-x86-64", ".so"), ("cortex-m4", ".a")):
        folder = project / "build" / target / "S"
        names = {path.name for path in folder.iterdir()}
        assert {"manifest.json", "golden.npz", "renamed.h"} <= names
        assert any(name.endswith(library) for name in names)
        assert not any(name.endswith((".onnx", ".tflite")) for name in names)
        assert json.loads((folder / "manifest.json").read_text())["name"] == "renamed"
        assert (project / "build" / target / "report.html").is_file()
    assert not list((project / "build").glob("*/[ML]"))
    assert list((project / "graphs").rglob("*.txt"))


def test_nothing_is_trained_twice(project: Path) -> None:
    result = run("train")
    assert result.exit_code == 0
    assert "trained before, nothing changed" in result.stderr
    assert "gru4" in result.stdout


def test_force_trains_again(project: Path, tmp_path: Path) -> None:
    write_project(tmp_path)
    config = str(tmp_path / "edgeseq.toml")
    assert "trained (2 epochs" in run("train", "--config", config).stderr
    assert "nothing changed" in run("train", "--config", config).stderr
    assert "trained (2 epochs" in run("train", "--config", config, "--force").stderr
    assert (tmp_path / ".edgeseq" / "trained" / "gru4").is_dir()


def test_verify_and_report(project: Path) -> None:
    result = run("verify", "build")
    assert result.exit_code == 0, result.output
    assert "cortex-m4" in result.stdout and "linux-x86-64" in result.stdout
    for folder in ("build", "build/cortex-m4", "build/cortex-m4/S"):
        result = run("report", folder)
        assert result.exit_code == 0, result.output
        assert "cortex-m4/report.html" in result.stdout


def test_stream_a_recording(project: Path) -> None:
    np.save("one.npy", np.load("data.npz")["x"][8])
    result = run("stream", "build/linux-x86-64/S", "--input", "one.npy")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["frame"] for line in lines] == list(range(100))
    assert {line["label"] for line in lines} <= {"slow", "fast"}

    rows = "".join(",".join(map(str, frame)) + "\n" for frame in np.load("one.npy"))
    assert run("stream", "build/linux-x86-64", "--input", "-", stdin=rows).stdout == result.stdout

    windows = run("stream", "build/linux-x86-64", "--windows", "--input", "one.npy")
    frames = [json.loads(line)["frame"] for line in windows.stdout.splitlines()]
    assert frames == [19, 39, 59, 79, 99]


def test_stream_with_the_wrong_number_of_channels(project: Path) -> None:
    result = run("stream", "build/linux-x86-64", "--input", "-", stdin="1,2,3\n")
    assert "3" in message(result)


def test_stream_of_another_machine(project: Path) -> None:
    assert "cortex-m4" in message(run("stream", "build/cortex-m4", "--input", "-", stdin="1,2\n"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--tier", "XXL"), "unknown tier 'XXL'"),
        (("--tier", "S", "--config", "strict.toml"), "below the floor"),
        (("--config", "broken.toml"), "broken.toml"),
        (("--config", "no-data.toml"), "none.npz"),
        (("--config", "nan.toml"), "nan.npz"),
    ],
)
def test_a_failed_compile_leaves_what_was_there(
    project: Path, args: tuple[str, ...], expected: str
) -> None:
    Path("strict.toml").write_text(CONFIG + "[compile]\naccuracy_floor = 1.0\n")
    Path("broken.toml").write_text(CONFIG.replace("[model]", "[modell]"))
    Path("no-data.toml").write_text(CONFIG.replace("data.npz", "none.npz"))
    Path("nan.toml").write_text(CONFIG.replace("data.npz", "nan.npz"))
    arrays = dict(np.load("data.npz"))
    arrays["x"] = arrays["x"].copy()
    arrays["x"][3, 5, 1] = np.nan
    np.savez("nan.npz", **arrays)
    before = contents(project / "build")
    assert expected in message(run("compile", "--target", "cortex-m4", *args))
    assert contents(project / "build") == before


def test_a_model_that_is_no_model(project: Path) -> None:
    Path("model.pt2").write_bytes(b"no archive")
    np.savez("frames.npz", x=np.random.default_rng(0).normal(size=(50, 2)))
    args = ("--target", "cortex-m4", "--calib", "frames.npz", "--out", "elsewhere")
    assert "model.pt2" in message(run("compile", "model.pt2", *args))
    assert "no such file" in message(run("compile", "none.pt2", *args))
    assert not Path("elsewhere/cortex-m4").exists()


def test_an_output_folder_that_is_a_file(project: Path) -> None:
    Path("occupied").write_text("mine")
    assert "occupied" in message(run("compile", "--target", "cortex-m4", "--out", "occupied"))
    assert Path("occupied").read_text() == "mine"


def test_a_changed_artifact_is_noticed(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "S"
    shutil.copytree("build/cortex-m4/S", copy)
    path = next(copy.glob("*.a"))
    path.write_bytes(path.read_bytes()[:-1])
    assert path.name in message(run("verify", str(copy)))
