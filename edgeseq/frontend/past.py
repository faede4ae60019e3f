"""Scores of past frames: what may be done with them.

Queries times keys over time are [T, T] in a file; in a stream a frame has a score for each of the
last frames instead, so the last axis counts distances (`Value.keys`). Masking, scaling, a softmax
over them and a product with values mean the same for both. Anything else would take distances for
numbers of frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from edgeseq.frontend.axes import LayoutError, Value

__all__ = ["refuse_scores", "still_scores"]


def refuse_scores(v: Value) -> None:
    """Raise where a value is scores of past frames (LayoutError)."""
    if v.keys:
        raise LayoutError(
            "uses the scores that frames give to past ones in another way than to weight values",
            "mask and scale them, take a softmax over them and multiply by values of the same "
            "frames; or compile in window mode (--window N --hop N)",
        )


def still_scores(kind: str, args: Sequence[Any], results: Iterable[Any], equation: str) -> None:
    """Check an ONNX operator that reads scores.

    Args:
        kind: the operator.
        args, results: what it reads and what was made of it.
        equation: of an Einstein sum.

    Raises:
        LayoutError: the results are neither scores nor a product with values.
    """
    keyed = [i for i, a in enumerate(args) if isinstance(a, Value) and a.keys]
    if not keyed:
        return
    first = args[keyed[0]]
    if kind in ("MatMul", "Einsum") and len(keyed) == 1 and len(args) == 2:
        other = args[1 - keyed[0]]
        summed = keyed == [0]
        if kind == "Einsum":
            left, _, out = equation.replace(" ", "").partition("->")
            terms = left.split(",")
            letter = terms[keyed[0]][-1]
            summed = letter not in out and letter in terms[1 - keyed[0]]
        if summed and isinstance(other, Value):
            return
        refuse_scores(first)
    for r in results:
        if isinstance(r, Value) and not (r.keys and r.sizes and r.sizes[-1] == r.keys):
            refuse_scores(first)
