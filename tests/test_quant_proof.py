"""No accumulator overflows: the proof against the worst inputs there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timed_graphs import frames, model

from edgeseq.errors import QuantiseError
from edgeseq.fixed import rq
from edgeseq.ir import Graph, Interpreter, Type
from edgeseq.ir.io import store_prepared
from edgeseq.passes import to_step
from edgeseq.quant import QuantOptions, prove, quantise
from edgeseq.quant.calibrate import Stats, clip_range
from edgeseq.quant.weights import quantise_matrix

INT32_MAX = (1 << 31) - 1
LEAST = {"i8": -128, "i16": -32768}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    k=st.sampled_from([1, 2, 3, 17, 515, 516, 517, 1000, 5000]),
    bits=st.sampled_from([8, 16]),
    x_max=st.sampled_from([128, 32768]),
    kind=st.sampled_from(["normal", "signs", "one", "zero"]),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 1 << 20),
)
def test_no_row_overflows_and_each_is_as_fine_as_it_may_be(
    rows: int, k: int, bits: int, x_max: int, kind: str, exponent: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(rows, k))
    if kind == "signs":
        w = np.sign(w)
    elif kind != "normal":
        w = np.zeros((rows, k))
        w[:, 0] = kind == "one"
    w = w * 2.0**exponent
    q, scale = quantise_matrix(w, bits, x_max)
    top = (1 << (bits - 1)) - 1
    assert q.dtype.itemsize * 8 == bits and np.abs(q.astype(np.int64)).max() <= top
    total = np.abs(q.astype(object)).sum(axis=1) * x_max
    assert max(total) <= INT32_MAX
    # Rounding is to the nearest, of every weight of every row.
    assert np.all(np.abs(q * scale[:, None] - w) <= scale[:, None] * (0.5 + 1e-9))
    for row in range(rows):
        finer = np.abs(w[row]) / (scale[row] / 1.05)
        if w[row].any():  # 5 % finer would not fit the width, or not the accumulator
            assert finer.max() > top or finer.sum() * x_max > INT32_MAX - k * x_max


def brute_force(graph: Graph, x: list[np.ndarray]) -> dict[str, tuple[int, int]]:
    """Greatest accumulator and sum of every linear over a run, by Python integers."""
    seen: dict[str, np.ndarray] = {}
    worst: dict[str, tuple[int, int]] = {}

    def observe(name: str, array: np.ndarray) -> None:
        seen[name] = array
        node = producers.get(name)
        if node is None or node.op != "linear":
            return
        total = graph.consts[node.inputs[-1]].astype(np.int64) if len(node.inputs) % 2 else 0
        top = 0
        for g, (m, s) in enumerate(zip(node.attrs["m"], node.attrs["s"], strict=True)):
            acc = seen[node.inputs[2 * g]].astype(np.int64) @ graph.consts[
                node.inputs[2 * g + 1]].T.astype(np.int64)  # fmt: skip
            top = max(top, int(np.abs(acc).max()))
            total = total + rq(acc, m, s)
        a, b = worst.get(node.name, (0, 0))
        worst[node.name] = max(a, top), max(b, int(np.abs(total).max()))

    producers = graph.producers()
    Interpreter(graph, batch=x[0].shape[0], observe=observe).sequence(*x)
    return worst


@pytest.mark.parametrize("weights", [8, 16])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "rnn_relu"])
def test_no_run_exceeds_the_proof(cell: str, weights: int) -> None:
    step = to_step(model(cell, cell, norm=True, hidden=16, gain=8.0))
    q = quantise(step, [frames()], QuantOptions(weight_bits=weights))
    proofs = {p.node: p for p in q.proofs}
    rng = np.random.default_rng(0)
    kinds = [
        store_prepared(q.graph, "x", frames()),
        rng.choice([-32768, 32767], (3, 60, 5)).astype(np.int16),
        np.full((3, 60, 5), -32768, np.int16),
    ]
    for x in kinds:
        for node, (accumulator, total) in brute_force(q.graph, [x]).items():
            assert accumulator <= proofs[node].accumulator <= INT32_MAX
            assert total <= proofs[node].total <= INT32_MAX


def matrix(q: np.ndarray, x: str, m: int, s: int, bias: int = 0) -> Graph:
    g = Graph("g")
    rows, k = q.shape
    v = g.add_input("x", Type((k,), x, 1.0))
    w = g.add_const("w", q, Type(q.shape, f"i{q.dtype.itemsize * 8}", (1.0,) * rows))
    b = g.add_const("b", np.full(rows, bias), Type((rows,), "i32", 1.0))
    t = [Type((rows,), "i32", 1.0)]
    ms = [np.full(rows, m, np.int32)]
    g.outputs = [g.add_node("linear", [v, w, b], name="dense", types=t, m=ms, s=[s])]
    return g


def test_the_proof_is_tight() -> None:
    q = np.full((2, 515), 127, np.int8)
    q[1] = -127
    g = matrix(q, "i16", 1 << 30, 31, bias=-7)
    (p,) = prove(g)
    assert p.accumulator == 515 * 127 * 32768 <= INT32_MAX
    worst = brute_force(g, [np.full((1, 1, 515), -32768, np.int16)])["dense"]
    assert worst[0] == p.accumulator and p.total - 2 <= worst[1] <= p.total
    assert 1.0 <= p.headroom < 1.003


def test_what_could_overflow_is_refused() -> None:
    with pytest.raises(QuantiseError, match=r"node 'dense': an accumulator can reach 21\d+"):
        prove(matrix(np.full((1, 517), 127, np.int8), "i16", 1, 31))
    fits = np.full((1, 516), 127, np.int8)
    assert prove(matrix(fits, "i16", 1, 31))
    with pytest.raises(QuantiseError, match="beyond 2\\^31"):  # the sum, not the accumulator
        prove(matrix(fits, "i16", INT32_MAX, 31, bias=INT32_MAX))
    with pytest.raises(QuantiseError, match="beyond 2\\^31"):
        prove(matrix(np.full((1, 3), 32767, np.int16), "i16", 1, 31))


@pytest.mark.parametrize(("k", "weights"), [(1, 8), (1, 16), (515, 8), (600, 8), (3000, 16)])
def test_large_fan_in_costs_precision_not_overflow(k: int, weights: int) -> None:
    rng = np.random.default_rng(k)
    g = Graph("wide")
    x = g.add_input("x", Type((k,)))
    w = g.add_const("w", np.where(rng.random((2, k)) < 0.5, -1.0, 1.0))
    g.outputs = [g.add_node("linear", [x, w])]
    q = quantise(g, [rng.normal(size=(2, 9, k))], QuantOptions(weight_bits=weights))
    (p,) = q.proofs
    assert p.accumulator <= INT32_MAX and q.snr > 45.0
    (node,) = (n for n in q.graph.nodes if n.op == "linear")
    row = np.concatenate([q.graph.consts[v][0] for v in node.inputs[1::2]])
    rng_x = -32768 * np.sign(row).astype(np.int64)
    worst = np.clip(rng_x, -32768, 32767).astype(np.int16)[None, None]
    assert brute_force(q.graph, [worst])["linear"][0] <= p.accumulator


# -- ranges ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 1000))
def test_stats_see_everything_and_keep_an_even_sample(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=n) for n in sizes]
    stats = Stats()
    for p in parts:
        stats.add(p)
    everything = np.concatenate(parts)
    assert (stats.lo, stats.hi) == (everything.min(), everything.max())
    assert stats.count == everything.size and stats.top == np.abs(everything).max()
    assert np.array_equal(stats.sample, np.abs(everything))


def test_a_long_sample_is_thinned_evenly() -> None:
    stats = Stats()
    for part in np.split(np.arange(300_000.0), 3000):
        stats.add(part)
    stride = np.diff(stats.sample)
    assert stats.sample.size <= 1 << 16 and stats.count == 300_000
    assert np.all(stride == stride[0]) and stats.sample[0] == 0.0


def test_clips_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    stats = {k: Stats() for k in ("uniform", "tail", "half zero")}
    stats["uniform"].add(rng.uniform(-1, 1, 20_000))
    stats["tail"].add(np.append(rng.normal(size=20_000), 60.0))
    stats["half zero"].add(np.maximum(rng.normal(size=20_000), 0.0))
    for method in ("percentile", "mse", "entropy"):
        assert clip_range(stats["uniform"], method) > 0.97  # nothing to gain by clipping
        assert clip_range(stats["half zero"], method) > 2.9  # the zeros must not count
    assert clip_range(stats["tail"], "percentile") < 20.0
    assert clip_range(stats["tail"], "mse") < 60.0
    assert clip_range(stats["tail"], "entropy") < 60.0
    assert clip_range(stats["tail"], "minmax") == 60.0
    assert clip_range(Stats(), "mse") == 1.0
