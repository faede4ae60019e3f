"""What `benchmarks.host` times: edgeseq's own Stream, and LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit.golden import read_golden
from edgeseq.emit.tflite import TfliteModel, emit_tflite, read_tflite
from edgeseq.ir.text import from_text
from edgeseq.runtime import Stream

__all__ = ["MANY", "Contender", "edgeseq_contenders", "litert_contenders", "rows"]

Array = npt.NDArray[Any]

MANY = 2000
"""Frames of a call that takes many."""
_FEW = 300


def rows(x: Array) -> list[Array]:
    """Frames [T, C] as T arrays [1, C]."""
    return [np.ascontiguousarray(row[None]) for row in x]


@dataclass(frozen=True)
class Contender:
    """One way to run the model.

    Attributes:
        name: as the table shows it.
        prepare: frames [T, C] float32 to what `run` takes; not timed.
        run: the timed part: all frames, the state carried on from the call before; returns what
            it was given as outputs.
        outputs: what `run` returned as real numbers [T, classes]; not timed.
        frames: in a timed run.
        streaming: answers frame after frame; False: takes all frames in one call.
        peer: is not edgeseq.
        least_snr: of its outputs against the float step, dB.
    """

    name: str
    prepare: Callable[[Array], Any]
    run: Callable[[Any], Any]
    outputs: Callable[[Any], Array]
    frames: int = _FEW
    streaming: bool = True
    peer: bool = True
    least_snr: float = 60.0


def edgeseq_contenders(folder: Path) -> list[Contender]:
    """`Stream.push`, with many frames (the first one) and with one frame per call."""
    many, single = Stream(folder, "native"), Stream(folder, "native")

    def push_each(xs: list[Array]) -> list[Array]:
        return [single.push(x) for x in xs]

    integer = {"peer": False, "least_snr": 25.0}
    return [
        Contender(
            f"edgeseq: push of {MANY} frames",
            lambda x: x,
            many.push,
            lambda y: y,
            frames=MANY,
            streaming=False,
            **integer,  # type: ignore[arg-type]
        ),
        Contender(
            "edgeseq: a frame per push",
            rows,
            push_each,
            np.concatenate,
            **integer,  # type: ignore[arg-type]
        ),
    ]


def litert_contenders(folder: Path) -> list[Contender]:
    """Both files of the artifact, and the same models with their states inside."""
    graph = from_text((folder / "model.graph").read_text(encoding="utf-8"))
    golden = [x[None] for x in read_golden(folder / "golden.npz").inputs.values()]
    made = []
    for name, least in (("int16x8", 20.0), ("int8", 10.0)):
        width: Any = "int8" if name == "int8" else "int16"
        explicit = read_tflite(folder / f"model_{name}.tflite")
        internal = emit_tflite(graph, activations=width, state="internal", frames=golden)
        for model, where in ((explicit, "fed back"), (internal, "inside")):
            run = _litert_run(model)
            made.append(_litert(f"LiteRT: {name}, state {where}", model, run, least))
    return made


def _litert(name: str, model: TfliteModel, run: Callable[[Any], Any], least: float) -> Contender:
    (info,), (out,) = model.inputs, model.outputs
    return Contender(
        name,
        lambda x: rows(info.store(x)),
        run,
        lambda y: out.real(np.concatenate(y)),
        least_snr=least,
    )


def _litert_run(model: TfliteModel) -> Callable[[list[Array]], list[Array]]:
    """set_tensor, invoke and get_tensor per frame, with the names looked up beforehand."""
    from ai_edge_litert.interpreter import Interpreter

    machine = Interpreter(model_content=model.data, num_threads=1)
    machine.allocate_tensors()
    set_tensor, get_tensor, invoke = machine.set_tensor, machine.get_tensor, machine.invoke
    ins = [d["index"] for d in machine.get_input_details()]
    outs = [d["index"] for d in machine.get_output_details()]
    x_in, y_out = ins[0], outs[0]
    if model.state == "internal":

        def run_inside(xs: list[Array]) -> list[Array]:
            ys = []
            for x in xs:
                set_tensor(x_in, x)
                invoke()
                ys.append(get_tensor(y_out))
            return ys

        return run_inside
    (h_in,), (h_out,) = ins[1:], outs[1:]
    state = [model.states[0].init[None]]

    def run(xs: list[Array]) -> list[Array]:
        h, ys = state[0], []
        for x in xs:
            set_tensor(x_in, x)
            set_tensor(h_in, h)
            invoke()
            ys.append(get_tensor(y_out))
            h = get_tensor(h_out)
        state[0] = h
        return ys

    return run
