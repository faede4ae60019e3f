"""What `benchmarks.host` times: ONNX Runtime, on edgeseq's step models and on a GRU operator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks._contenders import MANY, Contender, rows

if TYPE_CHECKING:
    from benchmarks._models import Recurrent

__all__ = ["gru_operator", "onnx_contenders"]

Array = npt.NDArray[Any]

_OPSET = 21
_DTYPES = {"tensor(float)": np.float32, "tensor(int16)": np.int16, "tensor(int32)": np.int32}


def onnx_contenders(folder: Path, module: Recurrent) -> list[Contender]:
    """The artifact's float and QDQ step, and the GRU operator frame by frame and at once."""
    operator = gru_operator(module)
    made = []
    for name, source, least in (
        ("float step", str(folder / "model.onnx"), 60.0),
        ("QDQ step", str(folder / "model_int.onnx"), 20.0),
        ("float GRU operator", operator, 60.0),
    ):
        prepare = _cells if source is operator else rows
        for way, runner in (("run()", _run), ("IO binding", _Bound)):
            made.append(
                Contender(
                    f"ONNX Runtime: {name}, {way}",
                    prepare,
                    runner(_session(source)),
                    np.concatenate,
                    least_snr=least,
                )
            )
    whole = _run(_session(operator))
    made.append(
        Contender(
            f"ONNX Runtime: float GRU operator, {MANY} frames in one run()",
            lambda x: [np.ascontiguousarray(x[:, None])],
            whole,
            lambda y: y[0][:, 0],
            frames=MANY,
            streaming=False,
        )
    )
    return made


def _cells(x: Array) -> list[Array]:
    """Frames [T, C] as T sequences of one frame [1, 1, C]."""
    return [np.ascontiguousarray(row[None, None]) for row in x]


def _session(source: str | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _ports(session: Any) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs: the frame or answer first, the state second."""
    ins, outs = session.get_inputs(), session.get_outputs()
    return list(ins), list(outs)


def _zeros(port: Any) -> Array:
    """For one sequence and one frame; of a state, what every GRU here starts from."""
    shape = [d if isinstance(d, int) else 1 for d in port.shape]
    return np.zeros(shape, _DTYPES[port.type])


def _run(session: Any) -> Callable[[list[Array]], list[Array]]:
    """One run() per array, the feeds' dict reused, the state handed from output to input."""
    (x, h), (y, after) = _ports(session)
    feeds = {h.name: _zeros(h)}
    fetch = [y.name, after.name]
    x_name, h_name, run = x.name, h.name, session.run

    def go(xs: list[Array]) -> list[Array]:
        ys = []
        for frame in xs:
            feeds[x_name] = frame
            answer, feeds[h_name] = run(fetch, feeds)
            ys.append(answer)
        return ys

    return go


class _Bound:
    """IO binding to fixed buffers; two states take turns, so that none is ever copied.

    The runtime holds bare addresses: the arrays live as long as this object.
    """

    def __init__(self, session: Any) -> None:
        (x, h), (y, after) = _ports(session)
        self._frame, self._answer = _zeros(x), _zeros(y)
        self._states = [_zeros(h), _zeros(h)]
        self._bindings = []
        for source, sink in (self._states, self._states[::-1]):
            binding = session.io_binding()
            for port, array in ((x, self._frame), (h, source)):
                at = array.ctypes.data
                binding.bind_input(port.name, "cpu", 0, array.dtype.type, array.shape, at)
            for port, array in ((y, self._answer), (after, sink)):
                at = array.ctypes.data
                binding.bind_output(port.name, "cpu", 0, array.dtype.type, array.shape, at)
            self._bindings.append(binding)
        self._run = session.run_with_iobinding
        self._turn = 0

    def __call__(self, xs: list[Array]) -> list[Array]:
        run, frame, answer = self._run, self._frame, self._answer
        first, second = self._bindings[self._turn], self._bindings[1 - self._turn]
        ys = []
        for given in xs:
            frame[:] = given
            run(first)
            first, second = second, first
            ys.append(answer.copy())
        self._turn = (self._turn + len(xs)) % 2
        return ys


def gru_operator(module: Recurrent) -> bytes:
    """The module as ONNX's own GRU operator with a dense layer on every frame.

    Inputs: x [T, 1, C] and h [1, 1, H], float32. Outputs: y [T, 1, classes] and h_next.
    ONNX keeps the gates in the order z, r, n where PyTorch has r, z, n; linear_before_reset is
    PyTorch's GRU.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    arrays = {k: v.numpy() for k, v in module.state_dict().items()}
    hidden = arrays["cell.weight_hh_l0"].shape[1]
    inputs = arrays["cell.weight_ih_l0"].shape[1]
    classes = arrays["head.weight"].shape[0]

    def reorder(a: Array) -> Array:
        r, z, n = np.split(a, 3)
        return np.concatenate([z, r, n])

    biases = [reorder(arrays[f"cell.bias_{k}_l0"]) for k in ("ih", "hh")]
    constants = {
        "w": reorder(arrays["cell.weight_ih_l0"])[None],
        "u": reorder(arrays["cell.weight_hh_l0"])[None],
        "b": np.concatenate(biases)[None],
        "v": np.ascontiguousarray(arrays["head.weight"].T),
        "c": arrays["head.bias"],
        "directions": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node(
            "GRU",
            ["x", "w", "u", "b", "", "h"],
            ["all", "h_next"],
            hidden_size=hidden,
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", ["all", "directions"], ["hs"]),
        helper.make_node("MatMul", ["hs", "v"], ["product"]),
        helper.make_node("Add", ["product", "c"], ["y"]),
    ]

    def value(name: str, *shape: int | str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "gru",
        [value("x", "T", 1, inputs), value("h", 1, 1, hidden)],
        [value("y", "T", 1, classes), value("h_next", 1, 1, hidden)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
