"""Planner: products of two values, softmax and rows of a table."""

from __future__ import annotations

from edgeseq.errors import BackendError
from edgeseq.ir.graph import Node
from edgeseq.kernels.access import Dims, collapse, refine, split
from edgeseq.kernels.attention import Product, product_source, softmax_source
from edgeseq.kernels.attention_simd import lanes_source
from edgeseq.kernels.basic import embed_source
from edgeseq.kernels.moves import unit_of
from edgeseq.kernels.plan import Place
from edgeseq.kernels.plan_nodes import NodePlanner

__all__ = ["ValuePlanner"]

#: A matrix of a product: address, dims of the matrices, and elements between rows and columns.
_Matrices = tuple[Place, Dims, tuple[int, int]]


class ValuePlanner(NodePlanner):
    """Adds `do_OP(at, node)` for operations of values with each other."""

    def do_matmul(self, at: int, node: Node) -> None:
        a, b = node.inputs
        (m, k), n = self.graph.types[a].shape[-2:], self.graph.types[b].shape[-2]
        count = self.graph.types[a].size // (m * k)
        left, right = self._matrices(at, a, m, k, node), self._matrices(at, b, n, k, node)
        out = self.size(node.output)
        y = self.origin(node.output)
        levels = refine([left[1], right[1], collapse(((count, m * n),))], count)
        if levels is None:
            left, right = (
                (self._copied(at, self.table[v], self.size(v), node.name),
                 collapse(((count, r * k),)), (k, 1))
                for v, r in ((a, m), (b, n))
            )  # fmt: skip
            levels = refine([left[1], right[1], collapse(((count, m * n),))], count)
        assert levels is not None
        (xs, xk), (ws, wk) = left[2], right[2]
        sizes = self.size(a), self.size(b)
        product = Product(
            m,
            n,
            k,
            (xs * sizes[0], xk * sizes[0]),
            (ws * sizes[1], wk * sizes[1]),
            (8 * sizes[0], 8 * sizes[1], 8 * out),
            (self.known[a], self.known[b]),
            self._sum_bound(node, m, k),
            int(node.attrs["m"]),
            int(node.attrs["s"]),
            node,
        )
        extents, strides = levels
        places = [left[0], right[0], y]
        steps = [[s * z for s in row] for row, z in zip(strides, (*sizes, out), strict=True)]
        kernels = self.kernels
        source = lanes_source(product, kernels.pairs) if kernels.lanes > 1 else None
        source = source or product_source(product)
        self._batches(at, list(extents), steps, places, source, node, m * n * k)

    def _sum_bound(self, node: Node, m: int, k: int) -> int | None:
        """A bound on the sums of a product with rows of a softmax, which add up to about 1.

        An element is at most e/S + 1/2 for the exponentials e and their sum S, in units of 2^-15;
        so those of a row, and of any part of one, come to no more than 2^15 + k/2.
        """
        view = self.table[node.inputs[0]]
        maker = self._maker(view.root)
        if maker is None or maker.op != "softmax" or not view.is_plain:
            return None
        if self.graph.types[view.root].shape[-1] != k or view.offset % k:
            return None
        r = self.known[node.inputs[1]]
        return ((1 << 15) + (k + 1) // 2) * max(-r.lo, r.hi)

    def _batches(
        self,
        at: int,
        extents: list[int],
        steps: list[list[int]],
        places: list[Place],
        source: str,
        node: Node,
        macs: int,
    ) -> None:
        """One call per matrix, in nested loops."""
        if not extents:
            self.call(at, source, list(places), (node.name,), macs)
            return
        moving = [(p, row[0]) for p, row in zip(places, steps, strict=True)]
        with self.repeated(at, extents[0], moving) as inner:
            rest = [row[1:] for row in steps]
            self._batches(at, extents[1:], rest, inner, source, node, macs)

    def _matrices(self, at: int, value: str, rows: int, columns: int, node: Node) -> _Matrices:
        """Where the last two axes of a value lie, copied if they are not one step each."""
        view = self.table[value]
        inner = split(view.dims, columns)
        outer = split(inner[0], rows) if inner is not None else None
        if inner is None or outer is None or len(inner[1]) > 1 or len(outer[1]) > 1:
            place = self._copied(at, view, self.size(value), node.name)
            count = view.size // (rows * columns)
            return place, collapse(((count, rows * columns),)), (columns, 1)
        place = self.first(view)
        self.use(at, place)
        steps = outer[1][0][1] if outer[1] else 0, inner[1][0][1] if inner[1] else 0
        return place, outer[0], steps

    def do_softmax(self, at: int, node: Node) -> None:
        x = node.inputs[0]
        t = self.graph.types[x]
        n, table = t.shape[-1], self.const(node, node.inputs[1])
        if int(node.attrs["lo"]) < -(1 << 31):
            raise BackendError(
                f"the table begins at {node.attrs['lo']}",
                where=f"node {node.name!r} (softmax)",
                fix="use a shorter table: its arguments have 32 bits",
            )
        place, step = self.one_step(at, x, n, node.name)
        source = softmax_source(node, t.dtype, n, table, self.kernels.lanes)
        address = self.array(table, "table", "tables")
        y = self.origin(node.output)
        self.call(at, source, [place, address, y, t.size // n, step * self.size(x)], (node.name,))

    def do_embed(self, at: int, node: Node) -> None:
        index, table = node.inputs
        rows, columns = self.graph.types[table].shape
        width = columns * self.size(table)
        place, y = self.whole(at, index, node.name), self.origin(node.output)
        address = self.whole(at, table, node.name)
        aligned = min(self.alignment(y), self.alignment(address))
        unit = unit_of(width, aligned, not self.kernels.small)
        source = embed_source(8 * self.size(index), rows, width, unit)
        count = self.graph.types[index].size
        self.call(at, source, [place, address, y, count], (node.name,))
