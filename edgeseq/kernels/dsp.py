"""`linear` for Arm cores with the DSP extension (Cortex-M4, M7, M33): two products per SMLAD."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseq.kernels.linear import IntArray, LinearSet, Signature, block_end, group_end

__all__ = ["DspLinear"]

#: Four columns of four rows cost about 20.5 instructions in an iteration of 16 columns and 22 in
#: one of 4 (Cortex-M4, in LLVM's assembly); longer iterations gain little and cost flash.
_MAX_UNROLL = 5


@dataclass(frozen=True)
class DspLinear(LinearSet):
    """Four rows by four columns at a time, on int16 activations.

    Weight bytes of four columns are stored 0, 2, 1, 3, so that SXTB16 yields columns 0 and 1 and
    SXTB16 ROR #8 columns 2 and 3, matching two words of activations.
    """

    def order(self, block: IntArray, columns: int) -> IntArray:
        quads = block.reshape(self.rows, -1, 4)
        if block.dtype == np.int8:
            quads = quads[:, :, [0, 2, 1, 3]]
        return quads.transpose(1, 0, 2).reshape(-1)

    def unroll(self, k: int, frames: int = 1) -> int:
        steps = self.steps(k)
        return max(u for u in range(1, _MAX_UNROLL + 1) if steps % u == 0)

    def source(self, signature: Signature, rows: int) -> str:
        parameters = "".join(f", x{g}, n{g}" for g in range(len(signature.groups)))
        lines = [f"def kernel(p, y, blocks{parameters}):", "    while blocks > 0:"]
        for g, group in enumerate(signature.groups):
            lines += [f"        a{r} = np.int32(0)" for r in range(self.rows)]
            lines += [f"        x = x{g}", f"        n = n{g}", "        while True:"]
            step = group.w_bits // 2 * self.rows  # bytes of four columns of a block
            for c in range(group.unroll):
                lines += self._columns(group.w_bits, step * c, 8 * c)
            lines += [
                f"            x = advance(x, {8 * group.unroll})",
                f"            p = advance(p, {step * group.unroll})",
            ]
            last = f"a{self.rows - 1}"
            lines += [
                f"            x = after(x, {last})",
                f"            p = after(p, {last})",
                "            n = less(n, 1)",
                "            if n == 0:",
                "                break",
            ]
            lines += group_end(self, signature, g)
        lines += block_end(self, signature)
        return "\n".join(lines)

    def _columns(self, w_bits: int, at: int, x_at: int) -> list[str]:
        """Four columns: weights at byte `at` of p, activations at byte `x_at` of x."""
        lines = [f"            u = load32(x, {x_at})", f"            v = load32(x, {x_at + 4})"]
        for r in range(0, self.rows, 2):
            if w_bits == 8:
                lines += [
                    f"            w = load32(p, {at + 4 * r})",
                    f"            z = load32(p, {at + 4 * r + 4})",
                    f"            a{r} = smlad(sxtb16(w), u, a{r})",
                    f"            a{r} = smlad(sxtb16_ror8(w), v, a{r})",
                    f"            a{r + 1} = smlad(sxtb16(z), u, a{r + 1})",
                    f"            a{r + 1} = smlad(sxtb16_ror8(z), v, a{r + 1})",
                ]
            else:
                for q in (r, r + 1):
                    lines += [
                        f"            a{q} = smlad(load32(p, {at + 8 * q}), u, a{q})",
                        f"            a{q} = smlad(load32(p, {at + 8 * q + 4}), v, a{q})",
                    ]
            # Two rows of weights in flight: a third pair would spill (14 registers in all).
            lines.append(f"            p = after(p, a{r + 1})")
        return [*lines, f"            x = after(x, a{self.rows - 1})"]
