"""Runs the ONNX step models of `edgeseq.emit.onnx` in ONNX Runtime, states carried.

Needs onnxruntime and numpy; the onnx package is not used. What the runner has to know (states,
their initial values, shapes) is read from the model's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import BackendError, DataError

__all__ = ["OnnxStep", "run_onnx"]

Array = npt.NDArray[Any]
_DTYPES = {"f32": np.float32, "i8": np.int8, "i16": np.int16, "i32": np.int32}


class OnnxStep:
    """One ONNX step model with its states.

    Args:
        model: path of a model, or its bytes.
        batch: sequences run side by side.
        threads: of ONNX Runtime.

    Attributes:
        meta: the model's facts, as `edgeseq.emit.onnx` wrote them.
        state: arrays [batch, *shape] by state name (stored integers in an integer model).

    Raises:
        BackendError: ONNX Runtime is missing, refuses the model, or the model is not one that
            edgeseq wrote.
    """

    def __init__(self, model: str | Path | bytes, *, batch: int = 1, threads: int = 1) -> None:
        self._where = "ONNX model" if isinstance(model, bytes) else str(model)
        self._session = self._open(model, threads)
        raw = self._session.get_modelmeta().custom_metadata_map
        try:
            self.meta: dict[str, Any] = {
                k.removeprefix("edgeseq."): json.loads(v)
                for k, v in raw.items()
                if k.startswith("edgeseq.")
            }
            self._inputs = [e["name"] for e in self.meta["inputs"]]
            self._outputs = [e["name"] for e in self.meta["outputs"]]
            self._states = [(e["name"], e["next"]) for e in self.meta["states"]]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise BackendError(
                f"lacks the metadata edgeseq writes ({error})",
                where=self._where,
                fix="run a model that `edgeseq compile` wrote",
            ) from error
        # The exact model reads float64, the others float32.
        wide = {i.name for i in self._session.get_inputs() if i.type == "tensor(double)"}
        self._real = [np.float64 if n in wide else np.float32 for n in self._inputs]
        self._fetch = [*self._outputs, *(after for _, after in self._states)]
        self.batch = batch
        self.reset()

    def _open(self, model: str | Path | bytes, threads: int) -> Any:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendError(
                f"onnxruntime cannot be imported ({error})",
                where=self._where,
                fix="pip install onnxruntime",
            ) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3  # errors only: warnings about unused pairs are not news
        # Spinning idle threads would take the cores of whatever runs beside.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = model if isinstance(model, bytes) else str(model)
        try:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise BackendError(
                f"ONNX Runtime {ort.__version__} refuses the model: {error}",
                where=self._where,
                fix="check the file, or emit an older opset",
            ) from error

    def reset(self) -> None:
        """Put every state back to its initial value."""
        self.state: dict[str, Array] = {}
        for e in self.meta["states"]:
            init = np.asarray(e["init"], _DTYPES[e["dtype"]])
            self.state[e["name"]] = np.broadcast_to(init, (self.batch, *e["shape"])).copy()

    def __call__(self, *frames: npt.ArrayLike) -> list[Array]:
        """Advance by one frame.

        Args:
            frames: raw frames, one [batch, *shape] per input.

        Returns:
            Real values, one float [batch, *shape] per output.
        """
        feeds = dict(self.state)
        for name, frame, real in zip(self._inputs, frames, self._real, strict=True):
            feeds[name] = np.ascontiguousarray(frame, real)
        results = self._session.run(self._fetch, feeds)
        count = len(self._outputs)
        for (before, _), array in zip(self._states, results[count:], strict=True):
            self.state[before] = array
        return list(results[:count])

    def sequence(self, *frames: npt.ArrayLike) -> list[Array]:
        """Run whole sequences, states carried.

        Args:
            frames: raw frames, one [batch, T, *frame] per input, T >= 1; a step of several
                frames takes them in groups.

        Returns:
            One float [batch, T, *frame] per output.

        Raises:
            DataError: wrong number or shape of the inputs.
        """
        arrays = [np.asarray(x) for x in frames]
        entries = self.meta["inputs"]
        groups = [e.get("frames", 1) for e in entries]
        shapes = [e["shape"][m > 1 :] for e, m in zip(entries, groups, strict=True)]
        wanted = [(self.batch, *s) for s in shapes]
        got = [(*x.shape[:1], *x.shape[2:]) for x in arrays]
        ends = zip(arrays, groups, strict=False)
        lengths = {divmod(x.shape[1], m) for x, m in ends if x.ndim > 1}
        if got != wanted or len(lengths) != 1 or not min(lengths)[0] or min(lengths)[1]:
            raise DataError(
                f"got inputs of shape {[list(x.shape) for x in arrays]}, needs [batch, time, "
                f"*frame] with batch and frame {[list(w) for w in wanted]}",
                where=self._where,
                fix="give every input as [batch, time, *frame], all equally long"
                + (f", {groups} frames a step" if max(groups) > 1 else ""),
            )
        count = min(lengths)[0]
        blocks = [
            x.reshape(self.batch, count, *e["shape"]) for x, e in zip(arrays, entries, strict=True)
        ]
        steps = [self(*(x[:, t] for x in blocks)) for t in range(count)]
        outs = [np.stack([y[i] for y in steps], axis=1) for i in range(len(self._outputs))]
        return [
            y.reshape(self.batch, -1, *y.shape[3:]) if e.get("frames", 1) > 1 else y
            for y, e in zip(outs, self.meta["outputs"], strict=True)
        ]


def run_onnx(
    model: str | Path | bytes, inputs: npt.ArrayLike | Sequence[npt.ArrayLike], *, threads: int = 1
) -> list[Array]:
    """Run a whole batch of sequences from the initial states.

    Args:
        model: path of a model that `edgeseq.emit.onnx` wrote, or its bytes.
        inputs: raw frames [batch, T, *shape], or a list or tuple of such, one per input.
        threads: of ONNX Runtime.

    Returns:
        Real values: one float [batch, T, *shape] per output.

    Raises:
        BackendError: see `OnnxStep`.
        DataError: wrong shapes.
    """
    arrays = [np.asarray(x) for x in inputs] if isinstance(inputs, list | tuple) else [inputs]
    step = OnnxStep(model, batch=np.asarray(arrays[0]).shape[0], threads=threads)
    return step.sequence(*arrays)
