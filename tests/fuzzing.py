"""Comparing a Graph with the model that it was read from, for tests over random models."""

from __future__ import annotations

import numpy as np

from edgeseq.ir import Graph, Interpreter
from edgeseq.ir.blocks import delay_in_elements
from edgeseq.passes.stream import stream

__all__ = ["TOLERANCE", "close", "known", "streamed"]

TOLERANCE = 1e-4


def close(got: np.ndarray, want: np.ndarray, scale: float) -> bool:
    return got.shape == want.shape and bool(
        np.abs(got - want).max(initial=0) <= TOLERANCE * max(scale, 0.1)
    )


def known(graph: Graph, k: int, rows: np.ndarray, axis: int) -> np.ndarray:
    """The elements of output `k` that do not depend on what comes after the end of the input."""
    unknown = graph.meta.get("unknown", {}).get(graph.outputs[k], 0)
    return rows.take(np.arange(max(rows.shape[axis] - unknown, 0)), axis=axis)


def streamed(graph: Graph, frames: list[np.ndarray], timed: dict[int, np.ndarray]) -> list[str]:
    """What the step gives otherwise, frame by frame.

    Args:
        graph: over time.
        frames: its inputs, [batch, time, ...] each.
        timed: what its outputs must be, by their number: [batch, time, elements].
    """
    step = stream(graph)
    per = step.meta.get("frames_per_step", 1)
    n = max(x.shape[1] for x in frames) // per * per
    outs = Interpreter(step, batch=len(frames[0])).sequence(*(x[:, :n] for x in frames))
    wrong = []
    for k, ref in timed.items():
        lag = delay_in_elements(step, step.outputs[k])
        y = outs[k].reshape(*outs[k].shape[:2], -1)[:, lag:]
        rest = step.meta.get("rest", {}).get(step.outputs[k], 0)
        m = max(min(y.shape[1], ref.shape[1], n * step.frames_of(step.outputs[k]) // per - rest), 0)
        if not close(y[:, :m], ref[:, :m], float(np.abs(ref).max(initial=0))):
            wrong.append(f"streamed {k}: {y[:, :2].ravel()[:4]} instead of "
                         f"{ref[:, :2].ravel()[:4]}")  # fmt: skip
    return wrong
