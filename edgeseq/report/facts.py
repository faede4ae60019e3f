"""What a report says: everything is taken from manifests, nothing is made up here.

The rule for the recommendation: of the models that fill a tier, the smallest one whose accuracy
is not measurably below the best one's, that is, within one standard error
sqrt(p (1 - p) / n) of the best accuracy p over n samples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeseq.manifest import Accuracy, Manifest
from edgeseq.report.words import (
    FORMATS,
    count_text,
    joined,
    percent,
    points,
    seconds_text,
    size_text,
)

__all__ = ["Advice", "Facts", "Group", "Point", "facts_of"]

_SATURATION_SHARE = 1e-3
_FORMAT_DROP = 0.005
_HEADROOM = 0.1
_SNR_DB = 3.0
_LOW_SNR_DB = 20.0
_MOST_NAMES = 8


@dataclass(frozen=True)
class Group:
    """A model and the tiers it fills.

    Attributes:
        tiers: manifests, from the smallest tier up; they differ in the tier only.
    """

    tiers: tuple[Manifest, ...]

    @property
    def manifest(self) -> Manifest:
        return self.tiers[0]

    @property
    def names(self) -> list[str]:
        return [m.tier.name for m in self.tiers]

    @property
    def where(self) -> str:
        """Such as "tier S" or "tiers M and L"."""
        return f"tier{'s' if len(self.tiers) > 1 else ''} {joined(self.names)}"

    @property
    def flash(self) -> int:
        return self.manifest.memory.flash.total


@dataclass(frozen=True)
class Point:
    """One candidate in one format, for the chart of quality against size.

    Attributes:
        bytes: integer: flash on the target if compiled for it, else of the parameters; others:
            of the file.
        value: accuracy in 0..1, or the SNR in dB where the chart shows that.
        tiers: those the candidate fills; empty for one that was not chosen.
    """

    model: str
    format: str
    bytes: int
    value: float
    samples: int
    tiers: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """What to ship, in plain language.

    Attributes:
        headline: one sentence.
        reasons: sentences with the figures behind it.
        cautions: what to know before shipping: what was not run, small headroom, weak formats.
    """

    model: str
    tier: str
    headline: str
    reasons: tuple[str, ...]
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Everything a report shows, for one target.

    Attributes:
        manifests: one per tier, from the smallest up.
        quality: "accuracy", or "snr" where no candidate has a test set, or None if neither was
            measured.
        points: of the chart, in the unit of `quality`.
        rejected: candidates that fill no tier, with the reason per tier.
    """

    manifests: tuple[Manifest, ...]
    groups: tuple[Group, ...]
    quality: str | None
    points: tuple[Point, ...]
    advice: Advice
    rejected: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def shipped(self) -> Group:
        """The recommended model."""
        return next(g for g in self.groups if self.advice.tier in g.names)

    def to_json(self) -> dict[str, Any]:
        """The content of report.json, in plain types."""
        return {
            "report": 1,
            "target": self.manifests[0].target.name,
            "advice": dataclasses.asdict(self.advice),
            "quality": self.quality,
            "points": [dataclasses.asdict(p) for p in self.points],
            "groups": [{"model": g.manifest.model.name, "tiers": g.names} for g in self.groups],
            "rejected": {name: list(why) for name, why in self.rejected},
            "tiers": {m.tier.name: dataclasses.asdict(m) for m in self.manifests},
        }


def facts_of(manifests: Sequence[Manifest]) -> Facts:
    """The facts of one target.

    Args:
        manifests: at least one, all of one target, in any order.
    """
    ordered = tuple(sorted(manifests, key=lambda m: (m.tier.flash_bytes, m.tier.name)))
    groups = _groups(ordered)
    quality, chart = _points(ordered)
    return Facts(
        manifests=ordered,
        groups=groups,
        quality=quality,
        points=chart,
        advice=_advice(groups),
        rejected=_rejected(ordered),
    )


def result_of(m: Manifest) -> Accuracy | None:
    """What is known of the quality of the integer model that runs on the target."""
    return m.result("integer") or m.result("native")


