"""Drawing ONNX models operator by operator: choices, and what ONNX Runtime says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper
from onnx_models import Net

__all__ = ["KINDS", "LENGTHS", "Drawing", "Drawn", "Made", "often"]

OPSETS = (13, 26)
LENGTHS = (12, 16)
"""Two lengths, by which a value's axis of time is known; both hold whole turns of most strides."""

SHAPES = ("tf", "tbf", "btf", "bft", "bctf", "bcft")
"""Sizes of inputs, a letter per axis: time, batch, channels, features."""


@dataclass
class Drawn:
    """A model.

    Attributes:
        net: its nodes, weights and inputs.
        shapes: sizes of every input; None is time.
        outputs: names of its outputs.
        opset: of the default domain.
    """

    net: Net
    shapes: dict[str, tuple[int | None, ...]]
    outputs: list[str] = field(default_factory=list)

    def feed(self, length: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs of `length` frames."""
        rng = np.random.default_rng(seed)
        return {
            n: rng.normal(size=[length if k is None else k for k in s]).astype(np.float32)
            for n, s in self.shapes.items()
        }


class Drawing:
    """A model under construction; ONNX Runtime says the sizes of every value and where time is."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.net = Net(int(self.rng.integers(OPSETS[0], OPSETS[1] + 1)), seed)
        f, c = int(self.rng.choice([3, 4, 6])), int(self.rng.choice([1, 2, 4]))
        known = {"b": 1, "c": c, "f": f, "t": None}
        shape = tuple(known[k] for k in self.one(SHAPES))
        names = ("x", "z")[: 2 if self.rng.random() < 0.2 else 1]
        self.drawn = Drawn(self.net, dict.fromkeys(names, shape))
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.time: dict[str, int | None] = {}
        for n in names:
            self.net.input(n, ["frames" if k is None else k for k in shape])
            self.sizes[n] = tuple(LENGTHS[0] if k is None else k for k in shape)
            self.time[n] = shape.index(None)

    # -- choices -------------------------------------------------------------------------------

    def one(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def axis(self, x: str, timed: float = 0.1) -> int:
        """An axis, rarely that of time, counted from either end."""
        rank = len(self.sizes[x])
        free = [d for d in range(rank) if d != self.time[x]]
        d = self.one(free) if free and not self.maybe(timed) else int(self.rng.integers(rank))
        return d - rank if self.maybe() else d

    def size(self, x: str, axis: int) -> int:
        return self.sizes[x][axis]

    def ints(self, *n: int) -> str:
        return self.net.const(n, np.int64)

    def broadcast(self, x: str, extra: float = 0.1) -> tuple[int, ...]:
        """A shape that broadcasts with x: of the end of its axes, some of them one."""
        sizes = [1 if d == self.time[x] or self.maybe(0.3) else n
                 for d, n in enumerate(self.sizes[x])]  # fmt: skip
        cut = sizes[int(self.rng.integers(len(sizes) + 1)) :]
        if self.maybe(extra):
            cut = [self.one([1, 2]), *([1] * (len(sizes) - len(cut))), *cut]
        return tuple(cut)

    def other(self, x: str) -> str:
        """Another value that has the shape of x, or x."""
        alike = [v for v in self.sizes if self.sizes[v] == self.sizes[x]]
        return str(self.one(alike))

    def spatial(self, x: str, widest: int = 3, pads: bool = True) -> dict[str, Any]:
        """Attributes of a convolution or pool over the axes after the first two."""
        rank = len(self.sizes[x]) - 2
        kernel = [min(int(self.rng.integers(1, widest + 1)), n) for n in self.sizes[x][2:]]
        made: dict[str, Any] = {"kernel_shape": kernel}
        if self.maybe(0.3):
            made["strides"] = [int(self.rng.integers(1, 3)) for _ in range(rank)]
        if self.maybe(0.3):
            made["dilations"] = [int(self.rng.integers(1, 3)) for _ in range(rank)]
        spans = [
            (k - 1) * d for k, d in zip(kernel, made.get("dilations", [1] * rank), strict=True)
        ]
        if pads and self.maybe(0.15):
            made["auto_pad"] = self.one(["SAME_UPPER", "SAME_LOWER", "VALID"])
        elif pads and self.maybe(0.7):
            before = [int(self.rng.integers(0, s + 1)) for s in spans]
            after = [int(self.rng.integers(0, s + 1)) for s in spans]
            if self.maybe():  # causal, as streams are
                d = (self.time[x] or 0) - 2
                if 0 <= d < rank:
                    before[d], after[d] = spans[d], 0
            made["pads"] = [*before, *after]
        return made

    # -- the model -----------------------------------------------------------------------------

    def grow(self) -> bool:
        """Draw a node on a value made so far; whether ONNX Runtime takes it."""
        net = self.net
        before = len(net.nodes), len(net.weights)
        late = list(self.sizes)[-3:]
        x = late[-1] if self.maybe(0.7) else self.one(late)
        made = self.one(KINDS)(self, x)
        names = [made] if isinstance(made, str) else list(made or [])
        results = self.run(names) if names else None
        if results is None:
            del net.nodes[before[0] :], net.weights[before[1] :]
            return False
        for name, (a, b) in results.items():
            self.sizes[name] = a
            odd = [d for d, (p, q) in enumerate(zip(a, b, strict=True)) if p != q]
            self.time[name] = odd[0] if len(odd) == 1 else None
        return True

    def run(self, names: list[str]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]] | None:
        """Sizes of values for both lengths, or None where there are none or numbers go astray."""
        outputs = [helper.make_empty_tensor_value_info(n) for n in names]
        graph = helper.make_graph(self.net.nodes, "net", self.net.inputs, outputs, self.net.weights)
        opsets = [helper.make_opsetid("", self.net.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            found = [session.run(names, self.drawn.feed(n)) for n in LENGTHS]
        except Exception:  # noqa: BLE001 (its own classes share no other base)
            return None
        for y in (*found[0], *found[1]):
            fine = y.dtype == np.float32 and y.size and y.size < 4000 and 0 < y.ndim < 6
            if not fine or not np.isfinite(y).all() or np.abs(y).max() > 1e3:
                return None
        return {n: (a.shape, b.shape) for n, a, b in zip(names, *found, strict=True)}


Made = str | list[str] | None
KINDS: list[Callable[[Drawing, str], Made]] = []
"""What draws an operator on a value, each as many times as it should be drawn."""


def often(weight: int) -> Callable[[Callable[[Drawing, str], Made]], Any]:
    """Register what draws an operator."""

    def add(fn: Callable[[Drawing, str], Made]) -> Any:
        KINDS.extend([fn] * weight)
        return fn

    return add
