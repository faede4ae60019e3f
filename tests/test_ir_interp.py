"""The interpreter: exact integers, saturation counts, batches, states that nobody else holds."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from graphs import CELLS as STEP_CELLS
from graphs import functions_step, step, stored_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from timed_graphs import model

from edgeseq.errors import DataError, GraphError
from edgeseq.ir import Graph, Interpreter, Time, Type, check, run
from edgeseq.ir.io import from_stored, prepare, store_prepared, to_stored


def half_up(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


def sat(v: int, bits: int) -> int:
    return min(max(v, -(1 << (bits - 1))), (1 << (bits - 1)) - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 9), st.sampled_from([8, 16]), st.integers(20, 40))
def test_linear_is_its_definition(seed: int, k: int, bits: int, s: int) -> None:
    """y = sat(b + sum_g rq(W_g x_g, m_g, s_g)), with a saturating i16 output, counted."""
    rng = np.random.default_rng(seed)
    g = Graph("g")
    x1 = g.add_input("x1", Type((k,), "i16", 1.0))
    x2 = g.add_input("x2", Type((2,), "i8", 1.0))
    top = (1 << (bits - 1)) - 1
    w1, w2 = rng.integers(-top, top + 1, (3, k)), rng.integers(-128, 128, (3, 2))
    m = [rng.integers(-(1 << 31), 1 << 31, 3).astype(np.int32) for _ in range(2)]
    b = rng.integers(-(1 << 20), 1 << 20, 3)
    args = [
        x1, g.add_const("w1", w1, Type((3, k), f"i{bits}", (1.0,) * 3)),
        x2, g.add_const("w2", w2, Type((3, 2), "i8", (1.0,) * 3)),
        g.add_const("b", b, Type((3,), "i32", 1.0)),
    ]  # fmt: skip
    y = g.add_node("linear", args, types=[Type((3,), "i16", 1.0)], m=m, s=[s, 31])
    g.outputs = [y]
    check(g)
    a1 = rng.integers(-32768, 32768, (4, k)).astype(np.int16)
    a2 = rng.integers(-128, 128, (4, 2)).astype(np.int8)
    machine = Interpreter(g, batch=4)
    (got,) = machine(a1, a2)
    clamped = 0
    for i in range(4):
        for o in range(3):
            exact = int(b[o])
            for a, w, mul, shift in ((a1, w1, m[0], s), (a2, w2, m[1], 31)):
                acc = sum(int(p) * int(q) for p, q in zip(w[o], a[i], strict=True))
                exact += half_up(Fraction(acc * int(mul[o]), 1 << shift))
            clamped += exact != sat(exact, 16)
            assert int(got[i, o]) == sat(exact, 16)
    assert machine.saturated["linear"] == clamped and machine.stored["linear"] == 12


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 15), (1 << 15) - 1),
       st.integers(-(1 << 15), (1 << 15) - 1), st.integers(0, 40))  # fmt: skip
def test_add_mul_rescale_clamp(a: int, b: int, m: int, s: int) -> None:
    g = Graph("g")
    x = g.add_input("x", Type((1,), "i32", 1.0))
    y = g.add_input("y", Type((1,), "i16", 1.0))
    t = [Type((1,), "i32", 1.0)]
    g.outputs = [
        g.add_node("add", [x, y], types=t, ma=m, mb=-3, s=s),
        g.add_node("mul", [x, y], types=t, m=m, s=s),
        g.add_node("rescale", [x], types=[Type((1,), "i8", 1.0)], m=m, s=s),
        g.add_node("clamp", [x], types=t, lo=-5, hi=None),
    ]
    check(g)
    got = run(g, np.array([[a]], np.int32), np.array([[b]], np.int16))
    exact = [(a * m - 3 * b, 32), (a * b * m, 32), (a * m, 8)]
    want = [sat(half_up(Fraction(v, 1 << s)), bits) for v, bits in exact] + [max(a, -5)]
    assert [int(v[0, 0]) for v in got] == want


def test_every_saturating_store_is_counted_once() -> None:
    g = Graph("g")
    x = g.add_input("x", Type((4,), "i16", 1.0))
    g.outputs = [g.add_node("rescale", [x], types=[Type((4,), "i8", 1.0)], m=1, s=0, name="cut")]
    n = g.add_node("norm", [x, g.add_const("gain", np.full(4, 1 << 20), Type((4,), "i32", 1.0)),
                            g.add_const("bias", np.zeros(4), Type((4,), "i32", 1.0))],
                   types=[Type((4,), "i8", 1.0)], eps=1, s=30)  # fmt: skip
    g.outputs.append(n)
    check(g)
    machine = Interpreter(g)
    machine(np.array([[127, 128, -128, -129]], np.int16))
    assert machine.saturated["cut"] == 2 and machine.stored["cut"] == 4
    machine(np.array([[0, 32767, -32768, 1]], np.int16))
    assert machine.saturated["cut"] == 4 and machine.stored["cut"] == 8
    assert machine.saturated["norm"] == 6 and machine.stored["norm"] == 8


@pytest.mark.parametrize("cell", STEP_CELLS)
@pytest.mark.parametrize("integer", [False, True])
def test_sequences_of_a_batch_do_not_meet(cell: str, integer: bool) -> None:
    g = step(cell, integer=integer, layers=2, norm=True)
    x = stored_frames(g, batch=3, steps=12)[0]
    together = Interpreter(g, batch=3).sequence(x)[0]
    for b in range(3):
        alone = Interpreter(g).sequence(x[b : b + 1])[0][0]
        if integer:
            assert np.array_equal(alone, together[b])
        else:
            assert np.allclose(alone, together[b], rtol=0, atol=1e-13)


@pytest.mark.parametrize("cell", STEP_CELLS)
def test_states_continue_and_reset(cell: str) -> None:
    g = step(cell, integer=True)
    x = stored_frames(g, steps=20)[0]
    machine = Interpreter(g)
    whole = machine.sequence(x)[0]
    machine.reset()
    pieces = [machine.sequence(x[:, a:b])[0] for a, b in ((0, 1), (1, 8), (8, 20))]
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)
    machine.reset()
    assert np.array_equal(machine.sequence(x)[0], whole)


def test_a_callers_buffers_are_not_states() -> None:
    g = Graph("delay")
    x = g.add_input("x", Type((2,), "i16", 1.0))
    h = g.add_state("h", Type((2,), "i16", 1.0))
    g.set_state(h, x)
    g.outputs = [h]
    check(g)
    machine, buffer = Interpreter(g), np.array([[1, 2]], np.int16)
    machine(buffer)
    buffer[:] = 99
    (y,) = machine(buffer)
    assert y.tolist() == [[1, 2]]
    y[:] = 7
    assert machine(buffer)[0].tolist() == [[99, 99]]


def test_constants_that_are_outputs_have_a_batch_axis() -> None:
    g = Graph("g")
    x = g.add_input("x", Type((2,)))
    c = g.add_const("c", np.array([1.0, 2.0]))
    h = g.add_state("h", Type((2,)))
    g.set_state(h, c)
    g.outputs = [c, g.add_node("reshape", [c], shape=[2, 1]), g.add_node("add", [x, h])]
    check(g)
    a, b, y = Interpreter(g, batch=3).sequence(np.zeros((3, 4, 2)))
    assert a.shape == (3, 4, 2) and b.shape == (3, 4, 2, 1) and y[1, :, 1].tolist() == [0, 2, 2, 2]


def test_real_and_integer_functions_agree() -> None:
    real, integer = functions_step(integer=False), functions_step(integer=True)
    x = np.linspace(-3.9, 3.9, 50 * 8).reshape(50, 8)
    a = run(real, x)[0]
    b = from_stored(integer, integer.outputs[0], run(integer, to_stored(integer, "x", x))[0])
    # Q6.9 tables of 512 chords over +-4: half an LSB for the node, the sum and the product each;
    # exp(4) = 55 bends by 55 * (1/64)^2 / 8 = 1.7e-3 within a chord.
    assert np.abs(a - b).max() < 2.0**-9 * 2.5 + 1.7e-3


def test_wrong_inputs_are_refused() -> None:
    g = step("gru", integer=True, inputs=5)
    for bad in (np.zeros((1, 4), np.int16), np.zeros((2, 5), np.int16), np.zeros((1, 5))):
        with pytest.raises(GraphError, match="input 'x'"):
            Interpreter(g)(bad)
    with pytest.raises(GraphError, match="got 2 inputs, needs 1"):
        Interpreter(g)(*[np.zeros((1, 5), np.int16)] * 2)
    m = model("gru")
    with pytest.raises(GraphError, match="got shape"):
        run(m, np.zeros((1, 3, 4)))


# -- raw, prepared and stored ----------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_storing_rounds_half_up_and_saturates(raw: list[float]) -> None:
    g = Graph("g", meta={"input_affine": {"x": {"scale": [2.0] * 3, "offset": [1.0, 0.0, -1.0]}}})
    g.outputs = [g.add_input("x", Type((3,), "i16", 0.25))]
    stored = to_stored(g, "x", np.array(raw))
    for r, o, q in zip(raw, (1.0, 0.0, -1.0), stored.tolist(), strict=True):
        assert q == sat(floor((r - o) / 2.0 / 0.25 + 0.5), 16)
    assert np.array_equal(store_prepared(g, "x", prepare(g, "x", raw)), stored)
    inside = (stored > -32768) & (stored < 32767)
    back = from_stored(g, "x", stored)
    assert np.all(np.abs(back - raw)[inside] <= 0.25 + 1e-9)
    assert np.array_equal(to_stored(g, "x", back), stored)


def test_infinite_saturates_and_nan_is_refused() -> None:
    g = Graph("g")
    g.outputs = [g.add_input("x", Type((2,), "i8", 0.5))]
    assert to_stored(g, "x", [np.inf, -np.inf]).tolist() == [127, -128]
    with pytest.raises(DataError, match="1 elements are NaN"):
        to_stored(g, "x", [np.nan, 0.0])
    with pytest.raises(DataError, match="a frame is"):
        to_stored(g, "x", [0.0])
    with pytest.raises(GraphError, match="unknown value 'y'"):
        to_stored(g, "y", [0.0])


def test_a_sequence_graph_equals_its_frames() -> None:
    g = Graph("g")
    x = g.add_input("x", Type((3,), time=Time()))
    y = g.add_node("lut", [g.add_node("linear", [x, g.add_const("w", np.eye(3))])], fn="tanh")
    g.outputs = [y, g.add_node("last", [y])]
    check(g)
    a = np.random.default_rng(0).normal(size=(2, 5, 3))
    every, last = run(g, a)
    assert np.allclose(every, np.tanh(a), rtol=0, atol=1e-15)
    assert np.array_equal(last, every[:, -1])
