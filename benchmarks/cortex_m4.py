"""Executed instructions, code and memory of one recurrent step on emulated Cortex-M cores.

Random GRUs and LSTMs without a dense layer, 8-bit weights, 16-bit activations, 30-bit GRU states.
Machine code of the shipped kernels runs on an emulated CPU; every executed instruction of NAME_step
is counted, those whose condition fails included. Before it is counted, the outputs are compared
with the integer interpreter, bit for bit.

The peers' figures were measured on the same shapes with QEMU, counting every instruction between
two markers around one streaming step with its state carried, gcc 12.2 -O3 for Cortex-M4.
"""

from __future__ import annotations

import numpy as np

from benchmarks._figures import Figure
from benchmarks._models import Quantised, quantised
from edgeseq.emulate import Emulator, Measurement
from edgeseq.errors import VerifyError
from edgeseq.ir import Interpreter
from edgeseq.kernels import CompiledStep, compile_step
from edgeseq.kernels.elf import undefined_symbols
from edgeseq.target import load_target

__all__ = ["measure"]

_SIZES = (("gru", 40, 64), ("lstm", 40, 64), ("gru", 40, 128), ("lstm", 40, 128))
_TARGETS = ("cortex-m4", "cortex-m7", "cortex-m33", "cortex-m0plus")
_STEPS = 32

# All of them: measured with QEMU as cortex-m4, gcc -O3.
_PEERS = {
    ("gru", 40, 64): "NNoM + CMSIS kernel 52 366, RTNeural (float) 68 479, TinyMind 178 058",
    ("gru", 40, 128): "NNoM + CMSIS kernel 153 112",
    ("lstm", 40, 64): "CMSIS-NN int8 82 643",
    ("lstm", 40, 128): "CMSIS-NN int8 225 220",
}
_HEADLINE = ("gru", 40, 64)
_MOST_INSTRUCTIONS = 52_000
_MOST_CODE = 6 * 1024


def measure(quick: bool) -> list[Figure]:
    """Every size on every core; only the small ones on Cortex-M4 if `quick`.

    Raises:
        EdgeseqError: a model cannot be compiled or faults.
        VerifyError: the machine code is not bit-exact.
    """
    figures = []
    sizes = _SIZES[:2] if quick else _SIZES
    made = {size: quantised(*size) for size in sizes}
    for target in _TARGETS[:1] if quick else _TARGETS:
        for size, model in made.items():
            compiled, counted = _run(model, target)
            figures += _figures(size, target, model, compiled, counted)
    return figures


def _run(model: Quantised, target: str) -> tuple[CompiledStep, Measurement]:
    compiled = compile_step(model.graph, load_target(target), "step")
    stored = model.stored[:_STEPS]
    emulator = Emulator(compiled)
    want = Interpreter(model.graph).sequence(stored[None])[0][0]
    if not np.array_equal(emulator.sequence(stored)[0], want):
        raise VerifyError(
            "the machine code and the integer interpreter differ",
            where=f"{model.graph.name} on emulated {target}",
            fix="report this",
        )
    return compiled, emulator.measure(stored)


def _figures(
    size: tuple[str, int, int],
    target: str,
    model: Quantised,
    compiled: CompiledStep,
    counted: Measurement,
) -> list[Figure]:
    cell, inputs, hidden = size
    name = f"{cell.upper()} {inputs}/{hidden}, {target}"
    asked = target == "cortex-m4" and size == _HEADLINE
    peers = _PEERS[size] + " (QEMU, gcc -O3)" if target == "cortex-m4" else ""
    executed = Figure(
        f"{name}: instructions per step",
        counted.instructions_max,
        at_most=_MOST_INSTRUCTIONS if asked else None,
        compared=peers,
        note=f"{counted.instructions_max / compiled.macs:.2f} per MAC",
    )
    sizes = compiled.sizes
    lean = sum(v for k, v in sizes.items() if k not in ("weights", "bias", "multipliers"))
    code = Figure(
        f"{name}: code and tables",
        lean,
        "B",
        at_most=_MOST_CODE if asked else None,
        compared="NNoM GRU + CMSIS kernel 5 608 B of code" if asked else "",
        note=f"code {sizes['code']} B",
    )
    if target != "cortex-m4":
        return [executed, code]
    ram = compiled.state_bytes + compiled.scratch_bytes + counted.stack_bytes
    return [
        executed,
        code,
        Figure(
            f"{name}: multipliers and biases",
            sizes["multipliers"] + sizes["bias"],
            "B",
            note=f"weights {sizes['weights']} B, all flash {compiled.flash_bytes} B",
        ),
        Figure(
            f"{name}: RAM",
            ram,
            "B",
            compared="NNoM 2 492 B" if asked else "",
            note=f"state {compiled.state_bytes} B, scratch {compiled.scratch_bytes} B, "
            f"stack {counted.stack_bytes} B",
        ),
        Figure(
            f"{name}: rms error over signal against float",
            10 ** (-model.snr / 20),
            digits=4,
        ),
        *([_heap(name, compiled)] if asked else []),
    ]


def _heap(name: str, compiled: CompiledStep) -> Figure:
    """A heap would come from a library: from a symbol that the object does not define."""
    count = len(undefined_symbols(compiled.object_bytes))
    return Figure(f"{name}: functions it needs from elsewhere (no heap)", count, at_most=0)
