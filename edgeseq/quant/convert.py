"""Turn a real step and its formats into the integer step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import QuantiseError
from edgeseq.fixed import INT_RANGE, lut_fit, multiplier, saturate
from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.types import Type
from edgeseq.quant.calibrate import Stats
from edgeseq.quant.formats import PRE_FRACTION, Formats
from edgeseq.quant.options import QuantOptions
from edgeseq.quant.weights import quantise_matrix

__all__ = ["convert"]

Array = npt.NDArray[Any]

_LUT_INTERVALS = 512


def convert(step: Graph, stats: dict[str, Stats], options: QuantOptions) -> Graph:
    """The integer step of the real `step`.

    Args:
        step: real step Graph.
        stats: ranges of its values (`calibrate`).
        options: widths and method.

    Raises:
        QuantiseError: a value or product fits no integer format; names the node.
    """
    return _Converter(step, stats, options).run()


def _power_of_two(ratio: float) -> int | None:
    """e where ratio is exactly 2^e."""
    m, e = math.frexp(abs(ratio))
    return e - 1 if m == 0.5 else None


def _stored(array: Array, scale: float, dtype: str) -> Array:
    """Real numbers in units of `scale`, rounded half up and saturated."""
    lo, hi = INT_RANGE[dtype]
    exact = np.clip(np.floor(np.asarray(array, np.float64) / scale + 0.5), lo, hi)
    return saturate(exact.astype(np.int64), dtype)


class _Converter:
    def __init__(self, step: Graph, stats: dict[str, Stats], options: QuantOptions) -> None:
        self.step, self.options = step, options
        self.formats = Formats(step, stats, options)
        self.out = Graph(step.name, meta=dict(step.meta))
        self.env: dict[str, str] = {}
        self._views: dict[tuple[str, str, float], str] = {}

    def run(self) -> Graph:
        step, out = self.step, self.out
        for name in step.inputs:
            demand = self.formats.demand(name)
            bits = self.formats.view_bits() if demand.matrix and not demand.element else 16
            self.env[name] = out.add_input(name, self.formats.narrow_type(name, bits))
        for s in step.states:
            t = self.formats.state_type(s.input)
            init = _stored(s.init, t.scalar_scale, t.dtype)
            self.env[s.input] = out.add_state(s.name, t, init, bound=s.bound)
        for node in step.nodes:
            try:
                self.env[node.output] = getattr(self, f"_{node.op}")(node)
            except (OverflowError, QuantiseError) as e:
                what, fix = (e.what, e.fix) if isinstance(e, QuantiseError) else (str(e), None)
                raise QuantiseError(
                    what,
                    where=f"node {node.name!r} ({node.op})",
                    fix=fix or "look at the ranges of its inputs: are the frames typical?",
                ) from None
        for s in step.states:
            held = out.types[self.env[s.input]]
            out.set_state(self.env[s.input], self._as(self.env_of(s.output), held))
        out.outputs = []
        emission = {}
        for name in step.outputs:
            value = self._narrow_view(name)
            out.outputs.append(value)
            emission[value] = step.meta.get("emission", {}).get(name, "frame")
        out.meta["emission"] = emission
        out.prune()
        return out

    # -- values ----------------------------------------------------------------------------

    def env_of(self, value: str) -> str:
        """The integer value of a real one; a constant is stored on first use."""
        if value not in self.env:
            array = self._const(value)
            top = float(np.abs(array).max()) or 1.0
            scale = top / 32767.0
            t = Type(tuple(array.shape), "i16", scale)
            self.env[value] = self.out.add_const(value, _stored(array, scale, "i16"), t)
        return self.env[value]

    def _as(self, value: str, want: Type) -> str:
        """`value` in the format of `want`, through a rescale if it has another."""
        have = self.out.types[value]
        if (have.dtype, have.scale) == (want.dtype, want.scale):
            return value
        key = (value, want.dtype, want.scalar_scale)
        if key not in self._views:
            m, s = self._ratio(have.scalar_scale / want.scalar_scale)
            self._views[key] = self.out.add_node(
                "rescale",
                [value],
                name=f"{value}.{want.dtype}",
                types=[Type(have.shape, want.dtype, want.scale)],
                m=m,
                s=s,
            )
        return self._views[key]

    @staticmethod
    def _ratio(ratio: float) -> tuple[int, int]:
        e = _power_of_two(ratio)
        if e is not None and -62 <= e <= 30:
            return (1, -e) if e <= 0 else (1 << e, 0)
        ms, s = multiplier(np.array([ratio]))
        return int(ms[0]), s

    def _const(self, value: str) -> Array:
        if value not in self.step.consts:
            raise QuantiseError(
                f"{value!r} is computed, not a constant",
                fix="matrices, biases and the gain of a norm must be weights of the model",
            )
        return np.asarray(self.step.consts[value], np.float64)

    def _matrix_view(self, value: str) -> str:
        """What a matrix product reads of a real value."""
        stored = self.env_of(value)
        t = self.out.types[stored]
        bits = self.formats.view_bits()
        if t.dtype == "i8" or (t.dtype == "i16" and bits == 16):
            return stored
        return self._as(stored, self._narrowed(value, t, bits))

    def _narrowed(self, value: str, t: Type, bits: int) -> Type:
        dtype = "i8" if bits == 8 else "i16"
        bound = next((s.bound for s in self.step.states if value in (s.input, s.output)), None)
        if bound is None and self.formats.is_unit(value):
            bound = 1.0
        calibrated = self.formats.narrow_type(value, bits)
        if bound is None:
            return calibrated
        whole = Type(t.shape, dtype, 2.0 ** math.ceil(math.log2(bound)) / 2.0 ** (bits - 1))
        # 16 bits hold all of [-1, 1] well; 8 bits need what the value really uses (2 to 7 dB).
        return whole if bits == 16 else min(whole, calibrated, key=lambda v: v.scalar_scale)

    def _narrow_view(self, value: str) -> str:
        """`value` with 16 bits where it is wide: for a norm or an output."""
        stored = self.env_of(value)
        t = self.out.types[stored]
        return stored if t.dtype != "i32" else self._as(stored, self._narrowed(value, t, 16))

    # -- operations ------------------------------------------------------------------------

    def _linear(self, node: Node) -> str:
        pairs = len(node.inputs) // 2
        bits = self.options.weight_bits_of.get(node.name, self.options.weight_bits)
        inputs: list[str] = []
        scales: list[Array] = []
        rows = self.step.types[node.inputs[1]].shape[0]
        reach = np.zeros(rows)
        for g in range(pairs):
            w = self._const(node.inputs[2 * g + 1])
            x = self._matrix_view(node.inputs[2 * g])
            tx = self.out.types[x]
            x_max = -INT_RANGE[tx.dtype][0]
            gram = self.formats.stats[node.inputs[2 * g]].gram
            q, scale = quantise_matrix(w, bits, x_max, gram)
            dtype = "i8" if bits == 8 else "i16"
            tq = Type(tuple(q.shape), dtype, tuple(float(v) for v in scale))
            inputs += [x, self.out.add_const(node.inputs[2 * g + 1], q, tq)]
            # A row of zeros multiplies by zero: its scale means nothing and must not count.
            scales.append(np.where(q.any(axis=1), scale * tx.scalar_scale, 0.0))
            reach += np.abs(q.astype(np.float64)).sum(axis=1) * x_max * scales[-1]
        bias = np.zeros(rows)
        if len(node.inputs) % 2:
            bias = self._const(node.inputs[-1])
        reach += np.abs(bias)
        t = self.formats.arithmetic_type(node, bound=float(reach.max()))
        least = float(reach.max()) / 2.0**30
        if t.scalar_scale < least:  # the sum before saturation must fit 32 bits too
            t = Type(t.shape, t.dtype, 2.0 ** math.ceil(math.log2(least)))
        ms, ss = [], []
        for scale in scales:
            m, s = multiplier(scale / t.scalar_scale)
            ms.append(m)
            ss.append(s)
        if len(node.inputs) % 2:
            tb = Type((rows,), "i32", t.scalar_scale)
            stored = _stored(bias, t.scalar_scale, "i32")
            inputs.append(self.out.add_const(node.inputs[-1], stored, tb))
        return self.out.add_node("linear", inputs, name=node.name, types=[t], m=ms, s=ss)

    def _lut(self, node: Node) -> str:
        fn = FUNCTIONS[node.attrs["fn"]]
        x = self.env_of(node.inputs[0])
        t = self.out.types[x]
        out = self.formats.lut_type(node)
        if fn.domain is not None:
            lo, hi = fn.domain
            fraction = _power_of_two(1.0 / t.scalar_scale) if t.dtype == "i32" else None
            width = int(math.log2((hi - lo) / _LUT_INTERVALS))
            if fraction is None or not 0 <= fraction + width <= 16:
                fraction = PRE_FRACTION
                x = self._as(x, Type(t.shape, "i32", 2.0**-fraction))
            k = fraction + width
            first = int(lo * 2**fraction)
        else:
            if t.dtype != "i16":
                x = self._as(x, self.formats.narrow_type(node.inputs[0], 16))
            t = self.out.types[x]
            first, k = INT_RANGE["i16"][0], 7
            lo = first * t.scalar_scale
            hi = lo + (_LUT_INTERVALS << k) * t.scalar_scale
        nodes = lut_fit(fn.fn, lo, hi, _LUT_INTERVALS, out.scalar_scale, out.dtype)
        table = self.out.add_const(
            f"{node.attrs['fn']}.table", nodes, Type(nodes.shape, out.dtype, out.scale)
        )
        table = self._shared(table)
        return self.out.add_node(
            "lut", [x, table], name=node.name, types=[out], fn=node.attrs["fn"], lo=first, k=k
        )

    def _shared(self, table: str) -> str:
        """An equal constant that already stands in the Graph, or `table` itself."""
        for name, array in self.out.consts.items():
            same = self.out.types[name] == self.out.types[table]
            if name != table and same and np.array_equal(array, self.out.consts[table]):
                del self.out.consts[table], self.out.types[table]
                return name
        return table

    def _sum(self, node: Node, sign: int) -> str:
        a, b = (self.env_of(v) for v in node.inputs)
        ta, tb = self.out.types[a], self.out.types[b]
        t = self.formats.arithmetic_type(node)
        limit = 2.0**28 if "i32" in (ta.dtype, tb.dtype) else 2.0**12
        coarser = max(ta.scalar_scale, tb.scalar_scale)
        if coarser / t.scalar_scale >= limit:  # finer than the operands can tell
            t = Type(t.shape, t.dtype, coarser / limit)
        ra, rb = ta.scalar_scale / t.scalar_scale, sign * tb.scalar_scale / t.scalar_scale
        ea, eb = _power_of_two(ra), _power_of_two(rb)
        if ea is not None and eb is not None and max(ea, eb) <= 30:
            s = min(max(0, -min(ea, eb)), 30 - max(ea, eb), 62)
        else:
            wide = "i32" in (ta.dtype, tb.dtype)
            # 14-bit multipliers keep sums of 16-bit operands within 32 bits.
            s = min(62, (29 if wide else 13) - math.frexp(max(abs(ra), abs(rb)))[1])
        ma, mb = (math.floor(r * 2.0**s + 0.5) for r in (ra, rb))
        return self.out.add_node("add", [a, b], name=node.name, types=[t], ma=ma, mb=mb, s=s)

    def _add(self, node: Node) -> str:
        return self._sum(node, 1)

    def _sub(self, node: Node) -> str:
        return self._sum(node, -1)

    def _mul(self, node: Node) -> str:
        a, b = (self.env_of(v) for v in node.inputs)
        if all(self.out.types[v].dtype == "i32" for v in (a, b)):
            b = self._as(b, self.formats.narrow_type(node.inputs[1], 16))
        t = self.formats.arithmetic_type(node)
        unit = self.out.types[a].scalar_scale * self.out.types[b].scalar_scale
        if unit / t.scalar_scale >= 2.0**14:  # finer than the factors can tell
            t = Type(t.shape, t.dtype, unit / 2.0**13)
        ratio = unit / t.scalar_scale
        e = _power_of_two(ratio)
        if e is not None and -62 <= e <= 14:
            m, s = (1, -e) if e <= 0 else (1 << e, 0)
        else:
            # 15-bit multipliers: a 32 x 16-bit product times one still fits 64 bits.
            s = min(62, 15 - math.frexp(ratio)[1])
            m = math.floor(ratio * 2.0**s + 0.5)
        return self.out.add_node("mul", [a, b], name=node.name, types=[t], m=m, s=s)

    def _clamp(self, node: Node) -> str:
        x = self.env_of(node.inputs[0])
        t = self.out.types[x]

        lo, hi = (
            None if v is None else int(_stored(np.array(v), t.scalar_scale, t.dtype))
            for v in (node.attrs["lo"], node.attrs["hi"])
        )
        return self.out.add_node("clamp", [x], name=node.name, types=[t], lo=lo, hi=hi)

    def _norm(self, node: Node) -> str:
        x = self._narrow_view(node.inputs[0])
        tx = self.out.types[x]
        n = tx.shape[-1]
        if not 2 <= n <= 1024:
            raise QuantiseError(f"layer normalisation over {n} elements; 2 to 1024 are supported")
        # Where eps outweighs all that x can be, x is coarser, so that eps still fits 2^60.
        least = math.sqrt(node.attrs["eps"] * n**3) / 2.0**29
        if tx.scalar_scale < least:
            tx = Type(tx.shape, tx.dtype, least)
            x = self._as(x, tx)
        t = self.formats.arithmetic_type(node)
        gamma, beta = (self._const(v) for v in node.inputs[1:])
        m, s = multiplier(gamma * math.sqrt(n) / 2.0**24 / t.scalar_scale)
        eps = round(node.attrs["eps"] * n**3 / tx.scalar_scale**2)
        bias = _stored(beta, t.scalar_scale, "i32")
        gain_name = self.out.add_const(node.inputs[1], m, Type((n,), "i32", 2.0**-s))
        bias_name = self.out.add_const(node.inputs[2], bias, Type((n,), "i32", t.scale))
        return self.out.add_node(
            "norm",
            [x, gain_name, bias_name],
            name=node.name,
            types=[t],
            eps=max(eps, 1),
            s=s,
        )

    def _move(self, node: Node) -> str:
        x = self.env_of(node.inputs[0])
        t = self.out.types[x]
        shape = self.step.types[node.output].shape
        return self.out.add_node(
            node.op, [x], name=node.name, types=[Type(shape, t.dtype, t.scale)], **node.attrs
        )

    _slice = _reshape = _move

    def _rescale(self, node: Node) -> str:
        return self.env_of(node.inputs[0])

    def _concat(self, node: Node) -> str:
        parts = [self.env_of(v) for v in node.inputs]
        types = [self.out.types[v] for v in parts]
        common = types[0]
        if any((t.dtype, t.scale) != (common.dtype, common.scale) for t in types):
            bits = 8 if all(t.dtype == "i8" for t in types) else 16
            common = self.formats.narrow_type(node.output, bits)
        parts = [self._as(v, common) for v in parts]
        t = Type(self.step.types[node.output].shape, common.dtype, common.scale)
        return self.out.add_node("concat", parts, name=node.name, types=[t])
