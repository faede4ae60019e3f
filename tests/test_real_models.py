"""Published models end to end, on 30 s of real audio with carried states."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beat_tracker import PACKAGES
from real_models import MODELS, audio, find, missing, speech

from edgeseq.compiler.original import OnnxFile
from edgeseq.frontend.onnx_import import Imported, import_onnx
from edgeseq.frontend.options import ImportOptions
from edgeseq.ir import Graph, Interpreter
from edgeseq.ir.io import from_stored, prepare, to_stored
from edgeseq.kernels import HostStep
from edgeseq.passes import to_step
from edgeseq.quant import Quantised, QuantOptions, quantise, snr_db

pytestmark = pytest.mark.slow

SECONDS = {"silero": 512 / 16000, "dtln": 128 / 16000, "flashvad": 160 / 16000}
CALIBRATION = 512


def per_second(model: str) -> float:
    return 1.0 / next(v for k, v in SECONDS.items() if model.startswith(k))


@cache
def frames_of(model: str) -> np.ndarray:
    """At least 30 s of frames, [1, T, *shape]."""
    frames = MODELS[model].frames()
    count = int(np.ceil(31 * per_second(model)))
    assert len(frames) >= 30 * per_second(model)
    return frames[None, :count].astype(np.float64)


@cache
def imported(model: str) -> Imported:
    published = MODELS[model]
    return import_onnx(published.path, name="m", options=ImportOptions(values=published.values))


@cache
def step_of(model: str) -> Graph:
    return to_step(imported(model).graph)


@cache
def quantised(model: str) -> Quantised:
    step, frames = step_of(model), frames_of(model)
    prepared = prepare(step, step.inputs[0], frames)
    pick = prepared[:, : prepared.shape[1] // CALIBRATION * CALIBRATION]
    pieces = pick.reshape(-1, CALIBRATION, *pick.shape[2:])
    return quantise(step, [pieces], QuantOptions(snr=30.0))


@cache
def answers(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Real outputs and those of the integer step in machine code, over all frames."""
    step, frames, integer = step_of(model), frames_of(model), quantised(model).graph
    real = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0]
    stored = HostStep(integer).run(to_stored(integer, integer.inputs[0], frames))[0]
    return real[0], from_stored(integer, integer.outputs[0], stored)[0]


def needs(model: str) -> None:
    reason = missing(model)
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("model", MODELS)
def test_the_graph_is_the_file_in_onnx_runtime(model: str) -> None:
    needs(model)
    made, frames = imported(model), frames_of(model)[:, :300]
    file = OnnxFile(MODELS[model].path, made.graph, MODELS[model].values)
    want = file([frames])[0]
    step = step_of(model)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0]
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_three_forms_of_silero_agree() -> None:
    forms = [m for m in MODELS if m.startswith("silero")]
    for model in forms:
        needs(model)
    x = frames_of(forms[0])[:, :200]
    outs = []
    for model in forms:
        step = step_of(model)
        outs.append(Interpreter(step).sequence(prepare(step, step.inputs[0], x))[0].ravel())
    for other in outs[1:]:
        assert np.abs(other - outs[0]).max() < 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_integers_on_real_audio(model: str) -> None:
    """SNR and the task's decisions over 30 s; wide layers are named."""
    needs(model)
    real, integer = answers(model)
    made = quantised(model)
    snr = snr_db(real, integer)
    print(f"{model}: {snr:.1f} dB, 16-bit weights in {made.widened or 'no layer'}")
    assert snr >= 30.0
    decide = MODELS[model].decision
    if decide is not None:
        agree = float(np.mean(decide(real) == decide(integer)))
        print(f"{model}: decisions agree in {agree:.2%} of {len(real)} frames")
        assert agree >= 0.99


@pytest.mark.parametrize("model", MODELS)
def test_machine_code_is_the_interpreter(model: str) -> None:
    needs(model)
    integer, frames = quantised(model).graph, frames_of(model)[:, :200]
    stored = to_stored(integer, integer.inputs[0], frames)
    machine = Interpreter(integer)
    want: list[Any] = machine.sequence(stored)
    host = HostStep(integer)
    got = host.run(stored)
    for a, b in zip(want, got, strict=True):
        assert np.array_equal(a, b)
    for name, value in host.state.items():
        assert np.array_equal(value, machine.state[name])


# -- published and usual PyTorch modules ---------------------------------------------------------


def beat_features() -> np.ndarray:
    """Log magnitudes in 136 bands and their rise, every 20 ms of the speech: [T, 272]."""
    samples, size, hop = speech(), 1024, 320
    window = np.hanning(size)
    spectra = np.stack(
        [np.abs(np.fft.rfft(samples[i : i + size] * window)) for i in range(0, 32 * 16000, hop)]
    )
    edges = np.geomspace(30, 7900, 138)
    bins = np.fft.rfftfreq(size, 1 / 16000)
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bands = np.clip(np.minimum(rise, fall), 0, None)
    bands /= np.maximum(bands.sum(1, keepdims=True), 1e-3)
    levels = np.log10(spectra @ bands.T + 1)
    return np.concatenate([levels, np.maximum(np.diff(levels, axis=0, prepend=levels[:1]), 0)], 1)


