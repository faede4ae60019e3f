"""Quantisation of random models: formats, accuracy, odd weights and frames, clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from timed_graphs import CELLS, frames, model

from edgeseq.errors import DataError, QuantiseError, UsageError
from edgeseq.ir import Graph, Type, check, from_text, to_text
from edgeseq.ir.io import prepare
from edgeseq.passes import to_step
from edgeseq.quant import METHODS, Quantised, QuantOptions, quantise, snr_db

STACKS = {
    "rnn": ("rnn",),
    "rnn_relu": ("rnn_relu",),
    "gru": ("gru",),
    "lstm": ("lstm",),
    "projected": ("lstm_projected",),
    "gru3": ("gru", "gru", "gru"),
    "mixed": ("lstm", "gru", "rnn"),
    "linear": (),
}

# An 8-bit weight has a step of max|w|/127: relative to uniform weights its rounding noise is
# 20 log10(127) = 42 dB below, and averages over the products of a sum; an 8-bit activation adds as
# much again, through every layer. 16-bit weights leave the tables (1 to 3 LSB of Q0.15) and the
# activations. Least values measured over four seeds of every case below: w8a16 39.2, w8a8 33.0,
# w16a16 68.0, w16a8 33.6 dB. The floors lie 2 dB below; a defect costs more: weights rounded to
# nearest 2 to 4 dB, a 16-bit state 10 dB, floor for half up 13 dB, one scale for both groups 14 dB.
FLOOR = {(8, 16): 37.2, (8, 8): 31.0, (16, 16): 66.0, (16, 8): 31.6}


def done(g: Graph, x: np.ndarray, **options: Any) -> Quantised:
    """Quantised step of `g`, its invariants and its text form checked."""
    step = to_step(g)
    return of_step(step, [prepare(step, step.inputs[0], x)], **options)


def of_step(step: Graph, x: list[np.ndarray], **options: Any) -> Quantised:
    q = quantise(step, x, QuantOptions(**options))
    check(q.graph)
    assert q.graph.is_integer and q.graph.is_step
    assert to_text(from_text(to_text(q.graph))) == to_text(q.graph)
    assert all(p.headroom >= 1.0 for p in q.proofs)
    assert len(q.proofs) == sum(n.op in ("linear", "depthwise") for _, n in q.graph.walk())
    assert len(q.graph.outputs) == len(step.outputs)
    assert set(q.graph.meta["emission"]) == set(q.graph.outputs)
    return q


@pytest.mark.parametrize(("weights", "activations"), FLOOR)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "norm+residual"])
@pytest.mark.parametrize("stack", STACKS)
def test_accuracy(stack: str, plain: bool, weights: int, activations: int) -> None:
    extra: dict[str, Any] = {} if plain else {"norm": True, "residual": True, "inputs": 8}
    for seed in range(2):
        g = model(*STACKS[stack], emit="both", affine=True, seed=seed, **extra)
        x = frames(seed=seed, inputs=g.types["x"].shape[0])
        q = done(g, x, weight_bits=weights, activation_bits=activations)
        assert q.snr >= FLOOR[weights, activations]


@pytest.mark.parametrize(("weights", "activations"), FLOOR)
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, weights: int, activations: int) -> None:
    for stack in ("gru", "lstm", "rnn_relu"):
        q = done(model(*STACKS[stack], hidden=16, seed=5), frames(), weight_bits=weights,
                 activation_bits=activations, method=method)  # fmt: skip
        assert q.snr >= FLOOR[weights, activations]


def test_a_heavy_tail_is_clipped_by_every_method_but_minmax() -> None:
    g = model("rnn_relu", inputs=4, hidden=16, seed=1)
    x = frames(batch=4, steps=100, inputs=4)
    x[0, 50] *= 40.0
    snr = {m: done(g, x, activation_bits=8, method=m, weight_bits=16).snr for m in METHODS}
    assert snr["mse"] >= snr["minmax"] - 0.5, snr
    scale = {m: done(g, x, activation_bits=8, method=m).graph.types["x"].scalar_scale
             for m in METHODS}  # fmt: skip
    assert scale["percentile"] < scale["minmax"] and scale["mse"] <= scale["minmax"]
    assert scale["entropy"] <= scale["minmax"]


# -- formats ---------------------------------------------------------------------------------------


def type_of(g: Graph, name: str) -> tuple[str, float | tuple[float, ...] | None]:
    return g.types[name].dtype, g.types[name].scale


def test_formats_of_a_gru() -> None:
    g = done(model("gru", emit="frame"), frames()).graph
    assert type_of(g, g.states[0].input) == ("i32", 2.0**-30)
    for n in g.nodes:
        if n.op == "lut":
            assert type_of(g, n.output) == ("i16", 2.0**-15)
            assert type_of(g, n.inputs[0]) == ("i32", 2.0**-16)
            assert n.attrs["k"] == {"sigmoid": 12, "tanh": 11}[n.attrs["fn"]]
        if n.op == "linear":
            assert n.attrs["s"] == [32] * len(n.attrs["s"])
            assert all(g.types[v].dtype == "i16" for v in n.inputs[: len(n.inputs) // 2 * 2 : 2])
    views = [n for n in g.nodes if n.op == "rescale" and n.inputs[0] == g.states[0].input]
    assert [(n.attrs["m"], n.attrs["s"]) for n in views] == [(1, 15)]
    assert type_of(g, views[0].output) == ("i16", 2.0**-15)


def test_formats_of_an_lstm() -> None:
    g = done(model("lstm", emit="frame"), frames()).graph
    formats = {s.name: type_of(g, s.input) for s in g.states}
    assert formats == {"layer0.h": ("i16", 2.0**-15), "layer0.c": ("i32", 2.0**-20)}
    nodes = {n.name: n.attrs for n in g.nodes}
    # c' = (f c + (i g << 5) + 2^14) >> 15 of notes, as primitives: f c in Q11.20, i g in Q1.30.
    assert {k: (v["m"], v["s"]) for k, v in nodes.items() if k in ("mul", "mul.2", "mul.3")} == {
        "mul": (1, 15), "mul.2": (1, 0), "mul.3": (1, 15),
    }  # fmt: skip
    assert (nodes["add"]["ma"], nodes["add"]["mb"], nodes["add"]["s"]) == (1024, 1, 10)


def test_8_bit_activations_are_what_matrices_read() -> None:
    g = done(model("gru", "lstm", "rnn_relu", norm=True), frames(), activation_bits=8).graph
    for n in g.nodes:
        if n.op == "linear":
            assert {g.types[v].dtype for v in n.inputs[: len(n.inputs) // 2 * 2 : 2]} == {"i8"}
        elif g.types[n.output].dtype == "i8":  # then nothing else reads it
            assert {c.op for c in g.consumers()[n.output]} == {"linear"}
    assert all(g.types[v].dtype in ("i16", "i32") for s in g.states for v in (s.input, s.output))


def test_a_ring_of_past_frames_is_narrow() -> None:
    g = Graph("ring")
    x = g.add_input("x", Type((4,)))
    h = g.add_state("h", Type((12,)))
    new = g.add_node("concat", [g.add_node("slice", [h], start=4, stop=12), x])
    g.set_state(h, new)
    g.outputs = [g.add_node("linear", [new, g.add_const("w", np.ones((3, 12)))])]
    q = of_step(to_step(g), [frames(inputs=4)])
    assert q.graph.types["h"].dtype == "i16" and q.snr > 80
    assert not any(n.op == "rescale" for n in q.graph.nodes)


def test_equal_tables_are_stored_once() -> None:
    g = done(model("gru", "lstm"), frames()).graph
    assert sorted(v for v in g.consts if "table" in v) == ["sigmoid.table", "tanh.table"]


# -- odd weights, frames and shapes ----------------------------------------------------------------


def weights_of(g: Graph, change: Callable[[str, np.ndarray], np.ndarray]) -> Graph:
    g = g.copy()
    for part in {id(p): p for p, _ in g.walk()}.values():
        part.consts = {k: change(k, v).astype(np.float32) for k, v in part.consts.items()}
    return g


def matrices(f: Callable[[np.ndarray], np.ndarray]) -> Callable[[str, np.ndarray], np.ndarray]:
    return lambda k, v: f(v) if v.ndim == 2 else v


def head(f: Callable[[np.ndarray], np.ndarray]) -> Callable[[str, np.ndarray], np.ndarray]:
    return lambda k, v: f(v) if "head" in k else v


def first_row_zero(w: np.ndarray) -> np.ndarray:
    return w * (np.arange(len(w)) > 0)[:, None]


WEIGHTS: dict[str, tuple[Callable[[str, np.ndarray], np.ndarray], float]] = {
    "all zero": (lambda k, v: v * 0.0, np.inf),
    "matrices zero": (matrices(lambda w: w * 0.0), 80.0),
    "a zero row": (matrices(first_row_zero), 33.0),
    "tiny": (matrices(lambda w: w * 1e-12), 80.0),
    "tiny with biases": (lambda k, v: v * 1e-12, 80.0),
    "tiny head": (head(lambda w: w * 1e-12), 36.0),
    "huge head": (head(lambda w: w * 1e6), 36.0),
    "subnormal": (matrices(lambda w: w * 1e-42), 80.0),
}


@pytest.mark.parametrize("cell", sorted(CELLS))
@pytest.mark.parametrize("case", WEIGHTS)
def test_odd_weights(case: str, cell: str) -> None:
    change, floor = WEIGHTS[case]
    g = weights_of(model(cell, emit="frame", seed=2), change)
    assert done(g, frames()).snr >= floor
    assert done(g, frames(), activation_bits=8).snr >= min(floor, 80.0) - 7.0


@pytest.mark.parametrize("cell", sorted(set(CELLS) - {"rnn_relu"}))
def test_saturated_gates_compile_and_follow(cell: str) -> None:
    """Weights times 10^6 make every gate a switch: only a sign near zero may come out wrong."""
    g = weights_of(model(cell, emit="frame", seed=2), lambda k, v: v if "head" in k else v * 1e6)
    assert done(g, frames(batch=1, steps=6), weight_bits=16).snr > 20.0


@pytest.mark.parametrize("activations", [16, 8])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_odd_frames_and_shapes(cell: str, activations: int) -> None:
    options = {"activation_bits": activations}
    floor = 36.0 if activations == 16 else 29.0
    one = model(cell, inputs=1, hidden=1, outputs=1, emit="frame")
    assert done(one, frames(inputs=1), **options).snr >= floor
    g = model(cell, emit="frame", seed=3)
    x = frames()
    constant = x.copy()
    constant[..., 2] = 5.0
    for odd in (constant, 0.0 * x, 1e-9 * x, x[:1, :1]):
        assert done(g, odd, **options).snr >= floor
    done(g, 1e9 * x, **options)  # chaotic, but it compiles, and its bounds hold


def test_a_constant_and_a_hardly_moving_norm() -> None:
    g = model("gru", norm=True, emit="frame")
    for x in (0.0 * frames(), 0.0 * frames() + 1e-9 * frames(seed=1)):
        assert done(g, x).snr > 36.0
    flat = Graph("flat")
    v = flat.add_input("x", Type((4,)))
    gamma, beta = flat.add_const("gamma", np.ones(4)), flat.add_const("beta", np.full(4, 0.5))
    flat.outputs = [flat.add_node("norm", [v, gamma, beta], eps=1e-5)]
    for size in (1e-12, 1e-6, 1.0, 1e6):
        # eps outweighs the first two: the result is beta to within what 16 bits resolve.
        assert of_step(to_step(flat), [size * frames(inputs=4)]).snr > 60.0


def small(build: Callable[[Graph, str], str], x: np.ndarray, **options: Any) -> Quantised:
    g = Graph("g")
    g.outputs = [build(g, g.add_input("x", Type((4,))))]
    return of_step(to_step(g), [x], **options)


def carried(build: Callable[[Graph, str, str], str]) -> Callable[[Graph, str], str]:
    def with_state(g: Graph, x: str) -> str:
        h = g.add_state("h", Type((4,)))
        new = build(g, x, h)
        g.set_state(h, new)
        return new

    return with_state


def scaled(g: Graph, x: str, by: float) -> str:
    return g.add_node("mul", [x, g.add_const("c", np.full(4, by))])


def ema(g: Graph, x: str, h: str) -> str:
    return g.add_node("add", [scaled(g, h, 0.99), scaled(g, x, 0.01)])


SMALL: dict[str, tuple[Callable[[Graph, str], str], float]] = {
    "the input": (lambda g, x: x, 80),
    "accumulator": (carried(lambda g, x, h: g.add_node("add", [h, x])), 75),
    "running mean": (carried(ema), 60),
    "kept state": (lambda g, x: g.add_node("add", [x, keep(g)]), 75),
    "delay": (lambda g, x: delayed(g, x), 80),
    "square": (lambda g, x: g.add_node("mul", [x, x]), 75),
    "difference of equals": (lambda g, x: g.add_node("sub", [x, x]), np.inf),
    "down and up": (lambda g, x: scaled(g, scaled(g, g.add_node("mul", [x, x]), 1e-7), 1e7), 70),
    "table of a table": (lambda g, x: g.add_node("lut", [g.add_node("lut", [x], fn="silu")],
                                                 fn="tanh"), 70),
    "relu6": (lambda g, x: g.add_node("clamp", [x], lo=0.0, hi=6.0), 75),
    "constant bound": (lambda g, x: g.add_node("clamp", [x], lo=2.0, hi=2.0), 75),
}  # fmt: skip


def keep(g: Graph) -> str:
    h = g.add_state("kept", Type((4,)), np.array([1.0, -2.0, 0.0, 0.5]))
    g.set_state(h, h)
    return h


def delayed(g: Graph, x: str) -> str:
    one, two = g.add_state("one", Type((4,))), g.add_state("two", Type((4,)))
    g.set_state(one, x)
    g.set_state(two, one)
    return two


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e5])
@pytest.mark.parametrize("case", SMALL)
def test_small_graphs(case: str, size: float) -> None:
    build, floor = SMALL[case]
    if case == "down and up" and size < 1.0:
        pytest.skip("1e-21 is below 2^-40, the finest unit of an inner value")
    if case in ("kept state", "table of a table", "relu6", "constant bound") and size != 1.0:
        pytest.skip("has a unit of its own")
    assert small(build, size * frames(inputs=4)).snr >= floor


def test_a_clamp_costs_an_8_bit_format_nothing() -> None:
    def build(g: Graph, x: str) -> str:
        skewed = g.add_const("b", np.array([-30.0, 0.0, 0.0, 0.0]))
        y = g.add_node("linear", [x, g.add_const("w", np.eye(4)), skewed])
        y = g.add_node("clamp", [y], lo=0.0, hi=None)
        return g.add_node("linear", [y, g.add_const("w", np.ones((2, 4)))])

    assert small(build, frames(inputs=4), activation_bits=8).snr > 40.0


def test_a_leading_axis() -> None:
    def build(g: Graph, x: str) -> str:
        grid = g.add_node("reshape", [x], shape=[2, 2])
        y = g.add_node("linear", [grid, g.add_const("w", [[1.0, -0.5], [0.25, 2.0], [0.1, 1.0]])])
        y = g.add_node("add", [y, g.add_const("b", np.ones(3))])
        return g.add_node("reshape", [g.add_node("lut", [y], fn="gelu")], shape=[6])

    assert small(build, frames(inputs=4)).snr > 40.0


# -- widening, refusals ----------------------------------------------------------------------------


def test_snr_widens_the_matrix_that_helps_most_first() -> None:
    g, x = model("gru", hidden=12), frames()
    narrow = done(g, x)
    target = narrow.snr + 2.0
    wide = done(g, x, snr=target)
    assert narrow.widened == [] and 1 <= len(wide.widened) <= 3 and wide.snr >= target
    assert wide.options.weight_bits_of == dict.fromkeys(wide.widened, 16)
    step = to_step(g)
    one = {n.name: done(g, x, weight_bits_of={n.name: 16}).snr
           for n in step.nodes if n.op == "linear"}  # fmt: skip
    assert wide.widened[0] == max(one, key=lambda k: one[k])
    by_hand = done(g, x, weight_bits_of=wide.options.weight_bits_of)
    assert to_text(by_hand.graph) == to_text(wide.graph)
    assert done(g, x, snr=narrow.snr - 1.0).widened == []
    with pytest.raises(QuantiseError, match=r"every matrix at 16 bits, short of the 150 dB"):
        done(g, x, snr=150.0)


def test_snr_db() -> None:
    a = np.array([3.0, 4.0])
    assert snr_db(a, a) == np.inf and snr_db(0 * a, a) == -np.inf
    assert snr_db(a, a * 1.1) == pytest.approx(20.0)


def test_saturation_is_reported() -> None:
    g = model("rnn_relu", emit="frame")
    x = frames()
    q = done(g, x, activation_bits=8, method="mse")
    assert q.saturated and all(0 < n <= of for n, of in q.saturated.values())
    assert not done(g, x).saturated


@pytest.mark.parametrize(("options", "message"), [
    ({"weight_bits": 4}, "weights of 4 bits"),
    ({"weight_bits_of": {"head": 12}}, "weights of 12 bits"),
    ({"activation_bits": 32}, "activations of 32 bits"),
    ({"method": "min-max"}, "did you mean 'minmax'"),
    ({"margin": 0.5}, "a margin of 0.5"),
    ({"margin": float("nan")}, "a margin of nan"),
    ({"weight_bits_of": {"heat": 16}}, "unknown matrix 'heat'; did you mean 'head'"),
])  # fmt: skip
def test_odd_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        done(model("rnn"), frames(), **options)


@pytest.mark.parametrize(("change", "message"), [
    (lambda x: [], "got frames"),
    (lambda x: [x, x], "got frames"),
    (lambda x: [x[:, 0, 0]], "got frames"),
    (lambda x: [x[:0]], "no calibration frames"),
    (lambda x: [x[:, :0]], "no calibration frames"),
    (lambda x: [np.where(x > 1, np.nan, x)], "NaN or infinity"),
    (lambda x: [np.where(x > 1, np.inf, x)], "NaN or infinity"),
])  # fmt: skip
def test_odd_frames_are_refused(
    change: Callable[[np.ndarray], list[np.ndarray]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        quantise(to_step(model("gru")), change(frames()))


def test_what_is_no_real_step_is_refused() -> None:
    with pytest.raises(QuantiseError, match="needs a real step"):
        quantise(model("gru"), [frames()])
    q = done(model("gru"), frames())
    with pytest.raises(QuantiseError, match="needs a real step"):
        quantise(q.graph, [frames()])


def test_a_value_that_overflows_is_named() -> None:
    def build(g: Graph, x: str) -> str:
        return g.add_node("lut", [x], fn="exp", name="boom")

    with pytest.raises(DataError, match="value 'boom': became NaN or infinite"):
        small(build, 1e4 * np.abs(frames(inputs=4)))


def test_what_is_computed_cannot_be_a_weight() -> None:
    g = Graph("g")
    x, k = g.add_input("x", Type((4,))), g.add_input("k", Type((4,)))
    g.outputs = [g.add_node("norm", [x, k, k], name="node", eps=1e-5)]
    with pytest.raises(QuantiseError, match=r"node 'node'.*'k' is computed, not a constant"):
        quantise(g, [frames(inputs=4), frames(inputs=4)])


def test_options_combine_without_a_crash() -> None:
    g = model("gru", "lstm", norm=True, activation="gelu", affine=True)
    x = frames(batch=1, steps=20)
    base = QuantOptions()
    step = to_step(g)
    for w, a, m, margin in product((8, 16), (8, 16), METHODS, (1.0,)):
        options = replace(base, weight_bits=w, activation_bits=a, method=m, margin=margin)
        assert quantise(step, [prepare(step, "x", x)], options).snr > 25.0
