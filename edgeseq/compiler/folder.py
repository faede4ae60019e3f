"""Artifact folders that are complete or absent."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeseq._processes import runs_elsewhere
from edgeseq.errors import ArtifactError
from edgeseq.manifest import MANIFEST

__all__ = ["ensure_replaceable", "ensure_writable", "new_folder", "remove_leftovers"]

_PART = ".part"
# What a process names the things it has not finished: a tier's folder, the tier that stood there
# before, a file of the report.
_UNFINISHED = re.compile(r"\.(?P<tier>.+)\.part-(?P<pid>\d+)(?P<old>-old)?|\..+\.(?P<of>\d+)\.part")


def ensure_writable(out: Path) -> None:
    """Make `out` and see that files can be made in it, before anything long is started.

    Raises:
        ArtifactError: they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as e:
        raise ArtifactError(
            f"cannot write here: {e.strerror}",
            where=str(out),
            fix="choose another folder with --out, or change its permissions",
        ) from e


def remove_leftovers(parent: Path) -> None:
    """Remove what interrupted compilations left in `parent`, and nothing of running ones.

    A tier that was moved aside to be replaced, and whose successor never came, is put back.
    """
    if not parent.is_dir():
        return
    with _only_one(parent):
        for path in sorted(parent.iterdir()):
            found = _UNFINISHED.fullmatch(path.name)
            if found is None or runs_elsewhere(int(found["pid"] or found["of"])):
                continue
            if found["of"]:
                path.unlink(missing_ok=True)
            elif found["old"] and not (parent / found["tier"]).exists():
                path.rename(parent / found["tier"])
            else:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder that becomes `final` if the block ends well, and leaves no trace if it does not.

    What stood at `final` is replaced in one step, or stays as it was.

    Raises:
        ArtifactError: the folder cannot be made or put in place, or something else is there.
    """
    ensure_replaceable(final)
    part = final.parent / f".{final.name}{_PART}-{os.getpid()}"
    old = final.parent / f".{final.name}{_PART}-{os.getpid()}-old"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            with _only_one(final.parent):
                _swap(part, final, old)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if final.exists():
                shutil.rmtree(old, ignore_errors=True)
    except OSError as e:
        raise ArtifactError(
            f"cannot write the artifact: {e.strerror or e}",
            where=str(e.filename or final),
            fix="check permissions and free space, or choose another folder with --out",
        ) from e


def ensure_replaceable(final: Path) -> None:
    """Refuse to replace what edgeseq did not write: a file, or a folder without a manifest.

    Raises:
        ArtifactError: such a thing stands at `final`.
    """
    try:
        foreign = final.exists() and (
            not final.is_dir() or (any(final.iterdir()) and not (final / MANIFEST).is_file())
        )
    except OSError:
        return  # making the folder will say what is wrong
    if foreign:
        raise ArtifactError(
            "exists and is not an artifact folder, so it was left as it is",
            where=str(final),
            fix="move it away, or choose another folder with --out",
        )


def _swap(part: Path, final: Path, old: Path) -> None:
    if final.exists() or final.is_symlink():
        final.rename(old)
    try:
        part.rename(final)
    except BaseException:
        if old.exists() and not final.exists():
            old.rename(final)
        raise


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: of several processes that write into it, one at a time renames."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then only one writer is safe
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
