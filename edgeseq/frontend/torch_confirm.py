"""A Graph and the module it was read from, run on the same data and compared.

What is compared does not stop at the example: another length and batch show what depends on them;
the sequence cut in two with the states carried on shows that a stream may keep them; the streamed
step shows that it computes the whole; and changing one frame shows how far the module looks ahead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._pytree import tree_leaves

from edgeseq.errors import UnsupportedError
from edgeseq.frontend.program import Program
from edgeseq.frontend.readings import Lowered
from edgeseq.frontend.torch_calls import RAISED, Subject
from edgeseq.frontend.torch_export import TORCH_TOLERANCE, to_graph_layout, to_torch_layout
from edgeseq.ir import Graph
from edgeseq.ir.blocks import delay_in_elements
from edgeseq.ir.interp import Interpreter
from edgeseq.passes.stream import stream

__all__ = ["compare"]

Array = npt.NDArray[Any]

HALF_TOLERANCE = 2e-2
"""Of modules that compute in float16 or bfloat16, whose numbers have 11 or 8 significant bits."""

_LENGTH = (
    "something in the model depends on the example's length or batch: derive sizes from x.shape, "
    "and do not use literals equal to them"
)
_PROBES = 5
_MOST_FRAMES = 4_000
"""Frames of a comparison; longer sequences are compared at the example's length only."""


def compare(way: Lowered, program: Program, subject: Subject) -> None:
    """Compare; how depends on what the Graph is.

    Raises:
        UnsupportedError: they differ: the module cannot be read in this way.
    """
    trial = _Trial(way, program, subject)
    if way.reading.mode == "stream":
        trial.stream()
    elif way.reading.mode == "window":
        trial.window()
    else:
        trial.steps()


