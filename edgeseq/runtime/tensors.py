"""Between the manifest's stored values and the tensors of a model file of another runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import DataError
from edgeseq.manifest import InputInfo

__all__ = ["Port", "load_states", "restore_states"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Port:
    """One tensor of a model file.

    Attributes:
        shape: of the tensor, batch axis of 1 included if it has one.
        scale: real value of one unit of the *manifest's* stored values.
        unit, zero: of the tensor's own integers, real = (q - zero) * unit; unused if it is real.
        affine: scale and offset if the tensor holds raw frames, None if prepared ones.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    unit: float
    zero: int
    affine: tuple[Array, Array] | None

    @classmethod
    def make(
        cls,
        name: str,
        shape: tuple[int, ...],
        rank: int,
        dtype: np.dtype[Any],
        scale: float,
        unit: float,
        zero: int,
        raw: InputInfo | None = None,
    ) -> Port:
        """A port for frames of `shape` in a tensor of `rank` axes, leading ones being 1."""
        affine = None
        if raw is not None and (raw.affine_scale or raw.affine_offset):
            affine = (np.asarray(raw.affine_scale or 1.0), np.asarray(raw.affine_offset or 0.0))
        full = (1,) * (rank - len(shape)) + shape
        return cls(name, full, np.dtype(dtype), scale, unit, zero, affine)

    def load(self, stored: Array) -> Array:
        """Stored frames [n, ...] as values of the tensor, [n, *shape]."""
        real = stored.astype(np.float64) * self.scale
        if self.affine is not None:
            real = real * self.affine[0] + self.affine[1]
        return self._own(real).reshape(len(stored), *self.shape)

    def initial(self, init: Array) -> Array:
        """A state's stored initial values as the tensor."""
        size = int(np.prod(self.shape, dtype=np.int64))
        return self._own(np.broadcast_to(init * self.scale, (size,))).reshape(self.shape)

    def store(self, value: Array, out: Array, index: int) -> None:
        """Write the tensor to out[index] as stored values, rounded half up, saturated."""
        real = np.asarray(value, np.float64).reshape(out.shape[1:])
        if self.dtype.kind == "i":
            real = (real - self.zero) * self.unit
        if out.dtype.kind == "f":
            out[index] = real
            return
        limits = np.iinfo(out.dtype)
        out[index] = np.clip(np.floor(real / self.scale + 0.5), limits.min, limits.max)

    def _own(self, real: Array) -> Array:
        if self.dtype.kind == "f":
            return real.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        units = np.floor(real / self.unit + 0.5) + self.zero
        return np.clip(units, limits.min, limits.max).astype(self.dtype)


def load_states(ports: Sequence[Port], inits: Sequence[Array]) -> list[Array]:
    """The tensors of all states after a reset."""
    return [p.initial(init) for p, init in zip(ports, inits, strict=True)]


def restore_states(ports: Sequence[Port], state: Mapping[str, Array]) -> list[Array]:
    """Tensors that `state()` returned, checked.

    Raises:
        DataError: one is missing, or of another shape or type.
    """
    for p in ports:
        given = state.get(p.name)
        if given is None or given.shape != p.shape or given.dtype != p.dtype:
            raise DataError(
                f"has no {p.dtype} array {p.name!r} of shape {list(p.shape)}",
                where="state",
                fix="restore what state() of a Stream of the same artifact and backend returned",
            )
    return [state[p.name].copy() for p in ports]
