"""Kernels of depthwise products: every channel with its own taps."""

from __future__ import annotations

from edgeseq.kernels.linear import requantised, saturated

__all__ = ["depthwise_source"]

#: Taps that are written out; more of them are a loop.
_WRITTEN = 16
_LANES = 8


def depthwise_source(
    taps: int,
    channels: int,
    tap_step: int,
    bits: tuple[int, int, int],
    shift: int,
    bias: bool,
    lanes: int,
) -> str:
    """Source of ``kernel(x, y, w, m[, b])``: one row of channels.

    Args:
        taps, channels: shape of the weights, which are stored tap by tap.
        tap_step: bytes of x from one tap to the next.
        bits: of x, w and y.
        shift: of the requantisation.
        bias: whether there is one.
        lanes: numbers in a register, 1 without SIMD.
    """
    parameters = "x, y, w, m, b" if bias else "x, y, w, m"
    shape = (taps, channels, tap_step)
    lines = [f"def kernel({parameters}):"]
    if lanes > 1 and channels >= _LANES:
        lines += _lane_loop(shape, bits, shift, bias)
    else:
        lines += _channel_loop(shape, bits, shift, bias)
    return "\n".join(lines)


def _channel_loop(
    shape: tuple[int, int, int], bits: tuple[int, int, int], shift: int, bias: bool
) -> list[str]:
    taps, channels, tap_step = shape
    xb, wb, yb = (b // 8 for b in bits)
    lines = ["    c = np.int32(0)", f"    while c < {channels}:", "        a = np.int32(0)"]

    def tap(x: str, w: str, x_at: str, w_at: str) -> str:
        return f"a = np.int32(a + mul32(load{bits[0]}({x}, {x_at}), load{bits[1]}({w}, {w_at})))"

    if taps <= _WRITTEN:
        for k in range(taps):
            x_at = f"np.int32(c * {xb} + {k * tap_step})"
            w_at = f"np.int32(c * {wb} + {k * channels * wb})"
            lines.append("        " + tap("x", "w", x_at, w_at))
    else:
        lines += [
            f"        u = advance(x, np.int32(c * {xb}))",
            f"        v = advance(w, np.int32(c * {wb}))",
            "        k = np.int32(0)",
            f"        while k < {taps}:",
            "            " + tap("u", "v", "np.int32(0)", "np.int32(0)"),
            f"            u = advance(u, {tap_step})",
            f"            v = advance(v, {channels * wb})",
            "            k = np.int32(k + 1)",
        ]
    carry = "load32(b, np.int32(c * 4))" if bias else None
    value = requantised("a", "load32(m, np.int32(c * 4))", shift, carry)
    return [
        *lines,
        f"        r = {value}",
        f"        store{bits[2]}(y, np.int32(c * {yb}), {saturated('r', bits[2])})",
        "        c = np.int32(c + 1)",
    ]


def _lane_loop(
    shape: tuple[int, int, int], bits: tuple[int, int, int], shift: int, bias: bool
) -> list[str]:
    """Eight channels at a time; the last eight may overlap those before them."""
    taps, channels, tap_step = shape
    xb, wb, yb = (b // 8 for b in bits)
    half = 1 << (shift - 1) if shift else 0

    def product(x_at: str, w_at: str) -> str:
        x, w = f"vector_load{bits[0]}(u, {x_at})", f"vector_load{bits[1]}(v, {w_at})"
        return f"vector_add(a, vector_multiply({x}, {w}))"

    lines = ["    c = np.int32(0)", f"    while c < {channels}:"]
    if channels % _LANES:
        lines.append(f"        c = min32(c, {channels - _LANES})")
    lines += [
        f"        u = advance(x, np.int32(c * {xb}))",
        f"        v = advance(w, np.int32(c * {wb}))",
        "        a = vector_zero()",
    ]
    if taps <= _WRITTEN:
        lines += [
            f"        a = {product(str(k * tap_step), str(k * channels * wb))}" for k in range(taps)
        ]
    else:
        lines += [
            "        k = np.int32(0)",
            f"        while k < {taps}:",
            f"            a = {product('0', '0')}",
            f"            u = advance(u, {tap_step})",
            f"            v = advance(v, {channels * wb})",
            "            k = np.int32(k + 1)",
        ]
    lines.append(
        f"        r = vector_requantise(a, vector_load(m, np.int32(c * 4)), {half}, {shift})"
    )
    if bias:
        lines.append("        r = vector_add(r, vector_load(b, np.int32(c * 4)))")
    return [
        *lines,
        f"        vector_store{bits[2]}(y, np.int32(c * {yb}), r)",
        f"        c = np.int32(c + {_LANES})",
    ]
