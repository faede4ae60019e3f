"""Damaged and hostile ONNX files end in one message."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto as T  # noqa: E402
from onnx import helper as h  # noqa: E402
from onnx_files import (  # noqa: E402
    call,
    conditional,
    function,
    info,
    model,
    node,
)  # fmt: skip

from edgeseq.errors import EdgeseqError, ModelError, UnsupportedError  # noqa: E402
from edgeseq.frontend import _onnx_graph, _onnx_wire  # noqa: E402
from edgeseq.frontend.onnx_file import describe_onnx, read_onnx  # noqa: E402

# -- what is wrong with a graph --------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """Ifs inside each other, written by hand: protobuf refuses to build them."""
    graph = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + field(5, attribute))
    return b"\x08\x08" + field(8, b"\x10\x11") + field(7, graph)


def field(number: int, payload: bytes) -> bytes:
    """A field of bytes in protobuf's wire format."""

    def varint(n: int) -> bytes:
        return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])

    return varint(number << 3 | 2) + varint(len(payload)) + payload


def header(graph: bytes) -> bytes:
    return b"\x08\x08" + field(8, b"\x10\x11") + field(7, graph)


def recursive() -> Any:
    return [function("A", "a", "b", [call("B", "a", "b")]),
            function("B", "a", "b", [call("A", "a", "b")])]  # fmt: skip


def doubling(levels: int) -> Any:
    last = [function(f"F{levels}", "a", "b", [node("Relu", "a", "b")])]
    return [
        function(f"F{i}", "a", "b", [call(f"F{i + 1}", "a", "t"), call(f"F{i + 1}", "t", "b")])
        for i in range(levels)
    ] + last


BAD: dict[str, tuple[Any, str]] = {
    "undefined": (lambda: model([node("Relu", "z")]), "reads 'z', which nothing defines"),
    "output": (lambda: model([node("Relu", "x", "z")]), "output 'y' is not defined"),
    "cycle": (lambda: model([node("Add", "x z"), node("Relu", "y", "z")]), "depends on itself"),
    "itself": (lambda: model([node("Add", "x y")]), "onnx.Add of 'y'"),
    "cycle_through_branch": (
        lambda: model([conditional(), node("Cast", "y", "c", to=T.BOOL), node("Neg", "y", "q")]),
        "depends on itself",
    ),
    "twice": (lambda: model([node("Relu", "x"), node("Neg", "x")]), "'y', which is defined"),
    "input_again": (lambda: model([node("Relu", "x", "x"), node("Neg", "x")]), "defined already"),
    "two_inputs": (
        lambda: model([node("Relu", "x")], inputs=[("x", 2), ("x", 2)]), "two inputs 'x'",
    ),
    "two_outputs": (lambda: model([node("Relu", "x")], outputs=["y", "y"]), "two outputs 'y'"),
    "attribute": (lambda: model([node("Relu", "x", slope=1.0)]), "has attribute 'slope'"),
    "attribute_type": (
        lambda: model([node("Softmax", "x", axis=1.0)]), "attribute 'axis' of the wrong type",
    ),
    "attribute_missing": (lambda: model([node("Concat", "x x")]), "lacks attribute 'axis'"),
    "attribute_sparse": (
        lambda: model([h.make_node("Constant", [], ["y"], sparse_value=h.make_sparse_tensor(
            h.make_tensor("v", T.FLOAT, [1], [1.0]), h.make_tensor("i", T.INT64, [1], [0]), [3]))]),
        "sparse tensor",
    ),
    "reference": (
        lambda: _with(model([node("Elu", "x", alpha=1.0)]),
                      lambda m: setattr(m.graph.node[0].attribute[0], "ref_attr_name", "q")),
        "refers to attribute 'q' of a function",
    ),
    "too_few": (lambda: model([node("Add", "x")]), "has 1 inputs"),
    "too_many": (lambda: model([node("Relu", "x x")]), "has 2 inputs"),
    "left_out": (lambda: model([node("Add", "x -")]), "leaves out input 'B'"),
    "outputs": (lambda: model([node("Relu", "x", "y z")]), "has 2 outputs"),
    "split": (lambda: model([node("Split", "x", "y z", num_outputs=3)], opset=18), "splits into 3"),
    "constant": (lambda: model([node("Constant", "", value_int=1, value_float=1.0)]), "a constant"),
    "branch": (lambda: model([_lacks(conditional())], consts={"c": np.array(True)}), "outputs"),
    "direction": (
        lambda: model([node("RNN", "x x x", direction="up", hidden_size=1)]), "direction 'up'",
    ),
    "training": (
        lambda: model([node("BatchNormalization", "x x x x x", "y m")], opset=11), "eval()",
    ),
    "recursive": (lambda: model([call("A", "x")], functions=recursive()), "calls itself"),
    "doubling": (lambda: model([call("F0", "x")], functions=doubling(30)), "more than 1000 nodes"),
    "deep": (lambda: nested(60), "nested deeper than 30"),
    "very_deep": (lambda: nested(3000), "nested deeper than 30"),
    "nodes": (lambda: header(b"\x0a\x00" * 2000), "more than 1000 nodes"),
    "fields": (lambda: header(b"\x2a\x00" * 11_000), "more than 10000 fields"),
    "opset_twice": (
        lambda: _with(model([node("Relu", "x")]),
                      lambda m: m.opset_import.add(domain="ai.onnx", version=3)),
        "two versions",
    ),
    "no_opset": (
        lambda: _with(model([node("Relu", "x")]), lambda m: m.ClearField("opset_import")),
        "states no opset version",
    ),
    "sequence": (
        lambda: model([node("Relu", "x")], inputs=[
            h.make_tensor_sequence_value_info("x", T.FLOAT, None)]),
        "of kind sequence",
    ),
    "sparse": (
        lambda: _with(model([node("Relu", "x")]), lambda m: m.graph.sparse_initializer.add()),
        "sparse initializers",
    ),
    "size": (lambda: model([node("Relu", "x")], inputs=[("x", -7)]), "size of -7"),
    "huge_size": (lambda: model([node("Relu", "x")], inputs=[("x", 1 << 40)]), "has a size of"),
    "not_utf8": (
        lambda: model([node("Relu", "x", "abcd"), node("Relu", "abcd")]).SerializeToString()
        .replace(b"abcd", b"a\xff\xfe\xfd"),
        "not UTF-8",
    ),
    "attribute_not_utf8": (
        lambda: model([node("Pad", "x p", mode="abcd")], consts={"p": np.zeros(6, np.int64)})
        .SerializeToString().replace(b"abcd", b"a\xff\xfe\xfd"),
        "attribute 'mode' is not UTF-8",
    ),
    "long_name": (lambda: model([node("Relu", "x", "n" * 5000)]), "has 5000 characters"),
    "domain": (
        lambda: model([h.make_node("Relu", ["x"], ["y"], domain="onnx")]), "domain 'onnx'",
    ),
}  # fmt: skip


