"""A short account of a Graph for people."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

from edgeseq.errors import EdgeseqError
from edgeseq.ir import Graph
from edgeseq.ir.cost import macs_of
from edgeseq.passes.stream import stream

__all__ = ["summarise"]


def summarise(graph: Graph) -> dict[str, Any]:
    """Facts about a Graph, for `edgeseq` to print.

    Returns:
        inputs and outputs (name to type), recurrent layers, states (name to elements, those of its
        step where it can stream), the number of parameters (elements of all constants),
        multiply-accumulates per input frame, on average, and how often each operation occurs, scan
        bodies counted once.
    """
    ops: Counter[str] = Counter()
    graphs = {id(graph): graph}
    for owner, node in graph.walk():
        graphs[id(owner)] = owner
        ops[node.op] += 1
    return {
        "inputs": {v: str(graph.types[v]) for v in graph.inputs},
        "outputs": {v: str(graph.types[v]) for v in graph.outputs},
        "layers": [n.name for n in graph.nodes if n.op == "scan"],
        "states": _states(graph),
        "parameters": sum(int(a.size) for g in graphs.values() for a in g.consts.values()),
        "macs_per_frame": _macs(graph),
        "operations": dict(sorted(ops.items())),
    }


def _states(graph: Graph) -> dict[str, int]:
    try:
        return {s.name: int(s.init.size) for s in stream(graph).states}
    except EdgeseqError:  # it looks ahead: what its layers carry, and no step has
        carried = {
            f"{n.name}.{s.name}": int(s.init.size)
            for n in graph.nodes
            if n.op == "scan"
            for s in n.attrs["body"].states
        }
        windows = {
            n.name: (int(n.attrs["length"]) - 1) * graph.types[n.inputs[0]].size
            for n in graph.nodes
            if n.op == "window"
        }
        return carried | {name: size for name, size in windows.items() if size}


def _macs(graph: Graph) -> int:
    total = Fraction(0)
    for node in graph.nodes:
        time = graph.types[node.outputs[0]].time
        each = macs_of(graph, node)
        total += each if time is None else Fraction(each * graph.tick, time.period)
    return round(total / int(graph.meta.get("frames_per_step", 1)))
