"""Products: with constants, of two values, Einstein sums, and attention over past frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, size_of
from edgeseq.frontend.build.views import expand, permute, reshape, squeeze, unsqueeze
from edgeseq.frontend.context import Array, Context

__all__ = ["attention", "einsum", "linear", "matmul"]


def linear(c: Context, v: Value, w: Array, bias: Array | None = None, suffix: str = "") -> Value:
    """``w @ v + bias`` along the last axis; w is [out, in]."""
    return c.linear(c.last_axis(v), np.asarray(w), bias, suffix=suffix)


def matmul(c: Context, a: Any, b: Any) -> Value:
    """numpy's matmul; one operand may be a constant."""
    if isinstance(a, Value) and isinstance(b, Value):
        return _of_values(c, a, b)
    if isinstance(a, Value):
        w = _flat(np.asarray(b))
        if w.ndim == 1:
            y = linear(c, a, w[None, :])
            return c.view(y, y.axes[:-1])
        if w.ndim == 2:
            return linear(c, a, w.T)
        return _stacked(c, a, np.swapaxes(w, -1, -2))
    w = _flat(np.asarray(a))
    if w.ndim == 1:
        y = matmul(c, w[None, :], b)
        return squeeze(c, y, [-2])
    rank = len(b.axes)
    if rank < 2:
        return linear(c, b, w)
    swap = [*range(rank - 2), rank - 1, rank - 2]
    turned = permute(c, c.whole(b), swap)
    y = linear(c, turned, w) if w.ndim == 2 else _stacked(c, turned, w)
    rank = len(y.axes)
    return permute(c, y, [*range(rank - 2), rank - 1, rank - 2])


def _flat(w: Array) -> Array:
    """A stack of one matrix, or of equal ones, as that matrix."""
    while w.ndim > 2 and (w.shape[0] == 1 or np.array_equal(w[:-1], w[1:])):
        w = w[0]
    return w


def _stacked(c: Context, v: Value, w: Array) -> Value:
    """``v @ w^T`` with a matrix of its own per element of leading axes: w is [..., N, K]."""
    lead = w.ndim - 2
    if len(v.axes) < w.ndim:
        v = unsqueeze(c, v, range(w.ndim - len(v.axes)))
    v = c.last_axis(v)
    rank = len(v.axes)
    for i in range(lead):
        d = rank - 2 - lead + i
        n, have = w.shape[i], size_of(v.axes[d])
        if have != n and n != 1 and have == 1:
            v = expand(c, v, [n if j == d else -1 for j in range(rank)])
        elif have != n and n != 1:
            raise LayoutError(f"multiplies {describe(v.axes)} by {list(w.shape)}")
        elif n == have and n > 1 and v.kind(d) != "F":
            raise LayoutError("multiplies by a different matrix per frame or sequence")
    v = c.real(v)
    group = math.prod(w.shape[:-2])
    w = np.broadcast_to(w, (*w.shape[:-2], *w.shape[-2:])).reshape(group, *w.shape[-2:])
    rows = math.prod(v.frame) // (group * w.shape[-1])
    before = math.prod(a.size for axis in v.axes[: rank - 2 - lead] for a in axis if a.label == "F")
    if before > 1:
        raise LayoutError(
            f"multiplies {describe(v.axes)} by a stack of {group} matrices", "use nn.Linear"
        )
    shape = (group, rows, w.shape[-1])
    name = v.name
    if c.graph.types[name].shape != shape:
        name = c.graph.add_node("reshape", [name], name=c.name("reshape"), shape=shape)
    c.charge(0)
    out = c.graph.add_node("matmul", [name, c.const(w, "weight")], name=c.name())
    axes = (*v.axes[:-1], (Atom("F", w.shape[-2]),))
    return c.view(Value(out, axes), axes)


