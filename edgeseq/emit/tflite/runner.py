"""Runs emitted models in LiteRT and in tflite-runtime, states carried.

Each run is a process of its own: tflite-runtime needs another environment, and a runtime that
crashes must not take the compiler with it.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq._resources import tflite_python
from edgeseq.emit.tflite.model import TfliteModel, read_tflite
from edgeseq.errors import BackendError, DataError, EdgeseqError, UsageError, unknown_name

__all__ = ["ENGINES", "EngineStatus", "TfliteRun", "engine_status", "run_tflite"]

Array = npt.NDArray[Any]

ENGINES = ("litert", "tflite-runtime")

_WORKER = Path(__file__).with_name("worker.py")
_PROBES = {
    "litert": "import ai_edge_litert.interpreter, ai_edge_litert as a; print(a.__version__)",
    "tflite-runtime": "import tflite_runtime.interpreter, tflite_runtime as a;print(a.__version__)",
}
_PACKAGES = {"litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}


@dataclass(frozen=True)
class EngineStatus:
    """Whether a runtime can be used here.

    Attributes:
        engine: one of `ENGINES`.
        available: it can.
        python: interpreter of the environment it lives in.
        version: of the runtime.
        reason: why it cannot; empty if it can.
    """

    engine: str
    available: bool
    python: Path | None = None
    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class TfliteRun:
    """What a model produced.

    Attributes:
        outputs: stored integers, [batch, T, *frame] each, in the model's order.
        real: the same in real units.
        states: explicit states after the last step by name, stored, [batch, *shape].
        trace: explicit states after every step, [batch, T, *shape]; empty unless asked for.
        engine: that ran it.
        version: of the engine.
        seconds: of the whole run, start of the process included.
    """

    outputs: list[Array]
    real: list[npt.NDArray[np.float64]]
    states: dict[str, Array]
    trace: dict[str, Array]
    engine: str
    version: str
    seconds: float


def engine_status(engine: str) -> EngineStatus:
    """Look for a runtime: here, then (tflite-runtime) in an environment of its own.

    That environment is named by the variable EDGESEQ_TFLITE_PYTHON (its python), or is the folder
    `.venv-tflite` in the checkout or in the current folder (`edgeseq._resources.tflite_python`).

    Raises:
        UsageError: no such engine.
    """
    if engine not in ENGINES:
        raise UsageError(unknown_name("engine", engine, ENGINES), fix="name one of these")
    try:
        python = _python_of(engine)
    except EdgeseqError as error:
        return EngineStatus(engine, False, reason=error.what)
    return _probe(engine, python)


def _python_of(engine: str) -> Path | None:
    if engine == "tflite-runtime":
        apart = tflite_python()
        if apart is not None:
            return apart
    return Path(sys.executable) if importlib.util.find_spec(_PACKAGES[engine]) else None


@cache
def _probe(engine: str, python: Path | None) -> EngineStatus:
    if python is None:
        reason = (
            "ai-edge-litert is not installed"
            if engine == "litert"
            else "no environment with tflite-runtime: EDGESEQ_TFLITE_PYTHON is not set and "
            "there is no .venv-tflite"
        )
        return EngineStatus(engine, False, reason=reason)
    try:
        done = subprocess.run(
            [str(python), "-c", _PROBES[engine]],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return EngineStatus(engine, False, python, reason=f"{python} does not run: {error}")
    if done.returncode != 0:
        return EngineStatus(engine, False, python, reason=f"{python}: {_last_line(done.stderr)}")
    return EngineStatus(engine, True, python, done.stdout.strip())


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def run_tflite(
    model: TfliteModel | str | Path | bytes,
    *inputs: Array,
    engine: str = "litert",
    trace: bool = False,
    timeout: float = 600.0,
) -> TfliteRun:
    """Run whole sequences, each from the initial states.

    Args:
        model: an emitted model, or a file or its contents.
        inputs: one array per input, [batch, T, *frame]; floats are raw frames, integers are
            stored integers of the Graph the model was made from.  A step of several frames takes
            them in groups.
        engine: 'litert' or 'tflite-runtime'.
        trace: also return the explicit states after every step.
        timeout: seconds after which the run is given up.

    Raises:
        BackendError: the engine is not available (the message says why), refuses the model,
            crashes or takes too long.
        DataError: the inputs do not fit the model.
    """
    if not isinstance(model, TfliteModel):
        model = read_tflite(model)
    status = engine_status(engine)
    if not status.available:
        raise BackendError(
            f"is not available: {status.reason}",
            where=engine,
            fix="pip install ai-edge-litert"
            if engine == "litert"
            else "make .venv-tflite with Python 3.11: pip install tflite-runtime==2.14.0 'numpy<2'",
        )
    stored = _stored(model, inputs)
    spec = {
        "engine": engine,
        "inputs": [t.name for t in model.inputs],
        "outputs": [t.name for t in model.outputs],
        "states": len(model.states),
        "internal": model.state == "internal",
        "trace": trace,
    }
    arrays: dict[str, Any] = {f"x{i}": x for i, x in enumerate(stored)}
    arrays |= {f"s{i}": s.init for i, s in enumerate(model.states)}
    start = time.perf_counter()
    result = _in_process(status, model.data, spec, arrays, timeout)
    seconds = time.perf_counter() - start
    outputs = [
        y if t.frames == 1 else y.reshape(y.shape[0], -1, *t.frame)
        for t, y in ((t, result[f"y{i}"]) for i, t in enumerate(model.outputs))
    ]
    return TfliteRun(
        outputs,
        [t.real(y) for t, y in zip(model.outputs, outputs, strict=True)],
        {s.name: result[f"s{i}"] for i, s in enumerate(model.states) if f"s{i}" in result},
        {s.name: result[f"t{i}"] for i, s in enumerate(model.states) if f"t{i}" in result},
        engine,
        status.version,
        seconds,
    )


def _stored(model: TfliteModel, inputs: Sequence[Array]) -> list[Array]:
    if len(inputs) != len(model.inputs):
        raise DataError(
            f"got {len(inputs)} inputs, needs {len(model.inputs)}",
            where="TFLite model",
            fix=f"pass {', '.join(t.name for t in model.inputs)}",
        )
    stored: list[Array] = []
    for info, x in zip(model.inputs, inputs, strict=True):
        steps = x.shape[1] // info.frames if x.ndim > 1 else 0
        fits = x.shape == (x.shape[0], steps * info.frames, *info.frame) and x.size
        if not fits or (stored and (x.shape[0], steps) != stored[0].shape[:2]):
            axes = ["batch", "T" if info.frames == 1 else f"{info.frames} T", *info.frame]
            raise DataError(
                f"got shape {list(x.shape)}",
                where=f"TFLite model, input {info.name!r}",
                fix=f"pass [{', '.join(map(str, axes))}], all inputs for the same time",
            )
        stored.append(info.store(x).reshape(x.shape[0], steps, *info.shape))
    return stored


def _in_process(
    status: EngineStatus, data: bytes, spec: dict[str, Any], arrays: dict[str, Any], timeout: float
) -> dict[str, Array]:
    with tempfile.TemporaryDirectory(prefix="edgeseq-tflite-") as folder:
        job, out = Path(folder, "job.npz"), Path(folder, "result.npz")
        np.savez(
            job,
            spec=np.array(json.dumps(spec)),
            model=np.frombuffer(data, np.uint8),
            **arrays,
        )
        try:
            done = subprocess.run(
                [str(status.python), str(_WORKER), str(job), str(out)],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BackendError(
                f"did not finish within {timeout:g} s",
                where=f"{status.engine} {status.version}",
                fix="run fewer or shorter sequences",
            ) from None
        if done.returncode != 0:
            raise BackendError(
                f"failed (exit status {done.returncode}): {_last_line(done.stderr)}",
                where=f"{status.engine} {status.version}",
                fix="the model uses something this runtime does not take",
            )
        with np.load(out, allow_pickle=False) as result:
            return {k: result[k] for k in result.files if k != "version"}
