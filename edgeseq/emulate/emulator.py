"""Run a compiled step on an emulated CPU: outputs, executed instructions, stack, touched memory.

Memory is laid out like a board's: code and constants can be executed and read but not written,
state, scratch, input, output and stack are pages of their own with unmapped pages between them,
and what a page holds beyond a buffer is filled with a pattern that is checked. A step that writes
anywhere else ends in an error.

Counting: a translated block of the emulator runs from its first to its last instruction, so
executed instructions are the lengths of the entered blocks, each length found by walking the
machine code. Instructions of an IT block whose condition fails are counted, as a core issues
them; QEMU's per-instruction plugin counts them too, unicorn's per-instruction hook does not
(2-3 % fewer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emulate.cpus import Cpu, cpu
from edgeseq.emulate.image import Image, link_image
from edgeseq.errors import EmulationError, UsageError
from edgeseq.kernels.compiled import CompiledStep, Port

__all__ = ["Emulator", "Measurement"]

Array = npt.NDArray[Any]
_PAGE = 4096
_RAM = 0x2000_0000
_STACK = 16 * 1024
_PAINT = 0xA5


@dataclass(frozen=True)
class Measurement:
    """What was observed over `steps` counted steps.

    Attributes:
        steps: how many steps were counted, one by one.
        instructions: executed instructions per step: least, mean and greatest.
        reset_instructions: executed by one reset.
        stack_bytes: greatest stack depth of a step below the caller's stack pointer.
        touched_bytes: distinct bytes written by a step: of state, scratch, output and stack.
    """

    steps: int
    instructions_min: int
    instructions: float
    instructions_max: int
    reset_instructions: int
    stack_bytes: int
    touched_bytes: dict[str, int]

    @property
    def ram_bytes(self) -> int:
        """Distinct bytes of state, scratch and stack that were written, stack in whole."""
        return self.touched_bytes["state"] + self.touched_bytes["scratch"] + self.stack_bytes


class _Machine:
    """One emulated CPU with a linked step and room for `frames` frames in its memory."""

    def __init__(self, compiled: CompiledStep, model: Cpu, image: Image, frames: int = 1) -> None:
        self.compiled, self.cpu, self.image = compiled, model, image
        import unicorn

        self.unicorn = unicorn
        self.engine = model.create()
        engine = self.engine
        start = min(a for a, _ in image.segments) // _PAGE * _PAGE
        end = -(-image.end // _PAGE) * _PAGE
        self.trap = end  # where the entry points return to
        engine.mem_map(start, end + _PAGE - start, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        for address, data in image.segments:
            engine.mem_write(address, data)
        self.regions: dict[str, tuple[int, int]] = {}
        self.next = _RAM
        ports = [*compiled.inputs, *compiled.outputs]
        self.io = [f"in{i}" for i in range(len(compiled.inputs))]
        self.io += [f"out{i}" for i in range(len(compiled.outputs))]
        self._map("state", compiled.state_bytes)
        self._map("scratch", compiled.scratch_bytes)
        for name, port in zip(self.io, ports, strict=True):
            self._map(name, port.nbytes * frames)
        self._map("stack", _STACK)
        self.fault: str | None = None
        engine.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_invalid)

    def _map(self, name: str, size: int) -> None:
        pages = max(-(-size // _PAGE), 1) * _PAGE
        self.engine.mem_map(
            self.next, pages, self.unicorn.UC_PROT_READ | self.unicorn.UC_PROT_WRITE
        )
        self.engine.mem_write(self.next, bytes([_PAINT]) * pages)
        self.regions[name] = (self.next, size)
        self.next += pages + _PAGE

    def _on_invalid(
        self, engine: Any, access: int, address: int, size: int, value: int, data: Any
    ) -> bool:
        u = self.unicorn
        writes = (u.UC_MEM_WRITE_UNMAPPED, u.UC_MEM_WRITE_PROT)
        verb = "wrote to" if access in writes else "read or ran"
        near = [n for n, (a, s) in self.regions.items() if a - _PAGE <= address < a + s + _PAGE]
        self.fault = f"{verb} {address:#x}" + (f", beside {near[0]}" if near else "")
        return False

    def call(self, function: str, arguments: list[int]) -> None:
        """Call a function and return when it does.

        Raises:
            EmulationError: it faults or does not restore the stack pointer.
        """
        model, engine = self.cpu, self.engine
        address, size = self.regions["stack"]
        sp = (address + size - 256) // 16 * 16
        extra = arguments[len(model.arguments) :]
        sp -= -(-len(extra) * model.word // 16) * 16
        for i, value in enumerate(extra):
            engine.mem_write(sp + i * model.word, int(value).to_bytes(model.word, "little"))
        for name, value in zip(model.arguments, arguments, strict=False):
            engine.reg_write(model.register(name), value)
        engine.reg_write(model.register("SP"), sp)
        odd = 1 if model.thumb else 0
        engine.reg_write(model.register(model.link), self.trap | odd)
        self.fault = None
        self.sp = sp
        try:
            engine.emu_start(self.image.symbols[function] | odd, self.trap)
        except self.unicorn.UcError as error:
            raise EmulationError(
                f"{function} stopped: it {self.fault}" if self.fault else f"{function}: {error}",
                where=f"emulated {model.name}",
                fix="report this with the model that causes it",
            ) from error
        if engine.reg_read(model.register("SP")) != sp:
            raise EmulationError(
                f"{function} did not restore the stack pointer",
                where=f"emulated {model.name}",
                fix="report this with the model that causes it",
            )

    def address(self, region: str) -> int:
        return self.regions[region][0]

    def read(self, region: str) -> bytes:
        address, size = self.regions[region]
        return bytes(self.engine.mem_read(address, size)) if size else b""

    def write(self, region: str, data: bytes) -> None:
        self.engine.mem_write(self.regions[region][0], data)

    def step(self) -> None:
        names = ["state", "scratch", *self.io]
        self.call(self.compiled.symbols[1], [self.address(n) for n in names])

    def run(self, frames: int) -> None:
        names = ["state", "scratch", *self.io]
        self.call(self.compiled.symbols[2], [*(self.address(n) for n in names), frames])

    def reset(self) -> None:
        self.call(self.compiled.symbols[0], [self.address("state")])

    def check_guards(self) -> None:
        """What the pages hold beyond the buffers must still be the pattern."""
        for name, (address, size) in self.regions.items():
            if name == "stack":
                continue
            pages = max(-(-size // _PAGE), 1) * _PAGE
            rest = bytes(self.engine.mem_read(address + size, pages - size))
            if rest.count(_PAINT) != len(rest):
                at = next(i for i, b in enumerate(rest) if b != _PAINT)
                raise EmulationError(
                    f"a step wrote {at} bytes beyond its {name} buffer of {size} bytes",
                    where=f"emulated {self.cpu.name}",
                    fix="report this with the model",
                )

    def paint_stack(self) -> None:
        self.write("stack", bytes([_PAINT]) * self.regions["stack"][1])

    def stack_depth(self, limit: int) -> int:
        """Bytes below `limit` down to the lowest that no longer holds the paint."""
        address, _ = self.regions["stack"]
        data = bytes(self.engine.mem_read(address, limit - address))
        kept = len(data) - len(data.lstrip(bytes([_PAINT])))
        return len(data) - kept


class Emulator:
    """A compiled step on the emulated CPU of its target.

    Args:
        compiled: from `edgeseq.kernels.compile_step`.
        model: name of the CPU; by default the one the target names.

    Raises:
        EmulationError: the target has no emulator, or the object cannot be linked.
    """

    def __init__(self, compiled: CompiledStep, model: str | None = None) -> None:
        target = compiled.target
        name = model or (target.emulator if target is not None else None)
        if name is None:
            raise EmulationError(
                "this target has no emulated CPU",
                where=f"step {compiled.name!r}",
                fix="verify it on the machine itself",
            )
        self.compiled = compiled
        self.cpu = cpu(name)
        self._image = link_image(compiled.object_bytes, compiled.symbols[1])
        self._machine = _Machine(compiled, self.cpu, self._image)
        self.reset()

    def reset(self) -> None:
        """Run the machine code of the reset function."""
        self._machine.reset()

    @property
    def state(self) -> dict[str, Array]:
        """Copies of the states by name."""
        raw = np.frombuffer(self._machine.read("state"), np.uint8)
        return self.compiled.unpack_state(raw)

    @state.setter
    def state(self, values: dict[str, Array]) -> None:
        self._machine.write("state", self.compiled.pack_state(values).tobytes())

    def step(self, *inputs: Array) -> list[Array]:
        """One frame: arrays of the inputs' shapes; returns one array per output.

        Raises:
            UsageError: an input has the wrong shape or type.
            EmulationError: the code faulted or left its memory.
        """
        frames = [_frame(p, x) for p, x in zip(self.compiled.inputs, inputs, strict=True)]
        return self._step(self._machine, frames)

    def _step(self, machine: _Machine, frames: list[bytes]) -> list[Array]:
        for i, frame in enumerate(frames):
            machine.write(f"in{i}", frame)
        machine.step()
        return [
            np.frombuffer(machine.read(f"out{i}"), p.numpy).reshape(p.shape)
            for i, p in enumerate(self.compiled.outputs)
        ]

    def sequence(self, *inputs: Array) -> list[Array]:
        """Many frames, states carried: [T, *shape] each, as `step`; memory bounds are checked."""
        frames = inputs[0].shape[0]
        rows = [
            [_frame(p, x[t]) for p, x in zip(self.compiled.inputs, inputs, strict=True)]
            for t in range(frames)
        ]
        steps = [self._step(self._machine, row) for row in rows]
        self._machine.check_guards()
        if not steps:
            return [np.empty((0, *p.shape), p.numpy) for p in self.compiled.outputs]
        return [np.stack([s[i] for s in steps]) for i in range(len(self.compiled.outputs))]

    def run(self, *inputs: Array) -> list[Array]:
        """Many frames in one call of `NAME_run`, states carried: [T, *shape] each, as `step`.

        Raises:
            UsageError: an input has the wrong shape or type.
            EmulationError: the code faulted or left its memory.
        """
        frames = inputs[0].shape[0]
        ports = self.compiled.inputs
        data = [
            b"".join(_frame(p, x[t]) for t in range(frames))
            for p, x in zip(ports, inputs, strict=True)
        ]
        machine = _Machine(self.compiled, self.cpu, self._image, frames)
        machine.write("state", self._machine.read("state"))
        for i, raw in enumerate(data):
            machine.write(f"in{i}", raw)
        machine.run(frames)
        machine.check_guards()
        self._machine.write("state", machine.read("state"))
        return [
            np.frombuffer(machine.read(f"out{i}"), p.numpy).reshape(frames, *p.shape)
            for i, p in enumerate(self.compiled.outputs)
        ]

    def measure(self, *inputs: Array) -> Measurement:
        """Count every given frame on a CPU of its own, from a reset.

        Args:
            inputs: [T, *shape] each, T at least 1; the emulator's own state is not touched.

        Raises:
            EmulationError: the code faulted or left its memory.
        """
        machine = _Machine(self.compiled, self.cpu, self._image)
        counter = _Counter(machine)
        machine.paint_stack()
        machine.reset()
        reset_instructions = counter.take()
        counter.written.clear()
        counts: list[int] = []
        for t in range(inputs[0].shape[0]):
            frames = [_frame(p, x[t]) for p, x in zip(self.compiled.inputs, inputs, strict=True)]
            machine.paint_stack()
            self._step(machine, frames)
            counts.append(counter.take())
            counter.note_depth(machine.stack_depth(machine.sp))
        machine.check_guards()
        return Measurement(
            len(counts),
            min(counts),
            sum(counts) / len(counts),
            max(counts),
            reset_instructions,
            counter.depth,
            counter.touched(),
        )


def _frame(port: Port, value: Array) -> bytes:
    array = np.asarray(value)
    if array.shape != port.shape or array.dtype != port.numpy:
        raise UsageError(
            f"got {array.dtype}{list(array.shape)}, needs {port.numpy}{list(port.shape)}",
            where=f"input {port.name!r}",
            fix="pass stored integers",
        )
    return np.ascontiguousarray(array).tobytes()


class _Counter:
    """Hooks on a machine: instructions, deepest stack pointer, written bytes."""

    def __init__(self, machine: _Machine) -> None:
        u = machine.unicorn
        self.machine = machine
        self.lengths: dict[tuple[int, int], int] = {}
        self.count = 0
        self.depth = 0
        self.written: set[int] = set()
        self._sp = machine.cpu.register("SP")
        machine.engine.hook_add(u.UC_HOOK_BLOCK, self._block)
        machine.engine.hook_add(u.UC_HOOK_MEM_WRITE, self._write)

    def _block(self, engine: Any, address: int, size: int, data: Any) -> None:
        key = (address, size)
        if key not in self.lengths:
            self.lengths[key] = self._walk(address, size)
        self.count += self.lengths[key]
        self.note_depth(self.machine.sp - engine.reg_read(self._sp))

    def _walk(self, address: int, size: int) -> int:
        code = bytes(self.machine.engine.mem_read(address, size))
        at = count = 0
        while at < size:
            at += self.machine.cpu.length(int.from_bytes(code[at : at + 2], "little"))
            count += 1
        if at != size:
            raise EmulationError(
                f"the block at {address:#x} does not end with an instruction", where="emulator"
            )
        return count

    def _write(
        self, engine: Any, access: int, address: int, size: int, value: int, data: Any
    ) -> None:
        self.written.update(range(address, address + size))

    def note_depth(self, depth: int) -> None:
        """Keep the greatest depth seen."""
        self.depth = max(self.depth, depth)

    def take(self) -> int:
        """Instructions since the last call."""
        count, self.count = self.count, 0
        return count

    def touched(self) -> dict[str, int]:
        """Distinct written bytes: state, scratch, output, stack."""
        out = {"state": 0, "scratch": 0, "output": 0, "stack": 0}
        for name, (address, size) in self.machine.regions.items():
            if name.startswith("in"):
                continue
            key = "output" if name.startswith("out") else name
            out[key] += sum(address <= a < address + size for a in self.written)
        return out