def _of_values(c: Context, a: Value, b: Value) -> Value:
    """Both factors depend on the input."""
    if len(a.axes) < 2 or len(b.axes) < 2:
        if len(a.axes) == 1 and len(b.axes) >= 2:
            return squeeze(c, _of_values(c, unsqueeze(c, a, [0]), b), [-2])
        if len(b.axes) == 1 and len(a.axes) >= 2:
            return squeeze(c, _of_values(c, a, unsqueeze(c, b, [1])), [-1])
        y = _of_values(c, unsqueeze(c, a, [0]), unsqueeze(c, b, [1]))
        return squeeze(c, squeeze(c, y, [-1]), [-1])
    rank = max(len(a.axes), len(b.axes))
    a = unsqueeze(c, a, range(rank - len(a.axes))) if len(a.axes) < rank else c.whole(a)
    b = unsqueeze(c, b, range(rank - len(b.axes))) if len(b.axes) < rank else c.whole(b)
    if a.keys:
        return _weighted_past(c, a, b)
    if a.kind(-2) == "T" and b.kind(-1) == "T":
        return _scores(c, a, b)
    swap = [*range(rank - 2), rank - 1, rank - 2]
    return _product(c, a, permute(c, b, swap))


def _product(c: Context, a: Value, b: Value) -> Value:
    """[..., M, K] times [..., N, K]: contracted over features, leading axes broadcast."""
    a, b = c.at_one_time(a, b)
    rank = len(a.axes)
    if a.kind(-1) not in "F1" or b.kind(-1) not in "F1" or b.kind(-2) not in "F1":
        raise LayoutError(
            f"multiplies {describe(a.axes)} by {describe(b.axes)}: only features of one frame can "
            "be summed over",
            "over past frames: give --context N; or compile in window mode (--window N --hop N)",
        )
    if size_of(a.axes[-1]) != size_of(b.axes[-1]):
        raise LayoutError(f"multiplies {describe(a.axes)} by {describe(b.axes)}")
    lead: list[Any] = []
    for i in range(rank - 2):
        x, y = a.axes[i], b.axes[i]
        if x != y and size_of(x) != 1 and size_of(y) != 1:
            raise LayoutError(f"multiplies {describe(a.axes)} by {describe(b.axes)}")
        lead.append(x if size_of(x) != 1 else y)
    sizes = [size_of(x) for x in lead]
    # Time of the left factor may lie among its rows.
    a, b = (
        v if [size_of(x) for x in v.axes[: rank - 2]] == sizes else expand(c, v, [*sizes, -1, -1])
        for v in (a, b)
    )
    a, b = c.real(a), c.real(b)
    group = math.prod(z.size for x in lead for z in x if z.label == "F")
    k = size_of(a.axes[-1])
    rows = math.prod(a.frame) // (group * k)
    columns = math.prod(b.frame) // (group * k)
    names = []
    for v, n in ((a, rows), (b, columns)):
        shape = (group, n, k) if group > 1 else (n, k)
        name = v.name
        if c.graph.types[name].shape != shape:
            name = c.graph.add_node("reshape", [name], name=c.name("reshape"), shape=shape)
        names.append(name)
    c.charge(0)
    out = c.graph.add_node("matmul", names, name=c.name())
    axes: Axes = (*lead, a.axes[-2], b.axes[-2])
    return c.view(Value(out, axes), axes)


# -- attention over past frames ------------------------------------------------------------------


def _past(c: Context, v: Value, d: int) -> Value:
    """The last `c.context` frames of `v`, where axis `d` was time: now an axis of features."""
    if not c.context:
        c.unlimited = True
        raise LayoutError(
            "attends to every frame there ever was",
            "say how many past frames it may attend to: --context N (context=N)",
        )
    v = c.real(v)
    c.charge(0)
    out = c.graph.add_node(
        "window", [v.name], name=c.name("past"), length=c.context, ahead=0, cut=0
    )
    # The frames come first; they belong where time was.
    past = (Atom("F", c.context),)
    held = Value(out, (past, *v.axes[:d], (), *v.axes[d + 1 :]))
    rank = len(held.axes)
    order = [*range(1, d + 1), 0, *range(d + 2, rank)]
    return permute(c, squeeze(c, held, [d + 1]), [i if i < d + 1 else i - 1 for i in order])


def _scores(c: Context, q: Value, k: Value) -> Value:
    """Queries [..., T, D] times keys [..., D, T]: a score per past frame."""
    rank = len(k.axes)
    past = _past(c, k, rank - 1)  # [..., D, W]
    swap = [*range(rank - 2), rank - 1, rank - 2]
    # Queries of one frame: their axis of time carries the time of the result.
    y = _product(c, q, permute(c, past, swap))
    return replace(c.real(y), keys=c.context)


