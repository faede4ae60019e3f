"""Runs the step of an ONNX file in ONNX Runtime, for machines the native step is not made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ArtifactError
from edgeseq.manifest import FormatInfo, Manifest
from edgeseq.runtime.backends import Unavailable
from edgeseq.runtime.tensors import Port, load_states, restore_states

__all__ = ["Onnx", "open_file"]

Array = npt.NDArray[Any]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
}


def open_file(path: Path, manifest: Manifest, info: FormatInfo) -> Onnx:
    """The step in the ONNX file at `path`.

    Raises:
        Unavailable: ONNX Runtime is not installed.
        ArtifactError: it refuses the file, or the file lacks a tensor the manifest names.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable(f"needs ONNX Runtime (pip install onnxruntime): {error}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a step is too small to share
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ArtifactError(
            f"ONNX Runtime refuses the file: {error}",
            where=str(path),
            fix="install a newer onnxruntime, or compile the artifact again",
        ) from error
    return Onnx(session, path, manifest, info)


class Onnx:
    """A step with its states as inputs and outputs. ONNX files take raw frames, in real units."""

    def __init__(self, session: Any, path: Path, manifest: Manifest, info: FormatInfo) -> None:
        self.name = info.format
        self._session = session
        tensors = {t.name: t for t in (*session.get_inputs(), *session.get_outputs())}

        def port(name: str, shape: tuple[int, ...], scale: float, raw: Any = None) -> Port:
            if name not in tensors:
                raise ArtifactError(
                    f"has no tensor {name!r}", where=str(path), fix="compile the artifact again"
                )
            tensor = tensors[name]
            dtype = np.dtype(_TYPES.get(tensor.type, np.float32))
            return Port.make(name, shape, len(tensor.shape), dtype, scale, scale, 0, raw)

        self._inputs = [
            port(n, i.shape, i.scale, i) for n, i in zip(info.inputs, manifest.inputs, strict=True)
        ]
        self._outputs = [
            port(n, o.shape, o.scale) for n, o in zip(info.outputs, manifest.outputs, strict=True)
        ]
        pairs = list(zip(info.states, manifest.states, strict=True))
        self._states = [port(names[0], s.shape, s.scale) for names, s in pairs]
        self._inits = [np.asarray(s.init, np.float64) for _, s in pairs]
        self._fetch = [p.name for p in self._outputs] + [names[1] for names, _ in pairs]
        self.reset()

    def reset(self) -> None:
        """See `Backend`."""
        self._carried = load_states(self._states, self._inits)

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """See `Backend`."""
        feeds = [p.load(x) for p, x in zip(self._inputs, inputs, strict=True)]
        for t in range(len(inputs[0])):
            feed = {p.name: x[t] for p, x in zip(self._inputs, feeds, strict=True)}
            feed |= {p.name: s for p, s in zip(self._states, self._carried, strict=True)}
            got = self._session.run(self._fetch, feed)
            for p, y, value in zip(self._outputs, outputs, got, strict=False):
                p.store(value, y, t)
            self._carried = got[len(outputs) :]

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """See `Backend`."""
        return partial(self.run, inputs, outputs)

    def state(self) -> dict[str, Array]:
        """See `Backend`."""
        return {p.name: s.copy() for p, s in zip(self._states, self._carried, strict=True)}

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `Backend`."""
        self._carried = restore_states(self._states, state)
