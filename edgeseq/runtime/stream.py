"""`Stream`: an artifact folder, opened and fed with frames."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq import manifest as _manifest
from edgeseq.errors import ArtifactError, DataError, UsageError
from edgeseq.manifest import Manifest, OutputInfo
from edgeseq.runtime.backends import Backend, open_backend
from edgeseq.runtime.convert import DTYPES, Converter, FrameConverter, as_frames

__all__ = ["Decision", "Stream"]

Array = npt.NDArray[Any]

# Stored elements per block: its work buffers (8 bytes an element and less) stay in a small cache.
_BLOCK_ELEMENTS = 8_192
_KEY = "edgeseq."


@dataclass(frozen=True, slots=True)
class Decision:
    """A class, chosen.

    Attributes:
        label: its name, or its index as text if the classes have no names.
        index: of the largest output.
        score: softmax of the outputs at `index`, 0..1.
    """

    label: str
    index: int
    score: float


class _Single:
    """The shortest way of one frame through a model of one input and one output.

    A frame per push is how a device gets them, and the step takes less than a numpy call: so the
    arrays, and the call with their addresses, are made once.
    """

    def __init__(self, store: FrameConverter, output: OutputInfo, runner: Backend) -> None:
        self.convert = store.store
        self._stored = np.zeros((1, *output.shape), DTYPES[output.dtype])
        self._scale = np.full(self._stored.shape, output.scale)
        self._run = runner.bind([store.stored], [self._stored])

    @classmethod
    def make(cls, m: Manifest, converters: Sequence[Converter], runner: Backend) -> _Single | None:
        """None if the model has another form."""
        if len(m.inputs) != 1 or len(m.outputs) != 1 or DTYPES[m.outputs[0].dtype].kind != "i":
            return None
        store = converters[0].single()
        return None if store is None else cls(store, m.outputs[0], runner)

    def step(self) -> Array:
        """What the frame that `convert` took gives, [1, *shape]."""
        self._run()
        real = self._stored.astype(np.float64)
        np.multiply(real, self._scale, real)
        return real


class _Slots:
    """When the values of one output come, and which input frame each belongs to.

    A step of F frames gives `each` values, which may be more; the k-th value since a reset belongs
    to input frame ``k * F // each + first``. Where that is negative, the output's delay has not
    passed.
    """

    def __init__(self, output: OutputInfo, frames_per_step: int) -> None:
        running = output.emission == "last"
        self.each = 1 if running else output.frames
        self.block = frames_per_step
        self.first = (frames_per_step - 1 if running else 0) - output.delay
        self.shape = output.shape[1:] if output.frames > 1 else output.shape

    def answers(self, before: int, steps: int, given: Array) -> tuple[Array, Array]:
        """The values of `steps` steps after `before` ones that are answers, and their frames."""
        values = given.reshape(steps * self.each, *self.shape)
        at = np.arange(before * self.each, (before + steps) * self.each)
        frames = at * self.block // self.each + self.first
        drop = int(np.searchsorted(frames, 0))
        return (values[drop:] if drop else values), frames[drop:]


class Stream:
    """Runs a compiled step over frames, its state carried from one `push` to the next.

    Any cutting of a recording into pushes gives the same outputs, bit for bit. The native step is
    exact; ONNX Runtime and LiteRT, the fallbacks, are as close as the manifest's verification
    says. One Stream serves one thread; any number of them may be open.

    A native artifact is machine code, and its hash only shows damage: open folders you trust.

    Args:
        folder: of one tier, such as build/rpi/S.
        backend: "auto" (the first that can run here), "native", "onnx" or "tflite".
        windows: False: one output per frame, the state carried on. True: one output per window
            of the length and hop the model was trained with, each computed from a reset state,
            which is what the manifest's accuracy was measured on.

    Raises:
        ArtifactError: not an artifact, damaged, or nothing here can run it (the message says what
            would).
        UsageError: an unknown backend, or `windows` with a model that has none.

    Attributes:
        manifest: what the folder says about itself.
        backend: the format that runs: "native", "onnx_int", ...
        frames: pushed since the last reset.
    """

    def __init__(
        self, folder: str | os.PathLike[str], backend: str = "auto", *, windows: bool = False
    ) -> None:
        path = Path(folder)
        if not path.is_dir():
            raise ArtifactError(
                "no such folder", where=str(path), fix="name what `edgeseq compile` wrote"
            )
        self.manifest = _manifest.read(path)
        m = self.manifest
        self._delay = m.outputs[0].delay
        self._per_step = m.model.frames_per_step
        self._window, self._hop = m.outputs[0].window, m.outputs[0].hop
        self._windows = windows
        if windows and (self._window is None or self._delay or self._per_step > 1):
            raise UsageError(
                "the model has no windows"
                if self._window is None
                else "the model has a delay, or takes several frames at once",
                where=str(path),
                fix="open it without windows: it answers every frame",
            )
        self._runner = open_backend(path, m, backend)
        self.backend: str = self._runner.name
        # What one frame of each input is, and how many a step takes at once.
        self._inputs = [
            replace(i, shape=i.shape[1:] if i.frames > 1 else i.shape) for i in m.inputs
        ]
        self._groups = [i.frames for i in m.inputs]
        widest = max(int(np.prod(i.shape, dtype=np.int64)) for i in self._inputs)
        self._block = max(1, min(1024, _BLOCK_ELEMENTS // widest))
        self._converters = [Converter(i, self._block) for i in self._inputs]
        self._stored = [np.empty((self._block, *i.shape), DTYPES[i.dtype]) for i in self._inputs]
        self._scales = [o.scale for o in m.outputs]
        plain = not windows and self._per_step == m.outputs[0].frames == 1
        self._single = _Single.make(m, self._converters, self._runner) if plain else None
        self._out_kinds = [(o.shape, DTYPES[o.dtype]) for o in m.outputs]
        self._slots = [_Slots(o, self._per_step) for o in m.outputs]
        self._pending: list[Array] = []
        self._forget()

    # -- frames in, outputs out ------------------------------------------------------------

    def push(self, frames: Any, *more: Any) -> Any:
        """Feed raw frames, get the outputs they produced.

        Args:
            frames: [n, *frame] in the units of the recordings, any n, or one frame [*frame]; of
                a model with several inputs, a mapping from each input's name to such an array.
            more: instead of a mapping: the frames of the other inputs, in the manifest's order.

        Returns:
            float64 [outputs, *frame], or of a model with several outputs a dict of them by name.
            Without windows: one per frame, less the output's delay at the start; a model that takes
            several frames at once keeps those that fill no step yet. With windows: one per window
            completed.

        Raises:
            DataError: another shape, not numbers, NaN or infinite; nothing was consumed.
        """
        single = self._single
        if (
            single is not None
            and not more
            and self.frames >= self._delay
            and single.convert(frames)
        ):
            last = self.frames - self._delay
            self.frames += 1
            self._answered = [np.array([last])]
            return single.step()
        outputs = self._push(self._by_input(frames, more))
        return self._named([y * s for y, s in zip(outputs, self._scales, strict=True)])

    def push_stored(self, frames: Any, *more: Any) -> Any:
        """Like `push`, but in and out are stored integers, as in golden.npz.

        Raises:
            DataError: another shape, or not integers in the range of the input's type.
        """
        stored = []
        for info, given in zip(self._inputs, self._by_input(frames, more), strict=True):
            array, dtype = as_frames(info, given), DTYPES[info.dtype]
            if array.dtype != dtype:
                if array.dtype.kind not in "iu" or (array.astype(dtype) != array).any():
                    raise DataError(
                        f"{array.dtype} values that are not all {dtype}",
                        where=f"input {info.name!r}",
                        fix="push stored integers here, or raw frames with push()",
                    )
                array = array.astype(dtype)
            stored.append(np.ascontiguousarray(array))
        return self._named(self._advance(stored))

    def decide(self, outputs: Array) -> list[Decision]:
        """The class each output stands for: the first largest one.

        Args:
            outputs: [n, classes], as `push` returned them.

        Raises:
            DataError: not of that shape.
        """
        labels = self.manifest.outputs[0].labels
        array = np.asarray(outputs, np.float64)
        if array.ndim != 2 or (labels and array.shape[1] != len(labels)):
            raise DataError(
                f"got shape {list(array.shape)}",
                where="decide",
                fix=f"give outputs of shape [n, {len(labels) or 'classes'}]",
            )
        chosen = array.argmax(axis=1)
        powers = np.exp(array - array.max(axis=1, keepdims=True, initial=-np.inf))
        scores = powers.max(axis=1, initial=0.0) / powers.sum(axis=1)
        return [
            Decision(labels[i] if labels else str(i), i, float(s))
            for i, s in zip(map(int, chosen), scores, strict=True)
        ]

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """For each output of the latest push, the index of the input frame it belongs to.

        Counted from 0 at the last reset; of a window, its last frame. Of several outputs, those of
        the first.
        """
        return np.asarray(self._answered[0], np.int64)

    def positions_of(self, output: str) -> npt.NDArray[np.int64]:
        """`positions` of the output of that name.

        Raises:
            DataError: there is none.
        """
        for info, frames in zip(self.manifest.outputs, self._answered, strict=True):
            if info.name == output:
                return np.asarray(frames, np.int64)
        raise DataError(
            f"there is no output {output!r}",
            where="positions_of",
            fix=f"name one of {', '.join(o.name for o in self.manifest.outputs)}",
        )

    # -- state -----------------------------------------------------------------------------

    def reset(self) -> None:
        """Back to how it was when opened."""
        self._runner.reset()
        self._forget()

    def state(self) -> dict[str, Array]:
        """Everything carried, as named arrays that `numpy.savez` takes; opaque otherwise."""
        own: dict[str, Array] = {
            "model": np.array(self.manifest.model.digest or self.manifest.name),
            "backend": np.array(self.backend),
            "counters": np.array([self.frames, self._skip], np.int64),
        }
        own |= {f"pending.{i}": x.copy() for i, x in enumerate(self._pending)}
        return {_KEY + k: v for k, v in own.items()} | self._runner.state()

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take back what `state` returned, here or in another process.

        Raises:
            DataError: it is from another model, backend or way of opening; nothing was changed.
        """
        arrays = {k: np.asarray(v) for k, v in state.items()}
        mine = self.state()
        for key in ("model", "backend"):
            given = arrays.get(_KEY + key)
            if given is None or str(given) != str(mine[_KEY + key]):
                raise DataError(
                    f"is of {key} {str(given)!r}, this is {str(mine[_KEY + key])!r}",
                    where="state",
                    fix="restore the state of a Stream of the same artifact and backend",
                )
        counters = arrays.get(_KEY + "counters")
        pending = [arrays.get(f"{_KEY}pending.{i}") for i in range(len(self._pending))]
        fits = counters is not None and counters.dtype == np.int64 and counters.shape == (2,)
        fits = fits and counters is not None and bool((counters >= 0).all())
        for mine_one, given, group in zip(self._pending, pending, self._groups, strict=True):
            fits = fits and (
                given is not None
                and given.dtype == mine_one.dtype
                and given.shape[1:] == mine_one.shape[1:]
                and len(given) < ((self._window or 1) if self._windows else group)
            )
        if not fits:
            raise DataError(
                "does not fit how this Stream was opened",
                where="state",
                fix="open it with the same `windows` as the Stream that gave the state",
            )
        self._runner.restore({k: v for k, v in arrays.items() if not k.startswith(_KEY)})
        assert counters is not None
        self.frames, self._skip = (int(c) for c in counters)
        self._pending = [p.copy() for p in pending if p is not None]
        self._answered = [np.arange(0)] * len(self._slots)

    # -- internals -------------------------------------------------------------------------

    def _forget(self) -> None:
        self.frames = 0
        self._answered = [np.arange(0)] * len(self._slots)
        self._skip = 0  # frames to drop before the next window begins (hop longer than window)
        self._pending = [np.empty((0, *i.shape), DTYPES[i.dtype]) for i in self._inputs]

    def _by_input(self, frames: Any, more: Sequence[Any]) -> list[Any]:
        inputs = self.manifest.inputs
        if not more and type(frames) is not np.ndarray and isinstance(frames, Mapping):
            if set(frames) != {i.name for i in inputs}:
                raise DataError(
                    f"has inputs {sorted(map(str, frames))}",
                    where="push",
                    fix=f"give exactly {', '.join(i.name for i in inputs)}",
                )
            return [frames[i.name] for i in inputs]
        if len(inputs) != 1 + len(more):
            names = ", ".join(i.name for i in inputs)
            raise DataError(
                "the model has several inputs" if not more else f"got {1 + len(more)} arrays",
                where="push",
                fix=f"push a mapping of {names} to their frames, or an array for each"
                if len(inputs) > 1
                else "push one array of frames",
            )
        return [frames, *more]

    def _push(self, frames: list[Any]) -> list[Array]:
        raw = [as_frames(info, given) for info, given in zip(self._inputs, frames, strict=True)]
        self._count(raw)
        longest = max(map(len, raw))
        if longest > self._block:
            # Everything is converted before anything runs: a bad frame must not leave half of
            # the push consumed.
            stored = [np.empty(x.shape, s.dtype) for x, s in zip(raw, self._stored, strict=True)]
        else:
            stored = [s[: len(x)] for x, s in zip(raw, self._stored, strict=True)]
        if any(x.dtype == np.float64 for x in raw):  # narrower values cannot overflow
            with np.errstate(over="ignore"):
                self._convert(raw, stored)
        else:
            self._convert(raw, stored)
        return self._advance(stored)

    def _convert(self, raw: list[Array], stored: list[Array]) -> None:
        for convert, x, s in zip(self._converters, raw, stored, strict=True):
            for start in range(0, len(x), self._block):
                stop = start + self._block
                convert.store(x[start:stop], s[start:stop], self.frames + start)

    def _count(self, arrays: Sequence[Array]) -> int:
        """Input frames that the arrays last for."""
        lasting = [
            len(a) * (self._per_step // m) for a, m in zip(arrays, self._groups, strict=True)
        ]
        if len(set(lasting)) > 1:
            raise DataError(
                f"the inputs have {', '.join(str(len(a)) for a in arrays)} frames",
                where="push",
                fix="give every input frames for the same time",
            )
        return lasting[0]

    def _advance(self, stored: list[Array]) -> list[Array]:
        n = self._count(stored)
        if self._windows:
            return self._advance_windows(stored, n)
        before, steps = self.frames // self._per_step, n
        if self._per_step > 1:
            steps = (self.frames + n) // self._per_step - before
            stored = self._whole_steps(stored, steps)
        outputs = [np.empty((steps, *shape), dtype) for shape, dtype in self._out_kinds]
        if steps:
            self._runner.run(stored, outputs)
        self.frames += n
        answers = [s.answers(before, steps, y) for s, y in zip(self._slots, outputs, strict=True)]
        self._answered = [frames for _, frames in answers]
        return [y for y, _ in answers]

    def _whole_steps(self, stored: list[Array], steps: int) -> list[Array]:
        """Frames kept and new ones as `steps` groups; those that fill no group are kept."""
        groups = []
        for i, (x, m) in enumerate(zip(stored, self._groups, strict=True)):
            joined = np.concatenate([self._pending[i], x])
            groups.append(joined[: steps * m].reshape(steps, *self.manifest.inputs[i].shape))
            self._pending[i] = joined[steps * m :].copy()
        return groups

    def _advance_windows(self, stored: list[Array], n: int) -> list[Array]:
        assert self._window is not None
        window, hop = self._window, self._hop or self._window
        skipped = min(self._skip, n)
        buffers = [
            np.concatenate([p, x[skipped:]]) for p, x in zip(self._pending, stored, strict=True)
        ]
        base = self.frames + n - len(buffers[0])
        starts = range(0, len(buffers[0]) - window + 1, hop)
        outputs = [np.empty((len(starts), *shape), dtype) for shape, dtype in self._out_kinds]
        steps = [np.empty((window, *shape), dtype) for shape, dtype in self._out_kinds]
        for row, start in enumerate(starts):
            self._runner.reset()
            self._runner.run([b[start : start + window] for b in buffers], steps)
            for y, values in zip(outputs, steps, strict=True):
                y[row] = values[-1]
        after = len(starts) * hop
        self._skip += max(after - len(buffers[0]), 0) - skipped
        self._pending = [b[after:].copy() for b in buffers]
        self.frames += n
        first = base + window - 1
        answered = np.arange(first, first + len(starts) * hop, hop)
        self._answered = [answered] * len(self._slots)
        return outputs

    def _named(self, outputs: list[Array]) -> Any:
        if len(outputs) == 1:
            return outputs[0]
        return {o.name: y for o, y in zip(self.manifest.outputs, outputs, strict=True)}
