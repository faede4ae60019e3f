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
        snr: if not None, widen matrices to 16 bits, the most useful first, until every output's
            signal-to-noise ratio against the real step reaches this many dB; where that is not
            enough, what they read as well.
        snr_goal: the ratio is a goal: where it is out of reach, the best that was found is taken
            instead of an error.
        weight_bits_of: widths by the name of a `linear` or `depthwise` node, over `weight_bits`.
        activation_bits_of: widths of what such a node reads, over `activation_bits`: 8, 16 or 32.
            32 bits are read as two halves of 16, at twice the cost of the product.
    """

    weight_bits: int = 8
    activation_bits: int = 16
    method: str = "minmax"
    margin: float = 1.5
    snr: float | None = None
    snr_goal: bool = False
    weight_bits_of: Mapping[str, int] = field(default_factory=dict)
    activation_bits_of: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, *self.weight_bits_of.values()):
            if bits not in (8, 16):
                raise UsageError(f"weights of {bits} bits", fix="choose 8 or 16")
        if self.activation_bits not in (8, 16):
            raise UsageError(f"activations of {self.activation_bits} bits", fix="choose 8 or 16")
        for bits in self.activation_bits_of.values():
            if bits not in (8, 16, 32):
                raise UsageError(f"activations of {bits} bits", fix="choose 8, 16 or 32")
        if self.method not in METHODS:
            raise UsageError(unknown_name("calibration method", self.method, METHODS))
        if not 1.0 <= self.margin <= 2.0:
            raise UsageError(f"a margin of {self.margin:g}", fix="choose 1 to 2")

    def weights_of(self, node: str) -> int:
        """Width of the weights of a node."""
        return self.weight_bits_of.get(node, self.weight_bits)

    def activations_of(self, node: str) -> int:
        """Width of what the constant matrix of a node multiplies."""
        return self.activation_bits_of.get(node, self.activation_bits)
