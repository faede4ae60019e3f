"""Linear recurrences computed for all frames at once, beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from exported_models import Fn, compared  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgeseq.errors import UnsupportedError  # noqa: E402
from edgeseq.frontend import from_torch  # noqa: E402
from edgeseq.ir import Interpreter  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it exports

T, WIDTH = 12, 4


def halves(m: Any, x: Any) -> tuple[Any, Any]:
    a, b = m.lin(x).chunk(2, dim=-1)
    return a, b


def of_logarithms(m: Any, x: Any) -> Any:
    """The minimal GRU of Feng et al., appendix B."""
    gate, hidden = halves(m, x)
    keeps, takes = -F.softplus(gate), -F.softplus(-gate) + (F.relu(hidden) + 0.5).log()
    sums = keeps.cumsum(dim=1)
    return (sums + (takes - sums).logcumsumexp(dim=1)).exp()


def times_an_inverse(m: Any, x: Any) -> Any:
    a, b = halves(m, x)
    sums = (-F.softplus(a)).cumsum(1)
    return torch.exp(sums) * (b * torch.exp(-sums)).cumsum(1)


def divided(m: Any, x: Any) -> Any:
    a, b = halves(m, x)
    sums = (-F.softplus(a)).cumsum(-2)
    return (b / torch.exp(sums)).cumsum(1) * torch.exp(sums)


def of_products(m: Any, x: Any) -> Any:
    a, b = halves(m, x)
    grown = (torch.sigmoid(a) + 0.1).cumprod(1)
    return grown * (b / grown).cumsum(1)


SCANS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (of_logarithms, times_an_inverse, divided, of_products)
}


def module(body: Callable[..., Any]) -> Any:
    torch.manual_seed(4)
    return Fn(body, lin=nn.Linear(WIDTH, 2 * WIDTH)).eval()


@pytest.mark.parametrize("name", SCANS)
def test_in_a_stream(name: str) -> None:
    m, longer = module(SCANS[name]), torch.randn(1, 2 * T, WIDTH)
    compared(from_torch(m, longer[:, :T]), longer, m(longer).detach().numpy())


@pytest.mark.parametrize("name", SCANS)
def test_in_a_window(name: str) -> None:
    m, x = module(SCANS[name]), torch.randn(1, T, WIDTH)
    graph = from_torch(m, x, window=T, hop=T)
    got = Interpreter(graph)(x.numpy())[0]
    assert np.abs(got.reshape(T, -1) - m(x).detach().numpy()[0]).max() < 1e-5


def sums_of_another_axis(m: Any, x: Any) -> Any:
    a, b = halves(m, x)
    return torch.exp(a.cumsum(2)) * (b * torch.exp(-a.cumsum(1))).cumsum(1)


def another_inverse(m: Any, x: Any) -> Any:
    a, b = halves(m, x)
    sums = a.cumsum(1)
    return torch.exp(sums) * (b * torch.exp(-2.0 * sums)).cumsum(1)


def twice_the_sums(m: Any, x: Any) -> Any:
    a, b = halves(m, x)
    sums = a.cumsum(1)
    return torch.add(sums, torch.logcumsumexp(torch.sub(b, sums, alpha=2), 1)).exp()


def sums_read_again(m: Any, x: Any) -> Any:
    a, b = halves(m, x)
    sums = (-F.softplus(a)).cumsum(1)
    return torch.exp(sums) * (b * torch.exp(-sums)).cumsum(1) + 0.01 * sums


@pytest.mark.parametrize(
    "body", [sums_of_another_axis, another_inverse, twice_the_sums, sums_read_again]
)
def test_what_is_no_recurrence_is_refused(body: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedError, match="sums over all frames so far"):
        from_torch(module(body), torch.randn(1, T, WIDTH))
