"""The layers hold: as imports are written (import-linter) and as they happen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
COMPILER = (
    "ai_edge_litert", "jinja2", "lightning_fabric", "llvmlite", "matplotlib", "numba", "onnx",
    "onnxruntime", "torch", "unicorn",
)  # fmt: skip


def loaded(code: str, *, without: tuple[str, ...] = ()) -> set[str]:
    """Top-level modules loaded after `code` ran in a fresh interpreter that lacks `without`."""
    blocked = f"import sys\nfor name in {without!r}: sys.modules[name] = None\n"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{blocked}{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})",
        ],
        capture_output=True,
        text=True,
        cwd=TOP,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        cwd=TOP,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "edgeseq.cli", "edgeseq.config", "edgeseq.data", "edgeseq.doctor", "edgeseq.fixed",
        "edgeseq.ir", "edgeseq.manifest", "edgeseq.passes", "edgeseq.quant", "edgeseq.runtime",
        "edgeseq.target",
    ],
)  # fmt: skip
def test_light_modules_load_nothing_heavy(module: str) -> None:
    assert not loaded(f"import {module}") & set(COMPILER)


@pytest.mark.parametrize(
    "package", ["emit", "emulate", "kernels", "frontend", "compiler", "verify"]
)
def test_compiling_needs_no_torch_at_import(package: str) -> None:
    assert "torch" not in loaded(f"import edgeseq.{package}")


def test_the_runtime_needs_numpy_alone() -> None:
    """Of what is installed, `import edgeseq.runtime` and its Stream load NumPy and nothing else."""
    everything_else = (*COMPILER, "click", "rich", "pydantic", "flatbuffers", "elftools")
    modules = loaded("from edgeseq.runtime import Stream", without=everything_else)
    assert {"numpy", "edgeseq"} <= modules
    foreign = {
        name
        for name in modules - set(everything_else)
        if not name.startswith("_") and name not in sys.stdlib_module_names
    }
    # What the interpreter's own site hooks (editable installs, coverage) load does not count.
    foreign -= loaded("pass")
    assert foreign == {"numpy", "edgeseq"}
