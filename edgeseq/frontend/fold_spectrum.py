"""Fourier transforms and complex numbers among constants: the spectrum of a fixed kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from edgeseq.frontend.fold import _bounded, _fold

_Norm = Literal["backward", "ortho", "forward"]

_NORMS: dict[int, _Norm] = {0: "backward", 1: "ortho", 2: "forward"}
"""Of a forward transform, as PyTorch numbers them; an inverse one is the other way round."""


def _same_width(y: Any, x: Any) -> Any:
    """numpy computes in double precision; PyTorch keeps the element type's."""
    if np.asarray(x).dtype.itemsize == (16 if np.iscomplexobj(x) else 8):
        return y
    return y.astype(np.complex64 if np.iscomplexobj(y) else np.float32)


@_fold("complex")
def _complex(real: Any, imag: Any) -> Any:
    return _same_width(np.asarray(real) + 1j * np.asarray(imag), real)


@_fold("polar")
def _polar(abs: Any, angle: Any) -> Any:
    return _same_width(np.asarray(abs) * np.exp(1j * np.asarray(angle)), abs)


@_fold("view_as_complex", "view_as_complex_copy")
def _view_as_complex(self: Any) -> Any:
    return _complex(self[..., 0], self[..., 1])


@_fold("view_as_real", "view_as_real_copy")
def _view_as_real(self: Any) -> Any:
    return np.stack([self.real, self.imag], -1)


@_fold("real")
def _real(self: Any) -> Any:
    return np.real(self)


@_fold("imag")
def _imag(self: Any) -> Any:
    return np.imag(self)


@_fold("angle")
def _angle(self: Any) -> Any:
    return np.angle(self)


@_fold("conj", "conj_physical", "_conj", "_conj_physical")
def _conj(self: Any) -> Any:
    return np.conj(self)


@_fold("resolve_conj", "resolve_neg")
def _resolved(self: Any) -> Any:
    return self


def _one(fn: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
        points = np.shape(self)[dim] if n is None else n
        _bounded([np.size(self) // max(np.shape(self)[dim], 1), points])
        return _same_width(fn(self, n=n, axis=dim, norm=norm), self)

    return apply


def _several(fn: Callable[..., Any], last: int | None = None) -> Callable[..., Any]:
    def apply(
        self: Any, s: Sequence[int] | None = None, dim: Sequence[int] | None = None,
        norm: str | None = None,
    ) -> Any:  # fmt: skip
        if dim is None and last is not None:
            dim = range(-last, 0)
        if s is not None:
            _bounded([abs(n) for n in s])
        return _same_width(fn(self, s=s, axes=dim, norm=norm), self)

    return apply


for _name in ("rfft", "irfft", "fft", "ifft"):
    _fold(f"fft_{_name}")(_one(getattr(np.fft, _name)))
    _fold(f"fft_{_name}n")(_several(getattr(np.fft, f"{_name}n")))
    _fold(f"fft_{_name}2")(_several(getattr(np.fft, f"{_name}n"), 2))


@_fold("_fft_r2c")
def _fft_r2c(self: Any, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    fn = np.fft.rfftn if onesided else np.fft.fftn
    return _same_width(fn(self, axes=dim, norm=_NORMS[normalization]), self)


@_fold("_fft_c2c")
def _fft_c2c(self: Any, dim: Sequence[int], normalization: int, forward: bool) -> Any:
    if forward:
        return _same_width(np.fft.fftn(self, axes=dim, norm=_NORMS[normalization]), self)
    return _same_width(np.fft.ifftn(self, axes=dim, norm=_NORMS[_turned(normalization)]), self)


@_fold("_fft_c2r")
def _fft_c2r(self: Any, dim: Sequence[int], normalization: int, last_dim_size: int) -> Any:
    sizes = [self.shape[d] for d in dim[:-1]] + [last_dim_size]
    norm = _NORMS[_turned(normalization)]
    return _same_width(np.fft.irfftn(self, s=sizes, axes=dim, norm=norm), self)


def _turned(normalization: int) -> int:
    return {0: 2, 1: 1, 2: 0}[normalization]
