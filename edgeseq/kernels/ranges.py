"""Intervals of integer values: which intermediate fits which register.

Exact integer arithmetic on Python ints, so that no bound can itself overflow. A kernel computes in
32 bits where the interval proves that it may, and leaves a saturation out where nothing can
saturate; results are the same by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.fixed import INT_RANGE

__all__ = ["Range", "of_dtype"]


@dataclass(frozen=True)
class Range:
    """All integers from lo to hi."""

    lo: int
    hi: int

    def __add__(self, other: Range) -> Range:
        return Range(self.lo + other.lo, self.hi + other.hi)

    def __mul__(self, other: Range) -> Range:
        ends = [a * b for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        return Range(min(ends), max(ends))

    def scaled(self, factor: int) -> Range:
        """Every value times `factor`."""
        return self * Range(factor, factor)

    def rounded(self, shift: int) -> Range:
        """Every value after ``(v + 2^(shift-1)) >> shift``."""
        half = 1 << (shift - 1) if shift else 0
        return Range((self.lo + half) >> shift, (self.hi + half) >> shift)

    def clamped(self, lo: int, hi: int) -> Range:
        """Every value after min and max."""
        return Range(min(max(self.lo, lo), hi), min(max(self.hi, lo), hi))

    def hull(self, other: Range) -> Range:
        """All of either."""
        return Range(min(self.lo, other.lo), max(self.hi, other.hi))

    def within(self, lo: int, hi: int) -> bool:
        """Whether no value lies outside lo..hi."""
        return lo <= self.lo and self.hi <= hi

    @property
    def fits32(self) -> bool:
        """Whether every value is an int32."""
        return self.within(-(1 << 31), (1 << 31) - 1)

    @property
    def fits64(self) -> bool:
        """Whether every value is an int64."""
        return self.within(-(1 << 63), (1 << 63) - 1)


def of_dtype(dtype: str) -> Range:
    """All values of 'i8', 'i16' or 'i32'."""
    return Range(*INT_RANGE[dtype])
