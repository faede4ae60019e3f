"""Filling the manifest of an artifact."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import numpy as np

import edgeseq
from edgeseq.compiler.candidate import Candidate
from edgeseq.compiler.placed import Placed
from edgeseq.ir.blocks import delay_of
from edgeseq.ir.cost import macs_of
from edgeseq.ir.types import Type
from edgeseq.manifest import (
    Candidate as CandidateInfo,
)
from edgeseq.manifest import (
    FileInfo,
    FormatInfo,
    InputInfo,
    Manifest,
    ModelInfo,
    NodeCost,
    OutputInfo,
    Saturation,
    StateInfo,
    TargetInfo,
    TierInfo,
    Verification,
    describe_file,
)
from edgeseq.manifest.schema import Dtype
from edgeseq.target import Target, Tier

__all__ = ["candidate_info", "file_infos", "graph_digest", "manifest_of"]

_QUIET = 0.01
"""Share of an output's range below which its answers say little of its precision."""

_PACKAGES = (
    "numpy",
    "numba",
    "llvmlite",
    "torch",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
    "unicorn",
)


def manifest_of(
    placed: Placed,
    target: Target,
    tier: Tier,
    *,
    floor: float | None,
    formats: list[FormatInfo],
    files: list[FileInfo],
    checks: list[Verification],
    candidates: list[CandidateInfo],
    notes: list[str],
) -> Manifest:
    """The manifest of `placed` as the artifact of one tier."""
    made = placed.candidate
    return Manifest(
        name=made.model.c_name,
        edgeseq=edgeseq.__version__,
        created=_created(),
        target=TargetInfo(
            name=target.name,
            description=target.description,
            board=target.board,
            triple=target.triple,
            cpu=target.cpu,
            features=target.features,
            isa=target.isa,
            format="archive" if target.format == "archive" else "shared",
            emulator=target.emulator,
            clock_hz=target.clock_hz,
            cycles_per_instruction=target.cycles_per_instruction,
            flash_bytes=target.flash_bytes,
            ram_bytes=target.ram_bytes,
        ),
        tier=TierInfo(
            name=tier.name,
            flash_bytes=tier.flash_bytes,
            ram_bytes=tier.ram_bytes,
            latency_s=tier.latency_s,
            min_accuracy=floor,
        ),
        model=_model(placed),
        inputs=tuple(_inputs(made)),
        outputs=tuple(_outputs(made)),
        states=tuple(_states(placed)),
        memory=placed.memory,
        nodes=tuple(_nodes(made)),
        instructions_per_step=placed.instructions,
        latency=placed.latency,
        accuracy=tuple(made.results.values()),
        confusion=made.confusion,
        saturation=tuple(
            Saturation(node=n, stores=stores, saturated=k)
            for n, (k, stores) in made.quantised.saturated.items()
        ),
        verification=tuple(checks),
        candidates=tuple(candidates),
        formats=tuple(formats),
        files=tuple(files),
        versions=_versions(),
        notes=(*notes, *_sharpened(made), *_quiet(made)),
    )


def candidate_info(
    made: Candidate, placed: Placed | None, chosen: bool, reason: str
) -> CandidateInfo:
    """A candidate as the manifest lists it."""
    return CandidateInfo(
        name=made.model.name,
        cell=made.model.cell,
        parameters=made.parameters,
        flash_bytes=placed.memory.flash.total if placed else None,
        ram_bytes=placed.memory.ram.total if placed else None,
        results=tuple(made.results.values()),
        chosen=chosen,
        reason=reason,
    )


def graph_digest(made: Candidate) -> str:
    """SHA-256 of the integer step's text form with its constants."""
    return hashlib.sha256(made.text.encode()).hexdigest()


def _created() -> str | None:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not epoch.isdecimal():
        return None
    return datetime.fromtimestamp(int(epoch), UTC).isoformat()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _sharpened(made: Candidate) -> list[str]:
    """A sentence about matrices that read more bits than asked for, if any do."""
    quantised = made.quantised
    widths = quantised.options.activation_bits_of
    named = [
        f"{n} ({widths.get(n, quantised.options.activation_bits)})" for n in quantised.sharpened
    ]
    if not named:
        return []
    shown = ", ".join(named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "")
    return [f"To come near the signal-to-noise ratio asked for, these read more bits: {shown}."]


