"""Emitters: one file (or package) per format, found by its place.

A module `edgeseq.emit.NAME` whose name does not start with an underscore is a format if it defines
`FORMAT`. Listing formats imports these modules, so their own imports have to be light; the
libraries a format needs are imported when something is emitted.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseq.errors import BackendError, unknown_name

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeseq.emit.golden import Golden
    from edgeseq.ir import Graph
    from edgeseq.target import Target

__all__ = ["Format", "Job", "format_of", "formats", "installed"]


@dataclass(frozen=True)
class Job:
    """What there is to emit.

    Attributes:
        folder: where the files go; exists.
        target: the board.
        real: the real step Graph.
        integer: the integer step Graph.
        compiled: what `edgeseq.kernels` made of it for `target`.
        golden: frames with their exact outputs.
        info: facts for headers and metadata, all optional: `description`; `classes` (names, in
            the order of the output); `channels` (names, in the order of a frame); `rate_hz`;
            `window` and `hop` (frames per decision and between decisions); `accuracy` (0..1, of
            the integer model); `memory` and `instructions` (the manifest's records, as measured).
        calibration: stored frames [batch, T, *frame] per input, for formats with ranges of their
            own.
    """

    folder: Path
    target: Target
    real: Graph
    integer: Graph
    compiled: Any = None
    golden: Golden | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    calibration: Sequence[npt.NDArray[Any]] | None = None


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: such as "onnx".
        doc: one line.
        write: writes the files of a job and returns their paths.
        packages: modules that writing imports.
    """

    name: str
    doc: str
    write: Callable[[Job], list[Path]]
    packages: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Those of `packages` that are not installed."""
        return [name for name in self.packages if not installed(name)]


def installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def formats() -> dict[str, Format]:
    """Every format in this folder, by name, in alphabetical order."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            entry = getattr(import_module(f"{__name__}.{module.name}"), "FORMAT", None)
            if isinstance(entry, Format):
                found[entry.name] = entry
    return dict(sorted(found.items()))


def format_of(name: str) -> Format:
    """The format of that name.

    Raises:
        BackendError: there is none; lists those there are.
    """
    known = formats()
    if name not in known:
        raise BackendError(unknown_name("format", name, known), fix="name one of the known formats")
    return known[name]
