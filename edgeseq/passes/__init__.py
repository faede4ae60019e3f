"""Rewrites of a Graph, one per file; `edgeseq.passes.pipeline` lists them in order."""

from edgeseq.passes.pipeline import TO_STEP, Pass, Watch, run_passes, to_step
from edgeseq.passes.stream import stream

__all__ = ["TO_STEP", "Pass", "Watch", "run_passes", "stream", "to_step"]
