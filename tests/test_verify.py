"""Levels name the first differing value; long runs catch drift and oscillation."""

from __future__ import annotations

import graphs
import numpy as np
import pytest

from edgeseq.errors import ModelError, VerifyError
from edgeseq.ir import Graph, Interpreter
from edgeseq.ir.io import prepare
from edgeseq.kernels import HostStep
from edgeseq.quant import quantise
from edgeseq.verify import (
    EXACT,
    Close,
    Snr,
    Within,
    check_sensitivity,
    check_stability,
    compare,
    not_run,
)


def arrays(value: int = 0) -> dict[str, np.ndarray]:
    a = np.arange(24, dtype=np.int16).reshape(1, 6, 4) * 100
    a[0, 3, 2] += value
    return {"y": a}


def test_exact_names_the_first_difference() -> None:
    assert compare("a", "b", EXACT, arrays(), arrays()).worst == 0
    with pytest.raises(VerifyError) as e:
        compare("kernels", "interpreter", EXACT, arrays(), arrays(1))
    text = str(e.value)
    assert "stage 'kernels' against 'interpreter', value 'y'" in text
    assert "sequence 0, step 3, element [2]: expected 1400, got 1401" in text


@pytest.mark.parametrize(
    ("level", "least"), [(Close(3), 4), (Within(0.01), 24), (Snr(40.0), 80)], ids=str
)
def test_levels_have_an_edge(level: Close | Within | Snr, least: int) -> None:
    assert compare("a", "b", level, arrays(), arrays(least - 1 if least < 80 else 20)).steps == 6
    with pytest.raises(VerifyError, match="is broken"):
        compare("a", "b", level, arrays(), arrays(least))


@pytest.mark.parametrize("level", [Within(0.01), Snr(40.0)], ids=str)
def test_differences_that_a_format_cannot_show_agree(level: Within | Snr) -> None:
    want = {"y": arrays()["y"] / 1e4, "z": np.full((1, 6, 4), 1e-3)}
    got = {"y": want["y"], "z": want["z"] + 5e-5}
    with pytest.raises(VerifyError, match="value 'z'"):
        compare("a", "b", level, want, got, {"z": 4e-5})
    made = compare("a", "b", level, want, got, {"z": 6e-5})
    assert made.level == f"{level}, or 6e-05"
    assert made.worst is not None and not level.passes(made.worst)  # the figure is not hidden
    assert compare("a", "b", level, want, want, {"z": 6e-5}).level == str(level)
    with pytest.raises(VerifyError, match="value 'y'"):  # of one value, not of another
        compare("a", "b", level, want, {"y": want["y"] + 0.05, "z": want["z"]}, {"z": 1.0})


def test_missing_misshapen_and_infinite_values() -> None:
    with pytest.raises(VerifyError, match="gives shape None"):
        compare("a", "b", EXACT, arrays(), {})
    with pytest.raises(VerifyError, match="gives shape"):
        compare("a", "b", EXACT, arrays(), {"y": arrays()["y"][:, :2]})
    with pytest.raises(VerifyError, match="NaN"):
        compare("a", "b", Within(1.0), arrays(), {"y": arrays()["y"] * np.nan})


def test_not_run_is_not_passed() -> None:
    v = not_run("a", "b", "Exact", "no emulator")
    assert (v.status, v.steps, v.worst, v.reason) == ("not run", 0, None, "no emulator")


@pytest.fixture(scope="module")
def gru() -> tuple[Graph, Graph, list[np.ndarray]]:
    step = graphs.step("gru")
    raw = graphs.raw_frames(step, steps=1000)
    frames = [prepare(step, n, x) for n, x in zip(step.inputs, raw, strict=True)]
    return step, quantise(step, frames).graph, frames


def test_long_runs_pass_on_the_kernels(gru: tuple[Graph, Graph, list[np.ndarray]]) -> None:
    step, integer, frames = gru
    host = HostStep(integer)

    def run(x: list[np.ndarray]) -> list[np.ndarray]:
        host.reset()
        return host.run(*x)

    checks = check_stability(step, integer, frames, run)
    assert [c.status for c in checks] == ["passed", "passed"]
    assert all(c.steps >= 100_000 for c in checks)


def test_long_runs_catch_drift_and_ripple(gru: tuple[Graph, Graph, list[np.ndarray]]) -> None:
    step, integer, frames = gru
    host = HostStep(integer)

    def drifting(x: list[np.ndarray]) -> list[np.ndarray]:
        host.reset()
        return [
            np.clip(y + np.linspace(0, 4000, y.shape[1])[None, :, None], -32768, 32767).astype(
                y.dtype
            )
            for y in host.run(*x)
        ]

    def rippling(x: list[np.ndarray]) -> list[np.ndarray]:
        host.reset()
        outs = host.run(*x)
        if not np.any(x[0]):
            outs = [y + (2000 * (np.arange(y.shape[1]) % 2))[None, :, None] for y in outs]
        return [y.astype(np.int16) for y in outs]

    with pytest.raises(VerifyError, match="signal-to-noise ratio falls"):
        check_stability(step, integer, frames, drifting)
    with pytest.raises(VerifyError, match="on silence"):
        check_stability(step, integer, frames, rippling)


@pytest.mark.parametrize(
    ("cell", "gain", "message"),
    [("gru", 1.0, ""), ("gru", 20.0, "chaotic"), ("rnn_relu", 20.0, "grows without bound")],
)
def test_a_model_without_determined_outputs_is_refused(
    cell: str, gain: float, message: str
) -> None:
    """No rounding keeps the outputs of such a model: it is the model's fault, and said so."""
    step = graphs.step(cell, hidden=16)
    raw = graphs.raw_frames(step, steps=600)
    frames = [prepare(step, n, x) for n, x in zip(step.inputs, raw, strict=True)]
    for node in step.nodes:
        if node.op == "linear":
            for x, name in zip(node.inputs[::2], node.inputs[1::2], strict=False):
                step.consts[name] = step.consts[name] * (1.0 if x in step.inputs else gain)
    with np.errstate(over="ignore", invalid="ignore"):
        reference = Interpreter(step).sequence(*frames)
    if not message:
        check_sensitivity(step, frames, reference)
        return
    with pytest.raises(ModelError, match=message):
        check_sensitivity(step, frames, reference)