def beatnet() -> tuple[Any, np.ndarray, dict[str, Any]]:
    import torch
    from test_frontend_torch_models import published_beatnet

    return published_beatnet(), beat_features(), {"example": torch.randn(1, 20, 272)}


def causal_transformer() -> tuple[Any, np.ndarray, dict[str, Any]]:
    import torch
    from test_frontend_torch_models import transformer

    needs("flashvad")
    torch.manual_seed(0)
    module = transformer(True, features=43, width=64, heads=4).eval()
    features = MODELS["flashvad"].frames()[:3100]
    return module, features, {"example": torch.randn(1, 20, 43), "context": 32}


@pytest.mark.parametrize("make", [beatnet, causal_transformer])
def test_modules_on_real_audio(make: Any) -> None:
    """SNR and agreement of the decisions (the greatest output) over 30 s, states carried."""
    pytest.importorskip("torch")
    if not audio().is_file():
        pytest.skip(f"the recording {audio().name} is not on this machine")
    from edgeseq.frontend import from_torch

    module, frames, options = make()
    step = to_step(from_torch(module, options.pop("example"), **options))
    x = frames[None].astype(np.float64)
    pieces = x[:, : len(frames) // CALIBRATION * CALIBRATION].reshape(-1, CALIBRATION, x.shape[2])
    integer = quantise(step, [prepare(step, step.inputs[0], pieces)], QuantOptions(snr=30.0)).graph
    real = Interpreter(step).sequence(prepare(step, step.inputs[0], x))[0][0]
    stored = to_stored(integer, integer.inputs[0], x)
    host = HostStep(integer)
    got = from_stored(integer, integer.outputs[0], host.run(stored)[0])[0]
    snr = snr_db(real, got)
    agree = float(np.mean(real.argmax(-1) == got.argmax(-1)))
    print(f"{make.__name__}: {snr:.1f} dB, decisions agree in {agree:.2%} of {len(real)} frames")
    assert snr >= 30.0 and agree >= 0.99
    want = Interpreter(integer).sequence(stored[:, :200])[0]
    assert np.array_equal(HostStep(integer).run(stored[:, :200])[0], want)


def tracker(folder: Path, what: str, given: Path) -> Any:
    """What `beat_tracker.py` answers; skips the test where a package cannot be had."""
    lacking = [name for name in PACKAGES if not find(name).is_dir()]
    if lacking:
        pytest.skip(f"not unpacked in .models (make setup fetches them): {', '.join(lacking)}")
    out = folder / f"{what}-{given.stem}.np{'y' if what == 'features' else 'z'}"
    script = Path(__file__).with_name("beat_tracker.py")
    subprocess.run([sys.executable, script, what, given, out], check=True, timeout=120)
    return np.load(out)


def f_measure(want: np.ndarray, got: np.ndarray, seconds: float) -> float:
    """Beats of both that lie within `seconds` of one of the other, of all beats of both."""
    apart = np.abs(want[:, None, 0] - got[None, :, 0])
    near = (apart.min(1) <= seconds).sum() + (apart.min(0) <= seconds).sum()
    return float(near / (len(want) + len(got)))


def test_beats_of_a_recording(tmp_path: Path) -> None:
    """BeatNet's trackers find the same beats in the integer model's outputs as in torch's."""
    torch = pytest.importorskip("torch")
    from test_frontend_torch_models import published_beatnet

    from edgeseq.frontend import from_torch

    module = published_beatnet()
    recording = find("BeatNet", "BeatNet", "test_data", "808kick120bpm.mp3")
    x = tracker(tmp_path, "features", recording)[None].astype(np.float64)
    step = to_step(from_torch(module, torch.randn(1, 20, 272)))
    pieces = x[:, : x.shape[1] // CALIBRATION * CALIBRATION].reshape(-1, CALIBRATION, 272)
    integer = quantise(step, [prepare(step, step.inputs[0], pieces)], QuantOptions(snr=30.0)).graph
    stored = HostStep(integer).run(to_stored(integer, integer.inputs[0], x))[0]
    answers = {"integer": from_stored(integer, integer.outputs[0], stored)[0]}
    with torch.no_grad():
        answers["torch"] = module(torch.from_numpy(x.astype(np.float32)))[0].T.numpy()
    found = {}
    for name, logits in answers.items():
        odds = np.exp(logits - logits.max(1, keepdims=True))
        np.save(tmp_path / f"{name}.npy", (odds / odds.sum(1, keepdims=True))[:, :2])
        found[name] = tracker(tmp_path, "beats", tmp_path / f"{name}.npy")
    want, got = found["torch"], found["integer"]
    beats = np.diff(want["dbn"][:, 0])
    assert len(beats) >= 60 and np.abs(beats - 0.5).max() <= 0.04  # 120 a minute
    assert np.array_equal(want["dbn"], got["dbn"])
    # Its particles are drawn at random: one more or less as the draws fall.
    assert f_measure(want["particles"], got["particles"], 0.02) >= 0.99
    print(f"beats: {len(want['dbn'])}, all the same; particle filter: ", end="")
    print(f"{f_measure(want['particles'], got['particles'], 0.02):.1%} of the beats agree")
