"""What a trained model makes of labelled windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeseq.data import Windows

_BATCH = 512


@dataclass(frozen=True)
class Evaluation:
    """Results over N windows and K classes.

    Attributes:
        logits: [N, K] float32.
        accuracy: share of windows whose largest logit is the label's, 0 to 1.
        loss: mean cross-entropy (natural logarithm, no smoothing).
        confusion: [K, K] counts; row is the label, column the answer.
    """

    logits: npt.NDArray[np.float32]
    accuracy: float
    loss: float
    confusion: npt.NDArray[np.int64]


def evaluate_float(module: nn.Module, data: Windows) -> Evaluation:
    """Run every window from a reset state and read the logits at its last frame.

    Args:
        module: [batch, T, C] -> [batch, K]; it is evaluated in float32, in eval mode, on the
            device it is on, and left in the mode it was in.
        data: labelled windows in sensor units.
    """
    device = next(module.parameters()).device
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            parts = [
                module(torch.from_numpy(data.x[first : first + _BATCH]).to(device)).float().cpu()
                for first in range(0, len(data), _BATCH)
            ]
    finally:
        module.train(training)
    return score(torch.cat(parts).numpy(), data.y, len(data.classes))


def score(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: int
) -> Evaluation:
    """Accuracy, loss and confusion of given logits [N, K] and labels [N]."""
    answers = logits.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, answers), 1)
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=1))
    loss = float(np.mean(log_total - shifted[np.arange(len(labels)), labels]))
    return Evaluation(logits, float(np.mean(answers == labels)), loss, confusion)
