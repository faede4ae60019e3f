"""What a loop is once an unrolled one was found, and what finding one has to know of operators."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgeseq.frontend.program import Operation, Program, Ref, refs_of

__all__ = [
    "LOOP", "MOST_BACK", "Collected", "Dialect", "Element", "Failed", "Loop", "Turns", "Write",
    "form_of", "frozen", "mapped", "names_of", "numbered", "places_of",
]  # fmt: skip

MOST_BACK = 64
"""Turns that a value is passed on over; each is a state of its own."""

LOOP = "edgeseq.loop.default"
"""Target of the operation that stands for a loop; its argument `loop` is a `Loop`."""


@dataclass(frozen=True)
class Collected:
    """A result of a loop.

    Attributes:
        name: in the program around.
        source: value of the body.
        kind: 'stack' or 'cat' of all turns along `dim`, or 'last'.
        dim: the axis.
    """

    name: str
    source: Ref
    kind: str
    dim: int = 0


@dataclass
class Loop:
    """A loop over the elements of an axis.

    Attributes:
        sources: (value, axis, whether it is kept with size 1) for each element the body reads.
        body: its inputs are the elements, then the states; its outputs the states after a turn.
        initial: what the states are before the first turn.
        collected: what is read after the loop.
        plain: the operations as the exporter wrote them.
        turns: how many.
        reverse: from the last element to the first.
    """

    sources: list[tuple[Ref, int, bool]]
    body: Program
    initial: list[Any]
    collected: list[Collected]
    plain: list[Operation]
    turns: int
    reverse: bool


@dataclass(frozen=True)
class Element:
    """Element `index` of `source` along `dim`; `keep`: that axis stays, with size 1.

    `size` is that of the axis, None where it is not known before the program is lowered.
    """

    source: str
    dim: int
    index: int
    keep: bool
    size: int | None = None


@dataclass(frozen=True)
class Write:
    """`source` written over element `index` of `base` along `dim`, all of it.

    `keep`: it has that axis, with size 1.
    """

    base: Ref
    source: Ref
    dim: int
    index: int
    keep: bool
    size: int


class Dialect(Protocol):
    """What has to be known of the operators of a program to find its loops."""

    def prepared(self, program: Program) -> Program:
        """The program in the form in which its loops show, without what nothing reads."""

    def elements(self, program: Program) -> dict[str, Element]:
        """Values that are one element of another along an axis."""

    def together(self, op: Operation) -> tuple[list[Any], str, int] | None:
        """Of an operation that puts values together: these, 'stack' or 'cat', the axis."""

    def write(self, op: Operation) -> Write | None:
        """What an operation writes into one element of a tensor."""

    def neutral(self, op: Operation, arg: Any) -> Any:
        """The other operand of an operation that gives it unchanged where `arg` is zero, or None.

        Optimisers leave such an operation out of the first turn, whose state is zero.
        """

    def swapped(self, op: Operation) -> Operation | None:
        """The same operation with its operands in the other order, where that is the same."""

    def chosen(self, out: str, condition: str, a: str, b: str) -> Operation:
        """`out` is `a` where the condition, [1], is 1 and `b` where it is 0."""

    def at_least_one(self, out: str, x: str) -> Operation:
        """`out` is `x` or 1, whichever is greater."""

    def repeats(self, op: Operation) -> bool:
        """Whether the operation gives the same result each time."""

    def evaluated(self, op: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
        """Results on constants by name; none where they cannot be had."""


class Failed(Exception):
    """The operations are not a loop of the known form."""


class Turns:
    """Operations by the turn of the latest element that they depend on.

    Attributes:
        n: how many turns there are.
        groups: by turn: its operations, in the order of the program.
        turn: by value: its turn; -1 where it depends on no element.
        elements: those that operations before the loop take.

    Raises:
        Failed: the elements are those of no loop.
    """

    def __init__(self, program: Program, elements: Mapping[str, Element], reverse: bool) -> None:
        self.reverse = reverse
        self.n = 1 + max(e.index for e in elements.values())
        if any(e.size not in (None, self.n) for e in elements.values()):
            raise Failed
        self.elements: dict[str, Element] = {}
        self.turn: dict[str, int] = {}
        self.groups: list[list[Operation]] = [[] for _ in range(self.n)]
        for op in program.operations:
            latest = max((self.turn.get(r, -1) for r in names_of(op.args)), default=-1)
            taking = [o for o in op.outputs if o in elements] if latest < 0 else []
            if latest >= 0:
                if op.in_place or any(isinstance(a, Program) for a in op.args.values()):
                    raise Failed  # neither the order of writes nor bodies are followed
                self.groups[latest].append(op)
            for o in op.outputs:
                self.turn[o] = latest
            for o in taking:
                self.elements[o] = elements[o]
                self.turn[o] = self.of(elements[o].index)

    def of(self, index: int) -> int:
        """The turn of an element, and back."""
        return self.n - 1 - index if self.reverse else index


def names_of(args: Mapping[str, Any]) -> list[str]:
    """Names of all values in arguments."""
    return [r.name for a in args.values() for r in refs_of(a)]


def form_of(op: Operation) -> Any:
    """What two operations that are alike share whatever they read."""
    return op.target, tuple(sorted(op.args)), len(op.outputs)


def places_of(arg: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Ref]]:
    """Every reference in arguments, with the way to it."""
    if isinstance(arg, Ref):
        yield path, arg
    elif isinstance(arg, dict | list):
        for key, value in arg.items() if isinstance(arg, dict) else enumerate(arg):
            yield from places_of(value, (*path, key))


def mapped(arg: Any, names: Mapping[str, Any]) -> Any:
    """An argument with other names."""
    if isinstance(arg, Ref):
        found = names.get(arg.name, arg)
        return Ref(found) if isinstance(found, str) else found
    return [mapped(a, names) for a in arg] if isinstance(arg, list) else arg


def frozen(arg: Any, numbers: Mapping[str, Any]) -> Any:
    """An argument as a key that equals that of another where both stand for the same value."""
    if isinstance(arg, Ref):
        return "ref", numbers.get(arg.name, arg.name)
    if isinstance(arg, list | tuple):
        return "list", tuple(frozen(a, numbers) for a in arg)
    if isinstance(arg, np.ndarray):
        return "array", arg.dtype.str, arg.shape, _hash(arg)
    if isinstance(arg, float) and math.isnan(arg):
        return "nan"
    if arg is None or isinstance(arg, int | float | complex | str):
        return type(arg).__name__, arg
    return "one", id(arg)


def _hash(array: Any) -> bytes:
    """A digest of the elements of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def numbered(program: Program, dialect: Dialect) -> dict[str, Any]:
    """A number for each value: equal for values that are the same by how they are made."""
    written = {n for op in program.operations if op.in_place for n in names_of(op.args)}
    numbers: dict[str, Any] = {}
    seen: dict[Any, int] = {}
    for name, value in program.constants.items():
        if name not in written and name not in program.buffers and isinstance(value, np.ndarray):
            numbers[name] = seen.setdefault(frozen(value, {}), len(seen))
    for op in program.operations:
        if op.in_place or not dialect.repeats(op):
            continue
        key = (op.target, *((k, frozen(op.args[k], numbers)) for k in sorted(op.args)))
        made = seen.setdefault(key, len(seen))
        for i, name in enumerate(op.outputs):
            if name and name not in written:
                numbers[name] = (made, i)
    return numbers