def _quiet(made: Candidate) -> list[str]:
    """A sentence about outputs that hardly moved on the frames given, if any are so."""
    tops = zip(made.step.outputs, made.reference, made.model.graph.outputs, strict=True)
    ranges = {name: (float(np.abs(y).max(initial=0.0)), made.ranges.get(k)) for k, y, name in tops}
    return [
        f"Output {name} is at most {top:.2g} on the frames given, of a range of {whole:g}: add "
        "frames to which the model answers, or its precision there is not known."
        for name, (top, whole) in ranges.items()
        if whole is not None and top < _QUIET * whole
    ]


def _model(placed: Placed) -> ModelInfo:
    made = placed.candidate
    return ModelInfo(
        name=made.model.name,
        source=made.model.source,
        cell=made.model.cell,
        parameters=made.parameters,
        nodes=len(made.integer.nodes),
        macs=sum(n.macs for n in _nodes(made)),
        weight_bits=made.quantised.options.weight_bits,
        activation_bits=made.quantised.options.activation_bits,
        digest=graph_digest(made),
        frames_per_step=int(made.integer.meta.get("frames_per_step", 1)),
        mode=made.model.mode,
        widened=tuple(made.quantised.widened),
    )


def _nodes(made: Candidate) -> list[NodeCost]:
    graph = made.integer
    costs = []
    for node in graph.nodes:
        consts = [v for v in node.inputs if v in graph.consts]
        macs = macs_of(graph, node)
        size = sum(graph.consts[v].nbytes for v in consts) if node.op != "lut" else 0
        costs.append(NodeCost(name=node.name, op=node.op, macs=macs, weight_bytes=size))
    return costs


def _dtype(t: Type) -> Dtype:
    return cast(Dtype, t.dtype)


def _inputs(made: Candidate) -> list[InputInfo]:
    graph = made.integer
    infos = []
    for name in graph.inputs:
        t = graph.types[name]
        affine = graph.meta.get("input_affine", {}).get(name, {"scale": [], "offset": []})
        fits = t.shape[-1:] == (len(made.model.channels),)
        infos.append(
            InputInfo(
                name=name,
                shape=t.shape,
                dtype=_dtype(t),
                scale=t.scalar_scale,
                affine_scale=tuple(affine["scale"]),
                affine_offset=tuple(affine["offset"]),
                channels=made.model.channels if fits else (),
                rate_hz=made.model.rate_hz,
                hop=made.model.cut.get(name),
                frames=graph.frames_of(name),
            )
        )
    return infos


def _outputs(made: Candidate) -> list[OutputInfo]:
    graph = made.integer
    infos = []
    for i, name in enumerate(graph.outputs):
        t = graph.types[name]
        last = graph.meta["emission"][name] == "last"
        labelled = i == 0 and t.shape[-1:] == (len(made.model.labels),)
        infos.append(
            OutputInfo(
                name=name,
                shape=t.shape,
                dtype=_dtype(t),
                scale=t.scalar_scale,
                labels=made.model.labels if labelled else (),
                emission="last" if last else "frame",
                delay=delay_of(graph, name),
                window=made.model.window if last else None,
                hop=made.model.hop if last else None,
                frames=graph.frames_of(name),
            )
        )
    return infos


def _states(placed: Placed) -> list[StateInfo]:
    infos = []
    graph = placed.candidate.integer
    types = {s.name: graph.types[s.input] for s in graph.states}
    for s in placed.compiled.states:
        init = np.unique(s.init)
        infos.append(
            StateInfo(
                name=s.name,
                shape=s.shape,
                dtype=_dtype(types[s.name]),
                scale=types[s.name].scalar_scale,
                bytes=s.nbytes,
                offset=s.offset,
                init=(int(init[0]),) if init.size == 1 else tuple(int(v) for v in s.init.ravel()),
            )
        )
    return infos


def file_infos(folder: Path, kinds: dict[str, str]) -> list[FileInfo]:
    """Every file of `folder`, by name."""
    return [
        describe_file(p, kinds.get(p.name, p.suffix.removeprefix(".")))
        for p in sorted(folder.iterdir())
    ]
