"""Time of commands: compiling a trained GRU-64 for cortex-m4 with verification, and help.

The project is the watch example with its GRU of 64 as the only candidate, trained before the clock
starts. Each run is a process of its own and writes a fresh folder: reading the recordings,
streaming, quantising, every format, every verification and the report are in the time.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median

from benchmarks._figures import Figure
from benchmarks._project import command_seconds, run_command, single_model_project

__all__ = ["measure"]

_HIDDEN = 64
_COMPILE_MOST = 20.0
_HELP_MOST = 0.3


def measure(quick: bool) -> list[Figure]:
    """Median wall times; of one compile only if `quick`.

    Raises:
        EdgeseqError: a command failed.
    """
    compiles, helps = (1, 5) if quick else (3, 5)
    with tempfile.TemporaryDirectory(prefix="edgeseq-bench-") as temporary:
        folder = Path(temporary)
        single_model_project(folder, _HIDDEN)
        run_command("train", folder=folder)
        times = [
            command_seconds("compile", "--target", "cortex-m4", "--out", f"out{i}", folder=folder)
            for i in range(compiles)
        ]
        # The first one reads the files from disk; it is not counted.
        starts = [command_seconds("--help", folder=folder) for _ in range(1 + helps)][1:]
    return [
        Figure(
            f"edgeseq compile --target cortex-m4 (trained GRU-{_HIDDEN}, two cores)",
            median(times),
            "s",
            1,
            at_most=_COMPILE_MOST,
            note=f"{_spread(times, 1)}, {os.cpu_count()} cores here",
        ),
        Figure(
            "edgeseq --help",
            median(starts),
            "s",
            2,
            at_most=_HELP_MOST,
            note=_spread(starts, 2),
        ),
    ]


def _spread(seconds: list[float], digits: int) -> str:
    low, high = (f"{t:.{digits}f}" for t in (min(seconds), max(seconds)))
    return f"median of {len(seconds)}, {low} to {high} s" if len(seconds) > 1 else "one run"
