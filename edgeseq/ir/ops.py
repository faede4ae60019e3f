"""The closed table of operations.

Each entry says how many inputs an operation has, what its attributes mean, and how the types of
its outputs follow from its inputs in a real Graph (`infer`). What a node computes is defined in
`edgeseq.ir.interp`. Front ends produce these operations, emitters consume them, and nothing else
exists; a new operation is one entry here and one function there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeseq.errors import GraphError, unknown_name
from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.types import Time, Type

if TYPE_CHECKING:
    from edgeseq.ir.graph import Graph, Node

__all__ = ["ELEMENTWISE", "MOVEMENT", "OPS", "Op", "infer", "op_of"]

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
    """b must equal the last axes of a, or a those of b."""
    long, short = (a, b) if len(a) >= len(b) else (b, a)
    if short and long[len(long) - len(short) :] != short:
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
    """``a + b``; one operand may have only the last axes of the other.

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


@_op("scan", (1, None), real="body reverse", integer=None)
def _scan(graph: Graph, node: Node) -> list[Type]:
    """A recurrence over time: the body is a step Graph, run once a frame with its states carried.

    Inputs are sequences in the order of the body's inputs, outputs sequences of its outputs.
    `reverse` runs from the last frame to the first.
    """
    body: Graph = node.attrs["body"]
    types = _types(graph, node)
    if len(types) != len(body.inputs):
        raise ValueError(f"{len(types)} inputs for a body of {len(body.inputs)}")
    for t, name in zip(types, body.inputs, strict=True):
        if t.time is None or t.shape != body.types[name].shape:
            raise ValueError(f"{t} does not feed the body's {name}: {body.types[name]}")
    time = _same_time(types)
    return [body.types[v].at(time) for v in body.outputs]


ELEMENTWISE = frozenset({"add", "sub", "mul", "lut", "clamp", "rescale"})
"""Operations that compute each element of the output from the same element of the inputs."""

MOVEMENT = frozenset({"reshape", "slice", "concat"})
"""Operations that only move elements."""
