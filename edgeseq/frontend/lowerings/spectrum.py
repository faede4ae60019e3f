"""Fourier transforms and complex numbers: every operator on two parts.

A complex tensor is a `Complex`, its real and its imaginary part. Operators that only move elements
or are linear with real factors work on each part alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgeseq.frontend.axes import LayoutError, Value
from edgeseq.frontend.build import arith, products, spectrum, views
from edgeseq.frontend.build.spectrum import Complex
from edgeseq.frontend.context import LOWER, Context, lowers, lowers_complex

_COMPLEX = (9, 10, 11)
"""Element types, as the schema of exported programs numbers them."""

# -- parts ---------------------------------------------------------------------------------------


def _part(x: Any, which: str) -> Any:
    """The real or imaginary part of an argument; lists by element, anything else as it is."""
    if isinstance(x, Complex):
        return x.re if which == "re" else x.im
    if isinstance(x, complex) or np.iscomplexobj(x):
        return np.real(x) if which == "re" else np.imag(x)
    if isinstance(x, list | tuple):
        return [_part(e, which) for e in x]
    return x


def _both(name: str) -> Callable[..., Any]:
    """The operator on the real and on the imaginary part, alone."""

    def apply(c: Context, **args: Any) -> Any:
        # Resolved late: the module that registers the operator may not be imported yet.
        re, im = (LOWER[name](c, **{k: _part(a, which) for k, a in args.items()})
                  for which in ("re", "im"))  # fmt: skip
        if isinstance(re, list):
            return [Complex(a, b) for a, b in zip(re, im, strict=True)]
        return Complex(re, im)

    return apply


for _name in (
    "view", "reshape", "_unsafe_view", "view_copy", "_reshape_copy", "flatten", "unflatten",
    "unsqueeze", "squeeze", "permute", "permute_copy", "transpose", "swapaxes", "swapdims",
    "transpose_copy", "t", "mT", "numpy_T", "movedim", "moveaxis", "expand", "broadcast_to",
    "expand_copy", "repeat", "tile", "select", "slice", "narrow", "split", "split_with_sizes",
    "chunk", "unbind", "index_select", "clone", "contiguous", "detach", "alias", "neg", "negative",
    "alias_copy", "lift_fresh_copy", "mean", "flip", "sum", "diff", "unfold", "unfold_copy",
    "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "roll",
    "index", "gather", "tensor_split", "hstack", "vstack", "column_stack", "tril", "triu",
    "repeat_interleave", "select_copy", "slice_copy", "narrow_copy", "split_copy", "unbind_copy",
    "split_with_sizes_copy",
):  # fmt: skip
    lowers_complex(_name)(_both(_name))


@lowers_complex("pad", "constant_pad_nd")
def _padded(c: Context, value: Any = None, **more: Any) -> Complex:
    re, im = (_imaginary_or_real(value, which) for which in ("re", "im"))
    made = (LOWER["pad"](c, value=v, **{k: _part(a, w) for k, a in more.items()})
            for v, w in ((re, "re"), (im, "im")))  # fmt: skip
    return Complex(*made)


def _imaginary_or_real(x: Any, which: str) -> Any:
    """A part of an argument whose imaginary part is zero where it is real."""
    if x is None or _is_complex(x) or which == "re":
        return _part(x, which)
    return 0.0


@lowers_complex("where")
def _where(c: Context, condition: Any, self: Any = None, other: Any = None) -> Complex:
    if _is_complex(condition):
        raise LayoutError("asks whether a complex number is true", "compare one of its parts")
    made = (LOWER["where"](c, condition, *(_imaginary_or_real(x, w) for x in (self, other)))
            for w in ("re", "im"))  # fmt: skip
    return Complex(*made)


@lowers_complex("masked_fill")
def _masked(c: Context, self: Any, mask: Any, value: Any) -> Complex:
    made = (LOWER["masked_fill"](c, *(_imaginary_or_real(x, w) if x is not mask else x
                                      for x in (self, mask, value)))
            for w in ("re", "im"))  # fmt: skip
    return Complex(*made)


@lowers_complex("cat", "concat", "concatenate", "stack")
def _joined(c: Context, tensors: Sequence[Any], dim: int = 0) -> Complex:
    if any(isinstance(t, Value) for t in tensors):
        raise LayoutError("joins real and complex numbers", "make both complex")
    made: Complex = _both(c.op.base)(c, tensors=list(tensors), dim=dim)
    return made


def _filled(c: Context, like: Value, x: Any) -> Value:
    """`x` in the shape of `like`."""
    if isinstance(x, Value) and x.axes == like.axes:
        return x
    return c.binary("add", c.binary("mul", like, 0.0, suffix="zero"), x, suffix="filled")


# -- from and to real numbers --------------------------------------------------------------------


@lowers_complex("real")
def _real(c: Context, self: Complex) -> Value:
    return self.re


@lowers_complex("imag")
def _imag(c: Context, self: Complex) -> Value:
    return self.im


@lowers("real")
def _real_of_real(c: Context, self: Value) -> Value:
    return self


@lowers_complex("view_as_real", "view_as_real_copy")
def _view_as_real(c: Context, self: Complex) -> Value:
    return self.pair(c)


@lowers("view_as_complex", "view_as_complex_copy")
def _view_as_complex(c: Context, self: Value) -> Complex:
    return Complex(views.select(c, self, -1, 0), views.select(c, self, -1, 1))


@lowers("complex")
def _complex(c: Context, real: Any, imag: Any) -> Complex:
    like = real if isinstance(real, Value) else imag
    return Complex(*(p if isinstance(p, Value) else _filled(c, like, p) for p in (real, imag)))


@lowers("polar")
def _polar(c: Context, abs: Any, angle: Any) -> Complex:
    if isinstance(angle, Value):
        cos, sin = c.lut("cos", angle, suffix="cos"), c.lut("sin", angle, suffix="sin")
    else:
        cos, sin = np.cos(angle), np.sin(angle)
    return Complex(c.binary("mul", abs, cos), c.binary("mul", abs, sin))


def _power(c: Context, x: Complex) -> Value:
    """|x|²"""
    squares = [c.binary("mul", p, p, suffix="square") for p in (x.re, x.im)]
    return c.binary("add", *squares, suffix="power")


@lowers_complex("abs", "absolute")
def _abs(c: Context, self: Complex) -> Value:
    return arith.wide(c, "sqrt", _power(c, self))


@lowers_complex("angle")
def _angle(c: Context, self: Complex) -> Value:
    raise LayoutError(
        "is the angle of a complex number, which jumps",
        "use the real and imaginary parts, or the magnitude",
    )


# -- arithmetic ----------------------------------------------------------------------------------


def _is_complex(x: Any) -> bool:
    return isinstance(x, Complex) or np.iscomplexobj(x)


@lowers_complex("conj", "conj_physical", "_conj", "_conj_physical")
def _conj(c: Context, self: Complex) -> Complex:
    return Complex(self.re, c.binary("mul", self.im, -1.0, suffix="conj"))


@lowers_complex("resolve_conj", "resolve_neg", "to", "_to_copy")
def _same(c: Context, self: Complex, dtype: Any = None, **_: Any) -> Complex:
    if dtype is not None and dtype not in _COMPLEX:
        raise LayoutError("drops the imaginary part", "take z.real")
    return self


@lowers_complex("mul", "multiply")
def _mul(c: Context, self: Any, other: Any) -> Complex:
    return _bilinear(lambda a, b: c.binary("mul", a, b, suffix="part"), c, self, other)


@lowers_complex("add", "sub", "subtract")
def _add(c: Context, self: Any, other: Any, alpha: Any = 1) -> Complex:
    op = "sub" if c.op.base.startswith("sub") else "add"
    if isinstance(alpha, complex):
        raise LayoutError("is scaled by a complex number", "multiply by it before")
    re = c.binary(op, _part(self, "re"), _times(c, _part(other, "re"), alpha), suffix="re")
    if _is_complex(self) and _is_complex(other):
        return Complex(
            re, c.binary(op, _part(self, "im"), _times(c, _part(other, "im"), alpha), suffix="im")
        )
    # A real operand has no imaginary part; the other's takes the shape of the result.
    im = _part(self if _is_complex(self) else other, "im")
    if not _is_complex(self) and op == "sub":
        im = _times(c, im, -1.0)
    if not _is_complex(self):
        im = _times(c, im, alpha)
    return Complex(re, _filled(c, re, im))


def _times(c: Context, x: Any, factor: float) -> Any:
    if factor == 1:
        return x
    return c.binary("mul", x, factor) if isinstance(x, Value) else np.asarray(x) * factor


@lowers_complex("rsub")
def _rsub(c: Context, self: Any, other: Any, alpha: Any = 1) -> Complex:
    return _add(c, _mul(c, self, -float(alpha)), other)


@lowers_complex("div", "true_divide", "divide")
def _div(c: Context, self: Any, other: Any, rounding_mode: str | None = None) -> Complex:
    if rounding_mode is not None:
        raise LayoutError("rounds a quotient")
    if not _is_complex(other):
        return Complex(*(arith.divide(c, _part(self, w), other) for w in ("re", "im")))
    if not isinstance(other, Complex):
        return _mul(c, self, 1.0 / np.asarray(other))
    size = _power(c, other)
    y = _mul(c, self, _conj(c, other))
    return Complex(arith.divide(c, y.re, size), arith.divide(c, y.im, size))


@lowers_complex("pow")
def _pow(c: Context, self: Any, exponent: Any) -> Complex:
    if np.size(exponent) != 1 or not isinstance(self, Complex) or exponent != 2:
        raise LayoutError("is a complex power", "use abs() ** 2 for the power of a spectrum")
    return _mul(c, self, self)


@lowers_complex("square")
def _square(c: Context, self: Complex) -> Complex:
    return _mul(c, self, self)


def _bilinear(fn: Callable[[Any, Any], Value], c: Context, a: Any, b: Any) -> Complex:
    """A product of parts: (a + i b)(d + i e)."""
    if not (_is_complex(a) and _is_complex(b)):
        return Complex(*(fn(_part(a, w), _part(b, w)) for w in ("re", "im")))
    re, im = (_part(a, "re"), _part(b, "re")), (_part(a, "im"), _part(b, "im"))
    return Complex(
        c.binary("sub", fn(re[0], re[1]), fn(im[0], im[1]), suffix="re"),
        c.binary("add", fn(re[0], im[1]), fn(im[0], re[1]), suffix="im"),
    )


@lowers_complex("matmul", "mm", "bmm")
def _matmul(c: Context, self: Any, other: Any = None, mat2: Any = None) -> Complex:
    return _bilinear(
        lambda a, b: products.matmul(c, a, b), c, self, mat2 if other is None else other
    )


@lowers_complex("einsum")
def _einsum(c: Context, equation: str, tensors: Sequence[Any], **_: Any) -> Complex:
    if len(tensors) != 2:
        return _both("einsum")(c, equation=equation, tensors=_alone(tensors))
    return _bilinear(lambda a, b: products.einsum(c, equation, [a, b]), c, *tensors)


def _alone(tensors: Sequence[Any]) -> list[Any]:
    if sum(_is_complex(t) for t in tensors) > 1:
        raise LayoutError("multiplies more than two complex tensors", "multiply two at a time")
    return list(tensors)


# -- transforms ----------------------------------------------------------------------------------


def _scale(norm: str | int | None, points: int, *, inverse: bool) -> float:
    """Factor of a transform: by name, or by PyTorch's number (0 none, 1 by the root, 2 by n)."""
    if isinstance(norm, str | None):
        name = norm or "backward"
        if name not in ("backward", "ortho", "forward"):
            raise LayoutError(f"has normalisation {name!r}")
        number = 1 if name == "ortho" else 2 * ((name == "backward") == inverse)
    else:
        number = int(norm)
    return {0: 1.0, 1: 1.0 / math.sqrt(points), 2: 1.0 / points}[number]


