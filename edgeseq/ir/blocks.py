"""Frames and steps: a step may take or give several frames at once, as a leading axis.

`Graph.frames_of` says how many. Sequences come in two forms, equal where that is one:

*per frame*  [batch, T, *frame], as recordings and outputs are for people;
*per step*   [batch, S, *shape], as every executor of a step takes and gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter

__all__ = ["delay_in_elements", "delay_of", "frame_shape", "per_frame", "per_step", "run_steps"]

Array = npt.NDArray[Any]


def frame_shape(graph: Graph, name: str) -> tuple[int, ...]:
    """Shape of one frame of an input or output."""
    shape = graph.types[name].shape
    return shape[1:] if graph.frames_of(name) > 1 else shape


def delay_of(graph: Graph, output: str) -> int:
    """Input frames by which an output of a step lags."""
    return int(graph.meta.get("delays", {}).get(output, graph.meta.get("delay", 0)))


def delay_in_elements(step: Graph, output: str) -> int:
    """Elements of an output of a step that come before its first answer."""
    block = int(step.meta.get("frames_per_step", 1))
    return delay_of(step, output) * step.frames_of(output) // block


def per_step(graph: Graph, name: str, frames: Array) -> Array:
    """[batch, T, *frame] of an input or output as [batch, S, *shape].

    Frames at the end that fill no step are left out.
    """
    m = graph.frames_of(name)
    if m == 1:
        return frames
    steps = frames.shape[1] // m
    return frames[:, : steps * m].reshape(frames.shape[0], steps, m, *frames.shape[2:])


def per_frame(graph: Graph, name: str, steps: Array) -> Array:
    """[batch, S, *shape] of an input or output as [batch, T, *frame]."""
    if graph.frames_of(name) == 1:
        return steps
    return steps.reshape(steps.shape[0], -1, *steps.shape[3:])


def run_steps(machine: Interpreter, inputs: Sequence[Array]) -> list[Array]:
    """Run a step over sequences, states carried.

    Args:
        machine: of a step Graph.
        inputs: [batch, S, *shape] each, S >= 1.

    Returns:
        [batch, S, *shape] per output.
    """
    steps = [machine(*(x[:, t] for x in inputs)) for t in range(inputs[0].shape[1])]
    return [np.stack([y[i] for y in steps], axis=1) for i in range(len(steps[0]))]
