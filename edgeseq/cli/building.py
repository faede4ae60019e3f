"""`edgeseq compile` and `edgeseq train`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeseq.cli.reading import import_options, options_of
from edgeseq.cli.screen import show_report, table
from edgeseq.errors import BackendError, ModelError, UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from edgeseq.config import Compile, Config, Quant
    from edgeseq.target import Target

_M = TypeVar("_M", bound="BaseModel")

__all__ = ["compile_command", "identifier", "override", "train_command", "trained_folder"]

# Table and key of edgeseq.toml to a value of the command line, None where it says nothing.
Changes = dict[str, dict[str, Any]]

FORMATS = ("native", "onnx", "tflite")
_CONFIG_OPTION = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=Path("edgeseq.toml"),
    show_default=True,
    help="The settings file.",
)
_FORCE_OPTION = click.option("--force", is_flag=True, help="Train again although nothing changed.")


@click.command("compile")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    help="A target's name or TOML file; may be repeated. `edgeseq targets` lists them.",
)
@click.option(
    "--tier", "tiers", multiple=True, help="Only this tier; may be repeated. Default: all."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("build"),
    show_default=True,
    help="Where TARGET/TIER/ folders are written.",
)
@_CONFIG_OPTION
@click.option(
    "--calib",
    help="With MODEL: recordings to calibrate with (.npz, .npy, .csv, .wav, a folder of these, a "
    "set's name). An .npz holds an array for each input.",
)
@click.option(
    "--frame-hop",
    type=click.IntRange(min=1),
    metavar="N",
    help="With MODEL: samples from one frame to the next where frames are cut from audio. "
    "Default: the length of a frame.",
)
@import_options
@click.option("--name", help="Names the C functions: NAME_step, NAME_reset.")
@click.option("--weights-bits", type=click.Choice(["8", "16"]), help="Width of weights.")
@click.option("--activation-bits", type=click.Choice(["8", "16"]), help="Width of activations.")
@click.option(
    "--calibration",
    type=click.Choice(["minmax", "percentile", "mse", "entropy"]),
    help="How ranges are found.",
)
@click.option(
    "--snr",
    type=click.FloatRange(min=0, min_open=True),
    metavar="DB",
    help="Widen weights to 16 bits where the outputs need it to be so far above their error.",
)
@click.option(
    "--formats",
    metavar="LIST",
    help=f"What to write, separated by commas: {', '.join(FORMATS)}. Default: all.",
)
@click.option(
    "--dump",
    type=click.Path(path_type=Path),
    help="Write the Graph as text after every pass into this folder.",
)
@_FORCE_OPTION
def compile_command(
    model: Path | None,
    targets: tuple[str, ...],
    tiers: tuple[str, ...],
    out: Path,
    config_path: Path,
    calib: str | None,
    frame_hop: int | None,
    name: str | None,
    weights_bits: str | None,
    activation_bits: str | None,
    calibration: str | None,
    snr: float | None,
    formats: str | None,
    dump: Path | None,
    force: bool,
    **how: Any,
) -> None:
    """Compile for each --target, verify, and report.

    Without MODEL, the project in ./edgeseq.toml is trained first if that is needed. MODEL is a
    model made elsewhere: an ONNX file, or one saved with torch.export.save (.pt2). `edgeseq inspect
    MODEL` says what it is and whether it compiles.
    """
    from edgeseq.cli.progress import Screen
    from edgeseq.target import load_target

    chosen = [load_target(target) for target in targets]
    changes: Changes = {
        "project": {"name": name},
        "quant": {
            "weight_bits": int(weights_bits) if weights_bits else None,
            "activation_bits": int(activation_bits) if activation_bits else None,
            "calibration": calibration,
            "snr_db": snr,
        },
        "compile": {"formats": _formats(formats), "tiers": list(tiers) or None},
    }
    if model is None:
        _model_only(calib, frame_hop, how)
        from edgeseq.config import load_config

        config = override(load_config(config_path), changes)
        _need(config.compile.formats, chosen, ("torch", "pydantic"), asked=formats is not None)
        from edgeseq.compiler import compile_project

        work = trained_folder(config_path)
        if force:
            forget_trained(config, work)
        with Screen() as screen:
            built = compile_project(config, chosen, out, work=work, dump=dump, progress=screen)
    elif calib is None:
        raise UsageError("a MODEL needs recordings to calibrate with", fix="add --calib frames.npz")
    else:
        options = options_of(**how)
        if not model.is_file():
            raise ModelError("no such file", where=str(model), fix="name a .onnx or .pt2 file")
        quant, table = model_settings(config_path, changes)
        needed = ("onnx",) if model.suffix.lower() == ".onnx" else ()
        _need(table.formats, chosen, needed, asked=formats is not None)
        from edgeseq.compiler import compile_model, settings_of

        with Screen() as screen:
            built = compile_model(
                model,
                chosen,
                out,
                calib=calib,
                name=name or identifier(model.stem),
                settings=settings_of(quant, table),
                options=options,
                frame_hop=frame_hop,
                dump=dump,
                progress=screen,
            )
    for result in built:
        show_report(result.folder)
        for tier, reason in result.missed.items():
            click.echo(f"tier {tier} was not filled: {reason}")


@click.command("train")
@_CONFIG_OPTION
@_FORCE_OPTION
def train_command(config_path: Path, force: bool) -> None:
    """Train the project's models; goes on where an interrupted training stopped.

    Nothing is trained again when neither data nor settings changed.
    """
    from edgeseq.cli.progress import Screen
    from edgeseq.config import load_config

    config, work = load_config(config_path), trained_folder(config_path)
    if force:
        forget_trained(config, work)
    with Screen() as screen:
        from edgeseq.train import train_candidates

        results = train_candidates(config, work, screen.training)
    table(
        ("model", "parameters", "accuracy", "validation", "epochs", "seconds", "weights"),
        [
            (
                result.meta["name"],
                f"{result.metrics['parameters']:.0f}",
                f"{result.metrics['test_accuracy']:.1%}",
                f"{result.metrics['validation_accuracy']:.1%}",
                str(len(result.history)),
                f"{result.seconds:.0f}",
                str(result.checkpoint),
            )
            for result in results
        ],
    )


def trained_folder(config_path: Path) -> Path:
    """Where the trained models of a project are kept: beside its settings file."""
    folder = config_path if config_path.is_dir() else config_path.parent
    return folder / ".edgeseq" / "trained"


def forget_trained(config: Config, work: Path) -> None:
    """Remove what trainings of this project left, so that it is trained again."""
    for candidate in config.candidates():
        folder = work / candidate.candidate_name
        if folder.exists():
            shutil.rmtree(folder)


def override(config: Config, changes: Changes) -> Config:
    """`config` with the values that are not None in place of its own, validated again.

    Raises:
        UsageError: a value does not fit.
    """
    return _validated(type(config), config.model_dump(), changes)


def model_settings(config_path: Path, changes: Changes) -> tuple[Quant, Compile]:
    """The settings for a model made elsewhere: those of the settings file where there is one, else
    the defaults, with the command line's in their place.

    Raises:
        ConfigError: the file is malformed.
        UsageError: a value of the command line does not fit.
    """
    from edgeseq.config import Compile, Quant, load_config

    if config_path.exists():
        config = override(load_config(config_path), changes)
        return config.quant, config.compile
    return (
        _validated(Quant, {}, {"": changes["quant"]}),
        _validated(Compile, {}, {"": changes["compile"]}),
    )


def _validated(kind: type[_M], tree: dict[str, Any], changes: Changes) -> _M:
    from pydantic import ValidationError

    for name, values in changes.items():
        table = tree[name] if name else tree
        table.update({key: value for key, value in values.items() if value is not None})
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise UsageError(
            "; ".join(f"{' '.join(map(str, p['loc']))}: {p['msg']}" for p in problems),
            where="command line",
            fix="`edgeseq compile --help` describes the options",
        ) from error


def identifier(text: str) -> str:
    """`text` as a C identifier of at most 40 characters: "my-model.v2" -> "my_model_v2"."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", text)
    return (name if name[:1].isalpha() else f"model_{name}")[:40]


