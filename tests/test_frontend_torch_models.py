"""What people write in PyTorch: read, streamed and compared with the module, frame by frame."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from real_models import find

torch = pytest.importorskip("torch")

from exported_models import Fn  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgeseq.frontend import from_torch  # noqa: E402
from edgeseq.ir import Interpreter  # noqa: E402
from edgeseq.ir.blocks import delay_in_elements  # noqa: E402
from edgeseq.passes import to_step  # noqa: E402


def tcn() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = F.relu(m.a(F.pad(x.transpose(1, 2), (4, 0))))
        return (m.b(h) + x.transpose(1, 2)).transpose(1, 2)

    return Fn(forward, a=nn.Conv1d(6, 8, 3, dilation=2), b=nn.Conv1d(8, 6, 1))


def chomp() -> nn.Module:
    return Fn(
        lambda m, x: F.elu(m.a(x.transpose(1, 2))[:, :, :-4]).transpose(1, 2),
        a=nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 5, 3, padding=4, dilation=2)),
    )


def wavenet() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = x.transpose(1, 2)
        for k, layer in enumerate((m.a, m.b)):
            gates = layer(F.pad(h, (2**k, 0)))
            h = h + torch.tanh(gates[:, :6]) * torch.sigmoid(gates[:, 6:])
        return h.transpose(1, 2)

    return Fn(forward, a=nn.Conv1d(6, 12, 2), b=nn.Conv1d(6, 12, 2, dilation=2))


def crnn() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = F.relu(m.c(F.pad(x.unsqueeze(1), (1, 1, 2, 0))))
        return m.g(h.permute(0, 2, 1, 3).flatten(2))[0]

    return Fn(forward, c=nn.Conv2d(1, 4, 3, stride=(1, 2)), g=nn.GRU(12, 7, batch_first=True))


def strided() -> nn.Module:
    return Fn(
        lambda m, x: m.g(F.relu(m.c(x.transpose(1, 2))).transpose(1, 2))[0],
        c=nn.Conv1d(6, 5, 4, stride=2, padding=1),
        g=nn.LSTM(5, 4, batch_first=True),
    )


def unet() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = x.transpose(1, 2)
        a = F.relu(m.a(F.pad(h, (2, 0))))
        b = torch.tanh(m.b(F.pad(a, (1, 0))))
        b = m.g(b.transpose(1, 2))[0].transpose(1, 2)
        u = F.relu(m.u(b)[..., : a.shape[-1]]) + a
        return torch.cat((m.v(u)[..., : h.shape[-1]], h), 1).transpose(1, 2)

    return Fn(
        forward,
        a=nn.Conv1d(6, 8, 4, stride=2),
        b=nn.Conv1d(8, 8, 3, stride=2),
        g=nn.GRU(8, 8, batch_first=True),
        u=nn.ConvTranspose1d(8, 8, 4, stride=2, groups=2),
        v=nn.ConvTranspose1d(8, 5, 5, stride=2, padding=1, output_padding=1),
    )


def bands() -> nn.Module:
    """A recurrence over the bands of a frame, both ways, and one over time for every band."""

    def forward(m: Any, x: Any) -> Any:
        n, frames, width = x.shape
        h = m.up(x.unsqueeze(1)).permute(0, 2, 3, 1)
        y = m.across(h.reshape(n * frames, width, 4))[0].reshape(n, frames, width, 6)
        h = h + m.mix(y)
        z = h.permute(0, 2, 1, 3).reshape(n * width, frames, 4)
        z = m.along(z)[0].reshape(n, width, frames, 4).permute(0, 3, 2, 1)
        return m.down(z)[:, :, :-1].squeeze(1)

    return Fn(
        forward,
        up=nn.Conv2d(1, 4, 1),
        across=nn.GRU(4, 3, bidirectional=True, batch_first=True),
        mix=nn.Linear(6, 4),
        along=nn.LSTM(4, 4, batch_first=True),
        down=nn.ConvTranspose2d(4, 1, (2, 3), padding=(0, 1)),
    )


def looped_cell() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h, c = torch.zeros(x.size(0), 5), torch.zeros(x.size(0), 5)
        outs = []
        for t in range(x.size(1)):
            h, c = m.cell(x[:, t], (h, c))
            outs.append(h)
        return torch.stack(outs, 1)

    return Fn(forward, cell=nn.LSTMCell(6, 5))


def squeeze_excite() -> nn.Module:
    return Fn(
        lambda m, x: x * torch.sigmoid(m.b(F.silu(m.a(m.n(x))))),
        a=nn.Linear(6, 2), b=nn.Linear(2, 6), n=nn.LayerNorm(6),
    )  # fmt: skip


def transformer(norm_first: bool, features: int = 6, width: int = 8, heads: int = 2) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=norm_first
    )

    def forward(m: Any, x: Any) -> Any:
        n = x.shape[1]
        mask = torch.triu(torch.full((n, n), float("-inf")), 1)
        return m.head(m.encoder(m.embed(x), mask, is_causal=True))

    return Fn(
        forward, embed=nn.Linear(features, width), head=nn.Linear(width, 3),
        encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "tcn": (tcn, {}),
    "chomp": (chomp, {}),
    "wavenet": (wavenet, {}),
    "crnn": (crnn, {}),
    "strided": (strided, {}),
    "unet": (unet, {}),
    "bands": (bands, {}),
    "looped_cell": (looped_cell, {}),
    "squeeze_excite": (squeeze_excite, {}),
    "transformer_post": (lambda: transformer(False), {"context": 32}),
    "transformer_pre": (lambda: transformer(True), {"context": 32}),
}
T = 24


@pytest.mark.parametrize("name", MODELS)
def test_the_stream_is_the_module(name: str) -> None:
    torch.manual_seed(1)
    make, options = MODELS[name]
    module = make().eval()
    step = to_step(from_torch(module, torch.randn(2, 16, 6), **options))
    x = torch.randn(1, T, 6)
    with torch.no_grad():
        want = module(x)[0].numpy()
    got = Interpreter(step).sequence(x.numpy().astype(np.float64))[0][0]
    lag = step.meta.get("delay", 0) * len(want) // T
    n = len(want) - lag
    assert n > 8
    assert np.abs(got[lag : lag + n] - want[:n]).max() < 1e-5 * max(1.0, np.abs(want).max())


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding", "more"),
    [(4, 2, 1, 0, 0), (4, 2, 1, 1, 0), (3, 2, 1, 1, 1), (5, 3, 1, 2, 1), (2, 3, 1, 0, 0),
     (3, 2, 2, 0, 1), (3, 3, 2, 1, 0), (8, 4, 1, 2, 0), (4, 2, 1, 3, 0), (1, 2, 1, 0, 1)],
)  # fmt: skip
def test_transposed_convolutions_that_stride_over_time(
    kernel: int, stride: int, dilation: int, padding: int, more: int
) -> None:
    torch.manual_seed(2)
    options = {"stride": stride, "dilation": dilation, "padding": padding, "groups": 2}
    module = Fn(
        lambda m, x: m.b(torch.relu(m.a(x)))[..., : x.shape[-1]],
        a=nn.Conv1d(6, 8, stride, stride=stride),
        b=nn.ConvTranspose1d(8, 4, kernel, output_padding=more, **options),
    ).eval()
    g = from_torch(module, torch.randn(1, 6, 4 * stride))
    step = to_step(g)
    x = torch.randn(1, 6, 7 * stride)
    with torch.no_grad():
        want = module(x)[0].T.numpy()
    got = Interpreter(step).sequence(x.numpy().astype(np.float64).transpose(0, 2, 1))[0][0]
    n, lag = len(want), step.meta.get("delay", 0)
    assert lag <= padding + stride - 1
    n = min(n, len(got) - lag)
    assert np.abs(got[lag : lag + n] - want[:n]).max() < 1e-5


@pytest.mark.parametrize("how", ["repeat_interleave", "interpolate", "upsample2d"])
def test_repeated_frames(how: str) -> None:
    torch.manual_seed(3)

    def forward(m: Any, x: Any) -> Any:
        h = m.a(x.transpose(1, 2))
        if how == "repeat_interleave":
            h = h.repeat_interleave(3, -1)
        elif how == "interpolate":
            h = F.interpolate(h, scale_factor=3)
        else:
            h = F.interpolate(h.unsqueeze(1), scale_factor=(2, 3))[:, 0]
        return h.transpose(1, 2)

    module = Fn(forward, a=nn.Conv1d(6, 8, 3, stride=3)).eval()
    step = to_step(from_torch(module, torch.randn(1, 12, 6)))
    x = torch.randn(1, T, 6)
    with torch.no_grad():
        want = module(x)[0].numpy()
    got = Interpreter(step).sequence(x.numpy().astype(np.float64))[0][0]
    assert np.abs(got - want).max() < 1e-5


def test_a_vocoder_makes_many_samples_of_a_frame() -> None:
    module = Fn(
        lambda m, x: m.o(torch.relu(m.b(torch.relu(m.a(m.g(x)[0].transpose(1, 2)))))),
        g=nn.GRU(6, 8, batch_first=True),
        a=nn.ConvTranspose1d(8, 6, 8, 4, padding=2),
        b=nn.ConvTranspose1d(6, 4, 6, 3, padding=2, output_padding=1),
        o=nn.Conv1d(4, 1, 5, padding=2),
    ).eval()
    step = to_step(from_torch(module, torch.randn(1, 16, 6)))
    x = torch.randn(1, T, 6)
    with torch.no_grad():
        want = module(x)[0, 0].numpy()
    got = Interpreter(step).sequence(x.numpy().astype(np.float64))[0][0, :, 0]
    assert step.meta["elements"] == {step.outputs[0]: 12} and len(got) == 12 * T
    late = delay_in_elements(step, step.outputs[0])
    assert late == 24 and np.abs(got[late:] - want[: len(got) - late]).max() < 1e-5


def test_tokens() -> None:
    module = Fn(
        lambda m, x: m.o(m.g(m.e(x))[0]),
        e=nn.Embedding(20, 6), g=nn.GRU(6, 8, batch_first=True), o=nn.Linear(8, 20),
    ).eval()  # fmt: skip
    step = to_step(from_torch(module, torch.randint(0, 20, (2, 13))))
    x = torch.randint(0, 20, (1, T))
    with torch.no_grad():
        want = module(x)[0].numpy()
    got = Interpreter(step).sequence(x.numpy().astype(np.float64)[..., None])[0][0]
    assert np.abs(got - want).max() < 1e-5


def test_what_looks_ahead_compiles_as_a_window() -> None:
    module = Fn(
        lambda m, x: m.g(x)[0].mean(1), g=nn.GRU(6, 4, batch_first=True, bidirectional=True)
    ).eval()
    step = to_step(from_torch(module, torch.randn(1, 12, 6), window=12, hop=4))
    x = torch.randn(1, 36, 6)
    machine = Interpreter(step)
    outs = [machine(x[:, t : t + 4].numpy().astype(np.float64))[0][0] for t in range(0, 36, 4)]
    for k in range(2, 9):
        with torch.no_grad():
            want = module(x[:, 4 * k - 8 : 4 * k + 4])[0].numpy()
        assert np.abs(outs[k].ravel() - want).max() < 1e-5


def test_states_as_arguments() -> None:
    module = Fn(lambda m, x, h: m.g(x, h), g=nn.GRU(6, 5, batch_first=True)).eval()
    graph = from_torch(module, (torch.randn(1, 9, 6), torch.zeros(1, 1, 5)))
    step = to_step(graph)
    x = torch.randn(1, T, 6)
    with torch.no_grad():
        want = module(x, torch.zeros(1, 1, 5))[0][0].numpy()
    got = Interpreter(step).sequence(x.numpy().astype(np.float64))[0][0]
    assert np.abs(got - want).max() < 1e-5


def test_hidden_states_are_exposed_and_the_module_is_left_alone() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(6, 5, batch_first=True)
            self.hidden = torch.zeros(1, 1, 5)

        def forward(self, x: Any) -> Any:
            y, self.hidden = self.gru(x, self.hidden)
            return y

    module = Hidden().eval()
    before = module.hidden
    step = to_step(from_torch(module, torch.randn(1, 9, 6)))
    assert module.hidden is before and not np.any(before.numpy())
    x = torch.randn(1, T, 6)
    got = Interpreter(step).sequence(x.numpy().astype(np.float64))[0][0]
    with torch.no_grad():
        want = np.concatenate([module(x[:, :10])[0].numpy(), module(x[:, 10:])[0].numpy()])
    assert np.abs(got - want).max() < 1e-5


def published_beatnet() -> Any:
    """BeatNet with its published weights; skips the test where it cannot be had."""
    source = find("BeatNet", "BeatNet", "model.py")
    weights = find("BeatNet", "BeatNet", "models", "model_1_weights.pt")
    if not source.is_file():
        pytest.skip("the package BeatNet could not be had (make setup fetches it)")
    spec = importlib.util.spec_from_file_location("beatnet_model", source)
    assert spec is not None and spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    module = code.BDA(272, 150, 2, "cpu")
    module.load_state_dict(torch.load(weights, weights_only=True))
    return module.eval()


def test_beatnet() -> None:
    """A published model: convolution per frame, frames merged into the batch, hidden states."""
    module = published_beatnet()
    step = to_step(from_torch(module, torch.randn(1, 20, 272)))
    assert sorted(s.init.size for s in step.states) == [150] * 4
    x = torch.rand(1, T, 272)
    module.hidden, module.cell = torch.zeros(2, 1, 150), torch.zeros(2, 1, 150)
    with torch.no_grad():
        want = module(x)[0].T.numpy()
    got = Interpreter(step).sequence(x.numpy().astype(np.float64))[0][0]
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
