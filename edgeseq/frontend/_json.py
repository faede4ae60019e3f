"""Typed access to parsed JSON from untrusted files: every surprise is an error with its place."""

from __future__ import annotations

from typing import Any

from edgeseq.errors import ModelError

__all__ = ["Json"]


class Json:
    """One value of a parsed document, which knows where it stands.

    Attributes:
        raw: the value.
        where: file, member and path inside the document.
    """

    def __init__(self, raw: Any, where: str) -> None:
        self.raw, self.where = raw, where

    def wrong(self, expected: str) -> ModelError:
        """The error for a value that is not what the format says."""
        text = repr(self.raw)
        return ModelError(
            f"expected {expected}, found {text[:60]}{'…' if len(text) > 60 else ''}",
            where=self.where[:300],
            fix="the file is damaged or was not written by torch.export.save",
        )

    def __getitem__(self, key: str) -> Json:
        if not isinstance(self.raw, dict) or key not in self.raw:
            raise self.wrong(f"an object with {key!r}")
        return Json(self.raw[key], f"{self.where}.{key}")

    def get(self, key: str) -> Json | None:
        """The member `key`, or None where it is missing or null."""
        if not isinstance(self.raw, dict):
            raise self.wrong("an object")
        value = self.raw.get(key)
        return None if value is None else Json(value, f"{self.where}.{key}")

    def at(self, key: str, value: Any) -> Json:
        """The same object with one member set."""
        if not isinstance(self.raw, dict):
            raise self.wrong("an object")
        return Json({**self.raw, key: value}, self.where)

    def items(self) -> list[tuple[str, Json]]:
        if not isinstance(self.raw, dict):
            raise self.wrong("an object")
        return [(k, Json(v, f"{self.where}.{k[:60]}")) for k, v in self.raw.items()]

    def elements(self) -> list[Json]:
        if not isinstance(self.raw, list):
            raise self.wrong("a list")
        return [Json(v, f"{self.where}[{i}]") for i, v in enumerate(self.raw)]

    def union(self) -> tuple[str, Json]:
        """The one member of a tagged union."""
        if not isinstance(self.raw, dict) or len(self.raw) != 1:
            raise self.wrong("an object with one member")
        return self.items()[0]

    def integer(self) -> int:
        if not isinstance(self.raw, int) or isinstance(self.raw, bool) or abs(self.raw) >= 1 << 63:
            raise self.wrong("an integer")
        return self.raw

    def text(self) -> str:
        if not isinstance(self.raw, str):
            raise self.wrong("a string")
        return self.raw

    def scalar(self) -> Any:
        """A number, boolean or string; floats may be spelled 'Infinity', '-Infinity', 'NaN'."""
        if isinstance(self.raw, int) and abs(self.raw) >= 1 << 64:
            raise self.wrong("a 64-bit number")
        if self.raw in ("Infinity", "-Infinity", "NaN"):
            return float(self.raw)
        if not isinstance(self.raw, int | float | str):
            raise self.wrong("a number or a string")
        return self.raw
