"""Files that are complete or absent: checkpoints, weights and their description."""

from __future__ import annotations

import hashlib
import json
import os
import pickle  # noqa: TID251 - only to name the exception torch.load raises
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from edgeseq._processes import runs_elsewhere
from edgeseq.errors import TrainError

RESUME = "resume.pt"
# What torch.load raises on damaged files.
BROKEN = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
WEIGHTS = "model.safetensors"
META = "trained.json"


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it.

    The bytes reach the disk before the name does, so that not even a power cut leaves half a file
    under the final name.

    Raises:
        TrainError: the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors: disk full
        raise TrainError(
            f"cannot be written: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            fix="free space, or choose a folder that can be written to",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Make the folder and remove what a killed process left half-written.

    Raises:
        TrainError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            number = leftover.name.split(".")[-2]
            if not (number.isdecimal() and runs_elsewhere(int(number))):
                leftover.unlink(missing_ok=True)
    except OSError as error:
        raise TrainError(
            f"cannot be written to: {error.strerror or error}",
            where=str(folder),
            fix="choose a folder that can be written to",
        ) from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state (tensors, numbers, text, and containers of them)."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_state(path: Path) -> dict[str, Any]:
    """Read a training state without running anything it holds.

    Raises:
        TrainError: damaged, or it holds something else than data.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrainError(
            f"is damaged or not a checkpoint ({reason})",
            where=str(path),
            fix="delete the file: training then starts from the beginning",
        ) from error
    if not isinstance(state, dict):
        raise TrainError(
            "is not a checkpoint of edgeseq",
            where=str(path),
            fix="delete the file: training then starts from the beginning",
        )
    return state


def save_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