def _of(x: Any, dim: int) -> int:
    v = x.re if isinstance(x, Complex) else x
    return int(v.sizes[v.axis(dim)])


def _transforms(
    c: Context, x: Any, sizes: Sequence[int | None], dims: Sequence[int], norm: Any, kind: str
) -> Any:
    """Transforms along several axes: 'rfft', 'fft', 'ifft' or 'irfft'.

    The last axis of a real transform is that of real numbers; a spectrum has both parts.
    """
    inverse = kind.startswith("i")
    points = [_of(x, d) if n in (None, -1) else n for n, d in zip(sizes, dims, strict=True)]
    if kind == "irfft" and sizes[-1] in (None, -1):
        points[-1] = 2 * (points[-1] - 1)
    scale = _scale(norm, math.prod(points), inverse=inverse)
    pairs = list(zip(dims, points, strict=True))
    if kind == "irfft":
        for d, n in pairs[:-1]:
            x = spectrum.transform(c, x, d, n, inverse=True)
        return spectrum.inverse_real(c, x, dims[-1], points[-1], scale=scale)
    for d, n in reversed(pairs):
        onesided = kind == "rfft" and d == dims[-1]
        x = spectrum.transform(c, x, d, n, inverse=inverse, onesided=onesided, scale=scale)
        scale = 1.0
    return x


