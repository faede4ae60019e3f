"""ONNX files over time: what is read is what ONNX Runtime computes, whole and as a stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import Net, run

from edgeseq.errors import UnsupportedError, UsageError
from edgeseq.frontend.onnx_import import import_onnx
from edgeseq.frontend.options import ImportOptions
from edgeseq.ir import Interpreter
from edgeseq.passes import to_step

T = 41


def causal_tcn(n: Net) -> str:
    x = n.input("x", ["batch", 6, "time"])
    h = n.op("Relu", n.op("Pad", n.conv(x, 8, 6, 1), n.const([0, 0, 4, 0, 0, 0], np.int64)))
    return n.conv(h, 5, 8, 3, dilations=[2])


def chomped(n: Net) -> str:
    x = n.input("x", ["batch", 4, "time"])
    h = n.conv(x, 6, 4, 3, pads=[2, 2])
    h = n.op("Slice", h, *(n.const([v], np.int64) for v in (0, -2, 2, 1)))
    h = n.op("Relu", h)
    return n.op("Add", n.conv(h, 4, 6, 1), x)


def unpadded(n: Net) -> str:
    x = n.input("x", ["batch", 4, "time"])
    h = n.op("Tanh", n.conv(x, 6, 4, 3))
    return n.conv(h, 3, 6, 2)


def looks_ahead(n: Net) -> str:
    x = n.input("x", ["batch", 4, "time"])
    h = n.op("Relu", n.conv(x, 6, 4, 3, pads=[1, 1]))
    h = n.op("Add", n.conv(h, 6, 6, 5, pads=[2, 2], group=6), h)
    t = n.op("Transpose", h, perm=[2, 0, 1])
    y = n.recurrent("GRU", t, 6, 5, linear_before_reset=1)[0]
    return n.op("Squeeze", y, n.const([1], np.int64))


def strided(n: Net) -> str:
    x = n.input("x", ["batch", 3, "time"])
    h = n.op("Relu", n.conv(x, 6, 3, 4, pads=[2, 1], strides=[2]))
    h = n.op("Relu", n.conv(h, 6, 6, 3, pads=[2, 0], strides=[2]))
    t = n.op("Transpose", h, perm=[2, 0, 1])
    y = n.recurrent("LSTM", t, 6, 5)[0]
    return n.op("Squeeze", y, n.const([1], np.int64))


def crnn(n: Net) -> str:
    x = n.input("x", ["batch", 1, "time", 12])
    w, b = n.weight(4, 1, 3, 3), n.weight(4)
    h = n.op("Conv", x, w, b, pads=[2, 1, 0, 1], strides=[1, 2])
    h = n.op("MaxPool", n.op("Relu", h), kernel_shape=[1, 2], strides=[1, 2])
    h = n.op("Transpose", h, perm=[2, 0, 1, 3])
    h = n.op("Reshape", h, n.const([0, 0, -1], np.int64))
    y = n.recurrent("GRU", h, 12, 6)[0]
    return n.op("Squeeze", y, n.const([1], np.int64))


def normed(n: Net) -> str:
    x = n.input("x", ["batch", "time", 8])
    h = n.op("LayerNormalization", x, n.weight(8), n.weight(8))
    h = (
        n.op("Gelu", n.op("MatMul", h, n.weight(8, 12)))
        if n.opset >= 20
        else n.op("Erf", n.op("MatMul", h, n.weight(8, 12)))
    )
    return n.op("Softmax", n.op("MatMul", h, n.weight(12, 4)), axis=-1)


def lstm_all(n: Net) -> str:
    x = n.input("x", ["time", "batch", 5])
    peep = n.weight(1, 18)
    state = n.const(np.full((1, 1, 6), 0.2))
    y = n.recurrent(
        "LSTM", x, 5, 6, initial=[state, state], extra=[peep], clip=0.8, input_forget=1,
        activations=["HardSigmoid", "ScaledTanh", "Softsign"], activation_alpha=[0.3, 1.5],
        activation_beta=[0.4, 0.7],
    )[0]  # fmt: skip
    return n.op("Squeeze", y, n.const([1], np.int64))


def gru_resets_first(n: Net) -> str:
    x = n.input("x", ["time", "batch", 5])
    y = n.recurrent("GRU", x, 5, 6, linear_before_reset=0)[0]
    return n.op("Squeeze", y, n.const([1], np.int64))


def rnn_leaky(n: Net) -> str:
    x = n.input("x", ["time", "batch", 5])
    y = n.recurrent(
        "RNN", x, 5, 6, activations=["LeakyRelu"], activation_alpha=[0.1], clip=3.0
    )[0]  # fmt: skip
    return n.op("Squeeze", y, n.const([1], np.int64))


def listed(n: Net) -> str:
    """Lists of tensors: taken apart, changed, and put together along another axis."""
    x = n.input("x", ["batch", "time", 9])

    def at(i: int) -> str:
        return n.const(i, np.int64)

    parts = n.op("SplitToSequence", x, n.const([2, 3, 4], np.int64), axis=2)
    short, long = n.op("SequenceAt", parts, at(0)), n.op("SequenceAt", parts, at(-1))
    parts = n.op("SequenceErase", n.op("SequenceInsert", parts, n.op("Tanh", long), at(1)), at(2))
    made = n.op("SequenceInsert", n.op("SequenceEmpty"), n.op("ConcatFromSequence", parts, axis=-1))
    made = n.op("SequenceAt", n.op("SequenceInsert", made, short, at(0)), at(1))
    ones = n.op("SplitToSequence", made, axis=2, keepdims=0)
    count = n.op("Cast", n.op("SequenceLength", ones), to=TensorProto.FLOAT)
    some = n.op(
        "SequenceConstruct", n.op("SequenceAt", ones, at(-3)), n.op("SequenceAt", ones, at(1))
    )
    stacked = n.op("ConcatFromSequence", some, axis=2, new_axis=1)
    return n.op("Concat", n.op("Mul", stacked, count), short, axis=2)


def root_mean_square(n: Net) -> str:
    x = n.input("x", ["batch", "time", 8])
    h = n.op("SimplifiedLayerNormalization", x, n.weight(8), axis=-1, epsilon=1e-3)
    return n.op("MatMul", h, n.weight(8, 5))


MODELS: dict[str, Callable[[Net], str]] = {
    f.__name__: f
    for f in (
        causal_tcn, chomped, unpadded, looks_ahead, strided, crnn, normed, lstm_all,
        gru_resets_first, rnn_leaky, listed, root_mean_square,
    )
}  # fmt: skip
DELAY = {"unpadded": 3, "looks_ahead": 3}


def built(model: Callable[[Net], str], folder: Path, opset: int = 18) -> Path:
    net = Net(opset)
    net.output(model(net), None, "y")
    return net.save(folder / "model.onnx")


def to_front(array: np.ndarray, axis: int) -> np.ndarray:
    """[T, features...] without axes of one."""
    moved = np.moveaxis(array, axis, 0)
    return moved.reshape(len(moved), -1)


@pytest.mark.parametrize("name", MODELS)
def test_whole_and_stream_are_onnx_runtime(name: str, tmp_path: Path) -> None:
    path = built(MODELS[name], tmp_path)
    made = import_onnx(path, name="m", options=ImportOptions())
    assert made.mode == "stream"
    plan = made.plans["x"]
    assert plan.time is not None
    sizes = list(plan.sizes)
    sizes[plan.time] = T
    x = np.random.default_rng(1).normal(size=sizes).astype(np.float32)
    want = run(path, x=x)["y"]
    layout = made.graph.meta["onnx"]["outputs"]["y"]
    want = to_front(want, layout.index("T"))
    shape = made.graph.types[made.graph.inputs[0]].shape
    frames = np.moveaxis(x, plan.time, 0).reshape(1, T, *shape)
    whole = Interpreter(made.graph)(frames)[0][0]
    whole = whole.reshape(len(whole), -1)
    scale = np.abs(want).max()
    assert whole.shape == want.shape
    assert np.abs(whole - want).max() < 1e-5 * scale

    step = to_step(made.graph)
    per = step.meta.get("frames_per_step", 1)
    streamed = Interpreter(step).sequence(frames[:, : T // per * per])[0][0]
    streamed = streamed.reshape(len(streamed), -1)
    delay = step.meta["delay"] // max(1, T // len(want))
    assert step.meta["delay"] == DELAY.get(name, step.meta["delay"])
    n = min(len(streamed) - delay, len(want))
    assert n > 4
    assert np.abs(streamed[delay : delay + n] - whole[:n]).max() < 1e-9 * scale


def test_a_bidirectional_layer_names_itself_and_compiles_as_a_window(tmp_path: Path) -> None:
    def model(n: Net) -> str:
        x = n.input("x", ["time", "batch", 4])
        y = n.recurrent("LSTM", x, 4, 3, direction="bidirectional")[0]
        y = n.op("Transpose", y, perm=[0, 2, 1, 3])
        y = n.op("Reshape", y, n.const([0, 0, -1], np.int64))
        return n.op("ReduceMean", y, n.const([0], np.int64), keepdims=0)

    path = built(model, tmp_path)
    with pytest.raises(UnsupportedError, match="window mode"):
        import_onnx(path, name="m", options=ImportOptions())
    window, hop = 12, 4
    options = ImportOptions(window=window, hop=hop)
    step = to_step(import_onnx(path, name="m", options=options).graph)
    x = np.random.default_rng(2).normal(size=(window * 3, 4)).astype(np.float32)
    machine = Interpreter(step)
    outs = [machine(x[None, t : t + hop])[0][0] for t in range(0, len(x), hop)]
    for k in range(window // hop - 1, len(outs)):
        end = (k + 1) * hop
        want = run(path, x=x[end - window : end, None])["y"]
        assert np.abs(outs[k].ravel() - want.ravel()).max() < 1e-5


STATE_NAMES = [("h", "hn"), ("state", "next_state"), ("cache_in", "cache_out"), ("a", "b")]


@pytest.mark.parametrize(("before", "after"), STATE_NAMES)
def test_states_are_recognised(before: str, after: str, tmp_path: Path) -> None:
    n = Net()
    x = n.input("frame", ["batch", 1, 4])
    h = n.input(before, [1, "batch", 5])
    _, last = n.recurrent("GRU", n.op("Transpose", x, perm=[1, 0, 2]), 4, 5, initial=[h])
    n.output(n.op("MatMul", last, n.weight(5, 3)), [1, "batch", 3], "y")
    n.output(last, [1, "batch", 5], after)
    path = n.save(tmp_path / "m.onnx")
    made = import_onnx(path, name="m", options=ImportOptions())
    assert (made.mode, [(s.input, s.output) for s in made.states]) == ("step", [(before, after)])
    machine = Interpreter(to_step(made.graph))
    state = np.zeros((1, 1, 5), np.float32)
    for x_t in np.random.default_rng(3).normal(size=(6, 1, 1, 4)).astype(np.float32):
        want = run(path, **{"frame": x_t, before: state})
        state = want[after]
        assert np.abs(machine(x_t.reshape(1, 4))[0].ravel() - want["y"].ravel()).max() < 1e-5


def test_packed_states_come_apart(tmp_path: Path) -> None:
    n = Net()
    x = n.input("input", ["batch", 4])
    s = n.input("state", [2, 2, "batch", 5])  # [h or c, layer, batch, H]
    states = n.op("Split", s, n.const([1, 1], np.int64), axis=1, outputs=2)
    seq = n.op("Unsqueeze", x, n.const([0], np.int64))
    hs, cs, size = [], [], 4
    for part in states:
        pair = [
            n.op("Squeeze", n.op("Gather", part, n.const([k], np.int64), axis=0),
                 n.const([0], np.int64))
            for k in (0, 1)
        ]  # fmt: skip
        y, h, c = n.recurrent("LSTM", seq, size, 5, initial=pair)
        hs.append(n.op("Unsqueeze", h, n.const([0], np.int64)))
        cs.append(n.op("Unsqueeze", c, n.const([0], np.int64)))
        seq, size = n.op("Squeeze", y, n.const([1], np.int64)), 5
    packed = n.op("Concat", n.op("Concat", *hs, axis=1), n.op("Concat", *cs, axis=1), axis=0)
    n.output(seq, [1, "batch", 5], "y")
    n.output(packed, [2, 2, "batch", 5], "stateN")
    path = n.save(tmp_path / "m.onnx")
    made = import_onnx(path, name="m", options=ImportOptions())
    assert sorted(made.graph.types[s.input].shape for s in made.graph.states) == [(5,)] * 4
    machine = Interpreter(to_step(made.graph))
    state = np.zeros((2, 2, 1, 5), np.float32)
    for x_t in np.random.default_rng(3).normal(size=(6, 1, 4)).astype(np.float32):
        want = run(path, input=x_t, state=state)
        state = want["stateN"]
        assert np.abs(machine(x_t)[0].ravel() - want["y"].ravel()).max() < 1e-5


def test_pairs_can_be_stated_and_are_checked(tmp_path: Path) -> None:
    n = Net()
    x, h = n.input("p", [1, 4]), n.input("q", [1, 4])
    new = n.op("Tanh", n.op("Add", n.op("MatMul", x, n.weight(4, 4)), h))
    n.output(n.op("MatMul", new, n.weight(4, 4)), [1, 4], "r")
    n.output(new, [1, 4], "s")
    path = n.save(tmp_path / "m.onnx")
    made = import_onnx(path, name="m", options=ImportOptions(states=(("q", "s"),)))
    assert [s.name for s in made.graph.states] == ["q"]
    with pytest.raises(UsageError, match="did you mean|known"):
        import_onnx(path, name="m", options=ImportOptions(states=(("q", "nothing"),)))


def test_stored_integers_are_read_as_the_numbers_they_stand_for(tmp_path: Path) -> None:
    scale, zero, low, high = 0.02, 100, -2.0, 3.1  # uint8: (0 - 100) * 0.02, (255 - 100) * 0.02

    def model(n: Net) -> str:
        x = n.input("x", ["batch", "time", 6])
        a, z = n.const(scale), n.const(zero, np.uint8)
        x = n.op("DequantizeLinear", n.op("QuantizeLinear", x, a, z), a, z)
        w = n.op(
            "DequantizeLinear", n.const(n.rng.integers(-127, 128, (6, 4)), np.int8),
            n.const([0.01, 0.02, 0.03, 0.04]), n.const([0, 1, -2, 3], np.int8), axis=1,
        )  # fmt: skip
        return n.op("MatMul", x, w)

    path = built(model, tmp_path)
    made = import_onnx(path, name="m", options=ImportOptions())
    x = (np.random.default_rng(1).normal(size=(1, T, 6)) * 2).astype(np.float32)
    assert x.min() < low and x.max() > high
    want = run(path, x=x)["y"][0]
    have = Interpreter(made.graph)(x)[0][0]
    # The file rounds each of 6 numbers, at most by half a step; saturation is kept.
    weight = 127 * 0.04
    assert np.abs(have - want).max() < 6 * weight * scale / 2
    on_grid = (np.round(np.clip(x, low, high) / scale) * scale).astype(np.float32)
    exact = Interpreter(made.graph)(on_grid)[0][0]
    assert np.abs(exact - run(path, x=on_grid)["y"][0]).max() < 1e-5
    assert "quantised" in " ".join(made.notes)


def test_reversed_sequences_of_a_window(tmp_path: Path) -> None:
    def model(n: Net) -> str:
        x = n.input("x", [7, 1, 3])
        h = n.op("ReverseSequence", x, n.const([7], np.int64), time_axis=0, batch_axis=1)
        y = n.recurrent("GRU", h, 3, 4)[0]
        return n.op("ReverseSequence", n.op("Squeeze", y, n.const([1], np.int64)),
                    n.const([7], np.int64), time_axis=0, batch_axis=1)  # fmt: skip

    path = built(model, tmp_path)
    options = ImportOptions(window=7, hop=7, time_axis={"x": 0})
    made = import_onnx(path, name="m", options=options)
    x = np.random.default_rng(2).normal(size=(7, 1, 3)).astype(np.float32)
    have = Interpreter(made.graph)(x.reshape(1, 7, 3))[0]
    want = run(path, x=x)["y"]
    assert np.abs(have.reshape(want.shape) - want).max() < 1e-5 * np.abs(want).max()


def scan_model(n: Net, *, loop: bool) -> str:
    """h' = tanh(x + h W), as an ONNX Scan or as a Loop that counts."""
    x = n.input("x", ["time", 4])
    w = n.weight(4, 4)
    start = n.const(np.zeros(4))
    info = helper.make_tensor_value_info
    if not loop:
        body = helper.make_graph(
            [
                helper.make_node("MatMul", ["h", w], ["hw"]),
                helper.make_node("Add", ["xt", "hw"], ["s"]),
                helper.make_node("Tanh", ["s"], ["hn"]),
                helper.make_node("Identity", ["hn"], ["yt"]),
            ],
            "body",
            [info("h", TensorProto.FLOAT, [4]), info("xt", TensorProto.FLOAT, [4])],
            [info("hn", TensorProto.FLOAT, [4]), info("yt", TensorProto.FLOAT, [4])],
        )
        return str(n.op("Scan", start, x, outputs=2, body=body, num_scan_inputs=1)[1])
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "i"], ["xt"], axis=0),
            helper.make_node("MatMul", ["h", w], ["hw"]),
            helper.make_node("Add", ["xt", "hw"], ["s"]),
            helper.make_node("Tanh", ["s"], ["hn"]),
            helper.make_node("Identity", ["hn"], ["yt"]),
            helper.make_node("Identity", ["cond"], ["go"]),
        ],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("cond", TensorProto.BOOL, []),
            info("h", TensorProto.FLOAT, [4]),
        ],
        [
            info("go", TensorProto.BOOL, []),
            info("hn", TensorProto.FLOAT, [4]),
            info("yt", TensorProto.FLOAT, [4]),
        ],
    )
    count = n.op("Squeeze", n.op("Slice", n.op("Shape", x), n.const([0], np.int64),
                                 n.const([1], np.int64)))  # fmt: skip
    return str(n.op("Loop", count, n.const(True, bool), start, outputs=2, body=body)[1])


