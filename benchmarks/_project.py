"""The example project, and the command line as a user runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from edgeseq.cli.building import trained_folder
from edgeseq.errors import EdgeseqError

__all__ = ["EXAMPLE", "command_seconds", "run_command", "single_model_project"]

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "watch"


def run_command(*arguments: str, folder: Path) -> None:
    """Run `edgeseq ARGUMENTS` in `folder`, in a process of its own.

    Raises:
        EdgeseqError: it failed; holds its last words.
    """
    installed = Path(sys.executable).with_name("edgeseq")
    start = ["-c", "from edgeseq.cli import main; raise SystemExit(main())"]
    program = [str(installed)] if installed.exists() else [sys.executable, *start]
    done = subprocess.run(
        [*program, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise EdgeseqError(
            f"exit status {done.returncode}: {done.stderr.strip()[-500:]}",
            where=f"edgeseq {' '.join(arguments)}",
            fix="run it by hand",
        )


def command_seconds(*arguments: str, folder: Path) -> float:
    """Wall time of `run_command`, start of the process included."""
    start = time.perf_counter()
    run_command(*arguments, folder=folder)
    return time.perf_counter() - start


def single_model_project(folder: Path, hidden: int) -> None:
    """The example with one candidate, and what is trained of it, as a project in `folder`."""
    text = (EXAMPLE / "edgeseq.toml").read_text(encoding="utf-8")
    changed, count = re.subn(r"(?m)^hidden\s*=\s*\[[^\]]*\]", f"hidden = [{hidden}]", text)
    if count != 1:
        raise EdgeseqError(
            f"{count} lines name hidden sizes, one was expected",
            where=str(EXAMPLE / "edgeseq.toml"),
            fix="keep the sizes of the candidates in one list",
        )
    path = folder / "edgeseq.toml"
    path.write_text(changed, encoding="utf-8")
    trained = trained_folder(EXAMPLE / path.name)
    if trained.is_dir():
        shutil.copytree(trained, trained_folder(path))
