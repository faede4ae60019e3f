"""What every lowering works with: the Graph under construction and the current operator."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.frontend.axes import Atom, Axes, LayoutError, Value, describe, kind_of, size_of
from edgeseq.frontend.program import Operation
from edgeseq.ir import Graph

__all__ = ["LOWER", "AxisConflict", "Context", "lowers"]

Array = npt.NDArray[Any]
Lowering = Callable[..., Any]

LOWER: dict[str, Lowering] = {}
"""Lowering functions by the operator's name without namespace and overload."""

# Bounds that no model for a small device comes near and a hostile file must not pass: elements of
# one frame, nodes of the Graph, elements of all its constants.
MAX_FRAME = 1 << 20
MAX_NODES = 10_000
MAX_CONSTANTS = 1 << 27


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for operators `names` (without namespace and overload).

    The function takes the Context and the operator's arguments by their schema names: a `Value`
    for a tensor that depends on the input, an array for a constant, numbers, lists of these, None.
    It returns one `Value`, or a list of them, and raises `LayoutError` where it cannot go on.
    """

    def register(fn: Lowering) -> Lowering:
        for name in names:
            LOWER[name] = fn
        return fn

    return register


class AxisConflict(Exception):
    """A recurrent layer reads batch and time in the other order than assumed."""


class Context:
    """The Graph under construction.

    Attributes:
        graph: the Graph.
        op: operator being lowered.
        used: names the program reads; a result outside it need not be made.
    """

    def __init__(self, graph: Graph, used: set[str]) -> None:
        self.graph, self.used = graph, used
        self.op = Operation("", {}, ())
        self._consts: dict[tuple[tuple[int, ...], bytes], str] = {}
        self._elements = 0

    # -- names -----------------------------------------------------------------------------

    def name(self, suffix: str = "") -> str:
        """Name for a node: the module's path, then the operator unless the module is a layer."""
        parts = [self.op.path]
        if not self.op.path or not self.op.leaf:
            parts.append(self.op.base.strip("_"))
        return ".".join(p for p in (*parts, suffix) if p)

    def unique(self, name: str) -> str:
        """`name`, numbered if a node has it already (a layer that is called twice)."""
        taken = {n.name for n in self.graph.nodes}
        found, i = name, 1
        while found in taken:
            i += 1
            found = f"{name}.call{i}"
        return found

    # -- building --------------------------------------------------------------------------

    def charge(self, elements: int) -> None:
        """Account for constants.

        Raises:
            LayoutError: the Graph became larger than any model it can be for.
        """
        self._elements += elements
        if self._elements > MAX_CONSTANTS or len(self.graph.nodes) > MAX_NODES:
            raise LayoutError(
                f"makes the model larger than {MAX_NODES} nodes or {MAX_CONSTANTS} weights",
                "a Python loop is unrolled by the exporter: use a recurrent layer",
            )

    def const(self, array: Any, suffix: str = "const") -> str:
        """A constant of the Graph, stored as float32; equal ones are stored once."""
        stored = np.asarray(array, np.float32, order="C")
        if not np.all(np.isfinite(stored)):
            raise LayoutError("a constant is NaN, infinite or beyond float32")
        key = (stored.shape, hashlib.sha256(stored.tobytes()).digest())
        if key not in self._consts:
            self.charge(stored.size)
            self._consts[key] = self.graph.add_const(self.name(suffix), stored)
        return self._consts[key]

    def emit(
        self, op: str, inputs: Iterable[str], axes: Axes, *, suffix: str = "", **attrs: Any
    ) -> Value:
        """Append a node whose result has these axes."""
        self.charge(0)
        out = self.graph.add_node(op, inputs, name=self.name(suffix), **attrs)
        return self.view(Value(out, axes), axes)

    def view(self, v: Value, axes: Axes) -> Value:
        """The same elements with other axes; a `reshape` node where the frame's shape changes."""
        seen = Value(v.name, axes)
        if self.graph.types[v.name].shape == seen.frame:
            return seen
        out = self.graph.add_node(
            "reshape", [v.name], name=self.name("reshape"), shape=tuple(seen.frame)
        )
        return replace(seen, name=out)

    def real(self, v: Value) -> Value:
        """`v` itself, its pieces joined into one value."""
        if v.pieces is None:
            return v
        names = [self.piece(v, i) for i in range(len(v.pieces))]
        if len(names) == 1:
            return self.view(Value(names[0], v.axes), v.axes)
        out = self.graph.add_node("concat", names, name=self.name("stack"))
        return self.view(Value(out, v.axes), v.axes)

    def piece(self, v: Value, index: int) -> str:
        """Name of one piece of a stacked value.

        Raises:
            LayoutError: it cannot be had.
        """
        assert v.pieces is not None
        name = v.pieces[index]
        if name is None:
            raise LayoutError(v.reason, v.fix)
        return name

    def unary(self, op: str, v: Value, *, suffix: str = "", **attrs: Any) -> Value:
        """A node that works element by element."""
        v = self.real(v)
        return self.emit(op, [v.name], v.axes, suffix=suffix, **attrs)

    def lut(self, fn: str, v: Value, *, suffix: str = "") -> Value:
        return self.unary("lut", v, suffix=suffix, fn=fn)

    def relu(self, v: Value, *, suffix: str = "") -> Value:
        return self.unary("clamp", v, suffix=suffix, lo=0.0, hi=None)

    def last_axis(self, v: Value) -> Value:
        """`v` with one feature axis, the last one of the tensor and of the frame.

        Raises:
            LayoutError: the last axis is time, batch or a mixture.
        """
        v = self.real(v)
        if not v.axes:
            raise LayoutError("needs a tensor with a feature axis")
        kind = kind_of(v.axes[-1])
        if kind not in "1F":
            word = {"T": "time", "B": "the batch"}.get(kind, "a mixture of time and features")
            raise LayoutError(
                f"works along the last axis of {describe(v.axes)}, which is {word}",
                "only the features of one frame can be combined; transpose so that they are last",
            )
        return self.view(v, (*v.axes[:-1], (Atom("F", size_of(v.axes[-1])),)))

    def linear(
        self, v: Value, weight: Array, bias: Array | None = None, *, suffix: str = ""
    ) -> Value:
        """``weight @ v + bias`` along the last axis of the frame; weight is [out, in]."""
        if weight.ndim != 2 or size_of(v.axes[-1]) != weight.shape[1]:
            raise LayoutError(f"a weight of {list(weight.shape)} on {describe(v.axes)}")
        inputs = [v.name, self.const(weight, f"{suffix}.weight" if suffix else "weight")]
        if bias is not None:
            flat = np.broadcast_to(np.ravel(bias), (weight.shape[0],))
            inputs.append(self.const(flat, f"{suffix}.bias" if suffix else "bias"))
        axes = (*v.axes[:-1], (Atom("F", weight.shape[0]),))
        return self.emit("linear", inputs, axes, suffix=suffix)

    # -- arithmetic on two operands --------------------------------------------------------

    def binary(self, op: str, a: Any, b: Any, *, suffix: str = "") -> Value:
        """``a op b`` with PyTorch's broadcasting; one operand may be a number or an array.

        Raises:
            LayoutError: the operands lie differently in time, or a constant varies over time.
        """
        if isinstance(a, Value) and isinstance(b, Value):
            a, b = self._aligned(self.real(a), self.real(b))
            return self.emit(op, [a.name, b.name], a.axes, suffix=suffix)
        v = self.real(a if isinstance(a, Value) else b)
        v, array = self._against(v, np.asarray(b if isinstance(a, Value) else a))
        c = self.const(array, f"{suffix}.const" if suffix else "const")
        names = [v.name, c] if isinstance(a, Value) else [c, v.name]
        return self.emit(op, names, v.axes, suffix=suffix)

    def _aligned(self, a: Value, b: Value) -> tuple[Value, Value]:
        if self.timed(a) != self.timed(b):
            raise LayoutError(
                "combines a value of every frame with one of the last frame, which is not known "
                "while the frames arrive",
                "use only frame-by-frame values, or only values of the last frame",
            )
        rank = max(len(a.axes), len(b.axes))
        axes = []
        pad_a = ((),) * (rank - len(a.axes)) + a.axes
        pad_b = ((),) * (rank - len(b.axes)) + b.axes
        for x, y in zip(pad_a, pad_b, strict=True):
            if x == y or size_of(y) == 1:
                axes.append(x if x or not y else y)
            elif size_of(x) == 1:
                axes.append(y)
            else:
                raise LayoutError(
                    f"combines {describe(a.axes)} with {describe(b.axes)}, whose axes differ",
                    "transpose so that batch, time and features line up",
                )
        out = tuple(axes)
        return self._broadcast(a, pad_a, out), self._broadcast(b, pad_b, out)

    def _broadcast(self, v: Value, have: Axes, want: Axes) -> Value:
        """`v` repeated along feature axes where it has size 1."""
        frame = Value("", want).frame
        if math.prod(v.frame) == math.prod(frame):
            return self.view(v, want)
        if math.prod(frame) > MAX_FRAME:
            raise LayoutError(f"a frame of {list(frame)} elements is too large")
        grown = [
            i
            for i, (x, y) in enumerate(zip(have, want, strict=True))
            if size_of(x) != size_of(y) and kind_of(y) == "F"
        ]
        after = [kind_of(axis) for axis in want[grown[0] + 1 :]] if grown else []
        if (
            len(grown) != 1
            or "F" in after
            or math.prod(v.frame) * size_of(want[grown[0]]) != math.prod(frame)
        ):
            raise LayoutError(
                f"repeats {describe(v.axes)} to {describe(want)}",
                "only the last feature axis can be repeated",
            )
        n = size_of(want[grown[0]])
        lead = Value("", tuple(a for i, a in enumerate(want) if i != grown[0])).frame
        narrow = tuple((Atom("F", d),) for d in (*lead, 1))
        v = self.view(v, narrow)
        return self.emit(
            "linear", [v.name, self.const(np.ones((n, 1)), "repeat")], want, suffix="repeat"
        )

    def _against(self, v: Value, array: Array) -> tuple[Value, Array]:
        """A constant as one operand of a node on the frames of `v`."""
        rank = max(len(v.axes), array.ndim)
        have = ((),) * (rank - len(v.axes)) + v.axes
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        want: list[Any] = []
        for i, axis in enumerate(have):
            n, size, kind = array.shape[i], size_of(axis), kind_of(axis)
            if n == 1 or (n == size and kind == "F"):
                want.append(axis)
            elif size == 1:
                want.append((Atom("F", n),))
            elif n == size and np.ptp(array, axis=i).max() == 0:
                array = array.take([0], axis=i)
                want.append(axis)
            elif n == size:
                word = "the batch" if kind == "B" else "time"
                raise LayoutError(
                    f"combines {describe(v.axes)} with a constant that varies over {word}",
                    "a table of positions has no meaning in an endless stream; remove it",
                )
            else:
                raise LayoutError(f"combines {describe(v.axes)} with a constant of {array.shape}")
        axes = tuple(want)
        if axes != v.axes:
            v = self._broadcast(v, have, axes)
        # The constant in the shape of the frame, without leading axes of size 1.
        dims: list[int] = []
        for i, axis in enumerate(axes):
            parts = [a.size for a in axis if a.label == "F"]
            dims.extend(parts if array.shape[i] != 1 else [1] * len(parts))
        array = array.reshape(dims)
        # At least the last axis remains: kernels repeat a constant over leading axes only.
        while array.ndim > 1 and array.shape[0] == 1:
            array = array[0]
        frame = v.frame[len(v.frame) - array.ndim :]
        if math.prod(frame) > MAX_FRAME:
            raise LayoutError(f"a frame of {list(frame)} elements is too large")
        return v, np.broadcast_to(array, frame)

    # -- facts -----------------------------------------------------------------------------

    def timed(self, v: Value) -> bool:
        """True where `v` is a sequence."""
        name = v.name if v.pieces is None else next(p for p in v.pieces if p is not None)
        return self.graph.types[name].time is not None
