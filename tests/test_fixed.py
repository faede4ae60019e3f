"""`edgeseq.fixed` against the same arithmetic on exact Python integers and fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeseq.fixed import (
    INT_RANGE,
    RSQRT_TABLE,
    layer_norm,
    lut_apply,
    lut_fit,
    multiplier,
    rq,
    saturate,
    shift_round,
)
from edgeseq.ir.functions import FUNCTIONS

INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
INT16 = st.integers(-(1 << 15), (1 << 15) - 1)


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


@given(INT32, INT32, st.integers(0, 62))
@example(-(1 << 31), -(1 << 31), 62)
@example(-(1 << 31), (1 << 31) - 1, 1)
def test_rq_is_half_up_without_wrapping(a: int, m: int, s: int) -> None:
    got = int(rq(np.array(a, np.int32), np.array(m, np.int32), s))
    assert got == half_up(Fraction(a * m, 1 << s))


@given(st.integers(-(1 << 61), (1 << 61)), st.integers(0, 60))
def test_shift_round_is_half_up(a: int, s: int) -> None:
    assert int(shift_round(np.array(a), s)) == half_up(Fraction(a, 1 << s))


def test_a_tie_rounds_towards_plus_infinity() -> None:
    ties = np.array([-3, -1, 1, 3])
    assert shift_round(ties, 1).tolist() == [-1, 0, 1, 2]


@pytest.mark.parametrize("dtype", ["i8", "i16", "i32"])
@given(a=st.integers(-(1 << 62), 1 << 62))
def test_saturate_clamps_to_the_width(dtype: str, a: int) -> None:
    lo, hi = INT_RANGE[dtype]
    stored = saturate(np.array([a, lo, hi]), dtype)
    assert stored.tolist() == [min(max(a, lo), hi), lo, hi]
    assert stored.dtype.itemsize * 8 == int(dtype[1:])


RATIO = st.builds(lambda f, e: f * 2.0**e, st.floats(0.5, 0.999), st.integers(-60, 28))


@given(st.lists(st.one_of(RATIO, RATIO.map(lambda r: -r), st.just(0.0)), min_size=1, max_size=6))
def test_a_multiplier_is_as_close_as_its_shift_allows(ratios: list[float]) -> None:
    m, s = multiplier(np.array(ratios))
    assert m.dtype == np.int32 and 0 <= s <= 62
    for r, q in zip(ratios, m.tolist(), strict=True):
        assert abs(Fraction(q, 1 << s) - Fraction(r)) <= Fraction(1, 1 << (s + 1))
    top = max(map(abs, ratios))
    if top > 2.0**-40:  # and the greatest one keeps its significant bits
        assert max(abs(v) for v in m.tolist()) >= 1 << 13


@given(st.lists(st.floats(2.0**-19, 0.49), min_size=1, max_size=6))
def test_ordinary_ratios_take_the_high_word(ratios: list[float]) -> None:
    assert multiplier(np.array(ratios))[1] == 32


def test_a_ratio_just_below_a_power_of_two_does_not_overflow() -> None:
    for e in range(-40, 30):
        ratio = np.nextafter(2.0**e, 0.0)
        m, s = multiplier(np.array([ratio]))
        assert m[0] > 0 and abs(int(m[0]) / 2.0**s / ratio - 1.0) < 2.0**-12


@pytest.mark.parametrize("ratio", [np.inf, np.nan, 2.0**31, 1e300])
def test_a_ratio_beyond_31_bits_is_refused(ratio: float) -> None:
    with pytest.raises(OverflowError):
        multiplier(np.array([ratio]))


def lut_by_hand(x: int, table: list[int], lo: int, k: int) -> int:
    """The definition, in exact integers."""
    n = len(table) - 1
    v = min(max(x, lo), lo + (n << k) - 1) - lo
    i, f = v >> k, v & ((1 << k) - 1)
    return table[i] + half_up(Fraction((table[i + 1] - table[i]) * f, 1 << k))


@st.composite
def lookups(draw: st.DrawFn) -> tuple[list[int], int, int, list[int]]:
    n, k = 1 << draw(st.integers(0, 6)), draw(st.integers(0, 16))
    table = draw(st.lists(INT16, min_size=n + 1, max_size=n + 1))
    lo = draw(st.integers(-(1 << 31), (1 << 31) - (n << k)))
    near = st.integers(max(lo - 3, -(1 << 31)), min(lo + (n << k) + 3, (1 << 31) - 1))
    return table, lo, k, draw(st.lists(st.one_of(INT32, near), min_size=1, max_size=20))


@given(lookups())
def test_lut_apply_is_its_definition(case: tuple[list[int], int, int, list[int]]) -> None:
    table, lo, k, xs = case
    got = lut_apply(np.array(xs, np.int32), np.array(table, np.int16), lo, k)
    assert got.dtype == np.int16
    assert got.tolist() == [lut_by_hand(x, table, lo, k) for x in xs]


@pytest.mark.parametrize(("fn", "span", "worst_lsb"), [("sigmoid", 16, 4.0), ("tanh", 8, 5.0)])
def test_fitted_gates_are_unbiased_and_within_a_few_lsb(
    fn: str, span: int, worst_lsb: float
) -> None:
    # A chord over 2^-4 (sigmoid) or 2^-5 (tanh) of a curve with |f''| <= 0.097 or 0.77 is off by
    # at most h^2/8 |f''| = 1.6 or 3.1 LSB of Q0.15; a fit halves that; rounding adds about 1.
    table = lut_fit(FUNCTIONS[fn].fn, -span, span, 512, 2.0**-15, "i16")
    k = (span << 17).bit_length() - 1 - 9
    x = np.arange(-span << 16, span << 16, 37)
    error = lut_apply(x, table, -span << 16, k) * 2.0**-15 - FUNCTIONS[fn].fn(x * 2.0**-16)
    error = error[np.abs(x) < (span - 4) << 16]  # where Q0.15 does not saturate at 32767
    assert np.abs(error).max() * 2.0**15 < worst_lsb
    assert abs(error.mean()) * 2.0**15 < 0.05
    sampled = np.round(FUNCTIONS[fn].fn(np.linspace(-span, span, 513)) * 2.0**15)
    assert table.max() == 32767 and np.abs(table - np.clip(sampled, -32768, 32767)).max() <= 4


@pytest.mark.parametrize("degree", [0, 1])
def test_a_fit_of_a_line_is_the_line(degree: int) -> None:
    def line(x: np.ndarray) -> np.ndarray:
        return 3.0 + 2.0 * degree * x

    nodes = lut_fit(line, -4.0, 4.0, 16, 2.0**-8, "i16")
    assert nodes.tolist() == np.round(line(np.linspace(-4, 4, 17)) * 256).tolist()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("reach", [1.0, 40.0, 2000.0])
def test_every_function_fits_any_range_without_nan(name: str, reach: float) -> None:
    nodes = lut_fit(FUNCTIONS[name].fn, -reach, reach, 512, 2.0**-10, "i16")
    sampled = np.linspace(-reach, reach, 513)
    with np.errstate(over="ignore"):
        exact = np.clip(FUNCTIONS[name].fn(sampled) * 2.0**10, -32768, 32767)
    if reach == 1.0:  # narrow intervals: node and curve agree
        assert np.abs(nodes - exact).max() <= 1.0
    assert np.all(np.isfinite(exact)) and nodes.dtype == np.int16


def test_what_saturates_does_not_pull_at_its_neighbours() -> None:
    exp: Callable[[np.ndarray], np.ndarray] = FUNCTIONS["exp"].fn
    scale = 1.5 / 32767  # exp(30) is 1e13, and what is calibrated for is [-30, 0]
    nodes = lut_fit(exp, -30.0, 30.0, 512, scale, "i16")
    x = np.linspace(-30.0, 30.0, 513)
    error = np.abs(nodes - exp(x) / scale)[x <= 0.0]
    chord = exp(x[x <= 0.0] + 60 / 512) * (60 / 512) ** 2 / 8 / scale  # h^2/8 f''
    assert np.all(error <= chord + 1.0) and nodes[-1] == 32767


# -- layer normalisation ---------------------------------------------------------------------------


def layer_norm_by_hand(
    x: list[int], gain: list[int], bias: list[int], eps: int, shift: int
) -> list[int]:
    """The definition in Python integers of any size; asserts what must fit 64 bits."""
    n = len(x)
    d = [n * v - sum(x) for v in x]
    w = sum(v * v for v in d) + eps
    j = 0
    while w << 2 < 1 << 62:
        w, j = w << 2, j + 1
    assert 1 << 60 <= w < 1 << 62
    u = w - (1 << 60)
    i, f = u >> 55, (u >> 40) & 0x7FFF
    t = RSQRT_TABLE.tolist()
    r = (t[i] << 15) + (t[i + 1] - t[i]) * f
    out = []
    for v, g, b in zip(d, gain, bias, strict=True):
        assert abs(v * r) + (1 << (34 - j)) < 1 << 63
        z = half_up(Fraction(v * r, 1 << (35 - j)))
        assert abs(z) <= (1 << 24) + 4096 and abs(z * g) + (1 << shift) < 1 << 63
        out.append(half_up(Fraction(z * g, 1 << shift)) + b)
    return out


@st.composite
def norms(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], int, int]:
    n = draw(st.integers(2, 12))
    edge = st.sampled_from([-32768, 32767, 0, -1, 1])
    x = draw(st.lists(st.one_of(INT16, edge), min_size=n, max_size=n))
    gain = draw(st.lists(st.integers(-(1 << 28), 1 << 28), min_size=n, max_size=n))
    bias = draw(st.lists(INT32, min_size=n, max_size=n))
    return x, gain, bias, draw(st.integers(1, 1 << 60)), draw(st.integers(1, 40))


@given(norms())
@example(([32767, -32768], [1 << 28] * 2, [0, 0], 1, 1))
@example(([7, 7, 7], [1 << 20] * 3, [5, -5, 0], 1, 20))
def test_layer_norm_is_its_definition(
    case: tuple[list[int], list[int], list[int], int, int],
) -> None:
    x, gain, bias, eps, shift = case
    arrays = np.array(x, np.int16), np.array(gain, np.int32), np.array(bias, np.int32)
    assert layer_norm(*arrays, eps=eps, shift=shift).tolist() == layer_norm_by_hand(*case)


@pytest.mark.parametrize("n", [2, 3, 64, 1024])
def test_the_widest_norm_fits_64_bits(n: int) -> None:
    for x in ([32767] * (n // 2) + [-32768] * (n - n // 2), [32767] + [-32768] * (n - 1)):
        gain, bias = [(1 << 31) - 1] * n, [0] * n
        arrays = np.array(x, np.int16), np.array(gain, np.int32), np.array(bias, np.int32)
        for eps in (1, 1 << 60):
            got = layer_norm(*arrays, eps=eps, shift=32)
            assert got.tolist() == layer_norm_by_hand(x, gain, bias, eps, 32)


@settings(max_examples=50)
@given(st.integers(2, 200), st.sampled_from([20.0, 300.0, 8000.0]), st.integers(0, 1 << 30))
def test_layer_norm_normalises(n: int, size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.clip(np.round(rng.normal(size=n) * size), -32768, 32767).astype(np.int16)
    if np.all(x == x[0]):
        return
    scale = 2.0**-11  # rows of 2 to 200 elements reach sqrt(200) = 14.1
    gain, shift = multiplier(np.full(n, math.sqrt(n) / 2.0**24 / scale))
    y = layer_norm(x, gain, np.zeros(n, np.int32), eps=1, shift=shift) * scale
    d = n * x.astype(np.float64) - x.sum(dtype=np.int64)
    real = math.sqrt(n) * d / np.sqrt(np.sum(d**2) + 1.0)
    # 96 linear intervals of 1/sqrt: (1/32)^2/8 * 3/4 = 9.2e-5 at most, nodes rounded to 2^-15.
    assert np.abs(y - real).max() <= 1.6e-4 * np.abs(real).max() + 0.51 * scale
