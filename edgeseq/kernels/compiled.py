"""`compile_step`: an integer step as an object for a target, with everything known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import UsageError
from edgeseq.ir.graph import Graph
from edgeseq.ir.types import DTYPES, Scale

if TYPE_CHECKING:
    from edgeseq.kernels.toolchain import Machine
    from edgeseq.target import Target

__all__ = ["CompiledStep", "NodeCost", "Port", "StateField", "compile_step"]


@dataclass(frozen=True)
class Port:
    """An input or output of the step: one frame of `shape` elements of `dtype`, row major.

    `dtype` is 'i8', 'i16' or 'i32'; real = stored * scale.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: Scale | None

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return self.size * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def size(self) -> int:
        """Elements of one frame."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def numpy(self) -> np.dtype[Any]:
        """Element type as numpy knows it (little endian)."""
        return np.dtype(DTYPES[self.dtype])


@dataclass(frozen=True)
class StateField(Port):
    """A state in the state struct, at byte `offset`; `init` is what a reset stores."""

    offset: int
    init: npt.NDArray[Any]


@dataclass(frozen=True)
class NodeCost:
    """Work of one kernel call per step: the nodes it computes and its multiply-accumulates.

    A call that a step makes several times counts as one, with the sum of its work.
    """

    nodes: tuple[str, ...]
    kernel: str
    macs: int


@dataclass(frozen=True)
class CompiledStep:
    """An object and what a caller, a header or a report needs to know.

    Attributes:
        name: prefix of the symbols `NAME_reset`, `NAME_step`, `NAME_run`.
        target: what it was compiled for; None for this machine.
        object_bytes: ELF, relocatable, freestanding.
        inputs, outputs, states: memory layout; states in struct order.
        state_bytes, scratch_bytes: what the caller provides; both aligned to `align` bytes.
        align: of state and scratch, in bytes.
        sizes: bytes of read-only memory by purpose, read from the object: code, weights,
            multipliers, bias, tables, constants.
        code_symbols: bytes of machine code by function.
        costs: per kernel call of one step, in order.
        kernels: name of the matrix kernel set.
    """

    name: str
    target: Target | None
    machine: Machine
    object_bytes: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[StateField, ...]
    state_bytes: int
    scratch_bytes: int
    align: int
    sizes: dict[str, int]
    code_symbols: dict[str, int]
    costs: tuple[NodeCost, ...]
    kernels: str

    @property
    def symbols(self) -> tuple[str, str, str]:
        """Names of the entry points."""
        return f"{self.name}_reset", f"{self.name}_step", f"{self.name}_run"

    @property
    def flash_bytes(self) -> int:
        """All read-only memory."""
        return sum(self.sizes.values())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one step."""
        return sum(c.macs for c in self.costs)

    def initial_state(self) -> npt.NDArray[np.uint8]:
        """The state struct as a reset leaves it, as bytes."""
        image = np.zeros(self.state_bytes, np.uint8)
        return self.pack_state({s.name: s.init for s in self.states}, image)

    def pack_state(
        self, values: dict[str, npt.NDArray[Any]], image: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """State arrays by name as one state struct.

        Raises:
            UsageError: a state is missing or has the wrong shape.
        """
        image = np.zeros(self.state_bytes, np.uint8) if image is None else image
        for s in self.states:
            value = values.get(s.name)
            if value is None or tuple(value.shape) != s.shape:
                got = "nothing" if value is None else f"shape {list(value.shape)}"
                raise UsageError(
                    f"got {got}, needs shape {list(s.shape)}",
                    where=f"state {s.name!r}",
                    fix=f"pass an array for each of {[t.name for t in self.states]}",
                )
            raw = np.ascontiguousarray(value, s.numpy).reshape(-1).view(np.uint8)
            image[s.offset : s.offset + raw.size] = raw
        return image

    def unpack_state(self, image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Arrays by name of the state struct in the last axis of `image` ([..., state_bytes])."""
        out = {}
        for s in self.states:
            raw = np.ascontiguousarray(image[..., s.offset : s.offset + s.nbytes])
            out[s.name] = raw.view(s.numpy).reshape(*image.shape[:-1], *s.shape).copy()
        return out


def compile_step(graph: Graph, target: Target, name: str) -> CompiledStep:
    """Compile an integer step for a target.

    Args:
        graph: integer, without time (after the stream pass and quantisation).
        target: from `edgeseq.target.load_target`.
        name: prefix of the symbols, a C identifier.

    Returns:
        The object with its layout and sizes. The same arguments give the same bytes, whatever
        machine compiles.

    Raises:
        UsageError: `name` is not a C identifier.
        UnsupportedError: an operation has no kernel.
        BackendError: a sum could exceed 32 bits, or code generation failed.
    """
    from edgeseq.kernels.toolchain import Machine

    return compile_for(graph, Machine.of(target), name, target)


def compile_for(
    graph: Graph, machine: Machine, name: str, target: Target | None = None
) -> CompiledStep:
    """As `compile_step`, for an explicit machine."""
    from edgeseq.kernels import codegen
    from edgeseq.kernels.elf import inspect_object
    from edgeseq.kernels.planner import make_plan
    from edgeseq.kernels.select import alignment, linear_set

    if not (name.isidentifier() and name.isascii()):
        raise UsageError(
            f"{name!r} is not a C identifier",
            where="name of the compiled step",
            fix="use letters, digits and underscores, not starting with a digit",
        )
    kernels, align = linear_set(machine), alignment(machine)
    plan = make_plan(graph, kernels, align)
    data = codegen.build_object(plan, name, machine)
    exports = tuple(f"{name}_{f}" for f in ("reset", "step", "run"))
    facts = inspect_object(data, exports, ("weights", "table", "const"))
    sizes = {"code": facts.code}
    sizes.update(_checked_parts(plan.parts, facts.rodata))
    step = plan.graph

    def ports(values: list[str]) -> tuple[Port, ...]:
        types = [step.types[v] for v in values]
        return tuple(Port(v, t.dtype, t.shape, t.scale) for v, t in zip(values, types, strict=True))

    states = tuple(
        StateField(s.name, s.dtype, s.shape, s.scale, s.offset, s.init) for s in plan.slots
    )
    functions = {k: v for k, v in facts.symbols.items() if k in exports or k.startswith("k")}
    costs = tuple(NodeCost(c.nodes, c.kernel.name, c.macs * n) for c, n in plan.calls())
    return CompiledStep(
        name,
        target,
        machine,
        data,
        ports(step.inputs),
        ports(step.outputs),
        states,
        plan.state_bytes,
        plan.scratch_bytes,
        align,
        sizes,
        functions,
        costs,
        kernels.name,
    )


def _checked_parts(parts: dict[str, int], rodata: dict[str, int]) -> dict[str, int]:
    """Planned sizes, with what the object adds (alignment) or dropped counted where it belongs."""
    sizes = dict(parts)
    streams = parts["weights"] + parts["multipliers"] + parts["bias"]
    sizes["weights"] += rodata["weights"] - streams
    sizes["tables"] = rodata["table"]
    sizes["constants"] = rodata["const"]
    return sizes
