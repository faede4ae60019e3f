"""Unlabelled frames: what `--calib` and `edgeseq stream --input` read."""

from __future__ import annotations

import wave
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseq.data import _files
from edgeseq.data.sequences import SequenceSet
from edgeseq.data.sets import INDEX, MANIFEST, list_sets, load_set
from edgeseq.errors import DataError, unknown_name

Sequences = list[npt.NDArray[np.float32]]


def load_frames(
    name_or_path: str | Path, channels: int | None = None, *, constant_ok: bool = False
) -> Sequences:
    """Read sequences of frames, each [T, C] float32 with the same C.

    What can be read:

    * ``.npz``: array ``x`` (or the only array) as [T, C], as [N, T, C] (N sequences), or [T] (one
      channel); ``offsets`` splits a [frames, C] array as in a data set.
    * ``.npy``: the same shapes.
    * ``.csv``: one row per frame, with or without a header.
    * ``.wav``: 16-, 24- or 32-bit or 8-bit PCM, scaled to [-1, 1); C is the number of tracks.
    * a folder of such files (by name order), one sequence or more per file.
    * a data set folder, or the name of one (`list_sets`): all its recordings.

    Integers are taken as they are (not scaled), except in WAV files and in sets with a manifest.

    Args:
        name_or_path: a path, or the name of a set in ``calib/``.
        channels: the number of channels the model takes; None accepts any.
        constant_ok: accept a channel that never changes (streaming silence is legitimate;
            calibrating with it is not).

    Raises:
        DataError: missing, truncated or damaged files, another number of channels, NaN or infinite
            values, no frames, or a constant channel. The message names the file and the channel.
    """
    path = Path(name_or_path).expanduser()
    if not path.exists():
        if str(name_or_path) not in list_sets():
            raise DataError(
                "does not exist, and " + unknown_name("set", str(name_or_path), list_sets()),
                where=str(name_or_path),
                fix="give a file or folder of frames, or the name of a known set",
            )
        named = _of_set(load_set(name_or_path))
    elif path.is_dir():
        named = _from_folder(path)
    else:
        named = _from_file(path)
    return _checked(named, str(name_or_path), channels, constant_ok)


def _checked(
    named: list[tuple[str, npt.NDArray[np.float32]]],
    source: str,
    channels: int | None,
    constant_ok: bool,
) -> Sequences:
    if not named:
        raise DataError("holds no frames", where=source, fix="add at least one sequence")
    width = named[0][1].shape[1] if channels is None else channels
    names = [str(i) for i in range(width)]
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for where, frames in named:
        if frames.shape[1] != width:
            owner = "the model takes" if channels is not None else f"{named[0][0]} has"
            raise DataError(
                f"has {frames.shape[1]} channels, {owner} {width}",
                where=where,
                fix="frames are [T, channels], in the order the model was trained with",
            )
        _files.check_finite(frames, where, names)
        low, high = np.minimum(low, frames.min(axis=0)), np.maximum(high, frames.max(axis=0))
    if not constant_ok:
        _files.check_varying(low, high, names, source)
    return [np.ascontiguousarray(frames, dtype=np.float32) for _, frames in named]


def _of_set(data: SequenceSet) -> list[tuple[str, npt.NDArray[np.float32]]]:
    return [(f"{data.source}, recording {r.name}", r.frames) for r in data]


def _from_folder(folder: Path) -> list[tuple[str, npt.NDArray[np.float32]]]:
    if (folder / MANIFEST).exists() or (folder / INDEX).exists():
        return _of_set(load_set(folder))
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _READERS)
    if not files:
        raise DataError(
            f"holds no {', '.join(sorted(_READERS))} file",
            where=str(folder),
            fix="put the sequences there, one file each",
        )
    return [entry for file in files for entry in _from_file(file)]


def _from_file(path: Path) -> list[tuple[str, npt.NDArray[np.float32]]]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"files of type {path.suffix or '(none)'} are not read",
            where=str(path),
            fix=f"use one of {', '.join(sorted(_READERS))}",
        )
    return reader(path)


def _read_npz(path: Path) -> list[tuple[str, npt.NDArray[np.float32]]]:
    arrays = _files.read_npz(path, [])
    if "x" in arrays:
        name = "x"
    elif len(arrays) == 1:
        name = next(iter(arrays))
    else:
        raise DataError(
            f"array 'x' is missing (found: {', '.join(sorted(arrays)) or 'none'})",
            where=str(path),
            fix="store the frames under the name 'x'",
        )
    where = f"{path}, array {name!r}"
    if "offsets" in arrays and arrays[name].ndim == 2:
        values = _files.as_matrix(arrays[name], where)
        edges = _files.offsets(arrays["offsets"], len(values), f"{path}, array 'offsets'")
        return [
            (f"{where}, sequence {i}", values[a:b].astype(np.float32))
            for i, (a, b) in enumerate(pairwise(edges))
        ]
    return _split_array(arrays[name], where)


def _read_npy(path: Path) -> list[tuple[str, npt.NDArray[np.float32]]]:
    return _split_array(_files.read_npy(path), str(path))


def _read_csv(path: Path) -> list[tuple[str, npt.NDArray[np.float32]]]:
    return [(str(path), _files.read_csv(path)[1].astype(np.float32))]


def _read_wav(path: Path) -> list[tuple[str, npt.NDArray[np.float32]]]:
    try:
        with wave.open(str(path), "rb") as stream:
            width, tracks, count = (
                stream.getsampwidth(),
                stream.getnchannels(),
                stream.getnframes(),
            )
            payload = stream.readframes(count)
    except _files.BROKEN as error:
        raise _files.unreadable(path, error) from error
    if len(payload) != width * tracks * count:
        raise DataError(
            f"holds {len(payload)} bytes of samples, its header says {width * tracks * count}",
            where=str(path),
            fix="the file is truncated: restore it",
        )
    if width not in (1, 2, 3, 4):
        raise DataError(
            f"has samples of {8 * width} bits", where=str(path), fix="use PCM of 8 to 32 bits"
        )
    if count == 0:
        raise DataError("holds no samples", where=str(path), fix="use a longer recording")
    raw = np.frombuffer(payload, np.uint8).reshape(count * tracks, width)
    if width == 1:  # 8-bit WAV is unsigned
        samples = raw[:, 0].astype(np.float32) / 128.0 - 1.0
    else:
        # Left-aligned in 32 bits, so that the sign comes out right for every width.
        wide = np.zeros((len(raw), 4), np.uint8)
        wide[:, 4 - width :] = raw
        samples = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return [(str(path), samples.reshape(count, tracks))]


def _split_array(array: npt.NDArray, where: str) -> list[tuple[str, npt.NDArray[np.float32]]]:
    if array.ndim == 3:
        return [
            (f"{where}, sequence {i}", _files.as_matrix(part, where).astype(np.float32))
            for i, part in enumerate(array)
        ]
    matrix = array[:, None] if array.ndim == 1 else array
    return [(where, _files.as_matrix(matrix, where).astype(np.float32))]


_READERS: dict[str, Callable[[Path], list[tuple[str, npt.NDArray[np.float32]]]]] = {
    ".csv": _read_csv,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".wav": _read_wav,
}
