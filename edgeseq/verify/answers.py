"""What each executor of an integer step answers, in the one form that `compare` takes.

Every function starts from a reset, takes stored frames [1, S, *shape] per input, and returns the
outputs [1, S, *shape] and the final states [1, *shape] (as ``state NAME``) by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from edgeseq.ir.blocks import run_steps
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter

if TYPE_CHECKING:
    from edgeseq.emulate import Emulator
    from edgeseq.kernels import HostStep

__all__ = ["by_emulator", "by_host", "by_interpreter", "named"]

Array = npt.NDArray[Any]


def named(outputs: Mapping[str, Array], states: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs and states in one dict."""
    return {**outputs, **{f"state {k}": v for k, v in states.items()}}


def by_interpreter(graph: Graph, frames: Sequence[Array]) -> dict[str, Array]:
    """The definition."""
    machine = Interpreter(graph)
    outputs = run_steps(machine, frames)
    return named(dict(zip(graph.outputs, outputs, strict=True)), machine.state)


def by_host(graph: Graph, step: HostStep, frames: Sequence[Array]) -> dict[str, Array]:
    """Machine code of this computer; `step` carries one sequence."""
    step.reset()
    outputs = step.run(*frames)
    return named(dict(zip(graph.outputs, outputs, strict=True)), step.state)


def by_emulator(graph: Graph, emulator: Emulator, frames: Sequence[Array]) -> dict[str, Array]:
    """Machine code on an emulated CPU."""
    emulator.reset()
    outputs = emulator.sequence(*(x[0] for x in frames))
    return named(
        {n: y[None] for n, y in zip(graph.outputs, outputs, strict=True)},
        {k: v[None] for k, v in emulator.state.items()},
    )
