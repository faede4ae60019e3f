"""Values that are moved share a format; states, bounds and what a matrix reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quant_graphs import Build, noise, random_frames, random_step

from edgeseq.errors import QuantiseError, UsageError
from edgeseq.ir import Graph, Interpreter, Type
from edgeseq.ir.io import store_prepared
from edgeseq.quant import Quantised, QuantOptions, quantise
from edgeseq.quant.bounds import intervals
from edgeseq.quant.measure import Bench
from edgeseq.quant.structure import Structure

N = 6


def done(g: Graph, *frames: np.ndarray, **options: Any) -> Quantised:
    return quantise(g, list(frames), QuantOptions(**options))


def ops_of(g: Graph) -> list[str]:
    return [n.op for n in g.nodes]


# -- movement --------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", [16, 8])
def test_a_ring_of_64_frames_returns_what_was_put_in_bit_for_bit(activations: int) -> None:
    b = Build()
    past = b.ring(b.input("x", 3), 64)
    oldest = b("slice", past, start=0, stop=3)
    g = b.done(b("reshape", oldest, shape=(3,)), b.linear(past, 2))
    x = noise(3, steps=150)
    q = done(g, x, activation_bits=activations)
    assert "rescale" not in ops_of(q.graph) or activations == 8
    stored = store_prepared(q.graph, "x", x)
    got = Interpreter(q.graph, batch=len(x)).sequence(stored)[0]
    scale = q.graph.types["x"].scalar_scale
    assert q.graph.types[q.graph.outputs[0]].scalar_scale == scale
    assert np.array_equal(got[:, 63:], stored[:, : 150 - 63]) and not got[:, :63].any()


def test_rings_of_computed_values_are_requantised_once_on_the_way_in() -> None:
    b = Build()
    x = b.input("x", N)
    gate = b("lut", b.linear(x, N), fn="sigmoid")
    wide = b("mul", b.linear(x, N), gate)
    first = b.ring(wide, 8, "first")
    second = b.ring(b("slice", first, start=0, stop=N), 8, "second")  # a ring behind a ring
    gates = b.ring(gate, 8, "gates")
    g = b.done(b.linear(first, 2), b.linear(second, 2), b.linear(gates, 2))
    q = done(g, noise(N, steps=80), weight_bits=16)
    types = {s.name: q.graph.types[s.input] for s in q.graph.states}
    assert types["first"].scale == types["second"].scale and types["first"].dtype == "i16"
    assert (types["gates"].dtype, types["gates"].scale) == ("i16", 2.0**-15)
    assert "rescale" not in ops_of(q.graph) and q.snr > 70.0


def test_a_delay_line_of_reversed_and_turned_frames_has_one_format() -> None:
    b = Build()
    x = b("reshape", b.input("x", 6), shape=(2, 3))
    turned = b("reshape", b("strided", x, shape=(3, 2), strides=(1, 3), offset=0), shape=(6,))
    one, two = (b.g.add_state(k, Type((6,))) for k in ("one", "two"))
    b.g.set_state(one, turned)
    b.g.set_state(two, b("strided", one, shape=(6,), strides=(-1,), offset=5))
    q = done(b.done(two), noise(6))
    assert {t.scale for t in q.graph.types.values()} == {q.graph.types["x"].scale}


def test_masks_and_counts_stay_exact() -> None:
    b = Build()
    x = b.input("x", 1)
    one = b("add", b("mul", x, b.const([0.0])), b.const([1.0]))
    valid = b.ring(one, 5, "valid")
    truth = b.ring(b("compare", x, b.const([0.0]), cmp="gt"), 4, "truth")
    g = b.done(b("sub", valid, b.const(np.ones(5))), b("reshape", truth, shape=(4,)))
    q = done(g, noise(1))
    assert q.snrs[g.outputs[0]] == np.inf and q.snrs[g.outputs[1]] == np.inf
    assert {s.name: q.graph.types[s.input].dtype for s in q.graph.states}["truth"] == "i8"


def test_what_a_clamp_cuts_off_costs_nothing() -> None:
    b = Build()
    y = b("linear", b.input("x", 4), b.const(np.eye(4)), b.const([-300.0, 0, 0, 0]))
    g = b.done(b.linear(b("clamp", y, lo=0.0, hi=None), 3))
    q = done(g, noise(4), weight_bits=16)
    assert q.snr > 70.0 and not q.saturated
    (clamp,) = (n for n in q.graph.nodes if n.op == "clamp")
    assert q.graph.types[clamp.output].scalar_scale * 32767.0 < 10.0
    # What the clamp lets through and the format does not hold is reported.
    gain = b.g.copy()
    gain.consts["c"] = np.float32(3.0) * gain.consts["c"]
    assert done(gain, noise(4)).snr > 40.0
    loud = Bench(gain, [noise(4, size=1.4)]).measure(done(gain, noise(4, size=0.5)).graph)
    assert "linear" in loud.saturated


# -- states ----------------------------------------------------------------------------------------


def gru(form: str, n: int = N) -> Graph:
    b = Build()
    x, h = b.input("x", 4), b.g.add_state("h", Type((n,)))
    args = [x, b.weights(n, 4), h, b.weights(n, n)]
    z = b("lut", b("linear", *args), fn="sigmoid")
    new = b("lut", b("linear", *args), fn="tanh")
    if form == "n + z (h - n)":
        y = b("add", new, b("mul", z, b("sub", h, new)))
    else:
        rest = b("sub", b.const(np.ones(n)), z)
        terms = [b("mul", rest, new), b("mul", h, z)]
        y = b("add", *(terms if form == "(1 - z) n + z h" else terms[::-1]))
    b.g.set_state(h, y)
    return b.done(b.linear(y, 2))


@pytest.mark.parametrize("form", ["n + z (h - n)", "(1 - z) n + z h", "z h + (1 - z) n"])
def test_a_gate_between_two_units_is_a_unit(form: str) -> None:
    g = gru(form)
    q = done(g, noise(4), weight_bits=16)
    assert q.graph.types["h"] == Type((N,), "i32", 2.0**-30) and q.snr > 70.0
    assert intervals(Structure(g))["h"] == (-1.0, 1.0)


def test_products_of_units_are_units_and_sums_are_not() -> None:
    b = Build()
    x = b.input("x", N)
    c, h = b.g.add_state("c", Type((N,))), b.g.add_state("h", Type((N,)))
    s = b.g.add_state("s", Type((N,)))
    pre = b("linear", x, b.weights(N, N), h, b.weights(N, N))
    gate, new = b("lut", pre, fn="sigmoid"), b("lut", pre, fn="tanh")
    cell = b("add", b("mul", gate, c), b("mul", gate, new))
    out = b("mul", gate, b("lut", cell, fn="tanh"))
    b.g.set_state(c, cell)
    b.g.set_state(h, out)
    b.g.set_state(s, b("add", b("mul", s, b.const([0.5])), new))
    g = b.done(out, s)
    bound = intervals(Structure(g))
    assert bound["h"] == (-1.0, 1.0) and bound["c"] == bound["s"] == (-np.inf, np.inf)
    types = done(g, noise(N)).graph.types
    assert (types["h"].dtype, types["h"].scale) == ("i16", 2.0**-15)
    assert (types["c"].dtype, types["c"].scale) == ("i32", 2.0**-20)
    assert types["s"].dtype == "i32"


def test_a_state_that_starts_beyond_one_is_no_unit() -> None:
    b = Build()
    h = b.g.add_state("h", Type((N,)), np.full(N, 1.5))
    y = b("lut", b("linear", b.input("x", N), b.weights(N, N), h, b.weights(N, N)), fn="tanh")
    b.g.set_state(h, y)
    q = done(b.done(b("reshape", h, shape=(N,))), noise(N), weight_bits=16)
    assert q.snr > 60.0


def test_states_packed_into_one_have_the_format_of_the_widest() -> None:
    b = Build()
    x, packed = b.input("x", N), b.g.add_state("packed", Type((2 * N,)))
    h, c = (b("slice", packed, start=k * N, stop=(k + 1) * N) for k in (0, 1))
    pre = b("linear", x, b.weights(N, N), h, b.weights(N, N))
    gate, new = b("lut", pre, fn="sigmoid"), b("lut", pre, fn="tanh")
    cell = b("add", b("mul", gate, c), b("mul", gate, new))
    out = b("mul", gate, b("lut", cell, fn="tanh"))
    b.g.set_state(packed, b("concat", out, cell))
    q = done(b.done(b.linear(out, 2)), noise(N), weight_bits=16)
    assert q.graph.types["packed"].dtype == "i32" and q.snr > 70.0


# -- towards an accuracy ---------------------------------------------------------------------------


def layers(count: int, n: int = 12) -> Graph:
    b = Build(seed=3)
    x = b.input("x", n)
    for i in range(count):
        x = b("lut", b.linear(x, n, name=f"dense{i}"), fn="silu")
        taps = b("reshape", b.ring(x, 3, f"ring{i}"), shape=(3, n))
        x = b("depthwise", taps, b.weights(3, n), name=f"depth{i}")
    return b.done(b.linear(x, 3, name="head"))


def test_the_least_useful_matrices_stay_narrow() -> None:
    g, x = layers(4), noise(12)
    narrow, wide = done(g, x), done(g, x, weight_bits=16)
    assert narrow.snr + 15.0 < wide.snr
    counts = []
    for target in np.linspace(narrow.snr + 1.0, wide.snr - 1.0, 4):
        q = done(g, x, snr=target)
        assert q.snr >= target and not q.sharpened
        assert q.options.weight_bits_of == dict.fromkeys(q.widened, 16)
        counts.append(len(q.widened))
    assert counts == sorted(counts) and 1 <= counts[0] < counts[-1] <= 9
    assert any("depth" in name for name in done(g, x, snr=wide.snr - 1.0).widened)


def test_what_matrices_read_is_widened_where_their_weights_do_not_help() -> None:
    """Two values of very different size side by side: 16 bits hold the small one badly."""
    b = Build()
    big = b.linear(b.input("x", N), N, bias=False)
    spread = b("mul", big, b.const(10.0 ** np.linspace(-3.0, 1.0, N)))
    w = b.const(10.0 ** np.linspace(3.0, -1.0, N)[None, :] * b.rng.normal(size=(4, N)))
    g, x = b.done(b("linear", spread, w, name="reads")), noise(N)
    plain = done(g, x, weight_bits=16)
    q = done(g, x, weight_bits=16, snr=plain.snr + 6.0)
    assert q.sharpened == ["reads"] and q.options.activation_bits_of == {"reads": 32}
    assert q.snr >= plain.snr + 6.0
    by_hand = done(g, x, weight_bits=16, activation_bits_of={"reads": 32})
    assert by_hand.snr == q.snr


def test_8_bit_inputs_of_matrices_are_widened_singly() -> None:
    g, x = layers(3), noise(12)
    narrow = done(g, x, activation_bits=8)
    q = done(g, x, activation_bits=8, snr=narrow.snr + 4.0)
    assert q.snr >= narrow.snr + 4.0 and q.sharpened
    assert set(q.options.activation_bits_of.values()) == {16}


def test_what_is_out_of_reach_is_explained() -> None:
    with pytest.raises(QuantiseError) as e:
        done(layers(2), noise(12), snr=140.0)
    assert "every matrix at 16 bits, short of the 140 dB" in e.value.what
    assert "most is lost at" in e.value.what and "ask for less (snr = " in str(e.value.fix)


@pytest.mark.parametrize(("options", "message"), [
    ({"activation_bits_of": {"head": 12}}, "activations of 12 bits"),
    ({"activation_bits_of": {"heat": 16}}, "unknown matrix 'heat'; did you mean 'head'"),
])  # fmt: skip
def test_odd_widths_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        done(layers(1), noise(12), **options)


# -- frames ----------------------------------------------------------------------------------------


def test_a_long_sequence_is_cut_up_and_many_are_thinned() -> None:
    g = layers(1)
    long = done(g, noise(12, batch=1, steps=3000))
    many = done(g, noise(12, batch=500, steps=20))
    assert abs(long.snr - many.snr) < 6.0


def test_a_step_of_several_frames_takes_them_grouped_or_not() -> None:
    b = Build()
    g = b.done(b.linear(b.input("x", 3, N), 2))
    g.meta["frames_per_step"] = 3
    x = noise(N, steps=30)
    grouped = x.reshape(4, 10, 3, N)
    assert done(g, x).snr == done(g, grouped).snr


def test_numbers_of_elements_follow_the_outputs_they_belong_to() -> None:
    """An output that is wide is given as a view, under another name."""
    b = Build()
    x = b.input("x", 4, N)
    wide = b("add", x, b("mul", x, x))
    z = b("add", b("lut", wide, fn="tanh"), wide)
    g = b.done(wide, b.linear(z, 2))
    g.meta.update(frames_per_step=4, elements={g.outputs[0]: 2, g.outputs[1]: 1})
    q = done(g, noise(N, steps=40))
    names = q.graph.outputs
    assert [q.graph.frames_of(v) for v in names] == [2, 1]
    assert set(q.graph.meta["elements"]) == set(names)


def test_quantising_twice_gives_the_same() -> None:
    from edgeseq.ir import to_text

    for seed in range(3):
        g = random_step(seed)
        before = to_text(g)
        texts = {to_text(done(g, *random_frames(seed)).graph) for _ in range(2)}
        assert len(texts) == 1 and to_text(g) == before