def standard_error(a: Accuracy) -> float | None:
    """Of a measured accuracy, samples taken as independent; None without one."""
    if a.value is None or a.samples < 1:
        return None
    return math.sqrt(a.value * (1 - a.value) / a.samples)


def _groups(manifests: Sequence[Manifest]) -> tuple[Group, ...]:
    found: dict[tuple[object, ...], list[Manifest]] = {}
    for m in manifests:
        key = (m.model.digest or m.model.name, m.memory.flash.total, m.memory.ram.total)
        found.setdefault(key, []).append(m)
    return tuple(Group(tuple(tiers)) for tiers in found.values())


def _points(manifests: Sequence[Manifest]) -> tuple[str | None, tuple[Point, ...]]:
    """What the chart's other axis is, and its points, each model once."""
    entries: dict[str, tuple[int | None, Sequence[Accuracy], list[str]]] = {}
    for m in manifests:
        for c in m.candidates:
            flash, results, tiers = entries.get(c.name, (None, (), []))
            entries[c.name] = (flash or c.flash_bytes, results or c.results, tiers)
        _, _, tiers = entries.get(m.model.name, (None, (), []))
        own = (m.memory.flash.total, m.accuracy, [*tiers, m.tier.name])
        entries[m.model.name] = own
    results = [a for _, group, _ in entries.values() for a in group]
    quality = (
        "accuracy"
        if any(a.value is not None for a in results)
        else "snr"
        if any(a.snr_db is not None for a in results)
        else None
    )
    chart = []
    for name, (flash, group, tiers) in entries.items():
        for a in group:
            value = a.value if quality == "accuracy" else a.snr_db
            if quality == "snr" and a.format == "onnx_float":
                continue  # a float model again: its distance to float says nothing
            size = flash if a.format in ("integer", "native") and flash else a.bytes
            if value is not None and size:
                chart.append(Point(name, a.format, size, value, a.samples, tuple(tiers)))
    return quality, tuple(chart)


