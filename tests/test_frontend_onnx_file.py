"""ONNX files are read as data and brought to one form."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto as T  # noqa: E402
from onnx import helper as h  # noqa: E402
from onnx_files import (  # noqa: E402
    NEWEST,
    X,
    call,
    conditional,
    evaluate,
    function,
    info,
    inputs_of,
    model,
    node,
)  # fmt: skip

from edgeseq.errors import ModelError, UnsupportedError, UsageError  # noqa: E402
from edgeseq.frontend.onnx_file import describe_onnx, read_onnx  # noqa: E402
from edgeseq.frontend.onnx_fold import can_fold  # noqa: E402
from edgeseq.frontend.program import Program, Ref  # noqa: E402

# -- one form for every opset ----------------------------------------------------------------------

I64 = np.int64
# name: (opset, node, constants, the newest form's name, its attributes)
OLD: dict[str, tuple[int, Any, dict[str, Any], str, dict[str, Any]]] = {
    "squeeze": (11, node("Squeeze", "one", axes=[0]), {}, "Squeeze", {}),
    "squeeze_all": (11, node("Squeeze", "one"), {}, "Squeeze", {}),
    "unsqueeze": (9, node("Unsqueeze", "x", axes=[0, 3]), {}, "Unsqueeze", {}),
    "reduce_sum": (
        11, node("ReduceSum", "x", axes=[1], keepdims=0), {}, "ReduceSum", {"keepdims": 0},
    ),
    "reduce_mean": (13, node("ReduceMean", "x", axes=[-1, 0]), {}, "ReduceMean", {"keepdims": 1}),
    "reduce_all": (13, node("ReduceMax", "x"), {}, "ReduceMax", {"noop_with_empty_axes": 0}),
    "slice": (9, node("Slice", "x", starts=[1, -3], ends=[9, -1], axes=[0, 2]), {}, "Slice", {}),
    "slice_leading": (9, node("Slice", "x", starts=[1], ends=[2]), {}, "Slice", {}),
    "clip": (10, node("Clip", "x", min=-0.5, max=0.25), {}, "Clip", {}),
    "clip_low": (10, node("Clip", "x", min=0.0), {}, "Clip", {}),
    "pad": (
        10, node("Pad", "x", pads=[0, 0, 1, 0, 1, 0], value=2.0), {}, "Pad", {"mode": "constant"},
    ),
    "pad_reflect": (
        9, node("Pad", "x", pads=[0, 0, 2, 0, 0, 1], mode="reflect"), {}, "Pad",
        {"mode": "reflect"},
    ),
    "split": (
        11, node("Split", "x", "y z", axis=1, split=[1, 2]), {}, "Split", {"num_outputs": None},
    ),
    "split_even": (13, node("Split", "x", "y z", axis=2), {}, "Split", {"num_outputs": 2}),
    "topk": (9, node("TopK", "x", "y z", k=2), {}, "TopK", {"largest": 1, "sorted": 1}),
    "dropout": (10, node("Dropout", "x", ratio=0.25), {}, "Dropout", {}),
    "softmax": (11, node("Softmax", "x", axis=1), {}, "Softmax", {"axis": 1, "legacy": True}),
    "softmax_default": (12, node("Softmax", "x"), {}, "Softmax", {"axis": 1, "legacy": True}),
    "softmax_last": (11, node("Softmax", "x", axis=-1), {}, "Softmax", {"legacy": False}),
    "log_softmax": (9, node("LogSoftmax", "x", axis=2), {}, "LogSoftmax", {"legacy": True}),
    "hardmax": (11, node("Hardmax", "x", axis=1), {}, "Hardmax", {"legacy": True}),
    "upsample": (
        9, node("Upsample", "x s"), {"s": np.float32([1, 1, 2])}, "Resize",
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "resize": (
        10, node("Resize", "x s"), {"s": np.float32([1, 1, 2])}, "Resize",
        {"coordinate_transformation_mode": "asymmetric", "mode": "nearest"},
    ),
    "scatter": (
        9, node("Scatter", "x i u", axis=2),
        {"i": np.zeros((1, 2, 1), I64), "u": np.ones((1, 2, 1), np.float32)}, "ScatterElements",
        {"reduction": "none", "axis": 2},
    ),
    "batch_norm": (
        9, node("BatchNormalization", "x a b c d"),
        {k: np.float32([1, 2, 3]) for k in "abcd"}, "BatchNormalization", {"training_mode": 0},
    ),
    "reshape": (9, node("Reshape", "x s"), {"s": np.int64([0, -1])}, "Reshape", {"allowzero": 0}),
    "shape": (9, node("Shape", "x"), {}, "Shape", {"start": 0, "end": None}),
    "cast": (9, node("Cast", "x", to=T.INT32), {}, "Cast", {"to": T.INT32}),
    "gather_nd": (
        11, node("GatherND", "x i"), {"i": np.zeros((1, 2), I64)}, "GatherND", {"batch_dims": 0},
    ),
    "average_pool": (
        9, node("AveragePool", "x", kernel_shape=[2]), {}, "AveragePool",
        {"ceil_mode": 0, "strides": None, "auto_pad": "NOTSET", "count_include_pad": 0},
    ),
    "flatten": (9, node("Flatten", "x", axis=2), {}, "Flatten", {"axis": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_old_opsets_have_the_newest_form_and_the_same_results(name: str, put: Any) -> None:
    runtime = pytest.importorskip("onnxruntime")
    opset, made, consts, op, attrs = OLD[name]
    x = X[:1] if "one" in made.input else X
    tensor = ("x" if "x" in made.input else "one", *x.shape)
    old = model([made], opset=opset, inputs=[tensor], outputs=list(made.output), consts=consts)
    program = read_onnx(put(old))
    (found,) = program.operations
    assert found.target == f"onnx.{op}"
    assert {k: found.args[k] for k in attrs} == attrs
    newest = onnx.defs.get_schema(op, NEWEST)
    assert set(newest.attributes) | {"inputs"} <= set(found.args)
    assert len(found.args["inputs"]) == len(newest.inputs)

    session = runtime.InferenceSession(old.SerializeToString())
    want = session.run(None, {tensor[0]: x})
    for a, b in zip(evaluate(program, {tensor[0]: x}), want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_attributes_become_inputs(put: Any) -> None:
    def read(opset: int, made: Any) -> list[Any]:
        return inputs_of(read_onnx(put(model([made], opset=opset))), made.op_type)

    x, axes = read(11, node("Squeeze", "x", axes=[0]))
    assert x == "x" and axes.tolist() == [0] and axes.dtype == I64
    assert read(11, node("Squeeze", "x")) == ["x", None]
    low, high = read(10, node("Clip", "x", min=0.0))[1:]
    assert low == 0 and low.shape == () and high is None
    pads, value, axes = read(9, node("Pad", "x", pads=[0, 1] * 3))[1:]
    assert pads.tolist() == [0, 1] * 3 and value is None and axes is None
    assert [v.tolist() for v in read(9, node("Slice", "x", starts=[1], ends=[2], axes=[0]))[1:4]] \
        == [[1], [2], [0]]  # fmt: skip
    assert read(10, node("Dropout", "x"))[1:] == [None, None]
    assert read(17, node("DFT", "x", axis=2))[1:] == [None, 2]


def test_the_newest_form_stays(put: Any) -> None:
    made = [node("Clip", "x - m", "c"), node("ReduceSum", "c none", "y")]
    consts = {"m": np.float32(1), "none": np.zeros(0, I64)}
    program = read_onnx(put(model(made, opset=NEWEST, consts=consts)))
    assert inputs_of(program, "Clip") == ["x", None, 1.0]
    assert inputs_of(program, "ReduceSum") == ["c", None]


def test_outputs_and_inputs_are_filled_up(put: Any) -> None:
    consts = {"w": np.zeros((1, 8, 4)), "r": np.zeros((1, 8, 2)), "h": np.zeros((1, 3, 2))}
    made = node("LSTM", "x w r - - h", "- y", hidden_size=2)
    program = read_onnx(put(model([made], consts={k: np.float32(v) for k, v in consts.items()})))
    (op,) = program.operations
    assert [None if r is None else r.name for r in op.args["inputs"]] \
        == ["x", "w", "r", None, None, "h", None, None]  # fmt: skip
    assert op.outputs == ("", "y", "")
    assert op.args["activations"] == ["Sigmoid", "Tanh", "Tanh"]
    assert op.args["direction"] == "forward" and op.args["layout"] == 0 and op.args["clip"] is None


@pytest.mark.parametrize(
    ("attrs", "want"),
    [
        ({}, ["Tanh"]),
        ({"activations": ["Relu"]}, ["Relu"]),
        ({"activations": ["Tanh", "Tanh"]}, ["Tanh"]),
        ({"direction": "bidirectional"}, ["Tanh", "Tanh"]),
    ],
)
def test_activations_are_one_per_direction(attrs: Any, want: list[str], put: Any) -> None:
    made = node("RNN", "x w r", hidden_size=2, **attrs)
    consts = {k: np.zeros((2, 2, 2), np.float32) for k in "wr"}
    (op,) = read_onnx(put(model([made], consts=consts))).operations
    assert op.args["activations"] == want


def test_other_domains_and_unknown_operators_keep_their_names(put: Any) -> None:
    made = [
        h.make_node("QuickGelu", ["x"], ["a"], domain="com.microsoft", alpha=1.5, name="/b/Gelu"),
        node("ATen", "a", operator="std"),
    ]
    a, b = read_onnx(put(model(made))).operations
    assert a.target == "com.microsoft.QuickGelu" and a.args["alpha"] == 1.5 and a.path == "b.Gelu"
    assert b.target == "onnx.ATen" and b.args["operator"] == "std" and b.path == ""
    assert not can_fold(a) and not can_fold(b)


# -- tensors ---------------------------------------------------------------------------------------

VALUES: dict[str, tuple[int, Any, Any]] = {
    "float": (T.FLOAT, [1.5, -2.0, 0.25], np.float32),
    "double": (T.DOUBLE, [1.5, -2.0, 0.25], np.float64),
    "half": (T.FLOAT16, [1.5, -2.0, 0.25], np.float16),
    "bfloat16": (T.BFLOAT16, [1.5, -2.0, 0.25], np.float32),
    "int8": (T.INT8, [-128, 127, 3], np.int8),
    "uint8": (T.UINT8, [0, 255, 3], np.uint8),
    "int16": (T.INT16, [-32768, 5, 3], np.int16),
    "uint16": (T.UINT16, [0, 65535, 3], np.uint16),
    "int32": (T.INT32, [-(1 << 31), 5, 3], np.int32),
    "uint32": (T.UINT32, [0, (1 << 32) - 1, 3], np.uint32),
    "int64": (T.INT64, [-(1 << 63), 5, 3], np.int64),
    "uint64": (T.UINT64, [0, (1 << 64) - 1, 3], np.uint64),
    "bool": (T.BOOL, [True, False, True], np.bool_),
    "complex64": (T.COMPLEX64, [1 + 2j, 3, -1j], np.complex64),
    "int4": (T.INT4, [-8, 7, 3], np.int8),
    "uint4": (T.UINT4, [0, 15, 3], np.uint8),
}


@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
@pytest.mark.parametrize("name", VALUES)
def test_every_way_of_storing(name: str, raw: bool, put: Any) -> None:
    kind, values, dtype = VALUES[name]
    packed = name.endswith("int4")
    if raw and packed:
        nibbles = [v & 15 for v in (*values, 0)]
        data: Any = bytes(a | b << 4 for a, b in zip(nibbles[::2], nibbles[1::2], strict=True))
    elif raw and name == "bfloat16":
        data = (np.float32(values).view(np.uint32) >> 16).astype("<u2").tobytes()
    elif raw:
        data = np.array(values, dtype).tobytes()
    else:
        data = values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = h.make_tensor("w", kind, [3, 1], data, raw=raw)
    program = read_onnx(put(model([node("Identity", "w")], consts={"w": tensor})))
    got = program.constants["w"]
    assert isinstance(got, np.ndarray) and got.dtype == dtype and got.shape == (3, 1)
    assert got[:, 0].tolist() == np.array(values, dtype).tolist()
    assert not got.flags.writeable


def test_constant_nodes(put: Any) -> None:
    attrs: dict[str, Any] = {
        "value": onnx.numpy_helper.from_array(np.arange(3)),
        "value_float": 1.5,
        "value_floats": [1.0, 2.0],
        "value_int": 7,
        "value_ints": [1, 2],
        "value_string": "a",
        "value_strings": ["a", "b"],
    }
    made = [node("Constant", "", k, **{k: v}) for k, v in attrs.items()]
    program = read_onnx(put(model([*made, node("Identity", "x")])))
    got = program.constants
    assert got["value"].tolist() == [0, 1, 2] and got["value_floats"].dtype == np.float32
    assert got["value_int"] == 7 and got["value_int"].shape == ()
    assert got["value_strings"].tolist() == ["a", "b"]
    assert [op.target for op in program.operations] == ["onnx.Identity"]


def external(**entries: str) -> Any:
    tensor = T(name="w", data_type=T.FLOAT, dims=[3], data_location=T.EXTERNAL)
    for k, v in entries.items():
        tensor.external_data.add(key=k, value=v)
    return model([node("Identity", "w")], consts={"w": tensor})


def test_external_data(put: Any, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"1234" + np.float32([1, 2, 3]).tobytes() + b"5")
    for entries in ({"length": "12"}, {}):
        path = put(external(location="sub/w.bin", offset="4", **entries))
        assert read_onnx(path).constants["w"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../w.bin", "sub/../../w.bin", "", ".", "C:\\w.bin", "link", "pipe", "sub",
     "missing", "loop", "w\0.bin"],
)  # fmt: skip
def test_external_data_elsewhere_is_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(bytes(12))
    (folder / "link").symlink_to("../w.bin")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    path = folder / "m.onnx"
    path.write_bytes(external(location=location).SerializeToString())
    with pytest.raises(ModelError, match="initializer 'w'"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"offset": "4"}, "12 bytes are asked for"),
        ({"length": "8"}, "8 bytes of external data"),
        ({"offset": "-4"}, "an offset or a length"),
        ({"offset": "9" * 30}, "an offset or a length"),
    ],
)
def test_external_data_that_does_not_fit(entries: Any, what: str, put: Any, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(12))
    with pytest.raises(ModelError, match=what):
        read_onnx(put(external(location="w.bin", **entries)))


def broken(**fields: Any) -> Any:
    tensor = T(name="w", data_type=T.FLOAT, dims=[3], raw_data=bytes(12))
    for k, v in fields.items():
        if k == "dims":
            del tensor.dims[:]
            tensor.dims.extend(v)
        else:
            setattr(tensor, k, v)
    return tensor


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"dims": [4]}, "has 12 bytes of data, shape and type need 16"),
        ({"dims": [-3]}, r"has shape \[-3\]"),
        ({"dims": [1 << 40, 1 << 40]}, "more than 1024 MB"),
        ({"dims": [1 << 62] * 1000}, "has shape"),
        ({"data_type": 99}, "element type number 99"),
        ({"data_type": T.FLOAT8E4M3FN}, "element type float8_e4m3fn"),
        ({"data_type": T.UNDEFINED}, "element type number 0"),
        ({"name": ""}, "has no name"),
        ({"segment": T.Segment(begin=0, end=1)}, "stored in segments"),
    ],
)  # fmt: skip
def test_tensors_that_are_not_what_they_say(fields: Any, what: str, put: Any) -> None:
    segment = fields.pop("segment", None)
    tensor = broken(**fields)
    if segment is not None:
        tensor.segment.CopyFrom(segment)
    with pytest.raises(ModelError, match=what):
        read_onnx(put(model([node("Identity", "x")], consts={"w": tensor})))


def test_all_tensors_together_are_bounded(put: Any, tmp_path: Path) -> None:
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(300 << 20)
    consts = {}
    for i in range(4):
        consts[f"w{i}"] = T(name=f"w{i}", data_type=T.INT8, dims=[280 << 20],
                            data_location=T.EXTERNAL)  # fmt: skip
        consts[f"w{i}"].external_data.add(key="location", value="missing" if i < 3 else "w.bin")
    with pytest.raises(ModelError, match="missing"):
        read_onnx(put(model([node("Identity", "x")], consts=consts)))
    for tensor in consts.values():
        tensor.dims[0] = 1 << 30
    consts = dict(reversed(consts.items()))
    consts["w3"].dims[0] += 1
    with pytest.raises(UnsupportedError, match="more than 1024 MB"):
        read_onnx(put(model([node("Identity", "x")], consts=consts)))


# -- inputs, sizes and values ----------------------------------------------------------------------


def open_model() -> Any:
    inputs = [info("x", "batch", None, 4), info("h", 1, "batch", 8), info("sr", kind=T.INT64)]
    return model([node("Identity", "x")], inputs=inputs, outputs=[info("y", "batch", "n", 4)])


def test_symbolic_sizes_stay_visible(put: Any) -> None:
    path = put(open_model())
    program = read_onnx(path)
    assert program.inputs == ["x", "h", "sr"]
    assert program.declared["x"].shape == ("batch", None, 4) and "x" not in program.metas
    assert program.metas["sr"].sizes == () and program.metas["sr"].dtype == "int64"
    assert describe_onnx(path).open_dims == ("batch", "x:1")


@pytest.mark.parametrize("dims", [{"batch": 1, "x:1": 16}, {"h:1": 1, "x:-2": 16, "x:0": 1}])
def test_sizes_are_fixed_by_name_and_by_place(dims: Any, put: Any) -> None:
    program = read_onnx(put(open_model()), dims=dims)
    assert program.metas["x"].sizes == (1, 16, 4) and program.metas["h"].sizes == (1, 1, 8)
    assert program.declared["y"].shape == (1, "n", 4)


@pytest.mark.parametrize(
    ("dims", "what"),
    [
        ({"bach": 1}, "did you mean 'batch'"),
        ({"x:9": 1}, "unknown dimension"),
        ({"z:0": 1}, "unknown dimension"),
        ({"x:" + "1" * 50: 1}, "unknown dimension"),
        ({"batch": 0}, "size 0"),
        ({"batch": True}, "size True"),
        ({"x:2": 5}, "which is 4"),
        ({"batch": 1, "x:0": 2}, "which is 1"),
    ],
)
def test_sizes_that_do_not_fit(dims: Any, what: str, put: Any) -> None:
    with pytest.raises(UsageError, match=what):
        read_onnx(put(open_model()), dims=dims)


def test_values_become_constants(put: Any) -> None:
    program = read_onnx(put(open_model()), values={"sr": 16000, "h": 0.5}, dims={"batch": 2})
    assert program.inputs == ["x"]
    assert program.constants["sr"] == 16000 and program.constants["sr"].dtype == np.int64
    assert program.constants["h"].shape == (1, 2, 8) and np.all(program.constants["h"] == 0.5)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"srr": 1}, "did you mean 'sr'"),
        ({"sr": 0.5}, "cannot be 0.5"),
        ({"sr": 1 << 70}, "cannot be"),
        ({"sr": float("nan")}, "cannot be nan"),
        ({"x": 1}, "only a small one"),
    ],
)
def test_values_that_do_not_fit(values: Any, what: str, put: Any) -> None:
    with pytest.raises(UsageError, match=what):
        read_onnx(put(open_model()), values=values)


def test_initializers_that_are_inputs_are_no_inputs(put: Any) -> None:
    made = model([node("Add", "x w")], inputs=[("x", 3), ("w", 3)], consts={"w": np.zeros(3, "f4")})
    program = read_onnx(put(made))
    assert program.inputs == ["x"] and "w" in program.constants
    assert [i.name for i in describe_onnx(put(made)).inputs] == ["x"]


def test_description(put: Any) -> None:
    branch = h.make_graph([node("Relu", "x", "r")], "b", [], [info("r", 3)])
    made = model(
        [node("Constant", "", "c", value=onnx.numpy_helper.from_array(np.array(True))),
         node("If", "c", then_branch=branch, else_branch=branch),
         h.make_node("Foo", ["x"], ["z"], domain="mine")],
        consts={"w": np.zeros((2, 3), np.float16)}, producer_name="maker", producer_version="2",
        functions=[h.make_function("mine", "Foo", ["a"], ["b"], [node("Abs", "a", "b")],
                                   [h.make_opsetid("", 17)])],
        outputs=[info("y", "n", 3)],
    )  # fmt: skip
    h.set_model_props(made, {"task": "vad"})
    found = describe_onnx(put(made))
    assert found.operators == {"Relu": 2, "Constant": 1, "If": 1, "mine.Foo": 1, "Abs": 1}
    assert (found.opset, found.ir_version, found.producer) == (17, 8, "maker 2")
    assert found.domains == {"mine": 1} and found.functions == ("Foo",)
    assert found.initializer_bytes == 12 + 1 and found.metadata == {"task": "vad"}
    assert found.inputs[0].dtype == "float32" and found.outputs[0].shape == ("n", 3)


def test_description_of_an_opset_that_is_not_read(put: Any) -> None:
    made = model([node("Relu", "x")], opset=6)
    assert describe_onnx(put(made)).opset == 6
    with pytest.raises(UnsupportedError, match="opset 6; 9 to"):
        read_onnx(put(made))
    made.opset_import[0].version = NEWEST + 1
    with pytest.raises(UnsupportedError, match="upgrade the onnx package"):
        read_onnx(put(made))


# -- names, subgraphs and functions ----------------------------------------------------------------


def test_subgraphs_are_programs_and_names_are_unique(put: Any) -> None:
    made = [node("Cast", "x", "d", to=T.BOOL), node("Squeeze", "d", "c"), conditional(name="d")]
    program = read_onnx(put(model(made, inputs=[("x", 1)])))
    op = program.operations[-1]
    first, second = op.args["then_branch"], op.args["else_branch"]
    assert isinstance(first, Program) and first.inputs == [] and first.free() == {"x"}
    names = {first.outputs[0].name, second.outputs[0].name, "d"}
    assert len(names) == 3
    assert {"x", "c"} <= program.used()
    assert evaluate(program, {"x": np.float32([2])})[0] == 2


def test_a_loop(put: Any) -> None:
    body = h.make_graph(
        [node("Add", "s x", "t"), node("Identity", "go", "on"), node("Mul", "t t", "q")],
        "body", [info("i", kind=T.INT64), info("go", kind=T.BOOL), info("s", 3)],
        [info("on", kind=T.BOOL), info("t", 3), info("q", 3)],
    )  # fmt: skip
    made = [node("Loop", "n - z", "a y", body=body)]
    consts = {"n": np.int64(3), "z": np.zeros(3, np.float32)}
    program = read_onnx(put(model(made, inputs=[("x", 3)], consts=consts, outputs=["a", "y"])))
    last, squares = evaluate(program, {"x": np.float32([1, 2, 3])})
    assert last.tolist() == [3, 6, 9] and squares[:, 0].tolist() == [1, 4, 9]


def test_a_scan(put: Any) -> None:
    body = h.make_graph([node("Add", "s v", "t"), node("Identity", "t", "o")], "body",
                        [info("s", 2), info("v", 2)], [info("t", 2), info("o", 2)])  # fmt: skip
    made = node("Scan", "z x", "- y", body=body, num_scan_inputs=1, scan_input_axes=[1],
                scan_input_directions=[1])  # fmt: skip
    consts = {"z": np.zeros(2, np.float32)}
    program = read_onnx(put(model([made], inputs=[("x", 2, 3)], consts=consts)))
    assert program.operations[0].args["scan_output_axes"] == [0]
    (got,) = evaluate(program, {"x": np.float32([[1, 2, 3], [4, 5, 6]])})
    assert got.tolist() == [[3, 6], [5, 11], [6, 15]]


def test_nodes_out_of_order_are_sorted(put: Any) -> None:
    made = [node("Relu", "b"), node("Neg", "a", "b"), conditional(name="a2"), node("Abs", "x", "a")]
    made[2].output[0] = "z"
    made.append(node("Constant", "", "c", value=onnx.numpy_helper.from_array(np.array(True))))
    program = read_onnx(put(model(made)))
    seen = {"x", *program.constants}
    for op in program.operations:
        assert {r.name for r in op.args["inputs"]} <= seen
        seen |= set(op.outputs)
    assert evaluate(program, {"x": X})[0].max() == 0


def test_functions_are_inlined(put: Any) -> None:
    elu = node("Elu", "a", "b")
    ref = elu.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    clip = node("Clip", "b low", "c")
    inner = function("Inner", "a low", "c a2", [elu, clip, node("Neg", "a", "a2")],
                     attributes=["slope"])  # fmt: skip
    outer = function(
        "Outer",
        "a",
        "p q",
        [
            call("Inner", "a -", "p -", slope=0.5),
            call("Inner", "p k", "q", slope=1.0),
            node("Constant", "", "k", value_float=0.0),
        ],
    )
    program = read_onnx(put(model([call("Outer", "x", "u y")], functions=[inner, outer])))
    assert ref.ref_attr_name == "slope"
    elus = [op for op in program.operations if op.target == "onnx.Elu"]
    assert [op.args["alpha"] for op in elus] == [0.5, 1.0]
    assert [r for op in program.operations for r in op.args["inputs"][:1]].count(Ref("x")) == 2
    assert len({o for op in program.operations for o in op.outputs}) == 6
    want = np.maximum(np.where(X > 0, X, 0.5 * np.expm1(X)), 0)
    np.testing.assert_allclose(evaluate(program, {"x": X})[0], want, rtol=1e-6)


def test_a_function_that_returns_its_input(put: Any) -> None:
    same = function("Same", "a", "a", [])
    program = read_onnx(put(model([call("Same", "x")], functions=[same])))
    assert evaluate(program, {"x": X})[0] is X
