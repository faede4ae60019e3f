"""TFLite models of the operations on whole frames, in every runtime there is."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from graphs import FRAME
from op_graphs import CASES, MASK, MID, SCORE, IntegerOps, op_step, stored_op_frames
from test_emit_tflite import engine  # noqa: F401 - a fixture
from test_emit_tflite_guards import Tensor, parse

from edgeseq.compiler.runtimes import level_of
from edgeseq.emit.tflite import TfliteModel, compare_tflite, emit_tflite, read_tflite, run_tflite
from edgeseq.emit.tflite.memory import OVERWRITES, SHARES
from edgeseq.errors import DataError
from edgeseq.ir import Graph, Interpreter, Type, check
from edgeseq.ir.io import from_stored
from edgeseq.quant import QuantOptions, quantise

Array = npt.NDArray[Any]

HOW = {"batch": 3, "steps": 40}
FLOAT = {
    "norms": {"rsqrt", "mul.2", "norm", "rescale", "add.2", "softmax"},
    "wide": {"mul", "mul.2", "sqrt", "sqrt.2", "rsqrt", "reciprocal", "reciprocal.2", "log"},
}
"""What runs in float32; nothing does in the other cases."""


def made(graph: Graph, activations: str = "int16", state: str = "explicit") -> TfliteModel:
    calibration = stored_op_frames(graph, batch=8, steps=50, seed=5)
    return emit_tflite(graph, activations=activations, state=state, frames=calibration)  # type: ignore[arg-type]


@pytest.mark.parametrize("activations", ["int16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_keeps_its_level(case: str, activations: str, engine: str) -> None:  # noqa: F811
    graph = op_step(case, integer=True)
    model, frames = made(graph, activations), stored_op_frames(graph, **HOW)
    want = Interpreter(graph, batch=3).sequence(*frames)
    run = run_tflite(model, *frames, engine=engine)
    level = level_of("tflite_int16x8" if activations == "int16" else "tflite_int8", 16)
    for name, y, stored in zip(graph.outputs, run.real, want, strict=True):
        assert level.passes(level.worst(from_stored(graph, name, stored), y)), name
    assert set(model.float_nodes) == FLOAT.get(case, set())


def test_moves_and_choices_are_exact(engine: str) -> None:  # noqa: F811
    for case, exact in (
        ("views", range(11)),
        ("choices", [0, 1, *range(3, 9), 10, 11]),
        ("embed", [1]),
    ):
        graph = op_step(case, integer=True)
        frames = stored_op_frames(graph, **HOW)
        if case == "choices":  # many are equal
            frames = [np.round(x / 2048).astype(np.int16) * 2048 for x in frames]
        want = Interpreter(graph, batch=3).sequence(*frames)
        got = run_tflite(made(graph), *frames, engine=engine).real
        for i in exact:
            name = graph.outputs[i]
            np.testing.assert_array_equal(got[i], from_stored(graph, name, want[i]), err_msg=name)


def test_the_loop_carries_32_bits(engine: str) -> None:  # noqa: F811
    """h' = n + z (h - n) with z = 1 - 2^-9 over the rows of a frame: 16 bits would stand still."""
    b = IntegerOps("slow")
    cell = IntegerOps("cell")
    n, h = cell.frame("n", (2,), ("i16", 2.0**-15)), cell.memory("h", (2,), ("i32", 2.0**-30), 1.0)
    z = cell.const("z", np.full(2, 32704 / 32768), ("i16", 2.0**-15))
    part = cell.mul(z, cell.add(h, n, ("i32", 2.0**-30), sign=-1), ("i32", 2.0**-30))
    new = cell.add(n, part, ("i32", 2.0**-30))
    cell.graph.set_state(h, new)
    cell.graph.outputs.append(cell.rescale(new, ("i16", 2.0**-15)))
    b.graph.outputs += b.scan(cell, [b.frame("x", (200, 2), ("i16", 2.0**-15))])
    check(b.graph)
    frames = np.tile(np.array([100, -30000], np.int16), (1, 1, 200, 1))
    (want,) = Interpreter(b.graph).sequence(frames)
    (got,) = run_tflite(emit_tflite(b.graph), frames, engine=engine).outputs
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["linear", "groups", "depthwise"])
def test_products_of_a_mask_are_as_fine_as_their_result(
    kind: str,
    bits: int,
    engine: str,  # noqa: F811
) -> None:
    """A product of ones has the unit of its weights, of which a 16-bit result has hundreds."""
    rng = np.random.default_rng(0)
    g = Graph("mask")
    x = g.add_input("x", Type((6,)))
    limit, bias = (
        g.add_const(n, v) for n, v in (("limit", [0.2]), ("b", rng.normal(size=3) * 0.05))
    )
    mask = g.add_node("compare", [x, limit], cmp="gt")
    w = rng.normal(size=(2, 3) if kind == "depthwise" else (3, 6))
    terms = [mask, g.add_const("w", w)]
    if kind == "groups":
        terms += [x, g.add_const("v", rng.normal(size=(3, 6)) * 0.01)]
    elif kind == "depthwise":
        terms[0] = g.add_node("reshape", [mask], shape=(2, 3))
    op = "depthwise" if kind == "depthwise" else "linear"
    g.outputs = [g.add_node(op, [*terms, bias])]
    options = QuantOptions(weight_bits=bits)
    step = quantise(g, [rng.normal(size=(4, 200, 6))], options).graph
    frames = rng.integers(-20000, 20000, (2, 50, 6)).astype(step.types["x"].numpy)
    want = Interpreter(step, batch=2).sequence(frames)[0].astype(int)
    model = emit_tflite(step, frames=[frames])
    got = run_tflite(model, frames, engine=engine).outputs[0].astype(int)
    assert np.abs(got - want).max() <= 2


