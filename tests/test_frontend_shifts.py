"""Frames shifted, cut off, put before others or taken in turns along time: beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exported_models import Fn  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgeseq.errors import UnsupportedError  # noqa: E402
from edgeseq.frontend import from_onnx, from_torch  # noqa: E402
from edgeseq.ir import Interpreter  # noqa: E402
from edgeseq.ir.blocks import delay_in_elements  # noqa: E402
from edgeseq.ir.io import prepare  # noqa: E402
from edgeseq.passes import to_step  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it exports

T, WIDTH = 24, 6


class Layers(dict[str, nn.Module]):
    def __init__(self) -> None:
        torch.manual_seed(2)
        super().__init__(
            lin=nn.Linear(WIDTH, WIDTH),
            wide=nn.Linear(2 * WIDTH, WIDTH),
            conv=nn.Conv1d(WIDTH, WIDTH, 3),
            padded=nn.Conv1d(WIDTH, WIDTH, 3, padding=2),
            back=nn.ConvTranspose1d(WIDTH, WIDTH, 5, 2),
            gru=nn.GRU(WIDTH, WIDTH, batch_first=True),
        )


def zeros(x: Any, n: int = 1) -> Any:
    return torch.zeros(x.shape[0], n, x.shape[2])


def later(x: Any, n: int = 1) -> Any:
    return F.pad(x, (0, 0, n, -n))


def over(layer: Any, x: Any) -> Any:
    return layer(x.transpose(1, 2)).transpose(1, 2)


def change(x: Any) -> Any:
    return x[:, 1:] - x[:, :-1]


# What, and by how many frames the stream lags.
SHIFTS: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
    "zeros before": (lambda m, x: m.lin(torch.cat([zeros(x), x[:, :-1]], 1)) + x, 0),
    "padded by less than none": (lambda m, x: m.lin(later(x, 2)) - x, 0),
    "a changed layer, later": (lambda m, x: m.gru(x)[0] + later(m.gru(x)[0]), 0),
    "a change": (lambda m, x: F.pad(change(x), (0, 0, 1, 0)), 0),
    "a change beside it": (lambda m, x: torch.cat([x, F.pad(change(x), (0, 0, 1, 0))], -1), 0),
    "a change of a change": (lambda m, x: F.pad(change(change(x)), (0, 0, 2, 0)) + x, 0),
    "a change, then a layer": (lambda m, x: m.gru(F.pad(change(x), (0, 0, 1, 0)))[0], 0),
    "the first frame before changes": (lambda m, x: torch.cat([x[:, :1], change(x)], 1), 0),
    "emphasis": (
        lambda m, x: m.gru(torch.cat([x[:, :1], x[:, 1:] - 0.9 * x[:, :-1]], 1))[0], 0,
    ),
    "two frames before": (lambda m, x: torch.cat([x[:, :2], x[:, 2:] + x[:, :-2]], 1), 0),
    "other frames before": (
        lambda m, x: over(m.conv, torch.cat([m.lin.weight[:2].unsqueeze(0), x], 1)), 2,
    ),
    "a frame before a recurrence": (
        lambda m, x: m.gru(torch.cat([m.lin.weight[None, :1], x], 1))[0], 0,
    ),
    "a frame before a longer one": (
        lambda m, x: torch.cat([x[:, :1], torch.cat([m.lin.weight[None, :1], x], 1)], 1), 0,
    ),
    "a frame seen ahead": (lambda m, x: torch.cat([x[:, 1:], zeros(x)], 1) + x, 1),
    "no first frame": (lambda m, x: m.gru(x[:, 3:])[0], 3),
    "frames that are too many": (lambda m, x: over(m.padded, x), 0),
    "too many, then a layer": (lambda m, x: m.lin(over(m.padded, x)).tanh(), 0),
    "too many, then cut": (lambda m, x: over(m.padded, x)[:, :-2] + x, 0),
    "too many, then cut at the front": (lambda m, x: over(m.padded, x)[:, 2:] + x, 2),
    "too many, seen ahead": (
        lambda m, x: over(m.padded, F.pad(over(m.padded, x), (0, 0, -1, 0))), 1,
    ),
    "too many, come together": (
        lambda m, x: over(m.back, m.lin(x[:, ::2]))[:, :-3] + x, 0,
    ),
    "every second": (lambda m, x: m.lin(x[:, 1::2]), 0),
    "pairs": (lambda m, x: m.wide(torch.cat([x[:, ::2], x[:, 1::2]], -1)), 0),
    "pairs, stacked": (lambda m, x: torch.stack([x[:, ::2], x[:, 1::2]], 2).flatten(2), 0),
    "by hand": (lambda m, x: m.lin(x[:, 2:]) + m.lin(x[:, 1:-1]) + x[:, :-2], 2),
    "pieces by slices": (
        lambda m, x: torch.cat(
            [F.pad(x, (0, 0, 1, 1))[:, i : i + x.shape[1]] for i in range(3)], -1
        ),
        1,
    ),
}  # fmt: skip


def example() -> Any:
    return torch.randn(1, T, WIDTH, generator=torch.Generator().manual_seed(4))


def compared(graph: Any, x: Any, want: np.ndarray, late: int | None) -> None:
    """The whole, and the stream beside it."""
    frames = x.numpy().astype(np.float64)
    want = want[0].reshape(want.shape[1], -1)
    whole = Interpreter(graph)(frames)[0][0]
    assert np.abs(whole.reshape(want.shape) - want).max() < 1e-5
    step = to_step(graph)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0][0]
    rows = got.reshape(-1, want.shape[1])
    delay = step.meta["delay"]
    assert delay == (late if late is not None else delay)
    first = delay_in_elements(step, step.outputs[0])
    # Frames past a cut are the model's zeros, the stream's frames.
    rest = step.meta.get("rest", {}).get(step.outputs[0], 0)
    n = min(len(rows) - max(first, rest), len(want))
    assert n >= T // 2 - 4
    assert np.abs(rows[first : first + n] - want[:n]).max() < 1e-5


@pytest.mark.parametrize("name", SHIFTS)
def test_beside_torch(name: str) -> None:
    body, late = SHIFTS[name]
    m, x = Fn(body, **Layers()).eval(), example()
    compared(from_torch(m, x), x, m(x).detach().numpy(), late)


@pytest.mark.parametrize("exporter", ["newer", "older"])
@pytest.mark.parametrize("name", SHIFTS)
def test_from_onnx(name: str, exporter: str, tmp_path: Path) -> None:
    body, late = SHIFTS[name]
    m, x = Fn(body, **Layers()).eval(), example()
    path = tmp_path / "model.onnx"
    if exporter == "newer":
        time = 2 * torch.export.Dim("time", min=4)
        torch.onnx.export(m, (x,), path, dynamo=True, dynamic_shapes=(({1: time},),), verbose=False)
    else:
        torch.onnx.export(
            m, (x,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {1: "time"}}
        )
    compared(from_onnx(path), x, m(x).detach().numpy(), late)


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "turned round": (lambda m, x: torch.roll(x, 1, 1), "rotates time"),
    "the first frame": (lambda m, x: x[:, :1] + x, "takes frames 0:1 of a sequence"),
    "frames in the middle": (lambda m, x: x[:, 2:4].mean(1, True) + x, "takes frames 2:"),
    "two sequences": (lambda m, x: torch.cat([x, m.gru(x)[0]], 1), "joins tensors along time"),
    "a frame behind": (
        lambda m, x: torch.cat([x, m.lin.weight[None, :1]], 1), "after the end of a sequence",
    ),
    "the last frame in front": (lambda m, x: torch.cat([x[:, -1:], x[:, :-1]], 1), "along time"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    body, why = REFUSED[name]
    with pytest.raises(UnsupportedError, match=why):
        from_torch(Fn(body, **Layers()).eval(), example())


@pytest.mark.parametrize("seed", range(24))
def test_random_shifts(seed: int) -> None:
    """Shifts, cuts, padding and layers in any order keep their frames apart."""
    rng = np.random.default_rng(seed)
    steps: list[Callable[[Any, Any], Any]] = []
    for _ in range(rng.integers(2, 6)):
        front, back = (int(n) for n in rng.integers(-2, 4, 2))
        steps.append(
            [
                lambda m, x, a=front, b=back: F.pad(x, (0, 0, a, b)),
                lambda m, x, a=front: x[:, abs(a) + 1 :],
                lambda m, x, a=back: x[:, : -abs(a) - 1],
                lambda m, x: torch.tanh(m.lin(x)),
                lambda m, x: over(m.padded, x),
                lambda m, x: over(m.conv, x),
                lambda m, x: torch.cat([x[:, :1], change(x)], 1),
                lambda m, x: torch.cat([m.lin.weight[None, :2], x], 1),
                lambda m, x: m.gru(x)[0] + F.pad(x, (0, 0, 1, -1)),
            ][rng.integers(9)]
        )

    def forward(m: Any, x: Any) -> Any:
        for step in steps:
            x = step(m, x)
        return x

    m, x = Fn(forward, **Layers()).eval(), example()
    compared(from_torch(m, x), x, m(x).detach().numpy(), None)
