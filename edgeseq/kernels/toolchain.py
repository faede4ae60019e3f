"""Any LLVM target: kernels as IR in, freestanding ELF objects out.

A kernel is a Python function over raw pointers and 32-bit integers; `lower` turns it into LLVM IR
that is the same for every target. Then

1. `link` joins that IR with the generated glue, makes every symbol but the entry points internal,
   and runs the optimiser with the target's own machine description.
2. `emit` writes the object.

Nothing here depends on the CPU of the machine that compiles: the same input gives the same bytes.
This module (and what it imports) is only imported when something is compiled.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm

from edgeseq.errors import BackendError

if TYPE_CHECKING:
    from edgeseq.target import Target

_MICRO_ARCHS = ("thumb", "armv", "riscv32")
_LOCK = threading.RLock()
_ready = False


@dataclass(frozen=True)
class Machine:
    """What LLVM must know about a processor; the part of a `Target` that changes code."""

    triple: str
    cpu: str
    features: tuple[str, ...]
    isa: tuple[str, ...]
    pic: bool
    abi: str = ""

    @classmethod
    def of(cls, target: Target) -> Machine:
        """The machine of a target description.

        An `archive` target is linked at a fixed address by the user; a `shared` one must be
        position independent.
        """
        abi = target.abi if target.triple.startswith("riscv") else ""
        return cls(
            triple=target.triple,
            cpu=target.cpu,
            features=tuple(target.features),
            isa=tuple(target.isa),
            pic=target.format == "shared",
            abi=abi or "",
        )

    @property
    def micro(self) -> bool:
        """Whether this is a microcontroller (code size counts, no unrolling)."""
        return self.triple.startswith(_MICRO_ARCHS)

    @property
    def avx2(self) -> bool:
        """Whether this is an x86-64 with AVX2 (level v3 of the architecture)."""
        v3 = self.cpu in ("x86-64-v3", "x86-64-v4") or "+avx2" in self.features
        return self.triple.startswith("x86_64") and v3

    @property
    def neon(self) -> bool:
        """Whether this is an AArch64, of which NEON is a part."""
        return self.triple.startswith("aarch64") and "-neon" not in self.features

    @property
    def has_wide_multiply(self) -> bool:
        """Whether 32 x 32 -> 64 bits is an instruction (Armv6-M and Armv8-M Baseline have none)."""
        return not self.triple.startswith(("thumbv6m", "thumbv8m.base"))

    @property
    def pointer_bits(self) -> int:
        """32 or 64."""
        return 64 if re.match(r"(x86_64|aarch64|riscv64)", self.triple) else 32


def _initialise() -> None:
    global _ready
    with _LOCK:
        if not _ready:
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
            _ready = True


@functools.lru_cache(maxsize=32)
def target_machine(machine: Machine) -> Any:
    """LLVM's description of `machine`.

    Raises:
        BackendError: this LLVM does not know the triple, the CPU or a feature.
    """
    _initialise()
    try:
        target = llvm.Target.from_triple(machine.triple)
    except RuntimeError as error:
        raise BackendError(
            f"LLVM has no code generator for the triple {machine.triple!r} ({error})",
            where="target file, key `triple`",
            fix="correct it; LLVM's names are like "
            "thumbv7em-none-eabi, aarch64-unknown-linux-gnu, x86_64-unknown-linux-gnu",
        ) from error
    with _heard_on_stderr() as heard:
        made = target.create_target_machine(
            cpu=machine.cpu,
            features=",".join(machine.features),
            opt=3,
            reloc="pic" if machine.pic else "static",
            codemodel="small" if machine.pointer_bits == 64 else "default",
            abiname=machine.abi,
        )
    # LLVM prints what it does not recognise and goes on without it; instructions that are missing
    # then end the process.
    unknown = [line for line in heard if "is not a recognized" in line]
    if unknown:
        raise BackendError(
            unknown[0].partition(" (ignoring")[0],
            where=f"code generator, CPU {machine.cpu!r} of {machine.triple}",
            fix="use LLVM's names in the target file, keys `cpu` and `features`",
        )
    return made


@contextmanager
def _heard_on_stderr() -> Iterator[list[str]]:
    """Lines that C++ code writes to the process's standard error inside the block."""
    lines: list[str] = []
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error to listen to
        yield lines
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


#: Where a kernel's attributes go; decided when its callers are known.
SLOT = "EDGESEQ_ATTRIBUTES"
#: "no-builtins" keeps LLVM from turning loops into calls of memcpy and memset.
ATTRIBUTES = (
    'attributes #90 = { nounwind "no-builtins" "no-jump-tables"="true" }\n'
    'attributes #91 = { nounwind optsize "no-builtins" "no-jump-tables"="true" }\n'
)


@dataclass(frozen=True)
class Lowered:
    """A kernel as unoptimised LLVM IR under the name `name`, returning nothing."""

    name: str
    text: str

    def ir(self, *, shared: bool, small: bool) -> str:
        """The IR text.

        Args:
            shared: called from several places: keep one copy instead of inlining it.
            small: prefer size where it costs no inner loop.
        """
        words = ["noinline" if shared else "alwaysinline", "#91" if small else "#90"]
        return self.text.replace(SLOT, " ".join(words))


def link(
    parts: Iterable[str], exports: Iterable[str], machine: Machine, library: Iterable[str] = ()
) -> Any:
    """Join IR texts into one optimised module in which only `exports` are visible.

    `library` names functions that LLVM calls by itself (`support`); they become local symbols
    after the optimiser, which would otherwise drop or change what nothing seems to call.

    Raises:
        BackendError: the parts do not fit together.
    """
    tm = target_machine(machine)
    module: Any = None
    for text in parts:
        part = _parse(text, machine)
        if module is None:
            module = part
        else:
            module.link_in(part)
    extra = tuple(library)
    keep = {*exports, *extra}
    for function in module.functions:
        if not function.is_declaration and function.name not in keep:
            function.linkage = llvm.Linkage.internal
    options = llvm.create_pipeline_tuning_options(3)
    # The matrix kernels are unrolled by hand; LLVM would hoist and spill whole weight blocks.
    options.loop_unrolling = False
    options.loop_vectorization = not machine.micro
    options.slp_vectorization = not machine.micro
    options.loop_interleaving = not machine.micro
    builder = llvm.create_pass_builder(tm, options)
    # Variables become registers before anything is inlined: what `noalias` says of a parameter is
    # kept only for addresses that are visibly made from it.
    first = llvm.create_new_module_pass_manager()
    first.add_sroa_pass()
    first.run(module, builder)
    builder.getModulePassManager().run(module, builder)
    for name in extra:
        module.get_function(name).linkage = llvm.Linkage.internal
    module.verify()
    return module


def _parse(text: str, machine: Machine) -> Any:
    header = (
        f'target datalayout = "{target_machine(machine).target_data}"\n'
        f'target triple = "{machine.triple}"\n'
        'source_filename = "edgeseq"\n'
    )
    body = "\n".join(
        line
        for line in text.splitlines()
        if not line.startswith(("target ", "source_filename", "; ModuleID"))
    )
    try:
        module = llvm.parse_assembly(header + body + "\n" + ATTRIBUTES)
        module.verify()
    except RuntimeError as error:
        raise BackendError(f"generated LLVM IR is not valid: {error}") from error
    return module


def emit(module: Any, machine: Machine) -> bytes:
    """The module as an ELF object."""
    return bytes(target_machine(machine).emit_object(module))


def assembly(module: Any, machine: Machine) -> str:
    """The module as assembly text, for people."""
    return str(target_machine(machine).emit_assembly(module))
