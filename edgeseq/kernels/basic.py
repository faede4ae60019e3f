"""Layer normalisation, and rows of a table."""

from __future__ import annotations

from edgeseq.fixed import RSQRT_TABLE
from edgeseq.kernels.moves import Unit

__all__ = ["embed_source", "norm_source", "rsqrt_table"]


def rsqrt_table() -> bytes:
    """The table that `norm_source` reads."""
    return RSQRT_TABLE.astype("<i2").tobytes()


def norm_source(in_bits: int, out_bits: int, eps: int, shift: int) -> str:
    """Source of ``kernel(x, gain, bias, table, y, rows, n, step)``: `edgeseq.fixed.layer_norm`.

    `step` is the bytes from one row of x to the next.
    """
    rq = (
        f"((z * load32(gain, q) + {1 << (shift - 1)}) >> {shift})"
        if shift
        else "(z * load32(gain, q))"
    )
    top = (1 << (out_bits - 1)) - 1
    steps = "".join(
        f"""
        if w < {1 << (62 - 2 * step)}:
            w = w << {2 * step}
            sh = np.int32(sh - {step})"""
        for step in (16, 8, 4, 2, 1)
    )
    size, out = in_bits // 8, out_bits // 8
    return f"""
def kernel(x, gain, bias, table, y, rows, n, step):
    while rows > 0:
        total = np.int32(0)
        i = np.int32(0)
        while i < n:
            total = np.int32(total + load{in_bits}(x, np.int32(i * {size})))
            i = np.int32(i + 1)
        w = np.int64({eps})
        i = np.int32(0)
        while i < n:
            d = np.int32(mul32(n, load{in_bits}(x, np.int32(i * {size}))) - total)
            w = w + d * d
            i = np.int32(i + 1)
        sh = np.int32(35){steps}
        u = w - {1 << 60}
        at = np.int32(np.int32(u >> 55) * 2)
        f = np.int32(np.int32(u >> 40) & 32767)
        left = load16(table, at)
        right = load16(table, np.int32(at + 2))
        r = np.int32((left << 15) + mul32(np.int32(right - left), f))
        i = np.int32(0)
        while i < n:
            d = np.int32(mul32(n, load{in_bits}(x, np.int32(i * {size}))) - total)
            z = np.int32((d * r + (np.int64(1) << np.int64(sh - 1))) >> np.int64(sh))
            q = np.int32(i * 4)
            v = {rq} + load32(bias, q)
            v = clamp64(v, {-top - 1}, {top})
            store{out_bits}(y, np.int32(i * {out}), np.int32(v))
            i = np.int32(i + 1)
        x = advance(x, step)
        y = advance(y, np.int32(n * {out}))
        rows = np.int32(rows - 1)
"""


def embed_source(index_bits: int, rows: int, width: int, unit: Unit) -> str:
    """Source of ``kernel(index, table, y, count)``: rows of a table, the index clamped to them.

    Args:
        index_bits: width of an index.
        rows: of the table.
        width: bytes of a row, a multiple of the unit.
        unit: what is moved at a time.
    """
    return f"""
def kernel(index, table, y, count):
    while count > 0:
        row = clamp32(load{index_bits}(index, 0), 0, {rows - 1})
        p = advance(table, mul32(row, {width}))
        i = np.int32(0)
        while i < {width}:
            v = {unit.load("p, i")}
            {unit.store("y, i", "v")}
            i = np.int32(i + {unit.nbytes})
        index = advance(index, {index_bits // 8})
        y = advance(y, {width})
        count = np.int32(count - 1)
"""
