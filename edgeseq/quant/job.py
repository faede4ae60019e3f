"""One step on its way to integers, with as few wide matrices as reach the accuracy asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from edgeseq.errors import QuantiseError
from edgeseq.ir.check import check
from edgeseq.ir.cost import frame_cost
from edgeseq.ir.graph import Graph
from edgeseq.quant.calibrate import Observer, calibrate
from edgeseq.quant.convert import convert_named
from edgeseq.quant.converter import Weights
from edgeseq.quant.groups import Groups
from edgeseq.quant.limits import losses
from edgeseq.quant.measure import Bench, fold, overlapped
from edgeseq.quant.options import QuantOptions
from edgeseq.quant.rewrite import prepare_step, rewrite
from edgeseq.quant.structure import Site, Structure
from edgeseq.quant.weights import Proof, prove
from edgeseq.quant.widen import Search, fewest, matrices, order

__all__ = ["Job", "Quantised"]

Array = npt.NDArray[Any]

# Every step costs a call per node, whatever the number of sequences side by side: long sequences
# are cut up where they would take minutes.
_CALIBRATED = 800_000  # nodes times steps of a calibration
_MEASURED = 200_000  # ... and of the run that the reported ratio is measured over
_LONG = 1024  # its steps, at most
_FRAMES = 8192  # its frames, at most
_SHORT, _SHORT_BATCH = 128, 8  # steps and sequences over which matrices are ranked


@dataclass
class Quantised:
    """An integer step and what is known of it.

    Attributes:
        graph: the integer step.
        options: widths in force, those widened for `QuantOptions.snr` included.
        proofs: bounds on every accumulator.
        snr: signal-to-noise ratio of the worst output against the real step over calibration
            frames with carried states, dB.
        saturated: per node, (clamped, stored) elements over the same frames.
        widened: matrices that were given 16 bits to reach the SNR asked for, in that order.
        sharpened: matrices whose input was given more bits for the same reason, in that order;
            how many says `QuantOptions.activation_bits_of`.
        snrs: signal-to-noise ratio of each output, by its name in the real step.
    """

    graph: Graph
    options: QuantOptions
    proofs: list[Proof]
    snr: float
    saturated: dict[str, tuple[int, int]]
    widened: list[str] = field(default_factory=list)
    sharpened: list[str] = field(default_factory=list)
    snrs: dict[str, float] = field(default_factory=dict)


class Job:
    """A calibrated step.

    Args:
        step: real step Graph.
        frames: prepared frames, [B, T, *shape] per input.
        options: as the user chose them.
    """

    def __init__(self, step: Graph, frames: Sequence[Array], options: QuantOptions) -> None:
        self.step = step = prepare_step(step)
        self.frames, self.options = frames, options
        clips = options.activation_bits == 8 and options.method != "minmax"
        nodes = frame_cost(step).nodes or 1
        seen = overlapped(frames, max(_LONG, _CALIBRATED // nodes))
        runs = seen[0].shape[0] * seen[0].shape[1]
        observer = Observer(step, runs, None if clips else frozenset())
        calibrate(step, seen, observer)
        total = frames[0].shape[1]
        steps = min(max(min(_LONG, _MEASURED // nodes), 256), total)
        # Pieces of a long sequence start from reset states in the midst of it, as a device may.
        self.bench = Bench(
            step,
            fold(frames, steps, max(1, _FRAMES // steps)),
            observer if steps < total else None,
        )
        observer.flush()
        self.rewritten, self.stats = rewrite(step, observer.stats)
        self.weights = Weights()

    def attempt(self, options: QuantOptions, bench: Bench | None = None) -> Quantised:
        """The integer step with given widths, proved and measured."""
        graph, _ = convert_named(self.rewritten, self.stats, options, self.weights)
        check(graph, after="quantise")
        proofs = prove(graph)
        m = (bench or self.bench).measure(graph)
        return Quantised(graph, options, proofs, m.snr, m.saturated, snrs=m.snrs)

    # -- towards an accuracy ---------------------------------------------------------------

    def widened(self) -> Quantised:
        """With as few matrices at 16 bits as reach `QuantOptions.snr`.

        Where all of them are not enough, first with as few of their inputs at more bits as reach
        it with 16-bit weights.
        """
        options, target = self.options, self.options.snr
        assert target is not None
        narrow = self.attempt(options)
        if narrow.snr >= target:
            return narrow
        self._short = Bench(self.step, fold(self.frames, _SHORT, _SHORT_BATCH))
        sites = matrices(Structure(self.rewritten))
        eight = [s for s in sites if options.weights_of(s.name) == 8]
        wide = self.attempt(_weights(options, [s.name for s in eight]))
        sharpened: list[str] = []
        if wide.snr < target:
            wide = self._sharpened(wide, sites, target)
            sharpened = wide.sharpened
            options = replace(options, activation_bits_of=wide.options.activation_bits_of)
            narrow = self.attempt(options)
        if narrow.snr >= target:
            wide = narrow
        elif eight:
            wide = self._fewest_weights(options, eight, narrow, wide, target)
        wide.sharpened = sharpened
        return wide

    def _fewest_weights(
        self,
        options: QuantOptions,
        sites: Sequence[Site],
        narrow: Quantised,
        wide: Quantised,
        target: float,
    ) -> Quantised:
        """Between no matrix and all of `sites` at 16 bits."""
        noise = order(self._short, self.rewritten, self.stats, self.weights, sites, 8)
        search = Search(noise, self._short.signal, target)
        floor = search.errors(wide.snrs)
        ranked = search.ranked(floor)
        found = {0: narrow, len(ranked): wide}

        def reaches(count: int) -> bool:
            found[count] = self.attempt(_weights(options, ranked[:count]))
            return found[count].snr >= target

        best = fewest(len(ranked), search.guess(ranked, floor), reaches)
        found[best].widened = ranked[:best]
        return found[best]

    def _sharpened(self, wide: Quantised, sites: Sequence[Site], target: float) -> Quantised:
        """With more bits for what matrices read, as few of them as reach the target.

        Raises:
            QuantiseError: nothing reaches it, and it is more than a goal; says what loses most.
        """
        best = wide
        for bits in (16, 32):
            base = best.options
            names = self._can_read(sites, base, bits)
            if not names:
                continue
            best = self.attempt(_inputs(base, names, bits))
            if best.snr < target:
                continue
            short = self.attempt(base, self._short)
            gains = {}
            for name in names:
                one = self.attempt(_inputs(base, [name], bits), self._short)
                gains[name] = {k: _power(short.snrs[k]) - _power(v) for k, v in one.snrs.items()}
            floor = {k: _power(v) for k, v in best.snrs.items()}
            search = Search(gains, dict.fromkeys(floor, 1.0), target)
            ranked = search.ranked(floor)
            found = {len(ranked): best}

            def reaches(
                count: int,
                ranked: list[str] = ranked,
                found: dict[int, Quantised] = found,
                base: QuantOptions = base,
                bits: int = bits,
            ) -> bool:
                found[count] = self.attempt(_inputs(base, ranked[:count], bits))
                return found[count].snr >= target

            count = fewest(len(ranked), search.guess(ranked, floor), reaches)
            earlier = [n for n in base.activation_bits_of if n not in ranked]
            found[count].sharpened = [*earlier, *ranked[:count]]
            return found[count]
        if self.options.snr_goal:
            best.sharpened = list(best.options.activation_bits_of)
            return best
        raise self._out_of_reach(best, target)

    def _can_read(self, sites: Sequence[Site], options: QuantOptions, bits: int) -> list[str]:
        """Nodes that read fewer than `bits` bits of an input that can have as many."""
        fewer = [s for s in sites if options.activations_of(s.name) < bits]
        if bits == 16:
            return [s.name for s in fewer]
        groups = Groups(Structure(self.rewritten), self.stats, options)
        found = []
        for s in fewer:
            read = [groups[k] for k in (s.inputs[:-1:2] if s.op == "linear" else ())]
            if any(g.kind == "integrator" or (g.kind == "narrow" and not g.limited) for g in read):
                found.append(s.name)
        return found

    def _out_of_reach(self, best: Quantised, target: float) -> QuantiseError:
        graph, made = convert_named(self.rewritten, self.stats, best.options, self.weights)
        worst = min(best.snrs, key=lambda k: best.snrs[k])
        lost = losses(self.rewritten, graph, made, self._short.frames)[:3]
        return QuantiseError(
            f"the outputs reach {best.snr:.1f} dB ({worst!r}) with every matrix at 16 bits, short "
            f"of the {target:g} dB asked for; most is lost at " + ", ".join(str(x) for x in lost),
            where="quantise",
            fix=f"ask for less (snr = {best.snr - 0.5:.0f}), or calibrate on more typical frames",
        )


def _power(snr: float) -> float:
    return float(10.0 ** (-snr / 10.0))


def _weights(options: QuantOptions, names: Sequence[str]) -> QuantOptions:
    return replace(options, weight_bits_of=_more(options.weight_bits_of, names, 16))


def _inputs(options: QuantOptions, names: Sequence[str], bits: int) -> QuantOptions:
    return replace(options, activation_bits_of=_more(options.activation_bits_of, names, bits))


def _more(have: Mapping[str, int], names: Sequence[str], bits: int) -> dict[str, int]:
    return {**have, **dict.fromkeys(names, bits)}
