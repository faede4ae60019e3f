"""Scores of past frames: what may be done with them.

Queries times keys over time are [T, T] in a file; in a stream a frame has a score for each of the
last frames instead, so the last axis counts distances (`Value.keys`). Masking, scaling, a softmax
over them and a product with values mean the same for both. Anything else would take distances for
numbers of frames.

A file has scores of frames to come, too, which a stream does not have. What they are is followed
through the operations (`Value.future`): a mask makes them far below all others, a softmax makes 0
of that, and only where they are 0 does a product with values leave them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.ir.functions import FUNCTIONS, WIDE

__all__ = [
    "FAR", "far", "file_sizes", "future_of", "future_of_two", "refuse_future", "refuse_scores",
    "still_scores",
]  # fmt: skip

FAR = -1e4
"""What is added to a score that must not count: exp makes exactly 0 of it."""

_ENOUGH = FAR / 100
"""Of a score that was scaled since: exp still makes 0 of it."""

_TWO: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


def refuse_scores(v: Value) -> None:
    """Raise where a value is scores of past frames (LayoutError)."""
    if v.keys:
        raise LayoutError(
            "uses the scores that frames give to past ones in another way than to weight values",
            "mask and scale them, take a softmax over them and multiply by values of the same "
            "frames; or compile in window mode (--window N --hop N)",
        )


def refuse_future(masked: bool) -> None:
    """Raise, for scores of frames to come count (LayoutError).

    Args:
        masked: whether they had been masked, and something was done with them since.
    """
    if masked:
        raise LayoutError(
            "uses scores whose mask an operation after it undid: frames count that have not come "
            "yet",
            "let the softmax follow the mask, or compile in window mode (--window N --hop N)",
        )
    raise LayoutError(
        "attends to frames that have not come yet",
        "use a causal mask, or compile in window mode (--window N --hop N)",
    )


def file_sizes(v: Value) -> tuple[int, ...]:
    """Sizes of a tensor as the file has them: scores are as many as the frames of the example."""
    frames = [a.size for axis in v.axes for a in axis if a.label == "T"]
    return (*v.sizes[:-1], frames[0]) if v.keys and frames else v.sizes


# -- frames to come ------------------------------------------------------------------------------


def far(future: float | None) -> bool:
    """Whether a softmax over the scores leaves those of frames to come out."""
    return future is not None and future <= _ENOUGH


def future_of(op: str, attrs: Mapping[str, Any], future: float | None) -> float | None:
    """`Value.future` of what an element-wise node makes of scores."""
    if future is None or op not in ("clamp", "lut", "wide"):
        return None
    with np.errstate(all="ignore"):
        if op == "clamp":
            low = -np.inf if attrs["lo"] is None else attrs["lo"]
            high = np.inf if attrs["hi"] is None else attrs["hi"]
            return float(min(max(future, low), high))
        fn = FUNCTIONS[attrs["fn"]].fn if op == "lut" else WIDE[attrs["fn"]]
        return _number(np.asarray(fn(np.full(1, future))))


def future_of_two(op: str, a: Any, b: Any) -> float | None:
    """`Value.future` of what a node makes of scores and a second operand, constant or not."""
    x, y = (v.future if isinstance(v, Value) else np.asarray(v, np.float64) for v in (a, b))
    if op not in _TWO:
        return None
    if x is not None and y is not None:
        with np.errstate(all="ignore"):
            return _number(_TWO[op](x, y))
    # One of them is different for every frame to come.
    known, first = (x, True) if y is None else (y, False)
    if not isinstance(known, float):
        return None
    if op == "mul" and known == 0:
        return 0.0
    return known if (op == "add" or (op == "sub" and first)) and far(known) else None


def _number(found: npt.NDArray[Any]) -> float | None:
    """The one number of an array, or one for all where each is far; else None."""
    top = float(np.max(found, initial=-np.inf))
    return top if far(top) or bool(np.all(found == top)) else None


# -- operators -----------------------------------------------------------------------------------


def still_scores(
    args: Iterable[Any], results: Iterable[Any], weights: Callable[[Value], bool]
) -> None:
    """Check an operator that may have read scores.

    Args:
        args, results: what it reads, lists among it, and what was made of it.
        weights: whether the operator has multiplied scores by values.

    Raises:
        LayoutError: the results are neither scores nor a product with values.
    """
    keyed = {v.name: v for v in _values(args) if v.keys}
    if not keyed:
        return
    made = list(_values(results))
    if made and all(r.keys and r.sizes[-1:] == (r.keys,) for r in made):
        return
    first = next(iter(keyed.values()))
    if made and (len(keyed) > 1 or not weights(first)):
        refuse_scores(first)


def _values(args: Iterable[Any]) -> Iterator[Value]:
    for a in args:
        if isinstance(a, Value):
            yield a
        elif isinstance(a, Sequence) and not isinstance(a, str | bytes):
            yield from _values(a)
