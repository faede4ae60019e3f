"""Runs the step of a TFLite file in LiteRT or tflite-runtime, whichever is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ArtifactError
from edgeseq.manifest import FormatInfo, InputInfo, Manifest, OutputInfo, StateInfo
from edgeseq.runtime.backends import Unavailable
from edgeseq.runtime.tensors import Port, load_states, restore_states

__all__ = ["Tflite", "open_file"]

Array = npt.NDArray[Any]

_Slot = tuple[Port, int]

_MODULES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")


def open_file(path: Path, manifest: Manifest, info: FormatInfo) -> Tflite:
    """The step in the TFLite file at `path`.

    Raises:
        Unavailable: neither runtime is installed, or the file keeps its states to itself.
        ArtifactError: the runtime refuses the file, or it lacks a tensor the manifest names.
    """
    if len(info.states) != len(manifest.states):
        raise Unavailable("keeps its states inside; needs a file with states as inputs")
    interpreter = _interpreter()
    try:
        opened = interpreter(model_path=str(path), num_threads=1)
        opened.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(
            f"the TFLite runtime refuses the file: {error}",
            where=str(path),
            fix="install a newer ai-edge-litert, or compile the artifact again",
        ) from error
    return Tflite(opened, path, manifest, info)


def _interpreter() -> Any:
    reasons = []
    for module in _MODULES:
        try:
            return import_module(module).Interpreter
        except ImportError as error:
            reasons.append(str(error))
    raise Unavailable(
        "needs LiteRT (pip install ai-edge-litert) or tflite-runtime: " + "; ".join(reasons)
    )


class Tflite:
    """A step with its states as inputs and outputs. TFLite files take prepared frames."""

    def __init__(self, opened: Any, path: Path, manifest: Manifest, info: FormatInfo) -> None:
        self.name = info.format
        self._opened = opened
        sides = _details(opened, path, info.signature)

        def port(side: int, name: str, like: InputInfo | OutputInfo | StateInfo) -> _Slot:
            tensor = sides[side].get(name)
            if tensor is None:
                raise ArtifactError(
                    f"has no {('input', 'output')[side]} {name!r}",
                    where=str(path),
                    fix="compile the artifact again",
                )
            # A 32-bit tensor may carry no scale: it holds the stored integers as they are.
            unit, zero = tensor["quantization"]
            dtype = np.dtype(tensor["dtype"])
            rank = len(tensor["shape"])
            made = Port.make(name, like.shape, rank, dtype, like.scale, unit or like.scale, zero)
            return made, int(tensor["index"])

        # An input and an output may share a name, so tensors go by side and index.
        self._inputs = [port(0, n, i) for n, i in zip(info.inputs, manifest.inputs, strict=True)]
        self._outputs = [port(1, n, o) for n, o in zip(info.outputs, manifest.outputs, strict=True)]
        pairs = list(zip(info.states, manifest.states, strict=True))
        self._states = [port(0, names[0], s) for names, s in pairs]
        self._results = [port(1, names[1], s)[1] for names, s in pairs]
        self._inits = [np.asarray(s.init, np.float64) for _, s in pairs]
        self.reset()

    def reset(self) -> None:
        """See `Backend`."""
        self._carried = load_states([p for p, _ in self._states], self._inits)

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """See `Backend`."""
        opened = self._opened
        feeds = [p.load(x) for (p, _), x in zip(self._inputs, inputs, strict=True)]
        for t in range(len(inputs[0])):
            for (_, index), x in zip(self._inputs, feeds, strict=True):
                opened.set_tensor(index, x[t])
            for (_, index), s in zip(self._states, self._carried, strict=True):
                opened.set_tensor(index, s)
            opened.invoke()
            for (p, index), y in zip(self._outputs, outputs, strict=True):
                p.store(opened.get_tensor(index), y, t)
            self._carried = [opened.get_tensor(index) for index in self._results]

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """See `Backend`."""
        return partial(self.run, inputs, outputs)

    def state(self) -> dict[str, Array]:
        """See `Backend`."""
        return {p.name: s.copy() for (p, _), s in zip(self._states, self._carried, strict=True)}

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `Backend`."""
        self._carried = restore_states([p for p, _ in self._states], state)


def _details(
    opened: Any, path: Path, signature: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Details of the input and of the output tensors, by the names the manifest uses."""
    if signature is None:
        return (
            {t["name"]: t for t in opened.get_input_details()},
            {t["name"]: t for t in opened.get_output_details()},
        )
    try:
        runner = opened.get_signature_runner(signature)
    except ValueError as error:
        raise ArtifactError(
            f"has no signature {signature!r}", where=str(path), fix="compile the artifact again"
        ) from error
    return runner.get_input_details(), runner.get_output_details()
