"""Element-wise nodes as one generated loop.

Adjacent element-wise nodes over the same elements become one Python function: every operand is
loaded once, intermediates stay in registers, every value that somebody else needs is stored. The
source is made per use, since the constants (multipliers, shifts, clamps) are part of it, and so
are the addresses: an operand that is a view is read where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeseq.errors import BackendError
from edgeseq.ir.graph import Graph, Node
from edgeseq.kernels.access import Dims, View, plain, refine, stretch
from edgeseq.kernels.expressions import BITS, expression
from edgeseq.kernels.linear import IntArray
from edgeseq.kernels.ranges import Range

__all__ = ["Loop", "Nest", "Operand", "build_loop"]


@dataclass(frozen=True)
class Operand:
    """One pointer of a loop.

    Attributes:
        value: graph value it reads, or name of the buffer it writes, or of a constant table.
        dtype: element type in memory.
        dims: where its elements lie, from the first one.
        kind: 'in', 'out' or 'table'.
    """

    value: str
    dtype: str
    dims: Dims
    kind: str


@dataclass
class Loop:
    """A generated loop: `source` defines `kernel(*operands)`."""

    source: str
    operands: list[Operand]
    ranges: dict[str, Range] = field(default_factory=dict)


class Nest:
    """Nested loops over elements that several pointers reach by constant strides.

    Args:
        extents: iterations of each loop, outermost first.
        pointers: name of each pointer and its bytes from one iteration to the next, per loop.
    """

    def __init__(self, extents: list[int], pointers: dict[str, list[int]]) -> None:
        self.extents, self.pointers = extents, pointers

    def at(self, pointer: str, more: int = 0) -> tuple[str, str]:
        """Name of a pointer inside the innermost loop, and the offset of its element there.

        Args:
            pointer: one of `pointers`.
            more: bytes from that element.
        """
        step = self.pointers[pointer][-1]
        moves = step and self.extents[-1] > 1
        beyond = f" + {more}" if more else ""
        offset = f"np.int32(i * {step}{beyond})" if moves else f"np.int32({more})"
        return self._name(pointer, len(self.extents) - 2), offset

    def _name(self, pointer: str, level: int) -> str:
        """The variable that holds a pointer inside loop `level`."""
        moved = [k for k in range(level + 1) if k == 0 or self.pointers[pointer][k]]
        return f"{pointer}_{moved[-1]}" if moved and moved[-1] else pointer

    def around(self, body: list[str]) -> list[str]:
        """The loops, with `body` inside."""
        return self._level(0, body, "    ")

    def _level(self, k: int, body: list[str], pad: str) -> list[str]:
        last = k == len(self.extents) - 1
        count = self.extents[k]
        if last and count == 1:
            return [pad + line for line in body]
        counter = "i" if last else f"o{k}"
        lines = [f"{counter} = np.int32(0)", f"while {counter} < {count}:"]
        inner: list[str] = []
        if last:
            inner += body
        else:
            moving = {p: s[k] for p, s in self.pointers.items() if s[k]}
            for p in moving:
                name = self._name(p, k)
                if k and name != self._name(p, k - 1):
                    lines.insert(0, f"{name} = {self._name(p, k - 1)}")
            inner += self._level(k + 1, body, "")
            for p, step in moving.items():
                name = self._name(p, k)
                inner.append(f"{name} = advance({name}, {step})")
        inner.append(f"{counter} = np.int32({counter} + 1)")
        return [pad + line for line in (*lines, *("    " + line for line in inner))]


class _Builder:
    """Collects the lines of one loop body; the `Context` of its expressions."""

    def __init__(
        self, graph: Graph, table: dict[str, View], known: dict[str, Range], length: int
    ) -> None:
        self.graph, self.views, self.known, self.length = graph, table, known, length
        self.lines: list[str] = []
        self.names: dict[object, str] = {}
        self.ranges: dict[str, Range] = {}
        self.operands: dict[str, Operand] = {}
        self.pointers: dict[str, str] = {}
        self.whole: dict[str, str] = {}
        self.count = 0

    def let(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"v{self.count} = {text}")
        return f"v{self.count}"

    def pointer(self, key: str) -> str:
        """Name of the parameter that points at a value, a table or a buffer."""
        return self.pointers.setdefault(key, f"p{len(self.pointers)}")

    def read(self, value: str) -> tuple[str, Range]:
        view = self.views[value]
        if view.root in self.ranges:  # computed here, under whatever shape
            return self.names[view.root], self.ranges[view.root]
        graph, r = self.graph, self.known[value]
        if view.root in graph.consts:
            flat = graph.consts[view.root].reshape(-1)
            if view.span == (0, flat.size - 1):
                r = Range(int(flat.min()), int(flat.max()))
            if r.lo == r.hi:
                return f"np.int32({r.lo})", r
        dims = stretch(view.dims, self.length // view.size)
        key = (view.root, view.offset, dims)
        if key not in self.names:
            dtype = graph.types[view.root].dtype
            self.operands[value] = Operand(value, dtype, dims, "in")
            pointer = self.pointer(value)
            self.names[key] = self.let(f"load{BITS[dtype]}(@{pointer}@)")
            if dims == plain(graph.types[view.root].size):
                self.whole[view.root] = value
        return self.names[key], r

    def table(self, value: str) -> tuple[str, IntArray]:
        self.operands[value] = Operand(value, self.graph.types[value].dtype, (), "table")
        return self.pointer(value), self.graph.consts[value]

    def node(self, node: Node) -> None:
        """Append the computation of one node."""
        text, r = expression(node, self.graph.types[node.output].dtype, self)
        self.names[node.output], self.ranges[node.output] = self.let(text), r


def build_loop(
    graph: Graph,
    nodes: list[Node],
    stores: dict[str, list[str]],
    known: dict[str, Range],
    merged: dict[str, str],
    table: dict[str, View],
) -> Loop:
    """Source of one loop over element-wise `nodes`.

    Args:
        graph: the integer step they belong to.
        nodes: in topological order, all over the same number of elements (broadcast operands
            excepted).
        stores: values to store, each with the buffers it goes to (names of operands).
        known: ranges of the values the loop reads.
        merged: buffer of an output that is the memory of an input at the same index (in place),
            as output buffer to stored value.
        table: the view of every value.

    Raises:
        BackendError: an intermediate could exceed 64 bits, or rows of operands cut each other.
    """
    length = max(graph.types[n.output].size for n in nodes)
    builder = _Builder(graph, table, known, length)
    for node in nodes:
        builder.node(node)
    outs: list[Operand] = []
    for value, buffers in stores.items():
        dtype = graph.types[value].dtype
        for buffer in buffers:
            key = builder.whole.get(merged.get(buffer, ""), buffer)
            pointer = builder.pointer(key)
            builder.lines.append(f"store{BITS[dtype]}(@{pointer}@, {builder.names[value]})")
            if key == buffer:
                outs.append(Operand(buffer, dtype, plain(length), "out"))
    kinds = ("in", "table")
    ordered = [o for kind in kinds for o in builder.operands.values() if o.kind == kind] + outs
    return Loop(_render(builder, ordered, length), ordered, builder.ranges)


def _render(builder: _Builder, operands: list[Operand], length: int) -> str:
    moving = [o for o in operands if o.kind != "table"]
    refined = refine([o.dims for o in moving], length)
    if refined is None:
        raise BackendError("the rows of a loop's operands cut each other", where="loop")
    extents, strides = refined
    steps = {
        builder.pointer(o.value): [s * BITS[o.dtype] // 8 for s in row]
        for o, row in zip(moving, strides, strict=True)
    }
    nest = Nest(extents, steps)
    body = []
    for line in builder.lines:
        if "@" in line:
            head, pointer, tail = line.split("@")
            line = head + ", ".join(nest.at(pointer)) + tail
        body.append(line)
    names = ", ".join(builder.pointer(o.value) for o in operands)
    return "\n".join([f"def kernel({names}):", *nest.around(body)])