def test_windows_of_inputs_whose_names_begin_alike(tmp_path: Path) -> None:
    def model(n: Net) -> str:
        y, x = n.input("x.y", [1, 3, 8]), n.input("x", [1, 8, 3])
        h = n.op("Add", n.op("Transpose", y, perm=[0, 2, 1]), n.op("Tanh", x))
        return n.op("ReduceMean", h, n.const([1], np.int64), keepdims=0)

    path = built(model, tmp_path)
    options = ImportOptions(window=8, hop=2, time_axis={"x": 1, "x.y": 2})
    step = to_step(import_onnx(path, name="m", options=options).graph)
    rng = np.random.default_rng(3)
    xs = {"x": rng.normal(size=(1, 20, 3)), "x.y": rng.normal(size=(1, 3, 20))}
    xs = {name: x.astype(np.float32) for name, x in xs.items()}
    machine = Interpreter(step)
    fresh = {"x": xs["x"][0], "x_y": xs["x.y"][0].T}
    for t in range(0, 20, 2):
        have = machine(*(fresh[v][None, t : t + 2] for v in step.inputs))[0][0]
        if t >= 6:
            now = slice(t - 6, t + 2)
            want = run(path, **{"x": xs["x"][:, now], "x.y": xs["x.y"][:, :, now]})["y"][0]
            assert np.abs(have - want).max() < 1e-6


