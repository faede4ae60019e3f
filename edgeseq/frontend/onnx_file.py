"""Reads an `.onnx` file as data: a neutral `Program`, in which every operator has one form.

No code of the onnx package looks at the file but protobuf's parser and, later, the schemas. Opsets
from 9 to the newest that the onnx package knows are read. The operators arrive in the form of the
newest one, so that a lowering sees no opset:

- ``args["inputs"]`` is the list of inputs, a `Ref` or None each, None up to the number of inputs of
  the schema (unless it takes any number). ``outputs`` is filled up with '' in the same way.
- Every attribute of the newest schema is in ``args``: as given, else its default, else None (the
  default depends on shapes: strides, pads, dilations, kernel_shape, perm, ...). Attributes have the
  type of the schema; strings are str, tensors arrays, graphs nested Programs. auto_pad stays.
- Initializers and Constant nodes are in ``constants``; arrays are read-only. bfloat16 is read as
  float32, int4 and int2 as int8, uint4 and uint2 as uint8.

===================================  =============================================================
operator                             form, whatever the file's opset
===================================  =============================================================
Squeeze, Unsqueeze                   inputs (x, axes); axes None: all of size 1
Reduce*                              inputs (x, axes); axes None: all, unless noop_with_empty_axes
Slice                                inputs (x, starts, ends, axes, steps)
Clip                                 inputs (x, min, max); None where unbounded (or +-float32 max)
Pad                                  inputs (x, pads, value, axes); value None: 0
Split                                inputs (x, sizes), num_outputs; exactly one of them is given
TopK                                 inputs (x, k); largest, sorted
Dropout                              inputs (x, ratio, training); the identity unless training
DFT                                  inputs (x, length, axis); axis always given
Resize (also Upsample)               inputs (x, roi, scales, sizes); None where empty
ScatterElements (also Scatter)       reduction 'none' where it had none
Softmax, LogSoftmax, Hardmax         axis; legacy=True: over all axes from `axis` on, together
GroupNormalization                   legacy=True: scale and bias are per group, not per channel
BatchNormalization                   training_mode; training in opsets < 14 is refused
QuantizeLinear                       output_dtype from a constant zero point (0: not constant)
RNN, GRU, LSTM                       direction and activations given; layout; P, clip as they are
GridSample, RoiAlign                 newest spelling of the modes, older defaults made explicit
ConstantOfShape                      value always given, one element
If                                   then_branch, else_branch: as many outputs as the node
Loop                                 inputs (trips, condition, carried ...); body as ONNX says;
                                     outputs: final values, then stacked ones, '' where not read
Scan                                 all scan_*_axes and scan_*_directions given
===================================  =============================================================

Constants that stand for former attributes are int64; bounds, values and ratios are float32 scalars,
whatever the type of the data. Operators of other domains keep ``DOMAIN.Op`` and their attributes,
those the standard does not know ``onnx.Op``. Functions of the model are read in place of calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeseq.frontend._onnx_graph import GraphReader
from edgeseq.frontend._onnx_interface import (
    check_opset,
    declared,
    domain_of,
    fixed_sizes,
    fixed_values,
    inputs_of,
    known,
    opset_of,
    output_of,
    with_sizes,
)
from edgeseq.frontend._onnx_tensor import TensorReader, bytes_of, text
from edgeseq.frontend._onnx_wire import load_model
from edgeseq.frontend.program import Program, ValueInfo

__all__ = ["OnnxInfo", "describe_onnx", "read_onnx"]


@dataclass(frozen=True)
class OnnxInfo:
    """What an `.onnx` file says of itself.

    Attributes:
        inputs, outputs: of the graph, in its order; inputs that have an initializer are left out.
        opset: version of the default domain; 0 where none is stated.
        domains: version by domain, of the others.
        producer: program that wrote it, and its version.
        ir_version: of the file format.
        operators: how often each operator stands in it, branches, bodies and functions included.
        functions: names of its local functions.
        initializer_bytes: of initializers and Constant nodes, as their shapes say.
        metadata: texts that the producer added.
    """

    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    opset: int
    domains: dict[str, int]
    producer: str
    ir_version: int
    operators: dict[str, int]
    functions: tuple[str, ...]
    initializer_bytes: int
    metadata: dict[str, str]

    @property
    def open_dims(self) -> tuple[str, ...]:
        """Sizes of inputs that the file leaves open, as `read_onnx` takes them in `dims`."""
        found: dict[str, None] = {}
        for info in self.inputs:
            for axis, size in enumerate(info.shape or ()):
                if not isinstance(size, int):
                    found[size or f"{info.name}:{axis}"] = None
        return tuple(found)


def read_onnx(
    path: str | Path,
    *,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, float] | None = None,
) -> Program:
    """The program in an `.onnx` file, its operators in the form of the newest opset.

    Args:
        path: of the file; external data is looked for beside it.
        dims: sizes for what the file leaves open, by symbolic name or as "INPUT:AXIS".
        values: inputs that become constants: a number for all elements of each.

    Returns:
        The program. `declared` describes its inputs, outputs and whatever else the file describes,
        sizes that remain open included; `metas` those of which every size is known. Neither is
        checked against the operators.

    Raises:
        ModelError: the file is missing, damaged or not ONNX.
        UnsupportedError: an opset, a storage or a size that is not read.
        UsageError: `dims` or `values` do not fit the file.
    """
    path = Path(path)
    where = str(path)
    model = load_model(path)
    graph = model.graph
    opset, _ = opset_of(model.opset_import, where)
    if opset:
        check_opset(opset, where)
    inputs = inputs_of(graph, where)
    symbols, axes = fixed_sizes(dims or {}, inputs, where)
    infos = {k: with_sizes(v, symbols, axes) for k, v in inputs.items()}
    fixed = fixed_values(values or {}, infos, where)
    reader = GraphReader(where, TensorReader(path.parent, where), opset)
    for function in model.functions:
        reader.add_function(function)
    program = reader.top(graph, fixed)
    for value in (*graph.value_info, *graph.output):
        info = declared(value, where, symbols)
        if info is not None:
            program.declared.setdefault(info.name, info)
    program.declared |= {k: v for k, v in infos.items() if k in program.inputs}
    program.metas = {k: m for k, v in program.declared.items() if (m := known(v)) is not None}
    return program


def describe_onnx(path: str | Path) -> OnnxInfo:
    """What an `.onnx` file says of itself; its tensors are not read, its nodes not checked.

    Raises:
        ModelError: the file is missing, damaged or not ONNX.
        UnsupportedError: it is larger or nested deeper than what is read.
    """
    path = Path(path)
    where = str(path)
    model = load_model(path)
    opset, domains = opset_of(model.opset_import, where)
    operators: Counter[str] = Counter()
    size = 0
    bodies = [model.graph, *model.functions]
    while bodies:
        body = bodies.pop()
        size += sum(bytes_of(t) for t in getattr(body, "initializer", ()))
        for node in body.node:
            domain = domain_of(node.domain, where)
            op = text(node.op_type, where, "an operator's name", 200)
            operators[f"{domain}.{op}" if domain else op] += 1
            for attr in node.attribute:
                bodies += [*([attr.g] if attr.HasField("g") else ()), *attr.graphs]
                if op == "Constant" and attr.HasField("t"):
                    size += bytes_of(attr.t)
    outputs = (output_of(v, where) for v in model.graph.output)
    texts = (model.producer_name, model.producer_version)
    producer = " ".join(filter(None, (text(t, where, "the producer", 200) for t in texts)))
    return OnnxInfo(
        tuple(inputs_of(model.graph, where).values()),
        tuple(outputs),
        opset,
        domains,
        producer,
        model.ir_version,
        dict(operators.most_common()),
        tuple(text(f.name, where, "a function's name") for f in model.functions),
        size,
        {
            text(p.key, where, "a key of the metadata"): text(p.value, where, "metadata", 1 << 24)
            for p in model.metadata_props
        },
    )
