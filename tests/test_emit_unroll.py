"""Loops written out, and views as steps, before any format sees them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_graphs import CASES, IntegerOps, RealOps, op_frames, op_step, stored_op_frames

from edgeseq.emit._unroll import carried_values, plain_name, row_strides, unroll_scans
from edgeseq.emit._views import Move, moves
from edgeseq.emit.onnx import emit_onnx
from edgeseq.emit.tflite import emit_tflite
from edgeseq.errors import UnsupportedError
from edgeseq.ir import Graph, Interpreter, check

Array = npt.NDArray[Any]


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_unrolled_equals_the_loop(case: str, integer: bool) -> None:
    graph = op_step(case, integer=integer)
    plain = unroll_scans(graph)
    check(plain)
    assert all(n.op != "scan" for n in plain.nodes)
    assert plain.inputs == graph.inputs and plain.outputs == graph.outputs
    assert [s.name for s in plain.states] == [s.name for s in graph.states]
    frames = stored_op_frames(graph) if integer else op_frames(graph)
    want, got = (Interpreter(g, batch=2).sequence(*frames) for g in (graph, plain))
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=0 if integer else 1e-6)


def test_copies_share_their_weights_and_say_what_they_carry() -> None:
    graph = op_step("loop", integer=True)
    plain = unroll_scans(graph)
    size = sum(a.nbytes for g in bodies(graph) for a in g.consts.values())
    assert sum(a.nbytes for a in plain.consts.values()) <= size + 200  # initial states
    carried = carried_values(plain)
    assert all(plain.types[v].dtype == "i32" for v, bound in carried.items() if bound == 1.0)
    assert len(carried) == 4 + 4 + 2 + 4
    inner = [n.name for n in plain.nodes if n.name.startswith("scan.3[1].scan[0].")]
    assert inner and plain_name(inner[0]) == "scan.3.scan.linear"
    assert graph.nodes[0].op == "scan"  # untouched


def bodies(graph: Graph) -> list[Graph]:
    return [graph, *(n.attrs["body"] for _, n in graph.walk() if n.op == "scan")]


def test_a_state_that_nothing_reads_is_kept() -> None:
    b = IntegerOps("kept")
    x = b.frame("x", (2,))
    h = b.memory("h", (2,), ("i16", 2.0**-13))
    b.graph.set_state(h, x)
    b.graph.outputs.append(b.clamp(x, -1.0, 1.0))
    assert [s.name for s in unroll_scans(b.graph).states] == ["h"]


def test_too_long_a_loop_is_refused_by_name() -> None:
    b = RealOps("long")
    cell = RealOps("cell")
    cell.graph.outputs.append(cell.clamp(cell.frame("x", (2,)), -1.0, 1.0))
    x = b.frame("x", (9000, 2))
    b.graph.outputs += b.scan(cell, [x])
    with pytest.raises(UnsupportedError, match=r"'scan' .*27002 nodes .* 20000 are the most"):
        unroll_scans(b.graph)
    assert len(emit_onnx(b.graph)) < 5000  # which has loops
    assert len(unroll_scans(b.graph, most=30_000).nodes) < 30_000
    integer = IntegerOps("long")
    body = IntegerOps("cell")
    body.graph.outputs.append(body.clamp(body.frame("x", (2,)), -1.0, 1.0))
    integer.graph.outputs += integer.scan(body, [integer.frame("x", (9000, 2))])
    with pytest.raises(UnsupportedError, match="native artifact"):
        emit_tflite(integer.graph)


# -- views ---------------------------------------------------------------------------------------


def apply(x: Array, steps: list[Move]) -> Array:
    for step in steps:
        if step.kind == "reshape":
            x = x.reshape(step.shape)
        elif step.kind == "take":
            x = x[step.indices]
        elif step.kind == "slice":
            x = x[tuple(slice(a, a + n) for a, n in zip(step.starts, step.shape, strict=True))]
        elif step.kind == "transpose":
            x = x.transpose(step.perm)
        else:
            x = np.take(x, step.indices, axis=step.axis)
        assert x.shape == step.shape
    return x


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_view_is_its_steps(data: st.DataObject) -> None:
    source = tuple(data.draw(st.lists(st.integers(1, 6), max_size=4)))
    size = math.prod(source)
    rank = data.draw(st.integers(0, 4))
    shape = [data.draw(st.integers(1, 5)) for _ in range(rank)]
    some = st.sampled_from([0, 1, -1, 2, 3, 4, 6, 12, -4, size, max(size // 2, 1)])
    strides = [data.draw(some) for _ in range(rank)]
    spans = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    low, high = sum(min(v, 0) for v in spans), sum(max(v, 0) for v in spans)
    if high - low >= size:
        return
    offset = data.draw(st.integers(-low, size - 1 - high))
    at = np.full((), offset)
    for n, s in zip(shape, strides, strict=True):
        at = at[..., None] + np.arange(n) * s
    steps = moves(source, shape, strides, offset)
    assert len(steps) <= 4
    x = np.arange(size).reshape(source)
    np.testing.assert_array_equal(apply(x, steps), x.reshape(-1)[at])


@pytest.mark.parametrize(
    ("source", "shape", "strides", "offset", "kinds"),
    [
        ((2, 3, 4), (2, 3, 4), (12, 4, 1), 0, []),
        ((2, 3, 4), (6, 4), (4, 1), 0, ["reshape"]),
        ((3, 4), (4, 3), (1, 4), 0, ["transpose"]),
        ((2, 3, 4, 5), (2, 4, 3, 5), (60, 5, 20, 1), 0, ["transpose"]),
        ((20, 8), (20, 4), (8, 1), 2, ["slice"]),
        ((5, 7), (7,), (1,), 14, ["take"]),
        ((20, 8), (18, 3, 8), (8, 8, 1), 0, ["reshape", "gather", "reshape"]),
        ((4, 20, 8), (4, 18, 3, 8), (160, 8, 8, 1), 0, ["gather", "reshape"]),
    ],
)
def test_a_view_takes_no_more_steps_than_it_needs(
    source: Any, shape: Any, strides: Any, offset: int, kinds: list[str]
) -> None:
    assert [s.kind for s in moves(source, shape, strides, offset)] == kinds


def test_row_strides() -> None:
    assert row_strides((2, 3, 4)) == (12, 4, 1)
    assert row_strides(()) == ()
