"""The conversion of one Graph: values, their views and constants. What each operation becomes is in
`edgeseq.quant.products`, `.elementwise` and `.functions`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import QuantiseError
from edgeseq.fixed import INT_RANGE, multiplier, saturate
from edgeseq.ir.graph import Graph
from edgeseq.ir.types import Type
from edgeseq.passes.stream import keep_names
from edgeseq.quant.calibrate import Stats
from edgeseq.quant.formats import Formats
from edgeseq.quant.options import QuantOptions
from edgeseq.quant.rounding import Factor, decompose
from edgeseq.quant.structure import Site

__all__ = ["Converter", "Handler", "Shared", "Weights", "power_of_two", "ratio_of", "stored"]

Array = npt.NDArray[Any]
Handler = Callable[["Converter", Site], str]


class Weights:
    """Rounded matrices and what rounding them needs, kept between conversions of one step."""

    def __init__(self) -> None:
        self._factors: dict[int, tuple[Array, Factor | None]] = {}
        self._rounded: dict[tuple[Any, ...], Any] = {}

    def factor(self, stats: Stats | None) -> Factor | None:
        """`decompose` of a value's gram; None where it has none."""
        if stats is None or stats.gram is None:
            return None
        known = self._factors.get(id(stats.gram))
        if known is None or known[0] is not stats.gram:
            known = self._factors[id(stats.gram)] = (stats.gram, decompose(stats.gram))
        return known[1]

    def once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """What `make` returned the first time for `key`."""
        if key not in self._rounded:
            self._rounded[key] = make()
        return self._rounded[key]


def power_of_two(ratio: float) -> int | None:
    """e where the magnitude of `ratio` is exactly 2^e."""
    m, e = math.frexp(abs(ratio))
    return e - 1 if m == 0.5 else None


def stored(array: Array, scale: float, dtype: str) -> Array:
    """Real numbers in units of `scale`, rounded half up and saturated."""
    lo, hi = INT_RANGE[dtype]
    with np.errstate(over="ignore"):
        exact = np.clip(np.floor(np.asarray(array, np.float64) / scale + 0.5), lo, hi)
    return saturate(exact.astype(np.int64), dtype)


@dataclass
class Shared:
    """What the conversions of a step and of its scans' bodies have in common.

    Attributes:
        formats: of all values.
        options: widths and method.
        weights: rounded matrices.
        handlers: what makes the integer nodes of a real one, by operation.
    """

    formats: Formats
    options: QuantOptions
    weights: Weights
    handlers: Mapping[str, Handler]


