"""Runs a TFLite step model over sequences, in whatever environment has a runtime.

A script of its own: `python worker.py JOB.npz RESULT.npz`.  It imports numpy and one of the two
runtimes, and nothing of edgeseq, because `tflite-runtime` needs numpy < 2 and Python <= 3.11.

The job holds `spec` (JSON: names of inputs and outputs, number of states, whether they are
internal, which runtime), `model` (bytes), `x0`... [batch, T, *shape] and `s0`... [*shape], all as
stored.
The result holds `y0`... [batch, T, *shape], the explicit states after the last step as `s0`...
[batch, *shape], all of them as `t0`... [batch, T, *shape] if asked for, and `version`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def interpreter_of(engine: str) -> Any:
    """The runtime's Interpreter class and its version."""
    if engine == "litert":
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, ai_edge_litert.__version__
    import tflite_runtime
    from tflite_runtime.interpreter import Interpreter as Older

    return Older, tflite_runtime.__version__


def _explicit(machine: Any, spec: Any, xs: list[Any], inits: list[Any]) -> dict[str, Any]:
    """All sequences side by side, states fed back from output to input."""
    batch, frames = xs[0].shape[:2]
    ins, outs = machine.get_input_details(), machine.get_output_details()
    n_in, n_out = len(xs), len(spec["outputs"])
    for detail in ins:
        shape = [batch, *(int(d) for d in detail["shape"][1:])]
        machine.resize_tensor_input(detail["index"], shape)
    machine.allocate_tensors()
    state = [np.repeat(s[None], batch, axis=0) for s in inits]
    ys: list[list[Any]] = [[] for _ in range(n_out)]
    trace: list[list[Any]] = [[] for _ in inits]
    for t in range(frames):
        for detail, x in zip(ins[:n_in], xs, strict=True):
            machine.set_tensor(detail["index"], np.ascontiguousarray(x[:, t]))
        for detail, s in zip(ins[n_in:], state, strict=True):
            machine.set_tensor(detail["index"], s)
        machine.invoke()
        for y, detail in zip(ys, outs[:n_out], strict=True):
            y.append(machine.get_tensor(detail["index"]))
        state = [machine.get_tensor(d["index"]) for d in outs[n_out:]]
        if spec["trace"]:
            for kept, s in zip(trace, state, strict=True):
                kept.append(s)
    result = {f"y{i}": np.stack(y, axis=1) for i, y in enumerate(ys)}
    result.update({f"s{i}": s for i, s in enumerate(state)})
    if spec["trace"]:
        result.update({f"t{i}": np.stack(s, axis=1) for i, s in enumerate(trace)})
    return result


def _internal(machine: Any, spec: Any, xs: list[Any]) -> dict[str, Any]:
    """One sequence after another; `reset` before each."""
    step = machine.get_signature_runner("step")
    reset = machine.get_signature_runner("reset") if spec["states"] else None
    rows = []
    for b in range(xs[0].shape[0]):
        if reset is not None:
            reset()
        for t in range(xs[0].shape[1]):
            frame = {
                name: np.ascontiguousarray(x[b : b + 1, t])
                for name, x in zip(spec["inputs"], xs, strict=True)
            }
            found = step(**frame)
            rows.append([found[n][0] for n in spec["outputs"]])
    lead = xs[0].shape[:2]
    stacked = [np.stack(y) for y in zip(*rows, strict=True)]
    return {f"y{i}": y.reshape(*lead, *y.shape[1:]) for i, y in enumerate(stacked)}


def main(job_path: str, result_path: str) -> None:
    """Run the job."""
    with np.load(job_path, allow_pickle=False) as job:
        spec = json.loads(str(job["spec"]))
        data = job["model"].tobytes()
        xs = [job[f"x{i}"] for i in range(len(spec["inputs"]))]
        inits = [job[f"s{i}"] for i in range(spec["states"])]
    interpreter, version = interpreter_of(spec["engine"])
    machine = interpreter(model_content=data, num_threads=1)
    run = _internal(machine, spec, xs) if spec["internal"] else _explicit(machine, spec, xs, inits)
    np.savez(result_path, version=np.array(version), **run)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
