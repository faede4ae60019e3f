"""What a frame costs: multiply-accumulates and operations, counted on a Graph."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.ops import MOVEMENT, OVER_TIME

__all__ = ["Cost", "frame_cost", "macs_of", "token_inputs"]

# Operations that pass the numbers they read on as they are.
_PASSES = MOVEMENT | OVER_TIME


@dataclass(frozen=True)
class Cost:
    """Of one frame.

    Attributes:
        nodes: operations executed, those of a scan's body once per round.
        macs: multiply-accumulates.
    """

    nodes: int
    macs: int


def frame_cost(graph: Graph) -> Cost:
    """Cost of one frame of `graph`, over time or a step."""
    nodes = macs = 0
    for node in graph.nodes:
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            inner, rounds = frame_cost(body), _rounds(graph, node)
            nodes, macs = nodes + rounds * inner.nodes, macs + rounds * inner.macs
        else:
            nodes, macs = nodes + 1, macs + macs_of(graph, node)
    return Cost(nodes, macs)


def macs_of(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of one frame of a node, a scan's body included."""
    body = node.attrs.get("body")
    if isinstance(body, Graph):
        return _rounds(graph, node) * frame_cost(body).macs
    out = graph.types[node.outputs[0]]
    if node.op == "linear":
        rows = out.size // max(out.shape[-1], 1)
        return rows * sum(graph.types[w].size for w in node.inputs[1::2] if _is_matrix(graph, w))
    if node.op == "depthwise":
        return out.size * graph.types[node.inputs[1]].shape[0]
    if node.op == "matmul":
        return out.size * graph.types[node.inputs[0]].shape[-1]
    return 0


def _is_matrix(graph: Graph, value: str) -> bool:
    return len(graph.types[value].shape) == 2


def _rounds(graph: Graph, node: Node) -> int:
    """How often a body runs in one frame: a scan's over time once, else along axis 0."""
    t = graph.types[node.inputs[0]] if node.inputs else None
    if t is None or not t.shape or (t.time is not None and node.op == "scan"):
        return 1
    return t.shape[0]


def token_inputs(graph: Graph) -> dict[str, int]:
    """Inputs that hold token numbers, and how many different ones there are.

    Such an input reaches an `embed` as an index, through operations that move numbers only.
    """
    found: dict[str, int] = {}
    uses = graph.consumers()
    for name in graph.inputs:
        reached, stack = {name}, [name]
        while stack:
            for node in uses[stack.pop()]:
                if node.op == "embed" and node.inputs[0] in reached:
                    size = graph.types[node.inputs[1]].shape[0]
                    found[name] = min(found.get(name, size), size)
                elif node.op in _PASSES:
                    new = [v for v in node.outputs if v not in reached]
                    reached.update(new)
                    stack.extend(new)
    return found
