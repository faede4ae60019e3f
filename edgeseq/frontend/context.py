"""What every lowering works with: the Graph under construction and the current operator."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.frontend.axes import (
    ONE_FRAME,
    Atom,
    Axes,
    LayoutError,
    Value,
    describe,
    kind_of,
    size_of,
)
from edgeseq.frontend.past import future_of, future_of_two, refuse_scores
from edgeseq.frontend.program import Operation
from edgeseq.ir import Graph, Node
from edgeseq.ir.functions import FUNCTIONS

__all__ = ["LOWER", "LOWER_COMPLEX", "AxisConflict", "Context", "lowers", "lowers_complex"]

Array = npt.NDArray[Any]
Lowering = Callable[..., Any]

LOWER: dict[str, Lowering] = {}
"""Lowering functions by the operator's name without namespace and overload."""

LOWER_COMPLEX: dict[str, Lowering] = {}
"""The same for operators that are given complex numbers."""

_PARTS = "compute with its real and imaginary parts"

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


def lowers_complex(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for operators `names` where an argument is complex.

    As `lowers`; such an argument is a `Complex` of two Values, or a complex array.
    """

    def register(fn: Lowering) -> Lowering:
        for name in names:
            LOWER_COMPLEX[name] = fn
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
        context: frames that attention may look back on, its own included; 0: not stated.
        indices: Graph values that are whole numbers: inputs of token numbers.
        quantised: values that an imported model stores as integers, with scale and zero point.
        notes: what a user should know, once each.
        bands: frames that each mask of scores over time lets a query see; 0 where it has no end.
        weighted: scores that were multiplied by values in this operation, by name.
        zeros: values of every frame that are zero, by what they were made of and shape.
        unlimited: attention was met that looks back without end, and `context` is not stated.
        cuts: sequences whose last frames were cut off, by name: the whole, and how many.
        framed: tensors whose frames a view lays out, by name, axes, order and which axis: with
            these frames.
        tick: ticks of an input frame: of how many elements for each something can be made.
        finer: ticks with which what was refused for making more could be made; 0: nothing was.
        ends_otherwise: the model puts other frames than zeros after the end of a sequence.
        frames: of the example's sequences where the length is open, a size that the model holds
            nowhere else; 0: sizes say nothing of time.
    """

    def __init__(
        self, graph: Graph, used: set[str], context: int | None = None, tick: int = 1
    ) -> None:
        self.graph, self.used, self.context = graph, used, context or 0
        self.tick, self.finer = tick, 0
        self.ends_otherwise = False
        self._valid: dict[str, str] = {}
        self.indices: set[str] = set()
        self.quantised: dict[str, tuple[float, float]] = {}
        self.notes: list[str] = []
        self.bands: list[int] = []
        self.weighted: set[str] = set()
        self.zeros: dict[tuple[str, tuple[int, ...]], str] = {}
        self.unlimited = False
        self.cuts: dict[str, tuple[Value, int]] = {}
        self.framed: dict[tuple[str, Axes, tuple[int, ...] | None, int], Value] = {}
        self.op = Operation("", {}, ())
        self.most_frame = MAX_FRAME
        self._consts: dict[tuple[tuple[int, ...], bytes], str] = {}
        self._elements = 0
        self.frames = 0
        self._made: dict[str, Node] = {}
        self._names: set[str] = set()
        self._ended: set[str] = set()
        self._read = 0

    def note(self, text: str) -> None:
        """Tell the user something about the model, once."""
        if text not in self.notes:
            self.notes.append(text)

    # -- names -----------------------------------------------------------------------------

    def name(self, suffix: str = "") -> str:
        """Name for a node: the module's path, then the operator unless the module is a layer."""
        parts = [self.op.path]
        if not self.op.path or not self.op.leaf:
            parts.append(self.op.base.strip("_"))
        return ".".join(p for p in (*parts, suffix) if p)

    def unique(self, name: str) -> str:
        """`name`, numbered if a node has it already (a layer that is called twice)."""
        self._catch_up()
        found, i = name, 1
        while found in self._names:
            i += 1
            found = f"{name}.call{i}"
        return found

    # -- the Graph so far ------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Take in the nodes that were appended since the last time."""
        for node in self.graph.nodes[self._read :]:
            self._names.add(node.name)
            ended = node.op == "last" or any(v in self._ended for v in node.inputs)
            for value in node.outputs:
                self._made[value] = node
                if ended:
                    self._ended.add(value)
        self._read = len(self.graph.nodes)

    def producer(self, value: str) -> Node | None:
        """The node that makes a value of the Graph; None of an input, a state or a constant."""
        self._catch_up()
        return self._made.get(value)

    def ended(self, value: str) -> bool:
        """Whether a value is known only once the sequence has ended."""
        self._catch_up()
        return value in self._ended

    def longer(self, value: str) -> int:
        """Frames by which a sequence is longer than the input has, in its own period.

        Below 0: by which it is shorter.
        """
        g = self.graph
        node = self.producer(value)
        chain: list[Node] = []
        while node is not None:
            if node.op in ("window", "shift", "decimate", "interleave"):
                chain.append(node)
            timed = [v for v in node.inputs if v in g.types and g.types[v].time is not None]
            node = self.producer(timed[0]) if timed else None
        more = 0
        for node in reversed(chain):
            if node.op in ("window", "shift"):
                more -= int(node.attrs["cut"])
            elif node.op == "decimate":
                more = -(-more // int(node.attrs["factor"]))
            else:
                more *= g.types[node.inputs[0]].shape[0]
        return more

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
        if np.iscomplexobj(array):
            raise LayoutError("computes with a complex constant", _PARTS)
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
        """Append a node whose result has these axes, in natural order."""
        self.charge(0)
        out = self.graph.add_node(op, inputs, name=self.name(suffix), **attrs)
        return self.view(Value(out, axes), axes)

    def view(self, v: Value, axes: Axes) -> Value:
        """The same elements with other axes; a `reshape` node where the frame's shape changes."""
        v = self.natural(v)
        seen = replace(v, axes=axes, pieces=None)
        if self.graph.types[v.name].shape == seen.frame:
            return seen
        out = self.graph.add_node(
            "reshape", [v.name], name=self.name("reshape"), shape=tuple(seen.frame)
        )
        return replace(seen, name=out)

    def real(self, v: Value) -> Value:
        """`v` as one value whose frame has the order of its axes."""
        return self.natural(self.whole(v))

    def natural(self, v: Value) -> Value:
        """`v` stored in the order of its axes; a node where it is not."""
        if v.head:
            raise LayoutError(f"takes frames 0:{v.head} of a sequence", ONE_FRAME)
        if v.order is None:
            return v
        from edgeseq.frontend.move import grid, place

        y = place(self, v, grid(v), v.axes, "transpose")
        return replace(y, keys=v.keys, future=v.future)

    def whole(self, v: Value) -> Value:
        """`v` with its pieces joined and its padding made.

        Its order may still be another than that of its axes.
        """
        if v.head:
            v = self.natural(v)  # refuses it
        if v.pad != (0, 0) and v.mirror:
            from edgeseq.frontend.build.mirror import made

            v = made(self, v)
        elif v.pad != (0, 0):
            from edgeseq.frontend.build.views import shifted

            v = shifted(self, v, v.axes, *v.pad)
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
        if v.pad == (0, 0) or not (v.mirror or _keeps_zero(op, attrs)):
            v = self.whole(v)
        self.charge(0)
        out = self.graph.add_node(op, [v.name], name=self.name(suffix), **attrs)
        return replace(v, name=out, future=future_of(op, attrs, v.future))

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

    def binary(self, op: str, a: Any, b: Any, *, suffix: str = "", **attrs: Any) -> Value:
        """``a op b`` with PyTorch's broadcasting; one operand may be a number or an array.

        Raises:
            LayoutError: the operands lie differently in time, or a constant varies over time.
        """
        y = self._binary(op, a, b, suffix, attrs)
        return replace(y, future=future_of_two(op, a, b)) if y.keys else y

    def _binary(self, op: str, a: Any, b: Any, suffix: str, attrs: dict[str, Any]) -> Value:
        if isinstance(a, Value) and isinstance(b, Value):
            keys = max(a.keys, b.keys)
            if any(not v.keys and v.axes and size_of(v.axes[-1]) > 1 for v in (a, b)):
                refuse_scores(a if a.keys else b)  # one counts frames, the other distances
            a, b = self.at_one_time(self.whole(a), self.whole(b))
            if a.axes == b.axes and a.order == b.order:
                self.charge(0)
                out = self.graph.add_node(op, [a.name, b.name], name=self.name(suffix), **attrs)
                return replace(a, name=out)
            from edgeseq.frontend.build.rates import at_one_rate

            a, b = at_one_rate(self, [a, b])
            a, b = self._aligned(self.natural(a), self.natural(b))
            y = self.emit(op, [a.name, b.name], a.axes, suffix=suffix, **attrs)
            return replace(y, keys=keys)
        v = self.whole(a if isinstance(a, Value) else b)
        array = np.asarray(b if isinstance(a, Value) else a)
        if array.ndim and array.shape[-1] > 1:
            refuse_scores(v)
        if self._changes_nothing(op, array, v, first=isinstance(a, Value)):
            return v
        if array.size == 1 and array.ndim <= len(v.axes):
            c = self.const(array.reshape(1), f"{suffix}.const" if suffix else "const")
            names = [v.name, c] if isinstance(a, Value) else [c, v.name]
            if self.graph.types[v.name].shape:
                self.charge(0)
                out = self.graph.add_node(op, names, name=self.name(suffix), **attrs)
                return replace(v, name=out)
        stored = self._stored_constant(v, array)
        if stored is not None:
            c = self.const(stored, f"{suffix}.const" if suffix else "const")
            names = [v.name, c] if isinstance(a, Value) else [c, v.name]
            self.charge(0)
            out = self.graph.add_node(op, names, name=self.name(suffix), **attrs)
            return replace(v, name=out)
        v, array = self._against(self.natural(v), array)
        c = self.const(array, f"{suffix}.const" if suffix else "const")
        names = [v.name, c] if isinstance(a, Value) else [c, v.name]
        return replace(self.emit(op, names, v.axes, suffix=suffix, **attrs), keys=v.keys)

    @staticmethod
    def _changes_nothing(op: str, array: Array, v: Value, *, first: bool) -> bool:
        """Whether ``v op array`` (v first) is v itself."""
        neutral = {"add": 0.0, "mul": 1.0}.get(op, 0.0 if op == "sub" and first else None)
        sizes = v.sizes
        fits = array.ndim <= len(sizes) and all(
            n in (1, m) for n, m in zip(array.shape[::-1], sizes[::-1], strict=False)
        )
        return neutral is not None and fits and bool(np.all(array == neutral))

    def _stored_constant(self, v: Value, array: Array) -> Array | None:
        """A constant over the features of `v`, in the order in which `v` is stored.

        None where `v` is in natural order, or where the constant is larger than `v`.
        """
        if v.order is None or array.ndim > len(v.axes):
            return None
        array = array.reshape((1,) * (len(v.axes) - array.ndim) + array.shape)
        sizes: list[int] = []
        for n, axis in zip(array.shape, v.axes, strict=True):
            atoms = [a.size for a in axis if a.label == "F"]
            if n != 1 and (n != math.prod(atoms) or len(atoms) != len(axis)):
                return None
            sizes += atoms if n != 1 else [1] * len(atoms)
        stored = array.reshape(sizes).transpose(v.order)
        while stored.ndim > 1 and stored.shape[0] == 1:
            stored = stored[0]
        return np.broadcast_to(stored, v.stored[len(v.stored) - stored.ndim :])

    def _aligned(self, a: Value, b: Value) -> tuple[Value, Value]:
        self.same_time(a, b)
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
        """`v` in axes that broadcast against `want` in a node: repeated where that needs it.

        The frame of the result has the rank of a frame of `want`; it is the last axes of it after
        axes of 1 (which nodes repeat by themselves), or all of it.
        """
        from edgeseq.frontend.move import grid, place

        frame = Value("", want).frame
        if v.frame == frame:
            return replace(v, axes=want)
        if math.prod(v.frame) == math.prod(frame):
            return self.view(v, want)
        if math.prod(frame) > MAX_FRAME:
            raise LayoutError(f"a frame of {list(frame)} elements is too large")
        at = grid(replace(v, axes=have))
        dims = [math.prod(a.size for a in axis if a.label == "F") for axis in want]
        if any(n not in (1, d) for n, d in zip(at.shape, dims, strict=True)):
            raise LayoutError(
                f"repeats {describe(v.axes)} to {describe(want)}", "undo the view first"
            )
        # Sizes of the operand per axis of a frame of `want`.
        sizes = [
            a.size if at.shape[i] != 1 or dims[i] == 1 else 1
            for i, axis in enumerate(want)
            for a in axis
            if a.label == "F"
        ]
        bare = sizes
        while bare and bare[0] == 1:
            bare = bare[1:]
        if tuple(bare) == frame[len(frame) - len(bare) :]:
            name = v.name
            if self.graph.types[name].shape != tuple(sizes):
                self.charge(0)
                name = self.graph.add_node(
                    "reshape", [name], name=self.name("reshape"), shape=tuple(sizes)
                )
            return replace(v, name=name, axes=want)
        return place(self, replace(v, axes=have), np.broadcast_to(at, dims), want, "repeat")

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
                    "a table of positions ends and a stream does not: remove it, or compile in "
                    "window mode (--window N --hop N)",
                )
            else:
                raise LayoutError(
                    f"combines {describe(v.axes)} with a constant of {list(array.shape)}",
                    "a table of positions ends, a stream does not: compile in window mode "
                    "(--window N --hop N)"
                    if kind == "T"
                    else "",
                )
        axes = tuple(want)
        if axes != v.axes:
            v = self._broadcast(v, have, axes)
            if self.graph.types[v.name].shape != Value("", axes).frame:  # the constant is larger
                from edgeseq.frontend.move import grid, place

                dims = [math.prod(a.size for a in axis if a.label == "F") for axis in axes]
                seen = replace(v, axes=have)
                v = place(self, seen, np.broadcast_to(grid(seen), dims), axes, "repeat")
        # The constant in the shape of the frame, without leading axes of size 1.
        shape: list[int] = []
        for i, axis in enumerate(axes):
            parts = [a.size for a in axis if a.label == "F"]
            shape.extend(parts if array.shape[i] != 1 else [1] * len(parts))
        array = array.reshape(shape)
        # At least the last axis remains: kernels repeat a constant over leading axes only.
        while array.ndim > 1 and array.shape[0] == 1:
            array = array[0]
        frame = v.frame[len(v.frame) - array.ndim :]
        if math.prod(frame) > MAX_FRAME:
            raise LayoutError(f"a frame of {list(frame)} elements is too large")
        return v, np.broadcast_to(array, frame)

    def steady(self, v: Value) -> bool:
        """Whether `v` comes with every frame and has no axis of time: the same for a sequence."""
        return self.timed(v) and not any(a.label == "T" for axis in v.axes for a in axis)

    def at_one_time(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Both as sequences, or both as values of the end of the sequence.

        Raises:
            LayoutError: one is known at the end only, the other is a sequence.
        """
        if self.timed(a) and not self.timed(b) and self.steady(a):
            a = self.emit("last", [self.natural(a).name], a.axes, suffix="last")
        elif self.timed(b) and not self.timed(a) and self.steady(b):
            b = self.emit("last", [self.natural(b).name], b.axes, suffix="last")
        self.same_time(a, b)
        return a, b

    def same_time(self, a: Value, b: Value) -> None:
        """Raise where one is a sequence and the other is not (LayoutError)."""
        if self.timed(a) != self.timed(b):
            raise LayoutError(
                "combines a value of every frame with one of the last frame, which is not known "
                "while the frames arrive",
                "use only frame-by-frame values, or only values of the last frame",
            )

    def ones(self, v: Value) -> str:
        """A value [1] that is 1 in every frame of `v`: delayed, it tells frames from none."""
        g = self.graph
        one = g.add_node("strided", [v.name], name=self.name("one"), shape=(1,), strides=(0,),
                         offset=0)  # fmt: skip
        one = g.add_node("mul", [one, self.const(np.zeros(1), "zero")], name=self.name("none"))
        return g.add_node("add", [one, self.const(np.ones(1), "one")], name=self.name("now"))

    def valid_keys(self, scores: Value) -> Value:
        """What to add to scores of past frames: 0, or -10 000 for frames before the first."""
        key = str(self.graph.types[scores.name].time)
        if key not in self._valid:
            g = self.graph
            one = self.ones(scores)
            seen = g.add_node("window", [one], name=self.name("seen"), length=self.context,
                              ahead=0, cut=0)  # fmt: skip
            flat = g.add_node("reshape", [seen], name=self.name("seen"), shape=(self.context,))
            gap = g.add_node("sub", [flat, self.const(np.ones(1), "one")], name=self.name("gap"))
            far = self.const(np.full(1, 1e4), "far")
            self._valid[key] = g.add_node("mul", [gap, far], name=self.name("known"))
        axes: Axes = (*((),) * (len(scores.axes) - 1), scores.axes[-1])
        # An axis of heads and sequences together is repeated as a whole.
        lead = tuple(() if any(a.label == "F" for a in axis) else axis for axis in scores.axes[:-1])
        return Value(self._valid[key], (*lead, axes[-1]))

    # -- facts -----------------------------------------------------------------------------

    def weights(self, scores: Value) -> bool:
        """Whether this operation has multiplied scores, maybe moved before, by values."""
        todo = list(self.weighted)
        while todo:
            name = todo.pop()
            if name == scores.name:
                return True
            node = self.producer(name)
            if node is not None and node.op in ("reshape", "strided"):
                todo.extend(node.inputs)
        return False

    def timed(self, v: Value) -> bool:
        """True where `v` is a sequence."""
        name = v.name if v.pieces is None else next(p for p in v.pieces if p is not None)
        return self.graph.types[name].time is not None


def _keeps_zero(op: str, attrs: dict[str, Any]) -> bool:
    """Whether an element-wise node makes zero of zero, so that padding may come after it."""
    if op == "clamp":
        lo, hi = attrs["lo"], attrs["hi"]
        return (lo is None or lo <= 0) and (hi is None or hi >= 0)
    return op == "lut" and float(FUNCTIONS[attrs["fn"]].fn(np.zeros(1))[0]) == 0.0
