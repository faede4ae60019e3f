"""Every cell x every back end x every target, found from the registries: nothing is listed here."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeseq import nn as cells  # noqa: E402
from edgeseq.compiler.runtimes import FILES, level_of  # noqa: E402
from edgeseq.emit import Job, formats  # noqa: E402
from edgeseq.emulate import Emulator  # noqa: E402
from edgeseq.frontend import from_torch  # noqa: E402
from edgeseq.ir import Graph, Interpreter  # noqa: E402
from edgeseq.ir.io import from_stored, prepare, to_stored  # noqa: E402
from edgeseq.kernels import HostStep, compile_step  # noqa: E402
from edgeseq.kernels.host import runs_here  # noqa: E402
from edgeseq.passes import to_step  # noqa: E402
from edgeseq.quant import QuantOptions, quantise  # noqa: E402
from edgeseq.target import list_targets, load_target  # noqa: E402

STEPS = 24
CELLS = tuple(cells.cells())
# Targets that differ only in board and memory run the same code.
TARGETS = {(t.triple, t.cpu, t.features, t.isa): t.name for t in list_targets()}


@cache
def model(cell: str, activation_bits: int) -> tuple[Graph, Graph, np.ndarray]:
    """(real step, integer step, raw frames [3, T, C]) of an untrained two-layer classifier."""
    torch.manual_seed(3)
    module = cells.build(cell, 5, 11, 4, layers=2, dropout=0.0, norm="layer", residual=True)
    frames = np.random.default_rng(4).normal(2.0, 3.0, (3, 2 * STEPS, 5))
    graph = from_torch(module.eval(), torch.from_numpy(frames[:1, :8].astype(np.float32)))
    step = to_step(graph)
    prepared = [prepare(step, name, frames) for name in step.inputs]
    options = QuantOptions(activation_bits=activation_bits)
    return step, quantise(step, prepared, options).graph, frames


def stored(graph: Graph, frames: np.ndarray) -> list[np.ndarray]:
    return [to_stored(graph, name, frames) for name in graph.inputs]


@pytest.mark.parametrize("target", TARGETS.values())
@pytest.mark.parametrize("cell", CELLS)
def test_machine_code_is_the_interpreter(cell: str, target: str) -> None:
    board = load_target(target)
    for bits in (16, 8) if cell == "gru" else (16,):
        _, graph, frames = model(cell, bits)
        compiled = compile_step(graph, board, "contract")
        one = [x[:1, :STEPS] for x in stored(graph, frames)]
        machine = Interpreter(graph)
        want = machine.sequence(*one)
        if board.emulator is not None:
            emulator = Emulator(compiled)
            got = emulator.sequence(*(x[0] for x in one))
            assert all(np.array_equal(a[0], b) for a, b in zip(want, got, strict=True))
            assert all(np.array_equal(machine.state[k][0], v) for k, v in emulator.state.items())
        elif runs_here(board):
            got = HostStep.of(compiled).run(*one)
            assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))
        else:
            pytest.skip(f"nothing here runs {board.cpu}")


@pytest.mark.parametrize("cell", CELLS)
def test_chunks_and_batches_are_the_whole(cell: str) -> None:
    _, graph, frames = model(cell, 16)
    whole = stored(graph, frames)
    want = Interpreter(graph, batch=3).sequence(*whole)
    host = HostStep(graph, batch=3)
    cuts = [0, 1, 2, 9, STEPS, 2 * STEPS]
    parts = [host.run(*(x[:, a:b] for x in whole)) for a, b in pairwise(cuts)]
    got = [np.concatenate([p[i] for p in parts], axis=1) for i in range(len(want))]
    assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))
    host.reset()
    again = host.run(*whole)
    assert all(np.array_equal(a, b) for a, b in zip(want, again, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_runtime_files_keep_their_level(cell: str, tmp_path: Path) -> None:
    from edgeseq.emit.onnx_run import run_onnx
    from edgeseq.emit.tflite import run_tflite

    step, graph, frames = model(cell, 16)
    job = Job(tmp_path, load_target("rpi"), step, graph, calibration=stored(graph, frames))
    for name in set(formats()) - {"native"}:
        assert formats()[name].write(job)
    real = Interpreter(step, batch=3).sequence(*(prepare(step, n, frames) for n in step.inputs))
    outs = Interpreter(graph, batch=3).sequence(*stored(graph, frames))
    integer = [from_stored(graph, n, y) for n, y in zip(graph.outputs, outs, strict=True)]
    got = {
        "onnx_float": run_onnx(tmp_path / "model.onnx", frames),
        "onnx_int": run_onnx(tmp_path / "model_int.onnx", frames),
        "tflite_int16x8": run_tflite(tmp_path / "model_int16x8.tflite", frames).real,
        "tflite_int8": run_tflite(tmp_path / "model_int8.tflite", frames).real,
    }
    assert set(got) == set(FILES)
    for format in FILES:
        level = level_of(format, 16)
        reference = real if format == "onnx_float" else integer
        for a, b in zip(reference, got[format], strict=True):
            assert level.passes(level.worst(a, np.asarray(b, np.float64))), format
