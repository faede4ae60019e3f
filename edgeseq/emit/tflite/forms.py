"""Tensors of a step while it is being written, and the operators that make them.

A value of the Graph may exist in several *forms*: as int32 in the Graph's own units, as int16 or
int8 with a scale that suits its range.  A form is made when something first asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._numbers import finite
from edgeseq.emit._views import Move, moves
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
    "TRANSPOSE": {"int8": 2, "int16": 5},
    "SOFTMAX": {"int8": 2, "int16": 3},
    "BATCH_MATMUL": {"int8": 2, "int16": 3},
    "DEPTHWISE_CONV_2D": {"int8": 3, "int16": 5},
    "CONV_2D": {"int8": 3, "int16": 4},
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
    "SOFTMAX": ("SoftmaxOptions", {"beta": 1.0}),
    "BATCH_MATMUL": ("BatchMatMulOptions", {"adjX": False, "adjY": True}),
    "TRANSPOSE": ("TransposeOptions", {}),
    "SELECT_V2": ("SelectV2Options", {}),
    "GREATER": ("GreaterOptions", {}),
    "GREATER_EQUAL": ("GreaterEqualOptions", {}),
    "EQUAL": ("EqualOptions", {}),
    "NOT_EQUAL": ("NotEqualOptions", {}),
    "DIV": ("DivOptions", {}),
}

_FOLDED: dict[str, Callable[[Array, Array], Array]] = {
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "RIGHT_SHIFT": np.right_shift,
    "MINIMUM": np.minimum,
    "MAXIMUM": np.maximum,
}
"""What plain arithmetic makes of two constants."""

_PLAIN = ("float32", "int64", "bool")
"""Element types without a scale."""

_MOST_AXES = 4
"""Axes of a tensor, the batch included, that every operator takes in every runtime."""


@dataclass(frozen=True)
class Form:
    """One stored form of a value: real = stored * scale (zero point 0).

    Attributes:
        tensor: index in the subgraph.
        dtype: 'int8', 'int16', 'int32', 'int64', 'float32' or 'bool'.
        scale: real value of one stored unit; 1 of a float, a bool or of plain integers.
        shape: of one frame.
        data: stored contents of a constant, else None.
    """

    tensor: int
    dtype: str
    scale: float
    shape: tuple[int, ...]
    data: Array | None = None


def _joint_shape(*xs: Form) -> tuple[int, ...]:
    """Of a frame that an element-wise operator makes; a single constant number adds no axis."""
    single = [x.data is not None and x.data.size == 1 for x in xs]
    shapes = [x.shape for x, s in zip(xs, single, strict=True) if not s]
    return np.broadcast_shapes(*(shapes or [x.shape for x in xs]))


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
        self.origin: Form | None = None  # some input or state: it has the batch axis
        self._rows: dict[int, Form] = {}
        self._reshaped: dict[int, Form] = {}  # what each result of a RESHAPE was made of
        self._lead: dict[int, int] = {}  # rows of each tensor in a batch of one, where several

    def new(
        self,
        shape: tuple[int, ...],
        dtype: str,
        scale: float = 1.0,
        name: str = "",
        rows: int = 1,
    ) -> Form:
        """A tensor of one frame, batch axis first (`rows` long in a batch of one)."""
        quant = None if dtype in _PLAIN else Quant(scale)
        index = self.graph.tensor(
            name or f"{self.where}_{len(self.graph.tensors)}",
            (rows, *shape),
            dtype,
            quant,
            batch=True,
        )
        if rows > 1:
            self._lead[index] = rows
        return Form(index, dtype, scale, shape)

    def like(self, x: Form, dtype: str, scale: float = 1.0) -> Form:
        """A tensor for what an element-wise operator makes of `x`."""
        return self.new(x.shape, dtype, scale, rows=self._lead.get(x.tensor, 1))

    def constant(self, array: Array, scale: float = 1.0) -> Form:
        """Stored contents, without a batch axis."""
        dtype = array.dtype.name
        quant = None if dtype in _PLAIN else Quant(scale)
        index = self.graph.constant(f"{self.where}_const", array, quant)
        return Form(index, dtype, scale, array.shape, array)

    def raw(self, array: Array) -> int:
        """A constant that is not a value: axes, shapes, bounds of a slice."""
        return self.graph.constant(f"{self.where}_arg", array)

    def floats(self, values: npt.ArrayLike) -> Form:
        """A float32 constant, within its range."""
        return self.constant(finite(values))

    def batched(self, x: Form) -> Form:
        """A form with the batch axis that a constant lacks."""
        if x.data is None:
            return x
        if x.tensor not in self._rows:
            flat = x.data.reshape(-1)
            if x.dtype == "float32":
                row = self.binary("ADD", self._zero("float32"), self.floats(flat), "float32")
            else:
                wide = self.constant(flat.astype(np.int32), x.scale)
                row = self.binary("ADD", self._zero("int32"), wide, "int32", x.scale)
                row = self.cast(row, x.dtype)
            self._rows[x.tensor] = self.reshape(row, x.shape)
        return self._rows[x.tensor]

    def _zero(self, dtype: str) -> Form:
        """[N, 1] of zeros."""
        assert self.origin is not None
        one = self.slice(self.reshape(self.origin, (math.prod(self.origin.shape),)), 0, 1)
        none = self.constant(np.zeros(1, np.int32))
        return self.cast(self.binary("MUL", self.cast(one, "int32"), none, "int32"), dtype)

    def apply(
        self,
        kind: str,
        inputs: Sequence[Form | int],
        out: Form,
        *,
        version: int | None = None,
        options: tuple[str, dict[str, Any]] | None = None,
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
            options=options or _OPTIONS.get(kind),
        )
        return out

    # -- one width to another --------------------------------------------------------------

    def cast(self, x: Form, dtype: str, scale: float | None = None) -> Form:
        """The same stored numbers in another width (they must fit), and of another scale."""
        scale = x.scale if scale is None else scale
        if (x.dtype, x.scale) == (dtype, scale):
            return x
        if x.data is not None:
            return self.constant(x.data.astype(dtype), scale)
        return self.apply("CAST", [x], self.new(x.shape, dtype, scale))

    def convert(self, x: Form, dtype: str, scale: float) -> Form:
        """The same real value, requantised (rounded, saturated), or as float32 (of scale 1)."""
        if (x.dtype, x.scale) == (dtype, scale):
            return x
        if dtype == "float32":
            return self._real(x)
        if x.dtype == "float32":
            return self._quantised(x, dtype, scale)
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

    def _real(self, x: Form) -> Form:
        """`x` as float32 in real units."""
        if x.data is not None:
            return self.floats(x.data.astype(np.float64) * x.scale)
        if x.dtype in ("int8", "int16"):
            return self.apply("DEQUANTIZE", [x], self.new(x.shape, "float32"))
        number = self.apply("CAST", [x], self.new(x.shape, "float32"))
        return self.binary("MUL", number, self.floats([x.scale]), "float32")

    def _quantised(self, x: Form, dtype: str, scale: float) -> Form:
        """Float32 `x` as stored integers: rounded, saturated."""
        if x.data is not None:
            return self.convert(self.constant(x.data.astype(np.float64)), dtype, scale)
        if dtype == "int32":
            units = self.binary("MUL", x, self.floats([1.0 / scale]), "float32")
            half = self.binary("ADD", units, self.floats([0.5]), "float32")
            whole = self.apply("FLOOR", [half], self.new(x.shape, "float32"))
            # The greatest float32 below 2^31.
            return self.cast(self.within(whole, -(2.0**31), 2.0**31 - 128), "int32", scale)
        top = 2.0 ** (BITS[dtype] - 1) * scale
        # The kernel converts what it is given to int32 before it saturates.
        return self.apply("QUANTIZE", [self.within(x, -top, top)], self.new(x.shape, dtype, scale))

    def within(self, x: Form, lo: float, hi: float) -> Form:
        """Float32 `x` limited to lo..hi."""
        low = self.binary("MAXIMUM", x, self.floats([lo]), "float32")
        return self.binary("MINIMUM", low, self.floats([hi]), "float32")

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
        """The elements of one frame in another shape."""
        if x.shape == shape:
            return x
        if x.data is not None:
            return self.constant(x.data.reshape(shape), x.scale)
        # Never of what a RESHAPE made: see `edgeseq.emit.tflite.memory`.
        x = self._reshaped.get(x.tensor, x)
        return x if x.shape == shape else self.copy(x, shape)

    def copy(self, x: Form, shape: tuple[int, ...]) -> Form:
        """A tensor of its own with the elements of `x`."""
        x = self._reshaped.get(x.tensor, x)
        target = self.raw(np.array((-1, *shape), np.int32))
        size, want = math.prod(x.shape), math.prod(shape)
        rows = self._lead.get(x.tensor, 1) * size // want
        out = self.new(shape, x.dtype, x.scale, rows=max(rows, 1))
        self._reshaped[out.tensor] = x
        return self.apply("RESHAPE", [x, target], out)

    def slice(self, x: Form, start: int, stop: int) -> Form:
        """Elements start..stop-1 of the last axis."""
        shape = (*x.shape[:-1], stop - start)
        if len(shape) >= _MOST_AXES:
            flat = self.slice(self.rows(x, 1), start, stop)
            return self.reshape(flat, shape)
        return self.part(x, (*(0 for _ in shape[1:]), start), shape)

    def part(self, x: Form, starts: Sequence[int], shape: tuple[int, ...]) -> Form:
        """`shape` elements from index `starts` on."""
        whole = [n == d for n, d in zip(shape, x.shape, strict=True)]
        sizes = [-1 if w else n for n, w in zip(shape, whole, strict=True)]
        begin, size = (np.array([v, *w], np.int32) for v, w in ((0, starts), (-1, sizes)))
        out = self.new(shape, x.dtype, x.scale, rows=self._lead.get(x.tensor, 1))
        return self.apply("SLICE", [x, self.raw(begin), self.raw(size)], out)

    def rows(self, x: Form, axes: int) -> Form:
        """All but the last `axes` axes of a frame joined with the batch."""
        return x if len(x.shape) == axes else self.reshape(x, x.shape[-axes:])

    def strided(self, x: Form, shape: Sequence[int], strides: Sequence[int], offset: int) -> Form:
        """A view, as the `strided` operation has it."""
        for step in moves(x.shape, shape, strides, offset, most_axes=_MOST_AXES):
            x = self._move(x, step)
        return x

    def _move(self, x: Form, step: Move) -> Form:
        if step.kind == "reshape":
            return self.reshape(x, step.shape)
        if step.kind == "slice":
            return self.part(x, step.starts, step.shape)
        out = self.new(step.shape, x.dtype, x.scale)
        if step.kind == "transpose":
            perm = np.array([0, *(p + 1 for p in step.perm)], np.int32)
            return self.apply("TRANSPOSE", [x, self.raw(perm)], out)
        indices = self.raw(step.indices.astype(np.int32))
        options = ("GatherOptions", {"axis": step.axis + 1})
        return self.apply("GATHER", [x, indices], out, options=options)

    def concat(self, parts: list[Form]) -> Form:
        """Forms of one width and scale, joined along the last axis."""
        parts = [self.batched(p) for p in parts]
        if len(parts) == 1:
            return parts[0]
        last = sum(p.shape[-1] for p in parts)
        shape = (*parts[0].shape[:-1], last)
        if len(shape) >= _MOST_AXES:
            return self.reshape(self.concat([self.rows(p, 1) for p in parts]), shape)
        rows = self._lead.get(parts[0].tensor, 1)
        out = self.new(shape, parts[0].dtype, parts[0].scale, rows=rows)
        return self.apply("CONCATENATION", list(parts), out)

    def align(self, x: Form, rank: int) -> Form:
        """Give a frame leading axes of one so that the batch axis is not broadcast away."""
        if x.data is not None or len(x.shape) >= rank:
            return x
        return self.reshape(x, (1,) * (rank - len(x.shape)) + x.shape)

    def binary(self, kind: str, a: Form, b: Form, dtype: str, scale: float = 1.0) -> Form:
        """An element-wise operator of two forms, broadcast as numpy does."""
        if (
            a.data is not None
            and b.data is not None
            and kind in _FOLDED
            and a.dtype not in ("int8", "int16")
        ):
            return self.constant(_FOLDED[kind](a.data, b.data).astype(dtype), scale)
        shape = _joint_shape(a, b)
        if len(shape) >= _MOST_AXES:
            a, b = self._folded(a, b)
            return self.reshape(self.binary(kind, a, b, dtype, scale), shape)
        rank = len(shape)
        return self.apply(
            kind,
            [self.align(a, rank), self.align(b, rank)],
            self.new(shape, dtype, scale),
        )

    def select(self, c: Form, a: Form, b: Form) -> Form:
        """`a` where the bool `c` is true, else `b`; a and b of one width and scale."""
        shape = _joint_shape(c, a, b)
        if len(shape) >= _MOST_AXES:
            return self.reshape(self.select(*self._folded(c, a, b)), shape)
        return self.apply(
            "SELECT_V2",
            [self.align(x, len(shape)) for x in (c, a, b)],
            self.new(shape, a.dtype, a.scale),
        )

    def _folded(self, *xs: Form) -> list[Form]:
        """Frames of equal, or of leading, axes with few axes; the last ones of all must agree."""
        sizes = [math.prod(x.shape) for x in xs]
        last = min((n for n in sizes if n > 1), default=1)
        wanted = [(n // last, last) if n > 1 else (1, 1) for n in sizes]
        return [self.reshape(x, w) for x, w in zip(xs, wanted, strict=True)]
