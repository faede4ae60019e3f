"""The interpreter: what every operation computes.

For integer Graphs this is **the definition of the numbers**: kernels, on every target, are
bit-exact with it. It is written to be read; the kernels are written to be fast.

Arrays carry one leading batch axis: a frame is [batch, *shape], a sequence [batch, T, *shape].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import GraphError
from edgeseq.fixed import (
    INT_RANGE,
    layer_norm,
    lut_apply,
    rq,
    saturate,
    shift_round,
    softmax,
    wide_apply,
)
from edgeseq.ir.functions import FUNCTIONS, WIDE
from edgeseq.ir.graph import Graph, Node

__all__ = ["Interpreter", "run"]

Array = npt.NDArray[Any]
Observer = Callable[[str, Array], None]


class Interpreter:
    """Executes a Graph with carried states.

    Args:
        graph: real or integer, over time or a step.
        batch: number of independent sequences run side by side.
        observe: called with every value a real or integer node produces. Names of values in a
            scan's body come after that of the scan and a slash.

    Attributes:
        state: the states' arrays [batch, *shape] by state name (step Graphs).
        saturated: how many stored elements were clamped so far, by node name.
        stored: how many elements were stored so far, by node name.
    """

    def __init__(self, graph: Graph, *, batch: int = 1, observe: Observer | None = None) -> None:
        self.graph, self.batch, self._observe = graph, batch, observe
        self.saturated: Counter[str] = Counter()
        self.stored: Counter[str] = Counter()
        self._consts: dict[str, Array] = {
            name: a if a.dtype.kind == "i" else a.astype(np.float64)
            for name, a in graph.consts.items()
        }
        self.reset()

    def reset(self) -> None:
        """Put every state back to its initial value."""
        self.state: dict[str, Array] = {
            s.name: np.repeat(
                (s.init if s.init.dtype.kind == "i" else s.init.astype(np.float64))[None],
                self.batch,
                axis=0,
            )
            for s in self.graph.states
        }

    def __call__(self, *inputs: Array) -> list[Array]:
        """Run the Graph once; a step advances the states by one frame.

        Args:
            inputs: one array per input, [batch, *shape], or [batch, T, *shape] of a sequence.

        Returns:
            One array per output.

        Raises:
            GraphError: an input has the wrong shape or width.
        """
        graph = self.graph
        if len(inputs) != len(graph.inputs):
            raise GraphError(
                f"got {len(inputs)} inputs, needs {len(graph.inputs)}",
                where=f"graph {graph.name!r}",
            )
        env: dict[str, Array] = {}
        for name, array in zip(graph.inputs, inputs, strict=True):
            env[name] = self._input(name, array)
        for s in graph.states:
            env[s.input] = self.state[s.name]
            self._note(s.input, env[s.input])
        self._execute(graph, env)
        outs = [self._batched(env[v], v) for v in graph.outputs]
        # Copies: a state may be a view of a caller's buffer or of an output it may overwrite.
        self.state = {s.name: self._batched(env[s.output], s.output) for s in graph.states}
        return outs

    def _batched(self, array: Array, name: str, graph: Graph | None = None) -> Array:
        """A copy of `array` with the batch axis, which constants and their functions lack."""
        if array.ndim == len((graph or self.graph).types[name].shape):
            array = np.broadcast_to(array, (self.batch, *array.shape))
        return array.copy()

    def sequence(self, *inputs: Array) -> list[Array]:
        """Run a step Graph over whole sequences, states carried.

        Args:
            inputs: [batch, T, *frame] each. A step of several frames takes them in groups: T is
                a multiple of `Graph.frames_of` the input.

        Returns:
            [batch, N, *frame] per output: what the steps gave, one after another.

        Raises:
            GraphError: the frames do not fill whole steps, or inputs last for different times.
        """
        graph = self.graph
        blocks = []
        for name, x in zip(graph.inputs, inputs, strict=True):
            m = graph.frames_of(name)
            if x.shape[1] % m:
                raise GraphError(
                    f"got {x.shape[1]} frames, a step takes {m}", where=f"input {name!r}"
                )
            blocks.append(x if m == 1 else x.reshape(x.shape[0], -1, m, *x.shape[2:]))
        if len({x.shape[1] for x in blocks}) > 1:
            raise GraphError("inputs last for different times", where=f"graph {graph.name!r}")
        steps = [self(*(x[:, t] for x in blocks)) for t in range(blocks[0].shape[1])]
        outs = [np.stack([y[i] for y in steps], axis=1) for i in range(len(graph.outputs))]
        return [
            y if graph.frames_of(v) == 1 else y.reshape(y.shape[0], -1, *y.shape[3:])
            for v, y in zip(graph.outputs, outs, strict=True)
        ]

    # -- internals -------------------------------------------------------------------------

    def _input(self, name: str, array: Array) -> Array:
        t = self.graph.types[name]
        shape = array.shape[2:] if t.time is not None else array.shape[1:]
        if tuple(shape) != t.shape or array.shape[0] != self.batch:
            raise GraphError(
                f"got shape {list(array.shape)} for a {t} and batch {self.batch}",
                where=f"input {name!r}",
            )
        if t.is_integer and array.dtype != t.numpy:
            raise GraphError(f"got {array.dtype} for a {t}", where=f"input {name!r}")
        out = array if t.is_integer else np.asarray(array, np.float64)
        self._note(name, out)
        return out

    def _note(self, name: str, array: Array) -> None:
        if self._observe is not None:
            self._observe(name, array)

    def _inside(self, scan: Node) -> Observer | None:
        see = self._observe
        return None if see is None else lambda name, array: see(f"{scan.name}/{name}", array)

    def _execute(self, graph: Graph, env: dict[str, Array]) -> None:
        env.update(self._consts)
        for node in graph.nodes:
            args = [env[v] for v in node.inputs]
            if node.op == "scan":
                results = self._scan(graph, node, args)
            elif node.op == "loop":
                results = self._loop(graph, node, args)
            elif node.op in _RANKED:
                results = [_RANKED[node.op](node, args[0], len(graph.types[node.inputs[0]].shape))]
            elif graph.types[node.outputs[0]].is_integer:
                results = [self._integer(graph, node, args)]
            else:
                results = [_REAL[node.op](node, args)]
            for name, array in zip(node.outputs, results, strict=True):
                env[name] = array
                self._note(name, array)

    def _scan(self, graph: Graph, node: Node, args: Sequence[Array]) -> list[Array]:
        body: Graph = node.attrs["body"]
        n = len(body.inputs)
        inner = Interpreter(body, batch=self.batch, observe=self._inside(node))
        inner.saturated, inner.stored = self.saturated, self.stored
        xs = [self._batched(x, v, graph) for x, v in zip(args, node.inputs, strict=True)]
        if len(args) > n:
            for state, start in zip(body.states, xs[n:], strict=True):
                inner.state[state.name] = start
        steps = range(xs[0].shape[1])
        outs = [
            inner(*(x[:, t] for x in xs[:n]))
            for t in (reversed(steps) if node.attrs["reverse"] else steps)
        ]
        if node.attrs["reverse"]:
            outs.reverse()
        stacked = [np.stack([y[i] for y in outs], axis=1) for i in range(len(body.outputs))]
        return stacked + ([inner.state[s.name] for s in body.states] if len(args) > n else [])

    def _loop(self, graph: Graph, node: Node, args: Sequence[Array]) -> list[Array]:
        """Every frame is a sequence of its own: frames join the batch."""
        frames = args[0].shape[1]
        xs = []
        for x, v in zip(args, node.inputs, strict=True):
            x = np.broadcast_to(x, (self.batch, frames, *graph.types[v].shape))
            xs.append(x.reshape(-1, *x.shape[2:]))
        inner = Graph(graph.name, {v: graph.types[v].at(None) for v in node.inputs})
        runner = Interpreter(inner, batch=self.batch * frames, observe=self._observe)
        results = runner._scan(inner, node, xs)
        return [y.reshape(self.batch, frames, *y.shape[1:]) for y in results]

    def _integer(self, graph: Graph, node: Node, args: Sequence[Array]) -> Array:
        dtype = graph.types[node.outputs[0]].dtype
        exact = _INTEGER[node.op](node, args, dtype)
        lo, hi = INT_RANGE[dtype]
        if exact.dtype == np.int64:  # a sum that has yet to be stored
            self.saturated[node.name] += int(np.count_nonzero((exact < lo) | (exact > hi)))
            self.stored[node.name] += exact.size
            return saturate(exact, dtype)
        return exact


def run(graph: Graph, *inputs: Array) -> list[Array]:
    """Run `graph` once from its initial states; see `Interpreter`."""
    return Interpreter(graph, batch=inputs[0].shape[0])(*inputs)


# -- real operations ---------------------------------------------------------------------------


def _real_linear(node: Node, args: Sequence[Array]) -> Array:
    pairs = len(args) // 2
    y = args[0] @ args[1].T
    for g in range(1, pairs):
        y = y + args[2 * g] @ args[2 * g + 1].T
    return y + args[-1] if len(args) % 2 else y


def _real_clamp(node: Node, args: Sequence[Array]) -> Array:
    lo, hi = node.attrs["lo"], node.attrs["hi"]
    return np.clip(args[0], -np.inf if lo is None else lo, np.inf if hi is None else hi)


def _real_norm(node: Node, args: Sequence[Array]) -> Array:
    x, gamma, beta = args
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    y: Array = (x - mean) / np.sqrt(var + node.attrs["eps"]) * gamma + beta
    return y


def _slice(node: Node, args: Sequence[Array], *_: str) -> Array:
    return args[0][..., node.attrs["start"] : node.attrs["stop"]]


def _concat(node: Node, args: Sequence[Array], *_: str) -> Array:
    # A constant among values lacks their axes of batch and time.
    rank = max(a.ndim for a in args)
    lead = next(a.shape[:-1] for a in args if a.ndim == rank)
    full = [a if a.ndim == rank else np.broadcast_to(a, (*lead, a.shape[-1])) for a in args]
    return np.concatenate(full, axis=-1)


def _reshape(node: Node, x: Array, rank: int) -> Array:
    """Reshape the last `rank` axes of x (those of one frame)."""
    return x.reshape(*x.shape[: x.ndim - rank], *node.attrs["shape"])


def _strided(node: Node, x: Array, rank: int) -> Array:
    """Elements of each frame in the order of the view."""
    at = np.full((), node.attrs["offset"], np.int64)
    for d, s in zip(node.attrs["shape"], node.attrs["strides"], strict=True):
        at = at[..., None] + np.arange(d, dtype=np.int64) * s
    lead = x.shape[: x.ndim - rank]
    y: Array = x.reshape(*lead, -1)[..., at.reshape(-1)].reshape(*lead, *at.shape)
    return y


_RANKED: Mapping[str, Callable[[Node, Array, int], Array]] = {
    "reshape": _reshape,
    "strided": _strided,
}


def _real_depthwise(node: Node, args: Sequence[Array]) -> Array:
    y: Array = (args[0] * args[1]).sum(-2)
    return y + args[2] if len(args) == 3 else y


def _real_softmax(node: Node, args: Sequence[Array]) -> Array:
    e = np.exp(args[0] - args[0].max(-1, keepdims=True))
    y: Array = e / e.sum(-1, keepdims=True)
    return y


def _compare(node: Node, args: Sequence[Array], *_: str) -> Array:
    a, b = args
    y = {"gt": np.greater, "ge": np.greater_equal, "eq": np.equal}[node.attrs["cmp"]](a, b)
    return y.astype(np.int8 if a.dtype.kind == "i" else np.float64)


def _select(node: Node, args: Sequence[Array], *_: str) -> Array:
    return np.where(args[0] != 0, args[1], args[2])


def _embed(node: Node, args: Sequence[Array], *_: str) -> Array:
    index, table = args
    whole = np.floor(np.asarray(index, np.float64) + 0.5).astype(np.int64)
    y: Array = table[np.clip(whole, 0, len(table) - 1)]
    return y


def _window(node: Node, args: Sequence[Array]) -> Array:
    x, length, ahead = args[0], node.attrs["length"], node.attrs["ahead"]
    frames = x.shape[1] - node.attrs["cut"]
    if frames < 1:
        raise GraphError(
            f"{x.shape[1]} frames are too few for a window of {length} without padding",
            where=f"node {node.name!r}",
        )
    pad = [(0, 0)] * x.ndim
    pad[1] = (length, ahead + max(-node.attrs["cut"], 0))
    full = np.pad(x, pad)
    # Frame i of x is element length + i; the first of a window is at t + ahead - length + 1.
    parts = [full[:, ahead + 1 + k :][:, :frames] for k in range(length)]
    return np.stack(parts, axis=2)


def _shift(node: Node, args: Sequence[Array]) -> Array:
    x, later = args[0], int(node.attrs["frames"])
    frames = x.shape[1] - node.attrs["cut"]
    if frames < 1:
        raise GraphError(
            f"cuts {node.attrs['cut']} of {x.shape[1]} frames", where=f"node {node.name!r}"
        )
    pad = [(0, 0)] * x.ndim
    pad[1] = (max(later, 0), max(frames - max(later, 0) - x.shape[1], 0) + max(-later, 0))
    return np.pad(x, pad)[:, max(-later, 0) :][:, :frames]


def _decimate(node: Node, args: Sequence[Array]) -> Array:
    return args[0][:, :: node.attrs["factor"]]


def _interleave(node: Node, args: Sequence[Array]) -> Array:
    x = args[0]
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])


_REAL: Mapping[str, Callable[[Node, Sequence[Array]], Array]] = {
    "linear": _real_linear,
    "add": lambda node, a: a[0] + a[1],
    "sub": lambda node, a: a[0] - a[1],
    "mul": lambda node, a: a[0] * a[1],
    "lut": lambda node, a: FUNCTIONS[node.attrs["fn"]].fn(a[0]),
    "clamp": _real_clamp,
    "rescale": lambda node, a: a[0],
    "norm": _real_norm,
    "slice": _slice,
    "concat": _concat,
    "last": lambda node, a: a[0][:, -1],
    "depthwise": _real_depthwise,
    "matmul": lambda node, a: a[0] @ np.swapaxes(a[1], -1, -2),
    "softmax": _real_softmax,
    "wide": lambda node, a: WIDE[node.attrs["fn"]](a[0]),
    "max": lambda node, a: np.maximum(a[0], a[1]),
    "min": lambda node, a: np.minimum(a[0], a[1]),
    "compare": _compare,
    "select": _select,
    "embed": _embed,
    "window": _window,
    "decimate": _decimate,
    "interleave": _interleave,
    "shift": _shift,
}


# -- integer operations: exact results in int64, saturated by the caller -------------------------


def _int_linear(node: Node, args: Sequence[Array], dtype: str) -> Array:
    total = args[-1].astype(np.int64) if len(args) % 2 else np.int64(0)
    for g, (m, s) in enumerate(zip(node.attrs["m"], node.attrs["s"], strict=True)):
        x, w = args[2 * g], args[2 * g + 1]
        # Products and sums stay below 2^53 (the overflow proof bounds them by 2^31), where
        # float64 is exact; numpy has a fast matrix product for floats only.
        acc = (x.astype(np.float64) @ w.T.astype(np.float64)).astype(np.int64)
        total = total + rq(acc, m, s)
    return np.asarray(total, np.int64)


def _int_add(node: Node, args: Sequence[Array], dtype: str) -> Array:
    a, b = (x.astype(np.int64) for x in args)
    return shift_round(a * node.attrs["ma"] + b * node.attrs["mb"], node.attrs["s"])


def _int_mul(node: Node, args: Sequence[Array], dtype: str) -> Array:
    return rq(args[0].astype(np.int64) * args[1], node.attrs["m"], node.attrs["s"])


def _int_lut(node: Node, args: Sequence[Array], dtype: str) -> Array:
    return lut_apply(args[0], args[1], node.attrs["lo"], node.attrs["k"])


def _int_clamp(node: Node, args: Sequence[Array], dtype: str) -> Array:
    lo, hi = INT_RANGE[dtype]
    bound_lo = lo if node.attrs["lo"] is None else node.attrs["lo"]
    bound_hi = hi if node.attrs["hi"] is None else node.attrs["hi"]
    return np.clip(args[0], bound_lo, bound_hi).astype(args[0].dtype)


def _int_norm(node: Node, args: Sequence[Array], dtype: str) -> Array:
    x, gain, bias = args
    return layer_norm(x, gain, bias, eps=node.attrs["eps"], shift=node.attrs["s"])


def _int_depthwise(node: Node, args: Sequence[Array], dtype: str) -> Array:
    acc = (args[0].astype(np.int64) * args[1]).sum(-2)
    y = rq(acc, node.attrs["m"], node.attrs["s"])
    return y + args[2] if len(args) == 3 else y


def _int_matmul(node: Node, args: Sequence[Array], dtype: str) -> Array:
    a, b = (x.astype(np.float64) for x in args)  # exact: sums stay below 2^47
    acc = (a @ np.swapaxes(b, -1, -2)).astype(np.int64)
    return rq(acc, node.attrs["m"], node.attrs["s"])


def _int_softmax(node: Node, args: Sequence[Array], dtype: str) -> Array:
    a = node.attrs
    return softmax(args[0], args[1], m=a["m"], s=a["s"], lo=a["lo"], k=a["k"])


def _int_wide(node: Node, args: Sequence[Array], dtype: str) -> Array:
    a = node.attrs
    return wide_apply(args[0], args[1], a["fn"], m=a["m"], s=a["s"], b=a["b"])


_INTEGER: Mapping[str, Callable[[Node, Sequence[Array], str], Array]] = {
    "linear": _int_linear,
    "add": _int_add,
    "mul": _int_mul,
    "lut": _int_lut,
    "clamp": _int_clamp,
    "rescale": lambda node, a, d: rq(a[0], node.attrs["m"], node.attrs["s"]),
    "norm": _int_norm,
    "slice": _slice,
    "concat": _concat,
    "depthwise": _int_depthwise,
    "matmul": _int_matmul,
    "softmax": _int_softmax,
    "wide": _int_wide,
    "max": lambda node, a, d: np.maximum(a[0], a[1]),
    "min": lambda node, a, d: np.minimum(a[0], a[1]),
    "compare": _compare,
    "select": _select,
    "embed": _embed,
}
