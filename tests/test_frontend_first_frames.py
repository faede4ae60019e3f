"""Loops that begin with the first frame, or whose last turns do less, beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from exported_models import Fn, compared, exported  # noqa: E402
from torch import nn  # noqa: E402

from edgeseq.errors import UnsupportedError  # noqa: E402
from edgeseq.frontend import from_onnx, from_torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it exports

T, WIDTH = 12, 4


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(6)
    return {"lin": nn.Linear(WIDTH, WIDTH), "gru": nn.GRU(WIDTH, 3, batch_first=True)}


def smoothed(m: Any, x: Any) -> Any:
    found = [x[:, 0]]
    for t in range(1, x.shape[1]):
        found.append((1 - m.lin.bias**2) * found[-1] + m.lin.bias**2 * x[:, t])
    return torch.stack(found, 1)


def smoothed_from_itself(m: Any, x: Any) -> Any:
    h, found = x[:, 0], []
    for t in range(x.shape[1]):
        h = 0.9 * h + 0.1 * x[:, t]
        found.append(h)
    return torch.stack(found, 1)


def kept_as_an_axis(m: Any, x: Any) -> Any:
    h, found = x[:, :1], []
    for t in range(x.shape[1]):
        h = 0.9 * h + 0.1 * x[:, t : t + 1]
        found.append(h)
    return torch.cat(found, 1)


def peaks(m: Any, x: Any) -> Any:
    x = m.lin(x)
    h = x[:, 0]
    found = [h]
    for t in range(1, x.shape[1]):
        h = torch.maximum(0.9 * h, x[:, t])
        found.append(h)
    return m.gru(x - torch.stack(found, 1))[0]


def through_a_layer(m: Any, x: Any) -> Any:
    h = x[:, 0]
    found = [h]
    for t in range(1, x.shape[1]):
        h = torch.tanh(m.lin(h) + x[:, t])
        found.append(h)
    return torch.stack(found, 1)


def beside_another(m: Any, x: Any) -> Any:
    h, p, found = x[:, 0], torch.zeros(1, WIDTH), []
    for t in range(x.shape[1]):
        h = 0.9 * h + 0.1 * x[:, t]
        p = 0.5 * p + h
        found.append(p - h)
    return torch.stack(found, 1)


def energies(m: Any, x: Any) -> Any:
    e = x * x
    return m.gru((e / (smoothed_from_itself(m, e) + 1e-3) ** 0.98 + 2) ** 0.5)[0]


def read_before_it_moves(m: Any, x: Any) -> Any:
    """As in RWKV: the last turns need not move the states."""
    k, v = m.lin(x), x.flip(-1)
    a, b, found = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0]), []
    for t in range(x.shape[1]):
        e = torch.exp(0.3 + k[:, t])
        found.append((a + e * v[:, t]) / (b + e))
        a = torch.exp(m.lin.bias) * 0.5 * a + torch.exp(k[:, t]) * v[:, t]
        b = torch.exp(m.lin.bias) * 0.5 * b + torch.exp(k[:, t])
    return torch.stack(found, 1)


def begins_with_half(m: Any, x: Any) -> Any:
    h, found = x[:, 0] * 0.5, []
    for t in range(x.shape[1]):
        found.append(h + x[:, t])
        h = 0.9 * h + 0.1 * x[:, t]
    return torch.stack(found, 1)


LOOPS: dict[str, Callable[[Any, Any], Any]] = {
    f.__name__: f
    for f in (
        smoothed, smoothed_from_itself, kept_as_an_axis, peaks, through_a_layer, beside_another,
        energies, begins_with_half, read_before_it_moves,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_beside_torch(name: str) -> None:
    m, x = Fn(LOOPS[name], **layers()).eval(), torch.randn(1, T, WIDTH)
    longer = torch.randn(1, 2 * T, WIDTH)
    compared(from_torch(m, x), longer, m(longer).detach().numpy())


@pytest.mark.parametrize("exporter", ["newer", "older"])
@pytest.mark.parametrize("name", LOOPS)
def test_from_onnx(name: str, exporter: str, tmp_path: Path) -> None:
    m, x = Fn(LOOPS[name], **layers()).eval(), torch.randn(1, T, WIDTH)
    path = exported(m, x, tmp_path, exporter)
    compared(from_onnx(path, time_axis=1), x, m(x).detach().numpy())


def test_a_loop_that_begins_with_the_last_frame_is_refused() -> None:
    def body(m: Any, x: Any) -> Any:
        h, found = x[:, -1], []
        for t in range(x.shape[1]):
            h = 0.9 * h + 0.1 * x[:, t]
            found.append(h)
        return torch.stack(found, 1)

    with pytest.raises(UnsupportedError, match="state that depends on the input"):
        from_torch(Fn(body).eval(), torch.randn(1, T, WIDTH))


def test_what_is_made_of_the_first_frame_may_not_be_read_outside() -> None:
    def body(m: Any, x: Any) -> Any:
        h = x[:, 0] * 0.5
        found = []
        for t in range(x.shape[1]):
            found.append(h + x[:, t])
            h = 0.9 * h + 0.1 * x[:, t]
        return torch.stack(found, 1), x[:, 0] * 0.5

    with pytest.raises(UnsupportedError, match="selects frame 0"):
        from_torch(Fn(body).eval(), torch.randn(1, T, WIDTH))
