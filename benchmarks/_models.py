"""Random recurrent models, seeded, for figures that do not depend on what a model has learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeseq.frontend import from_torch
from edgeseq.ir.graph import Graph
from edgeseq.ir.io import prepare, to_stored
from edgeseq.passes import to_step
from edgeseq.quant import QuantOptions, quantise

__all__ = ["Quantised", "Recurrent", "frames", "quantised"]

Array = npt.NDArray[Any]

_SEED = 1


class Recurrent(nn.Module):
    """One recurrent layer, and a dense layer on every frame if `classes` is not 0.

    Weights are PyTorch's initial ones, from a fixed seed. Maps [batch, T, inputs] to
    [batch, T, hidden], or to [batch, T, classes].
    """

    def __init__(self, cell: str, inputs: int, hidden: int, classes: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            kind = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[cell]
            self.cell = kind(inputs, hidden, batch_first=True)
            self.head: nn.Module = nn.Linear(hidden, classes) if classes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.cell(x)[0])
        return y


@dataclass(frozen=True)
class Quantised:
    """An integer step with frames for it.

    Attributes:
        graph: the integer step.
        snr: of its outputs against the real step, dB.
        stored: frames [T, inputs], stored integers that were not calibrated with.
    """

    graph: Graph
    snr: float
    stored: Array


def frames(count: int, length: int, channels: int, seed: int = _SEED) -> npt.NDArray[np.float32]:
    """Standard normal frames [count, length, channels]."""
    shape = (count, length, channels)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantised(cell: str, inputs: int, hidden: int) -> Quantised:
    """A random cell without a head: 8-bit weights, 16-bit activations, wide states."""
    graph = from_torch(Recurrent(cell, inputs, hidden), torch.zeros(1, 16, inputs), name=cell)
    step = to_step(graph)
    (name,) = step.inputs
    made = quantise(step, [prepare(step, name, frames(8, 200, inputs))], QuantOptions())
    stored = to_stored(made.graph, name, frames(1, 64, inputs, seed=_SEED + 1)[0])
    return Quantised(made.graph, made.snr, stored)
