"""Element-wise nodes as one generated loop.

Adjacent element-wise nodes over the same elements become one Python function: every operand is
loaded once, intermediates stay in registers, every value that somebody else needs is stored. The
source is made per use, since the constants (multipliers, shifts, clamps) are part of it.

The arithmetic is that of `edgeseq.fixed`; `Range` decides between 32 and 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgeseq.errors import BackendError
from edgeseq.ir.graph import Graph, Node
from edgeseq.kernels.linear import IntArray
from edgeseq.kernels.ranges import Range, of_dtype

__all__ = ["Loop", "Operand", "build_loop", "value_range"]

_BITS = {"i8": 8, "i16": 16, "i32": 32}
_INT32 = (-(1 << 31), (1 << 31) - 1)


@dataclass(frozen=True)
class Operand:
    """One pointer of a loop.

    Attributes:
        value: graph value it reads or writes, or the constant it holds.
        dtype: element type in memory.
        period: elements after which it starts over (a broadcast operand; 1: a scalar), or 0: it
            never does.
        kind: 'in', 'out' or 'table'.
    """

    value: str
    dtype: str
    period: int
    kind: str


@dataclass
class Loop:
    """A generated loop: `source` defines `kernel(*operands)`."""

    source: str
    operands: list[Operand]
    ranges: dict[str, Range] = field(default_factory=dict)


def _atom(value: str, r: Range) -> str:
    return f"np.int32({value})" if r.fits32 else value


def _times(a: str, b: str, r: Range) -> str:
    """Source of a product whose range is r."""
    return f"mul32({a}, {b})" if r.fits32 else f"({a} * {b})"


def _saturate(expression: str, r: Range, dtype: str) -> tuple[str, Range]:
    limits = of_dtype(dtype)
    if r.within(limits.lo, limits.hi):
        return _atom(expression, r), r
    function = "clamp32" if r.fits32 else "clamp64"
    text = f"{function}({expression}, {limits.lo}, {limits.hi})"
    clamped = r.clamped(limits.lo, limits.hi)
    return _atom(text, clamped), clamped


def _shifted(expression: str, r: Range, shift: int, node: Node) -> tuple[str, Range]:
    """Source of ``(expression + 2^(shift-1)) >> shift``."""
    if shift == 0:
        return _atom(expression, r), r
    half = 1 << (shift - 1)
    total = r + Range(half, half)
    if not total.fits64:
        raise BackendError(
            "an intermediate does not fit 64 bits",
            where=f"node {node.name!r} ({node.op})",
            fix="report this: the quantiser chose a multiplier that is too large",
        )
    result = r.rounded(shift)
    if r.fits32 and not total.fits32 and shift > 1:
        # Same value without the carry out of 32 bits: round after all but one bit is gone.
        text = f"((np.int32(np.int32({expression}) >> {shift - 1}) + 1) >> 1)"
    elif total.fits32:
        text = f"(np.int32({expression} + {half}) >> {shift})"
    else:
        text = f"(({expression} + {half}) >> {shift})"
    return _atom(text, result), result


def _requantised(expression: str, r: Range, m: int, shift: int, node: Node) -> tuple[str, Range]:
    """Source of ``rq(expression, m, shift)`` with the smallest sufficient arithmetic."""
    while shift > 0 and m % 2 == 0 and m:
        m, shift = m // 2, shift - 1
    if m == 1:
        return _shifted(expression, r, shift, node)
    lifted = 32 - shift
    if lifted > 0 and r.fits32 and -(1 << 31) <= m << lifted < (1 << 31) and not r.scaled(m).fits32:
        m, shift = m << lifted, 32  # one high-word multiply instead of a 64-bit shift
    scaled = r.scaled(m)
    product = _times(_atom(expression, r), str(m), scaled)
    if not scaled.fits64:
        raise BackendError(
            "a product does not fit 64 bits",
            where=f"node {node.name!r} ({node.op})",
            fix="report this: the quantiser chose a multiplier that is too large",
        )
    return _shifted(product, scaled, shift, node)


class _Builder:
    """Collects the lines of one loop body."""

    def __init__(
        self, graph: Graph, known: dict[str, Range], length: int, roots: dict[str, str]
    ) -> None:
        self.graph, self.known, self.length = graph, known, length
        self.roots = roots
        self.lines: list[str] = []
        self.names: dict[str, str] = {}
        self.ranges: dict[str, Range] = {}
        self.inputs: dict[str, Operand] = {}
        self.tables: dict[str, Operand] = {}
        self.pointers: dict[str, str] = {}
        self.count = 0

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def pointer(self, key: str) -> str:
        """Name of the parameter that points at a value, a table or a buffer."""
        return self.pointers.setdefault(key, f"p{len(self.pointers)}")

    def read(self, value: str) -> tuple[str, Range]:
        """Name and range of a value: computed here, an immediate, or loaded."""
        value = self.roots.get(value, value)
        if value in self.names:
            return self.names[value], self.ranges[value]
        graph = self.graph
        if value in graph.consts:
            flat = graph.consts[value].reshape(-1)
            if flat.size and np.all(flat == flat[0]):
                number = int(flat[0])
                self.names[value] = f"np.int32({number})"
                self.ranges[value] = Range(number, number)
                return self.names[value], self.ranges[value]
            self.ranges[value] = Range(int(flat.min()), int(flat.max()))
        else:
            self.ranges[value] = self.known[value]
        t = graph.types[value]
        period = t.size if t.size != self.length else 0
        self.inputs[value] = Operand(value, t.dtype, period, "in")
        name = self.fresh()
        self.names[value] = name
        at = "np.int32(0)" if period == 1 else "LOADED"
        self.lines.append(f"{name} = load{_BITS[t.dtype]}({self.pointer(value)}, {at})")
        return name, self.ranges[value]

    def node(self, node: Node) -> None:
        """Append the computation of one node."""
        dtype = self.graph.types[node.output].dtype
        a, ra = self.read(node.inputs[0])
        attrs = node.attrs
        if node.op == "rescale":
            text, r = _saturate(*_requantised(a, ra, attrs["m"], attrs["s"], node), dtype)
        elif node.op == "add":
            b, rb = self.read(node.inputs[1])
            text, r = _added(node, (a, ra), (b, rb), dtype)
        elif node.op == "mul":
            b, rb = self.read(node.inputs[1])
            product = ra * rb
            expression = _times(a, b, product)
            text, r = _saturate(
                *_requantised(expression, product, attrs["m"], attrs["s"], node), dtype
            )
        elif node.op == "clamp":
            limits = of_dtype(dtype)
            lo = limits.lo if attrs["lo"] is None else attrs["lo"]
            hi = limits.hi if attrs["hi"] is None else attrs["hi"]
            text, r = f"clamp32({a}, {lo}, {hi})", ra.clamped(lo, hi)
        elif node.op == "lut":
            text, r = self._lut(node, a, ra)
        else:
            raise BackendError(f"{node.op} is not element-wise", where=f"node {node.name!r}")
        name = self.fresh()
        self.lines.append(f"{name} = {text}")
        self.names[node.output], self.ranges[node.output] = name, r

    def _lut(self, node: Node, a: str, ra: Range) -> tuple[str, Range]:
        value = node.inputs[1]
        table: IntArray = self.graph.consts[value]
        bits = _BITS[self.graph.types[value].dtype]
        lo, k, n = node.attrs["lo"], node.attrs["k"], table.size - 1
        self.tables[value] = Operand(value, self.graph.types[value].dtype, 0, "table")
        t = self.pointer(value)
        top = lo + (n << k) - 1
        x = a
        if not ra.within(lo, top):
            x = f"clamp32({a}, {lo}, {top})"
        u, i = self.fresh(), self.fresh()
        self.lines.append(f"{u} = np.int32({x} - {lo})")
        self.lines.append(f"{i} = np.int32(({u} >> {k}) * {bits // 8})")
        image = Range(int(table.min()), int(table.max()))
        if k == 0:
            return f"load{bits}({t}, {i})", image
        w, f, left, step = self.fresh(), self.fresh(), self.fresh(), self.fresh()
        self.lines.append(f"{f} = np.int32({u} & {(1 << k) - 1})")
        if bits == 16:
            # Two neighbouring nodes in one load.
            self.lines.append(f"{w} = load32_half({t}, {i})")
            self.lines.append(f"{left} = np.int32(np.int16({w}))")
            self.lines.append(f"{step} = np.int32(np.int32({w} >> 16) - {left})")
        else:
            self.lines.append(f"{left} = load{bits}({t}, {i})")
            self.lines.append(f"{step} = np.int32(load{bits}({t}, np.int32({i} + 1)) - {left})")
        slopes = np.diff(table.astype(np.int64))
        steps = Range(min(int(slopes.min()), 0), max(int(slopes.max()), 0))
        product = steps * Range(0, (1 << k) - 1)
        text, _ = _shifted(_times(step, f, product), product, k, node)
        return f"np.int32({left} + {text})", image


def _scaled(a: str, r: Range, factor: int) -> tuple[str, Range]:
    scaled = r.scaled(factor)
    return (a, r) if factor == 1 else (_times(a, str(factor), scaled), scaled)


def _added(node: Node, a: tuple[str, Range], b: tuple[str, Range], dtype: str) -> tuple[str, Range]:
    """Source of an `add` node."""
    ma, mb, s = node.attrs["ma"], node.attrs["mb"], node.attrs["s"]
    left, right = _scaled(*a, ma), _scaled(*b, mb)
    total = left[1] + right[1]
    if s == 0 and dtype == "i32" and not total.fits32 and left[1].fits32:
        # One saturating instruction where the core has it.
        if mb == -1:
            return f"sub_saturated({left[0]}, {b[0]})", total.clamped(*_INT32)
        if right[1].fits32:
            return f"add_saturated({left[0]}, {right[0]})", total.clamped(*_INT32)
    if not total.fits64:
        raise BackendError(
            "a sum does not fit 64 bits",
            where=f"node {node.name!r} (add)",
            fix="report this: the quantiser chose a multiplier that is too large",
        )
    expression = _atom(f"({left[0]} + {right[0]})", total)
    return _saturate(*_shifted(expression, total, s, node), dtype)


def build_loop(
    graph: Graph,
    nodes: list[Node],
    stores: dict[str, list[str]],
    known: dict[str, Range],
    merged: dict[str, str],
    roots: dict[str, str],
) -> Loop:
    """Source of one loop over element-wise `nodes`.

    Args:
        graph: the integer step they belong to.
        nodes: in topological order, all over the same number of elements (broadcast operands
            excepted).
        stores: values to store, each with the buffers it goes to (names of operands).
        known: ranges of the values the loop reads.
        merged: buffer of an output that is the buffer of an input at the same index (in place),
            as output buffer to input value.
        roots: values that are another one under a different shape.
    """
    length = max(graph.types[n.output].size for n in nodes)
    builder = _Builder(graph, known, length, roots)
    for node in nodes:
        builder.node(node)
    operands = [*builder.inputs.values(), *builder.tables.values()]
    outs: list[Operand] = []
    for value, buffers in stores.items():
        dtype = graph.types[value].dtype
        for buffer in buffers:
            pointer = builder.pointer(merged.get(buffer, buffer))
            builder.lines.append(
                f"store{_BITS[dtype]}({pointer}, STORED{_BITS[dtype]}, {builder.names[value]})"
            )
            if buffer not in merged:
                outs.append(Operand(buffer, dtype, 0, "out"))
    operands += outs
    inner = min((o.period for o in builder.inputs.values() if o.period > 1), default=length)
    if any(o.period not in (0, 1, inner) for o in builder.inputs.values()):
        raise BackendError("operands of one loop repeat differently", where=nodes[0].name)
    return Loop(_render(builder, operands, length, inner), operands, builder.ranges)


def _render(builder: _Builder, operands: list[Operand], length: int, inner: int) -> str:
    names = [builder.pointer(o.value) for o in operands]
    moving = [o for o in operands if o.kind != "table"]
    lines = [f"def kernel({', '.join(names)}):"]
    repeats = length // inner
    pad = "    "
    if repeats > 1:
        lines += ["    o = np.int32(0)", f"    while o < {repeats}:"]
        pad = "        "
    lines += [f"{pad}i = np.int32(0)", f"{pad}while i < {inner}:"]
    for line in builder.lines:
        lines.append(f"{pad}    {_indexed(line, builder)}")
    lines.append(f"{pad}    i = np.int32(i + 1)")
    if repeats > 1:
        for operand in moving:
            if not operand.period:
                p = builder.pointer(operand.value)
                lines.append(f"{pad}{p} = advance({p}, {inner * _BITS[operand.dtype] // 8})")
        lines.append(f"{pad}o = np.int32(o + 1)")
    return "\n".join(lines)


def _indexed(line: str, builder: _Builder) -> str:
    if "LOADED" in line:
        bits = int(line.split("load")[1].split("(")[0])
        return line.replace("LOADED", f"np.int32(i * {bits // 8})")
    for bits in (8, 16, 32):
        line = line.replace(f"STORED{bits}", f"np.int32(i * {bits // 8})")
    return line


def value_range(graph: Graph, value: str) -> Range:
    """What is known of a value from its type alone."""
    return of_dtype(graph.types[value].dtype)
