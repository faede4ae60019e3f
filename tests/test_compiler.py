"""Choosing models for tiers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeseq.compiler import placed  # noqa: E402
from edgeseq.compiler.candidate import Candidate, make_candidate  # noqa: E402
from edgeseq.compiler.models import Model, Silent  # noqa: E402
from edgeseq.frontend import from_torch  # noqa: E402
from edgeseq.quant import QuantOptions  # noqa: E402
from edgeseq.target import Tier, load_target  # noqa: E402


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = torch.nn.GRU(3, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    torch.manual_seed(0)
    frames = np.random.default_rng(0).normal(size=(4, 40, 3))
    graph = from_torch(Net(), torch.zeros(1, 8, 3))
    model = Model("gru8", "net", "a test", "gru", graph, None, [frames], [frames[:1]])
    return make_candidate(model, QuantOptions(), Silent())


def test_nothing_runs_for_a_model_that_fits_no_tier(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it was emulated")

    monkeypatch.setattr(placed, "Emulator", refuse)
    tiers = [Tier("tiny", 100, 10_000), Tier("cramped", 100_000, 10)]
    result = placed.place(candidate, load_target("cortex-m4"), Silent(), 10, tiers)
    assert result.instructions.mean is None and "fits no tier" in result.instructions.method
    assert "bytes of flash, the tier has 100" in str(placed.shortfall(result, tiers[0]))
    assert "bytes of RAM, the tier has 10" in str(placed.shortfall(result, tiers[1]))


def test_each_limit_counts(candidate: Candidate) -> None:
    target = load_target("cortex-m4")
    result = placed.place(candidate, target, Silent(), 10, list(target.tiers.values()))
    flash, ram = result.memory.flash.total, result.memory.ram.total
    assert result.memory.ram.stack is not None and result.seconds is not None
    exact = Tier("exact", flash, ram, result.seconds)
    assert placed.shortfall(result, exact) is None
    for less in (
        replace(exact, flash_bytes=flash - 1),
        replace(exact, ram_bytes=ram - 1),
        replace(exact, latency_s=result.seconds * 0.99),
    ):
        assert placed.shortfall(result, less) is not None
