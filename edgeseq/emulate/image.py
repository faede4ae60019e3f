"""An object placed at fixed addresses, as a linker for the board would do it."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeseq.errors import EmulationError

__all__ = ["CODE_BASE", "Image", "link_image"]

CODE_BASE = 0x0001_0000


@dataclass(frozen=True)
class Image:
    """Read-only memory of a linked step.

    Attributes:
        segments: address and content.
        symbols: address of every function.
        end: first address after it.
    """

    segments: tuple[tuple[int, bytes], ...]
    symbols: dict[str, int]
    end: int


def link_image(object_bytes: bytes, entry: str) -> Image:
    """Link an object at `CODE_BASE` with the linker that comes with ziglang.

    Raises:
        EmulationError: the linker is missing or refuses the object.
    """
    from elftools.elf.elffile import ELFFile

    with tempfile.TemporaryDirectory(prefix="edgeseq-") as folder:
        source, target = Path(folder, "step.o"), Path(folder, "step.elf")
        source.write_bytes(object_bytes)
        command = [
            sys.executable, "-m", "ziglang", "ld.lld", f"--image-base={CODE_BASE:#x}",
            "-e", entry, "-o", str(target), str(source),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not target.exists():
            raise EmulationError(
                f"cannot link the object: {done.stderr.strip() or done.stdout.strip()}",
                where=entry,
                fix="check that `python -m ziglang version` works",
            )
        data = target.read_bytes()
    elf = ELFFile(io.BytesIO(data))
    segments = tuple(
        (int(s["p_vaddr"]), bytes(s.data()) + bytes(s["p_memsz"] - s["p_filesz"]))
        for s in elf.iter_segments()
        if s["p_type"] == "PT_LOAD"
    )
    table = elf.get_section_by_name(".symtab")
    symbols = {
        s.name: int(s["st_value"])
        for s in table.iter_symbols()
        if s["st_info"]["type"] == "STT_FUNC"
    }
    return Image(segments, symbols, max(a + len(d) for a, d in segments))