def test_states_of_any_rank_within(engine: str) -> None:  # noqa: F811
    for case in ("attention", "ranks"):
        graph = op_step(case, integer=True)
        frames = stored_op_frames(graph, batch=2, steps=6)
        a, b = (
            run_tflite(made(graph, state=s), *frames, engine=engine).outputs
            for s in ("internal", "explicit")
        )
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_batch_equals_one_by_one(engine: str) -> None:  # noqa: F811
    for case in ("attention", "ranks"):
        graph = op_step(case, integer=True)
        frames = stored_op_frames(graph, batch=2, steps=6)
        model = made(graph)
        together = run_tflite(model, *frames, engine=engine).outputs
        alone = run_tflite(model, *(x[1:2] for x in frames), engine=engine).outputs
        for x, y in zip(together, alone, strict=True):
            np.testing.assert_array_equal(x[1:2], y)


# -- precision -----------------------------------------------------------------------------------


def test_a_gain_in_a_multiplier_is_not_lost(engine: str) -> None:  # noqa: F811
    """TFLite derives multipliers from scales; what says something else runs in float32."""
    t = Type((4, 4), "i16", 2.0**-10)
    w = Type((4, 4), "i8", 2.0**-7)
    m = np.full(4, 300, np.int32)
    nodes: list[tuple[str, dict[str, Any]]] = [
        ("mul", {"m": 3, "s": 11}),
        ("mul", {"m": -1, "s": 10}),
        ("mul", {"m": 1, "s": 9}),
        ("add", {"ma": 2, "mb": 1, "s": 1}),
        ("add", {"ma": -2, "mb": -1, "s": 2}),
        ("add", {"ma": 1, "mb": 0, "s": 0}),
        ("matmul", {"m": 3, "s": 13}),
        ("rescale", {"m": 5, "s": 2}),
        ("rescale", {"m": -1, "s": 0}),
        ("depthwise", {"m": m, "s": 14}),
    ]
    g = Graph("gain")
    x = g.add_input("x", t)
    weights = g.add_const("w", np.arange(-8, 8).reshape(4, 4) * 9, w)
    for op, attrs in nodes:
        inputs = {"rescale": [x], "depthwise": [x, weights]}.get(op, [x, x])
        out = Type((4,), "i16", 2.0**-10) if op == "depthwise" else t
        g.outputs.append(g.add_node(op, inputs, types=[out], **attrs))
    check(g)
    frames = np.random.default_rng(0).integers(-1500, 1500, (2, 9, 4, 4)).astype(np.int16)
    model = emit_tflite(g)
    assert compare_tflite(g, model, frames, engine=engine).lsb <= 1
    assert len(model.float_nodes) == 9


