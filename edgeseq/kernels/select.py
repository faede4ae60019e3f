"""Which kernel set a machine gets."""

from __future__ import annotations

from edgeseq.errors import BackendError
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
        if not _has_dsp(machine):
            raise BackendError(
                f"the CPU {machine.cpu!r} has no DSP instructions",
                where="target file, key `isa`",
                fix='leave "dsp" out, or name a CPU that has them, such as cortex-m4 or -m33',
            )
        return DspLinear("dsp", rows=4, columns=4, x_align=4, x_bits=16)
    if machine.avx2:
        return SimdLinear("avx2", 16, 2, 1, 16, align=32, lanes=8, small=False)
    if machine.neon:
        return SimdLinear("neon", 16, 1, 1, 16, align=16, lanes=4, small=False)
    # Armv6-M has eight registers that multiply: two rows fit, four would spill.
    rows, longest = (4, 2) if machine.has_wide_multiply else (2, 1)
    small = machine.micro
    return GenericLinear(
        "generic", rows=rows, columns=1, x_align=1, x_bits=None, longest=longest, small=small
    )


def _has_dsp(machine: Machine) -> bool:
    if "-dsp" in machine.features or machine.cpu in ("cortex-m0", "cortex-m0plus", "cortex-m3"):
        return False
    if machine.triple.startswith("thumbv7em"):
        return True
    main = machine.triple.startswith(("thumbv8m.main", "thumbv8.1m.main"))
    default = machine.cpu in ("cortex-m33", "cortex-m35p", "cortex-m55", "cortex-m85")
    return main and (default or "+dsp" in machine.features)


def alignment(machine: Machine) -> int:
    """Alignment of states and scratch buffers in bytes: a word, or a cache-friendly multiple."""
    return 4 if machine.micro else 16
