"""The closed table of operations.

Each entry says how many inputs an operation has, what its attributes mean, and how the types of
its outputs follow from its inputs in a real Graph (`infer`). What a node computes is defined in
`edgeseq.ir.interp`. Front ends produce these operations, emitters consume them, and nothing else
exists; a new operation is one entry here and one function there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeseq.errors import GraphError, unknown_name
from edgeseq.ir.functions import FUNCTIONS, WIDE
from edgeseq.ir.types import Time, Type

if TYPE_CHECKING:
    from edgeseq.ir.graph import Graph, Node

__all__ = ["ELEMENTWISE", "MOVEMENT", "OPS", "OVER_TIME", "Op", "infer", "op_of"]

Infer = Callable[["Graph", "Node"], list[Type]]


@dataclass(frozen=True)
class Op:
    """One row of the table.

    Attributes:
        name: as in `Node.op`.
        arity: least and greatest number of inputs (None: no upper bound).
        real: attributes a node has in a real Graph.
        integer: attributes it has in an integer Graph; None where the operation exists in real
            Graphs only.
        infer: types of the outputs in a real Graph.
        doc: what it computes.
    """

    name: str
    arity: tuple[int, int | None]
    real: frozenset[str]
    integer: frozenset[str] | None
    infer: Infer
    doc: str


OPS: dict[str, Op] = {}


def _op(
    name: str,
    arity: tuple[int, int | None],
    *,
    real: str = "",
    integer: str | None = "",
) -> Callable[[Infer], Infer]:
    def register(fn: Infer) -> Infer:
        ints = None if integer is None else frozenset(integer.split())
        OPS[name] = Op(name, arity, frozenset(real.split()), ints, fn, fn.__doc__ or "")
        return fn

    return register


def op_of(name: str) -> Op:
    """The row of operation `name`.

    Raises:
        GraphError: there is none.
    """
    try:
        return OPS[name]
    except KeyError:
        raise GraphError(unknown_name("operation", name, OPS)) from None


def infer(graph: Graph, node: Node) -> list[Type]:
    """Types of a real node's outputs.

    Raises:
        GraphError: the inputs do not fit the operation; names the node.
    """
    op = op_of(node.op)
    lo, hi = op.arity
    if len(node.inputs) < lo or (hi is not None and len(node.inputs) > hi):
        raise GraphError(
            f"{node.op} takes {lo}{'' if hi == lo else ' or more' if hi is None else f' to {hi}'}"
            f" inputs, not {len(node.inputs)}",
            where=f"node {node.name!r}",
        )
    try:
        return op.infer(graph, node)
    except (ValueError, TypeError, KeyError, AttributeError) as e:  # attributes may be anything
        raise GraphError(str(e), where=f"node {node.name!r} ({node.op})") from None


def _same_time(types: list[Type]) -> Time | None:
    times = {t.time for t in types if t.time is not None}
    if len(times) > 1:
        raise ValueError(f"inputs lie differently in time: {sorted(map(str, times))}")
    return times.pop() if times else None


def _types(graph: Graph, node: Node) -> list[Type]:
    return [graph.types[v] for v in node.inputs]


@_op("linear", (2, None), integer="m s")
def _linear(graph: Graph, node: Node) -> list[Type]:
    """``y = sum_g W_g x_g + b``: inputs x_1, W_1, x_2, W_2, ..., and b last if the count is odd.

    x_g is [..., K_g], W_g [O, K_g], b [O], y [..., O]. Integer: every group's int32 accumulator is
    requantised to the output's scale by its own `m` (list of int32 [O]) and `s` (list of shifts),
    the sums and b (int32, in the output's scale) added, and the result saturated.
    """
    types = _types(graph, node)
    pairs = len(types) // 2
    rows = types[1].shape[0] if len(types[1].shape) == 2 else None
    lead: tuple[int, ...] | None = None
    for g in range(pairs):
        x, w = types[2 * g], types[2 * g + 1]
        if len(w.shape) != 2 or not x.shape or x.shape[-1] != w.shape[1] or w.shape[0] != rows:
            raise ValueError(f"group {g}: a {x} does not multiply a {w}")
        if lead is not None and x.shape[:-1] != lead:
            raise ValueError(f"group {g}: leading axes {x.shape[:-1]} differ from {lead}")
        lead = x.shape[:-1]
    if len(types) % 2 and types[-1].shape != (rows,):
        raise ValueError(f"bias is {types[-1]}, not [{rows}]")
    assert rows is not None and lead is not None
    return [Type((*lead, rows), time=_same_time(types))]


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """b without leading axes of 1 must equal the last axes of a, or a those of b."""
    if len(a) == len(b):
        long, short = (a, b) if math.prod(a) >= math.prod(b) else (b, a)
    else:
        long, short = (a, b) if len(a) > len(b) else (b, a)
    bare = short
    while bare and bare[0] == 1 and bare != long[len(long) - len(bare) :]:
        bare = bare[1:]
    if bare and long[len(long) - len(bare) :] != bare:
        raise ValueError(f"shapes {list(a)} and {list(b)} do not match")
    return long


def _binary(graph: Graph, node: Node) -> list[Type]:
    a, b = _types(graph, node)
    short = node.inputs[0] if len(a.shape) < len(b.shape) else node.inputs[1]
    if len(a.shape) != len(b.shape) and short not in graph.consts:
        raise ValueError(f"only a constant is broadcast; {a} and {b} have different ranks")
    return [Type(_broadcast(a.shape, b.shape), time=_same_time([a, b]))]


@_op("add", (2, 2), integer="ma mb s")
def _add(graph: Graph, node: Node) -> list[Type]:
    """``a + b``; one operand may have only the last axes of the other (axes of 1 before them).

    Integer: ``sat((a*ma + b*mb + 2^(s-1)) >> s)``.
    """
    return _binary(graph, node)


@_op("sub", (2, 2), integer=None)
def _sub(graph: Graph, node: Node) -> list[Type]:
    """``a - b``. An integer Graph has an `add` with a negative `mb` instead."""
    return _binary(graph, node)


@_op("mul", (2, 2), integer="m s")
def _mul(graph: Graph, node: Node) -> list[Type]:
    """``a * b``, broadcast as `add`. Integer: ``sat(rq(a*b, m, s))``."""
    return _binary(graph, node)


def _unary(graph: Graph, node: Node) -> list[Type]:
    (x,) = _types(graph, node)
    return [Type(x.shape, time=x.time)]


@_op("lut", (1, 2), real="fn", integer="fn lo k")
def _lut(graph: Graph, node: Node) -> list[Type]:
    """A function of one variable, by name in `edgeseq.ir.functions`.

    Integer: inputs x and the table (a constant of n + 1 nodes), interpolated as
    `edgeseq.fixed.lut_apply` does.
    """
    if node.attrs.get("fn") not in FUNCTIONS:
        raise ValueError(unknown_name("function", str(node.attrs.get("fn")), FUNCTIONS))
    return [replace(graph.types[node.inputs[0]], dtype="f32", scale=None)]


@_op("clamp", (1, 1), real="lo hi", integer="lo hi")
def _clamp(graph: Graph, node: Node) -> list[Type]:
    """``min(max(x, lo), hi)``; `lo` and `hi` are None (no bound) or in units of x."""
    return _unary(graph, node)


@_op("rescale", (1, 1), integer="m s")
def _rescale(graph: Graph, node: Node) -> list[Type]:
    """The same real value in another format. Integer: ``sat(rq(x, m, s))``."""
    return _unary(graph, node)


@_op("norm", (3, 3), real="eps", integer="eps s")
def _norm(graph: Graph, node: Node) -> list[Type]:
    """Layer normalisation over the last axis: inputs x, gamma, beta.

    Integer: `edgeseq.fixed.layer_norm` with gain and bias as the second and third input.
    """
    x, gamma, beta = _types(graph, node)
    n = x.shape[-1:]
    if not n or gamma.shape != n or beta.shape != n:
        raise ValueError(f"norm of {x} with gamma {gamma} and beta {beta}")
    return [Type(x.shape, time=x.time)]


@_op("reshape", (1, 1), real="shape", integer="shape")
def _reshape(graph: Graph, node: Node) -> list[Type]:
    """The elements of one frame in another shape."""
    (x,) = _types(graph, node)
    out = Type(tuple(int(d) for d in node.attrs["shape"]), time=x.time)
    if out.size != x.size:
        raise ValueError(f"{x} does not reshape to {list(out.shape)}")
    return [out]


@_op("slice", (1, 1), real="start stop", integer="start stop")
def _slice(graph: Graph, node: Node) -> list[Type]:
    """Elements start..stop-1 of the last axis."""
    (x,) = _types(graph, node)
    start, stop = node.attrs["start"], node.attrs["stop"]
    if not x.shape or not 0 <= start < stop <= x.shape[-1]:
        raise ValueError(f"{x} has no elements {start}..{stop - 1}")
    return [Type((*x.shape[:-1], stop - start), time=x.time)]


@_op("concat", (1, None))
def _concat(graph: Graph, node: Node) -> list[Type]:
    """The inputs one after another along the last axis; integer inputs share one format."""
    types = _types(graph, node)
    lead = types[0].shape[:-1]
    if any(t.shape[:-1] != lead or not t.shape for t in types):
        raise ValueError(f"cannot join {', '.join(map(str, types))}")
    total = sum(t.shape[-1] for t in types)
    return [Type((*lead, total), time=_same_time(types))]


@_op("last", (1, 1), integer=None)
def _last(graph: Graph, node: Node) -> list[Type]:
    """The value at the last frame of the sequence. As a stream: the running value."""
    (x,) = _types(graph, node)
    if x.time is None:
        raise ValueError("the input is not a sequence")
    return [x.at(None)]


@_op("scan", (1, None), real="body reverse", integer="body reverse")
def _scan(graph: Graph, node: Node) -> list[Type]:
    """A recurrence: the body is a step Graph, run once an element with its states carried.

    Over time: inputs are sequences in the order of the body's inputs, outputs sequences of its
    outputs. Without time: inputs are [N, *shape], run over axis 0; after them may come a value
    for every state of the body to start from (else its `init`), and then the states after the
    last element follow the outputs. `reverse` runs from the last element to the first.
    """
    body: Graph = node.attrs["body"]
    types = _types(graph, node)
    n = len(body.inputs)
    over = _same_time(types[:n])
    counts = {n} if over is not None else {n, n + len(body.states)}
    if len(types) not in counts or not n:
        raise ValueError(f"{len(types)} inputs for a body of {n}")
    lead = () if over is not None else types[0].shape[:1]
    for t, name in zip(types, body.inputs, strict=False):
        if (t.time is None) != (over is None) or t.shape != lead + body.types[name].shape:
            raise ValueError(f"{t} does not feed the body's {name}: {body.types[name]}")
    carried = len(types) > n
    finals = []
    if carried:
        for t, state in zip(types[n:], body.states, strict=True):
            want = body.types[state.input]
            if (t.shape, t.dtype, t.scale) != (want.shape, want.dtype, want.scale):
                raise ValueError(f"{t} does not start the body's state {state.name}: {want}")
            finals.append(want)
    outs = [body.types[v] for v in body.outputs]
    return [replace(t, shape=lead + t.shape, time=over) for t in outs] + finals


@_op("loop", (1, None), real="body reverse", integer=None)
def _loop(graph: Graph, node: Node) -> list[Type]:
    """A recurrence within every frame of a sequence, started anew in each.

    Inputs are sequences of [N, *shape] in the order of the body's inputs, then what every state of
    the body starts from: a sequence or a constant. Outputs are sequences: the body's outputs
    stacked, then its states after the last element. As a stream: a `scan` over axis 0.
    """
    body: Graph = node.attrs["body"]
    types = _types(graph, node)
    n, over = len(body.inputs), _same_time(types)
    if over is None or not n or len(types) != n + len(body.states):
        raise ValueError(f"{len(types)} inputs for a body of {n} and {len(body.states)} states")
    lead = types[0].shape[:1]
    for t, name in zip(types, body.inputs, strict=False):
        if not lead or t.shape != lead + body.types[name].shape:
            raise ValueError(f"{t} does not feed the body's {name}: {body.types[name]}")
    wants = [body.types[s.input] for s in body.states]
    for t, want, state in zip(types[n:], wants, body.states, strict=True):
        if t.shape != want.shape:
            raise ValueError(f"{t} does not start the body's state {state.name}: {want}")
    outs = [body.types[v] for v in body.outputs]
    return [
        *(replace(t, shape=lead + t.shape, time=over) for t in outs),
        *(replace(t, time=over) for t in wants),
    ]


@_op("strided", (1, 1), real="shape strides offset", integer="shape strides offset")
def _strided(graph: Graph, node: Node) -> list[Type]:
    """A view: element [i_0, ..., i_k] is element ``offset + sum_j i_j * strides[j]`` of x.

    Elements of one frame of x are counted row by row. Transposes, steps, reversals (negative
    strides), repetitions (stride 0) and overlapping windows.
    """
    (x,) = _types(graph, node)
    shape = tuple(int(d) for d in node.attrs["shape"])
    strides = tuple(int(d) for d in node.attrs["strides"])
    offset = int(node.attrs["offset"])
    if len(shape) != len(strides) or any(d < 1 for d in shape):
        raise ValueError(f"shape {list(shape)} with strides {list(strides)}")
    low = offset + sum((d - 1) * s for d, s in zip(shape, strides, strict=True) if s < 0)
    high = offset + sum((d - 1) * s for d, s in zip(shape, strides, strict=True) if s > 0)
    if low < 0 or high >= x.size:
        raise ValueError(f"elements {low}..{high} of {x}")
    return [Type(shape, time=x.time)]


@_op("depthwise", (2, 3), integer="m s")
def _depthwise(graph: Graph, node: Node) -> list[Type]:
    """``y[..., c] = sum_k W[k, c] x[..., k, c] + b[c]``: inputs x [..., K, C], W [K, C], b [C].

    Integer: an int32 accumulator, requantised by `m` (int32 [C]) and `s`, then b added.
    """
    types = _types(graph, node)
    x, w = types[:2]
    if len(w.shape) != 2 or x.shape[-2:] != w.shape:
        raise ValueError(f"a {x} does not multiply a {w}")
    if len(types) == 3 and types[2].shape != w.shape[1:]:
        raise ValueError(f"bias is {types[2]}, not [{w.shape[1]}]")
    return [Type((*x.shape[:-2], w.shape[1]), time=_same_time(types))]


@_op("matmul", (2, 2), integer="m s")
def _matmul(graph: Graph, node: Node) -> list[Type]:
    """``y[..., m, n] = sum_k a[..., m, k] b[..., n, k]`` of two values; leading axes are equal.

    Integer: an int64 accumulator, ``sat(rq(acc, m, s))``.
    """
    a, b = _types(graph, node)
    if len(a.shape) < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1:] != b.shape[-1:]:
        raise ValueError(f"a {a} does not multiply a {b}")
    return [Type((*a.shape[:-1], b.shape[-2]), time=_same_time([a, b]))]


@_op("softmax", (1, 2), integer="m s lo k")
def _softmax(graph: Graph, node: Node) -> list[Type]:
    """``exp(x - max) / sum exp(x - max)`` over the last axis.

    Integer: inputs x and a table of exp on [lo, 0), see `edgeseq.fixed.softmax`; Q0.15.
    """
    x = graph.types[node.inputs[0]]
    if not x.shape:
        raise ValueError(f"{x} has no last axis")
    return [Type(x.shape, time=x.time)]


@_op("wide", (1, 2), real="fn", integer="fn m s b")
def _wide(graph: Graph, node: Node) -> list[Type]:
    """A function of large dynamic range, by name in `edgeseq.ir.functions.WIDE`.

    Integer: inputs x and the table of the function on [1, 4], see `edgeseq.fixed.wide_apply`.
    """
    if node.attrs.get("fn") not in WIDE:
        raise ValueError(unknown_name("function", str(node.attrs.get("fn")), WIDE))
    return [replace(graph.types[node.inputs[0]], dtype="f32", scale=None)]


@_op("max", (2, 2))
def _max(graph: Graph, node: Node) -> list[Type]:
    """The greater of a and b, broadcast as `add`; integer operands share the result's format."""
    return _binary(graph, node)


@_op("min", (2, 2))
def _min(graph: Graph, node: Node) -> list[Type]:
    """The lesser of a and b, broadcast as `add`; integer operands share the result's format."""
    return _binary(graph, node)


@_op("compare", (2, 2), real="cmp", integer="cmp")
def _compare(graph: Graph, node: Node) -> list[Type]:
    """1 where ``a cmp b``, else 0; `cmp` is 'gt', 'ge' or 'eq'; broadcast as `add`.

    Integer: operands share one format; the result is int8 of scale 1.
    """
    if node.attrs.get("cmp") not in COMPARISONS:
        raise ValueError(unknown_name("comparison", str(node.attrs.get("cmp")), COMPARISONS))
    return _binary(graph, node)


@_op("select", (3, 3))
def _select(graph: Graph, node: Node) -> list[Type]:
    """a where the condition c is not 0, else b; inputs c, a, b, each broadcast as in `add`.

    Integer: a, b and the result share one format; c has any.
    """
    types = _types(graph, node)
    shape: tuple[int, ...] = ()
    rank = max(len(t.shape) for t in types)
    for t, name in zip(types, node.inputs, strict=True):
        if len(t.shape) != rank and name not in graph.consts:
            raise ValueError(f"only a constant is broadcast; {t} has fewer axes than the others")
        shape = _broadcast(shape, t.shape) if shape else t.shape
    return [Type(shape, time=_same_time(types))]


@_op("embed", (2, 2))
def _embed(graph: Graph, node: Node) -> list[Type]:
    """Rows of a constant table [V, D] by index: index [...], result [..., D].

    The index is a whole number, clamped to 0..V-1. Integer: its scale is 1; the result has the
    format of the table.
    """
    index, table = _types(graph, node)
    if len(table.shape) != 2 or node.inputs[1] not in graph.consts:
        raise ValueError(f"the table is {table}, not a constant [rows, width]")
    return [Type((*index.shape, table.shape[1]), time=index.time)]


_FAR = 1 << 20
"""Frames that a window may look ahead, cut off or add."""


@_op("window", (1, 1), real="length ahead cut", integer=None)
def _window(graph: Graph, node: Node) -> list[Type]:
    """The frames around each frame: ``y[t] = [x[t + ahead - length + 1], ..., x[t + ahead]]``.

    The result is a sequence of [length, *shape] that is `cut` frames shorter than x, or longer
    where `cut` is negative; frames before the first and after the last are zero.
    """
    (x,) = _types(graph, node)
    length, ahead, cut = (int(node.attrs[k]) for k in ("length", "ahead", "cut"))
    if x.time is None:
        raise ValueError("the input is not a sequence")
    if length < 1 or not 0 <= ahead < length + _FAR or abs(cut) > _FAR:
        raise ValueError(f"length {length}, ahead {ahead}, cut {cut}")
    return [Type((length, *x.shape), time=x.time)]


@_op("shift", (1, 1), real="frames cut", integer=None)
def _shift(graph: Graph, node: Node) -> list[Type]:
    """Frames later, or earlier where `frames` is negative: ``y[t] = x[t - frames]``.

    The result is `cut` frames shorter than x, or longer where `cut` is negative; frames before the
    first and after the last are zero.
    """
    (x,) = _types(graph, node)
    if x.time is None:
        raise ValueError("the input is not a sequence")
    if max(abs(int(node.attrs["frames"])), abs(int(node.attrs["cut"]))) > _FAR:
        raise ValueError(f"{node.attrs['frames']} frames, cut {node.attrs['cut']}")
    return [x]


@_op("decimate", (1, 1), real="factor", integer=None)
def _decimate(graph: Graph, node: Node) -> list[Type]:
    """Every `factor`-th frame, from the first: ``y[j] = x[j * factor]``."""
    (x,) = _types(graph, node)
    factor = int(node.attrs["factor"])
    if x.time is None or factor < 1:
        raise ValueError(f"every {factor}th frame of {x}")
    return [x.at(replace(x.time, period=x.time.period * factor))]


@_op("interleave", (1, 1), integer=None)
def _interleave(graph: Graph, node: Node) -> list[Type]:
    """Frames of several frames, one after another: ``y[j*factor + r] = x[j, r]``.

    x is a sequence of [factor, *shape] whose period is a multiple of `factor`, so that the result
    has a whole one: what a `decimate` took apart can be had back.
    """
    (x,) = _types(graph, node)
    factor = x.shape[0] if x.shape else 0
    if x.time is None or factor < 1 or x.time.period % factor:
        raise ValueError(f"{factor} frames of each of {x}")
    time = replace(x.time, period=x.time.period // factor)
    return [Type(x.shape[1:], time=time)]


COMPARISONS = ("gt", "ge", "eq")
"""What a `compare` may ask."""

ELEMENTWISE = frozenset(
    {"add", "sub", "mul", "lut", "wide", "clamp", "rescale", "max", "min", "compare", "select"}
)
"""Operations that compute each element of the output from the same element of the inputs."""

MOVEMENT = frozenset({"reshape", "slice", "concat", "strided"})
"""Operations that only move elements."""

OVER_TIME = frozenset({"window", "shift", "decimate", "interleave", "last"})
"""Operations that choose among the frames of a sequence; a step has none of them."""
