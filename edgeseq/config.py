"""`edgeseq.toml`: the schema, its defaults, and the commented template `edgeseq init` writes.

Every table is optional except ``[data]`` (what to train and test on). An unknown key, a value of
the wrong kind or settings that contradict each other end in one `ConfigError` that names the file,
the table, the key and the closest known keys.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from edgeseq.errors import ConfigError, unknown_name

__all__ = [
    "FILE_NAME",
    "TEMPLATE",
    "Augment",
    "Compile",
    "Config",
    "Data",
    "Model",
    "Project",
    "Quant",
    "Train",
    "known_cells",
    "load_config",
    "parse_config",
]

FILE_NAME = "edgeseq.toml"

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


def known_cells() -> tuple[str, ...]:
    """Names of the cells: the files of ``edgeseq/nn/`` that do not start with an underscore."""
    folder = Path(__file__).resolve().parent / "nn"
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")))


def _to_tuple(value: object) -> object:
    """TOML arrays arrive as lists; a frozen config holds tuples."""
    return tuple(value) if isinstance(value, list) else value


def _one_or_many(value: object) -> object:
    return _to_tuple(value if isinstance(value, list | tuple) else [value])


def _to_groups(value: object) -> object:
    if not isinstance(value, list | tuple):
        return value
    return tuple(str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value)


Names = Annotated[tuple[str, ...], BeforeValidator(_to_tuple)]
Groups = Annotated[tuple[str, ...], BeforeValidator(_to_groups)]
Sizes = Annotated[tuple[PositiveInt, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
Signs = Annotated[tuple[Literal[-1, 1], ...], BeforeValidator(_to_tuple)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Project(_Table):
    """``[project]``.

    Attributes:
        name: names the compiled functions (``NAME_step``), so it must be a C identifier.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")] = "model"


class Data(_Table):
    """``[data]``: exactly one of `set` and `path`.

    Attributes:
        set: a set that comes with edgeseq, such as ``watch``.
        path: own data (layouts: `edgeseq.data.sets`), relative to the settings file.
        channels: the channels to use, in this order; empty means all.
        window: frames per window.
        hop: frames from one window's start to the next one's.
        test_groups: never seen in training; accuracy is measured on them.
        validation_groups: decide when to stop; empty means one fifth of the others, chosen by name.
    """

    set: str | None = None
    path: str | None = None
    channels: Names = ()
    window: PositiveInt = 100
    hop: PositiveInt = 25
    test_groups: Annotated[Groups, Field(min_length=1)]
    validation_groups: Groups = ()

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.set is None) == (self.path is None):
            raise ValueError("give exactly one of set (a known set) and path (your own data)")
        return self

    @property
    def source(self) -> str:
        """What `edgeseq.data.load_set` takes."""
        return self.set or self.path or ""


class Model(_Table):
    """``[model]``.

    Attributes:
        cell: the recurrent layer, a file of ``edgeseq/nn/``.
        hidden: units per layer; several values are candidates, each trained, and each tier gets
            the most accurate one that fits it.
        layers: recurrent layers, one above the other.
        dropout: share of units dropped between layers and before the head, in training only.
        norm: "layer" puts a LayerNorm after each recurrent layer.
        residual: add each upper layer's input to its output.
    """

    cell: str = "gru"
    hidden: Sizes = (64,)
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    norm: Literal["none", "layer"] = "none"
    residual: bool = False

    @model_validator(mode="after")
    def _cell_exists(self) -> Model:
        if self.cell not in known_cells():
            raise ValueError(unknown_name("cell", self.cell, known_cells()))
        if len(set(self.hidden)) != len(self.hidden):
            raise ValueError("hidden names a size twice")
        if self.residual and self.layers == 1:
            raise ValueError("residual needs layers = 2 or more: it adds around the upper layers")
        return self


class Augment(_Table):
    """``[train.augment]``: random changes to each training window; 0 or empty switches one off.

    Attributes:
        noise: standard deviation of added noise, as a share of each channel's own.
        scale: standard deviation of the log of one gain per window.
        time_warp: standard deviation of the log of the playback speed of a window.
        shift: move each window by up to half a hop.
        rates: channels that are rates of change: they scale with the playback speed.
        rotate_deg: standard deviation of the angle of one random rotation per window (degrees).
        vectors: triples of channels that are 3-D vectors in the same frame: rotated together.
        mirror: one sign per channel; half of the windows are multiplied by it. For sensors worn on
            either side of a body.
    """

    noise: NonNegative = 0.0
    scale: NonNegative = 0.0
    time_warp: NonNegative = 0.0
    shift: bool = True
    rates: Names = ()
    rotate_deg: NonNegative = 0.0
    vectors: Annotated[
        tuple[Annotated[Names, Field(min_length=3, max_length=3)], ...],
        BeforeValidator(_to_tuple),
    ] = ()
    mirror: Signs = ()

    @model_validator(mode="after")
    def _vectors_given(self) -> Augment:
        if self.rotate_deg and not self.vectors:
            raise ValueError("rotate_deg needs vectors: the triples of channels to rotate")
        return self


