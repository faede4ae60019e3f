"""What every part of the planner works on: values, buffers, constants and the calls so far."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from edgeseq.errors import UnsupportedError
from edgeseq.ir.graph import Graph, Node
from edgeseq.kernels import basic
from edgeseq.kernels.linear import LinearSet
from edgeseq.kernels.memory import Buffer
from edgeseq.kernels.plan import Call, Constant, KernelSource, Place
from edgeseq.kernels.prepare import prepare, reshaped, schedule, views
from edgeseq.kernels.ranges import Range, of_dtype

__all__ = ["SIZE", "PlanBase"]

#: Bytes per element.
SIZE = {"i8": 1, "i16": 2, "i32": 4}


class PlanBase:
    """State of the planner and its bookkeeping; see `planner`."""

    def __init__(self, graph: Graph, kernels: LinearSet, align: int) -> None:
        self.source = graph
        self.graph = prepare(graph)
        self.kernels, self.align = kernels, align
        self.table = views(self.graph)
        self.same = reshaped(self.graph, self.table)
        self.steps = schedule(self.graph)
        self.calls: list[tuple[int, Call]] = []
        self.constants: dict[str, Constant] = {}
        self.parts = {"weights": 0, "multipliers": 0, "bias": 0, "tables": 0, "constants": 0}
        self.made = {n.output: i for i, s in enumerate(self.steps) for n in s.nodes}
        self.known = self._ranges()
        self.places: dict[str, Place] = {}
        self.buffers: dict[str, Buffer] = {}
        self.capacity: dict[str, int] = {}
        self.extra: dict[str, list[str]] = {}
        self.copies: dict[tuple[Any, ...], str] = {}
        self.counted: set[str] = set()

    def nbytes(self, value: str) -> int:
        return self.graph.types[value].nbytes

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
            elif node.op in ("reshape", "slice"):
                known[node.output] = known[node.inputs[0]]
        return known

    def reads(self) -> dict[str, list[tuple[int, str]]]:
        """Per root: the steps that read it and the value under which they do."""
        uses: dict[str, list[tuple[int, str]]] = {}
        for i, step in enumerate(self.steps):
            for node in step.nodes:
                for value in node.inputs:
                    uses.setdefault(self.table[value].root, []).append((i, value))
        return uses

    def constant(self, hint: str, data: bytes, kind: str, part: str | None, align: int = 4) -> str:
        """Name of a constant with this content; equal contents are stored once."""
        digest = hashlib.sha256(data + kind.encode()).hexdigest()[:10]
        name = f"{kind}_{digest}"
        if name not in self.constants:
            self.constants[name] = Constant(name, data, align, kind)
            if part is not None:
                self.parts[part] += len(data)
        return name

    def array(self, value: str, kind: str = "const", part: str = "constants") -> Place:
        data = np.ascontiguousarray(self.graph.consts[value])
        return Place(self.constant(value, data.tobytes() + bytes(-data.nbytes % 4), kind, part), 0)

    def touch(self, root: str, at: int) -> None:
        """Keep the buffer of `root` alive at step `at`."""
        if root in self.buffers:
            buffer = self.buffers[root]
            buffer.first, buffer.last = min(buffer.first, at), max(buffer.last, at)

    def new_buffer(self, name: str, nbytes: int, at: int) -> None:
        self.buffers[name] = Buffer(name, nbytes, at, at)

    def grow(self, root: str, nbytes: int) -> None:
        if root in self.buffers:
            self.buffers[root].nbytes = max(self.buffers[root].nbytes, nbytes)

    def where(self, value: str) -> Place:
        """Address of a value (its buffer may not have an offset yet)."""
        view = self.table[value]
        size = SIZE[self.graph.types[value].dtype]
        if view.root in self.graph.consts:
            base = self.array(view.root)
        elif view.root in self.places:
            base = self.places[view.root]
        else:
            base = Place(f"buffer:{view.root}", 0)
        return Place(base.base, base.offset + view.offset * size)

    def call(
        self,
        at: int,
        kernel: KernelSource,
        arguments: list[Place | int],
        nodes: tuple[str, ...],
        **more: Any,
    ) -> None:
        for argument in arguments:
            if isinstance(argument, Place) and argument.base.startswith("buffer:"):
                self.touch(argument.base[7:], at)
        self.calls.append((at, Call(kernel, arguments, nodes, **more)))

    def _copy(
        self,
        at: int,
        source: Place,
        target: Place,
        from_bits: int,
        to_bits: int,
        rows: int,
        columns: int,
        source_step: int,
        target_step: int,
        name: str,
    ) -> None:
        kernel = KernelSource(
            basic.copy_source(from_bits, to_bits), ("ptr", "ptr", "i32", "i32", "i32", "i32")
        )
        self.call(at, kernel, [source, target, rows, columns, source_step, target_step], (name,))

    def _const(self, node: Node, value: str) -> Any:
        root = self.table[value].root
        if root not in self.graph.consts:
            raise UnsupportedError(
                f"{value!r} must be a constant",
                where=f"node {node.name!r} ({node.op})",
                fix="matrices and biases that change from step to step cannot be packed",
            )
        view, t = self.table[value], self.graph.types[value]
        flat = self.graph.consts[root].reshape(-1)
        return flat[view.offset : view.offset + t.size].reshape(t.shape)
