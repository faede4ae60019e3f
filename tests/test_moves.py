"""Joining movements: fewer nodes, the same elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq.ir import Graph, Time, Type, check, run, to_text
from edgeseq.passes.moves import join_moves


def graph(shape: tuple[int, ...] = (2, 3, 4)) -> Graph:
    g = Graph("moves")
    g.add_input("x", Type(shape, time=Time()))
    return g


def transpose(g: Graph, x: str, *order: int) -> str:
    shape = g.types[x].shape
    strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    return g.add_node(
        "strided",
        [x],
        shape=[shape[i] for i in order],
        strides=[strides[i] for i in order],
        offset=0,
    )


def joined(g: Graph, *outputs: str) -> Graph:
    """`g` after the pass, which computes the same and would change nothing more."""
    g.outputs = [g.add_node("lut", [v], fn="tanh") for v in outputs]
    check(g)
    once = join_moves(g)
    check(once, after="moves")
    assert to_text(join_moves(once)) == to_text(once)
    x = np.random.default_rng(0).normal(size=(2, 3, *g.types["x"].shape))
    for a, b in zip(run(g, x), run(once, x), strict=True):
        assert np.array_equal(a, b)
    return once


def ops(g: Graph) -> list[str]:
    return [n.op for n in g.nodes if n.op != "lut"]


def test_transposes_that_cancel_go() -> None:
    g = graph()
    assert ops(joined(g, transpose(g, transpose(g, "x", 2, 0, 1), 1, 2, 0))) == []


def test_transposes_become_one() -> None:
    g = graph()
    assert ops(joined(g, transpose(g, transpose(g, "x", 2, 0, 1), 2, 1, 0))) == ["strided"]


def test_views_of_views_are_one() -> None:
    g = graph()
    y = g.add_node("reshape", ["x"], shape=(6, 4))
    y = g.add_node("reshape", [y], shape=(24,))
    assert ops(joined(g, g.add_node("reshape", [y], shape=(4, 6)))) == ["reshape"]
    g = graph()
    y = g.add_node("reshape", ["x"], shape=(24,))
    assert ops(joined(g, g.add_node("reshape", [y], shape=(2, 3, 4)))) == []


def test_slices_of_slices_are_one() -> None:
    g = graph()
    y = g.add_node("slice", ["x"], start=1, stop=4)
    assert ops(joined(g, g.add_node("slice", [y], start=1, stop=2))) == ["slice"]


def test_a_run_of_elements_stays_one() -> None:
    g = graph((12,))
    y = g.add_node("reshape", [g.add_node("slice", ["x"], start=3, stop=9)], shape=(2, 3))
    assert ops(joined(g, y)) == ["slice", "reshape"]


def test_the_simplest_form_is_found() -> None:
    g = graph((3, 4))
    whole = g.add_node("strided", ["x"], shape=(2, 6), strides=(6, 1), offset=0)
    part = g.add_node("strided", ["x"], shape=(3, 2), strides=(4, 1), offset=1)
    assert ops(joined(g, whole, part)) == ["reshape", "slice"]


def test_taps_of_a_window_are_taken_at_once() -> None:
    g = graph((20,))
    windows = g.add_node("strided", ["x"], shape=(3, 4, 2), strides=(4, 2, 1), offset=2)
    every = g.add_node("strided", [windows], shape=(2, 4, 2), strides=(16, 2, 1), offset=0)
    flat = g.add_node("reshape", [every], shape=(2, 8))
    assert ops(joined(g, flat)) == ["strided"]


def test_what_others_read_stays() -> None:
    g = graph()
    y = transpose(g, "x", 1, 0, 2)
    assert ops(joined(g, y, transpose(g, y, 2, 0, 1))) == ["strided", "strided"]


def test_what_is_no_view_stays() -> None:
    g = graph((2, 3))
    y = transpose(g, "x", 1, 0)
    assert ops(joined(g, g.add_node("reshape", [y], shape=(6,)))) == ["strided", "reshape"]


def test_outputs_stay_nodes() -> None:
    g = graph((4,))
    g.outputs = [
        g.add_node("reshape", ["x"], shape=(4,)),
        g.add_node("slice", ["x"], start=0, stop=4),
    ]
    check(g)
    assert join_moves(g).outputs == g.outputs


def test_states_are_set_by_nodes() -> None:
    g = Graph("g")
    x = g.add_input("x", Type((2,)))
    h = g.add_state("h", Type((2,)))
    g.set_state(h, g.add_node("reshape", [x], shape=(2,)))
    tanh = g.add_node("lut", [x], fn="tanh")
    k = g.add_state("k", Type((2,)))
    g.set_state(k, g.add_node("reshape", [tanh], shape=(2,)))
    g.outputs = [g.add_node("add", [g.add_node("add", [h, k]), tanh])]
    check(g)
    out = join_moves(g)
    check(out)
    assert [n.op for n in out.nodes] == ["reshape", "lut", "add", "add"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_chains_of_movements(data: st.DataObject) -> None:
    g = graph((2, 3, 4))
    pool = ["x"]
    for _ in range(data.draw(st.integers(1, 8))):
        x = pool[-1] if data.draw(st.integers(0, 3)) else data.draw(st.sampled_from(pool))
        pool.append(_move(g, x, data.draw))
    outputs = [pool[-1], data.draw(st.sampled_from(pool))]
    before = len(g.nodes)
    assert len(joined(g, *outputs).nodes) <= before + 2


def _move(g: Graph, x: str, draw: Any) -> str:
    shape = g.types[x].shape
    n = g.types[x].size
    kind = draw(st.sampled_from(["reshape", "slice", "transpose", "strided", "concat"]))
    if kind == "slice" and shape:
        start = draw(st.integers(0, shape[-1] - 1))
        stop = draw(st.integers(start + 1, shape[-1]))
        return g.add_node("slice", [x], start=start, stop=stop)
    if kind == "transpose" and shape:
        return transpose(g, x, *draw(st.permutations(range(len(shape)))))
    if kind == "strided":
        a, b = draw(st.integers(1, min(n, 4))), draw(st.integers(-2, 2))
        rows = draw(st.integers(1, 3))
        low = min(0, (a - 1) * b)
        high = n - 1 - max(0, (a - 1) * b)
        if high >= -low:
            return g.add_node(
                "strided",
                [x],
                shape=(rows, a),
                strides=(0, b),
                offset=draw(st.integers(-low, high)),
            )
    if kind == "concat" and shape:
        return g.add_node("concat", [x])
    first = draw(st.sampled_from([d for d in (1, 2, 3, 4) if n % d == 0]))
    return g.add_node("reshape", [x], shape=draw(st.sampled_from([(n,), (first, n // first)])))
