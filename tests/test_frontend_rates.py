"""Frames that a view lays out, takes together or that lie between two: beside PyTorch."""

from __future__ import annotations

import warnings
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

T, WIDTH = 24, 8


class Layers(dict[str, nn.Module]):
    def __init__(self) -> None:
        torch.manual_seed(5)
        super().__init__(
            second=nn.Conv1d(WIDTH, 12, 4, 2),
            third=nn.Conv1d(WIDTH, 12, 3, 3),
            near=nn.Conv1d(6, 5, 3),
            point=nn.Conv1d(6, 8, 1),
            four=nn.Conv1d(4, 3, 3),
            wide=nn.Conv1d(12, 12, 3),
            gru=nn.GRU(6, 5, batch_first=True),
            both=nn.GRU(2 * WIDTH, 6, batch_first=True),
            plane=nn.Conv2d(1, 4, (3, 2), (1, 2)),
            first=nn.Conv1d(WIDTH, 6, 3),
            grow=nn.Conv1d(WIDTH, 12, 1),
            up=nn.ConvTranspose1d(6, 6, 4, 2),
            more=nn.ConvTranspose1d(6, 6, 5, 3),
            down=nn.Conv1d(6, WIDTH, 2, 2),
        )


def halves(m: Any, x: Any) -> Any:
    """[1, 12, T / 2] of [1, T, 8], of the past alone."""
    return torch.relu(m.second(F.pad(x.transpose(1, 2), (2, 0))))


