"""The `linear` operation: kernel sets and the layouts of their weights.

Every set walks one packed stream: per block of `rows` output rows, per group the weights in the
order the inner loop reads them, then the row multipliers of that group; after the last group the
biases. One pointer runs through all of it. The inner loops are Python source made for a
`Signature` (group count, widths, shifts), compiled by Numba.

A set also says what it needs of its operands; the planner copies an operand that does not comply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Group:
    """One x_g, W_g pair.

    Attributes:
        x_bits, w_bits: widths of activations and weights.
        shift: of its requantisation.
        unroll: inner steps written out per iteration of the inner loop.
        short: columns by which the last step goes beyond the operand.
    """

    x_bits: int
    w_bits: int
    shift: int
    unroll: int = 1
    short: int = 0


@dataclass(frozen=True)
class Signature:
    """What a compiled `linear` kernel depends on; shapes are arguments."""

    groups: tuple[Group, ...]
    bias: bool
    out_bits: int

    @property
    def name(self) -> str:
        """Unique within a kernel set; a C identifier."""
        parts = [f"x{g.x_bits}w{g.w_bits}s{g.shift}u{g.unroll}" for g in self.groups]
        return "_".join([*parts, "b" if self.bias else "n", f"y{self.out_bits}"])


@dataclass
class Stream:
    """Packed constants of one `linear` node.

    Attributes:
        data: the bytes, to be aligned as the set says.
        weights, multipliers, bias: how many of them each part takes, padding included.
    """

    data: bytes
    weights: int
    multipliers: int
    bias: int


@dataclass(frozen=True)
class LinearSet:
    """A family of `linear` kernels.

    Attributes:
        name: prefix of its symbols.
        rows: output rows per block; the output buffer must hold a multiple of it.
        columns: inputs per step of the inner loop; an operand whose length is no multiple must
            be readable up to the next one.
        x_align: alignment of an operand in bytes (1: that of its elements).
        x_bits: width to which operands are widened first, or None to take them as they are.
        align: alignment of the stream.
        lanes: 32-bit numbers in a register, 1 without SIMD.
        small: a core for which code size counts, and which loads words from their multiples only.
    """

    name: str
    rows: int
    columns: int
    x_align: int
    x_bits: int | None
    align: int = field(default=4)
    lanes: int = field(default=1)
    small: bool = field(default=True)

    def for_frames(self, frames: int) -> LinearSet:
        """The set for nodes of `frames` frames."""
        return self

    @property
    def pairs(self) -> bool:
        """Whether SIMD instructions add products in pairs."""
        return False

    @property
    def tile(self) -> int:
        """Frames that a kernel computes side by side; 1: it knows one frame at a time."""
        return 1

    def tiles(self, frames: int) -> list[tuple[int, int]]:
        """Frames side by side, and how many such tiles, of the calls for `frames` frames."""
        return [(1, frames)]

    def frames_source(self, signature: Signature, rows: int, tile: int, x_steps: list[int]) -> str:
        """As `source`, for many frames: ``kernel(p, y, blocks, ..., times, x0, n0, ...)``.

        Args:
            signature, rows: as in `source`.
            tile: frames side by side; `times` counts tiles.
            x_steps: bytes from one frame to the next, per group.
        """
        raise NotImplementedError

    def written(self, rows: int) -> int:
        """Output rows that a kernel stores for `rows` of them."""
        return self.blocks(rows) * self.rows

    def extra(self, rows: int, out_bits: int) -> list[int]:
        """Arguments between `blocks` and the operands."""
        return []

    def steps(self, k: int) -> int:
        """Inner loop iterations for `k` inputs."""
        return -(-k // self.columns)

    def unroll(self, k: int, frames: int = 1) -> int:
        """Inner steps to write out for `k` inputs of `frames` frames; divides `steps(k)`."""
        return 1

    def blocks(self, rows: int) -> int:
        """Row blocks for `rows` outputs."""
        return -(-rows // self.rows)

    def firsts(self, rows: int) -> list[int]:
        """First row of every block."""
        return list(range(0, rows, self.rows))

    def order(self, block: IntArray, columns: int) -> IntArray:
        """Weights of one block, [rows, padded K] with zeros from `columns` on, in stream order."""
        return block.T.reshape(-1)

    def source(self, signature: Signature, rows: int) -> str:
        """Python source of `kernel(p, y, blocks, ..., x0, n0, x1, n1, ...)`, see `extra`.

        Args:
            signature: of the node.
            rows: output rows.

        n_g counts iterations of the inner loop of group g and is at least 1, as is `blocks`.
        """
        raise NotImplementedError

    def pack(
        self,
        weights: Sequence[IntArray],
        multipliers: Sequence[IntArray],
        bias: IntArray | None,
    ) -> Stream:
        """Lay the constants of a node out for this set.

        Args:
            weights: per group int8 or int16 [O, K].
            multipliers: per group int32 [O].
            bias: int32 [O] or None.
        """
        out = weights[0].shape[0]
        chunks: list[bytes] = []
        sizes = {"w": 0, "m": 0, "b": 0}

        def put(kind: str, array: IntArray) -> None:
            raw = array.tobytes()
            raw += bytes(-len(raw) % 4)
            sizes[kind] += len(raw)
            chunks.append(raw)

        for first in self.firsts(out):
            for w, m in zip(weights, multipliers, strict=True):
                k = self.steps(w.shape[1]) * self.columns
                block = np.zeros((self.rows, k), w.dtype)
                part = w[first : first + self.rows]
                block[: part.shape[0], : w.shape[1]] = part
                put("w", self.order(block, w.shape[1]))
                put("m", _padded(m[first : first + self.rows], self.rows))
            if bias is not None:
                put("b", _padded(bias[first : first + self.rows], self.rows))
        data = b"".join(chunks)
        return Stream(data, sizes["w"], sizes["m"], sizes["b"])


def _padded(values: IntArray, rows: int) -> IntArray:
    full = np.zeros(rows, np.int32)
    full[: values.shape[0]] = values
    return full


def requantised(acc: str, m: str, shift: int, carry: str | None) -> str:
    """Source of ``rq(acc, m, shift) + carry`` in the low 32 bits.

    With a shift of 32 the carry enters above the product, which a core with SMMLAR does in one
    instruction.
    """
    if shift == 32:
        high = f" + ({carry} << 32)" if carry else ""
        return f"np.int32(({acc} * {m} + 2147483648{high}) >> 32)"
    value = f"({acc} * {m})" if shift == 0 else f"(({acc} * {m} + {1 << (shift - 1)}) >> {shift})"
    return f"np.int32({value} + {carry})" if carry else f"np.int32({value})"


def saturated(value: str, bits: int) -> str:
    """Source of `value`, an int32, clamped to a signed width."""
    if bits == 32:
        return value
    top = (1 << (bits - 1)) - 1
    return f"clamp32({value}, {-top - 1}, {top})"


@dataclass(frozen=True)
class GenericLinear(LinearSet):
    """Plain loads and multiplies: any core. Weights are stored column by column of a block.

    At most `longest` columns are written out per iteration.
    """

    longest: int = field(default=1)

    def unroll(self, k: int, frames: int = 1) -> int:
        steps = self.steps(k)
        return max(u for u in range(1, self.longest + 1) if steps % u == 0)

    def source(self, signature: Signature, rows: int) -> str:
        parameters = "".join(f", x{g}, n{g}" for g in range(len(signature.groups)))
        lines = [f"def kernel(p, y, blocks{parameters}):", "    while blocks > 0:"]
        for g, group in enumerate(signature.groups):
            xb, wb = group.x_bits // 8, group.w_bits // 8
            lines += [f"        a{r} = np.int32(0)" for r in range(self.rows)]
            lines += [f"        x = x{g}", f"        n = n{g}", "        while True:"]
            for c in range(group.unroll):
                lines.append(f"            v = load{group.x_bits}(x, {c * xb})")
                for r in range(self.rows):
                    w = f"load{group.w_bits}(p, {(c * self.rows + r) * wb})"
                    lines.append(f"            a{r} = np.int32(a{r} + mul32(v, {w}))")
            step = group.unroll * self.rows * wb
            lines += [
                f"            x = advance(x, {group.unroll * xb})",
                f"            p = advance(p, {step})",
                f"            x = after(x, a{self.rows - 1})",
                f"            p = after(p, a{self.rows - 1})",
                "            n = less(n, 1)",
                "            if n == 0:",
                "                break",
            ]
            if step % 4:  # multipliers lie at the next multiple of 4
                lines.append(f"        p = advance(p, np.int32((0 - mul32(n{g}, {step})) & 3))")
            lines += group_end(self, signature, g, early=True)
        lines += block_end(self, signature)
        return "\n".join(lines)


def group_end(
    kernels: LinearSet, signature: Signature, g: int, *, early: bool = False
) -> list[str]:
    """Lines that requantise the accumulators a0.. of group g into y0.., and add the biases.

    `early` has LLVM do it before the next group's loop instead of after it: better where there
    are few registers, worse where one instruction joins the product and the sum.
    """
    group = signature.groups[g]
    last = g == len(signature.groups) - 1
    lines = []
    for r in range(kernels.rows):
        carry = f"y{r}" if g else None
        if last and signature.bias:
            bias = f"load32(p, {4 * (kernels.rows + r)})"
            carry = f"np.int32(y{r} + {bias})" if g else bias
        value = requantised(f"a{r}", f"load32(p, {4 * r})", group.shift, carry)
        lines.append(f"        y{r} = {value}")
    if early and not last:
        lines += [f"        p = after(p, y{r})" for r in range(kernels.rows)]
    step = 4 * kernels.rows * (2 if last and signature.bias else 1)
    lines.append(f"        p = advance(p, {step})")
    return lines


def block_end(kernels: LinearSet, signature: Signature) -> list[str]:
    """Lines that store y0.. and go on to the next block."""
    bits = signature.out_bits
    lines = [
        f"        store{bits}(y, {r * bits // 8}, {saturated(f'y{r}', bits)})"
        for r in range(kernels.rows)
    ]
    return [
        *lines,
        f"        y = advance(y, {kernels.rows * bits // 8})",
        "        blocks = less(blocks, 1)",
    ]
