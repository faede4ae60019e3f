"""`compile_project` and `compile_model`: from data or a model file to artifact folders."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from edgeseq.compiler.candidate import Candidate, make_candidate, verify_candidate
from edgeseq.compiler.describe import candidate_info, file_infos, manifest_of
from edgeseq.compiler.folder import (
    ensure_replaceable,
    ensure_writable,
    new_folder,
    remove_leftovers,
)
from edgeseq.compiler.models import (
    Model,
    Progress,
    Silent,
    graph_model,
    imported_model,
    trained_models,
)
from edgeseq.compiler.placed import Placed, place, shortfall
from edgeseq.compiler.runtimes import Files, look_for_runtimes, runtime_files
from edgeseq.config import Compile, Config, Quant
from edgeseq.emit import Job, format_of
from edgeseq.emit.golden import Golden, make_golden, write_golden
from edgeseq.errors import ArtifactError, BudgetError, GraphError, TargetError
from edgeseq.ir.graph import Graph
from edgeseq.ir.text import to_text
from edgeseq.manifest import MANIFEST, FormatInfo, Manifest, write
from edgeseq.manifest import Candidate as CandidateInfo
from edgeseq.passes import Watch
from edgeseq.quant import QuantOptions
from edgeseq.target import Target, Tier
from edgeseq.verify.artifact import GRAPH_FILE

if TYPE_CHECKING:
    from edgeseq.frontend.options import ImportOptions

__all__ = ["Built", "Settings", "compile_graph", "compile_model", "compile_project", "settings_of"]

# What main.c holds as text: fewer frames where they are large.
GOLDEN_FRAMES, GOLDEN_LEAST, GOLDEN_NUMBERS = 256, 8, 1 << 18
GOLDEN_FILE = "golden.npz"
IMPORTED_SNR = 30.0
"""Signal-to-noise ratio that matrices of imported models are widened towards, dB."""


@dataclass(frozen=True)
class Settings:
    """How to compile, wherever the model comes from.

    Attributes:
        quant: widths and calibration.
        tiers: names of the tiers to fill, each of which must be met; empty means every tier of the
            target that some candidate fits (at least one).
        formats: "native", "onnx", "tflite".
        floor: least test accuracy of the integer model, 0..1.
        drop: most test accuracy the integer model may lose against float, 0..1.
        steps: of real data compared bit for bit.
    """

    quant: QuantOptions = field(default_factory=QuantOptions)
    tiers: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("native", "onnx", "tflite")
    floor: float = 0.0
    drop: float = 0.02
    steps: int = 1000


@dataclass
class Built:
    """What was made for one target.

    Attributes:
        target: the target.
        folder: OUT/TARGET.
        manifests: of the tiers that were filled, smallest first.
        missed: why the other tiers were not, by name.
    """

    target: Target
    folder: Path
    manifests: list[Manifest] = field(default_factory=list)
    missed: dict[str, str] = field(default_factory=dict)


def compile_project(
    config: Config,
    targets: Sequence[Target],
    out: Path,
    *,
    work: Path,
    dump: Path | None = None,
    progress: Progress | None = None,
) -> list[Built]:
    """Train what needs training, then compile, verify and report for every target.

    Args:
        config: the settings.
        targets: at least one.
        out: folders are written as OUT/TARGET/TIER.
        work: folder that keeps trained models between calls.
        dump: write the Graph as text after every pass into this folder.
        progress: told the stages.

    Raises:
        EdgeseqError: the first thing that went wrong; what stood in `out` before stays.
    """
    watching = progress or Silent()
    targets = _checked_targets(targets, config.compile.tiers)
    ensure_writable(out)
    settings = settings_of(config.quant, config.compile)
    models = trained_models(config, work, watching)
    return _build(models, targets, out, settings, dump, watching)


def compile_model(
    path: Path,
    targets: Sequence[Target],
    out: Path,
    *,
    calib: str | Path,
    name: str,
    settings: Settings | None = None,
    options: ImportOptions | None = None,
    frame_hop: int | None = None,
    dump: Path | None = None,
    progress: Progress | None = None,
) -> list[Built]:
    """Compile a model made elsewhere.

    Args:
        path: an ONNX file, or a `.pt2` file as ``torch.export.save`` writes it; it is parsed, never
            executed.
        targets: at least one.
        out: folders are written as OUT/TARGET/TIER.
        calib: recordings to calibrate and verify with (`edgeseq.data.load_inputs`).
        name: prefix of the C functions, a C identifier.
        settings: how to compile; without an SNR asked for, 30 dB are the goal.
        options: what the model file does not say itself.
        frame_hop: samples from one frame to the next where frames are cut from audio; None: they
            do not overlap.
        dump: write the Graph as text after every pass into this folder.
        progress: told the stages.

    Raises:
        EdgeseqError: the first thing that went wrong; what stood in `out` before stays.
    """
    watching, settings = progress or Silent(), _with_goal(settings or Settings())
    if not (name.isidentifier() and name.isascii()):
        raise GraphError(
            f"the name {name!r} is not a C identifier",
            where=str(path),
            fix="give one with --name: letters, digits and underscores",
        )
    targets = _checked_targets(targets, settings.tiers)
    ensure_writable(out)
    watching.stage(f"reading {path.name}")
    model = imported_model(path, calib, name, settings.steps, options, frame_hop)
    return _build([model], targets, out, settings, dump, watching)


def compile_graph(
    graph: Graph,
    targets: Sequence[Target],
    out: Path,
    *,
    calib: str | Path,
    settings: Settings | None = None,
    frame_hop: int | None = None,
    dump: Path | None = None,
    progress: Progress | None = None,
) -> list[Built]:
    """Compile a real Graph, such as `edgeseq.from_torch` or `edgeseq.from_onnx` gives.

    Args:
        graph: over time or a step; its name is the prefix of the C functions.
        targets, out, calib, settings, frame_hop, dump, progress: as of `compile_model`.

    Raises:
        EdgeseqError: the first thing that went wrong; what stood in `out` before stays.
    """
    watching, settings = progress or Silent(), _with_goal(settings or Settings())
    targets = _checked_targets(targets, settings.tiers)
    ensure_writable(out)
    model = graph_model(graph, calib, settings.steps, None, frame_hop)
    return _build([model], targets, out, settings, dump, watching)


def _with_goal(settings: Settings) -> Settings:
    """Without labels, the ratio to the real model is the only accuracy there is."""
    if settings.quant.snr is not None:
        return settings
    return replace(settings, quant=replace(settings.quant, snr=IMPORTED_SNR, snr_goal=True))


def settings_of(quant: Quant, table: Compile) -> Settings:
    """`Settings` from the tables ``[quant]`` and ``[compile]`` of a settings file."""
    return Settings(
        quant=QuantOptions(
            weight_bits=quant.weight_bits,
            activation_bits=quant.activation_bits,
            method=quant.calibration,
            snr=quant.snr_db,
        ),
        tiers=table.tiers,
        formats=table.formats,
        floor=table.accuracy_floor,
        drop=table.max_accuracy_drop,
        steps=table.verify_steps,
    )


def _checked_targets(targets: Sequence[Target], tiers: Sequence[str]) -> list[Target]:
    """Each target once, if all have the tiers asked for.

    Raises:
        TargetError: no such tier, or two different targets would be written to one folder.
    """
    chosen: dict[str, Target] = {}
    for target in targets:
        for tier in tiers:
            target.tier(tier)
        if chosen.setdefault(target.name, target) != target:
            raise TargetError(
                f"two different targets are called {target.name!r}",
                fix="give your own target file another name: it is the folder in --out",
            )
    return list(chosen.values())


def _watch(dump: Path | None, name: str) -> Watch | None:
    if dump is None:
        return None
    folder = dump / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ArtifactError(
            f"cannot write here: {e.strerror}", where=str(folder), fix="choose another --dump"
        ) from e
    count = 0

    def watch(after: str, graph: Graph) -> None:
        nonlocal count
        (folder / f"{count:02d}-{after}.txt").write_text(
            to_text(graph, data=False), encoding="utf-8"
        )
        count += 1

    return watch


def _build(
    models: list[Model],
    targets: Sequence[Target],
    out: Path,
    settings: Settings,
    dump: Path | None,
    progress: Progress,
) -> list[Built]:
    if "tflite" in settings.formats and not format_of("tflite").missing():
        # Looking for the runtimes starts processes, which take a second on the other core.
        Thread(target=look_for_runtimes, daemon=True).start()
    made = [
        make_candidate(m, settings.quant, progress, _watch(dump, m.name), settings.steps)
        for m in models
    ]
    made.sort(key=lambda c: c.rank, reverse=True)
    with tempfile.TemporaryDirectory(prefix="edgeseq-") as temporary:
        session = _Session(made, settings, Path(temporary), progress)
        # Everything is checked for every target before the first folder is touched.
        plans = [session.plan(target, out) for target in targets]
        return [session.write(plan) for plan in plans]


@dataclass
class _Plan:
    """What will be written for one target.

    Attributes:
        built: to be completed by writing.
        placed: the candidates tried on the target, by name.
        chosen: each tier that is met, who meets it, and why more accurate candidates do not.
    """

    built: Built
    placed: dict[str, Placed]
    chosen: list[tuple[Tier, Placed, dict[str, str]]]


class _Session:
    """One call: candidates are verified and their shared files written once, when first chosen."""

    def __init__(
        self, made: list[Candidate], settings: Settings, temporary: Path, progress: Progress
    ) -> None:
        self.made, self.settings, self.progress = made, settings, progress
        self._temporary = temporary
        self._files: dict[str, Files] = {}
        self._golden: dict[str, Golden] = {}

    def plan(self, target: Target, out: Path) -> _Plan:
        """Choose who fills which tier of `target`, and verify the chosen ones.

        Raises:
            BudgetError, VerifyError, BackendError: nothing was written.
        """
        built = Built(target, out / target.name)
        wanted = [target.tier(t) for t in self.settings.tiers] or list(target.tiers.values())
        placed: dict[str, Placed] = {}
        chosen: list[tuple[Tier, Placed, dict[str, str]]] = []
        for tier in wanted:
            reasons: dict[str, str] = {}
            for candidate in self.made:
                name = candidate.model.name
                if name not in placed:
                    placed[name] = place(
                        candidate, target, self.progress, self.settings.steps, wanted
                    )
                short = shortfall(placed[name], tier)
                if short is None:
                    chosen.append((tier, placed[name], reasons))
                    break
                reasons[name] = short
            else:
                built.missed[tier.name] = "; ".join(f"{k} {v}" for k, v in reasons.items())
        if (self.settings.tiers and built.missed) or not chosen:
            tier_name, reason = next(iter(built.missed.items()))
            raise BudgetError(
                f"no model fits tier {tier_name}: {reason}",
                where=f"target {target.name}",
                fix="use a smaller model (in a project: [model] hidden) or a larger tier",
            )
        for tier, winner, _ in chosen:
            ensure_replaceable(built.folder / tier.name)
            self._shared(winner.candidate, target)
            self._check_accuracy(winner.candidate, target)
        return _Plan(built, placed, chosen)

    def write(self, plan: _Plan) -> Built:
        """Write what `plan` chose.

        Raises:
            ArtifactError, BackendError: a tier cannot be written; what stood there stays.
        """
        built, target = plan.built, plan.built.target
        remove_leftovers(built.folder)
        for tier, winner, reasons in plan.chosen:
            infos = [
                candidate_info(
                    c,
                    plan.placed.get(c.model.name),
                    c is winner.candidate,
                    reasons.get(c.model.name)
                    or (
                        "the most accurate that fits, by validation accuracy"
                        if c is winner.candidate
                        else "fits or was not tried: a more accurate one fits"
                    ),
                )
                for c in self.made
            ]
            name = winner.candidate.model.name
            self.progress.stage(f"{name}: writing {target.name}/{tier.name}")
            files = self._files[name]
            built.manifests.append(self._write(winner, target, tier, built.folder, files, infos))
        for missed in built.missed:
            # What an earlier call left there was made of other models: it must not look current.
            if (built.folder / missed / MANIFEST).is_file():
                shutil.rmtree(built.folder / missed, ignore_errors=True)
        return built

    def _shared(self, candidate: Candidate, target: Target) -> None:
        """Verify `candidate` and write the files that serve every target, once."""
        name = candidate.model.name
        if name not in self._files:
            folder = self._temporary / name
            folder.mkdir()
            steps = self.settings.steps
            with runtime_files(
                candidate, target, self.settings.formats, folder, self.progress, steps
            ) as finish:
                verify_candidate(candidate, self.progress, steps)
                files = finish()
            ports = (*candidate.integer.inputs, *candidate.integer.outputs)
            size = sum(candidate.integer.types[v].size for v in ports)
            count = max(GOLDEN_LEAST, min(GOLDEN_FRAMES, GOLDEN_NUMBERS // max(size, 1)))
            golden = make_golden(candidate.integer, [x[0, :count] for x in candidate.stored_frames])
            write_golden(golden, folder / GOLDEN_FILE)
            (folder / GRAPH_FILE).write_text(candidate.text, encoding="utf-8")
            files.kinds |= {GOLDEN_FILE: "golden frames", GRAPH_FILE: "integer step, as text"}
            self._files[name], self._golden[name] = files, golden

    def _check_accuracy(self, candidate: Candidate, target: Target) -> None:
        float_, integer = (candidate.results[f].value for f in ("float", "integer"))
        if float_ is None or integer is None:
            return
        where = f"target {target.name}, model {candidate.model.name}"
        if integer < self.settings.floor:
            raise BudgetError(
                f"the integer model reaches {integer:.2%} on the test set, below the floor of "
                f"{self.settings.floor:.2%}",
                where=where,
                fix="train a better model, or lower [compile] accuracy_floor",
            )
        if float_ - integer > self.settings.drop:
            raise BudgetError(
                f"the integer model loses {100 * (float_ - integer):.2f} points against float, "
                f"more than the {100 * self.settings.drop:.2f} allowed",
                where=where,
                fix="use 16-bit weights or activations ([quant]), or raise max_accuracy_drop",
            )

    def _write(
        self,
        winner: Placed,
        target: Target,
        tier: Tier,
        parent: Path,
        files: Files,
        infos: list[CandidateInfo],
    ) -> Manifest:
        candidate = winner.candidate
        with new_folder(parent / tier.name) as folder:
            for path in sorted(files.folder.iterdir()):
                shutil.copyfile(path, folder / path.name)
            formats = list(files.formats)
            if "native" in self.settings.formats:
                formats.append(self._native(winner, target, folder))
            manifest = manifest_of(
                winner,
                target,
                tier,
                floor=self.settings.floor or None,
                formats=formats,
                files=file_infos(folder, files.kinds),
                checks=[*candidate.checks, *winner.checks],
                candidates=infos if len(infos) > 1 else [],
                notes=[*candidate.model.notes],
            )
            write(manifest, folder / MANIFEST)
        return manifest

    def _native(self, winner: Placed, target: Target, folder: Path) -> FormatInfo:
        candidate = winner.candidate
        job = Job(
            folder=folder,
            target=target,
            real=candidate.step,
            integer=candidate.integer,
            compiled=winner.compiled,
            golden=self._golden[candidate.model.name],
            info={
                "classes": list(candidate.model.labels),
                "channels": list(candidate.model.channels),
                "description": f"{candidate.model.name} for {target.board}",
                "memory": winner.memory,
                "instructions": winner.instructions,
                "window": candidate.model.window,
                "hop": candidate.model.hop,
                "rate_hz": candidate.model.rate_hz,
                "accuracy": candidate.results["integer"].value,
            },
        )
        written = format_of("native").write(job)
        library = next(p for p in written if p.suffix in (".a", ".so"))
        return FormatInfo(format="native", file=library.name)
