"""What cannot be compiled is said once, completely, with a way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional

from edgeseq.errors import ModelError, UnsupportedError  # noqa: E402
from edgeseq.frontend.torch_export import from_torch  # noqa: E402


class Fn(nn.Module):
    def __init__(self, forward: Callable[..., Any], **children: Any) -> None:
        super().__init__()
        for key, child in children.items():
            self.add_module(key, child)
        self.fn = forward

    def forward(self, *xs: Any) -> Any:
        return self.fn(self, *xs)


def gru(**options: Any) -> Any:
    return nn.GRU(4, 4, batch_first=True, **options)


def message(module: Any, *example: Any, **options: Any) -> str:
    with pytest.raises(UnsupportedError) as caught:
        from_torch(module, example or torch.randn(2, 6, 4), **options)
    assert "\n  -> " in str(caught.value)
    return str(caught.value)


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.rnn = gru()

    def forward(self, x: Any) -> Any:
        a = self.conv(x.transpose(1, 2)).transpose(1, 2)
        b = torch.argmax(self.rnn(x)[0], -1)
        return a, b, torch.cumsum(x, 1), torch.topk(x, 2)[0]


def test_all_problems_are_listed() -> None:
    with pytest.raises(UnsupportedError) as caught:
        from_torch(Many(), torch.randn(2, 6, 4))
    text, problems = str(caught.value), caught.value.problems
    assert "3 operations cannot be compiled" in text
    assert {p[0].split(".")[1] for p in problems} == {"argmax", "cumsum", "topk"}
    assert "aten.conv1d" not in text


def test_unused_problems_do_not_matter() -> None:
    from_torch(Fn(lambda m, x: (F.softmax(x, -1), m.rnn(x)[0])[1], rnn=gru()), torch.randn(2, 6, 4))


MIXED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "flatten": (lambda x: F.linear(x.flatten(1), torch.ones(2, 24)), "mixture of time"),
    "view": (lambda x: x.view(2, 4, 6), "cuts across time"),
    "halves": (lambda x: x.view(2, 3, 2, 4), "cuts across time"),
    "frame": (lambda x: x[:, 3], "selects frame 3"),
    "literal": (lambda x: x[:, 5], "write y"),
    "mean": (lambda x: x.mean(1), "reduces over time"),
    "batch": (lambda x: x - x.mean(0), "reduces over the batch"),
    "one": (lambda x: x[0], "one sequence of the batch"),
    "positions": (lambda x: x + torch.arange(24.0).view(6, 4),
                  "varies over time"),
    "last": (lambda x: x - x[:, -1:], "last frame"),
    "over_time": (lambda x: F.linear(x.transpose(1, 2), torch.ones(3, 6)), "which is time"),
    "join": (lambda x: torch.cat([x, x], 1), "along time"),
    "norm": (lambda x: F.layer_norm(x, (6, 4)), "holds time"),
    "loop": (lambda x: torch.stack([x[:, i] * i for i in range(6)], 1), "a loop over the frames"),
    "attention": (lambda x: (x @ x.transpose(1, 2)) @ x, "how many past frames"),
    "flip": (lambda x: x.flip(1), "cannot be reversed"),
    "integer": (lambda x: x.long(), "converts to integers"),
    "merged_output": (lambda x: x.flatten(0, 1), "merges"),
    "constant_output": (lambda x: (x, torch.ones(3)), "does not depend"),
}  # fmt: skip


@pytest.fixture(scope="module")
def mixed_problems() -> str:
    # One export for all of them: exporting is what takes time.
    def forward(m: Any, x: Any) -> Any:
        return tuple(
            y
            for fn, _ in MIXED.values()
            for y in [fn(x)]
            for y in (y if isinstance(y, tuple) else (y,))
        )

    return message(Fn(forward))


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_time_is_refused(name: str, mixed_problems: str) -> None:
    assert MIXED[name][1] in mixed_problems


def test_length_in_the_arithmetic_is_found_by_comparing() -> None:
    text = message(Fn(lambda m, x: x / x.shape[1]))
    assert "differs" in text and "length" in text


def test_random_modules_are_found() -> None:
    assert "two calls on the same input" in message(Fn(lambda m, x: x + torch.rand(1)))


def test_batch_norm_in_training_mode_is_evaluated() -> None:
    module = Fn(lambda m, x: m.bn(x.transpose(1, 2)), bn=nn.BatchNorm1d(4)).train()
    before = module.bn.running_mean.clone()
    from_torch(module, torch.randn(2, 6, 4))
    assert torch.equal(module.bn.running_mean, before) and module.bn.training


def test_bidirectional_last_state() -> None:
    module = Fn(lambda m, x: m.rnn(x)[1].transpose(0, 1).flatten(1), rnn=gru(bidirectional=True))
    assert "backward direction" in message(module)


def test_states_from_outside() -> None:
    module = Fn(lambda m, x, h: m.rnn(x, h)[0], rnn=gru())
    assert "starts from a state" in message(module, torch.randn(2, 6, 4), torch.randn(1, 2, 4))
    noise = torch.randn(1, 2, 4)
    module = Fn(lambda m, x: m.rnn(x, noise)[0], rnn=gru())
    assert "differs within the batch" in message(module)


def test_packed_sequences() -> None:
    def forward(m: Any, x: Any) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4]), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(m.rnn(packed)[0], batch_first=True)[0]

    message(Fn(forward, rnn=gru()))


def test_control_flow_on_data() -> None:
    assert "cannot export" in message(Fn(lambda m, x: x if x.sum() > 0 else -x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_modules() -> None:
    scripted = torch.jit.script(nn.Linear(4, 4))
    assert "ScriptModule" in message(scripted)


def test_layers_that_disagree_about_the_batch() -> None:
    module = Fn(lambda m, x: m.a(x)[0] + m.b(x)[0], a=gru(), b=nn.GRU(4, 4))
    assert "another order" in message(module)
    assert "another order" in message(Fn(lambda m, x: m.a(x)[0], a=gru()), time_axis=0)


def test_bad_examples() -> None:
    module = Fn(lambda m, x: m.rnn(x)[0], rnn=gru())
    with pytest.raises(ModelError, match="fails on the example"):
        from_torch(module, torch.randn(2, 6, 5))
    with pytest.raises(ModelError, match="one frame"):
        from_torch(module, torch.randn(2, 1, 4))
    with pytest.raises(ModelError, match="example of tensors"):
        from_torch(module, [1, 2])
    with pytest.raises(ModelError, match="needs an nn.Module"):
        from_torch(len, torch.randn(2, 6, 4))
