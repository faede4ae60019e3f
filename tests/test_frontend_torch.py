"""Live modules and their Graphs agree, at any length and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional

from edgeseq.frontend.torch_export import (  # noqa: E402
    from_torch,
    to_graph_layout,
    to_torch_layout,
)
from edgeseq.ir import Graph, check, from_text, run, to_text  # noqa: E402
from edgeseq.passes import to_step  # noqa: E402

FLOAT32 = 1e-5
"""Float32 (torch) against float64 (interpreter), relative to the largest output."""


class Fn(nn.Module):
    """A module made of a function and sub-modules, for short tests."""

    def __init__(self, forward: Callable[..., Any], **children: Any) -> None:
        super().__init__()
        for key, child in children.items():
            if isinstance(child, nn.Module):
                self.add_module(key, child)
            else:
                self.register_buffer(key, child)
        self.fn = forward

    def forward(self, *xs: Any) -> Any:
        return self.fn(self, *xs)


def randomise(module: Any, seed: int = 0) -> Any:
    """Every parameter and buffer random, so that no default hides an error."""
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=g) * 0.5
    return module.eval()


def tensors(shapes: list[tuple[int, ...]], seed: int) -> list[Any]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=g) for s in shapes]


def resized(example: Any, layout: str, batch: int, length: int) -> tuple[int, ...]:
    sizes = {"B": batch, "T": length}
    return tuple(sizes.get(k, n) for k, n in zip(layout, example.shape, strict=True))


def agree(
    module: Any,
    *example: Any,
    lengths: tuple[int, ...] = (5, 23),
    batches: tuple[int, ...] = (1, 3),
    **options: Any,
) -> Graph:
    """Import at the example's length; compare with torch at others."""
    randomise(module)
    graph = from_torch(module, example, **options)
    check(graph)
    layouts = graph.meta["axes"]
    for length, batch in zip(lengths, batches, strict=False):
        shapes = [
            resized(x, k, batch, length) for x, k in zip(example, layouts["inputs"], strict=True)
        ]
        xs = tensors(shapes, seed=length)
        with torch.no_grad():
            want = module(*xs)
        want = want if isinstance(want, tuple | list) else (want,)
        have = run(
            graph,
            *(to_graph_layout(x.numpy(), k) for x, k in zip(xs, layouts["inputs"], strict=True)),
        )
        assert len(have) == len(want)
        for y, t, k in zip(have, want, layouts["outputs"], strict=True):
            assert to_torch_layout(y, k).shape == tuple(t.shape)
            scale = max(1.0, float(t.abs().max()))
            assert np.abs(to_torch_layout(y, k) - t.numpy()).max() <= FLOAT32 * scale
    return graph


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def example(*shape: int) -> Any:
    return tensors([shape], seed=99)[0]


# -- recurrent layers ----------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers(cell: str, first: bool) -> None:
    options = [(1, True), (2, first), (1, False)]
    layers = [
        getattr(nn, cell)(3, 5, n, bias=bias, batch_first=first, dropout=0.2 * (n > 1))
        for n, bias in options
    ]
    module = Fn(lambda m, x: tuple(r(x)[0] for r in m.rnn), rnn=nn.ModuleList(layers))
    graph = agree(module, example(4, 6, 3))
    assert ops(graph) == ["scan"] * 4
    assert graph.meta["axes"]["inputs"] == ["BTF" if first else "TBF"]


def test_lstm_with_projection() -> None:
    layer = nn.LSTM(3, 6, 2, proj_size=2, batch_first=True)
    graph = agree(Fn(lambda m, x: (lambda y, h: (y, *h))(*m.rnn(x)), rnn=layer), example(2, 6, 3))
    state = next(s for s in graph.nodes[0].attrs["body"].states if s.name == "h")
    rows = np.abs(layer.weight_hr_l0.detach().numpy()).sum(1).max()
    assert state.bound == pytest.approx(max(1.0, rows))


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_bidirectional_layers_are_reverse_scans(cell: str) -> None:
    layer = getattr(nn, cell)(3, 4, 2, bidirectional=True, batch_first=True)
    graph = agree(Fn(lambda m, x: m.rnn(x)[0], rnn=layer), example(2, 6, 3))
    assert ops(graph) == ["scan", "scan", "concat"] * 2
    assert [n.attrs["reverse"] for n in graph.nodes if n.op == "scan"] == [False, True] * 2


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_last_states(cell: str) -> None:
    layer = getattr(nn, cell)(3, 4, 2, batch_first=True)

    def forward(m: Any, x: Any) -> Any:
        _, h = m.rnn(x)
        parts = h if isinstance(h, tuple) else (h,)
        picked = [p[-1] for p in parts] + [p[0] for p in parts]
        joined = [p.transpose(0, 1).flatten(1) for p in parts]
        return (*picked, *joined, *parts)

    graph = agree(Fn(forward, rnn=layer), example(2, 6, 3))
    assert set(ops(graph)) <= {"scan", "last", "concat", "reshape"}


