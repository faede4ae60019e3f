"""Reading arrays and CSV files, with errors that name the file, the line and the channel."""

from __future__ import annotations

import csv
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import DataError

Array = npt.NDArray[Any]

# A declared array larger than this is refused before memory is asked for: a few bytes of a damaged
# or hostile header would otherwise claim terabytes.
_MAX_BYTES = 8 << 30
MOST_FRAME_BYTES = 1 << 30
"""Of frames to calibrate with or to stream, which are read whole."""

_MAPPED = 64 << 20

# What zipfile, zlib and numpy's header parser (it tokenises Python) raise on damaged files.
BROKEN = (
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path, required: Sequence[str], most: int = _MAX_BYTES) -> dict[str, Array]:
    """Every array of an NPZ; object arrays (pickles) are refused.

    Args:
        path: of the file.
        required: names of arrays it must have.
        most: bytes it may unpack to.

    Raises:
        DataError: the file is missing, not a ZIP, truncated, damaged or too large, an array needs
            pickle, or one of `required` is absent.
    """
    arrays: dict[str, Array] = {}
    entry = ""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > most:
            raise DataError(
                f"unpacks to {size} bytes, more than {most}",
                where=str(path),
                fix="use a smaller file",
            )
        with np.load(path, allow_pickle=False) as archive:
            for entry in archive.files:
                arrays[entry] = archive[entry]
    except DataError:
        raise
    except BROKEN as error:
        place = f", array {entry!r}" if entry else ""
        raise unreadable(path, error, place) from error
    for name in required:
        if name not in arrays:
            raise DataError(
                f"array {name!r} is missing (found: {', '.join(sorted(arrays)) or 'none'})",
                where=str(path),
                fix=f"store the array under the name {name!r}",
            )
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # an entry of the ZIP that is not an .npy
            raise DataError(
                f"entry {name!r} is not an array", where=str(path), fix="save it with numpy.savez"
            )
    return arrays


def read_npy(path: Path) -> Array:
    """One array of an NPY file; object arrays are refused. A large one stays on disk until used.

    Raises:
        DataError: missing, truncated, damaged, or the array needs pickle.
    """
    try:
        if path.stat().st_size > _MAPPED:
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except BROKEN as error:
        raise unreadable(path, error) from error


def read_csv_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, as text.

    Raises:
        DataError: unreadable, a column is missing, or a row has another number of fields.
    """
    header, rows = _csv_rows(path)
    for name in columns:
        if name not in header:
            raise DataError(
                f"column {name!r} is missing (found: {', '.join(header)})",
                where=f"{path}, line 1",
                fix=f"the first line must name the columns {', '.join(columns)}",
            )
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_csv(
    path: Path, most: int | None = None
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Column names and values [T, C] of a CSV file; without a header the names are c0, c1, ...

    Args:
        path: of the file.
        most: rows that are read, those after them are left.

    Raises:
        DataError: unreadable, empty, ragged, or a field that is not a number.
    """
    header, rows = _csv_rows(path, most)
    first = 2
    if all(_is_number(field) for field in header):
        rows, header, first = [header, *rows], [f"c{i}" for i in range(len(header))], 1
    if not rows:
        raise DataError("holds no frames", where=str(path), fix="add a line per frame")
    try:
        return tuple(header), np.array(rows, dtype=np.float64)
    except ValueError:
        pass
    for line, row in enumerate(rows, start=first):
        for name, field in zip(header, row, strict=True):
            if not _is_number(field):
                raise DataError(
                    f"{field!r} is not a number",
                    where=f"{path}, line {line}, column {name!r}",
                    fix="write one number per channel",
                )
    raise DataError("cannot be read as numbers", where=str(path), fix="write one number per field")


def as_matrix(array: Array, where: str) -> Array:
    """`array` if it is [T, C] of real numbers with T, C >= 1.

    Raises:
        DataError: another shape or kind of value.
    """
    if array.dtype.kind not in "iuf" or array.ndim != 2 or 0 in array.shape:
        raise DataError(
            f"is {array.dtype} {list(array.shape)}, expected numbers [frames, channels]",
            where=where,
            fix="store one row per frame and one column per channel",
        )
    return array


def offsets(array: Array, frames: int, where: str) -> npt.NDArray[np.int64]:
    """`array` as int64 if it rises from 0 to `frames` without empty recordings.

    Raises:
        DataError: it does not.
    """
    if array.dtype.kind in "iu" and array.ndim == 1 and len(array) >= 2:
        values = array.astype(np.int64)
        if values[0] == 0 and values[-1] == frames and bool((np.diff(values) > 0).all()):
            return values
    raise DataError(
        f"must rise from 0 to the number of frames ({frames})",
        where=where,
        fix="store the first frame of each recording, then the number of frames",
    )


def check_finite(frames: Array, where: str, channels: Sequence[str]) -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: names the first bad frame and its channel.
    """
    if bool(np.isfinite(frames).all()):
        return
    bad = np.argwhere(~np.isfinite(frames))
    frame, channel = bad[0]
    raise DataError(
        f"value {frames[frame, channel]} at frame {frame}, channel {channels[channel]!r} "
        f"({len(bad)} such values)",
        where=where,
        fix="remove or interpolate the frames, or leave the channel out",
    )


def check_varying(low: Array, high: Array, channels: Sequence[str], where: str) -> None:
    """Refuse channels whose lowest and highest values are equal.

    Raises:
        DataError: names the constant channels.
    """
    constant = [
        f"{name!r} (always {lowest:g})"
        for name, lowest, highest in zip(channels, low, high, strict=True)
        if not highest > lowest
    ]
    if constant:
        raise DataError(
            f"constant channel {', '.join(constant)}: a disconnected sensor?",
            where=where,
            fix="repair the recording, or leave the channel out",
        )


def unreadable(path: Path, error: BaseException, place: str = "") -> DataError:
    """The error for a file that is missing, truncated or damaged."""
    if isinstance(error, FileNotFoundError):
        return DataError("does not exist", where=str(path), fix="check the path")
    if isinstance(error, IsADirectoryError | PermissionError):
        return DataError(f"cannot be opened: {error.strerror}", where=str(path), fix="check it")
    reason = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in reason or "Object arrays" in reason:
        reason = "it holds Python objects, which are never unpickled"
    return DataError(
        f"is truncated, damaged or of another format ({reason})",
        where=f"{path}{place}",
        fix="write the file again; arrays must be plain numbers or text",
    )


def _csv_rows(path: Path, most: int | None = None) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = (row for row in csv.reader(stream) if row)
            first = None if most is None else most + 1  # the header is a row too
            rows = [[field.strip() for field in row] for row in islice(lines, first)]
    except (OSError, ValueError, csv.Error) as error:  # ValueError: not UTF-8, a null in the name
        raise unreadable(path, error) from error
    if not rows:
        raise DataError("is empty", where=str(path), fix="write a header and a line per frame")
    header = rows[0]
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(
                f"has {len(row)} fields, the first line has {len(header)}",
                where=f"{path}, line {line}",
                fix="the file may be truncated; every line needs all fields",
            )
    if len(set(header)) != len(header) and not all(_is_number(f) for f in header):
        raise DataError(
            f"a column name occurs twice in {', '.join(header)}",
            where=f"{path}, line 1",
            fix="give every column its own name",
        )
    return header, rows[1:]


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
