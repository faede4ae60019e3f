"""From an integer step Graph to TFLite operators.

Matrix products, gates and 16-bit element-wise arithmetic become TFLite's own quantised operators;
wide states and tables of other functions become plain integer arithmetic that equals the Graph's
bit for bit (`edgeseq.emit.tflite.exact`); layer normalisation is computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit.tflite.exact import ExactMath
from edgeseq.emit.tflite.forms import BITS, Form, Tensors, off_power_of_two
from edgeseq.emit.tflite.linear import fully_connected, split_weights
from edgeseq.emit.tflite.ranges import NATIVE, bounds, group_key, group_limits, row_scales
from edgeseq.emit.tflite.writer import SubgraphWriter
from edgeseq.errors import UnsupportedError
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Graph, Node
from edgeseq.quant.calibrate import Stats, clip_range

__all__ = ["Lowering"]

Array = npt.NDArray[Any]

_DTYPE = {"i8": "int8", "i16": "int16", "i32": "int32"}

_UNIT = 2.0**-15  # output scale that 16-bit LOGISTIC and TANH must have

#: Input scale from which the 16-bit kernels' multipliers no longer fit, with room.
_COARSEST = 0.5

#: Room over the largest magnitude seen in calibration, for a 16-bit form.
_MARGIN = 1.25


class Lowering:
    """Writes the nodes of `graph` to `subgraph`.

    Args:
        graph: an integer step.
        subgraph: where to write.
        matrix: 'int16' or 'int8', width of what matrix products take and give.
        observed: magnitudes seen in calibration (`edgeseq.emit.tflite.ranges.observe`); without
            them the proved bounds are taken, which are wide.

    Attributes:
        float_nodes: names of the nodes computed in float32.
    """

    def __init__(
        self, graph: Graph, subgraph: SubgraphWriter, matrix: str, observed: Mapping[str, Stats]
    ) -> None:
        self.graph, self.matrix, self.observed = graph, matrix, observed
        self.tensors = Tensors(subgraph)
        self.float_nodes: list[str] = []
        self._exact = ExactMath(self.tensors)
        self._bounds = bounds(graph)
        self._uses = graph.consumers()
        self._wide = self._find_wide()
        self._best: dict[str, Form] = {}
        self._made: dict[tuple[str, str, float], Form] = {}

    # -- forms of values -------------------------------------------------------------------

    def define(self, value: str, form: Form) -> None:
        """Declare the most precise form of `value`."""
        self._best[value] = form

    def form(self, value: str, dtype: str, scale: float) -> Form:
        """`value` with the given width and scale, made on first use."""
        key = (value, dtype, scale)
        if key not in self._made:
            self._made[key] = self.tensors.convert(self._source(value), dtype, scale)
        return self._made[key]

    def _source(self, value: str) -> Form:
        if value not in self._best:
            t = self.graph.types[value]
            self.define(value, self.tensors.constant(self.graph.consts[value], t.scalar_scale))
        return self._best[value]

    def narrow(self, value: str) -> Form:
        """A 16-bit form for element-wise arithmetic."""
        source = self._source(value)
        if source.dtype == "int16":
            return source
        if source.dtype == "int8":
            return self.form(value, "int16", source.scale)
        return self.form(value, "int16", self.scale(value, "int16"))

    def operand(self, value: str) -> Form:
        """The form a matrix product reads."""
        source = self._source(value)
        if source.dtype == self.matrix:
            return source
        if (source.dtype, self.matrix) == ("int8", "int16"):
            return self.narrow(value)
        return self.form(value, self.matrix, self.scale(value, self.matrix))

    def stored(self, value: str) -> Form:
        """`value` in the Graph's own width and scale."""
        t = self.graph.types[value]
        return self.form(value, _DTYPE[t.dtype], t.scalar_scale)

    def _integer(self, value: str) -> Form:
        """`value` as int32 in the Graph's units."""
        scale = self.graph.types[value].scalar_scale
        source = self._source(value)
        if source.dtype == "int32" and source.scale != scale:
            # QUANTIZE makes no int32 of an int32: over the width the Graph stores.
            return self.tensors.cast(self.stored(value), "int32")
        return self.form(value, "int32", scale)

    def scale(self, value: str, dtype: str) -> float:
        """The scale of a narrow form of `value`: the Graph's where it has one, else by range."""
        t = self.graph.types[value]
        if _DTYPE[t.dtype] == dtype:
            return t.scalar_scale
        if t.dtype == "i8":  # the same range on more levels
            return t.scalar_scale * 2.0 ** (8 - BITS[dtype])
        limit = self._limit(value, dtype)
        if t.dtype == "i16":
            limit = min(limit, t.scalar_scale * 2.0**15)
        gate = self._gate_limit(value)
        if gate is not None:
            limit = min(limit, gate)
        scale = limit / ((1 << (BITS[dtype] - 1)) - 1)
        return scale if gate is None else off_power_of_two(scale)

    def _limit(self, value: str, dtype: str) -> float:
        return self._tighter(self._proved(value), value, dtype)

    def _tighter(self, proved: float, key: str, dtype: str) -> float:
        seen = self.observed.get(key)
        if seen is None or seen.top == 0.0:
            return max(proved, 1e-9)
        # 16 bits have room to spare; of 8 bits every one counts, and rare peaks may saturate
        # where they only feed gates.
        roomy = dtype == "int16" or key in self.graph.outputs
        top = seen.top * _MARGIN if roomy else clip_range(seen, "mse")
        return min(proved, top)

    def _gate_limit(self, value: str) -> float | None:
        """The range of `value` that matters where it ends in LOGISTIC and TANH only.

        On the way there it may be sliced, reshaped, and added to something: a sum is beyond the
        range that matters if one operand is further beyond it than the other reaches.
        """
        if value in self.graph.outputs or any(value == s.output for s in self.graph.states):
            return None
        limits = [self._use_limit(value, n) for n in self._uses[value]]
        known = [v for v in limits if v is not None]
        return max(known) if known and len(known) == len(limits) else None

    def _use_limit(self, value: str, node: Node) -> float | None:
        if node.op == "lut" and node.attrs["fn"] in NATIVE:
            return NATIVE[node.attrs["fn"]][1]
        if node.op in ("slice", "reshape"):
            return self._gate_limit(node.output)
        if node.op == "add" and node.output not in self._wide:
            limit = self._gate_limit(node.output)
            reach = [self._proved(v) for v in node.inputs if v != value]
            return limit + reach[0] if limit is not None and len(reach) == 1 else None
        return None

    def _proved(self, value: str) -> float:
        """Largest real magnitude of `value`, for all inputs."""
        return self._bounds[value] * self.graph.types[value].scalar_scale

    def _find_wide(self) -> set[str]:
        """The 32-bit values on the way to a 32-bit state: they keep all their bits."""
        types = self.graph.types
        wide = {s.output for s in self.graph.states if types[s.output].dtype == "i32"}
        for node in reversed(self.graph.nodes):
            if node.op != "linear" and node.output in wide:
                wide.update(v for v in node.inputs if types[v].dtype == "i32")
        return wide | {s.input for s in self.graph.states if types[s.input].dtype == "i32"}

    # -- nodes -----------------------------------------------------------------------------

    def node(self, node: Node) -> None:
        """Write one node.

        Raises:
            UnsupportedError: TFLite cannot express it; names the node and the operation.
        """
        self.tensors.where = node.output
        method = getattr(self, f"_{node.op}", None)
        if method is None:
            raise self._unsupported(node, "is a new operation and")
        method(node)

    def _unsupported(self, node: Node, why: str) -> UnsupportedError:
        return UnsupportedError(
            f"{node.op} {why} has no TFLite form",
            where=f"TFLite, node {node.name!r}",
            fix="use the native or the ONNX artifact for this model",
        )

    def _const(self, node: Node, value: str) -> Array:
        if value not in self.graph.consts:
            raise self._unsupported(node, f"with a computed operand {value!r}")
        return self.graph.consts[value]

    def _agree(self, node: Node, factors: dict[str, float], shift: int) -> None:
        """Check that stored multipliers are the ratios of the scales, as real operators assume.

        Args:
            node: for the message.
            factors: real ratio of scales by the multiplier's attribute.
            shift: s.
        """
        for key, ratio in factors.items():
            exact = ratio * 2.0**shift
            if abs(abs(node.attrs[key]) - exact) > max(0.75, 0.01 * exact):
                raise self._unsupported(node, f"with a gain in its multiplier {key!r}")

    def _linear(self, node: Node) -> None:
        groups = self._groups(node)
        total = self.scale(node.output, self.matrix)
        gate, reach = self._gate_limit(node.output), sum(g[-1] for g in groups)
        parts = []
        for x, w, rows, bias, key, proved in groups:
            scale = total
            if len(groups) > 1:
                limit = self._tighter(proved, key, self.matrix)
                if gate is not None:  # a part may saturate where no other can bring the sum back
                    limit = min(limit, gate + reach - proved)
                scale = limit / ((1 << (BITS[self.matrix] - 1)) - 1)
            parts.append(fully_connected(self.tensors, x, w, rows, bias, scale))
        if len(parts) == 1:
            self.define(node.output, parts[0])
            return
        scale = max(self.scale(node.output, "int16"), max(p.scale for p in parts) * 2.0**-13)
        out = self.tensors.cast(parts[0], "int16")
        for part in parts[1:]:
            other = self.tensors.cast(part, "int16")
            out = self.tensors.binary("ADD", out, other, "int16", scale)
        self.define(node.output, out)

    def _groups(self, node: Node) -> list[tuple[Form, Array, Array, Array | None, str, float]]:
        """(input, weights int8, row scales, real bias, range key, proved limit) of each product.

        16-bit weights become two products, of their high and low bytes; where matrix products
        give 8 bits the low bytes would be lost in the rounding and are left out.
        """
        for name in node.inputs[1::2]:
            self._const(node, name)
        bias: Array | None = None
        if len(node.inputs) % 2:
            stored = self._const(node, node.inputs[-1])
            bias = stored.astype(np.float64) * self.graph.types[node.inputs[-1]].scalar_scale
        proved = group_limits(self.graph, node, self._bounds)
        groups: list[tuple[Form, Array, Array, Array | None, str, float]] = []
        for g in range(len(node.inputs) // 2):
            x, name = self.operand(node.inputs[2 * g]), node.inputs[2 * g + 1]
            w, rows = self._const(node, name), row_scales(self.graph, name)
            if w.dtype == np.int8:
                groups.append((x, w, rows, bias, group_key(node, g), proved[g]))
            else:
                high, low, base = split_weights(w)
                groups.append((x, high, rows * base, bias, group_key(node, g), proved[g]))
                if self.matrix == "int16" and np.any(low):
                    reach = np.abs(low.astype(np.float64)).sum(1) * rows
                    top = float(reach.max()) * self._bounds[node.inputs[2 * g]]
                    top *= self.graph.types[node.inputs[2 * g]].scalar_scale
                    groups.append((x, low, rows, None, "", top))
            bias = None
        return groups

    def _lut(self, node: Node) -> None:
        x, fn = node.inputs[0], node.attrs["fn"]
        if fn in NATIVE:
            kind, limit = NATIVE[fn]
            source = self._source(x)
            coarse = source.scale > _COARSEST or source.scale != off_power_of_two(source.scale)
            if source.dtype == "int32" or coarse:
                scale = off_power_of_two(min(limit, self._limit(x, "int16")) / 32767.0)
                source = self.form(x, "int16", scale)
            source = self.tensors.cast(source, "int16")
            out = self.tensors.new(source.shape, "int16", _UNIT)
            self.define(node.output, self.tensors.apply(kind, [source], out))
            return
        table = self._const(node, node.inputs[1])
        t = self.graph.types[node.output]
        form = self._exact.lookup(
            self._integer(x), table, node.attrs["lo"], node.attrs["k"], t.scalar_scale
        )
        self.define(node.output, form)

    def _rescale(self, node: Node) -> None:
        (x,) = node.inputs
        t = self.graph.types[node.output]
        if node.output in self._wide:
            m, s = node.attrs["m"], node.attrs["s"]
            form = self._exact.rescale(self._integer(x), m, s, t.scalar_scale, self._bounds[x])
            self.define(node.output, form)
            return
        ratio = self.graph.types[x].scalar_scale / t.scalar_scale
        self._agree(node, {"m": ratio}, node.attrs["s"])
        source = self._source(x)
        if (source.dtype, t.dtype) == ("int16", "i16"):
            source = self.tensors.convert(source, "int16", t.scalar_scale)
        # Otherwise readers requantise the most precise form there is, once.
        self.define(node.output, source)

    def _add(self, node: Node) -> None:
        a, b = node.inputs
        at = node.attrs
        t = self.graph.types[node.output]
        if node.output in self._wide:
            form = self._exact.add(
                (self._integer(a), at["ma"], self._bounds[a]),
                (self._integer(b), at["mb"], self._bounds[b]),
                at["s"],
                t.scalar_scale,
                self._bounds[node.output],
            )
            self.define(node.output, form)
            return
        units = {"ma": self.graph.types[a].scalar_scale, "mb": self.graph.types[b].scalar_scale}
        self._agree(node, {k: v / t.scalar_scale for k, v in units.items()}, at["s"])
        x, y = self.narrow(a), self.narrow(b)
        if (at["ma"] < 0) == (at["mb"] < 0):
            if at["ma"] < 0:
                raise self._unsupported(node, "of two negated operands")
            kind = "ADD"
        else:
            kind = "SUB"
            if at["ma"] < 0:
                x, y = y, x
        # The kernel aborts if an operand is much coarser than the result.
        scale = max(self.scale(node.output, "int16"), max(x.scale, y.scale) * 2.0**-13)
        self.define(node.output, self.tensors.binary(kind, x, y, "int16", scale))

    def _mul(self, node: Node) -> None:
        a, b = node.inputs
        t = self.graph.types[node.output]
        if node.output in self._wide:
            form = self._exact.mul(
                self._integer(a),
                self._integer(b),
                node.attrs["m"],
                node.attrs["s"],
                t.scalar_scale,
                (self._bounds[a], self._bounds[b]),
            )
            self.define(node.output, form)
            return
        unit = self.graph.types[a].scalar_scale * self.graph.types[b].scalar_scale
        self._agree(node, {"m": unit / t.scalar_scale}, node.attrs["s"])
        if node.attrs["m"] < 0:
            raise self._unsupported(node, "with a negative multiplier")
        x, y = self.narrow(a), self.narrow(b)
        scale = self.scale(node.output, "int16")
        # The kernel's multiplier must stay below one.
        product = max(scale, x.scale * y.scale * 1.0001)
        form = self.tensors.binary("MUL", x, y, "int16", product)
        self.define(node.output, self.tensors.convert(form, "int16", scale))

    def _clamp(self, node: Node) -> None:
        (x,) = node.inputs
        lo, hi = node.attrs["lo"], node.attrs["hi"]
        t = self.graph.types[x]
        source = self._integer(x) if node.output in self._wide else self._source(x)
        if source.dtype == "int32" and node.output not in self._wide:
            source = self.narrow(x)
        ratio = t.scalar_scale / source.scale
        least, most = INT_RANGE[t.dtype]
        low, high = INT_RANGE[f"i{BITS[source.dtype]}"]
        # Bounds at or beyond the end of the format do nothing.
        stored_lo = None if lo is None or lo <= least else max(round(lo * ratio), low)
        stored_hi = None if hi is None or hi >= most else min(round(hi * ratio), high)
        self.define(node.output, self._exact.clamp(source, stored_lo, stored_hi))

    def _norm(self, node: Node) -> None:
        """Layer normalisation, computed in float32: no integer operator is accurate enough."""
        x, gain, bias = node.inputs
        t, tx = self.graph.types[node.output], self.graph.types[x]
        n = tx.shape[-1]
        gamma = self._const(node, gain) * (2.0**24 * t.scalar_scale / n**0.5)
        gamma = gamma / 2.0 ** node.attrs["s"]
        beta = self._const(node, bias) * t.scalar_scale
        eps = node.attrs["eps"] * tx.scalar_scale**2 / n**3
        ts = self.tensors
        self.float_nodes.append(node.name)
        source = self.narrow(x)
        last = ts.raw(np.array([len(source.shape)], np.int32))
        kept = (*source.shape[:-1], 1)
        real = ts.apply("DEQUANTIZE", [source], ts.new(source.shape, "float32"))

        def const(values: Any) -> Form:
            return ts.constant(np.asarray(values, np.float32))

        def mean(form: Form) -> Form:
            return ts.apply("MEAN", [form, last], ts.new(kept, "float32"))

        centred = ts.binary("SUB", real, mean(real), "float32")
        variance = mean(ts.binary("MUL", centred, centred, "float32"))
        safe = ts.binary("ADD", variance, const([eps]), "float32")
        root = ts.apply("RSQRT", [safe], ts.new(kept, "float32"))
        unit = ts.binary("MUL", centred, root, "float32")
        scaled = ts.binary("MUL", unit, const(gamma), "float32")
        moved = ts.binary("ADD", scaled, const(beta), "float32")
        scale = self.scale(node.output, "int16")
        out = ts.new(source.shape, "int16", scale)
        self.define(node.output, ts.apply("QUANTIZE", [moved], out))

    # -- movement --------------------------------------------------------------------------

    def _reshape(self, node: Node) -> None:
        shape = tuple(node.attrs["shape"])
        self.define(node.output, self.tensors.reshape(self._source(node.inputs[0]), shape))

    def _slice(self, node: Node) -> None:
        source = self._source(node.inputs[0])
        start, stop = node.attrs["start"], node.attrs["stop"]
        self.define(node.output, self.tensors.slice(source, start, stop))

    def _concat(self, node: Node) -> None:
        parts = [self._source(v) for v in node.inputs]
        if len({(p.dtype, p.scale) for p in parts}) > 1:
            # Runtimes join stored numbers without looking at scales: make the formats equal.
            dtype = "int32" if node.output in self._wide else "int16"
            t = self.graph.types[node.output]
            scale = t.scalar_scale if dtype == "int32" else self.scale(node.output, dtype)
            parts = [self.form(v, dtype, scale) for v in node.inputs]
        self.define(node.output, self.tensors.concat(parts))
