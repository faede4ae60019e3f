"""Tensors of an ONNX file to numpy: every way of storing them, sizes checked before memory is used.

Element types without a numpy type become the next one that holds every value: bfloat16 float32,
int4 and int2 int8, uint4 and uint2 uint8.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ModelError, UnsupportedError
from edgeseq.frontend._onnx_wire import damaged, read_regular

__all__ = ["ELEMENT_TYPES", "TensorReader", "bytes_of", "element_type", "numpy_type", "text"]

Array = npt.NDArray[Any]

# All tensors of one model, decoded, external ones included.
MAX_BYTES = 1 << 30
MAX_AXES = 16
MAX_NAME = 1024

# TensorProto.DataType.
ELEMENT_TYPES: dict[int, str] = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1",
    24: "float8_e8m0",
    25: "uint2",
    26: "int2",
}
_STRING, _BOOL, _FLOAT16, _BFLOAT16 = 8, 9, 10, 16
# Bits of the types that are packed several to a byte, and whether they have a sign.
_PACKED = {21: (4, False), 22: (4, True), 25: (2, False), 26: (2, True)}
_EIGHTHS = frozenset({17, 18, 19, 20, 24})  # types of 8 bits without a numpy type
_STORED_AS = {_BFLOAT16: "float32", 21: "uint8", 22: "int8", 25: "uint8", 26: "int8"}

# The field that holds elements where raw_data does not.
_FIELDS = {
    **dict.fromkeys(("float32", "complex64"), "float_data"),
    **dict.fromkeys(("float64", "complex128"), "double_data"),
    **dict.fromkeys(("int64",), "int64_data"),
    **dict.fromkeys(("uint32", "uint64"), "uint64_data"),
}


def element_type(code: int) -> str:
    """Name of an element type: 'float32', 'int4', 'type 99'."""
    return ELEMENT_TYPES.get(code, f"type {code}")


def numpy_type(code: int) -> np.dtype[Any] | None:
    """The numpy type that tensors of this element type are read into; None if there is none."""
    name = _STORED_AS.get(code, ELEMENT_TYPES.get(code, ""))
    if name == "string":
        return np.dtype(object)
    return None if not name or name.startswith(("float8", "float4")) else np.dtype(name)


def text(value: str | bytes, where: str, what: str, limit: int = MAX_NAME) -> str:
    """A string of the file: protobuf hands over bytes where they are not UTF-8.

    Raises:
        ModelError: not UTF-8, or longer than `limit`.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise damaged(f"{what} is not UTF-8: {value[:40]!r}", where) from None
    if len(value) > limit:
        raise damaged(f"{what} has {len(value)} characters: {value[:40]!r}…", where)
    return value


