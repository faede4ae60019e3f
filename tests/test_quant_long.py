"""Long runs with carried states: nothing freezes, drifts or oscillates."""

from __future__ import annotations

import numpy as np
import pytest
from timed_graphs import frames, model

from edgeseq.ir import Graph, Interpreter, Type
from edgeseq.ir.functions import FUNCTIONS
from edgeseq.ir.io import from_stored, store_prepared
from edgeseq.passes import to_step
from edgeseq.quant import Quantised, QuantOptions, quantise

STEPS = [3_000, pytest.param(100_000, marks=pytest.mark.slow)]


def real_state(q: Quantised, machine: Interpreter, name: str) -> np.ndarray:
    t = next(q.graph.types[s.input] for s in q.graph.states if s.name == name)
    return machine.state[name].astype(np.float64) * t.scalar_scale


def settle(step: Graph, q: Quantised, x: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the real and the integer step over the last 200 of `steps` frames of `x`."""
    real, machine = Interpreter(step, batch=len(x)), Interpreter(q.graph, batch=len(x))
    stored = store_prepared(q.graph, "x", x)
    for _ in range(min(steps, 2_000)):  # the real step has settled by then
        want = real(x)[0]
    tail = []
    for t in range(steps):
        y = machine(stored)[0]
        if t >= steps - 200:
            tail.append(from_stored(q.graph, q.graph.outputs[0], y))
    return want, np.array(tail)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "rnn_relu"])
def test_silence_and_a_constant_settle_where_the_real_step_does(cell: str, steps: int) -> None:
    # gain 1: contracting, so the real step has one fixed point.
    step = to_step(model(cell, emit="frame", hidden=6, gain=1.0, seed=4))
    q = quantise(step, [frames()], QuantOptions(weight_bits=16))
    x = np.stack([np.zeros(5), np.full(5, 0.7), np.linspace(-2, 2, 5)])
    want, tail = settle(step, q, x, steps)
    size = np.abs(from_stored(q.graph, q.graph.outputs[0], np.full(3, 32767, np.int16))).max()
    # 2 LSB of Q0.15 on every state, amplified by at most 10 in a contracting cell and the head.
    assert np.ptp(tail, axis=0).max() <= size * 4 * 2.0**-15  # no oscillation
    assert np.abs(tail[-1] - want).max() <= size * 1e-3  # no drift


def slow_gru(bias: float) -> Graph:
    """h' = n + z (h - n) with z = sigmoid(bias), n = tanh(x)."""
    g = Graph("slow")
    x = g.add_input("x", Type((1,)))
    h = g.add_state("h", Type((1,)), bound=1.0)
    gate = [x, g.add_const("wz", np.zeros((1, 1))), g.add_const("bz", np.full(1, bias))]
    z = g.add_node("lut", [g.add_node("linear", gate)], fn="sigmoid")
    n = g.add_node("lut", [g.add_node("linear", [x, g.add_const("w", np.ones((1, 1)))])], fn="tanh")
    d = g.add_node("sub", [h, n])
    y = g.add_node("add", [n, g.add_node("mul", [z, d])])
    g.set_state(h, y)
    g.outputs = [y]
    return g


@pytest.mark.parametrize("bias", [4.0, 7.0, 9.0])
def test_a_slow_gate_keeps_moving(bias: float) -> None:
    step = slow_gru(bias)
    q = quantise(step, [np.linspace(-1, 1, 60).reshape(1, 60, 1)])
    machine = Interpreter(q.graph, batch=2)
    x = store_prepared(q.graph, "x", np.array([[0.5], [-0.5]]))
    n = np.tanh([0.5, -0.5])
    z = FUNCTIONS["sigmoid"].fn(np.array(bias))
    done, last = 0, np.zeros(2)
    for steps in (100, 1000, 4000):
        for _ in range(steps - done):
            machine(x)
        done = steps
        h = real_state(q, machine, "h")[:, 0]
        want = n * (1.0 - z**steps)
        # z is Q0.15: half an LSB of 1 - z, which is what the speed depends on, and one LSB of n.
        speed = 2.0**-16 / (1.0 - z)
        assert np.all(np.abs(h - want) <= np.abs(n) * speed * 1.1 + 2.0**-14)
        assert np.all(np.abs(h) > np.abs(last))
        last = h if bias > 6 else last  # the fast one has arrived


@pytest.mark.slow
def test_the_slowest_gate_arrives() -> None:
    q = quantise(slow_gru(9.0), [np.linspace(-1, 1, 60).reshape(1, 60, 1)])
    machine = Interpreter(q.graph)
    x = store_prepared(q.graph, "x", np.array([[0.5]]))
    for _ in range(100_000):
        machine(x)
    assert abs(real_state(q, machine, "h")[0, 0] - np.tanh(0.5)) < 1e-4


def integrating_lstm() -> Graph:
    """c' = f c + i g with f, i and g close to one: c counts the frames."""
    g = Graph("counter")
    x = g.add_input("x", Type((1,)))
    h, c = g.add_state("h", Type((1,)), bound=1.0), g.add_state("c", Type((1,)))
    w = g.add_const("w", np.array([[0.0], [0.0], [4.0], [0.0]]))
    u, b = g.add_const("u", np.zeros((4, 1))), g.add_const("b", np.array([9.0, 15.0, 0.0, 2.0]))
    pre = g.add_node("linear", [x, w, h, u, b])
    fns = ("sigmoid", "sigmoid", "tanh", "sigmoid")
    i, f, n, o = (g.add_node("lut", [g.add_node("slice", [pre], start=k, stop=k + 1)], fn=fn)
                  for k, fn in enumerate(fns))  # fmt: skip
    new = g.add_node("add", [g.add_node("mul", [f, c]), g.add_node("mul", [i, n])])
    y = g.add_node("mul", [o, g.add_node("lut", [new], fn="tanh")])
    g.set_state(c, new)
    g.set_state(h, y)
    g.outputs = [y]
    return g


def test_an_lstm_cell_goes_beyond_what_calibration_saw_and_saturates_at_2048() -> None:
    q = quantise(integrating_lstm(), [np.ones((1, 50, 1))])
    machine = Interpreter(q.graph)
    x = store_prepared(q.graph, "x", np.ones((1, 1)))
    n = np.tanh(4.0)
    f, real = 32767 / 32768, 0.0  # what Q0.15 makes of a forget gate of 1 - 3e-7
    for steps in range(1, 2401):
        machine(x)
        real = f * real + n
        if steps in (50, 150, 900, 2000):
            assert real_state(q, machine, "c")[0, 0] == pytest.approx(real, rel=5e-4)
    assert real_state(q, machine, "c")[0, 0] > 2000.0
    machine.state["c"][:] = (1 << 31) - 1 - (1 << 10)
    machine.state["h"][:] = 0
    for _ in range(3):
        machine(x)
    assert (1 << 31) - (1 << 18) < int(machine.state["c"][0, 0]) <= (1 << 31) - 1
    assert real_state(q, machine, "h")[0, 0] > 0.87  # saturated, not wrapped


def test_a_drop_from_full_scale_to_silence_decays() -> None:
    step = to_step(model("gru", "lstm", emit="frame", hidden=6, gain=1.0))
    q = quantise(step, [frames()])
    machine = Interpreter(q.graph)
    loud = np.random.default_rng(0).choice([-32768, 32767], (1, 300, 5)).astype(np.int16)
    machine.sequence(loud)
    quiet = machine.sequence(np.zeros((1, 600, 5), np.int16))[0]
    fresh = Interpreter(q.graph).sequence(np.zeros((1, 600, 5), np.int16))[0]
    assert np.abs(quiet[0, -1].astype(int) - fresh[0, -1]).max() <= 4  # forgets the loud past
    assert np.ptp(quiet[0, -200:].astype(int), axis=0).max() <= 4