def _rejected(manifests: Sequence[Manifest]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    filled = {m.model.name for m in manifests}
    reasons: dict[str, list[str]] = {}
    for m in manifests:
        for c in m.candidates:
            if not c.chosen and c.name not in filled:
                reasons.setdefault(c.name, []).append(f"tier {m.tier.name}: {c.reason}")
    return tuple((name, tuple(why)) for name, why in reasons.items())


# -- advice --------------------------------------------------------------------------------------


def _advice(groups: Sequence[Group]) -> Advice:
    chosen, why = _choose(groups)
    m = chosen.manifest
    return Advice(
        model=m.model.name,
        tier=m.tier.name,
        headline=f"Ship {m.model.name} (tier {m.tier.name}) on {m.target.name}.",
        reasons=(
            *_quality_text(m),
            *_cost_text(m),
            *delay_text(m),
            *widened_text(m),
            *why,
            *_left_out(groups, chosen),
        ),
        cautions=tuple(_cautions(m)),
    )


def _choose(groups: Sequence[Group]) -> tuple[Group, tuple[str, ...]]:
    """The recommended group and a sentence about why not another one."""
    if len(groups) == 1:
        (only,) = groups
        if len(only.tiers) == 1:
            return only, ()
        return only, (f"The same model fills {only.where}: a bigger budget bought nothing.",)
    judged = [(g, r) for g in groups if (r := result_of(g.manifest)) and r.value is not None]
    if len(judged) == len(groups):
        best, top = max(judged, key=lambda pair: (pair[1].value or 0.0, -pair[0].flash))
        error = standard_error(top) or 0.0
        enough = [g for g, r in judged if (r.value or 0.0) >= (top.value or 0.0) - error]
        chosen = min(enough, key=lambda g: g.flash)
        name = best.manifest.model.name
        if chosen is best:
            return chosen, (
                "The smaller models are less accurate by more than one standard error "
                f"({points(error)}, {count_text(top.samples)} samples)."
                if any(g.flash < chosen.flash for g in groups)
                else "No other model is more accurate.",
            )
        gap = (top.value or 0.0) - (_value(chosen) or 0.0)
        return chosen, (
            f"{name} (tier {best.names[0]}) is {points(gap)} better on the test set, less than "
            f"one standard error ({points(error)}, {count_text(top.samples)} samples), and takes "
            f"{best.flash / chosen.flash:.1f} times the flash.",
        )
    signals = [(g, r.snr_db) for g in groups if (r := result_of(g.manifest)) and r.snr_db]
    if len(signals) == len(groups):
        highest = max(snr for _, snr in signals)
        close = [g for g, snr in signals if snr >= highest - _SNR_DB]
        chosen = min(close, key=lambda g: g.flash)
        return chosen, (
            f"It is the smallest model within {_SNR_DB:.0f} dB of the highest SNR "
            f"({highest:.1f} dB).",
        )
    chosen = min(groups, key=lambda g: g.flash)
    return chosen, ("Quality was not measured alike for all models; this is the smallest one.",)


def _left_out(groups: Sequence[Group], chosen: Group) -> list[str]:
    """Sentences about candidates that are more accurate and fill no tier."""
    value = _value(chosen)
    if value is None:
        return []
    filled = {g.manifest.model.name for g in groups}
    # The biggest tier's reason is the one that keeps a candidate out altogether.
    tiers = sorted((m for g in groups for m in g.tiers), key=lambda m: m.tier.flash_bytes)
    found: dict[str, str] = {}
    for m in tiers:
        for c in m.candidates:
            own = next((r.value for r in c.results if r.format == "integer"), None)
            if c.name not in filled and own is not None and own > value:
                found[c.name] = (
                    f"{c.name} is {points(own - value)} better on the test set and fills no tier: "
                    f"{c.reason.rstrip('.')}."
                )
    return list(found.values())


def _value(group: Group) -> float | None:
    result = result_of(group.manifest)
    return None if result is None else result.value


def _quality_text(m: Manifest) -> list[str]:
    result, real = result_of(m), m.result("float")
    if result is not None and result.value is not None:
        text = f"On {count_text(result.samples)} test samples its {result.metric} is "
        text += percent(result.value)
        if real is not None and real.value is not None:
            gap = result.value - real.value
            side = "as the float model" if round(1000 * gap) == 0 else None
            side = side or f"{points(gap)} {'above' if gap > 0 else 'below'} the float model"
            text += f", {'the same ' if side.startswith('as') else ''}{side}"
        return [text + "."]
    if result is not None and result.snr_db is not None:
        return [
            "There is no test set, so its accuracy is not known; its outputs follow the float "
            f"model with a signal-to-noise ratio of {result.snr_db:.1f} dB."
        ]
    return ["Its quality was not measured."]


def _cost_text(m: Manifest) -> list[str]:
    flash, ram = m.memory.flash.total, m.memory.ram.total
    sentences = [
        f"It takes {size_text(flash)} of {size_text(m.tier.flash_bytes)} flash "
        f"({percent(flash / m.tier.flash_bytes, 0)}) and {size_text(ram)} of "
        f"{size_text(m.tier.ram_bytes)} RAM ({percent(ram / m.tier.ram_bytes, 0)})."
    ]
    steps, latency = m.instructions_per_step, m.latency
    text = []
    if steps.mean is not None:
        text.append(f"A step executes {count_text(steps.mean)} instructions")
    if latency is not None:
        kind = "an estimated" if latency.kind == "estimate" else "a measured"
        text.append(
            f"{'taking' if text else 'A step takes'} {kind} {seconds_text(latency.seconds)}"
        )
        if m.tier.latency_s:
            text.append(f"of the {seconds_text(m.tier.latency_s)} allowed")
    if text:
        first, *rest = text
        joint = ", " if len(rest) and rest[0].startswith("taking") else " "
        sentences.append(first + (joint + " ".join(rest) if rest else "") + ".")
    return sentences


def delay_text(m: Manifest) -> list[str]:
    """A sentence about how far outputs lag, if they do."""
    sentences = []
    for delay in sorted({o.delay for o in m.outputs} - {0}):
        names = [o.name for o in m.outputs if o.delay == delay]
        all_of_them = len(names) == len(m.outputs)
        who = "Its output lags" if all_of_them else f"Its output {joined(names)} lags"
        rate = next((i.rate_hz for i in m.inputs if i.rate_hz), None)
        time = f" ({seconds_text(delay / rate)})" if rate else ""
        plural = "s" if delay > 1 else ""
        sentences.append(
            f"{who} the input by {delay} frame{plural}{time}: it looks that far ahead."
        )
    return sentences


def widened_text(m: Manifest) -> list[str]:
    """A sentence about the matrices that were given 16 bits, if any were."""
    names = list(m.model.widened)
    if not names:
        return []
    return [
        f"{len(names)} matri{'ces have' if len(names) > 1 else 'x has'} 16-bit weights, to reach "
        f"the signal-to-noise ratio asked for: {_some(names)}."
    ]


def _float_text(m: Manifest) -> list[str]:
    """Sentences about integer files that compute some operations in float."""
    files: dict[tuple[str, ...], list[str]] = {}
    for f in m.formats:
        if f.float_nodes:
            files.setdefault(f.float_nodes, []).append(f.file)
    return [
        f"{joined(names)} compute{'s' if len(names) == 1 else ''} {len(nodes)} "
        f"operation{'s' if len(nodes) > 1 else ''} in float32: {_some(list(nodes))}."
        for nodes, names in files.items()
    ]


def _some(names: list[str]) -> str:
    """An enumeration that does not grow without end."""
    if len(names) <= _MOST_NAMES:
        return joined(names)
    return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"


def _cautions(m: Manifest) -> list[str]:
    found: list[str] = []
    unknown: dict[str, list[str]] = {}
    for v in m.verification:
        if v.status == "not run":
            found.append(f"Not checked: {v.stage} against {v.reference} ({v.reason}).")
    real = m.result("float")
    for a in m.accuracy:
        name = FORMATS[a.format]
        if a.value is None and a.reason and a.format != "float":
            unknown.setdefault(a.reason, []).append(name)
        elif real is not None and real.value is not None and a.value is not None:
            drop = real.value - a.value
            if drop > _FORMAT_DROP:
                what = "model" if a.format in ("integer", "native") else "file"
                found.append(f"The {name} {what} is {points(drop)} less accurate than float.")
    if all(a.value is None for a in m.accuracy):
        unknown.clear()  # said in the reasons: nothing is known of any format
    for reason, names in unknown.items():
        found.append(f"Accuracy not measured for {joined(names)}: {reason}.")
    result = result_of(m)
    snr = result.snr_db if result is not None and result.value is None else None
    if snr is not None and snr < _LOW_SNR_DB:
        found.append(
            f"The integer outputs are only {snr:.1f} dB above their error: calibrate on more "
            "frames, or use 16-bit weights."
        )
    for s in m.saturation:
        if s.stores and s.saturated / s.stores > _SATURATION_SHARE:
            share = percent(s.saturated / s.stores)
            found.append(f"{s.node} clamps {share} of what it stores.")
    if m.instructions_per_step.mean is None:
        found.append(f"Instructions per step not measured: {_why(m.instructions_per_step.method)}.")
    if m.memory.ram.stack is None:
        found.append(f"RAM is without the stack: {_why(m.memory.ram.stack_method)}.")
    used = {
        "flash": m.memory.flash.total / m.tier.flash_bytes,
        "RAM": m.memory.ram.total / m.tier.ram_bytes,
    }
    if m.latency is not None and m.tier.latency_s:
        used["time per step"] = m.latency.seconds / m.tier.latency_s
    for what, part in used.items():
        if part > 1 - _HEADROOM:
            found.append(f"Little headroom: {percent(part, 0)} of the tier's {what} is used.")
    return list(dict.fromkeys([*found, *_float_text(m), *m.notes]))


def _why(method: str) -> str:
    """The reason in a `method` that says why there is no figure."""
    return method.removeprefix("not measured: ").removesuffix(".")
