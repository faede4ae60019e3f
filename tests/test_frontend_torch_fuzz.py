"""Random PyTorch modules: PyTorch's numbers or an error of this project, whole and as a stream."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fuzzing import close, known, streamed  # noqa: E402
from torch_random import LENGTHS, Drawn, draw  # noqa: E402

from edgeseq.errors import ModelError, UnsupportedError, UsageError  # noqa: E402
from edgeseq.frontend.options import ImportOptions  # noqa: E402
from edgeseq.frontend.pt2 import load_pt2  # noqa: E402
from edgeseq.frontend.torch_export import to_graph_layout  # noqa: E402
from edgeseq.ir import Graph, Interpreter  # noqa: E402

T = LENGTHS[0]


class NotExported(Exception):
    """PyTorch does not export the module."""


def saved(module: Any, inputs: list[Any], path: Path, axis: int | None) -> Path:
    """The module's file; the length is open where its axis is given."""
    shapes = None
    if axis is not None:
        frames = torch.export.Dim("frames", min=2, max=512)
        shapes = {n: {axis: frames} for n, _ in zip(("x", "z"), inputs, strict=False)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                module, tuple(inputs), dynamic_shapes=shapes, strict=False
            )
        except Exception as e:
            raise NotExported(str(e)) from e
        torch.export.save(program, path)
    return path


def arrays(values: Any) -> list[np.ndarray]:
    values = values if isinstance(values, tuple) else (values,)
    return [v.detach().numpy().astype(np.float64) for v in values]


def compared(graph: Graph, module: Any, inputs: list[Any]) -> list[str]:
    """What differs from PyTorch."""
    with torch.no_grad():
        want = arrays(module(*inputs))
    if any(not np.isfinite(y).all() or np.abs(y).max(initial=0) > 1e3 for y in want):
        return []  # a cell that diverges: float32 says nothing
    axes = graph.meta["axes"]
    given = dict(zip(("x", "z"), inputs, strict=False))
    frames = [to_graph_layout(given[n].numpy().astype(np.float64), letters)
              for n, letters in zip(graph.inputs, axes["inputs"], strict=True)]  # fmt: skip
    batch = len(frames[0])
    if graph.meta["mode"] == "window":  # the frames of a window come first
        frames = [np.moveaxis(x, 1 + x.shape[1:].index(graph.meta["window"]), 1) for x in frames]
    if graph.meta["mode"] != "stream":
        frames = [x.reshape(batch, *graph.types[n].shape)
                  for n, x in zip(graph.inputs, frames, strict=True)]  # fmt: skip
    whole = Interpreter(graph, batch=batch)(*frames)
    wrong: list[str] = []
    timed: dict[int, np.ndarray] = {}
    if len(want) != len(graph.outputs):
        return [f"{len(graph.outputs)} outputs instead of {len(want)}"]
    for k, (letters, ref) in enumerate(zip(axes["outputs"], want, strict=True)):
        scale = float(np.abs(ref).max(initial=0))
        y, ref = np.asarray(whole[k], np.float64), to_graph_layout(ref, letters)
        if "T" in letters:
            ref = ref.reshape(*ref.shape[:2], -1)
            y = y.reshape(*y.shape[:2], -1)
            timed[k] = ref
            y, ref = known(graph, k, y, 1), known(graph, k, ref, 1)
        else:
            if graph.types[graph.outputs[k]].time is not None:
                y = y[:, -1]
            y, ref = y.reshape(len(y), -1), ref.reshape(len(ref), -1)
        if not close(y, ref, scale):
            wrong.append(f"{k} ({letters}): {y.shape} of {ref.shape}, {np.ravel(y)[:4]} instead "
                         f"of {np.ravel(ref)[:4]}")  # fmt: skip
    if graph.meta["mode"] == "stream" and timed and not wrong:
        wrong += streamed(graph, frames, timed)
    return wrong if wrong and steady(module, inputs, want) else []


