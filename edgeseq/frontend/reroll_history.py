"""Loops whose turns read more than the turn before: a filter's last two outputs, a skipped state.

``y = b * x[:, t] - a1 * ys[-1] - a2 * ys[-2]`` reads a value of two turns ago. Where such a value
is passed on from turn to turn by operations that do nothing, every turn reads the one before only,
which is all that `reroll_turns` knows of. Passing a value on changes nothing, so a program stays
what it was even where no loop is found in it.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgeseq.frontend.program import Operation, Program, Ref, refs_of
from edgeseq.frontend.rolled import (
    LOOP,
    MOST_BACK,
    Dialect,
    Element,
    Failed,
    Turns,
    form_of,
    frozen,
    names_of,
    numbered,
    places_of,
)

__all__ = ["Passing", "passed_on"]

_PASS = "edgeseq.pass.default"
_MOST_PASSED = 100_000
"""Passing operations of one program, which a hostile file could make very many."""

_Path = tuple[Any, ...]
"""Where in its arguments an operation reads a value."""

_Source = tuple[Any, ...]
"""What a value is in any turn: ('op', number in the turn, output) or ('element', of which axis)."""

_Places = dict[_Path, tuple[Any, _Source, int, int]]
"""Where an operation reads what has to be passed on: the value, its source, how many turns ago, and
the turn that reads it."""


@dataclass
class Passing:
    """A program whose values are passed on from turn to turn.

    Attributes:
        program: with the passing operations.
        written: (operation, the same as the exporter wrote it) for those that read passed values.
    """

    program: Program
    written: list[tuple[Operation, Operation]] = field(default_factory=list)

    def without(self, program: Program) -> Program:
        """A program with its new loop, free of what passes values on.

        Raises:
            Failed: something outside of the loop reads a passed value.
        """
        back = {id(new): old for new, old in self.written}
        operations = []
        for op in program.operations:
            if op.target == LOOP:
                loop = op.args["loop"]
                plain = [back.get(id(q), q) for q in loop.plain if q.target != _PASS]
                loop = replace(loop, body=_direct(loop.body), plain=plain)
                op = replace(op, args={**op.args, "loop": loop})
            op = back.get(id(op), op)
            if op.target == _PASS:
                raise Failed
            operations.append(op)
        return replace(program, operations=operations)


def _direct(body: Program) -> Program:
    """The body of a loop with what is passed on in the place of what passes it on."""
    names = {op.outputs[0]: op.args["value"] for op in body.operations if op.target == _PASS}
    kept = [op for op in body.operations if op.target != _PASS]
    return replace(body, operations=kept, outputs=[names.get(r.name, r) for r in body.outputs])


def passed_on(
    program: Program, dialect: Dialect, elements: Mapping[str, Element], reverse: bool
) -> Passing | None:
    """`program` with values that a turn reads of turns before the last passed on to it.

    Returns:
        None where no turn does so, or where turns differ too much to say which value is meant.

    Raises:
        Failed: the elements are those of no loop.
    """
    turns = Turns(program, elements, reverse)
    model = turns.n // 2  # the last turns lack what prepares others
    if model < 2:
        return None
    numbers = numbered(program, dialect)
    history = _History(turns, model, numbers)
    places = history.places() if any(history.wanted) else None
    return None if places is None else _Writer(program, history.marks(), numbers).passing(places)


class _History:
    """Which places of a turn read which values of how many turns ago."""

    def __init__(self, turns: Turns, model: int, numbers: dict[str, Any]) -> None:
        self.turns, self.model, self.numbers = turns, model, numbers
        self.sources: dict[str, _Source] = {}
        self.first: dict[tuple[int, _Source], str] = {}
        for name, e in turns.elements.items():
            self.sources[name] = ("element", e.source, e.dim, e.keep)
            self.first.setdefault((turns.turn[name], self.sources[name]), name)
        for t in range(model + 1):
            for i, op in enumerate(turns.groups[t]):
                self._call(op, i)
        # By operation of a turn: its places with what they read there.
        self.wanted = [dict(self._far(op)) for op in turns.groups[model]]

    def _call(self, op: Operation, i: int) -> None:
        """Note that an operation is number i of its turn."""
        self.sources |= {out: ("op", i, k) for k, out in enumerate(op.outputs)}

    def _far(self, op: Operation) -> Iterator[tuple[_Path, tuple[_Source, int]]]:
        for path, ref in places_of(op.args):
            made = self.turns.turn.get(ref.name, -1)
            back = self.model - made
            least = 1 if ref.name in self.turns.elements else 2
            if made >= 0 and least <= back <= MOST_BACK:
                yield path, (self.sources[ref.name], back)

    def places(self) -> dict[int, _Places] | None:
        """By operation: the places to which a value has to be passed on; see `passed_on`."""
        model = self.turns.groups[self.model]
        found: dict[int, _Places] = {}
        for t in range(self.model + 1):
            group = self.turns.groups[t]
            if [form_of(op) for op in group] != [form_of(op) for op in model]:
                return None
            for op, places in zip(group, self.wanted, strict=True):
                found[id(op)] = {p: (_at(op.args, p), *what, t) for p, what in places.items()}
                if not all(self._is(*place) for place in found[id(op)].values()):
                    return None
        # Later turns lack what nothing reads any more, and the last has what comes after.
        numbers: dict[Any, list[int]] = {}
        for i, op in enumerate(model):
            numbers.setdefault(self._reads(op, self.model), []).append(i)
        for t in range(self.model + 1, self.turns.n):
            left = {key: list(same) for key, same in numbers.items()}
            for op in self.turns.groups[t]:
                same = left.get(self._reads(op, t))
                if same:
                    i = same.pop(0)
                    self._call(op, i)
                    places = self.wanted[i]
                    found[id(op)] = {p: (_at(op.args, p), *what, t) for p, what in places.items()}
        return found

    def _is(self, value: Any, source: _Source, back: int, t: int) -> bool:
        """Whether a value may be what a source was `back` turns before turn t."""
        made = self.turns.turn.get(value.name, -1) if isinstance(value, Ref) else -1
        if t < back:
            return made < 0 and value is not None
        return made == t - back and self.sources.get(value.name) == source

    def _reads(self, op: Operation, t: int) -> Any:
        """What an operation does and reads, alike for the same one in another turn."""
        names = {}
        for name in names_of(op.args):
            made = self.turns.turn.get(name, -1)
            if made >= 0:
                names[name] = self.sources.get(name), t - made
        args = [op.args[k] for k in sorted(op.args)]
        return form_of(op), frozen(args, ChainMap(names, self.numbers))

    def marks(self) -> dict[int, str]:
        """By turn: an element that tells it, of the same axis in each."""
        kind = next(source for t, source in self.first if t == self.model)
        return {t: name for (t, source), name in self.first.items() if source == kind}


class _Writer:
    """Writes a program whose values are passed on."""

    def __init__(self, program: Program, marks: Mapping[int, str], numbers: Mapping[str, Any]):
        self.program, self.marks, self.numbers = program, marks, numbers
        self.operations: list[Operation] = []
        self.defined = {*program.inputs, *program.constants}
        self.metas = dict(program.metas)
        self.made: dict[tuple[_Source, int, int], tuple[str, Any]] = {}

    def passing(self, places: Mapping[int, _Places]) -> Passing:
        """The program with what is read at `places` passed on.

        Raises:
            Failed: two places take a value to begin differently, it is not there in time, or there
            are too many.
        """
        written = []
        for op in self.program.operations:
            far = places.get(id(op))
            if far:
                read = {path: self._carried(*place) for path, place in far.items()}
                new = replace(op, args=_replaced(op.args, read))
                written.append((new, op))
                op = new
            self.operations.append(op)
            self.defined.update(op.outputs)
        program = replace(self.program, operations=self.operations, metas=self.metas)
        return Passing(program, written)

    def _carried(self, value: Any, source: _Source, back: int, t: int) -> Any:
        """What turn t reads instead of `value`, which `source` was `back` turns ago."""
        # An element is passed on in its own turn too, to be a value of the turn like others.
        nearest = 0 if source[0] == "element" else 1
        for k in range(nearest, back):
            if t - back + k >= 0:
                value = self._passed(value, source, k, t - back + k)
        return value

    def _passed(self, value: Any, source: _Source, k: int, turn: int) -> Ref:
        """What `source` was k turns before `turn`, to be read in the next turn."""
        key, same = (source, k, turn), frozen(value, self.numbers)
        if key not in self.made:
            mark = self.marks.get(turn)
            if len(self.made) >= _MOST_PASSED or mark not in self.defined:
                raise Failed
            if not {r.name for r in refs_of(value)} <= self.defined:
                raise Failed
            name = f"pass.{len(self.made)}"
            args = {"value": value, "at": Ref(mark), "key": f"{source}/{k}"}
            self.operations.append(Operation(_PASS, args, (name,)))
            self.defined.add(name)
            if isinstance(value, Ref) and value.name in self.metas:
                self.metas[name] = self.metas[value.name]
            self.made[key] = name, same
        if self.made[key][1] != same:
            raise Failed
        return Ref(self.made[key][0])


def _at(arg: Any, path: _Path) -> Any:
    """What an operation reads at a place, None where it has no such place."""
    for key in path:
        try:
            arg = arg[key]
        except (IndexError, KeyError, TypeError):
            return None
    return arg


def _replaced(arg: Any, names: Mapping[_Path, Any], path: _Path = ()) -> Any:
    """An argument with others at some places."""
    if path in names:
        return names[path]
    if isinstance(arg, dict):
        return {k: _replaced(a, names, (*path, k)) for k, a in arg.items()}
    if isinstance(arg, list):
        return [_replaced(a, names, (*path, i)) for i, a in enumerate(arg)]
    return arg
