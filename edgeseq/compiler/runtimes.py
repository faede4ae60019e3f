"""ONNX and TFLite files of a candidate: written once, run in their runtimes, judged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeseq.compiler.candidate import Candidate, judge
from edgeseq.compiler.models import Progress
from edgeseq.emit import Job, format_of
from edgeseq.errors import LevelError, UnsupportedError
from edgeseq.ir.blocks import per_frame, per_step
from edgeseq.ir.graph import Graph
from edgeseq.ir.io import from_stored
from edgeseq.manifest import Accuracy, FormatInfo
from edgeseq.manifest import Format as FormatName
from edgeseq.target import Target
from edgeseq.verify import Level, Snr, Within, compare, not_run

if TYPE_CHECKING:
    from edgeseq.emit.tflite import EngineStatus, TfliteModel, TfliteRun

__all__ = [
    "FILES",
    "Files",
    "level_of",
    "look_for_runtimes",
    "runtime_files",
]

Array = npt.NDArray[Any]

_CLOSE: dict[int, Within] = {16: Within(0.005), 8: Within(0.02)}


def level_of(format: FormatName, activation_bits: int, own: float = 0.0) -> Level:
    """How closely a file must follow its reference over real frames with carried states.

    The float file follows the real step. The others follow the integer step: their runtimes round
    in their own ways, by a unit here and there, which a recurrence carries on; a unit of an 8-bit
    activation is 256 times that of a 16-bit one. An int8 TFLite file has 8-bit activations where
    the integer step may have 16, hence a level of its own kind.

    A model may enlarge rounding errors. Two ways of rounding may then differ as much as rounding
    differs from none: by what the integer step itself differs from the real one.

    Args:
        format: "onnx_float", "onnx_int", "tflite_int16x8" or "tflite_int8".
        activation_bits: of the integer step, 16 or 8.
        own: greatest difference of the integer step to the real one over the same frames, over the
            greatest magnitude.
    """
    if format == "onnx_float":
        return Within(1e-4)
    if format == "tflite_int8":
        return Snr(10.0)
    close = _CLOSE[activation_bits]
    return close if own <= close.share else Within(float(f"{own:.2g}"))


_TFLITE: tuple[FormatName, ...] = ("tflite_int16x8", "tflite_int8")
FILES: dict[FormatName, str] = {
    "onnx_float": "model.onnx",
    "onnx_int": "model_int.onnx",
    "tflite_int16x8": "model_int16x8.tflite",
    "tflite_int8": "model_int8.tflite",
}
"""Name of each file that a runtime executes."""


@dataclass
class Files:
    """Files that serve every target.

    Attributes:
        folder: where they lie.
        formats: how to run each.
        kinds: kind of each file by name, for the manifest.
    """

    folder: Path
    formats: list[FormatInfo] = field(default_factory=list)
    kinds: dict[str, str] = field(default_factory=dict)


@contextmanager
def runtime_files(
    made: Candidate,
    target: Target,
    names: tuple[str, ...],
    folder: Path,
    progress: Progress,
    steps: int,
) -> Iterator[Callable[[], Files]]:
    """Write, run and judge the ONNX and TFLite files of a candidate.

    TFLite runtimes run in processes of their own and take seconds: they start when the block is
    entered, and what is done in it before the yielded function is called goes on beside them.
    What was found goes into `made.results` and `made.checks` when that function is called.

    Args:
        made: the candidate.
        target: named in the files' metadata only.
        names: formats asked for; those without a runtime here ("native") are left to the caller.
        folder: where the files go.
        progress: told the stages.
        steps: frames compared with carried states.

    Raises:
        BackendError: a runtime refuses its file.
        VerifyError: a file breaks its level.
    """
    files = Files(folder)
    job = Job(
        folder=folder,
        target=target,
        real=made.step,
        integer=made.integer,
        info={"classes": list(made.model.labels)},
        calibration=_per_frame(made, made.stored(made.calibration)),
    )
    progress.stage(f"{made.model.name}: writing ONNX and TFLite files")
    written = [name for name in names if name != "native" and _write(made, job, name)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        tflite = _start_tflite(pool, made, folder, steps) if "tflite" in written else None

        def finish() -> Files:
            if "onnx" in written:
                progress.stage(f"{made.model.name}: ONNX files in their runtime")
                _run_onnx(made, files, steps)
            if tflite is not None:
                progress.stage(f"{made.model.name}: TFLite files in their runtimes")
                _finish_tflite(tflite, made, files, steps)
            return files

        yield finish


def _write(made: Candidate, job: Job, name: str) -> bool:
    """Write the files of one format; False, and noted, where that cannot be done here."""
    missing = format_of(name).missing()
    if missing:
        reason = f"not written: {' and '.join(missing)} cannot be imported"
    else:
        try:
            format_of(name).write(job)
            return True
        except UnsupportedError as e:
            reason = str(e)
    for format in (f for f in FILES if f.startswith(name)):
        made.results[format] = Accuracy(format=format, value=None, reason=reason)
        made.checks.append(not_run(FILES[format], "-", str(_level(made, format)), reason))
    return False


def look_for_runtimes() -> None:
    """Find the TFLite runtimes; what is found is remembered until they are used."""
    from edgeseq.emit.tflite import ENGINES, engine_status

    for engine in ENGINES:
        engine_status(engine)


def _per_frame(made: Candidate, frames: Sequence[Array]) -> list[Array]:
    """Frames of each input, per step, as runtimes take sequences: per frame."""
    named = zip(made.step.inputs, frames, strict=True)
    return [per_frame(made.step, name, x) for name, x in named]


def _first(made: Candidate, steps: int) -> list[Array]:
    """Raw frames of the first `steps` steps of each input, per frame."""
    return _per_frame(made, [x[:, :steps] for x in made.frames])


def _level(made: Candidate, format: FormatName) -> Level:
    return level_of(format, made.quantised.options.activation_bits, made.own_error)


def _want(made: Candidate, format: FormatName, steps: int) -> tuple[str, dict[str, Array]]:
    """Reference outputs in real units, over the first `steps` frames."""
    names = made.integer.outputs
    if format == "onnx_float":
        return "real step", {n: y[:, :steps] for n, y in zip(names, made.reference, strict=True)}
    return "integer step", {
        n: from_stored(made.integer, n, y[:, :steps])
        for n, y in zip(names, made.answers, strict=True)
    }


def _run_onnx(made: Candidate, files: Files, steps: int) -> None:
    from edgeseq.emit.onnx import output_names, state_names
    from edgeseq.emit.onnx_run import OnnxStep, run_onnx

    graphs: dict[FormatName, Graph] = {"onnx_float": made.step, "onnx_int": made.integer}
    reason = None
    try:
        import onnxruntime
    except ImportError as error:
        reason = f"ONNX Runtime cannot be imported ({error})"
    tested = made.tested()
    for format, graph in graphs.items():
        path = files.folder / FILES[format]
        files.formats.append(
            FormatInfo(
                format=format,
                file=path.name,
                inputs=tuple(graph.inputs),
                outputs=tuple(output_names(graph)),
                states=tuple(state_names(graph)),
            )
        )
        files.kinds[path.name] = format
        if reason is not None:
            _note_not_run(made, format, path, f"{path.name} in ONNX Runtime", reason)
            continue
        outs = run_onnx(path, _first(made, steps))
        logits = None
        if tested is not None:
            step = OnnxStep(path, batch=len(tested[0]))
            for t in range(tested[0].shape[1]):
                last = step(*[x[:, t] for x in tested])
            logits = last[0]
        engine = f"{path.name} in ONNX Runtime {onnxruntime.__version__}"
        fine = made.float_resolution if format == "onnx_float" else made.resolution()
        _note(made, format, path, engine, outs, logits, steps, fine)


def _note_not_run(made: Candidate, format: FormatName, path: Path, stage: str, reason: str) -> None:
    against, _ = _want(made, format, 0)
    made.checks.append(not_run(stage, against, str(_level(made, format)), reason))
    size = path.stat().st_size
    made.results[format] = Accuracy(format=format, value=None, bytes=size, reason=reason)


@dataclass(frozen=True)
class _TfliteRuns:
    """Runs under way, each in a process of its own.

    Attributes:
        statuses: of the runtimes, available or not.
        models: by format.
        frames: of each format in each available runtime.
        tests: of each format over the test set, in the first available runtime.
    """

    statuses: list[EngineStatus]
    models: dict[FormatName, TfliteModel]
    frames: dict[tuple[FormatName, str], Future[TfliteRun]]
    tests: dict[FormatName, Future[TfliteRun]]


def _start_tflite(
    pool: ThreadPoolExecutor, made: Candidate, folder: Path, steps: int
) -> _TfliteRuns:
    from edgeseq.emit.tflite import ENGINES, engine_status, read_tflite, run_tflite

    statuses = [engine_status(engine) for engine in ENGINES]
    able = [s.engine for s in statuses if s.available]
    runs = _TfliteRuns(statuses, {f: read_tflite(folder / FILES[f]) for f in _TFLITE}, {}, {})
    tested = made.tested()
    for format, model in runs.models.items():
        if able and tested is not None:
            x = _per_frame(made, tested)
            runs.tests[format] = pool.submit(run_tflite, model, *x, engine=able[0])
        x = _first(made, steps)
        for engine in able:
            runs.frames[format, engine] = pool.submit(run_tflite, model, *x, engine=engine)
    return runs


def _finish_tflite(runs: _TfliteRuns, made: Candidate, files: Files, steps: int) -> None:
    for format, model in runs.models.items():
        path = files.folder / FILES[format]
        files.kinds[path.name] = format
        _describe_tflite(files, format, path, model)
        tested = runs.tests.get(format)
        logits = tested.result().real[0][:, -1] if tested is not None else None
        judged = False
        for s in runs.statuses:
            if s.available:
                outs = runs.frames[format, s.engine].result().real
                engine = f"{path.name} in {s.engine} {s.version}"
                fine = made.resolution(8 if format == "tflite_int8" else 16)
                try:
                    _note(made, format, path, engine, outs, logits, steps, fine, judged=judged)
                except LevelError as e:
                    if format != "tflite_int8" or made.quantised.options.activation_bits == 8:
                        raise
                    _leave_out(made, files, format, e)
                    judged = True
                    break
                judged = True
            else:
                against, _ = _want(made, format, steps)
                stage, level = f"{path.name} in {s.engine}", str(_level(made, format))
                made.checks.append(not_run(stage, against, level, s.reason))
        if not judged:
            made.results[format] = Accuracy(
                format=format,
                value=None,
                bytes=path.stat().st_size,
                reason="neither LiteRT nor tflite-runtime is installed",
            )


def _leave_out(made: Candidate, files: Files, format: FormatName, why: LevelError) -> None:
    """Take back a file that computes in 8 bits where the integer step does not.

    8 bits may be too few for a model, which is no fault of the file; one that is of no use is not
    given to anybody.
    """
    name = FILES[format]
    reason = (
        f"left out: 8-bit activations keep the outputs only {why.figure} above their error; "
        f"use {FILES['tflite_int16x8']}"
    )
    (files.folder / name).unlink()
    files.formats[:] = [f for f in files.formats if f.format != format]
    del files.kinds[name]
    made.checks[:] = [c for c in made.checks if not c.stage.startswith(name)]
    made.checks.append(not_run(name, "integer step", str(_level(made, format)), reason))
    made.results[format] = Accuracy(format=format, value=None, reason=reason)


def _describe_tflite(files: Files, format: FormatName, path: Path, model: TfliteModel) -> None:
    files.formats.append(
        FormatInfo(
            format=format,
            file=path.name,
            inputs=tuple(t.name for t in model.inputs),
            outputs=tuple(t.name for t in model.outputs),
            states=tuple((s.name, f"{s.name}_next") for s in model.states),
            signature="step",
            float_nodes=model.float_nodes,
        )
    )


def _note(
    made: Candidate,
    format: FormatName,
    path: Path,
    engine: str,
    outs: list[Array],
    logits: Array | None,
    steps: int,
    fine: list[float],
    *,
    judged: bool = False,
) -> None:
    against, want = _want(made, format, steps)
    graph = made.step if format == "onnx_float" else made.integer
    given = zip(graph.outputs, outs, strict=True)
    got = dict(zip(want, (per_step(graph, n, np.asarray(y, float)) for n, y in given), strict=True))
    resolution = dict(zip(want, fine, strict=True))
    made.checks.append(compare(engine, against, _level(made, format), want, got, resolution))
    if not judged:
        reference = [y[:, :steps] for y in made.reference]
        made.results[format] = judge(
            made, format, logits, list(got.values()), path.stat().st_size, reference
        )
