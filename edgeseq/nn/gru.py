"""GRU: PyTorch's fused `nn.GRU`, gates in the order reset, update, new."""

from __future__ import annotations

from torch import nn

from edgeseq.nn import _init


def layer(input_size: int, hidden_size: int) -> nn.GRU:
    """One layer: [batch, T, input_size] -> ([batch, T, hidden_size], last state).

    Recurrent weights orthogonal and input weights Xavier, gate by gate; biases zero.
    """
    module = nn.GRU(input_size, hidden_size, batch_first=True)
    _init.gates(module, "xavier")
    return module
