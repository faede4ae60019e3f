"""Planner: matrix products with constant weights, and normalisations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeseq.errors import BackendError, UnsupportedError
from edgeseq.ir.graph import Node
from edgeseq.kernels import basic
from edgeseq.kernels.access import Dims, View, collapse, plain, refine, split
from edgeseq.kernels.channels import depthwise_source
from edgeseq.kernels.linear import Group, Signature
from edgeseq.kernels.plan import Place
from edgeseq.kernels.plan_states import StatePlanner

__all__ = ["NodePlanner"]

#: A matrix operand: address, dims of its rows in bytes, bits of an element.
Operand = tuple[Place, Dims, int]


class NodePlanner(StatePlanner):
    """Adds `do_OP(at, node)` for operations with weights."""

    def do_linear(self, at: int, node: Node) -> None:
        graph = self.graph
        pairs = len(node.inputs) // 2
        has_bias = len(node.inputs) % 2 == 1
        out = graph.types[node.output]
        rows, frames = out.shape[-1], out.size // out.shape[-1]
        kernels = self.kernels.for_frames(frames)
        weights, multipliers, groups = [], [], []
        operands: list[tuple[Place, Dims, int]] = []
        for g in range(pairs):
            weights.append(self._weights(node, node.inputs[2 * g + 1]))
            multipliers.append(np.broadcast_to(np.asarray(node.attrs["m"][g], np.int32), (rows,)))
            k = weights[-1].shape[1]
            address, dims, bits = self._operand_x(at, node, node.inputs[2 * g], k)
            unroll = kernels.unroll(k, frames)
            operands.append((address, dims, kernels.steps(k) // unroll))
            w_bits = weights[-1].dtype.itemsize * 8
            short = kernels.steps(k) * kernels.columns - k
            groups.append(Group(bits, w_bits, int(node.attrs["s"][g]), unroll, short))
        bias = self.const(node, node.inputs[-1]) if has_bias else None
        self._prove(node, weights, multipliers, bias)
        out_bits = self.size(node.output) * 8
        signature = Signature(tuple(groups), has_bias, out_bits)
        stream = kernels.pack(weights, multipliers, bias)
        name = self.constant(stream.data, "weights", None, kernels.align)
        self._count(name, stream)
        y = self.origin(node.output)
        padded = (frames - 1) * rows + kernels.written(rows)
        self.require(y, padded * out_bits // 8)
        step = rows * out_bits // 8
        macs = sum(w.size for w in weights)
        levels = _levels([d for _, d, _ in operands], frames)
        if levels is None:  # frames of several operands lie too differently
            operands = [
                (*self._operand_x(at, node, node.inputs[2 * g], w.shape[1], True)[:2], n)
                for g, (w, (_, _, n)) in enumerate(zip(weights, operands, strict=True))
            ]
            levels = _levels([d for _, d, _ in operands], frames)
            assert levels is not None
        self._frames(at, node, signature, levels, (Place(name, 0), y, step), operands, macs)

    def _frames(
        self,
        at: int,
        node: Node,
        signature: Signature,
        levels: list[tuple[int, list[int]]],
        fixed: tuple[Place, Place, int],
        operands: list[tuple[Place, Dims, int]],
        macs: int,
    ) -> None:
        """Calls for all frames: nested loops of `levels`, the innermost one in the kernel.

        Args:
            at, node, signature: as in `do_linear`.
            levels: frames per loop, outermost first, and each operand's bytes between them.
            fixed: the weights, the output and its bytes per frame.
            operands: address, dims and inner iterations.
            macs: of one frame.
        """
        weights, y, step = fixed
        t = self.graph.types[node.output]
        rows = t.shape[-1]
        kernels = self.kernels.for_frames(t.size // rows)
        blocks = kernels.blocks(rows)
        if len(levels) > 1 or (levels and kernels.tile == 1):
            count, steps = levels[0]
            inside = math.prod(c for c, _ in levels[1:])
            moving = [(y, step * inside)]
            moving += [(p, s) for (p, _, _), s in zip(operands, steps, strict=True)]
            with self.repeated(at, count, moving) as places:
                inner = [(p, d, n) for p, (_, d, n) in zip(places[1:], operands, strict=True)]
                self._frames(
                    at, node, signature, levels[1:], (weights, places[0], step), inner, macs
                )
            return
        done = 0
        frames, steps = levels[0] if levels else (1, [0] * len(operands))
        for tile, times in kernels.tiles(frames):
            arguments: list[Place | int] = [weights, y + step * done, blocks]
            arguments += kernels.extra(rows, 8 * self.size(node.output))
            if tile * times > 1:
                arguments.append(times)
            for (place, _, n), x_step in zip(operands, steps, strict=True):
                arguments += [place + x_step * done, n]
            source = (
                kernels.source(signature, rows)
                if tile * times == 1
                else kernels.frames_source(signature, rows, tile, steps)
            )
            self.call(at, source, arguments, (node.name,), macs * tile * times)
            done += tile * times

    def _count(self, name: str, stream: Any) -> None:
        shared = self.shared
        if name in shared.counted:
            return
        shared.counted.add(name)
        shared.parts["weights"] += stream.weights
        shared.parts["multipliers"] += stream.multipliers
        shared.parts["bias"] += stream.bias

    def _weights(self, node: Node, value: str) -> Any:
        array = self.const(node, value)
        if array.dtype not in (np.int8, np.int16):
            raise UnsupportedError(
                f"weights of type {array.dtype}",
                where=f"node {node.name!r}",
                fix="store them as int8 or int16",
            )
        return array

    # -- operands --------------------------------------------------------------------------

    def _operand_x(self, at: int, node: Node, x: str, k: int, straight: bool = False) -> Operand:
        """A matrix operand as the kernel set reads it, copied if need be.

        Args:
            at, node: the step and whom it is for.
            x: the value.
            k: elements of a row.
            straight: whether all rows must be at one distance.
        """
        size = self.size(x)
        if size == 4:
            raise UnsupportedError(
                "a matrix product cannot read 32-bit values",
                where=f"node {node.name!r}",
                fix="rescale the operand to 8 or 16 bits first",
            )
        view, kernels = self.table[x], self.kernels
        want = (kernels.x_bits or 8 * size) // 8
        parts = split(view.dims, k)
        padded = kernels.steps(k) * kernels.columns
        if parts is not None and parts[1] == plain(k) and (len(parts[0]) <= 1 or not straight):
            place = self.first(view)
            if want == size and self._in_reach(place, parts[0], size, k, padded, view):
                self.use(at, place)
                return place, _in_bytes(parts[0], size), 8 * want
            low, high = view.span
            if low == view.offset and high - low < view.size:
                # Rows that overlap or touch: their memory is copied, not every row.
                steps = all(s * want % kernels.x_align == 0 for _, s in parts[0])
                if steps and all(s > 0 for _, s in parts[0]):
                    run = View(view.root, low, plain(high - low + 1))
                    place = self._copied(at, run, want, node.name)
                    self.require(place, (high - low + 1 - k + padded) * want)
                    return place, _in_bytes(parts[0], want), 8 * want
        unit = max(kernels.x_align, want)
        step = -(-padded * want // unit) * unit
        frames = view.size // k
        key = (view, want, step)
        if key not in self.copies:
            place = self.temporary(view.root, step * frames, at)
            self.copies[key] = place.base[7:]
            dims = collapse(((frames, step // want), (k, 1)))
            self.move(at, self.first(view), view.dims, place, dims, node.name, (size, want))
        self.touch(self.copies[key], at)
        rows = collapse(((frames, step),))
        return Place(f"buffer:{self.copies[key]}", 0), rows, 8 * want

    def _in_reach(
        self, place: Place, dims: Dims, size: int, k: int, padded: int, view: View
    ) -> bool:
        """Whether the kernels may read rows where they lie, up to `padded` elements of each."""
        align = self.kernels.x_align
        aligned = self.alignment(place) % align == 0
        if not aligned or any(s * size % align for _, s in dims):
            return False
        if padded > k:
            last = view.span[1] - view.offset + 1 - k  # first element of the last row
            if place.base == "state" or place.base.startswith("buffer:"):
                self.require(place, (last + padded) * size)
            else:
                return False
        return True

    def _prove(self, node: Node, weights: list[Any], multipliers: list[Any], bias: Any) -> None:
        """Every accumulator and the sum before saturation fit int32, or the kernels would wrap."""
        rows = weights[0].shape[0]
        total = np.zeros(rows, object) if bias is None else np.abs(bias.astype(object))
        for g, (w, m) in enumerate(zip(weights, multipliers, strict=True)):
            r = self.known[node.inputs[2 * g]]
            top = max(-r.lo, r.hi)
            acc = np.abs(w.astype(np.int64)).sum(1) * top
            s = np.atleast_1d(node.attrs["s"])[g]
            half = 1 << (int(s) - 1) if s else 0
            scaled = acc.astype(object) * np.abs(m.astype(object))
            total = total + ((scaled + half) // (1 << int(s)))
            if acc.max(initial=0) >= 1 << 31:
                raise BackendError(
                    f"the accumulator of input {g} can reach {int(acc.max())}",
                    where=f"node {node.name!r} ({node.op})",
                    fix="store its input or its weights in fewer bits",
                )
        if max(total, default=0) >= 1 << 31:
            raise BackendError(
                f"the sum of its inputs can reach {max(total)}",
                where=f"node {node.name!r} ({node.op})",
                fix="give its output a coarser scale",
            )

    # -- others ----------------------------------------------------------------------------

    def do_depthwise(self, at: int, node: Node) -> None:
        x, w = node.inputs[0], self._weights(node, node.inputs[1])
        taps, channels = w.shape
        m = np.broadcast_to(np.asarray(node.attrs["m"], np.int32), (channels,))
        bias = self.const(node, node.inputs[2]) if len(node.inputs) == 3 else None
        self._prove(node, [w.T], [m], bias)
        place, dims = self.rows(at, x, channels, node.name)
        parts = split(dims, taps)
        if parts is None or len(parts[1]) > 1:
            place = self._copied(at, self.table[x], self.size(x), node.name)
            frames = self.table[x].size // w.size
            parts = collapse(((frames, w.size),)), collapse(((taps, channels),))
        size, out = self.size(x), self.size(node.output)
        source = depthwise_source(
            taps,
            channels,
            parts[1][0][1] * size if parts[1] else 0,
            (8 * size, 8 * w.itemsize, 8 * out),
            int(node.attrs["s"]),
            bias is not None,
            self.kernels.lanes,
        )
        constants = [self.array(w, "weights", "weights"), self.array(m, "const", "multipliers")]
        if bias is not None:
            constants.append(self.array(bias, "const", "bias"))
        y = self.origin(node.output)
        self._nested(
            at,
            _in_bytes(parts[0], size),
            (place, y, channels * out),
            source,
            constants,
            node,
            w.size,
        )

    def _nested(
        self,
        at: int,
        levels: Dims,
        moving: tuple[Place, Place, int],
        source: str,
        constants: list[Place],
        node: Node,
        macs: int,
    ) -> None:
        """One call per row: `levels` nested loops over the input, the output row after row.

        Args:
            at, node: as in `do_depthwise`.
            levels: rows per loop and bytes between them.
            moving: input, output and bytes of an output row.
            source: of ``kernel(x, y, *constants)``.
            constants: the other arguments.
            macs: of one call.
        """
        x, y, step = moving
        if not levels:
            self.call(at, source, [x, y, *constants], (node.name,), macs)
            return
        inside = math.prod(c for c, _ in levels[1:])
        count, x_step = levels[0]
        with self.repeated(at, count, [(x, x_step), (y, step * inside)]) as (x2, y2):
            self._nested(at, levels[1:], (x2, y2, step), source, constants, node, macs)

    def do_norm(self, at: int, node: Node) -> None:
        x, gain, bias = node.inputs
        t = self.graph.types[x]
        n, size = t.shape[-1], self.size(x)
        bits = size * 8, self.size(node.output) * 8
        source = basic.norm_source(bits[0], bits[1], int(node.attrs["eps"]), int(node.attrs["s"]))
        table = self.constant(basic.rsqrt_table() + bytes(2), "table", "tables")
        place, step = self.one_step(at, x, n, node.name)
        constants = [self.array(self.const(node, v)) for v in (gain, bias)]
        arguments: list[Place | int] = [place, *constants, Place(table, 0)]
        arguments += [self.origin(node.output), t.size // n, n, step * size]
        self.call(at, source, arguments, (node.name,))


def _in_bytes(dims: Dims, size: int) -> Dims:
    return tuple((c, s * size) for c, s in dims)


def _levels(dims: list[Dims], frames: int) -> list[tuple[int, list[int]]] | None:
    """Common nested loops over the frames of several operands.

    Returns:
        Frames per loop, outermost first, and each operand's bytes between them; None: there are
        none.
    """
    if frames == 1:
        return []
    refined = refine(dims, frames)
    if refined is None:
        return None
    extents, strides = refined
    return [(e, [row[k] for row in strides]) for k, e in enumerate(extents)]
