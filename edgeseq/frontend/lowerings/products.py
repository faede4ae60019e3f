"""Products and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend.axes import Atom, LayoutError, Value, size_of
from edgeseq.frontend.build import products, reduce, views
from edgeseq.frontend.context import Array, Context, lowers


def constant(x: Any, what: str) -> Array:
    """An argument that must not depend on the input."""
    if isinstance(x, Value):
        raise LayoutError(f"has a {what} that depends on the input", f"use a constant {what}")
    return np.asarray(x)


@lowers("linear")
def _linear(c: Context, input: Any, weight: Any, bias: Any = None) -> Value:
    if isinstance(weight, Value):  # a product of two values in the form of a layer
        y = products.matmul(c, input, _turned(c, weight))
        return y if bias is None else c.binary("add", y, bias)
    w = np.asarray(weight)
    b = None if bias is None else constant(bias, "bias")
    if w.ndim == 1:
        y = products.matmul(c, input, w)
        return y if b is None else c.binary("add", y, b)
    if w.ndim != 2:
        raise LayoutError(f"has a weight of shape {list(w.shape)}", "use a matrix")
    return products.linear(c, input, w, b)


def _turned(c: Context, x: Any) -> Any:
    if not isinstance(x, Value):
        return np.swapaxes(x, -1, -2)
    rank = len(x.axes)
    return views.permute(c, x, [*range(rank - 2), rank - 1, rank - 2])


@lowers("addmm")
def _addmm(c: Context, self: Any, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Value:
    if isinstance(mat1, Value) and not isinstance(mat2, Value) and not isinstance(self, Value):
        w, bias = np.asarray(mat2).T * alpha, np.asarray(self) * beta
        if bias.size in (1, w.shape[0]):
            return products.linear(c, mat1, w, bias)
    return _plus(c, products.matmul(c, mat1, mat2), self, beta, alpha)


@lowers("baddbmm", "addbmm")
def _baddbmm(
    c: Context, self: Any, batch1: Any, batch2: Any, beta: float = 1, alpha: float = 1
) -> Value:
    if c.op.base == "addbmm":
        raise LayoutError("sums products over the batch", "use torch.bmm")
    return _plus(c, products.matmul(c, batch1, batch2), self, beta, alpha)


@lowers("addmv")
def _addmv(c: Context, self: Any, mat: Any, vec: Any, beta: float = 1, alpha: float = 1) -> Value:
    return _plus(c, products.matmul(c, mat, vec), self, beta, alpha)


def _plus(c: Context, y: Value, more: Any, beta: float, alpha: float) -> Value:
    """alpha y + beta more; `more` may be a mask of scores."""
    if alpha != 1:
        y = c.binary("mul", y, alpha, suffix="alpha")
    if not isinstance(more, Value):
        array = np.asarray(more, np.float64)
        array = array * beta if beta != 1 else array
        if not np.any(array):
            return y
        return products.masked(c, y, array) if y.keys else c.binary("add", y, array)
    return c.binary("add", y, c.binary("mul", more, beta, suffix="beta") if beta != 1 else more)


@lowers("mm", "matmul", "bmm", "mv", "dot", "vdot", "inner")
def _matmul(
    c: Context, self: Any, other: Any = None, mat2: Any = None, vec: Any = None, tensor: Any = None
) -> Value:
    right = next(x for x in (other, mat2, vec, tensor) if x is not None)
    if c.op.base == "inner":
        right = _turned(c, right)
    return products.matmul(c, self, right)


@lowers("outer", "ger")
def _outer(c: Context, self: Any, vec2: Any) -> Value:
    left = views.unsqueeze(c, self, [1]) if isinstance(self, Value) else np.asarray(self)[:, None]
    return c.binary("mul", left, vec2)


@lowers("einsum")
def _einsum(c: Context, equation: str, tensors: Sequence[Any], path: Any = None) -> Value:
    return products.einsum(c, equation, list(tensors))


@lowers("bilinear")
def _bilinear(c: Context, input1: Any, input2: Any, weight: Any, bias: Any = None) -> Value:
    """y_o = x1^T W_o x2 + b_o"""
    w = constant(weight, "weight")
    out, n, m = w.shape
    if not isinstance(input1, Value):
        input1, input2, w = input2, input1, w.swapaxes(1, 2)
        n, m = m, n
    y = products.linear(c, input1, w.transpose(0, 2, 1).reshape(out * m, n))
    y = views.reshape(c, y, [*y.sizes[:-1], out, m])
    if isinstance(input2, Value):
        input2 = views.unsqueeze(c, input2, [-2])
    y = c.binary("mul", y, input2)
    y = reduce.mean(c, y, [-1], keep=False, total=True)
    return y if bias is None else c.binary("add", y, bias)


# -- attention -----------------------------------------------------------------------------------


@lowers("scaled_dot_product_attention")
def _attention(
    c: Context, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    if not all(isinstance(x, Value) for x in (query, key, value)):
        return _partly_constant(c, query, key, value, attn_mask, is_causal, scale)
    if dropout_p:
        raise LayoutError("is in training mode", "call model.eval() before exporting")
    if enable_gqa:
        key, value = (_grouped(c, query, x) for x in (key, value))
    return products.attention(c, query, key, value, attn_mask, scale, causal=bool(is_causal))


def _grouped(c: Context, q: Value, x: Value) -> Value:
    """Heads of keys or values, each repeated for the queries that share it."""
    heads, have = size_of(q.axes[-3]), size_of(x.axes[-3])
    if heads == have:
        return x
    if have < 1 or heads % have:
        raise LayoutError(f"shares {have} heads among {heads}")
    return views.take(c, x, x.axis(-3), np.repeat(np.arange(have), heads // have))


def _partly_constant(
    c: Context, q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float | None
) -> Value:
    """Attention where some of the three are constant (learned queries, a fixed memory)."""
    factor = 1.0 / math.sqrt(np.shape(q)[-1] if not isinstance(q, Value) else q.sizes[-1])
    factor = factor if scale is None else scale
    if causal:
        raise LayoutError("masks constant keys by time")
    if isinstance(q, Value):
        q = c.binary("mul", q, factor, suffix="scale")
    else:
        q = np.asarray(q, np.float64) * factor
    if isinstance(q, Value) or isinstance(k, Value):
        scores: Any = products.matmul(c, q, _turned(c, k))
        if mask is not None:
            scores = products.masked(c, scores, mask)
        weights: Any = reduce.softmax(c, scores, len(scores.axes) - 1)
    else:
        scores = q @ np.swapaxes(k, -1, -2)
        if mask is not None:
            array = constant(mask, "mask")
            scores = np.where(array, scores, -1e4) if array.dtype == bool else scores + array
        grown = np.exp(scores - scores.max(-1, keepdims=True))
        weights = grown / grown.sum(-1, keepdims=True)
    return products.matmul(c, weights, v)


# -- tables --------------------------------------------------------------------------------------


@lowers("embedding")
def _embedding(c: Context, weight: Any, indices: Any, **_: Any) -> Value:
    """Rows of a table."""
    table = constant(weight, "table")
    if not isinstance(indices, Value):
        raise LayoutError("has constant indices")
    v = c.real(indices)
    axes = (*v.axes, (Atom("F", table.shape[1]),))
    out = c.graph.add_node("embed", [v.name, c.const(table, "table")], name=c.name())
    return c.view(Value(out, axes), axes)


@lowers("one_hot")
def _one_hot(c: Context, self: Value, num_classes: int = -1) -> Value:
    if num_classes < 1:
        raise LayoutError("does not say how many classes there are", "one_hot(x, num_classes)")
    return _embedding(c, np.eye(num_classes), self)
