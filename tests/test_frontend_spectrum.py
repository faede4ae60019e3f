"""Fourier transforms and complex numbers, beside PyTorch: both kinds of export, and ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")

from exported_models import Fn  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgeseq.errors import ModelError, UnsupportedError  # noqa: E402
from edgeseq.frontend import from_onnx, from_torch  # noqa: E402
from edgeseq.frontend.pt2 import load_pt2  # noqa: E402
from edgeseq.ir import Interpreter  # noqa: E402
from edgeseq.ir.blocks import delay_in_elements  # noqa: E402
from edgeseq.ir.io import prepare  # noqa: E402
from edgeseq.passes import to_step  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, while it exports

POINTS, HOP, SAMPLES = 32, 8, 160
BINS = POINTS // 2 + 1


class Layers(dict[str, nn.Module]):
    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(
            gru=nn.GRU(BINS, 5, batch_first=True),
            lin=nn.Linear(BINS, BINS),
            conv=nn.Conv1d(BINS, 6, 3),
            mix=nn.Linear(8, 8, bias=False),
        )


WINDOW = torch.hann_window(POINTS)


def stft(x: Any, **more: Any) -> Any:
    settings = {"window": WINDOW, "center": False, "return_complex": True, **more}
    return torch.stft(x, POINTS, HOP, **settings)


def power(z: Any) -> Any:
    """[..., T, bins] of [..., bins, T]"""
    return torch.view_as_real(z).pow(2).sum(-1).transpose(-1, -2)


def pairs(z: Any) -> Any:
    return torch.view_as_real(z).flatten(2)


def centred(x: Any) -> Any:
    return stft(x, center=True, pad_mode="constant")


def masked(m: Any, x: Any) -> Any:
    z = torch.fft.rfft(x)
    return torch.fft.irfft(z * torch.sigmoid(m.lin(z.abs())), n=POINTS)


def rotated(m: Any, x: Any) -> Any:
    """A recurrence over complex numbers, whose state turns and decays."""
    turn = torch.polar(torch.linspace(0.5, 0.9, 4), torch.linspace(0.1, 2.0, 4))
    h = torch.zeros(1, 4, dtype=torch.complex64)
    found = []
    for t in range(x.shape[1]):
        h = h * turn + torch.view_as_complex(x[:, t].view(1, 4, 2))
        found.append(h.real - 0.5 * h.imag)
    return torch.stack(found, 1)


def became_complex(m: Any, x: Any) -> Any:
    """The state starts real, the sequence is complex; both parts are collected."""
    u = torch.fft.rfft(x)
    h = torch.zeros(1, 5)
    found = []
    for t in range(x.shape[1]):
        h = 0.7j * h + u[:, t]
        found.append(h)
    return pairs(torch.stack(found, 1))


def z8(x: Any) -> Any:
    """[1, T, 4], complex."""
    return torch.view_as_complex(x.view(1, -1, 4, 2))


FRAMES = {
    "magnitude": lambda m, x: torch.fft.rfft(x * WINDOW).abs(),
    "there and back": lambda m, x: torch.fft.irfft(torch.fft.rfft(x, norm="ortho"), norm="ortho"),
    "a mask": masked,
    "an odd number": lambda m, x: torch.fft.irfft(torch.fft.rfft(x, n=27), n=27),
    "followed by zeros": lambda m, x: torch.fft.rfft(x, n=40, norm="forward").abs(),
    "both sides": lambda m, x: torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(WINDOW)).real,
    "log power": lambda m, x: torch.log(torch.fft.rfft(x).abs() ** 2 + 0.1),
    "times itself": lambda m, x: pairs(torch.fft.rfft(x) * torch.fft.rfft(x + 1).conj()),
    "a quotient": lambda m, x: pairs(torch.fft.rfft(x) / (torch.fft.rfft(x).abs() + 1)),
    "a complex quotient": lambda m, x: pairs(torch.fft.rfft(x) / (torch.fft.rfft(x) + 40 + 3j)),
    "sums": lambda m, x: pairs(2 - (torch.fft.rfft(x) + 1.5 - 2j) + torch.fft.rfft(x).real),
    "a matrix": lambda m, x: pairs(
        torch.fft.rfft(x) @ torch.complex(m.lin.weight, m.lin.weight.T * 0.5)
    ),
    "an equation": lambda m, x: pairs(
        torch.einsum("btf,fg->btg", torch.fft.rfft(x), torch.fft.rfft(m.lin.weight))
    ),
    "moved": lambda m, x: pairs(
        torch.cat([torch.fft.rfft(x)[..., 3:9], torch.fft.rfft(x).flip(-1)[..., :2]], -1)
    ),
    "both axes": lambda m, x: torch.fft.rfft2(x.view(1, -1, 4, 8)).abs().flatten(2),
    "both axes, back": lambda m, x: torch.fft.irfft2(
        torch.fft.rfft2(x.view(1, -1, 4, 8), norm="ortho") * 0.5
    ).flatten(2),
    "another axis": lambda m, x: torch.fft.rfft(x.view(1, -1, 8, 4), dim=-2).abs().flatten(2),
}
"""Of [1, T, POINTS]."""

TURNED = {
    "a rotation": lambda m, x: pairs(
        torch.view_as_complex(x.view(1, -1, 4, 2)) * torch.polar(torch.ones(4), torch.arange(4.0))
    ),
    "padded": lambda m, x: pairs(F.pad(F.pad(z8(x), (0, 0, 1, -1)), (1, 2), value=0.5) * (1 - 1j)),
    "chosen": lambda m, x: pairs(torch.where(x[..., :4] > 0, z8(x), 0.25)),
    "masked": lambda m, x: pairs(z8(x).masked_fill(x[..., 4:] > 0.5, 1.0)),
    "pieces of time": lambda m, x: pairs(F.pad(z8(x), (0, 0, 2, 0)).unfold(1, 3, 1).flatten(2)),
    "made of two": lambda m, x: pairs(torch.complex(x[..., :4], x[..., 4:]) * (1 + 2j)),
    "polar": lambda m, x: torch.polar(x.abs(), x).real,
    "a recurrence": rotated,
    "a recurrence that becomes complex": became_complex,
}
"""Of [1, T, 8]."""

SOUND: dict[str, Callable[[Any, Any], Any]] = {
    "magnitude": lambda m, x: stft(x).abs().transpose(1, 2),
    "a recurrence": lambda m, x: m.gru(torch.log(power(stft(x)) + 1e-2))[0],
    "parts": lambda m, x: torch.cat([stft(x).real, stft(x).imag], 1).transpose(1, 2),
    "a short window": lambda m, x: power(stft(x, win_length=20, window=torch.hann_window(20))),
    "no window": lambda m, x: power(stft(x, window=None)),
    "scaled, both sides": lambda m, x: power(stft(x, normalized=True, onesided=False)),
    "pieces": lambda m, x: torch.fft.rfft(x.unfold(-1, POINTS, HOP) * WINDOW).abs(),
    "centred": lambda m, x: power(centred(x)),
    "centred, a recurrence": lambda m, x: m.gru(power(centred(x)).sqrt())[0],
    "centred, a convolution": lambda m, x: m.conv(
        F.pad(power(centred(x)).transpose(1, 2), (2, 0))
    ).transpose(1, 2),
    "centred, seen ahead": lambda m, x: m.conv(
        F.pad(power(centred(x)).transpose(1, 2), (1, 1))
    ).transpose(1, 2),
    "centred, cut twice": lambda m, x: power(centred(x))[:, :-2],
    "centred, cut": lambda m, x: power(centred(x)[..., :-1]),
    "mirrored": lambda m, x: stft(x, center=True).abs().transpose(1, 2),
    "mirrored, no window": lambda m, x: power(stft(x, center=True, window=None)),
    "mirrored, a recurrence": lambda m, x: m.gru(power(stft(x, center=True)).sqrt())[0],
}
"""Of [1, samples]."""


def example(kind: str) -> Any:
    torch.manual_seed(4)
    shape = {"frames": (1, 12, POINTS), "turned": (1, 12, 8), "sound": (1, SAMPLES)}[kind]
    return torch.randn(*shape)


CASES = [
    (kind, name)
    for kind, found in (("frames", FRAMES), ("turned", TURNED), ("sound", SOUND))
    for name in found
]


def module(kind: str, name: str) -> Any:
    body = {"frames": FRAMES, "turned": TURNED, "sound": SOUND}[kind][name]
    return Fn(body, **Layers()).eval()


def compared(graph: Any, x: Any, want: np.ndarray) -> int:
    """The stream beside the whole; returns how many frames the whole has more."""
    step = to_step(graph)
    frames = x[0].numpy().astype(np.float64)
    frames = frames.reshape(len(frames), *step.types[step.inputs[0]].shape[-1:])
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames[None]))[0]
    want = want[0].reshape(want.shape[1], -1)
    rows = got.reshape(-1, want.shape[1])
    late = delay_in_elements(step, step.outputs[0])
    n = min(len(rows) - late, len(want))
    assert n >= 8
    assert np.abs(rows[late : late + n] - want[:n]).max() < 2e-5 * max(1.0, np.abs(want).max())
    return len(want) - len(rows)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda c: c.replace(" ", "-"))
def test_beside_torch(kind: str, name: str, tmp_path: Path) -> None:
    m, x = module(kind, name), example(kind)
    want = m(x).detach().numpy()
    compared(from_torch(m, x), x, want)
    path = tmp_path / "plain.pt2"
    torch.export.save(torch.export.export(m, (x,)).run_decompositions(), path)
    compared(load_pt2(path), x, want)


NOT_EXPORTED = {
    ("sound", "a recurrence"), ("sound", "centred, a recurrence"),
    ("sound", "mirrored, a recurrence"),
    ("frames", "a complex quotient"), ("frames", "a matrix"), ("frames", "an equation"),
    ("turned", "a rotation"), ("turned", "made of two"), ("turned", "polar"),
    ("turned", "a recurrence"), ("turned", "a recurrence that becomes complex"),
    ("turned", "padded"), ("turned", "chosen"), ("turned", "masked"), ("turned", "pieces of time"),
}  # fmt: skip
"""Of which PyTorch's exporter makes no valid ONNX file."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [c for c in CASES if c not in NOT_EXPORTED],
    ids=lambda c: c.replace(" ", "-"),
)
def test_beside_onnx_runtime(kind: str, name: str, tmp_path: Path) -> None:
    m, x = module(kind, name), example(kind)
    path = tmp_path / "model.onnx"
    time = torch.export.Dim("time", min=2 if kind != "sound" else 2 * POINTS)
    torch.onnx.export(
        m, (x,), path, dynamo=True, dynamic_shapes=(({1: time},),), opset_version=18, verbose=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    compared(from_onnx(path), x, session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


REFUSED = {
    "over time": (lambda m, x: torch.fft.rfft(x, dim=1).abs(), "is not one of a frame"),
    "an angle": (lambda m, x: torch.fft.rfft(x).angle(), "angle of a complex number"),
    "a complex answer": (lambda m, x: torch.fft.rfft(x), "is complex"),
    "a complex cube": (lambda m, x: (torch.fft.rfft(x) ** 3).real, "is a complex power"),
    "no such rule": (lambda m, x: torch.fft.rfft(x).exp().real, "no rule for complex numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    body, why = REFUSED[name]
    with pytest.raises(UnsupportedError, match=why):
        from_torch(Fn(body, **Layers()).eval(), example("frames"))


REFUSED_SOUND = {
    "added up": (
        lambda m, x: torch.istft(centred(x), POINTS, HOP, window=WINDOW),
        "adds overlapping pieces",
    ),
}


@pytest.mark.parametrize("name", REFUSED_SOUND)
def test_refused_sound(name: str) -> None:
    body, why = REFUSED_SOUND[name]
    with pytest.raises(UnsupportedError, match=why):
        from_torch(Fn(body, **Layers()).eval(), example("sound"))


def test_a_complex_input_is_refused() -> None:
    m = Fn(lambda m, x: x.abs()).eval()
    with pytest.raises(ModelError, match="is complex"):
        from_torch(m, torch.randn(1, 8, 4, dtype=torch.complex64))


def test_the_whole_has_the_frame_beyond_the_last_hop() -> None:
    """A centred transform answers once more than there are hops; a stream never does."""
    m, x = module("sound", "centred"), example("sound")
    graph, want = from_torch(m, x), m(x).detach().numpy()
    assert compared(graph, x, want) == 1
    whole = Interpreter(graph)(x[..., None].numpy().astype(np.float64))[0]
    assert whole.shape == want.shape
    assert np.abs(whole - want).max() < 2e-5 * np.abs(want).max()


def test_mirrored_ends_compile_as_a_window() -> None:
    m, x = module("sound", "mirrored"), example("sound")
    graph = from_torch(m, x, window=SAMPLES, hop=SAMPLES)
    step = to_step(graph)
    frames = x.numpy().astype(np.float64).reshape(1, 1, *step.types[step.inputs[0]].shape)
    got = Interpreter(step).sequence(prepare(step, step.inputs[0], frames))[0]
    want = m(x).detach().numpy()
    assert np.abs(got.reshape(want.shape) - want).max() < 1e-4


def test_constants_reduced_over_no_axes_are_reduced_over_all(tmp_path: Path) -> None:
    """`x.sum()` of a constant is written with an empty list of axes."""
    m = Fn(lambda m, x: x * m.lin.weight.sum(), **Layers()).eval()
    x = torch.randn(1, 12, BINS)
    path = tmp_path / "sum.pt2"
    torch.export.save(torch.export.export(m, (x,)).run_decompositions(), path)
    compared(load_pt2(path), x, m(x).detach().numpy())
