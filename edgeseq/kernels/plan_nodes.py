"""Planner: the calls of matrix products, normalisations and moves."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseq.errors import BackendError, UnsupportedError
from edgeseq.ir.graph import Node
from edgeseq.kernels import basic
from edgeseq.kernels.linear import Group, Signature
from edgeseq.kernels.plan import KernelSource, Place
from edgeseq.kernels.plan_base import SIZE, PlanBase

__all__ = ["NodePlanner"]


class NodePlanner(PlanBase):
    """Adds `do_OP(at, node)` for every operation that is not element-wise."""

    def do_linear(self, at: int, node: Node) -> None:
        graph, kernels = self.graph, self.kernels
        pairs = len(node.inputs) // 2
        has_bias = len(node.inputs) % 2 == 1
        shape = graph.types[node.output].shape
        rows, frames = shape[-1], graph.types[node.output].size // shape[-1]
        weights, multipliers, groups, operands = [], [], [], []
        macs = 0
        for g in range(pairs):
            x, w = node.inputs[2 * g], node.inputs[2 * g + 1]
            weights.append(self._weights(node, w))
            multipliers.append(np.broadcast_to(np.asarray(node.attrs["m"][g], np.int32), (rows,)))
            k = weights[-1].shape[1]
            address, step, bits = self._operand_x(at, node, x, k, frames)
            unroll = kernels.unroll(k)
            operands.append((address, kernels.steps(k) // unroll, step))
            w_bits = weights[-1].dtype.itemsize * 8
            groups.append(Group(bits, w_bits, int(node.attrs["s"][g]), unroll))
            macs += rows * k
        bias = self._const(node, node.inputs[-1]) if has_bias else None
        self._prove(node, weights, multipliers, bias)
        out_bits = SIZE[graph.types[node.output].dtype] * 8
        signature = Signature(tuple(groups), has_bias, out_bits)
        stream = kernels.pack(weights, multipliers, bias)
        name = self.constant(node.name, stream.data, "weights", None, kernels.align)
        self._count(name, stream)
        y = self.where(node.output)
        padded = ((frames - 1) * rows + kernels.blocks(rows) * kernels.rows) * out_bits // 8
        self.grow(node.output, padded)
        arguments: list[Place | int] = [Place(name, 0), y, kernels.blocks(rows)]
        steps = [0, rows * out_bits // 8, 0]
        for address, n, step in operands:
            arguments += [address, n]
            steps += [step, 0]
        parameters = ("ptr", "ptr", "i32") + ("ptr", "i32") * pairs
        kernel = KernelSource(kernels.source(signature), parameters)
        self.call(
            at, kernel, arguments, (node.name,), macs=macs * frames, repeat=frames, steps=steps
        )

    def _count(self, name: str, stream: Any) -> None:
        if name in self.counted:
            return
        self.counted.add(name)
        self.parts["weights"] += stream.weights
        self.parts["multipliers"] += stream.multipliers
        self.parts["bias"] += stream.bias

    def _weights(self, node: Node, value: str) -> Any:
        array = self._const(node, value)
        if array.dtype not in (np.int8, np.int16):
            raise UnsupportedError(
                f"weights of type {array.dtype}",
                where=f"node {node.name!r}",
                fix="store them as int8 or int16",
            )
        return array

    def _operand_x(
        self, at: int, node: Node, x: str, k: int, frames: int
    ) -> tuple[Place, int, int]:
        """Address, row step in bytes and width of a matrix operand, copied if need be."""
        t = self.graph.types[x]
        bits = SIZE[t.dtype] * 8
        if bits == 32:
            raise UnsupportedError(
                "a matrix product cannot read 32-bit values",
                where=f"node {node.name!r}",
                fix="rescale the operand to 8 or 16 bits first",
            )
        kernels = self.kernels
        want = kernels.x_bits or bits
        size = want // 8
        padded = kernels.steps(k) * kernels.columns
        address = self.where(x)
        in_scratch = address.base.startswith("buffer:")
        align = (
            4
            if address.base == "state" or in_scratch or not address.base.startswith("in")
            else bits // 8
        )
        aligned = (
            kernels.x_align <= align
            and address.offset % kernels.x_align == 0
            and (frames == 1 or (k * size) % kernels.x_align == 0)
        )
        if want == bits and aligned and (padded == k or in_scratch):
            if in_scratch:
                offset = self.table[x].offset
                self.grow(self.table[x].root, (offset + (frames - 1) * k + padded) * size)
            return address, k * size, want
        unit = max(kernels.x_align, size)
        step = -(-padded * size // unit) * unit
        key = (self.table[x], k, frames, want)
        if key not in self.copies:
            name = f"copy.{x}.{len(self.copies)}"
            self.copies[key] = name
            self.new_buffer(name, step * frames, at)
            self._copy(
                at,
                address,
                Place(f"buffer:{name}", 0),
                bits,
                want,
                frames,
                k,
                k * bits // 8,
                step,
                node.name,
            )
        return Place(f"buffer:{self.copies[key]}", 0), step, want

    def _prove(self, node: Node, weights: list[Any], multipliers: list[Any], bias: Any) -> None:
        """Every accumulator and the sum before saturation fit int32, or the kernels would wrap."""
        rows = weights[0].shape[0]
        total = np.zeros(rows, object) if bias is None else np.abs(bias.astype(object))
        for g, (w, m) in enumerate(zip(weights, multipliers, strict=True)):
            r = self.known[node.inputs[2 * g]]
            top = max(-r.lo, r.hi)
            acc = np.abs(w.astype(np.int64)).sum(1) * top
            s = int(node.attrs["s"][g])
            half = 1 << (s - 1) if s else 0
            total = total + ((acc.astype(object) * np.abs(m.astype(object)) + half) // (1 << s))
            if acc.max(initial=0) >= 1 << 31:
                raise BackendError(
                    f"the accumulator of input {g} can reach {int(acc.max())}",
                    where=f"node {node.name!r} (linear)",
                    fix="store its input or its weights in fewer bits",
                )
        if max(total, default=0) >= 1 << 31:
            raise BackendError(
                f"the sum of its inputs can reach {max(total)}",
                where=f"node {node.name!r} (linear)",
                fix="give its output a coarser scale",
            )

    def do_norm(self, at: int, node: Node) -> None:
        graph = self.graph
        x, gain, bias = node.inputs
        n = graph.types[x].shape[-1]
        bits = SIZE[graph.types[x].dtype] * 8, SIZE[graph.types[node.output].dtype] * 8
        source = basic.norm_source(bits[0], bits[1], int(node.attrs["eps"]), int(node.attrs["s"]))
        table = self.constant("rsqrt", basic.rsqrt_table() + bytes(2), "table", "tables")
        for value in (gain, bias):
            self._const(node, value)
        arguments: list[Place | int] = [
            self.where(x),
            self.where(gain),
            self.where(bias),
            Place(table, 0),
            self.where(node.output),
            graph.types[x].size // n,
            n,
        ]
        kernel = KernelSource(source, ("ptr",) * 5 + ("i32", "i32"))
        self.call(at, kernel, arguments, (node.name,))

    def do_slice(self, at: int, node: Node) -> None:
        t, source = self.graph.types[node.output], self.graph.types[node.inputs[0]]
        size, start = SIZE[t.dtype], int(node.attrs["start"])
        columns, rows = t.shape[-1], t.size // t.shape[-1]
        address = self.where(node.inputs[0])
        self._copy(
            at,
            Place(address.base, address.offset + start * size),
            self.where(node.output),
            size * 8,
            size * 8,
            rows,
            columns,
            source.shape[-1] * size,
            columns * size,
            node.name,
        )

    def do_concat(self, at: int, node: Node) -> None:
        t = self.graph.types[node.output]
        size, total = SIZE[t.dtype], t.shape[-1]
        target, column = self.where(node.output), 0
        for value in node.inputs:
            part = self.graph.types[value]
            columns = part.shape[-1]
            self._copy(
                at,
                self.where(value),
                Place(target.base, target.offset + column * size),
                size * 8,
                size * 8,
                part.size // columns,
                columns,
                columns * size,
                total * size,
                node.name,
            )
            column += columns
