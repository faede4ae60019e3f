"""Reads members of a ZIP archive with memory bounded by the size of the file itself."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

from edgeseq.errors import ModelError, UnsupportedError

__all__ = ["Archive"]

# The description of a recurrent model is about 100 KB; this is far beyond what the lowering takes.
MAX_JSON = 32 << 20
MAX_MEMBERS = 100_000


class Archive:
    """A ZIP whose members are stored, as `torch.export.save` writes them.

    Compressed members are refused: nothing that is read can then be larger than the file, so a
    decompression bomb has no way in.

    Args:
        source: a path, or the bytes of an archive.
        where: the file, for messages.

    Attributes:
        size: bytes of the file.

    Raises:
        ModelError: not a ZIP, damaged, or holding compressed, encrypted or overlapping members.
    """

    def __init__(self, source: Path | bytes, where: str) -> None:
        self.where = where
        try:
            if isinstance(source, bytes):
                size = len(source)
                self._zip = zipfile.ZipFile(io.BytesIO(source))
            else:
                size = os.stat(source).st_size
                self._zip = zipfile.ZipFile(source)
        except FileNotFoundError:
            raise ModelError("there is no such file", where=where, fix="check the path") from None
        except OSError as e:
            raise ModelError(f"cannot be read: {e.strerror or e}", where=where) from None
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as e:
            raise self.damaged(str(e)) from None
        self.size = size
        infos = self._zip.infolist()
        _refuse_pickles([i.filename for i in infos], where)
        if len(infos) > MAX_MEMBERS:
            raise self.damaged(f"{len(infos)} members")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise self.damaged(f"member {info.filename[:80]!r} is compressed or encrypted")
        if sum(i.file_size for i in infos) > size:
            raise self.damaged("its members overlap or are larger than the file")
        self._infos = {i.filename: i for i in infos}
        if len(self._infos) != len(infos):
            raise self.damaged("two members have the same name")

    def damaged(self, what: str) -> ModelError:
        """The error for an archive that is not what torch.export.save writes."""
        return ModelError(
            f"not a readable .pt2 archive: {what}",
            where=self.where,
            fix="save it again: torch.export.save(torch.export.export(model, (example,)), path)",
        )

    def names(self) -> list[str]:
        """Names of the members."""
        return list(self._infos)

    def read(self, name: str) -> bytes:
        """The bytes of one member, its checksum verified."""
        if name not in self._infos:
            raise self.damaged(f"member {name[:120]!r} is missing")
        info = self._infos[name]
        if info.compress_size != info.file_size:
            raise self.damaged(f"member {name[:120]!r} states two different sizes")
        try:
            data = self._zip.read(info)
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as e:
            raise self.damaged(f"member {name[:120]!r}: {e}") from None
        except struct.error as e:
            raise self.damaged(f"member {name[:120]!r}: {e}") from None
        if len(data) != info.file_size:
            raise self.damaged(f"member {name[:120]!r} is cut short")
        return data

    def json(self, name: str) -> Any:
        """One member parsed as JSON."""
        if name in self._infos and self._infos[name].file_size > MAX_JSON:
            raise self.damaged(f"member {name[:120]!r} is larger than {MAX_JSON >> 20} MB")
        try:
            return json.loads(self.read(name).decode("utf-8"))
        except (ValueError, RecursionError) as e:  # JSONDecodeError, UnicodeDecodeError
            raise self.damaged(f"member {name[:120]!r} is not JSON: {e}") from None

    def close(self) -> None:
        self._zip.close()


_EXPORT = (
    "export the module it was made from, where you trust the file:\n"
    "     module.eval()\n"
    "     exported = torch.export.export(module, (torch.zeros(1, 16, features),))\n"
    "     torch.export.save(exported, 'model.pt2')"
)


def _refuse_pickles(names: list[str], where: str) -> None:
    """Raise for what else torch writes into archives (UnsupportedError)."""
    if any("/models/" in n and n.endswith(".json") for n in names):
        return
    if any(n.endswith("constants.pkl") or "/code/" in n for n in names):
        raise UnsupportedError(
            "is a TorchScript archive, which holds code", where=where, fix=_EXPORT
        )
    if any(n.endswith("/data.pkl") for n in names):
        raise UnsupportedError(
            "is a pickled checkpoint (torch.save), which can run code and holds no program",
            where=where,
            fix=_EXPORT,
        )
