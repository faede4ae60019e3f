"""ONNX operators on constants: what the reference says, and never too large."""

from __future__ import annotations

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
    conditional,
    evaluate,
    info,
    model,
    node,
)  # fmt: skip

from edgeseq.frontend.onnx_file import read_onnx  # noqa: E402
from edgeseq.frontend.onnx_fold import Budget, FoldError, can_fold, fold_onnx  # noqa: E402
from edgeseq.frontend.program import Operation  # noqa: E402

# -- constants -------------------------------------------------------------------------------------


def case(op: str, *args: Any, outputs: int = 1, **attrs: Any) -> Any:
    return op, args, outputs, attrs


B = X > 0
N = np.array([[7, -7, 3], [0, 5, -1]], np.int64)
D = np.array([[2, 2, -2], [3, -3, 4]], np.int64)
P = np.abs(X) + np.float32(0.1)
U = np.random.default_rng(1).uniform(-0.9, 0.9, (2, 3, 4)).astype(np.float32)
ALIKE = [
    *(case(op, X) for op in (
        "Abs", "Atan", "Ceil", "Cos", "Cosh", "Exp", "Floor", "Identity", "Neg", "Relu", "Round",
        "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "Erf", "Gelu",
        "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "IsNaN", "IsInf",
        "ThresholdedRelu", "Shrink", "Shape", "Size", "Flatten", "Transpose", "NonZero",
        "LpNormalization", "ReduceLogSumExp", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceMin",
        "ReduceSumSquare", "ArgMax", "ArgMin", "Hardmax", "LogSoftmax", "Softmax",
    )),
    *(case(op, P) for op in ("Log", "Sqrt", "Reciprocal", "ReduceLogSum", "Acosh")[:4]),
    *(case(op, U) for op in ("Acos", "Asin", "Atanh", "Asinh")),
    *(case(op, X, U) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Equal")),
    *(case(op, X, U[:1]) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "PRelu")),
    *(case(op, N, D) for op in ("Add", "Sub", "Mul", "Mod", "Max", "BitwiseAnd", "BitwiseXor")),
    *(case(op, B, ~B) for op in ("And", "Or", "Xor")),
    case("Not", B),
    case("Mod", X, P, fmod=1),
    case("Pow", P, np.float32(1.7)),
    case("Pow", N, np.int64(2)),
    case("Where", B, X, U[:, :1]),
    case("Clip", X, np.float32(-0.5), np.float32(0.5)),
    case("Cast", X, to=T.INT32),
    case("Cast", N, to=T.FLOAT16),
    case("Cast", X, to=T.BOOL),
    case("CastLike", N, X),
    case("Shape", X, start=1, end=-1),
    case("Reshape", X, np.int64([0, -1])),
    case("Reshape", X, np.int64([4, 6])),
    case("Flatten", X, axis=0),
    case("Squeeze", X[:1], np.int64([0])),
    case("Squeeze", X[:1]),
    case("Unsqueeze", X, np.int64([-1, 0])),
    case("Transpose", X, perm=[2, 0, 1]),
    case("Expand", X[:, :1], np.int64([2, 1, 3, 1])),
    case("Tile", X, np.int64([1, 2, 2])),
    case("Concat", X, U, axis=-2),
    case("Split", X, np.int64([1, 3]), outputs=2, axis=2),
    case("Split", X, outputs=3, axis=2, num_outputs=3),
    case("Slice", X, np.int64([3, 0]), np.int64([-9, 9]), np.int64([2, 1]), np.int64([-2, 2])),
    case("Slice", X, np.int64([-1]), np.int64([-(1 << 63)]), np.int64([0]), np.int64([-1])),
    case("Gather", X, np.int64([[0, -1], [2, 1]]), axis=1),
    case("Gather", N[0], np.int64(1)),
    case("GatherElements", X, np.int64([[[0, 1, -1, 2]], [[1, 1, 0, 0]]]), axis=1),
    case("GatherND", X, np.int64([[0, 1], [1, -1]])),
    case("GatherND", X, np.int64([[[1]], [[-2]]]), batch_dims=1),
    case("ScatterND", X, np.int64([[0, 1], [1, 2]]), np.ones((2, 4), np.float32)),
    case("ScatterND", X, np.int64([[1], [1]]), np.ones((2, 3, 4), np.float32), reduction="add"),
    case("ScatterElements", X, np.int64([[[0], [1], [3]]]), np.ones((1, 3, 1), np.float32), axis=2),
    case("ScatterElements", X, np.int64([[[0, 0]]]), U[:1, :1, :2], axis=2, reduction="max"),
    case("Pad", X, np.int64([0, 1, 0, 1, 0, 2]), np.float32(3)),
    case("Pad", X, np.int64([2, 1]), None, np.int64([2]), mode="edge"),
    case("Pad", X, np.int64([0, 2, 0, 0, 1, 1]), mode="reflect"),
    case("Pad", X, np.int64([0, 0, 3, 0, 0, 1]), mode="wrap"),
    case("Trilu", X, np.int64(1), upper=0),
    case("ConstantOfShape", np.int64([2, 3]), value=h.make_tensor("v", T.INT8, [1], [7])),
    case("ConstantOfShape", np.int64([])),
    case("Range", np.int64(9), np.int64(-2), np.int64(-3)),
    case("Range", np.float32(0), np.float32(1), np.float32(0.3)),
    case("EyeLike", N, k=1, dtype=T.FLOAT),
    case("OneHot", np.int64([0, 2, -1, -3]), np.int64(3), np.float32([1, 5]), axis=0),
    case("CumSum", X, np.int64(1), exclusive=1, reverse=1),
    case("ReduceSum", X, np.int64([1, -1]), keepdims=0),
    case("ReduceMax", X, np.int64([0])),
    case("ReduceMean", X, np.int64([-1])),
    case("ReduceMean", X, noop_with_empty_axes=1),
    case("ReduceSum", N),
    case("MatMul", X, U.transpose(0, 2, 1)),
    case("MatMul", X[0, 0], U[0].T),
    case("Gemm", X[0], U[0], np.ones(3, np.float32), transB=1, alpha=0.5, beta=2.0),
    case("Softmax", X, axis=1),
    case("Hardmax", X, axis=0),
    case("QuantizeLinear", 9 * X, np.float32(0.1), np.int8(-3)),
    case("QuantizeLinear", X, np.float32([0.1, 0.2, 0.3]), np.uint8([1, 2, 3]), axis=1),
    case("QuantizeLinear", X, np.float32(0.01), output_dtype=T.INT16),
    case("DequantizeLinear", N.astype(np.int8), np.float32(0.1), np.int8(3)),
    case("DequantizeLinear", N.astype(np.int8), np.float32([0.1, 0.5]), axis=0),
    case("DequantizeLinear", N.astype(np.int8), np.float32([[0.1, 1], [0.5, 2]]),
         np.int8([[1, 2], [3, 4]]), axis=1, block_size=2),
    case("DynamicQuantizeLinear", X, outputs=3),
    case("TopK", X, np.int64([2]), outputs=2, axis=1),
    case("Compress", X, np.array([True, False, True]), axis=1),
    case("Einsum", X, U, equation="bij,bkj->bik"),
    case("Conv", X, np.ones((2, 3, 2), np.float32), pads=[1, 0], strides=[2]),
    case("ConvTranspose", X, np.ones((3, 2, 2), np.float32), strides=[2]),
    case("MaxPool", X, kernel_shape=[2], strides=[2]),
    case("AveragePool", X, kernel_shape=[3], pads=[1, 1]),
    case("LayerNormalization", X, np.ones(4, np.float32), axis=-1),
    case("BatchNormalization", X, *[np.float32([1, 2, 3])] * 4),
    case("InstanceNormalization", X, *[np.float32([1, 2, 3])] * 2),
    case("Resize", X, None, np.float32([1, 1, 2]), mode="linear"),
    case("HannWindow", np.int64(8)),
    case("DFT", X[..., None], None, np.int64(2)),
    case("Unique", N, outputs=4),
    case("DepthToSpace", np.ones((1, 4, 2, 2), np.float32), blocksize=2),
    case("ReverseSequence", X[0], np.int64([1, 2, 3, 1]), time_axis=0, batch_axis=1),
]  # fmt: skip


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fold") / "m.onnx"


