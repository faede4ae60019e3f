"""Time per step here, beside ONNX Runtime and LiteRT: GRU 40/64 with a dense layer of 12.

One random model goes through `edgeseq compile` for linux-x86-64, as a user's `.pt2` file would; the
ONNX and TFLite files are those of the artifact. All contenders run in this process, one thread
each, interleaved in rounds; a figure is the median of the rounds. All start from prepared arrays
(frames cut up, converted and quantised beforehand, except for edgeseq and ONNX, which take raw
float frames) and keep every output. Before anything is timed, each one's outputs are compared with
the float step, so that all compute the same model; the signal-to-noise ratio is in the table.

ONNX Runtime also gets what suits it best: the model as one GRU operator, for a frame per call and
for all frames in one call. LiteRT also gets its states inside the model.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks._contenders import Contender, edgeseq_contenders, litert_contenders
from benchmarks._figures import Figure
from benchmarks._models import Recurrent, frames
from benchmarks._onnx import onnx_contenders
from edgeseq.compiler import Settings, compile_model
from edgeseq.errors import VerifyError
from edgeseq.frontend import from_torch
from edgeseq.ir import Interpreter
from edgeseq.passes import to_step
from edgeseq.quant import snr_db
from edgeseq.target import load_target

__all__ = ["measure"]

_INPUTS, _HIDDEN, _CLASSES = 40, 64, 12
_CHECKED = 300
_ROUNDS, _QUICK_ROUNDS = 40, 7
_WARM_UP = 2

Frames = npt.NDArray[np.float32]


def measure(quick: bool) -> list[Figure]:
    """Median time per step of every contender.

    Raises:
        EdgeseqError: the model cannot be compiled, or does not run here.
        VerifyError: a contender computes something else.
    """
    module = Recurrent("gru", _INPUTS, _HIDDEN, _CLASSES).eval()
    with tempfile.TemporaryDirectory(prefix="edgeseq-bench-") as temporary:
        folder = _artifact(module, Path(temporary))
        contenders = [
            *edgeseq_contenders(folder),
            *onnx_contenders(folder, module),
            *litert_contenders(folder),
        ]
        closeness = _check(module, contenders)
        medians = _times(contenders, _QUICK_ROUNDS if quick else _ROUNDS)
    return _figures(contenders, closeness, medians)


def _artifact(module: Recurrent, folder: Path) -> Path:
    """The folder of the compiled model."""
    example = torch.zeros(1, 16, _INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own recurrent layers
        torch.export.save(torch.export.export(module, (example,)), folder / "gru.pt2")
    np.savez(folder / "calib.npz", x=frames(8, 200, _INPUTS))
    target = load_target("linux-x86-64")
    (built,) = compile_model(
        folder / "gru.pt2",
        [target],
        folder / "build",
        calib=folder / "calib.npz",
        name="gru",
        settings=Settings(tiers=("S",)),
    )
    return built.folder / "S"


def _check(module: Recurrent, contenders: Sequence[Contender]) -> list[float]:
    """Signal-to-noise ratio of each contender's outputs against the float step, dB."""
    step = to_step(from_torch(module, torch.zeros(1, 16, _INPUTS)))
    x = frames(1, _CHECKED, _INPUTS, seed=3)
    want = Interpreter(step).sequence(x.astype(np.float64))[0][0]
    found = []
    for contender in contenders:
        got = contender.outputs(contender.run(contender.prepare(x[0])))
        snr = snr_db(want, got.reshape(want.shape))
        if snr < contender.least_snr:
            raise VerifyError(
                f"answers with {snr:.1f} dB against the float step, not with at least "
                f"{contender.least_snr:g}",
                where=contender.name,
                fix="a benchmark compares like with like: mend it",
            )
        found.append(snr)
    return found


def _times(contenders: Sequence[Contender], rounds: int) -> list[float]:
    """Median seconds per step of each contender; every round runs all of them."""
    prepared = [c.prepare(frames(1, c.frames, _INPUTS, seed=4)[0]) for c in contenders]
    seconds: list[list[float]] = [[] for _ in contenders]
    order = np.arange(len(contenders))
    for round_ in range(_WARM_UP + rounds):
        # Another one comes first each time: nobody always follows the same neighbour's caches.
        for i in np.roll(order, round_).tolist():
            start = time.perf_counter()
            contenders[i].run(prepared[i])
            if round_ >= _WARM_UP:
                seconds[i].append((time.perf_counter() - start) / contenders[i].frames)
    return [float(np.median(s)) for s in seconds]


def _figures(
    contenders: Sequence[Contender], closeness: Sequence[float], medians: Sequence[float]
) -> list[Figure]:
    own = medians[0]

    def fastest(streaming: bool) -> tuple[float, str]:
        theirs = [
            (t, c.name)
            for c, t in zip(contenders, medians, strict=True)
            if c.peer and c.streaming == streaming
        ]
        return min(theirs)

    figures = []
    for what, streaming in (("a frame per call", True), ("all frames in one call", False)):
        limit, name = fastest(streaming)
        figures.append(
            Figure(
                f"edgeseq against the fastest peer, {what}",
                own * 1e6,
                "µs",
                digits=2,
                at_most=limit * 1e6,
                compared=f"{name}: {limit / own:.2f} times as long",
            )
        )
    for contender, snr, median in zip(contenders, closeness, medians, strict=True):
        figures.append(
            Figure(
                contender.name,
                median * 1e6,
                "µs",
                digits=2,
                compared="" if contender is contenders[0] else f"{median / own:.2f} times as long",
                note=f"{snr:.0f} dB",
            )
        )
    return figures
