"""A measured figure, and tables of figures as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Figure", "table"]

_HEAD = ("figure", "measured", "required", "result", "compared with")


@dataclass(frozen=True)
class Figure:
    """One number, with what it must be and what it is compared with.

    Attributes:
        what: is measured.
        value: None where it could not be measured; `note` says why.
        unit: such as "µs"; empty for a count.
        digits: after the decimal point, in tables.
        at_most, at_least: what is required; both None where nothing is.
        compared: with what, in words with numbers.
        note: whatever else a reader should know about the value.
    """

    what: str
    value: float | None
    unit: str = ""
    digits: int = 0
    at_most: float | None = None
    at_least: float | None = None
    compared: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the requirement is met, None if there is none; what is not measured is missed."""
        if self.at_most is None and self.at_least is None:
            return None
        if self.value is None:
            return False
        if self.at_most is not None and not self.value <= self.at_most:
            return False
        return self.at_least is None or self.value >= self.at_least

    @property
    def required(self) -> str:
        """The requirement in words, empty if there is none."""
        parts = []
        if self.at_least is not None:
            parts.append(f">= {self._text(self.at_least)}")
        if self.at_most is not None:
            parts.append(f"<= {self._text(self.at_most)}")
        return " and ".join(parts)

    @property
    def measured(self) -> str:
        """The value in words."""
        text = "not measured" if self.value is None else self._text(self.value)
        return f"{text} ({self.note})" if self.note else text

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "at_most": self.at_most,
            "at_least": self.at_least,
            "met": self.met,
            "compared": self.compared,
            "note": self.note,
        }

    def _text(self, value: float) -> str:
        return f"{value:,.{self.digits}f} {self.unit}".replace(",", " ").rstrip()


def table(figures: Sequence[Figure]) -> str:
    """Figures as lines of text, columns aligned."""
    results = {True: "met", False: "MISSED", None: ""}
    rows: list[tuple[str, ...]] = [_HEAD]
    rows += [(f.what, f.measured, f.required, results[f.met], f.compared) for f in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD) - 1)]
    rows.insert(1, tuple("-" * w for w in (*widths, len(_HEAD[-1]))))
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )
