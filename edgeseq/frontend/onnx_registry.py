"""Where the lowerings of ONNX operators are registered, and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.context import Array

__all__ = [
    "ONNX",
    "SEQUENCES",
    "Frames",
    "Growing",
    "Several",
    "constant",
    "ints",
    "number",
    "onnx",
]

Lowering = Callable[..., Any]


@dataclass(frozen=True)
class Several:
    """A sequence of tensors: Values and arrays."""

    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Frames:
    """A sequence of tensors: `value` taken apart along its axis `dim`, kept with size 1 or not."""

    value: Value
    dim: int
    keep: bool = False


@dataclass(frozen=True)
class Growing:
    """The sequence of tensors to which a loop appends one each turn; `last`: that of this turn."""

    name: str
    last: Value | None = None


ONNX: dict[str, Lowering] = {}
"""Lowering functions by operator name (default domain)."""


SEQUENCES = frozenset(
    {
        "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
        "SequenceInsert", "SequenceLength", "SplitToSequence",
    }
)  # fmt: skip
"""Operators on sequences of tensors; all of their inputs may be constant."""


def onnx(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for ONNX operators.

    The function takes the Context, the list of inputs (a `Value`, an array, or None) and the
    attributes by name; it returns one `Value`, or a list of them. Inputs and attributes have the
    one form that `edgeseq.frontend.onnx_file` gives them. At least one input is a `Value`.
    """

    def register(fn: Lowering) -> Lowering:
        for name in names:
            ONNX[name] = fn
        return fn

    return register


def constant(x: Any, what: str) -> Array:
    """An input that must not depend on the model's input."""
    if isinstance(x, Value | Several | Frames | Growing):
        raise LayoutError(f"has a {what} that depends on the input", f"use a constant {what}")
    if x is None:
        raise LayoutError(f"has no {what}")
    return np.asarray(x)


def ints(x: Any, what: str) -> list[int] | None:
    """A list of whole numbers, or None where there is none."""
    if x is None:
        return None
    return [int(n) for n in np.ravel(constant(x, what))]


def number(x: Any, what: str) -> float | None:
    """One number, or None."""
    if x is None:
        return None
    array = constant(x, what)
    if array.size != 1:
        raise LayoutError(f"has a {what} per element", "use one number")
    return float(array.reshape(()))


Inputs = Sequence[Any]
