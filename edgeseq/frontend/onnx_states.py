"""Which inputs and outputs of an ONNX file carry the same state.

Callers of such a file feed an output back as an input at the next call. Evidence, in this order:
what the user says; names that differ by a word like "next" or "out"; one remaining input and output
of the same shape, joined by data flow, none of which is the first (by custom the data).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgeseq.errors import UsageError, unknown_name
from edgeseq.frontend.onnx_lower import Carried
from edgeseq.frontend.program import Program, Ref

__all__ = ["LENGTHS", "find_states", "is_length", "near_misses"]

_WORDS = (
    "next", "new", "out", "output", "in", "input", "prev", "previous", "past", "present", "cur",
    "current", "updated", "final", "initial", "init", "last", "old", "next_state", "n", "t", "0",
)  # fmt: skip
_DATA = re.compile(
    r"(^|_)(x|input|inputs|audio|wav|waveform|samples|signal|feature|features|feat|mel|spec|frame|"
    r"data|noisy|speech|chunk)($|_|\d)",
    re.IGNORECASE,
)


LENGTHS = re.compile(r"(^|_)(x?lens?|lengths?|seq_?lens?|num_?frames)($|_|\d)", re.IGNORECASE)
"""Names of numbers of frames."""


_UNKNOWN = re.compile(r"_dim_\d+$")


def _stem(name: str) -> str:
    """A name without the words that tell before from after."""
    text = re.sub(r"([a-z])([A-Z])", r"\1_\2", name)
    parts = [p for p in re.split(r"[^A-Za-z0-9]+", text.lower()) if p]
    return "_".join([p for p in parts if p not in _WORDS] or parts)


def _stems(name: str) -> set[str]:
    """Forms of a name that a partner may have: 'hn' goes with 'h', 'h0' with 'h'."""
    base = _stem(name)
    found = {base}
    if len(base) > 1 and base[-1] in "n0":
        found.add(base[:-1])
    return found


def _fits(a: Sequence[int | str | None] | None, b: Sequence[int | str | None] | None) -> bool:
    """Whether two declared shapes may be the same."""
    if a is None or b is None or _made_up(b):
        return True
    if len(a) != len(b):
        # An exporter that lost the shape of an output may state nothing at all.
        return len(b) == 0
    return all(
        x == y for x, y in zip(a, b, strict=True) if isinstance(x, int) and isinstance(y, int)
    )


def _made_up(shape: Sequence[int | str | None]) -> bool:
    """Whether an exporter that did not know a shape wrote one: no size, and names it made."""
    return bool(shape) and all(isinstance(n, str) and _UNKNOWN.search(n) for n in shape)


def find_states(
    program: Program,
    given: Sequence[tuple[str, str]],
    shapes: Mapping[str, Sequence[int | str | None] | None],
) -> list[Carried]:
    """States among the inputs and outputs of a program.

    Args:
        program: of the file.
        given: pairs that the user states.
        shapes: declared shapes of inputs and outputs by name.

    Raises:
        UsageError: a stated pair does not exist or does not fit.
    """
    outputs = [r.name for r in program.outputs if isinstance(r, Ref)]
    found: list[Carried] = []
    for source, target in given:
        for name, known, what in ((source, program.inputs, "input"), (target, outputs, "output")):
            if name not in known:
                raise UsageError(
                    unknown_name(what, name, known), where=program.where, fix="--state IN:OUT"
                )
        if not _fits(shapes.get(source), shapes.get(target)):
            raise UsageError(
                f"input {source!r} and output {target!r} have different shapes",
                where=program.where, fix="a state has one shape",
            )  # fmt: skip
        found.append(Carried(source, target, how="stated with --state"))
    reach = program.reaches()
    free_in = [n for n in program.inputs if n not in {s.input for s in found}]
    free_out = [n for n in outputs if n not in {s.output for s in found}]

    def joined(a: str, b: str) -> bool:
        return a in reach.get(b, set()) and _fits(shapes.get(a), shapes.get(b))

    # By name: an input and the one output that is called alike.
    for name in [n for n in free_in if not is_length(program, n)]:
        if len(free_in) == 1:
            break
        alike = [o for o in free_out if joined(name, o) and _stems(name) & _stems(o)]
        exact = [o for o in alike if _stem(o) == _stem(name)]
        match = exact if len(exact) == 1 else alike
        if len(match) == 1 and not (_DATA.search(name) and name == program.inputs[0]):
            found.append(Carried(name, match[0], how="by name, shape and data flow"))
            free_in.remove(name)
            free_out.remove(match[0])
    # By shape: what is left besides the first input and the first output.
    if len(free_out) > 1 and len(free_in) > 1:
        data = next((n for n in free_in if _DATA.search(n)), free_in[0])
        rest_in = [n for n in free_in if n != data and not is_length(program, n)]
        rest_out = free_out[1:] if free_out[0] == outputs[0] else list(free_out)
        pairs = {n: [o for o in rest_out if joined(n, o)] for n in rest_in}
        for name, partner in _matched(pairs):
            found.append(Carried(name, partner, how="by shape and data flow"))
    order = {n: i for i, n in enumerate(program.inputs)}
    return sorted(found, key=lambda s: order[s.input])


def is_length(program: Program, name: str) -> bool:
    """Whether an input is called like a number of frames, and is a whole number."""
    info = program.declared.get(name)
    return info is not None and "int" in info.dtype and LENGTHS.search(name) is not None


def _matched(partners: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Inputs with the outputs that carry them on: who has one partner only, then by their order.

    In a chain of layers the last state reaches one output only; without it, so does the last but
    one.
    """
    left = {n: list(v) for n, v in partners.items()}
    found: list[tuple[str, str]] = []

    def take(name: str, partner: str) -> None:
        found.append((name, partner))
        del left[name]
        for others in left.values():
            if partner in others:
                others.remove(partner)

    while (name := next((n for n, v in left.items() if len(v) == 1), None)) is not None:
        take(name, left[name][0])
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, others in left.items():
        groups.setdefault(tuple(others), []).append(name)
    for candidates, names in groups.items():
        if len(candidates) == len(names):
            for name, partner in zip(names, candidates, strict=True):
                take(name, partner)
    return found


def near_misses(
    program: Program,
    states: Sequence[Carried],
    shapes: Mapping[str, Sequence[int | str | None] | None],
) -> list[tuple[str, str]]:
    """Inputs and outputs that might be states but are not taken for any: same shape, joined."""
    reach = program.reaches()
    carried = {s.input for s in states} | {s.output for s in states}
    found = []
    for name in program.inputs:
        shape = shapes.get(name)
        if name in carried or shape is None or _DATA.search(name) or is_length(program, name):
            continue
        for out in program.outputs:
            if not isinstance(out, Ref) or out.name in carried or out.name not in shapes:
                continue
            if name in reach.get(out.name, set()) and shapes[out.name] == shape and shape:
                found.append((name, out.name))
                break
    return found
