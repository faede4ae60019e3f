"""Products with windows of a frame are recognised as convolutions, and only those are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_graphs import RealOps, image_windows, op_step

from edgeseq.emit._convolution import Convolution, convolutions
from edgeseq.emit._views import moves
from edgeseq.emit.onnx import emit_onnx
from edgeseq.emit.tflite import emit_tflite
from edgeseq.ir import Graph, Interpreter

Array = npt.NDArray[Any]


def windows_of(conv: Convolution, x: Array) -> Array:
    """[positions, window] that a convolution reads of the elements x."""
    image = x.reshape(conv.image)
    rows, columns = (
        a + np.arange(p)[:, None] * s + np.arange(k) * d
        for a, p, s, k, d in zip(
            conv.start, conv.positions, conv.stride, conv.kernel, conv.dilation, strict=True
        )
    )
    taken = image[rows[:, None, :, None], columns[None, :, None, :]]
    return taken.reshape(math.prod(conv.positions), -1)


def product(b: RealOps, windows: str, *, inner: int, op: str = "linear") -> None:
    """A product with `windows`, the last `inner` axes of which are one window."""
    shape = b.shape(windows)
    lead, window = shape[: len(shape) - inner], shape[len(shape) - inner :]
    size = math.prod(window)
    if op == "linear":
        flat = b.reshape(windows, (*lead, size))
        b.graph.outputs.append(b.linear([(flat, np.ones((2, size)))], np.zeros(2), ("f32", 1.0)))
    else:
        flat = b.reshape(windows, (*lead, size // shape[-1], shape[-1]))
        w = np.ones((size // shape[-1], shape[-1]))
        b.graph.outputs.append(b.depthwise(flat, w, None, ("f32", 1.0)))


pair = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=200, deadline=None)
@given(
    image=st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 3)),
    kernel=pair,
    stride=pair,
    dilation=pair,
    start=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    flat=st.booleans(),
    op=st.sampled_from(["linear", "depthwise"]),
)
def test_what_is_recognised_reads_the_same_elements(
    image: Any, kernel: Any, stride: Any, dilation: Any, start: Any, flat: bool, op: str
) -> None:
    spans = [a + (k - 1) * d for a, k, d in zip(start, kernel, dilation, strict=True)]
    if any(s >= n for s, n in zip(spans, image, strict=False)):
        return
    b = RealOps("one")
    x = b.frame("x", (math.prod(image),) if flat else image)
    windows = image_windows(b, x, image, kernel, stride, dilation, start)
    product(b, windows, inner=3, op=op)
    found, unused = convolutions(b.graph)
    # A window's rows as columns: what the image is may be seen in more than one way.
    for conv in found.values():
        b.graph.outputs.append(windows)
        data = np.arange(float(math.prod(image)))
        want = Interpreter(b.graph)(data.reshape(1, *b.shape(x)))[-1]
        np.testing.assert_array_equal(
            windows_of(conv, data).reshape(-1), want.reshape(-1), err_msg=str(conv)
        )
        assert unused
    view = next(n.attrs for n in b.graph.nodes if n.op == "strided")
    steps = moves(b.shape(x), view["shape"], view["strides"], view["offset"])
    gathers = any(step.kind == "gather" for step in steps)
    if gathers and not flat and math.prod(kernel) > 1:
        assert found


def test_what_is_no_convolution_is_left_alone() -> None:
    for shape, strides, offset in (
        ((5, 4), (0, 1), 0),  # the same window again
        ((5, 4), (-2, 1), 10),  # backwards
        ((5, 4), (2, -1), 3),  # each window backwards
        ((5, 4), (4, 1), 0),  # windows that do not overlap
        ((5, 2, 3), (4, 1, 2), 0),  # axes of a window in another order
    ):
        b = RealOps("none")
        windows = b.strided(b.frame("x", (30,)), shape, strides, offset)
        product(b, windows, inner=len(shape) - 1)
        assert convolutions(b.graph) == ({}, set()), shape
    # Windows that wrap from one row to the next.
    b = RealOps("wraps")
    windows = b.strided(b.frame("x", (4, 5, 2)), (3, 5, 6), (10, 2, 1), 0)
    product(b, windows, inner=1)
    for conv in convolutions(b.graph)[0].values():
        assert conv.image[1] == 1


def test_windows_that_something_else_reads_are_kept() -> None:
    graph = op_step("images")
    found, unused = convolutions(graph)
    assert len(found) == 7
    read = {v for n in graph.nodes if n.output not in unused | found.keys() for v in n.inputs}
    assert not unused & (read | {*graph.outputs})
    assert convolutions(graph, without=found)[0] == {}


@pytest.mark.parametrize("activations", ["int16", "int8"])
def test_files_hold_convolutions_and_no_copies_of_windows(activations: str) -> None:
    import onnx

    real, integer = op_step("convolutions"), op_step("convolutions", integer=True)

    def kinds(graph: Graph) -> list[str]:
        return [n.op_type for n in onnx.load_from_string(emit_onnx(graph)).graph.node]

    for graph in (real, integer):
        assert kinds(graph).count("Conv") == 4 and "Gather" not in kinds(graph)
    operators = emit_tflite(integer, activations=activations).operators  # type: ignore[arg-type]
    assert "GATHER" not in operators
    assert operators["CONV_2D"] == 1 and operators["DEPTHWISE_CONV_2D"] >= 4
