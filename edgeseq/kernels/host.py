"""The compiled step loaded into this process: whole data sets at full speed."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import BackendError, UsageError
from edgeseq.ir.graph import Graph
from edgeseq.kernels.compiled import CompiledStep, compile_for

if TYPE_CHECKING:
    from edgeseq.kernels.toolchain import Machine
    from edgeseq.target import Target

__all__ = ["HostStep", "host_machine", "runs_here"]

Array = npt.NDArray[Any]


def host_machine() -> Machine:
    """A machine description that this processor can execute, the same on all of its kind.

    Raises:
        BackendError: this kind of processor has no code generator.
    """
    import platform

    from llvmlite import binding

    from edgeseq.kernels.toolchain import Machine

    kind = platform.machine().lower()
    if kind in ("x86_64", "amd64"):
        have = binding.get_host_cpu_features()
        v3 = ("avx2", "bmi", "bmi2", "fma", "f16c", "lzcnt", "movbe")
        modern = all(have.get(f) for f in v3)
        isa = ("generic", "avx2") if modern else ("generic",)
        cpu = "x86-64-v3" if modern else "x86-64"
        return Machine("x86_64-unknown-linux-gnu", cpu, (), isa, True)
    if kind in ("aarch64", "arm64"):
        return Machine("aarch64-unknown-linux-gnu", "generic", (), ("generic",), True)
    raise BackendError(
        f"no kernels for the processor {kind!r} of this machine",
        where="host kernels",
        fix="run on x86-64 or AArch64",
    )


def runs_here(target: Target) -> bool:
    """True where this machine executes the target's code: Linux code of its own architecture."""
    from edgeseq.kernels.toolchain import Machine

    here, wanted = host_machine(), Machine.of(target)
    same = target.triple.partition("-")[0] == here.triple.partition("-")[0]
    return target.format == "shared" and same and (here.avx2 or not wanted.avx2)


def _aligned(shape: tuple[int, ...], align: int = 64) -> npt.NDArray[np.uint8]:
    """Zeroed bytes whose first element is aligned."""
    size = int(np.prod(shape))
    raw = np.zeros(size + align, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + size].reshape(shape)


class HostStep:
    """One integer step as machine code of this computer, for a batch of sequences.

    Args:
        graph: integer step.
        batch: sequences that are carried side by side.
        name: prefix of its symbols.

    Attributes:
        compiled: the object and its layout.
    """

    def __init__(self, graph: Graph, *, batch: int = 1, name: str = "host") -> None:
        self._load(compile_for(graph, host_machine(), name), batch)

    @classmethod
    def of(cls, compiled: CompiledStep, *, batch: int = 1) -> HostStep:
        """Load a step that was compiled for a target this processor can execute.

        Args:
            compiled: for an x86-64 or AArch64 target of this machine's kind.
            batch: sequences that are carried side by side.
        """
        made = cls.__new__(cls)
        made._load(compiled, batch)
        return made

    def _load(self, compiled: CompiledStep, batch: int) -> None:
        import llvmlite.binding as llvm

        machine = compiled.machine
        self.compiled: CompiledStep = compiled
        empty = llvm.parse_assembly(f'target triple = "{machine.triple}"\n')
        # One reservation for all sections: code and constants must lie within 2 GB of each other.
        self._engine = llvm.create_mcjit_compiler(empty, _jit_machine(machine), use_lmm=True)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(self.compiled.object_bytes))
        self._engine.finalize_object()
        reset, _, run = self.compiled.symbols
        pointers = 2 + len(self.compiled.inputs) + len(self.compiled.outputs)
        self._run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * pointers, ctypes.c_int32)(
            self._engine.get_function_address(run)
        )
        self._reset = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
            self._engine.get_function_address(reset)
        )
        self._scratch = _aligned((max(self.compiled.scratch_bytes, 1),))
        self.resize(batch)

    def resize(self, batch: int) -> None:
        """Carry `batch` sequences from now on; all of them are reset."""
        stride = -(-max(self.compiled.state_bytes, 1) // 64) * 64
        self.batch = batch
        self._state = _aligned((batch, stride))
        self.reset()

    def reset(self) -> None:
        """Put every state back to its initial value, by the compiled code."""
        for b in range(self.batch):
            self._reset(self._state[b].ctypes.data)

    @property
    def state(self) -> dict[str, Array]:
        """Copies of the states, [batch, *shape] by name."""
        return self.compiled.unpack_state(self._state[:, : self.compiled.state_bytes])

    @state.setter
    def state(self, values: dict[str, Array]) -> None:
        for b in range(self.batch):
            one = {name: np.asarray(v)[b] for name, v in values.items()}
            self._state[b, : self.compiled.state_bytes] = self.compiled.pack_state(one)

    def __call__(self, *inputs: Array) -> list[Array]:
        """One step: inputs [batch, *shape]; returns one array per output, as the interpreter."""
        return [y[:, 0] for y in self.run(*(np.asarray(x)[:, None] for x in inputs))]

    def run(self, *inputs: Array) -> list[Array]:
        """Advance every sequence by T frames, states carried.

        Args:
            inputs: [batch, T, *shape] each, of the step's integer types.

        Returns:
            [batch, T, *shape] per output.

        Raises:
            UsageError: wrong number, shape or type of inputs.
        """
        ports = self.compiled.inputs
        if len(inputs) != len(ports):
            raise UsageError(
                f"got {len(inputs)} inputs, needs {len(ports)}",
                where="host kernels",
                fix=f"pass {[p.name for p in ports]}",
            )
        frames = inputs[0].shape[1] if inputs[0].ndim > 1 else 0
        arrays = []
        for x, port in zip(inputs, ports, strict=True):
            if x.shape != (self.batch, frames, *port.shape) or x.dtype != port.numpy:
                raise UsageError(
                    f"got {x.dtype}{list(x.shape)}, needs "
                    f"{port.numpy}{[self.batch, frames, *port.shape]}",
                    where=f"input {port.name!r}",
                    fix="pass stored integers, [batch, T, *shape]",
                )
            arrays.append(np.ascontiguousarray(x))
        outs = [np.empty((self.batch, frames, *p.shape), p.numpy) for p in self.compiled.outputs]
        for b in range(self.batch):
            addresses = [a[b].ctypes.data for a in (*arrays, *outs)]
            self._run(self._state[b].ctypes.data, self._scratch.ctypes.data, *addresses, frames)
        return outs


def _jit_machine(machine: Machine) -> Any:
    """A target machine that owns no shared state (the engine takes it over)."""
    import llvmlite.binding as llvm

    return llvm.Target.from_triple(machine.triple).create_target_machine(
        cpu=machine.cpu,
        features=",".join(machine.features),
        opt=3,
        reloc="pic",
        codemodel="small",
        jit=True,
    )
