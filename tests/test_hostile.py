"""What a hostile or unlucky user does: each ends in one message and leaves no damage."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import made_up_manifest
import pytest
import torch
from click.testing import CliRunner

from edgeseq.cli import building, streaming
from edgeseq.cli.app import app
from edgeseq.cli.streaming import read_lines
from edgeseq.compiler.build import _checked_targets
from edgeseq.compiler.folder import new_folder, remove_leftovers
from edgeseq.config import load_config
from edgeseq.errors import ArtifactError, BackendError, DataError, TargetError, TrainError
from edgeseq.manifest import MANIFEST, to_json
from edgeseq.target import load_target, read_target
from edgeseq.train import _checkpoint

TARGET = Path(__file__).parents[1] / "targets" / "cortex-m4.toml"


def finished(folder: Path, text: str = "old") -> Path:
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(text)
    return folder


def nobody() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


# -- folders -------------------------------------------------------------------------------------


def test_a_failure_leaves_what_stood_before(tmp_path: Path) -> None:
    tier = finished(tmp_path / "S")
    with pytest.raises(ArtifactError, match="No space left"), new_folder(tier) as part:
        (part / MANIFEST).write_text("half")
        raise OSError(28, "No space left on device")
    assert (tier / MANIFEST).read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["S"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_edgeseq_did_not_write_is_not_replaced(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "S"
    if kind == "file":
        mine.write_text("mine")
    else:
        mine.mkdir()
        (mine / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is not an artifact folder"), new_folder(mine):
        pass
    assert (mine if kind == "file" else mine / "notes.txt").read_text() == "mine"


def test_leftovers_of_the_dead_go_and_of_the_living_stay(tmp_path: Path) -> None:
    dead, alive = nobody(), os.getppid()
    finished(tmp_path / f".S.part-{dead}")
    finished(tmp_path / f".M.part-{alive}")
    (tmp_path / f".report.html.{dead}.part").write_text("half")
    (tmp_path / ".keep").write_text("mine")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".M.part-{alive}", ".keep"]


def test_a_tier_moved_aside_by_a_killed_process_comes_back(tmp_path: Path) -> None:
    dead = nobody()
    finished(tmp_path / f".S.part-{dead}-old")
    finished(tmp_path / f".M.part-{dead}-old", "older")
    finished(tmp_path / "M", "new")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["M", "S"]
    assert (tmp_path / "S" / MANIFEST).read_text() == "old"
    assert (tmp_path / "M" / MANIFEST).read_text() == "new"


# -- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "cortex-m4"', 'name = "../../elsewhere"'),
        ('name = "cortex-m4"', 'name = "/elsewhere"'),
        ('name = "cortex-m4"', 'name = ".."'),
        ("[tiers.XS]", '[tiers."../XS"]'),
        ('isa = ["generic", "dsp"]', 'isa = ["generic", "avx"]'),
    ],
)
def test_target_files_cannot_name_other_folders_or_unknown_kernels(
    tmp_path: Path, old: str, new: str
) -> None:
    text = TARGET.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "own.toml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(TargetError, match="cannot name a folder|known: dsp, generic"):
        read_target(path)


def test_targets_named_twice(tmp_path: Path) -> None:
    m4 = load_target("cortex-m4")
    assert _checked_targets([m4, load_target("cortex-m4f")], ()) == [m4]
    path = tmp_path / "own.toml"
    text = TARGET.read_text(encoding="utf-8")
    path.write_text(text.replace("clock_hz = 80", "clock_hz = 90"), encoding="utf-8")
    with pytest.raises(TargetError, match="two different targets are called 'cortex-m4'"):
        _checked_targets([m4, read_target(path)], ())


def test_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "edgeseq.toml").write_text(
        '\ufeff[data]\nset = "watch"\ntest_groups = [8]\n', encoding="utf-8"
    )
    assert load_config(tmp_path).data.test_groups == ("8",)
    assert [f.tolist() for f in read_lines(io.StringIO("\ufeff1,2\n3,4\n"))] == [[[1, 2]], [[3, 4]]]


# -- the command line ----------------------------------------------------------------------------


def test_missing_packages_are_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeseq.emit.installed", lambda name: name not in ("onnx", "numba"))
    m4 = load_target("cortex-m4")
    with pytest.raises(BackendError, match="cannot import numba, onnx"):
        building._need(("native", "onnx"), [m4], (), asked=True)
    with pytest.raises(BackendError, match="cannot import numba\n"):
        building._need(("native", "onnx"), [m4], (), asked=False)


def test_a_missing_emulator_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseq.emit.installed", lambda name: name != "unicorn")
    building._need(("native", "onnx"), [load_target("cortex-m4")], (), asked=True)


def test_an_output_that_cannot_show_a_character(tmp_path: Path) -> None:
    finished(tmp_path / "board" / "S", to_json(made_up_manifest.manifest()))
    done = subprocess.run(
        [sys.executable, "-m", "edgeseq", "report", str(tmp_path)],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "40", "TERM": "dumb"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?%" in done.stdout


@pytest.mark.parametrize("key", ["inputs", "outputs"])
def test_a_manifest_without_inputs_or_outputs(tmp_path: Path, key: str) -> None:
    raw = json.loads(to_json(made_up_manifest.manifest()))
    finished(tmp_path / "S", json.dumps(raw | {key: []}))
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{key}: is empty" in result.stderr


def test_closed_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "one_artifact", lambda folder: folder)
    monkeypatch.setattr("edgeseq.runtime.Stream", lambda *_, **__: None)
    monkeypatch.setattr(sys, "stdin", None)
    callback = streaming.stream_command.callback
    assert callback is not None
    with pytest.raises(DataError, match="standard input: is closed"):
        callback(directory=tmp_path, source="-", windows=False, backend="auto")


# -- checkpoints ---------------------------------------------------------------------------------


def test_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    _checkpoint.save_state(path, {"epoch": 1, "weights": torch.arange(8.0)})
    whole = path.read_bytes()
    for content in (b"", b"junk", b"PK\x03\x04", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(TrainError, match="is damaged or not a checkpoint"):
            _checkpoint.load_state(path)


def test_a_full_disk_while_saving(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise RuntimeError("basic_ios::clear: iostream error")  # what torch.save raises

    with pytest.raises(TrainError, match="cannot be written"):
        _checkpoint.write_atomically(path, write)
    assert not list(tmp_path.iterdir())


def test_files_of_a_running_training_stay(tmp_path: Path) -> None:
    kept = tmp_path / f".resume.pt.{os.getppid()}.tmp"
    for name in (kept.name, f".resume.pt.{nobody()}.tmp", ".odd.tmp"):
        (tmp_path / name).write_text("half")
    _checkpoint.clean(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
