"""How many frames an example sequence has, and whether what was read holds for other numbers.

A file that leaves its length open computes with it: views, slices, tables as long as the sequence.
Its sizes are known for an example only, so the example's length is a number that occurs nowhere
else in the file, and what was made is compared with what another length makes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeseq.frontend.program import Program
from edgeseq.frontend.rolled import LOOP
from edgeseq.ir import Graph
from edgeseq.ir.graph import Node

__all__ = ["difference", "fixed_lengths", "open_lengths"]

_PRIMES = (211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293, 307)
_DIVISIBLE = ((240, 480), (2016, 4032))
"""Lengths that many strides divide, and twice these."""
_MOST_FIXED = 6


def _programs(program: Program) -> Iterator[Program]:
    stack = [program]
    while stack:
        p = stack.pop()
        yield p
        for op in p.operations:
            stack += [a for a in op.args.values() if isinstance(a, Program)]


def _numbers(program: Program) -> Counter[int]:
    """Sizes of constants, and small integer constants: what sizes in the file can be."""
    found: Counter[int] = Counter()
    for p in _programs(program):
        for array in p.constants.values():
            if not isinstance(array, np.ndarray):
                continue
            found.update(int(n) for n in array.shape)
            if array.dtype.kind in "iu" and array.size <= 16:
                found.update(int(n) for n in array.reshape(-1))
    return found


def open_lengths(program: Program) -> list[tuple[int, int]]:
    """Pairs of lengths of an example: one to read the file with, one to compare with."""
    taken = _numbers(program)
    free = [n for n in _PRIMES if not any(abs(n - k) <= 3 for k in taken)] or list(_PRIMES)
    return [(free[0], free[-1] if len(free) > 1 else 509), *_DIVISIBLE]


def fixed_lengths(program: Program) -> list[int]:
    """Lengths that views or loops in a file are fixed to although it leaves its length open.

    Exporters write the example's length into views, or one copy of a loop's body per frame of the
    example, and still declare the axis open; such a file is right for this length only.
    """
    found: Counter[int] = Counter()
    turns = [op.args["loop"].turns for op in program.operations if op.target == LOOP]
    for p in _programs(program):
        for array in p.constants.values():
            if isinstance(array, np.ndarray) and array.dtype.kind == "i" and array.size <= 8:
                found.update({int(n) for n in array.reshape(-1) if 2 <= n <= 1 << 14})
    return list(dict.fromkeys([*turns, *(n for n, _ in found.most_common(_MOST_FIXED))]))[
        :_MOST_FIXED
    ]


def difference(a: Graph, b: Graph) -> str | None:
    """The first node, by name, in which two Graphs differ; None where they are the same.

    They were read from one file with sequences of different lengths.
    """
    for x, y in zip(a.nodes, b.nodes, strict=False):
        if not _same_node(x, y) or any(a.types[v] != b.types[w] for v, w in
                                       zip(x.outputs, y.outputs, strict=True)):  # fmt: skip
            return x.name
        for v in x.inputs:
            if v in a.consts and not np.array_equal(a.consts[v], b.consts[v]):
                return x.name
    if len(a.nodes) != len(b.nodes):
        return max(a.nodes, b.nodes, key=len)[min(len(a.nodes), len(b.nodes))].name
    return None if a.outputs == b.outputs else "outputs"


def _same_node(x: Node, y: Node) -> bool:
    return (
        (x.op, x.inputs, x.outputs) == (y.op, y.inputs, y.outputs)
        and x.attrs.keys() == y.attrs.keys()
        and all(_same(x.attrs[k], y.attrs[k]) for k in x.attrs)
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Graph) and isinstance(b, Graph):
        inits = zip(a.states, b.states, strict=False)
        return (
            len(a.states) == len(b.states)
            and difference(a, b) is None
            and all(np.array_equal(s.init, t.init) for s, t in inits)
        )
    return bool(a == b)
