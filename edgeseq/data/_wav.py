"""Reading WAV files: PCM of 8 to 32 bits and floats, any number of tracks.

The standard library's `wave` reads no floats. A RIFF file is a list of chunks (name, size, bytes;
padded to an even size): `fmt ` says what a sample is, `data` holds them. Every number in a header
is checked against the file before it is used.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from edgeseq.data import _files
from edgeseq.errors import DataError

__all__ = ["Wav", "open_wav", "read_samples"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
# The rest of the GUID that stands for a plain format tag in an extensible header.
_GUID = bytes.fromhex("000000001000800000aa00389b71")
_UNKNOWN = 0xFFFFFFFF  # the size of a chunk that was written without knowing its end
_CHUNKS = 10_000
_TRACKS = 1024
_RATE = 10_000_000


@dataclass(frozen=True)
class Wav:
    """What the header of a file says.

    Attributes:
        rate: samples per second, Hz.
        tracks: numbers per sample.
        count: samples.
        width: bytes of a number.
        floats: they are IEEE floats; else integers (unsigned if of one byte).
        start: position of the first byte of the samples.
    """

    path: Path
    rate: int
    tracks: int
    count: int
    width: int
    floats: bool
    start: int


def open_wav(path: Path) -> Wav:
    """Read the header.

    Raises:
        DataError: missing, truncated or damaged, or a format that is not read.
    """
    try:
        with path.open("rb") as stream:
            return _header(stream, path)
    except DataError:
        raise
    except _files.BROKEN as error:
        raise _files.unreadable(path, error) from error


def read_samples(wav: Wav, most: int | None = None) -> npt.NDArray[np.float32]:
    """The first samples, [n, tracks]; integers are scaled to [-1, 1).

    Args:
        wav: from `open_wav`.
        most: not more than so many.

    Raises:
        DataError: the file cannot be read, or is too large to be read whole.
    """
    count = wav.count if most is None else min(wav.count, most)
    numbers = count * wav.tracks
    if 4 * numbers > _files.MOST_FRAME_BYTES:
        raise DataError(
            f"holds {count} samples of {wav.tracks} tracks, too many to be read at once",
            where=str(wav.path),
            fix="cut it into shorter files",
        )
    try:
        with wav.path.open("rb") as stream:
            stream.seek(wav.start)
            payload = stream.read(numbers * wav.width)
    except OSError as error:
        raise _files.unreadable(wav.path, error) from error
    if len(payload) != numbers * wav.width:
        raise _truncated(wav.path, len(payload), numbers * wav.width)
    return _numbers(payload, wav).reshape(count, wav.tracks)


def _numbers(payload: bytes, wav: Wav) -> npt.NDArray[np.float32]:
    if wav.floats:
        with np.errstate(over="ignore"):  # what becomes infinite is refused with its place
            return np.frombuffer(payload, f"<f{wav.width}").astype(np.float32)
    if wav.width == 1:  # 8-bit WAV is unsigned
        return np.frombuffer(payload, np.uint8).astype(np.float32) / np.float32(128) - np.float32(1)
    if wav.width == 3:
        # Left-aligned in 32 bits, so that the sign comes out right.
        wide = np.zeros((len(payload) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(payload, np.uint8).reshape(-1, 3)
        whole, bits = wide.view("<i4")[:, 0], 32
    else:
        whole, bits = np.frombuffer(payload, f"<i{wav.width}"), 8 * wav.width
    return whole.astype(np.float32) * np.float32(2.0 ** (1 - bits))


def _header(stream: BinaryIO, path: Path) -> Wav:
    size = os.fstat(stream.fileno()).st_size
    first = stream.read(12)
    if first[:4] in (b"RF64", b"RIFX") or len(first) < 12 or first[:4] + first[8:] != b"RIFFWAVE":
        kind = first[:4].decode("ascii", "replace")
        text = f"it is a {kind} file" if first[:4] in (b"RF64", b"RIFX") else "no RIFF WAVE header"
        raise _damaged(path, text)
    fmt: bytes | None = None
    for _ in range(_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            raise _damaged(path, "no chunk of samples")
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        place = stream.tell()
        if name == b"data":
            if fmt is None:
                raise _damaged(path, "samples before their format")
            return _described(fmt, path, place, length, size - place)
        if length > size - place:
            raise _damaged(path, f"a chunk of {length} bytes, {size - place} are left")
        if name == b"fmt ":
            fmt = stream.read(min(length, 40))
        stream.seek(place + length + (length & 1))
    raise _damaged(path, f"more than {_CHUNKS} chunks")


def _described(fmt: bytes, path: Path, start: int, length: int, left: int) -> Wav:
    if len(fmt) < 16:
        raise _damaged(path, f"a format of {len(fmt)} bytes")
    tag, tracks, rate, _, block, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == _EXTENSIBLE:
        if len(fmt) < 40 or fmt[26:40] != _GUID:
            raise _damaged(path, "an extended format that is not known")
        tag = struct.unpack("<H", fmt[24:26])[0]
    widths = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}.get(tag)
    if widths is None or bits not in widths:
        raise DataError(
            f"has samples of {bits} bits in format {tag}",
            where=str(path),
            fix="write it as PCM of 8, 16, 24 or 32 bits, or as 32-bit floats",
        )
    if not 1 <= tracks <= _TRACKS or not 1 <= rate <= _RATE or block != tracks * bits // 8:
        raise _damaged(path, f"{tracks} tracks, {rate} Hz and {block} bytes per sample")
    if length == _UNKNOWN:
        length = left // block * block
    if length > left:
        raise _truncated(path, left, length)
    if length < block:
        raise DataError("holds no samples", where=str(path), fix="use a longer recording")
    return Wav(path, rate, tracks, length // block, bits // 8, tag == _FLOAT, start)


def _truncated(path: Path, found: int, wanted: int) -> DataError:
    return DataError(
        f"holds {found} bytes of samples, its header says {wanted}",
        where=str(path),
        fix="the file is truncated: restore it",
    )


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"is truncated, damaged or of another format ({reason})",
        where=str(path),
        fix="write the file again, as a RIFF WAVE file",
    )
