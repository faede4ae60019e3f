"""What every ONNX operator on constants works with: its call, bounds, and small checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "DIRECT",
    "Array",
    "Budget",
    "Call",
    "FoldError",
    "Room",
    "axis_of",
    "direct",
    "ints",
    "same_type",
]

Array = npt.NDArray[Any]


class FoldError(ValueError):
    """An operator cannot be evaluated on constants."""


@dataclass
class Budget:
    """Bounds the time that constants take, over all operators of a model.

    Attributes:
        left: nanoseconds, as estimated before each operator runs.
    """

    left: float = 10e9

    def spend(self, time: float) -> None:
        """Account for `time` nanoseconds.

        Raises:
            FoldError: nothing is left.
        """
        self.left -= time
        if self.left < 0:
            raise FoldError("the model's constants take too long to compute")


@dataclass(frozen=True)
class Room:
    """Bounds what is made.

    Attributes:
        bound: elements of one result.
        budget: bounds the time.
    """

    bound: int
    budget: Budget

    def sizes(self, sizes: Sequence[Any]) -> tuple[int, ...]:
        """The same sizes as integers.

        Raises:
            FoldError: one is negative, or their product is more than the bound.
        """
        found = tuple(int(n) for n in sizes)
        if len(found) > 32 or any(n < 0 for n in found) or math.prod(found) > self.bound:
            raise FoldError(f"a constant of {list(found)[:32]} elements is too large")
        return found

    def together(self, arrays: Sequence[Array]) -> tuple[int, ...]:
        """The shape to which arrays are broadcast."""
        return self.sizes(np.broadcast_shapes(*(a.shape for a in arrays)))


@dataclass(frozen=True)
class Call:
    """One operator to evaluate.

    Attributes:
        name: of the operator.
        inputs: an array each, None where left out.
        attrs: attributes in the normal form (`edgeseq.frontend.onnx_file`).
        room: bounds the results.
    """

    name: str
    inputs: list[Any]
    attrs: dict[str, Any]
    room: Room


DIRECT: dict[str, Callable[[Call], Any]] = {}
"""Operators by name; each gives an array or a list of them, in the element types ONNX says."""


def direct(*names: str) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Register the evaluation of operators `names`."""

    def register(fn: Callable[[Call], Any]) -> Callable[[Call], Any]:
        for name in names:
            DIRECT[name] = fn
        return fn

    return register


def ints(array: Array) -> list[int]:
    """Elements of an integer array of at most one axis: axes, sizes, positions."""
    if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > 64:
        raise FoldError(f"{array.dtype} of shape {list(array.shape)} where sizes belong")
    return [int(v) for v in array.reshape(-1)]


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise FoldError(f"axis {axis} of {rank} axes")
    return axis % rank


def same_type(arrays: Sequence[Array]) -> np.dtype[Any]:
    """The element type of all."""
    if len({a.dtype for a in arrays}) != 1:
        raise FoldError(f"element types {', '.join(sorted({str(a.dtype) for a in arrays}))}")
    return arrays[0].dtype
