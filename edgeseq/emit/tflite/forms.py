"""Tensors of a step while it is being written, and the operators that make them.

A value of the Graph may exist in several *forms*: as int32 in the Graph's own units, as int16 or
int8 with a scale that suits its range.  A form is made when something first asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit.tflite.writer import Quant, SubgraphWriter

__all__ = ["BITS", "Form", "Tensors", "off_power_of_two"]

Array = npt.NDArray[Any]

BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}

#: Version stamp of each operator by the width it works on; runtimes refuse stamps they do not
#: know, so each is the lowest that names the width (1 where absent).
_VERSIONS: dict[str, dict[str, int]] = {
    "ADD": {"int8": 2, "int16": 3, "int64": 4},
    "SUB": {"int8": 2, "int16": 5, "int64": 4},
    "MUL": {"int8": 2, "int16": 4, "int64": 5},
    "LOGISTIC": {"int8": 2, "int16": 3},
    "TANH": {"int8": 2, "int16": 3},
    "RELU": {"int8": 2, "int16": 3},
    "MINIMUM": {"int8": 2, "int16": 4},
    "MAXIMUM": {"int8": 2, "int16": 4},
    "CONCATENATION": {"int8": 2, "int16": 3},
    "SLICE": {"int8": 2, "int16": 4},
    "DEQUANTIZE": {"int8": 2, "int16": 3},
    "GATHER": {"int8": 2, "int16": 4},
}

#: Options a runtime insists on, even where all fields have their defaults.
_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    # Without this flag int16 sums are taken to have power-of-two scales.
    "ADD": ("AddOptions", {"potScaleInt16": False}),
    "SUB": ("SubOptions", {"potScaleInt16": False}),
    "MUL": ("MulOptions", {}),
    "FULLY_CONNECTED": ("FullyConnectedOptions", {}),
    "GATHER": ("GatherOptions", {}),
    "CONCATENATION": ("ConcatenationOptions", {"axis": -1}),
    "MEAN": ("ReducerOptions", {"keepDims": True}),
}


@dataclass(frozen=True)
class Form:
    """One stored form of a value: real = stored * scale (zero point 0).

    Attributes:
        tensor: index in the subgraph.
        dtype: 'int8', 'int16', 'int32', 'int64' or 'float32'.
        scale: real value of one stored unit; 1 of a float or of plain integers.
        shape: of one frame.
        data: stored contents of a constant, else None.
    """

    tensor: int
    dtype: str
    scale: float
    shape: tuple[int, ...]
    data: Array | None = None


def off_power_of_two(scale: float) -> float:
    """`scale`, moved up by 2 % if it is within 1 % of a power of two.

    The 16-bit LOGISTIC and TANH kernels switch to a coarse path (errors of 12 units instead of 3)
    where the input's scale is nearly 2^-12 or 2^-11.
    """
    log = math.log2(scale)
    return scale * 1.02 if abs(log - round(log)) < 0.0145 else scale


class Tensors:
    """Adds operators to a subgraph; every method returns the form it made.

    Args:
        graph: the subgraph to write to.
    """

    def __init__(self, graph: SubgraphWriter) -> None:
        self.graph = graph
        self.where = ""  # name given to the tensors of the node being written

    def new(
        self,
        shape: tuple[int, ...],
        dtype: str,
        scale: float = 1.0,
        name: str = "",
        rows: int = 1,
    ) -> Form:
        """A tensor of one frame, batch axis first (`rows` long in a batch of one)."""
        quant = None if dtype in ("float32", "int64") else Quant(scale)
        index = self.graph.tensor(
            name or f"{self.where}_{len(self.graph.tensors)}",
            (rows, *shape),
            dtype,
            quant,
            batch=True,
        )
        return Form(index, dtype, scale, shape)

    def constant(self, array: Array, scale: float = 1.0) -> Form:
        """Stored contents, without a batch axis."""
        dtype = array.dtype.name
        quant = None if dtype in ("float32", "int64") else Quant(scale)
        index = self.graph.constant(f"{self.where}_const", array, quant)
        return Form(index, dtype, scale, array.shape, array)

    def raw(self, array: Array) -> int:
        """A constant that is not a value: axes, shapes, bounds of a slice."""
        return self.graph.constant(f"{self.where}_arg", array)

    def apply(
        self, kind: str, inputs: Sequence[Form | int], out: Form, *, version: int | None = None
    ) -> Form:
        """Append operator `kind`; the version stamp follows the first form's width."""
        forms = [i for i in inputs if isinstance(i, Form)]
        width = forms[0].dtype if forms else out.dtype
        if kind == "QUANTIZE":
            version = 2 if out.dtype == "int16" else 1
        elif version is None:
            version = _VERSIONS.get(kind, {}).get(width, 1)
        self.graph.op(
            kind,
            [i.tensor if isinstance(i, Form) else i for i in inputs],
            [out.tensor],
            version=version,
            options=_OPTIONS.get(kind),
        )
        return out

    # -- one width to another --------------------------------------------------------------

    def cast(self, x: Form, dtype: str) -> Form:
        """The same stored numbers in another width (they must fit)."""
        if x.dtype == dtype:
            return x
        if x.data is not None:
            return self.constant(x.data.astype(dtype), x.scale)
        return self.apply("CAST", [x], self.new(x.shape, dtype, x.scale))

    def convert(self, x: Form, dtype: str, scale: float) -> Form:
        """The same real value, requantised (rounded, saturated)."""
        if (x.dtype, x.scale) == (dtype, scale):
            return x
        if x.data is not None:
            top = (1 << (BITS[dtype] - 1)) - 1
            real = x.data.astype(np.float64) * x.scale
            stored = np.clip(np.floor(real / scale + 0.5), -top - 1, top)
            return self.constant(stored.astype(dtype), scale)
        if x.dtype == "int8" and dtype != "int8":
            # tflite-runtime 2.14 has no QUANTIZE from int8 to wider formats.
            return self.convert(self.cast(x, "int16"), dtype, scale)
        if x.scale == scale and BITS[dtype] > BITS[x.dtype]:
            return self.cast(x, dtype)
        if dtype == "int32" and x.scale / scale > 2.0**15:
            return self._refine(x, scale)
        if dtype != "int32" and x.scale / scale > 2.0**15:
            # QUANTIZE would wrap. One unit is beyond what the new width holds: any sign saturates.
            x = self._clamp(x, 1)
        return self.apply("QUANTIZE", [x], self.new(x.shape, dtype, scale))

    def _refine(self, x: Form, scale: float) -> Form:
        """`x` as int32 with a scale over 2^15 times finer, where QUANTIZE would wrap."""
        m = round(x.scale / scale)
        top = ((1 << 31) - 1) // m
        wide = self._clamp(self.cast(x, "int32"), top)
        factor = self.constant(np.array([m], np.int32), scale)
        return self.binary("MUL", wide, factor, "int32", scale)

    def _clamp(self, x: Form, top: int) -> Form:
        """`x` with its stored numbers limited to -top..top."""
        for kind, bound in (("MINIMUM", top), ("MAXIMUM", -top)):
            edge = self.constant(np.array([bound], x.dtype), x.scale)
            x = self.binary(kind, x, edge, x.dtype, x.scale)
        return x

    # -- movement --------------------------------------------------------------------------

    def reshape(self, x: Form, shape: tuple[int, ...]) -> Form:
        """The elements of one frame in another shape; also the way to copy a tensor."""
        if x.data is not None:
            return self.constant(x.data.reshape(shape), x.scale)
        target = self.raw(np.array((-1, *shape), np.int32))
        size, want = (int(np.prod(v, dtype=np.int64)) for v in (x.shape, shape))
        rows = max(size // want, 1)
        return self.apply("RESHAPE", [x, target], self.new(shape, x.dtype, x.scale, rows=rows))

    def slice(self, x: Form, start: int, stop: int) -> Form:
        """Elements start..stop-1 of the last axis."""
        rank = len(x.shape) + 1
        begin, size = np.zeros(rank, np.int32), np.full(rank, -1, np.int32)
        begin[-1], size[-1] = start, stop - start
        out = self.new((*x.shape[:-1], stop - start), x.dtype, x.scale)
        return self.apply("SLICE", [x, self.raw(begin), self.raw(size)], out)

    def concat(self, parts: list[Form]) -> Form:
        """Forms of one width and scale, joined along the last axis."""
        last = sum(p.shape[-1] for p in parts)
        out = self.new((*parts[0].shape[:-1], last), parts[0].dtype, parts[0].scale)
        return self.apply("CONCATENATION", list(parts), out)

    def align(self, x: Form, rank: int) -> Form:
        """Give a frame leading axes of one so that the batch axis is not broadcast away."""
        if x.data is not None or len(x.shape) >= rank:
            return x
        return self.reshape(x, (1,) * (rank - len(x.shape)) + x.shape)

    def binary(self, kind: str, a: Form, b: Form, dtype: str, scale: float = 1.0) -> Form:
        """An element-wise operator of two forms, broadcast as numpy does."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        rank = max(len(a.shape), len(b.shape))
        return self.apply(
            kind,
            [self.align(a, rank), self.align(b, rank)],
            self.new(tuple(shape), dtype, scale),
        )
