"""A short account of a Graph for people."""

from __future__ import annotations

from collections import Counter
from typing import Any

from edgeseq.ir import Graph

__all__ = ["summarise"]


def summarise(graph: Graph) -> dict[str, Any]:
    """Facts about a Graph, for `edgeseq` to print.

    Returns:
        inputs and outputs (name to type), recurrent layers, states (name to elements), the number
        of parameters (elements of all constants), multiply-accumulates of one frame, and how often
        each operation occurs; scan bodies are counted once, as one frame runs them once.
    """
    ops: Counter[str] = Counter()
    macs = 0
    graphs = {id(graph): graph}
    for owner, node in graph.walk():
        graphs[id(owner)] = owner
        ops[node.op] += 1
        if node.op == "linear":
            for x, w in zip(node.inputs[0::2], node.inputs[1::2], strict=False):
                rows = owner.types[x].size // owner.types[x].shape[-1]
                macs += rows * owner.types[w].size
    return {
        "inputs": {v: str(graph.types[v]) for v in graph.inputs},
        "outputs": {v: str(graph.types[v]) for v in graph.outputs},
        "layers": [n.name for n in graph.nodes if n.op == "scan"],
        "states": {
            f"{n.name}.{s.name}": int(s.init.size)
            for _, n in graph.walk()
            if n.op == "scan"
            for s in n.attrs["body"].states
        },
        "parameters": sum(int(a.size) for g in graphs.values() for a in g.consts.values()),
        "macs_per_frame": macs,
        "operations": dict(sorted(ops.items())),
    }
