"""Which kernel set a machine gets."""

from __future__ import annotations

from edgeseq.kernels.dsp import DspLinear
from edgeseq.kernels.linear import GenericLinear, LinearSet
from edgeseq.kernels.simd import SimdLinear
from edgeseq.kernels.toolchain import Machine

__all__ = ["alignment", "linear_set"]


def linear_set(machine: Machine) -> LinearSet:
    """The fastest set of matrix kernels whose instructions `machine` has.

    "dsp" is asked for by name in the target's `isa`, since LLVM's CPU names do not tell; AVX2
    and NEON follow from the CPU level of x86-64 and from AArch64 itself.
    """
    if "dsp" in machine.isa:
        return DspLinear("dsp", rows=4, columns=4, x_align=4, x_bits=16)
    if machine.avx2:
        return SimdLinear("avx2", rows=16, columns=2, x_align=1, x_bits=16, align=32)
    if machine.neon:
        return SimdLinear("neon", rows=16, columns=1, x_align=1, x_bits=16, align=16)
    # Armv6-M has eight registers that multiply: two rows fit, four would spill.
    rows, longest = (4, 2) if machine.has_wide_multiply else (2, 1)
    return GenericLinear("generic", rows=rows, columns=1, x_align=1, x_bits=None, longest=longest)


def alignment(machine: Machine) -> int:
    """Alignment of states and scratch buffers in bytes: a word, or a cache-friendly multiple."""
    return 4 if machine.micro else 16
