"""Sequences mirrored, repeated or filled before their first frame and after their last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exported_models import Fn  # noqa: E402
from fuzzing import known  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgeseq.errors import UnsupportedError  # noqa: E402
from edgeseq.frontend import from_onnx, from_torch  # noqa: E402
from edgeseq.ir import Interpreter  # noqa: E402
from edgeseq.ir.blocks import delay_in_elements  # noqa: E402
from edgeseq.ir.io import prepare  # noqa: E402
from edgeseq.passes import to_step  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it exports

T, WIDTH = 40, 4


class Layers(dict[str, nn.Module]):
    def __init__(self) -> None:
        torch.manual_seed(2)
        super().__init__(
            conv=nn.Conv1d(WIDTH, 6, 5),
            mirrored=nn.Conv1d(WIDTH, 6, 5, padding=2, padding_mode="reflect"),
            repeated=nn.Conv1d(WIDTH, 6, 5, padding=2, padding_mode="replicate"),
            second=nn.Conv1d(WIDTH, 6, 7, 2, padding=3, padding_mode="reflect"),
            dilated=nn.Conv1d(WIDTH, 6, 3, dilation=3, padding=3, padding_mode="reflect"),
            deep=nn.Conv1d(6, 6, 3, padding=1, padding_mode="reflect"),
            plane=nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect"),
            gru=nn.GRU(WIDTH, 5, batch_first=True),
            both=nn.GRU(WIDTH, 5, batch_first=True, bidirectional=True),
        )


def channels(x: Any) -> Any:
    """[1, WIDTH, T] of [1, T, WIDTH], and back."""
    return x.transpose(1, 2)


# What, and by how many frames the stream lags.
PADDED: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
    "mirrored": (lambda m, x: channels(torch.tanh(m.mirrored(channels(x)))), 2),
    "repeated": (lambda m, x: channels(m.repeated(channels(x))), 2),
    "mirrored, every second": (lambda m, x: channels(m.second(channels(x))), 2),
    "mirrored, dilated": (lambda m, x: channels(m.dilated(channels(x))), 3),
    "mirrored twice": (lambda m, x: channels(m.deep(torch.relu(m.mirrored(channels(x))))), 3),
    "bands and time": (lambda m, x: m.plane(x[:, None]).transpose(1, 2).flatten(2), 1),
    "repeated before": (
        lambda m, x: channels(m.conv(F.pad(channels(x), (4, 0), mode="replicate"))), 0,
    ),
    "mirrored before": (
        lambda m, x: channels(m.conv(F.pad(channels(x), (4, 0), mode="reflect"))), 4,
    ),
    "mirrored, then a function": (
        lambda m, x: channels(m.conv(torch.exp(F.pad(channels(x), (2, 2), mode="reflect")))), 2,
    ),
    "mirrored, then cut": (
        lambda m, x: channels(m.conv(F.pad(channels(x), (3, 3), mode="reflect")[..., 1:-4])), 2,
    ),
    "mirrored behind": (
        lambda m, x: channels(m.conv(F.pad(channels(x), (0, 4), mode="reflect"))), 4,
    ),
    "repeated before a recurrence": (
        lambda m, x: m.gru(channels(F.pad(channels(x), (3, 0), mode="replicate")))[0], 0,
    ),
    "filled": (lambda m, x: channels(m.conv(F.pad(channels(x), (2, 2), value=-3.0))), 4),
    "filled before a recurrence": (
        lambda m, x: m.gru(channels(F.pad(channels(x), (3, 0), value=0.5)))[0], 0,
    ),
    "pieces": (
        lambda m, x: F.pad(channels(x), (2, 2), mode="reflect").unfold(2, 5, 1)
        .transpose(1, 2).flatten(2), 2,
    ),
    "a pool": (
        lambda m, x: channels(F.max_pool1d(F.pad(channels(x), (2, 2), mode="reflect"), 5, 1)), 2,
    ),
    "a mean": (
        lambda m, x: channels(F.avg_pool1d(F.pad(channels(x), (1, 1), mode="replicate"), 3, 1)), 1,
    ),
}  # fmt: skip


def example() -> Any:
    return torch.randn(1, T, WIDTH, generator=torch.Generator().manual_seed(4))


def compared(graph: Any, x: Any, want: np.ndarray, late: int) -> None:
    frames = x.numpy().astype(np.float64)
    rows = want[0].reshape(want.shape[1], -1)
    whole = Interpreter(graph)(frames)[0][0].reshape(rows.shape)
    a, b = known(graph, 0, whole, 0), known(graph, 0, rows, 0)
    assert len(a) >= len(rows) - 6 and np.abs(a - b).max() < 1e-5
    step = to_step(graph)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0][0]
    got = got.reshape(-1, rows.shape[1])
    assert step.meta["delay"] == late
    first = delay_in_elements(step, step.outputs[0])
    n = min(len(got) - first, len(rows))
    assert n >= len(rows) - 6 and np.abs(got[first : first + n] - rows[:n]).max() < 1e-5


@pytest.mark.parametrize("name", PADDED)
def test_beside_torch(name: str) -> None:
    body, late = PADDED[name]
    m, x = Fn(body, **Layers()).eval(), example()
    compared(from_torch(m, x), x, m(x).detach().numpy(), late)


# The older exporter refuses to take pieces of what it padded.
@pytest.mark.parametrize("name", [n for n in PADDED if n != "pieces"])
def test_from_onnx(name: str, tmp_path: Path) -> None:
    body, late = PADDED[name]
    m, x = Fn(body, **Layers()).eval(), example()
    path = tmp_path / "model.onnx"
    torch.onnx.export(m, (x,), path, dynamo=False, input_names=["x"])
    compared(from_onnx(path, time_axis=1), x, m(x).detach().numpy(), late)


REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "turned round": (
        lambda m, x: m.conv(F.pad(channels(x), (2, 2), mode="circular")), "last frames before",
    ),
    "mirrored for a recurrence": (
        lambda m, x: m.gru(channels(F.pad(channels(x), (3, 0), mode="reflect")))[0],
        "for something else than a kernel",
    ),
    "further than the kernel": (
        lambda m, x: m.conv(F.pad(channels(x), (6, 0), mode="reflect")),
        "further than the kernel reaches",
    ),
    "the last frame": (
        lambda m, x: m.mirrored(channels(x))[..., -1], "padded by other frames than zeros",
    ),
    "both ways": (
        lambda m, x: m.both(F.pad(x, (0, 0, 0, 2), value=1.0))[0],
        "other frames than zeros after the end of a sequence, and runs from the last",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    body, why = REFUSED[name]
    with pytest.raises(UnsupportedError, match=why):
        from_torch(Fn(body, **Layers()).eval(), example(), time_axis=1)
