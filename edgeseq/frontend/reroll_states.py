"""What a loop that was found carries: a state, rather than what the next turn computes of it.

An operation that depends on the state alone was counted to the turn that made the state, so that
its result would be carried: the recurrent product of a GRU, cut into gates, instead of h. Where the
same operation stands before the loop, on what the state begins with, or an exporter has computed
what it gives there, it may as well be done when the turn begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.frontend.program import Operation, Ref
from edgeseq.frontend.rolled import form_of, mapped, names_of, places_of

if TYPE_CHECKING:
    from edgeseq.frontend.reroll_turns import Matcher

__all__ = ["Carrying", "moved"]

_CLOSE = 1e-5
"""An exporter computes a constant in another order of sums than numpy."""
_PRODUCTS = ("Gemm", "MatMul", "Conv")


@dataclass
class Carrying:
    """A loop while its states are chosen.

    Attributes:
        template: operations of a turn.
        states: by the name that the template reads: what it is after the turn.
        initial: by the same name: what it is before the first.
        collect: values that are read outside of the loop.
    """

    template: list[Operation]
    states: dict[str, str]
    initial: dict[str, Any]
    collect: set[str]

    def ahead(self) -> list[Operation]:
        """Operations of which nothing is read in this turn, the last first."""
        found: list[Operation] = []
        ids: set[int] = set()
        readers: dict[str, list[Operation]] = {}
        for op in self.template:
            for name in names_of(op.args):
                readers.setdefault(name, []).append(op)
        after = set(self.states.values())
        for op in reversed(self.template):
            used = [o for o in op.outputs if o in after or o in readers]
            if used and not any(
                o in self.collect or any(id(q) not in ids for q in readers.get(o, ())) for o in used
            ):
                ids.add(id(op))
                found.append(op)
        return found

    def begin(self, operations: list[Operation], names: Mapping[str, str]) -> None:
        """Do these at the beginning of a turn instead, under the names that the turn reads."""
        ids = {id(op) for op in operations}
        made = {o for op in operations for o in op.outputs if o}
        for name in [n for n, after in self.states.items() if after in made]:
            del self.states[name], self.initial[name]
        first = [
            replace(
                op,
                args={k: mapped(a, names) for k, a in op.args.items()},
                outputs=tuple(names.get(o, o) for o in op.outputs),
            )
            for op in operations
        ]
        self.template[:] = [*first, *(op for op in self.template if id(op) not in ids)]


def moved(loop: Carrying, match: Matcher) -> None:
    """Do what prepares the next turn when that turn begins, where it is known to be the same."""
    while any(_moved_as_written(loop, match, op) for op in loop.ahead()) or any(
        _moved_as_computed(loop, match, f) for f in _sources(loop, match)
    ):
        pass


# -- the same operation stands before the loop -------------------------------------------------


def _moved_as_written(loop: Carrying, match: Matcher, op: Operation) -> bool:
    names = [n for n, after in loop.states.items() if after in op.outputs]
    read = {n for q in loop.template for n in names_of(q.args)}
    if not names or any(o in read for o in op.outputs):
        return False
    starts = [loop.initial[n] for n in names]
    befores = {s.name if isinstance(s, Ref) else None for s in starts}
    made = [match.made.get(n) if n else None for n in befores]
    if made[0] is None or any(q is not made[0] for q in made):
        return False
    before = made[0]
    begun = _begun(match, op, before)
    if not begun:
        return False
    for name, start in zip(names, starts, strict=True):
        if before.outputs.index(start.name) != op.outputs.index(loop.states[name]):
            return False
    back = {a: match.images[0][a] for a in begun}
    if any(not match.equal(loop.initial.get(back[a], b), b) for a, b in begun.items()):
        return False
    if any(loop.states.get(b, a) != a for a, b in back.items()):
        return False
    loop.begin([op], back | {loop.states[n]: n for n in names})
    for a, b in begun.items():
        loop.states[back[a]], loop.initial[back[a]] = a, b
    return True


def _begun(match: Matcher, op: Operation, before: Operation) -> dict[str, Any]:
    """What the values of a turn that `op` reads are where `before` stands for it, if any."""
    if form_of(op) != form_of(before) or any(o in match.elements for o in before.outputs):
        return {}
    found: dict[str, Any] = {}
    for path, ref in places_of(op.args):
        arg: Any = before.args
        try:
            for key in path:
                arg = arg[key]
        except (IndexError, KeyError, TypeError):
            return {}
        if ref.name in match.inner:
            if not match.equal(found.get(ref.name, arg), arg):
                return {}
            found[ref.name] = arg
        elif match.turn.get(ref.name, -1) >= 0:
            return {}
    holes = {name: Ref("") for name in found}
    same = all(
        match.equal(mapped(a, holes), _with_holes(before.args[k], op.args[k], found))
        for k, a in op.args.items()
    )
    return found if same else {}


def _with_holes(arg: Any, like: Any, names: Mapping[str, Any]) -> Any:
    """An argument with holes where `like` reads one of `names`."""
    if isinstance(like, Ref) and like.name in names:
        return Ref("")
    if isinstance(like, list) and isinstance(arg, list) and len(arg) == len(like):
        return [_with_holes(a, b, names) for a, b in zip(arg, like, strict=True)]
    return arg


# -- what it gives before the loop was computed ------------------------------------------------


def _sources(loop: Carrying, match: Matcher) -> list[str]:
    """Values of the turn that what prepares the next one is made of."""
    ahead = loop.ahead()
    made = {o for op in ahead for o in op.outputs}
    read = {n for op in ahead for n in names_of(op.args)}
    return sorted(n for n in read - made if n in match.inner)


def _moved_as_computed(loop: Carrying, match: Matcher, source: str) -> bool:
    """Whether what is made of `source` alone was moved, since it begins as that of a constant."""
    known = {source}
    part: list[Operation] = []
    for op in reversed(loop.ahead()):
        inside = [n for n in names_of(op.args) if match.turn.get(n, -1) >= 0]
        if inside and all(n in known for n in inside):
            part.append(op)
            known.update(o for o in op.outputs if o)
    while True:  # what others make something of stays, and so does what it needs in their turn
        ids = {id(op) for op in part}
        read = {n for op in loop.template if id(op) not in ids for n in names_of(op.args)}
        kept = [op for op in part if not any(o in read for o in op.outputs)]
        if len(kept) == len(part):
            break
        part = kept
    made = {o for op in part for o in op.outputs if o}
    ends = {n: after for n, after in loop.states.items() if after in made}
    table = match.program.constants
    starts = {n: _array(loop.initial[n], table) for n in ends}
    if not ends or any(s is None for s in starts.values()):
        return False
    name = match.images[0].get(source, "")
    if not name or loop.states.get(name, source) != source:
        return False
    carried = name in loop.states
    products = [op for op in part if op.base in _PRODUCTS]
    if not carried and not products:
        return False  # one state for another
    begin: Any
    if carried:
        begin = _array(loop.initial[name], table)
    else:
        sizes = _sizes(match, source, products[0], [np.shape(s) for s in starts.values()])
        begin = None if sizes is None else np.zeros(sizes, np.float32)
    if begin is None:
        return False
    values: dict[str, Any] = {**table, source: begin}
    for op in part:
        found = match.dialect.evaluated(op, values)
        if not found:
            return False
        values |= found
    for n, after in ends.items():
        want, have = np.asarray(starts[n]), np.asarray(values[after])
        if have.shape != want.shape:
            return False
        scale = float(np.abs(want).max(initial=0.0))
        if not np.abs(have - want).max(initial=0.0) <= _CLOSE * scale:
            return False
    loop.begin(part, {a: match.images[0][a] for a in (source, *made)})
    loop.states[name] = source
    if not carried:
        loop.initial[name] = begin
    return True


def _array(value: Any, constants: Mapping[str, Any]) -> Any:
    """The constant behind what a state begins with, or None."""
    if isinstance(value, Ref):
        value = constants.get(value.name)
    return value if isinstance(value, np.ndarray) else None


def _sizes(
    match: Matcher, name: str, product: Operation, ends: list[tuple[int, ...]]
) -> tuple[int, ...] | None:
    """Sizes of a value of the turn; by the product that reads it where nothing says them."""
    meta = match.program.metas.get(name)
    if meta is not None:
        return meta.sizes
    inputs = product.args.get("inputs", [])
    weight = match.program.constants.get(getattr(inputs[1], "name", "")) if inputs[1:] else None
    if not isinstance(weight, np.ndarray) or weight.ndim != 2 or inputs[0] != Ref(name):
        return None
    if product.base == "Gemm":
        if product.args.get("transA"):
            return None
        return ends[0][0], weight.shape[1 if product.args.get("transB") else 0]
    return (*ends[0][:-1], weight.shape[0])
