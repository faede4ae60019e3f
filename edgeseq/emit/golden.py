"""Golden data: frames with their exact outputs, so that anyone can check a real board.

`golden.npz` holds, all in stored integers and without pickled objects:

================  ==============================================================
key               array
================  ==============================================================
`version`         int32 [], 1
`model`           str [], name of the Graph
`input.NAME`      [steps, *shape] for each input, in order
`output.NAME`     [steps, *shape] for each output, in order
`state.NAME`      [*shape] for each state, after the last frame
================  ==============================================================

The first frame follows a reset.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ArtifactError, DataError
from edgeseq.ir.blocks import run_steps
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter

__all__ = ["Golden", "make_golden", "read_golden", "write_golden"]

Array = npt.NDArray[Any]
_VERSION = 1

# What numpy and zipfile raise for a damaged archive, found by flipping bytes; a RuntimeError is
# an encrypted member or a compression method zipfile does not know.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    AttributeError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Golden:
    """Frames, and what the integer interpreter made of them from a reset on.

    Attributes:
        model: name of the Graph.
        inputs, outputs: stored frames [steps, *shape] by value name, in the model's order.
        states: stored integers [*shape] by state name after the last frame.
    """

    model: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    states: Mapping[str, Array]

    @property
    def frames(self) -> int:
        """How many frames."""
        return int(next(iter(self.inputs.values())).shape[0])

    def head(self, graph: Graph, frames: int) -> Golden:
        """The first frames; the states are computed anew."""
        if frames >= self.frames:
            return self
        return make_golden(graph, [x[:frames] for x in self.inputs.values()])


def make_golden(graph: Graph, frames: Sequence[Array]) -> Golden:
    """Run the integer interpreter over frames from a reset.

    Args:
        graph: an integer step Graph.
        frames: stored frames [S, *shape] for each input, S >= 1.

    Raises:
        DataError: no frames, or inputs of different length.
        GraphError: frames of the wrong shape or width.
    """
    lengths = {int(x.shape[0]) for x in frames}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(
            f"the inputs have {sorted(lengths)} frames",
            where=f"golden data of {graph.name!r}",
            fix="give at least one frame, as many for every input",
        )
    interpreter = Interpreter(graph)
    outputs = run_steps(interpreter, [x[None] for x in frames])
    return Golden(
        graph.name,
        {n: np.ascontiguousarray(x) for n, x in zip(graph.inputs, frames, strict=True)},
        {n: y[0] for n, y in zip(graph.outputs, outputs, strict=True)},
        {s.name: interpreter.state[s.name][0] for s in graph.states},
    )


def write_golden(golden: Golden, path: Path) -> Path:
    """Write `golden.npz`; the same data gives the same bytes."""
    arrays: dict[str, Array] = {
        "version": np.asarray(_VERSION, np.int32),
        "model": np.asarray(golden.model),
    }
    for prefix in ("input", "output", "state"):
        for name, array in getattr(golden, f"{prefix}s").items():
            arrays[f"{prefix}.{name}"] = array
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return path


def read_golden(path: Path) -> Golden:
    """Read `golden.npz`.

    Raises:
        ArtifactError: not a file of this format, or a damaged one.
    """
    try:
        # Opened here: numpy leaves the file open when it is not an archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            data = {key: archive[key] for key in archive.files}
    except _DAMAGED as error:
        raise ArtifactError(
            f"cannot be read as golden data: {error}",
            where=str(path),
            fix="compile the model again",
        ) from error
    parts: dict[str, dict[str, Array]] = {"input": {}, "output": {}, "state": {}}
    for key, array in data.items():
        prefix, _, name = key.partition(".")
        if prefix in parts and name:
            parts[prefix][name] = array
    frames = {a.shape[:1] for p in ("input", "output") for a in parts[p].values()}
    if (
        "model" not in data
        or "version" not in data
        or not np.array_equal(data["version"], _VERSION)
        or not parts["input"]
        or len(frames) != 1
    ):
        raise ArtifactError(
            f"is not golden data of version {_VERSION}",
            where=str(path),
            fix="compile the model again",
        )
    return Golden(str(data["model"]), parts["input"], parts["output"], parts["state"])