def _weighted_past(c: Context, p: Value, v: Value) -> Value:
    """Weights [..., T, W] times values [..., T, D]."""
    rank = len(v.axes)
    if v.kind(-2) != "T":
        raise LayoutError(f"weights {describe(v.axes)} by past frames")
    if not c.looks_back(p):
        raise LayoutError(
            "weights frames that have not come yet",
            "use a causal mask, or compile in window mode (--window N --hop N)",
        )
    past = _past(c, v, rank - 2)  # [..., W, D]
    swap = [*range(rank - 2), rank - 1, rank - 2]
    return _product(c, replace(p, keys=0), permute(c, past, swap))


def attention(
    c: Context,
    q: Value,
    k: Value,
    v: Value,
    mask: Any = None,
    scale: float | None = None,
    *,
    causal: bool = False,
) -> Value:
    """softmax(q k^T scale + mask) v of [..., frames, features], as in PyTorch's
    scaled_dot_product_attention (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    Args:
        mask: None, or constant: booleans (True takes part) or numbers to add.
        causal: frames attend to themselves and earlier ones only.
    """
    factor = 1.0 / math.sqrt(size_of(q.axes[-1])) if scale is None else scale
    streaming = q.kind(-2) == "T" and k.kind(-2) == "T"
    if streaming and mask is None and not causal:
        raise LayoutError(
            "attends to frames that have not come yet",
            "use a causal mask (is_causal=True), or compile in window mode (--window N --hop N)",
        )
    rank = len(k.axes)
    swap = [*range(rank - 2), rank - 1, rank - 2]
    scores = matmul(c, c.binary("mul", q, factor, suffix="scale"), permute(c, k, swap))
    if streaming:
        if mask is not None:
            scores = masked(c, scores, mask)
        else:
            c.bands.append(0)
            c.masked.add(scores.name)
    else:
        n, m = size_of(q.axes[-2]), size_of(k.axes[-2])
        if causal:
            mask = np.tril(np.ones((n, m), bool))
        if mask is not None:
            scores = masked(c, scores, mask)
    from edgeseq.frontend.build.reduce import softmax

    return matmul(c, softmax(c, scores, len(scores.axes) - 1), v)


_FAR = -1e4
"""What is added to a score that must not count: exp makes exactly 0 of it."""


def masked(c: Context, scores: Value, mask: Any) -> Value:
    """`scores` with a constant mask: booleans (True takes part) or numbers to add."""
    if isinstance(mask, Value):
        return c.binary("add", scores, mask, suffix="mask")
    array = np.asarray(mask)
    if array.dtype == bool:
        array = np.where(array, 0.0, _FAR)
    array = np.maximum(np.asarray(array, np.float64), _FAR)
    if scores.keys:
        return _banded(c, scores, array)
    if np.any(array.max(axis=-1) <= _FAR):
        raise LayoutError("masks a whole row of scores", "let every element attend to something")
    return c.binary("add", scores, array, suffix="mask")


def _banded(c: Context, scores: Value, mask: Array) -> Value:
    """A mask [..., T, T] on scores of past frames: it must depend on the distance alone.

    Raises:
        LayoutError: it looks ahead, or differs from frame to frame.
    """
    while mask.ndim > 2 and np.ptp(mask, axis=0).max(initial=0.0) == 0:
        mask = mask[0]
    n, context = mask.shape[-1], scores.keys
    if mask.ndim < 2 or mask.shape[-2] != n:
        if mask.size == 1:
            return c.binary("add", scores, mask.reshape(()), suffix="mask")
        raise LayoutError(f"masks {describe(scores.axes)} by {list(mask.shape)}")
    lead = mask.shape[:-2]
    each = [_of_distance(m, n, context) for m in mask.reshape(-1, n, n)]
    c.bands.append(max(w for _, w in each) if all(w for _, w in each) else 0)
    bias = np.stack([b for b, _ in each]).reshape(*lead, *([1] if lead else []), context)
    if not np.any(bias):
        c.masked.add(scores.name)
        return scores
    y = c.binary("add", replace(scores, keys=0), bias, suffix="mask")  # by distance, as they are
    y = replace(y, keys=context)
    c.masked.add(y.name)
    return y


