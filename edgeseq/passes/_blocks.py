"""Operations on m elements of a sequence at once: values get a leading axis of m.

One element (m = 1) has no such axis, and operations are taken over as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeseq.errors import UnsupportedError
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.types import Time, Type
from edgeseq.passes._past import Shape, rows

__all__ = ["lift", "pick"]

_WHOLE = frozenset({"lut", "wide", "clamp", "rescale", "softmax", "slice"})
"""One operand, and what it says holds for any leading axes."""

_BROADCAST = frozenset({"add", "sub", "mul", "max", "min", "compare", "select"})


def lift(graph: Graph, node: Node, step: Graph, args: Sequence[str], m: int) -> tuple[str, ...]:
    """Append `node` of `graph` to `step`, for m elements at once.

    Args:
        graph: over time; `node` is one of its nodes that reads sequences, and no scan.
        node: the operation on one element.
        step: gets the operation.
        args: its operands in `step`: sequences as [m, *shape], others as they are.
        m: elements at once.

    Returns:
        The results in `step`, each [m, *shape].

    Raises:
        UnsupportedError: a sequence stands where several elements need one and the same operand.
    """
    outs = [graph.types[v] for v in node.outputs]
    if node.op == "loop":
        return _loop(graph, node, step, args, m)
    if m == 1:
        step.add_node(node.op, args, name=node.name, types=[t.at(None) for t in outs], **node.attrs)
        return step.nodes[-1].outputs
    attrs = dict(node.attrs)
    lifted: Sequence[int] = ()  # operands that must have the leading axis
    names = list(args)
    if node.op in _BROADCAST:
        shape = outs[0].shape
        names = [
            _spread(graph, node, i, step, v, m, shape) if v not in step.consts else v
            for i, v in enumerate(names)
        ]
    elif node.op == "linear":
        lifted = range(0, len(args) // 2 * 2, 2)
    elif node.op in ("depthwise", "norm", "embed"):
        lifted = (0,)
    elif node.op in ("matmul", "concat"):
        lifted = range(len(args))
    elif node.op == "reshape":
        attrs["shape"] = (m, *node.attrs["shape"])
    elif node.op == "strided":
        size = graph.types[node.inputs[0]].size
        attrs["shape"] = (m, *node.attrs["shape"])
        attrs["strides"] = (size, *node.attrs["strides"])
    elif node.op not in _WHOLE:
        raise UnsupportedError(
            f"cannot work on {m} frames at once", where=f"node {node.name!r} ({node.op})"
        )
    for i in lifted:
        names[i] = _spread(graph, node, i, step, names[i], m, graph.types[node.inputs[i]].shape)
    if lifted:
        for i, v in enumerate(node.inputs):
            if i not in lifted and graph.types[v].time is not None:
                raise UnsupportedError(
                    f"multiplies by {v!r}, which is another at every frame, and cannot work on {m} "
                    "frames at once",
                    where=f"node {node.name!r} ({node.op})",
                    fix="write the product of two computed values as a matrix product (matmul)",
                )
    types = [Type((m, *t.shape)) for t in outs]
    step.add_node(node.op, names, name=node.name, types=types, **attrs)
    return step.nodes[-1].outputs


def pick(step: Graph, value: str, start: int, every: int, m: int, name: str) -> str:
    """Of [n, *shape] every `every`-th element from `start` on, m in all: [m, *shape].

    Args:
        step: gets the node; none is needed where everything is taken.
        value: the elements; n > 1.
        start: of them the first to take.
        every: distance of the taken ones.
        m: how many; one has no leading axis.
        name: of the node.
    """
    shape = step.types[value].shape[1:]
    size = int(np.prod(shape, dtype=np.int64))
    if m == step.types[value].shape[0]:
        return value
    return step.add_node(
        "strided",
        [value],
        name=name,
        shape=shape if m == 1 else (m, *shape),
        strides=rows(shape) if m == 1 else (every * size, *rows(shape)),
        offset=start * size,
    )


def _spread(graph: Graph, node: Node, i: int, step: Graph, value: str, m: int, shape: Shape) -> str:
    """Operand i of `node` as [m, *shape]: repeated for each element, and along axes of 1."""
    have = graph.types[node.inputs[i]]
    timed = have.time is not None
    if timed and have.shape == shape:
        return value
    if value in step.consts:
        array = np.broadcast_to(step.consts[value], (m, *shape))
        return step.add_const(value, array)
    # As `add` broadcasts: without its leading axes of 1, the last axes of `shape`.
    tail = list(have.shape)
    while tail and tail[0] == 1 and tuple(tail) != shape[len(shape) - len(tail) :]:
        tail.pop(0)
    strides = [0] * (len(shape) - len(tail)) + rows(tuple(tail))
    return step.add_node(
        "strided",
        [value],
        name=f"{node.name}.spread",
        shape=(m, *shape),
        strides=(have.size if timed else 0, *strides),
        offset=0,
    )


def _loop(graph: Graph, node: Node, step: Graph, args: Sequence[str], m: int) -> tuple[str, ...]:
    """A recurrence within every frame, for m frames side by side: a scan over their axis 0."""
    body: Graph = node.attrs["body"].copy()
    count = len(body.inputs)
    names = list(args)
    if m > 1:
        for i, v in enumerate(node.inputs):
            names[i] = _spread(graph, node, i, step, names[i], m, graph.types[v].shape)
            if i < count:
                names[i] = _swapped(step, names[i], node.name)
        body = _side_by_side(body, m)
    types = [Type((t.shape[0], *body.types[v].shape)) for v, t in zip(
        body.outputs, (graph.types[o] for o in node.outputs), strict=False
    )]  # fmt: skip
    types += [body.types[s.input] for s in body.states]
    step.add_node(
        "scan", names, name=node.name, types=types, body=body, reverse=node.attrs["reverse"]
    )
    made = step.nodes[-1].outputs
    if m == 1:
        return made
    k = len(body.outputs)
    return (*(_swapped(step, v, node.name) for v in made[:k]), *made[k:])


def _swapped(step: Graph, value: str, name: str) -> str:
    """[a, b, *rest] as [b, a, *rest]."""
    a, b, *rest = step.types[value].shape
    strides = rows((a, b, *rest))
    return step.add_node(
        "strided",
        [value],
        name=f"{name}.turn",
        shape=(b, a, *rest),
        strides=(strides[1], strides[0], *strides[2:]),
        offset=0,
    )


def _side_by_side(body: Graph, m: int) -> Graph:
    """A body (a real step) for m sequences at once: its values get a leading axis of m."""
    timed = body.copy()  # as a Graph over time its values are what `lift` takes for sequences
    timed.types = {v: t if v in body.consts else t.at(Time()) for v, t in body.types.items()}
    out = Graph(body.name)
    env: dict[str, str] = {}
    for v in body.inputs:
        env[v] = out.add_input(v, Type((m, *body.types[v].shape)))
    for v, array in body.consts.items():
        env[v] = out.add_const(v, array, body.types[v])
    for s in body.states:
        init = np.broadcast_to(s.init, (m, *s.init.shape))
        env[s.input] = out.add_state(s.name, Type(init.shape), init, bound=s.bound)
    for node in timed.nodes:
        made = lift(timed, node, out, [env[v] for v in node.inputs], m)
        env.update(zip(node.outputs, made, strict=True))
    for s in body.states:
        out.set_state(env[s.input], env[s.output])
    out.outputs = [env[v] for v in body.outputs]
    return out