def _with(made: Any, change: Any) -> Any:
    change(made)
    return made


def _lacks(made: Any) -> Any:
    del made.attribute[1].g.output[:]
    return made


@pytest.mark.parametrize("name", BAD)
def test_wrong_graphs_end_in_one_message(
    name: str, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (_onnx_wire, _onnx_graph):
        monkeypatch.setattr(module, "MAX_NODES", 1000)
    monkeypatch.setattr(_onnx_wire, "MAX_FIELDS", 10_000)
    make, what = BAD[name]
    path = put(make())
    with pytest.raises(ModelError, match=what.replace("(", r"\(").replace(")", r"\)")) as caught:
        read_onnx(path)
    assert str(path) in str(caught.value) and "\n  -> " in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        (b"\x1c\0\0\0TFL3" + bytes(30), "a TFLite model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"hello world", "not an ONNX model"),
        (bytes(100), "not an ONNX model"),
        (b"\xff" * 100, "not an ONNX model"),
        (b"\x08\x08", "has no graph"),
        (b"\x3b" * 50, "not an ONNX model"),
        (b"\x80" * 50, "not an ONNX model"),
    ],
)
def test_what_is_not_onnx(data: bytes, what: str, put: Any) -> None:
    path = put(data)
    for read in (read_onnx, describe_onnx):
        with pytest.raises(ModelError, match=what):
            read(path)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        with pytest.raises(ModelError):
            read_onnx(tmp_path / name)


def test_size_is_checked_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    with open(path, "wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(UnsupportedError, match="more than 2147483647 are not read"):
        read_onnx(path)
    monkeypatch.setattr(_onnx_wire, "MAX_FILE", 10)
    path.write_bytes(b"\x08\x08" * 10)
    with pytest.raises(UnsupportedError, match="more than 10 are not read"):
        describe_onnx(path)


def small() -> bytes:
    """A model that has some of everything."""
    branch = conditional()
    consts = {
        "w": np.ones((2, 4, 4), np.float32), "c": np.array(True), "s": np.int64([2, 3, 4]),
        "h": h.make_tensor("h", T.FLOAT16, [1], [1.0]), "k": np.int64(2),
    }  # fmt: skip
    made = [
        node("Conv", "x w", "a", kernel_shape=[1], group=1, auto_pad="SAME_UPPER"),
        node("Reshape", "a s", "b"), node("TopK", "x n", "d e"), branch,
        node("Constant", "", "n", value_ints=[1]), call("Inner", "x", "f", slope=1.0),
    ]  # fmt: skip
    made[0].input[1] = "w"
    inner = function("Inner", "a", "b", [node("Relu", "a", "b")], attributes=["slope"])
    path = model(made, consts=consts, functions=[inner], inputs=[info("x", "n", 3, 4)])
    return path.SerializeToString()


def damaged() -> Iterator[bytes]:
    data = small()
    yield from (data[:i] for i in range(0, len(data), 7))
    rng = np.random.default_rng(5)
    for _ in range(500):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), rng.choice([1, 1, 2, 5])):
            changed[at] = rng.choice([changed[at] ^ 1 << rng.integers(8), 0, 255, 127])
        yield bytes(changed)


def test_damaged_files_end_in_an_error_or_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small())
    assert len(read_onnx(path).operations) == 5
    for data in damaged():
        path.write_bytes(data)
        for read in (describe_onnx, read_onnx):
            try:
                read(path)
            except EdgeseqError as e:
                assert len(str(e)) < 2000
