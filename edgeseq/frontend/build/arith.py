"""Arithmetic that is more than one node: quotients, powers, selections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.build.products import masked, scaled
from edgeseq.frontend.context import Context

__all__ = ["compare", "divide", "leaky", "logical_not", "power", "sign", "where", "wide"]

_FAR = 1e4


def wide(c: Context, fn: str, v: Value, suffix: str = "") -> Value:
    """sqrt, rsqrt, reciprocal or log."""
    return c.unary("wide", v, suffix=suffix or fn, fn=fn)


def divide(c: Context, a: Any, b: Any) -> Value:
    """a / b; one of them may be constant."""
    if not isinstance(b, Value):
        if np.any(np.asarray(b) == 0):
            raise LayoutError("divides by a constant that holds zero", "remove constant channels")
        return c.binary("mul", a, 1.0 / np.asarray(b, np.float64))
    root = _made_by(c, b, "wide", "sqrt")
    if root is not None:  # one function instead of two
        root_of = replace(b, name=root)
        inverse = c.unary("wide", root_of, suffix="rsqrt", fn="rsqrt")
    else:
        inverse = wide(c, "reciprocal", b)
    if not isinstance(a, Value) and np.size(a) == 1 and float(np.reshape(a, ())) == 1.0:
        return inverse
    return c.binary("mul", a, inverse)


def _made_by(c: Context, v: Value, op: str, fn: str) -> str | None:
    node = c.producer(v.name)
    if node is None or node.op != op or node.attrs.get("fn") != fn:
        return None
    return node.inputs[0]


def power(c: Context, v: Value, p: float) -> Value:
    """v to a constant power; powers other than small whole ones and roots need v > 0."""
    if p == 1.0:
        return v
    if p in (2.0, 3.0, 4.0):
        y = c.binary("mul", v, v, suffix="" if p == 2.0 else "square")
        if p == 3.0:
            return c.binary("mul", y, v)
        return y if p == 2.0 else c.binary("mul", y, y)
    if p in (0.5, -0.5, -1.0):
        return wide(c, {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}[p], v)
    if p == -2.0:
        return wide(c, "reciprocal", c.binary("mul", v, v, suffix="square"))
    if p == 0.0:
        return c.binary("add", c.binary("mul", v, 0.0, suffix="zero"), 1.0)
    if p == 0.25:
        return wide(c, "sqrt", wide(c, "sqrt", v, "root"))
    if p == int(p):
        raise LayoutError(f"is a power of {p:g}", "use powers up to 4, or a table of your own")
    # exp(p log v); for v = 0 the logarithm of the smallest number that is stored stands.
    log = c.binary("mul", wide(c, "log", v), p, suffix="times")
    return c.lut("exp", log)


def leaky(c: Context, x: Value, slope: Any) -> Value:
    """slope x + (1 - slope) relu(x)"""
    line = c.binary("mul", x, slope, suffix="slope")
    bend = c.binary("mul", c.relu(x, suffix="relu"), 1.0 - np.asarray(slope), suffix="bend")
    return c.binary("add", line, bend)


def compare(c: Context, cmp: str, a: Any, b: Any) -> Value:
    """1 where ``a cmp b`` ('gt', 'ge', 'lt', 'le', 'eq'), else 0."""
    if cmp in ("lt", "le"):
        a, b, cmp = b, a, {"lt": "gt", "le": "ge"}[cmp]
    return c.binary("compare", a, b, cmp=cmp)


def logical_not(c: Context, v: Value) -> Value:
    """1 - v of a value that is 0 or 1."""
    return c.binary("sub", 1.0, v)


def sign(c: Context, v: Value) -> Value:
    """-1, 0 or 1."""
    up = compare(c, "gt", v, np.zeros(1))
    down = compare(c, "gt", np.zeros(1), v)
    return c.binary("sub", up, down)


def where(c: Context, condition: Any, a: Any, b: Any) -> Value:
    """a where the condition holds, else b."""
    if isinstance(condition, Value):
        return _selected(c, condition, a, b)
    keep = np.asarray(condition).astype(bool)
    if np.all(keep) or not np.any(keep):
        one = a if np.all(keep) else b
        other = b if np.all(keep) else a
        if not isinstance(one, Value):
            raise LayoutError("chooses a constant everywhere")
        like = other if isinstance(other, Value) else one
        return (
            one
            if one.axes == like.axes
            else c.binary("add", one, c.binary("mul", like, 0.0, suffix="zero"))
        )
    for v, other, mask in ((b, a, keep), (a, b, ~keep)):
        # v where the mask does not hold, a far constant where it does: a mask of scores.
        if isinstance(v, Value) and not isinstance(other, Value):
            far = np.asarray(other, np.float64)
            if np.all(far <= -_FAR / 10) or (v.keys and np.all(far < -100)):
                return masked(c, v, ~np.broadcast_to(mask, np.broadcast_shapes(mask.shape)))
        if isinstance(v, Value) and v.keys and not isinstance(other, Value) and not np.any(other):
            return scaled(c, v, ~mask)
    if (isinstance(a, Value) and a.keys) or (isinstance(b, Value) and b.keys):
        raise LayoutError("masks scores by something else than a far negative number or 0")
    kept: Any = None
    parts = []
    for v, mask in ((a, keep), (b, ~keep)):
        if isinstance(v, Value):
            parts.append(c.binary("mul", v, mask.astype(np.float64), suffix="kept"))
        else:
            array = np.where(mask, np.asarray(v, np.float64), 0.0)
            if not np.all(np.isfinite(array)):
                raise LayoutError("chooses an infinite constant")
            kept = array
    y = parts[0] if len(parts) == 1 else c.binary("add", parts[0], parts[1])
    return y if kept is None or not np.any(kept) else c.binary("add", y, kept, suffix="filled")


def _widened(c: Context, v: Value, other: Value) -> Value:
    """`v` with the axes that it has after broadcasting with another value."""
    if v.axes == other.axes:
        return v
    wide = c.binary("add", v, c.binary("mul", other, 0.0, suffix="zero"), suffix="wide")
    return v if wide.axes == v.axes else wide


def _selected(c: Context, condition: Value, a: Any, b: Any) -> Value:
    """`select` on operands brought to one shape."""
    like = c.real(condition)
    zero = c.binary("mul", like, 0.0, suffix="zero")
    values = []
    for v in (a, b):
        if isinstance(v, Value):
            values.append(v)
        else:
            array = np.maximum(np.asarray(v, np.float64), -_FAR)
            values.append(c.binary("add", zero, np.minimum(array, 1e9), suffix="constant"))
    x, y = values
    x, y = _widened(c, x, y), _widened(c, y, x)
    like = _widened(c, like, x)
    x, y = _widened(c, x, like), _widened(c, y, like)
    like, x, y = c.real(like), c.real(x), c.real(y)
    return c.emit("select", [like.name, x.name, y.name], x.axes)
