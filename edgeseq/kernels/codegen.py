"""A plan as one object: kernels through Numba, glue as LLVM IR, everything linked and optimised.

The object defines `NAME_reset`, `NAME_step` and `NAME_run` and nothing else; it refers to no symbol
outside of itself, has no writable data, and is position independent where the target asks for it.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

from edgeseq.kernels import basic, toolchain
from edgeseq.kernels.elf import undefined_symbols
from edgeseq.kernels.plan import Call, Constant, KernelSource, Place, Plan
from edgeseq.kernels.support import SUPPORT
from edgeseq.kernels.toolchain import Lowered, Machine

__all__ = ["build_module", "build_object", "lowered"]


@functools.lru_cache(maxsize=1024)
def lowered(kernel: KernelSource, machine: Machine) -> Lowered:
    """The kernel's IR for a machine; kept for the life of the process."""
    import numpy as np

    from edgeseq.kernels import primitives, vectors

    scope: dict[str, Any] = {name: getattr(primitives, name) for name in primitives.__all__}
    scope |= {name: getattr(vectors, name) for name in vectors.__all__}
    scope["np"] = np
    exec(compile(kernel.source, f"<kernel {kernel.name}>", "exec"), scope)
    return toolchain.lower(scope["kernel"], kernel.parameters, kernel.name, machine)


def _constant(constant: Constant) -> str:
    data = "".join(f"\\{b:02x}" for b in constant.data)
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

    def call(self, call: Call) -> None:
        if call.repeat > 1:
            self.loop(call)
            return
        arguments = [
            f"ptr {self.address(a)}" if isinstance(a, Place) else f"i32 {a}" for a in call.arguments
        ]
        self.lines.append(f"  call void @{call.kernel.name}({', '.join(arguments)})")

    def loop(self, call: Call) -> None:
        """The same call `repeat` times, its addresses advancing."""
        self.count += 1
        n = self.count
        bases = [self.address(a) if isinstance(a, Place) else str(a) for a in call.arguments]
        self.lines += [
            f"  br label %loop{n}",
            f"loop{n}:",
            f"  %i{n} = phi i32 [ 0, %{self.block} ], [ %j{n}, %loop{n} ]",
        ]
        arguments = []
        for k, (argument, base) in enumerate(zip(call.arguments, bases, strict=True)):
            if isinstance(argument, Place):
                self.lines += [
                    f"  %o{n}.{k} = mul nsw i32 %i{n}, {call.steps[k]}",
                    f"  %a{n}.{k} = getelementptr inbounds i8, ptr {base}, i32 %o{n}.{k}",
                ]
                arguments.append(f"ptr %a{n}.{k}")
            else:
                arguments.append(f"i32 {base}")
        self.lines += [
            f"  call void @{call.kernel.name}({', '.join(arguments)})",
            f"  %j{n} = add nsw i32 %i{n}, 1",
            f"  %c{n} = icmp slt i32 %j{n}, {call.repeat}",
            f"  br i1 %c{n}, label %loop{n}, label %done{n}",
            f"done{n}:",
        ]
        self.block = f"done{n}"

    def step(self) -> str:
        for call in self.plan.calls:
            self.call(call)
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


def _reset(plan: Plan, name: str) -> tuple[Call | None, str]:
    """The reset function, and the call it makes (None: there is no state)."""
    image = bytearray(plan.state_bytes)
    for slot in plan.slots:
        raw = slot.init.tobytes()
        image[slot.offset : slot.offset + len(raw)] = raw
    words = plan.state_bytes // 4
    call: Call | None = None
    if words and not any(image):
        kernel = KernelSource(basic.fill_source(32), ("ptr", "i32", "i32"))
        call = Call(kernel, [Place("state", 0), words, 0], ("reset",))
    elif words:
        constant = Constant("const_initial", bytes(image), 4, "const")
        plan.constants[constant.name] = constant
        plan.parts["constants"] += len(image)
        kernel = KernelSource(basic.copy_source(32, 32), ("ptr", "ptr", "i32", "i32", "i32", "i32"))
        source, target = Place(constant.name, 0), Place("state", 0)
        call = Call(kernel, [source, target, 1, words, 0, 0], ("reset",))
    glue = _Glue(plan, name)
    if call is not None:
        glue.call(call)
    body = "\n".join(glue.lines)
    text = f"define void @{name}_reset(ptr noalias %state) #91 {{\n{body}\n  ret void\n}}\n"
    return call, text


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
    reset_call, reset = _reset(plan, name)
    calls = [*plan.calls, *([reset_call] if reset_call else [])]
    uses: Counter[KernelSource] = Counter()
    for call in calls:
        uses[call.kernel] += 1
    parts, declarations = [], []
    for kernel, count in uses.items():
        low = lowered(kernel, machine)
        parts.append(low.ir(shared=count > 1, small=machine.micro))
        kinds = ", ".join("ptr" if p == "ptr" else "i32" for p in kernel.parameters)
        declarations.append(f"declare void @{kernel.name}({kinds})\n")
    constants = "".join(_constant(c) for c in plan.constants.values())
    parts.append(constants + "".join(declarations) + reset + step + run)
    exports = [f"{name}_{f}" for f in ("reset", "step", "run")]
    parts += [SUPPORT[f] for f in library]
    return toolchain.link(parts, exports, machine, library)
