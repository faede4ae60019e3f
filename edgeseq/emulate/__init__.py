"""Compiled steps on emulated CPUs: the real machine code, checked and counted."""

from __future__ import annotations

from edgeseq.emulate.cpus import CPUS, missing_emulator
from edgeseq.emulate.emulator import Emulator, Measurement

__all__ = ["CPUS", "Emulator", "Measurement", "missing_emulator"]
