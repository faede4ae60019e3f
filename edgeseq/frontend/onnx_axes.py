"""Which axes of an ONNX file's inputs are batch and time: the ways to read it, the likeliest first.

A file names its open sizes, or an exporter did ("s77", "x_dynamic_axes_1"); some name none. What is
called a batch or time is one, and so is a batch what a state and the data share. For the rest
customs are tried in turn, and an operation that would mix frames refuses the wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeseq.errors import UnsupportedError, UsageError
from edgeseq.frontend.onnx_lower import Carried, InputPlan
from edgeseq.frontend.onnx_states import is_length
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.program import Program, ValueInfo

__all__ = ["Layout", "layouts", "open_sizes"]

Size = int | str | None

_BATCH = re.compile(r"^(n|b|bs|bsz|batch|batch_?(size|dim)|batches|\?|none)$", re.IGNORECASE)
_TIME = re.compile(
    r"^(t|time(_?(steps?|dim|axis))?|(n_?|num_?)?(frames?|steps)|(seq|sequence)(_?(len|length|dim))?"
    r"|len|length)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Layout:
    """One way to read the inputs.

    Attributes:
        mode: 'step', 'stream' or 'window'.
        sizes: of every axis of every input, batches 1; that of time is None where the file leaves
            it open.
        time: axis of time (in window mode of the window's frames) by input; not of all.
        stated: the user, or names in the file, say where time is.
        lengths: inputs that count the frames of each sequence.
    """

    mode: str
    sizes: Mapping[str, tuple[int | None, ...]]
    time: Mapping[str, int] = field(default_factory=dict)
    stated: bool = False
    lengths: tuple[str, ...] = ()

    @property
    def static(self) -> int | None:
        """Frames of the sequence that the file takes, where it takes one length only."""
        known = [n for name, d in self.time.items() if (n := self.sizes[name][d]) is not None]
        return known[0] if known else None

    def plans(self, length: int, infos: Mapping[str, ValueInfo]) -> dict[str, InputPlan]:
        """How each input is read where time that is open has `length` frames."""
        return {
            name: InputPlan(
                tuple(length if n is None else n for n in sizes),
                self.time.get(name) if self.mode == "stream" else None,
                infos[name].dtype,
            )
            for name, sizes in self.sizes.items()
        }


class _Inputs:
    """The inputs of a file while a way to read them is looked for."""

    def __init__(
        self,
        program: Program,
        infos: Mapping[str, ValueInfo],
        states: Sequence[Carried],
        options: ImportOptions,
    ) -> None:
        self.program, self.options = program, options
        carried = {s.input for s in states}
        self.lengths = tuple(
            n for n in program.inputs
            if n not in carried and is_length(program, n) and len(infos[n].shape or ()) < 2
        )  # fmt: skip
        self.data = [n for n in program.inputs if n not in (*carried, *self.lengths)]
        self.states = states
        self.shapes: dict[str, list[Size]] = {}
        for n, info in infos.items():
            if info.shape is None:
                raise UnsupportedError(
                    f"input {n!r} has no shape", where=program.where, fix="export with shapes"
                )
            self.shapes[n] = list(info.shape)
        # States have no axis of time: what they share with the data is the batch.
        shared = {s for n in carried for s in self.shapes[n] if isinstance(s, str)}
        self.states_open = any(not isinstance(s, int) for n in carried for s in self.shapes[n])
        for n in (*carried, *self.lengths):
            self.shapes[n] = [s if isinstance(s, int) else 1 for s in self.shapes[n]]
        self.has_batch = False
        for n in self.data:
            stated = options.time_axis_of(n)
            found = [
                i
                for i, size in enumerate(self.shapes[n])
                if not isinstance(size, int) and i != stated
                and (i == options.batch_axis
                     or (isinstance(size, str) and (_BATCH.match(size) or size in shared)))
            ]  # fmt: skip
            # One axis is the batch: "n" may be a number of samples.
            sure = [i for i in found if str(self.shapes[n][i]).lower() not in ("n", "?", "none")]
            for i in sure or found[:1]:
                self.shapes[n][i] = 1
                self.has_batch = True

    def open(self, name: str) -> list[int]:
        return [i for i, s in enumerate(self.shapes[name]) if not isinstance(s, int)]

    def timed(self, name: str) -> list[int]:
        """Open axes that the file calls time."""
        return [i for i in self.open(name) if _TIME.match(str(self.shapes[name][i] or ""))]

    @property
    def main(self) -> str | None:
        """The input that shows where time is: most open axes, then most axes, then the first."""
        if not self.data:
            return None
        return max(self.data, key=lambda n: (len(self.open(n)), len(self.shapes[n])))

    def layout(self, mode: str, time: Mapping[str, int], batch: Mapping[str, int]) -> Layout | None:
        """The layout with these axes; None where a size stays open."""
        sizes: dict[str, tuple[int | None, ...]] = {}
        window = self.options.window if mode == "window" else None
        for n, shape in self.shapes.items():
            out: list[int | None] = []
            for i, size in enumerate(shape):
                if time.get(n) == i and mode != "step":
                    out.append(window or (size if isinstance(size, int) and size > 1 else None))
                elif isinstance(size, int):
                    out.append(size)
                elif batch.get(n) == i:
                    out.append(1)
                else:
                    return None
            sizes[n] = tuple(out)
        if mode == "step":
            return Layout(mode, sizes)
        return Layout(mode, sizes, dict(time), lengths=self.lengths if time else ())

    def alike(
        self, name: str, time: int | None, batch: int | None
    ) -> tuple[int | None, int | None]:
        """Time and batch of an input beside the main one, whose axes are given."""
        main = self.main
        assert main is not None
        if name == main:
            return time, batch
        have, first = self.shapes[name], self.shapes[main]
        left = self.open(name)
        found: list[int | None] = [None, None]
        for k, axis in enumerate((batch, time)):
            symbol = None if axis is None else first[axis]
            if isinstance(symbol, str) and symbol in have:
                found[k] = have.index(symbol)
                left = [i for i in left if i != found[k]]
        if batch is not None and found[0] is None and batch in left:
            found[0] = batch
            left.remove(batch)
        if time is not None and found[1] is None:
            if left:
                found[1] = time if time in left else left[0]
            elif isinstance(first[time], int) and time < len(have) and have[time] == first[time]:
                found[1] = time
        return found[1], found[0]

    def choices(self) -> Iterator[tuple[int | None, int | None]]:
        """(time, batch) of the main input."""
        assert self.main is not None
        shape = self.shapes[self.main]
        rank, opens = len(shape), self.open(self.main)
        order = [1, 0, *range(2, rank)] if rank >= 3 else list(range(rank))
        static = [i for i in order if i < rank and isinstance(n := shape[i], int) and n != 1]
        if self.has_batch:
            yield from ((t, None) for t in opens or static)
            return
        timed = self.timed(self.main)
        if len(opens) > 1:
            yield from ((t, b) for b in opens for t in timed or opens if t != b)
        if len(opens) != 1:
            if not opens:
                yield from ((t, None) for t in static)
            return
        (a,) = opens
        if timed:
            yield a, None
            return
        guessed = [(t, a) for t in static if t != a]
        if (a == 0 and rank >= 3) or (a == 1 and shape[0] != 1):
            # [batch, 20, features] is likelier than [time, 20, features].
            yield from guessed
            yield a, None
        else:
            yield a, None
            if a == 0:
                yield from guessed


def layouts(
    program: Program,
    infos: Mapping[str, ValueInfo],
    states: Sequence[Carried],
    options: ImportOptions,
) -> list[Layout]:
    """Ways to read the inputs, the likeliest first; at least one.

    Raises:
        UnsupportedError: an input has no shape.
        UsageError: sizes are open that nobody can guess, or axes that do not exist are named.
    """
    inputs = _Inputs(program, infos, states, options)
    found: list[Layout] = []

    def add(layout: Layout | None) -> None:
        if layout is not None and layout not in found:
            found.append(layout)

    stated = options.time_axes(inputs.data, program.inputs, program.where)
    rank = max((len(inputs.shapes[n]) for n in inputs.data), default=0)
    if options.batch_axis is not None and options.batch_axis >= rank:
        raise UsageError(
            f"axis {options.batch_axis} as batch: the inputs have at most {rank} axes",
            where=program.where,
            fix="--batch-axis N counts from 0",
        )
    if stated:
        add(_stated(inputs, stated))
    else:
        _guess(inputs, add)
    if not found:
        names = sorted(
            {str(s or f"{n}:{i}") for n, shape in inputs.shapes.items()
             for i, s in enumerate(shape) if not isinstance(s, int)}
        )  # fmt: skip
        raise UsageError(
            f"the file leaves sizes open: {', '.join(names)}",
            where=program.where,
            fix=f"fix each, such as --set {names[0]}=N, or name the axis that is time: "
            "--time-axis INPUT:N",
        )
    return found


def _guess(inputs: _Inputs, add: Callable[[Layout | None], None]) -> None:
    mode = "window" if inputs.options.window is not None else "stream"
    opens = {n: inputs.open(n) for n in inputs.data}
    first = {n: v[0] for n, v in opens.items() if v}
    closed = not first
    # One open axis in the states and one in the data: the batch, whatever it is called.
    both = inputs.states_open and all(len(v) < 2 for v in opens.values()) and not inputs.has_batch
    if inputs.states and mode == "stream" and (closed or both):
        add(inputs.layout("step", {}, first))
    if inputs.main is not None:
        for t, b in inputs.choices():
            pairs = {n: inputs.alike(n, t, b) for n in inputs.data}
            time = {n: p[0] for n, p in pairs.items() if p[0] is not None}
            batch = {n: p[1] for n, p in pairs.items() if p[1] is not None}
            add(inputs.layout(mode, time, batch))
    # By custom the first axis of several is the batch.
    custom = not inputs.has_batch and all(
        v in ([], [0]) and (not v or len(inputs.shapes[n]) > 1) and not inputs.timed(n)
        for n, v in opens.items()
    )
    if mode == "stream" and (closed or custom):
        add(inputs.layout("step", {}, first))


def _stated(inputs: _Inputs, stated: dict[str, int]) -> Layout | None:
    """The layout with the axes of time that the user names."""
    program, options = inputs.program, inputs.options
    for n, a in stated.items():
        if a >= len(inputs.shapes[n]):
            raise UsageError(
                f"input {n!r} has {len(inputs.shapes[n])} axes, axis {a} is to be time",
                where=program.where, fix="--time-axis INPUT:N counts from 0",
            )  # fmt: skip
    time, batch = dict(stated), {}
    symbols = {s for n, a in stated.items() if isinstance(s := inputs.shapes[n][a], str)}
    for n in inputs.data:
        shape = inputs.shapes[n]
        if n not in time:
            time |= {n: i for i, s in enumerate(shape) if s in symbols}  # noqa: B035
        left = [i for i in inputs.open(n) if i != time.get(n)]
        if len(left) == 1:
            batch[n] = left[0]
    mode = "window" if options.window is not None else "stream"
    layout = inputs.layout(mode, time, batch)
    return None if layout is None else replace(layout, stated=True)


def open_sizes(infos: Mapping[str, ValueInfo], states: Sequence[Carried]) -> list[str]:
    """Sizes of data inputs that the file leaves open, batches left out."""
    carried = {s.input for s in states}
    return sorted(
        {
            str(size or f"{n}:{i}")
            for n, info in infos.items()
            if n not in carried
            for i, size in enumerate(info.shape or ())
            if not isinstance(size, int)
            and not (isinstance(size, str) and _BATCH.match(size))
            and not (size is None and i == 0 and len(info.shape or ()) > 1)
        }
    )
