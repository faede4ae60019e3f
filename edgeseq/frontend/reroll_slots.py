"""Elements of a tensor that is written into, as values of their own.

``h[i] = cell(x, h[i])`` for every layer i carries one state for each, not one tensor that each
layer takes apart and puts together again. What is read from a slot is what was written into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseq.frontend.program import Ref
from edgeseq.frontend.rolled import Write

__all__ = ["Slots"]

_MOST_SLOTS = 64
"""A tensor of more is what a loop collects, and a file may hold very many writes into it."""


@dataclass(frozen=True)
class _Written:
    """A tensor some elements of which were written: along which axis, and what."""

    base: str
    dim: int
    sources: Mapping[int, Ref]


class Slots:
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
