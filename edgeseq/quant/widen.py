"""Which matrices need 16 bits for the outputs to reach a signal-to-noise ratio.

Trying every matrix with a conversion and a run of its own would take a run per matrix and round.
Instead the error that each matrix brings is measured once, on the real step with that matrix alone
rounded. Errors of different matrices hardly correlate, so that their powers add up: that gives an
order and a first guess of how many must be widened, and a few runs of the integer step settle it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.ir.graph import Graph
from edgeseq.quant.calibrate import Stats
from edgeseq.quant.converter import Weights
from edgeseq.quant.measure import Bench
from edgeseq.quant.rounding import Factor
from edgeseq.quant.structure import Site, Structure
from edgeseq.quant.weights import group_ends, quantise_channels, quantise_groups

__all__ = ["Search", "fewest", "matrices", "order"]

Array = npt.NDArray[Any]

_X_MAX = 1 << 15


def matrices(structure: Structure) -> list[Site]:
    """Nodes whose weights may have 8 or 16 bits."""
    return [s for s in structure.sites if s.op in ("linear", "depthwise")]


def rounded(step: Graph, site: Site, bits: int, stats: dict[str, Stats], weights: Weights) -> Graph:
    """The real step with the weights of one node rounded to `bits` bits."""
    step = step.copy()
    graph = step
    for name in site.path.split("/")[:-1]:
        graph = next(n.attrs["body"] for n in graph.nodes if n.name == name)
    node = next(n for n in graph.nodes if n.name == site.node.name)
    inputs = list(node.inputs)
    for at in range(1, len(inputs) // 2 * 2 if site.op == "linear" else 2, 2):
        array = np.asarray(graph.consts[inputs[at]], np.float64)
        key = (site.inputs[at], site.inputs[at - 1], bits, _X_MAX)
        if site.op == "linear":
            factor = weights.factor(stats.get(site.inputs[at - 1]))
            q, ends, scales = weights.once(key, partial(_grouped, array, bits, _X_MAX, factor))
            real = q * np.repeat(np.stack(scales), np.diff([0, *ends]), axis=0).T
        else:
            q, scale = weights.once(key, partial(quantise_channels, array, bits, _X_MAX))
            real = q * scale
        inputs[at] = graph.add_const(inputs[at], real)
    node.inputs = tuple(inputs)
    return step


def _grouped(
    w: Array, bits: int, x_max: int, factor: Factor | None
) -> tuple[Array, list[int], list[Array]]:
    ends = group_ends(w, bits, x_max)
    q, scales = quantise_groups(w, bits, x_max, ends, factor)
    return q, ends, scales


def order(
    bench: Bench,
    step: Graph,
    stats: dict[str, Stats],
    weights: Weights,
    sites: Sequence[Site],
    bits: int,
) -> dict[str, dict[str, float]]:
    """Squared error of each output that each node's weights at `bits` bits bring, by node name."""
    return {
        s.name: bench.compare(bench.real(rounded(step, s, bits, stats, weights))).noise
        for s in sites
    }


@dataclass
class Search:
    """Finds the fewest matrices, the most useful first, that reach a ratio.

    Attributes:
        noise: of `order`.
        signal: squared magnitude of each output.
        target: dB.
    """

    noise: dict[str, dict[str, float]]
    signal: dict[str, float]
    target: float

    def errors(self, snrs: dict[str, float]) -> dict[str, float]:
        """The squared errors that ratios of the outputs mean."""
        return {k: self.signal[k] * 10.0 ** (-v / 10.0) for k, v in snrs.items()}

    def ranked(self, floor: dict[str, float]) -> list[str]:
        """All matrices; each next one is that which most helps the output that is worst then."""
        left = dict(self.noise)
        total = {k: floor[k] + sum(n[k] for n in left.values()) for k in self.signal}
        ranked = []
        while left:
            worst = max(total, key=lambda k: total[k] / max(self.signal[k], 1e-300))
            best = max(left, key=lambda name: (left[name][worst], sum(left[name].values())))
            for k, n in left.pop(best).items():
                total[k] -= n
            ranked.append(best)
        return ranked

    def guess(self, ranked: Sequence[str], floor: dict[str, float]) -> int:
        """How many of `ranked` must be widened if errors add up."""
        for count in range(len(ranked) + 1):
            left = ranked[count:]
            if all(
                floor[k] + sum(self.noise[n][k] for n in left) <= self.allowed(k)
                for k in self.signal
            ):
                return count
        return len(ranked)

    def allowed(self, output: str) -> float:
        """The squared error that the target leaves an output."""
        return float(self.signal[output] * 10.0 ** (-self.target / 10.0))


def fewest(most: int, guess: int, reaches: Callable[[int], bool]) -> int:
    """The least count that `reaches`; 0 does not and `most` does.

    Tried outwards from `guess` with growing steps, then between the two nearest.
    """
    bad, good = 0, most
    probe, stride = min(max(guess, 1), most), 1
    while good - bad > 1:
        if not bad < probe < good:
            probe = (bad + good) // 2
        if reaches(probe):
            good, probe = probe, probe - stride
        else:
            bad, probe = probe, probe + stride
        stride *= 2
    return good
