"""Plain recurrent layer with relu: PyTorch's fused `nn.RNN`."""

from __future__ import annotations

from torch import nn

from edgeseq.nn import _init


def layer(input_size: int, hidden_size: int) -> nn.RNN:
    """One layer: [batch, T, input_size] -> ([batch, T, hidden_size], last state).

    Recurrent weights orthogonal, input weights He, biases zero.
    """
    module = nn.RNN(input_size, hidden_size, nonlinearity="relu", batch_first=True)
    _init.gates(module, "he")
    return module
