"""Tables and reports on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show_report", "table"]


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[str] | None = None
) -> None:
    """Print a table on stdout; a row whose style is given has its first cell in that colour."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        drawn.add_column(name, overflow="fold")
    for index, row in enumerate(rows):
        cells = [Text(cell) for cell in row]
        if styles is not None:
            cells[0].stylize(styles[index])
        drawn.add_row(*cells)
    _console().print(drawn)


def show_report(folder: Path) -> None:
    """Write the report of one target, print its table and where it is.

    Args:
        folder: OUT/TARGET; every tier in it is reported, also those of earlier calls.

    Raises:
        ArtifactError: nothing to report on, or the folder cannot be written.
    """
    from edgeseq.report import read_tiers, terminal_table, write_report

    manifests = read_tiers(folder)
    page = write_report(folder, manifests)
    _console().print(terminal_table(manifests))
    click.echo(f"report: {page}")


def _console() -> Console:
    """Stdout; where it is no terminal (a file, CI), lines are wide enough for every table."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160
    return console
