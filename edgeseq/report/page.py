"""report.html: one file that needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from edgeseq.manifest import Confusion, Manifest
from edgeseq.report import words
from edgeseq.report.chart import legend_mark, scatter
from edgeseq.report.facts import Facts, result_of, standard_error
from edgeseq.report.style import PARTS, model_colours, parts_of

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["Bar", "matrix_rows", "node_bars", "render_page"]

_MOST_NODES = 14


@dataclass(frozen=True)
class Bar:
    """One bar of the cost of a node.

    Attributes:
        share: of the longest bar, 0..1.
    """

    name: str
    op: str
    value: float
    share: float
    weight_bytes: int


def node_bars(m: Manifest) -> tuple[str, list[Bar]]:
    """What the bars show ("instructions" or "MACs") and the bars, largest first.

    Nodes beyond the largest ones, and those that cost nothing in this measure, are one bar.
    """
    measured = all(n.instructions is not None for n in m.nodes) and bool(m.nodes)
    unit = "instructions" if measured else "MACs"
    cost = [(float(n.instructions or 0) if measured else float(n.macs), n) for n in m.nodes]
    cost.sort(key=lambda pair: (-pair[0], pair[1].name))
    shown = [(value, n) for value, n in cost[:_MOST_NODES] if value > 0]
    rest = cost[len(shown) :]
    top = max((value for value, _ in shown), default=1.0)
    bars = [Bar(n.name, n.op, value, value / top, n.weight_bytes) for value, n in shown]
    if rest:
        total = sum(value for value, _ in rest)
        size = sum(n.weight_bytes for _, n in rest)
        name = f"{len(rest)} other node{'s' if len(rest) > 1 else ''}"
        bars.append(Bar(name, ", ".join(sorted({n.op for _, n in rest})), total, total / top, size))
    return unit, bars


def matrix_rows(c: Confusion) -> list[dict[str, Any]]:
    """Rows of a confusion matrix: cells with their share of the row, and the recall."""
    rows = []
    for i, (label, counts) in enumerate(zip(c.labels, c.counts, strict=True)):
        total = sum(counts)
        cells = [
            {"count": n, "share": n / total if total else 0.0, "right": i == j}
            for j, n in enumerate(counts)
        ]
        rows.append({"label": label, "cells": cells, "total": total})
    return rows


def render_page(facts: Facts) -> str:
    """The whole page. All text is escaped; there is no script and no link to anything outside."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def safe(text: str) -> Markup:
        return Markup(text)

    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    env.lstrip_blocks = True
    env.filters.update(
        size=words.size_text,
        count=words.count_text,
        percent=words.percent,
        seconds=words.seconds_text,
        points=words.points,
        joined=words.joined,
    )
    source = files("edgeseq.report").joinpath("page.html").read_text(encoding="utf-8")
    names = [p.model for p in facts.points]
    used = [f for f in words.FORMATS if any(p.format == f for p in facts.points)]
    return env.from_string(source).render(
        facts=facts,
        first=facts.manifests[0],
        formats=words.FORMATS,
        chart=safe(scatter(facts)),
        colours=model_colours(names),
        marks=[(words.FORMATS[f], safe(legend_mark(f))) for f in used],
        parts_of=parts_of,
        part_colours=PARTS,
        result_of=result_of,
        standard_error=standard_error,
        node_bars=node_bars,
        matrix_rows=matrix_rows,
    )
