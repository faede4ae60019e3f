"""Bytes of an `.onnx` file to onnx's ModelProto, with time and memory bounded by the file's size.

Protobuf makes a message of 100 bytes and more from two bytes of file, so the wire format is walked
once before it is parsed: fields, nodes and nesting are counted and bounded there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from edgeseq.errors import ModelError, UnsupportedError

__all__ = ["MAX_DEPTH", "MAX_NODES", "damaged", "load_model", "read_regular"]

# Protobuf itself ends at 2 GB.
MAX_FILE = (2 << 30) - 1
# Bounds far beyond what the lowering takes; files within them are read in seconds.
MAX_NODES = 50_000
MAX_FIELDS = 1_000_000
MAX_PACKED = 64 << 20  # bytes of numbers stored one by one, which take 8 times that in memory
# Protobuf stops at 100 nested messages; a subgraph takes three.
MAX_DEPTH = 30
MAX_MESSAGES = 99

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PACKED_VARINTS = frozenset({3, 4, 5, 8, 13, 14, 17, 18})  # types of numbers in descriptors

# How files that are something else begin, and what to say of them.
_OTHERS = (
    (0, b"PK\x03\x04", "a ZIP archive: if torch saved it, export the model or pass the .pt2 file"),
    (4, b"TFL3", "a TFLite model: convert what it was made from to ONNX"),
    (4, b"ORTM", "an ONNX Runtime model (.ort): pass the .onnx file it was made from"),
    (0, b"\x89HDF", "an HDF5 file: convert the Keras model to ONNX"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself (git lfs pull)"),
    (0, b"<!DOCTYPE", "a web page: download the file itself"),
    (0, b"<html", "a web page: download the file itself"),
    (0, b"\x80\x02", "a pickle, which can run code: export the model"),
    (0, b"<\nir_version", "ONNX in text form: save it in binary form (onnx.save)"),
    (0, b"ir_version:", "ONNX in text form: save it in binary form (onnx.save)"),
    (0, b"{", "a text: save the model in binary form (onnx.save)"),
)


def damaged(what: str, where: str, fix: str | None = None) -> ModelError:
    """The error for a file that is not what ONNX says."""
    return ModelError(
        what,
        where=where[:400],
        fix=fix or "the file is damaged: export it again (onnx.checker.check_model tells more)",
    )


def read_regular(
    path: Path, where: str, *, limit: int, offset: int = 0, length: int | None = None
) -> bytes:
    """Bytes of a regular file, its size checked before anything is read.

    Args:
        limit: largest number of bytes.
        offset, length: the part to read; to the end if None.

    Raises:
        ModelError: missing, unreadable, not a regular file, too large or shorter than asked.
    """
    # O_NONBLOCK: opening a pipe must not wait for its other end.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        raise ModelError("there is no such file", where=where, fix="check the path") from None
    except (OSError, ValueError) as e:  # a name with a NUL is a ValueError
        raise ModelError(f"cannot be read: {getattr(e, 'strerror', e)}", where=where) from None
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise ModelError("is not a regular file", where=where, fix="pass a file")
    with os.fdopen(handle, "rb") as file:
        length = state.st_size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > state.st_size:
            raise damaged(
                f"ends at byte {state.st_size}, {offset} + {length} bytes are asked for", where
            )
        if length > limit:
            raise UnsupportedError(
                f"has {length} bytes, more than {limit} are not read",
                where=where,
                fix="models for small devices are far smaller: check that it is the right file",
            )
        try:
            file.seek(offset)
            data = file.read(length)
        except OSError as e:
            raise ModelError(f"cannot be read: {e.strerror or e}", where=where) from None
    if len(data) != length:
        raise damaged("was cut while it was read", where)
    return data


def load_model(path: Path) -> Any:
    """The file's ModelProto; no external data is loaded, nothing is checked but its structure.

    Raises:
        ModelError: missing, empty, damaged or not an ONNX file.
        UnsupportedError: larger or nested deeper than what is read.
    """
    import onnx
    from google.protobuf.message import DecodeError

    where = str(path)
    data = read_regular(path, where, limit=MAX_FILE)
    if not data:
        raise ModelError("is empty", where=where, fix="export the model again")
    for at, magic, what in _OTHERS:
        if data[at : at + len(magic)] == magic:
            kind, _, fix = what.partition(": ")
            raise ModelError(f"is {kind}, not an ONNX model", where=where, fix=fix)
    _Scan(data, where).run(onnx.ModelProto.DESCRIPTOR)
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, UnicodeDecodeError) as e:
        raise damaged(f"is not an ONNX model: {e}", where) from None
    if not model.HasField("graph") or model.ir_version <= 0:
        raise damaged(
            "is not an ONNX model: it has no graph or no IR version",
            where,
            "pass a file written by onnx.save or torch.onnx.export",
        )
    return model


class _Scan:
    """One walk over the wire format."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where = data, where
        self.tables: dict[str, dict[int, Any]] = {}

    def cut(self, what: str) -> ModelError:
        return damaged(
            f"is not an ONNX model or is damaged: {what}", self.where, "export the model again"
        )

    def table(self, descriptor: Any) -> dict[int, Any]:
        """By field number: the table of a message, or True for packed integers.

        Under 0 stands the message's name.
        """
        name = descriptor.full_name
        if name not in self.tables:
            table = self.tables[name] = {0: descriptor.name}
            for f in descriptor.fields:
                if f.message_type is not None:
                    table[f.number] = self.table(f.message_type)
                elif f.type in _PACKED_VARINTS:
                    table[f.number] = True
        return self.tables[name]

    def run(self, root: Any) -> None:
        data = self.data
        fields = nodes = packed = 0
        stack = [(0, len(data), self.table(root), 1, 0)]
        while stack:
            pos, end, table, depth, graphs = stack.pop()
            if table[0] == "GraphProto":
                graphs += 1
            elif table[0] == "NodeProto":
                nodes += 1
            self._bound(fields, nodes, packed, depth, graphs)
            while pos < end:
                fields += 1
                key = data[pos]
                if key < 128:
                    pos += 1
                else:
                    key, pos = self.varint(pos, end)
                wire = key & 7
                if wire == _BYTES:
                    length, pos = self.varint(pos, end)
                    after = pos + length
                    if after > end:
                        raise self.cut(f"it is cut short at byte {len(data)}")
                    kind = table.get(key >> 3) if key > 7 else None
                    if kind is True:
                        packed += length
                    elif kind is not None:
                        stack.append((pos, after, kind, depth + 1, graphs))
                    pos = after
                elif wire == _VARINT:
                    _, pos = self.varint(pos, end)
                elif wire == _FIXED32:
                    pos += 4
                elif wire == _FIXED64:
                    pos += 8
                else:
                    raise self.cut(f"a field of wire type {wire} at byte {pos}")
                if fields > MAX_FIELDS:
                    break
            self._bound(fields, nodes, packed, depth, graphs)
            if pos != end:
                raise self.cut(f"it is cut short at byte {len(data)}")

    def _bound(self, fields: int, nodes: int, packed: int, depth: int, graphs: int) -> None:
        what = fix = ""
        if fields > MAX_FIELDS or packed > MAX_PACKED:
            what = f"has more than {MAX_FIELDS} fields or {MAX_PACKED >> 20} MB of single numbers"
            fix = "store tensors as raw data (onnx.save does)"
        elif nodes > MAX_NODES:
            what = f"has more than {MAX_NODES} nodes"
            fix = "a loop was unrolled by the exporter: export it as a loop or as a layer"
        elif graphs > MAX_DEPTH + 1:
            what = f"has subgraphs nested deeper than {MAX_DEPTH}"
            fix = "unnest If, Loop and Scan"
        elif depth > MAX_MESSAGES:
            raise self.cut("its messages are nested too deeply")
        if what:
            raise UnsupportedError(what, where=self.where, fix=fix)

    def varint(self, pos: int, end: int) -> tuple[int, int]:
        """The number at `pos`, and where it ends."""
        data = self.data
        value = shift = 0
        while pos < end and shift < 70:
            byte = data[pos]
            pos += 1
            if byte < 128:
                return value | byte << shift, pos
            value |= (byte & 127) << shift
            shift += 7
        raise self.cut(f"a number that does not end at byte {pos}")