def _fft(c: Context, self: Any, n: int | None = None, dim: int = -1, norm: Any = None) -> Any:
    return _transforms(c, self, [n], [dim], norm, c.op.base.removeprefix("fft_"))


def _fft_of_many(
    c: Context, self: Any, s: Sequence[int] | None = None, dim: Sequence[int] | None = None,
    norm: Any = None,
) -> Any:  # fmt: skip
    kind, two = c.op.base.removeprefix("fft_")[:-1], c.op.base.endswith("2")
    rank = len((self.re if isinstance(self, Complex) else self).axes)
    if dim is None:
        dim = range(-2 if two else -rank if s is None else -len(s), 0)
    sizes: list[int | None] = [None for _ in dim] if s is None else list(s)
    return _transforms(c, self, sizes, list(dim), norm, kind)


for _name in ("rfft", "fft", "ifft", "irfft"):
    for _suffix, _fn in (("", _fft), ("2", _fft_of_many), ("n", _fft_of_many)):
        lowers(f"fft_{_name}{_suffix}")(_fn)
        if _name != "rfft":
            lowers_complex(f"fft_{_name}{_suffix}")(_fn)


@lowers("_fft_r2c")
def _fft_r2c(
    c: Context, self: Value, dim: Sequence[int], normalization: int, onesided: bool
) -> Any:
    return _transforms(
        c, self, [None] * len(dim), dim, normalization, "rfft" if onesided else "fft"
    )