def test_small_numbers_keep_their_precision_on_the_way_to_a_root(engine: str) -> None:  # noqa: F811
    """1/sqrt(mean of squares) of frames from 2^-9 to 4: 16 bits for the mean would not do."""
    b = IntegerOps("rms")
    x = b.frame("x", (16,))
    mean = b.linear([(x, np.full((1, 16), 1 / 16))], np.zeros(1), ("i32", 2.0**-24))
    size = b.add(mean, b.const("eps", np.full(1, 1e-3), ("i32", 2.0**-24)), ("i32", 2.0**-24))
    y = b.mul(x, b.strided(b.wide("reciprocal", size, ("i32", 2.0**-16)), (16,), (0,)), MID)
    b.graph.outputs.append(y)
    check(b.graph)
    rng = np.random.default_rng(2)
    shape = rng.uniform(0.5, 1.0, (2, 30, 16))
    frames = np.round(shape * 2.0 ** rng.uniform(4, 14.9, (2, 30, 1))).astype(np.int16)
    model = emit_tflite(b.graph, frames=[frames])
    assert compare_tflite(b.graph, model, frames, engine=engine).lsb <= 2


def test_a_large_mask_does_not_coarsen_the_scores(engine: str) -> None:  # noqa: F811
    """-10^4 added to 32-bit scores would leave 16 bits with steps of 0.3."""
    b = IntegerOps("masked")
    x, full = b.frame("x", (3, 6), SCORE), b.frame("full", (1, 6), MASK)
    gap = b.add(full, b.const("one", np.ones(1), MASK), MASK, sign=-1)
    mask = b.mul(gap, b.const("far", np.full(1, 1e4), ("i32", 2.0**-10)), ("i32", 2.0**-10))
    b.graph.outputs.append(
        b.softmax(b.add(b.rescale(x, ("i32", 2.0**-10)), mask, ("i32", 2.0**-10)))
    )
    check(b.graph)
    frames = stored_op_frames(b.graph, batch=2, steps=10)
    frames[1] = (frames[1] > 0).astype(np.int8)
    model = emit_tflite(b.graph, frames=frames)
    assert compare_tflite(b.graph, model, *frames, engine=engine).lsb <= 12
    assert "softmax" in model.float_nodes


