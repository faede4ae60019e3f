"""One model, made integer and judged: everything about it that no target changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.compiler.models import Model, Progress
from edgeseq.compiler.original import NotComparable, OnnxFile
from edgeseq.errors import DataError
from edgeseq.ir.blocks import delay_in_elements, delay_of, per_frame, per_step, run_steps
from edgeseq.ir.cost import token_inputs
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.io import from_stored, prepare, to_stored
from edgeseq.ir.text import to_text
from edgeseq.kernels import HostStep
from edgeseq.manifest import Accuracy, Confusion, Format, Verification
from edgeseq.passes import Watch, to_step
from edgeseq.quant import Quantised, QuantOptions, quantise, ranges, snr_db
from edgeseq.verify import (
    EXACT,
    Level,
    Snr,
    Within,
    check_sensitivity,
    check_stability,
    compare,
    long_run,
    not_run,
)
from edgeseq.verify.answers import by_host, by_interpreter

__all__ = ["Candidate", "confusion_of", "judge", "make_candidate", "verify_candidate"]

Array = npt.NDArray[Any]

_WINDOWS = 64
_TORCH = Within(1e-4)
_STREAM = Within(1e-6)
_ROUNDED = Snr(10.0)  # a quantised file rounds on its own; the Graph is the model that it rounds
_HALF = Within(0.02)  # a file in half precision rounds to 11 bits at every operation
# A bounded function is computed from others (a sigmoid is half a tanh and a half): it is right to
# an ulp or two of its range, not of its value.
_FLOAT32 = 2.0**-22
_FILES = 4  # sequences that an ONNX file is run over, frame by frame


@dataclass
class Candidate:
    """A model with its steps, on the way to artifacts.

    Attributes:
        model: where it came from, and its data.
        step: real step.
        quantised: integer step and what is known of it.
        host: the integer step on this machine.
        frames: `Model.frames` as the step takes them: raw, [1, S, *shape] per input.
        calibration: `Model.calibration` likewise, [B, S, *shape] per input.
        results: how well each format does.
        confusion: of the integer model on the test set, None without one.
        checks: comparisons made so far.
        reference: real outputs over `frames`, [1, S, *shape] each.
        answers: answers of the integer step over `frames`, stored integers.
    """

    model: Model
    step: Graph
    quantised: Quantised
    host: HostStep
    frames: list[Array]
    calibration: list[Array]
    results: dict[Format, Accuracy] = field(default_factory=dict)
    confusion: Confusion | None = None
    checks: list[Verification] = field(default_factory=list)
    reference: list[Array] = field(default_factory=list)
    answers: list[Array] = field(default_factory=list)
    _exact: dict[int, dict[str, Array]] = field(default_factory=dict)

    @property
    def integer(self) -> Graph:
        return self.quantised.graph

    @property
    def parameters(self) -> int:
        """Numbers that were trained: the constants of the real step."""
        return sum(a.size for a in self.step.consts.values())

    def stored(self, raw: Sequence[Array]) -> list[Array]:
        """Raw frames of each input as the integer step reads them."""
        return [
            to_stored(self.integer, n, x) for n, x in zip(self.integer.inputs, raw, strict=True)
        ]

    @cached_property
    def stored_frames(self) -> list[Array]:
        """`frames` as the integer step reads them."""
        return self.stored(self.frames)

    def exact(self, steps: int) -> dict[str, Array]:
        """What the interpreter makes of the first `steps` stored frames; run once, then kept."""
        if steps not in self._exact:
            frames = [x[:, :steps] for x in self.stored_frames]
            self._exact[steps] = by_interpreter(self.integer, frames)
        return self._exact[steps]

    @cached_property
    def own_error(self) -> float:
        """Greatest difference of the integer step to the real one over `frames`.

        As a share of the greatest magnitude of the output; the greatest of all outputs.
        """
        shares = []
        for name, real, stored in zip(
            self.integer.outputs, self.reference, self.answers, strict=True
        ):
            top = float(np.abs(real).max()) or 1.0
            shares.append(float(np.abs(from_stored(self.integer, name, stored) - real).max()) / top)
        return max(shares)

    @cached_property
    def ranges(self) -> dict[str, float]:
        """Greatest magnitude of the real step's outputs, where their operations bound it."""
        return ranges(self.step)

    @property
    def float_resolution(self) -> list[float]:
        """What float32 shows of each output; 0 where that depends on its magnitude."""
        return [_FLOAT32 * self.ranges.get(name, 0.0) for name in self.step.outputs]

    def resolution(self, bits: int = 16) -> list[float]:
        """Two units of each output: of its last rounding, and one that is carried there.

        A model that answers "no" to all it is given has outputs of a few units: one unit is then
        much of the greatest magnitude, and no fault.

        Args:
            bits: of activations. With 8, a unit is at least 1/256 of the output's range, however
                fine its own format is.
        """
        coarse = 2.0**-8 if bits == 8 else 0.0
        return [
            2 * max(self.integer.types[b].scalar_scale, coarse * self.ranges.get(a, 0.0))
            for a, b in zip(self.step.outputs, self.integer.outputs, strict=True)
        ]

    @cached_property
    def text(self) -> str:
        """The integer step in its text form, constants included."""
        return to_text(self.integer)

    def prepared(self, raw: Sequence[Array]) -> list[Array]:
        """Raw frames of each input as the real step reads them."""
        return _prepared(self.step, raw)

    def tested(self) -> list[Array] | None:
        """The test set as the step takes it, [N, S, *shape] per input; None without one."""
        test = self.model.test
        return None if test is None else _per_step(self.step, [test.x])

    @property
    def rank(self) -> float:
        """What candidates are ranked by: validation accuracy, or that of the integer outputs."""
        known = self.model.validation_accuracy
        return known if known is not None else self.quantised.snr


