"""Training windows, cut at random and changed at random, from frames kept on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgeseq.config import Augment
from edgeseq.data import Recording

# Playback speeds outside this range look like another exercise, not like another person.
_SLOWEST, _FASTEST = 0.6, 1.6


class WindowSource:
    """Windows of the training recordings, each cut anew (and changed) every time it is asked for.

    Random numbers come from one CPU generator and are drawn for a whole batch before it is divided
    among processes, so that what is drawn depends neither on the device nor on how many there are.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        length: int,
        hop: int,
        augment: Augment,
        channels: Sequence[str],
        std: np.ndarray,
        device: torch.device,
    ) -> None:
        """Keep the frames of `recordings` on `device`.

        Args:
            recordings: training recordings; those shorter than `length` are left out.
            length, hop: of the windows, in frames.
            augment: what to change; its channel names must be in `channels`.
            channels: names of the C channels.
            std: [C] standard deviation of each channel, the unit of `augment.noise`.
            device: where batches are made.
        """
        kept = [r for r in recordings if len(r.frames) >= length]
        self.length, self.hop, self.augment = length, hop, augment
        self.frames = torch.from_numpy(np.concatenate([r.frames for r in kept])).to(device)
        starts, firsts, lasts, labels = [], [], [], []
        offset = 0
        for recording in kept:
            for start in range(0, len(recording.frames) - length + 1, hop):
                starts.append(offset + start)
                firsts.append(offset)
                lasts.append(offset + len(recording.frames) - 1)
                labels.append(recording.label)
            offset += len(recording.frames)
        self.start = torch.tensor(starts, dtype=torch.float64)
        self.first = torch.tensor(firsts, dtype=torch.float64)
        self.last = torch.tensor(lasts, dtype=torch.float64)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.std = torch.from_numpy(std).to(device)
        self.rates = [list(channels).index(name) for name in augment.rates]
        self.vectors = [[list(channels).index(n) for n in triple] for triple in augment.vectors]
        self.signs = torch.tensor(augment.mirror, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.start)

    def batch(
        self, index: Tensor, generator: torch.Generator, part: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Windows and labels.

        Args:
            index: which windows, [B] int64.
            generator: on the CPU; it is advanced by the same amount whatever `part` is.
            part: the share of the batch this process works on.

        Returns:
            [b, length, C] float32 on the device of the frames and [b] int64 labels.
        """
        device, augment, count = self.frames.device, self.augment, len(index)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, generator=generator)

        speed = torch.ones(count, dtype=torch.float64)
        if augment.time_warp:
            speed = torch.exp(normal() * augment.time_warp).clamp(_SLOWEST, _FASTEST).double()
        start = self.start[index]
        if augment.shift:
            start = start + (torch.rand(count, generator=generator) - 0.5) * self.hop
        gain = torch.exp(normal() * augment.scale) if augment.scale else None
        turn = rotations(normal(3), normal(), augment.rotate_deg) if augment.rotate_deg else None
        flip = torch.rand(count, generator=generator) < 0.5 if len(self.signs) else None
        noise = (
            normal(self.length, self.frames.shape[1])[part].to(device) if augment.noise else None
        )

        # Positions between frames: a window that is played faster needs more frames than `length`.
        first, last = self.first[index], self.last[index]
        span = (self.length - 1) * speed
        start = torch.maximum(torch.minimum(start, last - span), first)
        at = (start[:, None] + torch.arange(self.length) * speed[:, None])[part]
        at = torch.minimum(at, last[part][:, None])
        if augment.time_warp or augment.shift:
            low = torch.minimum(at.floor(), last[part][:, None] - 1)
            between = (at - low).float().to(device)[..., None]
            low = low.long().to(device)
            x = torch.lerp(self.frames[low], self.frames[low + 1], between)
        else:
            x = self.frames[at.long().to(device)]

        if self.rates and augment.time_warp:
            factor = torch.ones(count, self.frames.shape[1])
            factor[:, self.rates] = speed.float()[:, None]
            x = x * factor[part].to(device)[:, None, :]
        if turn is not None:
            matrices = turn[part].to(device)
            for triple in self.vectors:
                x[..., triple] = x[..., triple] @ matrices
        if flip is not None:
            signs = torch.where(flip[:, None], self.signs, torch.ones_like(self.signs))
            x = x * signs[part].to(device)[:, None, :]
        if gain is not None:
            x = x * gain[part].to(device)[:, None, None]
        if noise is not None:
            x = x + noise * (augment.noise * self.std)
        return x, self.labels[index][part].to(device)


def rotations(axis: Tensor, angle: Tensor, degrees: float) -> Tensor:
    """Rotation matrices [B, 3, 3] by Rodrigues' formula.

    Args:
        axis: [B, 3], any length above zero; normal deviates give uniform directions.
        angle: [B] in units of `degrees`.
    """
    x, y, z = (axis / axis.norm(dim=1, keepdim=True)).unbind(1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    theta = (angle * math.radians(degrees))[:, None, None]
    return torch.eye(3) + torch.sin(theta) * k + (1 - torch.cos(theta)) * (k @ k)
