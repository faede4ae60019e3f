"""A plan as one object: kernels through Numba, glue as LLVM IR, everything linked and optimised.

The object defines `NAME_reset`, `NAME_step` and `NAME_run` and nothing else; it refers to no symbol
outside of itself, has no writable data, and is position independent where the target asks for it.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

from edgeseq.kernels import toolchain
from edgeseq.kernels.elf import undefined_symbols
from edgeseq.kernels.moves import Unit, move_source
from edgeseq.kernels.plan import Call, Constant, KernelSource, Place, Plan, Repeat
from edgeseq.kernels.support import SUPPORT
from edgeseq.kernels.toolchain import Lowered, Machine

__all__ = ["build_module", "build_object", "lowered"]


@functools.lru_cache(maxsize=4096)
def lowered(kernel: KernelSource) -> Lowered:
    """The kernel's IR, the same for every machine; kept for the life of the process."""
    from edgeseq.kernels.lower import lower_kernel

    return lower_kernel(kernel.source, kernel.parameters, kernel.name)


def _constant(constant: Constant) -> str:
    data = "\\" + constant.data.hex("\\")
    return (
        f'@{constant.name} = internal constant [{len(constant.data)} x i8] c"{data}", '
        f'section ".rodata.{constant.kind}", align {constant.align}\n'
    )


