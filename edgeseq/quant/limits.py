"""Which values of an integer step lose most: what stands in the way of a higher ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.io import store_prepared
from edgeseq.quant.measure import ratio_db
from edgeseq.quant.structure import MOVES

__all__ = ["Loss", "losses"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Loss:
    """A node that adds error to what it reads.

    Attributes:
        node: name of the node, in the real step.
        op: its operation.
        value: the integer value it makes, with its type.
        snr: of that value against the real one, states carried, dB.
        read: of the worst value that it reads, dB; infinite where it reads constants only.
    """

    node: str
    op: str
    value: str
    snr: float
    read: float

    def __str__(self) -> str:
        return f"{self.op} {self.node!r} ({self.value}, {self.snr:.1f} dB of {self.read:.1f} dB)"


def losses(
    step: Graph, graph: Graph, made: Mapping[str, str], frames: Sequence[Array]
) -> list[Loss]:
    """The nodes of a step, the one that adds most error to what it reads first.

    Args:
        step: the real step that was converted.
        graph: its integer step.
        made: integer values by real ones.
        frames: prepared frames, [B, T, *shape] per input.
    """
    batch, steps = frames[0].shape[:2]
    seen: dict[str, Array] = {}
    noise: dict[str, float] = {}
    signal: dict[str, float] = {}
    stored: dict[str, Array] = {}
    real = Interpreter(step, batch=batch, observe=seen.__setitem__)
    integer = Interpreter(graph, batch=batch, observe=stored.__setitem__)
    wanted = {k: v for k, v in made.items() if k not in step.consts and v not in graph.consts}
    for t in range(steps):
        real(*(x[:, t] for x in frames))
        integer(
            *(store_prepared(graph, v, x[:, t]) for v, x in zip(graph.inputs, frames, strict=True))
        )
        for key, value in wanted.items():
            a = seen[key]
            b = stored[value].astype(np.float64) * graph.types[value].scalar_scale
            noise[key] = noise.get(key, 0.0) + float(np.sum((a - b) ** 2))
            signal[key] = signal.get(key, 0.0) + float(np.sum(a**2))
    snr = {k: ratio_db(signal[k], noise[k]) for k in noise}
    found = []
    for node in step.nodes:
        key = node.outputs[0]
        if key not in snr or node.op in MOVES:  # what a clamp cuts off is no loss
            continue
        read = min((snr[v] for v in node.inputs if v in snr), default=float("inf"))
        value = f"{made[key]}: {graph.types[made[key]]}"
        found.append(Loss(node.name, node.op, value, snr[key], read))
    # Error powers relative to the signals: what the node adds.
    return sorted(found, key=lambda x: 10 ** (-x.read / 10) - 10 ** (-x.snr / 10))
