"""Sequence models in plain PyTorch, one cell per file.

A file here that does not start with an underscore is a cell, found by its name: it defines
``layer(input_size, hidden_size) -> nn.Module``, batch first, whose call returns ``(outputs, last
state)``, with its weights initialised. Importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeseq.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from edgeseq.nn._classifier import Classifier

__all__ = ["build", "cells"]


def cells() -> tuple[str, ...]:
    """Names of the cells."""
    from edgeseq.config import known_cells

    return known_cells()


def build(
    cell: str,
    inputs: int,
    hidden: int,
    classes: int,
    *,
    layers: int = 1,
    dropout: float = 0.0,
    norm: str = "none",
    residual: bool = False,
) -> Classifier:
    """A classifier with fresh weights from torch's global generator.

    Args:
        cell: a name from `cells`.
        inputs: channels C of a frame.
        hidden: units of each recurrent layer.
        classes: outputs of the head.
        layers, dropout, norm, residual: as in ``[model]`` of the settings.

    Raises:
        ConfigError: an unknown cell.
    """
    from importlib import import_module

    from edgeseq.nn._classifier import Classifier

    if cell not in cells():
        raise ConfigError(unknown_name("cell", cell, cells()), fix="use one of the known cells")
    layer = import_module(f"edgeseq.nn.{cell}").layer
    return Classifier(
        [layer(inputs if index == 0 else hidden, hidden) for index in range(layers)],
        inputs=inputs,
        hidden=hidden,
        classes=classes,
        dropout=dropout,
        norm=norm == "layer",
        residual=residual,
    )
