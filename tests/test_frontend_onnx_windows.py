"""Random ONNX models in window mode: ONNX Runtime's numbers for every full window, or an error."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from onnx_models import run
from onnx_random import LENGTHS, draw
from test_frontend_onnx_fuzz import close, saved, steady

from edgeseq.errors import ModelError, UsageError
from edgeseq.frontend.onnx_import import import_onnx
from edgeseq.frontend.options import ImportOptions
from edgeseq.ir import Interpreter

WINDOW = LENGTHS[0]


def outcome(seed: int, folder: Path) -> str:
    """'right', or why the model is refused; fails on another exception or a wrong number."""
    drawn = draw(seed)
    path = saved(drawn, folder / "m.onnx", fixed=bool(seed % 2))
    rng = np.random.default_rng(seed)
    hop = int(rng.choice([1, 2, 3, 4, 6, 12]))
    axis = next(iter(drawn.shapes.values())).index(None)
    stated = dict.fromkeys(drawn.shapes, axis) if seed % 4 else None
    options = ImportOptions(time_axis=stated, window=WINDOW, hop=hop)
    try:
        made = import_onnx(path, name="m", options=options)
    except (ModelError, UsageError) as e:
        return f"refused: {e.what}"
    graph, frames = made.graph, 2 * WINDOW
    whole, steps = drawn.feed(frames, seed), []
    for value in graph.inputs:
        name = graph.meta["onnx"]["names"][value]
        x = np.moveaxis(whole[name].astype(np.float64), drawn.shapes[name].index(None), 0)
        if x.size != graph.types[value].size * frames // hop:
            return "read along another axis"
        steps.append(x.reshape(1, frames // hop, *graph.types[value].shape))
    outs = Interpreter(graph).sequence(*steps)
    for step in range(WINDOW // hop - 1, frames // hop):
        end = (step + 1) * hop
        feed = {
            n: np.take(x, range(end - WINDOW, end), axis=drawn.shapes[n].index(None))
            for n, x in whole.items()
        }
        want = run(path, **feed)
        for got, name in zip(outs, graph.meta["onnx"]["outputs"], strict=True):
            y, ref = got[0, step].ravel(), want[name].astype(np.float64).ravel()
            largest = float(np.abs(ref).max(initial=0))
            if not largest < 1e3:
                return "diverges"
            assert close(y, ref, largest) or not steady(path, feed), (seed, hop, step, name)
    return "right"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(2))
def test_random_windows_are_right_or_refused(part: int, tmp_path: Path) -> None:
    counts = Counter(outcome(seed, tmp_path)[:7] for seed in range(150 * part, 150 * part + 150))
    print(dict(counts))
    assert counts["right"] > 130
