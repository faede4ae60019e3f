"""What to do about an operator that cannot be compiled."""

from __future__ import annotations

__all__ = ["advice_for"]

_CLASSES = "drop it: the largest score is the largest probability, and the device compares scores"
_PLACE = ("gives the place of an extreme", _CLASSES)
_SORTS = ("sorts", _CLASSES)
_ROUNDS = ("rounds", "quantisation is done after import")
_RANDOM = ("draws random numbers", "export for inference")
_OPEN = ("has a result whose size depends on the input", "use fixed sizes")
_REMAINDER = ("takes a remainder", "use a table of your own before the model")
_STORED = ("multiplies stored integers", "export the float model: edgeseq quantises it")
_CHOOSES = ("chooses its scale while it runs", "export the float model: edgeseq quantises it")

_ADVICE: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("argmax", "argmin"), _PLACE),
    **dict.fromkeys(("topk", "sort", "argsort", "median", "kthvalue", "quantile"), _SORTS),
    **dict.fromkeys(("round", "floor", "ceil", "trunc", "floor_divide"), _ROUNDS),
    **dict.fromkeys(("remainder", "fmod"), _REMAINDER),
    **dict.fromkeys(("nonzero", "masked_select", "unique", "_unique2", "bincount"), _OPEN),
    **dict.fromkeys(
        ("rand", "randn", "rand_like", "randn_like", "bernoulli", "multinomial", "normal"), _RANDOM
    ),
    "wrap_with_set_grad_enabled": ("cannot be compiled", "remove torch.no_grad from forward"),
}


def advice_for(base: str) -> tuple[str, str]:
    """(what is wrong, what to do) for a PyTorch operator without a lowering."""
    return _ADVICE.get(base, ("cannot be compiled", ""))


_ONNX: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("ArgMax", "ArgMin"), _PLACE),
    "TopK": _SORTS,
    **dict.fromkeys(("NonZero", "Unique", "Compress"), _OPEN),
    **dict.fromkeys(("Round", "Floor", "Ceil"), _ROUNDS),
    "Mod": _REMAINDER,
    "DynamicQuantizeLinear": _CHOOSES,
    **dict.fromkeys(("MatMulInteger", "ConvInteger"), _STORED),
    **dict.fromkeys(
        ("QLinearMatMul", "QLinearConv"), (_STORED[0], "export in QDQ form, or the float model")
    ),
    **dict.fromkeys(
        (
            *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"),
            *("RandomUniform", "RandomUniformLike"),
        ),
        _RANDOM,
    ),
}


def onnx_advice(kind: str) -> tuple[str, str]:
    """(what is wrong, what to do) for an ONNX operator without a lowering."""
    if "." in kind:
        return "is not an operator of the ONNX standard", "export with standard operators"
    return _ONNX.get(kind, ("cannot be compiled", ""))
