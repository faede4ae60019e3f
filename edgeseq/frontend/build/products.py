"""Products: with constants, of two values, Einstein sums, and attention over past frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, size_of
from edgeseq.frontend.build.rates import framed_axis, is_laid_out
from edgeseq.frontend.build.views import expand, permute, reshape, squeeze, unsqueeze
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.past import FAR, future_of_two, refuse_future, refuse_scores

__all__ = ["attention", "einsum", "linear", "masked", "matmul", "running_sum", "scaled"]


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
        return _weighted_past(c, a, framed_axis(c, b, -2))
    if is_laid_out(a.axes[-2]) and is_laid_out(b.axes[-1]):
        a, b = framed_axis(c, a, -2), framed_axis(c, b, -1)
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
    refuse_scores(v)
    if p.future != 0.0:
        refuse_future(masked=p.future is not None)
    c.weighted.add(p.name)
    past = _past(c, v, rank - 2)  # [..., W, D]
    swap = [*range(rank - 2), rank - 1, rank - 2]
    return _product(c, replace(p, keys=0, future=None), permute(c, past, swap))


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
    if is_laid_out(q.axes[-2]) or is_laid_out(k.axes[-2]):
        q, k, v = (framed_axis(c, t, -2) for t in (q, k, v))
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
            scores = replace(scores, future=FAR)
    else:
        n, m = size_of(q.axes[-2]), size_of(k.axes[-2])
        if causal:
            mask = np.tril(np.ones((n, m), bool))
        if mask is not None:
            scores = masked(c, scores, mask)
    from edgeseq.frontend.build.reduce import softmax

    return matmul(c, softmax(c, scores, len(scores.axes) - 1), v)


def masked(c: Context, scores: Value, mask: Any) -> Value:
    """`scores` with a constant mask: booleans (True takes part) or numbers to add."""
    if isinstance(mask, Value):
        return c.binary("add", scores, mask, suffix="mask")
    array = np.asarray(mask)
    if array.dtype == bool:
        array = np.where(array, 0.0, FAR)
    array = np.maximum(np.asarray(array, np.float64), FAR)
    if scores.keys:
        return _banded(c, scores, array, "add")
    if np.any(array.max(axis=-1) <= FAR):
        raise LayoutError("masks a whole row of scores", "let every element attend to something")
    return c.binary("add", scores, array, suffix="mask")


def scaled(c: Context, a: Any, b: Any) -> Value:
    """a b, where one may be scores and the other a mask of factors, as attention without a softmax
    has it.
    """
    for scores, mask in ((a, b), (b, a)):
        if isinstance(scores, Value) and scores.keys and not isinstance(mask, Value):
            array = np.asarray(mask, np.float64)
            if array.ndim > 1 and array.shape[-1] > 1:
                return _banded(c, scores, array, "mul")
    return c.binary("mul", a, b)


def running_sum(
    c: Context, v: Value, dim: int, *, exclusive: bool = False, reverse: bool = False
) -> Value:
    """Sums of the features so far along an axis: a product with a triangle of ones.

    Args:
        exclusive: without the element itself.
        reverse: of the elements from here to the last.

    Raises:
        LayoutError: the axis is time.
    """
    d = v.axis(dim)
    if v.kind(d) not in "F1":
        raise LayoutError(
            "sums over all frames so far, without end in a stream",
            "a recurrent layer can keep a sum; or compile in window mode (--window N --hop N)",
        )
    n = size_of(v.axes[d])
    ones = np.tril(np.ones((n, n)), -1 if exclusive else 0)
    order = [*(i for i in range(len(v.axes)) if i != d), d]
    y = c.linear(c.last_axis(permute(c, v, order)), ones.T if reverse else ones)
    return permute(c, y, [int(i) for i in np.argsort(order)])


def _banded(c: Context, scores: Value, mask: Array, op: str) -> Value:
    """A mask [T, T], to add or to multiply by, on scores of past frames.

    Raises:
        LayoutError: it differs from frame to frame, so it does not depend on the distance alone.
    """
    while mask.ndim > 2 and np.ptp(mask, axis=0).max(initial=0.0) == 0:
        mask = mask[0]
    if mask.size == 1 or mask.shape[-2:] == (1, 1):
        return c.binary(op, scores, mask if mask.size > 1 else mask.reshape(()), suffix="mask")
    n, context = mask.shape[-1], scores.keys
    if mask.ndim < 2 or mask.shape[-2] != n:
        raise LayoutError(f"masks {describe(scores.axes)} by {list(mask.shape)}")
    lead = mask.shape[:-2]
    shut = mask <= FAR / 2 if op == "add" else mask == 0
    ahead = np.triu_indices(n, 1)
    if np.all(shut[..., ahead[0], ahead[1]]):
        widths = [_width(m) for m in shut.reshape(-1, n, n)]
        c.bands.append(max(widths) if all(widths) else 0)
        future: float | None = FAR if op == "add" else 0.0
    else:  # one of several terms: another one may shut frames to come out
        future = future_of_two(op, scores, replace(scores, future=None))
    neutral = 0.0 if op == "add" else 1.0
    each = [
        _of_distance(m, s, context, neutral)
        for m, s in zip(mask.reshape(-1, n, n), shut.reshape(-1, n, n), strict=True)
    ]
    by = np.stack(each).reshape(*lead, *([1] if lead else []), context)
    if np.all(by == neutral):
        return replace(scores, future=future)
    y = c.binary(op, replace(scores, keys=0), by, suffix="mask")  # by distance, as they are
    return replace(y, keys=context, future=future)


def _width(shut: Array) -> int:
    """How many frames a mask [T, T] lets a query see (0: all)."""
    n = len(shut)
    closed = [back for back in range(1, n) if np.all(np.diagonal(shut, -back))]
    return closed[0] if closed and closed == list(range(closed[0], n)) else 0


def _of_distance(mask: Array, shut: Array, context: int, neutral: float) -> Array:
    """What a mask [T, T] does to the scores of the last `context` frames, the newest last.

    Args:
        mask: numbers to add or to multiply by.
        shut: where they leave a score out.
        context: frames.
        neutral: what changes nothing.
    """
    n = len(mask)
    by = np.full(context, neutral)
    for back in range(min(n, context)):
        diagonal = np.diagonal(mask, -back)
        if np.ptp(diagonal) > _SAME * max(1.0, float(np.abs(diagonal[0]))):
            raise LayoutError(
                "masks by the number of the frame, which has no meaning in an endless stream",
                "use a mask that depends on the distance of two frames",
            )
        by[context - 1 - back] = diagonal[0]
    if n < context:  # what the example was too short to show
        closed = bool(shut[n - 1, 0])
        by[: context - n] = by[context - n] if closed else neutral
        if not closed and np.any(by[context - n :] != neutral):
            raise LayoutError(
                f"has a mask for {n} frames, fewer than the {context} it may attend to",
                "give a longer example, or a smaller --context",
            )
    return by


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
    if isinstance(y, Value) and y.keys:  # scores weight values from the left
        x, y, a, b = y, x, b, a
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
