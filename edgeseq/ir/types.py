"""Types of the values in a Graph: shape of one frame, element type, scale and time."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["DTYPES", "VALUE_NAME", "Scale", "Time", "Type", "bits_of"]

DTYPES: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
}

VALUE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
"""What a value may be called; what is left once dots are underscores is a C identifier."""

Scale = float | tuple[float, ...]
"""Real value of one stored unit: one number, or one per index of axis 0 (weights)."""


@dataclass(frozen=True)
class Time:
    """How a value lies in time.

    Attributes:
        period: ticks per element of this value. An input frame takes `Graph.tick` ticks: 1, unless
            something has more elements than the input has frames.
        delay: ticks by which the value lags the input; look-ahead becomes delay.
    """

    period: int = 1
    delay: int = 0


@dataclass(frozen=True)
class Type:
    """Type of one value. Batch and time are not part of `shape`.

    Attributes:
        shape: of one frame.
        dtype: 'f32' (a real number), 'i8', 'i16' or 'i32'.
        scale: of an integer value, so that real = stored * scale; None for a real one.
        time: how the value lies in time; None where it does not (a constant, a state, a value of
            a step).
    """

    shape: tuple[int, ...]
    dtype: str = "f32"
    scale: Scale | None = None
    time: Time | None = None

    @property
    def is_integer(self) -> bool:
        return self.dtype != "f32"

    @property
    def size(self) -> int:
        """Number of elements of one frame."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of one frame as stored."""
        return self.size * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def numpy(self) -> npt.DTypeLike:
        return DTYPES[self.dtype]

    @property
    def scalar_scale(self) -> float:
        """The one scale of an activation.

        Raises:
            ValueError: the type is real, or has a scale per channel.
        """
        if not isinstance(self.scale, float):
            raise ValueError(f"{self} has no single scale")
        return self.scale

    def at(self, time: Time | None) -> Type:
        """The same type with another time."""
        return replace(self, time=time)

    def __str__(self) -> str:
        text = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        if isinstance(self.scale, float):
            text += f"*{self.scale!r}"
        elif self.scale is not None:
            text += "*per-channel"
        if self.time is not None:
            text += f"@t/{self.time.period}" if self.time.period != 1 else "@t"
            if self.time.delay:
                text += f"-{self.time.delay}"
        return text


def bits_of(dtype: str) -> int:
    """Width of an integer element type in bits."""
    return {"i8": 8, "i16": 16, "i32": 32}[dtype]
