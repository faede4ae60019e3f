"""A live module on NumPy arrays: what the Graph read from it is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["as_tensor", "run_module"]


def as_tensor(array: npt.ArrayLike) -> torch.Tensor:
    """`array` as a float32 tensor of its own."""
    return torch.from_numpy(np.array(array, np.float32))


def run_module(module: Any, *inputs: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], ...]:
    """The outputs of a module (one tensor or a tuple of them) for float32 inputs, as arrays."""
    with torch.inference_mode():
        answer = module(*(as_tensor(x) for x in inputs))
    outputs = answer if isinstance(answer, tuple) else (answer,)
    return tuple(y.numpy() for y in outputs)
