"""Where edgeseq's data folders are: beside the code in a wheel, at the top of a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from edgeseq.errors import EdgeseqError

__all__ = ["cache_folder", "checkout", "resource_folder", "tflite_python"]

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(kind: str) -> Path:
    """The folder of data files called `kind` ("targets" or "calib").

    A wheel holds it as `edgeseq/kind`; a checkout (editable install) as `kind` next to `edgeseq`.

    Raises:
        EdgeseqError: the installation holds neither.
    """
    for candidate in (_PACKAGE / kind, _PACKAGE.parent / kind):
        if candidate.is_dir():
            return candidate
    raise EdgeseqError(
        f"the data folder {kind!r} is missing",
        where=str(_PACKAGE),
        fix="install edgeseq again: the installation is incomplete",
    )


def checkout() -> Path | None:
    """The top of the source checkout edgeseq runs from, or None when it runs from a wheel."""
    top = _PACKAGE.parent
    return top if (top / "pyproject.toml").is_file() and (top / "targets").is_dir() else None


def cache_folder() -> Path:
    """Where edgeseq keeps what can be made again; not created by this call.

    `EDGESEQ_CACHE` names it, else it is `edgeseq` in `XDG_CACHE_HOME` or in `~/.cache`.
    """
    own = os.environ.get("EDGESEQ_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgeseq"


def tflite_python() -> Path | None:
    """The interpreter of the environment with `tflite-runtime` 2.14, or None without one.

    It needs NumPy 1 and Python up to 3.11, so it lives in an environment of its own:
    `EDGESEQ_TFLITE_PYTHON` names the interpreter, else it is in `.venv-tflite` of the checkout
    (made by `make setup`) or of the current folder.
    """
    named = os.environ.get("EDGESEQ_TFLITE_PYTHON")
    if named:
        path = Path(named).expanduser()
        if not os.access(path, os.X_OK):
            raise EdgeseqError(
                f"EDGESEQ_TFLITE_PYTHON names {named!r}, which is not a program",
                fix="name the Python of an environment with tflite-runtime 2.14, or unset it",
            )
        return path
    for top in (checkout(), Path.cwd()):
        path = (top or Path.cwd()) / ".venv-tflite" / "bin" / "python"
        if os.access(path, os.X_OK):
            return path
    return None
