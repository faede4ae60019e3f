"""Named levels of agreement: a comparison has one, never a tolerance made up on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeseq.errors import LevelError, VerifyError
from edgeseq.manifest import Verification

__all__ = ["EXACT", "Close", "Exact", "Level", "Snr", "Within", "compare", "not_run"]

Array = npt.NDArray[Any]


class Level(Protocol):
    """How closely two results must agree."""

    @property
    def unit(self) -> str:
        """Of the number `worst` returns."""
        ...

    def worst(self, reference: Array, value: Array) -> float:
        """The figure that is judged."""
        ...

    def passes(self, worst: float) -> bool: ...

    def offending(self, reference: Array, value: Array) -> Array:
        """True where an element by itself breaks the level."""
        ...


@dataclass(frozen=True)
class Exact:
    """Every stored integer is the same."""

    unit: str = "LSB"

    def worst(self, reference: Array, value: Array) -> float:
        return _largest_difference(reference, value)

    def passes(self, worst: float) -> bool:
        return worst == 0

    def offending(self, reference: Array, value: Array) -> Array:
        return np.asarray(reference != value)

    def __str__(self) -> str:
        return "Exact"


EXACT = Exact()


@dataclass(frozen=True)
class Close:
    """Stored integers differ by at most `lsb`."""

    lsb: int
    unit: str = "LSB"

    def worst(self, reference: Array, value: Array) -> float:
        return _largest_difference(reference, value)

    def passes(self, worst: float) -> bool:
        return worst <= self.lsb

    def offending(self, reference: Array, value: Array) -> Array:
        return np.abs(reference.astype(np.int64) - value.astype(np.int64)) > self.lsb

    def __str__(self) -> str:
        return f"Close({self.lsb} LSB)"


@dataclass(frozen=True)
class Within:
    """Real numbers differ by at most `share` of the reference's largest magnitude."""

    share: float
    unit: str = "of the largest magnitude"

    def worst(self, reference: Array, value: Array) -> float:
        top = float(np.abs(reference).max()) or 1.0
        return float(np.abs(np.asarray(reference, np.float64) - value).max()) / top

    def passes(self, worst: float) -> bool:
        return worst <= self.share

    def offending(self, reference: Array, value: Array) -> Array:
        top = float(np.abs(reference).max()) or 1.0
        return np.abs(np.asarray(reference, np.float64) - value) > self.share * top

    def __str__(self) -> str:
        return f"Within({self.share:g})"


@dataclass(frozen=True)
class Snr:
    """The difference lies at least `db` decibels below the reference's power."""

    db: float
    unit: str = "dB"

    def worst(self, reference: Array, value: Array) -> float:
        ref = np.asarray(reference, np.float64)
        signal, noise = float(np.mean(ref**2)), float(np.mean((ref - value) ** 2))
        # 300 dB stands for "no difference": it is more than double precision can hold.
        return 300.0 if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))

    def passes(self, worst: float) -> bool:
        return worst >= self.db

    def offending(self, reference: Array, value: Array) -> Array:
        d = np.abs(np.asarray(reference, np.float64) - value)
        return np.asarray(d == d.max())

    def __str__(self) -> str:
        return f"Snr({self.db:g} dB)"


def _largest_difference(reference: Array, value: Array) -> float:
    if reference.size == 0:
        return 0.0
    return float(np.abs(reference.astype(np.int64) - value.astype(np.int64)).max())


def compare(
    stage: str,
    against: str,
    level: Level,
    reference: dict[str, Array],
    value: dict[str, Array],
    resolution: Mapping[str, float] | None = None,
) -> Verification:
    """Compare two runs of the same frames, value by value.

    Args:
        stage: what is checked.
        against: what it is checked against.
        level: how closely they must agree.
        reference: by value name, [batch, T, *shape] (a final state: [batch, *shape] is taken as
            one step).
        value: the same of the checked stage.
        resolution: by value name, the difference that its format or function cannot show. A value
            none of whose elements differs by more agrees, whatever the level says of its figure;
            the level then reads "..., or 6.1e-05".

    Returns:
        What goes into the manifest.

    Raises:
        VerifyError: a value is missing, has another shape or is not finite.
        LevelError: one differs by more than the level allows; names the stage and the first
            differing element.
    """
    worst: float | None = None
    unresolved = 0.0
    steps = 0
    for name, want in reference.items():
        got = value.get(name)
        if got is None or got.shape != want.shape:
            shape = None if got is None else list(got.shape)
            raise VerifyError(
                f"gives shape {shape} where {against} gives {list(want.shape)}",
                where=f"stage {stage!r}, value {name!r}",
            )
        if not np.all(np.isfinite(got)):
            raise VerifyError("gives NaN or infinity", where=f"stage {stage!r}, value {name!r}")
        figure = level.worst(want, got)
        fine = resolution.get(name, 0.0) if resolution else 0.0
        if not level.passes(figure) and fine and _apart(want, got) <= fine:
            unresolved = max(unresolved, fine)
        elif not level.passes(figure):
            raise LevelError(
                f"{level} is broken: {figure:.6g} {level.unit}; {_first(level, want, got)}",
                figure=f"{figure:.3g} {level.unit}",
                where=f"stage {stage!r} against {against!r}, value {name!r}",
                fix="this is a fault of edgeseq or of that runtime: keep the model and report it",
            )
        if worst is None:
            worst = figure
        else:
            worst = min(worst, figure) if isinstance(level, Snr) else max(worst, figure)
        steps = max(steps, want.shape[0] * (want.shape[1] if want.ndim > 1 else 1))
    return Verification(
        stage=stage,
        reference=against,
        level=f"{level}, or {unresolved:.2g}" if unresolved else str(level),
        steps=steps,
        worst=worst,
        unit=level.unit,
        status="passed",
    )


def _apart(reference: Array, value: Array) -> float:
    return float(np.abs(np.asarray(reference, np.float64) - value).max(initial=0.0))


def _first(level: Level, want: Array, got: Array) -> str:
    index = tuple(int(i) for i in np.argwhere(level.offending(want, got))[0])
    place = f"sequence {index[0]}, step {index[1] if len(index) > 1 else 0}"
    rest = f", element {list(index[2:])}" if len(index) > 2 else ""
    return f"first at {place}{rest}: expected {want[index]}, got {got[index]}"


def not_run(stage: str, against: str, level: str, reason: str) -> Verification:
    """A comparison that could not be made here, and why. It is never counted as passed."""
    return Verification(
        stage=stage,
        reference=against,
        level=level,
        steps=0,
        worst=None,
        unit="",
        status="not run",
        reason=reason,
    )
