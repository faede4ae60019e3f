"""Pieces of time and of frames: unfold, im2col, pools, differences, sums of several operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exported_models import Fn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgeseq.errors import UnsupportedError  # noqa: E402
from edgeseq.frontend import from_torch  # noqa: E402
from edgeseq.ir import Interpreter  # noqa: E402
from edgeseq.ir.io import prepare  # noqa: E402
from edgeseq.passes import to_step  # noqa: E402

T = 24
W, V = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.eye(6)[:, :3]


def numbers(frames: int, size: int = 5) -> Any:
    """Of the frames of every piece: [pieces, size]."""
    return torch.arange(frames - size + 1)[:, None] + torch.arange(size)


def framed(x: Any, front: int, back: int = 0) -> Any:
    return F.pad(x, (0, 0, front, back))


# By name: what is computed of [1, T, 6], and the frames by which the stream is late.
SEQUENCES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "three operands": (lambda x: torch.einsum("btd,df,btd->btf", x, W, x), 0),
    "two matrices": (lambda x: torch.einsum("btd,df,dg->btfg", x, W, V).flatten(2), 0),
    "four operands": (lambda x: torch.einsum("btd,df,dg,bth->btfgh", x, W, V, x).flatten(2), 0),
    "a letter of a constant alone": (lambda x: torch.einsum("btd,fg->btg", x, W), 0),
    "letters of both alone": (lambda x: torch.einsum("btd,ef->bt", x, W)[..., None], 0),
    "differences of features": (lambda x: torch.diff(x, n=2), 0),
    "differences of frames": (lambda x: torch.diff(x, dim=1), 1),
    "after a frame of zeros": (lambda x: torch.diff(x, dim=1, prepend=x.new_zeros(1, 1, 6)), 0),
    "pieces after zeros": (lambda x: framed(x, 4).unfold(1, 5, 1).flatten(2), 0),
    "pieces around": (lambda x: framed(x, 2, 2).unfold(1, 5, 1).mean(-1), 2),
    "pieces alone": (lambda x: x.unfold(1, 5, 1).flatten(2), 4),
    "pieces by number": (lambda x: x[:, numbers(x.shape[1])].flatten(2), 4),
    "pieces by number, turned": (lambda x: framed(x, 4)[:, numbers(x.shape[1] + 4).T].mean(1), 0),
    "pieces of features": (lambda x: x.unfold(2, 3, 1).flatten(2), 0),
    "greatest after zeros": (lambda x: F.max_pool1d(framed(x, 4).mT, 5, 1).mT, 0),
    "greatest around": (lambda x: F.max_pool1d(x.mT, 5, 1, 2).mT, 2),
    "greatest around, far apart": (lambda x: F.max_pool1d(x.mT, 5, 1, 2, dilation=2).mT, 6),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_pieces_stream(name: str) -> None:
    fn, late = SEQUENCES[name]
    x = torch.randn(1, T, 6, generator=torch.Generator().manual_seed(1)) - 0.5
    want = fn(x).numpy()[0]
    step = to_step(from_torch(Fn(lambda m, x: fn(x)), x, time_axis=1))
    frames = prepare(step, step.inputs[0], x.numpy().astype(np.float64))
    got = Interpreter(step).sequence(frames)[0][0].reshape(T, -1)[late:]
    assert step.meta["delay"] == late
    n = min(len(got), len(want))
    assert n >= T - late - 4
    assert np.abs(got[:n] - want[:n].reshape(n, -1)).max() < 1e-5


STRIDED: dict[str, Callable[[Any], Any]] = {
    "greatest, strided": lambda x: F.max_pool1d(x.mT, 3, 2, 1).mT,
    "pieces, strided": lambda x: framed(x, 2).unfold(1, 4, 2).flatten(2),
}


@pytest.mark.parametrize("name", STRIDED)
def test_strided_pieces_stream(name: str) -> None:
    fn = STRIDED[name]
    x = torch.randn(1, T, 6, generator=torch.Generator().manual_seed(1)) - 0.5
    want = fn(x).numpy()[0]
    step = to_step(from_torch(Fn(lambda m, x: fn(x)), x, time_axis=1))
    got = Interpreter(step).sequence(x.numpy().astype(np.float64).reshape(1, T, 6))[0][0]
    assert step.meta["delay"] == 0
    assert np.abs(got.reshape(len(want), -1) - want).max() < 1e-5


@pytest.mark.parametrize("kernel, stride, pad", [((3, 3), 1, 1), ((3, 2), (1, 2), (1, 1))])
def test_pools_over_time_and_bands(kernel: Any, stride: Any, pad: Any) -> None:
    x = torch.randn(1, 2, T, 6, generator=torch.Generator().manual_seed(1)) - 1.0
    want = F.max_pool2d(x, kernel, stride, pad).transpose(1, 2).numpy()[0]
    step = to_step(from_torch(Fn(lambda m, x: F.max_pool2d(x, kernel, stride, pad)), x))
    frames = x.transpose(1, 2).numpy().astype(np.float64)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0][0][1:]
    assert np.abs(got.reshape(T - 1, -1) - want[: T - 1].reshape(T - 1, -1)).max() < 1e-6


@pytest.mark.parametrize("shape", ["over bands", "over time and bands"])
def test_what_a_kernel_reads_of_bands(shape: str) -> None:
    def forward(m: Any, x: Any) -> Any:
        if shape == "over bands":
            return F.unfold(x, (1, 3), padding=(0, 1), stride=(1, 2)).reshape(1, 6, T, 3)
        return F.unfold(F.pad(x, (0, 0, 1, 0)), (2, 3), padding=(0, 1)).reshape(1, 12, T, 6)

    x = torch.randn(1, 2, T, 6, generator=torch.Generator().manual_seed(1))
    want = forward(None, x).transpose(1, 2).numpy()[0].reshape(T, -1)
    step = to_step(from_torch(Fn(forward), x))
    frames = x.transpose(1, 2).numpy().astype(np.float64)
    got = Interpreter(step).sequence(frames)[0][0].reshape(T, -1)
    assert np.abs(got - want).max() < 1e-6


def test_the_shape_of_what_cannot_be_had() -> None:
    """Zeros in the shape of the first frame: the frame itself is not read."""
    x = torch.randn(1, T, 6)
    step = to_step(
        from_torch(Fn(lambda m, x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)), x)
    )
    got = Interpreter(step).sequence(x.numpy().astype(np.float64))[0][0]
    assert np.array_equal(got[1:], x.numpy()[0, :-1]) and not got[0].any()


def test_padded_frames_of_one_batch() -> None:
    x = torch.randn(1, 6, T, generator=torch.Generator().manual_seed(1))
    m = Fn(lambda m, x: F.pad(W[:6, :3].T @ x, (2, 0)).unbind(0)[0])
    step = to_step(from_torch(m, x, time_axis=2))
    frames = x.numpy().astype(np.float64).transpose(0, 2, 1)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0][0]
    assert step.meta["delay"] == 0
    assert np.abs(got.reshape(T, 3) - m(x).numpy().T[:T]).max() < 1e-5


@pytest.mark.parametrize("start", [torch.zeros_like, lambda f: torch.full_like(f, 0.25)])
def test_a_loop_starts_in_the_shape_of_a_frame(start: Callable[[Any], Any]) -> None:
    """The first frame is read for its shape alone."""

    def forward(m: Any, x: Any) -> Any:
        h, f, ys = start(x[:, 0, :3]), torch.sigmoid(x), []
        for t in range(x.shape[1]):
            h = f[:, t, :3] * h + (1 - f[:, t, :3]) * torch.tanh(x[:, t] @ W @ W.T)[:, :3]
            ys.append(h)
        return torch.stack(ys, 1)

    x = torch.randn(1, T, 6, generator=torch.Generator().manual_seed(1))
    step = to_step(from_torch(Fn(forward), x, time_axis=1))
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], x.numpy().astype(np.float64)))
    assert np.abs(got[0][0].reshape(T, 3) - forward(None, x).numpy()[0]).max() < 1e-5


def test_a_padding_between_the_taps_is_refused() -> None:
    x = torch.randn(1, 6, T)
    with pytest.raises(UnsupportedError, match="multiple of the dilation"):
        from_torch(Fn(lambda m, x: F.max_pool1d(x, 3, 1, 1, dilation=2)), x, time_axis=2)


def test_the_error_is_that_of_the_likelier_axis() -> None:
    """Time is the last axis of [batch, channels, time]: not that the channels cannot be time."""
    x = torch.randn(1, 6, T)
    with pytest.raises(UnsupportedError, match="sums over all frames so far"):
        from_torch(Fn(lambda m, x: m.c(x).cumsum(2), c=torch.nn.Conv1d(6, 4, 1)), x)


POOLS: dict[str, Callable[[Any], Any]] = {
    "greatest": lambda x: F.max_pool1d(x.flatten(2), 2),
    "mean": lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
    "greatest of two axes": lambda x: F.max_pool2d(x, (2, 3), padding=(1, 1)),
    "mean of two axes": lambda x: F.avg_pool2d(x, 2, padding=1, count_include_pad=False),
    "after a transposition": lambda x: F.max_pool2d(x.transpose(2, 3), (3, 2)).transpose(2, 3),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools_of_each_frame(name: str) -> None:
    """Time where a pool has its channels: [batch, time, features...]."""
    x = torch.randn(1, T, 4, 6, generator=torch.Generator().manual_seed(1))
    m = Fn(lambda m, x: POOLS[name](m.lin(x)), lin=torch.nn.Linear(6, 6)).eval()
    step = to_step(from_torch(m, x))
    want = m(x).detach().numpy()[0]
    got = Interpreter(step).sequence(x.numpy().astype(np.float64))[0][0]
    assert not step.states and np.abs(got.reshape(want.shape) - want).max() < 1e-6


def test_bands_beside_each_other_of_all_frames() -> None:
    """As in FullSubNet: the kernel reaches over all frames, and each band sees its neighbours."""

    def forward(m: Any, x: Any) -> Any:
        n, _, bands, t = x.shape
        seen = F.unfold(F.pad(x, (0, 0, 1, 1), mode="reflect"), (3, t)).view(n, 3, t, bands)
        seen = seen.permute(0, 3, 1, 2).reshape(n * bands, 3, t)
        y = m.rnn(seen.transpose(1, 2))[0]
        return y.reshape(n, bands, t, 2).permute(0, 2, 1, 3).flatten(2)

    m = Fn(forward, rnn=torch.nn.GRU(3, 2, batch_first=True)).eval()
    x = torch.randn(1, 1, 6, T, generator=torch.Generator().manual_seed(1))
    step = to_step(from_torch(m, x, time_axis=3))
    frames = x[:, 0].transpose(1, 2).numpy().astype(np.float64)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0][0]
    want = m(x).detach().numpy()[0]
    assert step.meta["delay"] == 0 and np.abs(got.reshape(want.shape) - want).max() < 1e-5
