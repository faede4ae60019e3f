"""Native artifacts: a library with the compiled step, its C header, and a golden test in C.

==================  ====================================================================
target format       files
==================  ====================================================================
archive             `libNAME.a`, `NAME.h`, `main.c`
shared              `libNAME.so`, `NAME.h`, `main.c`
==================  ====================================================================

The same step gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseq.emit import Format, Job
from edgeseq.emit._example_c import main_text
from edgeseq.emit._header import header_text
from edgeseq.emit.golden import Golden
from edgeseq.emit.linker import link_shared, make_archive, neutral_float_abi, read_archive
from edgeseq.errors import ArtifactError, BackendError
from edgeseq.ir.graph import Graph

if TYPE_CHECKING:
    from edgeseq.kernels import CompiledStep

__all__ = ["FORMAT", "NativeFacts", "check_native", "library_name", "write_native"]

MAIN_FRAMES = 32
"""Frames compiled into `main.c`: enough to go through every state, small enough for any flash."""


def library_name(compiled: CompiledStep) -> str:
    """File name of the library of a step."""
    shared = compiled.target is not None and compiled.target.format == "shared"
    return f"lib{compiled.name}.{'so' if shared else 'a'}"


def write_native(
    compiled: CompiledStep,
    graph: Graph,
    folder: Path,
    *,
    golden: Golden,
    info: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the library, the header and `main.c`.

    Args:
        compiled: a step compiled for a target.
        graph: the integer step Graph it was compiled from.
        folder: exists.
        golden: frames with exact outputs; the first `MAIN_FRAMES` go into `main.c`.
        info: optional facts for the header, see `edgeseq.emit.Job`.

    Returns:
        Paths of the library, the header and `main.c`.

    Raises:
        BackendError: linking failed, or the library is not what it should be.
    """
    library = library_name(compiled)
    if library.endswith(".so"):
        data = link_shared(compiled.object_bytes, library)
    else:
        stored = neutral_float_abi(compiled.object_bytes)
        data = make_archive([(f"{compiled.name}.o", stored)], [compiled.symbols])
    facts = check_native(data, library)
    if set(facts.exports) != set(compiled.symbols):
        raise BackendError(
            f"exports {', '.join(facts.exports) or 'nothing'}",
            where=library,
            fix=f"this is a bug in edgeseq: only {', '.join(compiled.symbols)} may be visible",
        )
    texts = {
        f"{compiled.name}.h": header_text(compiled, graph, info or {}),
        "main.c": main_text(compiled, golden.head(graph, MAIN_FRAMES), _build(compiled)),
    }
    files = [folder / library]
    try:
        files[0].write_bytes(data)
        for name, text in texts.items():
            files.append(folder / name)
            files[-1].write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ArtifactError(
            f"cannot write the native files: {error.strerror}",
            where=str(folder),
            fix="choose a folder that can be written, on a disk with space",
        ) from error
    return files


def _build(compiled: CompiledStep) -> str:
    """A command that builds `main.c`, for its first comment."""
    machine = compiled.machine
    tail = f"main.c -L. -l{compiled.name} -o golden"
    if library_name(compiled).endswith(".so"):
        return f"cc -std=c99 -O2 {tail} -Wl,-rpath,'$ORIGIN'"
    if machine.triple.startswith("thumb"):
        return f"arm-none-eabi-gcc -std=c99 -Os -mthumb -mcpu={machine.cpu} {tail}.elf"
    if machine.triple.startswith("riscv32"):
        letters = [x for x in "mafdc" if f"+{x}" in machine.features]
        arch = f"-march=rv32i{''.join(letters)} -mabi={machine.abi or 'ilp32'}"
        return f"riscv32-unknown-elf-gcc -std=c99 -Os {arch} {tail}.elf"
    return f"cc -std=c99 -Os {tail}"


def _write(job: Job) -> list[Path]:
    if job.compiled is None or job.golden is None:
        raise BackendError(
            "needs a compiled step and golden data", where="native emitter", fix="compile it first"
        )
    return write_native(job.compiled, job.integer, job.folder, golden=job.golden, info=job.info)


FORMAT = Format("native", "C library, header and golden test", _write)