def test_a_list_that_a_loop_fills_is_a_sequence(tmp_path: Path) -> None:
    def model(n: Net) -> str:
        x, w = n.input("x", ["time", 4]), n.weight(4, 4)
        info = helper.make_tensor_value_info
        tensors = helper.make_tensor_sequence_value_info
        body = helper.make_graph(
            [
                helper.make_node("Gather", ["x", "i"], ["xt"], axis=0),
                helper.make_node("MatMul", ["h", w], ["hw"]),
                helper.make_node("Add", ["xt", "hw"], ["s"]),
                helper.make_node("Tanh", ["s"], ["hn"]),
                helper.make_node("SequenceInsert", ["ys", "hn"], ["yn"]),
                helper.make_node("Identity", ["cond"], ["go"]),
            ],
            "body",
            [
                info("i", TensorProto.INT64, []),
                info("cond", TensorProto.BOOL, []),
                info("h", TensorProto.FLOAT, [4]),
                tensors("ys", TensorProto.FLOAT, None),
            ],
            [
                info("go", TensorProto.BOOL, []),
                info("hn", TensorProto.FLOAT, [4]),
                tensors("yn", TensorProto.FLOAT, None),
            ],
        )
        count = n.op("Squeeze", n.op("Slice", n.op("Shape", x), n.const([0], np.int64),
                                     n.const([1], np.int64)))  # fmt: skip
        start, empty = n.const(np.zeros(4)), n.op("SequenceEmpty")
        ys = n.op("Loop", count, n.const(True, bool), start, empty, outputs=2, body=body)[1]
        return str(n.op("ConcatFromSequence", ys, axis=0, new_axis=1))

    path = built(model, tmp_path)
    made = import_onnx(path, name="m", options=ImportOptions())
    x = np.random.default_rng(5).normal(size=(T, 4)).astype(np.float32)
    want = run(path, x=x)["y"]
    assert np.abs(Interpreter(to_step(made.graph)).sequence(x[None])[0][0] - want).max() < 1e-5