def made(path: Path, op: str, args: Any, outputs: int, attrs: Any) -> tuple[Any, Operation]:
    """A model of one operator, and the operation it is read as."""
    names = ["-" if a is None else f"i{k}" for k, a in enumerate(args)]
    results = [f"o{k}" for k in range(outputs)]
    inputs = [
        info(f"i{k}", *a.shape, kind=h.np_dtype_to_tensor_dtype(a.dtype))
        for k, a in enumerate(args) if a is not None
    ]  # fmt: skip
    one = node(op, " ".join(names), " ".join(results), **attrs)
    whole = model([one], opset=NEWEST, inputs=inputs, outputs=results)
    path.write_bytes(whole.SerializeToString())
    return whole, read_onnx(path).operations[0]


@pytest.mark.parametrize("index", range(len(ALIKE)), ids=lambda i: f"{i}-{ALIKE[i][0]}")
def test_constants_are_what_the_reference_says(index: int, scratch: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    op, args, outputs, attrs = ALIKE[index]
    args = [None if a is None else np.asarray(a) for a in args]
    whole, operation = made(scratch, op, args, outputs, attrs)
    assert can_fold(operation)
    feeds = {f"i{k}": a for k, a in enumerate(args) if a is not None}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = ReferenceEvaluator(whole).run(None, feeds)
    got = fold_onnx(operation, args + [None] * (len(operation.args["inputs"]) - len(args)))
    assert len(got) == len(operation.outputs)
    for a, b in zip(got, want, strict=False):
        assert a.dtype == np.asarray(b).dtype and a.shape == np.shape(b)
        np.testing.assert_allclose(
            a.astype(np.float64), np.asarray(b, np.float64), rtol=2e-5, atol=1e-6
        )


def test_positions_beyond_the_depth_are_off(scratch: Path) -> None:
    args = [np.int64([0, 9, -4]), np.array(3), np.float32([1, 5])]
    _, op = made(scratch, "OneHot", args, 1, {})
    assert fold_onnx(op, args)[0].tolist() == [[5, 1, 1], [1, 1, 1], [1, 1, 1]]


def test_negative_pads_cut(scratch: Path) -> None:
    args = [X, np.int64([0, 1, -2, 0, -1, 0]), None, None]
    _, op = made(scratch, "Pad", args[:2], 1, {})
    want = np.concatenate([np.zeros((2, 1, 2), np.float32), X[:, :-1, 2:]], axis=1)
    assert fold_onnx(op, args)[0].tolist() == want.tolist()


def test_integers_are_divided_towards_zero(scratch: Path) -> None:
    _, op = made(scratch, "Div", [N, D], 1, {})
    assert fold_onnx(op, [N, D])[0].tolist() == [[3, -3, -1], [0, -1, 0]]
    with pytest.raises(FoldError, match="divided by zero"):
        fold_onnx(op, [N, np.zeros_like(D)])


BIG = np.int64(1 << 40)
TOO_LARGE = [
    case("ConstantOfShape", np.int64([1 << 20, 1 << 20])),
    case("ConstantOfShape", np.int64([-1])),
    case("Expand", X, np.int64([1 << 30, 1, 1, 1])),
    case("Tile", X, np.int64([1, 1, 1 << 40])),
    case("Range", np.int64(0), BIG, np.int64(1)),
    case("Range", np.float32(0), np.float32(np.inf), np.float32(1)),
    case("Range", np.int64(0), BIG, np.int64(0)),
    case("Pad", X, np.int64([0, 0, 0, 0, 0, 1 << 40])),
    case("Pad", X, np.int64([0, 0, 9, 0, 0, 9]), mode="reflect"),
    case("Resize", X, None, np.float32([1, 1, 1e9])),
    case("Resize", X, None, None, np.int64([2, 3, 1 << 40])),
    case("Resize", X, None, None, np.int64([9, 1, 1]), keep_aspect_ratio_policy="not_smaller"),
    case("Unique", np.zeros((30000, 0, 30000), np.float32), axis=1),
    case("OneHot", N, BIG, np.float32([0, 1])),
    case("Gather", np.ones((1, 1 << 12), "i1"), np.zeros(1 << 13, np.int64), axis=0),
    case("GatherND", np.ones((1, 1 << 12), "i1"), np.zeros((1 << 13, 1), np.int64)),
    case("MatMul", np.ones((1 << 13, 1), "f4"), np.ones((1, 1 << 13), "f4")),
    case("Gemm", np.ones((1 << 13, 1), "f4"), np.ones((1 << 13, 1), "f4"), transB=1),
    case("Add", np.ones((1 << 13, 1), "f4"), np.ones((1, 1 << 13), "f4")),
    case("Where", np.ones((1 << 13, 1), bool), np.ones((1, 1 << 13), "f4"), np.float32(0)),
    case("Einsum", np.ones(1 << 13, "f4"), np.ones(1 << 13, "f4"), np.ones(1 << 13, "f4"),
         equation="a,b,c->abc"),
    case("Conv", X, np.ones((2, 3, 2), "f4"), pads=[1 << 40, 0]),
    case("Conv", X, np.ones((2, 3, 2), "f4"), dilations=[1 << 40]),
    case("ConvTranspose", X, np.ones((3, 2, 2), "f4"), strides=[1 << 30]),
    case("AveragePool", np.ones((1, 64, 20000), "f4"), kernel_shape=[1000]),
    case("HannWindow", BIG),
    case("MelWeightMatrix", BIG, BIG, np.int64(8000), np.float32(0), np.float32(4000)),
    case("DFT", X[..., None], BIG, np.int64(1)),
    case("RMSNormalization", X, np.ones(4, "f4"), axis=-228589569),
    case("Unsqueeze", X, np.arange(64)),
    case("PRelu", np.ones((1, 1 << 12), "f4"), np.ones((1 << 12, 1), "f4")),
    case("Cast", np.float32([1e30]), to=T.INT32),
    case("Cast", X, to=T.FLOAT8E4M3FN),
    case("RandomNormalLike", X),
    case("Bernoulli", U),
    case("Dropout", X, np.float32(0.5), np.array(True)),
    case("GRU", X, X, X, hidden_size=1),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(TOO_LARGE)), ids=lambda i: f"{i}-{TOO_LARGE[i][0]}")
