"""What to do about an operator that cannot be compiled."""

from __future__ import annotations

__all__ = ["advice_for"]

_CLASSES = "drop it: the largest score is the largest probability, and the device compares scores"
_LOOP = "use nn.RNN, nn.GRU or nn.LSTM, which are compiled as one recurrence"
_MASK = "compile the model for streams of one frame after another, without padding or masks"

_ADVICE: dict[str, str] = {
    "softmax": _CLASSES,
    "_softmax": _CLASSES,
    "log_softmax": _CLASSES,
    "_log_softmax": _CLASSES,
    "argmax": _CLASSES,
    "topk": _CLASSES,
    "max": _CLASSES,
    "conv1d": "convolutions are not compiled yet; use Linear and recurrent layers",
    "convolution": "convolutions are not compiled yet; use Linear and recurrent layers",
    "conv2d": "convolutions are not compiled yet; use Linear and recurrent layers",
    "embedding": "pass float frames; look embeddings up before the model",
    "scaled_dot_product_attention": "attention is not compiled yet; use recurrent layers",
    "gru_cell": _LOOP,
    "lstm_cell": _LOOP,
    "rnn_tanh_cell": _LOOP,
    "rnn_relu_cell": _LOOP,
    "_pack_padded_sequence": _MASK,
    "_pad_packed_sequence": _MASK,
    "masked_fill": _MASK,
    "where": _MASK,
    "flip": "a stream cannot be reversed; use a causal model",
    "roll": "a stream cannot be rotated; use a causal model",
    "cumsum": "sums over time are not compiled; a recurrent layer can keep one",
    "sqrt": "fold it into a constant, or use an activation",
    "log": "compute logarithms in the features before the model",
    "group_norm": "use LayerNorm",
    "native_group_norm": "use LayerNorm",
    "instance_norm": "use LayerNorm",
    "wrap_with_set_grad_enabled": "remove torch.no_grad from forward",
    "sum": "only the features of one frame can be summed",
}


def advice_for(base: str) -> tuple[str, str]:
    """(what is wrong, what to do) for an operator without a lowering."""
    return "cannot be compiled", _ADVICE.get(base, "")


_ONNX: dict[str, tuple[str, str]] = {
    "ArgMax": ("gives the place of the greatest", _CLASSES),
    "ArgMin": ("gives the place of the least", _CLASSES),
    "TopK": ("sorts", _CLASSES),
    "NonZero": ("has a result whose size depends on the input", "use fixed sizes"),
    "Round": ("rounds", "quantisation is done after import"),
    "Floor": ("rounds", "quantisation is done after import"),
    "Ceil": ("rounds", "quantisation is done after import"),
    "Mod": ("takes a remainder", "use a table of your own before the model"),
    "DynamicQuantizeLinear": (
        "chooses its scale while it runs",
        "export the float model: edgeseq quantises it",
    ),
    "MatMulInteger": ("multiplies stored integers", "export the float model: edgeseq quantises it"),
    "ConvInteger": ("multiplies stored integers", "export the float model: edgeseq quantises it"),
    "QLinearMatMul": ("multiplies stored integers", "export in QDQ form, or the float model"),
    "QLinearConv": ("multiplies stored integers", "export in QDQ form, or the float model"),
    "RandomNormal": ("draws random numbers", "export for inference"),
    "RandomUniform": ("draws random numbers", "export for inference"),
    "RandomNormalLike": ("draws random numbers", "export for inference"),
    "RandomUniformLike": ("draws random numbers", "export for inference"),
}


def onnx_advice(kind: str) -> tuple[str, str]:
    """(what is wrong, what to do) for an ONNX operator without a lowering."""
    if "." in kind:
        return "is not an operator of the ONNX standard", "export with standard operators"
    return _ONNX.get(kind, ("cannot be compiled", ""))