def test_a_large_step_is_calibrated_by_the_ends_of_ranges(
    engine: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeseq.emit.tflite.emit._MOST_SAMPLED", 0)
    graph = op_step("convolutions", integer=True)
    frames = stored_op_frames(graph, **HOW)
    want = Interpreter(graph, batch=3).sequence(*frames)
    run = run_tflite(made(graph, "int8"), *frames, engine=engine)
    level = level_of("tflite_int8", 16)
    for name, y, stored in zip(graph.outputs, run.real, want, strict=True):
        assert level.passes(level.worst(from_stored(graph, name, stored), y)), name


# -- the file ------------------------------------------------------------------------------------


def test_constant_outputs_and_states_get_the_batch_axis(engine: str) -> None:  # noqa: F811
    b = IntegerOps("constant")
    x = b.frame("x", (3,), MID)
    c = b.const("c", np.arange(6.0).reshape(2, 3) / 4, MID)
    h, count = b.memory("h", (2, 3), MID), b.memory("count", (), ("i32", 0.5))
    b.graph.set_state(h, b.strided(c, (2, 3), (3, -1), 2))
    b.graph.set_state(count, b.const("n", np.array(7.0), ("i32", 0.5)))
    b.graph.outputs += [c, b.add(h, c, MID), b.concat(b.strided(c, (3,), (1,)), x)]
    check(b.graph)
    frames = stored_op_frames(b.graph, steps=3)
    machine = Interpreter(b.graph, batch=2)
    want = machine.sequence(*frames)
    run = run_tflite(emit_tflite(b.graph), *frames, engine=engine)
    for y, expected in zip(run.outputs, want, strict=True):
        np.testing.assert_array_equal(y, expected)
    for name, state in run.states.items():
        np.testing.assert_array_equal(state, machine.state[name])


def test_a_step_of_several_frames_takes_whole_sequences(engine: str) -> None:  # noqa: F811
    b = IntegerOps("block")
    x = b.frame("x", (4, 3))
    b.graph.meta["frames_per_step"] = 4
    y = b.strided(x, (2, 3), (6, 1))
    b.graph.meta["elements"] = {y: 2}
    b.graph.outputs.append(y)
    (frames,) = (np.arange(72, dtype=np.int16).reshape(2, 12, 3),)
    model = read_tflite(emit_tflite(b.graph).data)
    (got,) = run_tflite(model, frames, engine=engine).outputs
    np.testing.assert_array_equal(got, frames[:, ::2])
    assert compare_tflite(b.graph, model, frames, engine=engine).lsb == 0
    with pytest.raises(DataError, match=r"\[batch, 4 T, 3\]"):
        run_tflite(model, frames[:, :10], engine=engine)


def test_8_bits_do_not_change_which_row_is_looked_up(engine: str) -> None:  # noqa: F811
    graph = op_step("embed", integer=True)
    model = made(graph, "int8")
    assert [t.dtype for t in model.inputs] == ["int16", "int8"]
    frames = stored_op_frames(graph, **HOW)
    want = Interpreter(graph, batch=3).sequence(*frames)[1]
    got = run_tflite(model, *frames, engine=engine).real[1]
    assert np.abs(got - want * MID[1]).max() <= model.outputs[1].scale


# -- what runtimes overwrite ---------------------------------------------------------------------


def lost(data: bytes) -> list[str]:
    """Names of tensors that are read after their memory was given to another value.

    As LiteRT 2.3 and tflite-runtime 2.14 plan it (`ArenaPlanner::IdentifyInPlaceTensors`).
    """
    ops, ins, outs = parse(data)
    users = Counter([t.index for t in (*ins, *outs)])
    users.update(t.index for o in ops for t in o.ins if t is not None)
    first, last = {t.index for t in ins}, {t.index for t in outs}
    made = {t.index for o in ops for t in o.outs}

    def size(t: Tensor) -> int:
        return math.prod(t.shape) * {"INT8": 1, "INT16": 2, "INT64": 8, "BOOL": 1}.get(t.dtype, 4)

    owner: dict[int, int] = {}
    value: dict[int, int] = {}
    held: dict[int, int] = {}
    found = []
    for o in ops:
        found += [
            t.name
            for t in o.ins
            if t is not None and t.index in made and held[owner[t.index]] != value[t.index]
        ]
        for y in o.outs:
            owner[y.index] = value[y.index] = y.index
            changes = o.kind in OVERWRITES
            for x in o.ins[: 2 if o.kind not in SHARES | {"SOFTMAX"} else 1]:
                if x is None or x.index not in made or o.kind not in SHARES | OVERWRITES:
                    continue
                if x.index in first or y.index in last:
                    continue
                if changes and (size(x) != size(y) or size(x) <= 4 or users[x.index] > 1):
                    continue
                if not changes or users[owner[x.index]] <= 1:
                    owner[y.index] = owner[x.index]
                    value[y.index] = y.index if changes else value[x.index]
                break
            held[owner[y.index]] = value[y.index]
    return found


@pytest.mark.parametrize("activations", ["int16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_overwritten_while_it_is_read(case: str, activations: str) -> None:
    assert lost(made(op_step(case, integer=True), activations).data) == []


def test_the_guard_is_needed(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Softmax of a sum that is read again, over the rows of four axes, is computed in place."""
    b = IntegerOps("kept")
    x = b.frame("x", (2, 2, 3, 2))
    row = b.mul(x, b.const("half", np.full(2, 0.5), ("i16", 2.0**-15)), FRAME)
    y = b.add(row, b.const("one", np.ones((3, 2)), FRAME), FRAME)
    b.graph.outputs += [b.softmax(y), b.clamp(y, -2.0, 2.0)]
    check(b.graph)
    frames = stored_op_frames(b.graph, batch=2, steps=6)
    model = emit_tflite(b.graph, frames=frames)
    assert lost(model.data) == []
    assert compare_tflite(b.graph, model, *frames, engine=engine).lsb <= 8
    monkeypatch.setattr("edgeseq.emit.tflite.emit.overwritten", lambda graph: [])
    assert lost(emit_tflite(b.graph, frames=frames).data)