@pytest.mark.parametrize("loop", [False, True])
def test_loops_are_recurrences(loop: bool, tmp_path: Path) -> None:
    path = built(lambda n: scan_model(n, loop=loop), tmp_path)
    made = import_onnx(path, name="m", options=ImportOptions())
    x = np.random.default_rng(5).normal(size=(T, 4)).astype(np.float32)
    want = run(path, x=x)["y"]
    step = to_step(made.graph)
    assert np.abs(Interpreter(step).sequence(x[None])[0][0] - want).max() < 1e-5


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_sums_of_the_features_so_far(exclusive: int, reverse: int, tmp_path: Path) -> None:
    def model(n: Net) -> str:
        x = n.input("x", ["batch", "time", 4])
        return n.op("CumSum", x, n.const(-1, np.int64), exclusive=exclusive, reverse=reverse)

    path = built(model, tmp_path)
    step = to_step(import_onnx(path, name="m", options=ImportOptions()).graph)
    x = np.random.default_rng(0).normal(size=(1, 6, 4)).astype(np.float32)
    assert np.abs(Interpreter(step).sequence(x)[0][0] - run(path, x=x)["y"]).max() < 1e-5


def test_every_problem_is_listed(tmp_path: Path) -> None:
    def model(n: Net) -> str:
        x = n.input("x", ["batch", "time", 4])
        a = n.op("ArgMax", x, axis=-1)
        b = n.op("Cast", a, to=TensorProto.FLOAT)
        c = n.op("Mod", x, n.const(2.0), fmod=1)
        return n.op("Add", b, n.op("Round", c))

    path = built(model, tmp_path)
    with pytest.raises(UnsupportedError) as e:
        import_onnx(path, name="m", options=ImportOptions())
    assert {p[0] for p in e.value.problems} == {"ArgMax", "Mod"}
    assert all(len(p) == 4 and p[1] and p[2] for p in e.value.problems)


