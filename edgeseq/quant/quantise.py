"""From a real step to an integer one: calibrate, assign widths, convert, prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import DataError, QuantiseError, UsageError, unknown_name
from edgeseq.ir.check import check
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.io import from_stored, store_prepared
from edgeseq.quant.calibrate import Stats, calibrate
from edgeseq.quant.convert import convert
from edgeseq.quant.options import QuantOptions
from edgeseq.quant.weights import Proof, prove

__all__ = ["Quantised", "quantise", "snr_db"]

Array = npt.NDArray[Any]

_SNR_FRAMES = 4096


@dataclass
class Quantised:
    """An integer step and what is known of it.

    Attributes:
        graph: the integer step.
        options: widths in force, those widened for `QuantOptions.snr` included.
        proofs: bounds on every accumulator.
        snr: signal-to-noise ratio of the outputs against the real step over calibration frames
            with carried states, dB.
        saturated: per node, (clamped, stored) elements over the same frames.
        widened: matrices that were given 16 bits to reach the SNR asked for, in that order.
    """

    graph: Graph
    options: QuantOptions
    proofs: list[Proof]
    snr: float
    saturated: dict[str, tuple[int, int]]
    widened: list[str] = field(default_factory=list)


def snr_db(reference: Array, value: Array) -> float:
    """10 log10 of the power of `reference` over that of its difference to `value`, dB."""
    noise = float(np.sum((np.asarray(reference, np.float64) - value) ** 2))
    signal = float(np.sum(np.asarray(reference, np.float64) ** 2))
    if noise == 0.0:
        return float("inf")
    return float("-inf") if signal == 0.0 else 10.0 * float(np.log10(signal / noise))


def quantise(
    step: Graph, frames: Sequence[Array], options: QuantOptions | None = None
) -> Quantised:
    """Quantise the real `step`.

    Args:
        step: real step Graph.
        frames: one array per input of prepared frames, [batch, T, *shape]; states are carried
            over T and reset between sequences.
        options: widths and method.

    Raises:
        DataError: the frames cannot be used.
        QuantiseError: `step` is not a real step, some value fits no format, or the SNR asked for
            is out of reach.
        UsageError: `weight_bits_of` names no matrix of `step`.
    """
    options = options or QuantOptions()
    _require(step, frames, options)
    stats = calibrate(step, frames)
    keep = max(1, _SNR_FRAMES // frames[0].shape[1])
    sample = [x[:keep] for x in frames]
    reference = _real(step, sample)
    result = _attempt(step, stats, options, sample, reference)
    if options.snr is not None:
        result = _widen(step, stats, result, sample, reference)
    return result


def _require(step: Graph, frames: Sequence[Array], options: QuantOptions) -> None:
    where = f"quantise, graph {step.name!r}"
    if not step.is_step or any(t.is_integer for t in step.types.values()):
        raise QuantiseError(
            "needs a real step", where=where, fix="run edgeseq.passes.to_step on the model first"
        )
    lengths = {x.shape[:2] for x in frames}
    if len(frames) != len(step.inputs) or len(lengths) != 1 or len(min(lengths)) != 2:
        raise DataError(
            f"got frames {[list(x.shape) for x in frames]} for inputs {step.inputs}",
            where=where,
            fix="give one [batch, T, channels] array per input, equal in batch and T",
        )
    matrices = {n.name for n in step.nodes if n.op == "linear"}
    for name in options.weight_bits_of:
        if name not in matrices:
            raise UsageError(unknown_name("matrix", name, matrices), where="weight_bits_of")


def _real(step: Graph, frames: Sequence[Array]) -> list[Array]:
    return Interpreter(step, batch=frames[0].shape[0]).sequence(*frames)


def _attempt(
    step: Graph,
    stats: dict[str, Stats],
    options: QuantOptions,
    frames: Sequence[Array],
    reference: Sequence[Array],
) -> Quantised:
    graph = convert(step, stats, options)
    check(graph, after="quantise")
    proofs = prove(graph)
    machine = Interpreter(graph, batch=frames[0].shape[0])
    stored = [store_prepared(graph, v, x) for v, x in zip(graph.inputs, frames, strict=True)]
    outs = machine.sequence(*stored)
    real = [from_stored(graph, v, y) for v, y in zip(graph.outputs, outs, strict=True)]
    pairs = list(zip(reference, real, strict=True))
    snr = min(snr_db(a, b) for a, b in pairs)
    saturated = {k: (n, machine.stored[k]) for k, n in machine.saturated.items() if n}
    return Quantised(graph, options, proofs, snr, saturated)


def _widen(
    step: Graph,
    stats: dict[str, Stats],
    result: Quantised,
    frames: Sequence[Array],
    reference: Sequence[Array],
) -> Quantised:
    """Give matrices 16 bits, each time the one that helps the output most."""
    target = result.options.snr
    assert target is not None
    widened: list[str] = []
    while result.snr < target:
        bits = result.options.weight_bits_of
        narrow = [
            n.name
            for n in step.nodes
            if n.op == "linear" and bits.get(n.name, result.options.weight_bits) == 8
        ]
        if not narrow:
            raise QuantiseError(
                f"the outputs reach {result.snr:.1f} dB with every matrix at 16 bits, short of the "
                f"{target:g} dB asked for",
                where="quantise",
                fix="ask for less, use activation_bits = 16, or calibrate on more typical frames",
            )
        tries = [
            _attempt(
                step,
                stats,
                replace(result.options, weight_bits_of={**bits, name: 16}),
                frames,
                reference,
            )
            for name in narrow
        ]
        best = int(np.argmax([t.snr for t in tries]))
        widened.append(narrow[best])
        result = tries[best]
    result.widened = widened
    return result
