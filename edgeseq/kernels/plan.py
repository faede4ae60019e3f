"""What a compiled step consists of: kernel calls with constant shapes and addresses.

A plan says where every value lives (the caller's input and output, the state struct, the scratch
arena, read-only memory), which kernels run in which order, and what the packed constants are. It
knows nothing of LLVM; `planner` makes it and `codegen` turns it into an object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt

from edgeseq.ir.graph import Graph

__all__ = ["Call", "Constant", "KernelSource", "Place", "Plan", "Repeat", "Slot"]


@dataclass(frozen=True)
class Place:
    """An address: bytes from a base.

    The base is 'in0', 'out0', 'state', 'scratch', the name of a constant, or that of a pointer
    that a `Repeat` moves.
    """

    base: str
    offset: int

    def __add__(self, offset: int) -> Place:
        return Place(self.base, self.offset + offset)


@dataclass(frozen=True)
class KernelSource:
    """Source of a kernel and the kinds of its parameters ('ptr' or 'i32')."""

    source: str
    parameters: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        """A C identifier made from what the kernel is, so that equal kernels are one."""
        digest = hashlib.sha256(self.source.encode()).hexdigest()[:12]
        return f"k{digest}"


@dataclass
class Call:
    """One kernel call.

    Attributes:
        kernel: what is called.
        arguments: an address or a number per parameter.
        nodes: names of the nodes it computes.
        macs: multiply-accumulates of one call, padding excluded.
    """

    kernel: KernelSource
    arguments: list[Place | int]
    nodes: tuple[str, ...]
    macs: int = 0


@dataclass
class Repeat:
    """Calls that are made `count` times, with pointers that advance.

    Attributes:
        count: how often.
        moving: by name, the address of a pointer the first time and its bytes from one time to
            the next.
        items: what is repeated.
    """

    count: int
    moving: dict[str, tuple[Place, int]]
    items: list[Call | Repeat]


@dataclass(frozen=True)
class Constant:
    """Read-only data; `kind` is 'weights', 'table' or 'const'."""

    name: str
    data: bytes
    align: int
    kind: str


@dataclass(frozen=True)
class Slot:
    """One state in the state struct."""

    name: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    scale: Any
    init: npt.NDArray[Any]


@dataclass
class Plan:
    """Everything `codegen` needs.

    Attributes:
        items: calls of one step, in order.
        constants: by name.
        slots: the state struct.
        state_bytes, scratch_bytes: sizes of what the caller provides.
        parts: bytes of read-only data by purpose: weights, multipliers, bias, tables, constants.
    """

    graph: Graph
    items: list[Call | Repeat]
    constants: dict[str, Constant]
    slots: list[Slot]
    state_bytes: int
    scratch_bytes: int
    parts: dict[str, int]

    def calls(self) -> Iterator[tuple[Call, int]]:
        """Every call, in order, and how often it is made in a step."""
        return _calls(self.items, 1)


def _calls(items: list[Call | Repeat], times: int) -> Iterator[tuple[Call, int]]:
    for item in items:
        if isinstance(item, Repeat):
            yield from _calls(item.items, times * item.count)
        else:
            yield item, times
