"""Scores of past frames in saved PyTorch programs: right, or refused, whatever reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

from exported_models import Fn  # noqa: E402
from test_frontend_torch_fuzz import compared, saved  # noqa: E402

from edgeseq.errors import UnsupportedError  # noqa: E402
from edgeseq.frontend.options import ImportOptions  # noqa: E402
from edgeseq.frontend.pt2 import load_pt2  # noqa: E402

T = 12
"""Frames of the example, and features of a frame: sizes tell distances and features apart no more
than they do frames."""


class Attending(Fn):
    """A module of one input."""

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def causal(s: Any, by: float = float("-inf")) -> Any:
    return s.masked_fill(torch.ones(T, T).triu(1).bool(), by)


def attending(use: Callable[[Any, Any, Any], Any], **layers: nn.Module) -> nn.Module:
    """A module that makes something of scores, of weights and of its input."""

    def forward(m: Any, x: Any) -> Any:
        s = m.q(x) @ m.k(x).mT / 2
        return use(s, causal(s).softmax(-1), x)

    torch.manual_seed(0)
    return Attending(forward, q=nn.Linear(T, 4), k=nn.Linear(T, 4), **layers).eval()


def save(module: nn.Module, folder: Path) -> Path:
    return saved(module, [torch.randn(1, T, T)], folder / "m.pt2", None)


def load(path: Path, context: int = T) -> Any:
    return load_pt2(path, options=ImportOptions(time_axis=1, context=context))


OTHERWISE: dict[str, Callable[[Any, Any, Any], Any]] = {
    "returned": lambda s, w, x: w,
    "sum": lambda s, w, x: w.sum(-1),
    "mean of queries and keys": lambda s, w, x: w.unsqueeze(1).mean(1),
    "greatest": lambda s, w, x: w.amax(-1),
    "variance": lambda s, w, x: w.var(-1),
    "norm": lambda s, w, x: F.normalize(w, dim=-1) @ x,
    "prod": lambda s, w, x: w.prod(-1),
    "log_softmax": lambda s, w, x: causal(s, -1e4).log_softmax(-1).exp() @ x,
    "logsumexp": lambda s, w, x: causal(s, -1e4).logsumexp(-1),
    "softmax of queries": lambda s, w, x: s.softmax(-2) @ x,
    "layer norm": lambda s, w, x: F.layer_norm(w, [T]) @ x,
    "rms norm": lambda s, w, x: F.rms_norm(w, [T]) @ x,
    "pooling": lambda s, w, x: F.max_pool1d(w, 3, 1, 1) @ x,
    "convolution": lambda s, w, x: F.conv1d(w, torch.ones(1, T, 1)),
    "gather": lambda s, w, x: w.gather(-1, torch.zeros(1, T, 1).long()),
    "index_select": lambda s, w, x: w.index_select(-1, torch.tensor([0, 3])),
    "all of them by number": lambda s, w, x: w[..., torch.arange(T - 1, -1, -1)] @ x,
    "cumsum": lambda s, w, x: w.cumsum(-1) @ x,
    "cat": lambda s, w, x: torch.cat([w, x], -1),
    "stack": lambda s, w, x: torch.stack([w, w], -1),
    "flip": lambda s, w, x: w.flip(-1) @ x,
    "roll": lambda s, w, x: w.roll(1, -1) @ x,
    "slice": lambda s, w, x: w[..., :3],
    "select": lambda s, w, x: w[..., 0],
    "chunk": lambda s, w, x: w.chunk(2, -1)[0],
    "pad": lambda s, w, x: F.pad(w, (1, 0))[..., :T] @ x,
    "view": lambda s, w, x: w.reshape(1, T, 3, 4),
    "transpose": lambda s, w, x: w.mT,
    "transposed twice": lambda s, w, x: (w.mT * x.mT).mT @ x,
    "unsqueezed": lambda s, w, x: w[..., None].sum(-2),
    "repeated": lambda s, w, x: w.repeat(1, 1, 2),
    "constant matrix": lambda s, w, x: w @ torch.ones(T, 2),
    "layer": lambda s, w, x: F.linear(w, torch.ones(2, T)),
    "constant from the left": lambda s, w, x: torch.ones(T, T) @ w,
    "weights of weights": lambda s, w, x: w @ w @ x,
    "bmm": lambda s, w, x: torch.bmm(w, w),
    "einsum of a constant": lambda s, w, x: torch.einsum("bts,sd->btd", w, torch.ones(T, 2)),
    "einsum of weights": lambda s, w, x: torch.einsum("bts,bsu->btu", w, w) @ x,
    "einsum by features": lambda s, w, x: torch.einsum("btd,bsd->bts", x, w),
    "queries of weights": lambda s, w, x: F.scaled_dot_product_attention(w, x, x, is_causal=True),
    "keys of weights": lambda s, w, x: F.scaled_dot_product_attention(x, w, x, is_causal=True),
    "values of weights": lambda s, w, x: F.scaled_dot_product_attention(x, x, w, is_causal=True),
    "features of a frame": lambda s, w, x: (w + x) @ x,
    "chosen by features": lambda s, w, x: torch.where(x > 0, w, 0.0) @ x,
    "chosen by themselves": lambda s, w, x: torch.where(w > 0.1, w, 0.0) @ x,
    "a constant per frame": lambda s, w, x: (w * torch.arange(T)) @ x,
    "the number of scores": lambda s, w, x: (w + w.new_ones(T)) @ x,
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_scores_used_otherwise_are_refused(kind: str, tmp_path: Path) -> None:
    path = save(attending(OTHERWISE[kind]), tmp_path)
    for context in (T, 20):
        with pytest.raises(UnsupportedError):
            load(path, context)


def test_what_is_to_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="scores that frames give to past ones"):
        load(save(attending(OTHERWISE["cumsum"]), tmp_path))


LOOKING_AHEAD: dict[str, Callable[[Any, Any, Any], Any]] = {
    "no mask": lambda s, w, x: s.softmax(-1) @ x,
    "beside masked ones": lambda s, w, x: w @ x + s @ x,
    "before a mask of ones": lambda s, w, x: (s + causal(torch.zeros(T, T))) @ x + s.tanh() @ x,
    "one bias for all": lambda s, w, x: (s + torch.ones(1, 1, 1)).softmax(-1) @ x,
    "a curve of masked ones": lambda s, w, x: causal(s).tanh().softmax(-1) @ x,
    "a curve of the mask": lambda s, w, x: causal(s, -1e4).tanh() @ x,
    "a bound": lambda s, w, x: causal(s).clamp(-5, 5).softmax(-1) @ x,
    "plus a number": lambda s, w, x: (w + 0.1) @ x,
    "plus one more": lambda s, w, x: (w + s) @ x,
    "an exponential of weights": lambda s, w, x: w.exp() @ x,
    "a softmax of weights": lambda s, w, x: w.softmax(-1) @ x,
    "the mask turned": lambda s, w, x: (-causal(s)).softmax(-1) @ x,
    "the mask made small": lambda s, w, x: (causal(s, -1e4) * 1e-4).softmax(-1) @ x,
    "no softmax": lambda s, w, x: causal(s, -1e4) @ x,
}


@pytest.mark.parametrize("kind", LOOKING_AHEAD)
def test_frames_to_come_never_count(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="have not come|that frames give"):
        load(save(attending(LOOKING_AHEAD[kind]), tmp_path))


RIGHT: dict[str, Callable[[Any, Any, Any], Any]] = {
    "softmax": lambda s, w, x: w @ x,
    "scaled": lambda s, w, x: (w * 0.5) @ x,
    "squared": lambda s, w, x: (w * w).sqrt() @ x,
    "sum of weights": lambda s, w, x: (w + causal(2 * s).softmax(-1)) @ x,
    "times scores": lambda s, w, x: (w * s) @ x,
    "sigmoid": lambda s, w, x: causal(s).sigmoid() @ x,
    "relu": lambda s, w, x: causal(s).relu() @ x,
    "without a softmax": lambda s, w, x: s.tril() @ x,
    "factors": lambda s, w, x: (s * torch.ones(T, T).tril()) @ x,
    "fading factors": lambda s, w, x: (s * (0.9 ** (torch.arange(T)[:, None] - torch.arange(T))
                                            ).tril()) @ x,
    "filled with zeros": lambda s, w, x: causal(s, 0.0) @ x,
    "a bias by distance": lambda s, w, x: causal(
        s - 0.3 * (torch.arange(T)[:, None] - torch.arange(T)).abs()).softmax(-1) @ x,
    "a bias after the mask": lambda s, w, x: (
        causal(s) + 0.1 * (torch.arange(T)[:, None] - torch.arange(T))).softmax(-1) @ x,
    "per query": lambda s, w, x: (w * x.mean(-1, keepdim=True)) @ x,
    "einsum": lambda s, w, x: torch.einsum("bts,bsd->btd", w, x),
    "einsum from the right": lambda s, w, x: torch.einsum("bsd,bts->bdt", x, w),
    "a mask of their shape": lambda s, w, x: (s * torch.ones_like(s).tril()) @ x,
    "a new axis": lambda s, w, x: (w.unsqueeze(1) @ x.unsqueeze(1)).squeeze(1),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT)
def test_masked_scores_weight_past_frames(kind: str, tmp_path: Path) -> None:
    module = attending(RIGHT[kind])
    assert compared(load(save(module, tmp_path)), module, [torch.randn(1, T, T)]) == []
