"""Options that say how to read a model file, and `edgeseq inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeseq.cli.screen import table
from edgeseq.errors import UsageError

if TYPE_CHECKING:
    from edgeseq.frontend.inspection import Inspection, Port
    from edgeseq.frontend.options import ImportOptions, Number

__all__ = ["import_options", "inspect_command", "options_of"]

_OPTIONS = (
    click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="NAME=VALUE",
        help="Fix a symbolic dimension or a scalar input of MODEL; may be repeated.",
    ),
    click.option(
        "--state",
        "states",
        multiple=True,
        metavar="IN:OUT",
        help="An input of MODEL and the output that carries its state on; may be repeated.",
    ),
    click.option(
        "--time-axis",
        "time_axes",
        multiple=True,
        metavar="[INPUT:]N",
        help="The axis of MODEL's inputs, or of one input, that is time.",
    ),
    click.option(
        "--batch-axis",
        type=click.IntRange(min=0),
        metavar="N",
        help="The axis of MODEL's inputs that is the batch.",
    ),
    click.option(
        "--window",
        type=click.IntRange(min=1),
        metavar="N",
        help="Take MODEL for windows of N frames, each by itself, instead of a stream.",
    ),
    click.option(
        "--hop",
        type=click.IntRange(min=1),
        metavar="N",
        help="With --window: frames from one window to the next. Default: the window.",
    ),
    click.option(
        "--context",
        type=click.IntRange(min=1),
        metavar="N",
        help="Frames that an attention layer of MODEL looks back on in a stream.",
    ),
)


def import_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that `options_of` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def options_of(
    *,
    sets: Sequence[str],
    states: Sequence[str],
    time_axes: Sequence[str],
    batch_axis: int | None,
    window: int | None,
    hop: int | None,
    context: int | None,
) -> ImportOptions:
    """The options of a command line.

    Raises:
        UsageError: one of them is malformed, or they contradict each other.
    """
    from edgeseq.frontend.options import ImportOptions

    values: dict[str, Number] = {}
    for text in sets:
        name, mark, value = text.rpartition("=")
        if not mark or not name:
            raise _malformed("--set", text, "NAME=VALUE, such as sr=16000")
        if values.setdefault(name, _number(text, value)) != _number(text, value):
            raise UsageError(
                f"{name} is set twice", where="--set", fix="give one value for each name"
            )
    pairs = []
    for text in states:
        before, mark, after = text.rpartition(":")
        if not mark or not before or not after:
            raise _malformed("--state", text, "INPUT:OUTPUT, such as state:stateN")
        pairs.append((before, after))
    return ImportOptions(
        values=values,
        states=tuple(pairs),
        time_axis=_time_axis(time_axes),
        batch_axis=batch_axis,
        window=window,
        hop=hop,
        context=context,
    )


def _time_axis(texts: Sequence[str]) -> int | dict[str, int] | None:
    axes: dict[str, int] = {}
    for text in texts:
        name, _, axis = text.rpartition(":")
        if not axis.isdecimal():
            raise _malformed("--time-axis", text, "an axis counted from 0, or INPUT:AXIS")
        axes[name] = int(axis)
    if "" in axes and len(axes) > 1:
        raise UsageError(
            "one axis for all inputs, and one for a single input",
            where="--time-axis",
            fix="name the axis of each input, as INPUT:AXIS",
        )
    return axes.get("", axes or None)


def _number(text: str, value: str) -> Number:
    words = {"true": True, "false": False}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        raise _malformed("--set", text, "NAME=VALUE with a number, true or false") from None


def _malformed(option: str, text: str, wanted: str) -> UsageError:
    return UsageError(f"{text!r} is not understood", where=option, fix=f"give {wanted}")


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@import_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def inspect_command(model: Path, as_json: bool, **how: Any) -> int:
    """Say what MODEL is: inputs, states, time, cost, and what would not compile and why.

    MODEL is an ONNX file, or one saved with torch.export.save (.pt2). Nothing in it is run. Ends
    with 0 if it compiles, with 1 if something would not.
    """
    from edgeseq.frontend import inspect_model

    found = inspect_model(model, options_of(**how))
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1, ensure_ascii=False))
    else:
        _show(found)
    return 0 if found.compiles else 1


def _show(found: Inspection) -> None:
    from edgeseq.report.words import count_text

    facts = [found.kind]
    if found.mode is not None:
        words = {"step": "a step with its states", "stream": "a stream", "window": "in windows"}
        facts.append(words[found.mode])
    for count, what in (
        (found.parameters, "parameters"),
        (found.macs_per_frame, "multiply-accumulates per frame"),
    ):
        if count is not None:
            facts.append(f"{count_text(count)} {what}")
    click.echo(f"{found.source}: {', '.join(facts)}")
    if found.time:
        click.echo(f"time: {found.time}")
    if found.frames_per_step is not None and found.frames_per_step > 1:
        click.echo(f"a step takes {found.frames_per_step} frames at once")
    if found.delay is not None:
        plural = "" if found.delay == 1 else "s"
        click.echo(f"delay: {f'{found.delay} frame{plural}' if found.delay else 'none'}")
    for note in found.notes:
        click.echo(note)
    _show_ports("input", found.inputs)
    _show_ports("output", found.outputs)
    if found.states:
        table(
            ("state", "shape", "from", "to", "recognised"),
            [(s.name, s.shape, s.input or "-", s.output or "-", s.how) for s in found.states],
        )
    if found.operations:
        rows = [(name, count_text(n)) for name, n in found.operations.items()]
        table(("operation", "times"), rows)
    if found.problems:
        plural = "s" if len(found.problems) > 1 else ""
        click.echo(f"does not compile: {len(found.problems)} problem{plural}")
        table(
            ("operation", "where", "why", "what to do"),
            found.problems,
            styles=["red"] * len(found.problems),
        )
    else:
        click.echo("compiles")


def _show_ports(kind: str, ports: Sequence[Port]) -> None:
    if any(p.role for p in ports):
        table((kind, "type", "shape", "is"), [(p.name, p.dtype, p.shape, p.role) for p in ports])
    elif ports:
        table((kind, "type", "shape"), [(p.name, p.dtype, p.shape) for p in ports])
