"""The chart of quality against size, as SVG for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from edgeseq.report.facts import Facts, Point
from edgeseq.report.style import MARKS, model_colours
from edgeseq.report.words import FORMATS, percent, size_text

__all__ = ["legend_mark", "nice_range", "scatter", "size_range", "size_ticks"]

_WIDTH, _HEIGHT = 920, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 18, 50
_SHAPES = {
    "o": '<circle r="6"/>',
    "D": '<path d="M0-8 8 0 0 8-8 0Z"/>',
    "^": '<path d="M0-7.5 7 6H-7Z"/>',
    "v": '<path d="M0 7.5 7-6H-7Z"/>',
    "s": '<path d="M-5.5-5.5H5.5V5.5H-5.5Z"/>',
    "P": '<path d="M-2.4-7H2.4V-2.4H7V2.4H2.4V7H-2.4V2.4H-7V-2.4H-2.4Z"/>',
}


def size_ticks(low: float, high: float) -> list[int]:
    """Sizes in bytes to label between low and high: 1, 2, 4, 8... KiB, thinned to nine at most."""
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    step = max(1, math.ceil(len(powers) / 9))
    return [1 << p for p in powers if p >= 0 and p % step == 0]


def size_range(sizes: Sequence[int]) -> tuple[float, float]:
    """Bounds of a logarithmic axis around sizes, at least a factor of six apart."""
    low, high = min(sizes) / 1.35, max(sizes) * 1.35
    widen = max(1.0, math.sqrt(6 * low / high))
    return low / widen, high * widen


def nice_range(low: float, high: float, most: float = math.inf) -> tuple[float, float, float]:
    """Bounds around values, at least two grid lines apart, and the distance of the lines (1-2-5).

    Args:
        most: the upper bound is not above this.
    """
    span = max(high - low, 1e-3 * max(abs(high), 1.0))
    raw = span / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    bottom = math.floor((low - 0.15 * span) / step) * step
    top = min(math.ceil((high + 0.15 * span) / step) * step, most)
    # Values at the upper bound would sit on an axis of one step.
    return min(bottom, top - 2 * step), top, step


def scatter(facts: Facts) -> str:
    """SVG of every candidate in every format; empty where no quality was measured."""
    if not facts.points:
        return ""
    low, high = size_range([p.bytes for p in facts.points])
    accurate = facts.quality == "accuracy"
    values = [p.value for p in facts.points]
    bottom, top, step = nice_range(min(values), max(values), 1.0 if accurate else math.inf)

    def x(size: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(size / low) / math.log(high / low)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - bottom) / (top - bottom)

    title = "accuracy" if accurate else "signal-to-noise ratio against float"
    out = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" class="chart" '
        f'aria-label="{title} against size">'
    ]
    for i in range(round((top - bottom) / step) + 1):
        value = bottom + i * step
        if value > top + 1e-9:
            break
        digits = 0 if step >= 0.0099 else 1
        label = percent(value, digits) if accurate else f"{value:g} dB"
        out.append(_line(_LEFT, y(value), _WIDTH - _RIGHT, y(value), "grid"))
        out.append(_text(_LEFT - 8, y(value) + 4, label, "end"))
    for tick in size_ticks(low, high):
        out.append(_line(x(tick), _TOP, x(tick), _HEIGHT - _BOTTOM, "grid"))
        out.append(_text(x(tick), _HEIGHT - _BOTTOM + 20, size_text(tick), "middle"))
    out.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "size", "middle"))
    for m in facts.manifests:
        limit = m.tier.flash_bytes
        if low < limit < high:
            out.append(_line(x(limit), _TOP, x(limit), _HEIGHT - _BOTTOM, "limit"))
            out.append(_text(x(limit) - 6, _TOP + 12, f"tier {m.tier.name}", "end", "limit"))
    colours = model_colours([p.model for p in facts.points])
    # Recommended and chosen models are drawn last, on top.
    for p in sorted(facts.points, key=lambda p: (p.model == facts.advice.model, bool(p.tiers))):
        out.append(_mark(p, x(p.bytes), y(p.value), colours[p.model], accurate))
    out.append("</svg>")
    return "".join(out)


def _mark(p: Point, x: float, y: float, colour: str, accurate: bool) -> str:
    value = percent(p.value) if accurate else f"{p.value:.1f} dB"
    of = f" of {p.samples} samples" if accurate else ""
    use = f"fills {', '.join(p.tiers)}" if p.tiers else "fills no tier"
    tip = escape(f"{p.model}, {FORMATS[p.format]}: {value}{of}, {size_text(p.bytes)}; {use}")
    fill = colour if p.tiers else "var(--card)"
    return (
        f'<g transform="translate({x:.1f} {y:.1f})" fill="{fill}" stroke="{colour}" '
        f'class="mark"><title>{tip}</title>{_SHAPES[MARKS[p.format]]}</g>'
    )


def legend_mark(format: str, colour: str = "currentColor") -> str:
    """A small SVG of a format's mark, for the legend."""
    shape = _SHAPES[MARKS[format]]
    return f'<svg viewBox="-9 -9 18 18" class="key" fill="{colour}">{shape}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
    )
