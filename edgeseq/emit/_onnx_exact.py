"""Lowering of an integer step Graph to ONNX integer arithmetic, bit for bit.

Every value is an int64 tensor of its stored integers. ONNX has no arithmetic shift of signed
numbers, so ``(a + 2^(s-1)) >> s`` is written ``(t - mod(t, 2^s)) / 2^s`` with the floor modulo.
Matrix products run in float64, where sums below 2^53 are exact.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._onnx_builder import Builder
from edgeseq.emit._onnx_float import COMPARE_OPS, MOVES, FloatLowering
from edgeseq.fixed import INT_RANGE, RSQRT_TABLE
from edgeseq.ir.graph import Graph, Node, State

__all__ = ["ExactLowering"]


_NARROW = ("lut", "clamp", "max", "min", "compare", "select", "embed")
"""Operations whose results are within their format."""


_WIDE_STEP = {"sqrt": -1, "rsqrt": 1, "reciprocal": 2}
_LOG4 = round(2.0**28 * log(4.0))
"""Of `edgeseq.fixed.wide_apply`: how its shift follows the exponent, and log(4) in Q28."""


class ExactLowering(FloatLowering):
    """Walks an integer step Graph and writes int64 operators."""

    convolves = False  # Conv has no 64-bit form

    def __init__(self, graph: Graph, builder: Builder) -> None:
        super().__init__(graph, builder)
        self._int: dict[str, str] = {}

    # -- values --------------------------------------------------------------------------------

    def bind_input(self, value: str, tensor: str) -> None:
        """Bind prepared float64 frames: ``sat(floor(prepared / scale + 0.5))``."""
        t = self.graph.types[value]
        scale = self.b.const(np.float64(t.scalar_scale), "scale")
        units = self.b.node("Add", self.b.node("Div", tensor, scale), self.b.const(np.float64(0.5)))
        lo, hi = (self.b.const(np.float64(v), "bound") for v in INT_RANGE[t.dtype])
        whole = self.b.node("Clip", self.b.node("Floor", units), lo, hi)
        self._int[value] = self._cast(whole, np.int64)

    def bind_state(self, value: str, tensor: str) -> None:
        self._int[value] = self._cast(tensor, np.int64)

    def real(self, value: str) -> str:
        scale = self.b.const(np.float64(self.graph.types[value].scalar_scale), "scale")
        return self.b.node("Mul", self._cast(self.int64(value), np.float64), scale)

    def stored(self, value: str) -> str:
        return self._cast(self.int64(value), self.graph.types[value].numpy)

    def int64(self, value: str) -> str:
        """The int64 tensor that holds the stored integers of `value`."""
        if value not in self._int:
            # The file keeps the narrow type; runtimes fold the cast when they load it.
            narrow = self.b.const(self.graph.consts[value], value)
            self._int[value] = self._cast(narrow, np.int64)
        return self._int[value]

    def carrier(self, value: str) -> str:
        return self.int64(value)

    def carrier_type(self, value: str) -> npt.DTypeLike:
        return np.int64

    def receive(self, value: str, tensor: str) -> None:
        self._int[value] = tensor

    def start(self, state: State) -> npt.NDArray[Any]:
        return state.init.astype(np.int64)

    # -- arithmetic ----------------------------------------------------------------------------

    def _cast(self, tensor: str, dtype: Any) -> str:
        return self.b.cast(tensor, dtype)

    def _k(self, value: Any) -> str:
        return self.b.const(np.asarray(value, np.int64), "k")

    def _times(self, tensor: str, factor: Any) -> str:
        one = np.ndim(factor) == 0 and int(factor) == 1
        return tensor if one else self.b.node("Mul", tensor, self._k(factor))

    def _floor_div(self, tensor: str, divisor: str) -> str:
        rest = self.b.node("Mod", tensor, divisor)
        return self.b.node("Div", self.b.node("Sub", tensor, rest), divisor)

    def _shift(self, tensor: str, s: int) -> str:
        """``(tensor + 2^(s-1)) >> s``."""
        if s == 0:
            return tensor
        return self._floor_div(self.b.node("Add", tensor, self._k(1 << (s - 1))), self._k(1 << s))

    def _clip(self, tensor: str, lo: int, hi: int) -> str:
        # In float64, exact for bounds within 2^53: what lies beyond stays there when rounded.
        # ONNX Runtime compares int64 wrongly on SSE2 (Clip, Min, Max; onnxruntime#32475).
        bounds = (self.b.const(np.float64(v), "bound") for v in (lo, hi))
        return self._cast(self.b.node("Clip", self._cast(tensor, np.float64), *bounds), np.int64)

    def run(self) -> None:
        """Write every node of the Graph."""
        for node in self.nodes:
            if node.op == "scan":
                self.scan(node)
                continue
            dtype = self.graph.types[node.output].dtype
            if node.op in MOVES:
                result = self.move(node, [self.int64(v) for v in node.inputs])
            else:
                result = getattr(self, f"_{node.op}")(node)
                if node.op not in _NARROW:
                    result = self._clip(result, *INT_RANGE[dtype])
            self._int[node.output] = result

    # -- operations ----------------------------------------------------------------------------

    def _linear(self, node: Node) -> str:
        total = self.int64(node.inputs[-1]) if len(node.inputs) % 2 else ""
        for g, (m, s) in enumerate(zip(node.attrs["m"], node.attrs["s"], strict=True)):
            x, w = node.inputs[2 * g : 2 * g + 2]
            weights = self._cast(self.b.const(self.graph.consts[w].T.copy(), w), np.float64)
            acc = self.b.node("MatMul", self._cast(self.int64(x), np.float64), weights)
            part = self._shift(self._times(self._cast(acc, np.int64), m), s)
            total = self.b.node("Add", part, total) if total else part
        return total

    def _add(self, node: Node) -> str:
        a, b = (self.int64(v) for v in node.inputs)
        a, b = self._times(a, node.attrs["ma"]), self._times(b, node.attrs["mb"])
        return self._shift(self.b.node("Add", a, b), node.attrs["s"])

    def _mul(self, node: Node) -> str:
        product = self.b.node("Mul", *(self.int64(v) for v in node.inputs))
        return self._shift(self._times(product, node.attrs["m"]), node.attrs["s"])

    def _rescale(self, node: Node) -> str:
        return self._shift(
            self._times(self.int64(node.inputs[0]), node.attrs["m"]), node.attrs["s"]
        )

    def _clamp(self, node: Node) -> str:
        lo, hi = INT_RANGE[self.graph.types[node.output].dtype]
        bounds = (node.attrs["lo"], node.attrs["hi"])
        lo, hi = (d if v is None else v for v, d in zip(bounds, (lo, hi), strict=True))
        return self._clip(self.int64(node.inputs[0]), lo, hi)

    def _lut(self, node: Node) -> str:
        x, table = node.inputs
        return self._interpolated(self.int64(x), table, node.attrs["lo"], node.attrs["k"])

    def _interpolated(self, x: str, table: str, lo: int, k: int) -> str:
        """`edgeseq.fixed.lut_apply` of an int64 tensor."""
        nodes = self.graph.consts[table]
        top = lo + ((nodes.size - 1) << k) - 1
        v = self.b.node("Sub", self._clip(x, lo, top), self._k(lo))
        if k == 0:
            return self.b.node("Gather", self.int64(table), v)
        i = self.b.node("Div", v, self._k(1 << k))
        f = self.b.node("Mod", v, self._k(1 << k))
        return self._chord(self.int64(table), i, f, k)

    def _chord(self, table: str, i: str, f: str, k: int) -> str:
        """Entry i, and f 2^-k of the way to the next."""
        left = self.b.node("Gather", table, i)
        right = self.b.node("Gather", table, self.b.node("Add", i, self._k(1)))
        rise = self.b.node("Mul", self.b.node("Sub", right, left), f)
        return self.b.node("Add", left, self._shift(rise, k))

    def _depthwise(self, node: Node) -> str:
        x, w = (self.int64(v) for v in node.inputs[:2])
        acc = self.b.node("ReduceSum", self.b.node("Mul", x, w), self._k([-2]), keepdims=0)
        y = self._shift(self._times(acc, node.attrs["m"]), node.attrs["s"])
        return y if len(node.inputs) == 2 else self.b.node("Add", y, self.int64(node.inputs[2]))

    def _matmul(self, node: Node) -> str:
        a, b = (self._cast(self.int64(v), np.float64) for v in node.inputs)
        acc = self.b.node("MatMul", a, self.turned(b, node.inputs[1]))
        return self._shift(self._times(self._cast(acc, np.int64), node.attrs["m"]), node.attrs["s"])

    def _max(self, node: Node) -> str:
        return self._by_size("Max", node)

    def _min(self, node: Node) -> str:
        return self._by_size("Min", node)

    def _by_size(self, op: str, node: Node) -> str:
        a, b = (self._cast(self.int64(v), np.float64) for v in node.inputs)
        return self._cast(self.b.node(op, a, b), np.int64)

    def _compare(self, node: Node) -> str:
        a, b = (self._cast(self.int64(v), np.float64) for v in node.inputs)
        truth = self.b.node(COMPARE_OPS[node.attrs["cmp"]], a, b, hint=f"{node.output}_set")
        self._truth[node.output] = truth
        return self._cast(truth, np.int64)

    def _number(self, value: str) -> str:
        return self.int64(value)

    def _select(self, node: Node) -> str:
        c, a, b = node.inputs
        return self.b.node("Where", self.truth(c), self.int64(a), self.int64(b), hint=node.name)

    def _embed(self, node: Node) -> str:
        index, table = node.inputs
        within = self._clip(self.int64(index), 0, self.graph.types[table].shape[0] - 1)
        return self.b.node("Gather", self.int64(table), within, hint=node.name)

    def _softmax(self, node: Node) -> str:
        """`edgeseq.fixed.softmax`, line by line."""
        b, a, x = self.b, node.attrs, self.int64(node.inputs[0])
        top = b.node("ReduceMax", self._cast(x, np.float64), self._k([-1]), keepdims=1)
        d = b.node("Sub", x, self._cast(top, np.int64))
        e = self._interpolated(
            self._shift(self._times(d, a["m"]), a["s"]), node.inputs[1], a["lo"], a["k"]
        )
        total = b.node("ReduceSum", e, self._k([-1]), keepdims=1)
        half = b.node("Div", total, self._k(2))
        return b.node("Div", b.node("Add", self._times(e, 1 << 15), half), total)

    def _wide(self, node: Node) -> str:
        """`edgeseq.fixed.wide_apply`, line by line."""
        b, a, fn, x = self.b, node.attrs, node.attrs["fn"], self.int64(node.inputs[0])
        positive = self._clip(b.node("Abs", x) if fn == "reciprocal" else x, 1, (1 << 31) - 1)
        rest, q = positive, self._k(0)
        for step in (8, 4, 2, 1):
            less = b.node("Div", rest, self._k(1 << (2 * step)))
            large = self._cast(less, np.bool_)
            rest = b.node("Where", large, less, rest)
            q = b.node("Add", q, b.node("Where", large, self._k(step), self._k(0)))
        up = 28 - 2 * np.arange(16)
        factor = b.node("Gather", self._k(np.left_shift(1, np.maximum(up, 0))), q)
        divisor = b.node("Gather", self._k(np.left_shift(1, np.maximum(-up, 0))), q)
        u = b.node("Div", b.node("Mul", positive, factor), divisor)
        v = b.node("Sub", u, self._k(1 << 28))
        i = b.node("Div", v, self._k(1 << 22))
        f = b.node("Mod", b.node("Div", v, self._k(1 << 7)), self._k(1 << 15))
        t = self._chord(self.int64(node.inputs[1]), i, f, 15)
        offset = self._k(a["b"])
        if fn == "log":
            t = b.node("Add", t, self._times(q, _LOG4))
            return b.node("Add", self._shift(self._times(t, a["m"]), a["s"]), offset)
        shifts = a["s"] + _WIDE_STEP[fn] * np.arange(16)
        power = b.node("Gather", self._k(np.left_shift(1, shifts.clip(0, 62))), q)
        half = b.node("Div", power, self._k(2))
        y = self._floor_div(b.node("Add", self._times(t, a["m"]), half), power)
        y = b.node("Add", y, offset)
        if fn == "rsqrt":
            return y
        sign = self._cast(x, np.float64)
        zero = b.const(np.float64(0))
        if fn == "sqrt":
            return b.node("Where", b.node("Greater", sign, zero), y, offset)
        y = b.node("Where", b.node("Greater", zero, sign), b.node("Neg", y), y)
        return b.node("Where", self._cast(x, np.bool_), y, self._k(1 << 40))

    def _norm(self, node: Node) -> str:
        """`edgeseq.fixed.layer_norm`, line by line."""
        b, (x, gain, bias) = self.b, (self.int64(v) for v in node.inputs)
        n = self.graph.types[node.inputs[0]].shape[-1]
        axis = self._k([-1])
        d = b.node("Sub", self._times(x, n), b.node("ReduceSum", x, axis, keepdims=1))
        w = b.node("ReduceSum", b.node("Mul", d, d), axis, keepdims=1)
        w = b.node("Add", w, self._k(node.attrs["eps"]))
        j = self._k(0)
        for step in (16, 8, 4, 2, 1):
            # w >= 2^(62 - 2 step), without comparing int64 (see `_clip`)
            large = self._cast(b.node("Div", w, self._k(1 << (62 - 2 * step))), np.bool_)
            w = b.node("Mul", w, b.node("Where", large, self._k(1), self._k(1 << (2 * step))))
            j = b.node("Add", j, b.node("Where", large, self._k(0), self._k(step)))
        u = b.node("Sub", w, self._k(1 << 60))
        i = b.node("Div", u, self._k(1 << 55))
        f = b.node("Mod", b.node("Div", u, self._k(1 << 40)), self._k(1 << 15))
        table = self._k(RSQRT_TABLE)
        left = b.node("Gather", table, i)
        right = b.node("Gather", table, b.node("Add", i, self._k(1)))
        slope = b.node("Mul", b.node("Sub", right, left), f)
        r = b.node("Add", self._times(left, 1 << 15), slope)
        shift = b.node("Sub", self._k(35), j)
        power = b.node("Gather", self._k(2 ** np.arange(36, dtype=np.int64)), shift)
        half = b.node("Div", power, self._k(2))
        z = self._floor_div(b.node("Add", b.node("Mul", d, r), half), power)
        return b.node("Add", self._shift(b.node("Mul", z, gain), node.attrs["s"]), bias)
