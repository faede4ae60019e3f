"""Recordings as frames of a model's inputs: what `--calib` and `edgeseq stream --input` read.

How the arrays of a file become frames of an input of shape [*shape]:

==========================================  ==================================================
the file has                                what it is taken for
==========================================  ==================================================
``[T, *shape]``, but for axes of 1          a recording of T frames
``[B, T, *shape]`` (NPZ, NPY)               B recordings
one row per frame (CSV)                     the elements of a frame, in row-major order
T samples of one track (WAV, or any array   frames of N consecutive samples, one every `hop`
``[T]``) and a frame is ``[N]``, ``[1, N]``
``[T, C]`` and a frame is ``[N, C]`` or     likewise
``[C, N]``
==========================================  ==================================================

An NPZ for several inputs has one array for each, under the input's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.data import _files
from edgeseq.data.recordings import Found, sources
from edgeseq.errors import DataError, UsageError, unknown_name

__all__ = ["InputSpec", "Recordings", "load_inputs"]

Array = npt.NDArray[Any]

_OFFSETS = "offsets"
_LEAST = 1000  # frames of one recording: states take long to reach what they reach in use
_MOST_ELEMENTS = 1 << 28  # of all inputs together: 1 GiB of float32


@dataclass(frozen=True)
class InputSpec:
    """What is known of an input of a model.

    Attributes:
        name: of the input.
        shape: of one frame.
        tokens: the input takes whole numbers below this; None: real numbers.
        hop: samples from one frame to the next where frames are cut from a longer recording; None:
            they do not overlap.
        window: frames are cut from the first sample on; else the last of the first `hop` samples
            ends the first frame, with zeros before the first sample, as in a stream.
    """

    name: str
    shape: tuple[int, ...]
    tokens: int | None = None
    hop: int | None = None
    window: bool = False

    @property
    def size(self) -> int:
        """Elements of one frame."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Recordings:
    """Frames, recording by recording.

    Attributes:
        sequences: of each recording one float32 array [T, *shape] per input.
        rate_hz: frames per second, None if not known.
        hops: samples from one frame to the next of each input whose frames were cut from longer
            recordings, by name.
        note: how they were cut, for people; empty if none were.
    """

    sequences: list[list[Array]]
    rate_hz: float | None = None
    hops: Mapping[str, int] = field(default_factory=dict)
    note: str = ""


