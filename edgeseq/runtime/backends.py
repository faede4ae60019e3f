"""What can run a step, and the choice among what an artifact and this machine offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from edgeseq.errors import ArtifactError, UsageError, unknown_name
from edgeseq.manifest import Format, FormatInfo, Manifest, check_files

__all__ = ["Backend", "Unavailable", "open_backend"]

Array = npt.NDArray[Any]


class Backend(Protocol):
    """Runs steps with carried states, on stored values."""

    name: str

    def reset(self) -> None:
        """Put every state back to its initial value."""

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Run n steps.

        Args:
            inputs: one C-contiguous array [n, *shape] per input, stored values.
            outputs: likewise; filled.
        """

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """`run` on always the same arrays, which the caller keeps, with what it can do beforehand.

        Args:
            inputs, outputs: as `run` takes them.

        Returns:
            Does the run, at each call; what it returns means nothing.
        """

    def state(self) -> dict[str, Array]:
        """Copies of what is carried, by name."""

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take back what `state` returned.

        Raises:
            DataError: it is not a state of this model in this backend.
        """


class Unavailable(Exception):
    """A backend cannot run here; the text says what it would need. Never leaves this package."""


Opener = Callable[[Path, Manifest, FormatInfo], Backend]

# In the order of preference: the exact one first, then by closeness to it.
_HOMES: Mapping[Format, tuple[str, str]] = {
    "native": ("native", "edgeseq.runtime.native"),
    "onnx_int": ("onnx", "edgeseq.runtime.onnx"),
    "tflite_int16x8": ("tflite", "edgeseq.runtime.tflite"),
    "tflite_int8": ("tflite", "edgeseq.runtime.tflite"),
    "onnx_float": ("onnx", "edgeseq.runtime.onnx"),
}


def open_backend(folder: Path, manifest: Manifest, choice: str) -> Backend:
    """The first backend that can run the artifact here.

    Args:
        choice: "auto", a kind ("native", "onnx", "tflite") or a format ("onnx_int", ...).

    Raises:
        UsageError: no such choice.
        ArtifactError: none can run; the message says what each would need.
    """
    known = {"auto", *_HOMES, *(kind for kind, _ in _HOMES.values())}
    if choice not in known:
        raise UsageError(unknown_name("backend", choice, known))
    reasons: list[str] = []
    for name, (kind, module) in _HOMES.items():
        if choice not in ("auto", kind, name):
            continue
        info = manifest.format(name)
        if info is None:
            reasons.append(f"{name}: the artifact does not hold it")
            continue
        opener: Opener = import_module(module).open_file
        try:
            check_files(folder, manifest, {info.file})
            return opener(folder / info.file, manifest, info)
        except Unavailable as error:
            reasons.append(f"{name}: {error}")
    raise ArtifactError(
        "nothing here can run it:\n  " + "\n  ".join(reasons),
        where=str(folder),
        fix=f"run it on {manifest.target.board}, install one of the runtimes named above, or "
        "compile for this machine (`edgeseq targets` lists what there is)",
    )
