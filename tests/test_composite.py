"""What exporters take apart is put together again, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeseq.ir import Graph, Time, Type, check, run
from edgeseq.passes import to_step
from edgeseq.passes.composite import fuse_composites

N = 6


class Parts:
    """The arithmetic of a layer normalisation of x, [N] or [rows, N]."""

    def __init__(
        self, rows: int = 0, *, whole_mean: bool = False, mean_of: float = 1.0 / N
    ) -> None:
        self.g = Graph("parts")
        self.shape = (rows, N) if rows else (N,)
        self.x = self.g.add_input("x", Type(self.shape, time=Time()))
        self.w = np.full((N if whole_mean else 1, N), mean_of)

    def const(self, value: float | np.ndarray) -> str:
        return self.g.add_const("c", np.atleast_1d(np.asarray(value)))

    def spread(self, x: str) -> str:
        """[rows, 1] as [rows, N]; a single row broadcasts by itself."""
        if len(self.shape) == 1 or self.g.types[x].shape[-1] == N:
            return x
        return self.g.add_node("strided", [x], shape=self.shape, strides=(1, 0), offset=0)

    def mean(self, x: str) -> str:
        return self.g.add_node("linear", [x, self.g.add_const("w", self.w)])

    def op(self, op: str, a: str, b: str) -> str:
        return self.g.add_node(op, [a, b])

    def centred(self) -> str:
        return self.op("sub", self.x, self.spread(self.mean(self.x)))

    def scale(self, centred: str, *, one: bool = True, eps: float = 1e-3) -> str:
        """1 / sqrt(variance + eps), by one function or two."""
        v = self.op("add", self.mean(self.op("mul", centred, centred)), self.const(eps))
        if one:
            return self.g.add_node("wide", [v], fn="rsqrt")
        root = self.spread(self.g.add_node("wide", [v], fn="sqrt"))
        return self.g.add_node("wide", [root], fn="reciprocal")

    def done(self, y: str) -> tuple[Graph, list[str]]:
        """The Graph, and the operations left of it; it computes the same."""
        self.g.outputs = [y]
        check(self.g)
        out = fuse_composites(self.g)
        check(out, after="fuse-norm")
        x = np.random.default_rng(0).normal(size=(2, 3, *self.shape)) * 3.0 + 1.0
        assert np.allclose(run(out, x)[0], run(self.g, x)[0], rtol=1e-5, atol=1e-5)
        return out, [n.op for n in out.nodes]


GAIN, BIAS = np.linspace(0.5, 1.5, N), np.linspace(-1, 1, N)


@pytest.mark.parametrize("rows", [0, 1, 3, N])
@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("whole_mean", [True, False])
def test_a_layer_normalisation_is_recognised(rows: int, one: bool, whole_mean: bool) -> None:
    p = Parts(rows, whole_mean=whole_mean)
    d = p.centred()
    y = p.op("mul", p.spread(p.scale(d, one=one)), d)
    out, left = p.done(y)
    assert left == ["norm"]
    assert out.nodes[0].inputs[0] == p.x
    assert out.nodes[0].attrs["eps"] == pytest.approx(1e-3)


def test_gain_and_bias_are_taken_in() -> None:
    p = Parts()
    d = p.centred()
    y = p.op("mul", p.op("mul", p.scale(d), p.const(GAIN)), d)
    y = p.op("add", p.op("mul", y, p.const(2.0)), p.const(BIAS))
    p.done(y)
    step = to_step(p.g)
    assert [n.op for n in step.nodes] == ["norm"]
    gain, bias = (step.consts[v] for v in step.nodes[0].inputs[1:])
    assert np.allclose(gain, 2 * GAIN) and np.allclose(bias, BIAS)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("flipped", [True, False])
def test_the_expanded_form_is_recognised(rows: int, flipped: bool) -> None:
    """TensorFlow: x * (r * gain) + (bias - mean * (r * gain))."""
    p = Parts(rows)
    mean = p.spread(p.mean(p.x))
    d = p.op("sub", mean, p.x) if flipped else p.op("sub", p.x, mean)
    r = p.op("mul", p.spread(p.scale(d)), p.const(GAIN))
    shift = p.op("sub", p.const(BIAS), p.op("mul", mean, r)) if not rows else p.op(
        "add", p.op("mul", p.op("mul", mean, r), p.const(-1.0)), p.const(BIAS)
    )  # fmt: skip
    out, left = p.done(p.op("add", p.op("mul", p.x, r), shift))
    assert left == ["norm"]
    gain, bias = (out.consts[v] for v in out.nodes[0].inputs[1:])
    assert np.allclose(gain, GAIN) and np.allclose(bias, BIAS)


def test_eps_may_be_in_the_mean() -> None:
    p = Parts()
    d = p.centred()
    v = p.g.add_node("linear", [p.op("mul", d, d), p.g.add_const("w", p.w), p.const(1e-2)])
    _, left = p.done(p.op("mul", d, p.g.add_node("wide", [v], fn="rsqrt")))
    assert left == ["norm"]


def _other_eps(p: Parts) -> str:
    d = p.centred()
    r = p.op("mul", p.const(GAIN), p.scale(d))
    other = p.op("mul", p.const(GAIN), p.scale(d, eps=2e-3))
    return p.op("sub", p.op("mul", p.x, r), p.op("mul", p.mean(p.x), other))


def _own_scale(p: Parts) -> str:
    d = p.centred()
    y = p.g.add_node("lut", [d], fn="tanh")
    return p.op("mul", d, p.scale(p.op("sub", y, p.mean(y))))


@pytest.mark.parametrize("build", [
    lambda p: p.op("mul", p.x, p.scale(p.centred())),
    lambda p: p.op("mul", p.op("sub", p.mean(p.x), p.x), p.scale(p.centred())),
    lambda p: p.op("mul", p.centred(), p.op("mul", p.scale(p.centred()), p.scale(p.centred()))),
    _other_eps,
    _own_scale,
])  # fmt: skip
def test_what_only_looks_like_one_stays(build: Callable[[Parts], str]) -> None:
    p = Parts()
    _, left = p.done(build(p))
    assert "norm" not in left


def test_a_weighted_mean_is_none() -> None:
    p = Parts(mean_of=0.5 / N)
    d = p.centred()
    assert "norm" not in p.done(p.op("mul", d, p.scale(d)))[1]


def test_a_mean_along_rows_is_none() -> None:
    """Of a square frame: the mean of row j may not be taken for that of column j."""
    p = Parts(N)
    mean = p.g.add_node("strided", [p.mean(p.x)], shape=(N, N), strides=(0, 1), offset=0)
    d = p.op("sub", p.x, mean)
    assert "norm" not in p.done(p.op("mul", d, p.spread(p.scale(d))))[1]


@pytest.mark.parametrize(("gate", "whole"), [("sigmoid", "silu"), ("hard_sigmoid", "hard_swish")])
def test_a_gate_on_itself_is_one_function(gate: str, whole: str) -> None:
    p = Parts()
    out, left = p.done(p.op("mul", p.g.add_node("lut", [p.x], fn=gate), p.x))
    assert left == ["lut"] and out.nodes[0].attrs["fn"] == whole


def test_a_gate_that_others_read_stays() -> None:
    p = Parts()
    gate = p.g.add_node("lut", [p.x], fn="sigmoid")
    assert p.done(p.op("add", p.op("mul", gate, p.x), gate))[1] == ["lut", "mul", "add"]
    p = Parts()
    other = p.g.add_node("lut", [p.x], fn="tanh")
    assert p.done(p.op("mul", p.g.add_node("lut", [other], fn="sigmoid"), p.x))[1][-1] == "mul"


def test_bodies_are_searched_too() -> None:
    p = Parts()
    body = Graph("body")
    x = body.add_input("x", Type((N,)))
    h = body.add_state("h", Type((N,)))
    y = body.add_node("mul", [x, body.add_node("lut", [x], fn="sigmoid")])
    z = body.add_node("add", [y, h])
    body.set_state(h, z)
    body.outputs = [z]
    out, _ = p.done(p.g.add_node("scan", [p.x], body=body, reverse=False))
    assert [n.op for n in out.nodes[0].attrs["body"].nodes] == ["lut", "add"]
