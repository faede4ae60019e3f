"""`edgeseq stream`: frames in, one JSON line per result out."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseq.cli.artifacts import one_artifact
from edgeseq.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgeseq.runtime import Stream

    Frames = npt.NDArray[np.float32]
    Pushed = Frames | dict[str, Frames]

__all__ = ["answers", "read_lines", "stream_command"]

# Frames per push of a file: large enough that the call costs nothing, small enough that results
# appear while a long file is read.
CHUNK = 256


@click.command("stream")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "source",
    required=True,
    help="Recordings: a .csv, .npy, .npz or .wav file (.npz with an array for each input of the "
    "model), a folder of these, or - for CSV lines from standard input.",
)
@click.option(
    "--windows",
    is_flag=True,
    help="Answer once per window the model was trained on, not for every frame.",
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="What runs it: auto, native, onnx or tflite.",
)
def stream_command(directory: Path, source: str, windows: bool, backend: str) -> None:
    """Run the artifact in DIRECTORY over frames and print one JSON line per output.

    A line holds the frame it belongs to (counted from 0 in each sequence), the outputs and, for a
    classifier, the class and its score. A CSV line of the input is one frame, its fields the
    channels. From standard input each line is answered at once, so that a live sensor can be piped
    in. Of audio, frames are cut as they were for calibration.
    """
    folder = one_artifact(directory)
    from edgeseq.runtime import Stream

    stream = Stream(folder, backend, windows=windows)
    pieces: Iterator[tuple[int | None, Pushed]]
    if source == "-":
        if sys.stdin is None:
            raise DataError(
                "is closed", where="standard input", fix="pipe CSV lines in, or name a file"
            )
        pieces = ((None, frame) for frame in _from_lines(sys.stdin, stream))
    else:
        pieces = _read_file(source, stream)
    current: int | None = None
    for sequence, frames in pieces:
        if sequence != current:
            stream.reset()
            current = sequence
        for line in answers(stream, stream.push(frames), sequence):
            click.echo(json.dumps(line))


def answers(stream: Stream, outputs: Any, sequence: int | None) -> Iterator[dict[str, Any]]:
    """What is printed for the outputs of the latest push: one dict per frame that has one."""
    infos = stream.manifest.outputs
    named = outputs if isinstance(outputs, dict) else {infos[0].name: outputs}
    classifies = bool(infos[0].labels) and len(named) == 1
    lines: dict[int, dict[str, Any]] = {}
    for name, values in named.items():
        places = stream.positions if len(named) == 1 else stream.positions_of(name)
        decisions = stream.decide(values) if classifies else [None] * len(values)
        for position, value, decision in zip(places, values, decisions, strict=True):
            line = lines.setdefault(int(position), {})
            if decision is not None:
                line |= {"label": decision.label, "score": round(decision.score, 4)}
            # Nine digits hold every stored value and its scale; more would only be noise.
            line[name] = [float(f"{v:.9g}") for v in value.ravel()]
    first: dict[str, Any] = {} if sequence is None else {"sequence": sequence}
    for position in sorted(lines):
        yield first | {"frame": position} | lines[position]


def _read_file(source: str, stream: Stream) -> Iterator[tuple[int | None, Pushed]]:
    from edgeseq.data import InputSpec, load_inputs

    manifest = stream.manifest
    whole = manifest.model.mode == "window"
    specs = [
        InputSpec(i.name, i.shape[1:] if i.frames > 1 else i.shape, hop=i.hop, window=whole)
        for i in manifest.inputs
    ]
    sequences = load_inputs(source, specs, constant_ok=True).sequences
    for sequence, arrays in enumerate(sequences):
        # The number is only worth saying where there are several.
        number = sequence if len(sequences) > 1 else None
        for start in range(0, len(arrays[0]), CHUNK):
            frames = [x[start : start + CHUNK] for x in arrays]
            yield number, _by_name(stream, frames)


def _by_name(stream: Stream, frames: list[Frames]) -> Pushed:
    """What `Stream.push` takes."""
    if len(frames) == 1:
        return frames[0]
    return {i.name: x for i, x in zip(stream.manifest.inputs, frames, strict=True)}


def _from_lines(lines: Iterable[str], stream: Stream) -> Iterator[Frames]:
    inputs = stream.manifest.inputs
    if len(inputs) > 1:
        raise DataError(
            f"has one kind of frames, the model takes {len(inputs)} inputs",
            where="standard input",
            fix=f"name an .npz file with the arrays {', '.join(i.name for i in inputs)}",
        )
    shape = inputs[0].shape[1:] if inputs[0].frames > 1 else inputs[0].shape
    for frame in read_lines(lines):
        # A line holds the elements of a frame one after another.
        fits = len(shape) != 1 and frame.size == math.prod(shape)
        yield frame.reshape(1, *shape) if fits else frame


def read_lines(stream: Iterable[str], name: str = "standard input") -> Iterator[Frames]:
    """Frames [1, C] float32 from CSV lines, each as soon as its line is there.

    A first line that holds no number at all is a header and is skipped; empty lines are too.

    Raises:
        DataError: a field is no finite number, or a line has another number of fields than the
            first; the message names the line.
    """
    import numpy as np

    channels: int | None = None
    number = 0
    lines = iter(stream)
    while True:
        try:
            line = next(lines, None)
        except UnicodeDecodeError as error:
            raise DataError(
                "is not text", where=f"{name}, line {number + 1}", fix="pipe CSV lines"
            ) from error
        if line is None:
            return
        number += 1
        if number == 1:
            line = line.removeprefix("\ufeff")  # a byte-order mark, as spreadsheets write it
        fields = [field.strip() for field in line.split(",")]
        if fields == [""]:
            continue
        values = [_number(field) for field in fields]
        if channels is None and all(value is None for value in values):
            channels = len(fields)
            continue
        where = f"{name}, line {number}"
        if channels is not None and len(fields) != channels:
            raise DataError(
                f"has {len(fields)} fields, the lines before have {channels}",
                where=where,
                fix="every line is one frame: one number per channel, separated by commas",
            )
        channels = len(fields)
        for field, value in zip(fields, values, strict=True):
            if value is None or not np.isfinite(value):
                raise DataError(
                    f"{field!r} is not a finite number",
                    where=where,
                    fix="write one number per channel",
                )
        yield np.array([values], dtype=np.float32)


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None
