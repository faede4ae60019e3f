"""Reads back what was emitted: sizes by section, and that the object is freestanding."""

from __future__ import annotations

import io
from dataclasses import dataclass

from edgeseq.errors import BackendError

__all__ = ["ObjectFacts", "inspect_object", "undefined_symbols"]

_WRITE, _ALLOC, _EXEC = 1, 2, 4


@dataclass(frozen=True)
class ObjectFacts:
    """What an object holds, in bytes.

    Attributes:
        sections: size of every allocated section by name.
        symbols: size of every function and constant by name.
        code: machine code, with constants the compiler placed beside it and unwind entries.
        rodata: sections `.rodata.*` that the plan laid out, by what follows `.rodata.`.
    """

    sections: dict[str, int]
    symbols: dict[str, int]
    code: int
    rodata: dict[str, int]


def inspect_object(data: bytes, exports: tuple[str, ...], planned: tuple[str, ...]) -> ObjectFacts:
    """Read an ELF object and check that it needs nothing and writes nowhere.

    Args:
        data: the object.
        exports: the only global symbols it may define.
        planned: kinds of planned read-only data ('weights', 'table', ...).

    Raises:
        BackendError: it refers to an undefined symbol, defines another global one, or has
            writable data.
    """
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    elf = ELFFile(io.BytesIO(data))
    sections: dict[str, int] = {}
    symbols: dict[str, int] = {}
    for section in elf.iter_sections():
        flags = section["sh_flags"]
        if flags & _ALLOC and section["sh_size"]:
            sections[section.name] = section["sh_size"]
            if flags & _WRITE:
                raise BackendError(
                    f"the object has writable data ({section['sh_size']} bytes)",
                    where=section.name,
                    fix="report this: a kernel must not keep globals",
                )
        if isinstance(section, SymbolTableSection):
            for symbol in section.iter_symbols():
                _check_symbol(symbol, exports)
                if symbol["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT"):
                    symbols[symbol.name] = symbol["st_size"]
    rodata = {k: sections.get(f".rodata.{k}", 0) for k in planned}
    code = sum(sections.values()) - sum(rodata.values())
    return ObjectFacts(sections, symbols, code, rodata)


def undefined_symbols(data: bytes) -> set[str]:
    """Names that an ELF object refers to and does not define."""
    from elftools.elf.elffile import ELFFile

    table = ELFFile(io.BytesIO(data)).get_section_by_name(".symtab")
    return {s.name for s in table.iter_symbols() if s["st_shndx"] == "SHN_UNDEF" and s.name}


def _check_symbol(symbol: object, exports: tuple[str, ...]) -> None:
    info = symbol["st_info"]  # type: ignore[index]
    name, index = symbol.name, symbol["st_shndx"]  # type: ignore[attr-defined, index]
    if index == "SHN_UNDEF" and name:
        raise BackendError(
            f"the object refers to the undefined symbol {name!r}",
            where="linker symbols",
            fix="the core lacks an instruction for it: check `cpu` and `features` of the target",
        )
    if info["bind"] == "STB_GLOBAL" and name not in exports:
        raise BackendError(
            f"the object defines the global symbol {name!r}",
            where="linker symbols",
            fix="report this: only the entry points may be visible",
        )
