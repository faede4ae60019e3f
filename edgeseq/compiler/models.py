"""Where a model to compile comes from: trained from settings, or a file made elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgeseq.config import Config
from edgeseq.data import InputSpec, Recordings, Windows, load_inputs, load_set, split, windows
from edgeseq.ir.blocks import frame_shape
from edgeseq.ir.cost import frame_cost, token_inputs
from edgeseq.ir.graph import Graph
from edgeseq.passes.stream import stream

if TYPE_CHECKING:
    from edgeseq.frontend.options import ImportOptions

__all__ = [
    "Model",
    "Progress",
    "Silent",
    "graph_model",
    "imported_model",
    "input_specs",
    "trained_models",
]

Array = npt.NDArray[Any]

_CHUNK = 1000
_EXAMPLE = 16

# Frames to judge by. The interpreter takes some microseconds for a node and a frame, and twelve
# seconds for all are enough.
_FRAMES = 8192
_NODE_FRAMES = 1 << 20
# Frames to calibrate with, run side by side: arithmetic counts, some 10^9 multiply-accumulates a
# second.
_CALIBRATION_FRAMES = 65_536
_CALIBRATION_LEAST = 4096
_CALIBRATION_MACS = 1 << 35
_CALIBRATION_ELEMENTS = 1 << 25


class Progress(Protocol):
    """Receives what a long command does."""

    def stage(self, text: str) -> None:
        """A new stage begins."""
        ...

    def training(self, event: Any) -> None:
        """Where a training is (`edgeseq.train.Event`)."""
        ...


class Silent:
    """Progress that nobody watches."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def training(self, event: Any) -> None:
        """Nothing."""


@dataclass
class Model:
    """A model and the data it is calibrated, verified and judged with.

    Attributes:
        name: short name of the candidate, such as "gru64".
        c_name: prefix of the C functions.
        source: where it came from, for the manifest.
        cell: kind of recurrence, None if not known.
        graph: real Graph over time, on raw frames.
        module: the torch module it was read from, None if there is none.
        file, values: the file it was read from, None if there is none, and what was fixed in it.
        calibration: raw frames [B, T, *shape] of each input that ranges are taken from.
        frames: raw frames [1, T, *shape] of each input that were not trained on, for verification.
        test: labelled windows of raw frames of the one input, None if there are none.
        validation_accuracy: what candidates are ranked by, None if not known.
        labels, channels: names, or empty.
        rate_hz, window, hop: of the data, None if not known.
        cut: elements from one frame to the next of each input whose frames were cut from longer
            recordings, by name.
        mode: "stream", or "window" where each answer is about one window of frames.
        notes: what the manifest should say besides.
    """

    name: str
    c_name: str
    source: str
    cell: str | None
    graph: Graph
    module: Any
    calibration: list[Array]
    frames: list[Array]
    test: Windows | None = None
    validation_accuracy: float | None = None
    labels: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    rate_hz: float | None = None
    window: int | None = None
    hop: int | None = None
    cut: dict[str, int] = field(default_factory=dict)
    mode: Literal["stream", "window"] = "stream"
    notes: tuple[str, ...] = ()
    file: Path | None = None
    values: Mapping[str, float] = field(default_factory=dict)


