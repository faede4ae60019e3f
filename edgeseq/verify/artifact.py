"""Check a finished artifact folder again: its files, its golden frames, its machine code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit.golden import Golden, read_golden
from edgeseq.errors import ArtifactError, GraphError, TargetError, VerifyError
from edgeseq.ir.graph import Graph
from edgeseq.ir.text import from_text
from edgeseq.manifest import Manifest, load_artifact
from edgeseq.target import load_target
from edgeseq.verify.answers import by_emulator, by_host, by_interpreter, named
from edgeseq.verify.levels import EXACT, compare

__all__ = ["GRAPH_FILE", "verify_artifact"]

GRAPH_FILE = "model.graph"
"""The integer step in its text form, in every artifact folder."""

Array = npt.NDArray[Any]


def verify_artifact(folder: Path) -> Iterator[str]:
    """Check an artifact folder; yields a line for each thing that was checked.

    1. Every file has the size and SHA-256 of the manifest.
    2. The golden frames follow from the integer step (`model.graph`), exactly.
    3. Compiled again for the target, that step gives the object the library holds, byte for byte.
    4. That machine code gives the golden outputs and final states exactly: on the emulated CPU,
       and on this machine where it can run it.

    Raises:
        ArtifactError: a file is missing or was changed.
        VerifyError: the golden frames or the machine code differ; names the first value.
    """
    manifest = load_artifact(folder)
    yield f"{len(manifest.files)} files have their recorded size and SHA-256"
    graph = _graph(folder)
    golden = read_golden(folder / "golden.npz")
    inputs = [golden.inputs[name][None] for name in graph.inputs]
    want = _named(golden)
    got = by_interpreter(graph, inputs)
    check = compare("integer interpreter", "golden frames", EXACT, want, got)
    yield f"golden frames follow from {GRAPH_FILE}: {check.level} over {check.steps} steps"
    if manifest.format("native") is not None:
        yield from _native(folder, manifest, graph, inputs, want)


def _graph(folder: Path) -> Graph:
    path = folder / GRAPH_FILE
    try:
        return from_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, GraphError) as e:
        raise ArtifactError(
            f"cannot be read: {e}", where=str(path), fix="compile the artifact again"
        ) from e


def _named(golden: Golden) -> dict[str, Array]:
    return named(
        {name: y[None] for name, y in golden.outputs.items()},
        {name: np.asarray(v)[None] for name, v in golden.states.items()},
    )


def _native(
    folder: Path, manifest: Manifest, graph: Graph, frames: list[Array], want: dict[str, Array]
) -> Iterator[str]:
    from edgeseq.emit.linker import link_shared, neutral_float_abi
    from edgeseq.emulate import Emulator, missing_emulator
    from edgeseq.kernels import HostStep, compile_step
    from edgeseq.kernels.host import runs_here

    try:
        target = load_target(manifest.target.name)
    except TargetError:
        yield f"machine code not checked: target {manifest.target.name!r} is not known here"
        return
    compiled = compile_step(graph, target, manifest.name)
    info = manifest.format("native")
    assert info is not None
    held = (folder / info.file).read_bytes()
    if target.format == "archive":
        holds = neutral_float_abi(compiled.object_bytes) in held
    else:
        holds = link_shared(compiled.object_bytes, info.file) == held
    if not holds:
        raise VerifyError(
            "does not hold the object that model.graph compiles to",
            where=str(folder / info.file),
            fix="compile again; it was changed, or another version of edgeseq or LLVM made it "
            f"({manifest.versions})",
        )
    yield f"{info.file} holds the object that {GRAPH_FILE} compiles to, byte for byte"
    missing = None if target.emulator is None else missing_emulator()
    if missing is not None:
        yield f"machine code not run on an emulated {target.emulator}: {missing}"
    elif target.emulator is not None:
        got = by_emulator(graph, Emulator(compiled), frames)
        check = compare(f"emulated {target.emulator}", "golden frames", EXACT, want, got)
        yield f"machine code on an emulated {target.emulator}: Exact over {check.steps} steps"
    if runs_here(target):
        got = by_host(graph, HostStep.of(compiled), frames)
        check = compare("machine code here", "golden frames", EXACT, want, got)
        yield f"machine code on this machine: Exact over {check.steps} steps"
