"""What an ONNX model states around its nodes: opsets, inputs, outputs and their sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import UnsupportedError, UsageError, unknown_name
from edgeseq.frontend._onnx_normal import oldest_and_newest
from edgeseq.frontend._onnx_tensor import element_type, text
from edgeseq.frontend._onnx_wire import damaged
from edgeseq.frontend.program import TensorMeta, ValueInfo

__all__ = [
    "check_opset",
    "declared",
    "domain_of",
    "fixed_sizes",
    "fixed_values",
    "inputs_of",
    "known",
    "opset_of",
    "output_of",
    "with_sizes",
]

Array = npt.NDArray[Any]

# Elements of an input that is fixed.
MAX_FIXED = 1 << 20


def domain_of(domain: str | bytes, where: str) -> str:
    """A domain of operators, the default one as ''."""
    name = text(domain, where, "a domain", 200)
    return "" if name == "ai.onnx" else name


def opset_of(imports: Iterable[Any], where: str) -> tuple[int, dict[str, int]]:
    """Version of the default domain (0: not stated), and of the others.

    Raises:
        ModelError: a domain is stated with two versions.
    """
    versions: dict[str, int] = {}
    for entry in imports:
        domain = domain_of(entry.domain, where)
        if versions.setdefault(domain, entry.version) != entry.version:
            raise damaged(f"states two versions of domain {domain!r}", where)
    return versions.pop("", 0), versions


def check_opset(opset: int, where: str) -> None:
    """Refuse opsets that cannot be given the newest form.

    Raises:
        ModelError: none is stated.
        UnsupportedError: older than 9 or newer than the installed onnx package.
    """
    oldest, newest = oldest_and_newest()
    if opset == 0:
        raise damaged("states no opset version", where)
    if opset < oldest:
        raise UnsupportedError(
            f"is written in opset {opset}; {oldest} to {newest} are read",
            where=where,
            fix="export it again with a newer opset, or use onnx.version_converter",
        )
    if opset > newest:
        raise UnsupportedError(
            f"is written in opset {opset}; the installed onnx package knows up to {newest}",
            where=where,
            fix=f"upgrade the onnx package, or export with opset_version={newest} or lower",
        )


def declared(value: Any, where: str, symbols: Mapping[str, int]) -> ValueInfo | None:
    """What a ValueInfoProto says; None where it is no tensor or says nothing.

    Args:
        symbols: sizes of symbolic dimensions that are fixed.

    Raises:
        ModelError: a size is negative or absurd.
    """
    name = text(value.name, where, "a value's name")
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type" or not value.type.tensor_type.elem_type:
        return None
    tensor = value.type.tensor_type
    dtype = element_type(tensor.elem_type)
    if not tensor.HasField("shape"):
        return ValueInfo(name, dtype, None)
    shape: list[int | str | None] = []
    for dim in tensor.shape.dim:
        which = dim.WhichOneof("value")
        if which == "dim_value" and dim.dim_value != -1:  # -1: how some exporters say "any"
            if not 0 <= dim.dim_value < 1 << 31:
                raise damaged(f"value {name!r} has a size of {dim.dim_value}", where)
            shape.append(dim.dim_value)
        elif which == "dim_param" and dim.dim_param:
            symbol = text(dim.dim_param, where, f"a size of value {name!r}", 200)
            shape.append(symbols.get(symbol, symbol))
        else:
            shape.append(None)
    if len(shape) > 16:
        raise damaged(f"value {name!r} has {len(shape)} axes", where)
    return ValueInfo(name, dtype, tuple(shape))


def known(info: ValueInfo) -> TensorMeta | None:
    """The same where every size is known."""
    if info.shape is None:
        return None
    sizes = tuple(s for s in info.shape if isinstance(s, int))
    return TensorMeta(sizes, info.dtype) if len(sizes) == len(info.shape) else None


def inputs_of(graph: Any, where: str) -> dict[str, ValueInfo]:
    """Inputs without an initializer, by name.

    Raises:
        UnsupportedError: one is no tensor.
    """
    given = {text(t.name, where, "an initializer's name") for t in graph.initializer}
    found: dict[str, ValueInfo] = {}
    for value in graph.input:
        name = text(value.name, where, "an input's name")
        if name in given:
            continue
        kind = value.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            raise UnsupportedError(
                f"input {name!r} is no tensor but of kind {str(kind).removesuffix('_type')}",
                where=where,
                fix="pass tensors",
            )
        info = declared(value, where, {})
        if info is None:
            raise damaged(f"input {name!r} has no element type", where)
        found[name] = info
    return found


def output_of(value: Any, where: str) -> ValueInfo:
    info = declared(value, where, {})
    if info is not None:
        return info
    kind = value.type.WhichOneof("value")
    word = str(kind).removesuffix("_type") if kind else element_type(0)
    return ValueInfo(text(value.name, where, "an output's name"), word, None)


def fixed_sizes(
    dims: Mapping[str, int], inputs: Mapping[str, ValueInfo], where: str
) -> tuple[dict[str, int], dict[tuple[str, int], int]]:
    """`dims` as sizes of symbols, and of axes that have none."""
    symbols: dict[str, int] = {}
    axes: dict[tuple[str, int], int] = {}
    named = dict.fromkeys(_symbols(inputs.values()))
    for key, size in dims.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size < 1 << 31:
            raise UsageError(
                f"size {size!r} for {key!r}",
                where=where,
                fix="sizes are integers from 1 to 2^31 - 1",
            )
        symbol: int | str | None = key
        if key not in named:
            name, _, axis = key.rpartition(":")
            shape = inputs[name].shape if name in inputs else None
            at = (
                int(axis)
                if axis.removeprefix("-").isdecimal() and len(axis) < 4
                else len(axis) + 99
            )
            if shape is None or not -len(shape) <= at < len(shape):
                open_axes = [f"{n}:{i}" for n, v in inputs.items() for i, s in
                             enumerate(v.shape or ()) if s is None]  # fmt: skip
                raise UsageError(
                    unknown_name("dimension", key[:80], [*named, *open_axes]),
                    where=where,
                    fix="pass the name of a symbolic dimension, or INPUT:AXIS",
                )
            at %= len(shape)
            symbol = shape[at]
            if symbol is None:
                symbol = axes.setdefault((name, at), size)
        if isinstance(symbol, str):
            symbol = symbols.setdefault(symbol, size)
        if symbol != size:
            raise UsageError(
                f"size {size} for {key!r}, which is {symbol}",
                where=where,
                fix="one symbolic dimension has one size everywhere",
            )
    return symbols, axes


def _symbols(infos: Any) -> Iterator[str]:
    for info in infos:
        yield from (s for s in info.shape or () if isinstance(s, str))


def with_sizes(
    info: ValueInfo, symbols: Mapping[str, int], axes: Mapping[tuple[str, int], int]
) -> ValueInfo:
    if info.shape is None:
        return info
    shape = tuple(
        symbols.get(s, s) if isinstance(s, str) else axes.get((info.name, i)) if s is None else s
        for i, s in enumerate(info.shape)
    )
    return ValueInfo(info.name, info.dtype, shape)


def fixed_values(
    values: Mapping[str, float], inputs: Mapping[str, ValueInfo], where: str
) -> dict[str, Array]:
    """An array for each input of `values`, all its elements the number given.

    Raises:
        UsageError: there is no such input, it is large or of open size, or it cannot hold the
            number.
    """
    fixed: dict[str, Array] = {}
    for name, value in values.items():
        if name not in inputs:
            raise UsageError(
                unknown_name("input", name[:80], inputs), where=where, fix="pass an input's name"
            )
        info = inputs[name]
        sizes = [s for s in info.shape or () if isinstance(s, int)]
        if len(sizes) != len(info.shape or ()) or math.prod(sizes) > MAX_FIXED:
            raise UsageError(
                f"input {name!r} has shape {list(info.shape or ())}: only a small one of known "
                "shape can be fixed",
                where=where,
                fix="fix its dimensions too",
            )
        name_of_type = "float32" if info.dtype == "bfloat16" else info.dtype
        if not _holds(name_of_type, value):
            raise UsageError(
                f"input {name!r} is {info.dtype}, which cannot be {value!r}", where=where
            )
        fixed[name] = np.full(sizes, value, name_of_type)
        fixed[name].setflags(write=False)
    return fixed


def _holds(dtype: str, value: float) -> bool:
    """Whether an element of this type can be `value`; floats are rounded."""
    if dtype.startswith("float") and "_" not in dtype:
        return abs(value) <= float(np.finfo(dtype).max)
    if dtype == "bool":
        return value in (0, 1)
    if not dtype.startswith(("int", "uint")) or dtype in ("int4", "uint4", "int2", "uint2"):
        return False
    return (
        math.isfinite(value)
        and value == int(value)
        and (np.iinfo(dtype).min <= value <= np.iinfo(dtype).max)
    )
