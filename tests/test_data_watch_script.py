"""scripts/make_watch.py: the parts that need no download."""

from __future__ import annotations

import importlib.util
import io
import pickle  # noqa: TID251 - to write what the script must refuse
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_watch", ROOT / "scripts/make_watch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("ran",))


def test_arrays_are_unpickled_and_nothing_else(script: ModuleType) -> None:
    # Protocol 2 and numpy's old module name, as in the wheel.
    payload = pickle.dumps({"X": [np.arange(6.0).reshape(2, 3)]}, protocol=2)
    payload = payload.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    read = script.ArrayUnpickler(io.BytesIO(payload)).load()
    assert np.array_equal(read["X"][0], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(pickle.UnpicklingError, match=r"print: refused"):
        script.ArrayUnpickler(io.BytesIO(pickle.dumps(Hostile()))).load()


def test_a_changed_source_is_refused(script: ModuleType, tmp_path: Path) -> None:
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(script.NPY_NAME, b"something else")
        archive.writestr(script.LICENCE_NAME, "text")
    with pytest.raises(SystemExit, match="has SHA-256"):
        script.main([str(wheel), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_scales_are_the_smallest_powers_of_two(script: ModuleType) -> None:
    frames = np.random.default_rng(0).normal(size=(500, 3)) * [1.0, 30.0, 0.01]
    samples, scale = script.quantise(frames)
    assert np.array_equal(np.log2(scale), np.round(np.log2(scale)))
    assert np.abs(samples * scale - frames).max(axis=0) == pytest.approx(scale / 2, rel=0.02)
    assert (np.abs(samples).max(axis=0) > 32767 / 2).all()


def test_manifest_in_the_repository_matches_the_script(script: ModuleType) -> None:
    manifest = tomllib.loads((ROOT / "calib/watch/manifest.toml").read_text(encoding="utf-8"))
    assert manifest["source"]["wheel_sha256"] == script.WHEEL_SHA256
    assert manifest["source"]["file_sha256"] == script.NPY_SHA256
    for channel in manifest["channel"]:
        assert channel["largest_error"] <= channel["scale"] / 2 * 1.001
        assert channel["signal_to_error_db"] > 65
