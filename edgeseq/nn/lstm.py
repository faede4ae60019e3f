"""LSTM: PyTorch's fused `nn.LSTM`, gates in the order input, forget, cell, output."""

from __future__ import annotations

import torch
from torch import nn

from edgeseq.nn import _init


def layer(input_size: int, hidden_size: int) -> nn.LSTM:
    """One layer: [batch, T, input_size] -> ([batch, T, hidden_size], last state).

    Recurrent weights orthogonal and input weights Xavier, gate by gate. The forget gate's bias is
    1, so that a fresh cell remembers (Jozefowicz, Zaremba and Sutskever 2015); PyTorch adds two
    bias vectors, so one is 1 and the other 0.
    """
    module = nn.LSTM(input_size, hidden_size, batch_first=True)
    _init.gates(module, "xavier")
    with torch.no_grad():
        module.get_parameter("bias_ih_l0")[hidden_size : 2 * hidden_size] = 1.0
    return module
