"""The schema of manifest.json: these dataclasses are it.

`docs/artifact.md` describes the same for readers in other languages. A figure that was not
measured is None, and a neighbouring field says why; no field has a made-up default.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Accuracy",
    "Candidate",
    "Confusion",
    "Dtype",
    "FileInfo",
    "FlashUse",
    "Format",
    "FormatInfo",
    "InputInfo",
    "Instructions",
    "Latency",
    "Manifest",
    "Memory",
    "ModelInfo",
    "NodeCost",
    "OutputInfo",
    "RamUse",
    "Saturation",
    "SCHEMA",
    "StateInfo",
    "TargetInfo",
    "TierInfo",
    "Verification",
]

SCHEMA = 2
"""Version of the schema this edgeseq writes; it reads this version only."""

Dtype = Literal["i8", "i16", "i32", "f32"]
Format = Literal[
    "float", "integer", "native", "onnx_float", "onnx_int", "tflite_int8", "tflite_int16x8"
]


class _Record:
    """Base of the schema's classes: lists become tuples, so that records compare and hash."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, list):
                object.__setattr__(self, f.name, _tuple(value))


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True, kw_only=True)
class TargetInfo(_Record):
    """The target as it was when compiled; the fields of `edgeseq.target.Target`.

    Attributes:
        clock_hz: of the board, Hz.
        cycles_per_instruction: rough average, for estimates.
        flash_bytes, ram_bytes: what the board has.
    """

    name: str
    description: str
    board: str
    triple: str
    cpu: str
    features: tuple[str, ...] = ()
    isa: tuple[str, ...] = ("generic",)
    format: Literal["archive", "shared"]
    emulator: str | None = None
    clock_hz: int
    cycles_per_instruction: float
    flash_bytes: int
    ram_bytes: int


@dataclass(frozen=True, kw_only=True)
class TierInfo(_Record):
    """The budget that was met.

    Attributes:
        flash_bytes, ram_bytes: limits, bytes.
        latency_s: limit per step in seconds, None for none.
        min_accuracy: accuracy floor of the integer model in 0..1, None for none.
    """

    name: str
    flash_bytes: int
    ram_bytes: int
    latency_s: float | None = None
    min_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelInfo(_Record):
    """What was compiled.

    Attributes:
        name: what a person calls it, such as "GRU-16".
        source: where it came from: "trained from edgeseq.toml", or the path of a model file.
        cell: kind of recurrence ("gru", "lstm", "rnn", ...), None if unknown.
        parameters: number of trained values.
        nodes: operations of the integer step Graph.
        macs: multiply-accumulates of one step.
        weight_bits, activation_bits: of the integer model.
        digest: SHA-256 of the integer step Graph's text form and constants, None if not taken;
            two tiers with the same digest hold the same model.
        frames_per_step: input frames a step takes at once; more than 1 where the model thins out
            time.
        mode: "stream": an answer may depend on everything since the last reset. "window": on one
            window of frames only.
        widened: matrices that were given 16-bit weights to reach the signal-to-noise ratio asked
            for.
    """

    name: str
    source: str
    cell: str | None = None
    parameters: int
    nodes: int
    macs: int
    weight_bits: int
    activation_bits: int
    digest: str | None = None
    frames_per_step: int = 1
    mode: Literal["stream", "window"] = "stream"
    widened: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InputInfo(_Record):
    """One input: a frame.

    stored = saturate(floor(((raw - affine_offset) / affine_scale) / scale + 0.5)), per channel.

    Attributes:
        shape: of one frame; if `frames` is above 1, that is its first axis.
        frames: how many a step takes at once.
        dtype: of the stored values.
        scale: real value of one stored unit, of the *prepared* frame.
        affine_scale, affine_offset: the normalisation the model absorbed, one number per
            channel (index of the last axis), or empty for none: raw = prepared * affine_scale +
            affine_offset.
        channels: names, one per channel, or empty.
        rate_hz: frames per second of the data it was made for, None if unknown.
        hop: samples from one frame to the next where it was calibrated with frames of consecutive
            samples, cut from longer recordings; else None. In a stream the first frame ends with
            the first `hop` samples, after zeros; in mode "window" it begins with the first one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    scale: float
    affine_scale: tuple[float, ...] = ()
    affine_offset: tuple[float, ...] = ()
    channels: tuple[str, ...] = ()
    rate_hz: float | None = None
    hop: int | None = None
    frames: int = 1


@dataclass(frozen=True, kw_only=True)
class OutputInfo(_Record):
    """One output. real = stored * scale.

    Attributes:
        shape: of one value; if `frames` is above 1, that is its first axis.
        frames: how many values a step gives at once, for `frames_per_step` input frames; more
            than these where the model makes several of one.
        labels: names of the classes, one per index of the last axis, or empty.
        emission: "frame": an answer for every frame. "last": a running value; the model's
            decision is its value at the last frame of a window.
        delay: input frames by which it lags the input: what comes before they have passed after a
            reset is no answer yet.
        window, hop: frames per decision, and between decisions, of emission "last" where the
            model was trained on windows; else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    scale: float
    labels: tuple[str, ...] = ()
    emission: Literal["frame", "last"] = "frame"
    delay: int = 0
    window: int | None = None
    hop: int | None = None
    frames: int = 1


