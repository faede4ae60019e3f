"""Figures as people read them."""

from __future__ import annotations

__all__ = ["FORMATS", "count_text", "joined", "percent", "points", "seconds_text", "size_text"]

FORMATS = {
    "float": "float",
    "integer": "integer",
    "native": "native",
    "onnx_float": "ONNX float",
    "onnx_int": "ONNX integer",
    "tflite_int16x8": "TFLite int16x8",
    "tflite_int8": "TFLite int8",
}
"""Names of the formats in texts."""


def size_text(count: float) -> str:
    """Bytes in the largest unit that leaves a number of at least one: 65536 -> "64 KiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"


def count_text(value: float) -> str:
    """A whole number with thin spaces between thousands: 12345 -> "12 345"."""
    return f"{value:,.0f}".replace(",", "\u202f")


def percent(value: float, digits: int = 1) -> str:
    """A share in 0..1: 0.8594 -> "85.9 %"."""
    return f"{100 * value:.{digits}f}\u202f%"


def points(difference: float) -> str:
    """A difference of shares in percentage points: 0.005 -> "0.5 points"."""
    return f"{100 * abs(difference):.1f} points"


def seconds_text(value: float) -> str:
    """A time with three significant digits: 7.02e-5 -> "70.2 µs"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def joined(words: list[str]) -> str:
    """Words as an enumeration: "S", "S and M", "S, M and L"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
