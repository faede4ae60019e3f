"""Recurrences in a step: inlined for one element, kept as a loop for several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeseq.ir.graph import Graph, Node, State
from edgeseq.ir.types import Type
from edgeseq.passes._past import Past, zero

__all__ = ["inline", "loop"]


def inline(step: Graph, node: Node, args: Sequence[str], past: Past, lag: int) -> tuple[str, ...]:
    """Append the body of a scan over time to `step`; its states become the step's.

    Args:
        step: gets the nodes and states.
        node: the scan.
        args: one element of each of its inputs.
        past: tells whether the element holds data.
        lag: of the inputs; until it has passed, the states stay as they began.

    Returns:
        The scan's results.
    """
    body: Graph = node.attrs["body"]
    inner: dict[str, str] = dict(zip(body.inputs, args, strict=True))
    for name, array in body.consts.items():
        inner[name] = step.add_const(name, array, body.types[name])
    for s in body.states:
        inner[s.input] = step.add_state(
            f"{node.name}.{s.name}", body.types[s.input], s.init, bound=s.bound
        )
    for n in body.nodes:
        step.add_node(
            n.op,
            [inner[v] for v in n.inputs],
            name=n.name,
            types=[body.types[v] for v in n.outputs],
            **n.attrs,
        )
        inner.update(zip(n.outputs, step.nodes[-1].outputs, strict=True))
    for s in body.states:
        new = inner[s.output]
        if lag:
            new = _held(step, s, new, past.valid(1, lag, s.init.shape), node.name)
        step.set_state(inner[s.input], new)
    return tuple(inner[v] for v in body.outputs)


def loop(
    step: Graph, node: Node, args: Sequence[str], past: Past, lag: int, m: int
) -> tuple[str, ...]:
    """Append a scan over time to `step` as a scan over the m elements of a step.

    Args:
        step: gets the scan, and a state for each of its body's, which it starts from and sets.
        node: the scan over time.
        args: its inputs, [m, *shape] each.
        past: tells which elements hold data.
        lag: of the inputs; until it has passed, the states stay as they began.
        m: elements in a step, above 1.

    Returns:
        The scan's results, [m, *shape] each.
    """
    body: Graph = node.attrs["body"].copy()
    xs = list(args)
    if lag and body.states:
        flag = body.add_input("valid", Type((1,)))
        ranked: dict[int, str] = {1: flag}
        for s in body.states:
            rank = s.init.ndim
            if rank not in ranked:
                ranked[rank] = body.add_node("reshape", [flag], name="valid", shape=(1,) * rank)
            s.output = _held(body, s, s.output, ranked[rank], "")
        xs.append(past.valid(m, lag, (1,)))
    states = [
        step.add_state(f"{node.name}.{s.name}", body.types[s.input], s.init, bound=s.bound)
        for s in body.states
    ]
    step.add_node("scan", [*xs, *states], name=node.name, body=body, reverse=False)
    outs = step.nodes[-1].outputs
    for state, new in zip(states, outs[len(body.outputs) :], strict=True):
        step.set_state(state, new)
    return outs[: len(body.outputs)]


def _held(graph: Graph, s: State, new: str, valid: str, owner: str) -> str:
    """`new` where there is data, else what the state began with: it has not moved from there."""
    name = f"{owner}.{s.name}.begin".lstrip(".")
    begin = graph.add_const(name, s.init) if np.any(s.init) else zero(graph, s.init.shape)
    return graph.add_node("select", [valid, new, begin], name=name)
