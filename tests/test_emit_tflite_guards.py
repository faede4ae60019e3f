"""What runtimes accept and then compute wrongly must not be in an emitted file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import graphs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeseq.emit.tflite import emit_tflite
from edgeseq.emit.tflite.forms import off_power_of_two
from edgeseq.emit.tflite.linear import split_weights

MODELS = [
    ("rnn", {}),
    ("rnn_relu", {}),
    ("gru", {"layers": 2, "norm": True, "residual": True, "inputs": 8}),
    ("gru", {"weight_bits": 16}),
    ("lstm", {}),
    ("dense", {}),
]


@dataclass
class Tensor:
    """One tensor of a parsed file."""

    index: int
    name: str
    dtype: str
    shape: list[int]
    scales: list[float]
    zeros: list[int]
    axis: int


@dataclass
class Op:
    """One operator of a parsed file."""

    kind: str
    version: int
    ins: list[Tensor | None]
    outs: list[Tensor]
    pot: bool | None


def parse(data: bytes, graph: int = 0) -> tuple[list[Op], list[Tensor], list[Tensor]]:
    """Operators, inputs and outputs of a subgraph."""
    from ai_edge_litert import schema_py_generated as schema

    def names(enum: Any) -> dict[int, str]:
        return {v: k for k, v in vars(enum).items() if isinstance(v, int)}

    kinds, types = names(schema.BuiltinOperator), names(schema.TensorType)
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    sub = model.subgraphs[graph]
    tensors = []
    for i, t in enumerate(sub.tensors):
        q = t.quantization
        scales = [] if q is None or q.scale is None else [float(s) for s in q.scale]
        zeros = [] if q is None or q.zeroPoint is None else [int(z) for z in q.zeroPoint]
        axis = 0 if q is None else q.quantizedDimension
        shape = [] if t.shape is None else [int(d) for d in t.shape]
        name = t.name.decode() if isinstance(t.name, bytes) else str(t.name)
        tensors.append(Tensor(i, name, types[t.type], shape, scales, zeros, axis))

    ops = []
    for o in sub.operators:
        code = model.operatorCodes[o.opcodeIndex]
        ins = [] if o.inputs is None else [None if i < 0 else tensors[i] for i in o.inputs]
        outs = [] if o.outputs is None else [tensors[i] for i in o.outputs]
        pot = getattr(o.builtinOptions, "potScaleInt16", None)
        ops.append(Op(kinds[code.builtinCode], code.version, ins, outs, pot))
    return ops, [tensors[i] for i in sub.inputs], [tensors[i] for i in sub.outputs]


@pytest.fixture(params=["int16", "int8"], scope="module")
def width(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=MODELS, ids=lambda m: f"{m[0]}-{len(m[1])}", scope="module")
def data(request: pytest.FixtureRequest, width: Any) -> bytes:
    cell, options = request.param
    graph = graphs.step(cell, integer=True, **options)
    return emit_tflite(graph, activations=width, frames=graphs.stored_frames(graph, batch=2)).data


def test_matrix_products(data: bytes) -> None:
    """Rank 2; one width in and out; a bias of 64 bits with 16-bit operands; per-channel on 0."""
    products = [o for o in parse(data)[0] if o.kind == "FULLY_CONNECTED"]
    assert products
    for o in products:
        x, w, bias = o.ins
        assert x is not None and w is not None
        assert len(x.shape) == 2 and len(w.shape) == 2
        assert x.dtype == o.outs[0].dtype
        assert w.dtype == "INT8" and w.axis == 0 and len(w.scales) == w.shape[0]
        assert set(w.zeros) == {0}
        if bias is not None:
            assert bias.dtype == {"INT16": "INT64", "INT8": "INT32"}[x.dtype]
            np.testing.assert_allclose(bias.scales, np.array(w.scales) * x.scales[0], rtol=1e-6)
        assert o.version == (7 if x.dtype == "INT16" else 6 if bias is None else 4)


def test_gates(data: bytes) -> None:
    """16 bits in and out, output scale 2^-15, an input scale off the powers of two."""
    for o in parse(data)[0]:
        if o.kind in ("LOGISTIC", "TANH"):
            (x,) = o.ins
            assert x is not None
            assert (x.dtype, o.outs[0].dtype, o.version) == ("INT16", "INT16", 3)
            assert o.outs[0].scales == [2.0**-15] and o.outs[0].zeros == [0]
            log = math.log2(x.scales[0])
            assert abs(log - round(log)) > 0.01


def test_joined_tensors_have_one_format() -> None:
    graph = graphs.functions_step(integer=True)
    for width in ("int16", "int8"):
        data = emit_tflite(graph, activations=width).data  # type: ignore[arg-type]
        joins = [o for o in parse(data)[0] if o.kind == "CONCATENATION"]
        assert joins
        for o in joins:
            formats = {(t.dtype, tuple(t.scales), tuple(t.zeros)) for t in (*o.ins, *o.outs) if t}
            assert len(formats) == 1


def test_16_bit_sums_do_not_assume_power_of_two_scales(data: bytes) -> None:
    for o in parse(data)[0]:
        if o.kind in ("ADD", "SUB") and o.outs[0].dtype == "INT16":
            assert o.pot is False
            assert o.version == {"ADD": 3, "SUB": 5}[o.kind]


def test_states_leave_in_the_format_they_entered(data: bytes) -> None:
    _, ins, outs = parse(data)
    before = {t.name: t for t in ins}
    from edgeseq.emit.tflite import read_tflite

    model = read_tflite(data)
    n_in, n_out = len(model.inputs), len(model.outputs)
    assert len(ins) - n_in == len(outs) - n_out == len(model.states)
    for s, a, b in zip(model.states, ins[n_in:], outs[n_out:], strict=True):
        assert before[s.name] is a
        assert (a.dtype, a.shape, a.scales, a.zeros) == (b.dtype, b.shape, b.scales, b.zeros)
    # Every output is a tensor of its own.
    assert len({t.index for t in outs}) == len(outs)
    assert not {t.index for t in outs} & {t.index for t in ins}


def test_no_operator_newer_than_runtime_2_14_and_none_that_is_silently_wrong(data: bytes) -> None:
    newest = {
        "ADD": 4,
        "BITCAST": 1,
        "CAST": 4,
        "CONCATENATION": 3,
        "DEQUANTIZE": 5,
        "FULLY_CONNECTED": 9,
        "GATHER": 6,
        "LOGISTIC": 3,
        "MAXIMUM": 4,
        "MEAN": 3,
        "MINIMUM": 4,
        "MUL": 7,
        "QUANTIZE": 3,
        "RESHAPE": 1,
        "RIGHT_SHIFT": 1,
        "RSQRT": 2,
        "SLICE": 5,
        "SUB": 5,
        "TANH": 3,
    }
    for o in parse(data)[0]:
        assert o.kind in newest, f"{o.kind}: new here? run it in both runtimes first"
        assert o.version <= newest[o.kind]
        if o.kind == "QUANTIZE":  # from 8 bits up: refused by 2.14
            pair = (o.ins[0].dtype if o.ins[0] else "", o.outs[0].dtype)
            assert pair not in {("INT8", "INT16"), ("INT8", "INT32"), ("INT32", "INT32")}


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn_relu"])
def test_variables_are_initialised_before_they_are_read(cell: str) -> None:
    graph = graphs.step(cell, integer=True)
    data = emit_tflite(graph, state="internal").data
    ops = [o.kind for o in parse(data)[0]]
    assert ops[0] == "CALL_ONCE"
    assert ops.count("READ_VARIABLE") == ops.count("ASSIGN_VARIABLE") == len(graph.states)
    init = [o.kind for o in parse(data, 1)[0]]
    assert init == ["VAR_HANDLE", "ASSIGN_VARIABLE"] * len(graph.states)


def test_buffers_are_aligned(data: bytes) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    base = np.frombuffer(data, np.uint8).ctypes.data
    filled = 0
    for i in range(model.BuffersLength()):
        if not model.Buffers(i).DataIsNone():
            filled += 1
            assert (model.Buffers(i).DataAsNumpy().ctypes.data - base) % 16 == 0
    assert filled > 3


def test_a_file_is_not_much_larger_than_its_weights() -> None:
    graph = graphs.step("gru", integer=True, inputs=40, hidden=64, outputs=12)
    weights = sum(graph.consts[v].size for n in graph.nodes for v in n.inputs[1::2] if "w" in v)
    assert emit_tflite(graph).nbytes < weights + 16_000


@given(st.floats(1e-9, 1e3))
def test_off_power_of_two(scale: float) -> None:
    moved = off_power_of_two(scale)
    assert scale <= moved <= scale * 1.02
    nearest = 2.0 ** round(math.log2(moved))
    assert abs(moved / nearest - 1.0) > 0.009


@given(arrays.arrays(np.int16, (3, 5), elements=st.integers(-32767, 32767)))
def test_split_weights(w: Any) -> None:
    high, low, base = split_weights(w)
    back = high.astype(np.int64) * base[:, None].astype(np.int64) + low
    assert np.abs(back - w).max() <= 2
    small = np.abs(w).max(axis=1) <= 127 * 254
    np.testing.assert_array_equal(back[small], w[small])
