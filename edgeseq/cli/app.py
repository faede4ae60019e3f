"""The group of commands, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import io
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from edgeseq.cli.commands import COMMANDS
from edgeseq.errors import EdgeseqError

__all__ = ["Settings", "app", "main"]

INTERRUPTED = 130


@dataclass
class Settings:
    """What the common options of every command set.

    Attributes:
        verbosity: how often -v was given: 1 shows progress notes and warnings, 2 details.
        debug: show the traceback of an error.
    """

    verbosity: int = 0
    debug: bool = False


def _set_verbosity(context: click.Context, _: click.Parameter, value: int) -> None:
    settings = context.find_object(Settings)
    if settings is not None:
        settings.verbosity = max(settings.verbosity, value)
        _log(settings.verbosity)


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    settings = context.find_object(Settings)
    if settings is not None:
        settings.debug = settings.debug or value


def _common(command: click.Command) -> click.Command:
    """Give a command the options that all have, so that they may stand before or after its name."""
    command.params += [
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_set_verbosity,
            help="Say more; -vv says everything.",
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_set_debug,
            help="Show the traceback of an error.",
        ),
    ]
    return command


def _log(verbosity: int) -> None:
    """Send log records to stderr: warnings always, notes with -v, everything with -vv.

    Python warnings (libraries announcing their own changes) are notes, not warnings to a user.
    """
    logger = logging.getLogger("edgeseq")
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    logger.propagate = False
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.handlers = [handler]
    logging.captureWarnings(True)
    python_warnings = logging.getLogger("py.warnings")
    python_warnings.propagate = False
    python_warnings.handlers = [handler] if verbosity else [logging.NullHandler()]


class _Handler(logging.Handler):
    """Writes to what stderr is at that moment: a progress bar redirects it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


class _App(click.Group):
    """The group of commands with the project's own end: one message, one exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; ends the process with its exit code (returns it if not standalone).

        0: done. 1: an error, told in one message. 2: wrong usage. 130: interrupted.
        """
        settings = Settings()
        _log(0)
        try:
            result = super().main(
                args, prog_name or "edgeseq", complete_var, False, obj=settings, **extra
            )
            code = result if isinstance(result, int) else 0
        except Exception as error:  # noqa: BLE001 - the one place where all errors end
            code = _explain(error, settings)
        if standalone_mode:
            sys.exit(code)
        return code


def _explain(error: Exception, settings: Settings) -> int:
    """Tell the error on stderr in one message; the exit code that goes with it."""
    if settings.debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, click.Abort):
        _complain("interrupted; what was finished before is kept")
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        error.show(file=sys.stderr)
        return error.exit_code
    if isinstance(error, EdgeseqError):
        _complain(str(error))
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name and not _own(error.name):
        package = error.name.partition(".")[0]
        _complain(
            f"this needs the package {package!r}, which is not installed\n"
            "  -> pip install 'edgeseq[all]' (`edgeseq doctor` shows what is missing for what)"
        )
        return 1
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        _complain(
            f"{place}{error.strerror or error}\n"
            "  -> check that the path exists, that it may be read or written, and the disk's space"
        )
        return 1
    if isinstance(error, MemoryError):
        _complain("out of memory\n  -> use fewer recordings, or a machine with more memory")
        return 1
    _complain(
        f"internal error: {type(error).__name__}: {error}\n"
        "  -> this is a bug in edgeseq; run again with --debug and report what it prints"
    )
    return 1


def _own(module: str) -> bool:
    return module.partition(".")[0] == "edgeseq"


def _complain(message: str) -> None:
    click.echo(f"{click.style('error', fg='red', bold=True)}: {message}", err=True)


@click.group(
    cls=_App,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `edgeseq init` in an empty folder, or in examples/watch of the checkout.",
)
@click.version_option(package_name="edgeseq", prog_name="edgeseq")
def app() -> None:
    """Compile sequence models into verified integer code for small machines."""


_common(app)
for _command in COMMANDS:
    app.add_command(_common(_command))


def main() -> None:
    """The `edgeseq` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character gets a question mark, not an error.
            stream.reconfigure(errors="replace")
    # A polite kill ends like an interruption: what cleans up after itself gets to do so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    app.main()