def make_candidate(
    model: Model,
    options: QuantOptions,
    progress: Progress,
    watch: Watch | None = None,
    steps: int = 1,
) -> Candidate:
    """Stream, quantise and judge `model`.

    Args:
        model: a real Graph over time and its data.
        options: widths and calibration.
        progress: told the stages.
        watch: sees the Graph after every pass.
        steps: at least so many are verified; recordings that are shorter are repeated.

    Raises:
        GraphError, ModelError, QuantiseError, DataError, BackendError: the first stage that cannot
            go on.
    """
    progress.stage(f"{model.name}: streaming and quantising")
    step = to_step(model.graph, watch)
    calibration = _per_step(step, model.calibration)
    quantised = quantise(step, _whole_steps(step, calibration), options)
    if watch is not None:
        watch("quantise", quantised.graph)
    progress.stage(f"{model.name}: compiling for this machine")
    host = HostStep(quantised.graph)
    frames = _repeated(_per_step(step, model.frames), steps)
    made = Candidate(model, step, quantised, host, frames, calibration)
    prepared = made.prepared(frames)
    made.reference = run_steps(Interpreter(step), prepared)
    check_sensitivity(step, prepared, made.reference, exact=set(token_inputs(step)))
    made.answers = host.run(*made.stored_frames)
    progress.stage(f"{model.name}: judging float and integer")
    float_bytes = 4 * made.parameters
    made.results["float"] = judge(made, "float", _real_logits(made), made.reference, float_bytes)
    stored = sum(a.nbytes for a in quantised.graph.consts.values())
    real = [
        from_stored(made.integer, name, y)
        for name, y in zip(made.integer.outputs, made.answers, strict=True)
    ]
    made.results["integer"] = judge(made, "integer", _integer_logits(made), real, stored)
    return made


def _prepared(step: Graph, raw: Sequence[Array]) -> list[Array]:
    return [prepare(step, name, x) for name, x in zip(step.inputs, raw, strict=True)]


