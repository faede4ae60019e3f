"""What a user may choose about quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeseq.errors import UsageError, unknown_name

__all__ = ["METHODS", "QuantOptions"]

METHODS = ("minmax", "percentile", "mse", "entropy")


@dataclass(frozen=True)
class QuantOptions:
    """Widths and calibration.

    Attributes:
        weight_bits: 8 or 16; of every matrix.
        activation_bits: 16 or 8; of what matrix products read. Gates, states and residual streams
            stay at least 16 bits wide.
        method: how the range of an 8-bit activation is chosen from what calibration saw;
            16-bit activations always take the largest magnitude (percentiles lost 6-14 dB there).
        margin: of 16-bit activations over the largest magnitude seen, 1..2.
        snr: if not None, widen matrices to 16 bits, the most useful first, until the output's
            signal-to-noise ratio against the real step reaches this many dB.
        weight_bits_of: widths by node name, over `weight_bits`.
    """

    weight_bits: int = 8
    activation_bits: int = 16
    method: str = "minmax"
    margin: float = 1.5
    snr: float | None = None
    weight_bits_of: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, *self.weight_bits_of.values()):
            if bits not in (8, 16):
                raise UsageError(f"weights of {bits} bits", fix="choose 8 or 16")
        if self.activation_bits not in (8, 16):
            raise UsageError(f"activations of {self.activation_bits} bits", fix="choose 8 or 16")
        if self.method not in METHODS:
            raise UsageError(unknown_name("calibration method", self.method, METHODS))
        if not 1.0 <= self.margin <= 2.0:
            raise UsageError(f"a margin of {self.margin:g}", fix="choose 1 to 2")
