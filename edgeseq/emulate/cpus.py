"""The CPUs that unicorn emulates, described as far as a call needs it.

A name is what a target file says under `emulator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeseq.errors import EmulationError, unknown_name

__all__ = ["CPUS", "Cpu", "cpu", "missing_emulator"]


def missing_emulator() -> str | None:
    """Why nothing can be emulated here; None if it can."""
    try:
        import unicorn  # noqa: F401 - the import is the question
    except ImportError as error:
        return f"unicorn, the CPU emulator, cannot be imported ({error})"
    return None


@dataclass(frozen=True)
class Cpu:
    """One emulated CPU.

    Attributes:
        name: as target files name it.
        arch, mode, model: names of unicorn constants.
        prefix: of the names of its registers in `unicorn.<module>`.
        module: unicorn's module of constants.
        arguments: argument registers of the calling convention.
        link: link register.
        word: bytes of a pointer.
        thumb: whether code addresses carry bit 0.
        length: instruction length in bytes, from its first 16 bits.
    """

    name: str
    arch: str
    mode: str
    model: str
    module: str
    prefix: str
    arguments: tuple[str, ...]
    link: str
    word: int
    thumb: bool
    length: Callable[[int], int]

    def register(self, name: str) -> int:
        """Unicorn's number of a register."""
        return int(getattr(self._constants(), f"{self.prefix}REG_{name}"))

    def _constants(self) -> Any:
        from importlib import import_module

        return import_module(f"unicorn.{self.module}")

    def create(self) -> Any:
        """A fresh CPU with no memory.

        Raises:
            EmulationError: unicorn is not installed.
        """
        try:
            import unicorn
        except ImportError as error:
            raise EmulationError(
                "the CPU emulator is not installed",
                where=f"emulator {self.name}",
                fix="pip install unicorn",
            ) from error
        engine = unicorn.Uc(getattr(unicorn, self.arch), _mode(unicorn, self.mode))
        engine.ctl_set_cpu_model(int(getattr(self._constants(), self.model)))
        return engine


def _mode(unicorn: Any, names: str) -> int:
    mode = 0
    for name in names.split("|"):
        mode |= int(getattr(unicorn, name))
    return mode


def _thumb_length(half: int) -> int:
    return 4 if half >> 11 in (0b11101, 0b11110, 0b11111) else 2


def _riscv_length(half: int) -> int:
    return 4 if half & 3 == 3 else 2


def _four(half: int) -> int:
    return 4


def _cortex_m(name: str, model: str) -> Cpu:
    return Cpu(
        name,
        "UC_ARCH_ARM",
        "UC_MODE_THUMB|UC_MODE_MCLASS",
        model,
        "arm_const",
        "UC_ARM_",
        ("R0", "R1", "R2", "R3"),
        "LR",
        4,
        True,
        _thumb_length,
    )


def _cortex_a(name: str, model: str) -> Cpu:
    return Cpu(
        name,
        "UC_ARCH_ARM64",
        "UC_MODE_ARM",
        model,
        "arm64_const",
        "UC_ARM64_",
        tuple(f"X{i}" for i in range(8)),
        "LR",
        8,
        False,
        _four,
    )


CPUS: dict[str, Cpu] = {
    c.name: c
    for c in (
        _cortex_m("cortex-m0", "UC_CPU_ARM_CORTEX_M0"),
        _cortex_m("cortex-m4", "UC_CPU_ARM_CORTEX_M4"),
        _cortex_m("cortex-m7", "UC_CPU_ARM_CORTEX_M7"),
        _cortex_m("cortex-m33", "UC_CPU_ARM_CORTEX_M33"),
        _cortex_a("cortex-a53", "UC_CPU_ARM64_A53"),
        _cortex_a("cortex-a72", "UC_CPU_ARM64_A72"),
        # Unicorn has no Cortex-A76; its "max" model has every extension that A76 has.
        _cortex_a("aarch64-max", "UC_CPU_ARM64_MAX"),
        Cpu(
            "riscv32",
            "UC_ARCH_RISCV",
            "UC_MODE_RISCV32",
            "UC_CPU_RISCV32_ANY",
            "riscv_const",
            "UC_RISCV_",
            tuple(f"A{i}" for i in range(8)),
            "RA",
            4,
            False,
            _riscv_length,
        ),
    )
}


def cpu(name: str) -> Cpu:
    """The CPU of that name.

    Raises:
        EmulationError: there is none; the message lists the known ones.
    """
    if name not in CPUS:
        raise EmulationError(
            unknown_name("emulator", name, CPUS),
            where="target file, key `emulator`",
            fix="leave the key out if the target cannot be emulated",
        )
    return CPUS[name]
