"""Loops whose turns read values of two and more turns ago, beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exported_models import Fn, compared, exported  # noqa: E402
from torch import nn  # noqa: E402

from edgeseq.errors import UnsupportedError  # noqa: E402
from edgeseq.frontend import from_onnx, from_torch  # noqa: E402
from edgeseq.ir import Interpreter  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it exports

T, WIDTH = 12, 4


class Model(nn.Module):
    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.function = forward
        self.a, self.b = nn.Parameter(torch.tensor([-0.6, 0.3])), nn.Parameter(torch.rand(3))
        self.h1, self.h2 = (nn.Parameter(torch.randn(1, WIDTH)) for _ in range(2))
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.wide, self.lin = nn.Linear(4 * WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def biquad(m: Any, x: Any) -> Any:
    x1 = x2 = y1 = y2 = torch.zeros(x.shape[0], x.shape[2])
    found = []
    for t in range(x.shape[1]):
        y = m.b[0] * x[:, t] + m.b[1] * x1 + m.b[2] * x2 - m.a[0] * y1 - m.a[1] * y2
        x2, x1, y2, y1 = x1, x[:, t], y1, y
        found.append(y)
    return torch.stack(found, 1)


def last_three_outputs(m: Any, x: Any) -> Any:
    past, found = [torch.zeros(x.shape[0], WIDTH)] * 3, []
    for t in range(x.shape[1]):
        y = torch.tanh(m.wide(torch.cat([x[:, t], *past], 1)))
        past = [*past[1:], y]
        found.append(y)
    return torch.stack(found, 1)


def last_inputs(m: Any, x: Any) -> Any:
    past, found = [torch.ones(x.shape[0], WIDTH)] * 3, []
    for t in range(x.shape[1]):
        found.append(torch.tanh(m.wide(torch.cat([x[:, t], *past], 1))))
        past = [*past[1:], x[:, t]]
    return torch.stack(found, 1)


def skipped_states(m: Any, x: Any) -> Any:
    found = [torch.zeros(x.shape[0], WIDTH)] * 3
    for t in range(x.shape[1]):
        found.append(m.cell(x[:, t], found[-3]))
    return torch.stack(found[3:], 1)


def delayed_feedback(m: Any, x: Any) -> Any:
    h = torch.zeros(x.shape[0], WIDTH)
    history, found = [torch.zeros_like(h) for _ in range(2)], []
    for t in range(x.shape[1]):
        gate = torch.sigmoid(m.lin(history[0]) + x[:, t])
        after = (1 - gate) * h + gate * torch.tanh(x[:, t] - 0.5 * h)
        history, h = [*history[1:], h], after
        found.append(h)
    return torch.stack(found, 1)


def learned_beginnings(m: Any, x: Any) -> Any:
    one, two, found = m.h1.expand(x.shape[0], -1), m.h2.expand(x.shape[0], -1), []
    for t in range(x.shape[1]):
        one, two = torch.tanh(x[:, t] + 0.5 * one - m.lin(two)), one
        found.append(one)
    return torch.stack(found, 1)


LOOPS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        biquad, last_three_outputs, last_inputs, skipped_states, delayed_feedback,
        learned_beginnings,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_beside_torch(name: str) -> None:
    m, x = Model(LOOPS[name]).eval(), torch.randn(1, T, WIDTH)
    longer = torch.randn(1, 2 * T, WIDTH)
    compared(from_torch(m, x), longer, m(longer).detach().numpy())


@pytest.mark.parametrize("exporter", ["newer", "older"])
@pytest.mark.parametrize("name", LOOPS)
def test_from_onnx(name: str, exporter: str, tmp_path: Path) -> None:
    m, x = Model(LOOPS[name]).eval(), torch.randn(1, T, WIDTH)
    path = exported(m, x, tmp_path, exporter)
    compared(from_onnx(path, time_axis=1), x, m(x).detach().numpy())


@pytest.mark.parametrize("seed", range(12))
def test_random_histories(seed: int) -> None:
    """Two states of different depth, and past inputs, each with beginnings of its own."""
    rng = np.random.default_rng(seed)
    depths, past = rng.integers(1, 4, 2), int(rng.integers(0, 3))
    begins = [[float(v) for v in rng.choice([0.0, 0.25], d)] for d in depths]
    gains = rng.uniform(-0.3, 0.3, (2, 2, 3)) * (rng.random((2, 2, 3)) < 0.7)

    def body(m: Any, x: Any) -> Any:
        h = [[torch.full((x.shape[0], WIDTH), v) for v in values] for values in begins]
        xs, found = [torch.zeros(x.shape[0], WIDTH)] * past, []
        for t in range(x.shape[1]):
            xs.append(x[:, t])
            new = []
            for i in range(2):
                y = m.lin(x[:, t]) - 0.2 * xs[-1 - past]
                for j in range(2):
                    for k in range(1, depths[j] + 1):
                        y = y + float(gains[i, j, k - 1]) * h[j][-k]
                new.append(torch.tanh(y))
            for values, y in zip(h, new, strict=True):
                values.append(y)
            found.append(new[0])
        return torch.stack(found, 1)

    m, longer = Model(body).eval(), torch.randn(1, 2 * T, WIDTH)
    compared(from_torch(m, longer[:, :T]), longer, m(longer).detach().numpy())


def test_a_state_of_two_beginnings_is_refused() -> None:
    """What two and three turns ago is one state may not have begun as different values."""

    def body(m: Any, x: Any) -> Any:
        found = []
        for t in range(x.shape[1]):
            two = found[-2] if t > 1 else torch.full((x.shape[0], WIDTH), 1.0 + t)
            three = found[-3] if t > 2 else torch.full((x.shape[0], WIDTH), 3.0 + t)
            found.append(torch.tanh(x[:, t] * two + m.lin(x[:, t] * three)))
        return torch.stack(found, 1)

    with pytest.raises(UnsupportedError, match="selects frame 0"):
        from_torch(Model(body).eval(), torch.randn(1, T, WIDTH))


def test_a_loop_over_bands_reads_bands_further_back() -> None:
    def body(m: Any, x: Any) -> Any:
        a = b = torch.zeros(x.shape[0], x.shape[1], WIDTH)
        found = []
        for f in reversed(range(x.shape[2])):
            a, b = torch.tanh(m.lin(a) + x[:, :, f] - 0.3 * b), a
            found.append(a)
        return m.lin(x[:, :, 0]).cumsum(-1) + torch.stack(found[::-1], 2).sum(2)

    m, x = Fn(body, lin=nn.Linear(WIDTH, WIDTH)).eval(), torch.randn(1, 6, 24, WIDTH)
    graph = from_torch(m, x)
    assert graph.meta["mode"] == "stream"


def test_passed_values_leave_the_original_operations_as_they_were() -> None:
    """A loop over few elements of a frame is written out, as the exporter wrote it."""

    def body(m: Any, x: Any) -> Any:
        a, b, found = x[:, :, 0] * 0.0, x[:, :, 0] * 0.0, []
        for f in range(x.shape[2]):
            a, b = torch.tanh(x[:, :, f] + 0.4 * a - 0.3 * b), a
            found.append(a)
        return m.lin(torch.stack(found, 2))

    m, x = Fn(body, lin=nn.Linear(5, 3)).eval(), torch.randn(1, 7, 5)
    graph = from_torch(m, x)
    assert not any(node.op == "scan" for node in graph.nodes)


def stacked(layers: int) -> Model:
    def body(m: Any, x: Any) -> Any:
        h, found = torch.zeros(layers, x.shape[0], WIDTH), []
        for t in range(x.shape[1]):
            y = x[:, t]
            for i in range(layers):
                h[i] = m.cell(y, h[i].clone())
                y = h[i].clone()
            found.append(y)
        return torch.stack(found, 1)

    return Model(body).eval()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_states_of_all_layers_in_one_tensor(layers: int) -> None:
    """``h[i] = cell(x, h[i])``: each layer has a state of its own."""
    m, longer = stacked(layers), torch.randn(1, 2 * T, WIDTH)
    graph = from_torch(m, longer[:, :T])
    compared(graph, longer, m(longer).detach().numpy())


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("exporter", ["newer", "older"])
def test_states_of_all_layers_in_one_tensor_from_onnx(
    exporter: str, layers: int, tmp_path: Path
) -> None:
    m, x = stacked(layers), torch.randn(1, T, WIDTH)
    path = exported(m, x, tmp_path, exporter)
    compared(from_onnx(path, time_axis=1), x, m(x).detach().numpy())


def test_the_last_states_of_all_layers_are_an_output() -> None:
    def body(m: Any, x: Any) -> Any:
        h, found = torch.zeros(2, x.shape[0], WIDTH), []
        for t in range(x.shape[1]):
            y = x[:, t]
            for i in range(2):
                h[i] = torch.tanh(m.lin(y) + 0.5 * h[i].clone())
                y = h[i].clone()
            found.append(y)
        return torch.stack(found, 1), h

    m, longer = Model(body).eval(), torch.randn(1, 2 * T, WIDTH)
    got = Interpreter(from_torch(m, longer[:, :T]))(longer.numpy())
    for have, want in zip(got, m(longer), strict=True):
        want = want.detach().numpy()
        assert np.abs(have.reshape(want.shape) - want).max() < 1e-5


@pytest.mark.parametrize("exporter", ["newer", "older"])
def test_a_sequence_of_one_number_a_frame_from_onnx(exporter: str, tmp_path: Path) -> None:
    def body(m: Any, x: Any) -> Any:
        one, two, found = torch.zeros(x.shape[0], 1), torch.full((x.shape[0], 1), 0.25), []
        for t in range(x.shape[1]):
            one, two = torch.tanh(x[:, t] + m.a[0] * one - m.a[1] * two), one
            found.append(one)
        return torch.stack(found, 1)

    m, x = Model(body).eval(), torch.randn(1, T, 1)
    path = exported(m, x, tmp_path, exporter)
    compared(from_onnx(path, time_axis=1), x, m(x).detach().numpy())


def test_a_long_history_of_one_number() -> None:
    """Which axis of a state is the batch shows turn by turn along the values passed on."""

    def body(m: Any, x: Any) -> Any:
        past, found = [torch.zeros(x.shape[0], 1)] * 9, []
        for t in range(x.shape[1]):
            past = [*past[1:], torch.tanh(x[:, t] + m.b[0] * past[0] - m.b[1] * past[-1])]
            found.append(past[-1])
        return torch.stack(found, 1)

    m, longer = Model(body).eval(), torch.randn(1, 40, 1)
    compared(from_torch(m, longer[:, :24]), longer, m(longer).detach().numpy())