class _Trial:
    def __init__(self, way: Lowered, program: Program, subject: Subject) -> None:
        self.way, self.program, self.subject = way, program, subject
        self.leaves = [x for x in tree_leaves(subject.inputs) if isinstance(x, torch.Tensor)]
        self.at = {name: i for i, name in enumerate(program.inputs)}
        self.carried = {s.name: s for s in way.states if s.index is not None}
        self.rng = np.random.default_rng(0)
        axes = way.graph.meta["axes"]
        self.layouts = dict(zip(way.inputs, axes["inputs"], strict=True))
        self.answers = list(zip(way.outputs, axes["outputs"], strict=True))
        halves = (torch.float16, torch.bfloat16)
        half = any(x.dtype in halves for x in self.leaves) or any(
            p.dtype in halves for p in subject.module.parameters()
        )
        self.tolerance = HALF_TOLERANCE if half else TORCH_TOLERANCE

    # -- data ------------------------------------------------------------------------------

    def _data(self, frames: int | None, more: int) -> dict[str, Array]:
        """Random inputs like the example's, with another number of frames and sequences.

        Inputs that the Graph does not read keep the example's values; whole numbers equal to the
        example's length are taken for lengths.
        """
        reading = self.way.reading
        data: dict[str, Array] = {}
        for name, i in self.at.items():
            if name in self.carried:
                continue
            array = _array(self.leaves[i])
            array = self._resized(name, array, frames, more)
            if name in self.layouts and array.dtype.kind == "f":
                spread, least = float(array.std()) or 1.0, float(array.min(initial=0.0))
                array = array + self.rng.normal(0, spread, array.shape)
                if least >= 0:  # such as energies, of which a logarithm or a root is taken
                    array = np.abs(array)
            elif name in self.layouts and array.ndim:
                array = self.rng.permuted(array, axis=array.ndim - 1)
            elif array.dtype.kind in "iu" and frames and np.all(array == reading.frames):
                array = np.full_like(array, frames)
            data[name] = array
        return data

    def _resized(self, name: str, array: Array, frames: int | None, more: int) -> Array:
        reading = self.way.reading
        time, batch = reading.time.get(name), reading.batch.get(name)
        if frames is not None and time is not None:
            array = np.take(array, np.arange(frames) % array.shape[time], time)
        if name not in self.layouts and array.ndim == 1 and more:
            batch = 0  # such as the lengths of the sequences
        if more and batch is not None and array.shape[batch] > 1:
            n = array.shape[batch]
            array = np.take(array, np.arange(n + more) % n, batch)
        return array

    def _states(self) -> dict[str, Array]:
        return {n: np.asarray(s.init) for n, s in self.carried.items()}

    def _run(
        self, data: dict[str, Array], states: dict[str, Array]
    ) -> tuple[list[Any], dict[str, Array]]:
        """The module's outputs and states after it."""
        tensors = []
        for name, i in self.at.items():
            like = self.leaves[i]
            array = states[name] if name in states else data[name]
            tensors.append(torch.as_tensor(np.array(array)).to(like.dtype).to(like.device))
        results = self.subject.call(tensors)
        made = [_array(y) if isinstance(y, torch.Tensor) else y for y in results]
        # The exporter's list holds None where the module returns it.
        full: list[Any] = []
        left = iter(made)
        for out in self.program.outputs:
            full.append(None if out is None else next(left))
        after = {n: full[s.index] for n, s in self.carried.items() if s.index is not None}
        return full, after

    # -- a stream --------------------------------------------------------------------------

    def _length(self) -> list[int]:
        """Lengths to compare at: another than the example's first."""
        frames, context = self.way.reading.frames, self.way.context
        block = _block(self.way.graph)
        if frames > _MOST_FRAMES:
            return [frames]
        if context and context < frames:
            return [context]  # beyond its context the module attends to more than the Graph
        # The same part of a block: what a model pads or cuts at the end depends on it.
        other = frames + block
        if block == 1:
            other = frames + 5 if frames < 40 else frames + 1
        if context and other > context:
            other = context if context < 2 * frames else frames + 1
        return [n for n in (other, frames) if not context or n <= context]

    def stream(self) -> None:
        for frames in self._length():
            more = 0 if self.carried else int(frames != self.way.reading.frames)
            data = self._data(frames, more)
            try:
                wanted, data = self._whole(data, frames)
            except RAISED:
                continue  # the module takes the example's sizes only
            self._same(self._graph(data), wanted, data)
            self._streamed(data, wanted)
            self._ahead(data, wanted)
            return

    def _whole(self, data: dict[str, Array], frames: int) -> tuple[list[Any], dict[str, Array]]:
        """The module's outputs; one that carries states takes the sequence in two parts."""
        states = self._states()
        if not states:
            return self._run(data, states)[0], data
        cut = self.way.reading.frames
        parts = [data, self._data(cut, 0)]
        if frames != cut:
            parts = [self._data(cut, 0), self._data(cut, 0)]
        results = []
        for part in parts:
            full, states = self._run(part, states)
            results.append(full)
        joined = {}
        for name in data:
            axis = self.way.reading.time.get(name)
            pieces = [p[name] for p in parts]
            joined[name] = pieces[0] if axis is None else np.concatenate(pieces, axis)
        outputs: list[Any] = list(results[-1])
        for i, layout in self.answers:
            if "T" in layout:
                outputs[i] = np.concatenate([r[i] for r in results], layout.index("T"))
        return outputs, joined

    def _graph(self, data: dict[str, Array]) -> list[Array]:
        arrays = [to_graph_layout(data[n], self.layouts[n]) for n in self.way.inputs]
        return Interpreter(self.way.graph, batch=len(arrays[0]))(*arrays)

    def _same(self, have: Sequence[Array], wanted: Sequence[Any], data: dict[str, Array]) -> None:
        shape = [list(a.shape) for a in data.values()]
        for k, (i, layout) in enumerate(self.answers):
            want = np.asarray(wanted[i])
            made = to_torch_layout(have[k], layout)
            if made.shape != want.shape:
                raise UnsupportedError(
                    f"output {i} is {list(want.shape)} for inputs {shape}, by the exported program "
                    f"{list(made.shape)}",
                    where=self.subject.where,
                    fix=_LENGTH,
                )
            unknown = self.way.graph.meta.get("unknown", {}).get(self.way.graph.outputs[k], 0)
            if unknown:  # at the end
                d = layout.index("T")
                known = np.arange(max(want.shape[d] - unknown, 0))
                made, want = made.take(known, axis=d), want.take(known, axis=d)
            error, limit = _difference(made, want, self.tolerance)
            if not error <= limit:
                fix = (
                    "the state that is carried is not what a stream would keep: export it with "
                    "one frame, as a step"
                    if self.carried
                    else _LENGTH
                )
                raise UnsupportedError(
                    f"output {i} of the exported program differs by {error:.2g} from the module "
                    f"for inputs {shape} (allowed: {limit:.2g})",
                    where=self.subject.where,
                    fix=fix,
                )

    def _streamed(self, data: dict[str, Array], wanted: Sequence[Any]) -> None:
        """The step over the whole sequence gives what the module gives, after the delay."""
        try:
            step = stream(self.way.graph)
        except UnsupportedError:
            return  # it cannot stream, which compiling will say
        arrays = [to_graph_layout(data[n], self.layouts[n]) for n in self.way.inputs]
        timed = ["T" in self.layouts[n] for n in self.way.inputs]
        if not all(timed):
            return
        frames = arrays[0].shape[1]
        block = int(step.meta.get("frames_per_step", 1))
        if frames < block:
            return
        steps = [a[:, : frames // block * block] for a in arrays]
        made = Interpreter(step, batch=len(arrays[0])).sequence(*steps)
        for k, (i, layout) in enumerate(self.answers):
            if "T" not in layout:
                continue
            name = step.outputs[k]
            delay = delay_in_elements(step, name)
            want = to_graph_layout(np.asarray(wanted[i]), layout)
            have = made[k][:, delay:].reshape(len(want), -1, *want.shape[2:])
            rest = int(step.meta.get("rest", {}).get(name, 0))
            n = min(have.shape[1], want.shape[1], frames * step.frames_of(name) // block - rest)
            if n <= 0:
                continue
            error, limit = _difference(have[:, :n], want[:, :n], self.tolerance)
            if not error <= limit:
                raise UnsupportedError(
                    f"output {i} of the streamed model differs by {error:.2g} from the module "
                    f"(allowed: {limit:.2g})",
                    where=self.subject.where,
                    fix="this is an error of the compiler: please report it, with the module",
                )

    def _ahead(self, data: dict[str, Array], wanted: Sequence[Any]) -> None:
        """Change one frame: no output may change before the stream has seen it."""
        if self.carried:
            return
        try:
            step = stream(self.way.graph)
        except UnsupportedError:
            return
        name = self.way.inputs[0]
        axis = self.way.reading.time.get(name)
        if axis is None or data[name].dtype.kind != "f":
            return
        frames = data[name].shape[axis]
        delay, block = int(step.meta.get("delay", 0)), int(step.meta.get("frames_per_step", 1))
        for t in np.unique(np.linspace(0, frames - 1, _PROBES).astype(int)):
            changed = dict(data)
            other = data[name].copy()
            place = (*[slice(None)] * axis, t)
            other[place] += 1.0 + np.abs(other[place])
            changed[name] = other
            try:
                outputs = self._run(changed, {})[0]
            except RAISED:
                return
            for k, (i, layout) in enumerate(self.answers):
                if "T" not in layout:
                    continue
                d = layout.index("T")
                before, after = np.asarray(wanted[i]), np.asarray(outputs[i])
                gap = np.moveaxis(np.abs(before - after), d, 0).reshape(before.shape[d], -1)
                limit = self.tolerance * max(1.0, float(np.abs(before).max(initial=0.0)))
                first = np.flatnonzero(gap.max(1) > limit)
                if not len(first):
                    continue
                ahead = int(t) - int(first[0]) * block // step.frames_of(step.outputs[k])
                if ahead > delay + block - 1:
                    raise UnsupportedError(
                        f"output {i} depends on a frame {ahead} ahead, the stream waits {delay}",
                        where=self.subject.where,
                        fix="compile in window mode (window=N)",
                    )

    # -- a step, a window ------------------------------------------------------------------

    def steps(self) -> None:
        """Three steps with the states carried."""
        graph = self.way.graph
        run = Interpreter(graph, batch=1)
        states = self._states()
        for _ in range(3):
            data = self._data(None, 0)
            wanted, states = self._run(data, states)
            arrays = [
                data[n].reshape(1, *graph.types[v].shape)
                for n, v in zip(self.way.inputs, graph.inputs, strict=True)
            ]
            self._same_shapes(run(*arrays), wanted)
        if self.subject.sequence is not None:
            self._against_forward()

    def _same_shapes(self, have: Sequence[Array], wanted: Sequence[Any]) -> None:
        """Compare outputs whose axes are all features."""
        fix = "derive sizes from x.shape, and use no numbers that change from call to call"
        for k, (i, _) in enumerate(self.answers):
            self._close(i, have[k], np.asarray(wanted[i]), fix)

    def _close(self, i: int, have: Array, want: Array, fix: str) -> None:
        """Compare output `i`, which holds the elements of `want` in order."""
        error, limit = _difference(have.reshape(want.shape), want, self.tolerance)
        if not error <= limit:
            raise UnsupportedError(
                f"output {i} of the exported program differs by {error:.2g} from the module "
                f"(allowed: {limit:.2g})",
                where=self.subject.where,
                fix=fix,
            )

    def _against_forward(self) -> None:
        """A module's step and its forward compute the same."""
        whole = self.subject.sequence
        assert whole is not None
        try:
            result = tree_leaves(self.subject.original(whole, *self.subject.given[1:]))
        except (NotImplementedError, *RAISED):
            return  # it has no forward of its own
        want = next(y for y in result if isinstance(y, torch.Tensor))
        graph = self.way.graph
        batch = 0
        time = next((d for d in range(whole.dim()) if d != batch and d < 2), 1)
        frames = _array(whole)
        if want.dim() <= time or want.shape[time] != whole.shape[time]:
            return  # an answer for the whole sequence
        run = Interpreter(graph, batch=1)
        made = []
        for t in range(frames.shape[time]):
            frame = np.take(frames, t, time).reshape(1, *graph.types[graph.inputs[0]].shape)
            made.append(run(frame)[0])
        have = np.stack(made, 1).reshape(_array(want).shape)
        error, limit = _difference(have, _array(want), self.tolerance)
        if not error <= limit:
            raise UnsupportedError(
                f"step and forward of the module differ by {error:.2g} (allowed: {limit:.2g})",
                where=self.subject.where,
                fix="let forward compute what step does, frame by frame",
            )

    def window(self) -> None:
        """The module on one window; then hop by hop, which ends with that window."""
        data = self._data(None, 0)
        wanted, _ = self._run(data, self._states())
        whole, graph = self.way.whole, self.way.graph
        arrays = [self._one_batch(n, data[n]) for n in self.way.inputs]
        count = len(arrays[0])
        have = Interpreter(whole, batch=count)(
            *(
                a.reshape(count, *whole.types[v].shape)
                for a, v in zip(arrays, whole.inputs, strict=True)
            )
        )
        self._same_windows(have, wanted)
        window, hop = graph.meta.get("window"), graph.meta.get("hop")
        if window is None or hop is None or self.carried:
            return
        run = Interpreter(graph, batch=count)
        fed = math.ceil(window / hop) * hop
        for k in range(fed // hop):
            pieces = []
            for name, array, v in zip(self.way.inputs, arrays, graph.inputs, strict=True):
                axis = self.way.reading.time.get(name)
                if axis is None:
                    pieces.append(array.reshape(count, *graph.types[v].shape))
                    continue
                turned: Any = np.moveaxis(array, self._axis(name), 1)
                padded: Any = np.concatenate([np.zeros_like(turned[:, : fed - window]), turned], 1)
                piece = padded[:, k * hop : (k + 1) * hop]
                pieces.append(piece.reshape(count, *graph.types[v].shape))
            have = run(*pieces)
        self._same_windows(have, wanted)

    def _one_batch(self, name: str, array: Array) -> Array:
        """[batch, ...] with the other axes in order."""
        batch = self.way.reading.batch.get(name)
        return array[None] if batch is None else np.moveaxis(array, batch, 0)

    def _axis(self, name: str) -> int:
        """The axis of time once the batch is in front."""
        time, batch = self.way.reading.time[name], self.way.reading.batch.get(name)
        return time + 1 if batch is None or batch > time else time

    def _same_windows(self, have: Sequence[Array], wanted: Sequence[Any]) -> None:
        for k, (i, layout) in enumerate(self.answers):
            self._close(i, have[k], to_graph_layout(np.asarray(wanted[i]), layout), _LENGTH)


def _array(x: torch.Tensor) -> Array:
    x = x.detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def _difference(have: Array, want: Array, tolerance: float) -> tuple[float, float]:
    """(largest difference, what is allowed)."""
    want = np.asarray(want, np.float64)
    error = float(np.abs(have - want).max(initial=0.0))
    return error, tolerance * max(1.0, float(np.abs(want).max(initial=0.0)))


def _block(graph: Graph) -> int:
    """Frames in which every sequence of a Graph has a whole number of elements."""
    periods = (t.time.period for t in graph.types.values() if t.time is not None)
    return math.lcm(graph.tick, *periods) // graph.tick
