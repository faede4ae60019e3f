"""Move a model's input normalisation into the conversion of its input.

Channels of one frame often have different units. Normalised, they share one scale well; raw, they
do not. A device converts every sample anyway, so the normalisation costs nothing there.
"""

from __future__ import annotations

import numpy as np

from edgeseq.ir.graph import Graph
from edgeseq.passes.affine import affine_map

__all__ = ["absorb_input_affine"]


def absorb_input_affine(graph: Graph) -> Graph:
    """`graph` on *prepared* inputs, with ``meta["input_affine"]`` saying how to prepare them.

    For every input that is first multiplied by and added to constants only, those nodes go and
    ``raw = prepared * scale + offset`` (one number per channel of the last axis) is noted.
    """
    graph = graph.copy()
    noted = dict(graph.meta.get("input_affine", {}))
    carried = {*graph.outputs, *(s.output for s in graph.states)}
    for name in graph.inputs:
        t = graph.types[name]
        if len(t.shape) != 1:
            continue
        gain, shift = np.ones(t.shape), np.zeros(t.shape)
        value = name
        while True:
            uses = graph.consumers()[value]
            if len(uses) != 1 or value in carried:
                break
            step = affine_map(graph, uses[0])
            if step is None or np.any(step[1] == 0):
                break
            _, a, c = step
            gain, shift = gain * a, shift * a + c
            value = uses[0].output
        if value == name:
            continue
        # raw * gain + shift = prepared
        scale, offset = 1.0 / gain, 0.0 - shift / gain
        if name in noted:
            inner_scale, inner_offset = (np.asarray(noted[name][k]) for k in ("scale", "offset"))
            scale, offset = inner_scale * scale, inner_scale * offset + inner_offset
        noted[name] = {"scale": scale.tolist(), "offset": offset.tolist()}
        graph.rename_uses({value: name})
        graph.prune()
    if noted:
        graph.meta["input_affine"] = noted
    return graph
