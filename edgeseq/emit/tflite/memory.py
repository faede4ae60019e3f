"""A guard against runtimes that overwrite a value which is still read.

LiteRT and TFLite 2.12 and later let the result of a RESHAPE or BITCAST share its input's memory,
and that of an ADD, SUB, MUL, DIV or SOFTMAX replace its input where that has one user.  What is
counted is the users of the input and of the tensor that owns the memory, but not those of a tensor
between the two (`ArenaPlanner::IdentifyInPlaceTensors`): in ``b = a + 1; c = reshape(b); d = c * 2;
e = b + 3`` the product overwrites b, since a and c have one user each.
"""

from __future__ import annotations

from edgeseq.emit.tflite.writer import SubgraphWriter

__all__ = ["OVERWRITES", "SHARES", "overwritten"]

SHARES = frozenset({"RESHAPE", "BITCAST"})
"""Operators whose result may lie where their input does, unchanged."""

OVERWRITES = frozenset({"ADD", "SUB", "MUL", "DIV", "SOFTMAX"})
"""Operators whose result may lie where an input did."""


def overwritten(graph: SubgraphWriter) -> list[tuple[int, int]]:
    """Places where a value could be lost.

    Returns:
        (operator, input) index pairs: what the operator reads there must be a copy.
    """
    producer = {t: (i, op) for i, op in enumerate(graph.operators) for t in op.outputs}
    users: dict[int, list[int]] = {}
    for i, op in enumerate(graph.operators):
        for t in op.inputs:
            users.setdefault(t, []).append(i)
    last: dict[int, dict[int, int]] = {}  # of each tensor: its last use as itself and as a copy
    for t, where in users.items():
        last.setdefault(t, {})[t] = max(where)
        if t in producer and producer[t][1].kind in SHARES:
            last.setdefault(producer[t][1].inputs[0], {})[t] = max(where)
    found = []
    for i, op in enumerate(graph.operators):
        if op.kind not in OVERWRITES:
            continue
        for j, t in enumerate(op.inputs):
            if t not in producer or producer[t][1].kind not in SHARES:
                continue
            owner = producer[t][1].inputs[0]
            made = producer[owner][1].kind if owner in producer else ""
            later = any(end > i for view, end in last[owner].items() if view != t)
            if made in SHARES | OVERWRITES and later:
                found.append((i, j))
    return found
