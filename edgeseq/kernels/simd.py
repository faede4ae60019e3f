"""`linear` for cores with SIMD registers: a lane per output row, no sums across lanes.

On x86-64 with AVX2 a step takes two columns (`VPMADDWD`), on AArch64 with NEON one (`SMLAL`).
Weights of a step are stored row by row, so that a load fills a register. The last block of rows
overlaps the one before it, so that nothing is written beyond the output. Several frames against
the same weights are computed side by side: each load of weights then serves all of them.

With one frame, AVX2 spends as long on widening weights as on products. So 8-bit weights are
stored two in 16 bits, ``256 u + (l + 128)``: u of the block's upper eight rows, l of the lower
ones. Shifted right by 8 they are u; as they are, their sum is ``256 U + L + 128 X`` with the sums
U, L of the rows and X of the operand, from which L follows. All of it is modulo 2^32, which the
sums themselves fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from edgeseq.kernels.linear import Group, IntArray, LinearSet, Signature, saturated

__all__ = ["SimdLinear"]

_LANES = 8
#: Frames side by side: accumulators of four frames fill half of the registers.
_TILE = 4


@dataclass(frozen=True)
class SimdLinear(LinearSet):
    """`rows` is 16; `columns` is 2 (AVX2) or 1 (NEON).

    Attributes:
        joined: whether 8-bit weights are stored two in 16 bits.
    """

    joined: bool = field(default=False)

    def for_frames(self, frames: int) -> LinearSet:
        return replace(self, joined=self.pairs and frames == 1)

    @property
    def pairs(self) -> bool:
        return self.columns == 2

    @property
    def tile(self) -> int:
        return _TILE

    def tiles(self, frames: int) -> list[tuple[int, int]]:
        whole, rest = divmod(frames, _TILE)
        return [(tile, times) for tile, times in ((_TILE, whole), (rest, 1)) if tile and times]

    def firsts(self, rows: int) -> list[int]:
        return [min(first, max(rows - self.rows, 0)) for first in range(0, rows, self.rows)]

    def written(self, rows: int) -> int:
        return rows

    def extra(self, rows: int, out_bits: int) -> list[int]:
        """Bytes by which the last block begins before the end of the one before it."""
        back = -rows % self.rows if rows > self.rows else 0
        return [back * out_bits // 8]

    def order(self, block: IntArray, columns: int) -> IntArray:
        steps = block.reshape(self.rows, -1, self.columns).transpose(1, 0, 2)
        if not (self.joined and block.dtype == np.int8):
            return steps.reshape(-1)
        # A column beyond the operand counts nothing, whatever is read there.
        raised = block[:_LANES].astype(np.int16)
        raised[:, :columns] += 128
        low = raised.astype(np.uint8).view(np.int8).reshape(_LANES, -1, self.columns)
        both = np.stack([low.transpose(1, 0, 2), steps[:, _LANES:]], axis=-1)
        return both.reshape(-1)

    def unroll(self, k: int, frames: int = 1) -> int:
        steps, most = self.steps(k), 8 if frames == 1 else 2
        return max(u for u in range(1, most + 1) if steps % u == 0)

    def _is_joined(self, group: Group) -> bool:
        return self.joined and group.w_bits == 8

    def source(self, signature: Signature, rows: int) -> str:
        operands = "".join(f", x{g}, n{g}" for g in range(len(signature.groups)))
        xs = [f"x{g}" for g in range(len(signature.groups))]
        lines = [f"def kernel(p, y, blocks, back{operands}):"]
        for g, group in enumerate(signature.groups):
            if self._is_joined(group):
                lines += _indented(self._start(g, group), 1)
        return "\n".join(
            [
                *lines,
                "    while blocks > 0:",
                *_indented(self._block(signature, rows, 1, "y", xs, [0] * len(xs)), 2),
                *_indented(self._next_block(signature), 2),
            ]
        )

    def _start(self, g: int, group: Group) -> list[str]:
        """Lines that set start{g} to where the sums of the lower rows start."""
        return [
            "s = np.int32(0)",
            "i = np.int32(0)",
            f"k = np.int32(mul32(n{g}, {group.unroll * self.columns}) - {group.short})",
            "while i < k:",
            f"    s = np.int32(s + load16(x{g}, np.int32(i * 2)))",
            "    i = np.int32(i + 1)",
            f"start{g} = vector_splat(mul32(s, -128))",
        ]

    def frames_source(self, signature: Signature, rows: int, tile: int, x_steps: list[int]) -> str:
        y_step = rows * signature.out_bits // 8
        count = len(signature.groups)
        operands = "".join(f", x{g}, n{g}" for g in range(count))
        body = [f"c{g}" for g in range(count)]
        return "\n".join(
            [
                f"def kernel(p, y, blocks, back, times{operands}):",
                "    while blocks > 0:",
                "        start = p",
                "        z = y",
                "        t = times",
                *(f"        c{g} = x{g}" for g in range(count)),
                "        while t > 0:",
                "            p = start",
                *_indented(self._block(signature, rows, tile, "z", body, x_steps), 3),
                f"            z = advance(z, {tile * y_step})",
                *(f"            c{g} = advance(c{g}, {tile * s})" for g, s in enumerate(x_steps)),
                "            t = less(t, 1)",
                *_indented(self._next_block(signature), 2),
            ]
        )

    def _next_block(self, signature: Signature) -> list[str]:
        width = self.rows * signature.out_bits // 8
        step = f"choose(equal(blocks, 2), np.int32({width} - back), {width})"
        return [f"y = advance(y, {step})", "blocks = less(blocks, 1)"]

    def _block(
        self, signature: Signature, rows: int, tile: int, y: str, xs: list[str], steps: list[int]
    ) -> list[str]:
        """One block of rows for `tile` frames.

        Args:
            signature, rows: of a frame.
            tile: frames side by side.
            y: pointer to the first frame's output.
            xs, steps: pointer to each operand's first frame, and bytes between frames.
        """
        vectors = range(self.rows // _LANES)
        cells = [(f, v) for f in range(tile) for v in vectors]
        lines: list[str] = []
        for g, group in enumerate(signature.groups):
            lines += self._sums(g, group, tile, xs[g], steps[g])
            half = 1 << (group.shift - 1) if group.shift else 0
            for v in vectors:
                lines.append(f"m{v} = vector_load(p, {32 * v})")
            for f, v in cells:
                value = f"vector_requantise(a{f}_{v}, m{v}, {half}, {group.shift})"
                lines.append(f"y{f}_{v} = " + (f"vector_add(y{f}_{v}, {value})" if g else value))
            lines.append(f"p = advance(p, {4 * self.rows})")
        if signature.bias:
            lines += [f"b{v} = vector_load(p, {32 * v})" for v in vectors]
            lines += [f"y{f}_{v} = vector_add(y{f}_{v}, b{v})" for f, v in cells]
            lines.append(f"p = advance(p, {4 * self.rows})")
        for f, v in cells:
            lines += self._stores(signature, rows, y, f * rows, f"y{f}_{v}", _LANES * v)
        return lines

    def _stores(
        self, signature: Signature, rows: int, y: str, before: int, value: str, first: int
    ) -> list[str]:
        """Stores of one register, rows `first` and on of a block, `before` rows after y."""
        bits, count = signature.out_bits, min(rows - first, _LANES)
        at = (before + first) * bits // 8
        if count == _LANES:
            return [f"vector_store{bits}({y}, {at}, {value})"]
        lanes = (saturated(f"vector_lane({value}, {k})", bits) for k in range(count))
        return [f"store{bits}({y}, {at + k * bits // 8}, {x})" for k, x in enumerate(lanes)]

    def _sums(self, g: int, group: Group, tile: int, x: str, step: int) -> list[str]:
        """Accumulators a{frame}_{register} of one group."""
        vectors, joined = range(self.rows // _LANES), self._is_joined(group)
        kind = "pair" if self.pairs else "lane"
        load = "load32_half" if self.pairs else "load16"
        register = _LANES * self.columns * group.w_bits // 8
        lines = [f"a{f}_{v} = vector_zero()" for f in range(tile) for v in vectors]
        if joined:
            lines.append(f"a0_0 = start{g}")
        lines += [f"x = {x}", f"n = n{g}", "while n > 0:"]
        for c in range(group.unroll):
            for f in range(tile):
                lines.append(f"    u = {load}(x, {2 * self.columns * c + f * step})")
                for v in vectors:
                    a, at = f"a{f}_{v}", register * (c * len(vectors) + v)
                    if joined:
                        w = f"{('pair_load16', 'pair_odd')[v]}(p, {2 * register * c})"
                        total = f"vector_add({a}, pair_multiply({w}, pair_splat(u)))"
                    else:
                        total = f"{kind}_madd{group.w_bits}({a}, p, {at}, u)"
                    lines.append(f"    {a} = {total}")
        lines += [
            f"    x = advance(x, {2 * self.columns * group.unroll})",
            f"    p = advance(p, {register * len(vectors) * group.unroll})",
            "    n = less(n, 1)",
        ]
        if joined:
            lines.append("a0_0 = vector_add(a0_0, vector_multiply(a0_1, vector_splat(-256)))")
        return lines


def _indented(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]