def _repeated(frames: list[Array], steps: int) -> list[Array]:
    times = -(-steps // frames[0].shape[1])
    return frames if times == 1 else [np.concatenate([x] * times, axis=1) for x in frames]


def _whole_steps(step: Graph, raw: Sequence[Array]) -> list[Array]:
    """Raw frames of each input, per step, as prepared ones, per frame."""
    prepared = zip(step.inputs, _prepared(step, raw), strict=True)
    return [per_frame(step, name, x) for name, x in prepared]


def _per_step(step: Graph, frames: Sequence[Array]) -> list[Array]:
    """Raw frames of each input, [B, T, *frame], as the step takes them.

    Raises:
        DataError: they do not fill a step.
    """
    taken = [per_step(step, name, x) for name, x in zip(step.inputs, frames, strict=True)]
    if any(x.shape[1] == 0 for x in taken):
        raise DataError(
            f"recordings of {frames[0].shape[1]} frames are shorter than a step, which takes "
            f"{step.meta.get('frames_per_step', 1)}",
            where=f"model {step.name!r}",
            fix="use longer recordings",
        )
    return taken


def judge(
    candidate: Candidate,
    format: Format,
    logits: Array | None,
    outputs: list[Array] | None,
    size: int | None,
    reference: list[Array] | None = None,
) -> Accuracy:
    """How well one format does.

    Args:
        candidate: for its test set and reference outputs.
        format: what is judged.
        logits: its first output at the last frame of every test window [N, K], None without a
            test set.
        outputs: its real outputs over `Candidate.frames`, None if they were not taken.
        size: bytes of the format's file or of its parameters.
        reference: what `outputs` should be; by default the real outputs over `Candidate.frames`.
    """
    snr: float | None = None
    if outputs is not None and format != "float":
        pairs = zip(reference or candidate.reference, outputs, strict=True)
        worst = min(snr_db(a, b) for a, b in pairs)
        snr = worst if np.isfinite(worst) else None
    test = candidate.model.test
    if test is None or logits is None:
        reason = "there is no labelled test set"
        return Accuracy(format=format, value=None, snr_db=snr, bytes=size, reason=reason)
    hits = int(np.count_nonzero(logits.argmax(axis=1) == test.y))
    if format == "integer":
        candidate.confusion = confusion_of(format, logits, test.y, test.classes)
    return Accuracy(
        format=format, value=hits / len(test), samples=len(test), snr_db=snr, bytes=size
    )


def confusion_of(
    format: Format, logits: Array, labels: Array, classes: tuple[str, ...]
) -> Confusion:
    """Counts of [true][predicted]."""
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (labels, logits.argmax(axis=1)), 1)
    return Confusion(
        format=format,
        labels=classes,
        counts=tuple(tuple(int(v) for v in row) for row in counts),
    )


def _real_logits(made: Candidate) -> Array | None:
    tested = made.tested()
    if tested is None:
        return None
    machine = Interpreter(made.step, batch=len(tested[0]))
    frames = made.prepared(tested)
    last: list[Array] = []
    for t in range(frames[0].shape[1]):
        last = machine(*(x[:, t] for x in frames))
    return last[0]


def _integer_logits(made: Candidate) -> Array | None:
    tested = made.tested()
    if tested is None:
        return None
    made.host.resize(len(tested[0]))
    outs = made.host.run(*made.stored(tested))
    made.host.resize(1)
    return outs[0][:, -1]


def verify_candidate(made: Candidate, progress: Progress, steps: int) -> None:
    """Check the stages that no target changes, and note them in `made.checks`.

    Raises:
        VerifyError: two stages disagree; names the stage and the first differing value.
    """
    progress.stage(f"{made.model.name}: verifying the stages")
    made.checks.extend(_check_frontend(made))
    made.checks.append(_check_stream(made))
    got = by_host(made.integer, made.host, [x[:, :steps] for x in made.stored_frames])
    want = made.exact(steps)
    made.checks.append(compare("host kernels", "integer interpreter", EXACT, want, got))
    long = long_run(made.step, made.integer)
    progress.stage(f"{made.model.name}: {long:,} steps for drift and silence".replace(",", " "))

    def run(frames: list[Array]) -> list[Array]:
        made.host.reset()
        return made.host.run(*frames)

    frames = made.prepared(made.frames)
    made.checks.extend(check_stability(made.step, made.integer, frames, run, long))
    made.host.reset()


