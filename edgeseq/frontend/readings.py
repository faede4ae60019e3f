"""Which axes of a program's inputs are time and batch: the ways to read a model, in turn.

Sizes do not say which axis is time. What a user states is taken. Otherwise customs are tried, the
likeliest first, and an operation that would mix frames refuses the wrong one: [batch, time,
features]; time first where a recurrent layer says so; [batch, channels, time] and [batch, channels,
time, features] where the model holds convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from edgeseq.errors import ModelError, UsageError
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.program import Program, TensorMeta
from edgeseq.ir import Graph

__all__ = ["Carried", "Lowered", "Reading", "no_time", "readings"]

_SLIDING = (
    "conv1d", "conv2d", "convolution", "conv_transpose1d", "conv_transpose2d", "max_pool1d",
    "max_pool2d", "avg_pool1d", "avg_pool2d", "max_pool2d_with_indices", "batch_norm",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "native_batch_norm", "_convolution",
    "_native_batch_norm_legit_no_training", "group_norm", "instance_norm", "im2col",
    "stft", "unfold",
)  # fmt: skip
_RUNNING = ("gru", "lstm", "rnn_relu", "rnn_tanh")


@dataclass(frozen=True)
class Carried:
    """A state that a model passes from call to call.

    Attributes:
        name: input or buffer of the program that holds it before the call.
        output: what the program makes of it.
        init: what it is before the first call, in the tensor's shape.
        label, target: what to call it before and after the call, for people.
        how: how it was recognised.
        index: number of the output that carries it, or None of a buffer.
    """

    name: str
    output: Any
    init: npt.NDArray[Any]
    label: str
    target: str = ""
    how: str = ""
    index: int | None = None


@dataclass(frozen=True)
class Reading:
    """Where batch and time are.

    Attributes:
        mode: 'stream', 'step' or 'window'.
        time, batch: axis by input; inputs without one are left out.
        swapped: time before the batch, as a recurrent layer demanded it.
        frames: of the example.
        open: a number equal to `frames` stands for the length of the sequence.
    """

    mode: str
    time: Mapping[str, int] = field(default_factory=dict)
    batch: Mapping[str, int] = field(default_factory=dict)
    swapped: bool = False
    frames: int = 1
    open: bool = False

    def label(self, name: str, axis: int, size: int) -> str:
        """'B', 'T', 'F', or '' for an axis of size 1."""
        if self.batch.get(name) == axis:
            return "B"
        if self.time.get(name) == axis and self.mode == "stream":
            return "T"
        return "F" if size != 1 or self._only(name, axis) else ""

    def _only(self, name: str, axis: int) -> bool:
        return self.mode == "window" and self.time.get(name) == axis

    def layout(self, program: Program, name: str) -> str:
        """One letter per axis of an input."""
        sizes = program.metas[name].sizes
        letters = [self.label(name, i, n) or "1" for i, n in enumerate(sizes)]
        if self.mode == "stream" and "F" not in letters and "1" in letters:
            # A frame of one number keeps its last axis.
            last = len(letters) - 1 - letters[::-1].index("1")
            letters[last] = "F"
        return "".join(letters)

    def unbatched(self, program: Program, name: str) -> tuple[int, ...]:
        """Sizes of an input for one stream: its axis of the batch is 1."""
        batch = self.batch.get(name)
        return tuple(1 if i == batch else n for i, n in enumerate(program.metas[name].sizes))


@dataclass
class Lowered:
    """A program, lowered.

    Attributes:
        graph: the Graph.
        whole: in window mode the step that takes a whole window; else the Graph.
        reading: how the inputs were read.
        inputs: names of the program behind the Graph's inputs.
        outputs: numbers of the program's outputs behind the Graph's.
        context: frames that attention looks back on; 0 where there is none.
        states: what is carried.
    """

    graph: Graph
    whole: Graph
    reading: Reading
    inputs: list[str]
    outputs: list[int]
    context: int
    states: list[Carried]


def readings(
    program: Program, states: Sequence[Carried], options: ImportOptions
) -> Iterator[Reading]:
    """Ways to read the inputs of `program`, the likeliest first.

    Raises:
        UsageError: axes that do not exist.
        ModelError: one frame does not show where time goes.
    """
    carried = {s.name for s in states}
    used = program.used()
    data = [n for n in program.inputs if n not in carried and n in used]
    for n in data:
        _check(program, n)
    if not data:
        raise ModelError(
            "does not read its input", where=program.where, fix="use the input in forward"
        )
    mode = "window" if options.window is not None else "stream"
    short = found = False
    other: int | None = None  # frames along an axis that is not as long as the window
    for time, batch, swapped in _axes(program, data, options):
        frames = next(program.metas[n].sizes[a] for n, a in time.items())
        if mode == "stream" and frames == 1:
            short = True
            continue
        if mode == "window" and frames != options.window:
            other = other or frames
            continue
        found = True
        # Where the usual axis has one frame, the other is not only for layers that ask for it.
        yield Reading(mode, time, batch, swapped and not short, frames)
    if other and not found:
        raise UsageError(
            f"a window of {options.window} frames, but the model was exported with {other}",
            where=program.where,
            fix=f"export it with an example of {options.window} frames",
        )
    if carried & used and mode == "stream":
        yield Reading("step")


def no_time(program: Program) -> ModelError:
    """Of a program none of whose inputs shows where time is."""
    name = next((n for n in program.inputs if n in program.metas), "")
    sizes = program.metas[name].sizes if name else ()
    one = 1 in sizes
    return ModelError(
        f"input {name!r} {list(sizes)} was exported with one frame, which does not show where time "
        "goes"
        if one
        else f"input {name!r} {list(sizes)} has no axis for time",
        where=program.where,
        fix="export with an example of at least 2 frames (16 is a good length), [batch, time, "
        "features]",
    )


def _check(program: Program, name: str) -> None:
    meta = program.metas.get(name)
    if meta is None:
        raise ModelError(
            f"input {name!r} has no description",
            where=program.where,
            fix="the program contradicts itself: export the model again",
        )
    if meta.dtype.startswith("complex"):
        raise ModelError(
            f"input {name!r} is complex",
            where=program.where,
            fix="take its real and imaginary parts, and torch.view_as_complex of them inside",
        )
    for size in meta.sizes:
        if not 1 <= size <= 1 << 24:
            raise ModelError(
                f"input {name!r} has size {size}",
                where=program.where,
                fix="axes have 1 to 2^24 elements",
            )


def _axes(
    program: Program, data: Sequence[str], options: ImportOptions
) -> Iterator[tuple[dict[str, int], dict[str, int], bool]]:
    """(axis of time, axis of the batch, swapped) by input."""
    metas = program.metas
    stated = options.time_axes(data, program.inputs, program.where)
    for n in data:
        rank = len(metas[n].sizes)
        for what, axis in (("time_axis", stated.get(n)), ("batch_axis", options.batch_axis)):
            if axis is not None and not axis < rank and (what == "time_axis" or rank > 1):
                raise UsageError(f"{what} {axis}: input {n!r} has {rank} axes")
    if stated:
        time = dict(stated)
        batch = {n: b for n in data if (b := _batch(metas[n], time.get(n), options)) is not None}
        yield time, batch, False
        return
    slides = any(op.base in _SLIDING for op in program.operations)
    runs = any(op.base in _RUNNING for op in program.operations)
    first = max(data, key=lambda n: len(metas[n].sizes))
    seen: list[dict[str, int]] = []
    for axis, lead, swapped in _customs(metas[first], options.batch_axis, slides, runs):
        frames = metas[first].sizes[axis]
        time, batch = {}, {}
        for n in data:
            t, b = _alike(metas[n], metas[first], axis, lead, frames)
            if t is not None:
                time[n] = t
            if b is not None:
                batch[n] = b
        if time in seen and not swapped:
            continue
        seen.append(time)
        yield time, batch, swapped


def _batch(meta: TensorMeta, time: int | None, options: ImportOptions) -> int | None:
    """The batch axis where time is stated: the first other one; a tensor of two axes has none."""
    rank = len(meta.sizes)
    if options.batch_axis is not None:
        return options.batch_axis if options.batch_axis < rank else None
    if time is None:
        return 0 if rank > 1 else None
    if rank < 2 or (rank < 3 and not _whole(meta) and time == 0):
        return None
    return 0 if time else 1


def _whole(meta: TensorMeta) -> bool:
    """Whether the elements are whole numbers, each a token."""
    return not meta.dtype.startswith(("float", "double", "bfloat"))


def _customs(
    meta: TensorMeta, batch: int | None, slides: bool, runs: bool
) -> Iterator[tuple[int, int | None, bool]]:
    """(time, batch, swapped) of the main input.

    An axis that is not the usual one is tried where some layer runs along time, and says so.
    """
    sizes = meta.sizes
    rank = len(sizes)
    if rank == 0:
        return
    if rank == 1:
        if _whole(meta) or slides:
            yield 0, None, False
        return
    if rank == 2 and batch is None:
        if _whole(meta):
            yield 1, 0, False
            yield 0, 1, True
        elif sizes[0] > 1:
            yield 0, None, False
            if slides:
                yield 1, 0, False
        else:
            yield (1, 0, False) if slides else (0, None, False)
        return
    lead = 0 if batch is None else batch
    others = [i for i in range(rank) if i != lead]
    # An axis of one channel is not time where others can be.
    wide = [i for i in others if sizes[i] > 1] or others
    yield wide[0] if rank > 3 else others[0], lead, False
    if batch is None:
        yield 0, 1, True
    if slides or runs:
        for axis in wide:
            yield axis, lead, False


def _alike(
    meta: TensorMeta, main: TensorMeta, axis: int, lead: int | None, frames: int
) -> tuple[int | None, int | None]:
    """Time and batch of an input beside the main one: by the same custom, if it is as long."""
    rank = len(meta.sizes)
    if meta is main:
        return axis, lead
    if rank == len(main.sizes) or (lead is not None and rank > max(axis, lead)):
        time = axis if meta.sizes[axis] == frames else None
        return time, lead
    if lead is None:
        return (axis if rank > axis and meta.sizes[axis] == frames else None), None
    # Fewer axes: [batch, time] beside [batch, channels, time].
    for t, b in ((1, 0), (0, 1)) if lead == 0 else ((0, 1),):
        if rank == 2 and meta.sizes[t] == frames:
            return t, b
    return None, lead if rank > lead else None
