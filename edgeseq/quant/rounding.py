"""Rounding of a matrix that minimises the error of its product, not of its weights.

Rounding every weight to the nearest level leaves independent errors. Where inputs are correlated,
as the channels of a sensor or the units of a state are, the error of one weight can be made up for
by the weights that are rounded after it.

Source: Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ" (ICLR 2023, arXiv 2210.17323), eq. 2-3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["round_matrix"]

Array = npt.NDArray[Any]

# Of the mean activity; mean accuracy over random models is flat from 0.003 to 0.3.
_DAMPING = 0.03


def round_matrix(w: Array, scale: Array, q_max: int, gram: Array | None) -> Array:
    """Levels of `w` in units of one scale per row.

    Args:
        w: real matrix [O, K].
        scale: [O], positive.
        q_max: greatest magnitude of a level.
        gram: sum of ``x x^T`` over typical inputs x, [K, K]; None rounds to nearest.

    Returns:
        Whole numbers within -q_max..q_max, float64 [O, K].
    """
    if gram is None or not np.any(np.diag(gram) > 0):
        return _nearest(w / scale[:, None], q_max)
    h = np.array(gram, np.float64)
    idle = np.diag(h) == 0  # an input that never moves: any level will do
    h[idle, idle] = 1.0
    h[np.diag_indices_from(h)] += _DAMPING * float(np.mean(np.diag(h)))
    # Most active inputs first: their errors are the largest, and most can be made up for.
    order = np.argsort(-np.diag(h), kind="stable")
    u = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    rest = np.array(w[:, order], np.float64)
    q = np.empty_like(rest)
    for j in range(rest.shape[1]):
        q[:, j] = _nearest(rest[:, j] / scale, q_max)
        error = (rest[:, j] - q[:, j] * scale) / u[j, j]
        rest[:, j + 1 :] -= error[:, None] * u[j, j + 1 :]
    out = np.empty_like(q)
    out[:, order] = q
    return out


def _nearest(x: Array, q_max: int) -> Array:
    return np.clip(np.floor(x + 0.5), -q_max, q_max)