def _sample(made: Candidate) -> list[Array]:
    """A few sequences for comparisons over whole sequences, [B, T, *shape] per input."""
    test = made.model.test
    if test is not None:
        pick = np.linspace(0, len(test) - 1, min(_WINDOWS, len(test))).astype(int)
        return [np.asarray(test.x[pick])]
    step, meta = made.step, made.step.meta
    block = int(meta.get("frames_per_step", 1))
    unknown = [-(-n * block // step.frames_of(v)) for v, n in meta.get("rest", {}).items()]
    least = 2 * max(int(meta.get("delay", 0)), *unknown, 0) + 4 * block
    return [x[:_WINDOWS, : max(256, least)] for x in made.model.calibration]


def _check_frontend(made: Candidate) -> list[Verification]:
    """The Graph against the model it was read from."""
    stage, model = "real graph", made.model
    if model.file is not None and model.graph.meta.get("source") == "onnx":
        return _check_file(made, model.file, stage)
    if model.module is None:
        reason = (
            "compared when the module was read"
            if model.file is None
            else "the model file is read as data and never executed"
        )
        return [not_run(stage, "torch module", str(_TORCH), reason)]
    from edgeseq.frontend.reference import run_module

    x = [a.astype(np.float32) for a in _sample(made)]
    want = run_module(model.module, *x)
    got = Interpreter(model.graph, batch=len(x[0]))(*x)
    return [_steps(_compared(made, stage, "torch module", _TORCH, want, got), x[0])]


def _check_file(made: Candidate, path: Path, stage: str) -> list[Verification]:
    model, against = made.model, f"{path.name} in ONNX Runtime"
    graph = model.graph
    try:
        file = OnnxFile(path, graph, model.values)
        level = _HALF if file.halves else _TORCH
        if file.longest is None:
            x = [a[:_FILES] for a in _sample(made)]
        else:
            x = [a[:, : file.longest] for a in model.frames]
        if file.longest is not None and x[0].shape[1] < file.longest:
            raise NotComparable(f"the file takes {file.longest} frames at once")
        x = [a.astype(np.float32) for a in x]
        against = f"{path.name} without rounding" if file.rounds else against
        checks: list[tuple[str, str, Level, list[Array]]] = [(stage, against, level, file(x))]
        if file.rounds:
            rounding = OnnxFile(path, graph, model.values, rounding=True)
            name = f"{path.name} in ONNX Runtime"
            checks.append(("rounding of the file", name, _ROUNDED, rounding(x)))
    except NotComparable as e:
        return [not_run(stage, against, str(_TORCH), str(e))]
    machine = Interpreter(graph, batch=len(x[0]))
    got = run_steps(machine, _per_step(graph, x)) if graph.is_step else machine(*x)
    return [
        _steps(_compared(made, what, name, least, want, got), x[0])
        for what, name, least, want in checks
    ]


def _compared(
    made: Candidate,
    stage: str,
    against: str,
    level: Level,
    want: Sequence[Array],
    got: Sequence[Array],
) -> Verification:
    graph = made.model.graph
    names, unknown = graph.outputs, graph.meta.get("unknown", {})
    first, second = (
        {n: a[:, : max(a.shape[1] - unknown[n], 0)] if unknown.get(n) else a
         for n, a in zip(names, values, strict=True)}
        for values in (want, got)
    )  # fmt: skip
    resolution = dict(zip(names, made.float_resolution, strict=True))
    return compare(stage, against, level, first, second, resolution)


def _check_stream(made: Candidate) -> Verification:
    """The step against the Graph it was made from, which may be a step itself."""
    x, graph, step = _sample(made), made.model.graph, made.step
    stage, against = "real step, streamed", "real graph, whole"
    if graph.is_step:
        stage, against = "real step, simplified", "real step, as read"
    frames = _per_step(step, x)
    machine = Interpreter(graph, batch=len(x[0]))
    if graph.is_step:
        whole = run_steps(machine, _per_step(graph, x))
    else:  # only what fills whole steps has been streamed
        cut = [per_frame(step, n, a) for n, a in zip(step.inputs, frames, strict=True)]
        over, block = int(step.meta.get("over", 0)), int(step.meta.get("frames_per_step", 1))
        if over:
            if frames[0].shape[1] < 2:
                reason = f"recordings are shorter than {block + over} frames"
                return not_run(stage, against, str(_STREAM), reason)
            cut = [a[:, : a.shape[1] - block + over] for a in cut]
            frames = [a[:, :-1] for a in frames]
        whole = machine(*cut)
    streamed = run_steps(Interpreter(step, batch=len(x[0])), made.prepared(frames))
    want, got = {}, {}
    for name, after, a, b in zip(graph.outputs, step.outputs, whole, streamed, strict=True):
        delay = delay_of(step, after)
        if graph.is_step:
            want[name], got[name] = a, b
        elif graph.types[name].time is None:
            if delay == 0:  # else the last value needs frames after the end, taken for zeros
                want[name], got[name] = a, b[:, -1]
        else:
            # What the step answers `delay` frames later belongs to this frame.
            late = delay_in_elements(step, after)
            b = per_frame(step, after, b)
            rest = int(step.meta.get("rest", {}).get(after, 0))
            count = min(a.shape[1], b.shape[1] - max(late, rest))
            if count > 0:
                want[name], got[name] = a[:, :count], b[:, late : late + count]
    if not want:
        reason = "no output is known before frames that come after the recordings"
        return not_run(stage, against, str(_STREAM), reason)
    return _steps(compare(stage, against, _STREAM, want, got), x[0])


def _steps(check: Verification, x: Array) -> Verification:
    """`check` with the number of frames that went in (an output may be one per sequence)."""
    return replace(check, steps=int(x.shape[0] * x.shape[1]))
