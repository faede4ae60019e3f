"""What is installed is what is there: packages, data, versions, the exported names."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import edgeseq
from edgeseq import _resources
from edgeseq.errors import EdgeseqError

TOP = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(TOP / "edgeseq")], prefix="edgeseq.")
)


def pins(name: str) -> dict[str, str]:
    lines = [
        line for line in (TOP / name).read_text().splitlines() if line and not line.startswith("#")
    ]
    return {key.lower(): version for key, _, version in (line.partition("==") for line in lines)}


def test_every_package_is_listed() -> None:
    found = {
        ".".join(path.parent.relative_to(TOP).parts)
        for path in (TOP / "edgeseq").rglob("__init__.py")
    }
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert set(listed) == found | {"edgeseq.targets", "edgeseq.calib"}
    assert listed == sorted(listed)


def test_every_python_file_is_in_a_package() -> None:
    for path in (TOP / "edgeseq").rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path


def test_every_data_file_is_installed() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for path in (TOP / "edgeseq").rglob("*"):
        if path.is_dir() or path.suffix == ".py" or "__pycache__" in path.parts:
            continue
        package = ".".join(path.parent.relative_to(TOP).parts)
        assert any(path.match(pattern) for pattern in data.get(package, [])), path
    for kind in ("targets", "calib"):
        for path in (TOP / kind).rglob("*"):
            if path.is_file():
                patterns = data[f"edgeseq.{kind}"]
                relative = path.relative_to(TOP / kind)
                assert any(
                    relative.match(pattern) and len(relative.parts) == pattern.count("/") + 1
                    for pattern in patterns
                ), path


def test_requirements_are_pinned() -> None:
    pinned = pins("constraints.txt")
    optional = PROJECT["project"]["optional-dependencies"].values()
    for text in [
        *PROJECT["project"]["dependencies"],
        *(item for extra in optional for item in extra),
    ]:
        requirement = Requirement(text)
        if requirement.name != "edgeseq":
            assert requirement.specifier.contains(pinned[requirement.name]), text


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-tflite.txt"])
def test_pins_are_exact_public_versions_without_addresses(name: str) -> None:
    for package, version in pins(name).items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), (package, version)
    assert "://" not in (TOP / name).read_text()


def test_torch_is_the_tested_version() -> None:
    assert pins("constraints.txt")["torch"] == "2.13.0"


def test_version() -> None:
    assert metadata.version("edgeseq") == edgeseq.__version__


@pytest.mark.parametrize("name", ["edgeseq", *MODULES])
def test_exported_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", ())
    assert len(set(exported)) == len(exported)
    for item in exported:
        assert hasattr(module, item), f"{name}.__all__ names {item}, which is not there"


def test_resources_in_the_checkout_and_in_a_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _resources.resource_folder("targets") == TOP / "targets"
    assert _resources.checkout() == TOP
    package = tmp_path / "edgeseq"
    (package / "targets").mkdir(parents=True)
    monkeypatch.setattr(_resources, "_PACKAGE", package)
    assert _resources.resource_folder("targets") == package / "targets"
    assert _resources.checkout() is None
    with pytest.raises(EdgeseqError, match="'calib' is missing"):
        _resources.resource_folder("calib")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGESEQ_CACHE", raising=False)
    assert _resources.cache_folder() == tmp_path / "edgeseq"
    monkeypatch.setenv("EDGESEQ_CACHE", str(tmp_path / "own"))
    assert _resources.cache_folder() == tmp_path / "own"


def test_tflite_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_resources, "_PACKAGE", tmp_path / "edgeseq")
    monkeypatch.delenv("EDGESEQ_TFLITE_PYTHON", raising=False)
    monkeypatch.chdir(tmp_path)
    assert _resources.tflite_python() is None
    python = tmp_path / ".venv-tflite" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    assert _resources.tflite_python() == python
    monkeypatch.setenv("EDGESEQ_TFLITE_PYTHON", str(tmp_path / "none"))
    with pytest.raises(EdgeseqError, match="EDGESEQ_TFLITE_PYTHON names .*none"):
        _resources.tflite_python()
