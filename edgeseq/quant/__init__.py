"""Quantisation: calibrate ranges, assign formats, convert to integers, prove the bounds."""

from edgeseq.quant.bounds import ranges
from edgeseq.quant.options import METHODS, QuantOptions
from edgeseq.quant.quantise import Quantised, quantise, snr_db
from edgeseq.quant.weights import Proof, prove

__all__ = ["METHODS", "Proof", "QuantOptions", "Quantised", "prove", "quantise", "ranges", "snr_db"]
