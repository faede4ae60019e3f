"""The stream pass: step after step equals the whole sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_graphs import Whole, draw_frames, graphs

from edgeseq.ir import Graph, Interpreter, check, run
from edgeseq.ir.blocks import delay_in_elements, delay_of, per_step
from edgeseq.ir.io import prepare, store_prepared
from edgeseq.passes import stream, to_step
from edgeseq.quant import quantise

Array = np.ndarray[Any, Any]

# The same sums of float64 in another order.
EXACT = 1e-9
# Passes round constants to float32, 2^-24 of their size, and a few layers amplify that.
ROUNDED = 1e-4


def close(a: Array, b: Array, level: float = EXACT) -> bool:
    return a.shape == b.shape and (
        not a.size or float(np.abs(a - b).max()) <= level * max(1.0, float(np.abs(a).max()))
    )


def block_of(whole: Whole, draw: Any) -> tuple[Graph, int]:
    """The step of `whole` with a drawn number of frames."""
    least = int(stream(whole.graph).meta.get("frames_per_step", 1))
    times = draw(st.integers(1, 3))
    step = stream(whole.graph, None if times == 1 else times * least)
    check(step, after="stream")
    assert step.is_step and step.meta.get("frames_per_step", 1) == times * least
    return step, times * least


def expect(
    whole: Whole, step: Graph, xs: list[Array], ys: list[Array], level: float = EXACT
) -> None:
    """`ys`, which `step` gave for `xs`, are what `whole` gives."""
    g, frames = whole.graph, xs[0].shape[1]
    wants = run(g, *xs)
    meta = step.meta
    delays = meta.get("delays", dict.fromkeys(step.outputs, meta["delay"]))
    assert meta["delay"] == max(delays.values())
    for name, out, y, want in zip(g.outputs, step.outputs, ys, wants, strict=True):
        t = g.types[name].time
        if t is None:
            continue
        assert meta["emission"][out] == "frame" and delays[out] * g.tick % t.period == 0
        assert step.frames_of(out) * t.period == meta.get("frames_per_step", 1) * g.tick
        assert y.shape[1] == frames * g.tick // t.period
        lag = delay_in_elements(step, out)
        n = max(y.shape[1] - max(lag, whole.open[name]), 0)
        assert close(y[:, lag : lag + n], want[:, :n], level)
    sequences = g.copy()
    sequences.outputs = list(whole.lasts)
    block = meta.get("frames_per_step", 1)
    for i, of in enumerate(whole.lasts):
        j = len(whole.sequences) + i
        out, y = step.outputs[j], ys[j]
        assert meta["emission"][out] == "last" and y.shape[1] == frames // block
        if delays[out] == 0:
            assert close(y[:, -1], wants[j], level)
        want = run(sequences, *xs)[i]
        period = g.types[of].time.period  # type: ignore[union-attr]
        short = frames * g.tick // period - want.shape[1]
        each, late = block * g.tick // period, delays[out] * g.tick // period
        at = (np.arange(y.shape[1]) + 1) * each - 1 - short - late
        assert close(y[:, at >= 0], want[:, at[at >= 0]], level)


@settings(max_examples=150, deadline=None)
@given(st.data(), graphs())
def test_streamed_in_steps_equals_the_whole(data: st.DataObject, whole: Whole) -> None:
    step, block = block_of(whole, data.draw)
    xs = draw_frames(data.draw, whole, block)
    expect(whole, step, xs, Interpreter(step, batch=2).sequence(*xs))


def same_in_any_chunks(
    data: st.DataObject, step: Graph, xs: Sequence[np.ndarray], block: int
) -> None:
    want = Interpreter(step, batch=2).sequence(*xs)
    machine, parts, at = Interpreter(step, batch=2), [], 0
    while at < xs[0].shape[1]:
        size = block * data.draw(st.integers(1, 4))
        parts.append(machine.sequence(*(x[:, at : at + size] for x in xs)))
        at += size
    for i, y in enumerate(want):
        assert np.array_equal(np.concatenate([p[i] for p in parts], axis=1), y)


@settings(max_examples=40, deadline=None)
@given(st.data(), graphs())
def test_chunks_of_whole_steps_change_nothing(data: st.DataObject, whole: Whole) -> None:
    step, block = block_of(whole, data.draw)
    xs = draw_frames(data.draw, whole, block)
    same_in_any_chunks(data, step, xs, block)


@settings(max_examples=60, deadline=None)
@given(st.data(), graphs())
def test_no_output_depends_on_frames_that_have_not_come(data: st.DataObject, whole: Whole) -> None:
    step, block = block_of(whole, data.draw)
    xs = draw_frames(data.draw, whole, block)
    t = data.draw(st.integers(0, xs[0].shape[1] - 1))
    poisoned = [x.copy() for x in xs]
    for x in poisoned:
        x[:, t:] = 100.0
    a, b = (Interpreter(step, batch=2).sequence(*inputs) for inputs in (xs, poisoned))
    # Slot k of period p is made of frames up to the last of its period: (k + 1)*p - 1. Frames that
    # were taken apart come together again, at the end of the least step.
    interleaved = any(n.op == "interleave" for n in whole.graph.nodes)
    unit = int(stream(whole.graph).meta.get("frames_per_step", 1)) if interleaved else 1
    for name, x, y in zip(step.outputs, a, b, strict=True):
        block = step.meta.get("frames_per_step", 1)
        known = t // unit * unit * step.frames_of(name) // block
        assert np.array_equal(x[:, :known], y[:, :known])


@settings(max_examples=60, deadline=None)
@given(st.data(), graphs())
def test_all_passes_keep_what_is_computed(data: st.DataObject, whole: Whole) -> None:
    least = int(stream(whole.graph).meta.get("frames_per_step", 1))
    block = least * data.draw(st.integers(1, 2))
    step = to_step(whole.graph, frames=block)
    xs = draw_frames(data.draw, whole, block)
    prepared = [prepare(step, v, x) for v, x in zip(step.inputs, xs, strict=True)]
    expect(whole, step, xs, Interpreter(step, batch=2).sequence(*prepared), ROUNDED)


@settings(max_examples=25, deadline=None)
@given(st.data(), graphs())
def test_integer_steps_give_the_same_in_any_chunks(data: st.DataObject, whole: Whole) -> None:
    step = to_step(whole.graph)
    block = int(step.meta.get("frames_per_step", 1))
    xs = draw_frames(data.draw, whole, block)
    real = [prepare(step, v, x) for v, x in zip(step.inputs, xs, strict=True)]
    made = quantise(step, [per_step(step, v, x) for v, x in zip(step.inputs, real, strict=True)])
    integer = made.graph
    for a, b in zip(step.outputs, integer.outputs, strict=True):
        assert integer.frames_of(b) == step.frames_of(a) and delay_of(integer, b) == delay_of(
            step, a
        )
    stored = [store_prepared(integer, v, x) for v, x in zip(integer.inputs, real, strict=True)]
    same_in_any_chunks(data, integer, stored, block)


@settings(max_examples=30, deadline=None)
@given(st.data(), graphs())
def test_a_step_in_larger_blocks(data: st.DataObject, whole: Whole) -> None:
    step, block = block_of(whole, data.draw)
    times = data.draw(st.integers(1, 3))
    larger = stream(step, frames=times * block)
    check(larger, after="stream")
    xs = draw_frames(data.draw, whole, times * block)
    one, many = (Interpreter(g, batch=2).sequence(*xs) for g in (step, larger))
    for v, w, a, b in zip(step.outputs, larger.outputs, one, many, strict=True):
        last = step.meta["emission"][v] == "last"
        assert larger.meta["emission"][w] == step.meta["emission"][v]
        assert np.array_equal(a[:, times - 1 :: times] if last else a, b)
