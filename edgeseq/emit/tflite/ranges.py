"""How large the values of an integer step get: proved bounds and observed ranges.

TFLite stores a 16- or 8-bit value with one scale, so every value needs a range where the Graph
has a 32-bit format.  A *bound* holds for all inputs and is used where wrapping must be excluded;
an *observed* range, from calibration frames, gives the finer scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._numbers import channel_scales
from edgeseq.emit._unroll import carried_values
from edgeseq.emit.tflite.linear import split_weights
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.interp import Interpreter
from edgeseq.quant.calibrate import Stats

__all__ = [
    "NATIVE",
    "UNIT_TOP",
    "bounds",
    "group_key",
    "group_limits",
    "low_key",
    "observe",
    "row_scales",
]

Array = npt.NDArray[Any]

NATIVE = {"sigmoid": ("LOGISTIC", 10.7), "tanh": ("TANH", 6.0)}
"""Functions that TFLite has for 16 bits: operator, and the input beyond which its output no
longer changes."""
UNIT_TOP = (1 << 15) - 1
"""Largest magnitude of the outputs of these operators, in units of 2^-15."""


_MOST_WORK = 2_000_000  # nodes times steps that are looked at


def group_key(node: Node, group: int) -> str:
    """Name of the partial sum of one group of a `linear` node (the bias belongs to group 0)."""
    return f"{node.name}#{group}"


def low_key(node: Node, group: int) -> str:
    """Name of what the low bytes of 16-bit weights add to that partial sum."""
    return f"{group_key(node, group)}.low"


def row_scales(graph: Graph, value: str) -> npt.NDArray[np.float64]:
    """The scale of each row of a weight matrix, float64 [O]."""
    t = graph.types[value]
    return np.broadcast_to(np.asarray(t.scale, np.float64), (t.shape[0],)).copy()


def bounds(graph: Graph) -> dict[str, int]:
    """Largest magnitude of each value of an integer step, in stored units, for all inputs.

    Inputs count with their whole format, states with their declared bound or their format.
    Bounds follow the operations; a saturating store ends the growth.
    """
    found: dict[str, int] = {}
    for name in graph.inputs:
        found[name] = 1 << (_bits(graph, name) - 1)
    for name, array in graph.consts.items():
        found[name] = int(np.max(np.abs(array.astype(np.int64)), initial=0))
    declared: dict[str, int] = {}
    for state in graph.states:
        top = 1 << (_bits(graph, state.input) - 1)
        if state.bound is not None:
            top = min(top, int(np.ceil(state.bound / graph.types[state.input].scalar_scale)))
        found[state.input] = declared[state.output] = top
    for name, bound in carried_values(graph).items():
        if bound is not None:
            declared[name] = int(np.ceil(bound / graph.types[name].scalar_scale))
    for node in graph.nodes:
        out = node.output
        top = 1 << (_bits(graph, out) - 1)
        found[out] = min(_node_bound(graph, node, found), top, declared.get(out, top))
    return found


def _bits(graph: Graph, value: str) -> int:
    return INT_RANGE[graph.types[value].dtype][1].bit_length() + 1


def _node_bound(graph: Graph, node: Node, found: dict[str, int]) -> int:
    a = node.attrs
    top = 1 << 62
    if node.op == "linear":
        if any(w not in graph.consts for w in node.inputs[1::2]):
            return top
        return int(np.ceil(sum(group_limits(graph, node, found)) / _scale(graph, node.output))) + 1
    if node.op == "add":
        x, y = (found[v] for v in node.inputs)
        return ((x * abs(a["ma"]) + y * abs(a["mb"])) >> a["s"]) + 1
    if node.op == "mul":
        x, y = (found[v] for v in node.inputs)
        return ((x * y * abs(a["m"])) >> a["s"]) + 1
    if node.op == "rescale":
        return ((found[node.inputs[0]] * abs(a["m"])) >> a["s"]) + 1
    if node.op == "lut":
        # The runtimes' LOGISTIC and TANH never give -32768.
        return UNIT_TOP if a["fn"] in NATIVE else found[node.inputs[1]]
    if node.op == "clamp":
        x = found[node.inputs[0]]
        lo = -x if a["lo"] is None else a["lo"]
        hi = x if a["hi"] is None else a["hi"]
        return min(x, max(abs(lo), abs(hi)))
    if node.op in ("concat", "max", "min"):
        return max(found[v] for v in node.inputs)
    if node.op == "select":
        return max(found[v] for v in node.inputs[1:])
    if node.op in ("slice", "reshape", "strided"):
        return found[node.inputs[0]]
    if node.op == "embed":
        return found[node.inputs[1]]
    if node.op == "compare":
        return 1
    if node.op == "matmul":
        x, y = (found[v] for v in node.inputs)
        terms = graph.types[node.inputs[0]].shape[-1]
        return ((terms * x * y * abs(a["m"])) >> a["s"]) + 1
    if node.op == "depthwise":
        weights = np.abs(graph.consts[node.inputs[1]].astype(np.float64)).sum(0)
        unit = _scale(graph, node.inputs[0]) / _scale(graph, node.output)
        reach = float((weights * np.abs(channel_scales(graph, node))).max()) * unit
        bias = found[node.inputs[2]] if len(node.inputs) == 3 else 0
        return int(np.ceil(reach * found[node.inputs[0]])) + bias + 1
    return top


def _scale(graph: Graph, value: str) -> float:
    return graph.types[value].scalar_scale


def group_limits(graph: Graph, node: Node, found: dict[str, int]) -> list[float]:
    """Largest real magnitude of each group's partial sum in a `linear` node, proved.

    Args:
        graph: the integer step.
        node: the `linear` node.
        found: bounds of its operands, stored units.
    """
    limits = []
    for g in range(len(node.inputs) // 2):
        x, w = node.inputs[2 * g], node.inputs[2 * g + 1]
        rows = np.abs(graph.consts[w].astype(np.int64)).sum(1) * row_scales(graph, w)
        limits.append(float(rows.max() * found[x] * _scale(graph, x)))
    if len(node.inputs) % 2:
        limits[0] += found[node.inputs[-1]] * _scale(graph, node.output)
    return limits


def observe(graph: Graph, frames: Sequence[Array], *, sampled: bool = True) -> dict[str, Stats]:
    """What every value, and every partial sum, did on given frames; real units.

    Args:
        graph: an integer step without loops. Of a large one the first frames have to do.
        frames: one array per input, [batch, T, *frame], stored units.
        sampled: whether magnitudes are kept, not only the ends of each range.

    Returns:
        By value name, and for each group of a `linear` node by `group_key` (where there are
        several) and `low_key` (of 16-bit weights).
    """
    seen: dict[str, Stats] = {}
    env: dict[str, Array] = {}
    sums = {n.output: n for n in graph.nodes if n.op == "linear"}
    lows = {name: _low_weights(graph, node) for name, node in sums.items()}

    def note(key: str, real: Array) -> None:
        seen.setdefault(key, Stats(sampled=sampled)).add(real)

    def see(name: str, array: Array) -> None:
        env[name] = array
        t = graph.types[name]
        if isinstance(t.scale, float):
            note(name, array.astype(np.float64) * t.scale)
        if name in sums:
            node = sums[name]
            if len(node.inputs) > 3:
                for g, part in enumerate(_partials(graph, node, env)):
                    note(group_key(node, g), part)
            for g, low in lows[name].items():
                x = node.inputs[2 * g]
                source = (env[x] if x in env else graph.consts[x]).astype(np.float64)
                note(low_key(node, g), source @ low * _scale(graph, x))

    steps = max(_MOST_WORK // (len(graph.nodes) + 1), 8)
    first = [x[:, : steps * graph.frames_of(v)] for v, x in zip(graph.inputs, frames, strict=True)]
    Interpreter(graph, batch=frames[0].shape[0], observe=see).sequence(*first)
    return seen


def _low_weights(graph: Graph, node: Node) -> dict[int, npt.NDArray[np.float64]]:
    """Real low bytes [K, O] of each group of 16-bit weights in a `linear` node."""
    found = {}
    for g, name in enumerate(node.inputs[1::2]):
        w = graph.consts.get(name)
        if w is not None and w.dtype == np.int16:
            _, low, _ = split_weights(w)
            found[g] = low.T.astype(np.float64) * row_scales(graph, name)
    return found


def _partials(graph: Graph, node: Node, env: dict[str, Array]) -> list[npt.NDArray[np.float64]]:
    parts = []
    for g in range(len(node.inputs) // 2):
        x, w = node.inputs[2 * g], node.inputs[2 * g + 1]
        weights = graph.consts[w].T.astype(np.float64) * row_scales(graph, w)
        source = env[x] if x in env else graph.consts[x]
        parts.append(source.astype(np.float64) @ weights * _scale(graph, x))
    if len(node.inputs) % 2:
        parts[0] = parts[0] + graph.consts[node.inputs[-1]] * _scale(graph, node.output)
    return parts
