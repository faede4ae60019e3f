"""Compares the turns of what may be an unrolled loop, and writes the loop if they are alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeseq.frontend.program import Operation, Program, Ref, refs_of
from edgeseq.frontend.reroll_states import Carrying, moved
from edgeseq.frontend.rolled import (
    LOOP,
    Collected,
    Dialect,
    Element,
    Failed,
    Loop,
    Turns,
    Write,
    form_of,
    frozen,
    mapped,
    names_of,
    numbered,
    places_of,
)

__all__ = ["Effort", "Matcher"]

_MOST_EFFORT = 5_000_000


@dataclass
class Effort:
    """Bounds the comparisons of one program, which a hostile file could make many."""

    left: int = _MOST_EFFORT

    def spend(self, count: int) -> None:
        """Raise where too much was compared (Failed)."""
        self.left -= count
        if self.left < 0:
            raise Failed


class Matcher:
    """Tries to see the elements of some axes as what the turns of one loop read."""

    def __init__(
        self,
        program: Program,
        dialect: Dialect,
        elements: Mapping[str, Element],
        reverse: bool,
        effort: Effort,
    ) -> None:
        self.program, self.dialect, self.reverse = program, dialect, reverse
        self.effort = effort
        self.made = {o: op for op in program.operations for o in op.outputs if o}
        self.turns = Turns(program, elements, reverse)
        self.n, self.elements, self.turn = self.turns.n, self.turns.elements, self.turns.turn
        self.groups = self.turns.groups
        self.template = self.groups[1]
        self.inner = {o for op in self.template for o in op.outputs if o}
        self.images: list[dict[str, str]] = []
        self.back: dict[str, str] = {}
        # Operations of the template that the first turn has no counterpart of: see `neutral`.
        self.left_out: dict[int, str] = {}
        # Operations of the template that the first turn does without: it begins with an element.
        self.missing: set[int] = set()
        # Operations of turn 0 alone, see `_before`.
        self.before: list[Operation] = []
        # Values of the template that are an element in the first turn, with that element.
        self.seeds: dict[str, str] = {}
        self.numbers: dict[str, Any] = {}

    # -- turns that are alike --------------------------------------------------------------

    def rolled(self) -> Program:
        """The program with the loop as one operation.

        Raises:
            Failed: it is no loop.
        """
        if not any(n in self.elements for op in self.template for n in names_of(op.args)):
            raise Failed
        self.numbers = numbered(self.program, self.dialect)
        for t in range(self.n):
            self.images.append({})
            self._find(t)
            if t == 0:
                self.back = {b: a for a, b in self.images[0].items()}
        # What turn 0 makes and the template reads is carried from turn to turn.
        places: dict[str, list[tuple[int, tuple[Any, ...]]]] = {}
        for i, op in enumerate(self.template):
            for path, ref in places_of(op.args):
                outside = ref.name not in self.inner and ref.name not in self.elements
                if outside and self.turn.get(ref.name, -1) >= 0:
                    places.setdefault(ref.name, []).append((i, path))
        if any(name not in self.back for name in places) or bool(self.missing) != bool(self.seeds):
            raise Failed
        initial = {name: self._initial(name, found) for name, found in places.items()}
        collected, replaced = self._collected()
        carried = {n: self.back[n] for n in (*places, *self.seeds.values()) if n in self.back}
        return self._program(carried, initial, collected, replaced)

    def _find(self, t: int) -> None:
        """Find what each value of the template is in turn t: its image.

        Operations that have no counterpart in one of the last turns prepare a turn that does not
        come, or that does not prepare another. All that a turn has must have its place in the
        template, so whatever reads such a value later is missing as well.
        """
        image = self.images[t]
        if t == 1:
            image.update((o, o) for o in self.inner)
            return
        alike: dict[Any, list[Operation]] = {}
        for op in self.groups[t]:
            alike.setdefault(form_of(op), []).append(op)
        taken = 0
        for i, op in enumerate(self.template):
            others = alike.get(form_of(op), [])
            for k, other in enumerate(others):
                self.effort.spend(1)
                if not self._same(op, other, t, image):
                    turned = self.dialect.swapped(other)
                    if turned is None or not self._same(op, turned, t, image):
                        continue
                    self.made.update((o, turned) for o in turned.outputs)
                del others[k]
                taken += 1
                image.update((a, b) for a, b in zip(op.outputs, other.outputs, strict=True))
                break
            else:
                through = self._passed(op, image) if t == 0 else None
                if through is not None:
                    image[op.outputs[0]], self.left_out[i] = through
                elif t == 0:
                    self.missing.add(i)
        if t == 0:
            self._before([op for left in alike.values() for op in left])
        elif t != self.n - 1 and taken != len(self.groups[t]):
            raise Failed

    def _before(self, left: list[Operation]) -> None:
        """Operations of turn 0 that no other turn has make of an element what the loop begins with.

        ``h = x[:, 0]``, and the loop begins with the same frame.
        """
        ids = {id(op) for op in left}
        self.before = [op for op in self.groups[0] if id(op) in ids]
        made: set[str] = set()
        for op in self.before:
            for name in names_of(op.args):
                if self.turn.get(name, -1) >= 0 and name not in made and not self._is_first(name):
                    raise Failed
            made.update(op.outputs)

    def _is_first(self, name: str) -> bool:
        """Whether a value is an element that turn 0 takes."""
        return name in self.elements and self.turn[name] == 0

    def _passed(self, op: Operation, image: Mapping[str, str]) -> tuple[str, str] | None:
        """Of an operation that gives an operand unchanged in turn 0, whose state is zero: what it
        gives there, and the state."""
        for name in names_of(op.args):
            if self.turn.get(name, -1) == 0 and name not in self.elements:
                other = self.dialect.neutral(op, Ref(name))
                if isinstance(other, Ref) and other.name in image:
                    return image[other.name], name
        return None

    def _same(self, op: Operation, other: Operation, t: int, image: dict[str, str]) -> bool:
        """Whether `other` is in turn t what `op` is in the template."""
        seeds = dict(self.seeds)
        if self._alike(op, other, t, image):
            # In turn 0 anything may stand where a state is read: such an operation shows no seed.
            reads = any(self.turn.get(n, -1) == 0 and n not in self.elements
                        for n in names_of(op.args))  # fmt: skip
            if t or not reads or self.seeds == seeds:
                return True
        for name in set(self.seeds) - set(seeds):  # was taken for one in vain
            del self.back[self.seeds[name]], self.images[0][name]
        self.seeds = seeds
        return False

    def _alike(self, op: Operation, other: Operation, t: int, image: dict[str, str]) -> bool:
        a = self.dialect.write(op)
        if a is not None:
            b = self.dialect.write(other)
            return (
                b is not None
                and self.turns.of(b.index) == t
                and (a.dim, a.keep, a.size) == (b.dim, b.keep, b.size)
                and self._same_arg(a.source, b.source, t, image)
                and self._same_arg(a.base, b.base, t, image)
            )
        return all(self._same_arg(a, other.args[k], t, image) for k, a in op.args.items())

    def _same_arg(self, a: Any, b: Any, t: int, image: Mapping[str, str]) -> bool:
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(
                self._same_arg(x, y, t, image) for x, y in zip(a, b, strict=True)
            )
        if not isinstance(a, Ref):
            return self.equal(a, b)
        if not isinstance(b, Ref):  # a number, which a state may begin with
            return t == 0 and self.turn.get(a.name, -1) == 0 and a.name not in self.elements
        if self._begins(a.name, b.name, t, image):
            return True
        if a.name in self.elements:
            x, y = self.elements[a.name], self.elements.get(b.name)
            return (
                y is not None
                and (x.source, x.dim, x.keep) == (y.source, y.dim, y.keep)
                and (self.turns.of(x.index), self.turns.of(y.index)) == (1, t)
            )
        if self.turn.get(a.name, -1) == 0:  # carried: in turn 0 whatever it begins with
            return t == 0 or self._carried(a.name, t) == b.name
        if a.name in self.inner:
            return image.get(a.name) == b.name
        return self.equal(a, b)

    def _begins(self, name: str, other: str, t: int, image: Mapping[str, str]) -> bool:
        """Whether a value that the template makes is an element in the first turn.

        ``ys = [x[:, 0]]``, and the loop begins with the second frame: in turn 0 the first stands
        where later turns have what they make, and turn 1 reads it where they read the turn before.
        """
        if t == 0 and name in self.inner and name not in image and self._is_first(other):
            return self._seeded(name, other)
        if t > 1 and self._is_first(name):
            if name in self.back:
                return self._carried(name, t) == other
            return t == 2 and other in self.images[1] and self._seeded(other, name)
        return False

    def _seeded(self, name: str, seed: str) -> bool:
        """Take `name` for what is `seed` in the first turn, unless it is something else."""
        if self.seeds.get(name, seed) != seed or self.back.get(seed, name) != name:
            return False
        self.seeds[name] = self.images[0][name] = seed
        self.back[seed] = name
        return True

    def _carried(self, name: str, t: int) -> str | None:
        """What the value `name` of turn 0 is in turn t - 1."""
        source = self.back.get(name)
        return None if source is None else self.images[t - 1].get(source)

    def equal(self, a: Any, b: Any) -> bool:
        """Whether two arguments are made alike before the loop (constants made in turns)."""
        return bool(frozen(a, self.numbers) == frozen(b, self.numbers))

    def _initial(self, name: str, places: Sequence[tuple[int, tuple[Any, ...]]]) -> Any:
        """What a carried value is before turn 0: what turn 0 reads in its places."""
        found: list[Any] = []
        for i, path in places:
            if i in self.missing:
                continue  # what it makes there is not read
            if i in self.left_out:
                if self.left_out[i] != name:
                    raise Failed
                found.append(np.zeros((), np.float32))
                continue
            out = next(o for o in self.template[i].outputs if o)
            arg: Any = self.made[self.images[0][out]].args
            for key in path:
                arg = arg[key]
            made = {o for op in self.before for o in op.outputs}
            if not (
                isinstance(arg, Ref) and (arg.name in made or self._is_first(arg.name))
            ) and any(self.turn.get(r.name, -1) >= 0 for r in refs_of(arg)):
                raise Failed
            found.append(arg)
        if not found:
            return np.zeros((), np.float32)
        if not all(self.equal(found[0], arg) for arg in found[1:]):
            raise Failed
        return found[0]

    # -- results ---------------------------------------------------------------------------

    def _collected(self) -> tuple[list[Collected], set[int]]:
        """How the rest of the program reads the loop; the operations that this replaces."""
        origin = {b: (a, t) for t, image in enumerate(self.images) for a, b in image.items() if b}
        written = self._written()
        found: list[Collected] = []
        replaced: set[int] = set()
        last: set[str] = set()
        before = {o for op in self.before for o in op.outputs}

        def read(name: str) -> None:
            if name in before:
                raise Failed
            if name in origin:
                if origin[name][1] != self.n - 1:
                    raise Failed
                last.add(name)

        for op in self._rest():
            parts = self.dialect.together(op)
            if parts is not None:
                source = self._all_turns(parts[0], origin)
                if source is not None:
                    found.append(Collected(op.outputs[0], Ref(source), *parts[1:]))
                    replaced.add(id(op))
                    continue
            for name in names_of(op.args):
                read(name)
        for name in self._results():
            read(name)
        for name in sorted(last):
            source = origin[name][0]
            if source in written:
                w = written[source]
                kind = "cat" if w.keep else "stack"
                found.append(Collected(name, w.source, kind, w.dim))
            else:
                found.append(Collected(name, Ref(source), "last"))
        if not found:
            raise Failed
        return found, replaced

    def _results(self) -> Iterator[str]:
        """What the program as a whole gives."""
        for out in (*self.program.outputs, *self.program.written.values()):
            for ref in refs_of(out):
                yield ref.name

    def _all_turns(self, refs: Any, origin: Mapping[str, tuple[str, int]]) -> str | None:
        """The value of the template of which `refs` are all turns, in the order of elements."""
        if not isinstance(refs, list) or len(refs) != self.n:
            return None
        found = [origin.get(r.name) if isinstance(r, Ref) else None for r in refs]
        want = [self.turns.of(i) for i in range(self.n)]
        if any(f is None for f in found) or [f[1] for f in found if f] != want:
            return None
        sources = {f[0] for f in found if f}
        return sources.pop() if len(sources) == 1 else None

    def _written(self) -> dict[str, Write]:
        """Tensors into which every turn writes its own element, by name."""
        found: dict[str, Write] = {}
        for op in self.template:
            w = self.dialect.write(op)
            if w is None:
                continue
            out = op.outputs[0]
            readers = [q for q in self.template if q is not op and w.base.name in names_of(q.args)]
            readers += [q for q in self.template if out in names_of(q.args)]
            if w.size != self.n or self.images[-1].get(out) is None or readers:
                raise Failed
            found[out] = w
        return found

    def _rest(self) -> list[Operation]:
        """Operations after the loop: those of the last turn that are no part of the body."""
        body = set(self.images[-1].values())
        return [op for op in self.groups[-1] if not any(o in body for o in op.outputs if o)]

    # -- the new program -------------------------------------------------------------------

    def _program(
        self,
        carried: Mapping[str, str],
        initial: Mapping[str, Any],
        collected: Sequence[Collected],
        replaced: set[int],
    ) -> Program:
        program = self.program
        written = self._written()
        states = {name: after for name, after in carried.items() if after not in written}
        collect = {c.source.name for c in collected}
        carrying = Carrying(list(self.template), states, dict(initial), collect)
        begins = {n: a.name for n, a in initial.items()
                  if isinstance(a, Ref) and self.turn.get(a.name, -1) >= 0}  # fmt: skip
        if self.seeds or begins:
            self._begin(carrying, begins)
        else:
            moved(carrying, self)
        template, states, initial = carrying.template, carrying.states, carrying.initial
        wanted = set(collect)
        while True:  # only states that somebody reads
            body = _needed(template, wanted)
            read = {n for op in body for n in names_of(op.args)}
            more = {after for name, after in states.items() if name in read} - wanted
            if not more:
                break
            wanted |= more
        states = {name: after for name, after in states.items() if name in read}
        elements = {n: self.elements[n] for n in sorted(read - set(states)) if n in self.elements}
        inner = Program(
            [*elements, *states], {}, body, [Ref(a) for a in states.values()], program.metas,
            where=program.where,
        )  # fmt: skip
        rest = [op for op in self._rest() if id(op) not in replaced]
        inside = {id(op) for group in self.groups for op in group} - {id(op) for op in rest}
        outer = [op for op in program.operations if id(op) not in inside]
        read_outside = {n for op in outer for n in names_of(op.args)} | set(self._results())
        taking = {
            id(op)
            for op in outer
            if any(o in self.elements for o in op.outputs)
            and not any(o in read_outside for o in op.outputs)
        }
        plain = [op for op in program.operations if id(op) in inside or id(op) in taking]
        sources = [(Ref(e.source), e.dim, e.keep) for e in elements.values()]
        loop = Loop(
            sources, inner, [initial[n] for n in states], list(collected), plain, self.n,
            self.reverse,
        )  # fmt: skip
        made = {o for op in plain for o in op.outputs}
        reads = {n for op in plain for n in names_of(op.args)} - made
        path = next((op.path for op in self.template if op.path), "")
        one = Operation(
            LOOP,
            {"loop": loop, "inputs": [Ref(n) for n in sorted(reads)]},
            tuple(c.name for c in collected),
            path,
        )
        after = {id(op) for op in rest}
        before = [op for op in outer if id(op) not in after and id(op) not in taking]
        return replace(program, operations=[*before, one, *rest])

    def _now(self, seed: str) -> str:
        """Of an element of turn 0 the one that the template takes in its place."""
        e = self.elements[seed]
        for name, other in self.elements.items():
            here = self.turn[name] == 1
            if here and (other.source, other.dim, other.keep) == (e.source, e.dim, e.keep):
                return name
        raise Failed

    def _begin(self, carrying: Carrying, begins: Mapping[str, str]) -> None:
        """Take the first element for what it stands for in the first turn, or before it.

        Args:
            carrying: the loop.
            begins: by state, the element that it begins with, or what `before` makes of elements.
        """
        begun, later = "begun", "begun.later"
        firsts = {n for n in self.elements if self._is_first(n)}
        names = {n: self._now(n) for op in self.before for n in names_of(op.args) if n in firsts}
        names |= {o: f"{o}.first" for op in self.before for o in op.outputs}
        first = [
            replace(
                op,
                args={k: mapped(a, names) for k, a in op.args.items()},
                outputs=tuple(names[o] for o in op.outputs),
            )
            for op in self.before
        ]
        for state, source in begins.items():
            held = f"{state}.held"
            start = self._now(source) if source in firsts else names[source]
            first.append(self.dialect.chosen(state, begun, held, start))
            carrying.states[held] = carrying.states.pop(state)
            carrying.initial[held] = np.zeros((), np.float32)
        carrying.template[:0] = first
        for name, seed in self.seeds.items():
            element = self._now(seed)
            i = next(i for i, op in enumerate(carrying.template) if name in op.outputs)
            op, made = carrying.template[i], f"{name}.later"
            outputs = tuple(made if o == name else o for o in op.outputs)
            chosen = self.dialect.chosen(name, begun, made, element)
            carrying.template[i : i + 1] = [replace(op, outputs=outputs), chosen]
            carrying.initial.setdefault(seed, np.zeros((), np.float32))
        carrying.template.insert(0, self.dialect.at_least_one(later, begun))
        carrying.states[begun] = later
        carrying.initial[begun] = np.zeros(1, np.float32)


def _needed(operations: Sequence[Operation], names: set[str]) -> list[Operation]:
    """Operations that contribute to `names`."""
    kept: list[Operation] = []
    names = set(names)
    for op in reversed(operations):
        if any(o in names for o in op.outputs):
            kept.append(op)
            names.update(names_of(op.args))
    return kept[::-1]
