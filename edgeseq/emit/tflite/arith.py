"""Element-wise operations, in 16 bits or, towards 32-bit states, exactly."""

from __future__ import annotations

import numpy as np

from edgeseq.emit.tflite.forms import BITS, Form, off_power_of_two
from edgeseq.emit.tflite.ranges import NATIVE
from edgeseq.emit.tflite.values import Values
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Node

__all__ = ["Arithmetic"]

_UNIT = 2.0**-15  # output scale that 16-bit LOGISTIC and TANH must have

#: Input scale from which the 16-bit kernels' multipliers no longer fit, with room.
_COARSEST = 0.5

#: Units of the result that a coarsely rounded multiplier may be off by.
_NEGLIGIBLE = 2.0

_COMPARISONS = {"gt": "GREATER", "ge": "GREATER_EQUAL", "eq": "EQUAL"}


class Arithmetic(Values):
    """Nodes that compute each element from the same element of their inputs."""

    def _agrees(self, node: Node, units: dict[str, tuple[float, int]]) -> bool:
        """Whether stored multipliers are the ratios of the scales, as real operators assume.

        One that is coarsely rounded is not, unless what it multiplies hardly counts.

        Args:
            node: for its multipliers.
            units: by the multiplier's attribute: real value of one unit of what it multiplies,
                and the largest magnitude of that.
        """
        one = self._scale_of(node.output) / 2.0 ** node.attrs["s"]
        for key, (unit, bound) in units.items():
            exact = unit / one
            off = abs(abs(node.attrs[key]) - exact)
            if off > 0.01 * exact and off * bound > _NEGLIGIBLE * 2.0 ** node.attrs["s"]:
                return False
        return True

    def _scale_of(self, value: str) -> float:
        return self.graph.types[value].scalar_scale

    def _lut(self, node: Node) -> None:
        x, fn = node.inputs[0], node.attrs["fn"]
        if fn in NATIVE:
            kind, limit = NATIVE[fn]
            source = self._source(x)
            coarse = source.scale > _COARSEST or source.scale != off_power_of_two(source.scale)
            if source.dtype in ("int32", "float32") or coarse:
                scale = off_power_of_two(min(limit, self._limit(x, "int16")) / 32767.0)
                source = self.form(x, "int16", scale)
            source = self.tensors.cast(source, "int16")
            out = self.tensors.new(source.shape, "int16", _UNIT)
            self.define(node.output, self.tensors.apply(kind, [source], out))
            return
        table = self._const(node, node.inputs[1])
        form = self._exact.lookup(
            self._integer(x), table, node.attrs["lo"], node.attrs["k"], self._scale_of(node.output)
        )
        self.define(node.output, form)

    def _rescale(self, node: Node) -> None:
        (x,) = node.inputs
        t = self.graph.types[node.output]
        m, s = node.attrs["m"], node.attrs["s"]
        if node.output in self._wide:
            form = self._exact.rescale(self._integer(x), m, s, t.scalar_scale, self._bounds[x])
            self.define(node.output, form)
            return
        if m < 0 or not self._agrees(node, {"m": (self._scale_of(x), self._bounds[x])}):
            self._float_rescale(node)
            return
        source = self._source(x)
        if (source.dtype, t.dtype) == ("int16", "i16"):
            source = self.tensors.convert(source, "int16", t.scalar_scale)
        # Otherwise readers requantise the most precise form there is, once.
        self.define(node.output, source)

    def _add(self, node: Node) -> None:
        a, b = node.inputs
        at = node.attrs
        t = self.graph.types[node.output]
        whole = node.output in self._wide
        if whole or self._cancels(node):
            form = self._exact.add(
                (self._integer(a), at["ma"], self._bounds[a]),
                (self._integer(b), at["mb"], self._bounds[b]),
                at["s"],
                t.scalar_scale,
                self._bounds[node.output] if whole else 1 << 31,
            )
            self.define(node.output, form if whole else self._saturated(node, form))
            return
        units = {k: (self._scale_of(v), self._bounds[v]) for k, v in (("ma", a), ("mb", b))}
        if (at["ma"] < 0 and at["mb"] < 0) or not self._agrees(node, units):
            self._float_add(node)
            return
        x, y = self.narrow(a), self.narrow(b)
        kind = "ADD"
        if (at["ma"] < 0) != (at["mb"] < 0):
            kind = "SUB"
            if at["ma"] < 0:
                x, y = y, x
        # The kernel aborts if an operand is much coarser than the result.
        scale = max(self.scale(node.output, "int16"), max(x.scale, y.scale) * 2.0**-13)
        self.define(node.output, self.tensors.binary(kind, x, y, "int16", scale))

    def _cancels(self, node: Node) -> bool:
        """Whether 16 bits of 32-bit operands are too coarse for what is left of them."""
        t = self.graph.types[node.output]
        if t.dtype != "i16":
            return False
        coarse = [self.scale(v, "int16") for v in node.inputs if self._source(v).dtype == "int32"]
        return sum(coarse) > _NEGLIGIBLE * t.scalar_scale

    def _mul(self, node: Node) -> None:
        a, b = node.inputs
        m, s = node.attrs["m"], node.attrs["s"]
        t = self.graph.types[node.output]
        if node.output in self._wide:
            form = self._exact.mul(
                self._integer(a),
                self._integer(b),
                m,
                s,
                t.scalar_scale,
                (self._bounds[a], self._bounds[b]),
            )
            self.define(node.output, form)
            return
        unit = self._scale_of(a) * self._scale_of(b)
        if m < 0 or not self._agrees(node, {"m": (unit, self._bounds[a] * self._bounds[b])}):
            self._float_mul(node)
            return
        x, y = self.narrow(a), self.narrow(b)
        scale = self.scale(node.output, "int16")
        if min(self._bounds[a], self._bounds[b]) <= 1 and x.scale * y.scale == scale:
            # By a mask of ones and zeros: nothing to round.
            x, y = (self.tensors.cast(f, "int32") for f in (x, y))
            kept = self.tensors.binary("MUL", x, y, "int32", scale)
            self.define(node.output, self.tensors.cast(kept, "int16"))
            return
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

    def _max(self, node: Node, kind: str = "MAXIMUM") -> None:
        a, b = self.alike(node.inputs, node.output)
        self.define(node.output, self.tensors.binary(kind, a, b, a.dtype, a.scale))

    def _min(self, node: Node) -> None:
        self._max(node, "MINIMUM")

    def _compare(self, node: Node) -> None:
        """Of the Graph's own integers, so that what is equal there is equal here."""
        a, b = (self._integer(v) for v in node.inputs)
        self._truth[node.output] = self.tensors.binary(
            _COMPARISONS[node.attrs["cmp"]], a, b, "bool"
        )

    def _select(self, node: Node) -> None:
        c, *values = node.inputs
        a, b = self.alike(values, node.output)
        self.define(node.output, self.tensors.select(self.truth(c), a, b))

    # -- in float32 ------------------------------------------------------------------------

    def _times(self, x: Form, factor: float) -> Form:
        """Float32 `x` times a factor."""
        if factor == 1.0:
            return x
        return self.tensors.binary("MUL", x, self.tensors.floats([factor]), "float32")

    def _factor(self, node: Node, key: str, unit: float) -> float:
        """What multiplier `key` does beyond bringing `unit` to the scale of the output."""
        ratio = unit / self._scale_of(node.output) * 2.0 ** node.attrs["s"]
        factor = float(node.attrs[key] / ratio)
        return float(np.sign(factor)) if abs(abs(factor) - 1.0) < 2.0**-10 else factor

    def _float_rescale(self, node: Node) -> None:
        self._note_float(node)
        (x,) = node.inputs
        self._settle(node, self._times(self.real(x), self._factor(node, "m", self._scale_of(x))))

    def _float_add(self, node: Node) -> None:
        self._note_float(node)
        a, b = (
            self._times(self.real(v), self._factor(node, key, self._scale_of(v)))
            for v, key in zip(node.inputs, ("ma", "mb"), strict=True)
        )
        self._settle(node, self.tensors.binary("ADD", a, b, "float32"))

    def _float_mul(self, node: Node) -> None:
        self._note_float(node)
        a, b = node.inputs
        product = self.tensors.binary("MUL", self.real(a), self.real(b), "float32")
        factor = self._factor(node, "m", self._scale_of(a) * self._scale_of(b))
        self._settle(node, self._times(product, factor))

    def _float_clamp(self, node: Node) -> None:
        self._note_float(node)
        out = self.real(node.inputs[0])
        for kind, key in (("MAXIMUM", "lo"), ("MINIMUM", "hi")):
            bound = node.attrs[key]
            if bound is not None:
                edge = self.tensors.floats([bound * self._scale_of(node.output)])
                out = self.tensors.binary(kind, out, edge, "float32")
        self._settle(node, out)

    def _float_max(self, node: Node, kind: str = "MAXIMUM") -> None:
        self._note_float(node)
        a, b = (self.real(v) for v in node.inputs)
        self._settle(node, self.tensors.binary(kind, a, b, "float32"))

    def _float_min(self, node: Node) -> None:
        self._float_max(node, "MINIMUM")

    def _float_select(self, node: Node) -> None:
        self._note_float(node)
        c, a, b = node.inputs
        real = self.tensors.select(self.truth(c), self.real(a), self.real(b))
        self._settle(node, real)
