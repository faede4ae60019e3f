"""Whether the states that a file passes in and out are all that its sequence needs.

A file that takes sequences and states runs chunk by chunk, its caller feeding states back. As a
stream the recurrences and windows carry them instead, and the file's own are left out. That is
right where chunk after chunk gives what the whole sequence does, which is tried here with numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.frontend.onnx_lower import InputPlan
from edgeseq.ir import Graph, Interpreter

__all__ = ["Side", "first_gap"]

Array = npt.NDArray[Any]

_CHUNKS = 3
_CLOSE = 1e-5


@dataclass(frozen=True)
class Side:
    """One reading of a file.

    Attributes:
        graph: over time, or a step that takes a chunk.
        plans: how its inputs are read.
        outputs: sizes and axis of time (None: there is none) of each output tensor.
    """

    graph: Graph
    plans: Mapping[str, InputPlan]
    outputs: list[tuple[tuple[int, ...], int | None]]


def first_gap(whole: Side, chunk: Side, name_of: Callable[[str], str], length: int) -> str | None:
    """The first output, by name in the file, that differs cut into chunks; None if none does.

    Args:
        whole: the file over time.
        chunk: the file as a step on `length` frames, its states carried.
        name_of: the file's name of an input of a Graph.
        length: frames of a chunk.
    """
    rng = np.random.default_rng(0)
    frames: list[Array] = []  # of the Graph over time
    pieces: list[list[Array]] = [[] for _ in range(_CHUNKS)]
    for v in whole.graph.inputs:
        plan = whole.plans[name_of(v)]
        shape = whole.graph.types[v].shape
        total = 1 if plan.time is None else _CHUNKS * length
        if plan.dtype.startswith(("float", "double", "bfloat")):
            x = rng.normal(size=(total, *shape))
        else:
            x = rng.integers(0, 2, size=(total, *shape)).astype(np.float64)
        frames.append(np.broadcast_to(x, (_CHUNKS * length, *shape))[None])
        for k, piece in enumerate(pieces):
            part = x if plan.time is None else x[k * length : (k + 1) * length]
            piece.append(_as_file(part, plan.sizes, plan.time))
    want = Interpreter(whole.graph)(*frames)
    machine = Interpreter(chunk.graph)
    shapes = [chunk.graph.types[v].shape for v in chunk.graph.inputs]
    if len(shapes) != len(frames):
        return name_of(whole.graph.inputs[0])
    got = [
        machine(*(x.reshape(1, *shape) for x, shape in zip(piece, shapes, strict=True)))
        for piece in pieces
    ]
    labels = list(whole.graph.meta["onnx"]["outputs"])
    for i, (label, y) in enumerate(zip(labels, want, strict=True)):
        parts = [g[i] for g in got]
        if whole.graph.types[whole.graph.outputs[i]].time is None:
            have = parts[-1].reshape(-1)
        else:
            # Only the reading over time knows which axis is time.
            sizes, time = chunk.outputs[i][0], whole.outputs[i][1]
            if time is None:
                continue
            blocks = [_from_file(p, sizes, time) for p in parts]
            have, y = np.concatenate(blocks).reshape(-1), y[0]
        y = y.reshape(-1)
        scale = max(float(np.abs(y).max(initial=0.0)), 1e-9)
        if have.shape != y.shape or not np.abs(have - y).max(initial=0.0) <= _CLOSE * scale:
            return label
    return None


def _as_file(x: Array, sizes: tuple[int, ...], time: int | None) -> Array:
    """[frames, *frame] in the order of the file's axes."""
    if time is None:
        return x
    before = math.prod(sizes[:time])
    return np.moveaxis(x.reshape(len(x), before, -1), 0, 1)


def _from_file(y: Array, sizes: tuple[int, ...], time: int) -> Array:
    """[frames, ...] of an output in the order of the file's axes."""
    before, n = math.prod(sizes[:time]), sizes[time]
    return np.moveaxis(y.reshape(before, n, -1), 1, 0)
