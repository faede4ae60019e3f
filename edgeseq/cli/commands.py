"""The commands, but for those that have files of their own."""

from __future__ import annotations

from pathlib import Path

import click

from edgeseq.cli.artifacts import artifact_folders
from edgeseq.cli.building import compile_command, train_command
from edgeseq.cli.reading import inspect_command
from edgeseq.cli.screen import show_report, table
from edgeseq.cli.streaming import stream_command
from edgeseq.errors import ConfigError, EdgeseqError

__all__ = ["COMMANDS"]

CONFIG = "edgeseq.toml"


@click.command("init")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path())
def init_command(directory: Path) -> None:
    """Write a commented edgeseq.toml into DIRECTORY (here, if none is named)."""
    from edgeseq.config import TEMPLATE

    path = directory / CONFIG
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # "x" refuses to overwrite, also when something else writes the file at this moment.
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError as error:
        raise ConfigError(
            "exists already and was left as it is",
            where=str(path),
            fix="edit it, or name another folder: edgeseq init DIRECTORY",
        ) from error
    step = "" if directory == Path() else f"cd {directory} && "
    click.echo(f"wrote {path}")
    click.echo("next:")
    click.echo(f"  1. edit {path}: name your recordings and the model")
    click.echo("  2. edgeseq targets                 # the boards there are")
    click.echo(f"  3. {step}edgeseq compile --target rpi")


@click.command("targets")
@click.argument("name", required=False)
def targets_command(name: str | None) -> None:
    """List the targets, or describe the one called NAME (or in the TOML file NAME)."""
    from edgeseq.report.words import size_text
    from edgeseq.target import list_targets, load_target

    if name is None:
        rows = [
            (
                target.name,
                target.board,
                target.cpu,
                size_text(target.flash_bytes),
                size_text(target.ram_bytes),
                f"{target.clock_hz / 1e6:g} MHz",
                " ".join(target.tiers),
            )
            for target in list_targets()
        ]
        table(("name", "board", "cpu", "flash", "RAM", "clock", "tiers"), rows)
        return
    target = load_target(name)
    facts = {
        "name": target.name,
        "aliases": ", ".join(target.aliases),
        "description": target.description,
        "board": target.board,
        "code for": f"{target.triple}, {target.cpu} {target.feature_string}".rstrip(),
        "kernel sets": ", ".join(target.isa),
        "result": {
            "archive": "a static library and a C header",
            "shared": "a loadable library and a C header",
        }[target.format],
        "verified on": f"emulated {target.emulator}" if target.emulator else "this machine",
        "clock": f"{target.clock_hz / 1e6:g} MHz",
        "flash": size_text(target.flash_bytes),
        "RAM": size_text(target.ram_bytes),
    }
    for key, value in facts.items():
        click.echo(f"{key:<12} {value}")
    click.echo()
    table(
        ("tier", "flash", "RAM", "time per step"),
        [
            (
                tier.name,
                size_text(tier.flash_bytes),
                size_text(tier.ram_bytes),
                "-" if tier.latency_s is None else f"{tier.latency_s * 1e3:g} ms",
            )
            for tier in target.tiers.values()
        ],
    )


@click.command("verify")
@click.argument("directory", type=click.Path(path_type=Path))
def verify_command(directory: Path) -> None:
    """Check the artifacts in DIRECTORY again: files, golden frames, machine code."""
    folders = artifact_folders(directory)
    from edgeseq.verify import verify_artifact

    for folder in folders:
        for line in verify_artifact(folder):
            click.echo(f"{folder}: {line}")


@click.command("report")
@click.argument("directory", type=click.Path(path_type=Path))
def report_command(directory: Path) -> None:
    """Show the results in DIRECTORY and write report.html, report.json and a picture there."""
    for target in dict.fromkeys(f.resolve().parent for f in artifact_folders(directory)):
        show_report(target)


@click.command("doctor")
def doctor_command() -> None:
    """Check the installation: packages, versions, runtimes, GPU; say what is missing for what."""
    from edgeseq.doctor import MISSING, examine

    checks = list(examine())
    styles = {"ok": "green", "note": "yellow", "missing": "red"}
    table(
        ("", "what", "found", "for"),
        [(c.status, c.name, c.detail, c.needed_for) for c in checks],
        styles=[styles[c.status] for c in checks],
    )
    missing = [c for c in checks if c.status == MISSING]
    if missing:
        raise EdgeseqError(
            f"{len(missing)} of {len(checks)} checks failed: {', '.join(c.name for c in missing)}",
            where="doctor",
            fix="pip install 'edgeseq[all]', in a checkout `make setup`",
        )
    click.echo("everything that is needed is there")


COMMANDS: tuple[click.Command, ...] = (
    init_command,
    inspect_command,
    compile_command,
    targets_command,
    verify_command,
    report_command,
    stream_command,
    train_command,
    doctor_command,
)
