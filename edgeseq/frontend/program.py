"""The neutral program: what an exported model says, as plain Python and numpy data.

Readers produce it, `lower` consumes it. It holds no torch object and nothing that can run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

__all__ = ["Operation", "Program", "Ref", "Symbol", "TensorMeta", "refs_of"]


@dataclass(frozen=True)
class Ref:
    """An argument that is another value of the program (a tensor or a symbolic number)."""

    name: str


class Symbol(int):
    """A size of the input, or a number made from sizes: known for the example only.

    It may shape views and constants; arithmetic on frames with it would fix the length.
    """


@dataclass(frozen=True)
class TensorMeta:
    """What the exporter recorded about a tensor: its sizes in the example, and its dtype name."""

    sizes: tuple[int, ...]
    dtype: str


@dataclass
class Operation:
    """One call of an operator.

    Attributes:
        target: operator as the exporter spells it, e.g. 'aten.add.Tensor'.
        args: by the names of the operator's schema; values are `Ref`, lists of them, numbers,
            strings or None.
        outputs: names it defines; an operator with several results has several.
        path: of the module that called it, '' for the outermost.
        leaf: True where that module is one of `torch.nn`'s own.
    """

    target: str
    args: dict[str, Any]
    outputs: tuple[str, ...]
    path: str = ""
    leaf: bool = False

    @property
    def base(self) -> str:
        """The operator without its namespace, overload and in-place mark: 'add'."""
        parts = self.target.split(".")
        name = parts[1] if len(parts) > 1 else parts[0]
        return name[:-1] if self.in_place else name

    @property
    def in_place(self) -> bool:
        """True for `relu_` and the like; dunder names are not in-place operators."""
        parts = self.target.split(".")
        name = parts[1] if len(parts) > 1 else parts[0]
        return len(name) > 1 and name.endswith("_") and not name.endswith("__")

    def __str__(self) -> str:
        return f"{self.target} in {self.path!r}" if self.path else self.target


@dataclass
class Program:
    """An exported model.

    Attributes:
        inputs: user inputs, in the order of the signature.
        constants: parameters, buffers and lifted constants; numbers for scalar inputs.
        operations: in execution order.
        outputs: user outputs; a `Ref`, a number or None each.
        metas: of inputs and of whatever else the exporter described.
        numbers: values of symbolic sizes in the example.
        where: the file or module, for messages.
    """

    inputs: list[str]
    constants: dict[str, npt.NDArray[Any] | float | int | bool | str | None]
    operations: list[Operation]
    outputs: list[Any]
    metas: dict[str, TensorMeta]
    numbers: dict[str, Symbol] = field(default_factory=dict)
    where: str = "model"

    def used(self) -> set[str]:
        """Names that an operation or an output reads."""
        names = {r.name for op in self.operations for a in op.args.values() for r in refs_of(a)}
        return names | {r.name for out in self.outputs for r in refs_of(out)}


def refs_of(arg: Any) -> Iterator[Ref]:
    """Every `Ref` in an argument, lists included."""
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, list | tuple):
        for item in arg:
            yield from refs_of(item)