def _model_only(calib: str | None, frame_hop: int | None, how: Mapping[str, Any]) -> None:
    """Refuse what is about a MODEL where none is named."""
    given = [
        f"--{name.replace('_', '-')}" for name, value in how.items() if value not in (None, ())
    ]
    given += ["--calib"] * (calib is not None) + ["--frame-hop"] * (frame_hop is not None)
    if given:
        raise UsageError(
            f"{given[-1]} goes with a MODEL; a project says in edgeseq.toml what it is trained and "
            "calibrated with",
            fix=f"leave {given[-1]} out, or name the model file to compile",
        )


def _need(
    formats: Sequence[str], targets: Sequence[Target], more: Sequence[str], *, asked: bool
) -> None:
    """See that what a compilation cannot do without is installed, before anything long is started.

    What only runs or checks a result may be missing: then the report says that it was not run.

    Args:
        formats: to be written.
        targets: to compile for.
        more: modules that reading the model needs.
        asked: the formats were asked for by name, so that none may be left out.

    Raises:
        BackendError: names all that is missing.
    """
    from edgeseq.emit import format_of, installed

    needed = ["numba", "llvmlite", "elftools", "matplotlib", "jinja2", *more]
    for name in formats:
        needed += format_of(name).packages if asked else ()
    if "native" in formats and any(target.format == "shared" for target in targets):
        needed.append("ziglang")
    missing = [name for name in dict.fromkeys(needed) if not installed(name)]
    if missing:
        raise BackendError(
            f"cannot import {', '.join(missing)}",
            where="compile",
            fix="pip install 'edgeseq[all]' (`edgeseq doctor` shows what is missing for what), "
            "or leave formats out with --formats",
        )


def _formats(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise UsageError(
            f"unknown format {unknown[0]!r}" if unknown else "no format named",
            where="--formats",
            fix=f"name one or more of {', '.join(FORMATS)}, separated by commas",
        )
    return names
