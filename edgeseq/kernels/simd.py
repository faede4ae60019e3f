"""`linear` for cores with SIMD registers: a lane per output row, no sums across lanes.

On x86-64 with AVX2 a step takes two columns (`VPMADDWD`), on AArch64 with NEON one (`SMLAL`).
Weights of a step are stored row by row, so that a load fills a register.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeseq.kernels.linear import IntArray, LinearSet, Signature

__all__ = ["SimdLinear"]

_LANES = 8


@dataclass(frozen=True)
class SimdLinear(LinearSet):
    """`rows` is a multiple of 8; `columns` is 2 (AVX2) or 1 (NEON)."""

    def order(self, block: IntArray) -> IntArray:
        return block.reshape(self.rows, -1, self.columns).transpose(1, 0, 2).reshape(-1)

    def unroll(self, k: int) -> int:
        steps = self.steps(k)
        return max(u for u in range(1, 9) if steps % u == 0)

    def source(self, signature: Signature) -> str:
        parameters = "".join(f", x{g}, n{g}" for g in range(len(signature.groups)))
        vectors = range(self.rows // _LANES)
        kind = "pair" if self.columns == 2 else "lane"
        x_load = "load32_half" if self.columns == 2 else "load16"
        lines = [f"def kernel(p, y, blocks{parameters}):", "    while blocks > 0:"]
        for g, group in enumerate(signature.groups):
            size = group.w_bits // 8
            register = _LANES * self.columns * size
            lines += [f"        a{v} = vector_zero()" for v in vectors]
            lines += [f"        x = x{g}", f"        n = n{g}", "        while n > 0:"]
            for c in range(group.unroll):
                lines.append(f"            u = {x_load}(x, {2 * self.columns * c})")
                lines += [
                    f"            a{v} = {kind}_madd{group.w_bits}"
                    f"(a{v}, p, {register * (c * len(vectors) + v)}, u)"
                    for v in vectors
                ]
            lines += [
                f"            x = advance(x, {2 * self.columns * group.unroll})",
                f"            p = advance(p, {register * len(vectors) * group.unroll})",
                "            n = less(n, 1)",
            ]
            half = 1 << (group.shift - 1) if group.shift else 0
            for v in vectors:
                m = f"vector_load(p, {32 * v})"
                value = f"vector_requantise(a{v}, {m}, {half}, {group.shift})"
                lines.append(f"        y{v} = " + (f"vector_add(y{v}, {value})" if g else value))
            lines.append(f"        p = advance(p, {4 * self.rows})")
        if signature.bias:
            lines += [f"        y{v} = vector_add(y{v}, vector_load(p, {32 * v}))" for v in vectors]
            lines.append(f"        p = advance(p, {4 * self.rows})")
        bits = signature.out_bits
        lines += [f"        vector_store{bits}(y, {bits * v}, y{v})" for v in vectors]
        lines += [
            f"        y = advance(y, {self.rows * bits // 8})",
            "        blocks = less(blocks, 1)",
        ]
        return "\n".join(lines)