class Converter:
    """Conversion of one Graph: the step, or the body of a scan.

    Attributes:
        graph: what is converted.
        path: what comes before its values' names in their keys.
        out: what is made of it.
        env: the integer value of each real one.
        formats, options, weights: shared with the bodies.
    """

    def __init__(self, graph: Graph, path: str, shared: Shared) -> None:
        self.graph, self.path, self.shared = graph, path, shared
        self.formats, self.options, self.weights = shared.formats, shared.options, shared.weights
        self.out = Graph(graph.name, meta=dict(graph.meta))
        self.env: dict[str, str] = {}
        self._views: dict[tuple[str, str, float], str] = {}
        self._consts: dict[tuple[str, str, float], str] = {}
        self._slices: dict[tuple[str, int, int], str] = {}
        self._halves: dict[str, tuple[str, str]] = {}

    # -- the whole -------------------------------------------------------------------------

    def inputs(self) -> None:
        """Inputs in the formats of their groups."""
        for name in self.graph.inputs:
            self.env[name] = self.out.add_input(name, self.formats.group_type(self.path + name))

    def states(self) -> None:
        """States in the formats of their groups."""
        for s in self.graph.states:
            t = self.formats.state_type(self.path + s.input)
            init = stored(s.init, t.scalar_scale, t.dtype)
            self.env[s.input] = self.out.add_state(s.name, t, init, bound=s.bound)

    def nodes(self) -> None:
        """Every node, then what the states hold after the step."""
        for node in self.graph.nodes:
            site = Site(node, self.graph, self.path)
            try:
                if node.op == "scan":
                    self._scan(site)
                else:
                    self.env[node.output] = self._handler(node.op)(self, site)
            except (OverflowError, QuantiseError) as e:
                if isinstance(e, QuantiseError) and e.where is not None:
                    raise
                what, fix = (e.what, e.fix) if isinstance(e, QuantiseError) else (str(e), None)
                raise QuantiseError(
                    what,
                    where=f"node {site.name!r} ({node.op})",
                    fix=fix or "look at the ranges of its inputs: are the frames typical?",
                ) from None
        for s in self.graph.states:
            held = self.out.types[self.env[s.input]]
            self.out.set_state(self.env[s.input], self.as_type(self.value(s.output, held), held))

    def _handler(self, op: str) -> Handler:
        if op not in self.shared.handlers:
            raise QuantiseError("has no integer form", fix="run edgeseq.passes.to_step first")
        return self.shared.handlers[op]

    def finish(self) -> Graph:
        """The integer step, its outputs at most 16 bits wide."""
        step, out = self.graph, self.out
        out.outputs = []
        emission: dict[str, str] = {}
        renamed: dict[str, str] = {}
        for name in step.outputs:
            value = self.narrow(name)
            if value in emission:  # two outputs that were only told apart by a view
                t = out.types[value]
                value = out.add_node("reshape", [value], types=[t], shape=list(t.shape))
            out.outputs.append(value)
            emission[value] = step.meta.get("emission", {}).get(name, "frame")
            renamed[name] = value
        out.meta["emission"] = emission
        for key in ("delays", "elements"):  # by the names of inputs and outputs
            if key in step.meta:
                out.meta[key] = {renamed.get(v, v): n for v, n in step.meta[key].items()}
        out.prune()
        made = {v: node.name for node in step.nodes for v in node.outputs}
        # Values are called after their nodes; an output that `stream` delayed after what it delays.
        keep_names(out, {renamed[v]: v for v in step.outputs if made.get(v, v) != v})
        return out

    def _scan(self, site: Site) -> None:
        """The body as an integer Graph whose inputs have the formats of what feeds them."""
        body: Graph = site.node.attrs["body"]
        inner = Converter(body, f"{site.name}/", self.shared)
        n = len(body.inputs)
        inputs = []
        for name, value in zip(body.inputs, site.node.inputs, strict=False):
            x = self.value(value, self.formats.group_type(inner.path + name))
            t = self.out.types[x]
            inputs.append(x)
            inner.env[name] = inner.out.add_input(
                name, Type(body.types[name].shape, t.dtype, t.scale)
            )
        inner.states()
        for s, value in zip(body.states, site.node.inputs[n:], strict=False):
            t = inner.out.types[inner.env[s.input]]
            inputs.append(self.as_type(self.value(value, t), t))
        inner.nodes()
        inner.out.outputs = [inner.value(v) for v in body.outputs]
        lead = self.graph.types[site.node.inputs[0]].shape[:1]
        made = [inner.out.types[v] for v in inner.out.outputs]
        types = [Type(lead + t.shape, t.dtype, t.scale) for t in made]
        types += [inner.out.types[inner.env[s.input]] for s in body.states][: len(inputs) - n]
        self.out.add_node(
            "scan",
            inputs,
            name=site.node.name,
            types=types,
            body=inner.out,
            reverse=site.node.attrs["reverse"],
        )
        self.env.update(zip(site.node.outputs, self.out.nodes[-1].outputs, strict=True))

    # -- values ----------------------------------------------------------------------------

    def type(self, value: str) -> Type:
        """Type of an integer value."""
        return self.out.types[value]

    def value(self, name: str, want: Type | None = None) -> str:
        """The integer value of a real one; a constant as `want` says, or with 16 bits."""
        if name in self.env:
            return self.env[name]
        return self.constant(name, want or self.const_type(self.array(name)))

    def array(self, name: str) -> Array:
        """The numbers of a constant."""
        if name not in self.graph.consts:
            raise QuantiseError(
                f"{name!r} is computed, not a constant",
                fix="matrices, biases and the gain of a norm must be weights of the model",
            )
        return np.asarray(self.graph.consts[name], np.float64)

    def is_const(self, name: str) -> bool:
        return name in self.graph.consts

    @staticmethod
    def const_type(array: Array) -> Type:
        """16 bits: exact where a power of two allows it, as of counts and masks."""
        top = float(np.abs(array).max()) or 1.0
        exact = 2.0 ** (math.floor(math.log2(32767.0 / top)))
        units = array * exact
        whole = bool(np.all(units == np.floor(units)))
        return Type(tuple(array.shape), "i16", 1.0 / exact if whole else top / 32767.0)

    def constant(self, name: str, want: Type, most: float = np.inf) -> str:
        """A constant in the format of `want`, stored once; `most` cuts magnitudes off."""
        key = (name, want.dtype, want.scalar_scale)
        if key not in self._consts:
            array = np.clip(self.array(name), -most, most)
            t = Type(tuple(array.shape), want.dtype, want.scale)
            made = self.out.add_const(name, stored(array, want.scalar_scale, want.dtype), t)
            self._consts[key] = made
        return self._consts[key]

    def as_type(self, value: str, want: Type) -> str:
        """`value` in the format of `want`, through a rescale if it has another."""
        have = self.type(value)
        if (have.dtype, have.scale) == (want.dtype, want.scale):
            return value
        key = (value, want.dtype, want.scalar_scale)
        if key not in self._views:
            m, s = ratio_of(have.scalar_scale / want.scalar_scale)
            self._views[key] = self.out.add_node(
                "rescale",
                [value],
                name=f"{value}.{want.dtype}",
                types=[Type(have.shape, want.dtype, want.scale)],
                m=m,
                s=s,
            )
        return self._views[key]

    def matrix_view(self, name: str, bits: int) -> str:
        """What a product with a constant matrix reads of a real value: 16 or 8 bits."""
        value = self.value(name)
        t = self.type(value)
        if t.dtype == "i8" or (t.dtype == "i16" and bits == 16):
            return value
        return self.as_type(value, self.formats.narrow_type(self.path + name, bits))

    def narrow(self, name: str) -> str:
        """A real value with 16 bits or less: for a norm, a product of two values, an output."""
        value = self.value(name)
        if self.type(value).dtype != "i32":
            return value
        return self.as_type(value, self.formats.narrow_type(self.path + name, 16))

    def part(self, value: str, start: int, stop: int) -> str:
        """Elements start..stop-1 of the last axis of an integer value."""
        t = self.type(value)
        if (start, stop) == (0, t.shape[-1]):
            return value
        key = (value, start, stop)
        if key not in self._slices:
            shape = (*t.shape[:-1], stop - start)
            self._slices[key] = self.out.add_node(
                "slice",
                [value],
                name=f"{value}.part",
                types=[Type(shape, t.dtype, t.scale)],
                start=start,
                stop=stop,
            )
        return self._slices[key]

    def halves(self, value: str) -> tuple[str, str]:
        """A 32-bit value as two of 16 bits: ``value = high * 2^16 + low``."""
        if value not in self._halves:
            t = self.type(value)
            coarse = Type(t.shape, "i16", t.scalar_scale * 65536.0)
            high = self.as_type(value, coarse)
            low = self.out.add_node(
                "add",
                [value, high],
                name=f"{value}.low",
                types=[Type(t.shape, "i16", t.scale)],
                ma=1,
                mb=-65536,
                s=0,
            )
            self._halves[value] = high, low
        return self._halves[value]

    def table(self, name: str, nodes: Array, t: Type) -> str:
        """A constant table, stored once in a Graph."""
        for have, array in self.out.consts.items():
            if self.out.types[have] == t and np.array_equal(array, nodes):
                return have
        return self.out.add_const(name, nodes, t)

    def emit(
        self, site: Site, inputs: list[str], t: Type, op: str | None = None, **attrs: Any
    ) -> str:
        """The node of `site` in the integer Graph."""
        return self.out.add_node(op or site.op, inputs, name=site.node.name, types=[t], **attrs)


def ratio_of(ratio: float) -> tuple[int, int]:
    """Multiplier and shift of a rescale."""
    e = power_of_two(ratio)
    if e is not None and -62 <= e <= 30:
        return (1, -e) if e <= 0 else (1 << e, 0)
    ms, s = multiplier(np.array([ratio]))
    return int(ms[0]), s
