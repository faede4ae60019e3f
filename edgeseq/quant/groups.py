"""Groups: values that are only moved from one to another, and must share one format.

A value that travels through a ring of past frames would otherwise be requantised at every step.
What a `concat`, a `select`, a `max` or a `min` joins is one group where that costs little: where
its parts are wanted in the same width and have ranges of the same size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgeseq.ir.functions import FUNCTIONS
from edgeseq.quant.bounds import Interval, intervals
from edgeseq.quant.calibrate import Stats
from edgeseq.quant.options import QuantOptions
from edgeseq.quant.structure import CHOICES, Site, Structure

__all__ = ["Format", "Group", "Groups"]

Format = tuple[str, float]
"""Element type and scale."""

UNIT: Format = ("i16", 2.0**-15)
TRUTH: Format = ("i8", 1.0)
WHOLE_16: Format = ("i16", 1.0)
WHOLE_32: Format = ("i32", 1.0)

_ELEMENT = frozenset({"add", "sub", "mul", "lut", "wide", "compare", "embed"})
_CLOSE = 2.0  # ranges that differ by a bit share a format


@dataclass
class Group:
    """Values with one format, and what is wanted of them.

    Attributes:
        members: their keys.
        top: greatest magnitude of those that are read by more than a clamp.
        lo, hi: least and greatest value of the same.
        bound: magnitude that no input can exceed; infinite if none is known.
        declared: bound of a state among them, by the mathematics of its cell.
        whole: all numbers it was seen to hold are whole, and within 16 bits.
        grid: units of 16 bits in which an input among them is exact.
        fixed: the format its maker gives it, if there is no choice.
        narrow: a matrix product, a norm, a table over its own range, an output or a copied state
            reads it.
        matrix: a product with a constant matrix reads it.
        element: element-wise arithmetic, a table or a product of two values reads it.
        limited: its maker gives 16 bits at most.
        score: a softmax reads it.
        relative: small values matter in proportion, or a matrix reads all 32 bits.
        table: a function of fixed domain reads it or what is made of it.
        output: it is an output of the step.
        held: its format must be known before its maker is converted.
        state: a state of it carries it on.
        integrator: key of the state it accumulates in.
    """

    members: list[str] = field(default_factory=list)
    top: float = 0.0
    lo: float = np.inf
    hi: float = -np.inf
    bound: float = 0.0
    declared: float | None = None
    fixed: Format | None = None
    whole: bool = False
    grid: float | None = None
    narrow: bool = False
    matrix: bool = False
    element: bool = False
    limited: bool = False
    score: bool = False
    relative: bool = False
    table: bool = False
    output: bool = False
    held: bool = False
    state: bool = False
    integrator: str | None = None

    @property
    def kind(self) -> str:
        """'integrator', 'fixed', 'narrow' (16 bits or 8) or 'wide' (32 bits)."""
        if self.integrator is not None:
            return "integrator"
        if self.fixed is not None:
            return "fixed"
        if self.limited or (self.narrow and not (self.score or self.relative)):
            return "narrow"
        return "wide"

    @property
    def only_matrix(self) -> bool:
        """True where nothing but products with constant matrices reads it."""
        return self.matrix and not self.element and not self.output

    def joined(self, other: Group) -> Group:
        """Both as one."""
        one = Group(
            self.members + other.members,
            max(self.top, other.top),
            min(self.lo, other.lo),
            max(self.hi, other.hi),
            max(self.bound, other.bound),
            self.declared if self.declared is not None else other.declared,
            self.fixed if self.fixed == other.fixed else None,
            self.whole and other.whole,
            self.grid or other.grid,
            integrator=self.integrator or other.integrator,
        )
        for flag in _FLAGS:
            setattr(one, flag, getattr(self, flag) or getattr(other, flag))
        return one


_FLAGS = (
    "narrow", "matrix", "element", "limited", "score", "relative", "table", "output", "held",
    "state",
)  # fmt: skip


class Groups:
    """The groups of a step.

    Args:
        structure: of the step.
        stats: ranges by key.
        options: widths.
    """

    def __init__(
        self, structure: Structure, stats: Mapping[str, Stats], options: QuantOptions
    ) -> None:
        self.structure, self.stats, self.options = structure, stats, options
        self.interval: dict[str, Interval] = intervals(structure)
        self._of: dict[str, Group] = {}
        members: dict[str, list[str]] = {}
        for key in structure.shape:
            members.setdefault(structure.root(key), []).append(key)
        for root, keys in members.items():
            group = self._gather(root, keys)
            self._of.update(dict.fromkeys(keys, group))
        # From the last one back: what reads a result is then known before its parts are judged.
        for site in reversed([s for s in structure.sites if s.op in CHOICES]):
            self._choose(site)

    def __getitem__(self, key: str) -> Group:
        return self._of[key]

    # -- one group -------------------------------------------------------------------------

    def _gather(self, root: str, keys: list[str]) -> Group:
        structure = self.structure
        group = Group(keys)
        visible = [k for k in keys if not self._only_clamped(k)] or keys
        group.top = max(self._top(k) for k in visible)
        group.lo = min(self._least(k) for k in visible)
        group.hi = max(self._greatest(k) for k in visible)
        group.whole = 0.0 < group.top < 2.0**14 and all(self._whole(k) for k in visible)
        group.bound = max(max(map(abs, self.interval[k])) for k in visible)
        members = set(keys)
        for held in structure.states:
            if held.input in members:
                group.state = group.held = True
                if held.state.bound is not None:
                    group.declared = max(held.state.bound, group.declared or 0.0)
        for key in keys:
            group.integrator = group.integrator or structure.integrator.get(key)
            group.table = group.table or structure.meets_table(key)
            group.relative = group.relative or structure.is_relative(key)
            for site, i in structure.readers[key]:
                self._note(group, site, i)
        if members & structure.outputs:
            group.output = group.narrow = True
        if group.state and group.integrator is None:
            group.narrow = True
        maker = structure.maker.get(root)
        if maker is not None:
            self._made(group, maker)
        elif root in structure.step.inputs:
            self._input(group, self.stats[root].grid)
        elif root in structure.consts:
            group.limited = True
        return group

    def _only_clamped(self, key: str) -> bool:
        """True where the value is read by clamps alone: what they cut off needs no range."""
        uses = self.structure.readers[key]
        carried = any(h.output == key for h in self.structure.states)
        if carried or key in self.structure.outputs or not uses:
            return False
        return all(site.op == "clamp" for site, _ in uses)

    def _note(self, group: Group, site: Site, i: int) -> None:
        """What a reader wants."""
        op = site.op
        if op in ("linear", "depthwise"):
            bits = self.options.activations_of(site.name)
            if bits == 32 and op == "linear":
                group.relative = group.element = True
            else:
                group.narrow = group.matrix = True
                group.element = group.element or bits > self.options.activation_bits
        elif op in ("matmul", "norm") or (op == "lut" and _own_range(site)):
            group.narrow = group.element = True
        elif op == "softmax":
            group.score = group.element = True
        elif op in _ELEMENT or (op == "select" and i == 0):
            group.element = True

    def _made(self, group: Group, maker: Site) -> None:
        """What the maker of a group leaves no choice about."""
        op = maker.op
        unit = self._starts_in_unit(group)
        if op == "lut":
            image = FUNCTIONS[maker.node.attrs["fn"]].image
            if image is not None and max(map(abs, image)) <= 1.0 and unit:
                group.fixed = UNIT
            elif maker.node.attrs["fn"] != "abs":
                group.limited = group.element = True  # nodes of 8 bits would round twice
        elif op == "softmax":
            group.fixed = UNIT
        elif op == "compare":
            group.fixed = TRUTH
        elif op == "embed":
            group.limited = True
        elif op in CHOICES:
            group.held = True
        if group.fixed is not None:
            group.integrator = None

    def _starts_in_unit(self, group: Group) -> bool:
        members = set(group.members)
        return all(
            bool(np.all(np.abs(h.state.init) <= 1.0))
            for h in self.structure.states
            if h.input in members
        )

    def _input(self, group: Group, grid: float | None) -> None:
        group.limited, group.grid = True, grid
        uses = [u for k in group.members for u in self.structure.readers[k]]
        moved = [u for u in uses if u[0].outputs[0] not in group.members]
        whole = [u for u in moved if u[0].op == "embed" and u[1] == 0]
        if moved and len(whole) == len(moved):
            rows = max(self.structure.shape[s.inputs[1]][0] for s, _ in whole)
            group.fixed = WHOLE_16 if rows <= 1 << 15 else WHOLE_32

    def _top(self, key: str) -> float:
        return max(abs(self._least(key)), abs(self._greatest(key)))

    def _least(self, key: str) -> float:
        array = self.structure.consts.get(key)
        return float(array.min()) if array is not None else self._finite(self.stats[key].lo)

    def _greatest(self, key: str) -> float:
        array = self.structure.consts.get(key)
        return float(array.max()) if array is not None else self._finite(self.stats[key].hi)

    def _whole(self, key: str) -> bool:
        array = self.structure.consts.get(key)
        return self.stats[key].whole if array is None else bool(np.all(array == np.floor(array)))

    @staticmethod
    def _finite(x: float) -> float:
        return x if np.isfinite(x) else 0.0

    # -- joining ---------------------------------------------------------------------------

    def _choose(self, site: Site) -> None:
        """Join the parts of a result with it where they can share its format."""
        operands = site.inputs[1:] if site.op == "select" else site.inputs
        parts = [k for k in operands if k not in self.structure.consts]
        made = site.outputs[0]
        self._agree_on_fixed(site, parts)
        for part in dict.fromkeys(parts):
            p, r = self[part], self[made]
            if p is r:
                continue
            if p.kind == "wide" and r.kind == "narrow" and not p.element:
                p.narrow, p.matrix = True, p.matrix or r.matrix
                p.element = p.element or r.element
            elif p.kind == "wide" and r.kind == "narrow":
                p.narrow = True
            both = p.joined(r)
            sole = all(s is site for k in p.members for s, _ in self._outside(k, p))
            if p.kind == r.kind == both.kind and p.kind in ("narrow", "wide"):
                if p.only_matrix != r.only_matrix and not sole:
                    continue
                if sole or p.top * _CLOSE >= r.top or (p.kind == "wide" and both.table):
                    self._replace(both)

    def _outside(self, key: str, group: Group) -> Iterable[tuple[Site, int]]:
        return (u for u in self.structure.readers[key] if u[0].outputs[0] not in group.members)

    def _agree_on_fixed(self, site: Site, parts: Iterable[str]) -> None:
        """A result whose parts all come in one format that they cannot change has it too."""
        made = self[site.outputs[0]]
        if made.fixed is not None or made.integrator is not None:
            return
        formats = {self[k].fixed for k in parts if self[k] is not made}
        if formats == {UNIT} and made.bound <= 1.0 and self._starts_in_unit(made):
            made.fixed = UNIT
        elif formats == {TRUTH} and made.bound <= 1.0 and made.whole:
            made.fixed = TRUTH

    def _replace(self, group: Group) -> None:
        self._of.update(dict.fromkeys(group.members, group))


def _own_range(site: Site) -> bool:
    """True for a table over the range of its input."""
    fn = site.node.attrs["fn"]
    return fn != "abs" and FUNCTIONS[fn].domain is None
