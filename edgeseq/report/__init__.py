"""The report: accuracy against size, memory, cost and verification; what to ship and why.

Everything shown comes from the manifests of the artifacts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgeseq import manifest as _manifest
from edgeseq.errors import ArtifactError
from edgeseq.manifest import Manifest
from edgeseq.report.facts import Advice, Facts, facts_of
from edgeseq.report.terminal import terminal_table

__all__ = ["Advice", "Facts", "facts_of", "read_tiers", "terminal_table", "write_report"]

REPORT_FILES = ("report.html", "report.json", "report.png")
"""What `write_report` writes into the folder of a target."""


def write_report(folder: Path, manifests: Sequence[Manifest] | None = None) -> Path:
    """Write report.html, report.json and report.png of one target.

    Args:
        folder: OUT/TARGET, which holds a folder per tier; that of one tier means its parent.
        manifests: of its tiers; None reads them.

    Returns:
        The path of report.html.

    Raises:
        ArtifactError: no artifact there, tiers of several targets, a malformed manifest, or the
            files cannot be written.
    """
    if manifests is None:
        if (folder / _manifest.MANIFEST).is_file():
            folder = folder.resolve().parent
        manifests = read_tiers(folder)
    facts = facts_of(_of_one_target(manifests, folder))

    from edgeseq.report.page import render_page
    from edgeseq.report.picture import draw_picture

    text = json.dumps(facts.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    contents = (render_page(facts).encode(), text.encode(), draw_picture(facts))
    for name, content in zip(REPORT_FILES, contents, strict=True):
        _manifest.write_file(folder / name, content, "the report")
    return folder / REPORT_FILES[0]


def read_tiers(folder: Path) -> list[Manifest]:
    """The manifests of the tiers in OUT/TARGET, from the smallest tier up.

    Raises:
        ArtifactError: there is none, or one is malformed.
    """
    found = [_manifest.read(p) for p in sorted(folder.glob(f"[!.]*/{_manifest.MANIFEST}"))]
    if not found:
        raise ArtifactError(
            "holds no artifact (no TIER/manifest.json)",
            where=str(folder),
            fix="name OUT/TARGET of `edgeseq compile`, such as build/rpi",
        )
    return sorted(found, key=lambda m: (m.tier.flash_bytes, m.tier.name))


def _of_one_target(manifests: Sequence[Manifest], folder: Path) -> Sequence[Manifest]:
    names = sorted({m.target.name for m in manifests})
    if len(names) != 1:
        raise ArtifactError(
            f"a report is about one target, these are tiers of {', '.join(names) or 'none'}",
            where=str(folder),
            fix="report on each OUT/TARGET by itself",
        )
    return manifests
