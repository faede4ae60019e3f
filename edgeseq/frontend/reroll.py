"""A Python loop over frames, which the exporter unrolled, as one loop again.

``for t in range(x.size(1)): h = cell(x[:, t], h); ys.append(f(h))`` leaves one copy of its body per
frame in the program. An operation belongs to the *turn* of the latest frame it depends on. Where
every turn holds the same operations, on its own frame and on values of the turn before, those of
one turn are the body of a loop. Its results are collected by ``torch.stack``, ``torch.cat`` or
writes into a tensor, or read after the last turn. What is not of this form stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeseq.frontend.program import Operation, Program, Ref, refs_of

__all__ = ["LOOP", "Collected", "Loop", "reroll"]

LOOP = "edgeseq.loop.default"
"""Target of the operation that stands for a loop; its argument `loop` is a `Loop`."""

_MOST_LOOPS = 32
_LEAST_TURNS = 3  # the first turn is special, the last may be


@dataclass(frozen=True)
class Collected:
    """A result of a loop.

    Attributes:
        name: in the program around.
        source: value of the body.
        kind: 'stack' or 'cat' of all turns along `dim`, or 'last'.
        dim: the axis.
    """

    name: str
    source: Ref
    kind: str
    dim: int = 0


@dataclass
class Loop:
    """A loop over the elements of an axis.

    Attributes:
        sources: (value, axis, whether it is kept with size 1) for each element the body reads.
        body: its inputs are the elements, then the states; its outputs the states after a turn.
        initial: what the states are before the first turn.
        collected: what is read after the loop.
        plain: the operations as the exporter wrote them.
        turns: how many.
        reverse: from the last element to the first.
    """

    sources: list[tuple[Ref, int, bool]]
    body: Program
    initial: list[Any]
    collected: list[Collected]
    plain: list[Operation]
    turns: int
    reverse: bool


@dataclass(frozen=True)
class _Element:
    """Element `index` of `source` along `dim`; `keep`: that axis stays, with size 1."""

    source: str
    dim: int
    index: int
    keep: bool


class _Failed(Exception):
    """The operations are not a loop of the known form."""


def reroll(program: Program) -> Program:
    """`program` with its unrolled loops as operations `LOOP`."""
    if not _groups(_elements(program)):
        return program
    program = _tidied(program)
    for _ in range(_MOST_LOOPS):
        found = _first_loop(program)
        if found is None:
            break
        program = found
    return program


def _names(args: Mapping[str, Any]) -> list[str]:
    return [r.name for a in args.values() for r in refs_of(a)]


def _tidied(program: Program) -> Program:
    """Without operations that nothing reads; what is written into a slot is seen as it is.

    ``out[:, t] = y`` becomes ``copy(select(out), y)`` and a `select_scatter`; the old element only
    gives the copy its shape.
    """
    operations = []
    for op in program.operations:
        src = op.args.get("src")
        if op.base == "copy" and not op.in_place and isinstance(src, Ref):
            have, want = program.metas.get(src.name), program.metas.get(op.outputs[0])
            if have is not None and want is not None and have.sizes == want.sizes:
                op = replace(op, target="aten.alias.default", args={"self": src})
        operations.append(op)
    read = {r.name for out in (*program.outputs, *program.written.values()) for r in refs_of(out)}
    kept: list[Operation] = []
    for op in reversed(operations):
        if op.in_place or not any(op.outputs) or any(o in read for o in op.outputs):
            read.update(_names(op.args))
            kept.append(op)
    return replace(program, operations=kept[::-1])


def _first_loop(program: Program) -> Program | None:
    groups = _groups(_elements(program))
    for key in groups:
        alike = [k for k, v in groups.items() if len(v) == len(groups[key])]
        for keys in (alike, [key]) if len(alike) > 1 else (alike,):
            for reverse in (False, True):
                elements = {n: e for k in keys for n, e in groups[k].items()}
                try:
                    return _Matcher(program, elements, reverse).rolled()
                except _Failed:
                    continue
    return None


def _elements(program: Program) -> dict[str, _Element]:
    """Values that are one element of another along an axis."""
    found: dict[str, _Element] = {}
    for op in program.operations:
        source, dim = op.args.get("self"), op.args.get("dim", 0)
        if op.in_place or not isinstance(source, Ref) or source.name not in program.metas:
            continue
        sizes = program.metas[source.name].sizes
        if not isinstance(dim, int) or not -len(sizes) <= dim < len(sizes):
            continue
        dim %= len(sizes)
        n = sizes[dim]
        if op.base == "select":
            index = op.args.get("index")
            if isinstance(index, int) and 0 <= index < n:
                found[op.outputs[0]] = _Element(source.name, dim, index, False)
        elif op.base == "slice":
            lo, hi = op.args.get("start") or 0, op.args.get("end")
            if isinstance(lo, int) and isinstance(hi, int) and 0 <= lo < n and hi == lo + 1:
                found[op.outputs[0]] = _Element(source.name, dim, lo, True)
        elif op.base in ("unbind", "split", "chunk", "split_with_sizes") and len(op.outputs) == n:
            for i, name in enumerate(op.outputs):
                found[name] = _Element(source.name, dim, i, op.base != "unbind")
    return found


def _groups(elements: Mapping[str, _Element]) -> dict[tuple[str, int], dict[str, _Element]]:
    """Axes of which every element is taken, with the elements."""
    groups: dict[tuple[str, int], dict[str, _Element]] = {}
    for name, e in elements.items():
        groups.setdefault((e.source, e.dim), {})[name] = e
    full = {}
    for key, group in groups.items():
        count = {e.index for e in group.values()}
        if len(count) >= _LEAST_TURNS and count == set(range(len(count))):
            full[key] = group
    return full


class _Matcher:
    """Tries to see the elements of some axes as what the turns of one loop read."""

    def __init__(self, program: Program, elements: Mapping[str, _Element], reverse: bool) -> None:
        self.program, self.reverse = program, reverse
        self.n = 1 + max(e.index for e in elements.values())
        if any(program.metas[e.source].sizes[e.dim] != self.n for e in elements.values()):
            raise _Failed
        self.made = {o: op for op in program.operations for o in op.outputs if o}
        self.elements: dict[str, _Element] = {}
        self.turn: dict[str, int] = {}
        self.groups: list[list[Operation]] = [[] for _ in range(self.n)]
        for op in program.operations:
            latest = max((self.turn.get(r, -1) for r in _names(op.args)), default=-1)
            taking = [o for o in op.outputs if o in elements] if latest < 0 else []
            if latest >= 0:
                if op.in_place:
                    raise _Failed  # the order of writes is not followed
                self.groups[latest].append(op)
            for o in op.outputs:
                self.turn[o] = latest
            for o in taking:
                self.elements[o] = elements[o]
                self.turn[o] = self._turn(elements[o].index)
        self.template = self.groups[1]
        self.inner = {o for op in self.template for o in op.outputs if o}
        self.images: list[dict[str, str]] = []

    def _turn(self, index: int) -> int:
        """The turn of an element, and back."""
        return self.n - 1 - index if self.reverse else index

    # -- turns that are alike --------------------------------------------------------------

    def rolled(self) -> Program:
        """The program with the loop as one operation.

        Raises:
            _Failed: it is no loop.
        """
        if not any(n in self.elements for op in self.template for n in _names(op.args)):
            raise _Failed
        for t in range(self.n):
            self.images.append(self._image(t))
        # What turn 0 makes and the template reads is carried from turn to turn.
        back = {b: a for a, b in self.images[0].items()}
        places: dict[str, list[tuple[int, tuple[Any, ...]]]] = {}
        for i, op in enumerate(self.template):
            for path, ref in _places(op.args):
                outside = ref.name not in self.inner and ref.name not in self.elements
                if outside and self.turn.get(ref.name, -1) >= 0:
                    places.setdefault(ref.name, []).append((i, path))
        if any(name not in back for name in places):
            raise _Failed
        initial = {name: self._initial(found) for name, found in places.items()}
        collected, replaced = self._collected()
        return self._program({n: back[n] for n in places}, initial, collected, replaced)

    def _image(self, t: int) -> dict[str, str]:
        """What each value of the template is in turn t.

        Operations that have no counterpart in the last turn prepare a turn that does not come.
        """
        if t == 1:
            return {o: o for o in self.inner}
        image: dict[str, str] = {}
        alike: dict[Any, list[Operation]] = {}
        for op in self.groups[t]:
            alike.setdefault(_form(op), []).append(op)
        taken: set[int] = set()
        for op in self.template:
            for other in alike.get(_form(op), ()):
                if id(other) not in taken and self._same(op, other, t, image):
                    taken.add(id(other))
                    image.update((a, b) for a, b in zip(op.outputs, other.outputs, strict=True))
                    break
            else:
                if t != self.n - 1:
                    raise _Failed
        if t != self.n - 1 and len(taken) != len(self.groups[t]):
            raise _Failed
        return image

    def _same(self, op: Operation, other: Operation, t: int, image: Mapping[str, str]) -> bool:
        if op.base == "select_scatter" and other.args.get("index") != self._turn(t):
            return False
        return all(
            self._same_arg(a, other.args[k], t, image)
            for k, a in op.args.items()
            if not (op.base == "select_scatter" and k == "index")
        )

    def _same_arg(self, a: Any, b: Any, t: int, image: Mapping[str, str]) -> bool:
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(
                self._same_arg(x, y, t, image) for x, y in zip(a, b, strict=True)
            )
        if not isinstance(a, Ref):
            if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
                return math.isnan(b)
            return type(a) is type(b) and bool(a == b)
        if a.name in self.elements:
            x, y = self.elements[a.name], self.elements.get(getattr(b, "name", ""))
            return (
                y is not None
                and (x.source, x.dim, x.keep) == (y.source, y.dim, y.keep)
                and (self._turn(x.index), self._turn(y.index)) == (1, t)
            )
        if self.turn.get(a.name, -1) == 0:  # carried: in turn 0 whatever it begins with
            return t == 0 or (isinstance(b, Ref) and self._carried(a.name, t) == b.name)
        if not isinstance(b, Ref):
            return False
        if a.name in self.inner:
            return image.get(a.name) == b.name
        return self._equal(a, b)

    def _carried(self, name: str, t: int) -> str | None:
        """What the value `name` of turn 0 is in turn t - 1."""
        source = next((a for a, b in self.images[0].items() if b == name), None)
        return None if source is None else self.images[t - 1].get(source)

    def _equal(self, a: Any, b: Any) -> bool:
        """Whether two arguments from before the loop are made alike (constants made in turns)."""
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(self._equal, a, b))
        if not isinstance(a, Ref) or not isinstance(b, Ref):
            return type(a) is type(b) and bool(a == b)
        if a.name == b.name:
            return True
        x, y = self.made.get(a.name), self.made.get(b.name)
        if x is None or y is None or _form(x) != _form(y):
            return False
        if x.outputs.index(a.name) != y.outputs.index(b.name):
            return False
        return self.turn[a.name] < 0 and all(self._equal(x.args[k], y.args[k]) for k in x.args)

    def _initial(self, places: Sequence[tuple[int, tuple[Any, ...]]]) -> Any:
        """What a carried value is before turn 0: what turn 0 reads in its places."""
        found = []
        for i, path in places:
            out = next(o for o in self.template[i].outputs if o)
            arg: Any = self.made[self.images[0][out]].args
            for key in path:
                arg = arg[key]
            if any(self.turn.get(r.name, -1) >= 0 for r in refs_of(arg)):
                raise _Failed
            found.append(arg)
        if not all(self._equal(found[0], arg) for arg in found[1:]):
            raise _Failed
        return found[0]

    # -- results ---------------------------------------------------------------------------

    def _collected(self) -> tuple[list[Collected], set[int]]:
        """How the rest of the program reads the loop; the operations that this replaces."""
        origin = {b: (a, t) for t, image in enumerate(self.images) for a, b in image.items() if b}
        written = self._written()
        found: list[Collected] = []
        replaced: set[int] = set()
        last: set[str] = set()

        def read(name: str) -> None:
            if name in origin:
                if origin[name][1] != self.n - 1:
                    raise _Failed
                last.add(name)

        for op in self._rest():
            if op.base in ("stack", "cat", "concat"):
                source = self._all_turns(op.args.get("tensors"), origin)
                if source is not None:
                    kind = "stack" if op.base == "stack" else "cat"
                    found.append(Collected(op.outputs[0], Ref(source), kind, op.args.get("dim", 0)))
                    replaced.add(id(op))
                    continue
            for name in _names(op.args):
                read(name)
        for out in (*self.program.outputs, *self.program.written.values()):
            for ref in refs_of(out):
                read(ref.name)
        for name in sorted(last):
            source = origin[name][0]
            if source in written:
                src, dim = written[source]
                found.append(Collected(name, src, "stack", dim))
            else:
                found.append(Collected(name, Ref(source), "last"))
        if not found:
            raise _Failed
        return found, replaced

    def _all_turns(self, refs: Any, origin: Mapping[str, tuple[str, int]]) -> str | None:
        """The value of the template of which `refs` are all turns, in the order of elements."""
        if not isinstance(refs, list) or len(refs) != self.n:
            return None
        found = [origin.get(r.name) if isinstance(r, Ref) else None for r in refs]
        want = [self._turn(i) for i in range(self.n)]
        if any(f is None for f in found) or [f[1] for f in found if f] != want:
            return None
        sources = {f[0] for f in found if f}
        return sources.pop() if len(sources) == 1 else None

    def _written(self) -> dict[str, tuple[Ref, int]]:
        """Tensors into which every turn writes its own element: by name, what and where."""
        found: dict[str, tuple[Ref, int]] = {}
        for op in self.template:
            if op.base != "select_scatter":
                continue
            out, src, base = op.outputs[0], op.args.get("src"), op.args.get("self")
            meta = self.program.metas.get(out)
            if meta is None or not isinstance(src, Ref) or not isinstance(base, Ref):
                raise _Failed
            dim = op.args["dim"] % len(meta.sizes)
            last = self.images[-1].get(out)
            readers = [q for q in self.template if q is not op and base.name in _names(q.args)]
            readers += [q for q in self.template if out in _names(q.args)]
            if meta.sizes[dim] != self.n or last is None or readers:
                raise _Failed
            found[out] = (src, dim)
        return found

    def _rest(self) -> list[Operation]:
        """Operations after the loop: those of the last turn that are no part of the body."""
        body = set(self.images[-1].values())
        return [op for op in self.groups[-1] if not any(o in body for o in op.outputs if o)]

    # -- the new program -------------------------------------------------------------------

    def _turned(
        self, states: dict[str, str], initial: dict[str, Any], collect: set[str]
    ) -> tuple[list[Operation], dict[str, str], dict[str, Any]]:
        """The body with operations that prepare the next turn at its beginning instead.

        What depends on the state alone was counted to the turn that made the state, so that its
        result would be the state. Before the loop the same operation stands, on what the state
        begins with: it may as well be done when the turn begins.
        """
        template = list(self.template)
        first: list[Operation] = []
        moved = True
        while moved:
            moved = False
            for name, after in list(states.items()):
                op = next(q for q in template if after in q.outputs)
                inside = [q for q in template if q is not op and after in _names(q.args)]
                start = initial[name]
                if inside or after in collect or len(op.outputs) != 1 or not isinstance(start, Ref):
                    continue
                before = self.made.get(start.name)
                begun = {} if before is None else self._begun(op, before)
                if before is None or not begun:
                    continue
                back = {a: self.images[0][a] for a in begun}
                if any(not self._equal(initial.get(back[a], b), b) for a, b in begun.items()):
                    continue
                template.remove(op)
                args = {k: _mapped(a, back) for k, a in op.args.items()}
                first.insert(0, replace(op, args=args, outputs=(name,)))
                del states[name], initial[name]
                for a, b in begun.items():
                    states[back[a]], initial[back[a]] = a, b
                moved = True
        return [*first, *template], states, initial

    def _begun(self, op: Operation, before: Operation) -> dict[str, Any]:
        """What the values of a turn that `op` reads are where `before` stands for it, if any."""
        if _form(op) != _form(before) or any(o in self.elements for o in before.outputs):
            return {}
        found: dict[str, Any] = {}
        for path, ref in _places(op.args):
            arg: Any = before.args
            try:
                for key in path:
                    arg = arg[key]
            except (IndexError, KeyError, TypeError):
                return {}
            if ref.name in self.inner:
                if not self._equal(found.get(ref.name, arg), arg):
                    return {}
                found[ref.name] = arg
            elif self.turn.get(ref.name, -1) >= 0:
                return {}
        holes = {name: Ref("") for name in found}
        same = all(
            self._equal(_mapped(a, holes), _mapped_at(before.args[k], op.args[k], found))
            for k, a in op.args.items()
        )
        return found if same else {}

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
        template, states, initial = self._turned(dict(states), dict(initial), collect)
        wanted = set(collect)
        while True:  # only states that somebody reads
            body = _needed(template, wanted)
            read = {n for op in body for n in _names(op.args)}
            more = {after for name, after in states.items() if name in read} - wanted
            if not more:
                break
            wanted |= more
        states = {name: after for name, after in states.items() if name in read}
        elements = {n: self.elements[n] for n in sorted(read) if n in self.elements}
        inner = Program(
            [*elements, *states], {}, body, [Ref(a) for a in states.values()], program.metas,
            where=program.where,
        )  # fmt: skip
        rest = [op for op in self._rest() if id(op) not in replaced]
        inside = {id(op) for group in self.groups for op in group} - {id(op) for op in rest}
        outer = [op for op in program.operations if id(op) not in inside]
        read_outside = {n for op in outer for n in _names(op.args)}
        read_outside |= {
            r.name for out in (*program.outputs, *program.written.values()) for r in refs_of(out)
        }
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
        reads = {n for op in plain for n in _names(op.args)} - made
        path = next((op.path for op in self.template if op.path), "")
        one = Operation(
            LOOP,
            {"loop": loop, "reads": [Ref(n) for n in sorted(reads)]},
            tuple(c.name for c in collected),
            path,
        )
        after = {id(op) for op in rest}
        before = [op for op in outer if id(op) not in after and id(op) not in taking]
        return replace(program, operations=[*before, one, *rest])


def _form(op: Operation) -> Any:
    return op.target, tuple(sorted(op.args)), len(op.outputs)


def _places(arg: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Ref]]:
    """Every reference in arguments, with the way to it."""
    if isinstance(arg, Ref):
        yield path, arg
    elif isinstance(arg, dict | list):
        for key, value in arg.items() if isinstance(arg, dict) else enumerate(arg):
            yield from _places(value, (*path, key))


def _mapped(arg: Any, names: Mapping[str, Any]) -> Any:
    """An argument with other names."""
    if isinstance(arg, Ref):
        found = names.get(arg.name, arg)
        return Ref(found) if isinstance(found, str) else found
    return [_mapped(a, names) for a in arg] if isinstance(arg, list) else arg


def _mapped_at(arg: Any, like: Any, names: Mapping[str, Any]) -> Any:
    """An argument with holes where `like` reads one of `names`."""
    if isinstance(like, Ref) and like.name in names:
        return Ref("")
    if isinstance(like, list) and isinstance(arg, list) and len(arg) == len(like):
        return [_mapped_at(a, b, names) for a, b in zip(arg, like, strict=True)]
    return arg


def _needed(operations: Sequence[Operation], names: set[str]) -> list[Operation]:
    """Operations that contribute to `names`."""
    kept: list[Operation] = []
    names = set(names)
    for op in reversed(operations):
        if any(o in names for o in op.outputs):
            kept.append(op)
            names.update(_names(op.args))
    return kept[::-1]
