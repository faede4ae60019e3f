"""Integer steps of operations between values, views, windows and loops: random ones, and fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from kernel_models import RandomStep, table, typed

from edgeseq import fixed
from edgeseq.ir.graph import Graph
from edgeseq.ir.types import Type

Shape = tuple[int, ...]


def rows(shape: Shape) -> list[int]:
    """Strides of an array that is stored row by row."""
    return [math.prod(shape[k + 1 :]) for k in range(len(shape))]


class RandomValues(RandomStep):
    """A random step of all operations over values of one to three axes.

    Args:
        seed: of the choices.
        nodes: how many nodes at least.
        inputs: their types; random ones if not given.
        depth: how deep loops may nest.
    """

    KINDS = (*RandomStep.KINDS, "strided", "strided", "strided", "depthwise", "matmul", "matmul",
             "softmax", "wide", "extreme", "compare", "select", "embed", "scan", "window",
             "broadcast")  # fmt: skip

    def __init__(
        self, seed: int, nodes: int = 12, inputs: Sequence[Type] = (), depth: int = 1
    ) -> None:
        self.fixed_inputs, self.depth = list(inputs), depth
        self.windows: list[str] = []
        super().__init__(seed, nodes)

    def some_type(self, dtypes: list[str]) -> Type:
        if self.fixed_inputs:
            return self.fixed_inputs.pop(0)
        shape = self.pick([(6,), (9,), (16,), (2, 7), (3, 8), (4, 4), (2, 3, 4), (1, 5), (20,)])
        return typed(shape, self.pick(dtypes))

    def like(self, t: Type) -> list[str]:
        """Values of the same format."""
        types = self.g.types
        return [v for v in self.values if (types[v].dtype, types[v].scale) == (t.dtype, t.scale)]

    def small(self, shape: Shape, t: Type) -> str:
        """An operand that is broadcast to `shape`, in the format of t."""
        cut = self.pick(range(len(shape) + 1))
        bare = shape[cut:]
        full = (1,) * cut + bare
        fitting = [v for v in self.like(t) if self.g.types[v].shape == full]
        if fitting and self.pick([0, 1, 1]):
            return str(self.pick(fitting))
        lo, hi = fixed.INT_RANGE[t.dtype]
        array = self.r.integers(lo, hi + 1, full if self.pick([0, 1]) else bare)
        return self.g.add_const("k", array, replace(t, shape=array.shape))

    def add_strided(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        size, shape = t.size, t.shape
        kind = self.pick(["transpose", "step", "reverse", "repeat", "unfold", "odd", "same"])
        strides = rows(shape)
        offset = 0
        if kind == "transpose":
            order = list(self.r.permutation(len(shape)))
            shape, strides = tuple(shape[k] for k in order), [strides[k] for k in order]
        elif kind == "step" and shape[0] > 1:
            shape = (-(-shape[0] // 2), *shape[1:])
            strides[0] *= 2
        elif kind == "reverse":
            axis = self.pick(range(len(shape)))
            offset = (shape[axis] - 1) * strides[axis]
            strides[axis] *= -1
        elif kind == "repeat":
            axis = self.pick(range(len(shape) + 1))
            shape = (*shape[:axis], 3, *shape[axis:])
            strides.insert(axis, 0)
        elif kind == "unfold":
            length = self.pick([2, 3, 4])
            step = self.pick([1, 2])
            if size < length + step:
                return
            shape, strides = ((size - length) // step + 1, length), [step, 1]
        elif kind == "odd":
            shape = (self.pick([1, 2, 3]), self.pick([2, 3]))
            strides = [int(self.r.integers(0, size // 4 + 1)) for _ in shape]
            reach = sum((d - 1) * s for d, s in zip(shape, strides, strict=True))
            if reach >= size:
                return
            offset = int(self.r.integers(0, size - reach))
        if math.prod(shape) > 90:
            return
        out = replace(t, shape=tuple(int(d) for d in shape))
        strides = [int(s) for s in strides]
        self.node("strided", [x], out, shape=out.shape, strides=tuple(strides), offset=offset)

    def add_depthwise(self) -> None:
        x = self.value(("i8", "i16"))
        if x is None or len(self.g.types[x].shape) < 2:
            return
        t = self.g.types[x]
        taps, channels = t.shape[-2:]
        w = self.pick(["i8", "i16"])
        top = 127 if w == "i8" else 300
        weights = self.r.integers(-top, top + 1, (taps, channels))
        inputs = [x, self.g.add_const("w", weights, typed((taps, channels), w))]
        s = self.pick([20, 32, 40])
        m = self.r.integers(1, 2 ** min(s - 4, 30), channels).astype(np.int32)
        if self.pick([0, 1]):
            b = self.r.integers(-5000, 5000, channels)
            inputs.append(self.g.add_const("b", b, typed(channels, "i32")))
        dtype = self.pick(["i8", "i16", "i32"])
        self.node("depthwise", inputs, typed((*t.shape[:-2], channels), dtype), m=m, s=s)

    def add_matmul(self) -> None:
        a = self.value(("i8", "i16"))
        if a is None or len(self.g.types[a].shape) < 2:
            return
        x = self.g.types[a]
        fit = [
            v for v in self.values
            if (t := self.g.types[v]).dtype != "i32" and len(t.shape) == len(x.shape)
            and t.shape[:-2] == x.shape[:-2] and t.shape[-1] == x.shape[-1]
        ]  # fmt: skip
        b = self.pick(fit)
        out = (*x.shape[:-1], self.g.types[b].shape[-2])
        m, s = self.pick([(1, 15), (300, 22), (-77, 18), (1, 0), ((1 << 15) - 1, 40)])
        self.node("matmul", [a, b], typed(out, self.pick(["i8", "i16", "i32"])), m=m, s=s)

    def add_softmax(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        n, k = 512, self.pick([0, 4, 10])
        nodes = self.g.add_const("exp", table("exp", -16.0, 0.0), Type((n + 1,), "i16", 2.0**-15))
        wide = {"i8": (1 << 22, 8), "i16": (3, 1), "i32": (12345, 20)}[t.dtype]
        out = Type(t.shape, "i16", 2.0**-15)
        y = self.g.add_node(
            "softmax", [x, nodes], types=[out], m=wide[0], s=wide[1], lo=-(n << k), k=k
        )
        if self.pick([0, 1, 1]):
            y = self.g.add_node("rescale", [y], types=[typed(t.shape, "i16")], m=1, s=0)
        self.values.append(y)

    def add_wide(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        fn = self.pick(["sqrt", "rsqrt", "reciprocal", "log"])
        nodes = self.g.add_const("wide", fixed.wide_table(fn), typed(193, "i32"))
        m, s = self.pick({
            "sqrt": [(1 << 20, 40), (-12345, 33), (1 << 30, 62), (7, 15)],
            "rsqrt": [(1 << 20, 30), (-12345, 33), (1 << 30, 47), (1, 0)],
            "reciprocal": [(1 << 20, 30), (-12345, 22), (1 << 30, 32), (1, 0)],
            "log": [(1 << 10, 30), (-12345, 33), (1 << 29, 62), (1, 0)],
        }[fn])  # fmt: skip
        b = 0 if fn == "reciprocal" else self.pick([0, 5, -30000])
        dtype = self.pick(["i8", "i16", "i32"])
        self.node("wide", [x, nodes], typed(t.shape, dtype), fn=fn, m=m, s=s, b=b)

    def other(self, x: str) -> str:
        """A second operand for the value x, in its format."""
        t = self.g.types[x]
        fitting = [v for v in self.like(t) if self.g.types[v].shape == t.shape]
        return self.small(t.shape, t) if self.pick([0, 1]) else str(self.pick(fitting))

    def add_extreme(self) -> None:
        x = self.value()
        assert x is not None
        pair = [x, self.other(x)]
        self.node(self.pick(["max", "min"]), pair if self.pick([0, 1]) else pair[::-1],
                  self.g.types[x])  # fmt: skip

    def add_compare(self) -> None:
        x = self.value()
        assert x is not None
        out = typed(self.g.types[x].shape, "i8")
        self.node("compare", [x, self.other(x)], out, cmp=self.pick(["gt", "ge", "eq"]))

    def add_select(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        conditions = [v for v in self.values if self.g.types[v].shape == t.shape]
        c = self.pick(conditions) if self.pick([0, 1]) else self.small(t.shape, typed((), "i8"))
        self.node("select", [c, x, self.other(x)], t)

    def add_embed(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        if t.scale != 1.0 or t.size > 12:
            return
        v, d, dtype = self.pick([5, 300]), self.pick([1, 3, 4]), self.pick(["i8", "i16", "i32"])
        lo, hi = fixed.INT_RANGE[dtype]
        nodes = self.g.add_const("rows", self.r.integers(lo, hi + 1, (v, d)), typed((v, d), dtype))
        self.node("embed", [x, nodes], typed((*t.shape, d), dtype))

    def add_broadcast(self) -> None:
        x = self.value()
        assert x is not None
        t = self.g.types[x]
        other = self.small(t.shape, typed((), self.pick(["i8", "i16"])))
        pair = [x, other] if self.pick([0, 1]) else [other, x]
        if self.pick([0, 1]):
            self.node("add", pair, typed(t.shape, "i16"), ma=300, mb=-7, s=9)
        else:
            self.node("mul", pair, typed(t.shape, "i32"), m=1, s=7)

    def add_window(self) -> None:
        """A state of past frames, joined with the value of this one."""
        x = self.value()
        if x is None or self.g.types[x].size > 24:
            return
        t = self.g.types[x]
        n, past = t.size, self.pick([1, 2, 3])
        flat = self.g.add_node("reshape", [x], types=[replace(t, shape=(n,))], shape=(n,))
        kept = replace(t, shape=(past * n,))
        lo, hi = fixed.INT_RANGE[t.dtype]
        init = self.r.integers(lo, hi + 1, kept.shape) if self.pick([0, 1]) else None
        state = self.g.add_state("w", kept, init)
        seen_t = replace(t, shape=((past + 1) * n,))
        newest_last = self.pick([0, 1, 1])
        parts = [state, flat] if newest_last else [flat, state]
        form = self.pick(["joined", "joined", "shifted"])
        if form == "joined":
            seen = self.g.add_node("concat", parts, types=[seen_t])
            start = n if newest_last else 0
            keep = self.g.add_node(
                "slice", [seen], types=[kept], start=start, stop=start + past * n
            )
            shape = (past + 1, *t.shape)
        else:
            rest = (past - 1) * n
            start = n if newest_last else 0
            if past > 1:
                cut = self.g.add_node("slice", [state], types=[replace(t, shape=(rest,))],
                                      start=start, stop=start + rest)  # fmt: skip
                parts = [cut, flat] if newest_last else [flat, cut]
            else:
                parts = [flat]
            keep = seen = self.g.add_node("concat", parts, types=[kept])
            shape = (past, *t.shape)
        self.g.set_state(state, keep)
        out = replace(t, shape=shape)
        self.node("reshape", [seen], out, shape=shape)

    def add_scan(self) -> None:
        """A loop over the first axis of one or two values, with a random body."""
        found = [v for v in self.values if len(self.g.types[v].shape) >= 2]
        if not found or self.depth == 0:
            return
        first = self.pick(found)
        n = self.g.types[first].shape[0]
        more = [v for v in found if self.g.types[v].shape[0] == n]
        xs = [first] + [self.pick(more) for _ in range(self.pick([0, 0, 1]))]
        inner = [replace(self.g.types[v], shape=self.g.types[v].shape[1:]) for v in xs]
        seed = int(self.r.integers(1 << 30))
        body = RandomBody(seed, self.pick([2, 4, 6]), inner, self.depth - 1).g
        given: list[str] = []
        finals: list[Type] = []
        if body.states and self.pick([0, 1]):
            for state in body.states:
                t = body.types[state.input]
                same = [v for v in self.values if self.g.types[v] == t]
                lo, hi = fixed.INT_RANGE[t.dtype]
                start = self.r.integers(lo, hi + 1, t.shape)
                given.append(self.pick(same) if same else self.g.add_const("h0", start, t))
                finals.append(t)
        outs = [replace(body.types[v], shape=(n, *body.types[v].shape)) for v in body.outputs]
        if any(t.size > 120 for t in outs):
            return
        y = self.g.add_node("scan", xs + given, types=outs + finals, body=body,
                            reverse=bool(self.pick([0, 1])))  # fmt: skip
        self.values += next(x for x in self.g.nodes if y in x.outputs).outputs


class RandomBody(RandomValues):
    """The body of a loop."""

    def __init__(self, seed: int, nodes: int, inputs: Sequence[Type], depth: int) -> None:
        self.count = len(inputs)
        super().__init__(seed, nodes, inputs, depth)

    def pick(self, options):  # type: ignore[no-untyped-def]
        # The first question is how many inputs there are.
        if self.count:
            count, self.count = self.count, 0
            return count
        return super().pick(options)


def random_values(seed: int, nodes: int = 12) -> Graph:
    """A random integer step of all operations."""
    return RandomValues(seed, nodes).g
