"""Artifact folders that are complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeseq.errors import ArtifactError

__all__ = ["ensure_writable", "new_folder", "remove_leftovers"]

_PART = ".part"


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
    """Remove what an interrupted compilation left in `parent`."""
    for leftover in parent.glob(f".*{_PART}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder that becomes `final` if the block ends well, and leaves no trace if it does not.

    What stood at `final` is replaced in one step, or stays as it was.

    Raises:
        ArtifactError: the folder cannot be made or put in place.
    """
    part = final.parent / f".{final.name}{_PART}-{os.getpid()}"
    old = final.parent / f".{final.name}{_PART}-{os.getpid()}-old"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            if final.exists():
                final.rename(old)
            try:
                part.rename(final)
            except OSError:
                if old.exists():
                    old.rename(final)
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as e:
        raise ArtifactError(
            f"cannot write the artifact: {e.strerror or e}",
            where=str(e.filename or final),
            fix="check permissions and free space, or choose another folder with --out",
        ) from e
