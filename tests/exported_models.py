"""Models as people write them in PyTorch, for what its exporters to ONNX make of them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edgeseq.ir import Interpreter
from edgeseq.ir.io import prepare
from edgeseq.passes import to_step

__all__ = ["MODELS", "Fn", "Written", "compared", "exported"]


def compared(graph: Any, x: Any, want: np.ndarray) -> None:
    """Stream a Graph of no delay over [1, T, features] and compare it with what a model gave."""
    step = to_step(graph)
    frames = x.numpy().astype(np.float64)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0][0]
    assert step.states and step.meta["delay"] == 0
    assert np.abs(got.reshape(want.shape[1:]) - want[0]).max() < 1e-5


def exported(module: nn.Module, x: Any, folder: Path, exporter: str) -> Path:
    """A module as an ONNX file in `folder`, by PyTorch's 'newer' or 'older' exporter."""
    path = folder / "model.onnx"
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(module, (x,), path, dynamo=exporter == "newer", verbose=False)
    return path


class Fn(nn.Module):
    """A forward function with its layers."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *x: Any) -> Any:
        return self.function(self, *x)


@dataclass(frozen=True)
class Written:
    """A module and how it is called.

    Attributes:
        make: the module.
        sizes: of its input; 0 is time.
        time: axis of time in the output.
        states: sizes of further inputs, which are states.
        step: the module is one step: it gives its states after it.
        tokens: the input holds indices below this number.
        options: of the import.
        fixed: more of them where the length is fixed.
        unrolled: exporters ('older', 'newer') that write one copy of its loop per frame.
        unexported: exporters that refuse it.
    """

    make: Callable[[], nn.Module]
    sizes: tuple[int, ...] = (1, 0, 6)
    time: int = 1
    states: tuple[tuple[int, ...], ...] = ()
    step: bool = False
    tokens: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    unrolled: tuple[str, ...] = ()
    unexported: tuple[str, ...] = ()


def recurrent(kind: type[nn.Module], **more: Any) -> Callable[[], nn.Module]:
    return lambda: Fn(lambda m, x: m.o(m.g(x)[0]), g=kind(6, 5, **more), o=nn.Linear(5, 3))


def recurrent_with_state(kind: type[nn.Module]) -> Callable[[], nn.Module]:
    if kind is nn.LSTM:
        return lambda: Fn(lambda m, x, h, c: m.g(x, (h, c))[0], g=nn.LSTM(6, 5, batch_first=True))
    return lambda: Fn(lambda m, x, h: m.g(x, h)[0], g=kind(6, 5, batch_first=True))


def gru_step() -> nn.Module:
    def forward(m: Any, x: Any, h: Any) -> Any:
        y, h = m.g(x, h)
        return m.o(y), h

    return Fn(forward, g=nn.GRU(6, 5, 2, batch_first=True), o=nn.Linear(5, 3))


def lstm_step() -> nn.Module:
    def forward(m: Any, x: Any, h: Any, c: Any) -> Any:
        y, (h, c) = m.g(x, (h, c))
        return m.o(y), h, c

    return Fn(forward, g=nn.LSTM(6, 5, 2), o=nn.Linear(5, 3))


def cell_step() -> nn.Module:
    def forward(m: Any, x: Any, h: Any) -> Any:
        h = m.g(x, h)
        return m.o(h), h

    return Fn(forward, g=nn.GRUCell(6, 5), o=nn.Linear(5, 3))


def looped(
    turn: Callable[[Any, Any, Any], Any], *sizes: int, dim: int = 1, **layers: nn.Module
) -> nn.Module:
    """A Python loop over frames; `turn` gives the states, the first of which is the output.

    Args:
        turn: of the module, a frame and the states.
        sizes: of the states, which start from zeros.
        dim: axis of time.
        layers: of the module.
    """

    def forward(m: Any, x: Any, *given: Any) -> Any:
        states = given or tuple(torch.zeros(x.size(1 - dim), n) for n in sizes)
        outs = []
        for t in range(x.size(dim)):
            states = turn(m, x.select(dim, t), states)
            outs.append(states[0])
        return torch.stack(outs, dim)

    return Fn(forward, **layers)


def looped_gru_cell() -> nn.Module:
    return looped(lambda m, x, s: (m.cell(x, s[0]),), 5, cell=nn.GRUCell(6, 5))


def looped_lstm_cell(dim: int = 1) -> nn.Module:
    return looped(lambda m, x, s: m.cell(x, s), 5, 5, dim=dim, cell=nn.LSTMCell(6, 5))


def looped_rnn_cell(kind: str) -> nn.Module:
    cell = nn.RNNCell(6, 5, nonlinearity=kind)
    return looped(lambda m, x, s: (m.cell(x, s[0]),), 5, cell=cell)


def looped_gates() -> nn.Module:
    def cell(m: Any, x: Any, s: Any) -> Any:
        z, r = torch.sigmoid(m.a(torch.cat([x, s[0]], -1))).chunk(2, -1)
        n = torch.tanh(m.b(torch.cat([x, r * s[0]], -1)))
        return (z * s[0] + (1 - z) * n,)

    return looped(cell, 5, a=nn.Linear(11, 10), b=nn.Linear(11, 5))


def looped_gates_of_products() -> nn.Module:
    def cell(m: Any, x: Any, s: Any) -> Any:
        i, f, g = (m.a(x) + m.b(s[0])).split(5, -1)
        c = torch.sigmoid(f) * s[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.tanh(c), c

    return looped(cell, 5, 5, a=nn.Linear(6, 15), b=nn.Linear(5, 15, bias=False))


def looped_cells() -> nn.Module:
    def cell(m: Any, x: Any, s: Any) -> Any:
        h = m.a(x, s[1])
        y, c = m.b(h, (s[0], s[2]))
        return y, h, c

    return looped(cell, 4, 5, 4, a=nn.GRUCell(6, 5), b=nn.LSTMCell(5, 4))


def looped_twice() -> nn.Module:
    """Loops after each other, a convolution before and attention after them."""

    def forward(m: Any, x: Any) -> Any:
        x = F.relu(m.c(F.pad(x.transpose(1, 2), (2, 0)))).transpose(1, 2)
        for cell in (m.a, m.b):
            h, outs = torch.zeros(1, 6), []
            for t in range(x.size(1)):
                h = cell(x[:, t], h)
                outs.append(h.unsqueeze(1))
            x = torch.cat(outs, 1)
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        return x + m.s(x, x, x, attn_mask=mask, need_weights=False)[0]

    return Fn(
        forward, c=nn.Conv1d(6, 6, 3), a=nn.GRUCell(6, 6), b=nn.RNNCell(6, 6),
        s=nn.MultiheadAttention(6, 2, batch_first=True),
    )  # fmt: skip


def moving_average() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        mean, outs = 0, []
        for t in range(x.size(1)):
            mean = 0.9 * mean + 0.1 * x[:, t]
            outs.append(x[:, t] - mean)
        return m.o(torch.stack(outs, 1))

    return Fn(forward, o=nn.Linear(6, 3))


def tcn() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = x.transpose(1, 2)
        for k, layer in enumerate((m.a, m.b, m.c)):
            h = h + F.relu(layer(F.pad(h, (2 * 2**k, 0))))
        return h.transpose(1, 2)

    return Fn(forward, **{n: nn.Conv1d(6, 6, 3, dilation=2**k) for k, n in enumerate("abc")})


def conv_gru() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = F.relu(m.n(m.c(F.pad(x, (2, 0)))))
        return m.o(m.g(h.transpose(1, 2))[0])

    return Fn(
        forward, c=nn.Conv1d(6, 8, 3), n=nn.BatchNorm1d(8), g=nn.GRU(8, 5, batch_first=True),
        o=nn.Linear(5, 3),
    )  # fmt: skip


def separable() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = m.n(m.d(x)[..., : x.shape[-1]])
        return F.hardswish(m.p(h))

    return Fn(
        forward, d=nn.Conv1d(6, 6, 5, padding=4, groups=6, bias=False), n=nn.BatchNorm1d(6),
        p=nn.Conv1d(6, 4, 1),
    )  # fmt: skip


def crnn() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = F.relu(m.n(m.c(F.pad(x, (1, 1, 2, 0)))))  # [batch, channels, time, frequencies]
        h = F.max_pool2d(h, (1, 2))
        b, c, t, f = h.shape
        return torch.sigmoid(m.o(m.g(h.permute(0, 2, 1, 3).reshape(b, t, c * f))[0]))

    return Fn(
        forward, c=nn.Conv2d(1, 4, 3), n=nn.BatchNorm2d(4), g=nn.GRU(16, 7, 2, batch_first=True),
        o=nn.Linear(7, 2),
    )  # fmt: skip


def crnn_time_last() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = m.p(m.c(F.pad(x, (2, 0, 1, 1))))  # [batch, channels, frequencies, time]
        return m.g(h.permute(0, 3, 1, 2).flatten(2))[0]

    return Fn(
        forward, c=nn.Conv2d(1, 4, 3, stride=(2, 1)), p=nn.PReLU(4),
        g=nn.LSTM(16, 7, batch_first=True),
    )  # fmt: skip


def layer_norm() -> nn.Module:
    return Fn(
        lambda m, x: m.n(x + m.g(m.m(x))[0]), m=nn.LayerNorm(6), n=nn.LayerNorm(6),
        g=nn.GRU(6, 6, batch_first=True),
    )  # fmt: skip


def transformer(norm_first: bool) -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        n = x.shape[1]
        mask = torch.triu(torch.full((n, n), float("-inf")), 1)
        return m.o(m.t(m.e(x), mask, is_causal=True))

    return Fn(
        forward, e=nn.Linear(6, 8), o=nn.Linear(8, 3),
        t=nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first),
    )  # fmt: skip


def attention() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        return x + m.a(x, x, x, attn_mask=mask, need_weights=False)[0]

    return Fn(forward, a=nn.MultiheadAttention(6, 2, batch_first=True))


def attention_time_first() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        mask = torch.full((x.shape[0], x.shape[0]), float("-inf")).triu(1)
        return m.a(x, x, x, attn_mask=mask)[0]

    return Fn(forward, a=nn.MultiheadAttention(6, 3))


def causal_product() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, 2, 4).transpose(1, 2) for y in m.p(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return m.o(y.transpose(1, 2).reshape(b, t, 8))

    return Fn(forward, p=nn.Linear(6, 24), o=nn.Linear(8, 3))


def embedding() -> nn.Module:
    return Fn(
        lambda m, x: m.o(m.g(m.e(x))[0]),
        e=nn.Embedding(20, 6), g=nn.LSTM(6, 8, batch_first=True), o=nn.Linear(8, 20),
    )  # fmt: skip


def squeeze_excite() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = F.pad(x.unsqueeze(1), (1, 1, 1, 0))
        h = m.c(h)  # [batch, channels, time, frequencies]
        s = h.mean(3, keepdim=True)
        s = torch.sigmoid(m.b(F.relu(m.a(s))))
        return (h * s).permute(0, 2, 1, 3).flatten(2)

    return Fn(forward, c=nn.Conv2d(1, 4, (2, 3)), a=nn.Conv2d(4, 2, 1), b=nn.Conv2d(2, 4, 1))


def weight_norm(old: bool) -> nn.Module:
    norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    return Fn(
        lambda m, x: F.elu(m.a(x)[:, :, :-4]), a=norm(nn.Conv1d(6, 5, 3, padding=4, dilation=2))
    )


def glu() -> nn.Module:
    return Fn(
        lambda m, x: x + F.glu(m.c(F.pad(x, (3, 0))), dim=1), c=nn.Conv1d(6, 12, 4)
    )  # fmt: skip


def einsum() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        groups = x.reshape(x.shape[0], x.shape[1], 2, 3)
        return torch.einsum("btgi,gio->btgo", groups, m.w.weight.view(2, 3, 4)).flatten(2).tanh()

    return Fn(forward, w=nn.Linear(6, 4))


def dual_path() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        b, t, f = x.shape
        h = m.e(x.unsqueeze(-1))  # [batch, time, frequencies, channels]
        w = m.a(h.reshape(b * t, f, 4))[0]
        h = h + m.n(m.u(w).reshape(b, t, f, 4))
        w = m.b(h.permute(0, 2, 1, 3).reshape(b * f, t, 4))[0]
        return (h + m.v(w).reshape(b, f, t, 4).permute(0, 2, 1, 3)).flatten(2)

    return Fn(
        forward, e=nn.Linear(1, 4), a=nn.GRU(4, 3, batch_first=True, bidirectional=True),
        u=nn.Linear(6, 4), n=nn.LayerNorm(4), b=nn.GRU(4, 5, batch_first=True), v=nn.Linear(5, 4),
    )  # fmt: skip


def transposed() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h = F.elu(m.c(F.pad(x, (1, 1, 1, 0))))  # [batch, channels, time, frequencies]
        return m.d(h)[:, :, :-1]

    return Fn(
        forward, c=nn.Conv2d(2, 4, (2, 3), stride=(1, 2)),
        d=nn.ConvTranspose2d(4, 2, (2, 3), stride=(1, 2)),
    )  # fmt: skip


def wavenet() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        h, skip = x, 0
        for k, layer in enumerate((m.a, m.b)):
            gate, value = layer(F.pad(h, (2**k, 0))).chunk(2, 1)
            h = h + torch.tanh(value) * torch.sigmoid(gate)
            skip = skip + h
        return skip

    return Fn(forward, a=nn.Conv1d(6, 12, 2), b=nn.Conv1d(6, 12, 2, dilation=2))


def strided() -> nn.Module:
    return Fn(
        lambda m, x: m.g(F.relu(m.c(x)).transpose(1, 2))[0],
        c=nn.Conv1d(6, 5, 4, stride=2, padding=1), g=nn.LSTM(5, 4, batch_first=True),
    )  # fmt: skip


def grouped_norm() -> nn.Module:
    """Normalises per frame over groups, as frames merged into the batch."""

    def forward(m: Any, x: Any) -> Any:
        b, t, f = x.shape
        h = m.n(m.c(x.reshape(b * t, 1, f)))
        return m.g(h.view(b, t, -1))[0]

    return Fn(
        forward, c=nn.Conv1d(1, 4, 3), n=nn.GroupNorm(2, 4), g=nn.GRU(16, 5, batch_first=True)
    )


def local_attention() -> nn.Module:
    """Every frame attends to the last five, cut out by `unfold`."""

    def forward(m: Any, x: Any) -> Any:
        k, v = (F.pad(m(x), (0, 0, 4, 0)).unfold(1, 5, 1) for m in (m.k, m.v))
        weights = torch.softmax(torch.einsum("btc,btck->btk", m.q(x), k) / 2, -1)
        return torch.einsum("btk,btck->btc", weights, v)

    return Fn(forward, q=nn.Linear(6, 4), k=nn.Linear(6, 4), v=nn.Linear(6, 4))


def unfolded_bands() -> nn.Module:
    """Each band beside its neighbours, as GTCRN has them."""

    def forward(m: Any, x: Any) -> Any:
        b, _, t, f = x.shape
        beside = F.unfold(x, (1, 3), padding=(0, 1)).reshape(b, 6, t, f)
        return F.relu(m.c(beside))

    return Fn(forward, c=nn.Conv2d(6, 3, 1))


def inception() -> nn.Module:
    """Branches, one of which takes the greatest of three frames around each."""
    return Fn(
        lambda m, x: torch.cat([m.a(x), m.b(F.max_pool1d(x, 3, 1, 1))], 1),
        a=nn.Conv1d(6, 4, 3, padding=1), b=nn.Conv1d(6, 3, 1),
    )  # fmt: skip


def pooled_bands() -> nn.Module:
    """The greatest over time and bands at once, padded in both."""
    return Fn(
        lambda m, x: m.c(F.max_pool2d(x, (5, 3), (1, 2), (2, 1))), c=nn.Conv2d(2, 3, 1)
    )  # fmt: skip


def differences() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        late = F.pad(x, (0, 0, 1, 0))[:, :-1]
        return m.g(torch.cat([x, x - late], -1))[0]

    return Fn(forward, g=nn.GRU(12, 5, batch_first=True))


def einsum_of_three() -> nn.Module:
    def forward(m: Any, x: Any) -> Any:
        d, b, c = m.l(x).split([6, 3, 3], -1)
        return torch.einsum("btd,btn,btn->btd", d, b, c) + torch.einsum(
            "bti,ij,jk->btk", x, m.u, m.v
        )

    module = Fn(forward, l=nn.Linear(6, 12))
    module.u, module.v = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 6))
    return module


C = (1, 6, 0)
BOTH = ("older", "newer")

# A model of a fixed length whose frames do not meet is read as one step, unless time is said.
MODELS: dict[str, Written] = {
    "gru": Written(recurrent(nn.GRU, batch_first=True)),
    "gru_time_first": Written(recurrent(nn.GRU), (0, 1, 6), 0),
    "gru_2_layers": Written(recurrent(nn.GRU, num_layers=2, batch_first=True)),
    "lstm": Written(recurrent(nn.LSTM, batch_first=True)),
    "lstm_2_layers_time_first": Written(recurrent(nn.LSTM, num_layers=2), (0, 1, 6), 0),
    "rnn_relu": Written(
        recurrent(nn.RNN, nonlinearity="relu", batch_first=True), unrolled=("newer",)
    ),
    "gru_h0": Written(
        recurrent_with_state(nn.GRU), states=((1, 1, 5),), options={"values": {"state0": 0}}
    ),
    "lstm_h0": Written(
        recurrent_with_state(nn.LSTM),
        states=((1, 1, 5), (1, 1, 5)),
        options={"values": {"state0": 0, "state1": 0}},
    ),
    "gru_step": Written(gru_step, states=((2, 1, 5),), step=True),
    "lstm_step": Written(lstm_step, (0, 1, 6), 0, ((2, 1, 5), (2, 1, 5)), step=True),
    "cell_step": Written(cell_step, (1, 6), 0, ((1, 5),), step=True),
    "looped_gru_cell": Written(looped_gru_cell, unrolled=BOTH),
    "looped_lstm_cell": Written(looped_lstm_cell, unrolled=BOTH),
    "looped_rnn_cell": Written(lambda: looped_rnn_cell("tanh"), unrolled=BOTH),
    "looped_relu_cell": Written(lambda: looped_rnn_cell("relu"), unrolled=BOTH),
    "looped_gates": Written(looped_gates, unrolled=BOTH),
    "looped_gates_of_products": Written(looped_gates_of_products, unrolled=BOTH),
    "looped_cells": Written(looped_cells, unrolled=BOTH),
    "looped_time_first": Written(lambda: looped_lstm_cell(0), (0, 1, 6), 0, unrolled=BOTH),
    "looped_h0": Written(
        looped_gru_cell, states=((1, 5),), options={"values": {"state0": 0}}, unrolled=BOTH
    ),
    "looped_h0_c0": Written(
        looped_lstm_cell,
        states=((1, 5), (1, 5)),
        options={"values": {"state0": 0, "state1": 0}},
        unrolled=BOTH,
    ),
    "looped_twice": Written(looped_twice, options={"context": 24}, unrolled=BOTH),
    "moving_average": Written(moving_average, unrolled=BOTH),
    "tcn": Written(tcn),
    "conv_gru": Written(conv_gru, C),
    "separable": Written(separable, C, 2),
    "crnn": Written(crnn, (1, 1, 0, 8), 1),
    "crnn_time_last": Written(crnn_time_last, (1, 1, 8, 0), 1),
    "layer_norm": Written(layer_norm),
    "transformer_post": Written(lambda: transformer(False), options={"context": 24}),
    "transformer_pre": Written(lambda: transformer(True), options={"context": 24}),
    "attention": Written(attention, options={"context": 24}),
    "attention_time_first": Written(attention_time_first, (0, 1, 6), 0, options={"context": 24}),
    "causal_product": Written(causal_product, options={"context": 24}),
    "embedding": Written(embedding, (1, 0), tokens=20),
    "squeeze_excite": Written(squeeze_excite),
    "weight_norm": Written(lambda: weight_norm(False), C, 2),
    "weight_norm_old": Written(lambda: weight_norm(True), C, 2),
    "glu": Written(glu, C, 2),
    "einsum": Written(einsum, fixed={"time_axis": 1}),
    "dual_path": Written(dual_path),
    "transposed": Written(transposed, (1, 2, 0, 7), 2),
    "wavenet": Written(wavenet, C, 2),
    "strided": Written(strided, C),
    "grouped_norm": Written(grouped_norm),
    "local_attention": Written(local_attention, unexported=("older",)),
    "unfolded_bands": Written(unfolded_bands, (1, 2, 0, 7), 2, fixed={"time_axis": 2}),
    "inception": Written(inception, C, 2),
    "pooled_bands": Written(pooled_bands, (1, 2, 0, 7), 2),
    "differences": Written(differences),
    "einsum_of_three": Written(einsum_of_three, fixed={"time_axis": 1}),
}
