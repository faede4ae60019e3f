"""manifest.json: what an artifact folder holds, and everything that was measured about it.

Only the standard library is needed, so a device can read what it runs.
"""

from __future__ import annotations

from edgeseq.manifest.files import (
    MANIFEST,
    check_files,
    describe_file,
    load_artifact,
    read,
    to_json,
    write,
    write_file,
)
from edgeseq.manifest.schema import (
    SCHEMA,
    Accuracy,
    Candidate,
    Confusion,
    FileInfo,
    FlashUse,
    Format,
    FormatInfo,
    InputInfo,
    Instructions,
    Latency,
    Manifest,
    Memory,
    ModelInfo,
    NodeCost,
    OutputInfo,
    RamUse,
    Saturation,
    StateInfo,
    TargetInfo,
    TierInfo,
    Verification,
)

__all__ = [
    "Accuracy",
    "Candidate",
    "check_files",
    "Confusion",
    "describe_file",
    "FileInfo",
    "FlashUse",
    "Format",
    "FormatInfo",
    "InputInfo",
    "Instructions",
    "Latency",
    "load_artifact",
    "Manifest",
    "MANIFEST",
    "Memory",
    "ModelInfo",
    "NodeCost",
    "OutputInfo",
    "RamUse",
    "read",
    "Saturation",
    "SCHEMA",
    "StateInfo",
    "TargetInfo",
    "TierInfo",
    "to_json",
    "Verification",
    "write",
    "write_file",
]