@dataclass(frozen=True, kw_only=True)
class StateInfo(_Record):
    """One carried state, in the native state struct and as a tensor of the other formats.

    Attributes:
        bytes: size in the struct.
        offset: byte offset in the struct.
        init: stored values after a reset: one number for all elements, or one each (row major).
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    scale: float
    bytes: int
    offset: int
    init: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True)
class FlashUse(_Record):
    """Read-only memory, bytes. total = the sum of the others.

    Attributes:
        code: machine instructions.
        tables: of nonlinear functions.
        multipliers: of requantisation.
        other: alignment, descriptors, whatever is not in the rest.
    """

    code: int
    tables: int
    weights: int
    bias: int
    multipliers: int
    other: int
    total: int


@dataclass(frozen=True, kw_only=True)
class RamUse(_Record):
    """Writable memory, bytes. total = the sum of the known ones.

    Attributes:
        state: the state struct.
        scratch: the scratch struct (may be shared between models).
        stack: peak of one step, None if not measured.
        io: one frame of each input and output.
        stack_method: how the stack was found, or why it is not known.
    """

    state: int
    scratch: int
    stack: int | None
    io: int
    total: int
    stack_method: str


@dataclass(frozen=True, kw_only=True)
class Memory(_Record):
    """Flash and RAM of one artifact."""

    flash: FlashUse
    ram: RamUse


@dataclass(frozen=True, kw_only=True)
class NodeCost(_Record):
    """What one operation of the step costs.

    Attributes:
        macs: multiply-accumulates per step.
        weight_bytes: weights and biases it reads.
        instructions: executed per step, None where they were not measured per node.
    """

    name: str
    op: str
    macs: int
    weight_bytes: int
    instructions: float | None = None


@dataclass(frozen=True, kw_only=True)
class Instructions(_Record):
    """Executed machine instructions of one step.

    Attributes:
        mean, largest: over `steps` steps, None if not measured.
        method: such as "counted by unicorn as cortex-m4", or why it was not measured.
    """

    mean: float | None
    largest: int | None
    steps: int
    method: str


@dataclass(frozen=True, kw_only=True)
class Latency(_Record):
    """Time of one step.

    Attributes:
        kind: "estimate" (a formula over counted instructions) or "measured" (a clock).
        cycles, seconds: of one step.
        model: the formula or the way of measuring, in words with its numbers.
    """

    kind: Literal["estimate", "measured"]
    cycles: float | None
    seconds: float
    model: str


@dataclass(frozen=True, kw_only=True)
class Accuracy(_Record):
    """How well one format does.

    Attributes:
        metric: such as "accuracy".
        value: in 0..1 on the test set, None if there is none or the format was not run.
        samples: test windows or frames behind `value`; 0 with None.
        snr_db: signal-to-noise ratio of the outputs against the float model, None if not
            measured or infinite.
        bytes: size of this format's file or, of "float" and "integer", of its parameters.
        reason: why `value` is None.
    """

    format: Format
    metric: str = "accuracy"
    value: float | None
    samples: int = 0
    snr_db: float | None = None
    bytes: int | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Confusion(_Record):
    """Confusion matrix: counts[true][predicted] of `format` on the whole test set."""

    format: Format
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Saturation(_Record):
    """How often a node's stores clamped.

    Attributes:
        stores: values stored while measuring.
        saturated: of these, clamped ones.
    """

    node: str
    stores: int
    saturated: int


@dataclass(frozen=True, kw_only=True)
class Verification(_Record):
    """One comparison of a stage with the one before it.

    Attributes:
        stage: what was checked, such as "emulated cortex-m4".
        reference: what it was compared with, such as "interpreter".
        level: "Exact", "Close(n LSB)", or a named tolerance.
        steps: steps compared; 0 if not run.
        worst: largest difference, in `unit`; None if not run.
        unit: "LSB", "absolute", "points", ...
        status: "passed" or "not run"; a failed check leaves no artifact.
        reason: why it was not run; None if it was.
    """

    stage: str
    reference: str
    level: str
    steps: int
    worst: float | None
    unit: str = "LSB"
    status: Literal["passed", "not run"]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate(_Record):
    """A model that was considered for the tier, chosen or not.

    Attributes:
        flash_bytes, ram_bytes: measured on this target, None if it was not compiled for it.
        results: what was measured of it.
        chosen: whether it is the model of this artifact.
        reason: why it was chosen or not, one short sentence.
    """

    name: str
    cell: str | None
    parameters: int
    flash_bytes: int | None
    ram_bytes: int | None
    results: tuple[Accuracy, ...]
    chosen: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class FormatInfo(_Record):
    """How to run one of the model files.

    Attributes:
        file: name in the folder.
        inputs, outputs: the file's tensor names (of "native": unused, empty), in the order of the
            manifest's inputs and outputs.
        states: pairs [state in, state out] of tensor names, in the order of the manifest's
            states; empty where the file keeps its states itself.
        signature: of TFLite files: the signature whose names these are, None for tensor names.
        float_nodes: operations of an integer file that it computes in float32; the integer step,
            and the native one, compute them in integers.
    """

    format: Format
    file: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    signature: str | None = None
    float_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileInfo(_Record):
    """One file of the folder, other than manifest.json."""

    name: str
    sha256: str
    bytes: int
    kind: str


@dataclass(frozen=True, kw_only=True)
class Manifest(_Record):
    """Everything about one artifact.

    Attributes:
        schema: version of this schema.
        name: C identifier of the model; prefix of its symbols and file names.
        edgeseq: version that wrote it.
        created: ISO 8601 time if one was given (SOURCE_DATE_EPOCH), else None: the same input
            gives the same bytes.
        candidates: what was considered for the tier; empty where there was no choice.
        versions: of the packages that took part, by name.
        notes: what a reader should know besides, plain sentences.
    """

    schema: int = SCHEMA
    name: str
    edgeseq: str
    created: str | None = None
    target: TargetInfo
    tier: TierInfo
    model: ModelInfo
    inputs: tuple[InputInfo, ...]
    outputs: tuple[OutputInfo, ...]
    states: tuple[StateInfo, ...]
    memory: Memory
    nodes: tuple[NodeCost, ...]
    instructions_per_step: Instructions
    latency: Latency | None
    accuracy: tuple[Accuracy, ...]
    confusion: Confusion | None
    saturation: tuple[Saturation, ...]
    verification: tuple[Verification, ...]
    candidates: tuple[Candidate, ...] = ()
    formats: tuple[FormatInfo, ...]
    files: tuple[FileInfo, ...]
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()

    def result(self, format: Format) -> Accuracy | None:
        """The accuracy entry of one format, None if there is none."""
        return next((a for a in self.accuracy if a.format == format), None)

    def format(self, name: Format) -> FormatInfo | None:
        """How to run one format, None if the folder does not hold it."""
        return next((f for f in self.formats if f.format == name), None)
