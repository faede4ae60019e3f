"""Machine code on emulated CPUs: exact, counted, and kept inside its memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from kernel_models import frames, gru, random_step, typed

from edgeseq.emulate import CPUS, Emulator
from edgeseq.errors import EmulationError, UsageError
from edgeseq.ir.graph import Graph
from edgeseq.ir.interp import Interpreter
from edgeseq.kernels import CompiledStep, compile_step
from edgeseq.kernels.elf import inspect_object
from edgeseq.target import Target, list_targets, load_target

TARGETS = {t.name: t for t in list_targets()}
#: One target per kind of machine code, and those of them that are emulated.
ALL_KINDS = sorted({(t.triple, t.cpu, t.features, t.isa): n for n, t in TARGETS.items()}.values())
KINDS = [n for n in ALL_KINDS if TARGETS[n].emulator]


def exact_on(graph: Graph, target: Target, steps: int = 5) -> None:
    x = frames(graph, 1, steps)
    interpreter = Interpreter(graph)
    want = interpreter.sequence(*x)
    emulator = Emulator(compile_step(graph, target, "net"))
    got = emulator.sequence(*(a[0] for a in x))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b[0])
    for name, value in emulator.state.items():
        np.testing.assert_array_equal(value, interpreter.state[name][0])


@pytest.mark.parametrize("name", ALL_KINDS)
def test_objects_of_every_target_are_freestanding(name: str) -> None:
    compiled = compile_step(gru(), TARGETS[name], "net")
    facts = inspect_object(compiled.object_bytes, compiled.symbols, ("weights", "table", "const"))
    assert facts.code > 0
    assert not [s for s in facts.sections if s.startswith((".data", ".bss"))]


@pytest.mark.parametrize("name", KINDS)
def test_gru_is_exact_on_every_cpu(name: str) -> None:
    exact_on(gru(6, 9, 7), TARGETS[name], steps=12)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", [3, 32])
def test_random_steps_are_exact_on_every_cpu(name: str, seed: int) -> None:
    exact_on(random_step(seed), TARGETS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cortex-m0plus", "cortex-m4", "rpi", "riscv32"])
@pytest.mark.parametrize("seed", range(2000, 2015))
def test_many_random_steps_are_exact(name: str, seed: int) -> None:
    exact_on(random_step(seed), TARGETS[name])


@pytest.fixture(scope="module")
def compiled() -> CompiledStep:
    return compile_step(gru(), load_target("cortex-m4"), "net")


@pytest.fixture
def x(compiled: CompiledStep) -> np.ndarray:
    return np.asarray(frames(gru(), 1, 12)[0][0])


def test_run_equals_steps(compiled: CompiledStep, x: np.ndarray) -> None:
    a, b = Emulator(compiled), Emulator(compiled)
    np.testing.assert_array_equal(a.sequence(x)[0], b.run(x)[0])
    np.testing.assert_array_equal(a.state["h"], b.state["h"])


def test_reset_runs_machine_code(compiled: CompiledStep, x: np.ndarray) -> None:
    emulator = Emulator(compiled)
    first = emulator.sequence(x)[0]
    moved = emulator.state
    emulator.reset()
    np.testing.assert_array_equal(emulator.state["h"], gru().states[0].init)
    np.testing.assert_array_equal(emulator.sequence(x)[0], first)
    emulator.reset()
    emulator.state = moved
    np.testing.assert_array_equal(emulator.state["h"], moved["h"])


@pytest.mark.parametrize("name", ["cortex-m0plus", "cortex-m4", "rpi3", "riscv32"])
def test_counts_agree_with_a_hook_per_instruction(name: str) -> None:
    """Counting block lengths equals counting instructions, up to skipped ones in IT blocks."""
    import unicorn

    step = compile_step(gru(), load_target(name), "net")
    emulator = Emulator(step)
    x = frames(gru(), 1, 3)[0][0]
    measured = emulator.measure(x)
    assert measured.steps == 3
    assert measured.instructions_min <= measured.instructions <= measured.instructions_max
    seen: list[int] = []
    hooked = Emulator(step)
    hooked._machine.engine.hook_add(
        unicorn.UC_HOOK_CODE, lambda engine, address, size, data: seen.append(address)
    )
    hooked.sequence(x)
    each = len(seen) / 3
    assert each <= measured.instructions <= 1.03 * each
    assert measured.reset_instructions > 8


def test_measured_memory_is_what_the_step_was_given(compiled: CompiledStep) -> None:
    figures = Emulator(compiled).measure(frames(gru(), 1, 3)[0][0])
    assert 16 <= figures.stack_bytes <= 512
    assert figures.touched_bytes["state"] == compiled.state_bytes
    assert 0 < figures.touched_bytes["scratch"] <= compiled.scratch_bytes
    assert figures.touched_bytes["output"] == compiled.outputs[0].nbytes
    assert figures.touched_bytes["stack"] <= figures.stack_bytes
    assert figures.ram_bytes < 4096


def test_a_write_outside_its_memory_is_an_error(compiled: CompiledStep, x: np.ndarray) -> None:
    """An object told of less state than it writes is caught by the guard pattern."""
    lying = dataclasses.replace(compiled, state_bytes=compiled.state_bytes - 4, states=())
    emulator = Emulator(lying)
    with pytest.raises(EmulationError, match="beyond its state buffer"):
        emulator.sequence(x)


def test_read_only_memory_is_protected(compiled: CompiledStep, x: np.ndarray) -> None:
    """A state pointer into the constants faults instead of changing them."""
    emulator = Emulator(compiled)
    address, _ = emulator._image.segments[-1]
    emulator._machine.regions["state"] = (address, compiled.state_bytes)
    with pytest.raises(EmulationError, match="wrote to"):
        emulator.sequence(x)


def test_wrong_frames_and_cpus_are_named(compiled: CompiledStep, x: np.ndarray) -> None:
    with pytest.raises(UsageError, match="input 'x'"):
        Emulator(compiled).step(x[0].astype(np.int32))
    with pytest.raises(EmulationError, match="cortex-m4"):
        Emulator(compiled, "cortex-m5")
    host = compile_step(gru(), load_target("linux-x86-64"), "net")
    with pytest.raises(EmulationError, match="no emulated CPU"):
        Emulator(host)
    assert set(CPUS) >= {t.emulator for t in TARGETS.values() if t.emulator}


def test_gru_64_on_cortex_m4_stays_below_the_best_library() -> None:
    """40 inputs, 64 states: NNoM with CMSIS-NN takes 52 366; code and tables stay within 6 KB."""
    step = compile_step(gru(40, 64, 12), load_target("cortex-m4"), "net")
    figures = Emulator(step).measure(frames(gru(40, 64, 12), 1, 2)[0][0])
    assert figures.instructions_max < 38_000
    assert step.sizes["code"] + step.sizes["tables"] + step.sizes["constants"] <= 6 * 1024


def test_a_wide_first_layer_reads_no_more_than_its_input() -> None:
    """Operands that a kernel reads in fours are copied where the frame ends sooner."""
    g = Graph("ends")
    r = np.random.default_rng(5)
    x = g.add_input("x", typed(5, "i16"))
    w = g.add_const("w", r.integers(-99, 99, (3, 5)), typed((3, 5), "i8"))
    m = [np.full(3, 1 << 28, np.int32)]
    g.outputs = [g.add_node("linear", [x, w], types=[typed(3, "i16")], m=m, s=[32])]
    exact_on(g, load_target("cortex-m4"))