def trained_models(config: Config, work: Path, progress: Progress) -> list[Model]:
    """Train every candidate of `config` where needed.

    Args:
        config: the settings.
        work: folder that keeps trained models.
        progress: told where the training is.

    Raises:
        ConfigError, DataError, TrainError: as `edgeseq.train.train`.
    """
    progress.stage("reading the recordings")
    data = load_set(config.data.source, config.data.channels or None)
    parts = split(data, config.data.test_groups, config.data.validation_groups or None)
    train_windows = windows(data, config.data.window, config.data.hop, parts.train)
    test = windows(data, config.data.window, config.data.hop, parts.test)
    count = max(1, min(len(train_windows), config.quant.calibration_frames // config.data.window))
    pick = np.linspace(0, len(train_windows) - 1, count).astype(int)
    unseen = [r.frames for r in data.take(parts.test)]
    from edgeseq.frontend import from_torch
    from edgeseq.frontend.reference import as_tensor
    from edgeseq.train import train

    models = []
    for candidate in config.candidates():
        name = candidate.candidate_name
        result = train(candidate, work / name, progress.training, data=data)
        progress.stage(f"{name}: reading the model")
        example = as_tensor(test.x[:1, : min(_EXAMPLE, config.data.window)])
        graph = from_torch(result.model, example, name=name)
        models.append(
            Model(
                name=name,
                c_name=config.project.name,
                source="trained from edgeseq.toml",
                cell=candidate.model.cell,
                graph=graph,
                module=result.model,
                calibration=[train_windows.x[pick]],
                frames=_continuous([[x] for x in unseen], config.compile.verify_steps, _FRAMES),
                test=test,
                validation_accuracy=result.metrics["validation_accuracy"],
                labels=data.classes,
                channels=data.channels,
                rate_hz=data.rate_hz,
                window=config.data.window,
                hop=config.data.hop,
            )
        )
    return models


def imported_model(
    path: Path,
    calib: str | Path,
    name: str,
    verify_steps: int,
    options: ImportOptions | None = None,
    frame_hop: int | None = None,
) -> Model:
    """Read a model file, without running anything in it.

    Args:
        path: of the file, `.pt2` or `.onnx`.
        calib: recordings to calibrate and verify with (`edgeseq.data.load_inputs`).
        name: prefix of the C functions.
        verify_steps: frames that verification needs; fewer are repeated.
        options: what the file does not say itself.
        frame_hop: samples from one frame to the next where frames are cut from audio; None: they
            do not overlap.

    Raises:
        ModelError, UnsupportedError: the file cannot be read or compiled.
        DataError: the recordings cannot be read or do not fit the model.
        UsageError: `options` name what the model does not have, or `frame_hop` skips samples.
    """
    from edgeseq.frontend import load_model
    from edgeseq.frontend.options import ImportOptions

    options = options or ImportOptions()
    graph = load_model(path, name=name, options=options)
    made = graph_model(graph, calib, verify_steps, options, frame_hop)
    return replace(made, source=path.name, file=path, values=options.values)


def graph_model(
    graph: Graph,
    calib: str | Path,
    verify_steps: int,
    options: ImportOptions | None = None,
    frame_hop: int | None = None,
) -> Model:
    """A real Graph with recordings; arguments as of `imported_model`.

    Raises:
        DataError: the recordings cannot be read or do not fit the Graph.
    """
    from edgeseq.frontend.options import ImportOptions

    window, hop = graph.meta.get("window"), graph.meta.get("hop")
    options = options or ImportOptions(window=window, hop=hop)
    inputs = input_specs(graph, options, frame_hop)
    cost = frame_cost(graph)
    enough = max(verify_steps, min(_FRAMES, _NODE_FRAMES // max(cost.nodes, 1)))
    piece = max(_CHUNK, 8 * _reach(graph))
    calibrate = min(
        max(_CALIBRATION_FRAMES, piece),
        max(_CALIBRATION_LEAST, piece, _CALIBRATION_MACS // max(cost.macs, 1)),
        max(piece, _CALIBRATION_ELEMENTS // max(sum(i.size for i in inputs), 1)),
    )
    found = load_inputs(calib, inputs, most=max(calibrate, enough), sample_rate=options.sample_rate)
    return Model(
        name=graph.name,
        c_name=graph.name,
        source=str(graph.meta.get("source", "Graph")),
        cell=None,
        graph=graph,
        module=None,
        calibration=_chunks(found.sequences, calibrate, piece),
        frames=_continuous(found.sequences, verify_steps, enough),
        rate_hz=found.rate_hz,
        cut=dict(found.hops),
        mode="stream" if options.window is None else "window",
        notes=tuple(_notes(graph, found)),
    )


def _reach(graph: Graph) -> int:
    """Frames that a step takes and by which its outputs lag, together."""
    meta = graph.meta if graph.is_step else stream(graph).meta
    return int(meta.get("frames_per_step", 1)) + int(meta.get("delay", 0))


def _notes(graph: Graph, found: Recordings) -> Iterator[str]:
    """What a user has to know: of what was read from the file, and to feed the model."""
    for note in graph.meta.get("notes", ()):
        yield f"{graph.name}: {note}."
    window, hop = (graph.meta.get(key) for key in ("window", "hop"))
    if window is not None and hop is not None:
        yield (
            f"A step takes {hop} frames and answers for the {window} that end with them; before "
            "the first, frames count as zeros."
        )
    elif found.note:
        yield f"{found.note}: the device has to cut them likewise."


def input_specs(
    graph: Graph, options: ImportOptions, frame_hop: int | None = None
) -> list[InputSpec]:
    """What is known of each input of `graph`, for reading recordings."""
    tokens = token_inputs(graph)
    windows = options.window is not None
    hop = options.step if windows else frame_hop
    return [InputSpec(n, frame_shape(graph, n), tokens.get(n), hop, windows) for n in graph.inputs]


def _continuous(sequences: Sequence[Sequence[Array]], least: int, most: int) -> list[Array]:
    """Recordings one after another, [1, T, *shape] of each input.

    At least `least` frames (repeated if need be) and at most `most`, from all recordings.
    """
    most = max(least, most)
    share = -(-most // len(sequences))
    joined = []
    for parts in zip(*sequences, strict=True):
        x = np.concatenate([p[:share] for p in parts])[:most]
        if len(x) < least:
            x = np.concatenate([x] * -(-least // len(x)))
        joined.append(x[None].astype(np.float64))
    return joined


def _chunks(sequences: Sequence[Sequence[Array]], most: int, piece: int) -> list[Array]:
    """Recordings cut into pieces of one length, [B, T, *shape] of each input.

    The length is the greatest, up to `piece` frames, at which they cover four fifths of all frames:
    states need long sequences to reach what they reach in use. Pieces hold about `most` frames at
    most, evenly spaced over the recordings.
    """
    sizes = [len(parts[0]) for parts in sequences]
    covered = {n: sum(size // n * n for size in sizes) for n in {min(piece, s) for s in sizes}}
    length = max(n for n, frames in covered.items() if frames >= 0.8 * max(covered.values()))
    places = [(r, i) for r, n in enumerate(sizes) for i in range(0, n - length + 1, length)]
    count = max(1, min(len(places), most // length))
    kept = [places[i * len(places) // count] for i in range(count)]
    return [
        np.stack([sequences[r][k][i : i + length] for r, i in kept]).astype(np.float64)
        for k in range(len(sequences[0]))
    ]
