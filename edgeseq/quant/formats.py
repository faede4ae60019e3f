"""Which integer format each value of a real step gets.

The rules follow what measurement showed: what a matrix product reads is narrow (16 or 8 bits),
pre-activations have 16 fractional bits, a state that adds to itself is wide (32 bits) with a
narrow view for the product, and gates are Q0.15. Values that are only moved share one format
(`edgeseq.quant.groups`).
"""

from __future__ import annotations

import math

from edgeseq.ir.graph import Graph
from edgeseq.ir.types import Type
from edgeseq.quant.calibrate import Stats, clip_range
from edgeseq.quant.groups import Group, Groups
from edgeseq.quant.options import QuantOptions
from edgeseq.quant.structure import Structure

__all__ = ["CELL_FRACTION", "PRE_FRACTION", "UNIT_FRACTION", "Formats"]

PRE_FRACTION = 16
"""Fractional bits of a pre-activation or a score (int32)."""
CELL_FRACTION = 20
"""Fractional bits of an unbounded accumulating state: Q11.20, saturating at 2048."""
UNIT_FRACTION = 30
"""Fractional bits of an accumulating state within [-1, 1] (int32)."""

_MOST_FRACTION = 96
_LEAST_PRE = 2.0**-3  # a smaller pre-activation keeps more bits until its table is read
_MASK = 2.0**13  # what is farther below zero than this does not count in a softmax
_UNIT_COST = 4.0  # [-1, 1] is given a unit format that is at most this much coarser


