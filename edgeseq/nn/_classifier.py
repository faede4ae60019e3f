"""The classifier around a recurrent cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Input normalisation, recurrent layers and a linear head.

    The model takes raw sensor units: the normalisation is part of it, as ``(x - mean) * gain``
    with one constant per channel, so the deployed model needs no preparation of its input.

    ``forward`` gives the logits of a window, read at its last frame; `frames` those of every
    frame, which is what a streaming model emits. Windows have a fixed length and no padding.
    """

    mean: Tensor
    gain: Tensor

    def __init__(
        self,
        layers: Sequence[nn.Module],
        *,
        inputs: int,
        hidden: int,
        classes: int,
        dropout: float = 0.0,
        norm: bool = False,
        residual: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            layers: recurrent layers, batch first, each returning (outputs, last state).
            inputs, hidden, classes: channels, units per layer, outputs.
            dropout: before the head and between layers, while training.
            norm: LayerNorm after every layer.
            residual: add a layer's input to its output (and normalise the sum), from the second.
        """
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("gain", torch.ones(inputs))
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) if norm else nn.Identity() for _ in layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)
        self.residual = residual
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def normalise_with(self, mean: Tensor, std: Tensor) -> None:
        """Set the input normalisation from statistics [C] of the training frames."""
        self.mean.copy_(mean)
        self.gain.copy_(1.0 / std)

    def features(self, x: Tensor) -> Tensor:
        """Outputs of the last layer for every frame: [batch, T, C] -> [batch, T, hidden]."""
        x = (x - self.mean) * self.gain
        for index, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            if index:
                x = self.dropout(x)
            y, _ = layer(x)
            x = norm(x + y if self.residual and index else y)
        return x

    def frames(self, x: Tensor) -> Tensor:
        """Logits of every frame: [batch, T, C] -> [batch, T, classes]."""
        return self.head(self.dropout(self.features(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at the last frame: [batch, T, C] in sensor units -> [batch, classes]."""
        return self.head(self.dropout(self.features(x)[:, -1]))


class PerFrame(nn.Module):
    """The same weights, answering at every frame: what a streaming model computes."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """[batch, T, C] in sensor units -> [batch, T, classes]."""
        return self.classifier.frames(x)
