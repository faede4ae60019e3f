"""Kernels of views, windows, attention and loops compute what the interpreter defines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_models import frames, table, typed
from kernel_nets import NETS, Net, attention, dilated
from kernel_values import random_values
from test_emulate import KINDS, TARGETS, exact_on
from test_kernels import exact_here

from edgeseq import fixed
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.ir.types import Type
from edgeseq.kernels import HostStep, compile_step
from edgeseq.target import load_target


@pytest.mark.parametrize("name", NETS)
def test_networks_are_exact(name: str) -> None:
    exact_here(NETS[name](), steps=20)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([6, 12, 24]))
def test_random_steps_of_all_operations_are_exact(seed: int, nodes: int) -> None:
    exact_here(random_values(seed, nodes))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 400, 40))
def test_many_random_steps_of_all_operations_are_exact(first: int) -> None:
    for seed in range(first, first + 40):
        exact_here(random_values(seed, 16))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETS)
def test_networks_are_exact_on_every_cpu(kind: str, name: str) -> None:
    exact_on(NETS[name](), TARGETS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_random_steps_of_all_operations_are_exact_on_every_cpu(kind: str) -> None:
    for seed in (5, 9, 20):
        exact_on(random_values(seed), TARGETS[kind], steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3000, 3012))
def test_many_random_steps_of_all_operations_are_exact_on_every_cpu(kind: str, seed: int) -> None:
    exact_on(random_values(seed), TARGETS[kind], steps=3)


# -- arithmetic ----------------------------------------------------------------------------------


def every(dtype: str, count: int = 4096) -> np.ndarray:
    """Values over the whole of a type: all powers of two and their neighbours, and random ones."""
    lo, hi = fixed.INT_RANGE[dtype]
    r = np.random.default_rng(1)
    powers = np.array([s * 2**k + d for k in range(32) for s in (1, -1) for d in (-1, 0, 1)])
    scaled = r.integers(lo, hi + 1, count) >> r.integers(0, 31, count)
    return np.unique(np.clip(np.concatenate([powers, scaled]), lo, hi)).astype(
        dtype.replace("i", "int")
    )


@pytest.mark.parametrize("fn", ["sqrt", "rsqrt", "reciprocal", "log"])
@pytest.mark.parametrize("dtype", ["i8", "i16", "i32"])
def test_wide_functions_are_exact_over_the_whole_range(fn: str, dtype: str) -> None:
    x = every(dtype)
    shifts = {"sqrt": (15, 40, 62), "rsqrt": (0, 30, 47), "reciprocal": (0, 15, 32),
              "log": (0, 30, 62)}[fn]  # fmt: skip
    g = Graph("wide")
    name = g.add_input("x", typed(x.size, dtype))
    nodes = g.add_const("t", fixed.wide_table(fn), typed(193, "i32"))
    for s in shifts:
        for m in (1, -3, 12345678, -(2**31), 2**31 - 1):
            for b in (0,) if fn == "reciprocal" else (0, -77):
                attrs = {"fn": fn, "m": m, "s": s, "b": b}
                t = typed(x.size, "i32")
                g.outputs.append(g.add_node("wide", [name, nodes], types=[t], **attrs))
    with np.errstate(over="ignore"):
        want = Interpreter(g)(x[None])
    for a, b in zip(HostStep(g)(x[None]), want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [1, 2, 7, 64, 300])
def test_softmax_is_exact_for_few_and_many_elements(n: int) -> None:
    r = np.random.default_rng(n)
    x = np.stack([
        np.zeros(n), np.full(n, -32768), np.arange(n) * 100 - 32768, r.integers(-32768, 32768, n),
        np.where(np.arange(n) == n // 2, 32767, -32768), r.integers(-30, 30, n),
    ]).astype(np.int16)  # fmt: skip
    g = Graph("softmax")
    name = g.add_input("x", typed((6, n), "i16"))
    for nodes, k in ((table("exp", -16, 0), 6), (np.array([0, 1, 16384]), 9),
                     (np.array([0, 16384]), 0)):  # fmt: skip
        t = g.add_const("t", nodes, Type((nodes.size,), "i16", 2.0**-15))
        lo = -((nodes.size - 1) << k)
        out = Type((6, n), "i16", 2.0**-15)
        g.outputs.append(g.add_node("softmax", [name, t], types=[out], m=1, s=0, lo=lo, k=k))
    with np.errstate(divide="ignore"):
        want = Interpreter(g)(x[None])
    for a, b in zip(HostStep(g)(x[None]), want, strict=True):
        np.testing.assert_array_equal(a, b)
    compiled = compile_step(g, load_target("cortex-m0plus"), "net")
    from edgeseq.emulate import Emulator

    for a, b in zip(Emulator(compiled).step(x), want, strict=True):
        np.testing.assert_array_equal(a, b[0])


@pytest.mark.parametrize("k", [1, 2, 7, 8, 16, 19, 40])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("dtypes", [("i16", "i16"), ("i8", "i16"), ("i16", "i8"), ("i8", "i8")])
def test_products_are_exact_at_the_ends_of_the_range(
    k: int, across: bool, dtypes: tuple[str, str]
) -> None:
    """-2^15 times -2^15, over and over: where pairs of products exceed 32 bits."""
    g = Graph("product")
    a = g.add_input("a", typed((3, k), dtypes[0]))
    b = g.add_input("b", typed((k, 9) if across else (9, k), dtypes[1]))
    right = b
    if across:
        right = g.add_node("strided", [b], types=[typed((9, k), dtypes[1])],
                           shape=(9, k), strides=(1, 9), offset=0)  # fmt: skip
    for m, s in ((1, 0), (32767, 40), (-32767, 47), (3, 9)):
        t = typed((3, 9), "i32")
        g.outputs.append(g.add_node("matmul", [a, right], types=[t], m=m, s=s))
    r = np.random.default_rng(k)
    lows = [fixed.INT_RANGE[t][0] for t in dtypes]
    kinds = [np.int8 if t == "i8" else np.int16 for t in dtypes]
    inputs = [
        np.where(r.random(g.types[v].shape) < 0.8, low, -low - 1).astype(kind)[None]
        for v, low, kind in zip(("a", "b"), lows, kinds, strict=True)
    ]
    for got, want in zip(HostStep(g)(*inputs), Interpreter(g)(*inputs), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["cortex-m0plus", "cortex-m4", "riscv32", "rpi"])
def test_products_are_exact_on_small_cores(name: str) -> None:
    g = Graph("product")
    a, b = g.add_input("a", typed((2, 12), "i16")), g.add_input("b", typed((12, 6), "i16"))
    across = g.add_node("strided", [b], types=[typed((6, 12), "i16")],
                        shape=(6, 12), strides=(1, 6), offset=0)  # fmt: skip
    m = {"m": 3, "s": 9}
    c = g.add_node("matmul", [a, across], types=[typed((2, 6), "i32")], **m)
    g.outputs = [c, g.add_node("matmul", [a, a], types=[typed((2, 2), "i32")], **m)]
    exact_on(g, load_target(name))


@pytest.mark.parametrize("rows", [1, 5, 8, 13, 16, 17, 40])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("w", ["i8", "i16"])
def test_matrices_are_exact_at_the_ends_of_the_range(rows: int, count: int, w: str) -> None:
    """Weights of -128 and operands of -2^15, for every number of frames side by side."""
    r = np.random.default_rng(rows)
    g = Graph("ends")
    x = g.add_input("x", typed((count, 11), "i16"))
    low = -128 if w == "i8" else -5000
    array = np.where(r.random((rows, 11)) < 0.6, low, r.integers(low, -low, (rows, 11)))
    name = g.add_const("w", array, typed((rows, 11), w))
    m = [r.integers(-(2**20), 2**20, rows).astype(np.int32)]
    g.outputs = [
        g.add_node("linear", [x, name], types=[typed((count, rows), t)], m=m, s=[20])
        for t in ("i8", "i16", "i32")
    ]
    values = np.where(r.random((1, count, 11)) < 0.6, -(2**15), r.integers(0, 2**15, 11))
    for got, want in zip(
        HostStep(g)(values.astype(np.int16)), Interpreter(g)(values.astype(np.int16)), strict=True
    ):
        np.testing.assert_array_equal(got, want)


# -- moves and memory ----------------------------------------------------------------------------


def kernels_of(graph: Graph, target: str = "cortex-m4") -> list[tuple[str, ...]]:
    """Nodes that the calls of a step compute."""
    return [c.nodes for c in compile_step(graph, load_target(target), "net").costs]


@pytest.mark.parametrize("target", ["cortex-m4", "linux-x86-64"])
def test_convolutions_read_their_windows_in_place(target: str) -> None:
    """Overlapping rows of a value are no copy: one call for all frames."""
    net = Net("conv")
    x = net.g.add_input("x", typed((10, 8), "i16"))
    start = net.linear([x], 8)
    net.g.outputs = [net.linear([net.view(start, (8, 24), (8, 1))], 8)]
    exact_here(net.g)
    # Of x, whose frames a core may not read in words, a copy; of the windows none.
    compiled = compile_step(net.g, load_target(target), "net")
    copied = 10 * 8 * 2 if target == "cortex-m4" else 0
    assert compiled.scratch_bytes <= 10 * 8 * 2 + copied + 16
    assert [c.macs for c in compiled.costs if c.macs][-1] == 8 * 24 * 8


def test_a_window_costs_a_shift_and_nothing_else() -> None:
    """New frames are computed in the state's own memory, and read there."""
    net = Net("window")
    x = net.g.add_input("x", typed(8, "i16"))
    seen = net.window(net.linear([x], 8), 4)
    net.g.outputs = [net.linear([seen], 8)]
    exact_here(net.g, steps=9)
    calls = kernels_of(net.g, "linux-x86-64")
    assert calls == [("linear",), ("linear.2",), ("past",)]
    compiled = compile_step(net.g, load_target("linux-x86-64"), "net")
    assert compiled.state_bytes == 5 * 8 * 2 and compiled.scratch_bytes <= 32