class Formats:
    """Formats of the values of one real step, by key (`edgeseq.quant.structure`).

    Args:
        step: the real step Graph.
        stats: ranges of its values.
        options: widths and method.
    """

    def __init__(self, step: Graph, stats: dict[str, Stats], options: QuantOptions) -> None:
        self.stats, self.options = stats, options
        self.structure = Structure(step)
        self.groups = Groups(self.structure, stats, options)

    # -- one value -------------------------------------------------------------------------

    def shape(self, key: str) -> tuple[int, ...]:
        return self.structure.shape[key]

    def narrow_type(self, key: str, bits: int) -> Type:
        """The calibrated format of a value with `bits` bits: a view of it where it is wider."""
        stats, group = self._stats(key), self.groups[key]
        if bits == 8:
            calibrated = Type(self.shape(key), "i8", clip_range(stats, self.options.method) / 127.0)
        else:
            calibrated = self._calibrated(key, stats.top, max(map(abs, self.groups.interval[key])))
        bound = group.declared
        if bound is None and self._is_unit(key):
            bound = 1.0
        if bound is None:
            return calibrated
        whole = 2.0 ** math.ceil(math.log2(bound)) / 2.0 ** (bits - 1)
        # 16 bits hold all of [-1, 1] well; 8 bits need what the value really uses (2 to 7 dB).
        if bits == 8:
            whole = min(whole, calibrated.scalar_scale)
        return Type(calibrated.shape, calibrated.dtype, whole)

    def _is_unit(self, key: str) -> bool:
        return self.groups[key].fixed == ("i16", 2.0**-15)

    def whole_type(self, key: str) -> Type:
        """The calibrated format of a value with 32 bits."""
        limit = self._stats(key).top * self.options.margin or 1.0
        return Type(self.shape(key), "i32", 2.0 ** (math.ceil(math.log2(limit)) - 31))

    def _calibrated(self, key: str, top: float, bound: float) -> Type:
        """16 bits for magnitudes up to `top` with its margin, or for all there can be."""
        limit = top * self.options.margin
        if bound <= 1.0 and limit * _UNIT_COST >= 1.0:
            return Type(self.shape(key), "i16", 2.0**-15)
        limit = min(limit, bound * (1.0 + 2.0**-14))  # what is at the bound may be rounded up
        return Type(self.shape(key), "i16", (limit if limit > 0 else 1.0) / 32767.0)

    def _stats(self, key: str) -> Stats:
        if key in self.structure.consts:
            stats = Stats()
            stats.add(self.structure.consts[key])
            return stats
        return self.stats[key]

    # -- groups ----------------------------------------------------------------------------

    def group_type(self, key: str) -> Type:
        """The format that the members of the value's group share; the shape is the value's."""
        group = self.groups[key]
        shape = self.shape(key)
        if group.kind == "integrator":
            assert group.integrator is not None
            return Type(shape, "i32", self._state_scale(group.integrator))
        if group.kind == "fixed":
            assert group.fixed is not None
            return Type(shape, *group.fixed)
        if group.kind == "narrow":
            return self._narrow_group(key, group)
        return self._wide_group(key, group, 0.0)

    def result_type(self, key: str, bound: float = 0.0) -> Type:
        """Format of what a node of free choice makes.

        Args:
            key: of the value.
            bound: for a matrix product, the greatest magnitude its sum can have, in real units.
        """
        group = self.groups[key]
        if group.kind == "integrator":
            assert group.integrator is not None
            scale = self._state_scale(group.integrator)
            while self.stats[key].top >= 2.0**31 * scale:  # larger than the state itself
                scale *= 2.0
            return Type(self.shape(key), "i32", scale)
        if self.is_free(key):
            return self._wide_group(key, group, bound)
        return self.group_type(key)

    def is_free(self, key: str) -> bool:
        """True where a value may have any wide format."""
        return self.groups[key].kind == "wide" and not self.groups[key].held

    def state_type(self, key: str) -> Type:
        """Format of the state held by a value, the same before and after the step."""
        return self.group_type(key)

    def _narrow_group(self, key: str, group: Group) -> Type:
        shape = self.shape(key)
        if group.only_matrix and self.options.activation_bits == 8 and group.declared is None:
            # Of the members, the one that spans the range stands for all.
            widest = max(group.members, key=lambda k: (self._visible_top(k, group), k))
            clip = clip_range(self._stats(widest), self.options.method)
            return Type(shape, "i8", clip / 127.0)
        if group.declared is not None:
            return Type(shape, "i16", group.declared * 2.0**-15)
        if group.grid is not None and group.top <= 32768.0 * group.grid:
            return Type(shape, "i16", group.grid)
        if group.whole:  # a count or a mask stays exact
            limit = min(group.top * self.options.margin, max(group.bound, group.top))
            return Type(shape, "i16", 2.0 ** math.ceil(math.log2(limit / 32767.0)))
        return self._calibrated(key, group.top, group.bound)

    def _visible_top(self, key: str, group: Group) -> float:
        top = self._stats(key).top
        return top if top <= group.top else 0.0

    def _wide_group(self, key: str, group: Group, bound: float) -> Type:
        shape = self.shape(key)
        maker = self.structure.maker.get(self.structure.root(key))
        if maker is not None and maker.op == "mul" and group.bound <= 1.0:
            units = (self.groups.interval[k] for k in maker.inputs)
            if all(max(map(abs, ends)) <= 1.0 for ends in units):
                return Type(shape, "i32", 2.0**-30)
        top = group.top
        if group.score and -group.lo > max(_MASK, group.hi):
            top = max(group.hi, 1.0)  # a mask saturates
        tabled = group.table and top >= _LEAST_PRE and not group.relative
        fraction = PRE_FRACTION if tabled else _MOST_FRACTION
        # Where small values matter in proportion, a bit of room is a bit of all of them.
        room = self.options.margin**2 if group.relative else 4.0
        top = max((self._useful(key, top) or 1.0) * room, bound)
        while top * 2.0**fraction >= 2.0**31:
            fraction -= 1
        return Type(shape, "i32", 2.0**-fraction)

    def _useful(self, key: str, top: float) -> float:
        """`top`, or less where only masks of scores are made of the value."""
        uses = [u for k in self.groups[key].members for u in self.structure.readers[k]]
        made = [self.groups[s.outputs[0]] for s, _ in uses if s.op in ("add", "sub")]
        if len(made) < len(uses) or not made or not all(g.score for g in made):
            return top
        return min(top, 2.0 * _MASK)

    def _state_scale(self, key: str) -> float:
        """Of an accumulating state."""
        held = [h for h in self.structure.states if h.input == key]
        group = self.groups[key]
        bound = group.declared
        if bound is None and group.bound <= 1.0:
            bound = 1.0
        if bound is not None:
            return 2.0 ** (math.ceil(math.log2(bound)) - UNIT_FRACTION)
        top = max(self._stats(v).top for h in held for v in (h.input, h.output)) or 1.0
        fraction = CELL_FRACTION
        if not self.structure.meets_table(key):
            # A long run may go far beyond; but room costs small values their bits.
            room = 16.0 if group.relative else 256.0
            while top * 2.0 ** (fraction + 1) * room < 2.0**31 and fraction < _MOST_FRACTION:
                fraction += 1
        while top * 4.0 * 2.0**fraction >= 2.0**31:
            fraction -= 1
        return 2.0**-fraction
