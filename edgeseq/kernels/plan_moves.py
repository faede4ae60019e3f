"""Planner: moves between views, and operands in the form that a kernel reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeseq.ir.graph import Node
from edgeseq.kernels.access import Dims, View, collapse, plain, refine, split
from edgeseq.kernels.moves import Unit, move_source, shift_source, unit_of
from edgeseq.kernels.plan import Place
from edgeseq.kernels.plan_base import PlanBase

__all__ = ["Move", "MovePlanner"]


class MovePlanner(PlanBase):
    """Adds moves of elements, and the operations that are nothing else."""

    def move(
        self,
        at: int,
        source: Place,
        source_dims: Dims,
        target: Place,
        target_dims: Dims,
        name: str,
        sizes: tuple[int, int],
    ) -> None:
        """Copy elements, row by row, from one view to another.

        Args:
            at: the step.
            source, target: addresses of the first elements; the places may overlap.
            source_dims, target_dims: of the same number of elements.
            name: of the node it is done for.
            sizes: bytes of an element on either side; the target's are no fewer.
        """
        total = math.prod(c for c, _ in source_dims)
        if source == target and source_dims == target_dims:
            return
        refined = refine([source_dims, target_dims], total)
        overlap = _meet(
            _region(source, source_dims, sizes[0]), _region(target, target_dims, sizes[1])
        )
        if overlap and source_dims == target_dims == plain(total):
            self._shift(at, source, target, total * sizes[0], name)
            return
        if refined is None or overlap:
            between = self.temporary("move", total * sizes[1], at)
            self.move(at, source, source_dims, between, plain(total), name, sizes)
            second = (sizes[1], sizes[1])
            self.move(at, between, plain(total), target, target_dims, name, second)
            return
        extents, (source_steps, target_steps) = refined
        unit = self._unit(extents, source_steps, target_steps, source, target, sizes)
        many = max(unit.nbytes // sizes[0], 1) if sizes[0] == sizes[1] else 1
        extents = [*extents[:-1], extents[-1] // many]
        load = unit if sizes[0] == sizes[1] else Unit(sizes[0], False)
        text = move_source(
            extents,
            _scaled(source_steps, sizes[0], many),
            _scaled(target_steps, sizes[1], many),
            load,
            unit,
            small=self.kernels.small,
        )
        self.call(at, text, [source, target], (name,))

    def _unit(
        self,
        extents: list[int],
        source_steps: list[int],
        target_steps: list[int],
        source: Place,
        target: Place,
        sizes: tuple[int, int],
    ) -> Unit:
        """What a move loads at a time: words where runs of elements lie side by side."""
        if sizes[0] != sizes[1] or source_steps[-1] != 1 or target_steps[-1] != 1:
            return Unit(sizes[1], False)
        outer = [*source_steps[:-1], *target_steps[:-1], extents[-1]]
        aligned = min(self.alignment(source), self.alignment(target))
        return unit_of(math.gcd(*outer) * sizes[0], aligned, not self.kernels.small)

    def _shift(self, at: int, source: Place, target: Place, nbytes: int, name: str) -> None:
        """Move a run inside its own buffer."""
        gap = target.offset - source.offset
        if gap == 0:
            return
        low = min(source, target, key=lambda p: p.offset)
        aligned = min(self.alignment(source), self.alignment(target))
        unit = unit_of(math.gcd(nbytes, gap), aligned, not self.kernels.small)
        text = shift_source(nbytes // unit.nbytes, gap, unit, small=self.kernels.small)
        self.call(at, text, [low], (name,))

    def fill(self, at: int, target: Place, dims: Dims, value: int, size: int, name: str) -> None:
        """Store one number into all elements of a view."""
        extents, (steps,) = refine([dims], math.prod(c for c, _ in dims)) or ([1], [[0]])
        unit, many = Unit(size, False), 1
        if steps[-1] == 1:
            multiple = math.gcd(*steps[:-1], extents[-1]) * size
            unit = unit_of(multiple, self.alignment(target), not self.kernels.small)
            many = unit.nbytes // size
        word = int.from_bytes((value % (1 << 8 * size)).to_bytes(size, "little") * many, "little")
        half = 1 << (8 * unit.nbytes - 1)
        text = move_source(
            [*extents[:-1], extents[-1] // many],
            None,
            _scaled(steps, size, many),
            unit,
            unit,
            value=(word + half) % (2 * half) - half,
            small=self.kernels.small,
        )
        self.call(at, text, [target], (name,))

    def put(self, at: int, value: str, target: Place, dims: Dims, name: str) -> None:
        """Store a value into a view."""
        view = self.table[value]
        if view.root in self.graph.consts:
            flat = self.elements(view)
            if np.all(flat == flat[0]):
                self.fill(at, target, dims, int(flat[0]), self.size(value), name)
                return
        size = self.size(value)
        self.move(at, self.first(view), view.dims, target, dims, name, (size, size))

    # -- operands --------------------------------------------------------------------------

    def whole(self, at: int, value: str, name: str) -> Place:
        """Address of a value as one run of memory, copied if it does not lie like that."""
        view = self.table[value]
        if view.is_plain:
            place = self.first(view)
            self.use(at, place)
            return place
        return self._copied(at, view, self.size(value), name)

    def _copied(self, at: int, view: View, size: int, name: str) -> Place:
        """A copy of a view as one run, made once."""
        key = (view, size)
        if key not in self.copies:
            place = self.temporary(view.root, view.size * size, at)
            self.copies[key] = place.base[7:]
            own = self.size(view.root)
            self.move(at, self.first(view), view.dims, place, plain(view.size), name, (own, size))
        self.touch(self.copies[key], at)
        return Place(f"buffer:{self.copies[key]}", 0)

    def rows(self, at: int, value: str, width: int, name: str) -> tuple[Place, Dims]:
        """A value as rows of `width` elements side by side: the first, and dims of the rows.

        A value that lies otherwise is copied.
        """
        view = self.table[value]
        parts = split(view.dims, width)
        if parts is not None and parts[1] == plain(width):
            place = self.first(view)
            self.use(at, place)
            return place, parts[0]
        count = view.size // width
        return self.whole(at, value, name), collapse(((count, width),))

    def one_step(self, at: int, value: str, width: int, name: str) -> tuple[Place, int]:
        """As `rows`, at one constant distance, in elements."""
        place, dims = self.rows(at, value, width, name)
        if len(dims) > 1:
            return self._copied(at, self.table[value], self.size(value), name), width
        return place, dims[0][1] if dims else width

    # -- operations ------------------------------------------------------------------------

    def do_strided(self, at: int, node: Node) -> None:
        """A view that has to be stored."""
        view = self.stored[node.output]
        target, size = self.origin(node.output), self.size(node.output)
        self.move(
            at, self.first(view), view.dims, target, plain(view.size), node.name, (size, size)
        )
        self.use(at, target)

    do_slice = do_reshape = do_strided

    def do_concat(self, at: int, node: Node) -> None:
        t = self.graph.types[node.output]
        size, total = self.size(node.output), t.shape[-1]
        lead = t.size // total
        target, column = self.origin(node.output), 0
        self.use(at, target)
        moves = []
        for value in node.inputs:
            width = self.graph.types[value].shape[-1]
            dims = collapse(((lead, total), (width, 1)))
            moves.append(Move(value, target + column * size, dims, node.name))
            column += width
        self.parallel(at, moves)

    def parallel(self, at: int, moves: list[Move]) -> None:
        """Moves as if all at once: none overwrites what another one has yet to read."""
        pending = [(m, *self._regions(m)) for m in moves if not self._in_place(m)]
        while pending:
            for i, (_, _, target) in enumerate(pending):
                if not any(_meet(s, target) for k, (_, s, _) in enumerate(pending) if k != i):
                    break
            else:  # a circle: one is put aside
                move = pending[0][0]
                view, size = self.table[move.value], self.size(move.value)
                aside = self._copied(at, view, size, move.name)
                second = (size, size)
                late = (aside, plain(view.size), move.target, move.dims, move.name, second)
                pending[0] = (replace(move, late=late), _region(aside, (), size), pending[0][2])
                continue
            move = pending.pop(i)[0]
            if move.late is not None:
                self.move(at, *move.late)
            else:
                self.put(at, move.value, move.target, move.dims, move.name)

    def _in_place(self, move: Move) -> bool:
        view = self.table[move.value]
        return self.first(view) == move.target and view.dims == move.dims

    def _regions(self, move: Move) -> tuple[_Region, _Region]:
        """Memory that a move reads, and that it writes."""
        view, size = self.table[move.value], self.size(move.value)
        return _region(self.first(view), view.dims, size), _region(move.target, move.dims, size)


@dataclass(frozen=True)
class Move:
    """A value that is to be stored at a place; `late`: the move that does it after all."""

    value: str
    target: Place
    dims: Dims
    name: str
    late: Any = None


_Region = tuple[str, int, int]


def _region(place: Place, dims: Dims, size: int) -> _Region:
    """Base, first and last byte (excluded) of a view."""
    low = place.offset + size * sum((c - 1) * s for c, s in dims if s < 0)
    high = place.offset + size * (1 + sum((c - 1) * s for c, s in dims if s > 0))
    return place.base, low, high


def _meet(a: _Region, b: _Region) -> bool:
    """Whether two regions share memory, or might."""
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]


def _scaled(steps: list[int], size: int, many: int) -> list[int]:
    """Bytes between neighbours, the innermost ones in runs of `many` elements."""
    return [*(s * size for s in steps[:-1]), steps[-1] * size * many]
