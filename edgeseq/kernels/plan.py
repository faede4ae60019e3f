"""What a compiled step consists of: kernel calls with constant shapes and addresses.

A plan says where every value lives (the caller's input and output, the state struct, the scratch
arena, read-only memory), which kernels run in which order, and what the packed constants are. It
knows nothing of LLVM; `planner` makes it and `codegen` turns it into an object.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from edgeseq.ir.graph import Graph

__all__ = ["Call", "Constant", "KernelSource", "Place", "Plan", "Slot"]


@dataclass(frozen=True)
class Place:
    """An address: `base` is 'in0', 'out0', 'state', 'scratch' or the name of a constant."""

    base: str
    offset: int


@dataclass(frozen=True)
class KernelSource:
    """Source of a kernel and the kinds of its parameters ('ptr' or 'i32')."""

    source: str
    parameters: tuple[str, ...]

    @property
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
        repeat: how often it is called in a row.
        steps: bytes by which each address advances from one repetition to the next.
    """

    kernel: KernelSource
    arguments: list[Place | int]
    nodes: tuple[str, ...]
    macs: int = 0
    repeat: int = 1
    steps: list[int] = field(default_factory=list)


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
        calls: of one step, in order.
        constants: by name.
        slots: the state struct.
        state_bytes, scratch_bytes: sizes of what the caller provides.
        parts: bytes of read-only data by purpose: weights, multipliers, bias, tables, constants.
    """

    graph: Graph
    calls: list[Call]
    constants: dict[str, Constant]
    slots: list[Slot]
    state_bytes: int
    scratch_bytes: int
    parts: dict[str, int]