def _of_distance(mask: Array, n: int, context: int) -> tuple[Array, int]:
    """What a mask [T, T] adds to the scores of the last `context` frames, the newest last; and how
    many frames it lets a query see (0: all).
    """
    if n > 1 and np.any(mask[np.triu_indices(n, 1)] > _FAR / 2):
        raise LayoutError(
            "attends to frames that have not come yet",
            "use a causal mask, or compile in window mode (--window N --hop N)",
        )
    bias = np.zeros(context)
    for back in range(min(n, context)):
        diagonal = np.diagonal(mask, -back)
        if np.ptp(diagonal) > _SAME * max(1.0, float(np.abs(diagonal[0]))):
            raise LayoutError(
                "masks by the number of the frame, which has no meaning in an endless stream",
                "use a mask that depends on the distance of two frames",
            )
        bias[context - 1 - back] = diagonal[0]
    if n < context:  # what the example was too short to show
        bias[: context - n] = bias[context - n] if n == 1 or bias[context - n] <= _FAR / 2 else 0.0
        if n > 1 and np.any(bias[context - n :] != 0) and bias[context - n] > _FAR / 2:
            raise LayoutError(
                f"has a mask for {n} frames, fewer than the {context} it may attend to",
                "give a longer example, or a smaller --context",
            )
    shut = [back for back in range(1, n) if np.all(np.diagonal(mask, -back) <= _FAR / 2)]
    width = shut[0] if shut and shut == list(range(shut[0], n)) else 0
    return bias, width


_SAME = 1e-6
"""Relative difference of numbers that float32 arithmetic should have made equal."""


# -- Einstein sums -------------------------------------------------------------------------------


def einsum(c: Context, equation: str, operands: Sequence[Any]) -> Value:
    """numpy's einsum, without repeated letters in one operand."""
    text = equation.replace(" ", "")
    left, _, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise LayoutError(f"is an Einstein sum of {len(terms)} of {len(operands)} operands")
    ranks = [len(x.axes) if isinstance(x, Value) else np.ndim(x) for x in operands]
    spare = iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    dots = ""
    for i, term in enumerate(terms):
        if "..." in term:
            n = ranks[i] - len(term.replace("...", ""))
            while len(dots) < n:
                dots = next(ch for ch in spare if ch not in text) + dots
    terms = [
        t.replace("...", dots[len(dots) - (r - len(t.replace("...", ""))) :] if dots else "")
        for t, r in zip(terms, ranks, strict=True)
    ]
    if "->" not in text:
        letters = "".join(terms)
        right = dots + "".join(
            sorted(ch for ch in set(letters) - set(dots) if letters.count(ch) == 1)
        )
    out = right.replace("...", dots)
    if any(len(set(t)) != len(t) or len(t) != r for t, r in zip(terms, ranks, strict=True)):
        raise LayoutError(f"is the Einstein sum {equation!r}", "use letters once per operand")
    some, names = list(operands), list(terms)
    for i, term in enumerate(names):  # letters of one operand alone
        others = out + "".join(names[:i] + names[i + 1 :])
        names[i] = "".join(ch for ch in term if ch in others)
        if names[i] != term:
            some[i] = _summed(c, some[i], term, names[i])
    while len(some) > 2:
        i, k, kept = _cheapest(some, names, out)
        pair, its = [some[i], some[k]], [names[i], names[k]]
        del some[k], some[i], names[k], names[i]
        made = _pair(c, pair, its, kept)
        some, names = [made, *some], [kept, *names]
    if len(some) == 1:
        return _summed(c, some[0], names[0], out)
    return _pair(c, some, names, out)


