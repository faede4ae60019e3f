"""ONNX step models: float, integer in QDQ form, and exact.

All take *raw* float frames (the input normalisation is inside), return *real* float outputs, and
carry every state explicitly: state `h` enters as `h` and leaves as `h_next`. All tensors have a
leading batch axis `N` that is free, so many sequences run side by side.  Loops inside a step are
written out where they are short, and Scan operators where they are long.

==========  ==================  ==========================  =========================
tensor      float               integer                     exact
==========  ==================  ==========================  =========================
input       float32, raw        float32, raw                float64, raw
output      float32, real       float32, real: multiples    float64, real: multiples
                                of the output's scale       of the output's scale
state       float32             stored int8, int16, int32   stored int8, int16, int32
==========  ==================  ==========================  =========================

**The integer model** is what quantising tools and accelerators read: QDQ. It stores what the
integer Graph stores, where ONNX can: weights are int8 or int16 per output channel behind
DequantizeLinear (with the scale the Graph's multipliers really have), and every 8- or 16-bit value
passes a QuantizeLinear / DequantizeLinear pair of its own format. Between them runtimes compute in
float32. ONNX has no QuantizeLinear to int32, so 32-bit values inside a step stay float32 (clamped
to their range), and 32-bit states are rounded, clamped and cast where they leave. Three differences
to the definition remain: ties round to even instead of up, 32-bit values have 24 significant bits,
and nonlinear functions are the true ones instead of interpolated tables. So the level of comparison
is `Close(n LSB)` of the output, not `Exact`: a few LSB where activations have 16 bits (the tests
state n); with 8-bit activations one of them may flip, and that is about 100 LSB of a 16-bit output.

**The exact model** computes the definition itself in int64 and float64 operators: its level is
`Exact`, outputs and states, in any runtime that follows the ONNX standard. It is for checking the
definition by an independent engine and for platforms without native code, not for speed.

Facts about the model travel in `metadata_props` (keys `edgeseq.*`, JSON values).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeseq
from edgeseq.emit import Format, Job
from edgeseq.emit._onnx_builder import Builder
from edgeseq.emit._onnx_exact import ExactLowering
from edgeseq.emit._onnx_float import FloatLowering
from edgeseq.emit._onnx_qdq import QdqLowering
from edgeseq.emit._unroll import unroll_scans
from edgeseq.errors import BackendError
from edgeseq.ir.graph import Graph
from edgeseq.ir.io import affine_of

__all__ = [
    "FORMAT",
    "INFO_KEYS",
    "OPSETS",
    "emit_onnx",
    "output_names",
    "state_names",
    "write_onnx",
]

OPSETS = range(21, 26)
"""Opsets that can be asked for: 21 brought 16-bit quantisation, 25 is the newest ONNX Runtime
1.31 takes."""

LONGEST_LOOP = 300
"""Nodes up to which a loop inside a step is written out; a longer one is a Scan."""

_LOWERINGS: dict[str, type[FloatLowering]] = {
    "float": FloatLowering,
    "integer": QdqLowering,
    "exact": ExactLowering,
}

INFO_KEYS = ("description", "classes", "channels", "rate_hz", "window", "hop")
"""Facts of a job that travel in the file."""


def emit_onnx(
    graph: Graph,
    *,
    kind: str | None = None,
    opset: int = 21,
    info: Mapping[str, Any] | None = None,
) -> bytes:
    """The ONNX model of a step Graph.

    Args:
        graph: a step Graph; real for `kind` "float", integer for "integer" and "exact".
        kind: by default "float" for a real and "integer" for an integer Graph.
        opset: of the default domain, one of `OPSETS`.
        info: optional facts, see `edgeseq.emit.Job`; those of `INFO_KEYS` go into the metadata.

    Returns:
        The serialised model, checked; the same Graph gives the same bytes.

    Raises:
        BackendError: not a step Graph, a kind the Graph is not, an opset out of range, or onnx is
            not installed.
        UnsupportedError: too many nodes.
    """
    where = f"ONNX emitter, graph {graph.name!r}"
    actual = "integer" if graph.is_integer else "float"
    if not graph.is_step:
        raise BackendError(
            "only a step can be emitted, this graph runs over time",
            where=where,
            fix="apply edgeseq.passes.stream first",
        )
    kind = kind or actual
    if kind not in _LOWERINGS or (kind == "float") != (actual == "float"):
        raise BackendError(
            f"the graph is {actual}, {kind!r} was asked for",
            where=where,
            fix='pass the real step Graph for "float", the quantised one for "integer" or "exact"',
        )
    if opset not in OPSETS:
        raise BackendError(
            f"opset {opset} is not supported",
            where=where,
            fix=f"take one of {OPSETS.start}..{OPSETS.stop - 1}",
        )
    graph = unroll_scans(graph, longest=LONGEST_LOOP)
    inputs = list(graph.inputs)
    outputs, names = output_names(graph), state_names(graph)
    builder = Builder(graph.name, opset, [*inputs, *outputs, *(n for pair in names for n in pair)])
    lowering = _LOWERINGS[kind](graph, builder)
    real = np.float64 if kind == "exact" else np.float32

    for name in inputs:
        t = graph.types[name]
        raw = builder.input(name, real, t.shape, "raw frame")
        lowering.bind_input(name, _prepared(graph, builder, name, raw, real))
    for state, (before, _) in zip(graph.states, names, strict=True):
        t = graph.types[state.input]
        lowering.bind_state(state.input, builder.input(before, t.numpy, t.shape, "state"))
    lowering.run()
    for name, value in zip(outputs, graph.outputs, strict=True):
        builder.output(
            name,
            lowering.batched(value, lowering.real(value)),
            real,
            graph.types[value].shape,
            "real",
        )
    for state, (_, after) in zip(graph.states, names, strict=True):
        t = graph.types[state.output]
        tensor = lowering.batched(state.output, lowering.stored(state.output))
        builder.output(after, tensor, t.numpy, t.shape, "state after")
    return builder.serialise(
        doc=_doc(graph, kind, inputs, outputs, names),
        metadata=_metadata(graph, kind, outputs, names, info or {}),
        version=edgeseq.__version__,
    )


def write_onnx(job: Job) -> list[Path]:
    """Write `model.onnx` (float) and `model_int.onnx` (integer) into the job's folder."""
    files = []
    for name, graph in (("model.onnx", job.real), ("model_int.onnx", job.integer)):
        path = job.folder / name
        path.write_bytes(emit_onnx(graph, info=job.info))
        files.append(path)
    return files