class Train(_Table):
    """``[train]``.

    Attributes:
        epochs: passes over the training windows, at most.
        batch_size: windows per step.
        lr: highest learning rate (AdamW).
        schedule: after the warm-up, "cosine" falls to zero at the last epoch; "constant" stays.
        warmup: share of all steps in which the rate rises from zero.
        weight_decay: AdamW's.
        clip_norm, clip_value: limits on the gradient's norm and on each of its entries; 0 is off.
        label_smoothing: share of each label spread over all classes.
        loss_frames: how many of the last frames of a window count in the loss.
        ema: decay per step of the averaged weights, which are the ones kept; 0 is off.
        patience: stop after so many epochs without a lower validation loss; 0 is never.
        seed: of everything random.
        precision: "auto" is bf16-mixed where a GPU has bfloat16, else 32-true.
        devices: 0 is all.
        augment: random changes to the windows.
    """

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 128
    lr: PositiveFloat = 3e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.1
    weight_decay: NonNegative = 1e-2
    clip_norm: NonNegative = 1.0
    clip_value: NonNegative = 0.5
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    loss_frames: PositiveInt = 1
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    patience: Annotated[int, Field(ge=0)] = 6
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    devices: Annotated[int, Field(ge=0)] = 0
    augment: Augment = Augment()


class Quant(_Table):
    """``[quant]``.

    Attributes:
        weight_bits: of weights, with one scale per output channel.
        activation_bits: of values between layers and of a state as the matrix product reads it.
        calibration: how ranges are found: "minmax" (with at most a factor 2 of margin),
            "percentile", "mse" (least squared error) or "entropy".
        calibration_frames: frames of training data used for it, at most.
        snr_db: widen weights to 16 bits where the output's signal-to-noise ratio is below this;
            leave out to never widen.
    """

    weight_bits: Literal[8, 16] = 8
    activation_bits: Literal[8, 16] = 16
    calibration: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    calibration_frames: PositiveInt = 20_000
    snr_db: PositiveFloat | None = None


Format = Literal["native", "onnx", "tflite"]


class Compile(_Table):
    """``[compile]``.

    Attributes:
        tiers: the target's tiers to fill; empty means all.
        accuracy_floor: fail below this test accuracy (integer model, 0 to 1); 0 is off.
        max_accuracy_drop: fail when the integer model is worse than float by more (0 to 1).
        formats: what to write. "native" is the library for the target.
        verify_steps: steps of real data compared bit for bit, at least 1000.
    """

    tiers: Names = ()
    accuracy_floor: Fraction = 0.0
    max_accuracy_drop: Fraction = 0.02
    formats: Annotated[tuple[Format, ...], BeforeValidator(_to_tuple), Field(min_length=1)] = (
        get_args(Format)
    )
    verify_steps: Annotated[int, Field(ge=1000)] = 1000


class Config(_Table):
    """All settings of a project. Immutable; `load_config` reads one."""

    project: Project = Project()
    data: Data
    model: Model = Model()
    train: Train = Train()
    quant: Quant = Quant()
    compile: Compile = Compile()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.train.loss_frames > self.data.window:
            raise ValueError(
                f"[train] loss_frames = {self.train.loss_frames} is more than "
                f"[data] window = {self.data.window}"
            )
        return self

    def candidates(self) -> tuple[Config, ...]:
        """One config per entry of ``[model] hidden``, largest first."""
        return tuple(
            self.model_copy(update={"model": self.model.model_copy(update={"hidden": (size,)})})
            for size in sorted(self.model.hidden, reverse=True)
        )

    @property
    def candidate_name(self) -> str:
        """Short name of a single candidate, such as ``gru64`` or ``lstm32x2``."""
        layers = f"x{self.model.layers}" if self.model.layers > 1 else ""
        return f"{self.model.cell}{self.model.hidden[0]}{layers}"


def load_config(path: str | Path = FILE_NAME) -> Config:
    """Read a settings file (or the `edgeseq.toml` of a folder).

    A relative ``[data] path`` is taken from the file's own folder and comes back absolute.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown, or a value does not fit.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    try:
        # "-sig": some editors put a byte-order mark first.
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(
            "does not exist", where=str(file), fix="run `edgeseq init` here, or name the file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot be read: {error}", where=str(file), fix="check the file"
        ) from error
    return parse_config(text, str(file), file.resolve().parent)


def parse_config(text: str, name: str = FILE_NAME, folder: Path | None = None) -> Config:
    """Parse the text of a settings file; `name` is used in errors, `folder` for relative paths.

    Raises:
        ConfigError: as `load_config`.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}", where=name, fix="correct the line") from error
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, tree, name) from error
    if config.data.path is not None and folder is not None:
        data = config.data.model_copy(update={"path": str(folder / config.data.path)})
        config = config.model_copy(update={"data": data})
    return config


