"""An `.onnx` file as a real Graph: a step with its states, a stream over time, or a window.

A file that passes its states in and out is one step; what it is called with is a frame. A file that
takes sequences becomes a Graph over time, which the stream pass makes a step of. Where a file does
not say which axis is time, candidates are tried in turn, and the first that lowers is taken: an
operation that would mix frames refuses the wrong one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgeseq.errors import GraphError, ModelError, Problem, UnsupportedError, UsageError
from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.build.rates import finer, framed
from edgeseq.frontend.ends import note_ends
from edgeseq.frontend.onnx_axes import Layout, layouts, open_sizes
from edgeseq.frontend.onnx_chunks import Side, first_gap
from edgeseq.frontend.onnx_dynamic import ROUNDED, without_dynamic_scales
from edgeseq.frontend.onnx_file import read_onnx
from edgeseq.frontend.onnx_lengths import difference, fixed_lengths, open_lengths
from edgeseq.frontend.onnx_lower import Carried, InputPlan, Lost, Lowering
from edgeseq.frontend.onnx_states import find_states, near_misses
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.past import refuse_scores
from edgeseq.frontend.program import Program, Ref, ValueInfo, graph_name
from edgeseq.frontend.reroll import LOOP, reroll
from edgeseq.frontend.reroll_onnx import OnnxDialect, unrolled
from edgeseq.frontend.windows import as_window
from edgeseq.ir import Graph, check
from edgeseq.ir.ops import OVER_TIME
from edgeseq.passes.split_states import split_states

__all__ = ["Imported", "import_onnx", "load_onnx"]

_WORDS = {"step": "one step", "stream": "a stream", "window": "a window"}


@dataclass
class Imported:
    """A file that was read.

    Attributes:
        graph: the real Graph.
        program: what was in the file.
        mode: 'step', 'stream' or 'window'.
        states: as they were recognised.
        plans: how each input was read.
        notes: what a user should know.
        tensors: sizes of each output in the file, and its axis of time (None: it has none).
    """

    graph: Graph
    program: Program
    mode: str
    states: list[Carried]
    plans: dict[str, InputPlan]
    notes: list[str] = field(default_factory=list)
    tensors: list[tuple[tuple[int, ...], int | None]] = field(default_factory=list)

    @property
    def single(self) -> bool:
        """Whether one frame is left of a sequence of a fixed length."""
        return any(at is not None and sizes[at] == 1 for sizes, at in self.tensors)


def load_onnx(path: str | Path, *, name: str, options: ImportOptions) -> Graph:
    """Read an `.onnx` file into a real Graph: a step, or over time.

    Args:
        path: the file; nothing in it is executed.
        name: of the Graph, a C identifier.
        options: fixed sizes and inputs, states, axes, window (`ImportOptions`).

    Returns:
        The Graph. ``meta["source"]`` is 'onnx'; ``meta["onnx"]`` says how inputs were read and
        ``meta["states"]`` how states were recognised.

    Raises:
        ModelError: the file is missing or damaged.
        UnsupportedError: something in it cannot be compiled; all such operations are listed.
        UsageError: options that do not fit the file.
    """
    return import_onnx(Path(path), name=name, options=options).graph


def import_onnx(path: Path, *, name: str, options: ImportOptions) -> Imported:
    """As `load_onnx`, with what was found out on the way."""
    if not (name.isidentifier() and name.isascii()):
        raise UsageError(
            f"the name {name!r} is not a C identifier", fix="use letters, digits and underscores"
        )
    program, rounded = without_dynamic_scales(_read(path, options))
    infos = {n: program.declared[n] for n in program.inputs}
    shapes = {n: i.shape for n, i in program.declared.items()}
    states = [
        replace(s, init=options.values.get(s.input))
        for s in find_states(program, options.states, shapes)
    ]
    program = reroll(program, OnnxDialect())
    best: _Refused | None = None
    idle: Imported | None = None
    for layout in layouts(program, infos, states, options):
        try:
            made = _laid_out(program, name, layout, infos, states, options)
        except _Refused as e:
            # Where the file says that an axis is open, the likeliest way is the one to tell of.
            e.likely = layout.mode == "stream" and layout.static is None and e.done > 0.05
            if best is None or (not best.likely and (e.likely or e.done > best.done)):
                best = e
            continue
        made.notes += [*([ROUNDED] if rounded else []), *_doubts(program, states, shapes)]
        if made.mode == "step":
            made.notes += unrolled(program)
        if made.notes:
            made.graph.meta["notes"] = made.notes
        if layout.mode != "stream" or layout.stated or (_remembers(made.graph) and not made.single):
            return made
        # Nothing in it looks at other frames, or all of them make one: that says nothing of where
        # time is, and a step on all of the frames may be meant.
        if best is None and idle is None:
            idle = made
    if idle is not None:
        return idle
    assert best is not None
    sizes = open_sizes(infos, states)
    if states and sizes and options.window is None and not options.time_axis:
        raise UsageError(
            f"the file leaves sizes open: {', '.join(sizes)}; as time, it does not compile: "
            + best.what,
            where=program.where,
            fix=f"if it is a step, fix each size, such as --set {sizes[0]}=N",
        )
    raise UnsupportedError(best.what, where=best.where, fix=best.fix, problems=best.problems)


class _Refused(UnsupportedError):
    """One way to read a file that does not work.

    Attributes:
        done: the part of its operations that could be compiled: of the likelier ways more.
        likely: that this is what is meant.
        finer: ticks of an input frame with which more could be compiled, or 0.
    """

    done: float = 1.0
    likely: bool = False
    finer: int = 0


def _doubts(
    program: Program,
    states: Sequence[Carried],
    shapes: Mapping[str, Sequence[int | str | None] | None],
) -> list[str]:
    """What may have been read otherwise than it is meant."""
    carried = {s.input for s in states}
    if len([n for n in program.inputs if n not in carried]) < 2:
        return []
    return [
        f"input {a!r} and output {b!r} have one shape: if they carry a state, say --state {a}:{b}"
        for a, b in near_misses(program, states, shapes)
    ]


def _remembers(graph: Graph) -> bool:
    """Whether something in a Graph over time looks at other frames than its own."""
    return any(
        n.op in OVER_TIME or (n.op == "scan" and graph.types[n.outputs[0]].time is not None)
        for n in graph.nodes
    )


def _laid_out(
    program: Program,
    name: str,
    layout: Layout,
    infos: Mapping[str, ValueInfo],
    states: Sequence[Carried],
    options: ImportOptions,
) -> Imported:
    """The file read with its axes as given, for sequences of any length or of the file's.

    Raises:
        UnsupportedError: operations that cannot be compiled, or that compute with the length.
    """

    def read(length: int, frames: int = 0) -> Imported:
        plans = layout.plans(length, infos)
        return _finest(program, name, layout, plans, states, options, frames)

    if layout.mode != "stream" or layout.static is not None:
        made = read(layout.static or options.window or 1)
        loops = any(op.target == LOOP for op in program.operations)
        if layout.mode == "stream" and states and loops:
            _check_chunks(made, program, layout, infos, states, options)
        return made
    first, fixed = None, False
    for length, other in open_lengths(program):
        try:
            made = read(length, length)
            odd = difference(made.graph, read(other, other).graph)
            if odd is None:
                if states:
                    _check_chunks(made, program, layout, infos, states, options)
                return made
            what = "computes with the length of the sequence"
            fix = "compile in window mode (--window N --hop N)"
            error = _unsupported(program, [("model", odd, what, fix)], "stream")
        except _Refused as e:
            error = e
        fixed = fixed or any("sizes do not match" in p[2] for p in error.problems)
        if first is None or error.done > first.done:
            first = error
    assert first is not None
    if fixed:
        for length in fixed_lengths(program):
            try:
                made = read(length)
            except _Refused as e:
                if not any(p[0] in ("Reshape", "Expand") for p in e.problems):
                    first = e  # what is wrong besides
                continue
            made.notes.append(
                f"leaves the length of its sequences open but holds views or a loop of {length} "
                "frames: read for these; other programs can run it at this length only"
            )
            made.graph.meta["notes"] = made.notes
            return made
    raise first


def _read(path: Path, options: ImportOptions) -> Program:
    """The program, symbolic sizes and scalar inputs fixed as the user says."""
    from edgeseq.frontend.onnx_file import describe_onnx

    if not options.values:
        return read_onnx(path)
    info = describe_onnx(path)
    inputs = {i.name: i for i in info.inputs}
    dims: dict[str, int] = {}
    values: dict[str, float] = {}
    for key, number in options.values.items():
        symbol = any(key in (i.shape or ()) for i in info.inputs)
        if symbol or (":" in key and key.rpartition(":")[0] in inputs):
            dims[key] = int(number)
        elif key in inputs:
            values[key] = number
        else:
            known = [*inputs, *info.open_dims]
            from edgeseq.errors import unknown_name

            raise UsageError(
                unknown_name("input or size", key, known), where=str(path), fix="--set NAME=VALUE"
            )
    given = {n for n, _ in options.states}
    states = {k: v for k, v in values.items() if k in given}
    return read_onnx(path, dims=dims, values={k: v for k, v in values.items() if k not in states})


def _check_chunks(
    made: Imported,
    program: Program,
    layout: Layout,
    infos: Mapping[str, ValueInfo],
    states: Sequence[Carried],
    options: ImportOptions,
) -> None:
    """Raise where the file answers differently cut into chunks (UnsupportedError)."""
    step = replace(layout, mode="step")
    periods = [t.time.period for t in made.graph.types.values() if t.time is not None]
    unit = math.lcm(made.graph.tick, *periods) // made.graph.tick
    length = layout.static or unit * -(-8 // unit)
    chunk = _finest(program, "chunk", step, step.plans(length, infos), states, options, 0)
    names = made.graph.meta["onnx"]["names"]
    odd = first_gap(
        Side(made.graph, made.plans, made.tensors),
        Side(chunk.graph, chunk.plans, chunk.tensors),
        lambda v: str(names[v]),
        length,
    )
    if odd is not None:
        n, d = next(iter(layout.time.items()))
        symbol = (infos[n].shape or ())[d] or f"{n}:{d}"
        fix = f"fix the chunk: --set {symbol}=N"
        if layout.static is not None:
            fix = f"leave out --time-axis: the file is then one step on {length} frames"
        raise _unsupported(
            program,
            [("model", odd, f"answers differently cut into chunks of {length} frames: its states "
              "are not all that it takes from chunk to chunk",
              fix)],
            "stream",
        )  # fmt: skip


def _finest(
    program: Program,
    name: str,
    layout: Layout,
    plans: dict[str, InputPlan],
    states: Sequence[Carried],
    options: ImportOptions,
    frames: int,
) -> Imported:
    """The file lowered; with a finer time where it makes more frames than come in."""
    tick = 1
    while True:
        try:
            return _lowered(program, name, layout, plans, states, options, frames, tick)
        except _Refused as e:
            if not e.finer:
                raise
            tick = e.finer


def _lowered(
    program: Program,
    name: str,
    layout: Layout,
    plans: dict[str, InputPlan],
    states: Sequence[Carried],
    options: ImportOptions,
    frames: int,
    tick: int,
) -> Imported:
    graph, mode = Graph(name), layout.mode
    low = Lowering(program, graph, context=options.context, tick=tick)
    low.c.frames = frames
    for n in layout.lengths:  # all frames count
        length = next(plans[v].sizes[d] for v, d in layout.time.items())
        low.env[n] = np.full(plans[n].sizes, length, np.int64)
    low.bind_inputs(plans, states, stream=mode == "stream")
    low.run()
    problems: list[Problem] = list(low.spent.problems)
    state_outputs = {s.output: s for s in states}
    # A file may answer with its states alone.
    answers = all(isinstance(o, Ref) and o.name in state_outputs for o in program.outputs)
    lost = False
    letters: dict[str, str] = {}
    tensors: list[tuple[tuple[int, ...], int | None]] = []
    for i, out in enumerate(program.outputs):
        label = out.name if isinstance(out, Ref) else str(i)
        value = low.resolve(out)
        if label in state_outputs and mode == "stream" and not answers:
            continue  # the scan that ends there carries it
        if isinstance(value, Lost):
            lost = True
            continue
        try:
            if not isinstance(value, Value) and layout.lengths:
                low.c.note(f"output {label!r} depends on the number of frames alone: left out")
                continue
            if not isinstance(value, Value):
                raise LayoutError("does not depend on the input", "do not return it")
            if value.name in low.c.quantised:
                raise LayoutError("is stored integers", "return what DequantizeLinear makes of it")
            refuse_scores(value)
            if (
                frames
                and low.c.timed(value)
                and "T" not in (a.label for axis in value.axes for a in axis)
            ):
                raise LayoutError("has no axis for its frames", "give time an axis of its own")
            value = low.c.real(framed(low.c, low.c.real(value), must=False))
            if any(a.label == "T" for axis in value.axes for a in axis[1:]):
                raise LayoutError(
                    "merges time into an axis behind features", "return it with axes of their own"
                )
            if label in state_outputs and mode != "stream":
                _carry(low, graph, state_outputs[label], value, plans)
                if not answers:
                    continue
            if not graph.types[value.name].shape:
                made = graph.add_node("reshape", [value.name], name=low.c.name("frame"), shape=(1,))
                value = replace(value, name=made)
        except LayoutError as e:
            problems.append(("output", label, e.what, e.fix))
            lost = True
            continue
        graph.outputs.append(value.name)
        letters[label], at = _letters(low, value, mode, frames)
        tensors.append((value.sizes, at))
    if lost or (problems and not graph.outputs):
        error = _unsupported(program, problems, mode)
        error.done = 1.0 - low.spent.lost / max(low.spent.operations, 1)
        error.finer = finer(low.c)
        raise error
    if not graph.outputs:
        raise ModelError("has no output", where=program.where, fix="return a tensor")
    graph.prune()
    _keep_used_states(graph, states, mode)
    made_here = {v for n in graph.nodes for v in n.outputs}
    carried_on = {s.output for s in graph.states}
    for value, label in zip(list(graph.outputs), letters, strict=True):
        # The file's own names, where the value is an output and nothing else.
        if value in made_here - carried_on and graph.outputs.count(value) == 1:
            graph.rename(value, graph_name(label))
    files = {v: n for n, v in low.held.items()}
    graph.meta = {
        "source": "onnx",
        "axes": {
            "inputs": [
                _layout(plans[files.get(v, v)]) for v in graph.inputs if files.get(v, v) in plans
            ],
            "outputs": list(letters.values()),
        },
        "onnx": {
            "mode": mode,
            "states": [[s.input, s.output] for s in states],
            "lengths": list(layout.lengths),
            "inputs": {n: list(p.sizes) for n, p in plans.items()},
            "time": {n: p.time for n, p in plans.items() if p.time is not None},
            "names": {v: files.get(v, v) for v in graph.inputs},
            "outputs": letters,
        },
    }
    if low.c.ends_otherwise:
        try:
            note_ends(graph, program.where)
        except UnsupportedError as e:
            raise _unsupported(program, list(e.problems), mode) from None
    if mode == "stream" and layout.static:
        graph.meta["length"] = layout.static
    if low.c.notes:
        graph.meta["notes"] = list(low.c.notes)
    try:
        check(graph, after="the front end")
    except GraphError as e:
        raise ModelError(
            e.what, where=f"{program.where}: {e.where}", fix="check the weights of the model"
        ) from None
    if mode != "stream":
        graph = split_states(graph)
        graph.meta["states"] = {
            s.name: {"input": c.input, "output": c.output, "how": c.how}
            for s in graph.states
            for c in states
            if re.fullmatch(rf"{re.escape(low.held[c.input])}(_\d+)*", s.name)
        }
    if mode == "window":
        assert options.step is not None and options.window is not None
        wholes = {low.held[n]: (plans[n].sizes, axis) for n, axis in layout.time.items()}
        graph = as_window(graph, options.window, options.step, wholes)
    notes = list(low.c.notes)
    return Imported(graph, program, mode, list(states), plans, notes, tensors)


def _letters(low: Lowering, v: Value, mode: str, frames: int) -> tuple[str, int | None]:
    """A letter per axis of an output, and its axis of time."""
    letters = v.layout
    if mode == "stream" and not frames and low.c.steady(v):
        # A sequence of a fixed length of which one frame is left: any axis of 1 may be time.
        letters = letters.replace("1", "T", 1)
    return letters, letters.index("T") if letters.count("T") == 1 else None


def _layout(plan: InputPlan) -> str:
    """One letter per axis: time, features, or size one."""
    return "".join(
        "T" if i == plan.time else "1" if n == 1 else "F" for i, n in enumerate(plan.sizes)
    )


def _carry(
    low: Lowering, graph: Graph, state: Carried, value: Value, plans: dict[str, InputPlan]
) -> None:
    """Let `value` be what the state is after the step."""
    want = plans[state.input].sizes
    if value.sizes != want:
        raise LayoutError(
            f"carries a state of {list(want)} that is {list(value.sizes)} after the step",
            "name the pair with --state IN:OUT",
        )
    held = low.held[state.input]
    name = value.name
    if graph.types[name].shape != graph.types[held].shape:
        name = graph.add_node(
            "reshape", [name], name=low.c.name("state"), shape=graph.types[held].shape
        )
    graph.set_state(held, name)


def _keep_used_states(graph: Graph, states: Sequence[Carried], mode: str) -> None:
    """Drop inputs that nothing reads."""
    used = {v for n in graph.nodes for v in n.inputs} | set(graph.outputs)
    used |= {s.output for s in graph.states}
    for name in [n for n in graph.inputs if n not in used]:
        graph.inputs.remove(name)
        del graph.types[name]


def _unsupported(program: Program, problems: list[Problem], mode: str) -> _Refused:
    count = len(problems)
    head = "an operation cannot" if count == 1 else f"{count} operations cannot"
    lines = [
        f"  - {op} at {where}: {why}" + (f"; {fix}" if fix else "")
        for op, where, why, fix in problems
    ]
    return _Refused(
        f"read as {_WORDS[mode]}, {head} be compiled:\n" + "\n".join(lines),
        where=program.where,
        fix="edgeseq inspect lists what a model holds and what is supported instead",
        problems=problems,
    )
