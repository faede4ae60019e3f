"""edgeseq.toml: what is read, what is refused, and how it is said."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from edgeseq.config import TEMPLATE, Config, known_cells, load_config, parse_config
from edgeseq.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
LEAST = '[data]\nset = "watch"\ntest_groups = [8, 9, 10]\n'


def test_defaults() -> None:
    config = parse_config(LEAST)
    assert config.data.test_groups == ("8", "9", "10")
    assert config.data.source == "watch"
    assert (config.model.cell, config.model.hidden) == ("gru", (64,))
    assert (config.quant.weight_bits, config.quant.activation_bits) == (8, 16)
    assert config.compile.formats == ("native", "onnx", "tflite")


def test_the_template_parses() -> None:
    assert parse_config(TEMPLATE).model.hidden == (64, 32, 16)


def uncommented(text: str) -> str:
    """The template with every `# key = value` line switched on, except the alternatives."""
    lines = re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("path =", "channels =")))


def test_the_template_shows_every_key_and_its_default() -> None:
    shown = parse_config(uncommented(TEMPLATE))
    default = parse_config(LEAST)
    assert shown.train.model_copy(update={"augment": default.train.augment}) == default.train
    quant, compiled = shown.quant, shown.compile
    assert quant.model_copy(update={"snr_db": None}) == default.quant
    assert compiled.model_copy(update={"tiers": ()}) == default.compile
    tree = tomllib.loads(uncommented(TEMPLATE) + '\n[x]\npath = ""\nchannels = []')

    def missing(model: type[BaseModel], table: dict[str, object]) -> set[str]:
        keys = set()
        for name, field in model.model_fields.items():
            if name not in table:
                keys.add(name)
            elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                keys |= missing(field.annotation, table[name])  # type: ignore[arg-type]
        return keys

    assert missing(Config, tree) == {"path", "channels"}  # shown as comments beside the others


def test_the_example_parses() -> None:
    config = load_config(ROOT / "examples" / "watch")
    assert config.data.test_groups == ("8", "9", "10")
    assert (config.data.window, config.data.hop) == (100, 25)


def test_candidates() -> None:
    config = parse_config(LEAST + "[model]\nhidden = [16, 64]\nlayers = 2\n")
    assert [c.candidate_name for c in config.candidates()] == ["gru64x2", "gru16x2"]
    assert [c.model.hidden for c in config.candidates()] == [(64,), (16,)]


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "edgeseq.toml").write_text(
        '[data]\npath = "a/own.npz"\ntest_groups = ["ann"]\n', encoding="utf-8"
    )
    assert load_config(tmp_path).data.path == str(tmp_path / "a" / "own.npz")


def test_cells_are_found_by_their_files() -> None:
    assert {"gru", "lstm", "rnn"} <= set(known_cells())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[modle]\n", "unknown table 'modle' in the file; did you mean 'model'"),
        ("[model]\nhiden = 3\n", "unknown key 'hiden' in [model]; did you mean 'hidden'"),
        (
            "[train.augment]\nrotate = 3\n",
            "unknown key 'rotate' in [train.augment]; did you mean 'rotate_deg'",
        ),
        ('[model]\ncell = "gur"\n', "[model] unknown cell 'gur'; did you mean 'gru'"),
        ('[model]\nhidden = "64"\n', "[model] hidden is '64': input should be a valid integer"),
        ("[model]\nhidden = [64, 0]\n", "[model] hidden is 0: input should be greater than 0"),
        ("[model]\nhidden = [8, 8]\n", "[model] hidden names a size twice"),
        ("[model]\nresidual = true\n", "[model] residual needs layers"),
        ("[model]\ndropout = 1.0\n", "[model] dropout is 1.0"),
        ("[train]\nlr = true\n", "[train] lr is True"),
        ("[train]\nlr = inf\n", "[train] lr is inf"),
        ("[[model]]\nhidden = 3\n", "[model] is [{'hidden': 3}]: it must be a table"),
        ("[train]\nschedule = 'linear'\n", "[train] schedule is 'linear'"),
        ("[train]\nloss_frames = 101\n", "[train] loss_frames = 101 is more than [data] window"),
        ("[train.augment]\nrotate_deg = 3\n", "[train.augment] rotate_deg needs vectors"),
        ("[train.augment]\nmirror = [2]\n", "[train.augment] mirror is 2"),
        ("[quant]\nweight_bits = 4\n", "[quant] weight_bits is 4: input should be 8 or 16"),
        ("[compile]\nformats = ['elf']\n", "[compile] formats is 'elf'"),
        ("[compile]\nverify_steps = 10\n", "[compile] verify_steps is 10"),
        ("[project]\nname = '9 lives'\n", "[project] name is '9 lives'"),
        ("[project\n", "is not TOML"),
    ],
)
def test_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        parse_config(LEAST + text, "some.toml")
    assert str(caught.value).startswith("some.toml: ")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "[data] is missing"),
        ("[data]\nset = 'watch'\n", "[data] test_groups is missing"),
        (
            "[data]\nset = 'watch'\ntest_groups = []\n",
            "[data] test_groups is []: value should have at least 1",
        ),
        ("[data]\ntest_groups = [1]\n", "[data] give exactly one of set"),
        ("[data]\nset='a'\npath='b'\ntest_groups = [1]\n", "[data] give exactly one of set"),
    ],
)
def test_data_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        parse_config(text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        load_config(tmp_path)
    assert "edgeseq init" in str(caught.value)
