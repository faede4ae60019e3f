"""Kernels that are the same for every node: copy, fill and layer normalisation."""

from __future__ import annotations

from edgeseq.fixed import RSQRT_TABLE

__all__ = ["copy_source", "fill_source", "norm_source", "rsqrt_table"]


def copy_source(from_bits: int, to_bits: int) -> str:
    """Source of ``kernel(src, dst, rows, columns, src_step, dst_step)``.

    Copies rows x columns elements, widening; steps are bytes from row to row.
    """
    return f"""
def kernel(src, dst, rows, columns, src_step, dst_step):
    while rows > 0:
        i = np.int32(0)
        while i < columns:
            v = load{from_bits}(src, np.int32(i * {from_bits // 8}))
            store{to_bits}(dst, np.int32(i * {to_bits // 8}), v)
            i = np.int32(i + 1)
        src = advance(src, src_step)
        dst = advance(dst, dst_step)
        rows = np.int32(rows - 1)
"""


def fill_source(bits: int) -> str:
    """Source of ``kernel(dst, count, value)``: store `value` into `count` elements."""
    return f"""
def kernel(dst, count, value):
    i = np.int32(0)
    while i < count:
        store{bits}(dst, np.int32(i * {bits // 8}), value)
        i = np.int32(i + 1)
"""


def rsqrt_table() -> bytes:
    """The table that `norm_source` reads."""
    return RSQRT_TABLE.astype("<i2").tobytes()


def norm_source(in_bits: int, out_bits: int, eps: int, shift: int) -> str:
    """Source of ``kernel(x, gain, bias, table, y, rows, n)``: `edgeseq.fixed.layer_norm`."""
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
def kernel(x, gain, bias, table, y, rows, n):
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
        x = advance(x, np.int32(n * {size}))
        y = advance(y, np.int32(n * {out}))
        rows = np.int32(rows - 1)
"""
