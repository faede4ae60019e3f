"""Elements of a tensor that is written into, as values of their own.

``h[i] = cell(x, h[i])`` for every layer i carries one state for each, not one tensor that each
layer takes apart and puts together again. What is read from a slot is what was written into it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgeseq.frontend.program import Operation, Ref
from edgeseq.frontend.rolled import Element, Write

__all__ = ["by_slots"]

_MOST_SLOTS = 64
"""A tensor of more is what a loop collects, and a file may hold very many writes into it."""


@dataclass(frozen=True)
class _Written:
    """A tensor some elements of which were written: along which axis, and what."""

    base: str
    dim: int
    sources: Mapping[int, Ref]


class _Dialect(Protocol):
    """What has to be known of operators to read from slots what was written into them."""

    def write(self, op: Operation) -> Write | None:
        """What an operation writes into one element of a tensor."""

    def taken_from(self, op: Operation, name: str) -> Operation:
        """An operation that takes an element, of another tensor."""

    def taken_back(self, op: Operation, written: Ref, element: Element) -> Operation:
        """What gives the element that `op` takes, from what was written there."""

    def joined(self, op: Operation, parts: list[Ref], dim: int) -> Operation:
        """What gives the tensor that `op` gives, from all that was written into it."""


def by_slots(
    operations: Sequence[Operation], takes: Mapping[str, Element], dialect: _Dialect
) -> list[Operation]:
    """`operations` with what is read from a slot of a tensor taken from what was written into it.

    Args:
        operations: in the order of a program.
        takes: the elements that single operations take, by the name of the result.
        dialect: of the operations.
    """
    slots, found = _Slots(), []
    for op in operations:
        e = takes.get(op.outputs[0]) if op.outputs else None
        w = dialect.write(op)
        if e is not None:
            have = slots.read(e.source, e.dim, e.index)
            if isinstance(have, Ref):
                op = dialect.taken_back(op, have, e)
            elif have != e.source:
                op = dialect.taken_from(op, have)
        elif w is not None:
            parts = slots.write(op.outputs[0], w)
            if parts is not None:
                op = dialect.joined(op, parts, w.dim)
        found.append(op)
    return found


class _Slots:
    """What is known of the slots of tensors, in the order of a program."""

    def __init__(self) -> None:
        self._written: dict[str, _Written] = {}
        self._read: set[str] = set()

    def _of(self, name: str, dim: int) -> _Written:
        have = self._written.get(name)
        return have if have is not None and have.dim == dim else _Written(name, dim, {})

    def read(self, name: str, dim: int, index: int) -> Ref | str:
        """What was written into a slot; where nothing was, the tensor that it is an element of."""
        have = self._of(name, dim)
        if index in have.sources:
            self._read.add(have.base)
            return have.sources[index]
        return have.base

    def write(self, name: str, write: Write) -> list[Ref] | None:
        """Note that tensor `name` is another with one slot written.

        Returns:
            What all its slots hold, where all were written and one of them was read.
        """
        if write.size > _MOST_SLOTS:
            return None
        have = self._of(write.base.name, write.dim)
        have = replace(have, sources={**have.sources, write.index: write.source})
        self._written[name] = have
        if len(have.sources) < write.size or have.base not in self._read:
            return None
        return [have.sources[i] for i in range(write.size)]
