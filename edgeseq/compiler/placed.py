"""One candidate compiled for one target: size, counted work, bit-exactness of its machine code."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeseq.compiler.candidate import Candidate
from edgeseq.compiler.models import Progress
from edgeseq.emulate import Emulator, missing_emulator
from edgeseq.kernels import CompiledStep, HostStep, compile_step
from edgeseq.kernels.host import runs_here
from edgeseq.manifest import FlashUse, Instructions, Latency, Memory, RamUse, Verification
from edgeseq.target import Target, Tier
from edgeseq.verify import EXACT, compare, not_run
from edgeseq.verify.answers import by_emulator, by_host

__all__ = ["Placed", "place", "shortfall"]

_COUNTED = 32
_TIMED_FRAMES = 20_000


@dataclass
class Placed:
    """A candidate on a target.

    Attributes:
        candidate: what was compiled.
        compiled: the object.
        memory: flash and RAM.
        instructions: counted, or why not.
        latency: estimated or measured, None if neither could be.
        checks: comparisons of its machine code.
    """

    candidate: Candidate
    compiled: CompiledStep
    memory: Memory
    instructions: Instructions
    latency: Latency | None
    checks: list[Verification] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """Time of one step, estimated or measured."""
        return self.latency.seconds if self.latency is not None else None


def place(
    candidate: Candidate,
    target: Target,
    progress: Progress,
    steps: int,
    tiers: Sequence[Tier] = (),
) -> Placed:
    """Compile `candidate` for `target`, run the machine code and measure it.

    Args:
        candidate: with stored frames of real data.
        target: what to compile for.
        progress: told the stages.
        steps: how many steps of real data are compared bit for bit.
        tiers: if given and the compiled sizes fit none of them, nothing is run.

    Raises:
        BackendError, UnsupportedError: it cannot be compiled.
        EmulationError: the machine code faulted.
        VerifyError: it is not bit-exact.
    """
    name = candidate.model.name
    progress.stage(f"{name}: compiling for {target.name}")
    compiled = compile_step(candidate.integer, target, candidate.model.c_name)
    frames = [x[:, :steps] for x in candidate.stored_frames]
    against = "integer interpreter"
    checks: list[Verification] = []
    stack: int | None = None
    unfit = _memory(compiled, None, "not measured: fits no tier without a stack already")
    if tiers and all(_too_large(unfit, t) for t in tiers):
        none = Instructions(mean=None, largest=None, steps=0, method="not measured: fits no tier")
        return Placed(candidate, compiled, unfit, none, None)
    missing = None if target.emulator is None else missing_emulator()
    stage = f"kernels on emulated {target.emulator}"
    if target.emulator is not None and missing is None:
        progress.stage(f"{name}: running {steps} steps on an emulated {target.emulator}")
        emulator = Emulator(compiled)
        got = by_emulator(candidate.integer, emulator, frames)
        checks.append(compare(stage, against, EXACT, candidate.exact(steps), got))
        figures = emulator.measure(*(x[0, :_COUNTED] for x in frames))
        stack = figures.stack_bytes
        method = (
            f"deepest of {figures.steps} emulated steps, which wrote {figures.ram_bytes} distinct "
            "bytes of state, scratch and stack"
        )
        instructions = Instructions(
            mean=figures.instructions,
            largest=figures.instructions_max,
            steps=figures.steps,
            method=f"counted on an emulated {target.emulator}",
        )
    else:
        method = f"not measured: {missing or 'no emulator for this CPU'}"
        instructions = Instructions(mean=None, largest=None, steps=0, method=method)
    if missing is not None:
        checks.append(not_run(stage, against, str(EXACT), missing))
    if runs_here(target):
        got = by_host(candidate.integer, HostStep.of(compiled), frames)
        stage = "kernels on this machine"
        checks.append(compare(stage, against, EXACT, candidate.exact(steps), got))
    elif target.emulator is None:
        reason = f"no emulator for {target.cpu}, and this machine is a {platform.machine()}"
        checks.append(not_run(f"kernels on {target.name}", against, str(EXACT), reason))
    memory = _memory(compiled, stack, method)
    latency = _latency(candidate, compiled, target, instructions)
    return Placed(candidate, compiled, memory, instructions, latency, checks)


def shortfall(placed: Placed, tier: Tier) -> str | None:
    """Why `placed` does not fit `tier`, None if it does."""
    large = _too_large(placed.memory, tier)
    if large is not None:
        return large
    seconds, limit = placed.seconds, tier.latency_s
    if limit is not None and seconds is not None and seconds > limit:
        return f"takes about {seconds:.3g} s a step, the tier allows {limit:g}"
    return None


def _too_large(memory: Memory, tier: Tier) -> str | None:
    if memory.flash.total > tier.flash_bytes:
        return f"needs {memory.flash.total} bytes of flash, the tier has {tier.flash_bytes}"
    if memory.ram.total > tier.ram_bytes:
        return f"needs {memory.ram.total} bytes of RAM, the tier has {tier.ram_bytes}"
    return None


def _memory(compiled: CompiledStep, stack: int | None, method: str) -> Memory:
    sizes = compiled.sizes
    known = {k: sizes.get(k, 0) for k in ("code", "tables", "weights", "bias", "multipliers")}
    total = compiled.flash_bytes
    flash = FlashUse(**known, other=total - sum(known.values()), total=total)
    io = sum(p.nbytes for p in (*compiled.inputs, *compiled.outputs))
    ram = RamUse(
        state=compiled.state_bytes,
        scratch=compiled.scratch_bytes,
        stack=stack,
        io=io,
        total=compiled.state_bytes + compiled.scratch_bytes + (stack or 0) + io,
        stack_method=method,
    )
    return Memory(flash=flash, ram=ram)


def _latency(
    candidate: Candidate, compiled: CompiledStep, target: Target, counted: Instructions
) -> Latency | None:
    if counted.mean is not None:
        cycles = counted.mean * target.cycles_per_instruction
        return Latency(
            kind="estimate",
            cycles=cycles,
            seconds=cycles / target.clock_hz,
            model=f"{counted.mean:.0f} instructions x {target.cycles_per_instruction:g} cycles at "
            f"{target.clock_hz / 1e6:g} MHz; waits of flash and caches are not modelled",
        )
    if not runs_here(target):
        return None
    machine = HostStep.of(compiled)
    frames = candidate.stored_frames
    repeats = -(-_TIMED_FRAMES // frames[0].shape[1])
    long = [np.concatenate([x] * repeats, axis=1) for x in frames]
    machine.run(*frames)
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        machine.run(*long)
        best = min(best, time.perf_counter() - start)
    seconds = best / long[0].shape[1]
    return Latency(
        kind="measured",
        cycles=None,
        seconds=seconds,
        model=f"best of 3 runs of {long[0].shape[1]} steps in one call on the compiling machine",
    )
