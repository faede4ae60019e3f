"""TFLite products whose accumulator counts in coarser units than their result has.

A bias is stored in the accumulator's unit, the input's scale times the row's, and the result can
have no finer scale than the coarsest row's. Truth values (scale 1), and small differences of large
numbers, make that unit as coarse as a hundred units of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from quant_graphs import Build
from test_emit_tflite import engine  # noqa: F401 - a fixture

from edgeseq.emit.tflite import compare_tflite, emit_tflite
from edgeseq.ir import Graph, check
from edgeseq.ir.io import to_stored
from edgeseq.quant import QuantOptions, quantise

Array = npt.NDArray[Any]

N = 6
ROWS = np.array([1.0, 0.3, 0.1, 2.0])  # sizes of a matrix's rows: their units differ


class Coarse(Build):
    """A step of one input, which is compared or whose elements lie close to each other."""

    def __init__(self, near: bool) -> None:
        super().__init__("coarse", seed=1)
        self.near = near
        x = self.input("x", N)
        self.x = x if near else self("compare", x, self.const([0.5]), cmp="ge")

    def matrix(self, k: int = N) -> str:
        """[4, k]; where the input's elements are large and close, a row sums to zero."""
        w = self.rng.normal(size=(4, k)) * ROWS[:, None]
        if self.near:
            half = k // 2
            w = np.concatenate([w[:, :half], -w[:, :half], np.zeros((4, k % 2))], 1)
        return self.const(w)

    def bias(self, n: int = 4) -> str:
        return self.const(0.003 * self.rng.normal(size=n))

    def frames(self) -> list[Array]:
        """One array per input, [2, 30, ...]."""
        rng = np.random.default_rng(3)
        base = np.round(8000.0 * rng.normal(size=(2, 30, 1))).clip(-32000, 32000)
        small = rng.integers(0, 4 if self.near else 2, (2, 30, N))
        found = [base + small if self.near else small.astype(np.float64)]
        return found + [0.1 * rng.normal(size=(2, 30, 5)) for _ in self.g.inputs[1:]]


def one(b: Coarse) -> str:
    return b("linear", b.x, b.matrix(), b.bias())


def no_bias(b: Coarse) -> str:
    """The rows of finer units are rounded to the coarsest all the same."""
    return b("linear", b.x, b.matrix())


def groups(b: Coarse) -> str:
    return b("linear", b.x, b.matrix(), b.input("y", 5), b.weights(4, 5), b.bias())


def last_group(b: Coarse) -> str:
    """The bias is stored in the units of the first group: these are fine."""
    return b("linear", b.input("y", 5), b.weights(4, 5), b.x, b.matrix(), b.bias())


def depthwise(b: Coarse) -> str:
    w = b.const([[1.0, 0.3, 0.1], [-1.0, -0.3, -0.1]])
    return b("depthwise", b("reshape", b.x, shape=(2, 3)), w, b.bias(3))


def windows(b: Coarse) -> str:
    """A convolution."""
    view = b("strided", b.x, shape=(4, 3), strides=(1, 1), offset=0)
    return b("linear", view, b.matrix(3), b.bias())


def depthwise_windows(b: Coarse) -> str:
    view = b("strided", b.x, shape=(2, 2, 2), strides=(2, 2, 1), offset=0)
    return b("depthwise", view, b.const([[1.0, 0.3], [-1.0, -0.3]]), b.bias(2))


def rows(b: Coarse) -> str:
    """A product over the last of two axes, which is no convolution."""
    return b("linear", b("reshape", b.x, shape=(2, 3)), b.matrix(3), b.bias())


CASES = (one, no_bias, groups, last_group, depthwise, windows, depthwise_windows, rows)


def made(case: Callable[[Coarse], str], near: bool, bits: int = 8) -> tuple[Graph, list[Array]]:
    """The integer step of a case, and stored frames."""
    b = Coarse(near)
    g = b.done(case(b))
    check(g)
    real = b.frames()
    graph = quantise(g, real, QuantOptions(weight_bits=bits)).graph
    return graph, [to_stored(graph, n, f) for n, f in zip(graph.inputs, real, strict=True)]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("near", [False, True], ids=["truth", "near"])
@pytest.mark.parametrize("case", CASES)
def test_a_coarse_input_does_not_coarsen_the_result(
    case: Callable[[Coarse], str],
    near: bool,
    bits: int,
    engine: str,  # noqa: F811
) -> None:
    graph, frames = made(case, near, bits)
    model = emit_tflite(graph, frames=frames)
    found = compare_tflite(graph, model, *frames, engine=engine)
    assert found.lsb <= 2, found
    assert model.float_nodes == ()


@pytest.mark.parametrize("case", CASES)
def test_8_bits_are_within_their_level(
    case: Callable[[Coarse], str],
    engine: str,  # noqa: F811
) -> None:
    """Of truth values: 8 bits cannot hold small differences of large numbers at all."""
    graph, frames = made(case, near=False)
    model = emit_tflite(graph, activations="int8", frames=frames)
    assert compare_tflite(graph, model, *frames, engine=engine).lsb <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_powers_whose_logarithm_is_taken(engine: str, bits: int) -> None:  # noqa: F811
    """A matrix product reads a 32-bit value in two halves; both keep what the logarithm needs."""
    b = Build("powers", seed=2)
    x = b.input("x", 32)
    turns = 2 * np.pi * np.outer(np.arange(17), np.arange(32)) / 32
    parts = [b("linear", x, b.const(f(turns))) for f in (np.cos, np.sin)]
    power = b("add", *(b("mul", p, p) for p in parts))
    bands = b("linear", power, b.const(np.abs(b.rng.normal(size=(6, 17)))), b.const([1e-4] * 6))
    b.g.outputs = [b("wide", bands, fn="log")]
    # Loud and quiet by turns: powers over eight decades.
    sizes = 10.0 ** np.random.default_rng(5).uniform(-3.0, 1.0, (2, 60, 1))
    real = [sizes * np.random.default_rng(6).normal(size=(2, 60, 32))]
    graph = quantise(b.g, real, QuantOptions(weight_bits=bits)).graph
    frames = [to_stored(graph, "x", real[0])]
    model = emit_tflite(graph, frames=frames)
    # The products that go in are integer: their weights stay as narrow as they are.
    assert not {n.name for n in graph.nodes if n.op == "linear"} - {bands} & set(model.float_nodes)
    found = compare_tflite(graph, model, *frames, engine=engine)
    assert found.lsb < 0.01 * 2**15