@lowers_complex("_fft_c2c")
def _fft_c2c(
    c: Context, self: Complex, dim: Sequence[int], normalization: int, forward: bool
) -> Any:
    return _transforms(c, self, [None] * len(dim), dim, normalization, "fft" if forward else "ifft")


@lowers_complex("_fft_c2r")
def _fft_c2r(
    c: Context, self: Complex, dim: Sequence[int], normalization: int, last_dim_size: int
) -> Any:
    sizes: list[int | None] = [None for _ in dim[:-1]]
    sizes.append(last_dim_size)
    return _transforms(c, self, sizes, dim, normalization, "irfft")


@lowers("stft")
def _stft(
    c: Context, self: Value, n_fft: int, hop_length: int | None = None,
    win_length: int | None = None, window: Any = None, center: bool = False,
    pad_mode: str = "reflect", normalized: bool = False, onesided: bool | None = None,
    return_complex: bool | None = None, align_to_window: bool | None = None,
) -> Any:  # fmt: skip
    """[..., samples] to [..., frequencies, pieces] (torch.stft)."""
    if isinstance(window, Value):
        raise LayoutError("has a window that depends on the input", "use a constant window")
    if align_to_window:
        raise LayoutError("is aligned to the window", "leave align_to_window out")
    width = n_fft if win_length is None else win_length
    if window is None:
        window = np.ones(width)
    if np.iscomplexobj(window) or np.size(window) != width:
        raise LayoutError(f"has a window of {np.size(window)} that is not {width} real numbers")
    if center:
        self = LOWER["pad"](c, self, [n_fft // 2, n_fft // 2], pad_mode)
    y = spectrum.transform_of_time(
        c, self, len(self.axes) - 1, n_fft, n_fft // 4 if hop_length is None else hop_length,
        window, onesided=onesided is not False, scale=1 / math.sqrt(n_fft) if normalized else 1.0,
    )  # fmt: skip
    rank = len(y.re.axes)
    order = [*range(rank - 2), rank - 1, rank - 2]
    y = Complex(views.permute(c, y.re, order), views.permute(c, y.im, order))
    return y if return_complex else y.pair(c)


@lowers("istft")
@lowers_complex("istft")
def _istft(c: Context, self: Any, **_: Any) -> Value:
    raise LayoutError(
        "adds overlapping pieces and divides by what their windows sum up to, which differs at the "
        "ends of a sequence",
        "return the spectrum or the mask, and add the pieces up outside of the model",
    )
