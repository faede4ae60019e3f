"""BeatNet's features and its two beat trackers, in a process of their own.

`beat_tracker.py features RECORDING OUT.npy` writes the features of a recording, [T, 272] at 50
frames a second; `beat_tracker.py beats ACTIVATIONS.npy OUT.npz` writes the beats that follow from
the probabilities of beat and downbeat, [T, 2], as rows of (seconds, number in the bar). `dbn` are
those of the dynamic Bayesian network, `particles` those of the package's own particle filter.

The packages lie unpacked in `.models` (see `constraints-models.txt`). A process of its own keeps
them, and the old name of `madmom`, out of the one that runs the tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
from real_models import find

PACKAGES = ("madmom_infer", "scipy", "soundfile", "cffi")
RATE = 22050  # Hz; as BeatNet.py sets it, like the sizes below
WINDOW, HOP = int(0.064 * RATE), int(0.020 * RATE)
FPS = 50


def features(recording: Path) -> np.ndarray:
    """The chain of BeatNet/log_spect.py, whose module needs librosa to be imported."""
    import soundfile
    from madmom_infer.audio.signal import FramedSignalProcessor, SignalProcessor
    from madmom_infer.audio.spectrogram import (
        FilteredSpectrogramProcessor,
        LogarithmicSpectrogramProcessor,
        SpectrogramDifferenceProcessor,
    )
    from madmom_infer.audio.stft import ShortTimeFourierTransformProcessor
    from madmom_infer.processors import SequentialProcessor
    from scipy.signal import resample_poly  # noqa: TID251 - madmom_infer needs scipy anyway

    samples, rate = soundfile.read(recording, always_2d=True)
    mono = resample_poly(samples.mean(1), RATE, rate).astype(np.float32)
    # A steady loop of 10 s; the states need longer to show a drift.
    mono = np.tile(mono, int(np.ceil(32 * RATE / len(mono))))
    chain = SequentialProcessor(
        (
            SignalProcessor(num_channels=1, sample_rate=RATE),
            FramedSignalProcessor(frame_size=WINDOW, hop_size=HOP),
            ShortTimeFourierTransformProcessor(),
            FilteredSpectrogramProcessor(num_bands=24, fmin=30, fmax=17000, norm_filters=True),
            LogarithmicSpectrogramProcessor(mul=1, add=1),
            SpectrogramDifferenceProcessor(
                diff_ratio=0.5, positive_diffs=True, stack_diffs=np.hstack
            ),
        )
    )
    return np.asarray(chain(mono))


def particle_filter() -> Any:
    """The module of BeatNet's particle filter, on the state spaces of madmom_infer."""
    for name in ("", ".features", ".features.beats_hmm", ".ml", ".ml.hmm"):
        sys.modules["madmom" + name] = importlib.import_module("madmom_infer" + name)
    np.in1d = np.isin  # type: ignore[attr-defined]  # noqa: NPY201 - its name before NumPy 2
    path = find("BeatNet", "BeatNet", "particle_filtering_cascade.py")
    spec = importlib.util.spec_from_file_location("particle_filtering_cascade", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def beats(activations: np.ndarray) -> dict[str, np.ndarray]:
    from madmom_infer.features.downbeats import DBNDownBeatTrackingProcessor

    network = DBNDownBeatTrackingProcessor(beats_per_bar=[2, 3, 4], fps=FPS)
    module = particle_filter()
    np.random.seed(1)  # noqa: NPY002, TID251 - the filter draws from the global state
    particles = module.particle_filter_cascade(fps=FPS, plot=[], mode="online")
    return {
        "dbn": network(activations.copy()),
        "particles": particles.process(activations.copy()),
    }


def main(what: str, given: str, out: str) -> None:
    sys.path[:0] = [str(find(name)) for name in PACKAGES]
    if what == "features":
        np.save(out, features(Path(given)))
    else:
        np.savez(out, **beats(np.load(given)))


if __name__ == "__main__":
    main(*sys.argv[1:])
