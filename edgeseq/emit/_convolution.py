"""Products with overlapping windows of a frame, recognised as the convolutions they are.

A convolution over the axes of a frame is, in the Graph, a `strided` view of every position's
window and a `linear` (or `depthwise`) product with it. Written as it stands the windows are copied;
formats that have a convolution need not do that.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._views import moves
from edgeseq.ir.graph import Graph, Node

__all__ = ["Convolution", "convolutions"]

Array = npt.NDArray[Any]
_Dims = list[tuple[int, int]]  # length and stride of each axis
_Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """A product's windows as those of an image [height, width, channels], along both axes.

    Attributes:
        source: value whose elements the image is.
        image: its shape [H, W, C].
        start: first row and column that a window reads.
        kernel: rows and columns of a window.
        stride: from one window to the next.
        dilation: from one element of a window to the next.
        positions: number of windows.
    """

    source: str
    image: tuple[int, int, int]
    start: _Pair
    kernel: _Pair
    stride: _Pair
    dilation: _Pair
    positions: _Pair

    def filters(self, w: Array, *, depthwise: bool = False) -> Array:
        """The product's weights as [rows, columns, channels in, channels out].

        Args:
            w: [O, K] of a `linear`, or [K, C] of a `depthwise` node, where channels in are 1.
        """
        if depthwise:
            return w.reshape(*self.kernel, 1, -1)
        return np.moveaxis(w.reshape(-1, *self.kernel, self.image[2]), 0, -1)

    @property
    def part(self) -> tuple[int, int, int]:
        """Shape of the part of the image that is read."""
        rows, columns = (
            (p - 1) * s + (k - 1) * d + 1
            for p, s, k, d in zip(
                self.positions, self.stride, self.kernel, self.dilation, strict=True
            )
        )
        return (rows, columns, self.image[2])


def convolutions(
    graph: Graph, without: Collection[str] = ()
) -> tuple[dict[str, Convolution], set[str]]:
    """The products of a step that are convolutions.

    Args:
        graph: the step.
        without: outputs of products to leave as they are.

    Returns:
        By the value that the product makes; and the values that nothing else needs any more.
    """
    producers, uses = graph.producers(), graph.consumers()
    kept = {*graph.outputs, *(s.output for s in graph.states)}
    found: dict[str, Convolution] = {}
    for node in graph.nodes:
        inner = {"linear": 1, "depthwise": 2}.get(node.op)
        several = node.op == "linear" and len(node.inputs) > 3
        if inner is None or several or node.output in without:
            continue
        shape = graph.types[node.inputs[0]].shape
        view = producers.get(node.inputs[0])
        while view is not None and view.op == "reshape":
            view = producers.get(view.inputs[0])
        if view is None or view.op != "strided" or view.inputs[0] in graph.consts:
            continue
        conv = _convolution(graph, view, math.prod(shape[-inner:]))
        # The channels of a depthwise product are those of the image.
        if conv is not None and (inner == 1 or conv.image[2] == shape[-1]):
            found[node.output] = conv
    unused: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op in ("strided", "reshape") and node.output not in kept:
            readers = {n.outputs[0] for n in uses[node.output]}
            if readers and readers <= found.keys() | unused:
                unused.add(node.output)
    return found, unused


def _convolution(graph: Graph, view: Node, window: int) -> Convolution | None:
    """The convolution whose windows of `window` elements a `strided` node makes."""
    a, source = view.attrs, view.inputs[0]
    shape, strides, offset = tuple(a["shape"]), tuple(a["strides"]), a["offset"]
    of = graph.types[source].shape
    if all(m.kind != "gather" for m in moves(of, shape, strides, offset)):
        return None  # nothing overlaps
    dims = list(zip(shape, strides, strict=True))
    split = len(dims)
    while split and math.prod(n for n, _ in dims[split:]) < window:
        split -= 1
    if math.prod(n for n, _ in dims[split:]) != window:
        return None
    steps, taps = ([(n, s) for n, s in part if n > 1] for part in (dims[:split], dims[split:]))
    for image in _images(of, [*steps, *taps], offset):
        conv = _fit(source, image, steps, taps, offset)
        if conv is not None:
            return conv
    return None


def _images(shape: tuple[int, ...], dims: _Dims, offset: int) -> Iterator[tuple[int, int, int]]:
    """Ways to see a frame as an image."""
    size = math.prod(shape)
    if len(shape) >= 3:
        yield (math.prod(shape[:-2]), shape[-2], shape[-1])
    if len(shape) >= 2:
        yield (size // shape[-1], 1, shape[-1])
    run, others = (dims[-1][0], dims[:-1]) if dims and dims[-1][1] == 1 else (1, dims)
    channels = math.gcd(size, offset, run, *(s for _, s in others))
    yield (size // channels, 1, channels)


def _fit(
    source: str, image: tuple[int, int, int], steps: _Dims, taps: _Dims, offset: int
) -> Convolution | None:
    height, width, channels = image
    row = width * channels
    last = taps[-1][0] if taps and taps[-1][1] == 1 else 1
    if last % channels or offset % channels:
        return None
    inner = [(last // channels, channels)] if last > channels else []
    spans = []
    for dims in (steps, (taps[:-1] if last > 1 else taps) + inner):
        along = _along(dims, row, channels, width)
        if along is None:
            return None
        spans.append(along)
    (positions, stride), (kernel, dilation) = spans
    start = (offset // row, offset % row // channels)
    conv = Convolution(source, image, start, kernel, stride, dilation, positions)
    part = conv.part
    fits = start[0] + part[0] <= height and start[1] + part[1] <= width
    return conv if fits and math.prod(kernel) > 1 else None


def _along(dims: _Dims, row: int, channels: int, width: int) -> tuple[_Pair, _Pair] | None:
    """Counts and steps along rows and columns."""
    counts, steps = [1, 1], [1, 1]
    next_axis = 0
    for n, s in dims:
        axis = 0 if s % row == 0 else 1
        unit = row if axis == 0 else channels
        if s < 1 or s % unit or axis < next_axis or (axis == 1 and width == 1):
            return None
        counts[axis], steps[axis] = n, s // unit
        next_axis = axis + 1
    return (counts[0], counts[1]), (steps[0], steps[1])