def test_deep_windows_share_scratch_on_small_cores() -> None:
    """Slots do not grow by their new frames where scratch can be used again."""
    compiled = compile_step(dilated(layers=6), load_target("cortex-m4"), "net")
    whole = sum(s.nbytes for s in compiled.states)
    most = max(s.nbytes for s in compiled.states)
    assert compiled.state_bytes + compiled.scratch_bytes < 1.25 * whole + 2 * most
    exact_here(dilated(layers=6), steps=70)


@pytest.mark.parametrize("target", ["cortex-m4", "linux-x86-64"])
def test_attention_copies_neither_keys_nor_values(target: str) -> None:
    compiled = compile_step(attention(64, 64, 4), load_target(target), "net")
    assert compiled.scratch_bytes < 2048
    assert compiled.macs == 4 * 64 * 64 + 2 * 64 * 64
    assert compiled.state_bytes == 2 * 64 * 64 * 2


def test_states_given_and_returned_by_a_loop_are_exact_when_nothing_reads_them() -> None:
    """A body's state that no output depends on still has a value after the loop."""
    body = Graph("body")
    x = body.add_input("x", typed(3, "i16"))
    idle = body.add_state("idle", typed(3, "i16"))
    seen = body.add_state("seen", typed(3, "i16"))
    body.set_state(idle, body.add_node("max", [x, seen], types=[typed(3, "i16")]))
    body.set_state(seen, x)
    body.outputs = [x]
    g = Graph("loop")
    xs = g.add_input("xs", typed((5, 3), "i16"))
    a, b = g.add_input("a", typed(3, "i16")), g.add_input("b", typed(3, "i16"))
    types = [typed((5, 3), "i16"), typed(3, "i16"), typed(3, "i16")]
    g.add_node("scan", [xs, a, b], types=types, body=body, reverse=True)
    g.outputs = [*g.nodes[0].outputs]
    exact_here(g)