def laid_out(m: Any, x: Any, k: int = 2) -> Any:
    """[1, 12, T / k] as [1, T, 12 / k]."""
    y = (halves if k == 2 else lambda m, x: torch.relu(m.third(x.transpose(1, 2))))(m, x)
    return y.transpose(1, 2).reshape(1, T, 12 // k)


def causal(layer: Any, y: Any) -> Any:
    """[1, T, C] through a convolution over frames so far."""
    return layer(F.pad(y.transpose(1, 2), (layer.kernel_size[0] - 1, 0))).transpose(1, 2)


def up(layer: Any, y: Any, k: int) -> Any:
    """[1, C, n] as [1, C, k n], of the past alone."""
    return layer(y)[..., : y.shape[-1] * k]


def twice(m: Any, x: Any, mode: str, **more: Any) -> Any:
    return F.interpolate(halves(m, x), scale_factor=2, mode=mode, **more).transpose(1, 2)


def bilinear(m: Any, x: Any) -> Any:
    """Time and bands resized at once: [1, 1, T, 8]."""
    y = m.plane(F.pad(x[:, None], (0, 0, 2, 0)))  # [1, 4, T, 4]
    return F.interpolate(y, scale_factor=(1.0, 2.0), mode="bilinear").transpose(1, 2).flatten(2)


def grouped(m: Any, x: Any) -> Any:
    """Two frames a turn of the recurrence, taken apart behind it."""
    return causal(m.near, m.both(x.reshape(1, T // 2, 2 * WIDTH))[0].repeat_interleave(2, 1))


RATES: dict[str, Callable[[Any, Any], Any]] = {
    "an output": laid_out,
    "a convolution": lambda m, x: causal(m.near, laid_out(m, x)),
    "a convolution, of three": lambda m, x: causal(m.four, laid_out(m, x, 3)),
    "a recurrence": lambda m, x: m.gru(laid_out(m, x))[0],
    "a sum with frames": lambda m, x: x + m.point(laid_out(m, x).transpose(1, 2)).transpose(1, 2),
    "joined with frames": lambda m, x: torch.cat([x, laid_out(m, x)], -1),
    "what lies behind": lambda m, x: causal(m.near, laid_out(m, x)).cumsum(-1),
    "a pool": lambda m, x: F.avg_pool1d(
        F.pad(laid_out(m, x).transpose(1, 2), (2, 0)), 3, 1
    ).transpose(1, 2),
    "greatest": lambda m, x: F.max_pool1d(
        F.pad(laid_out(m, x).transpose(1, 2), (2, 0)), 3, 1
    ).transpose(1, 2),
    "pieces": lambda m, x: F.pad(laid_out(m, x), (0, 0, 2, 0)).unfold(1, 3, 1).flatten(2),
    "twice": lambda m, x: laid_out(m, x) + causal(m.near, laid_out(m, x)).sum(-1, True),
    "grouped": grouped,
    "nearest": lambda m, x: twice(m, x, "nearest"),
    "linear": lambda m, x: twice(m, x, "linear"),
    "linear, then a convolution": lambda m, x: causal(m.wide, twice(m, x, "linear")),
    "linear features": lambda m, x: F.interpolate(laid_out(m, x), size=10, mode="linear"),
    "bilinear": bilinear,
    "more than come in": lambda m, x: F.interpolate(
        x.transpose(1, 2), scale_factor=2, mode="nearest"
    ).transpose(1, 2),
    "more, between": lambda m, x: F.interpolate(
        x.transpose(1, 2), scale_factor=2, mode="linear"
    ).transpose(1, 2),
    "more, laid out": lambda m, x: causal(m.four, x.reshape(1, 2 * T, 4)),
    "more, twice": lambda m, x: m.gru(
        up(m.more, up(m.up, causal(m.first, x).transpose(1, 2), 2), 3).transpose(1, 2)
    )[0],
    "more, by a shuffle": lambda m, x: m.gru(
        causal(m.grow, x)
        .transpose(1, 2)
        .reshape(1, 6, 2, T)
        .transpose(2, 3)
        .reshape(1, 6, 2 * T)
        .transpose(1, 2)
    )[0],
    "as many and a half": lambda m, x: m.gru(causal(m.first, x).repeat_interleave(3, 1)[:, ::2])[0],
    "a skip around more": lambda m, x: (
        x + m.down(up(m.up, causal(m.first, x).transpose(1, 2), 2)).transpose(1, 2)
    ),
}


def compared(graph: Any, x: Any, want: np.ndarray) -> None:
    """The stream beside the whole: all frames that come after its delay."""
    step = to_step(graph)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], x.numpy().astype(np.float64)))
    want = want[0].reshape(want.shape[1], -1)
    rows = got[0][0].reshape(-1, want.shape[1])
    late = delay_in_elements(step, step.outputs[0])
    assert len(rows) == len(want) and step.meta["delay"] <= 4
    assert np.abs(rows[late:] - want[: len(want) - late]).max() < 1e-5


@pytest.mark.parametrize("name", RATES)
def test_other_rates_stream(name: str) -> None:
    x = torch.randn(1, T, WIDTH, generator=torch.Generator().manual_seed(2))
    module = Fn(RATES[name], **Layers()).eval()
    with torch.no_grad():
        want = module(x).numpy()
    compared(from_torch(module, x, time_axis=1), x, want)


# The older exporter refuses to take pieces of what it padded.
@pytest.mark.parametrize("name", [n for n in RATES if n != "pieces"])
def test_other_rates_of_onnx_files(name: str, tmp_path: Path) -> None:
    x = torch.randn(1, T, WIDTH, generator=torch.Generator().manual_seed(2))
    module = Fn(RATES[name], **Layers()).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        want = module(x).numpy()
        torch.onnx.export(module, (x,), str(tmp_path / "m.onnx"), dynamo=False)
    compared(from_onnx(tmp_path / "m.onnx", time_axis=1), x, want)


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "far too many": (lambda m, x: causal(m.near, causal(m.first, x).repeat_interleave(5000, 1)),
                     "makes 5000 frames of one, in all more than 4096 of each"),
    "weights by length": (lambda m, x: twice(m, x, "linear", align_corners=True),
                          "depend on the length"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_rates_that_are_refused(name: str) -> None:
    fn, why = REFUSED[name]
    with pytest.raises(UnsupportedError, match=why):
        from_torch(Fn(fn, **Layers()).eval(), torch.randn(1, T, WIDTH), time_axis=1)


def nested(m: Any, x: Any) -> Any:
    """A net of unpadded layers and skips: sequences of 4 n + 2 frames keep their length."""
    inner = torch.relu(m.second(x.transpose(1, 2)))
    deep = m.gru(m.third2(inner).transpose(1, 2))[0].transpose(1, 2)
    y = m.up2(deep)
    return m.up3(y + inner[..., : y.shape[-1]]).transpose(1, 2)


def nested_layers() -> dict[str, Any]:
    return dict(
        Layers(), third2=nn.Conv1d(12, 6, 4, 2), up2=nn.ConvTranspose1d(5, 12, 4, 2),
        up3=nn.ConvTranspose1d(12, 3, 4, 2),
    )  # fmt: skip


@pytest.mark.parametrize("source", ["torch", "onnx"])
def test_lengths_that_fit(source: str, tmp_path: Path) -> None:
    x = torch.randn(1, 42, WIDTH, generator=torch.Generator().manual_seed(2))
    module = Fn(nested, **nested_layers()).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        want = module(x).numpy()[0]
        torch.onnx.export(module, (x,), str(tmp_path / "m.onnx"), dynamo=False)
    if source == "torch":
        graph = from_torch(module, x, time_axis=1)
    else:
        graph = from_onnx(tmp_path / "m.onnx", time_axis=1)
    step = to_step(graph)
    assert step.meta["frames_per_step"] == 4 and step.meta["over"] == 2
    frames = x[:, :40].numpy().astype(np.float64)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0][0]
    late = step.meta["delay"]
    n = 40 - max(late, step.meta.get("rest", {}).get(step.outputs[0], 0))
    assert n >= 24 and np.abs(got[late : late + n] - want[:n]).max() < 1e-5