def test_last_state_of_one_layer() -> None:
    agree(
        Fn(lambda m, x: m.fc(m.rnn(x)[1].squeeze(0)), rnn=nn.GRU(3, 4), fc=nn.Linear(4, 2)),
        example(6, 2, 3),
    )


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
def test_explicit_zero_state(cell: str) -> None:
    layer = getattr(nn, cell)(3, 4, 2, batch_first=True)

    def forward(m: Any, x: Any) -> Any:
        h = torch.zeros(2, x.shape[0], 4)
        return m.rnn(x, (h, h) if isinstance(m.rnn, nn.LSTM) else h)[0]

    agree(Fn(forward, rnn=layer), example(2, 6, 3))


def test_learned_initial_state() -> None:
    graph = agree(
        Fn(
            lambda m, x: m.rnn(x, m.h0.expand(-1, x.shape[0], -1))[0],
            rnn=nn.GRU(3, 4, batch_first=True),
            h0=2 * torch.ones(1, 1, 4),
        ),
        example(2, 6, 3),
    )
    (state,) = graph.nodes[0].attrs["body"].states
    assert np.all(state.init == 2) and state.bound == 2


def test_bounds_of_states() -> None:
    module = Fn(
        lambda m, x: (m.a(x)[0], m.b(x)[0], m.c(x)[0], m.d(x)[0]),
        a=nn.RNN(3, 4), b=nn.GRU(3, 4), c=nn.LSTM(3, 4), d=nn.RNN(3, 4, nonlinearity="relu"),
    )  # fmt: skip
    graph = agree(module, example(6, 2, 3))
    bounds = [[s.bound for s in n.attrs["body"].states] for n in graph.nodes]
    assert bounds == [[1.0], [1.0], [1.0, None], [None]]


def test_a_bare_layer_is_a_model() -> None:
    agree(nn.GRU(3, 4, batch_first=True), example(2, 6, 3))


def test_without_a_batch() -> None:
    graph = agree(Fn(lambda m, x: m.rnn(x)[0], rnn=nn.GRU(3, 4)), example(6, 3), batches=(1, 1))
    assert graph.meta["axes"] == {"inputs": ["TF"], "outputs": ["TF"]}


def test_a_batch_of_one_that_is_squeezed() -> None:
    module = Fn(lambda m, x: m.rnn(x.squeeze(0))[0][-1], rnn=nn.GRU(3, 4))
    graph = agree(module, example(1, 6, 3), batches=(1, 1))
    assert graph.meta["axes"] == {"inputs": ["BTF"], "outputs": ["F"]}
    module = Fn(lambda m, x: m.rnn(x.view(-1, 1, 3))[0], rnn=nn.GRU(3, 4))
    assert agree(module, example(1, 6, 3), batches=(1, 1)).meta["axes"]["outputs"] == ["T1F"]


def test_a_layer_called_twice() -> None:
    graph = agree(
        Fn(lambda m, x: m.rnn(m.rnn(x)[0] + x)[0], rnn=nn.GRU(3, 3, batch_first=True)),
        example(2, 6, 3),
    )
    names = [n.name for _, n in graph.walk()]
    states = [s.name for s in to_step(graph).states]
    assert len(set(names)) == len(names) and len(set(states)) == 2


@pytest.mark.parametrize("size", [1, 4])
def test_a_length_equal_to_every_other_size(size: int) -> None:
    def forward(m: Any, x: Any) -> Any:
        y = m.rnn(m.fc(x))[0].transpose(1, 2)
        y = m.bn(y).transpose(1, 2)
        return y + x, y[:, -1]

    module = Fn(
        forward, fc=nn.Linear(4, 4), rnn=nn.GRU(4, 4, batch_first=True), bn=nn.BatchNorm1d(4)
    )
    agree(module, example(size, 4, 4))


# -- classifiers and residual nets ---------------------------------------------------------------


