"""Products of two values on cores with SIMD registers.

Where k lies side by side in both operands, lanes are k and a row of four results shares every
load of a; where the elements of neighbouring rows of b lie side by side, lanes are those rows.
Sums have 64 bits, or 32 where the ranges prove that they suffice.

`VPMADDWD` adds two products of int16 in 32 bits, which only (-2^15)^2 + (-2^15)^2 = 2^31 exceeds:
it yields -2^31, which no other pair does. So 1 is taken off before the sum is widened, and the
number of sums added at the end.
"""

from __future__ import annotations

from edgeseq.kernels.attention import Product

__all__ = ["lanes_source"]

_LANES = 8
#: Results of a row that share the loads of a.
_RESULTS = 4


def lanes_source(p: Product, pairs: bool) -> str | None:
    """Source of ``kernel(a, b, y)`` as `product_source`; None: the operands do not lie for it.

    Args:
        p: the product.
        pairs: whether the core adds products in pairs (AVX2).
    """
    near_a, near_b = p.a[1] == p.bits[0] // 8, p.b[1] == p.bits[1] // 8
    if near_a and near_b and p.k >= _LANES:
        return _along_k(p, pairs)
    if p.b[0] == p.bits[1] // 8 and p.n >= _LANES:
        return _along_n(p, pairs)
    return None


def _biased(p: Product, pairs: bool) -> bool:
    """Whether 1 is taken off a sum of two products."""
    return pairs and not p.single and not p.sum_range(2).fits32


def _added(p: Product, name: str, product: str, biased: bool = False) -> str:
    """Source of an accumulator with a register of products added."""
    if p.single:
        return f"{name} = vector_add({name}, {product})"
    if biased:
        product = f"vector_add({product}, vector_splat(-1))"
    return f"{name} = wide_add({name}, {product})"


def _along_k(p: Product, pairs: bool) -> str:
    size = p.bits[0] // 8, p.bits[1] // 8
    step = 2 * _LANES if pairs else _LANES
    whole, rest = divmod(p.k, step)
    lines = ["def kernel(a, b, y):", "    m = np.int32(0)", f"    while m < {p.m}:"]
    lines += ["        q = b", "        z = y"]
    for count, times in ((_RESULTS, p.n // _RESULTS), (p.n % _RESULTS, 1)):
        if not count or not times:
            continue
        lines += [f"        n = np.int32({times})", "        while n > 0:"]
        lines += ["            " + line for line in _results(p, pairs, count, whole, rest, size)]
        lines += [
            f"            q = advance(q, {count * p.b[0]})",
            f"            z = advance(z, {count * p.bits[2] // 8})",
            "            n = less(n, 1)",
        ]
    return "\n".join(
        [
            *lines,
            f"        a = advance(a, {p.a[0]})",
            f"        y = advance(y, {p.n * p.bits[2] // 8})",
            "        m = np.int32(m + 1)",
        ]
    )


def _results(
    p: Product, pairs: bool, count: int, whole: int, rest: int, size: tuple[int, int]
) -> list[str]:
    """`count` neighbouring results of a row."""
    biased = _biased(p, pairs)
    step = 2 * _LANES if pairs else _LANES
    zero = "vector_zero()" if p.single else "wide_zero()"
    lines = [f"s{j} = {zero}" for j in range(count)]
    lines += ["u = a", "v = q"]
    if whole:
        lines += [f"k = np.int32({whole})", "while k > 0:"]
        kind = "pair" if pairs else "vector"
        lines.append(f"    x = {kind}_load{p.bits[0]}(u, 0)")
        for j in range(count):
            w = f"{kind}_load{p.bits[1]}(v, {j * p.b[0]})"
            lines.append("    " + _added(p, f"s{j}", f"{kind}_multiply(x, {w})", biased))
        lines += [
            f"    u = advance(u, {step * size[0]})",
            f"    v = advance(v, {step * size[1]})",
            "    k = less(k, 1)",
        ]
    if rest >= _LANES:
        lines.append(f"x8 = vector_load{p.bits[0]}(u, 0)")
        for j in range(count):
            w = f"vector_load{p.bits[1]}(v, {j * p.b[0]})"
            lines.append(_added(p, f"s{j}", f"vector_multiply(x8, {w})"))
    for j in range(count):
        lines.append(f"t{j} = {'vector' if p.single else 'wide'}_sum(s{j})")
        if biased:
            lines.append(f"t{j} = t{j} + {whole * _LANES}")
        for c in range(rest // _LANES * _LANES, rest):
            product = (
                f"mul32(load{p.bits[0]}(u, {c * size[0]}), "
                f"load{p.bits[1]}(v, {j * p.b[0] + c * size[1]}))"
            )
            total = f"t{j} + {product}"
            lines.append(f"t{j} = " + (f"np.int32({total})" if p.single else total))
    return lines + [
        f"store{p.bits[2]}(z, {j * p.bits[2] // 8}, {p.stored(f't{j}')})" for j in range(count)
    ]


def _along_n(p: Product, pairs: bool) -> str:
    out, size = p.bits[2] // 8, p.bits[1] // 8
    lines = ["def kernel(a, b, y):", "    m = np.int32(0)", f"    while m < {p.m}:"]
    lines += ["        n = np.int32(0)", f"        while n < {p.n}:"]
    if p.n % _LANES:
        lines.append(f"            n = min32(n, {p.n - _LANES})")  # the last ones once more
    lines += [f"            v = advance(b, np.int32(n * {size}))", "            u = a"]
    lines.append(f"            s = {'vector_zero()' if p.single else 'wide_zero()'}")
    taken = 2 if pairs else 1
    biased = _biased(p, pairs)
    whole, rest = divmod(p.k, taken)
    if whole:
        lines += [f"            k = np.int32({whole})", "            while k > 0:"]
        product = _pair(p) if pairs else _lane(p)
        lines += [
            f"                {_added(p, 's', product, biased)}",
            f"                u = advance(u, {taken * p.a[1]})",
            f"                v = advance(v, {taken * p.b[1]})",
            "                k = less(k, 1)",
        ]
    if rest:
        lines.append(f"            {_added(p, 's', _lane(p))}")
    wide = "wide_extend(s)" if p.single else "s"
    half = 1 << (p.shift - 1) if p.shift else 0
    more = whole if biased else 0
    lines.append(f"            r = wide_requantise({wide}, {more}, {p.factor}, {half}, {p.shift})")
    return "\n".join(
        [
            *lines,
            f"            wide_store{p.bits[2]}(y, np.int32(n * {out}), r)",
            f"            n = np.int32(n + {_LANES})",
            f"        a = advance(a, {p.a[0]})",
            f"        y = advance(y, {p.n * out})",
            "        m = np.int32(m + 1)",
        ]
    )


def _pair(p: Product) -> str:
    """Sums of two products, eight rows of b at a time."""
    if p.bits[0] == 16 and p.a[1] == 2:
        x = "load32_half(u, 0)"
    else:
        first, second = f"load{p.bits[0]}(u, 0)", f"load{p.bits[0]}(u, {p.a[1]})"
        x = f"np.int32(({first} & 65535) | ({second} << 16))"
    return f"pair_multiply(pair_splat({x}), pair_join{p.bits[1]}(v, 0, {p.b[1]}))"


def _lane(p: Product) -> str:
    """Products of eight rows of b."""
    x = f"vector_splat(load{p.bits[0]}(u, 0))"
    return f"vector_multiply({x}, vector_load{p.bits[1]}(v, 0))"
