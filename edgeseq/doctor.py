"""What `edgeseq doctor` looks at: what is installed, what is missing, and for what it is needed.

Packages are looked up, not imported; what has to be run to be known (CUDA, the environment of
tflite-runtime) is asked in a process of its own, so that a broken package cannot end the report.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile

from edgeseq._resources import cache_folder, checkout, resource_folder, tflite_python
from edgeseq.errors import EdgeseqError

__all__ = ["Check", "examine", "pinned_versions"]

OK, NOTE, MISSING = "ok", "note", "missing"

# Distribution name to what stops working without it.
_BASE = {
    "click": "the command line",
    "numpy": "everything",
    "rich": "the command line",
}
_OPTIONAL = {
    "torch": "training and reading PyTorch modules",
    "lightning-fabric": "training",
    "safetensors": "training checkpoints",
    "pydantic": "reading edgeseq.toml",
    "numba": "compiling kernels",
    "llvmlite": "compiling kernels",
    "ziglang": "linking libraries for Linux and Android",
    "pyelftools": "reading sizes off compiled objects",
    "unicorn": "running compiled objects on emulated CPUs",
    "onnx": "writing ONNX files",
    "onnxruntime": "checking ONNX files",
    "flatbuffers": "writing TFLite files",
    "ai-edge-litert": "writing and checking TFLite files",
    "matplotlib": "the pictures of the report",
    "jinja2": "the report",
}
_PROBE_S = 120


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        status: "ok", "note" (works, but not as tested, or an extra that is absent) or "missing".
        detail: what was found.
        needed_for: what does not work without it.
    """

    name: str
    status: str
    detail: str
    needed_for: str


def examine() -> Iterator[Check]:
    """Look at everything, quick things first; each result as soon as it is known."""
    yield Check("python", OK, f"{platform.python_version()} ({sys.executable})", "everything")
    pins = pinned_versions()
    for packages in (_BASE, _OPTIONAL):
        for name, purpose in packages.items():
            yield _package(name, purpose, pins.get(_normal(name)))
    for kind in ("targets", "calib"):
        yield _resource(kind)
    yield _cache()
    yield _tflite()
    yield _cuda()


def pinned_versions() -> dict[str, str]:
    """Distribution name (lower case, dashes) to the version tested; empty outside a checkout."""
    top = checkout()
    if top is None or not (top / "constraints.txt").is_file():
        return {}
    pins = {}
    for line in (top / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, mark, version = line.partition("==")
        if mark and not line.startswith("#"):
            pins[_normal(name)] = version.strip()
    return pins


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _package(name: str, purpose: str, pin: str | None) -> Check:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, MISSING, "not installed: pip install 'edgeseq[all]'", purpose)
    # A local version ("2.13.0+cpu") is the same release, built for something.
    if pin is not None and found.partition("+")[0] != pin:
        return Check(name, NOTE, f"{found}; tested with {pin}", purpose)
    return Check(name, OK, found, purpose)


def _resource(kind: str) -> Check:
    what = {"calib": "recordings"}.get(kind, kind)
    purpose = f"the {what} that come with edgeseq"
    try:
        return Check(kind, OK, str(resource_folder(kind)), purpose)
    except EdgeseqError as error:
        return Check(kind, MISSING, str(error), purpose)


def _cache() -> Check:
    folder, purpose = cache_folder(), "not repeating work"
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    try:
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        fix = "name another folder in EDGESEQ_CACHE"
        return Check("cache", NOTE, f"{folder}: {error.strerror}; {fix}", purpose)
    return Check("cache", OK, str(folder), purpose)


def _tflite() -> Check:
    name, purpose = "tflite-runtime", "checking TFLite files in the older runtime (2.14)"
    try:
        python = tflite_python()
    except EdgeseqError as error:
        return Check(name, NOTE, str(error), purpose)
    if python is None:
        return Check(
            name, NOTE, "no environment of its own: `make setup`, or EDGESEQ_TFLITE_PYTHON", purpose
        )
    found = _ask(
        python,
        "import json, numpy, tflite_runtime, tflite_runtime.interpreter;"
        "print(json.dumps([tflite_runtime.__version__, numpy.__version__]))",
    )
    if isinstance(found, str):
        return Check(name, NOTE, f"{python}: {found}", purpose)
    runtime, numpy = found
    return Check(name, OK, f"{runtime} with numpy {numpy} ({python})", purpose)


def _cuda() -> Check:
    name, purpose = "cuda", "training on a GPU (the CPU works too)"
    try:
        metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Check(name, NOTE, "torch is not installed", purpose)
    found = _ask(
        Path(sys.executable),
        "import json, torch; n = torch.cuda.device_count() if torch.cuda.is_available() else 0;"
        "print(json.dumps([torch.cuda.get_device_name(i) for i in range(n)]))",
    )
    if isinstance(found, str):
        return Check(name, MISSING, f"torch does not work: {found}", "training")
    if not found:
        return Check(name, NOTE, "no GPU that torch can use", purpose)
    return Check(name, OK, ", ".join(found), purpose)


def _ask(python: Path, code: str) -> list[str] | str:
    """What `code` prints as JSON in that interpreter, or the reason it did not."""
    try:
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=_PROBE_S
        )
    except OSError as error:
        return f"cannot be run ({error.strerror})"
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_S} s"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"ended with code {done.returncode}"
    answer: list[str] = json.loads(done.stdout.splitlines()[-1])
    return answer
