"""How far an integer step is from the real one, with carried states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.io import store_prepared
from edgeseq.quant.bounds import ranges
from edgeseq.quant.calibrate import Observer

__all__ = ["Bench", "Measured", "fold", "overlapped", "ratio_db", "snr_db"]

Array = npt.NDArray[Any]

_LEAST = 2.0**-10
"""Of an output's range. What is smaller is a few units of a 16-bit format: no weight that is made
wider brings it further from its rounding error."""


def snr_db(reference: Array, value: Array) -> float:
    """10 log10 of the power of `reference` over that of its difference to `value`, dB."""
    noise = float(np.sum((np.asarray(reference, np.float64) - value) ** 2))
    signal = float(np.sum(np.asarray(reference, np.float64) ** 2))
    return ratio_db(signal, noise)


def ratio_db(signal: float, noise: float) -> float:
    """10 log10 of the ratio of two powers."""
    if noise == 0.0:
        return float("inf")
    return float("-inf") if signal == 0.0 else 10.0 * float(np.log10(signal / noise))


def fold(frames: Sequence[Array], steps: int, batch: int) -> list[Array]:
    """At most `batch` sequences of `steps` frames out of [B, T, *shape]; long ones are cut up.

    Where there are more than `batch`, they are taken evenly.
    """
    steps = min(steps, frames[0].shape[1])
    each = frames[0].shape[1] // steps
    cut = [x[:, : each * steps].reshape(x.shape[0] * each, steps, *x.shape[2:]) for x in frames]
    total = len(cut[0])
    pick = np.unique(np.linspace(0, total - 1, min(batch, total)).astype(int))
    return [x[pick] for x in cut]


def overlapped(frames: Sequence[Array], steps: int) -> list[Array]:
    """Sequences longer than `steps` frames as several of that length, a quarter in common."""
    total = frames[0].shape[1]
    if total <= steps:
        return list(frames)
    starts = [*range(0, total - steps, steps - steps // 4), total - steps]
    return [np.concatenate([x[:, a : a + steps] for a in starts]) for x in frames]


@dataclass
class Measured:
    """A step over the frames of a `Bench`.

    Attributes:
        noise: squared error of each output, by its name in the real step.
        signal: squared magnitude of the real one; of one that its operations bound, at least that
            of a thousandth of the range.
        saturated: per node, (clamped, stored) elements.
    """

    noise: dict[str, float]
    signal: dict[str, float]
    saturated: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def snrs(self) -> dict[str, float]:
        """Signal-to-noise ratio of each output, dB."""
        return {k: ratio_db(self.signal[k], n) for k, n in self.noise.items()}

    @property
    def snr(self) -> float:
        """Of the worst output, dB."""
        return min(self.snrs.values())


class Bench:
    """Frames, and what the real step makes of them.

    Args:
        step: real step Graph.
        frames: prepared frames, [B, T, *shape] per input; states are carried over T.
        observe: sees every value of the real step.
    """

    def __init__(
        self, step: Graph, frames: Sequence[Array], observe: Observer | None = None
    ) -> None:
        self.step, self.frames = step, list(frames)
        self.batch, self.steps = frames[0].shape[:2]
        self.reference = self.real(step, observe)
        self.signal = {k: float(np.sum(y**2)) for k, y in self.reference.items()}
        for k, top in ranges(step).items():
            least = float(self.reference[k].size * (top * _LEAST) ** 2)
            self.signal[k] = max(self.signal[k], least)

    def real(self, step: Graph, observe: Observer | None = None) -> dict[str, Array]:
        """Outputs of a real step with the inputs and outputs of this one, [B, T, *shape]."""
        machine = Interpreter(step, batch=self.batch, observe=observe)
        return dict(zip(self.step.outputs, self._run(machine, self.frames), strict=True))

    def _run(self, machine: Interpreter, frames: Sequence[Array]) -> list[Array]:
        # Not `Interpreter.sequence`: these frames are already grouped by step.
        outs = [machine(*(x[:, t] for x in frames)) for t in range(self.steps)]
        return [np.stack([y[i] for y in outs], axis=1) for i in range(len(outs[0]))]

    def compare(self, outputs: Mapping[str, Array]) -> Measured:
        """Errors of outputs by the real step's names."""
        noise = {k: float(np.sum((self.reference[k] - outputs[k]) ** 2)) for k in self.step.outputs}
        return Measured(noise, dict(self.signal))

    def measure(self, graph: Graph) -> Measured:
        """Errors and saturations of an integer step."""
        stored = []
        for name, x in zip(graph.inputs, self.frames, strict=True):
            stored.append(store_prepared(graph, name, x))
        cut = _Cut(graph)
        machine = Interpreter(graph, batch=self.batch, observe=cut if cut.watched else None)
        outs = self._run(machine, stored)
        real = [y * graph.types[v].scalar_scale for v, y in zip(graph.outputs, outs, strict=True)]
        measured = self.compare(dict(zip(self.step.outputs, real, strict=True)))
        for name, total in machine.stored.items():
            clamped = cut.count.get(name, 0) if name in cut.nodes else machine.saturated[name]
            if clamped:
                measured.saturated[name] = (clamped, total)
        return measured


_CUTS = frozenset({"clamp", "max", "min", "select"})


class _Cut:
    """Counts real saturations where what saturates is not passed on.

    The operands of these operations have a format for the range of the result: what lies outside
    of it saturates without loss. Lost is what the result holds at the end of its format.
    """

    def __init__(self, graph: Graph) -> None:
        kept = {*graph.outputs, *(s.output for s in graph.states)}
        uses = graph.consumers()
        self.nodes: set[str] = set()
        self.watched: dict[str, tuple[list[str], int, int]] = {}
        self.count: dict[str, int] = {}
        for node in graph.nodes:
            if node.op == "softmax":  # 1 is stored as the greatest number below it
                self.nodes.add(node.name)
                continue
            value = node.outputs[0]
            readers = uses[value]
            if value in kept or not readers or any(r.op not in _CUTS for r in readers):
                continue
            self.nodes.add(node.name)
            info = np.iinfo(graph.types[value].numpy)
            for r in readers:
                lo, hi = r.attrs.get("lo"), r.attrs.get("hi")
                least = info.min if lo is None else info.min - 1
                most = info.max if hi is None else info.max + 1
                names = self.watched.setdefault(r.output, ([], int(least), int(most)))[0]
                names.append(node.name)

    def __call__(self, name: str, array: Array) -> None:
        if name in self.watched:
            nodes, least, most = self.watched[name]
            hits = int(np.count_nonzero((array == least) | (array == most)))
            for node in nodes:
                self.count[node] = self.count.get(node, 0) + hits
