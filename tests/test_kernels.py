"""Kernels compute what the interpreter defines: on this machine, bit for bit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_models import frames, gru, random_step, typed

from edgeseq.errors import BackendError, UnsupportedError, UsageError
from edgeseq.ir.check import check
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.kernels import HostStep, compile_step
from edgeseq.kernels.memory import Buffer, place
from edgeseq.target import load_target

BATCH = 2


def exact_here(graph: Graph, steps: int = 6) -> None:
    check(graph)
    x = frames(graph, BATCH, steps)
    interpreter = Interpreter(graph, batch=BATCH)
    want = interpreter.sequence(*x)
    host = HostStep(graph, batch=BATCH)
    got = host.run(*x)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, value in host.state.items():
        np.testing.assert_array_equal(value, interpreter.state[name])


@pytest.mark.parametrize("seed", range(12))
def test_random_steps_are_exact(seed: int) -> None:
    exact_here(random_step(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1040))
def test_many_random_steps_are_exact(seed: int) -> None:
    exact_here(random_step(seed))


@pytest.mark.parametrize("sizes", [(5, 8, 3), (40, 64, 12), (1, 1, 1), (6, 17, 7)])
@pytest.mark.parametrize("w", ["i8", "i16"])
def test_gru_is_exact(sizes: tuple[int, int, int], w: str) -> None:
    exact_here(gru(*sizes, w=w), steps=20)


def test_frames_one_by_one_equal_many_at_once() -> None:
    graph = gru()
    x = frames(graph, 1, 30)[0]
    many, single = HostStep(graph), HostStep(graph)
    whole = many.run(x)[0]
    parts = [single(x[:, t])[0] for t in range(30)]
    np.testing.assert_array_equal(whole, np.stack(parts, axis=1))


def test_state_is_read_written_and_reset() -> None:
    graph = gru()
    x = frames(graph, 1, 20)[0]
    host = HostStep(graph)
    before = host.state
    np.testing.assert_array_equal(before["h"][0], graph.states[0].init)
    host.run(x[:, :10])
    middle = host.state
    rest = host.run(x[:, 10:])[0]
    host.state = middle
    np.testing.assert_array_equal(host.run(x[:, 10:])[0], rest)
    host.reset()
    np.testing.assert_array_equal(host.state["h"], before["h"])


def test_wrong_input_is_named() -> None:
    host = HostStep(gru())
    with pytest.raises(UsageError, match="input 'x'"):
        host.run(np.zeros((1, 4, 5), np.int32))
    with pytest.raises(UsageError, match="needs 1"):
        host.run()
    with pytest.raises(UsageError, match="state 'h'"):
        host.state = {"h": np.zeros((1, 3), np.int32)}


def test_states_may_swap_and_delay() -> None:
    """A delay line of three and a pair of states that change places."""
    g = Graph("delays")
    t = typed(6, "i16")
    x = g.add_input("x", t)
    lines = [g.add_state(f"d{i}", t, np.arange(6) + i) for i in range(3)]
    a, b = g.add_state("a", t, np.arange(6)), g.add_state("b", t, -np.arange(6))
    for line, new in zip(lines, [x, lines[0], lines[1]], strict=True):
        g.set_state(line, new)
    g.set_state(a, b)
    g.set_state(b, a)
    y = g.add_node("add", [lines[2], a], types=[t], ma=1, mb=1, s=0)
    g.outputs = [y, lines[2], x, b]
    exact_here(g, steps=9)


def test_scratch_is_reused() -> None:
    """A chain of wide layers needs two buffers, not one per layer."""
    g = Graph("chain")
    r = np.random.default_rng(0)
    value = g.add_input("x", typed(64, "i16"))
    for _ in range(6):
        w = g.add_const("w", r.integers(-99, 99, (64, 64)), typed((64, 64), "i8"))
        m = np.full(64, 1 << 24, np.int32)
        value = g.add_node("linear", [value, w], types=[typed(64, "i16")], m=[m], s=[32])
    g.outputs = [value]
    compiled = compile_step(g, load_target("cortex-m4"), "chain")
    assert compiled.scratch_bytes == 2 * 64 * 2
    exact_here(g)


def test_gates_are_one_loop() -> None:
    """Slices move in front of element-wise nodes, so a GRU cell is one loop."""
    compiled = compile_step(gru(40, 64, 12), load_target("cortex-m4"), "net")
    loops = [c for c in compiled.costs if len(c.nodes) > 1]
    assert len(loops) == 1 and len(loops[0].nodes) == 9
    assert compiled.macs == 3 * 64 * (40 + 64) + 64 * 12


def test_layout_and_sizes_are_those_of_the_object() -> None:
    compiled = compile_step(gru(), load_target("cortex-m4"), "net")
    assert compiled.symbols == ("net_reset", "net_step", "net_run")
    (h,) = compiled.states
    assert (h.name, h.offset, h.dtype, h.shape) == ("h", 0, "i32", (8,))
    assert compiled.state_bytes == 32
    assert compiled.sizes["tables"] == 2 * 2 * 514
    assert compiled.flash_bytes == sum(compiled.sizes.values())
    assert compiled.inputs[0].nbytes == 10 and compiled.outputs[0].size == 3


def test_overflow_is_refused() -> None:
    g = Graph("overflow")
    x = g.add_input("x", typed(3000, "i16"))
    w = g.add_const("w", np.full((4, 3000), 127), typed((4, 3000), "i8"))
    m = [np.ones(4, np.int32)]
    g.outputs = [g.add_node("linear", [x, w], types=[typed(4, "i32")], m=m, s=[1])]
    with pytest.raises(BackendError, match="accumulator of input 0"):
        compile_step(g, load_target("cortex-m4"), "net")


def test_unsupported_graphs_are_refused() -> None:
    g = Graph("real")
    from edgeseq.ir.types import Type

    x = g.add_input("x", Type((4,)))
    g.outputs = [g.add_node("lut", [x], fn="tanh")]
    with pytest.raises(UnsupportedError, match="integer step"):
        compile_step(g, load_target("cortex-m4"), "net")
    with pytest.raises(UsageError, match="C identifier"):
        compile_step(gru(), load_target("cortex-m4"), "my-net")


DIGEST = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from kernel_models import gru
from edgeseq.kernels import compile_step
from edgeseq.target import load_target
print(hashlib.sha256(compile_step(gru(), load_target("cortex-m4"), "net").object_bytes).hexdigest())
"""