def steady(module: Any, inputs: list[Any], want: list[np.ndarray]) -> bool:
    """Whether the module's numbers are more than those of its roundings."""
    near = [x * (1 + 1e-6) if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        found = arrays(module(*near))
    return all(close(a, b, float(np.abs(b).max(initial=0)))
               for a, b in zip(found, want, strict=True))  # fmt: skip


def outcome(seed: int, folder: Path) -> str:
    """'right', or why the module is refused; fails on another exception or a wrong number."""
    drawn: Drawn = draw(seed)
    inputs = drawn.feed(T, 1)
    axis = drawn.shapes[0].index(None)
    open_ = seed % 2 == 1
    try:
        path = saved(drawn, inputs, folder / "m.pt2", axis if open_ else None)
    except NotExported:
        return "not exported"
    window = T if seed % 8 == 0 and not drawn.bent else None
    options = ImportOptions(
        time_axis=axis if seed % 4 or drawn.bent else None, context=32, window=window
    )
    try:
        graph = load_pt2(path, options=options)
        wrong = compared(graph, drawn, inputs)
        if not wrong and open_ and graph.meta["axes"]["inputs"][0].find("T") == axis:
            wrong = compared(graph, drawn, drawn.feed(LENGTHS[1], 2))
    except (ModelError, UsageError) as e:
        return f"refused: {e.what}"
    if wrong:
        raise AssertionError(f"seed {seed}: {', '.join(drawn.kinds)}: {wrong}")
    return f"right as {graph.meta['mode']}"


@pytest.mark.parametrize("part", range(2))
def test_random_modules_are_right_or_refused(part: int, tmp_path: Path) -> None:
    counts = Counter(outcome(seed, tmp_path)[:7] for seed in range(40 * part, 40 * part + 40))
    print(dict(counts))
    assert counts["right a"] > 7


# -- what was found this way ---------------------------------------------------------------------


class One(torch.nn.Module):
    """A forward function of one input."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.function = forward

    def forward(self, x: Any) -> Any:
        return self.function(x)


def imported(forward: Any, sizes: tuple[int, ...], folder: Path, axis: int = 1, **more: Any) -> Any:
    """The Graph of a function's file, its numbers compared."""
    module, inputs = One(forward), [torch.randn(sizes)]
    path = saved(module, inputs, folder / "m.pt2", axis if more.get("open") else None)
    graph = load_pt2(path, options=ImportOptions(time_axis=axis))
    assert compared(graph, module, inputs) == []
    return graph


def test_an_index_may_be_smaller_than_what_it_looks_into(tmp_path: Path) -> None:
    index = torch.tensor([[[[2, 0]]]]).expand(1, T, 1, 2)
    graph = imported(lambda x: x.gather(-1, index), (1, T, 3, 4), tmp_path)
    assert graph.types[graph.outputs[0]].shape == (2,)
    one = torch.zeros(1, 1, 4, dtype=torch.int64)
    with pytest.raises(UnsupportedError, match="looks up frames by number"):
        imported(lambda x: x.gather(-1, one), (1, T, 4), tmp_path)


@pytest.mark.parametrize("turned", [lambda x: x.flip(0), lambda x: x.roll(1, 0)])
def test_sequences_of_a_batch_stay_where_they_are(turned: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="the batch"):
        imported(turned, (2, T, 4), tmp_path)


def test_a_number_of_frames_is_not_the_length_where_that_is_open(tmp_path: Path) -> None:
    def pooled(x: Any) -> Any:
        return torch.nn.functional.adaptive_avg_pool1d(x, T)

    graph = imported(pooled, (1, 4, T), tmp_path, axis=2)
    assert any("read as all frames" in note for note in graph.meta["notes"])
    with pytest.raises(UnsupportedError, match="makes 12 frames of a sequence of any length"):
        imported(pooled, (1, 4, T), tmp_path, axis=2, open=True)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("factor", [0.5, 1.3, 1.7, 2.0])
def test_nearest_neighbours_are_those_by_the_factor(
    factor: float, mode: str, tmp_path: Path
) -> None:
    def resized(x: Any) -> Any:
        return torch.nn.functional.interpolate(x, scale_factor=(factor, 1.0), mode=mode)

    imported(resized, (1, 2, 6, T), tmp_path, axis=3)
