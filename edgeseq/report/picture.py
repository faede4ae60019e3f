"""report.png: the report at a glance."""

from __future__ import annotations

import io
import math
import textwrap
from typing import Any

from edgeseq.report.chart import nice_range, size_range, size_ticks
from edgeseq.report.facts import Facts, result_of
from edgeseq.report.page import matrix_rows, node_bars
from edgeseq.report.style import MARKS, PARTS, model_colours, parts_of
from edgeseq.report.words import FORMATS, count_text, percent, seconds_text, size_text

__all__ = ["draw_picture"]

_INK, _SOFT, _LINE, _ACCENT = "#18212f", "#5c6b7e", "#e0e6ed", "#2f6fde"
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same picture everywhere
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.titlecolor": _INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
_MOST_NODES = 7
_MOST_CHECKS = 9


def draw_picture(facts: Facts) -> bytes:
    """A PNG, 1760 x 1000 pixels, of the same bytes for the same facts."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The defaults first: a matplotlibrc of the user must not change the picture.
    style: Any = {k: v for k, v in mpl.rcParamsDefault.items() if k != "backend"} | _STYLE
    with mpl.rc_context(style):
        figure = Figure(figsize=(11, 6.25), dpi=160, facecolor="white")
        FigureCanvasAgg(figure)
        _heading(figure, facts)
        upper = figure.add_gridspec(
            1,
            2,
            width_ratios=(1.6, 1),
            left=0.06,
            right=0.98,
            top=0.755,
            bottom=0.475,
            wspace=0.12,
        )
        lower = figure.add_gridspec(
            1,
            3,
            width_ratios=(1, 1.05, 1.45),
            left=0.02,
            right=0.98,
            top=0.305,
            bottom=0.075,
            wspace=0.3,
        )
        _quality(figure.add_subplot(upper[0]), facts)
        _budgets(figure.add_subplot(upper[1]), facts)
        _nodes(figure.add_subplot(lower[0]), facts)
        _confusion(figure.add_subplot(lower[1]), facts)
        _checks(figure.add_subplot(lower[2]), facts)
        out = io.BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
        return out.getvalue()


def _heading(figure: Any, facts: Facts) -> None:
    m = facts.shipped.manifest
    figure.text(0.02, 0.945, facts.advice.headline, fontsize=17, weight="bold", va="center")
    lines = textwrap.wrap(" ".join(facts.advice.reasons), 158)
    if len(lines) > 3:
        lines = [*lines[:2], _short(" ".join(lines[2:]), 156)]
    figure.text(0.02, 0.918, "\n".join(lines), fontsize=9, color=_SOFT, va="top", linespacing=1.5)
    edge = f"{m.target.board} · edgeseq {m.edgeseq}"
    figure.text(0.985, 0.945, edge, fontsize=9, color=_SOFT, va="center", ha="right")


def _empty(axes: Any, title: str, text: str) -> None:
    axes.set_title(title)
    axes.set_axis_off()
    axes.text(0.0, 0.9, "\n".join(textwrap.wrap(text, 44)), color=_SOFT, va="top")


def _quality(axes: Any, facts: Facts) -> None:
    from matplotlib.lines import Line2D

    accurate = facts.quality == "accuracy"
    title = ("Accuracy" if accurate else "Signal-to-noise ratio") + " against size"
    if not facts.points:
        _empty(axes, title, "Neither accuracy nor signal-to-noise ratio was measured.")
        return
    axes.set_title(title)
    colours = model_colours([p.model for p in facts.points])
    for p in sorted(facts.points, key=lambda p: (p.model == facts.advice.model, bool(p.tiers))):
        colour = colours[p.model]
        axes.scatter(
            p.bytes,
            p.value,
            marker=MARKS[p.format],
            s=46,
            zorder=3,
            facecolor=colour if p.tiers else "white",
            edgecolor=colour,
            linewidth=1.3,
        )
    values = [p.value for p in facts.points]
    low, high = size_range([p.bytes for p in facts.points])
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    ticks = size_ticks(low, high)
    axes.set_xticks(ticks, [size_text(t) for t in ticks])
    axes.minorticks_off()
    bottom, top, step = nice_range(min(values), max(values), 1.0 if accurate else math.inf)
    axes.set_ylim(bottom, top)
    marks = [bottom + i * step for i in range(math.floor((top - bottom) / step + 1e-6) + 1)]
    digits = 0 if step >= 0.0099 else 1
    axes.set_yticks(marks, [percent(v, digits) if accurate else f"{v:g} dB" for v in marks])
    axes.grid(True)
    axes.set_axisbelow(True)
    for m in facts.manifests:
        if low < m.tier.flash_bytes < high:
            axes.axvline(m.tier.flash_bytes, color=_SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.text(
                m.tier.flash_bytes / 1.02,
                top - 0.02 * (top - bottom),
                f"tier {m.tier.name} ",
                ha="right",
                va="top",
                fontsize=8.5,
                color=_SOFT,
            )
    models = [
        Line2D([], [], marker="s", linestyle="", markersize=7, color=c, label=_short(name, 18))
        for name, c in list(colours.items())[:8]
    ]
    used = [f for f in FORMATS if any(p.format == f for p in facts.points)]
    formats = [
        Line2D([], [], marker=MARKS[f], linestyle="", color=_SOFT, label=FORMATS[f]) for f in used
    ]
    _legend(axes, models, -0.1)
    _legend(axes, formats, -0.19)


def _legend(axes: Any, handles: list[Any], y: float, columns: int = 8) -> None:
    """A row of keys below the axes, `y` in heights of the axes."""
    axes.add_artist(
        axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(-0.015, y),
            ncols=columns,
            handlelength=1.0,
            handletextpad=0.4,
            columnspacing=1.2,
            borderaxespad=0.4,
        )
    )


def _budgets(axes: Any, facts: Facts) -> None:
    axes.set_title("Memory against the tiers")
    shown = facts.manifests[:4]
    rows: list[str] = []
    for m in shown:
        for what, use, limit in (
            ("flash", m.memory.flash, m.tier.flash_bytes),
            ("RAM", m.memory.ram, m.tier.ram_bytes),
        ):
            y, left = len(rows), 0.0
            axes.barh(y, 100, color=_LINE, height=0.56)
            for name, size in parts_of(use):
                axes.barh(y, 100 * size / limit, left=left, color=PARTS[name], height=0.56)
                left += 100 * size / limit
            text = f"{size_text(use.total)} of {size_text(limit)}"
            axes.text(102, y, text, va="center", fontsize=8, color=_SOFT)
            axes.text(
                -2, y, f"{_short(m.tier.name, 6)} {what}", ha="right", va="center", fontsize=8.5
            )
            rows.append(what)
    from matplotlib.patches import Patch

    used = {
        name for m in shown for use in (m.memory.flash, m.memory.ram) for name, _ in parts_of(use)
    }
    keys = [Patch(color=PARTS[name], label=name) for name in PARTS if name in used]
    _legend(axes, keys, -0.02, columns=5)
    axes.set_xlim(-22, 146)
    axes.set_ylim(max(len(rows), 4) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def _nodes(axes: Any, facts: Facts) -> None:
    unit, bars = node_bars(facts.shipped.manifest)
    axes.set_title(f"Cost per node ({unit} per step)")
    if len(bars) > _MOST_NODES:
        bars = bars[: _MOST_NODES - 1] + bars[-1:]
    if not bars:
        _empty(axes, "Cost per node", "The step has no nodes.")
        return
    top = max(bar.value for bar in bars) or 1.0
    for y, bar in enumerate(bars):
        axes.barh(y, bar.value, color=_ACCENT, height=0.36)
        axes.text(0, y - 0.25, _short(bar.name, 30), va="bottom", fontsize=8)
        axes.text(top, y - 0.25, count_text(bar.value), va="bottom", ha="right", fontsize=8)
    axes.set_xlim(0, top)
    axes.set_ylim(max(len(bars), 4) - 0.5, -0.75)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)


def _confusion(axes: Any, facts: Facts) -> None:
    confusion = facts.shipped.manifest.confusion
    if confusion is None:
        _empty(axes, "Confusion matrix", "There is no labelled test set.")
        return
    axes.set_title(f"Confusion matrix ({FORMATS[confusion.format]})")
    rows = matrix_rows(confusion)
    shares = [[cell["share"] for cell in row["cells"]] for row in rows]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    size = len(rows)
    if size <= 12:
        for i, row in enumerate(rows):
            for j, cell in enumerate(row["cells"]):
                if cell["count"]:
                    dark = cell["share"] > 0.6
                    axes.text(
                        j,
                        i,
                        cell["count"],
                        ha="center",
                        va="center",
                        fontsize=8 if size <= 8 else 6.5,
                        color="white" if dark else _INK,
                    )
    small = 8 if size <= 8 else 6 if size <= 16 else 4
    labels = [_short(label, 14) for label in confusion.labels]
    axes.set_yticks(range(size), labels, fontsize=small)
    axes.set_xticks(
        range(size), [_short(n, 10) for n in labels], fontsize=small, rotation=30, ha="right"
    )
    axes.spines[["left", "bottom"]].set_visible(False)


def _checks(axes: Any, facts: Facts) -> None:
    m = facts.shipped.manifest
    axes.set_title("Verification and speed")
    axes.set_axis_off()
    lines: list[tuple[str, str, str, str]] = []
    for v in sorted(m.verification, key=lambda v: v.level != "Exact"):
        done = v.status == "passed"
        mark, colour = ("✓", "#0b7d5c") if done else ("–", "#9a5b00")
        level = f"{_short(v.level, 15)}, {count_text(v.steps)} steps" if v.steps else v.level
        lines.append((mark, colour, _short(v.stage, 27), level if done else "not run"))
    if len(lines) > _MOST_CHECKS:
        more = len(lines) - _MOST_CHECKS + 1
        lines = [*lines[: _MOST_CHECKS - 1], ("", _SOFT, f"and {more} more in report.html", "")]
    y = 0.97
    for mark, colour, stage, text in lines:
        axes.text(0.0, y, mark, color=colour, fontsize=9, weight="bold", va="top")
        axes.text(0.045, y, stage, fontsize=8.3, va="top")
        axes.text(1.0, y, text, fontsize=8, va="top", ha="right", color=_SOFT)
        y -= 0.083
    y -= 0.03
    for text in _speed(facts):
        axes.text(0.0, y, text, fontsize=8.3, va="top", color=_INK)
        y -= 0.083
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _speed(facts: Facts) -> list[str]:
    m = facts.shipped.manifest
    mean = m.instructions_per_step.mean
    texts = [
        "Instructions per step: not measured"
        if mean is None
        else f"{count_text(mean)} instructions per step"
    ]
    if m.latency is not None:
        kind = "estimate" if m.latency.kind == "estimate" else "measured"
        texts.append(f"{seconds_text(m.latency.seconds)} per step ({kind})")
    result = result_of(m)
    if result is not None and result.snr_db is not None:
        texts.append(f"{result.snr_db:.1f} dB signal-to-noise ratio against float")
    return texts


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
