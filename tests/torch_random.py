"""Random PyTorch modules over a time axis, of operations that people write.

Arguments are drawn over what PyTorch allows: negative axes, axes kept or not, broadcasts, lengths
as numbers and as sizes of a tensor. What PyTorch does not take is dropped and something else drawn.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch_drawing import LENGTHS, Drawing, Drawn, Made, often

__all__ = ["LENGTHS", "Drawn", "draw"]

PLAIN: tuple[Any, ...] = (
    torch.abs, torch.neg, torch.relu, torch.tanh, torch.sigmoid, F.softplus, F.softsign, torch.erf,
    F.hardswish, torch.sign, torch.sin, torch.cos, F.mish, F.silu, F.selu, torch.exp, F.relu6,
    F.hardsigmoid, F.logsigmoid, torch.square, F.tanhshrink, torch.expm1, torch.clone,
)  # fmt: skip


def draw(seed: int) -> Drawn:
    """A module of 2 to 6 drawn operations, its last value and at times others as outputs."""
    d = Drawing(seed)
    wanted = int(d.rng.integers(2, 7))
    for _ in range(40):
        wanted -= d.grow()
        if not wanted:
            break
    first = len(d.drawn.shapes)
    made = [
        i
        for i in range(first, len(d.values[0]))
        if bool(torch.isfinite(d.values[0][i]).all()) and float(d.values[0][i].min()) > -1e4
    ]
    chosen = [made[-1]] if made else [0]
    if len(made) > 1 and first == 1 and d.maybe(0.2):  # a second pair is a state
        chosen.append(d.one(made[:-1]))
    d.drawn.outputs = chosen
    return d.drawn.eval()


# -- element by element --------------------------------------------------------------------------


@often(3)
def _plain(d: Drawing, i: int) -> Made:
    fn = d.one(PLAIN)
    return lambda m, v: fn(v[i])


@often(2)
def _with_numbers(d: Drawing, i: int) -> Made:
    a, b = (float(n) for n in d.rng.uniform(0.2, 1.5, 2))
    fn = d.one([
        lambda x: F.leaky_relu(x, a), lambda x: F.elu(x, a), lambda x: F.celu(x, a),
        lambda x: F.hardtanh(x, -a, b), lambda x: x.clamp(-a, b), lambda x: x.clamp(min=a),
        lambda x: F.softplus(x, beta=1 + a), lambda x: F.gelu(x),
        lambda x: F.gelu(x, approximate="tanh"), lambda x: F.threshold(x, a, b),
        lambda x: F.hardshrink(x, a), lambda x: F.softshrink(x, a), lambda x: x**2,
        lambda x: x**3, lambda x: (x.abs() + a) ** b, lambda x: (x.abs() + a).sqrt(),
        lambda x: (x.abs() + a).rsqrt(), lambda x: (x.abs() + a).log(),
        lambda x: 1 / (x.abs() + a), lambda x: x * a - b, lambda x: b - x, lambda x: x / a,
        lambda x: torch.log1p(x.abs()), lambda x: 2.0**x,
    ])  # fmt: skip
    return lambda m, v: fn(v[i])


@often(4)
def _two(d: Drawing, i: int) -> Made:
    fn = d.one([torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum, torch.div,
                lambda a, b: torch.lerp(a, b, 0.3), lambda a, b: torch.add(a, b, alpha=0.4),
                torch.logaddexp, lambda a, b: torch.addcmul(a, a, b, value=0.7)])  # fmt: skip
    swap = d.maybe(0.3)
    if d.maybe(0.4):
        j = d.other(i)
        if fn is torch.div:
            return lambda m, v: v[i] / (v[j].abs() + 0.5)
        return lambda m, v: fn(v[j], v[i]) if swap else fn(v[i], v[j])
    c = d.array(*d.broadcast(i), low=0.4, high=2.0)
    if fn is torch.div:
        swap = False
    return lambda m, v: fn(c, v[i]) if swap else fn(v[i], c)


@often(2)
def _where(d: Drawing, i: int) -> Made:
    j, c = d.other(i), d.array(*d.broadcast(i, 0))
    test = d.one([torch.gt, torch.le, torch.ge, torch.lt])
    number = float(d.rng.uniform(-1, 1))
    kind = d.one(["where", "number", "fill", "mask", "constant", "not"])
    if kind == "where":
        return lambda m, v: torch.where(test(v[i], c), v[i], v[j])
    if kind == "number":
        return lambda m, v: torch.where(test(v[i], number), v[j], number)
    if kind == "fill":
        return lambda m, v: v[j].masked_fill(test(v[i], c), number)
    if kind == "mask":
        return lambda m, v: v[i] * test(v[j], number)
    if kind == "not":
        return lambda m, v: torch.where(~test(v[i], number) | test(v[j], c), v[i], -v[i])
    keep = c > 0
    return lambda m, v: v[i].masked_fill(keep, number)


@often(1)
def _in_place(d: Drawing, i: int) -> Made:
    axis, number = d.axis(i), float(d.rng.uniform(-1, 1))
    k = int(d.rng.integers(d.sizes(i)[axis]))

    def write(m: Any, v: list[torch.Tensor]) -> torch.Tensor:
        y = v[i].clone()
        y.select(axis, k).mul_(number)
        return y

    def put(m: Any, v: list[torch.Tensor]) -> torch.Tensor:
        y = v[i].clone()
        y[..., 0] = number
        return y

    return d.one([write, put, lambda m, v: v[i].clone().add_(number).relu_()])


# -- selections and views ------------------------------------------------------------------------


@often(2)
def _join(d: Drawing, i: int) -> Made:
    axis, j = d.axis(i), d.other(i)
    if d.maybe(0.2) and d.time(i) is None:
        c = d.array(*d.sizes(i))
        return lambda m, v: torch.cat([v[i], c], axis)
    fn = d.one([torch.cat, torch.cat, torch.stack])
    return lambda m, v: fn([v[i], v[j]], axis)


@often(2)
def _parts(d: Drawing, i: int) -> Made:
    axis = d.axis(i)
    n = d.sizes(i)[axis]
    first = int(d.rng.integers(1, n)) if n > 1 else 1
    return d.one([
        lambda m, v: v[i].chunk(2, axis), lambda m, v: v[i].split(first, axis),
        lambda m, v: v[i].split([first, n - first], axis),
        lambda m, v: torch.tensor_split(v[i], 2, axis), lambda m, v: v[i].unbind(axis)[-1],
        lambda m, v: F.glu(v[i], axis),
    ])  # fmt: skip


@often(3)
def _slice(d: Drawing, i: int) -> Made:
    axis = d.axis(i, 0.3)
    n, rank = d.sizes(i)[axis], len(d.sizes(i))
    low, high = sorted(int(k) for k in d.rng.integers(-1, n + 1, 2))
    low, high = max(low, 0), d.one([high, n + 5, high - n])
    step = d.one([1, 1, 1, 2, 3])
    at = (*[slice(None)] * (axis % rank), slice(low, high, step))
    kind = d.one(["slice", "slice", "narrow", "select", "last", "tail", "head"])
    if kind == "slice":
        return lambda m, v: v[i][at]
    if kind == "narrow":
        return lambda m, v: v[i].narrow(axis, low, max(1, min(high, n) - low))
    if kind == "select":
        return lambda m, v: v[i].select(axis, low if low < n else 0)
    if kind == "last":
        return lambda m, v: v[i].select(axis, -1)
    if kind == "tail":
        return lambda m, v: v[i].narrow(axis, low, v[i].shape[axis] - low)
    return lambda m, v: v[i].narrow(axis, 0, v[i].shape[axis] - low)


@often(2)
def _look_up(d: Drawing, i: int) -> Made:
    axis = d.axis(i)
    n, rank = d.sizes(i)[axis], len(d.sizes(i))
    index = torch.tensor(d.rng.integers(0, n, d.one([1, 2, 3])))
    at = (*[slice(None)] * (axis % rank), index)
    shape = [1 if k == d.time(i) else s for k, s in enumerate(d.sizes(i))]
    wide = torch.tensor(d.rng.integers(0, n, shape))
    return d.one([
        lambda m, v: v[i].index_select(axis, index), lambda m, v: v[i][at],
        lambda m, v: v[i].flip(axis), lambda m, v: torch.roll(v[i], 1, axis),
        lambda m, v: v[i].gather(axis, wide),
        lambda m, v: v[i].gather(axis, wide.expand(v[i].shape)),
        lambda m, v: torch.take_along_dim(v[i], wide, axis),
    ])  # fmt: skip


@often(3)
def _turn(d: Drawing, i: int) -> Made:
    rank = len(d.sizes(i))
    perm = [int(k) for k in d.rng.permutation(rank)]
    a, b = int(d.rng.integers(-rank, rank)), int(d.rng.integers(rank))
    return d.one([
        lambda m, v: v[i].permute(perm), lambda m, v: v[i].transpose(a, b),
        lambda m, v: v[i].movedim(a, b), lambda m, v: v[i].mT,
    ])  # fmt: skip


@often(4)
def _view(d: Drawing, i: int) -> Made:
    sizes, t = d.sizes(i), d.time(i)
    rank = len(sizes)
    kind = d.one(["merge", "split", "flatten", "squeeze", "unsqueeze", "same"])
    if kind == "flatten":
        a, b = sorted(int(k) for k in d.rng.integers(0, rank, 2))
        return lambda m, v: v[i].flatten(a, b)
    if kind == "squeeze":
        axis = d.axis(i)
        return lambda m, v: v[i].squeeze(axis) if rank > 1 else v[i]
    if kind == "unsqueeze":
        a = int(d.rng.integers(-rank - 1, rank + 1))
        return lambda m, v: v[i].unsqueeze(a)
    fixed = d.literal

    def have(x: torch.Tensor) -> list[Any]:
        return [n if k != t or fixed else x.shape[k] for k, n in enumerate(sizes)]

    if kind == "merge" and rank > 1:
        k = int(d.rng.integers(rank - 1))

        def merged(m: Any, v: list[torch.Tensor]) -> torch.Tensor:
            s = have(v[i])
            return v[i].reshape([*s[:k], s[k] * s[k + 1], *s[k + 2 :]])

        return merged
    k = d.axis(i, 0.05) % rank
    p = d.one([2, 3])
    if kind == "split" and k != t and sizes[k] % p == 0:
        parts = d.one([[p, sizes[k] // p], [sizes[k] // p, p]])
        return d.one([
            lambda m, v: v[i].reshape([*have(v[i])[:k], *parts, *have(v[i])[k + 1 :]]),
            lambda m, v: v[i].unflatten(k, parts),
        ])  # fmt: skip
    if kind == "split":  # frames in groups
        return lambda m, v: v[i].unflatten(k, (-1, p))
    return lambda m, v: v[i].reshape([*have(v[i])[:k], -1, *have(v[i])[k + 1 :]])


@often(2)
def _pad(d: Drawing, i: int) -> Made:
    count = d.one([1, 1, 2])
    low = -1 if d.maybe(0.2) else 0
    pads = [int(k) if d.maybe(0.6) else 0 for k in d.rng.integers(low, 3, 2 * count)]
    mode = d.one(["constant", "constant", "constant", "reflect", "replicate", "circular"])
    fill = 0.5 if mode == "constant" and d.maybe(0.2) else 0.0
    return lambda m, v: F.pad(v[i], pads, mode, fill)


@often(1)
def _repeat(d: Drawing, i: int) -> Made:
    sizes, t = d.sizes(i), d.time(i)
    times = [1 if k == t and d.maybe(0.9) else d.one([1, 1, 2, 3]) for k in range(len(sizes))]
    wide = [-1 if k == t or n > 1 else d.one([1, 2]) for k, n in enumerate(sizes)]
    axis = d.axis(i)
    return d.one([
        lambda m, v: v[i].repeat(times), lambda m, v: v[i].expand(wide),
        lambda m, v: v[i].repeat_interleave(2, axis), lambda m, v: torch.tile(v[i], times),
    ])  # fmt: skip


# -- sums, norms, products -----------------------------------------------------------------------


@often(3)
def _reduce(d: Drawing, i: int) -> Made:
    axis, keep = d.axis(i), d.maybe()
    both = sorted({axis % len(d.sizes(i)), d.axis(i) % len(d.sizes(i))})
    return d.one([
        lambda m, v: v[i].mean(axis, keep), lambda m, v: v[i].sum(both, keep),
        lambda m, v: v[i].mean(both, keep), lambda m, v: v[i].amax(both, keep),
        lambda m, v: v[i].amin(axis, keep), lambda m, v: v[i].max(axis, keep).values,
        lambda m, v: v[i].var(axis, keepdim=keep), lambda m, v: v[i].std(both, False, keep),
        lambda m, v: v[i].norm(dim=axis, keepdim=keep), lambda m, v: v[i].norm(1, axis),
        lambda m, v: torch.logsumexp(v[i], axis, keep), lambda m, v: v[i].prod(axis, keep),
        lambda m, v: v[i].cumsum(axis),
    ])  # fmt: skip


@often(2)
def _soft(d: Drawing, i: int) -> Made:
    axis, j = d.axis(i), d.other(i)
    return d.one([
        lambda m, v: v[i].softmax(axis), lambda m, v: v[i].log_softmax(axis),
        lambda m, v: F.softmin(v[i], axis), lambda m, v: F.normalize(v[i], dim=axis),
        lambda m, v: F.cosine_similarity(v[i], v[j] + 0.1, axis),
        lambda m, v: torch.tril(v[i]), lambda m, v: torch.triu(v[i], 1),
    ])  # fmt: skip


@often(3)
def _norm(d: Drawing, i: int) -> Made:
    sizes = d.sizes(i)
    rank = len(sizes)
    kind = d.one(["layer", "layer", "rms", "batch", "group", "instance", "local"])
    if kind in ("layer", "rms"):
        shape = sizes[-1:] if d.maybe(0.8) else sizes[-2:]
        k = d.layer(nn.LayerNorm(shape) if kind == "layer" else nn.RMSNorm(shape))
    elif rank < 2:
        return None
    elif kind == "batch":
        k = d.layer((nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d)(sizes[1]))
    elif kind == "group":
        k = d.layer(
            nn.GroupNorm(d.one([g for g in (1, 2, sizes[1]) if sizes[1] % g == 0]), sizes[1])
        )
    elif kind == "instance":
        k = d.layer((nn.InstanceNorm2d if rank == 4 else nn.InstanceNorm1d)(sizes[1], affine=True))
    else:
        k = d.layer(nn.LocalResponseNorm(d.one([1, 2, 3])))
    for p in d.drawn.layers[k].parameters():
        nn.init.uniform_(p, 0.3, 1.3)
    return lambda m, v: m[k](v[i])


@often(4)
def _product(d: Drawing, i: int) -> Made:
    sizes = d.sizes(i)
    rank, out, last = len(sizes), d.one([1, 3, 4]), sizes[-1]
    kind = d.one(["linear", "linear", "matmul", "left", "batched", "einsum", "self", "gram",
                  "addmm", "bilinear"])  # fmt: skip
    if kind == "linear":
        k = d.layer(nn.Linear(last, out, bias=d.maybe()))
        return lambda m, v: m[k](v[i])
    if kind == "left" and rank > 1:
        w = d.array(out, sizes[-2])
        return lambda m, v: w @ v[i]
    if kind == "batched" and rank > 2:
        w = d.array(sizes[-3], last, out)
        return lambda m, v: v[i] @ w
    if kind == "einsum":
        letters = "abcde"[:rank]
        k = d.axis(i, 0.05) % rank
        form = d.one(["mul", "sum", "dot"])
        term, spread = f"{letters[k]}z", list(letters.replace(letters[k], "z"))
        result = "".join(spread[n] for n in d.rng.permutation(rank))
        if form != "dot":
            term = letters[k]
            result = letters if form == "mul" else letters.replace(letters[k], "")
        w = d.array(*[sizes[k], out][: len(term)])
        if d.maybe():
            return lambda m, v: torch.einsum(f"{letters},{term}->{result}", v[i], w)
        return lambda m, v: torch.einsum(f"{term},{letters}->{result}", w, v[i])
    if kind == "self" and rank > 1:  # over features of a frame, or between frames
        return lambda m, v: v[i] @ v[i].mT
    if kind == "gram" and rank > 1:
        return lambda m, v: v[i].mT @ v[i]
    if kind == "addmm" and rank == 2:
        w, bias = d.array(last, out), d.array(out)
        return lambda m, v: torch.addmm(bias, v[i], w, beta=0.5, alpha=0.7)
    if kind == "bilinear":
        j, k = d.other(i), d.layer(nn.Bilinear(last, last, out))
        return lambda m, v: m[k](v[i], v[j])
    w = d.array(last, *([out] if d.maybe(0.9) else []))
    return lambda m, v: v[i] @ w


# -- over time -----------------------------------------------------------------------------------


@often(6)
def _convolution(d: Drawing, i: int) -> Made:
    sizes = d.sizes(i)
    rank = len(sizes)
    if rank not in (3, 4):
        return None
    if d.time(i) == 1 and d.maybe(0.8):
        return _transposed(d, i)
    c, more = sizes[1], d.spatial(i)
    group = d.one([g for g in (1, 1, 2, c) if c % g == 0])
    more.update(groups=group, bias=d.maybe())
    out = group * d.one([1, 2])
    if d.maybe(0.7):
        if d.maybe(0.1) and "stride" not in more:
            more["padding"] = "same"
        k = d.layer((nn.Conv1d if rank == 3 else nn.Conv2d)(c, out, **more))
        t = d.time(i)
        if t is not None and t >= 2 and more.get("padding", 0) == 0 and d.maybe():  # causal
            span = (more["kernel_size"][t - 2] - 1) * more.get("dilation", (1,) * rank)[t - 2]
            before = [*[0, 0] * (rank - 1 - t), span, 0]
            return lambda m, v: m[k](F.pad(v[i], before))
        return lambda m, v: m[k](v[i])
    if "stride" in more and d.maybe(0.4):
        more["output_padding"] = tuple(int(d.rng.integers(0, s)) for s in more["stride"])
    k = d.layer((nn.ConvTranspose1d if rank == 3 else nn.ConvTranspose2d)(c, out, **more))
    t = d.time(i)
    if t is not None and t >= 2 and d.maybe(0.4):  # what is longer than the input is cut off
        return lambda m, v: m[k](v[i]).narrow(
            t, 0, v[i].shape[t] * more.get("stride", (1,) * 3)[t - 2]
        )
    return lambda m, v: m[k](v[i])


def _transposed(d: Drawing, i: int) -> Made:
    """A convolution over time of [batch, time, channels]."""
    c = d.sizes(i)[-1]
    if len(d.sizes(i)) != 3:
        return None
    size, far = d.one([1, 2, 3]), d.one([1, 1, 2])
    k = d.layer(nn.Conv1d(c, d.one([2, 3]), size, dilation=far, stride=d.one([1, 1, 1, 2])))
    before = d.one([(size - 1) * far, (size - 1) * far, 0, 1])
    return lambda m, v: m[k](F.pad(v[i].transpose(1, 2), (before, 0))).transpose(1, 2)


@often(3)
def _pool(d: Drawing, i: int) -> Made:
    rank = len(d.sizes(i))
    if rank not in (3, 4):
        return None
    more, two = d.spatial(i), rank == 4
    kind = d.one(["max", "avg", "lp", "adaptive", "resize", "unfold"])
    if kind == "adaptive":
        size = tuple(n if k == d.time(i) else d.one([1, 2]) for k, n in enumerate(d.sizes(i)))[2:]
        fn = d.one([F.adaptive_avg_pool2d, F.adaptive_max_pool2d] if two else
                   [F.adaptive_avg_pool1d, F.adaptive_max_pool1d])  # fmt: skip
        return lambda m, v: fn(v[i], size)
    if kind == "resize":
        by = tuple(float(d.one([1, 2, 1.5, 1.7])) for _ in range(rank - 2))
        how = d.one(["nearest", "nearest-exact"])
        return lambda m, v: F.interpolate(v[i], scale_factor=by, mode=how)
    if kind == "unfold":
        axis, size, step = d.axis(i, 0.3), d.one([1, 2, 3]), d.one([1, 2])
        return lambda m, v: v[i].unfold(axis, size, step)
    if kind != "max":
        more.pop("dilation", None)
    more["ceil_mode"] = d.maybe(0.2)
    if kind == "avg":
        more["count_include_pad"] = d.maybe()
        fn = F.avg_pool2d if two else F.avg_pool1d
    elif kind == "lp":
        more.pop("padding", None)
        fn = F.lp_pool2d if two else F.lp_pool1d
        return lambda m, v: fn(v[i].abs() + 0.1, NORM, **more)
    else:
        fn = F.max_pool2d if two else F.max_pool1d
    return lambda m, v: fn(v[i], **more)


NORM = 2.0
"""The order of the norms that are pooled."""


@often(5)
def _recurrent(d: Drawing, i: int) -> Made:
    sizes, t = d.sizes(i), d.time(i)
    if len(sizes) not in (2, 3):
        return None
    first = (t == 1) if d.maybe(0.9) else d.maybe()
    kind = d.one([nn.RNN, nn.GRU, nn.LSTM])
    k = d.layer(kind(sizes[-1], d.one([2, 3]), num_layers=d.one([1, 1, 2]), batch_first=first,
                     bidirectional=d.maybe(0.1), bias=d.maybe(0.8)))  # fmt: skip
    if d.maybe(0.15):
        return lambda m, v: m[k](v[i])[1][0]
    return lambda m, v: m[k](v[i])[0]


# -- attention -----------------------------------------------------------------------------------


@often(6)
def _scores(d: Drawing, i: int) -> Made:
    """Attention by hand; its scores and weights may be read by what is drawn after it."""
    sizes, t = d.sizes(i), d.time(i)
    rank, f = len(sizes), sizes[-1]
    if rank < 2 or t != rank - 2:
        return None
    q, k, w = (d.layer(nn.Linear(f, d.one([2, 4]) if n == 2 else 4)) for n in range(3))
    mask = d.one(["none", "add", "fill", "fill", "where", "tril", "scale", "band"])
    soft = d.one(["softmax", "softmax", "softmax", "sigmoid", "none", "relu"])
    after = d.one([None, None, None, *PLAIN, lambda s: s * 0.5, lambda s: s + 0.1,
                   lambda s: s - s.amax(-1, keepdim=True), lambda s: s.clamp(-5, 5)])  # fmt: skip
    late = d.maybe()
    d.drawn.bent |= after is not None and not late
    small = d.one([-1e4, -1e9, float("-inf")])
    slope = 0.3 if d.maybe(0.2) else 0.0
    ways = d.one(["matmul", "matmul", "einsum", "turned"])
    lead = "abc"[: rank - 2]

    def attend(m: Any, v: list[torch.Tensor]) -> list[torch.Tensor]:
        x = v[i]
        a, b, c = m[q](x), m[k](x), m[w](x)
        n = x.shape[-2]
        s = torch.einsum(f"{lead}td,{lead}sd->{lead}ts", a, b) if ways == "einsum" else a @ b.mT
        s = s * 0.5
        keep = torch.ones(n, n).tril().bool()
        if slope:
            at = torch.arange(n)
            s = s - slope * (at[:, None] - at[None, :]).abs()
        if mask == "add":
            s = s + torch.full((n, n), small).triu(1)
        elif mask == "fill":
            s = s.masked_fill(~keep, small)
        elif mask == "where":
            s = torch.where(keep, s, small)
        elif mask == "tril":
            s = s.tril()
        elif mask == "scale":
            s = s * keep
        elif mask == "band":
            s = s.masked_fill(~keep | ~torch.ones(n, n).triu(-3).bool(), small)
        p = s
        if after is not None and not late:
            p = after(p)
        p = {"softmax": lambda y: y.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda y: y,
             "relu": torch.relu}[soft](p)  # fmt: skip
        if after is not None and late:
            p = after(p)
        if ways == "turned":
            y = torch.einsum(f"{lead}sd,{lead}ts->{lead}td", c, p)
        else:
            y = p @ c
        return [s, p, y]

    return attend


@often(2)
def _layer_attention(d: Drawing, i: int) -> Made:
    sizes, t = d.sizes(i), d.time(i)
    if len(sizes) != 3 or sizes[-1] % 2:
        return None
    first, causal = t == 1, d.maybe(0.8)
    if d.maybe():
        heads = d.one([1, 2])
        k = d.layer(nn.MultiheadAttention(sizes[-1], heads, batch_first=first))

        def layer(m: Any, v: list[torch.Tensor]) -> torch.Tensor:
            n = v[i].shape[1 if first else 0]
            mask = torch.ones(n, n).triu(1).bool() if causal else None
            return m[k](v[i], v[i], v[i], attn_mask=mask, need_weights=False)[0]

        return layer
    k = d.layer(nn.Linear(sizes[-1], 3 * sizes[-1]))
    scale = d.one([None, 1 / math.sqrt(7)])

    def heads_of(m: Any, v: list[torch.Tensor]) -> torch.Tensor:
        x = v[i] if first else v[i].transpose(0, 1)
        b, n, f = x.shape
        q, key, w = (y.reshape(b, n, 2, f // 2).transpose(1, 2) for y in m[k](x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, key, w, is_causal=causal, scale=scale)
        return y.transpose(1, 2).reshape(b, n, f)

    return heads_of
