"""What a model is, before it is compiled: inputs, states, time, cost, what cannot be compiled."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from edgeseq.errors import Problem, UnsupportedError, UsageError
from edgeseq.frontend.load import kind_of, load_model
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.summary import summarise
from edgeseq.ir import Graph
from edgeseq.ir.cost import frame_cost

__all__ = ["Inspection", "Port", "StateFound", "inspect_graph", "inspect_model"]

Mode = Literal["step", "stream", "window"]
_KINDS = {"onnx": "ONNX", "pt2": "torch.export"}


@dataclass(frozen=True)
class Port:
    """An input or output of the model.

    Attributes:
        dtype, shape: as the file says, for people: "float32", "[batch, 2, 128]".
        role: "frames", "answer", "state" or "fixed"; empty where that is not known.
    """

    name: str
    dtype: str
    shape: str
    role: str = ""


@dataclass(frozen=True)
class StateFound:
    """A state that is carried from step to step.

    Attributes:
        input, output: of the file, which carry it; empty where it lives inside the model.
        shape: of the state, for people.
        how: how it was recognised.
    """

    name: str
    input: str
    output: str
    shape: str
    how: str


@dataclass(frozen=True)
class Inspection:
    """What is known of a model.

    Attributes:
        source: the file.
        kind: its format.
        mode: "step": the file is one step, its states are inputs and outputs. "stream": it runs
            over time, which becomes states. "window": each window is computed by itself. None: not
            known, since it cannot be read.
        time: where time is, for people.
        delay: input frames by which outputs lag; None if not known.
        frames_per_step: input frames a step takes at once; None if not known.
        parameters: elements of all constants; None if not known.
        macs_per_frame: multiply-accumulates; None if not known.
        operations: how often each operation occurs, in the file's own words or the Graph's.
        problems: what cannot be compiled: (operation, where, why, fix).
        notes: what a reader should know besides.
    """

    source: str
    kind: str
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    states: tuple[StateFound, ...] = ()
    mode: Mode | None = None
    time: str = ""
    delay: int | None = None
    frames_per_step: int | None = None
    parameters: int | None = None
    macs_per_frame: int | None = None
    operations: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def compiles(self) -> bool:
        """Whether nothing is known that would stop a compilation."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The same in plain types."""
        keys = ("operation", "where", "why", "fix")
        facts = dataclasses.asdict(self)
        facts["operations"] = dict(self.operations)
        facts["problems"] = [dict(zip(keys, p, strict=True)) for p in self.problems]
        return {"inspection": 1, "compiles": self.compiles, **facts}


def inspect_model(path: str | Path, options: ImportOptions | None = None) -> Inspection:
    """Look at a model file, running nothing from it.

    What `options` do not say and have to, or say wrongly, is one of the problems.

    Raises:
        ModelError: the file is missing, damaged or of another format.
    """
    path, options = Path(path), options or ImportOptions()
    kind = kind_of(path)
    if kind == "onnx":
        return _inspect_onnx(path, options)
    empty = Inspection(str(path), _KINDS[kind])
    try:
        graph = load_model(path, options=options)
    except UnsupportedError as error:
        return dataclasses.replace(empty, problems=_problems(error, path.name))
    except UsageError as error:
        return dataclasses.replace(empty, problems=(_usage(error, path.name),))
    return inspect_graph(graph, source=str(path), kind=_KINDS[kind], options=options)


def _inspect_onnx(path: Path, options: ImportOptions) -> Inspection:
    from edgeseq.frontend.onnx_file import describe_onnx
    from edgeseq.frontend.onnx_import import import_onnx

    info = describe_onnx(path)
    opset = f"opset {info.opset}" + "".join(f", {k} {v}" for k, v in info.domains.items() if k)
    said = Inspection(
        str(path),
        f"{_KINDS['onnx']}, {opset}",
        inputs=tuple(Port(v.name, v.dtype, _shape(v.shape)) for v in info.inputs),
        outputs=tuple(Port(v.name, v.dtype, _shape(v.shape)) for v in info.outputs),
        operations=info.operators,
        notes=(f"written by {info.producer}",) if info.producer else (),
    )
    try:
        read = import_onnx(path, name="model", options=options)
    except UnsupportedError as error:
        return dataclasses.replace(said, problems=_problems(error, path.name))
    except UsageError as error:  # something has to be said, or is said wrongly: show of what
        return dataclasses.replace(said, problems=(_usage(error, path.name),))
    found = inspect_graph(read.graph, source=said.source, kind=said.kind, options=options)
    carried = {s.input for s in read.states} | {s.output for s in read.states}

    def role(name: str, other: str) -> str:
        return "fixed" if name in options.values else "state" if name in carried else other

    passed = {s.input: s for s in read.states}
    shapes = {p.name: p.shape for p in said.inputs}
    states = [StateFound(n, n, s.output, shapes.get(n, ""), s.how) for n, s in passed.items()]
    times = ", ".join(f"axis {p.time} of {n}" for n, p in read.plans.items() if p.time is not None)
    return dataclasses.replace(
        found,
        inputs=tuple(dataclasses.replace(p, role=role(p.name, "frames")) for p in said.inputs),
        outputs=tuple(dataclasses.replace(p, role=role(p.name, "answer")) for p in said.outputs),
        # What the file passes in and out, then what the stream keeps besides.
        states=(*states, *(s for s in found.states if not _belongs(s.name, passed))),
        mode=cast(Mode, read.mode),
        time=found.time or times,
        operations=said.operations,
        notes=(*said.notes, *found.notes),
    )


