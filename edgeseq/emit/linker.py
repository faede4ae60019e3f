"""Static archives and shared libraries from one object, without a system tool chain.

Archives are written here (the format is small and every linker reads it). Shared libraries are
linked by LLD from the `ziglang` wheel. Both are reproducible: no time, owner or path gets in.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgeseq.errors import BackendError

__all__ = ["make_archive", "link_shared", "neutral_float_abi", "read_archive", "zig"]

_MAGIC = b"!<arch>\n"
_LINK_SECONDS = 120


def make_archive(members: Sequence[tuple[str, bytes]], symbols: Sequence[Sequence[str]]) -> bytes:
    """A static library in the GNU/System V format, with its symbol table.

    Args:
        members: file name and contents of each object.
        symbols: global symbols each member defines.

    Returns:
        The archive. Times and owners are 0, as `ar -D` writes them.
    """
    long_names = b""
    headers: list[str] = []
    for name, _ in members:
        if len(name) <= 15:
            headers.append(f"{name}/")
        else:
            headers.append(f"/{len(long_names)}")
            long_names += f"{name}/\n".encode()
    names = b"".join(s.encode() + b"\0" for group in symbols for s in group)
    count = sum(len(group) for group in symbols)
    table_size = 4 + 4 * count + len(names)
    at = len(_MAGIC) + 60 + table_size + table_size % 2
    if long_names:
        at += 60 + len(long_names) + len(long_names) % 2
    offsets: list[int] = []
    body = b""
    for header, (_, data), group in zip(headers, members, symbols, strict=True):
        offsets += [at + len(body)] * len(group)
        body += _member(header, data)
    table = struct.pack(f">I{count}I", count, *offsets) + names
    out = _MAGIC + _member("/", table)
    if long_names:
        out += _member("//", long_names)
    return out + body


def _member(name: str, data: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'644' if name != '/' else '0':<8}{len(data):<10}`\n"
    return header.encode() + data + b"\n" * (len(data) % 2)


def read_archive(data: bytes, where: str = "archive") -> dict[str, bytes]:
    """The objects of a GNU/System V archive by file name; its tables are left out.

    Raises:
        BackendError: not an archive, or a damaged one.
    """

    def damaged() -> BackendError:
        return BackendError(
            "is not a static library, or is cut short", where=where, fix="compile the model again"
        )

    if not data.startswith(_MAGIC):
        raise damaged()
    members: dict[str, bytes] = {}
    long_names, at = b"", len(_MAGIC)
    while at < len(data):
        header = data[at : at + 60]
        if len(header) != 60 or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise damaged()
        size = int(header[48:58])
        body = data[at + 60 : at + 60 + size]
        if len(body) != size:
            raise damaged()
        name = header[:16].decode("ascii", "replace").rstrip()
        if name == "//":
            long_names = body
        elif name != "/":
            if name.startswith("/") and name[1:].isdigit():
                start = int(name[1:])
                name = long_names[start : long_names.find(b"/\n", start)].decode("ascii", "replace")
            members[name.removesuffix("/")] = body
        at += 60 + size + size % 2
    return members


def zig() -> str:
    """Path of the Zig executable in the `ziglang` wheel; it holds LLD and a C compiler.

    Raises:
        BackendError: the wheel is not installed.
    """
    try:
        import ziglang
    except ImportError as error:
        raise BackendError(
            f"ziglang, which holds the linker, cannot be imported ({error})",
            where="linker",
            fix="pip install 'edgeseq[compile]'",
        ) from error
    return str(Path(ziglang.__file__).with_name("zig.exe" if os.name == "nt" else "zig"))


def link_shared(object_bytes: bytes, soname: str) -> bytes:
    """A shared library from one position-independent object.

    Its global symbols are exported and bound inside the library (no PLT), it needs no other
    library, and no page of it is both writable and executable or has to be relocated.

    Args:
        object_bytes: ELF, relocatable, freestanding.
        soname: file name the library is known by.

    Raises:
        BackendError: the linker is missing or refuses the object.
    """
    flags = [
        *("-shared", "-soname", soname, "-Bsymbolic", "--hash-style=both", "--build-id=none"),
        *("-z", "defs", "-z", "text", "-z", "now", "-z", "relro", "-z", "noexecstack"),
        "--strip-all",
    ]
    with tempfile.TemporaryDirectory(prefix="edgeseq-link-") as folder:
        path = Path(folder)
        (path / "step.o").write_bytes(object_bytes)
        # Zig wants a cache folder even where it only forwards to LLD.
        caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), folder)
        try:
            result = subprocess.run(
                [zig(), "ld.lld", *flags, "-o", "step.so", "step.o"],
                cwd=path,
                env={**os.environ, **caches},
                capture_output=True,
                text=True,
                timeout=_LINK_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(
                f"the linker could not run: {error}", where=soname, fix="reinstall ziglang"
            ) from error
        if result.returncode:
            raise BackendError(
                f"the linker refused the object: {result.stderr.strip()}",
                where=soname,
                fix="this is a bug in edgeseq; please report the model and target",
            )
        return (path / "step.so").read_bytes()


_FP_NUMBER_MODEL = 23


def neutral_float_abi(object_bytes: bytes) -> bytes:
    """Let a 32-bit Arm object link with soft-float and hard-float firmware alike.

    No float crosses the interface of a step and none is used inside, but LLVM marks every object
    as using IEEE floats (build attribute `Tag_ABI_FP_number_model`), and then GNU ld refuses to
    mix it with `-mfloat-abi=hard` code. The mark is set to 0, "no floating point".

    Args:
        object_bytes: an ELF object; one without Arm build attributes is returned as it is.

    Source: Addenda to, and Errata in, the ABI for the Arm Architecture, section 3.3.6.
    """
    import io

    from elftools.elf.elffile import ELFFile

    data = bytearray(object_bytes)
    for section in ELFFile(io.BytesIO(object_bytes)).iter_sections():
        if section.name == ".ARM.attributes":
            start, size = section["sh_offset"], section["sh_size"]
            for at, tag, value in _attributes(object_bytes, start, start + size):
                if tag == _FP_NUMBER_MODEL and value < 0x80:
                    data[at] = 0
    return bytes(data)


def _attributes(data: bytes, at: int, end: int) -> list[tuple[int, int, int]]:
    """(offset of the value, tag, value) of every integer attribute of the file scope."""
    found: list[tuple[int, int, int]] = []
    at += 1  # format version 'A'
    while at < end:
        (length,) = struct.unpack_from("<I", data, at)
        vendor_end, p = at + length, data.index(b"\0", at + 4) + 1
        while p < vendor_end:
            scope, scope_end = data[p], p + struct.unpack_from("<I", data, p + 1)[0]
            p += 5
            while scope == 1 and p < scope_end:
                tag, p = _uleb(data, p)
                # 4, 5 and odd tags above 32 are strings; 32 is a number and a string.
                if tag in (4, 5) or (tag > 32 and tag % 2):
                    p = data.index(b"\0", p) + 1
                    continue
                value_at = p
                value, p = _uleb(data, p)
                found.append((value_at, tag, value))
                if tag == 32:
                    p = data.index(b"\0", p) + 1
            p = scope_end
        at = vendor_end
    return found


def _uleb(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
