"""Plain recurrent layer: PyTorch's fused `nn.RNN` with tanh."""

from __future__ import annotations

from torch import nn

from edgeseq.nn import _init


def layer(input_size: int, hidden_size: int) -> nn.RNN:
    """One layer: [batch, T, input_size] -> ([batch, T, hidden_size], last state).

    Recurrent weights orthogonal, input weights Xavier, biases zero.
    """
    module = nn.RNN(input_size, hidden_size, batch_first=True)
    _init.gates(module, "xavier")
    return module
