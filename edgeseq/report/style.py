"""Colours and marks shared by the page and the picture; safe for the usual colour blindness."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseq.manifest import FlashUse, RamUse

__all__ = ["FLASH_PARTS", "MARKS", "PARTS", "RAM_PARTS", "model_colours", "parts_of"]

_MODELS = ("#2f6fde", "#e07b00", "#0f9d76", "#c2418f", "#7a5af0", "#5b6b7d", "#a3871a", "#0e8fb0")

MARKS: dict[str, str] = {
    "float": "o",
    "integer": "D",
    "native": "D",
    "onnx_float": "^",
    "onnx_int": "v",
    "tflite_int16x8": "s",
    "tflite_int8": "P",
}
"""Mark of each format, as matplotlib names it; `chart` draws the same ones."""

PARTS: dict[str, str] = {
    "weights": "#2f6fde",
    "tables": "#0f9d76",
    "code": "#e07b00",
    "bias": "#8fb4f2",
    "multipliers": "#7a5af0",
    "other": "#9aa7b5",
    "state": "#c2418f",
    "scratch": "#eba3d0",
    "stack": "#7b2d63",
    "io": "#c3ccd6",
}
"""Colour of each part of flash and RAM."""

FLASH_PARTS = ("weights", "bias", "multipliers", "tables", "code", "other")
RAM_PARTS = ("state", "scratch", "stack", "io")


def parts_of(use: FlashUse | RamUse) -> list[tuple[str, int]]:
    """The parts above zero, in the order they are drawn; unknown ones are left out."""
    names = FLASH_PARTS if isinstance(use, FlashUse) else RAM_PARTS
    return [(name, size) for name in names if (size := getattr(use, name))]


def model_colours(names: Sequence[str]) -> dict[str, str]:
    """One colour per model, in order of first appearance; they repeat after eight."""
    unique = list(dict.fromkeys(names))
    return {name: _MODELS[i % len(_MODELS)] for i, name in enumerate(unique)}