def _belongs(state: str, passed: Iterable[str]) -> bool:
    """Whether a state of the Graph is (a part of) one that the file passes in and out."""
    return any(state.startswith(re.sub(r"\W", "_", name, flags=re.ASCII)) for name in passed)


def inspect_graph(
    graph: Graph,
    *,
    source: str,
    kind: str = "Graph",
    options: ImportOptions | None = None,
) -> Inspection:
    """What can be known from a real Graph, over time or a step.

    Args:
        graph: from a front end. In its `meta`, ``mode`` may say how it was read, ``states`` how
            states were recognised (a dict with the keys `input`, `output` and `how` by state name),
            ``axes`` how tensors lie, and ``notes`` what a user should know.
        source, kind: of the result.
        options: how it was read.
    """
    from edgeseq.passes import to_step

    facts = summarise(graph)
    mode = _mode(graph, options)
    problems: tuple[Problem, ...] = ()
    step: Graph | None = None
    try:
        step = to_step(graph)
    except UnsupportedError as error:
        problems = _problems(error, graph.name)
    cost = frame_cost(graph)
    carrying = graph if graph.is_step or step is None else step
    return Inspection(
        source=source,
        kind=kind,
        inputs=_ports(graph, graph.inputs, "frames"),
        outputs=_ports(graph, graph.outputs, "answer"),
        states=_states(carrying, graph.meta.get("states", {})),
        mode=mode,
        time=_time(graph, mode, options),
        delay=None if step is None else int(step.meta.get("delay", 0)),
        frames_per_step=None if step is None else int(step.meta.get("frames_per_step", 1)),
        parameters=facts["parameters"],
        macs_per_frame=cost.macs,
        operations=facts["operations"],
        problems=problems,
        notes=tuple(graph.meta.get("notes", ())),
    )


def _mode(graph: Graph, options: ImportOptions | None) -> Mode:
    said = graph.meta.get("mode")
    if said in ("step", "stream", "window"):
        return cast(Mode, said)
    if options is not None and options.window is not None:
        return "window"
    return "step" if graph.is_step else "stream"


def _problems(error: UnsupportedError, name: str) -> tuple[Problem, ...]:
    return error.problems or (("model", error.where or name, error.what, error.fix or ""),)


def _usage(error: UsageError, name: str) -> Problem:
    return ("options", error.where or name, error.what, error.fix or "")


def _ports(graph: Graph, names: Iterable[str], role: str) -> tuple[Port, ...]:
    return tuple(
        Port(
            n,
            "float32" if graph.types[n].dtype == "f32" else graph.types[n].dtype,
            _shape((*_length(graph, n), *graph.types[n].shape)),
            role,
        )
        for n in names
    )


def _length(graph: Graph, name: str) -> tuple[str, ...]:
    """How many elements a sequence has, for people: in input frames."""
    time = graph.types[name].time
    if time is None:
        return ()
    rate = Fraction(graph.tick, time.period)
    more = f"{rate.numerator} time" if rate.numerator > 1 else "time"
    return (more if rate.denominator == 1 else f"{more} / {rate.denominator}",)


def _states(graph: Graph, known: Mapping[str, Mapping[str, str]]) -> tuple[StateFound, ...]:
    found = []
    for s in graph.states:
        said = known.get(s.name, {})
        found.append(
            StateFound(
                s.name,
                said.get("input", ""),
                said.get("output", ""),
                _shape(graph.types[s.input].shape),
                said.get("how", "kept by the stream"),
            )
        )
    return tuple(found)


def _time(graph: Graph, mode: Mode, options: ImportOptions | None) -> str:
    if mode == "window" and options is not None:
        return f"windows of {options.window} frames, one every {options.step}"
    if mode == "step":
        return "none: the model takes one frame at a time"
    layouts = graph.meta.get("axes", {}).get("inputs", [])
    places = [
        f"axis {layout.index('T')} of {name}"
        for name, layout in zip(graph.inputs, layouts, strict=False)
        if "T" in layout
    ]
    return ", ".join(places)


def _shape(sizes: Iterable[object] | None) -> str:
    """A shape for people; a size that is not known is "?"."""
    if sizes is None:
        return "unknown"
    return f"[{', '.join('?' if s is None else str(s) for s in sizes)}]"
