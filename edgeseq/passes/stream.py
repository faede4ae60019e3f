"""Remove the time axis: recurrences become states, and the Graph becomes one step.

What comes out computes, frame by frame with its states carried, exactly what the Graph over time
computes on the whole sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeseq.errors import UnsupportedError
from edgeseq.ir.graph import Graph, Node

__all__ = ["stream"]


def stream(graph: Graph) -> Graph:
    """The step of `graph`.

    An outermost scan's body is inlined and its states become the step's. A value at the last frame
    becomes a running value: ``meta["emission"][output]`` is then 'last' instead of 'frame', and
    the whole-sequence result is the output of the sequence's last step. ``meta["delay"]`` is the
    number of frames by which outputs lag inputs. Every output is a value of its own, made by a
    node: an input, a state, a constant or another output that is asked for is copied.

    Raises:
        UnsupportedError: a node looks at frames that have not come yet; names it.
    """
    if graph.is_step:
        step = graph.copy()
        emission = graph.meta.get("emission", {})
        return _finish(step, [(v, emission.get(v, "frame")) for v in graph.outputs])
    step = Graph(graph.name, meta=dict(graph.meta))
    env: dict[str, str] = {}
    final: set[str] = set()  # values that exist only once the sequence has ended
    for name in graph.inputs:
        env[name] = step.add_input(name, graph.types[name].at(None))
    for name, array in graph.consts.items():
        env[name] = step.add_const(name, array, graph.types[name])
    for node in graph.nodes:
        _refuse_mixing(graph, node, final)
        if node.op == "scan":
            _inline(step, node, env)
        elif node.op == "last":
            env[node.output] = env[node.inputs[0]]
            final.add(node.output)
        else:
            env[node.output] = step.add_node(
                node.op,
                [env[v] for v in node.inputs],
                name=node.name,
                types=[graph.types[v].at(None) for v in node.outputs],
                **node.attrs,
            )
        if node.op != "last" and any(v in final for v in node.inputs):
            final.update(node.outputs)
    step.meta["delay"] = max(
        (t.delay for v in graph.outputs if (t := graph.types[v].time) is not None), default=0
    )
    ends = {v: "last" if graph.types[v].time is None else "frame" for v in graph.outputs}
    return _finish(step, [(env[v], ends[v]) for v in graph.outputs])


def _finish(step: Graph, outputs: Sequence[tuple[str, str]]) -> Graph:
    """Set the outputs (value, emission) of `step`, each a node's and none twice."""
    emission: dict[str, str] = {}
    made = {v for node in step.nodes for v in node.outputs}
    for value, when in outputs:
        if value in emission or value not in made:
            value = step.add_node("reshape", [value], name=f"{value}.out",
                                  shape=list(step.types[value].shape))  # fmt: skip
        emission[value] = when
    step.outputs, step.meta["emission"] = list(emission), emission
    return step


def _refuse_mixing(graph: Graph, node: Node, final: set[str]) -> None:
    timed = [v for v in node.inputs if graph.types[v].time is not None]
    ended = [v for v in node.inputs if v in final]
    if timed and ended:
        raise UnsupportedError(
            f"combines every frame with {ended[0]!r}, which is known only after the last frame",
            where=f"node {node.name!r} ({node.op})",
            fix="a stream cannot look ahead; take the running value, or drop the connection",
        )


def _inline(step: Graph, node: Node, env: dict[str, str]) -> None:
    body: Graph = node.attrs["body"]
    if node.attrs["reverse"]:
        raise UnsupportedError(
            "runs from the last frame to the first (a bidirectional layer): it looks ahead by the "
            "whole sequence and cannot stream",
            where=f"node {node.name!r}",
            fix="train the model with bidirectional=False",
        )
    inner: dict[str, str] = {}
    for name, value in zip(body.inputs, node.inputs, strict=True):
        inner[name] = env[value]
    for name, array in body.consts.items():
        inner[name] = step.add_const(name, array, body.types[name])
    for s in body.states:
        inner[s.input] = step.add_state(
            f"{node.name}.{s.name}", body.types[s.input], s.init, bound=s.bound
        )
    for n in body.nodes:
        out = step.add_node(
            n.op,
            [inner[v] for v in n.inputs],
            name=n.name,
            types=[body.types[v] for v in n.outputs],
            **n.attrs,
        )
        inner[n.output] = out
    for s in body.states:
        step.set_state(inner[s.input], inner[s.output])
    for name, value in zip(body.outputs, node.outputs, strict=True):
        env[value] = inner[name]
