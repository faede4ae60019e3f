"""Functions of one real variable that a `lut` node may name.

Each has its definition and, where the function is flat outside a range, that range: a table over
the range is then exact at its ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FUNCTIONS", "WIDE", "Function"]

Real = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Function:
    """One function.

    Attributes:
        fn: vectorised definition.
        domain: (lo, hi) outside of which the function is constant to within 2^-15, or None.
        image: (lo, hi) that its values never leave, or None where it is unbounded.
    """

    fn: Callable[[Real], Real]
    domain: tuple[float, float] | None = None
    image: tuple[float, float] | None = None


def _sigmoid(x: Real) -> Real:
    e = np.exp(-np.abs(x))
    y: Real = np.where(x >= 0, 1.0, e) / (1.0 + e)
    return y


_erf = np.vectorize(erf, otypes=[np.float64])


def _gelu(x: Real) -> Real:
    y: Real = 0.5 * x * (1.0 + _erf(x / sqrt(2.0)))
    return y


def _gelu_tanh(x: Real) -> Real:
    return 0.5 * x * (1.0 + np.tanh(sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


FUNCTIONS: dict[str, Function] = {
    # sigma(-8) is 2^-11.5: a table over +-8 caps the memory of slow gates, so it spans +-16.
    "sigmoid": Function(_sigmoid, (-16.0, 16.0), (0.0, 1.0)),
    "tanh": Function(np.tanh, (-8.0, 8.0), (-1.0, 1.0)),
    "hard_sigmoid": Function(lambda x: np.clip(x / 6.0 + 0.5, 0.0, 1.0), (-4.0, 4.0), (0.0, 1.0)),
    "hard_swish": Function(lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "silu": Function(lambda x: x * _sigmoid(x)),
    "gelu": Function(_gelu),
    "gelu_tanh": Function(_gelu_tanh),
    "elu": Function(lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))),
    "softplus": Function(lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))),
    "softsign": Function(lambda x: x / (1.0 + np.abs(x)), None, (-1.0, 1.0)),
    "erf": Function(lambda x: np.asarray(_erf(x)), (-4.0, 4.0), (-1.0, 1.0)),
    "abs": Function(np.abs),
    "exp": Function(np.exp),
    "sin": Function(np.sin, None, (-1.0, 1.0)),
    "cos": Function(np.cos, None, (-1.0, 1.0)),
}


def _reciprocal(x: Real) -> Real:
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / x)


def _log(x: Real) -> Real:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(x))


WIDE: dict[str, Callable[[Real], Real]] = {
    "sqrt": lambda x: np.sqrt(np.maximum(x, 0.0)),
    "rsqrt": lambda x: _reciprocal(np.sqrt(np.maximum(x, 0.0))),
    "reciprocal": _reciprocal,
    "log": _log,
}
"""Functions that a `wide` node may name: what they compute follows the argument's exponent."""