def _explain(error: ValidationError, tree: Mapping[str, Any], file: str) -> ConfigError:
    """One error for all that is wrong; the first decides the place and the advice."""
    lines, fixes = [], []
    for problem in error.errors(include_url=False):
        location = [str(part) for part in problem["loc"]]
        table, key = location[:-1], location[-1] if location else ""
        if problem["type"] == "extra_forbidden":
            known = _known_keys(table)
            noun = "key" if table else "table"
            place = f"[{'.'.join(table)}]" if table else "the file"
            close = get_close_matches(key, known, n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
            lines.append(f"unknown {noun} {key!r} in {place}{hint}")
            fixes.append(f"known {noun}s there: {', '.join(known)}")
            continue
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            message = "is missing"
        elif problem["type"] in ("model_type", "model_attributes_type"):
            message = f"is {problem['input']!r}: it must be a table"
        elif problem["type"] != "value_error":
            message = f"is {problem['input']!r}: {message[0].lower()}{message[1:]}"
        lines.append(f"{_place(location, tree)}{message}")
        fixes.append("correct the value; `edgeseq init` writes a commented example")
    return ConfigError("; ".join(lines), where=file, fix=fixes[0])


def _place(location: list[str], tree: Mapping[str, Any]) -> str:
    if not location:
        return ""
    # Locations of list entries and of union members follow the key; only names in the schema count.
    names: list[str] = []
    model: Any = Config
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            break
        names.append(part)
        model = field.annotation
    if names and isinstance(model, type) and issubclass(model, BaseModel):
        return f"[{'.'.join(names)}] "
    return f"[{'.'.join(names[:-1])}] {names[-1]} " if len(names) > 1 else f"{' '.join(names)} "


def _known_keys(table: list[str]) -> list[str]:
    model: Any = Config
    for part in table:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


TEMPLATE = """\
# Settings of an edgeseq project. A line that starts with "#" shows a default: remove the "#" to
# change it. Then run:  edgeseq compile --target rpi

[project]
name = "watch"               # names the C functions (watch_step), so letters, digits and _

[data]
set = "watch"                # a set that comes with edgeseq ...
# path = "recordings.npz"    # ... or your own: NPZ, a folder of CSV files, or a manifest folder
window = 100                 # frames per window (2 s at 50 Hz)
hop = 25                     # frames from one window to the next
test_groups = [8, 9, 10]     # people that are never trained on; accuracy is measured on them
# validation_groups = [7]    # people that decide when to stop; left out: one fifth of the others
# channels = ["ax", "ay"]    # left out: all, in stored order

[model]
cell = "gru"                 # "gru", "lstm" or "rnn"
hidden = [64, 32, 16]        # candidates: each tier gets the most accurate one that fits it
# layers = 1
# dropout = 0.2              # in training only
# norm = "none"              # or "layer": LayerNorm after each recurrent layer
# residual = false           # add each upper layer's input to its output (layers >= 2)

[train]
# epochs = 20
# batch_size = 128
# lr = 0.003
# schedule = "cosine"        # or "constant"
# warmup = 0.1               # share of all steps
# weight_decay = 0.01
# clip_norm = 1.0            # 0: off
# clip_value = 0.5           # 0: off
# label_smoothing = 0.05
# loss_frames = 1            # how many of a window's last frames count in the loss
# ema = 0.99                 # averaged weights, per step; 0: off
# patience = 6               # epochs without a lower validation loss; 0: never stop early
# seed = 0
# precision = "auto"         # bf16-mixed on a GPU that has it, else 32-true
# devices = 0                # 0: all GPUs

[train.augment]              # random changes to training windows
# noise = 0.0                # standard deviation, as a share of each channel's own
# scale = 0.0                # of the log of one gain per window
# time_warp = 0.0            # of the log of the playback speed
# rates = ["wx", "wy", "wz"] # channels that scale with the speed
# rotate_deg = 0.0           # of the angle of a random rotation
# vectors = [["ax", "ay", "az"], ["wx", "wy", "wz"]]   # channels that are turned together
# mirror = [-1, 1, 1, 1, -1, -1]  # signs that turn a left-hand recording into a right-hand one
# shift = true               # move each window by up to half a hop

[quant]
# weight_bits = 8            # or 16
# activation_bits = 16       # or 8
# calibration = "minmax"     # or "percentile", "mse", "entropy"
# calibration_frames = 20000
# snr_db = 40.0              # widen weights to 16 bits below this; left out: never

[compile]
# tiers = ["S", "M"]         # left out: all tiers of the target
# accuracy_floor = 0.0       # fail below this test accuracy (0 to 1)
# max_accuracy_drop = 0.02   # fail when the integer model loses more than this against float
# formats = ["native", "onnx", "tflite"]
# verify_steps = 1000        # steps of real data compared bit for bit
"""
