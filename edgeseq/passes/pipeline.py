"""The pipeline: named passes in a readable list, the Graph checked after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edgeseq.ir.check import check
from edgeseq.ir.graph import Graph
from edgeseq.passes.absorb import absorb_input_affine
from edgeseq.passes.composite import fuse_composites
from edgeseq.passes.fold import fold_constants
from edgeseq.passes.fuse import fuse_affine
from edgeseq.passes.moves import join_moves
from edgeseq.passes.stream import stream
from edgeseq.passes.tidy import tidy

__all__ = ["TO_STEP", "Pass", "Watch", "run_passes", "to_step"]

Watch = Callable[[str, Graph], None]
"""Called with a pass's name and the Graph it made (`edgeseq compile --dump`)."""


@dataclass(frozen=True)
class Pass:
    """One rewrite: takes a Graph, returns another, leaves its argument alone."""

    name: str
    run: Callable[[Graph], Graph]


TO_STEP: tuple[Pass, ...] = (
    Pass("fold", fold_constants),
    Pass("moves", join_moves),
    Pass("absorb", absorb_input_affine),
    Pass("fuse-norm", fuse_composites),
    Pass("fuse", fuse_affine),
    Pass("stream", stream),
    Pass("fuse-step", fuse_affine),
    Pass("moves-step", join_moves),
    Pass("tidy", tidy),
)
"""From a real Graph over time to a real step."""


def run_passes(graph: Graph, passes: Sequence[Pass], watch: Watch | None = None) -> Graph:
    """Run `passes` in order.

    Raises:
        GraphError: a pass broke an invariant; the message names it.
        UnsupportedError: a pass met something it cannot rewrite exactly.
    """
    check(graph, after="the front end")
    if watch is not None:
        watch("frontend", graph)
    for p in passes:
        graph = p.run(graph)
        check(graph, after=p.name)
        if watch is not None:
            watch(p.name, graph)
    return graph


def to_step(graph: Graph, watch: Watch | None = None, *, frames: int | None = None) -> Graph:
    """The real step of a real Graph over time: `run_passes` with `TO_STEP`.

    Args:
        graph: a real Graph over time, or a real step.
        watch: shown every Graph on the way.
        frames: input frames a step takes, see `stream`.
    """
    block = Pass("stream", partial(stream, frames=frames))
    passes = [block if p.run is stream else p for p in TO_STEP]
    return run_passes(graph, passes, watch)
