"""From an integer step Graph to TFLite operators.

Matrix products, gates and 16-bit element-wise arithmetic become TFLite's own quantised operators;
wide states and tables of other functions become plain integer arithmetic that equals the Graph's
bit for bit (`edgeseq.emit.tflite.exact`); what no integer operator computes well enough, and the
32-bit values on the way to it, are computed in float32.
"""

from __future__ import annotations

from edgeseq.emit.tflite.products import Products
from edgeseq.emit.tflite.reals import Reals
from edgeseq.ir.graph import Node
from edgeseq.ir.ops import ELEMENTWISE, MOVEMENT

__all__ = ["Lowering"]

_OWN_WIDTH = frozenset({"lut", "compare", "wide", "softmax", "norm"})
"""Operations that choose their width themselves."""


class Lowering(Products, Reals):
    """Writes the nodes of a Graph to a subgraph; arguments as of `Values`."""

    def node(self, node: Node) -> None:
        """Write one node.

        Raises:
            UnsupportedError: TFLite cannot express it; names the node and the operation.
        """
        if node.output in self._unused:
            return
        self.tensors.where = node.output
        name = {"wide": "_wide_op"}.get(node.op, f"_{node.op}")
        if self._in_float(node):
            name = f"_float_{node.op}"
        method = getattr(self, name, None)
        if method is None:
            raise self._unsupported(node, "is a new operation and")
        method(node)

    def _in_float(self, node: Node) -> bool:
        """Whether `node` is computed in float32 for the sake of what it reads or is read by."""
        if node.output in self._wide or node.op in MOVEMENT | _OWN_WIDTH | {"embed"}:
            return False
        reads = [self._best[v].dtype for v in node.inputs if v in self._best]
        return node.output in self._precise or (node.op in ELEMENTWISE and "float32" in reads)

    # -- movement --------------------------------------------------------------------------

    def _reshape(self, node: Node) -> None:
        source = self.tensors.batched(self._source(node.inputs[0]))
        self.define(node.output, self.tensors.reshape(source, tuple(node.attrs["shape"])))

    def _slice(self, node: Node) -> None:
        source = self.tensors.batched(self._source(node.inputs[0]))
        start, stop = node.attrs["start"], node.attrs["stop"]
        self.define(node.output, self.tensors.slice(source, start, stop))

    def _strided(self, node: Node) -> None:
        source = self.tensors.batched(self._source(node.inputs[0]))
        view = (node.attrs[k] for k in ("shape", "strides", "offset"))
        self.define(node.output, self.tensors.strided(source, *view))

    def _concat(self, node: Node) -> None:
        # Runtimes join stored numbers without looking at scales: the formats must be equal.
        self.define(node.output, self.tensors.concat(self.alike(node.inputs, node.output)))

    def _embed(self, node: Node) -> None:
        index, name = node.inputs
        table = self._const(node, name)
        within = self._exact.clamp(self._integer(index), 0, len(table) - 1)
        t = self.tensors
        source = t.constant(table, self.graph.types[name].scalar_scale)
        out = t.new((*within.shape, table.shape[1]), source.dtype, source.scale)
        self.define(node.output, t.apply("GATHER", [source, within], out))
