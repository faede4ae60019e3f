"""Random ONNX models over a time axis, of operators that the front end reads.

Attributes are drawn over what the standard allows: negative axes, unequal pads, axes kept or not,
broadcasts. A node that ONNX Runtime does not take is dropped and another one drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_drawing import LENGTHS, Drawing, Drawn, Made, often

__all__ = ["LENGTHS", "Drawn", "draw"]

PLAIN = (
    "Abs", "Neg", "Relu", "Tanh", "Sigmoid", "Softplus", "Softsign", "Erf", "HardSwish", "Sign",
    "Sin", "Cos", "Mish", "Identity", "Selu", "Exp",
)  # fmt: skip


def draw(seed: int) -> Drawn:
    """A model of 2 to 6 drawn operations, its last value and at times others as outputs."""
    d = Drawing(seed)
    wanted = int(d.rng.integers(2, 7))
    for _ in range(40):
        wanted -= d.grow()
        if not wanted:
            break
    values = [v for v in d.sizes if v not in d.drawn.shapes] or list(d.sizes)
    chosen = [values[-1]]
    if len(values) > 1 and len(d.drawn.shapes) == 1 and d.maybe(0.2):  # a second pair is a state
        chosen.append(d.one(values[:-1]))
    for k, value in enumerate(chosen):
        d.net.output(value, None, f"y{k}")
        d.drawn.outputs.append(f"y{k}")
    return d.drawn


@often(2)
def _plain(d: Drawing, x: str) -> Made:
    return d.net.op(d.one(PLAIN), x)


@often(2)
def _with_numbers(d: Drawing, x: str) -> Made:
    a, b = (float(v) for v in d.rng.uniform(0.2, 1.5, 2))
    kind = d.one(["LeakyRelu", "Elu", "Celu", "HardSigmoid", "ThresholdedRelu", "Gelu", "Swish",
                  "Clip", "PRelu", "Pow", "Sqrt", "Log", "Reciprocal"])  # fmt: skip
    if kind == "Gelu":
        return d.net.op(kind, x, approximate=d.one(["none", "tanh"]))
    if kind == "Clip":
        low, high = d.net.const(-a), d.net.const(b)
        return d.net.op(kind, x, *d.one([[low], [low, high], ["", high]]))
    if kind == "PRelu":
        return d.net.op(kind, x, d.net.weight(*d.broadcast(x, 0)))
    if kind in ("Pow", "Sqrt", "Log", "Reciprocal"):
        if kind == "Pow" and d.maybe():
            return d.net.op(kind, x, d.net.const(d.one([1.0, 2.0, 3.0])))
        above = d.net.op("Add", d.net.op("Abs", x), d.net.const(a))
        return d.net.op(kind, above, *([d.net.const(b)] if kind == "Pow" else []))
    if kind == "HardSigmoid":
        return d.net.op(kind, x, alpha=a, beta=b)
    return d.net.op(kind, x, alpha=a) if d.maybe(0.7) else d.net.op(kind, x)


@often(3)
def _two(d: Drawing, x: str) -> Made:
    kind = d.one(["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Where", "Less"])
    y = d.other(x) if d.maybe(0.4) else d.net.const(d.rng.uniform(0.4, 2, d.broadcast(x)))
    if kind == "Div" and y in d.sizes:
        kind = "Mul"
    pair = [y, x] if d.maybe(0.3) and kind != "Div" else [x, y]
    if kind in ("Where", "Less"):
        test = d.net.op(d.one(["Greater", "Less", "GreaterOrEqual", "LessOrEqual"]),
                        x, d.net.const(d.rng.normal(size=d.broadcast(x, 0))))  # fmt: skip
        return d.net.op("Where", d.net.op("Not", test) if d.maybe(0.3) else test, *pair)
    if kind in ("Max", "Min", "Sum", "Mean") and d.maybe(0.3):
        pair.append(d.net.weight(*d.broadcast(x, 0)))
    return d.net.op(kind, *pair)


@often(2)
def _concat(d: Drawing, x: str) -> Made:
    axis = d.axis(x)
    if d.maybe(0.3) and axis % len(d.sizes[x]) != d.time[x] and d.time[x] is None:
        part = d.net.weight(*d.sizes[x])
    else:
        part = d.other(x)
    return d.net.op("Concat", *([x, part] if d.maybe() else [part, x]), axis=axis)


@often(2)
def _soft(d: Drawing, x: str) -> Made:
    more: dict[str, Any] = {"axis": d.axis(x)} if d.maybe(0.9) else {}
    if d.maybe(0.3):
        return d.net.op("LpNormalization", x, p=d.one([1, 2]), **more)
    return d.net.op(d.one(["Softmax", "LogSoftmax"]), x, **more)


@often(3)
def _reduce(d: Drawing, x: str) -> Made:
    kind = d.one(["Mean", "Sum", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "LogSum"])
    rank = len(d.sizes[x])
    axes = [d.axis(x) for _ in range(int(d.rng.integers(1, 3)))]
    axes = list({a % rank: a for a in axes}.values())
    more: dict[str, Any] = {"keepdims": int(d.maybe())} if d.maybe(0.8) else {}
    if kind == "LogSum":
        x = d.net.op("Exp", x)
    if kind == "Sum" or d.net.opset >= 18:
        return d.net.op(f"Reduce{kind}", x, d.ints(*axes), **more)
    return d.net.op(f"Reduce{kind}", x, axes=axes, **more)


@often(3)
def _slice(d: Drawing, x: str) -> Made:
    rank = len(d.sizes[x])
    axes = {a % rank: a for a in (d.axis(x, 0.3) for _ in range(int(d.rng.integers(1, 3))))}
    starts, ends, steps = [], [], []
    for a in axes.values():
        n = d.size(x, a)
        step = int(d.one([1, 1, 1, 2, -1, -2, 3]))
        low, high = sorted(int(v) for v in d.rng.integers(0, n + 1, 2))
        if d.maybe(0.3):
            low = 0
        if d.maybe(0.3):
            high = d.one([n, 2**31 - 1, 2**63 - 1])
        if step < 0:
            first = min(high, n) - 1
            last = low - 1 if low else d.one([-n - 1, -(2**31)])
            starts.append(first - n if d.maybe() else first)
            ends.append(last - n if 0 <= last < n and d.maybe() else last)
        else:
            starts.append(low - n if d.maybe() else low)
            ends.append(high - n if high < n and d.maybe() else high)
        steps.append(step)
    return d.net.op("Slice", x, d.ints(*starts), d.ints(*ends), d.ints(*axes.values()),
                    d.ints(*steps))  # fmt: skip


@often(2)
def _transpose(d: Drawing, x: str) -> Made:
    perm = [int(k) for k in d.rng.permutation(len(d.sizes[x]))]
    return d.net.op("Transpose", x, perm=perm) if d.maybe(0.9) else d.net.op("Transpose", x)


@often(3)
def _view(d: Drawing, x: str) -> Made:
    sizes, t = d.sizes[x], d.time[x]
    rank = len(sizes)
    kind = d.one(["merge", "split", "Flatten", "Squeeze", "Unsqueeze", "shape"])
    if kind == "Flatten":
        return d.net.op(kind, x, axis=d.one(range(-rank, rank + 1)))
    if kind == "Squeeze":
        ones = [k for k, n in enumerate(sizes) if n == 1]
        some = [k - rank if d.maybe() else k for k in ones if d.maybe(0.7)]
        return d.net.op(kind, x, d.ints(*some)) if some else None
    if kind == "Unsqueeze":
        axes = {int(a) for a in d.rng.integers(0, rank + 1, d.one([1, 1, 2]))}
        total = rank + len(axes)
        return d.net.op(kind, x, d.ints(*(a - total if d.maybe() else a for a in axes)))
    target = [0 if d.maybe() and k != t else -1 if k == t else n for k, n in enumerate(sizes)]
    if kind == "merge" and rank > 1:
        k = int(d.rng.integers(rank - 1))
        both = target[k : k + 2]
        target[k : k + 2] = [-1 if -1 in both or t is None else sizes[k] * sizes[k + 1]]
    elif kind == "split":
        k = d.axis(x) % rank
        parts = [p for p in (2, 3) if sizes[k] % p == 0]
        if k == t or not parts:
            return None
        p = d.one(parts)
        target[k : k + 1] = [p, sizes[k] // p]
    if kind == "shape":  # as exporters write x.reshape(x.shape[0], x.shape[1], -1)
        some = d.net.op("Slice", d.net.op("Shape", x), d.ints(0), d.ints(rank - 1))
        return d.net.op("Reshape", x, d.net.op("Concat", some, d.ints(-1), axis=0))
    if target.count(-1) > 1:
        return None
    return d.net.op("Reshape", x, d.ints(*target))


@often(3)
def _gather(d: Drawing, x: str) -> Made:
    axis = d.axis(x)
    n, rank = d.size(x, axis), len(d.sizes[x])
    kind = d.one(["Gather", "Gather", "GatherElements", "ScatterElements", "ScatterND", "Split"])
    if kind == "Gather":
        shape = d.one([(), (1,), (3,), (2, 2)])
        return d.net.op(kind, x, d.net.const(d.rng.integers(-n, n, shape), np.int64), axis=axis)
    if kind == "Split":
        if n % 2 == 0 and d.maybe() and d.net.opset >= 18:
            return d.net.op(kind, x, axis=axis, num_outputs=2, outputs=2)
        first = int(d.rng.integers(0, n + 1))
        return d.net.op(kind, x, d.ints(first, n - first), axis=axis, outputs=2)
    if d.time[x] is not None:
        return None
    shape = tuple(int(d.rng.integers(1, k + 1)) for k in d.sizes[x])
    index = d.net.const(d.rng.integers(-n, n, shape), np.int64)
    if kind == "GatherElements":
        return d.net.op(kind, x, index, axis=axis)
    if kind == "ScatterElements":
        shape = (*(1 for _ in range(rank)),)
        index = d.net.const(d.rng.integers(-n, n, shape), np.int64)
        return d.net.op(kind, x, index, d.net.weight(*shape), axis=axis)
    rows = d.rng.permutation(d.sizes[x][0])[:2]
    return d.net.op(kind, x, d.net.const(rows[:, None], np.int64),
                    d.net.weight(len(rows), *d.sizes[x][1:]))  # fmt: skip


@often(2)
def _pad(d: Drawing, x: str) -> Made:
    rank = len(d.sizes[x])
    low, high = -1 if d.maybe(0.2) else 0, 3
    pads = [int(v) if d.maybe(0.4) else 0 for v in d.rng.integers(low, high, 2 * rank)]
    mode = d.one(["constant", "constant", "reflect", "edge", "wrap"])
    t = d.time[x]
    if t is not None and mode != "constant":
        pads[t] = pads[rank + t] = 0
    inputs = [x, d.ints(*pads)]
    if mode == "constant" and d.maybe(0.3):
        inputs.append(d.net.const(0.5))
    if d.net.opset >= 18 and d.maybe(0.4):
        axis = d.axis(x)
        inputs = [x, d.ints(1, 1), "", d.ints(axis)]
    return d.net.op("Pad", *inputs, mode=mode)


@often(1)
def _repeat(d: Drawing, x: str) -> Made:
    sizes = d.sizes[x]
    if d.maybe():
        times = [1 if k == d.time[x] else d.one([1, 1, 2, 3]) for k in range(len(sizes))]
        return d.net.op("Tile", x, d.ints(*times))
    wide = [1 if k == d.time[x] or n > 1 else d.one([1, 2]) for k, n in enumerate(sizes)]
    return d.net.op("Expand", x, d.ints(*([2] if d.maybe(0.2) else []), *wide))


@often(3)
def _product(d: Drawing, x: str) -> Made:
    sizes = d.sizes[x]
    rank, out = len(sizes), d.one([1, 3, 4])
    kind = d.one(["MatMul", "left", "batched", "Gemm", "Einsum", "self"])
    if kind == "left" and rank > 1:
        return d.net.op("MatMul", d.net.weight(out, sizes[-2]), x)
    if kind == "batched" and rank > 2:
        return d.net.op("MatMul", x, d.net.weight(sizes[-3], sizes[-1], out))
    if kind == "Gemm" and rank == 2:
        swap, b = int(d.maybe(0.2)), int(d.maybe())
        n = sizes[0] if swap else sizes[1]
        w = d.net.weight(out, n) if b else d.net.weight(n, out)
        bias = d.one([[], [d.net.weight(out)], [d.net.weight(1, out)], [d.net.const(0.3)]])
        return d.net.op(kind, x, w, *bias, transA=swap, transB=b, alpha=0.7, beta=1.3)
    if kind == "Einsum":
        letters = "abcde"[:rank]
        k = d.axis(x, 0.05) % rank
        form = d.one(["mul", "sum", "dot"])
        w = f"{letters[k]}z"
        kept = letters.replace(letters[k], "")
        spread = list(letters.replace(letters[k], "z"))
        if form == "mul":
            w, result = letters[k], letters
        elif form == "sum":
            w, result = letters[k], kept
        else:
            result = "".join(spread[i] for i in d.rng.permutation(rank))
        shape = [sizes[k], out][: len(w)]
        if d.maybe():
            return d.net.op(kind, x, d.net.weight(*shape), equation=f"{letters},{w}->{result}")
        return d.net.op(kind, d.net.weight(*shape), x, equation=f"{w}, {letters} -> {result}")
    if kind == "self" and rank > 2:  # over features of a frame, or between frames
        swapped = [*range(rank - 2), rank - 1, rank - 2]
        return d.net.op("MatMul", x, d.net.op("Transpose", x, perm=swapped))
    return d.net.op("MatMul", x, d.net.weight(sizes[-1], *([out] if d.maybe(0.9) else [])))


@often(2)
def _norm(d: Drawing, x: str) -> Made:
    sizes = d.sizes[x]
    kind = d.one(["LayerNormalization", "RMSNormalization", "BatchNormalization",
                  "InstanceNormalization", "GroupNormalization", "LRN"])  # fmt: skip
    if kind in ("LayerNormalization", "RMSNormalization"):
        axis = d.one([-1, -1, len(sizes) - 1, -2 if len(sizes) > 1 else -1])
        shape = sizes[axis:] if d.time[x] is None or d.time[x] < axis % len(sizes) else sizes[-1:]
        inputs = [x, d.net.const(d.rng.uniform(0.5, 1.5, shape))]
        if kind == "LayerNormalization" and d.maybe():
            inputs.append(d.net.weight(*shape))
        return d.net.op(kind, *inputs, axis=axis, epsilon=float(d.one([1e-5, 1e-2])))
    if len(sizes) < 3 or d.time[x] == 1:
        return None
    c = sizes[1]
    if kind == "LRN":
        return d.net.op(kind, x, size=d.one([1, 2, 3]), alpha=0.4, beta=0.6, bias=1.2)
    scale, bias = d.net.const(d.rng.uniform(0.5, 1.5, c)), d.net.weight(c)
    if kind == "BatchNormalization":
        spread = d.net.const(d.rng.uniform(0.5, 1.5, c))
        return d.net.op(kind, x, scale, bias, d.net.weight(c), spread, epsilon=1e-3)
    if kind == "InstanceNormalization":
        return d.net.op(kind, x, scale, bias, epsilon=1e-2)
    groups = d.one([g for g in (1, 2, c) if c % g == 0])
    if d.net.opset < 21:
        scale, bias = d.net.weight(groups), d.net.weight(groups)
    return d.net.op(kind, x, scale, bias, num_groups=groups, epsilon=1e-2)


@often(5)
def _convolution(d: Drawing, x: str) -> Made:
    sizes = d.sizes[x]
    if len(sizes) not in (3, 4) or d.time[x] == 1:
        return None
    c = sizes[1]
    more = d.spatial(x)
    kernel = more["kernel_shape"]
    group = d.one([g for g in (1, 1, 2, c) if c % g == 0])
    out = group * d.one([1, 2])
    bias = [d.net.weight(out)] if d.maybe() else []
    if d.maybe(0.7):
        return d.net.op("Conv", x, d.net.weight(out, c // group, *kernel), *bias, group=group,
                        **more)  # fmt: skip
    if more.get("auto_pad", "").startswith("SAME"):  # ONNX Runtime's sizes are not the standard's
        return None
    if d.maybe(0.3) and "strides" in more and "auto_pad" not in more:
        more["output_padding"] = [int(d.rng.integers(0, s)) for s in more["strides"]]
    return d.net.op("ConvTranspose", x, d.net.weight(c, out // group, *kernel), *bias,
                    group=group, **more)  # fmt: skip


@often(3)
def _pool(d: Drawing, x: str) -> Made:
    if len(d.sizes[x]) not in (3, 4) or d.time[x] == 1:
        return None
    kind = d.one(["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"])
    if kind.startswith("Global"):
        return d.net.op(kind, x)
    more = d.spatial(x)
    if more.get("auto_pad", "").startswith("SAME"):  # as above
        more.pop("dilations", None)
    if kind != "MaxPool" and d.net.opset < (19 if kind == "AveragePool" else 18):
        more.pop("dilations", None)
    if kind == "AveragePool" and d.maybe():
        more["count_include_pad"] = 1
    if kind == "LpPool":
        more["p"] = d.one([1, 2, 3])
    elif d.maybe(0.2):
        more["ceil_mode"] = 1
    return d.net.op(kind, x, **more)


@often(4)
def _recurrent(d: Drawing, x: str) -> Made:
    sizes = d.sizes[x]
    if len(sizes) != 3:
        return None
    if d.time[x] == 1 and d.maybe(0.8):
        x = d.net.op("Transpose", x, perm=[1, 0, 2])
        sizes = (sizes[1], sizes[0], sizes[2])
    kind, hidden = d.one(["RNN", "GRU", "LSTM"]), d.one([2, 3])
    way = d.one(["forward", "forward", "forward", "reverse", "bidirectional"])
    ways = 2 if way == "bidirectional" else 1
    more: dict[str, Any] = {"direction": way} if d.maybe(0.9) or way != "forward" else {}
    if kind == "GRU" and d.maybe():
        more["linear_before_reset"] = 1
    if d.maybe(0.2):
        more["clip"] = 0.8
    if kind == "LSTM" and d.maybe(0.2):
        more["input_forget"] = 1
    if d.maybe(0.2):
        names = ["Sigmoid", "Tanh", "Relu", "Softsign", "HardSigmoid", "LeakyRelu", "Elu"]
        count = {"RNN": 1, "GRU": 2, "LSTM": 3}[kind] * ways
        more["activations"] = [d.one(names) for _ in range(count)]
    initial = []
    if d.maybe(0.4):
        initial = [d.net.weight(ways, sizes[1], hidden) for _ in range(1 + (kind == "LSTM"))]
    extra = []
    if kind == "LSTM" and len(initial) == 2 and d.maybe(0.4):
        extra = [d.net.weight(ways, 3 * hidden)]
    made = d.net.recurrent(kind, x, sizes[2], hidden, initial=initial, extra=extra, **more)
    y = made[int(d.rng.integers(len(made)))] if d.maybe(0.2) else made[0]
    if y == made[0] and d.maybe(0.7):
        return d.net.op("Squeeze", y, d.ints(1)) if ways == 1 else y
    return y


@often(1)
def _blocks(d: Drawing, x: str) -> Made:
    sizes = d.sizes[x]
    if len(sizes) != 4:
        return None
    kind = d.one(["DepthToSpace", "SpaceToDepth", "Resize"])
    if kind != "Resize":
        more: dict[str, Any] = {"mode": d.one(["DCR", "CRD"])} if kind == "DepthToSpace" else {}
        return d.net.op(kind, x, blocksize=2, **more)
    scales = [1.0 if k < 2 or k == d.time[x] else d.one([1.0, 2.0, 0.5]) for k in range(4)]
    mode = d.one(["nearest", "linear"])
    where = d.one(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    more = {"nearest_mode": d.one(["floor", "ceil", "round_prefer_floor"])}
    return d.net.op(kind, x, "", d.net.const(scales), mode=mode,
                    coordinate_transformation_mode=where,
                    **(more if mode == "nearest" else {}))  # fmt: skip


@often(1)
def _attention(d: Drawing, x: str) -> Made:
    if len(d.sizes[x]) != 3 or d.net.opset < 23 or d.size(x, 2) % 2:
        return None
    return d.net.op(
        "Attention", x, x, x, q_num_heads=2, kv_num_heads=2, is_causal=int(d.maybe(0.8))
    )
