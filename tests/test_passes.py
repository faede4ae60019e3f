"""Passes: each changes the form of a Graph and never what it computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timed_graphs import CELLS, frames, model

from edgeseq.errors import GraphError, UnsupportedError
from edgeseq.ir import Graph, Interpreter, Time, Type, check, run, to_text
from edgeseq.ir.io import prepare
from edgeseq.passes import TO_STEP, Pass, run_passes, stream, to_step
from edgeseq.passes.absorb import absorb_input_affine
from edgeseq.passes.fold import fold_constants
from edgeseq.passes.fuse import fuse_affine
from edgeseq.passes.tidy import tidy

# Constants are float32: folding one into another rounds each once, 2^-24 of its size; a few
# layers with states carried amplify that by less than 100.
ROUNDED = 1e-5


def streamed(step: Graph, x: np.ndarray) -> list[np.ndarray]:
    """What `step` emits for raw frames: every frame, or the last one only."""
    machine = Interpreter(step, batch=x.shape[0])
    ys = machine.sequence(prepare(step, step.inputs[0], x))
    when = step.meta["emission"]
    assert set(when) == set(step.outputs)
    return [y if when[v] == "frame" else y[:, -1] for v, y in zip(step.outputs, ys, strict=True)]


MODELS = {
    "cells": st.lists(st.sampled_from(sorted(CELLS)), max_size=3),
    "hidden": st.integers(1, 7),
    "norm": st.booleans(),
    "residual": st.booleans(),
    "affine": st.booleans(),
    "emit": st.sampled_from(["last", "frame", "both"]),
    "seed": st.integers(0, 999),
}


@settings(max_examples=40, deadline=None)
@given(**MODELS)
def test_the_whole_sequence_equals_the_stream(cells: list[str], hidden: int, **kw: object) -> None:
    g = model(*cells, hidden=max(hidden, 2) if kw["norm"] else hidden, inputs=5, **kw)  # type: ignore[arg-type]
    x = frames(batch=2, steps=9, seed=3)
    step = to_step(g)
    assert step.is_step and not any(n.op in ("scan", "last", "sub") and n.op != "sub"
                                    for n in step.nodes)  # fmt: skip
    for a, b in zip(run(g, x), streamed(step, x), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= ROUNDED * max(1.0, np.abs(a).max())


@settings(max_examples=30, deadline=None)
@given(**MODELS)
def test_streaming_alone_is_exact(cells: list[str], hidden: int, **kw: object) -> None:
    g = model(*cells, hidden=hidden, inputs=5, **kw)  # type: ignore[arg-type]
    x = frames(batch=1, steps=6, seed=4)
    for a, b in zip(run(g, x), streamed(stream(g), x), strict=True):
        assert np.allclose(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("p", TO_STEP, ids=lambda p: p.name)
def test_a_pass_leaves_its_argument_alone(p: Pass) -> None:
    g = model("gru", "lstm", affine=True, norm=True)
    before = to_text(g)
    check(p.run(g), after=p.name)
    assert to_text(g) == before


@pytest.mark.parametrize("p", TO_STEP, ids=lambda p: p.name)
def test_a_pass_run_twice_changes_nothing_more(p: Pass) -> None:
    once = p.run(model("gru", affine=True, norm=True))
    assert to_text(p.run(once)) == to_text(once)


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    def vandal(g: Graph) -> Graph:
        g = g.copy()
        g.nodes[0].op = "conv"
        return g

    with pytest.raises(GraphError, match="after pass 'vandal', graph 'model', node 'layer0'"):
        run_passes(model("gru"), [Pass("vandal", vandal)])
    broken = model("gru").copy()
    broken.outputs = ["ghost"]
    with pytest.raises(GraphError, match="after pass 'the front end'"):
        to_step(broken)


def test_every_pass_is_shown_to_the_watch() -> None:
    seen: list[str] = []
    to_step(model("gru"), watch=lambda name, g: seen.append(f"{name} {g.is_step}"))
    assert seen[0] == "frontend False" and seen[-1] == "tidy True"
    assert [s.split()[0] for s in seen[1:]] == [p.name for p in TO_STEP]


# -- stream ----------------------------------------------------------------------------------------


def test_a_backward_scan_cannot_stream() -> None:
    g = model("gru").copy()
    next(n for n in g.nodes if n.op == "scan").attrs["reverse"] = True
    x = frames(batch=1, steps=4)
    assert np.allclose(run(g, x)[0], run(model("gru"), x[:, ::-1])[0], atol=3.0)  # it still runs
    with pytest.raises(UnsupportedError, match=r"node 'layer0': .*bidirectional") as e:
        to_step(g)
    assert "looks ahead by the whole sequence" in e.value.what
    assert e.value.fix is not None and "compile in window mode (--window N --hop N)" in e.value.fix


def test_every_frame_cannot_be_mixed_with_the_last() -> None:
    g = Graph("g")
    x = g.add_input("x", Type((3,), time=Time()))
    last = g.add_node("last", [x])
    twice = g.add_node("add", [last, last])
    g.outputs = [g.add_node("add", [x, twice], name="mix")]
    with pytest.raises(UnsupportedError, match=r"node 'mix' \(add\).*'add', which is known only"):
        to_step(g)


def one(build: Callable[[Graph, str], list[str]], size: int = 4) -> Graph:
    g = Graph("g")
    g.outputs = build(g, g.add_input("x", Type((size,), time=Time())))
    check(g)
    return g


@pytest.mark.parametrize("build", [
    lambda g, x: [x],
    lambda g, x: [x, x],
    lambda g, x: [x, g.add_node("last", [x])],
    lambda g, x: [g.add_node("last", [x]), x, g.add_node("lut", [x], fn="tanh")],
    lambda g, x: [g.add_node("mul", [x, g.add_const("c", np.full(4, 2.0))]), x],
    lambda g, x: [g.add_node("mul", [x, g.add_const("c", np.full(4, 2.0))])] * 2,
    lambda g, x: [g.add_const("c", np.arange(4.0)), x],
])  # fmt: skip
def test_every_output_is_a_nodes_own(build: Callable[[Graph, str], list[str]]) -> None:
    g = one(build)
    step = to_step(g)
    made = [v for n in step.nodes for v in n.outputs]
    assert len(set(step.outputs)) == len(g.outputs) and set(step.outputs) <= set(made)
    x = frames(batch=2, steps=5, inputs=4)
    for a, b, v in zip(run(g, x), streamed(step, x), g.outputs, strict=True):
        assert np.allclose(b if v not in g.consts else b[:, :], a, rtol=1e-6, atol=1e-6)


# -- absorb, fuse, fold, tidy ----------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "sub", "mul"]), st.booleans(), st.booleans()),
                min_size=1, max_size=5), st.integers(0, 99))  # fmt: skip
def test_absorb_prepares_what_was_normalised(
    chain: list[tuple[str, bool, bool]], seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def build(g: Graph, x: str) -> list[str]:
        for op, swap, scalar in chain:
            c = g.add_const("c", rng.uniform(0.5, 2.0, () if scalar else 4) * rng.choice([-1, 1]))
            x = g.add_node(op, [c, x] if swap else [x, c])
        return [g.add_node("lut", [x], fn="tanh")]

    g = one(build)
    prepared = absorb_input_affine(g)
    check(prepared)
    assert [n.op for n in prepared.nodes] == ["lut"]
    x = 10 * rng.normal(size=(2, 3, 4))
    got = run(prepared, prepare(prepared, "x", x))[0]
    # tanh amplifies by at most 1; the inputs reach 30, each float64 operation rounds by 2^-53.
    assert np.abs(got - run(g, x)[0]).max() < 1e-12


def test_absorb_keeps_what_others_read() -> None:
    def build(g: Graph, x: str) -> list[str]:
        y = g.add_node("mul", [x, g.add_const("c", np.full(4, 3.0))])
        return [g.add_node("add", [y, x])]

    assert "input_affine" not in absorb_input_affine(one(build)).meta
    zero = one(lambda g, x: [g.add_node("mul", [x, g.add_const("c", np.zeros(4))])])
    assert "input_affine" not in absorb_input_affine(zero).meta


def test_absorb_keeps_a_raw_frame_that_a_state_holds() -> None:
    g = Graph("g")
    x = g.add_input("x", Type((2,)))
    h = g.add_state("h", Type((2,)))
    g.set_state(h, x)
    y = g.add_node("mul", [x, g.add_const("c", np.full(2, 3.0))])
    g.outputs = [g.add_node("sub", [y, h])]
    check(g)
    a = np.random.default_rng(0).normal(size=(1, 5, 2))
    step = to_step(g)
    got = Interpreter(step).sequence(prepare(step, "x", a))[0]
    assert np.allclose(got, Interpreter(g).sequence(a)[0], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["add", "sub", "mul"]), min_size=1, max_size=4), st.booleans(),
       st.booleans(), st.integers(0, 99))  # fmt: skip
def test_fuse_folds_an_affine_into_the_matrix(
    ops: list[str], swap: bool, bias: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def build(g: Graph, x: str) -> list[str]:
        x = g.add_node("lut", [x], fn="tanh")
        args = [x, g.add_const("w", rng.normal(size=(3, 4)))]
        y = g.add_node("linear", [*args, g.add_const("b", rng.normal(size=3))] if bias else args)
        for op in ops:
            c = g.add_const("c", rng.normal(size=3))
            y = g.add_node(op, [c, y] if swap else [y, c])
        return [y]

    g = one(build)
    fused = fuse_affine(g)
    check(fused)
    assert [n.op for n in fused.nodes] == ["lut", "linear"] and fused.outputs == g.outputs
    x = rng.normal(size=(2, 3, 4))
    want = run(g, x)[0]
    assert np.abs(run(fused, x)[0] - want).max() <= ROUNDED * max(1.0, np.abs(want).max())


def test_fuse_leaves_what_is_read_twice() -> None:
    def build(g: Graph, x: str) -> list[str]:
        y = g.add_node("linear", [x, g.add_const("w", np.ones((3, 4)))])
        z = g.add_node("mul", [y, g.add_const("c", np.full(3, 2.0))])
        return [g.add_node("add", [y, z]), z]

    g = one(build)
    assert to_text(fuse_affine(g)) == to_text(g)
    kept = one(lambda g, x: [y := g.add_node("linear", [x, g.add_const("w", np.ones((3, 4)))]),
                             g.add_node("mul", [y, g.add_const("c", np.ones(3))])])  # fmt: skip
    assert to_text(fuse_affine(kept)) == to_text(kept)


def test_fold_evaluates_constants() -> None:
    def build(g: Graph, x: str) -> list[str]:
        c = g.add_const("c", np.linspace(-1, 1, 6).reshape(2, 3))
        n = g.add_node("norm", [c, g.add_const("g", np.ones(3)), g.add_const("b", np.zeros(3))],
                       eps=1e-5)  # fmt: skip
        flat = g.add_node("reshape", [g.add_node("lut", [n], fn="exp")], shape=[6])
        return [g.add_node("add", [x, g.add_node("slice", [flat], start=1, stop=5)])]

    g = one(build)
    folded = fold_constants(g)
    check(folded)
    assert [n.op for n in folded.nodes] == ["add"] and len(folded.consts) == 1
    x = np.zeros((1, 1, 4))
    assert np.abs(run(folded, x)[0] - run(g, x)[0]).max() < 1e-6


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_constant_that_is_not_finite_is_refused() -> None:
    g = one(lambda g, x: [g.add_node("add", [x, g.add_node(
        "lut", [g.add_const("c", np.full(4, 1e4))], fn="exp", name="boom")])])  # fmt: skip
    with pytest.raises(GraphError, match="node 'boom': a constant is NaN or infinite"):
        to_step(g)


def test_tidy_drops_what_no_output_needs() -> None:
    g = model("gru", "lstm").copy()
    size = len(to_text(g))
    g.add_node("lut", ["x"], fn="sin")
    g.add_const("unused", np.ones(3))
    assert len(to_text(tidy(g))) == size
    g = Graph("g")
    x = g.add_input("x", Type((2,)))
    for _ in range(2):  # a state that only feeds itself is not needed either
        h = g.add_state("h", Type((2,)))
        g.set_state(h, g.add_node("add", [h, x]))
    g.outputs = [g.add_node("add", [x, h])]
    kept = tidy(g)
    check(kept)
    assert [s.name for s in kept.states] == ["h_2"] and len(kept.nodes) == 2