FORMAT = Format("onnx", "ONNX step models, float and QDQ integer", write_onnx, ("onnx",))


def state_names(graph: Graph) -> list[tuple[str, str]]:
    """Names of each state as an input and as an output of the ONNX model."""
    befores = _unique([s.name for s in graph.states], set(graph.inputs))
    return [(before, f"{before}_next") for before in befores]


def output_names(graph: Graph) -> list[str]:
    """Names of the outputs of the ONNX model."""
    pairs = state_names(graph)
    return _unique(graph.outputs, {*graph.inputs, *(n for pair in pairs for n in pair)})


def _unique(names: Sequence[str], taken: set[str]) -> list[str]:
    out: list[str] = []
    for base in names:
        name, i = base, 1
        while name in taken or name in out:
            i += 1
            name = f"{base}_{i}"
        out.append(name)
    return out


def _prepared(graph: Graph, b: Builder, name: str, raw: str, real: type[np.floating]) -> str:
    scale, offset = affine_of(graph, name)
    if np.any(offset != 0):
        raw = b.node(
            "Sub", raw, b.const(offset.astype(real), f"{name}_offset"), hint=f"{name}_centred"
        )
    if np.any(scale != 1):
        raw = b.node(
            "Div", raw, b.const(scale.astype(real), f"{name}_scale"), hint=f"{name}_prepared"
        )
    return raw


def _entry(graph: Graph, name: str, value: str, **more: Any) -> dict[str, Any]:
    t = graph.types[value]
    if graph.frames_of(value) > 1:
        more["frames"] = graph.frames_of(value)
    return {"name": name, "shape": list(t.shape), "dtype": t.dtype, "scale": t.scale, **more}


def _metadata(
    graph: Graph,
    kind: str,
    outputs: Sequence[str],
    names: Sequence[tuple[str, str]],
    info: Mapping[str, Any],
) -> dict[str, str]:
    """What a runner has to know. An init that is all zeros is given as 0."""

    def init(array: npt.NDArray[Any]) -> Any:
        return array.tolist() if np.any(array) else 0

    emission = graph.meta.get("emission", {})
    facts: dict[str, Any] = {
        "version": edgeseq.__version__,
        "graph": graph.name,
        "kind": kind,
        "inputs": [_entry(graph, n, n) for n in graph.inputs],
        "outputs": [
            _entry(graph, n, v, emission=emission.get(v, "frame"))
            for n, v in zip(outputs, graph.outputs, strict=True)
        ],
        "states": [
            _entry(graph, before, s.input, next=after, init=init(s.init))
            for s, (before, after) in zip(graph.states, names, strict=True)
        ],
        "input_affine": graph.meta.get("input_affine", {}),
        "delay": graph.meta.get("delay", 0),
    }
    facts.update({k: info[k] for k in INFO_KEYS if info.get(k)})
    return {f"edgeseq.{k}": json.dumps(v, default=_plain) for k, v in facts.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def _doc(
    graph: Graph,
    kind: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    names: Sequence[tuple[str, str]],
) -> str:
    lines = [
        f"One step of {graph.name} ({kind}), made by edgeseq {edgeseq.__version__}.",
        f"Inputs {', '.join(inputs)}: one raw frame per batch row.",
        f"Outputs {', '.join(outputs)}: real values of this frame.",
    ]
    if names:
        pairs = ", ".join(f"{after} into {before}" for before, after in names)
        lines.append(f"States: feed {pairs} at the next frame; start from edgeseq.states' init.")
    if graph.meta.get("delay"):
        lines.append(f"The output lags the input by {graph.meta['delay']} frames.")
    return "\n".join(lines)