def _cheapest(operands: Sequence[Any], terms: Sequence[str], out: str) -> tuple[int, int, str]:
    """Which two operands have the smallest product, and the letters that it keeps."""
    sizes = {
        ch: n
        for x, term in zip(operands, terms, strict=True)
        for ch, n in zip(term, x.sizes if isinstance(x, Value) else np.shape(x), strict=True)
    }
    best: list[tuple[int, int, int, str]] = []
    for k in range(len(terms)):
        for i in range(k):
            rest = out + "".join(t for j, t in enumerate(terms) if j not in (i, k))
            both = dict.fromkeys(terms[i] + terms[k])
            kept = "".join(ch for ch in both if ch in rest)
            best.append((math.prod(sizes[ch] for ch in kept), i, k, kept))
    return min(best)[1:]


def _summed(c: Context, v: Any, term: str, out: str) -> Any:
    """An operand without the letters that are not in `out`, in the order of `out`."""
    from edgeseq.frontend.build.reduce import mean

    if not isinstance(v, Value):
        return np.einsum(f"{term}->{out}", v)
    gone = [i for i, ch in enumerate(term) if ch not in out]
    kept = [ch for ch in term if ch in out]
    if gone:
        v = mean(c, v, gone, keep=False, total=True)
    return permute(c, v, [kept.index(ch) for ch in out])


def _pair(c: Context, operands: Sequence[Any], terms: Sequence[str], out: str) -> Any:
    x, y = operands
    a, b = terms
    if not (isinstance(x, Value) or isinstance(y, Value)):
        return np.einsum(f"{a},{b}->{out}", x, y)
    batch = [ch for ch in out if ch in a and ch in b]
    rows = [ch for ch in out if ch in a and ch not in b]
    columns = [ch for ch in out if ch in b and ch not in a]
    inner = [ch for ch in a if ch in b and ch not in out]

    def turned(operand: Any, term: str, order: list[str]) -> Any:
        places = [term.index(ch) for ch in order]
        if isinstance(operand, Value):
            return permute(c, operand, places)
        return np.transpose(operand, places)

    def sizes(operand: Any) -> tuple[int, ...]:
        return operand.sizes if isinstance(operand, Value) else np.shape(operand)

    x, y = turned(x, a, batch + rows + inner), turned(y, b, batch + inner + columns)
    nb, nr, nc, ni = len(batch), len(rows), len(columns), len(inner)
    sx, sy = sizes(x), sizes(y)
    lead = [max(p, q) for p, q in zip(sx[:nb], sy[:nb], strict=True)]
    if ni == 0:  # an outer or element-wise product
        wide_x = [*sx, *[1] * nc]
        wide_y = [*sy[:nb], *[1] * nr, *sy[nb:]]
        fx = reshape(c, x, wide_x) if isinstance(x, Value) else np.reshape(x, wide_x)
        fy = reshape(c, y, wide_y) if isinstance(y, Value) else np.reshape(y, wide_y)
        z = c.binary("mul", fx, fy)
    else:
        flat_x = [*sx[:nb], *sx[nb : nb + nr], math.prod(sx[nb + nr :])]
        rows_x = [*sx[:nb], math.prod(sx[nb : nb + nr]), math.prod(sx[nb + nr :])]
        flat_y = [*sy[:nb], math.prod(sy[nb : nb + ni]), math.prod(sy[nb + ni :])]
        if isinstance(x, Value) and not isinstance(y, Value) and nb == 0:
            # A constant matrix: rows keep their axes, so that time among them stays what it is.
            z = linear(c, reshape(c, x, flat_x), np.reshape(y, flat_y).T)
        elif isinstance(y, Value) and not isinstance(x, Value) and nb == 0:
            turned_y = permute(c, y, [*range(ni, ni + nc), *range(ni)])
            z = linear(
                c, reshape(c, turned_y, [*sy[ni:], math.prod(sy[:ni])]), np.reshape(x, rows_x)
            )
            z = permute(c, z, [nc, *range(nc)])
        else:
            fx = reshape(c, x, rows_x) if isinstance(x, Value) else np.reshape(x, rows_x)
            fy = reshape(c, y, flat_y) if isinstance(y, Value) else np.reshape(y, flat_y)
            z = matmul(c, fx, fy)
        if not z.keys:
            z = reshape(c, z, [*lead, *sx[nb : nb + nr], *sy[nb + ni :]])
        elif nc != 1 or nr != 1:
            raise LayoutError("sums over past frames and features at once")
    made = batch + rows + columns
    return permute(c, z, [made.index(ch) for ch in out])
