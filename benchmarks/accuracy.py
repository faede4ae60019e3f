"""Accuracy of the watch example on people nobody trained with, in every format.

Compiles examples/watch for linux-x86-64, training first if `examples/watch/.edgeseq` does not hold
its models yet. Accuracies are those of the manifest, each over the whole test set: float by the
real step, integer by the host kernels (bit for bit the integer definition), ONNX in ONNX Runtime,
TFLite in LiteRT. A point is a hundredth.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._figures import Figure
from benchmarks._project import EXAMPLE
from edgeseq.cli.building import trained_folder
from edgeseq.cli.progress import Screen
from edgeseq.compiler import compile_project
from edgeseq.config import Config, load_config
from edgeseq.data import load_set
from edgeseq.manifest import Format, Manifest
from edgeseq.runtime import Stream
from edgeseq.target import load_target

__all__ = ["measure"]

_FLOAT_LEAST = 86.0
_MOST_LOST: dict[Format, float | None] = {
    "integer": 0.3,
    "onnx_float": 0.5,
    "onnx_int": 0.5,
    "tflite_int16x8": 0.5,
    "tflite_int8": None,
}
_NAMES: dict[Format, str] = {
    "integer": "integer, 8-bit weights, 16-bit activations",
    "onnx_float": "ONNX float",
    "onnx_int": "ONNX QDQ integer",
    "tflite_int16x8": "TFLite int16x8",
    "tflite_int8": "TFLite int8",
}


def measure(quick: bool) -> list[Figure]:
    """Accuracy of the best candidate; nothing is left out if `quick`, it is the whole test set.

    Raises:
        EdgeseqError: it cannot be trained or compiled.
    """
    del quick
    config = load_config(EXAMPLE)
    target = load_target("linux-x86-64")
    with tempfile.TemporaryDirectory(prefix="edgeseq-bench-") as out, Screen() as screen:
        (built,) = compile_project(
            config, [target], Path(out), work=trained_folder(EXAMPLE / "edgeseq.toml"),
            progress=screen,
        )  # fmt: skip
        manifest = built.manifests[-1]
        stream = Stream(built.folder / manifest.tier.name)
        return [*_best(manifest), _carried(stream, config), *_others(manifest)]


def _carried(stream: Stream, config: Config) -> Figure:
    """The same windows' answers from a state carried on through each recording."""
    data = load_set(config.data.source, config.data.channels or None)
    hits = count = 0
    for recording in data.take(config.data.test_groups):
        stream.reset()
        outputs = stream.push(recording.frames)
        answers = outputs[config.data.window - 1 :: config.data.hop].argmax(axis=1)
        hits += int((answers == recording.label).sum())
        count += len(answers)
    return Figure(
        f"{stream.manifest.model.name}: integer, state carried through each recording",
        100 * hits / count,
        "%",
        2,
        compared="a reset before each window, as above",
        note=f"{count} answers",
    )


def _best(manifest: Manifest) -> list[Figure]:
    """The model of the largest tier."""
    name = manifest.model.name
    found = manifest.result("float")
    if found is None or found.value is None:
        return [Figure(f"{name}: float", None, "%", at_least=_FLOAT_LEAST, note="no test set")]
    float_ = found.value
    people = f"{found.samples} windows of people 8, 9 and 10"
    figures = [Figure(f"{name}: float", 100 * float_, "%", 2, at_least=_FLOAT_LEAST, note=people)]
    for format, limit in _MOST_LOST.items():
        result = manifest.result(format)
        value = result.value if result is not None else None
        reason = (result.reason if result is not None else None) or "not in the artifact"
        figures.append(
            Figure(
                f"{name}: points lost by {_NAMES[format]}",
                None if value is None else 100 * (float_ - value),
                "points",
                2,
                at_most=limit,
                compared=f"float {float_:.2%}",
                note=reason if value is None else f"{value:.2%}",
            )
        )
    return figures


def _others(manifest: Manifest) -> list[Figure]:
    """The smaller candidates, for information."""
    figures = []
    for candidate in manifest.candidates:
        if candidate.chosen:
            continue
        for result in candidate.results:
            if result.value is not None and result.format in ("float", "integer"):
                what = f"{candidate.name}: {result.format}"
                figures.append(Figure(what, 100 * result.value, "%", 2))
    return figures