def test_open_sizes_are_asked_for(tmp_path: Path) -> None:
    n = Net()
    x, h = n.input("x", ["batch", "length"]), n.input("h", ["batch", 4])
    total = n.op("ReduceMean", x, n.const([1], np.int64), keepdims=1)
    new = n.op("Tanh", n.op("Add", n.op("Mul", total, n.const([[1.0, 2, 3, 4]])), h))
    n.output(new, ["batch", 4], "hn")
    n.output(n.op("MatMul", new, n.weight(4, 2)), ["batch", 2], "y")
    path = n.save(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="length"):
        import_onnx(path, name="m", options=ImportOptions())
    made = import_onnx(path, name="m", options=ImportOptions(values={"length": 6}))
    assert made.graph.types[made.graph.inputs[0]].shape == (6,)


@pytest.mark.parametrize("size", ["time", "n_frames", "sequence_length", "T"])
def test_an_axis_called_time_is_not_the_batch(size: str, tmp_path: Path) -> None:
    n = Net()
    x = n.input("x", [size, 6])
    n.output(n.op("Sub", x, n.op("ReduceMean", x, n.const([0], np.int64))), [size, 6], "y")
    with pytest.raises(UnsupportedError, match="over time"):
        import_onnx(n.save(tmp_path / "m.onnx"), name="m", options=ImportOptions())


def test_wrong_options_say_so(tmp_path: Path) -> None:
    path = built(causal_tcn, tmp_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"values": {"nonsense": 3}}, "nonsense"),
        ({"values": {"time": 1 << 40}}, "from 1 to 2"),
        ({"time_axis": 7}, "has 3 axes, axis 7"),
        ({"time_axis": {"y": 2}}, "unknown input 'y' .known: x"),
        ({"batch_axis": 3}, "axis 3 as batch: the inputs have at most 3 axes"),
        ({"window": 8, "hop": 9}, "a hop of 9 frames with a window of 8"),
    ]
    for options, text in cases:
        with pytest.raises(UsageError, match=text):
            import_onnx(path, name="m", options=ImportOptions(**options))
