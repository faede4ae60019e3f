"""The command line: what it prints, how it ends, and what it does not import."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgeseq.cli import app
from edgeseq.cli.app import _App
from edgeseq.errors import BudgetError, EdgeseqError, UsageError

TOP = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def run(*args: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(args), input=stdin)


def message(result: Result, code: int = 1) -> str:
    """The error message, after checking that it is one, on stderr, without a traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("error: ") or code == 2
    return result.stderr


# Start-up and help.


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, cwd=TOP, timeout=60
    )


@pytest.mark.parametrize("args", [[], ["compile"], ["inspect"], ["targets"], ["stream"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\n"
        "from edgeseq.cli import app\n"
        f"app.main({[*args, '--help']!r}, standalone_mode=False)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    start = time.perf_counter()
    done = python("-c", code)
    print(f"edgeseq {' '.join(args)} --help: {time.perf_counter() - start:.3f} s")
    assert done.returncode == 0 and done.stdout.startswith("Usage: edgeseq")
    loaded = set(eval(done.stderr))
    heavy = {
        "ai_edge_litert", "jinja2", "lightning_fabric", "llvmlite", "matplotlib", "numba", "numpy",
        "onnx", "onnxruntime", "pydantic", "rich", "torch", "unicorn",
    }  # fmt: skip
    assert not loaded & heavy
    assert "edgeseq" in loaded


def test_import_edgeseq_is_light() -> None:
    done = python(
        "-c",
        "import sys, edgeseq; print(sorted(m for m in sys.modules if m.startswith('edgeseq')))",
    )
    assert eval(done.stdout) == ["edgeseq"]


def test_help_names_every_command_and_option() -> None:
    text = run("--help").stdout
    names = (
        "init", "inspect", "compile", "targets", "verify", "report", "stream", "train", "doctor",
    )  # fmt: skip
    for name in names:
        assert name in text
        assert "--help" in run(name, "--help").stdout
    options = run("compile", "--help").stdout
    for option in (
        "--set", "--state", "--time-axis", "--batch-axis", "--window", "--hop", "--context",
        "--frame-hop", "--snr",
        "--target", "--tier", "--out", "--config", "--calib", "--name", "--weights-bits",
        "--activation-bits", "--calibration", "--formats", "--dump", "--force", "--debug", "-v",
    ):  # fmt: skip
        assert option in options


def test_every_command_and_option_is_described() -> None:
    for command in (app, *app.commands.values()):
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name} {parameter.opts}"


def test_version() -> None:
    import edgeseq

    assert run("--version").stdout == f"edgeseq, version {edgeseq.__version__}\n"


def test_script_is_installed() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("edgeseq"), "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("edgeseq, version ")


# How it ends.


def failing(error: BaseException) -> _App:
    def raise_it() -> None:
        raise error

    group = _App("edgeseq")
    group.add_command(click.Command("fail", callback=raise_it, params=app.params[-2:]))
    return group


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (EdgeseqError("it broke", where="file.x", fix="mend it"), 1, "file.x: it broke\n  -> mend"),
        (BudgetError("flash: 70 of 64 KiB", where="S"), 1, "S: flash: 70 of 64 KiB"),
        (UsageError("not like this"), 2, "not like this"),
        (ModuleNotFoundError("no", name="torch.x"), 1, "package 'torch', .*'edgeseq\\[all\\]'"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied\n  -> check"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError(), 1, "out of memory"),
        (ValueError("what is this"), 1, "internal error: ValueError: what is this\n.*--debug"),
        (ModuleNotFoundError("no", name="edgeseq.x"), 1, "internal error"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.UsageError("use it so"), 2, "use it so"),
        (click.FileError("f", "hint"), 1, "hint"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)  # fmt: skip
def test_one_message_and_an_exit_code(error: BaseException, code: int, text: str) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert result.exit_code == code
    assert re.search(text, result.stderr, re.DOTALL), result.stderr
    assert "Traceback" not in result.output and result.stdout == ""


def test_debug_shows_the_traceback() -> None:
    for args in (["--debug", "fail"], ["fail", "--debug"]):
        group = failing(EdgeseqError("it broke"))
        group.params += app.params[-2:]
        result = CliRunner().invoke(group, args)
        assert result.exit_code == 1
        assert "Traceback" in result.stderr and "error: it broke" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["no-such-command"],
        ["--no-such-option"],
        ["compile"],
        ["compile", "--target"],
        ["compile", "--target", "rpi", "--weights-bits", "7"],
        ["compile", "--target", "rpi", "--formats", "exe"],
        ["compile", "--target", "rpi", "--formats", ","],
        ["compile", "--target", "rpi", "--calib", "x.npz"],
        ["compile", "--target", "rpi", "--snr", "0"],
        ["inspect"],
        ["inspect", "model.onnx", "--set", "sr"],
        ["compile", "model.pt2", "--target", "rpi"],
        ["stream", "build"],
        ["verify"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(args: list[str]) -> None:
    message(run(*args), 2)


# init


def test_init_writes_a_readable_config_and_says_what_is_next() -> None:
    from edgeseq.config import load_config

    result = run("init")
    assert result.exit_code == 0
    assert "edgeseq compile --target rpi" in result.stdout
    assert "#" in Path("edgeseq.toml").read_text()
    load_config(Path("edgeseq.toml"))


def test_init_in_a_new_folder() -> None:
    result = run("init", "a/b")
    assert result.exit_code == 0 and Path("a/b/edgeseq.toml").is_file()
    assert "cd a/b && edgeseq compile" in result.stdout


def test_init_never_overwrites() -> None:
    Path("edgeseq.toml").write_text("mine")
    assert "edgeseq.toml: exists already" in message(run("init"))
    assert Path("edgeseq.toml").read_text() == "mine"


def test_init_where_a_file_is_in_the_way() -> None:
    Path("file").touch()
    message(run("init", "file"), 2)
    message(run("init", "file/below"))


# targets


def test_targets_lists_all() -> None:
    from edgeseq.target import list_targets

    result = run("targets")
    assert result.exit_code == 0
    for target in list_targets():
        assert target.name in result.stdout


def test_targets_describes_one() -> None:
    result = run("targets", "rpi4")
    assert result.exit_code == 0
    for text in ("Raspberry Pi 4", "aarch64-unknown-linux-gnu", "emulated cortex-a72", "128 KiB"):
        assert text in result.stdout


def test_targets_unknown() -> None:
    assert "did you mean 'cortex-m4'" in message(run("targets", "cortex-m44"))


# compile: what is wrong before anything is built


def test_compile_unknown_target() -> None:
    run("init")
    assert "unknown target 'rpi9'" in message(run("compile", "--target", "rpi9"))
    assert not Path("build").exists()


def test_compile_without_a_project() -> None:
    assert "edgeseq init" in message(run("compile", "--target", "rpi"))


def test_compile_with_an_unknown_key() -> None:
    run("init")
    path = Path("edgeseq.toml")
    path.write_text(path.read_text().replace('cell = "gru"', 'cel = "gru"'))
    assert "cel" in message(run("compile", "--target", "rpi"))


def test_train_without_a_project() -> None:
    assert "edgeseq.toml" in message(run("train"))


# verify, report


@pytest.mark.parametrize("command", ["verify", "report"])
def test_folders_without_artifacts(command: str) -> None:
    assert "no such folder" in message(run(command, "nothing"))
    Path("empty").mkdir()
    assert "no manifest.json" in message(run(command, "empty"))
