"""Which inputs and outputs of an exported program carry the same state.

Callers of such a model pass an output back in as an input at the next call. Evidence: what the user
says; an input that is not a sequence as the first one is, and an output of the same shape that
depends on it. Buffers that the model writes are states by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeseq.errors import UsageError, unknown_name
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.program import Operation, Program, Ref, refs_of
from edgeseq.frontend.readings import Carried

__all__ = ["check_values", "keeps", "output_names", "pair_states", "written_states"]


def output_names(program: Program) -> list[str]:
    """What the outputs are called: by the value they are, 'output 0' where that has no name."""
    return [o.name if isinstance(o, Ref) else f"output {i}" for i, o in enumerate(program.outputs)]


def _sizes(program: Program, ref: Any) -> tuple[int, ...] | None:
    meta = program.metas.get(ref.name) if isinstance(ref, Ref) else None
    return None if meta is None else meta.sizes


def pair_states(
    program: Program,
    given: Sequence[tuple[str | int, str | int]],
    values: Mapping[str, Any],
    options: ImportOptions | None = None,
) -> list[Carried]:
    """States among the inputs and outputs.

    Args:
        program: what was exported.
        given: pairs (input, output) that the user states, by name or number.
        values: what a state begins with, by the input's name: a number or an array; else zero.
        options: for the axis of time, by which sequences are told from states.

    Raises:
        UsageError: a stated pair does not exist or does not fit.
    """
    names = output_names(program)
    pairs: list[tuple[str, int, str]] = []
    for source, target in given:
        name = _numbered(program, source, program.inputs, "input")
        index = names.index(_numbered(program, target, names, "output"))
        if name not in program.metas:
            raise UsageError(f"input {name!r} has no description", where=program.where)
        sizes = _sizes(program, program.outputs[index])
        if sizes is not None and sizes != program.metas[name].sizes:
            raise UsageError(
                f"input {name!r} {list(program.metas[name].sizes)} and output {names[index]!r} "
                f"{list(sizes)} have different shapes",
                where=program.where,
                fix="a state has one shape",
            )
        pairs.append((name, index, "stated"))
    pairs += _found(program, pairs, options or ImportOptions())
    states = []
    for name, index, how in pairs:
        sizes = program.metas[name].sizes
        init = np.broadcast_to(np.asarray(values.get(name, 0.0), np.float64), sizes)
        states.append(Carried(name, program.outputs[index], init, name, names[index], how, index))
    order = {n: i for i, n in enumerate(program.inputs)}
    return sorted(states, key=lambda s: order[s.name])


def _numbered(program: Program, key: str | int, names: Sequence[str], what: str) -> str:
    if isinstance(key, str) and key not in names and key.isdigit():
        key = int(key)
    if isinstance(key, int):
        if not 0 <= key < len(names):
            raise UsageError(f"there is no {what} {key} of {len(names)}", where=program.where)
        return names[key]
    if key not in names:
        raise UsageError(
            unknown_name(what, key, names), where=program.where, fix="name it, or give its number"
        )
    return key


def _found(
    program: Program, taken: Sequence[tuple[str, int, str]], options: ImportOptions
) -> list[tuple[str, int, str]]:
    """Pairs by shape and data flow."""
    inputs = [n for n in program.inputs if n not in {t[0] for t in taken} and n in program.metas]
    outputs = [
        i
        for i, o in enumerate(program.outputs)
        if isinstance(o, Ref) and i not in {t[1] for t in taken}
    ]
    if len(inputs) < 2 and not taken:
        return []
    first = program.inputs[0]
    main = program.metas[first].sizes if first in program.metas else ()
    # By custom the first output is the answer.
    answers = [i for i in outputs if i != 0] if len(program.outputs) > 1 else []
    rest = [
        n
        for n in inputs
        if n != first
        and (not _alike(program, n, main, first, options) or _cached(program, n, answers))
    ]
    reach = program.reaches()
    found: list[tuple[str, int, str]] = []
    groups: dict[tuple[int, ...], list[str]] = {}
    for n in rest:
        fits = tuple(
            i
            for i in answers
            if _sizes(program, program.outputs[i]) == program.metas[n].sizes
            and n in reach.get(program.outputs[i].name, set())
        )
        groups.setdefault(fits, []).append(n)
    used: set[int] = set()
    for fits, names in sorted(groups.items(), key=lambda g: len(g[0])):
        free = [i for i in fits if i not in used]
        if len(free) == len(names):
            for n, i in zip(names, free, strict=True):
                found.append((n, i, "by shape and data flow"))
                used.add(i)
    return found


def _alike(
    program: Program, name: str, main: tuple[int, ...], first: str, options: ImportOptions
) -> bool:
    """Whether an input is a sequence as long as the first one."""
    sizes = program.metas[name].sizes
    axis = options.time_axis_of(first)
    if axis is None:
        axis = 1 if len(main) > 2 else 0
    if len(main) <= axis or main[axis] == 1:
        return False
    own = options.time_axis_of(name)
    own = axis if own is None else own
    return len(sizes) > own and sizes[own] == main[axis]


def keeps(program: Program, state: Carried) -> bool:
    """Whether a stream keeps a state by itself, as far as the program shows.

    A recurrent layer or loop begins with it and gives it back; or it holds past frames that are put
    before the new ones, and the last of both are given back.
    """
    made = {o: op for op in program.operations for o in op.outputs if o}
    readers: dict[str, list[Operation]] = {}
    for op in program.operations:
        for a in op.args.values():
            for r in refs_of(a):
                readers.setdefault(r.name, []).append(op)
    todo, recurrent, joined = [state.name], set(), set()
    while todo:
        for op in readers.get(todo.pop(), ()):
            if op.base in ("cat", "concat"):
                joined.add(op.outputs[0])
            elif op.base in _MOVES:
                todo.extend(o for o in op.outputs if o)
            elif op.base in _LAYERS:
                recurrent.add(id(op))
            else:
                return False
    todo = [r.name for r in refs_of(state.output)]
    while todo:
        maker = made.get(todo.pop())
        if maker is None:
            return False
        op = maker
        if id(op) in recurrent:
            continue
        if op.base in ("slice", "narrow") and op.args["self"].name in joined:
            length = op.args.get("length")
            start, sizes = op.args.get("start"), program.metas[op.args["self"].name].sizes
            frames = sizes[op.args.get("dim", 0)]
            end = start + length if length is not None else op.args.get("end")
            kept = program.metas[op.outputs[0]].sizes[op.args.get("dim", 0)]
            if start in (-kept, frames - kept) and (end is None or end >= frames):
                continue
            return False
        if op.base not in _MOVES:
            return False
        todo.extend(r.name for a in op.args.values() for r in refs_of(a))
    return bool(recurrent) != bool(joined)


_LAYERS = ("gru", "lstm", "rnn_tanh", "rnn_relu", "loop")
_MOVES = (
    "clone", "alias", "detach", "contiguous", "transpose", "permute", "_to_copy", "select", "view",
    "unsqueeze", "squeeze", "stack", "cat", "unbind", "split", "chunk", "copy", "reshape",
)  # fmt: skip


def _cached(program: Program, name: str, answers: Sequence[int]) -> bool:
    """Whether an input is put before another value, and the end of that given back.

    So do convolutions that are given their past frames.
    """
    made = {o: op for op in program.operations for o in op.outputs if o}

    def source(ref: Any, kinds: Sequence[str]) -> Any:
        while isinstance(ref, Ref) and ref.name in made and made[ref.name].base in kinds:
            ref = made[ref.name].args.get("self")
        return ref

    joined = {
        op.outputs[0]
        for op in program.operations
        if op.base in ("cat", "concat")
        and any(source(r, _SAME) == Ref(name) for r in op.args.get("tensors", ()))
    }
    return any(
        getattr(source(program.outputs[i], _CUT), "name", None) in joined
        and _sizes(program, program.outputs[i]) == program.metas[name].sizes
        for i in answers
    )


_SAME = ("clone", "alias", "detach", "contiguous", "transpose", "permute", "_to_copy")
_CUT = (*_SAME, "slice", "narrow")


def written_states(program: Program) -> list[Carried]:
    """Buffers (and inputs) that the program writes: what they hold is carried on."""
    states = []
    for name, output in program.written.items():
        if name in program.inputs:
            init = np.zeros(program.metas[name].sizes)
        else:
            init = np.asarray(program.constants[name], np.float64)
        label = name.removeprefix("b_") if name in program.buffers else name
        states.append(Carried(name, output, init, label, label, "written by the model"))
    return states


def check_values(program: Program, values: Mapping[str, Any], states: Sequence[Carried]) -> None:
    """Raise where a value is given for something that is no state (UsageError)."""
    known = [s.name for s in states]
    for name in values:
        if name not in known:
            raise UsageError(
                unknown_name("state", name, known),
                where=program.where,
                fix="sizes of a .pt2 file are fixed; only states can be set",
            )
