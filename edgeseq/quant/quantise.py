"""From a real step to an integer one: calibrate, assign widths, convert, prove."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from edgeseq.errors import DataError, QuantiseError, UsageError, unknown_name
from edgeseq.ir.graph import Graph
from edgeseq.quant.job import Job, Quantised
from edgeseq.quant.measure import snr_db
from edgeseq.quant.options import QuantOptions
from edgeseq.quant.structure import Structure
from edgeseq.quant.widen import matrices

__all__ = ["Quantised", "quantise", "snr_db"]

Array = npt.NDArray[Any]


def quantise(
    step: Graph, frames: Sequence[Array], options: QuantOptions | None = None
) -> Quantised:
    """Quantise the real `step`.

    Args:
        step: real step Graph.
        frames: one array per input of prepared frames, [batch, T, *shape]; states are carried
            over T and reset between sequences. Several sequences side by side are faster than
            one long one; a very long one is cut up.
        options: widths and method.

    Raises:
        DataError: the frames cannot be used.
        QuantiseError: `step` is not a real step, some value fits no format, or the SNR asked for
            is out of reach.
        UsageError: `weight_bits_of` or `activation_bits_of` names no matrix of `step`.
    """
    options = options or QuantOptions()
    frames = [_by_step(step, name, x) for name, x in zip(step.inputs, frames, strict=False)] + [
        *frames[len(step.inputs) :]
    ]
    _require(step, frames, options)
    job = Job(step, frames, options)
    return job.widened() if options.snr is not None else job.attempt(options)


def _by_step(step: Graph, name: str, x: Array) -> Array:
    """Frames of an input in groups of as many as the step takes at once."""
    n, shape = step.frames_of(name), step.types[name].shape
    if n == 1 or x.shape[2:] != shape[1:]:
        return x
    count = x.shape[1] // n
    return x[:, : count * n].reshape(x.shape[0], count, n, *x.shape[2:])


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
    for setting in ("weight_bits_of", "activation_bits_of"):
        wanted = getattr(options, setting)
        names = {s.name for s in matrices(Structure(step))} if wanted else set()
        for name in wanted:
            if name not in names:
                raise UsageError(unknown_name("matrix", name, names), where=setting)
