"""One model, made integer and judged: everything about it that no target changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.compiler.models import Model, Progress
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.io import from_stored, prepare, to_stored
from edgeseq.ir.text import to_text
from edgeseq.kernels import HostStep
from edgeseq.manifest import Accuracy, Confusion, Format, Verification
from edgeseq.passes import Watch, to_step
from edgeseq.quant import Quantised, QuantOptions, quantise, snr_db
from edgeseq.verify import (
    EXACT,
    Within,
    check_sensitivity,
    check_stability,
    compare,
    not_run,
)
from edgeseq.verify.answers import by_host, by_interpreter

__all__ = ["Candidate", "confusion_of", "judge", "make_candidate", "verify_candidate"]

Array = npt.NDArray[Any]

_WINDOWS = 64
_TORCH = Within(1e-4)
_STREAM = Within(1e-6)


@dataclass
class Candidate:
    """A model with its steps, on the way to artifacts.

    Attributes:
        model: where it came from, and its data.
        step: real step.
        quantised: integer step and what is known of it.
        host: the integer step on this machine.
        results: how well each format does.
        confusion: of the integer model on the test set, None without one.
        checks: comparisons made so far.
        reference: real outputs over `Model.frames`, [1, T, *shape] each.
        answers: answers of the integer step over `Model.frames`, stored integers.
    """

    model: Model
    step: Graph
    quantised: Quantised
    host: HostStep
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

    def stored_frames(self) -> list[Array]:
        """`Model.frames` as the integer step reads them."""
        return [to_stored(self.integer, name, self.model.frames) for name in self.integer.inputs]

    def exact(self, steps: int) -> dict[str, Array]:
        """What the interpreter makes of the first `steps` stored frames; run once, then kept."""
        if steps not in self._exact:
            frames = [x[:, :steps] for x in self.stored_frames()]
            self._exact[steps] = by_interpreter(self.integer, frames)
        return self._exact[steps]

    @cached_property
    def text(self) -> str:
        """The integer step in its text form, constants included."""
        return to_text(self.integer)

    def calibration_frames(self) -> list[Array]:
        """`Model.calibration` as the integer step reads it."""
        raw = self.model.calibration
        return [to_stored(self.integer, name, raw) for name in self.integer.inputs]

    def prepared(self, raw: Array) -> list[Array]:
        """Raw frames as the real step reads them."""
        return [prepare(self.step, name, raw) for name in self.step.inputs]

    @property
    def rank(self) -> float:
        """What candidates are ranked by: validation accuracy, or that of the integer outputs."""
        known = self.model.validation_accuracy
        return known if known is not None else self.quantised.snr


def make_candidate(
    model: Model, options: QuantOptions, progress: Progress, watch: Watch | None = None
) -> Candidate:
    """Stream, quantise and judge `model`.

    Args:
        model: a real Graph over time and its data.
        options: widths and calibration.
        progress: told the stages.
        watch: sees the Graph after every pass.

    Raises:
        GraphError, ModelError, QuantiseError, DataError, BackendError: the first stage that cannot
            go on.
    """
    progress.stage(f"{model.name}: streaming and quantising")
    step = to_step(model.graph, watch)
    calibration = [prepare(step, name, model.calibration) for name in step.inputs]
    quantised = quantise(step, calibration, options)
    if watch is not None:
        watch("quantise", quantised.graph)
    progress.stage(f"{model.name}: compiling for this machine")
    host = HostStep(quantised.graph)
    made = Candidate(model, step, quantised, host)
    frames = made.prepared(model.frames)
    made.reference = Interpreter(step).sequence(*frames)
    check_sensitivity(step, frames, made.reference)
    made.answers = host.run(*made.stored_frames())
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
        outputs: its real outputs over `Model.frames`, None if they were not taken.
        size: bytes of the format's file or of its parameters.
        reference: what `outputs` should be; by default the real outputs over `Model.frames`.
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
    test = made.model.test
    if test is None:
        return None
    machine = Interpreter(made.step, batch=len(test))
    frames = made.prepared(test.x)
    last: list[Array] = []
    for t in range(test.x.shape[1]):
        last = machine(*(x[:, t] for x in frames))
    return last[0]


def _integer_logits(made: Candidate) -> Array | None:
    test = made.model.test
    if test is None:
        return None
    made.host.resize(len(test))
    stored = [to_stored(made.integer, name, test.x) for name in made.integer.inputs]
    outs = made.host.run(*stored)
    made.host.resize(1)
    return outs[0][:, -1]


def verify_candidate(made: Candidate, progress: Progress, steps: int) -> None:
    """Check the stages that no target changes, and note them in `made.checks`.

    Raises:
        VerifyError: two stages disagree; names the stage and the first differing value.
    """
    progress.stage(f"{made.model.name}: verifying the stages")
    made.checks.append(_check_frontend(made))
    made.checks.append(_check_stream(made))
    got = by_host(made.integer, made.host, [x[:, :steps] for x in made.stored_frames()])
    want = made.exact(steps)
    made.checks.append(compare("host kernels", "integer interpreter", EXACT, want, got))
    progress.stage(f"{made.model.name}: 100 000 steps for drift and silence")

    def run(frames: list[Array]) -> list[Array]:
        made.host.reset()
        return made.host.run(*frames)

    frames = made.prepared(made.model.frames)
    made.checks.extend(check_stability(made.step, made.integer, frames, run))
    made.host.reset()


def _sample(made: Candidate) -> Array:
    """A few sequences for comparisons over whole sequences, [B, T, C]."""
    test = made.model.test
    if test is not None:
        pick = np.linspace(0, len(test) - 1, min(_WINDOWS, len(test))).astype(int)
        return np.asarray(test.x[pick])
    return made.model.calibration[:_WINDOWS, :256]


def _check_frontend(made: Candidate) -> Verification:
    stage, against = "real graph", "torch module"
    module = made.model.module
    if module is None:
        reason = "the model file is read as data and never executed"
        return not_run(stage, against, str(_TORCH), reason)
    from edgeseq.frontend.reference import run_module

    x = _sample(made).astype(np.float32)
    wanted = run_module(module, x)
    names = made.model.graph.outputs
    got = Interpreter(made.model.graph, batch=len(x))(*[x for _ in made.model.graph.inputs])
    want = dict(zip(names, wanted, strict=True))
    checked = compare(stage, against, _TORCH, want, dict(zip(names, got, strict=True)))
    return _steps(checked, x)


def _check_stream(made: Candidate) -> Verification:
    x = _sample(made)
    graph = made.model.graph
    whole = Interpreter(graph, batch=len(x))(*[x for _ in graph.inputs])
    streamed = Interpreter(made.step, batch=len(x)).sequence(*made.prepared(x))
    want, got = {}, {}
    for name, a, b in zip(graph.outputs, whole, streamed, strict=True):
        want[name] = a
        got[name] = b if graph.types[name].time is not None else b[:, -1]
    return _steps(compare("real step, streamed", "real graph, whole", _STREAM, want, got), x)


def _steps(check: Verification, x: Array) -> Verification:
    """`check` with the number of frames that went in (an output may be one per sequence)."""
    return replace(check, steps=int(x.shape[0] * x.shape[1]))
