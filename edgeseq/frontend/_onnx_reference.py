"""ONNX operators on constants that onnx's own reference evaluates, for breadth.

The reference trusts its inputs: an operator stands here with a check that bounds what it makes and
how long it takes, or it is not evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeseq.frontend._onnx_calls import Array, Call, FoldError, axis_of, ints
from edgeseq.frontend._onnx_normal import oldest_and_newest
from edgeseq.frontend._onnx_tensor import element_type, numpy_type

__all__ = ["REFERENCE", "by_reference"]

# The reference takes up to this part of the bound: it is slower and keeps copies.
_SHARE = 4
# Elements of the matrices that a convolution makes.
MAX_COLUMNS = 1 << 22

REFERENCE: dict[str, Callable[[Call], None]] = {}


def _bounded(*names: str) -> Callable[[Callable[[Call], None]], Callable[[Call], None]]:
    def register(fn: Callable[[Call], None]) -> Callable[[Call], None]:
        for name in names:
            REFERENCE[name] = fn
        return fn

    return register


def by_reference(call: Call, count: int) -> list[Any]:
    """Results of an operator in `REFERENCE`, the first `count` of them.

    Raises:
        FoldError: it would be too large or take too long.
    """
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    for key in ("axis", "axes"):
        value = call.attrs.get(key)
        rank = call.inputs[0].ndim + 1  # some make an axis
        if any(not -rank <= a < rank for a in (value if isinstance(value, list) else [value or 0])):
            raise FoldError(f"{key} {value} of {rank - 1} axes")
    elements = sum(x.size for x in call.inputs if x is not None)
    _check(call, elements * _SHARE)
    call.room.budget.spend(500_000 + 100 * elements)
    REFERENCE[call.name](call)
    names = ["" if x is None else f"x{i}" for i, x in enumerate(call.inputs)]
    while names and not names[-1]:
        names.pop()
    outputs = [f"y{i}" for i in range(count)]
    attrs = {k: v for k, v in call.attrs.items() if v is not None and k != "legacy"}
    node = helper.make_node(call.name, names, outputs, **attrs)
    given = {n: x for n, x in zip(names, call.inputs, strict=False) if n}
    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in given.items()
    ]
    results = [helper.make_empty_tensor_value_info(n) for n in outputs]
    graph = helper.make_graph([node], "constant", declared, results)
    opset = helper.make_opsetid("", oldest_and_newest()[1])
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[opset])).run(None, given)


def _check(call: Call, elements: int) -> None:
    if elements > call.room.bound:
        raise FoldError(f"a constant of {elements} elements is too large")


# -- no larger than the first input -------------------------------------------------------------


@_bounded("Celu", "DepthToSpace", "DynamicQuantizeLinear", "Elu", "Erf", "Gelu", "HardSigmoid",
          "HardSwish", "IsInf", "LeakyRelu", "LRN", "Mish", "Selu", "Shrink", "SpaceToDepth",
          "Swish", "ThresholdedRelu", "MeanVarianceNormalization", "LpNormalization",
          "GlobalAveragePool", "GlobalMaxPool", "ArgMax", "ArgMin", "Det", "Unique")  # fmt: skip
def _same(call: Call) -> None:
    for key in ("blocksize", "size"):
        if key in call.attrs and not 1 <= call.attrs[key] <= 1 << 16:
            raise FoldError(f"{key} {call.attrs[key]}")


@_bounded("CumProd")
def _cumulated(call: Call) -> None:
    ints(call.inputs[1])


@_bounded("TopK")
def _topk(call: Call) -> None:
    x, k = call.inputs
    count = ints(k)
    if count != [max(min(count[0], x.shape[axis_of(call.attrs["axis"], x.ndim)]), 0)]:
        raise FoldError(f"the {count} largest of {list(x.shape)}")


@_bounded("Compress")
def _compress(call: Call) -> None:
    x, kept = call.inputs
    axis = call.attrs["axis"]
    size = x.size if axis is None else x.shape[axis_of(axis, x.ndim)]
    if kept.ndim != 1 or kept.size > size:
        raise FoldError(f"a choice of {list(kept.shape)} in {list(x.shape)}")


@_bounded("ReverseSequence")
def _reverse(call: Call) -> None:
    x, lengths = call.inputs
    if x.ndim < 2 or {call.attrs["time_axis"], call.attrs["batch_axis"]} != {0, 1}:
        raise FoldError(f"sequences of shape {list(x.shape)}")
    time, batch = x.shape[call.attrs["time_axis"]], x.shape[call.attrs["batch_axis"]]
    if lengths.shape != (batch,) or np.any((lengths < 0) | (lengths > time)):
        raise FoldError(f"lengths of shape {list(lengths.shape)}")
    call.room.budget.spend(5_000 * batch)


# -- parameters that must not make it larger ----------------------------------------------------


@_bounded("BitShift")
def _broadcast(call: Call) -> None:
    call.room.together(call.inputs)


@_bounded("PRelu", "LayerNormalization", "RMSNormalization")
def _onto_first(call: Call) -> None:
    x, others = call.inputs[0], [p for p in call.inputs[1:] if p is not None]
    if np.broadcast_shapes(x.shape, *(p.shape for p in others)) != x.shape:
        raise FoldError(f"parameters of shapes {[list(p.shape) for p in others]}")


@_bounded("BatchNormalization", "InstanceNormalization")
def _per_channel(call: Call) -> None:
    x, others = call.inputs[0], call.inputs[1:]
    if x.ndim < 2 or any(p.shape != x.shape[1:2] for p in others):
        raise FoldError(f"parameters of shapes {[list(p.shape) for p in others]}")
    if call.attrs.get("training_mode"):
        raise FoldError("normalises by the statistics of a batch")


# -- what can be larger -------------------------------------------------------------------------


@_bounded("BlackmanWindow", "HammingWindow", "HannWindow")
def _window(call: Call) -> None:
    _check(call, _number(call.inputs[0]) * _SHARE)
    _check_type(call.attrs["output_datatype"])


@_bounded("MelWeightMatrix")
def _mel(call: Call) -> None:
    bins, length = _number(call.inputs[0]), _number(call.inputs[1])
    _check(call, bins * (length // 2 + 1) * _SHARE)
    call.room.budget.spend(100_000 * bins)
    _check_type(call.attrs["output_datatype"])


def _number(x: Array) -> int:
    value = ints(x)
    if len(value) != 1 or value[0] < 1:
        raise FoldError(f"a size of {value}")
    return value[0]


def _check_type(code: int) -> None:
    dtype = numpy_type(code)
    if dtype is None or dtype.kind not in "fiu" or element_type(code) != dtype.name:
        raise FoldError(f"element type {element_type(code)}")


@_bounded("DFT")
def _dft(call: Call) -> None:
    x, length, axis = call.inputs
    if x.ndim < 2 or x.shape[-1] not in (1, 2):
        raise FoldError(f"a transform of shape {list(x.shape)}")
    size = x.shape[axis_of(_axis(axis), x.ndim)]
    points = size if length is None else _number(length)
    _check(call, x.size // max(size, 1) * points * 2 * _SHARE)


def _axis(x: Array) -> int:
    value = ints(x)
    if len(value) != 1:
        raise FoldError(f"axes {value}")
    return value[0]


@_bounded("Einsum")
def _einsum(call: Call) -> None:
    """The product over all letters bounds the work, whatever the order."""
    equation = call.attrs["equation"].replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    letters = set(left + right) - set(",.")
    if len(terms) != len(call.inputs) or not all(c.isascii() and c.isalpha() for c in letters):
        raise FoldError(f"the sum {equation[:60]!r}")
    sizes: dict[str, int] = {}
    lead = 1
    for term, x in zip(terms, call.inputs, strict=True):
        before, dots, after = term.partition("...")
        names = before + after
        rest = x.ndim - len(names)
        if "." in names or rest < 0 or (rest and not dots) or (dots and not arrow):
            raise FoldError(f"the sum {equation[:60]!r} of {list(x.shape)}")
        shape = x.shape[: len(before)] + x.shape[len(before) + rest :]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size)
        lead *= math.prod(x.shape[len(before) : len(before) + rest])
    call.room.budget.spend(10 * lead * math.prod(sizes.values()))


@_bounded("MatMulInteger")
def _matmul_integer(call: Call) -> None:
    a, b, *zeros = call.inputs
    if min(a.ndim, b.ndim) < 2 or a.shape[-1] != b.shape[-2]:
        raise FoldError(f"the product of {list(a.shape)} and {list(b.shape)}")
    for zero, x in zip(zeros, (a, b), strict=True):
        if zero is not None and np.broadcast_shapes(zero.shape, x.shape) != x.shape:
            raise FoldError(f"zero points of shape {list(zero.shape)}")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    call.room.sizes([*lead, a.shape[-2], b.shape[-1]])
    call.room.budget.spend(10 * math.prod([*lead, *a.shape[-2:], b.shape[-1]]))


@_bounded("Resize")
def _resize(call: Call) -> None:
    x, roi, scales, sizes = call.inputs
    axes = call.attrs["axes"]
    along = list(range(x.ndim)) if axes is None else [axis_of(a, x.ndim) for a in axes]
    new = list(x.shape)
    if roi is not None or (scales is None) == (sizes is None) or not 1 <= x.ndim <= 5:
        raise FoldError("Resize of a region, or without one of scales and sizes")
    if call.attrs["keep_aspect_ratio_policy"] != "stretch":
        raise FoldError("Resize to sizes that depend on each other")
    given = [float(v) for v in scales] if scales is not None else [float(v) for v in ints(sizes)]
    if len(given) != len(along) or len(set(along)) != len(along):
        raise FoldError(f"{len(given)} sizes for {len(along)} axes")
    for axis, value in zip(along, given, strict=True):
        size = value * x.shape[axis] if scales is not None else value
        if not 1 <= size <= call.room.bound:
            raise FoldError(f"an axis of {size}")
        new[axis] = math.ceil(size)
    _check(call, math.prod(new) * 16 * _SHARE)
    call.room.budget.spend(30_000 * math.prod(new))


# -- windows that move --------------------------------------------------------------------------


@_bounded("Conv", "ConvTranspose", "AveragePool", "MaxPool")
def _windows(call: Call) -> None:
    x, pool = call.inputs[0], call.name.endswith("Pool")
    weight: tuple[int, ...] = () if pool else call.inputs[1].shape
    rank = x.ndim - 2
    kernel = call.attrs["kernel_shape"] or list(weight[2:])
    shape = f"{list(x.shape)} by a window of {kernel[:8]}"
    lists = {"strides": rank, "dilations": rank, "pads": 2 * rank, "output_padding": rank}
    values = {k: call.attrs.get(k) or [0 if "pad" in k else 1] * n for k, n in lists.items()}
    if not 1 <= rank <= 3 or len(kernel) != rank or call.attrs.get("output_shape"):
        raise FoldError(shape)
    for name, count in lists.items():
        low = 0 if "pad" in name else 1
        if len(values[name]) != count or any(not low <= v <= 1 << 16 for v in values[name]):
            raise FoldError(f"{shape}: {name} {values[name][:8]}")
    if any(not 1 <= k <= 1 << 16 for k in kernel):
        raise FoldError(shape)
    groups = call.attrs.get("group", 1)
    channels = x.shape[1]
    if not pool:
        made = weight[1] * groups if call.name == "ConvTranspose" else weight[0]
        read = weight[0] if call.name == "ConvTranspose" else weight[1] * groups
        bias = call.inputs[2]
        if read != channels or not 1 <= groups <= channels or list(weight[2:]) != list(kernel):
            raise FoldError(f"{shape}: weights of {list(weight)}")
        if bias is not None and bias.shape != (made,):
            raise FoldError(f"{shape}: a bias of {list(bias.shape)}")
        channels = made
    out, reach = [], []
    for i in range(rank):
        size, stride = x.shape[2 + i], values["strides"][i]
        pads = values["pads"][i] + values["pads"][i + rank]
        reach.append((kernel[i] - 1) * values["dilations"][i] + 1)
        if call.name == "ConvTranspose":
            out.append((size - 1) * stride + reach[i] + values["output_padding"][i])
        elif call.attrs["auto_pad"] != "NOTSET":
            out.append(size // stride + 1)
        elif reach[i] > size + pads:
            raise FoldError(shape)
        else:
            out.append((size + pads - reach[i]) // stride + 2)  # rounded up: ceil_mode
    _check(call, x.shape[0] * channels * math.prod(out) * _SHARE)
    places = x.shape[0] * channels
    if call.name == "Conv":
        columns = x.shape[0] * x.shape[1] * math.prod(out) * math.prod(reach)
        weights = math.prod(weight[:2]) * math.prod(reach)
        if max(columns, weights) > MAX_COLUMNS:
            raise FoldError(f"{shape} is too large")
        call.room.budget.spend(50 * columns + columns * weight[0] / groups)
    elif pool:  # a loop over windows, in which every element is indexed
        call.room.budget.spend(places * math.prod(out) * (20_000 + 500 * math.prod(kernel)))
    else:  # a loop over every element of every window
        call.room.budget.spend(10_000 * places * math.prod(x.shape[2:]) * math.prod(kernel))
