"""Where buffers lie in the scratch arena: those that are never alive together share memory."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Buffer", "place"]


@dataclass
class Buffer:
    """One scratch buffer.

    Attributes:
        name: of the value it holds.
        nbytes: its size, padding included.
        first, last: steps of the schedule at which it is first written and last read.
    """

    name: str
    nbytes: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


def place(buffers: list[Buffer], align: int) -> tuple[dict[str, int], int]:
    """Offsets of the buffers and the size of the arena, in bytes.

    Greedy by size: large buffers first, each at the lowest aligned offset that no overlapping
    lifetime occupies. Deterministic.
    """
    offsets: dict[str, int] = {}
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(buffers, key=lambda b: (-b.nbytes, b.first, b.name)):
        taken = sorted(
            (offsets[b.name], offsets[b.name] + b.nbytes) for b in placed if b.meets(buffer)
        )
        at = 0
        for start, end in taken:
            if at + buffer.nbytes <= start:
                break
            at = max(at, -(-end // align) * align)
        offsets[buffer.name] = at
        placed.append(buffer)
        total = max(total, at + buffer.nbytes)
    return offsets, -(-total // align) * align
