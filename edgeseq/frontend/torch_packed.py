"""Packed sequences, while a module is looked at: as plain ones.

`torch.export` does not take packed sequences. A stream has no padding, so a module that packs its
input is run on sequences of full length, where packing changes nothing: for that time the two
functions and the layers that meet a packed sequence are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils import rnn

__all__ = ["PaddedError", "Packing", "plain_sequences"]


class PaddedError(ValueError):
    """Sequences are packed that are shorter than the tensor that holds them."""

    def __init__(self, frames: int) -> None:
        super().__init__(f"packs sequences that are shorter than {frames} frames")


class Packing:
    """Whether anything was packed."""

    def __init__(self) -> None:
        self.used = False


class _Plain:
    """Stands for a packed sequence of full length: [batch, time, ...]."""

    def __init__(self, padded: torch.Tensor, lengths: Any) -> None:
        self.padded, self.lengths = padded, lengths


@contextmanager
def plain_sequences(*, check: bool) -> Iterator[Packing]:
    """Run packed sequences as plain ones within the block.

    Args:
        check: look at the lengths; while exporting they cannot be read.
    """
    seen = Packing()
    real_pack, real_pad = rnn.pack_padded_sequence, rnn.pad_packed_sequence
    real_list, forward = rnn.pack_sequence, {}

    def pack(
        input: torch.Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
    ) -> _Plain:
        seen.used = True
        padded = input if batch_first else input.transpose(0, 1)
        if check:
            full = padded.shape[1]
            if any(int(n) != full for n in torch.as_tensor(lengths).reshape(-1)):
                raise PaddedError(full)
        return _Plain(padded, lengths)

    def pad(
        sequence: Any, batch_first: bool = False, padding_value: float = 0.0,
        total_length: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        if not isinstance(sequence, _Plain):
            return real_pad(sequence, batch_first, padding_value, total_length)
        x = sequence.padded
        lengths = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64)
        return (x if batch_first else x.transpose(0, 1)), lengths

    def pack_list(sequences: list[torch.Tensor], enforce_sorted: bool = True) -> _Plain:
        lengths = [len(s) for s in sequences]
        return pack(torch.stack(sequences), lengths, True, enforce_sorted)

    def layer(kind: Any) -> Any:
        real = kind.forward

        def run(self: Any, input: Any, hx: Any = None) -> Any:
            if not isinstance(input, _Plain):
                return real(self, input, hx)
            x = input.padded if self.batch_first else input.padded.transpose(0, 1)
            y, h = real(self, x, hx)
            return _Plain(y if self.batch_first else y.transpose(0, 1), input.lengths), h

        return real, run

    swaps = {id(real_pack): pack, id(real_pad): pad, id(real_list): pack_list}
    undo: list[tuple[dict[str, Any], str, Any]] = []
    for home in list(sys.modules.values()):
        names = getattr(home, "__dict__", None)
        if not isinstance(names, dict):
            continue
        for key, value in list(names.items()):
            if id(value) in swaps:
                undo.append((names, key, value))
                names[key] = swaps[id(value)]
    for kind in (torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM):
        forward[kind], replacement = layer(kind)
        kind.forward = replacement  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        for names, key, value in undo:
            names[key] = value
        for kind, real in forward.items():
            kind.forward = real  # type: ignore[method-assign]