class Classifier(nn.Module):
    def __init__(self, cell: str = "GRU") -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("std", torch.rand(6) + 0.5)
        self.norm = nn.LayerNorm(6)
        self.rnn = getattr(nn, cell)(6, 8, 2, batch_first=True, dropout=0.3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        y, _ = self.rnn(self.norm((x - self.mean) / self.std))
        return self.head(self.drop(y[:, -1]))


@pytest.mark.parametrize("cell", ["RNN", "GRU", "LSTM"])
def test_classifier(cell: str) -> None:
    module = Classifier(cell).train()
    graph = agree(module, example(2, 16, 6), lengths=(5, 23, 100), batches=(1, 3, 2))
    assert ops(graph) == ["sub", "mul", "norm", "scan", "scan", "last", "linear"]
    assert [n.name for n in graph.nodes] == [
        "sub",
        "div",
        "norm",
        "rnn.l0",
        "rnn.l1",
        "select.last",
        "head",
    ]


def test_training_flags_are_restored() -> None:
    module = Classifier().train()
    module.norm.eval()
    from_torch(module, example(2, 8, 6))
    assert module.training and module.rnn.training and not module.norm.training


def test_residual_blocks() -> None:
    def forward(m: Any, x: Any) -> Any:
        for _ in range(2):
            x = x + m.fc(m.rnn(m.norm(x))[0])
        return m.head(F.relu(x))

    module = Fn(
        forward,
        norm=nn.LayerNorm(4, elementwise_affine=False),
        rnn=nn.LSTM(4, 6, batch_first=True),
        fc=nn.Linear(6, 4, bias=False),
        head=nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
    )
    graph = agree(module, example(2, 6, 4))
    assert len({n.name for n in graph.nodes}) == len(graph.nodes)


def test_text_form_survives() -> None:
    graph = agree(Classifier(), example(2, 6, 6))
    assert to_text(from_text(to_text(graph))) == to_text(graph)


def test_look_ahead_is_none() -> None:
    module = randomise(
        Fn(
            lambda m, x: m.fc(m.rnn(x)[0]),
            rnn=nn.GRU(3, 4, 2, batch_first=True),
            fc=nn.Linear(4, 2),
        )
    )
    graph = from_torch(module, example(2, 6, 3))
    x = np.random.default_rng(0).normal(size=(1, 9, 3))
    (before,) = run(graph, x)
    for t in range(9):
        changed = x.copy()
        changed[:, t] += 1
        (after,) = run(graph, changed)
        differs = np.any(before != after, axis=(0, 2))
        assert not differs[:t].any() and differs[t]


# -- operators on frames -------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "elu_alpha": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, 1.7),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x, beta=2.0),
    "softsign": F.softsign,
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
    "glu": lambda x: F.glu(x, -1),
    "clamp": lambda x: x.clamp(-0.2, 0.4),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "abs": torch.abs,
    "square": lambda x: x**2 + x.square() + x.pow(3),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.25])),
}

ARITHMETIC = {
    "scalars": lambda x: (2 * x - 1) / 4 + (1 - x),
    "negation": lambda x: -x,
    "alpha": lambda x: torch.add(x, x * x, alpha=0.5) - torch.sub(x, 1.0, alpha=3),
    "table": lambda x: x * torch.arange(4.0) + torch.linspace(0, 1, 4),
    "max_min": lambda x: torch.maximum(x, 0.5 * x) + torch.minimum(x, x * x),
    "gate": lambda x: x * torch.sigmoid(x[..., :1]),
    "mean": lambda x: x - x.mean(-1, keepdim=True),
    "sum": lambda x: x.sum(-1),
    "half": lambda x: torch.cat([x[..., 2:], x[..., :2]], -1),
    "split": lambda x: torch.cat(list(reversed(x.split([1, 3], dim=2))), 2),
    "chunks": lambda x: (lambda a, b: a * b)(*x.chunk(2, -1)),
    "unbind": lambda x: torch.stack(list(reversed(x.unbind(-1))), -1),
    "select": lambda x: x[..., 1] + x[..., -1],
    "heads": lambda x: x.view(x.shape[0], x.shape[1], 2, 2)[:, :, 1, :].flatten(2),
    "middle": lambda x: torch.cat([x.unflatten(2, (2, 2))[:, :, :1], x.unflatten(2, (2, 2))], 2),
    "frames": lambda x: F.relu(x.reshape(-1, 4)).view(x.shape[0], -1, 4),
    "detour": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0).clone(),
    "channels": lambda x: (x.transpose(1, 2) * torch.arange(4.0)[:, None]).transpose(1, 2),
    "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1) + x.unsqueeze(-1).squeeze(-1),
    "whole_slice": lambda x: x[:, :, :][:, 0:],
    "matmul": lambda x: x @ torch.arange(12.0).view(4, 3) + torch.ones(3),
    "vector": lambda x: x @ torch.arange(4.0),
    "point_wise": lambda x: (torch.arange(12.0).view(3, 4) @ x.transpose(1, 2)).transpose(1, 2),
    "in_place": lambda x: x.clone().add_(1).relu_().mul_(2),
    "uniform": lambda x: x + torch.ones(x.shape[0], x.shape[1], 1),
    "norm_over_two": lambda x: F.layer_norm(x.view(*x.shape[:2], 2, 2), (2, 2)),
}


