"""Drop what no output depends on."""

from __future__ import annotations

from edgeseq.ir.graph import Graph

__all__ = ["tidy"]


def tidy(graph: Graph) -> Graph:
    """`graph` without dead nodes, states and constants, in scan bodies too."""
    graph = graph.copy()
    for node in graph.nodes:
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            node.attrs["body"] = tidy(body)
    graph.prune()
    return graph
