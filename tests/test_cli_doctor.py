"""`edgeseq doctor`: what it finds, and what it says when something is missing."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeseq import _resources, doctor
from edgeseq.cli import app
from edgeseq.doctor import Check


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the probes out that start another interpreter."""
    monkeypatch.setattr(doctor, "_ask", lambda python, code: ["1", "2"])


def by_name() -> dict[str, Check]:
    return {check.name: check for check in doctor.examine()}


def test_everything_is_looked_at(quick: None) -> None:
    checks = by_name()
    assert {"python", "numpy", "torch", "ziglang", "targets", "calib", "cache"} <= set(checks)
    assert {"tflite-runtime", "cuda"} <= set(checks)
    assert checks["numpy"].detail.startswith(metadata.version("numpy"))
    assert all(check.status in ("ok", "note", "missing") for check in checks.values())
    assert all(check.needed_for for check in checks.values())


def test_missing_and_different_packages(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "numba":
            raise metadata.PackageNotFoundError(name)
        return {"numpy": "0.1", "torch": doctor.pinned_versions()["torch"] + "+cpu"}.get(
            name, ""
        ) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    checks = by_name()
    assert checks["numba"].status == "missing" and checks["numba"].needed_for
    assert checks["numpy"].status == "note" and "tested with" in checks["numpy"].detail
    assert checks["torch"].status == "ok"

    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "1 of" in result.stderr and "numba" in result.stderr


def test_no_pins_outside_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.pinned_versions()["torch"] == "2.13.0"
    monkeypatch.setattr(_resources, "_PACKAGE", tmp_path)
    assert doctor.pinned_versions() == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_cache_that_cannot_be_written(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("EDGESEQ_CACHE", str(tmp_path / "cache"))
    assert by_name()["cache"].status == "note"


def test_cache_in_the_way_of_a_file(
    quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGESEQ_CACHE", str(tmp_path / "file" / "cache"))
    check = by_name()["cache"]
    assert check.status == "note" and "EDGESEQ_CACHE" in check.detail


def test_tflite_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGESEQ_TFLITE_PYTHON", str(tmp_path / "none"))
    check = doctor._tflite()
    assert check.status == "note" and "EDGESEQ_TFLITE_PYTHON" in check.detail
    # An interpreter that lacks the package: its own words.
    monkeypatch.setenv("EDGESEQ_TFLITE_PYTHON", sys.executable)
    assert "No module named 'tflite_runtime'" in doctor._tflite().detail


def test_ask() -> None:
    python = Path(sys.executable)
    assert doctor._ask(python, "print('noise'); print('[\"a\"]')") == ["a"]
    assert doctor._ask(python, "raise SystemExit(3)") == "ended with code 3"
    assert "cannot be run" in doctor._ask(python / "none", "")


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """The environment the tests run in has everything."""
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "everything that is needed is there" in result.stdout