def load_inputs(
    source: str | Path,
    inputs: Sequence[InputSpec],
    *,
    most: int | None = None,
    constant_ok: bool = False,
    sample_rate: tuple[str, float] | None = None,
) -> Recordings:
    """Read recordings as frames of a model's inputs.

    Integers are taken as they are (not scaled), except in WAV files and in sets with a manifest.

    Args:
        source: a path (NPZ, NPY, CSV, WAV, a folder of these, a data set), or the name of a set in
            ``calib/``.
        inputs: at least one.
        most: how many frames are needed; reading stops when there are about so many, taken from
            recordings that are spread over all.
        constant_ok: accept numbers that never change (streaming silence is legitimate; calibrating
            with it is not).
        sample_rate: what the model is made for and what says so, Hz; refuse recordings of another
            one. Nothing is ever resampled.

    Raises:
        DataError: missing, truncated, damaged or too large files, arrays that fit no input, too
            short recordings, NaN or infinite values, tokens out of range, numbers that never
            change. The message names the file and the place.
        UsageError: a hop that leaves samples out.
    """
    files = sources(source)
    reader = _Reader(inputs, constant_ok, sample_rate)
    share = None if most is None else max(-(-most // len(files)), min(most, _LEAST))
    for i in _spread(len(files)):
        if most is not None and reader.count >= most:
            break
        reader.take(i, files[i](None if share is None else _rows(inputs, share)), share)
    return reader.result(str(source))


def _spread(count: int) -> Iterator[int]:
    """0..count-1 in an order whose every beginning is spread over all of them."""
    yield from sorted(range(count), key=lambda i: i * 0.6180339887498949 % 1.0)


def _rows(inputs: Sequence[InputSpec], most: int) -> int:
    """Rows of a file that hold `most` frames, however they lie in it."""
    longest = max(max(spec.shape, default=1) for spec in inputs)
    return most * max(spec.hop or longest for spec in inputs) + longest


_MANY = 32  # channels from which on some may hold one value


class _Reader:
    """Collects the recordings of one call."""

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        constant_ok: bool,
        sample_rate: tuple[str, float] | None,
    ) -> None:
        self.inputs, self.constant_ok, self.sample_rate = inputs, constant_ok, sample_rate
        self.sequences: dict[tuple[int, int], list[Array]] = {}  # by file and recording
        self.rate: float | None = None
        self.rate_of = ""
        self.cut: dict[str, tuple[int, int]] = {}  # samples of a frame and from one to the next
        self.count = self.elements = 0

    def take(self, index: int, found: Found, share: int | None) -> None:
        """Add recordings of one file, of about `share` frames together."""
        self._check_rate(found)
        names = _names(found, self.inputs)
        columns = [
            self._split(found, name, spec) for name, spec in zip(names, self.inputs, strict=True)
        ]
        counts = [len(c) for c in columns]
        if len(set(counts)) != 1:
            raise DataError(
                f"holds {_listed(self.inputs, counts)} recordings",
                where=found.where,
                fix="give every input as many recordings",
            )
        each = None if share is None else max(-(-share // counts[0]), min(share, _LEAST))
        enough = None if share is None else self.count + share
        for i in _spread(counts[0]):
            if enough is not None and self.count >= enough:
                break
            place = found.place(names[0]) if len(names) == 1 else found.where
            where = place if counts[0] == 1 else f"{place}, recording {i}"
            self.sequences[index, i] = self._add([c[i] for c in columns], where, each)

    def _check_rate(self, found: Found) -> None:
        if found.rate is None:
            return
        wanted, who = self.rate, f"{self.rate_of} has"
        if self.sample_rate is not None:
            wanted, who = self.sample_rate[1], f"the model's {self.sample_rate[0]} is"
        if wanted is not None and found.rate != wanted:
            raise DataError(
                f"has {found.rate:g} samples per second, {who} {wanted:g}",
                where=found.where,
                fix="resample the recording beforehand: nothing is resampled here",
            )
        self.rate, self.rate_of = found.rate, found.where

    def _split(self, found: Found, name: str, spec: InputSpec) -> list[Array]:
        """The recordings in one array, each with time first, not yet cut into frames."""
        array, where = found.arrays[name], found.place(name)
        if array.dtype.kind not in "iuf" or array.ndim == 0 or 0 in array.shape:
            raise DataError(
                f"is {array.dtype} {list(array.shape)}, expected numbers "
                f"[{', '.join(['frames', *map(str, spec.shape)])}]",
                where=where,
                fix=_wanted(spec),
            )
        rank = len(spec.shape)
        offsets = found.arrays.get(_OFFSETS)
        if offsets is not None and name != _OFFSETS and array.ndim == rank + 1:
            edges = _files.offsets(offsets, len(array), found.place(_OFFSETS))
            return [array[a:b] for a, b in pairwise(edges)]
        if found.rows or _alike(array.shape[1:], spec.shape):
            return [array]
        # Of [n, m] only tokens are recordings; else m is a wrong number of channels.
        deep = array.ndim >= (3 if rank else 2)
        several = deep and _alike(array.shape[2:], spec.shape)
        if not several and array.ndim >= 3:
            several = (
                _sample_axis(spec.shape, array.shape[1:]) is None
                and _sample_axis(spec.shape, array.shape[2:]) is not None
            )
        return list(array) if several else [array]

    def _add(self, arrays: list[Array], where: str, most: int | None) -> list[Array]:
        frames = [
            self._frames(a, spec, where, most) for a, spec in zip(arrays, self.inputs, strict=True)
        ]
        lengths = [len(x) for x in frames]
        if len(set(lengths)) != 1:
            raise DataError(
                f"holds {_listed(self.inputs, lengths)} frames",
                where=where,
                fix="give every input as many frames",
            )
        for x, spec in zip(frames, self.inputs, strict=True):
            place = where if len(frames) == 1 else f"{where}, input {spec.name!r}"
            _check_values(x, spec, place)
        self.count += lengths[0]
        return frames

    def _frames(self, array: Array, spec: InputSpec, where: str, most: int | None) -> Array:
        """One recording as frames [T, *shape]."""
        shape = spec.shape
        flat = array.ndim == 2 and array.shape[1] == spec.size
        if _alike(array.shape[1:], shape) or flat:
            frames = array[:most].reshape(-1, *shape)
        else:
            axis = _sample_axis(shape, array.shape[1:])
            if axis is None:
                raise _misfit(array, spec, where)
            frames = self._cut(array, spec, axis, where, most)
        self.elements += frames.size
        if self.elements > _MOST_ELEMENTS:
            raise DataError(
                f"holds more than {_MOST_ELEMENTS} numbers",
                where=where,
                fix="give fewer or shorter recordings",
            )
        with np.errstate(over="ignore"):  # what becomes infinite is refused with its place
            return np.ascontiguousarray(frames, dtype=np.float32)

    def _cut(self, array: Array, spec: InputSpec, axis: int, where: str, most: int | None) -> Array:
        """Frames of consecutive samples; `axis` of a frame is time."""
        length, total = spec.shape[axis], len(array)
        hop = spec.hop or length
        if hop > length and not spec.window:
            raise UsageError(
                f"frames of {length} samples every {hop} leave samples out",
                where=f"input {spec.name!r}",
                fix="give a --frame-hop of at most the length of a frame",
            )
        count = (total - length) // hop + 1 if spec.window else total // hop
        if count < 1:
            raise DataError(
                f"holds {total} samples, the first frame needs {length if spec.window else hop}",
                where=where,
                fix="use a longer recording",
            )
        count = count if most is None else min(count, most)
        lead = 0 if spec.window else length - hop
        if count * spec.size > _MOST_ELEMENTS:
            raise DataError(
                f"gives {count} frames of {spec.size} numbers, too many to be read at once",
                where=where,
                fix="cut it into shorter recordings",
            )
        used = np.asarray(array[: (count - 1) * hop + length - lead])
        padded = np.concatenate([np.zeros((lead, *array.shape[1:]), used.dtype), used])
        views = np.lib.stride_tricks.sliding_window_view(padded, length, axis=0)[::hop]
        if array.ndim > 1 and math.prod(array.shape[1:]) > 1:
            views = np.moveaxis(views, -1, 1 + axis)
        self.cut[spec.name] = (length, hop)
        return views.reshape(count, *spec.shape)

    def result(self, source: str) -> Recordings:
        """What was collected."""
        if not self.sequences:
            raise DataError("holds no frames", where=source, fix="add at least one sequence")
        sequences = [self.sequences[key] for key in sorted(self.sequences)]
        if not self.constant_ok:
            self._check_varying(sequences, source)
        if not self.cut:
            return Recordings(sequences, self.rate)
        length, hop = next(iter(self.cut.values()))
        rate = "" if self.rate is None else f" at {self.rate:g} Hz"
        note = f"Frames of {length} samples every {hop} were cut from recordings{rate}"
        hops = {name: step for name, (_, step) in self.cut.items()}
        return Recordings(sequences, None if self.rate is None else self.rate / hop, hops, note)

    def _check_varying(self, sequences: list[list[Array]], source: str) -> None:
        dead = []
        for i, spec in enumerate(self.inputs):
            if spec.tokens is not None:
                continue
            low, high = _range([s[i] for s in sequences])
            still = np.count_nonzero(low == high)
            # A handful of sensors all move; of many features some bins may be empty.
            few = len(spec.shape) == 1 and (spec.size < _MANY or still == spec.size)
            if len(self.inputs) == 1 and few and not self.cut:
                _files.check_varying(low, high, [str(c) for c in range(spec.size)], source)
            elif not float(high.max()) > float(low.min()):
                dead.append((spec.name, float(low.min())))
        # Of several inputs one may be a setting; all zeros say nothing about its range.
        if dead and (len(dead) == len(self.inputs) or any(value == 0 for _, value in dead)):
            name, value = next((d for d in dead if d[1] == 0), dead[0])
            raise DataError(
                f"input {name!r} is always {value:g}",
                where=source,
                fix="calibrate with recordings that are like what the device will see",
            )


def _names(found: Found, inputs: Sequence[InputSpec]) -> list[str]:
    """The name of each input's array in a file."""
    known = {_plain(name): name for name in found.arrays if name != _OFFSETS}
    named = [known.get(_plain(spec.name)) for spec in inputs]
    if all(name is not None for name in named):
        return [name for name in named if name is not None]
    if len(inputs) == 1:
        if len(known) == 1:
            return list(known.values())
        if "x" in known:
            return ["x"]
        raise DataError(
            f"array {inputs[0].name!r} is missing "
            f"(found: {', '.join(sorted(found.arrays)) or 'none'})",
            where=found.where,
            fix=f"store the frames under the name {inputs[0].name!r}",
        )
    wanted = ", ".join(spec.name for spec in inputs)
    if set(found.arrays) == {""}:
        raise DataError(
            f"holds one array, the model takes {len(inputs)} inputs",
            where=found.where,
            fix=f"give an .npz file with the arrays {wanted}",
        )
    missing = next(spec.name for spec, name in zip(inputs, named, strict=True) if name is None)
    raise DataError(
        f"there is no array for input {missing!r}: "
        + unknown_name("array", missing, [n for n in found.arrays if n != _OFFSETS]),
        where=found.where,
        fix=f"store the arrays {wanted}",
    )


def _plain(name: str) -> str:
    """A name as Graphs may spell it: "input.1" and "input_1" are the same."""
    return re.sub(r"\W", "_", name)


def _alike(tail: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether two shapes are the same but for axes of 1, which files often have for a batch."""
    return [n for n in tail if n != 1] == [n for n in shape if n != 1]


def _sample_axis(shape: tuple[int, ...], tail: tuple[int, ...]) -> int | None:
    """The axis of a frame that is time where each sample is [*tail]; None if there is none."""
    single = math.prod(tail) == 1
    order = sorted(range(len(shape)), key=lambda i: -shape[i]) if single else range(len(shape))
    for i in order:
        rest = shape[:i] + shape[i + 1 :]
        if rest == tail or (single and math.prod(rest) == 1):
            return i
    return None


def _check_values(frames: Array, spec: InputSpec, where: str) -> None:
    if not bool(np.isfinite(frames).all()):
        channels = [str(i) for i in range(spec.size)]
        _files.check_finite(frames.reshape(len(frames), -1), where, channels)
    if spec.tokens is None:
        return
    wrong = np.argwhere((frames != np.floor(frames)) | (frames < 0) | (frames >= spec.tokens))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise DataError(
            f"frame {place[0]} is {frames[place]:g}, a token is a whole number from 0 to "
            f"{spec.tokens - 1}",
            where=where,
            fix="store token numbers as integers, with the vocabulary the model was trained with",
        )


def _range(arrays: Sequence[Array]) -> tuple[Array, Array]:
    """Least and greatest value of each element of a frame, [size]."""
    flat = [x.reshape(len(x), -1) for x in arrays]
    low, high = flat[0].min(axis=0), flat[0].max(axis=0)
    for x in flat[1:]:
        low, high = np.minimum(low, x.min(axis=0)), np.maximum(high, x.max(axis=0))
    return low, high


def _misfit(array: Array, spec: InputSpec, where: str) -> DataError:
    if len(spec.shape) == 1 and array.ndim == 2:
        what = f"has {array.shape[1]} channels, the model takes {spec.size}"
    else:
        what = f"is {list(array.shape)}, a frame of input {spec.name!r} is {list(spec.shape)}"
    return DataError(what, where=where, fix=_wanted(spec))


def _wanted(spec: InputSpec) -> str:
    if not spec.shape:
        return "give one number per frame, [frames] or [recordings, frames]"
    shape = ", ".join(map(str, spec.shape))
    return f"give [frames, {shape}] or [recordings, frames, {shape}], as the model was trained with"


def _listed(inputs: Sequence[InputSpec], counts: Sequence[int]) -> str:
    return ", ".join(f"{n} of {spec.name!r}" for spec, n in zip(inputs, counts, strict=True))