@dataclass(frozen=True)
class NativeFacts:
    """What a library or object holds, in bytes.

    Attributes:
        file: size of the file.
        code: executable sections.
        rodata: read-only data: weights, tables, multipliers, constants.
        other: further loaded read-only sections (symbol and unwind tables, dynamic linking).
        writable: sections a program could write to after loading; 0 in a sound library.
        exports: global symbols it defines.
        needed: libraries it needs; none in a sound library.
        sections: size of every loaded section.
    """

    file: int
    code: int
    rodata: int
    other: int
    writable: int
    exports: tuple[str, ...]
    needed: tuple[str, ...] = ()
    sections: Mapping[str, int] = field(default_factory=dict)

    @property
    def flash(self) -> int:
        """Code and read-only data: what a microcontroller keeps in flash."""
        return self.code + self.rodata


def check_native(library: Path | bytes, where: str = "library") -> NativeFacts:
    """Read a static library, shared library or object and check that it stands alone.

    Args:
        library: path or contents of a `.a`, `.so` or `.o` file.
        where: name for messages if contents are given.

    Raises:
        ArtifactError: the file cannot be read.
        BackendError: it is not ELF, or needs a symbol or a library, has writable data, or text
            that has to be relocated when it is loaded.
    """
    if isinstance(library, Path):
        where = str(library)
        try:
            library = library.read_bytes()
        except OSError as error:
            raise ArtifactError(
                f"cannot read the library: {error.strerror}", where=where, fix="compile again"
            ) from error
    objects = list(read_archive(library, where).values()) if library[:2] == b"!<" else [library]
    parts = [_object_facts(data, where) for data in objects]
    facts = NativeFacts(
        file=len(library),
        code=sum(p.code for p in parts),
        rodata=sum(p.rodata for p in parts),
        other=sum(p.other for p in parts),
        writable=sum(p.writable for p in parts),
        exports=tuple(sorted({e for p in parts for e in p.exports})),
        needed=tuple(sorted({n for p in parts for n in p.needed})),
        sections={k: v for p in parts for k, v in p.sections.items()},
    )
    if facts.needed:
        raise BackendError(
            f"needs {', '.join(facts.needed)}",
            where=where,
            fix="this is a bug in edgeseq: a compiled step must stand alone",
        )
    if facts.writable:
        raise BackendError(
            f"holds {facts.writable} writable bytes",
            where=where,
            fix="this is a bug in edgeseq: a compiled step must not keep globals",
        )
    return facts


_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_LOADER_SECTIONS = {".dynamic", ".relro_padding", ".got", ".got.plt"}
"""Writable while a shared library is loaded, read-only from then on (RELRO)."""


def _object_facts(data: bytes, where: str) -> NativeFacts:
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    code = rodata = other = writable = 0
    sections: dict[str, int] = {}
    exports: list[str] = []
    needed: list[str] = []
    try:
        elf = ELFFile(io.BytesIO(data))
        shared = elf["e_type"] == "ET_DYN"
        for section in elf.iter_sections():
            flags, size, name = section["sh_flags"], section["sh_size"], section.name
            if flags & _ALLOC and size:
                sections[name] = size
                if flags & _EXECUTE:
                    code += size
                elif flags & _WRITE:
                    writable += 0 if shared and name in _LOADER_SECTIONS else size
                elif name.startswith(".rodata"):
                    rodata += size
                else:
                    other += size
            if isinstance(section, DynamicSection):
                for tag in section.iter_tags():
                    if tag.entry.d_tag == "DT_NEEDED":
                        needed.append(str(getattr(tag, "needed", "")))
                    if tag.entry.d_tag == "DT_TEXTREL":
                        needed.append("relocations of its text")
            if isinstance(section, SymbolTableSection) and (
                not shared or section.name == ".dynsym"
            ):
                for symbol in section.iter_symbols():
                    if symbol["st_info"]["bind"] == "STB_LOCAL" or not symbol.name:
                        continue
                    undefined = symbol["st_shndx"] == "SHN_UNDEF"
                    (needed if undefined else exports).append(symbol.name)
    except (ELFError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise BackendError(
            f"is not a sound ELF file: {error}", where=where, fix="compile the model again"
        ) from error
    return NativeFacts(
        len(data), code, rodata, other, writable, tuple(exports), tuple(needed), sections
    )
