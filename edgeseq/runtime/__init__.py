"""Streaming inference on the device: opens an artifact folder, needs numpy and nothing else."""

from __future__ import annotations

from edgeseq.runtime.stream import Decision, Stream

__all__ = ["Decision", "Stream"]
