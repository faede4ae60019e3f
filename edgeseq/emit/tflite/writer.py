"""A small writer of .tflite flatbuffers: tensors, operators, subgraphs, signatures.

Only ``flatbuffers``, numpy and the schema classes that ship in ``ai-edge-litert`` are needed;
TensorFlow is not.  The writer knows nothing of quantisation policy: it holds what
`edgeseq.emit.tflite.lower` asks for, gives every operator its version stamp, and lays the file
out so that every runtime accepts it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeseq.errors import BackendError

__all__ = ["ModelWriter", "Quant", "SubgraphWriter"]


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise BackendError(
            f"the schema classes of ai-edge-litert cannot be imported ({error})",
            where="TFLite emitter",
            fix="pip install ai-edge-litert flatbuffers",
        ) from error
    return schema


@dataclass(frozen=True)
class Quant:
    """Affine quantisation of a tensor: real = (q - zero_point) * scale.

    `scale` is one number, or one per index of axis `axis` (weights only, zero point 0).
    """

    scale: float | tuple[float, ...]
    zero_point: int = 0
    axis: int = 0

    @property
    def scalar(self) -> float:
        """The scale of a per-tensor quantisation."""
        if isinstance(self.scale, tuple):
            raise TypeError("a per-channel quantisation has no single scale")
        return self.scale


#: numpy dtype -> name in the schema's TensorType.
_TYPE_NAMES = {
    "float32": "FLOAT32",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
    "resource": "RESOURCE",
}


@dataclass
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: Quant | None
    buffer: int
    signature: tuple[int, ...] | None


@dataclass
class _Operator:
    kind: str
    code: int
    inputs: list[int]
    outputs: list[int]
    options: tuple[str, dict[str, Any]] | None


@dataclass
class SubgraphWriter:
    """One subgraph being written; tensors are referred to by their index in it."""

    model: ModelWriter
    name: str
    tensors: list[_Tensor] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    _constants: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        quant: Quant | None = None,
        *,
        buffer: int = 0,
        batch: bool = False,
    ) -> int:
        """Add a tensor and return its index.  `batch` marks axis 0 as resizable."""
        signature = (-1, *shape[1:]) if batch else None
        self.tensors.append(_Tensor(name, tuple(shape), dtype, quant, buffer, signature))
        return len(self.tensors) - 1

    def constant(self, name: str, array: np.ndarray, quant: Quant | None = None) -> int:
        """Add a tensor with stored contents; equal constants of a subgraph are stored once."""
        array = np.asarray(array, order="C")
        key = (array.tobytes(), array.shape, array.dtype.name, quant)
        found = self._constants.get(key)
        if found is None:
            found = self.tensor(
                name, array.shape, array.dtype.name, quant, buffer=self.model.buffer(array)
            )
            self._constants[key] = found
        return found

    def op(
        self,
        kind: str,
        inputs: list[int],
        outputs: list[int],
        *,
        version: int = 1,
        options: tuple[str, dict[str, Any]] | None = None,
    ) -> None:
        """Append an operator; `options` is (class name without T, fields)."""
        code = self.model.opcode(kind, version)
        self.operators.append(_Operator(kind, code, inputs, outputs, options))

    def copy(self, place: int, index: int) -> None:
        """Let input `index` of operator `place` be a copy of what it was, made just before."""
        x = self.operators[place].inputs[index]
        t = self.tensors[x]
        begin, size = (np.full(len(t.shape), v, np.int32) for v in (0, -1))
        ends = [self.constant(f"{t.name}_arg", v) for v in (begin, size)]
        out = self.tensor(
            f"{t.name}_copy", t.shape, t.dtype, t.quant, batch=t.signature is not None
        )
        version = {"int8": 2, "int16": 4}.get(t.dtype, 1)
        self.op("SLICE", [x, *ends], [out], version=version)
        self.operators.insert(place, self.operators.pop())
        self.operators[place + 1].inputs[index] = out

    def drop_unused(self) -> dict[int, int]:
        """Drop operators and tensors that nothing reads; the new index of each tensor left."""
        live = {*self.inputs, *self.outputs}
        kept = []
        for op in reversed(self.operators):
            if not op.outputs or live.intersection(op.outputs):
                live.update(op.inputs, op.outputs)
                kept.append(op)
        self.operators = kept[::-1]
        moved = {
            old: new for new, old in enumerate(i for i in range(len(self.tensors)) if i in live)
        }
        self.tensors = [self.tensors[i] for i in moved]
        self._constants = {k: moved[i] for k, i in self._constants.items() if i in moved}
        self.inputs, self.outputs = ([moved[i] for i in v] for v in (self.inputs, self.outputs))
        moved[-1] = -1
        for op in self.operators:
            op.inputs = [moved[i] for i in op.inputs]
            op.outputs = [moved[i] for i in op.outputs]
        return moved


class ModelWriter:
    """A model being written.  `finish` gives the bytes of the file."""

    def __init__(self, description: str) -> None:
        self._s = _schema()
        self._description = description
        self._buffers: list[np.ndarray | None] = [None]  # buffer 0 is the empty one by convention
        self._buffer_index: dict[bytes, int] = {}
        self._opcodes: dict[tuple[int, int], int] = {}
        self._signatures: list[tuple[str, int, dict[str, int], dict[str, int]]] = []
        self._metadata: list[tuple[str, int]] = []
        self.subgraphs: list[SubgraphWriter] = []

    def subgraph(self, name: str) -> SubgraphWriter:
        """Start a subgraph; the first one is what an interpreter runs by default."""
        self.subgraphs.append(SubgraphWriter(self, name))
        return self.subgraphs[-1]

    def buffer(self, array: np.ndarray) -> int:
        """Store bytes, once for equal contents, and return the buffer's index."""
        raw = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        key = raw.tobytes()
        if key not in self._buffer_index:
            self._buffers.append(raw)
            self._buffer_index[key] = len(self._buffers) - 1
        return self._buffer_index[key]

    def metadata(self, name: str, text: str) -> None:
        """Attach a named text to the file (runtimes ignore it)."""
        self._metadata.append((name, self.buffer(np.frombuffer(text.encode(), np.uint8))))

    def opcode(self, kind: str, version: int) -> int:
        """The index of an operator code, added when new."""
        code = getattr(self._s.BuiltinOperator, kind)
        return self._opcodes.setdefault((code, version), len(self._opcodes))

    def signature(
        self, key: str, subgraph: SubgraphWriter, inputs: dict[str, int], outputs: dict[str, int]
    ) -> None:
        """Expose a subgraph under a name, its tensors under theirs."""
        self._signatures.append((key, self.subgraphs.index(subgraph), inputs, outputs))

    def drop_unused(self) -> None:
        """Drop operators, tensors and buffers that nothing reads; tensors get other indices."""
        for i, graph in enumerate(self.subgraphs):
            moved = graph.drop_unused()
            for _, index, inputs, outputs in self._signatures:
                if index == i:
                    for table in (inputs, outputs):
                        table.update({name: moved[t] for name, t in table.items()})
        used = {t.buffer for g in self.subgraphs for t in g.tensors} | {
            b for _, b in self._metadata
        }
        kept = [i for i in range(len(self._buffers)) if i == 0 or i in used]
        places = {old: new for new, old in enumerate(kept)}
        self._buffers = [self._buffers[i] for i in kept]
        self._buffer_index = {k: places[i] for k, i in self._buffer_index.items() if i in places}
        self._metadata = [(name, places[b]) for name, b in self._metadata]
        for graph in self.subgraphs:
            for tensor in graph.tensors:
                tensor.buffer = places[tensor.buffer]

    def finish(self) -> bytes:
        """Lay out the file: every buffer 16-byte aligned, file identifier TFL3."""
        import flatbuffers

        model = self._s.ModelT()
        model.version = 3
        model.description = self._description
        model.operatorCodes = [self._opcode_t(*k) for k in self._opcodes]
        model.subgraphs = [self._subgraph_t(g) for g in self.subgraphs]
        model.buffers = [self._buffer_t(b) for b in self._buffers]
        model.signatureDefs = [self._signature_t(*s) for s in self._signatures]
        model.metadata = []
        for name, index in self._metadata:
            entry = self._s.MetadataT()
            entry.name, entry.buffer = name, index
            model.metadata.append(entry)

        class Sharing(flatbuffers.Builder):
            """Stores equal vectors (shapes, scales, zero points) once."""

            def CreateNumpyVector(self, x: Any) -> int:
                key = (x.dtype.str, x.tobytes())
                if key not in shared:
                    shared[key] = super().CreateNumpyVector(x)
                return shared[key]

        shared: dict[tuple[str, bytes], int] = {}
        builder = Sharing(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _opcode_t(self, code: int, version: int) -> Any:
        entry = self._s.OperatorCodeT()
        entry.builtinCode = code
        # Readers older than schema 3a look at the 8-bit field; 127 says "see builtinCode".
        entry.deprecatedBuiltinCode = min(code, 127)
        entry.version = version
        return entry

    def _buffer_t(self, raw: np.ndarray | None) -> Any:
        schema = self._s

        class Aligned(schema.BufferT):  # type: ignore[name-defined]
            """A buffer that starts on a 16-byte boundary.

            The Python package ignores `force_align`; runtimes map the file and read the weights
            in place, so the alignment is asked for here.
            """

            def Pack(self, builder: Any) -> int:
                vector = None
                if raw is not None:
                    builder.StartVector(1, len(raw), 16)
                    builder.head = builder.Head() - len(raw)
                    builder.Bytes[builder.Head() : builder.Head() + len(raw)] = raw.tobytes()
                    vector = builder.EndVector()
                schema.BufferStart(builder)
                if vector is not None:
                    schema.BufferAddData(builder, vector)
                return schema.BufferEnd(builder)

        return Aligned()

    def _subgraph_t(self, graph: SubgraphWriter) -> Any:
        entry = self._s.SubGraphT()
        entry.name = graph.name
        entry.inputs = np.array(graph.inputs, np.int32)
        entry.outputs = np.array(graph.outputs, np.int32)
        entry.tensors = [self._tensor_t(t) for t in graph.tensors]
        entry.operators = [self._operator_t(o) for o in graph.operators]
        return entry

    def _tensor_t(self, tensor: _Tensor) -> Any:
        entry = self._s.TensorT()
        entry.name = tensor.name
        entry.shape = np.array(tensor.shape, np.int32)
        entry.type = getattr(self._s.TensorType, _TYPE_NAMES[tensor.dtype])
        entry.buffer = tensor.buffer
        entry.hasRank = True
        if tensor.signature is not None:
            entry.shapeSignature = np.array(tensor.signature, np.int32)
        if tensor.quant is not None:
            quant = self._s.QuantizationParametersT()
            scale = tensor.quant.scale
            scales = scale if isinstance(scale, tuple) else (scale,)
            quant.scale = np.array(scales, np.float32)
            quant.zeroPoint = np.full(len(scales), tensor.quant.zero_point, np.int64)
            quant.quantizedDimension = tensor.quant.axis
            entry.quantization = quant
        return entry

    def _operator_t(self, operator: _Operator) -> Any:
        entry = self._s.OperatorT()
        entry.opcodeIndex = operator.code
        entry.inputs = np.array(operator.inputs, np.int32)
        entry.outputs = np.array(operator.outputs, np.int32)
        if operator.options is not None:
            name, fields = operator.options
            options = getattr(self._s, name + "T")()
            for key, value in fields.items():
                setattr(options, key, value)
            entry.builtinOptionsType = getattr(self._s.BuiltinOptions, name)
            entry.builtinOptions = options
        return entry

    def _signature_t(
        self, key: str, index: int, inputs: dict[str, int], outputs: dict[str, int]
    ) -> Any:
        entry = self._s.SignatureDefT()
        entry.signatureKey = key
        entry.subgraphIndex = index
        entry.inputs = [self._map_t(n, i) for n, i in inputs.items()]
        entry.outputs = [self._map_t(n, i) for n, i in outputs.items()]
        return entry

    def _map_t(self, name: str, index: int) -> Any:
        entry = self._s.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        return entry
