"""The neutral program: what an exported model says, as plain Python and numpy data.

Readers produce it, `lower` consumes it. It holds no torch object and nothing that can run.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

__all__ = [
    "Operation", "Program", "Ref", "Symbol", "TensorMeta", "ValueInfo", "graph_name", "refs_of",
    "renamed",
]  # fmt: skip


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
    """What the exporter recorded about a tensor.

    Attributes:
        sizes: in the example.
        dtype: its name.
        open: axes whose size the file leaves open.
    """

    sizes: tuple[int, ...]
    dtype: str
    open: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ValueInfo:
    """What a file says of a value, unchecked.

    Attributes:
        name: of the value.
        dtype: element type: 'float32', 'bfloat16', 'int4', ...
        shape: a number, the name of a symbolic size, or None where it is unknown, for each axis;
            None where not even their number is known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass
class Operation:
    """One call of an operator.

    Attributes:
        target: operator as the exporter spells it, e.g. 'aten.add.Tensor'.
        args: by the names of the operator's schema; values are `Ref`, lists of them, numbers,
            strings, arrays, nested `Program`s (bodies of loops and branches) or None.
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
        declared: what the file says of inputs, outputs and other values whose sizes may be open.
        buffers: constants that are the model's buffers, which it may write to.
        written: what a buffer holds after a call, by its name; the rest keep what they hold.

    The body of a loop or a branch is a Program too. It may read names that only the program around
    it defines (`free`); a name stands for one value in all programs of a file.
    """

    inputs: list[str]
    constants: dict[str, npt.NDArray[Any] | float | int | bool | str | None]
    operations: list[Operation]
    outputs: list[Any]
    metas: dict[str, TensorMeta]
    numbers: dict[str, Symbol] = field(default_factory=dict)
    where: str = "model"
    declared: dict[str, ValueInfo] = field(default_factory=dict)
    buffers: set[str] = field(default_factory=set)
    written: dict[str, Any] = field(default_factory=dict)

    def used(self, but: Container[str] = ()) -> set[str]:
        """Names that an operation, a nested program or an output reads.

        Args:
            but: operators (`Operation.base`) whose operands do not count.
        """
        counted = [op for op in self.operations if op.base not in but]
        names = {r.name for op in counted for a in op.args.values() for r in refs_of(a)}
        outputs = [*self.outputs, *self.written.values()]
        return names | {r.name for out in outputs for r in refs_of(out)}

    def free(self) -> set[str]:
        """Names that it reads and does not define: those of the program around it."""
        defined = {name for op in self.operations for name in op.outputs}
        return self.used() - defined - set(self.inputs) - set(self.constants) - set(self.numbers)

    def reaches(self) -> dict[str, set[str]]:
        """The inputs that each value depends on."""
        reach = {name: {name} for name in self.inputs}
        for op in self.operations:
            found: set[str] = set()
            for arg in op.args.values():
                for ref in refs_of(arg):
                    found |= reach.get(ref.name, set())
            for out in op.outputs:
                if out:
                    reach[out] = found
        return reach


def graph_name(name: str) -> str:
    """A name of the program as one of the Graph: ASCII letters, digits and '_', at most 60."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)[:60]


def refs_of(arg: Any) -> Iterator[Ref]:
    """Every `Ref` in an argument, lists included; of a nested program, those from outside it."""
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, Program):
        yield from (Ref(name) for name in sorted(arg.free()))
    elif isinstance(arg, list | tuple):
        for item in arg:
            yield from refs_of(item)


def renamed(program: Program, names: Mapping[str, str]) -> Program:
    """`program` with other names for some of its inputs; a name that is taken stays."""
    taken = {o for op in program.operations for o in op.outputs} | set(program.constants)
    table = {a: b for a, b in names.items() if b not in taken and a in program.inputs}

    def put(arg: Any) -> Any:
        if isinstance(arg, Ref):
            return Ref(table.get(arg.name, arg.name))
        if isinstance(arg, list):
            return [put(a) for a in arg]
        return arg

    return replace(
        program,
        inputs=[table.get(n, n) for n in program.inputs],
        operations=[
            replace(op, args={k: put(a) for k, a in op.args.items()}) for op in program.operations
        ],
        outputs=[put(o) for o in program.outputs],
        metas={table.get(n, n): m for n, m in program.metas.items()},
        written={table.get(n, n): put(o) for n, o in program.written.items()},
    )
