"""Finding artifact folders below the folder a user names."""

from __future__ import annotations

from pathlib import Path

from edgeseq.errors import ArtifactError, UsageError

__all__ = ["artifact_folders", "one_artifact"]


def artifact_folders(directory: Path) -> list[Path]:
    """The artifact folders at or below `directory`: those that hold a manifest.

    Raises:
        ArtifactError: no such folder, or there is none in it.
    """
    if not directory.is_dir():
        raise ArtifactError(
            "no such folder", where=str(directory), fix="name what `edgeseq compile` wrote"
        )
    own = directory / "manifest.json"
    found = [own] if own.is_file() else sorted(directory.glob("*/manifest.json"))
    found = found or sorted(directory.glob("*/*/manifest.json"))
    if not found:
        raise ArtifactError(
            "holds no artifact (no manifest.json)",
            where=str(directory),
            fix="name OUT, OUT/TARGET or OUT/TARGET/TIER of `edgeseq compile`",
        )
    return [path.parent for path in found]


def one_artifact(directory: Path) -> Path:
    """The one artifact folder at or below `directory`.

    Raises:
        ArtifactError: none.
        UsageError: several.
    """
    folders = artifact_folders(directory)
    if len(folders) > 1:
        raise UsageError(
            f"holds {len(folders)} artifacts: {', '.join(str(folder) for folder in folders)}",
            where=str(directory),
            fix="name one of them",
        )
    return folders[0]