def bytes_of(tensor: Any) -> int:
    """Bytes a tensor says it has, without its data being looked at; strings count as none."""
    if len(tensor.dims) > MAX_AXES:
        return 0
    count = math.prod(max(d, 0) for d in tensor.dims)
    code = tensor.data_type
    if code in _PACKED:
        return -(-count * _PACKED[code][0] // 8)
    if code in (_FLOAT16, _BFLOAT16):
        return 2 * count
    if code in _EIGHTHS:
        return count
    dtype = numpy_type(code)
    return count * dtype.itemsize if dtype is not None and code != _STRING else 0


class TensorReader:
    """Decodes the tensors of one model.

    Args:
        folder: where external data may lie.
        where: the file, for messages.
    """

    def __init__(self, folder: Path, where: str) -> None:
        self.folder, self.where = folder, where
        self.room = MAX_BYTES

    def read(self, tensor: Any, what: str) -> Array:
        """A tensor as a read-only array in its own shape.

        Args:
            what: the tensor in messages, e.g. "initializer 'w'".

        Raises:
            ModelError: the data is missing, or is not what shape and type say.
            UnsupportedError: the element type has no numpy type, or the model has too much data.
        """
        where = f"{self.where}: {what}"
        code = tensor.data_type
        dtype = numpy_type(code)
        if dtype is None:
            if code not in ELEMENT_TYPES:
                raise damaged(f"has element type number {code}", where)
            raise UnsupportedError(
                f"has element type {element_type(code)}",
                where=where,
                fix="use float32, float16 or integer weights",
            )
        dims = list(tensor.dims)
        if len(dims) > MAX_AXES or any(d < 0 for d in dims):
            raise damaged(f"has shape {dims[:MAX_AXES]}", where)
        if tensor.HasField("segment"):
            raise UnsupportedError("is stored in segments", where=where, fix="store it whole")
        count = math.prod(dims)
        self.room -= count * dtype.itemsize
        if self.room < 0 or max(dims, default=0) >= 1 << 31:
            raise UnsupportedError(
                f"has shape {dims}: the model's tensors have more than {MAX_BYTES >> 20} MB",
                where=where,
                fix="models for small devices are far smaller: check that it is the right file",
            )
        if code == _STRING:
            flat = self._strings(tensor, count, where)
        elif tensor.data_location == 1:
            flat = self._raw(self._external(tensor, bytes_of(tensor), where), code, count, where)
        elif tensor.HasField("raw_data"):
            flat = self._raw(tensor.raw_data, code, count, where)
        else:
            flat = self._typed(tensor, code, count, where)
        if flat.size != count:
            raise damaged(f"has shape {dims}, its data {flat.size} elements", where)
        array = flat.reshape(dims)
        array.setflags(write=False)
        return array

    # -- ways of storing -------------------------------------------------------------------

    def _raw(self, data: bytes, code: int, count: int, where: str) -> Array:
        if code in _PACKED:
            bits, signed = _PACKED[code]
            self._expect(len(data), -(-count * bits // 8), where)
            return _unpacked(np.frombuffer(data, np.uint8), bits, signed, count)
        if code == _BFLOAT16:
            self._expect(len(data), 2 * count, where)
            return _widened(np.frombuffer(data, "<u2"))
        dtype = np.dtype(ELEMENT_TYPES[code])
        self._expect(len(data), dtype.itemsize * count, where)
        if code == _BOOL:
            return np.frombuffer(data, np.uint8) != 0
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)

    @staticmethod
    def _expect(have: int, want: int, where: str) -> None:
        if have != want:
            raise damaged(f"has {have} bytes of data, shape and type need {want}", where)

    def _typed(self, tensor: Any, code: int, count: int, where: str) -> Array:
        name = ELEMENT_TYPES[code]
        values = getattr(tensor, _FIELDS.get(name, "int32_data"))
        if name.startswith("complex"):
            count *= 2
        elif code in _PACKED:
            count = -(-count * _PACKED[code][0] // 8)
        if len(values) != count:
            kept = [f for f in {*_FIELDS.values(), "int32_data", "string_data"}
                    if len(getattr(tensor, f))]  # fmt: skip
            also = f" (its data is in {', '.join(sorted(kept))})" if kept and not values else ""
            raise damaged(f"has {len(values)} elements of data, its shape {count}{also}", where)
        field = _FIELDS.get(name, "int32_data")
        wide = {"float_data": "f4", "double_data": "f8", "int64_data": "i8", "uint64_data": "u8"}
        flat = np.fromiter(values, wide.get(field, "i4"), count)
        if name.startswith("complex"):
            return flat.view(name)
        if code in _PACKED:
            bits, signed = _PACKED[code]
            return _unpacked(flat.astype(np.uint8), bits, signed, math.prod(tensor.dims))
        if code == _BFLOAT16:
            return _widened(flat.astype(np.uint16))
        if code == _FLOAT16:
            return flat.astype(np.uint16).view(np.float16)
        if code == _BOOL:
            return flat != 0
        array = flat.astype(name)
        if flat.dtype.kind in "iu" and not np.array_equal(array, flat):
            raise damaged(f"has elements that {name} does not hold", where)
        return array

    def _strings(self, tensor: Any, count: int, where: str) -> Array:
        values = tensor.string_data
        if len(values) != count or tensor.data_location == 1:
            raise damaged(f"has {len(values)} strings, its shape {count}", where)
        flat = np.empty(count, object)
        for i, value in enumerate(values):
            flat[i] = text(value, where, f"string {i}", 1 << 20)
        return flat

    # -- external data ---------------------------------------------------------------------

    def _external(self, tensor: Any, size: int, where: str) -> bytes:
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            key = text(entry.key, where, "a key of its external data")
            if key in entries:
                raise damaged(f"states {key!r} of its external data twice", where)
            entries[key] = text(entry.value, where, f"{key!r} of its external data", 4096)
        offset = _number(entries.get("offset", "0"), where)
        length = _number(entries["length"], where) if "length" in entries else size
        if length != size:
            raise damaged(f"has {length} bytes of external data, shape and type need {size}", where)
        path = self._inside(entries.get("location", ""), where)
        return read_regular(path, where, limit=MAX_BYTES, offset=offset, length=length)

    def _inside(self, location: str, where: str) -> Path:
        """The file of external data: in the model's own folder, links followed."""
        pure = PurePosixPath(location)
        if (
            not location
            or not pure.parts
            or "\0" in location
            or "\\" in location
            or ".." in pure.parts
            or pure.is_absolute()
            or PureWindowsPath(location).drive
        ):
            raise damaged(
                f"has its data in {location[:200]!r}, which is not a file beside the model",
                where,
                "external data must lie in the model's own folder: save the model again there",
            )
        try:
            folder = self.folder.resolve(strict=True)
            path = (folder / pure).resolve(strict=True)
        except FileNotFoundError:
            raise ModelError(
                f"has its data in {location[:200]!r}, which is missing",
                where=where,
                fix="copy the file with the weights beside the model",
            ) from None
        except (OSError, RuntimeError, ValueError) as e:  # loops of links are RuntimeErrors
            raise damaged(f"has its data in {location[:200]!r}: {e}", where) from None
        if not path.is_relative_to(folder):
            raise damaged(
                f"has its data in {location[:200]!r}, a link that leaves the model's folder",
                where,
                "copy the file with the weights beside the model",
            )
        return path


def _number(value: str, where: str) -> int:
    """An offset or length: digits."""
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise damaged(f"has an offset or a length of {value[:40]!r}", where)
    return int(value)


def _unpacked(data: npt.NDArray[np.uint8], bits: int, signed: bool, count: int) -> Array:
    """Elements of `bits` bits each, the first in the lowest ones, to one byte each."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    flat = ((data[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]
    if not signed:
        return flat
    return (flat << (8 - bits)).view(np.int8) >> (8 - bits)


def _widened(data: npt.NDArray[Any]) -> Array:
    """The bits of bfloat16 as float32."""
    return (data.astype(np.uint32) << 16).view(np.float32)