class _Glue:
    """Text of the entry points."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name
        graph = plan.graph
        self.inputs = [f"in{i}" for i in range(len(graph.inputs))]
        self.outputs = [f"out{i}" for i in range(len(graph.outputs))]
        self.count = 0
        self.lines: list[str] = []
        self.block = "entry"

    def address(self, place: Place) -> str:
        base = f"@{place.base}" if place.base in self.plan.constants else f"%{place.base}"
        if place.offset == 0:
            return base
        self.count += 1
        self.lines.append(
            f"  %t{self.count} = getelementptr inbounds i8, ptr {base}, i32 {place.offset}"
        )
        return f"%t{self.count}"

    def items(self, items: list[Call | Repeat]) -> None:
        for item in items:
            if isinstance(item, Repeat):
                self.repeat(item)
            else:
                self.call(item)

    def call(self, call: Call) -> None:
        arguments = [
            f"ptr {self.address(a)}" if isinstance(a, Place) else f"i32 {a}" for a in call.arguments
        ]
        self.lines.append(f"  call void @{call.kernel.name}({', '.join(arguments)})")

    def repeat(self, repeat: Repeat) -> None:
        """A loop whose pointers advance."""
        self.count += 1
        n = self.count
        bases = {name: self.address(place) for name, (place, _) in repeat.moving.items()}
        self.lines += [
            f"  br label %loop{n}",
            f"loop{n}:",
            f"  %i{n} = phi i32 [ 0, %{self.block} ], [ %j{n}, %next{n} ]",
        ]
        self.block = f"loop{n}"
        for name, (_, step) in repeat.moving.items():
            self.lines += [
                f"  %{name}.at = mul nsw i32 %i{n}, {step}",
                f"  %{name} = getelementptr inbounds i8, ptr {bases[name]}, i32 %{name}.at",
            ]
        self.items(repeat.items)
        self.lines += [
            f"  br label %next{n}",
            f"next{n}:",
            f"  %j{n} = add nsw i32 %i{n}, 1",
            f"  %c{n} = icmp slt i32 %j{n}, {repeat.count}",
            f"  br i1 %c{n}, label %loop{n}, label %done{n}",
            f"done{n}:",
        ]
        self.block = f"done{n}"

    def step(self) -> str:
        self.items(self.plan.items)
        io = "".join(f", ptr noalias %{n}" for n in self.inputs + self.outputs)
        body = "\n".join(self.lines)
        return (
            f"define void @{self.name}_step(ptr noalias %state, ptr noalias %scratch{io}) #90 {{\n"
            f"entry:\n{body}\n  ret void\n}}\n"
        )

    def run(self) -> str:
        graph = self.plan.graph
        names = self.inputs + self.outputs
        sizes = [graph.types[v].nbytes for v in graph.inputs + graph.outputs]
        formal = "".join(f", ptr noalias %{n}" for n in names)
        phis = "".join(f"  %p.{n} = phi ptr [ %{n}, %entry ], [ %q.{n}, %loop ]\n" for n in names)
        moves = "".join(
            f"  %q.{n} = getelementptr inbounds i8, ptr %p.{n}, i32 {s}\n"
            for n, s in zip(names, sizes, strict=True)
        )
        actual = "".join(f", ptr %p.{n}" for n in names)
        return (
            f"define void @{self.name}_run(ptr noalias %state, ptr noalias %scratch{formal}, "
            f"i32 %frames) #90 {{\n"
            "entry:\n  %some = icmp sgt i32 %frames, 0\n  br i1 %some, label %loop, label %done\n"
            f"loop:\n  %left = phi i32 [ %frames, %entry ], [ %fewer, %loop ]\n{phis}"
            f"  call void @{self.name}_step(ptr %state, ptr %scratch{actual})\n{moves}"
            "  %fewer = sub nsw i32 %left, 1\n  %more = icmp sgt i32 %fewer, 0\n"
            "  br i1 %more, label %loop, label %done\ndone:\n  ret void\n}\n"
        )


def _reset(plan: Plan, name: str, small: bool) -> tuple[list[Call], str]:
    """The reset function, and the calls it makes."""
    image = bytearray(plan.state_bytes)
    calls: list[Call] = []
    odd = [s for s in plan.slots if s.init.any()]
    for slot in odd:
        raw = slot.init.tobytes()
        image[slot.offset : slot.offset + len(raw)] = raw
    word = Unit(4, False)

    def words(nbytes: int, source: Place | None, target: Place) -> None:
        steps = [4] if source is not None else None
        text = move_source([nbytes // 4], steps, [4], word, word, small=small)
        arguments: list[Place | int] = [target] if source is None else [source, target]
        calls.append(Call(KernelSource(text, ("ptr",) * len(arguments)), arguments, ("reset",)))

    def stored(data: bytes) -> Place:
        constant = Constant(f"const_initial{len(calls)}", data, 4, "const")
        plan.constants[constant.name] = constant
        plan.parts["constants"] += len(data)
        return Place(constant.name, 0)

    state = Place("state", 0)
    if image and 2 * sum(s.init.nbytes for s in odd) > len(image):
        words(len(image), stored(bytes(image)), state)
    elif image:
        words(len(image), None, state)
        for slot in odd:  # whole words: what else they hold has its value already
            first = slot.offset // 4 * 4
            end = -(-(slot.offset + slot.init.nbytes) // 4) * 4
            words(end - first, stored(bytes(image[first:end])), state + first)
    glue = _Glue(plan, name)
    for call in calls:
        glue.call(call)
    body = "\n".join(glue.lines)
    text = f"define void @{name}_reset(ptr noalias %state) #91 {{\n{body}\n  ret void\n}}\n"
    return calls, text


def build_object(plan: Plan, name: str, machine: Machine) -> bytes:
    """The ELF object of a plan.

    Args:
        plan: from `make_plan`.
        name: prefix of the entry points, a C identifier.
        machine: what to compile for.

    Raises:
        BackendError: code generation failed.
    """
    library: tuple[str, ...] = ()
    while True:
        data = toolchain.emit(build_module(plan, name, machine, library), machine)
        missing = sorted(undefined_symbols(data) & SUPPORT.keys() - set(library))
        if not missing:
            return data
        library = (*library, *missing)


def build_module(plan: Plan, name: str, machine: Machine, library: tuple[str, ...] = ()) -> Any:
    """The optimised LLVM module of a plan; `library` names functions of `support` to include."""
    glue = _Glue(plan, name)
    step = glue.step()
    run = glue.run()
    reset_calls, reset = _reset(plan, name, machine.micro)
    uses = Counter(call.kernel for call, _ in plan.calls())
    uses.update(call.kernel for call in reset_calls)
    parts, declarations = [], []
    for kernel, count in uses.items():
        low = lowered(kernel)
        parts.append(low.ir(shared=count > 1 or len(uses) > 64, small=machine.micro))
        kinds = ", ".join("ptr" if p == "ptr" else "i32" for p in kernel.parameters)
        declarations.append(f"declare void @{kernel.name}({kinds})\n")
    constants = "".join(_constant(c) for c in plan.constants.values())
    parts.append(constants + "".join(declarations) + reset + step + run)
    exports = [f"{name}_{f}" for f in ("reset", "step", "run")]
    parts += [SUPPORT[f] for f in library]
    return toolchain.link(parts, exports, machine, library)
