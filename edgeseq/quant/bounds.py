"""Bounds that values of a real step never leave, whatever its inputs are.

A state is within [-1, 1] if it starts there and, supposing that it is there before a step, it is
there after it. All states are supposed to be at first; those for which that fails are not, and the
others are looked at again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.graph import Graph
from edgeseq.quant.structure import Held, Link, Site, Structure

__all__ = ["ALL", "Interval", "intervals", "ranges"]

Interval = tuple[float, float]
ALL: Interval = (-np.inf, np.inf)
_UNIT: Interval = (-1.0, 1.0)
_SLACK = 1e-9


def intervals(structure: Structure) -> dict[str, Interval]:
    """Least and greatest value of every key, as far as the operations show it."""
    supposed: dict[str, Interval] = {}
    for held in structure.states:
        bound = held.state.bound
        if bound is not None:
            supposed[held.input] = (-bound, bound)
        elif np.all(np.abs(held.state.init) <= 1.0):
            supposed[held.input] = _UNIT
    while True:
        found = _Pass(structure, supposed).run()
        wrong = [
            held.input
            for held in structure.states
            if held.state.bound is None and held.input in supposed and not _within_unit(found, held)
        ]
        if not wrong:
            return found
        for key in wrong:
            del supposed[key]


def ranges(step: Graph) -> dict[str, float]:
    """Greatest magnitude of each output of a real step, where its operations bound it.

    That of a sigmoid is 1, whatever it was seen to answer.
    """
    found = intervals(Structure(step))
    tops = {name: max(map(abs, found[name])) for name in step.outputs}
    return {name: float(top) for name, top in tops.items() if np.isfinite(top)}


def _within_unit(found: Mapping[str, Interval], held: Held) -> bool:
    ends = [found[held.output]]
    if held.start is not None:
        ends.append(found[held.start])
    return all(lo >= -1.0 - _SLACK and hi <= 1.0 + _SLACK for lo, hi in ends)


class _Pass:
    """One walk through the values, with what is supposed of the states."""

    def __init__(self, structure: Structure, supposed: Mapping[str, Interval]) -> None:
        self.structure = structure
        self.found: dict[str, Interval] = dict.fromkeys(structure.shape, ALL)
        self.found.update(supposed)
        for key, array in structure.consts.items():
            self.found[key] = (float(array.min()), float(array.max()))

    def run(self) -> dict[str, Interval]:
        for item in self.structure.order:
            if isinstance(item, Link):
                self.found[item.target] = self.found[item.source]
                continue
            rule = getattr(self, f"_{item.op}", None)
            if rule is not None:
                self.found[item.outputs[0]] = rule(item)
        return self.found

    def _args(self, site: Site) -> list[Interval]:
        return [self.found[k] for k in site.inputs]

    def _same(self, site: Site) -> Interval:
        return self.found[site.inputs[0]]

    _reshape = _slice = _strided = _rescale = _same

    def _hull(self, site: Site) -> Interval:
        args = self._args(site)
        return min(lo for lo, _ in args), max(hi for _, hi in args)

    _concat = _hull

    def _select(self, site: Site) -> Interval:
        _, a, b = self._args(site)
        return min(a[0], b[0]), max(a[1], b[1])

    def _lut(self, site: Site) -> Interval:
        return FUNCTIONS[site.node.attrs["fn"]].image or ALL

    def _softmax(self, site: Site) -> Interval:
        return 0.0, 1.0

    _compare = _softmax

    def _embed(self, site: Site) -> Interval:
        return self.found[site.inputs[1]]

    def _clamp(self, site: Site) -> Interval:
        lo, hi = self._same(site)
        low, high = site.node.attrs["lo"], site.node.attrs["hi"]
        floor, top = -np.inf if low is None else low, np.inf if high is None else high
        return min(max(lo, floor), top), min(max(hi, floor), top)

    def _max(self, site: Site) -> Interval:
        a, b = self._args(site)
        return max(a[0], b[0]), max(a[1], b[1])

    def _min(self, site: Site) -> Interval:
        a, b = self._args(site)
        return min(a[0], b[0]), min(a[1], b[1])

    def _mul(self, site: Site) -> Interval:
        a, b = self._args(site)
        with np.errstate(invalid="ignore"):
            ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
        lo, hi = min(ends), max(ends)
        return (max(lo, 0.0) if site.inputs[0] == site.inputs[1] else lo), hi

    def _add(self, site: Site) -> Interval:
        a, b = self._args(site)
        lo, hi = a[0] + b[0], a[1] + b[1]
        mixed = self._mixture(*site.inputs) or self._mixture(*reversed(site.inputs))
        return (max(lo, mixed[0]), min(hi, mixed[1])) if mixed is not None else (lo, hi)

    def _sub(self, site: Site) -> Interval:
        a, b = self._args(site)
        return a[0] - b[1], a[1] - b[0]

    # -- a gate between two values ---------------------------------------------------------

    def _mixture(self, a: str, b: str) -> Interval | None:
        """The hull of x and y where a + b is (1 - z) x + z y or x + z (y - x), 0 <= z <= 1."""
        for z, y in self._factors(b):
            if not (self.found[z][0] >= 0.0 and self.found[z][1] <= 1.0):
                continue
            maker = self.structure.maker.get(y)
            if maker is not None and maker.op == "sub" and maker.inputs[1] == a:
                return self._join(a, maker.inputs[0])
            for rest, x in self._factors(a):
                if self._complement(rest, z) or self._complement(z, rest):
                    return self._join(x, y)
        return None

    def _factors(self, key: str) -> list[tuple[str, str]]:
        site = self.structure.maker.get(key)
        if site is None or site.op != "mul":
            return []
        a, b = site.inputs
        return [(a, b), (b, a)]

    def _complement(self, rest: str, z: str) -> bool:
        """True where `rest` is 1 - z."""
        site = self.structure.maker.get(rest)
        if site is None or site.op != "sub" or site.inputs[1] != z:
            return False
        one = self.structure.consts.get(site.inputs[0])
        return one is not None and bool(np.all(one == 1.0))

    def _join(self, x: str, y: str) -> Interval:
        (a, b), (c, d) = self.found[x], self.found[y]
        return min(a, c), max(b, d)
