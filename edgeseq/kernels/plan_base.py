"""What every part of the planner works on: values, buffers, constants and the calls so far."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeseq.errors import UnsupportedError
from edgeseq.ir.graph import Graph, Node
from edgeseq.kernels.access import View, views
from edgeseq.kernels.linear import LinearSet
from edgeseq.kernels.memory import Buffer
from edgeseq.kernels.plan import Call, Constant, KernelSource, Place, Repeat
from edgeseq.kernels.prepare import prepare
from edgeseq.kernels.ranges import Range, of_dtype
from edgeseq.kernels.schedule import schedule

__all__ = ["SIZE", "PlanBase", "Shared"]

#: Bytes per element.
SIZE = {"i8": 1, "i16": 2, "i32": 4}


@dataclass
class Shared:
    """What the plan of a step and those of the bodies of its scans have in common.

    Attributes:
        kernels: family of matrix kernels.
        align: of states and scratch buffers, in bytes.
        constants: by name.
        parts: bytes of constants by purpose.
        counted: matrix streams that `parts` counts already.
        names: by identity, arrays that are constants already.
        count: numbers given so far.
    """

    kernels: LinearSet
    align: int
    constants: dict[str, Constant] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    names: dict[int, tuple[Any, str]] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.parts |= dict.fromkeys(("weights", "multipliers", "bias", "tables", "constants"), 0)

    def number(self) -> int:
        """A number not given before."""
        self.count += 1
        return self.count


class PlanBase:
    """State of the planner and its bookkeeping; see `planner`.

    Args:
        graph: an integer step.
        shared: with the plan that this one is part of.
        port_align: alignment of inputs and outputs in bytes where it exceeds that of their
            elements, by 'in0', 'out0' and so on.
        every_state: keep the states that no output depends on.
    """

    def __init__(
        self,
        graph: Graph,
        shared: Shared,
        port_align: dict[str, int] | None = None,
        *,
        every_state: bool = False,
    ) -> None:
        self.shared = shared
        self.kernels, self.align = shared.kernels, shared.align
        self.graph = prepare(graph, every_state=every_state)
        self.port_align = {f"in{i}": self.size(v) for i, v in enumerate(graph.inputs)}
        self.port_align |= {f"out{i}": self.size(v) for i, v in enumerate(graph.outputs)}
        self.port_align |= port_align or {}
        self.table, self.stored = views(self.graph)
        self.steps = schedule(self.graph, self.table, self.stored, self.kernels.lanes)
        self.items: list[Call | Repeat] = []
        self.made = {v: i for i, s in enumerate(self.steps) for n in s.nodes for v in n.outputs}
        self.known = self._ranges()
        self.places: dict[str, Place] = {}
        self.buffers: dict[str, Buffer] = {}
        self.extra: dict[str, list[str]] = {}
        self.copies: dict[tuple[Any, ...], str] = {}
        self.state_bytes = 0
        self.uses = self._reads()

    def nbytes(self, value: str) -> int:
        return self.graph.types[value].nbytes

    def size(self, value: str) -> int:
        """Bytes of one element."""
        return SIZE[self.graph.types[value].dtype]

    def _ranges(self) -> dict[str, Range]:
        """Range of every value: of its type, or the table a node reads."""
        known = {v: of_dtype(t.dtype) for v, t in self.graph.types.items()}
        for node in self.graph.nodes:
            if node.op == "lut":
                table = self.graph.consts[node.inputs[1]]
                known[node.output] = Range(int(table.min()), int(table.max()))
            elif node.op == "clamp":
                lo, hi = node.attrs["lo"], node.attrs["hi"]
                r = known[node.output]
                known[node.output] = known[node.inputs[0]].clamped(
                    r.lo if lo is None else lo, r.hi if hi is None else hi
                )
            elif node.op in ("reshape", "slice", "strided"):
                known[node.output] = known[node.inputs[0]]
            elif node.op == "concat":
                r = known[node.inputs[0]]
                for v in node.inputs[1:]:
                    r = r.hull(known[v])
                known[node.output] = r
            elif node.op == "softmax":
                known[node.output] = Range(0, (1 << 15) - 1)
            elif node.op == "compare":
                known[node.output] = Range(0, 1)
        return known

    def _reads(self) -> dict[str, list[tuple[int, str]]]:
        """Per root: the steps that read it and the value under which they do."""
        uses: dict[str, list[tuple[int, str]]] = {}
        for i, step in enumerate(self.steps):
            for node in step.nodes:
                if node.outputs[0] in self.stored:
                    uses.setdefault(self.stored[node.output].root, []).append((i, node.output))
                    continue
                for value in node.inputs:
                    uses.setdefault(self.table[value].root, []).append((i, value))
        return uses

    # -- constants -------------------------------------------------------------------------

    def constant(self, data: bytes, kind: str, part: str | None, align: int = 4) -> str:
        """Name of a constant with this content; equal contents are stored once."""
        digest = hashlib.sha256(data + kind.encode()).hexdigest()[:10]
        name = f"{kind}_{digest}"
        constants = self.shared.constants
        if name not in constants:
            constants[name] = Constant(name, data, align, kind)
            if part is not None:
                self.shared.parts[part] += len(data)
        return name

    def array(self, array: Any, kind: str = "const", part: str = "constants") -> Place:
        """Address of an array in read-only memory."""
        _, name = self.shared.names.get(id(array), (None, ""))
        if not name.startswith(kind):
            data = np.ascontiguousarray(array)
            name = self.constant(data.tobytes() + bytes(-data.nbytes % 4), kind, part)
            self.shared.names[id(array)] = (array, name)
        return Place(name, 0)

    def const(self, node: Node, value: str) -> Any:
        """The array of a constant operand.

        Raises:
            UnsupportedError: it is not a constant.
        """
        view, t = self.table[value], self.graph.types[value]
        if view.root not in self.graph.consts:
            raise UnsupportedError(
                f"{value!r} must be a constant",
                where=f"node {node.name!r} ({node.op})",
                fix="matrices and biases that change from step to step cannot be packed",
            )
        return self.elements(view).reshape(t.shape)

    def elements(self, view: View) -> Any:
        """Elements of a view of a constant, in order."""
        at = np.full((), view.offset)
        for count, stride in view.dims:
            at = at[..., None] + np.arange(count) * stride
        return self.graph.consts[view.root].reshape(-1)[at.reshape(-1)]

    # -- memory ----------------------------------------------------------------------------

    def touch(self, name: str, at: int) -> None:
        """Keep a buffer alive at step `at`."""
        buffer = self.buffers[name]
        buffer.first, buffer.last = min(buffer.first, at), max(buffer.last, at)

    def new_buffer(self, name: str, nbytes: int, at: int) -> Place:
        self.buffers[name] = Buffer(name, nbytes, at, at)
        return Place(f"buffer:{name}", 0)

    def temporary(self, hint: str, nbytes: int, at: int) -> Place:
        """A buffer of its own."""
        return self.new_buffer(f"{hint}#{self.shared.number()}", nbytes, at)

    def require(self, place: Place, nbytes: int) -> None:
        """Make `nbytes` from a place in scratch or state accessible."""
        if place.base.startswith("buffer:"):
            buffer = self.buffers[place.base[7:]]
            buffer.nbytes = max(buffer.nbytes, place.offset + nbytes)
        elif place.base == "state":
            end = -(-(place.offset + nbytes) // self.align) * self.align
            self.state_bytes = max(self.state_bytes, end)

    def alignment(self, place: Place) -> int:
        """Bytes that divide an address."""
        base = self.port_align.get(place.base, self.align)
        if place.base in self.shared.constants:
            base = self.shared.constants[place.base].align
        return base if place.offset == 0 else min(base, place.offset & -place.offset)

    def origin(self, root: str) -> Place:
        """Address of a stored value (its buffer may not have an offset yet)."""
        if root in self.graph.consts:
            return self.array(self.graph.consts[root])
        return self.places.get(root, Place(f"buffer:{root}", 0))

    def first(self, view: View) -> Place:
        """Address of the first element of a view."""
        return self.origin(view.root) + view.offset * self.size(view.root)

    # -- calls -----------------------------------------------------------------------------

    def use(self, at: int, place: Place) -> None:
        """Note that step `at` needs the memory at a place."""
        if place.base.startswith("buffer:"):
            self.touch(place.base[7:], at)

    def call(
        self,
        at: int,
        source: str,
        arguments: list[Place | int],
        nodes: tuple[str, ...],
        macs: int = 0,
    ) -> None:
        """Append a kernel call; its parameters are as the arguments."""
        for argument in arguments:
            if isinstance(argument, Place):
                self.use(at, argument)
        kinds = tuple("ptr" if isinstance(a, Place) else "i32" for a in arguments)
        self.items.append(Call(KernelSource(source, kinds), arguments, nodes, macs))

    @contextmanager
    def repeated(
        self, at: int, count: int, moving: list[tuple[Place, int]]
    ) -> Iterator[list[Place]]:
        """Calls made inside run `count` times, with the given addresses advancing.

        Args:
            at: the step.
            count: how often; once needs no loop.
            moving: addresses the first time, and bytes from one time to the next.

        Yields:
            The addresses to use.
        """
        if count == 1:
            yield [place for place, _ in moving]
            return
        outside, self.items = self.items, []
        pointers: dict[str, tuple[Place, int]] = {}
        places = []
        for place, step in moving:
            self.use(at, place)
            if step == 0:
                places.append(place)
                continue
            name = f"m{self.shared.number()}"
            pointers[name] = (place, step)
            places.append(Place(name, 0))
            self.port_align[name] = min(self.alignment(place), step & -step)
        yield places
        repeat = Repeat(count, pointers, self.items)
        self.items = outside
        self.items.append(repeat)