def test_what_is_too_large_or_random_is_refused_before_it_is_made(
    index: int, scratch: Path
) -> None:
    op, args, outputs, attrs = TOO_LARGE[index]
    args = [None if a is None else np.asarray(a) for a in args]
    _, operation = made(scratch, op, args, outputs, attrs)
    with pytest.raises(FoldError):
        fold_onnx(operation, args + [None] * (len(operation.args["inputs"]) - len(args)))


def test_arguments_that_do_not_fit_are_refused(scratch: Path) -> None:
    for op, args, outputs, attrs in ALIKE:
        arrays = [None if a is None else np.asarray(a) for a in args]
        _, operation = made(scratch, op, arrays, outputs, attrs)
        width = len(operation.args["inputs"])
        for wrong in (np.zeros((0, 3), "f4"), np.array("text", object), np.ones((5, 7), "i8")):
            for i in range(len(arrays)):
                given = [*arrays[:i], wrong, *arrays[i + 1 :]]
                try:
                    fold_onnx(operation, given + [None] * (width - len(given)))
                except FoldError:
                    continue


def test_loops_end(put: Any) -> None:
    body = h.make_graph(
        [node("Identity", "go", "on"), node("Concat", "s s", "t", axis=0)],
        "body", [info("i", kind=T.INT64), info("go", kind=T.BOOL), info("s", None)],
        [info("on", kind=T.BOOL), info("t", None)],
    )  # fmt: skip
    consts = {"n": np.int64((1 << 63) - 1), "z": np.zeros(1, np.float32)}
    doubled = model([node("Loop", "n - z", body=body)], consts=consts)
    with pytest.raises(FoldError, match="too large"):
        evaluate(read_onnx(put(doubled)), {})
    body.node[1].CopyFrom(node("Identity", "s", "t"))
    endless = model([node("Loop", "n - z", body=body)], consts=consts)
    with pytest.raises(FoldError, match="steps"):
        evaluate(read_onnx(put(endless)), {})


def test_one_budget_bounds_all_constants(scratch: Path) -> None:
    _, op = made(scratch, "MatMul", [np.ones((512, 512), "f4")] * 2, 1, {})
    budget = Budget(50e6)  # a product of these is estimated as 21 ms
    wide = np.ones((512, 512), np.float32)
    for _ in range(2):
        fold_onnx(op, [wide, wide], budget=budget)
    with pytest.raises(FoldError, match="too long"):
        fold_onnx(op, [wide, wide], budget=budget)


def test_outer_values_that_are_not_known(put: Any) -> None:
    program = read_onnx(put(model([conditional()], consts={"c": np.array(True)})))
    with pytest.raises(FoldError, match="'x' is not a constant"):
        fold_onnx(program.operations[0], [np.array(True)])
    assert fold_onnx(program.operations[0], [np.array(True)], outer={"x": X})[0].shape == X.shape
