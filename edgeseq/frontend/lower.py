"""From the neutral program of `torch.export` to a real Graph.

A program is read in one of three ways (`edgeseq.frontend.readings`): as a stream over time, as one
step with its states, or as a window. Batch and time are found by propagation: the axes of the
inputs are labelled, and every operator's lowering says where they lie in its result
(`edgeseq.frontend.axes`). An operation for which there is no lowering, or which would mix time into
the features, is collected, and all of them are reported in one error.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edgeseq.errors import GraphError, ModelError, Problem, UnsupportedError, UsageError
from edgeseq.frontend import lowerings
from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.build.rates import finer, framed
from edgeseq.frontend.build.spectrum import Complex
from edgeseq.frontend.context import LOWER, LOWER_COMPLEX, AxisConflict
from edgeseq.frontend.ends import note_ends
from edgeseq.frontend.interpret import DAMAGED, Lost, Lowering
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.pairing import keeps
from edgeseq.frontend.past import refuse_scores
from edgeseq.frontend.program import Program, graph_name
from edgeseq.frontend.readings import Carried, Lowered, Reading, no_time, readings
from edgeseq.frontend.reroll import reroll
from edgeseq.frontend.reroll_torch import TorchDialect
from edgeseq.frontend.scans import as_loops
from edgeseq.frontend.windows import as_window
from edgeseq.ir import Graph, check
from edgeseq.passes.split_states import split_states

__all__ = ["lower", "lowered", "supported"]

# Each module registers its lowerings when imported; they are found by their place.
for _module in pkgutil.iter_modules(lowerings.__path__):
    importlib.import_module(f"{lowerings.__name__}.{_module.name}")

_SUPPORTED = "edgeseq.frontend.lower.supported() lists the operators that can be compiled"
_WORDS = {"step": "one step", "stream": "a stream", "window": "a window"}
_MAX_OPERATIONS = 5_000


def supported() -> list[str]:
    """Names of the operators that can be compiled (without namespace and overload)."""
    return sorted({*LOWER, *LOWER_COMPLEX})


def lower(
    program: Program,
    *,
    name: str,
    options: ImportOptions | None = None,
    states: Sequence[Carried] = (),
) -> Graph:
    """Lower `program` to a real Graph: the first reading of `lowered` that can be.

    Raises:
        UnsupportedError: operations that cannot be compiled; all are listed.
        ModelError: the program contradicts itself.
        UsageError: `name` is not an identifier, or an axis does not exist.
    """
    return next(lowered(program, name=name, options=options, states=states)).graph


def lowered(
    program: Program,
    *,
    name: str,
    options: ImportOptions | None = None,
    states: Sequence[Carried] = (),
    compared: bool = False,
) -> Iterator[Lowered]:
    """Ways to read `program` that can be lowered, the likeliest first; at least one.

    Args:
        program: from a reader.
        name: of the Graph, a C identifier.
        options: axes of time and batch where they are not to be found, window, hop and context.
        states: inputs and buffers that are carried from call to call.
        compared: what is yielded will be compared with the model at another length, so a number
            that equals the example's length may be taken for it.

    Yields:
        The checked Graph. ``meta["axes"]`` says how the tensors of the original model lay, one
        letter per axis ('B' batch, 'T' time, 'F' features, '1' size one), for the inputs and
        outputs of the Graph; ``meta["mode"]`` is 'stream', 'step' or 'window'.

    Raises:
        UnsupportedError, ModelError, UsageError: as `lower`.
    """
    options = options or ImportOptions()
    if not (name.isidentifier() and name.isascii()):
        raise UsageError(
            f"the name {name!r} is not a C identifier", fix="use letters, digits and underscores"
        )
    if len(program.operations) > _MAX_OPERATIONS:
        raise UnsupportedError(
            f"has {len(program.operations)} operations",
            where=program.where,
            fix="a Python loop is unrolled by the exporter: use nn.RNN, nn.GRU or nn.LSTM, or "
            "export with fewer frames",
        )
    program = reroll(as_loops(program), TorchDialect())
    first: UnsupportedError | None = None
    best, reached = (0, 0), [0]
    found = False
    conflict: str | None = None
    for reading in readings(program, states, options):
        if conflict is not None and not reading.swapped and reading.mode != "step":
            continue
        if conflict is None and reading.swapped:
            continue
        if compared and reading.mode == "stream" and _is_open(program, reading):
            reading = replace(reading, open=True)
        if not compared and reading.mode == "stream":
            lost = [s for s in states if s.name in program.used() and not keeps(program, s)]
            if lost:
                first = first or _not_kept(program, lost)
                continue
        try:
            result = _with_context(program, name, reading, states, options, reached)
        except AxisConflict as e:
            if reading.swapped or options.time_axis is not None or options.batch_axis is not None:
                raise UnsupportedError(
                    f"{e} reads time and batch in another order than the input has them",
                    where=program.where,
                    fix="check batch_first of the recurrent layers, and time_axis and batch_axis",
                ) from None
            conflict = str(e)
            continue
        except UnsupportedError as e:
            # The likeliest reading is the one that gets furthest, then with the fewest problems:
            # one that takes another axis for time fails at the first layer, and hides the rest.
            score = (-reached[-1] if reached else 0, len(e.problems))
            if first is None or score < best:
                first, best = e, score
            continue
        found = True
        yield result
    if not found:
        raise first or no_time(program)


def _not_kept(program: Program, states: Sequence[Carried]) -> UnsupportedError:
    names = ", ".join(repr(s.label) for s in states)
    return UnsupportedError(
        f"passes on {names} in a way that a stream of frames may not keep",
        where=program.where,
        fix="export it with one frame, as a step",
        problems=[
            ("state", s.label, "is not seen to be what a stream keeps", "export a step of a frame")
            for s in states
        ],
    )


def _is_open(program: Program, reading: Reading) -> bool:
    """Whether the example's length is a size that the model holds nowhere else."""
    known = {n for a in program.constants.values() for n in np.shape(np.asarray(a))}
    for name in program.inputs:
        sizes = program.metas[name].sizes if name in program.metas else ()
        known |= {n for i, n in enumerate(sizes) if i != reading.time.get(name)}
    return reading.frames not in known


