"""A Python loop over frames, which the exporter unrolled, as one loop again.

``for t in range(x.size(1)): h = cell(x[:, t], h); ys.append(f(h))`` leaves one copy of its body per
frame in the program. An operation belongs to the *turn* of the latest frame it depends on. Where
every turn holds the same operations, on its own frame and on values of the turn before, those of
one turn are the body of a loop. Its results are collected by ``torch.stack``, ``torch.cat`` or
writes into a tensor, or read after the last turn. What is not of this form stays as it is.

`reroll_history` passes on what is read turns later, `reroll_turns` compares turns, `reroll_states`
chooses what the loop carries, and a `Dialect` says what there is to know of operators:
`reroll_torch` and `reroll_onnx`.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeseq.frontend.program import Program
from edgeseq.frontend.reroll_history import passed_on
from edgeseq.frontend.reroll_turns import Effort, Matcher
from edgeseq.frontend.rolled import LOOP, Collected, Dialect, Element, Failed, Loop, names_of

__all__ = ["LOOP", "Collected", "Loop", "chained", "reroll"]

_MOST_LOOPS = 32
_LEAST_TURNS = 3  # the first turn is special, the last may be


def reroll(program: Program, dialect: Dialect) -> Program:
    """`program` with its unrolled loops as operations `LOOP`; itself where there is none."""
    if not _groups(dialect.elements(program)):
        return program
    found = False
    rolled = dialect.prepared(program)
    effort = Effort()
    for _ in range(_MOST_LOOPS):
        more = _first_loop(rolled, dialect, effort)
        if more is None:
            break
        rolled, found = more, True
    return rolled if found else program


def _first_loop(program: Program, dialect: Dialect, effort: Effort) -> Program | None:
    groups = _groups(dialect.elements(program))
    # By places, not by elements: a turn may take its frame more than once.
    turns = {key: len({e.index for e in group.values()}) for key, group in groups.items()}
    for key in groups:
        alike = [k for k in groups if turns[k] == turns[key]]
        for keys in (alike, [key]) if len(alike) > 1 else (alike,):
            for reverse in (False, True):
                elements = {n: e for k in keys for n, e in groups[k].items()}
                try:
                    effort.spend(len(program.operations))
                    passing = passed_on(program, dialect, elements, reverse)
                    if passing is None:
                        return Matcher(program, dialect, elements, reverse, effort).rolled()
                    match = Matcher(passing.program, dialect, elements, reverse, effort)
                    return passing.without(match.rolled())
                except Failed:
                    continue
    return None


def _groups(elements: Mapping[str, Element]) -> dict[tuple[str, int], dict[str, Element]]:
    """Axes of which every element is taken, with the elements."""
    groups: dict[tuple[str, int], dict[str, Element]] = {}
    for name, e in elements.items():
        groups.setdefault((e.source, e.dim), {})[name] = e
    full = {}
    for key, group in groups.items():
        count = {e.index for e in group.values()}
        if len(count) >= _LEAST_TURNS and count == set(range(len(count))):
            full[key] = group
    return full


def chained(program: Program, dialect: Dialect) -> Element | None:
    """An element of an axis whose elements seem to be the frames of an unrolled loop, or None.

    Half of them, two at least, meet something that was made of the one before; nothing else is
    asked.
    """
    groups = list(_groups(dialect.elements(program)).values())
    for group in groups[:_MOST_LOOPS]:
        turn = {name: e.index for name, e in group.items()}
        last = max(turn.values())
        for reverse in (False, True):
            at = {n: last - i if reverse else i for n, i in turn.items()}
            meets = set()
            for op in program.operations:
                if any(o in turn for o in op.outputs):
                    continue
                found = {at[n] for n in names_of(op.args) if n in at}
                if found:
                    latest = max(found)
                    if latest - 1 in found:
                        meets.add(latest)
                    at.update((o, latest) for o in op.outputs if o)
            if len(meets) >= max(2, (last + 1) // 2):
                return next(iter(group.values()))
    return None