def test_objects_are_the_same_in_every_process() -> None:
    """Whatever was compiled before, and whatever the hash seed: the same bytes."""
    code = DIGEST.format(tests=str(Path(__file__).parent))
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    compile_step(gru(7, 3, 2), load_target("cortex-m7"), "other")
    here = compile_step(gru(), load_target("cortex-m4"), "net").object_bytes
    assert hashlib.sha256(here).hexdigest() == done.stdout.strip()


def test_numba_is_imported_late() -> None:
    code = (
        "import sys, edgeseq.kernels, edgeseq.emulate; "
        "print([m for m in ('numba', 'llvmlite', 'unicorn', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 9), st.integers(0, 9)), max_size=12),
    st.sampled_from([4, 16, 64]),
)
def test_live_buffers_never_overlap(raw: list[tuple[int, int, int]], align: int) -> None:
    buffers = [Buffer(f"b{i}", n, min(a, b), max(a, b)) for i, (n, a, b) in enumerate(raw)]
    offsets, total = place(buffers, align)
    for i, a in enumerate(buffers):
        assert offsets[a.name] % align == 0
        assert offsets[a.name] + a.nbytes <= total
        for b in buffers[:i]:
            if a.meets(b):
                low, high = sorted((a, b), key=lambda c: offsets[c.name])
                assert offsets[low.name] + low.nbytes <= offsets[high.name]
    assert total <= sum(-(-b.nbytes // align) * align for b in buffers)


def test_unknown_triples_are_named() -> None:
    from edgeseq.kernels.compiled import compile_for
    from edgeseq.kernels.toolchain import Machine

    machine = Machine("nonsense-none-elf", "generic", (), ("generic",), False)
    with pytest.raises(BackendError, match="key `triple`"):
        compile_for(gru(), machine, "net")


def test_cores_without_a_multiplier_are_refused() -> None:
    """What would become a library call is an error that names the call."""
    from edgeseq.kernels.compiled import compile_for
    from edgeseq.kernels.toolchain import Machine

    machine = Machine("riscv32-unknown-none-elf", "generic-rv32", ("+c",), ("generic",), False)
    with pytest.raises(BackendError, match="undefined symbol '__mul"):
        compile_for(gru(), machine, "net")


def test_rows_of_a_matrix_share_one_call() -> None:
    """A linear layer over many rows is a loop in the code, not a call per row."""
    g = Graph("rows")
    r = np.random.default_rng(2)
    x = g.add_input("x", typed((50, 7), "i16"))
    w = g.add_const("w", r.integers(-99, 99, (5, 7)), typed((5, 7), "i8"))
    m = [np.full(5, 1 << 27, np.int32)]
    g.outputs = [g.add_node("linear", [x, w], types=[typed((50, 5), "i16")], m=m, s=[32])]
    exact_here(g)
    assert compile_step(g, load_target("cortex-m4"), "rows").sizes["code"] < 600


def test_attributes_never_become_code() -> None:
    """Kernels are generated source: an attribute that is not a number must not get there."""
    from edgeseq.errors import GraphError

    g = gru()
    next(n for n in g.nodes if n.op == "rescale").attrs["m"] = "__import__('os').getpid()"
    with pytest.raises(GraphError, match="not a whole number"):
        compile_step(g, load_target("cortex-m4"), "net")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cpu": "cortex-m44"}, "is not a recognized processor"),
        ({"features": ("+warp",)}, "is not a recognized feature"),
        ({"cpu": "cortex-m3"}, "has no DSP instructions"),
        ({"features": ("-dsp",)}, "has no DSP instructions"),
    ],
)
def test_what_llvm_would_ignore_is_an_error(change: dict[str, object], message: str) -> None:
    target = replace(load_target("cortex-m4"), **change)
    with pytest.raises(BackendError, match=message):
        compile_step(gru(3, 4), target, "odd")
