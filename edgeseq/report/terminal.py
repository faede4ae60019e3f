"""The report on a terminal, as rich renderables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeseq.manifest import Manifest
from edgeseq.report.facts import Facts, facts_of, result_of
from edgeseq.report.words import FORMATS, count_text, percent, seconds_text, size_text

if TYPE_CHECKING:
    from rich.console import Group as RichGroup
    from rich.table import Table

__all__ = ["terminal_table"]


def terminal_table(manifests: Sequence[Manifest]) -> RichGroup:
    """Advice, tiers, candidates and verification of one target, for `rich` to print.

    Args:
        manifests: of one target, in any order; at least one.
    """
    from rich.console import Group as RichGroup
    from rich.padding import Padding
    from rich.text import Text

    facts = facts_of(manifests)
    advice = facts.advice
    parts: list[object] = [
        Text(advice.headline, style="bold"),
        *(Text(f"  {sentence}") for sentence in advice.reasons),
        Text(),
        _tiers(facts),
    ]
    if facts.points:
        parts += [Text(), _candidates(facts)]
    parts += [Text(), *_verification(facts)]
    if advice.cautions:
        parts += [Text(), Text("Before shipping", style="bold yellow")]
        parts += [Padding(Text(f"- {text}"), (0, 0, 0, 2)) for text in advice.cautions]
    return RichGroup(*parts)  # type: ignore[arg-type]


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left")
    return table


def _tiers(facts: Facts) -> Table:
    numbers = ("integer", "float", "flash", "RAM", "instructions", "time per step")
    table = _table("tier", "model", *numbers, right=numbers)
    for m in facts.manifests:
        result, real = result_of(m), m.result("float")
        quality = "-"
        if result is not None and result.value is not None:
            quality = percent(result.value)
        elif result is not None and result.snr_db is not None:
            quality = f"{result.snr_db:.1f} dB"
        mean, latency = m.instructions_per_step.mean, m.latency
        table.add_row(
            m.tier.name,
            m.model.name,
            quality,
            percent(real.value) if real is not None and real.value is not None else "-",
            _share(m.memory.flash.total, m.tier.flash_bytes),
            _share(m.memory.ram.total, m.tier.ram_bytes),
            "not measured" if mean is None else count_text(mean),
            "-"
            if latency is None
            else f"{'~' if latency.kind == 'estimate' else ''}{seconds_text(latency.seconds)}",
            style="bold" if m.tier.name == facts.advice.tier else None,
        )
    estimate = facts.shipped.manifest.latency
    if estimate is not None and estimate.kind == "estimate":
        table.caption = f"~ is an estimate: {estimate.model}"
        table.caption_justify = "left"
    return table


def _share(used: int, limit: int) -> str:
    return f"{size_text(used)} of {size_text(limit)} ({percent(used / limit, 0)})"


def _candidates(facts: Facts) -> Table:
    used = [f for f in FORMATS if any(p.format == f for p in facts.points)]
    names = [FORMATS[f] for f in used]
    table = _table("candidate", "tiers", *names, right=names)
    for model in dict.fromkeys(p.model for p in facts.points):
        own = {p.format: p for p in facts.points if p.model == model}
        cells = []
        for f in used:
            p = own.get(f)
            if p is None:
                cells.append("-")
                continue
            value = percent(p.value) if facts.quality == "accuracy" else f"{p.value:.1f} dB"
            cells.append(f"{value}\n{size_text(p.bytes)}")
        tiers = next(iter(own.values())).tiers
        table.add_row(model, ", ".join(tiers) or "none", *cells)
    return table


def _verification(facts: Facts) -> list[Table]:
    tables = []
    for group in facts.groups:
        table = _table(
            "verified", "against", "level", "steps", "worst", "status", right=("steps", "worst")
        )
        if len(facts.groups) > 1:
            table.title = f"{group.manifest.model.name} ({group.where})"
            table.title_justify = "left"
        for v in group.manifest.verification:
            done = v.status == "passed"
            table.add_row(
                v.stage,
                v.reference,
                v.level,
                count_text(v.steps) if v.steps else "-",
                "-" if v.worst is None else f"{v.worst:.3g} {v.unit}",
                "passed" if done else "not run",
                style=None if done else "yellow",
            )
        tables.append(table)
    return tables