@pytest.mark.parametrize("group", [ACTIVATIONS, ARITHMETIC], ids=["activations", "arithmetic"])
def test_operators(group: dict[str, Callable[[Any], Any]]) -> None:
    # One export for all of them: exporting is what takes time.
    graph = agree(Fn(lambda m, x: tuple(fn(x) for fn in group.values())), example(2, 6, 4))
    assert all(graph.types[v].time is not None for v in graph.outputs)


@pytest.mark.parametrize("flip", [False, True])
def test_batch_norm_in_evaluation(flip: bool) -> None:
    norm = nn.BatchNorm1d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    agree(
        Fn(lambda m, x: m.bn(x.transpose(1, 2)).transpose(1, 2), bn=norm).train(flip),
        example(2, 6, 4),
    )


def test_weight_norm_is_folded() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    graph = agree(Fn(lambda m, x: m.fc(x), fc=linear), example(2, 6, 4))
    assert ops(graph) == ["linear"]


def test_prelu_per_channel() -> None:
    agree(Fn(lambda m, x: m.act(x.transpose(1, 2)), act=nn.PReLU(4)), example(2, 6, 4))


def test_two_inputs_and_outputs() -> None:
    graph = agree(
        Fn(lambda m, a, b: (m.rnn(torch.cat([a, b], -1))[0], a + 1), rnn=nn.GRU(5, 4)),
        example(6, 2, 3),
        example(6, 2, 2),
    )
    assert [str(graph.types[v]) for v in graph.inputs] == ["f32[3]@t", "f32[2]@t"]


def test_axes_can_be_given() -> None:
    module = Fn(lambda m, x: m.fc(x.transpose(1, 2)), fc=nn.Linear(4, 3))
    graph = agree(module, example(2, 4, 6), time_axis=2, batch_axis=0)
    assert graph.meta["axes"] == {"inputs": ["BFT"], "outputs": ["BTF"]}


def test_time_behind_the_features_of_a_recurrence() -> None:
    module = Fn(
        lambda m, x: x + m.rnn(x.transpose(1, 2))[0].transpose(1, 2),
        rnn=nn.GRU(4, 4, batch_first=True),
    )
    graph = agree(module, example(2, 4, 6))
    assert graph.meta["axes"] == {"inputs": ["BFT"], "outputs": ["BFT"]}


def test_windows_along_the_axis_of_their_length() -> None:
    module = Fn(
        lambda m, x: m.rnn(x.permute(0, 3, 1, 2).flatten(2))[0][:, -1],
        rnn=nn.GRU(10, 4, batch_first=True, bidirectional=True),
    )
    graph = from_torch(module.eval(), example(1, 2, 5, 9), window=9, hop=3)
    assert (graph.meta["window"], graph.types[graph.inputs[0]].shape) == (9, (3, 2, 5))


def test_one_feature() -> None:
    agree(
        Fn(lambda m, x: m.fc(m.rnn(x.unsqueeze(-1))[0]).squeeze(-1),
           rnn=nn.GRU(1, 3, batch_first=True), fc=nn.Linear(3, 1)),
        example(2, 6), time_axis=1, batch_axis=0,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_random_stacks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = bool(rng.integers(2))
    width, blocks = int(rng.integers(2, 7)), []
    start = width
    for _ in range(int(rng.integers(1, 4))):
        out = int(rng.integers(2, 7))
        kind = ["RNN", "GRU", "LSTM", "Linear", "LayerNorm"][rng.integers(5)]
        if kind == "Linear":
            blocks.append(nn.Linear(width, out, bias=bool(rng.integers(2))))
            width = out
        elif kind == "LayerNorm":
            blocks.append(nn.LayerNorm(width))
        else:
            blocks.append(
                getattr(nn, kind)(
                    width,
                    out,
                    int(rng.integers(1, 3)),
                    batch_first=first,
                    bias=bool(rng.integers(2)),
                )
            )
            width = out
        blocks.append([nn.ReLU(), nn.Tanh(), nn.GELU()][rng.integers(3)])

    def forward(m: Any, x: Any) -> Any:
        for block in m.blocks:
            y = block(x)
            y = y[0] if isinstance(y, tuple) else y
            x = x + y if y.shape == x.shape else y
        return x

    length = int(rng.integers(2, 9))
    shape = (2, length, start) if first else (length, 2, start)
    module = Fn(forward, blocks=nn.ModuleList(blocks))
    recurrent = any(isinstance(b, nn.RNNBase) for b in blocks)
    options = {} if recurrent or first else {"time_axis": 0}
    agree(module, example(*shape), **options)
