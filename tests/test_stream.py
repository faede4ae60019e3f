"""The stream pass on Graphs chosen for one thing each; `test_stream_property` has the general."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from timed_graphs import body, frames

from edgeseq.errors import GraphError, UnsupportedError
from edgeseq.ir import Graph, Interpreter, Time, Type, check, run
from edgeseq.ir.blocks import delay_in_elements
from edgeseq.ir.io import prepare
from edgeseq.passes import stream, to_step

Array = np.ndarray[Any, Any]


class Model:
    """A Graph over time on frames of [4], layer by layer."""

    def __init__(self, *inputs: str) -> None:
        self.g = Graph("model")
        self.rng = np.random.default_rng(0)
        for name in inputs or ("x",):
            self.g.add_input(name, Type((4,), time=Time()))

    def conv(self, x: str, length: int, ahead: int, cut: int = 0, stride: int = 1) -> str:
        y = self.g.add_node("window", [x], length=length, ahead=ahead, cut=cut)
        if stride > 1:
            y = self.g.add_node("decimate", [y], factor=stride)
        y = self.g.add_node("reshape", [y], shape=(length * 4,))
        w = self.rng.normal(size=(4, length * 4)) / np.sqrt(length)
        return self.g.add_node("linear", [y, self.g.add_const("w", w)])

    def gru(self, x: str) -> str:
        layer = body("gru", 4, 4)
        layer.states[0].init = np.array([0.5, 0.0, -0.5, 0.25], np.float32)
        return self.g.add_node("scan", [x], body=layer, reverse=False, name="gru")

    def done(self, *outputs: str) -> Graph:
        self.g.outputs = list(outputs)
        check(self.g)
        return self.g


def both(
    g: Graph, steps: int = 12, block: int | None = None
) -> tuple[Graph, list[Array], list[Array]]:
    """The step of `g`, what `g` gives, and what the step gives."""
    step = stream(g, block)
    check(step, after="stream")
    xs = [frames(batch=2, steps=steps, inputs=4, seed=i) for i in range(len(g.inputs))]
    return step, run(g, *xs), Interpreter(step, batch=2).sequence(*xs)


def close(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-9, atol=1e-12))


def ops(g: Graph) -> list[str]:
    return [n.op for n in g.nodes]


# -- lag -------------------------------------------------------------------------------------------


def test_look_ahead_becomes_delay() -> None:
    m = Model()
    step, (want,), (got,) = both(m.done(m.conv("x", 5, 2)))
    assert step.meta["delay"] == 2 and "frames_per_step" not in step.meta
    assert [s.init.size for s in step.states] == [16]
    assert close(got[:, 2:], want[:, :-2])
    assert not close(got, want)


def test_a_causal_convolution_has_no_delay_and_selects_nothing() -> None:
    m = Model()
    step, (want,), (got,) = both(m.done(m.conv(m.conv("x", 5, 0), 3, 0)))
    assert step.meta["delay"] == 0 and "select" not in ops(step)
    assert close(got, want)


def test_unpadded_convolutions_need_no_zeros() -> None:
    m = Model()
    y = m.conv(m.conv("x", 3, 2, cut=2), 4, 3, cut=3)
    step, (want,), (got,) = both(m.done(y))
    assert step.meta["delay"] == 5 and "select" not in ops(step)
    assert want.shape[1] == 7 and close(got[:, 5:], want)


def test_a_padded_convolution_after_another_sees_zeros_before_the_first_frame() -> None:
    m = Model()
    step, (want,), (got,) = both(m.done(m.conv(m.conv("x", 3, 1), 5, 2)))
    assert step.meta["delay"] == 3 and ops(step).count("select") == 1
    assert [s.init.size for s in step.states if s.name == "begun"] == [1]
    assert close(got[:, 3:], want[:, :-3])


@pytest.mark.parametrize("block", [1, 2, 3, 6])
def test_a_recurrence_waits_for_the_first_frame(block: int) -> None:
    m = Model()
    step, (want,), (got,) = both(m.done(m.gru(m.conv("x", 3, 1))), block=block)
    assert ("scan" in ops(step)) == (block > 1)
    assert close(got[:, 1:], want[:, :-1])


@pytest.mark.parametrize("block", [1, 2, 4])
def test_different_lags_share_one_register(block: int) -> None:
    m = Model()
    one = m.conv("x", 3, 1)
    two = m.conv(one, 5, 2)
    step, wants, gots = both(m.done(m.gru(one), m.gru(two), m.conv(two, 5, 1)), block=block)
    assert step.meta["delay"] == 4
    assert [s.init.size for s in step.states if s.name.startswith("begun")] == [3]
    for want, got in zip(wants, gots, strict=True):
        assert close(got[:, 4:], want[:, :-4])


def test_branches_of_unequal_lag_meet() -> None:
    m = Model()
    y = m.conv("x", 5, 2)
    total = m.g.add_node("add", [y, "x"])
    shift = m.g.add_const("c", np.arange(4.0))
    step, (want,), (got,) = both(m.done(m.g.add_node("add", [total, shift])))
    # One state serves the window and the delay: the window already holds the frame needed.
    assert [s.init.size for s in step.states] == [16]
    assert close(got[:, 2:], want[:, :-2])


def test_windows_of_one_value_share_its_past() -> None:
    m = Model()
    y = m.g.add_node("add", [m.conv("x", 3, 0), m.conv("x", 6, 0)])
    step, (want,), (got,) = both(m.done(y))
    assert [s.init.size for s in step.states] == [20] and close(got, want)


def test_outputs_of_one_step_belong_together() -> None:
    m = Model("x", "z")
    step, wants, gots = both(m.done(m.conv("x", 5, 2), "z", m.conv("z", 3, 1)))
    assert step.meta["delay"] == 2 and "delays" not in step.meta
    for want, got in zip(wants, gots, strict=True):
        assert close(got[:, 2:], want[:, :-2])


def test_attention_over_the_frames_that_are_there() -> None:
    """Keys of the last 4 frames; a window of ones tells which have been."""
    m = Model()
    g = m.g
    q = g.add_node("reshape", ["x"], shape=(1, 4))
    keys = g.add_node("window", ["x"], length=4, ahead=0, cut=0)
    one = g.add_node("compare", ["x", "x"], cmp="eq")
    known = g.add_node(
        "slice", [g.add_node("window", [one], length=4, ahead=0, cut=0)], start=0, stop=1
    )
    row = g.add_node("reshape", [known], shape=(1, 4))
    never = g.add_const("never", np.array([-1e4]))
    scores = g.add_node("select", [row, g.add_node("matmul", [q, keys]), never])
    turned = g.add_node("strided", [keys], shape=(4, 4), strides=(1, 4), offset=0)
    y = g.add_node("matmul", [g.add_node("softmax", [scores]), turned])
    _, (want,), (got,) = both(m.done(y))
    assert close(got, want)
    x = frames(batch=2, steps=12, inputs=4, seed=0)
    assert close(got[:, 0, 0], x[:, 0])  # the first frame attends to itself alone


# -- periods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", range(5))
def test_a_lag_shifts_the_phase_of_a_stride(lag: int) -> None:
    m = Model()
    y = m.g.add_node("decimate", [m.conv("x", lag + 1, lag)], factor=3)
    step, (want,), (got,) = both(m.done(y))
    assert step.meta["frames_per_step"] == 3 and step.meta["elements"] == {step.outputs[0]: 1}
    assert step.meta["delay"] == lag // 3 * 3
    late = lag // 3
    assert close(got[:, late:], want[:, : 4 - late])


def test_a_step_makes_a_whole_number_of_everything() -> None:
    m = Model()
    half = m.conv("x", 4, 2, stride=2)
    third = m.conv("x", 3, 1, stride=3)
    sixth = m.conv(half, 3, 1, stride=3)
    g = m.done(half, third, sixth, "x")
    step, wants, gots = both(g, steps=24)
    assert step.meta["frames_per_step"] == 6
    assert [step.types[v].shape for v in (*step.inputs, *step.outputs)] == [
        (6, 4), (3, 4), (2, 4), (4,), (6, 4)
    ]  # fmt: skip
    assert [step.frames_of(v) for v in step.outputs] == [3, 2, 1, 6]
    delay = step.meta["delay"]
    assert delay == 6  # a multiple of every period
    for v, want, got in zip(step.outputs, wants, gots, strict=True):
        late = delay_in_elements(step, v)
        assert close(got[:, late:], want[:, : got.shape[1] - late])


def test_a_recurrence_of_every_second_frame() -> None:
    m = Model()
    step, (want,), (got,) = both(m.done(m.gru(m.conv("x", 4, 2, stride=2))))
    assert "scan" not in ops(step) and step.types[step.outputs[0]].shape == (4,)
    assert close(got[:, 1:], want[:, :-1])


def test_blocks_chosen_by_the_user() -> None:
    m = Model()
    g = m.done(m.gru(m.conv("x", 4, 2, stride=2)))
    for n in (4, 6, 12):
        step, (want,), (got,) = both(g, block=n)
        assert step.meta["frames_per_step"] == n and step.types["x"].shape == (n, 4)
        assert close(got[:, 1:], want[:, :-1])
    with pytest.raises(UnsupportedError, match="cannot take 3 frames at a time") as e:
        stream(g, 3)
    assert e.value.fix == "take a multiple of 2 frames"
    assert to_step(g, frames=4).meta["frames_per_step"] == 4


def test_a_step_in_blocks() -> None:
    m = Model()
    step = stream(m.done(m.gru(m.conv("x", 3, 1)), m.g.add_node("last", ["x"])))
    blocks = stream(step, 3)
    check(blocks)
    assert blocks.meta["frames_per_step"] == 3 and blocks.meta["delay"] == 1
    x = frames(batch=1, steps=9, inputs=4)
    one, three = (Interpreter(g).sequence(x) for g in (step, blocks))
    assert close(one[0], three[0]) and close(one[1][:, 2::3], three[1])
    again = stream(blocks, 9)
    check(again)
    nine = Interpreter(again).sequence(x)
    assert close(one[0], nine[0]) and close(one[1][:, 8::9], nine[1])
    with pytest.raises(UnsupportedError, match="a step takes 3"):
        stream(blocks, 4)


def test_frames_that_fill_no_step_are_refused() -> None:
    m = Model()
    step = stream(m.done(m.conv("x", 4, 2, stride=2)))
    with pytest.raises(GraphError, match="got 5 frames, a step takes 2"):
        Interpreter(step).sequence(frames(batch=1, steps=5, inputs=4))
    x = frames(batch=1, steps=6, inputs=4)
    assert prepare(step, "x", x).shape == (1, 6, 4)  # frames, whatever a step takes


# -- the last frame --------------------------------------------------------------------------------


def test_the_last_value_of_an_unpadded_model_is_on_time() -> None:
    m = Model()
    y = m.gru(m.conv(m.conv("x", 3, 2, cut=2), 4, 3, cut=3, stride=2))
    g = m.done(y, m.g.add_node("last", [y]))
    step, (_, want), (_, got) = both(g, steps=20)
    # The sequence among the outputs lags, the answer does not.
    assert step.meta["delay"] == 4 and sorted(step.meta["delays"].values()) == [0, 4]
    assert step.meta["emission"] == dict(zip(step.outputs, ["frame", "last"], strict=True))
    assert close(got[:, -1], want)
    only = stream(m.done(g.outputs[1]))
    assert only.meta["delay"] == 0 and "delays" not in only.meta


def test_the_last_value_of_a_padded_model_is_late() -> None:
    m = Model()
    y = m.conv("x", 3, 1)
    head = m.g.add_node("lut", [m.g.add_node("last", [y])], fn="tanh")
    step, (want, whole), (got, _) = both(m.done(head, y))
    assert step.meta["delay"] == 1 and "delays" not in step.meta
    assert close(got[:, -1], np.tanh(whole[:, -2])) and not close(got[:, -1], want)


def test_what_looks_ahead_past_a_cut_is_late_too() -> None:
    m = Model()
    y = m.conv(m.conv("x", 2, 0, cut=3), 3, 1)
    step, (_, whole), (got, _) = both(m.done(m.g.add_node("last", [y]), y))
    assert step.meta["delay"] == 1 and "delays" not in step.meta
    assert close(got[:, -1], whole[:, -2])


def test_last_values_of_different_lag_belong_together() -> None:
    m = Model()
    a, b = m.conv("x", 3, 1), m.conv("x", 5, 2)
    ends = [m.g.add_node("last", [v]) for v in (a, b)]
    step, (_, u, v), (got, _, _) = both(m.done(m.g.add_node("add", ends), a, b))
    assert step.meta["delay"] == 2
    assert close(got[:, -1], u[:, -3] + v[:, -3])


# -- refused ---------------------------------------------------------------------------------------


def test_sequences_of_different_lengths_do_not_meet() -> None:
    m = Model()
    y = m.g.add_node("add", ["x", m.conv("x", 3, 2, cut=2)], name="sum")
    with pytest.raises(GraphError, match=r"node 'sum' \(add\): .*different lengths: 'x' ends 0"):
        stream(m.done(y))


def test_a_gain_that_varies_works_frame_by_frame_only() -> None:
    m = Model()
    zero = m.g.add_const("zero", np.zeros(4))
    g = m.done(m.g.add_node("norm", ["x", "x", zero], eps=0.1, name="scaled"))
    _, (want,), (got,) = both(g)
    assert close(got, want)
    with pytest.raises(UnsupportedError, match=r"node 'scaled' \(norm\): multiplies by 'x', which"):
        stream(g, 2)


@pytest.mark.parametrize("build", [
    lambda m: m.gru(m.gru("x")),
    lambda m: m.conv(m.g.add_node("norm", ["x", m.g.add_const("g", np.ones(4)),
                                           m.g.add_const("b", np.zeros(4))], eps=1e-5), 3, 0),
])  # fmt: skip
def test_what_does_not_lag_costs_nothing(build: Callable[[Model], str]) -> None:
    m = Model()
    step = stream(m.done(build(m)))
    assert step.meta["delay"] == 0 and not {"select", "strided"} & set(ops(step))
    assert not any(s.name.startswith("begun") for s in step.states)


# -- passes around it ------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [True, False])
def test_padding_is_in_the_units_the_model_pads_in(after: bool) -> None:
    """What normalises before a window may be absorbed: zeros are then normalised ones."""
    m = Model()
    gain, shift = (m.g.add_const("c", m.rng.uniform(1, 2, 4)) for _ in range(2))

    def normal(x: str) -> str:
        return m.g.add_node("mul", [m.g.add_node("sub", [x, shift]), gain])

    if after:
        y = m.g.add_node("window", ["x"], length=3, ahead=0, cut=0)
        y = m.g.add_node("reshape", [normal(y)], shape=(12,))
        y = m.g.add_node("linear", [y, m.g.add_const("w", m.rng.normal(size=(2, 12)))])
    else:
        y = m.conv(normal("x"), 3, 0)
    g = m.done(y)
    step = to_step(g)
    assert ("input_affine" in step.meta) != after
    x = frames(batch=2, steps=8, inputs=4)
    got = Interpreter(step, batch=2).sequence(prepare(step, "x", x))[0]
    assert np.allclose(got, run(g, x)[0], rtol=1e-5, atol=1e-5)


def test_thousands_of_nodes_take_seconds() -> None:
    m = Model()
    g, x = m.g, "x"
    w = g.add_const("w", np.eye(4))
    for _ in range(1500):
        x = g.add_node("add", [g.add_node("lut", [g.add_node("linear", [x, w])], fn="tanh"), x])
    step = to_step(m.done(x))
    assert len(step.nodes) == 4500


def test_delayed_outputs_keep_their_names() -> None:
    m = Model()
    ahead, now = m.conv("x", 3, 2), m.conv("x", 3, 0)
    g = m.done(ahead, now, "x")
    step = stream(g)
    assert step.outputs == [ahead, now, "x.delay"]  # an input keeps its own
    assert set(step.meta["emission"]) == set(step.outputs) and step.meta["delay"] == 2
    assert f"{now}.now" in step.types and "x" in step.inputs
