"""How far a TFLite model is from the integer interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit.tflite.model import TfliteModel
from edgeseq.emit.tflite.runner import run_tflite
from edgeseq.ir.blocks import per_frame, per_step
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter

__all__ = ["TfliteDifference", "compare_tflite"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TfliteDifference:
    """Largest differences over all sequences and steps.

    Attributes:
        engine: and its version.
        steps: steps compared, over all sequences.
        outputs: by name, in units of the model's output (LSB).
        states: by name, in real units; empty for internal states.
        first: for the output that differs most, (sequence, frame) of the largest difference.
    """

    engine: str
    steps: int
    outputs: dict[str, float]
    states: dict[str, float]
    first: tuple[int, int]

    @property
    def lsb(self) -> int:
        """n of the level `Close(n LSB)` that the outputs reach."""
        return int(np.ceil(max(self.outputs.values(), default=0.0) - 1e-6))


def compare_tflite(
    graph: Graph, model: TfliteModel, *frames: Array, engine: str = "litert"
) -> TfliteDifference:
    """Run `frames` through the interpreter and through a runtime, states carried.

    Args:
        graph: the integer step the model was made from.
        model: explicit or internal state.
        frames: one array per input, [batch, T, *frame], stored integers of the Graph.
        engine: 'litert' or 'tflite-runtime'.

    Raises:
        BackendError: the engine is not available or refuses the model.
    """
    after: dict[str, list[Array]] = {s.name: [] for s in graph.states}
    machine = Interpreter(graph, batch=frames[0].shape[0])
    blocks = [per_step(graph, v, x) for v, x in zip(graph.inputs, frames, strict=True)]
    rows: list[list[Array]] = []
    for t in range(blocks[0].shape[1]):
        rows.append(machine(*(x[:, t] for x in blocks)))
        for name, kept in after.items():
            kept.append(machine.state[name])
    outs = [np.stack([y[i] for y in rows], axis=1) for i in range(len(graph.outputs))]
    run = run_tflite(model, *frames, engine=engine, trace=model.state == "explicit")
    outputs: dict[str, float] = {}
    worst, first = -1.0, (0, 0)
    for name, want, got, info in zip(graph.outputs, outs, run.real, model.outputs, strict=True):
        real = per_frame(graph, name, want) * graph.types[name].scalar_scale
        gap = np.abs(got - real) / info.scale
        outputs[name] = float(gap.max())
        if outputs[name] > worst:
            worst = outputs[name]
            place = np.unravel_index(int(gap.argmax()), gap.shape)
            first = (int(place[0]), int(place[1]))
    states: dict[str, float] = {}
    for name, trace in run.trace.items():
        gap = np.abs(trace.astype(np.float64) - np.stack(after[name], axis=1))
        scale = graph.types[next(s.input for s in graph.states if s.name == name)].scalar_scale
        states[name] = float(gap.max()) * scale
    steps = blocks[0].shape[0] * len(rows)
    return TfliteDifference(f"{engine} {run.version}", steps, outputs, states, first)
