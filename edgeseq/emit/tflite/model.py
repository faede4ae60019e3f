"""A .tflite file and what one has to know to run it: tensors, scales, states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from struct import error as struct_error
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ArtifactError, BackendError

__all__ = ["METADATA", "StateInfo", "TensorInfo", "TfliteModel", "read_tflite"]

Array = npt.NDArray[Any]

METADATA = "edgeseq"
"""Name of the metadata entry that holds the facts of `TfliteModel`, as JSON."""


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: real = (stored - zero_point) * scale; zero points are 0.

    Attributes:
        name: in the signature `step`.
        shape: of one frame; the tensor has a batch axis before it.
        dtype: numpy name.
        scale: real value of one stored unit.
        zero_point: always 0.
        graph_scale: the same in the integer Graph this was made from.
        affine: (scale, offset) lists of the input normalisation, raw = prepared*scale + offset,
            where prepared is what `scale` refers to; None where there is none.
        frames: of a sequence that a step takes or gives at once: the leading axis of `shape`
            where there are several.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int = 0
    graph_scale: float = 1.0
    affine: tuple[list[float], list[float]] | None = None
    frames: int = 1

    @property
    def frame(self) -> tuple[int, ...]:
        """Shape of one frame of a sequence."""
        return self.shape[1:] if self.frames > 1 else self.shape

    def store(self, raw: Array) -> Array:
        """Stored frames from raw real ones: rounded half up, saturated.

        Args:
            raw: [..., *shape]; integers are taken as stored integers of the Graph instead.
        """
        if raw.dtype.kind == "i":
            if (raw.dtype.name, self.graph_scale) == (self.dtype, self.scale):
                return raw
            prepared = raw.astype(np.float64) * self.graph_scale
        else:
            prepared = raw.astype(np.float64)
            if self.affine is not None:
                scale, offset = (np.asarray(v, np.float64) for v in self.affine)
                prepared = (prepared - offset) / scale
        info = np.iinfo(self.dtype)
        stored = np.floor(prepared / self.scale + 0.5)
        return np.clip(stored, info.min, info.max).astype(self.dtype)

    def real(self, stored: Array) -> npt.NDArray[np.float64]:
        """Real values of stored ones."""
        return stored.astype(np.float64) * self.scale


def _facts(info: TensorInfo) -> dict[str, Any]:
    facts = asdict(info)
    if info.frames == 1:
        del facts["frames"]
    return facts


@dataclass(frozen=True)
class StateInfo:
    """A state: input `name`, output `next`, both of the same format.

    Attributes:
        name, next: in the signature `step` (explicit states).
        info: shape and format.
        init: stored values after a reset, [*shape].
    """

    name: str
    next: str
    info: TensorInfo
    init: Array


@dataclass(frozen=True)
class TfliteModel:
    """An emitted model.

    Attributes:
        data: contents of the file.
        activations: 'int8' or 'int16', width of what matrix products take and give.
        state: 'explicit' (inputs and outputs) or 'internal' (variables, signature `reset`).
        inputs, outputs: in the order of the Graph.
        states: what is carried; also listed when internal.
        float_nodes: nodes computed in float32 (layer normalisation, functions of large dynamic
            range, and 32-bit values on the way to them).
        operators: how often each operator occurs in a step.
    """

    data: bytes
    activations: str
    state: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    states: tuple[StateInfo, ...]
    float_nodes: tuple[str, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return len(self.data)

    def facts(self) -> dict[str, Any]:
        """Everything but the file's contents, as JSON values."""
        return {
            "activations": self.activations,
            "state": self.state,
            "inputs": [_facts(t) for t in self.inputs],
            "outputs": [_facts(t) for t in self.outputs],
            "states": [
                {
                    "name": s.name,
                    "next": s.next,
                    "info": _facts(s.info),
                    "init": s.init.tolist() if np.any(s.init) else None,
                }
                for s in self.states
            ],
            "float_nodes": list(self.float_nodes),
            "operators": dict(self.operators),
        }

    @staticmethod
    def from_facts(data: bytes, facts: Mapping[str, Any]) -> TfliteModel:
        """The inverse of `facts`."""

        def tensor(entry: Mapping[str, Any]) -> TensorInfo:
            affine = entry["affine"]
            return TensorInfo(
                **{
                    **entry,
                    "shape": tuple(entry["shape"]),
                    "affine": None if affine is None else (affine[0], affine[1]),
                }
            )

        states = []
        for entry in facts["states"]:
            info = tensor(entry["info"])
            init = np.zeros(info.shape) if entry["init"] is None else np.array(entry["init"])
            states.append(StateInfo(entry["name"], entry["next"], info, init.astype(info.dtype)))
        return TfliteModel(
            data,
            facts["activations"],
            facts["state"],
            tuple(map(tensor, facts["inputs"])),
            tuple(map(tensor, facts["outputs"])),
            tuple(states),
            tuple(facts["float_nodes"]),
            facts["operators"],
        )


def read_tflite(source: str | Path | bytes) -> TfliteModel:
    """Read a file that `emit_tflite` made.

    Args:
        source: a path, or the contents.

    Raises:
        ArtifactError: it cannot be read, or was not written by edgeseq.
        BackendError: the schema classes are not installed.
    """
    where = "TFLite model" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot be read ({error.strerror})", where=where, fix="check the path"
        ) from error
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise BackendError(
            f"ai-edge-litert cannot be imported ({error})",
            where="TFLite reader",
            fix="pip install ai-edge-litert",
        ) from error
    if data[4:8] != b"TFL3":
        raise ArtifactError("is not a TFLite model", where=where, fix="compile it again")
    try:
        model = schema.Model.GetRootAs(data, 0)
        for i in range(model.BuffersLength()):
            model.Buffers(i).DataAsNumpy()  # a truncated file ends within one of them
        for i in range(model.MetadataLength()):
            entry = model.Metadata(i)
            if entry.Name() == METADATA.encode():
                raw = model.Buffers(entry.Buffer()).DataAsNumpy()
                return TfliteModel.from_facts(data, json.loads(bytes(raw)))
    except (KeyError, TypeError, ValueError, IndexError, struct_error) as error:
        raise ArtifactError(
            f"is damaged ({error})", where=where, fix="compile the model again"
        ) from error
    raise ArtifactError(
        "holds no edgeseq metadata", where=where, fix="only models that edgeseq wrote can be run"
    )
