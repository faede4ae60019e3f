"""What files of unlabelled recordings hold, before anything is known of a model's inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.data import _files
from edgeseq.data._wav import open_wav, read_samples
from edgeseq.data.sequences import Recording, SequenceSet
from edgeseq.data.sets import INDEX, MANIFEST, list_sets, load_set
from edgeseq.errors import DataError, unknown_name

__all__ = ["Found", "Source", "sources"]

Array = npt.NDArray[Any]

_MOST_CSV_BYTES = 256 << 20


@dataclass(frozen=True)
class Found:
    """What one file, or one recording of a set, holds.

    Attributes:
        where: for messages.
        arrays: by name; a file's only array that has no name is called "".
        rows: each array is one recording whose first axis is time (else there may be several).
        rate: rows per second in Hz, None if the file does not say.
    """

    where: str
    arrays: Mapping[str, Array]
    rows: bool = False
    rate: float | None = None

    def place(self, name: str) -> str:
        """For messages: the file, and the array where it has a name."""
        return f"{self.where}, array {name!r}" if name else self.where


Source = Callable[[int | None], Found]
"""Reads one file or recording; takes how many rows of it are needed at most, None for all."""


def sources(name_or_path: str | Path) -> list[Source]:
    """What a file, a folder of files (by name order), a data set folder or a known set consists of.

    Nothing but data sets is read before a source is called. A source raises DataError if its file
    is truncated, damaged or too large.

    Args:
        name_or_path: a path, or the name of a set in ``calib/``.

    Raises:
        DataError: no such path or set, a file of another type, or none in the folder.
    """
    path = Path(name_or_path).expanduser()
    if not path.exists():
        if str(name_or_path) not in list_sets():
            raise DataError(
                "does not exist, and " + unknown_name("set", str(name_or_path), list_sets()),
                where=str(name_or_path),
                fix="give a file or folder of frames, or the name of a known set",
            )
        return _of_set(load_set(name_or_path))
    if not path.is_dir():
        return [_of_file(path)]
    if (path / MANIFEST).exists() or (path / INDEX).exists():
        return _of_set(load_set(path))
    return [_of_file(file) for file in _in_folder(path)]


def _of_set(data: SequenceSet) -> list[Source]:
    def read(recording: Recording, rows: int | None) -> Found:
        where = f"{data.source}, recording {recording.name}"
        return Found(where, {"": recording.frames[:rows]}, rows=True, rate=data.rate_hz)

    return [partial(read, r) for r in data]


def _in_folder(folder: Path) -> list[Path]:
    # A folder may be huge: its listing is bounded too.
    listed = islice(folder.iterdir(), 1 << 20)
    files = sorted(p for p in listed if p.suffix.lower() in _READERS)
    if not files:
        raise DataError(
            f"holds no {', '.join(sorted(_READERS))} file",
            where=str(folder),
            fix="put the sequences there, one file each",
        )
    return files


def _of_file(path: Path) -> Source:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"files of type {path.suffix or '(none)'} are not read",
            where=str(path),
            fix=f"use one of {', '.join(sorted(_READERS))}",
        )
    return partial(reader, path)


def _read_npz(path: Path, rows: int | None) -> Found:
    del rows  # which axis is time is not known yet
    arrays = _files.read_npz(path, [], _files.MOST_FRAME_BYTES)
    return Found(str(path), arrays)


def _read_npy(path: Path, rows: int | None) -> Found:
    del rows
    return Found(str(path), {"": _files.read_npy(path)})


def _read_csv(path: Path, rows: int | None) -> Found:
    size = path.stat().st_size
    if size > _MOST_CSV_BYTES:
        raise DataError(
            f"has {size} bytes, more than {_MOST_CSV_BYTES}",
            where=str(path),
            fix="store it as .npy, or cut it into shorter files",
        )
    return Found(str(path), {"": _files.read_csv(path, rows)[1].astype(np.float32)}, rows=True)


def _read_wav(path: Path, rows: int | None) -> Found:
    wav = open_wav(path)
    return Found(str(path), {"": read_samples(wav, rows)}, rows=True, rate=float(wav.rate))


_READERS: dict[str, Callable[[Path, int | None], Found]] = {
    ".csv": _read_csv,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".wav": _read_wav,
}
