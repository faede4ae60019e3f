"""Drawing PyTorch modules operation by operation: choices, and what PyTorch says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["KINDS", "LENGTHS", "Drawing", "Drawn", "Made", "Step", "often"]

LENGTHS = (12, 16)
"""Two lengths, by which a value's axis of time is known; both hold whole turns of most strides."""

SHAPES = ("tf", "btf", "btf", "tbf", "bft", "bctf", "bcft", "bt")
"""Sizes of inputs, a letter per axis: time, batch, channels, features; 'bt' holds tokens."""

TOKENS = 7

Step = Callable[[nn.ModuleList, list[torch.Tensor]], Any]
"""What makes one tensor, or several, of the layers and the values so far."""


class Drawn(nn.Module):
    """A module: its layers, and the steps of its forward function in order.

    Attributes:
        shapes: sizes of every input; None is time.
        tokens: the input holds indices below TOKENS.
        kinds: names of what was drawn, for messages.
        outputs: numbers of the values that it returns.
        bent: a function of masked scores is taken, whose mask is another number in a window.
    """

    def __init__(self, shapes: list[tuple[int | None, ...]], tokens: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.shapes, self.tokens = shapes, tokens
        self.steps: list[Step] = []
        self.kinds: list[str] = []
        self.outputs: list[int] = []
        self.bent = False

    def forward(self, x: Any, z: Any = None) -> Any:
        values = [x] if z is None else [x, z]
        for step in self.steps:
            made = step(self.layers, values)
            values.extend([made] if isinstance(made, torch.Tensor) else made)
        results = tuple(values[i] for i in self.outputs)
        return results[0] if len(results) == 1 else results

    def feed(self, length: int, seed: int = 0) -> list[torch.Tensor]:
        """Random inputs of `length` frames."""
        rng = np.random.default_rng(seed)
        found: list[torch.Tensor] = []
        for shape in self.shapes:
            sizes = [length if n is None else n for n in shape]
            if self.tokens:
                found.append(torch.tensor(rng.integers(0, TOKENS, sizes)))
            else:
                found.append(torch.tensor(rng.normal(size=sizes), dtype=torch.float32))
        return found


class Drawing:
    """A module under construction; PyTorch says the sizes of every value and where time is."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.literal = self.maybe(0.3)  # the length may stand in views as a number
        letters = self.one(SHAPES)
        batch = 2 if self.maybe(0.3) else 1
        known = {"b": batch, "c": self.one([1, 2, 4]), "f": self.one([3, 4, 6]), "t": None}
        shape = tuple(known[k] for k in letters)
        tokens = letters == "bt"
        count = 2 if not tokens and self.maybe(0.15) else 1
        self.drawn = Drawn([shape] * count, tokens)
        self.values = [self.drawn.feed(n) for n in LENGTHS]
        if tokens:
            self.add("Embedding", *_embedding(self))

    # -- choices -------------------------------------------------------------------------------

    def one(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def maybe(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def sizes(self, i: int) -> tuple[int, ...]:
        return tuple(self.values[0][i].shape)

    def time(self, i: int) -> int | None:
        """The axis of a value that is time."""
        a, b = (v[i].shape for v in self.values)
        odd = [d for d, (p, q) in enumerate(zip(a, b, strict=True)) if p != q]
        return odd[0] if odd else None

    def axis(self, i: int, timed: float = 0.1) -> int:
        """An axis, rarely that of time, counted from either end."""
        rank = len(self.sizes(i))
        free = [d for d in range(rank) if d != self.time(i)]
        d = self.one(free) if free and not self.maybe(timed) else int(self.rng.integers(rank))
        return d - rank if self.maybe() else d

    def array(self, *sizes: int, low: float = -1.0, high: float = 1.0) -> torch.Tensor:
        return torch.tensor(self.rng.uniform(low, high, sizes), dtype=torch.float32)

    def broadcast(self, i: int, extra: float = 0.1) -> tuple[int, ...]:
        """A shape that broadcasts with a value: of the end of its axes, some of them one."""
        sizes = [1 if (d == self.time(i) and not self.maybe(0.05)) or self.maybe(0.3) else n
                 for d, n in enumerate(self.sizes(i))]  # fmt: skip
        cut = sizes[int(self.rng.integers(len(sizes) + 1)) :]
        if self.maybe(extra):
            cut = [self.one([1, 2]), *([1] * (len(sizes) - len(cut))), *cut]
        return tuple(cut)

    def other(self, i: int) -> int:
        """Another value that has the shape of this one, or it."""
        kept = [
            v
            for v in range(len(self.values[0]))
            if self.sizes(v) == self.sizes(i) and self.values[0][v].is_floating_point()
        ]
        return int(self.one(kept))

    def layer(self, module: nn.Module) -> int:
        """Its number among the layers, in eval mode and with statistics that are not neutral."""
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[operator, union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[operator, union-attr]
        self.drawn.layers.append(module.eval())
        return len(self.drawn.layers) - 1

    def spatial(self, i: int, widest: int = 3) -> dict[str, Any]:
        """Arguments of a convolution over the axes after the first two."""
        inner = self.sizes(i)[2:]
        made: dict[str, Any] = {
            "kernel_size": tuple(min(int(self.rng.integers(1, widest + 1)), n) for n in inner)
        }
        if self.maybe(0.3):
            made["stride"] = tuple(int(self.rng.integers(1, 3)) for _ in inner)
        if self.maybe(0.3):
            made["dilation"] = tuple(int(self.rng.integers(1, 3)) for _ in inner)
        if self.maybe(0.5):
            spans = [
                (k - 1) * e
                for k, e in zip(
                    made["kernel_size"], made.get("dilation", (1,) * len(inner)), strict=True
                )
            ]
            made["padding"] = tuple(int(self.rng.integers(0, s + 1)) for s in spans)
        return made

    # -- the module ----------------------------------------------------------------------------

    def grow(self) -> bool:
        """Draw an operation on a value made so far; whether PyTorch takes it."""
        late = [i for i, v in enumerate(self.values[0]) if v.is_floating_point()][-4:]
        i = late[-1] if self.maybe(0.65) else self.one(late)
        kind = self.one(KINDS)
        made = kind(self, int(i))
        return made is not None and self.add(kind.__name__.strip("_"), made)

    def add(self, name: str, step: Step) -> bool:
        """Keep a step whose results are finite tensors of moderate size."""
        results = []
        with torch.no_grad():
            for values in self.values:
                try:
                    made = step(self.drawn.layers, list(values))
                except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
                    return False
                results.append([made] if isinstance(made, torch.Tensor) else list(made))
        for y in (*results[0], *results[1]):
            fine = y.dtype == torch.float32 and 0 < y.numel() < 4000 and 0 < y.dim() < 6
            bound = y.masked_fill(y <= -1e4, 0.0) if fine else y  # masks of scores
            if not fine or not bool(torch.isfinite(bound).all()) or float(bound.abs().max()) > 1e3:
                return False
        if len(results[0]) != len(results[1]):
            return False
        for values, more in zip(self.values, results, strict=True):
            values.extend(more)
        self.drawn.steps.append(step)
        self.drawn.kinds.append(name)
        return True


def _embedding(d: Drawing) -> tuple[Step]:
    k = d.layer(nn.Embedding(TOKENS, d.one([3, 4, 6])))
    return (lambda m, v: m[k](v[0]),)


Made = Step | None
KINDS: list[Callable[[Drawing, int], Made]] = []
"""What draws an operation on a value, each as many times as it should be drawn."""


def often(weight: int) -> Callable[[Callable[[Drawing, int], Made]], Any]:
    """Register what draws an operation."""

    def add(fn: Callable[[Drawing, int], Made]) -> Any:
        KINDS.extend([fn] * weight)
        return fn

    return add