def test_a_large_initial_state_of_zeros_takes_no_flash() -> None:
    net = Net("zeros")
    x = net.g.add_input("x", typed(8, "i16"))
    seen = net.window(x, 500)
    ones = net.g.add_state("ones", typed(3, "i16"), np.ones(3))
    net.g.set_state(ones, ones)
    net.g.outputs = [net.part(seen, 0, 8), ones]
    compiled = compile_step(net.g, load_target("cortex-m4"), "net")
    assert compiled.sizes["constants"] <= 16
    exact_here(net.g)


@pytest.mark.parametrize("reverse", [False, True])
def test_states_that_shift_into_each_other(reverse: bool) -> None:
    """Windows whose copies depend on one another, in either direction."""
    g = Graph("chain")
    t = typed(6, "i16")
    x = g.add_input("x", typed(2, "i16"))
    a, b = (g.add_state(n, t, np.arange(6)) for n in "ab")
    parts = [x, a] if reverse else [a, x]
    seen = g.add_node("concat", parts, types=[typed(8, "i16")])
    start = 0 if reverse else 2
    keep = g.add_node("slice", [seen], types=[t], start=start, stop=start + 6)
    other = g.add_node("slice", [seen], types=[t], start=2 - start, stop=8 - start)
    turned = g.add_node("strided", [b], types=[t], shape=(6,), strides=(-1,), offset=5)
    g.set_state(a, keep)
    g.set_state(b, other)
    g.outputs = [seen, turned, b, a]
    exact_here(g, steps=9)


def test_a_deep_model_compiles_in_seconds() -> None:
    import time

    graph = random_values(77, 600)
    HostStep(random_values(1, 4))  # what is loaded once
    start = time.process_time()
    HostStep(graph)
    assert time.process_time() - start < 12
    x = frames(graph, 1, 2)
    for a, b in zip(HostStep(graph).run(*x), Interpreter(graph).sequence(*x), strict=True):
        np.testing.assert_array_equal(a, b)
