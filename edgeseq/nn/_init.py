"""Initialisation of recurrent layers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn


def gates(module: nn.RNNBase, inputs: Literal["xavier", "he"]) -> None:
    """Initialise every weight block of one gate on its own; set all biases to zero.

    PyTorch stacks the gates of a layer in one matrix. Fan-out and orthogonality are properties of
    one gate's block, not of the stack.

    Args:
        module: `nn.RNN`, `nn.LSTM` or `nn.GRU`.
        inputs: "xavier" (Glorot and Bengio 2010) for tanh and sigmoid, "he" (He et al. 2015) for
            relu. Recurrent blocks are orthogonal (Saxe et al. 2014) in both cases.
    """
    size = module.hidden_size
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.startswith("bias"):
                parameter.zero_()
                continue
            for block in parameter.split(size):
                if name.startswith("weight_hh"):
                    nn.init.orthogonal_(block)
                elif inputs == "xavier":
                    nn.init.xavier_uniform_(block)
                else:
                    nn.init.kaiming_uniform_(block, nonlinearity="relu")
