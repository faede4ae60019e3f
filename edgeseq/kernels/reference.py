"""Numba's own lowering of a kernel: what `lower` is held to.

Numba runs with a code generator whose triple, data layout and target machine are the target's;
its unoptimised LLVM IR is taken, since its pipeline would optimise for this computer.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import codegen, compiler, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target

from edgeseq.errors import BackendError
from edgeseq.kernels import primitives, vectors
from edgeseq.kernels.plan import KernelSource
from edgeseq.kernels.toolchain import SLOT, Lowered, Machine, target_machine

__all__ = ["lower", "lower_source"]


class _Library(codegen.CPUCodeLibrary):
    """Collects IR and leaves optimisation to `link`."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        """Left to `link`."""

    def _finalize_specific(self) -> None:
        """Nothing to load."""


class _Codegen(codegen.CPUCodegen):
    """Numba's code generator with the triple and data layout of `machine`."""

    _library_class = _Library

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._machine_tm = target_machine(machine)
        super().__init__("edgeseq")

    def _init(self, llvm_module: Any) -> None:
        self._tm = self._machine_tm
        self._tm_features = ",".join(self.machine.features)
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)

    def _create_empty_module(self, name: str) -> ir.Module:
        module = ir.Module(name)
        module.triple = self.machine.triple
        module.data_layout = str(self._machine_tm.target_data)
        return module

    def _add_module(self, module: Any) -> None:
        """Nothing is loaded into this process."""

    def magic_tuple(self) -> tuple[str, ...]:
        return (self.machine.triple, self.machine.cpu, *self.machine.features)


@functools.lru_cache(maxsize=32)
def _context(machine: Machine) -> Any:
    target_machine(machine)
    return cpu_target.target_context.subtarget(_internal_codegen=_Codegen(machine))


_NUMBA_SYMBOL = re.compile(r"@(?:\"(?P<quoted>_ZN[^\"]+)\"|(?P<plain>_ZN[\w.$]+))")


def lower_source(kernel: KernelSource, machine: Machine) -> Lowered:
    """As `codegen.lowered`, by Numba."""
    import numpy as np

    scope: dict[str, Any] = {name: getattr(primitives, name) for name in primitives.__all__}
    scope |= {name: getattr(vectors, name) for name in vectors.__all__}
    scope["np"] = np
    exec(compile(kernel.source, f"<kernel {kernel.name}>", "exec"), scope)
    return lower(scope["kernel"], kernel.parameters, kernel.name, machine)


@global_compiler_lock
def lower(
    function: Callable[..., None], arguments: tuple[str, ...], name: str, machine: Machine
) -> Lowered:
    """Compile a Python kernel to LLVM IR for `machine`.

    `arguments` holds 'ptr' or 'i32' per parameter. The kernel must return nothing and raise
    nothing. The IR holds one function, `name`, with Numba's calling convention hidden behind a
    wrapper, so that the optimiser inlines it away.

    Raises BackendError when Numba rejects the kernel.
    """
    context = _context(machine)
    signature = tuple(types.voidptr if a == "ptr" else types.int32 for a in arguments)
    flags = compiler.Flags()
    flags.no_compile = True
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    library = context.codegen().create_library(name)
    try:
        result = compiler.compile_extra(
            cpu_target.typing_context,
            context,
            function,
            signature,
            types.void,
            flags,
            locals={},
            library=library,
        )
    except (NumbaError, TypeError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"kernel {name!r} does not compile: {error}",
            where=machine.triple,
            fix="report this: a generated kernel must always compile",
        ) from error
    text = str(library._final_module)
    symbol = result.fndesc.llvm_func_name
    text = text.replace(f'"{symbol}"', f'"{name}.numba"').replace(f"@{symbol}", f"@{name}.numba")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("@_ZN08NumbaEnv"))
    text = re.sub(
        r"^define i32 (@.*)\{$", r"define internal i32 \1alwaysinline #90 {", text, flags=re.M
    )
    kinds = ["ptr" if a == "ptr" else "i32" for a in arguments]
    formal = ", ".join(
        f"ptr noalias %a{i}" if k == "ptr" else f"i32 %a{i}" for i, k in enumerate(kinds)
    )
    wrapper = (
        f"\ndefine void @{name}({formal}) {SLOT} {{\n"
        "  %ret = alloca ptr\n  %exc = alloca ptr\n"
        f"  %code = call i32 @{name}.numba(ptr %ret, ptr %exc"
        + "".join(f", {k} %a{i}" for i, k in enumerate(kinds))
        + ")\n  ret void\n}\n"
    )
    leftover = _NUMBA_SYMBOL.search(text)
    if leftover:
        raise BackendError(
            f"kernel {name!r} calls {leftover.group(0)}, which Numba did not inline",
            where=machine.triple,
            fix="write it with edgeseq.kernels.primitives",
        )
    return Lowered(name, text + wrapper)
