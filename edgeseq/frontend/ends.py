"""Models that put other frames than zeros after the end of a sequence."""

from __future__ import annotations

from edgeseq.errors import GraphError, UnsupportedError
from edgeseq.ir import Graph
from edgeseq.passes.stream import past_the_end

__all__ = ["note_ends"]


def note_ends(graph: Graph, where: str) -> None:
    """Note in ``meta["unknown"]`` how many elements of each output the Graph gives otherwise.

    A Graph takes what comes after the end of a sequence for zeros, and a stream never gets there.

    Raises:
        UnsupportedError: the model answers with its last frame, which is one of them, or looks at
            frames that come after the end in a way that no stream can.
    """
    last = next((v for v in graph.outputs if graph.types[v].time is None), None)
    if last is not None:
        what = "is taken at the end of a sequence that is padded by other frames than zeros"
        fix = "pad with zeros at the end, or compile in window mode (--window N --hop N)"
        raise UnsupportedError(
            f"output {last!r} {what}",
            where=where,
            fix=fix,
            problems=[("output", last, what, fix)],
        )
    try:
        graph.meta["unknown"] = past_the_end(graph)
    except (GraphError, UnsupportedError) as e:
        fix = "pad with zeros, or compile in window mode (--window N --hop N)"
        raise UnsupportedError(
            f"puts other frames than zeros after the end of a sequence, and {e.what}",
            where=e.where or where,
            fix=fix,
            problems=[("model", e.where or where, e.what, fix)],
        ) from None