def _with_context(
    program: Program,
    name: str,
    reading: Reading,
    states: Sequence[Carried],
    options: ImportOptions,
    reached: list[int],
) -> Lowered:
    """Lower; where the masks of a stream's attention end by themselves, take their width.

    How many operations were lowered before the first problem is added to `reached`.
    """
    run = _Run(program, name, reading, states, options)
    try:
        return run.finest(options.context)
    except UnsupportedError as e:
        reached.append(run.reached)
        if options.context is not None or not run.attends or reading.mode != "stream":
            raise
        error = e
    probe = _Run(program, name, reading, states, options)
    try:
        result = probe.finest(max(reading.frames, 1))
    except UnsupportedError:
        raise error from None
    bands = probe.bands
    if not bands or not all(bands):
        raise error
    if max(bands) == reading.frames:
        return result
    return _Run(program, name, reading, states, options).finest(max(bands))


class _Run:
    """One lowering of a program, read in one way."""

    def __init__(
        self,
        program: Program,
        name: str,
        reading: Reading,
        states: Sequence[Carried],
        options: ImportOptions,
    ) -> None:
        self.program, self.reading, self.options = program, reading, options
        self.name, self.tick, self.finer = name, 1, 0
        self.graph = Graph(name)
        # A state that nothing reads is none, and its output no answer.
        used = program.used()
        self.states = [s for s in states if s.name in used]
        self.carried = {s.index for s in states}
        self.attends, self.reached = False, 0
        self.bands: list[int] = []

    def finest(self, context: int | None) -> Lowered:
        """The result; with a finer time where more frames are made than come in.

        Raises:
            UnsupportedError: what cannot be compiled, all of it.
        """
        while True:
            try:
                return self.result(context)
            except UnsupportedError:
                if not self.finer:
                    raise
                self.tick, self.graph = self.finer, Graph(self.name)

    def result(self, context: int | None) -> Lowered:
        """The Graph, its axes and states.

        Raises:
            UnsupportedError: what cannot be compiled, all of it.
        """
        tick, mode = self.tick, self.reading.mode
        low = Lowering(self.program, self.graph, context=context, mode=mode, tick=tick)
        low.c.frames = self.reading.frames if self.reading.open else 0
        low.bind(self.reading, self.states)
        low.run()
        self.attends, self.bands, self.reached = low.c.unlimited, low.c.bands, low.reached
        problems: list[Problem] = list(low.problems)
        outputs, layouts = self._outputs(low, problems)
        self.finer = finer(low.c)
        lost = len(outputs) < len(self._answers())
        if self.reading.mode != "stream":
            for state in self.states:
                lost = not self._carry(low, state, problems) or lost
        if lost or (problems and not outputs):
            raise self._unsupported(problems)
        if not self.graph.outputs:
            raise ModelError("has no output", where=self.program.where, fix="return a tensor")
        self.graph.prune()
        ports = self._drop_unread(low)
        self._describe(ports, layouts)
        try:
            check(self.graph, after="lower")
        except GraphError as e:
            where = f"{self.program.where}: {e.where}"
            raise ModelError(e.what, where=where, fix=DAMAGED) from None
        graph = self.graph
        if self.reading.mode != "stream":
            graph = split_states(graph)
        whole = graph
        if self.reading.mode == "window":
            graph = self._windowed(graph, ports)
        self._name_states(graph)
        if low.c.ends_otherwise:
            note_ends(graph, self.program.where)
        if low.c.notes:
            graph.meta["notes"] = list(low.c.notes)
        return Lowered(graph, whole, self.reading, ports, outputs, low.c.context, self.states)

    # -- outputs and states ----------------------------------------------------------------

    def _answers(self) -> list[int]:
        """Numbers of the outputs that are not states and not None; all, where all are states."""
        given = [i for i, out in enumerate(self.program.outputs) if out is not None]
        return [i for i in given if i not in self.carried] or given

    def _outputs(self, low: Lowering, problems: list[Problem]) -> tuple[list[int], list[str]]:
        made: list[int] = []
        layouts: list[str] = []
        for i in self._answers():
            value = low.resolve(self.program.outputs[i])
            if isinstance(value, Lost):
                continue
            label = f"output {i}"
            try:
                if isinstance(value, Complex):
                    raise LayoutError("is complex", "return torch.view_as_real of it")
                if not isinstance(value, Value):
                    raise LayoutError("does not depend on the input", "do not return it")
                refuse_scores(value)
                value = low.c.real(framed(low.c, value))
                layout = value.layout
                if "?" in layout:
                    raise LayoutError(
                        "merges batch, time or features into one axis",
                        "return it with axes of their own",
                    )
            except LayoutError as e:
                problems.append(("output", label, e.what, e.fix))
                continue
            if not self.graph.types[value.name].shape:
                shaped = self.graph.add_node(
                    "reshape", [value.name], name=f"output{i}.frame", shape=(1,)
                )
                value = replace(value, name=shaped)
            self.graph.outputs.append(value.name)
            made.append(i)
            layouts.append(layout)
        return made, layouts

    def _carry(self, low: Lowering, state: Carried, problems: list[Problem]) -> bool:
        """Let what the program makes of a state be the state after the step."""
        value = low.resolve(state.output)
        held = low.held.get(state.name)
        if isinstance(value, Lost):
            return False
        if held is None:  # nothing reads it
            return True
        graph = self.graph
        try:
            if not isinstance(value, Value):
                name = low.c.const(np.broadcast_to(value, state.init.shape), "state")
                sizes: tuple[int, ...] = state.init.shape
            else:
                value = low.c.real(value)
                name, sizes = value.name, value.sizes
            if tuple(sizes) != state.init.shape:
                raise LayoutError(
                    f"is {list(state.init.shape)} before the call and {list(sizes)} after it",
                    "a state keeps its shape: keep a fixed number of frames",
                )
        except LayoutError as e:
            problems.append(("state", state.label, e.what, e.fix))
            return False
        shape = graph.types[held].shape
        made = {v for node in graph.nodes for v in node.outputs}
        if graph.types[name].shape != shape or name not in made:
            name = graph.add_node("reshape", [name], name=f"{held}.next", shape=shape)
        graph.set_state(held, name)
        return True

    def _drop_unread(self, low: Lowering) -> list[str]:
        """Remove inputs that nothing reads; returns the program's names of the others."""
        graph = self.graph
        read = {v for n in graph.nodes for v in n.inputs} | set(graph.outputs)
        read |= {s.output for s in graph.states}
        ports = []
        for name in self.program.inputs:
            port = low.ports.get(name)
            if port is None:
                continue
            if port in read:
                ports.append(name)
                continue
            graph.inputs.remove(port)
            del graph.types[port]
            low.c.note(f"does not read its input {name!r}: it is left out")
        for s in [s for s in graph.states if s.input not in read]:
            graph.states.remove(s)
            del graph.types[s.input]
        graph.prune()
        return ports

    # -- what is known of it ---------------------------------------------------------------

    def _describe(self, ports: Sequence[str], outputs: Sequence[str]) -> None:
        reading = self.reading
        self.graph.meta = {
            "source": "torch.export",
            "mode": reading.mode,
            "axes": {
                "inputs": [reading.layout(self.program, n) for n in ports],
                "outputs": list(outputs),
            },
        }
        if reading.mode == "stream":
            self.graph.meta["length"] = reading.frames

    def _name_states(self, graph: Graph) -> None:
        """`meta["states"]`: how the states of the model were recognised, for people."""
        known = {}
        for s in graph.states:
            state = next((c for c in self.states if s.name.startswith(graph_name(c.label))), None)
            if state is not None:
                known[s.name] = {"input": state.label, "output": state.target, "how": state.how}
        if known:
            graph.meta["states"] = known

    def _windowed(self, graph: Graph, ports: Sequence[str]) -> Graph:
        window, hop = self.options.window, self.options.step
        assert window is not None and hop is not None
        if self.states and hop != window:
            raise UnsupportedError(
                "carries a state, which overlapping windows would feed the same frames twice",
                where=self.program.where,
                fix="give a hop equal to the window, or compile it as a stream",
            )
        wholes = {
            port: (self.reading.unbatched(self.program, name), time)
            for port, name in zip(graph.inputs, ports, strict=True)
            if (time := self.reading.time.get(name)) is not None
        }
        return as_window(graph, window, hop, wholes)

    def _unsupported(self, found: Sequence[Problem]) -> UnsupportedError:
        problems = _distinct(found)
        count = len(problems)
        head = "an operation cannot" if count == 1 else f"{count} operations cannot"
        lines = []
        for op, where, why, fix in problems:
            place = f" in {where!r}" if where else ""
            lines.append(f"  - {op}{place}: {why}" + (f"; {fix}" if fix else ""))
        return UnsupportedError(
            f"read as {_WORDS[self.reading.mode]}, {head} be compiled:\n" + "\n".join(lines),
            where=self.program.where,
            fix=_SUPPORTED,
            problems=problems,
        )


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    """Problems that differ by more than a number: an unrolled loop has one many times."""
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for p in problems:
        groups.setdefault((p[0], p[1], re.sub(r"\d+", "#", p[2])), []).append(p)
    out = []
    for (op, where, _), alike in groups.items():
        more = f" ({len(alike)} such)" if len(alike) > 1 else ""
        out.append((op, where, alike[0][2] + more, alike[0][3]))
    return out
