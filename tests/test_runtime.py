"""The runtime over a small artifact whose step is known: a leaky sum in C, and as ONNX."""

from __future__ import annotations

import dataclasses
import io
import platform
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_manifest import manifest

from edgeseq import manifest as m
from edgeseq.errors import ArtifactError, DataError, UsageError
from edgeseq.runtime import Stream

Array = npt.NDArray[Any]

MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
SCALE_IN, SCALE_OUT = 3e-3, 2**-6
AFFINE, OFFSET = np.array([2.0, 0.3]), np.array([1.0, -3.0])

# h = h - h/4 + x and y = h/2, starting from h = 5; states and outputs are exact integers.
SOURCE = """
#include <stdint.h>
typedef struct { int32_t h[2]; } leaky_state;
void leaky_reset(leaky_state *s) { s->h[0] = s->h[1] = 5; }
void leaky_run(leaky_state *s, void *scratch, const int16_t *x, int16_t *y, int32_t n)
{
    (void)scratch;
    for (int32_t t = 0; t < n; t++)
        for (int i = 0; i < 2; i++, x++, y++) {
            s->h[i] = s->h[i] - (s->h[i] >> 2) + *x;
            *y = (int16_t)(s->h[i] >> 3);
        }
}
"""


def reference(stored: Array) -> Array:
    h, out = np.array([5, 5], np.int64), []
    for x in stored.astype(np.int64):
        h = h - (h >> 2) + x
        out.append(h >> 3)
    return np.array(out, np.int16).reshape(-1, 2)


def stored_of(raw: Array) -> Array:
    """The definition in edgeseq.ir.io."""
    prepared = (np.asarray(raw, np.float64) - OFFSET) / AFFINE
    return np.clip(np.floor(prepared / SCALE_IN + 0.5), -32768, 32767).astype(np.int16)


def artifact(folder: Path, files: dict[str, bytes], **output: Any) -> Path:
    """A folder of made-up figures around these files: format name -> content."""
    folder.mkdir(parents=True)
    base = manifest()
    formats, infos = [], []
    for name, content in files.items():
        path = folder / f"leaky_{name}.bin"
        path.write_bytes(content)
        infos.append(m.describe_file(path, name))
        ports: dict[str, Any] = {}
        if name != "native":
            ports = {"inputs": ("x",), "outputs": ("y",), "states": (("h", "h_next"),)}
        formats.append(m.FormatInfo(format=name, file=path.name, **ports))  # type: ignore[arg-type]
    made = dataclasses.replace(
        base,
        name="leaky",
        target=dataclasses.replace(
            base.target,
            triple=f"{MACHINE}-unknown-{sys.platform}-gnu",
            cpu="generic",
            format="shared",
        ),
        inputs=(
            m.InputInfo(
                name="x",
                shape=(2,),
                dtype="i16",
                scale=SCALE_IN,
                affine_scale=tuple(AFFINE),
                affine_offset=tuple(OFFSET),
                channels=("left", "right"),
            ),
        ),
        outputs=(
            m.OutputInfo(
                name="y", shape=(2,), dtype="i16", scale=SCALE_OUT, labels=("a", "b"), **output
            ),
        ),
        states=(
            m.StateInfo(
                name="h", shape=(2,), dtype="i32", scale=SCALE_IN, bytes=8, offset=0, init=(5,)
            ),
        ),
        memory=m.Memory(
            flash=base.memory.flash,
            ram=m.RamUse(state=8, scratch=0, stack=0, io=8, total=16, stack_method="made up"),
        ),
        formats=tuple(formats),
        files=tuple(infos),
    )
    m.write(made, folder / "manifest.json")
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if MACHINE not in ("x86_64", "aarch64") or sys.platform != "linux":
        pytest.skip("no library can be built for this machine")
    folder = tmp_path_factory.mktemp("library")
    (folder / "leaky.c").write_text(SOURCE)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{MACHINE}-linux-none"]
    command += ["-shared", "-nostdlib", "-O2", "-fPIC", "-o", "leaky.so", "leaky.c"]
    subprocess.run(command, cwd=folder, check=True, timeout=240, capture_output=True)
    return (folder / "leaky.so").read_bytes()


@pytest.fixture
def native(library: bytes, tmp_path: Path) -> Path:
    return artifact(tmp_path / "artifact", {"native": library})


@pytest.fixture
def raw() -> Array:
    rng = np.random.default_rng(3)
    frames: Array = rng.normal(0, 3, (2600, 2)) + OFFSET
    frames[5] = [1e9, -1e9]  # saturates
    return frames


def test_push_is_the_definition(native: Path, raw: Array) -> None:
    stream = Stream(native)
    assert stream.backend == "native"
    got = stream.push(raw)
    want = reference(stored_of(raw))
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, want * SCALE_OUT)
    np.testing.assert_array_equal(stream.positions, np.arange(len(raw)))
    assert stream.frames == len(raw)
    stream.reset()
    again = stream.push_stored(stored_of(raw))
    assert again.dtype == np.int16
    np.testing.assert_array_equal(again, want)


@pytest.mark.parametrize("scale", [2**-9, 3e-3, 1.0])
@pytest.mark.parametrize("dtype", ["i8", "i16", "i32"])
def test_conversion_equals_the_graphs(scale: float, dtype: str) -> None:
    from edgeseq.ir import Graph
    from edgeseq.ir.io import to_stored
    from edgeseq.ir.types import Type
    from edgeseq.runtime.convert import DTYPES, Converter

    rng = np.random.default_rng(0)
    graph = Graph(
        name="g",
        inputs=["x"],
        outputs=["x"],
        types={"x": Type((3,), dtype, scale)},
        meta={"input_affine": {"x": {"scale": [0.7, 3.0, 1e-3], "offset": [0.1, -5.0, 0.0]}}},
    )
    raw = rng.normal(0, 30, (4000, 3)).astype(np.float32)
    raw[:2000] = np.round(raw[:2000] * 4) / 8  # ties among them
    info = m.InputInfo(
        name="x",
        shape=(3,),
        dtype=dtype,  # type: ignore[arg-type]
        scale=scale,
        affine_scale=(0.7, 3.0, 1e-3),
        affine_offset=(0.1, -5.0, 0.0),
    )
    out = np.empty(raw.shape, DTYPES[dtype])
    converter = Converter(info, 4000)
    converter.store(raw, out, 0)
    np.testing.assert_array_equal(out, to_stored(graph, "x", raw))
    single = converter.single()
    assert single is not None
    raw[::7] *= 1e6  # saturates
    want = to_stored(graph, "x", raw)
    for frame, stored in zip(raw[1000:3000:3], want[1000:3000:3], strict=True):
        assert single.store(frame)
        np.testing.assert_array_equal(single.stored, stored[None])


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 400), max_size=12), windows=st.booleans(), hop=st.integers(1, 90)
)
def test_any_chunking_gives_the_same(
    library: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    windows: bool,
    hop: int,
) -> None:
    folder = artifact(
        tmp_path_factory.mktemp("chunks") / "a",
        {"native": library},
        emission="last",
        window=40,
        hop=hop,
    )
    raw = np.random.default_rng(1).normal(0, 3, (400, 2))
    stream = Stream(folder, windows=windows)
    whole, positions = stream.push(raw), stream.positions
    stream.reset()
    parts, places = [], []
    for piece in np.split(raw, sorted(cuts)):
        parts.append(stream.push(piece))
        places.append(stream.positions)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(np.concatenate(places), positions)
    if windows:
        starts = range(0, 400 - 40 + 1, hop)
        want = [reference(stored_of(raw[s : s + 40]))[-1] * SCALE_OUT for s in starts]
        np.testing.assert_array_equal(whole, want)
        np.testing.assert_array_equal(positions, [s + 39 for s in starts])


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 300), windows=st.booleans(), hop=st.integers(1, 90))
def test_state_survives_a_file(
    library: bytes, tmp_path_factory: pytest.TempPathFactory, cut: int, windows: bool, hop: int
) -> None:
    folder = artifact(
        tmp_path_factory.mktemp("state") / "a",
        {"native": library},
        emission="last",
        window=40,
        hop=hop,
    )
    raw = np.random.default_rng(2).normal(0, 3, (300, 2))
    first = Stream(folder, windows=windows)
    whole = first.push(raw)
    first.reset()
    head = first.push(raw[:cut])
    file = io.BytesIO()
    np.savez(file, **first.state())  # type: ignore[arg-type]
    file.seek(0)
    second = Stream(folder, windows=windows)
    second.push(raw[:7])
    with np.load(file, allow_pickle=False) as state:
        second.restore(dict(state))
    np.testing.assert_array_equal(np.concatenate([head, second.push(raw[cut:])]), whole)
    assert second.frames == 300


def test_delay_is_respected(library: bytes, tmp_path: Path, raw: Array) -> None:
    folder = artifact(tmp_path / "a", {"native": library}, delay=3)
    whole = reference(stored_of(raw))[3:] * SCALE_OUT
    stream = Stream(folder)
    assert stream.push(raw[:2]).shape == (0, 2)
    got = stream.push(raw[2:10])
    np.testing.assert_array_equal(got, whole[:7])
    np.testing.assert_array_equal(stream.positions, np.arange(7))
    np.testing.assert_array_equal(stream.push(raw[10:]), whole[7:])
    with pytest.raises(UsageError, match="no windows"):
        Stream(folder, windows=True)


def test_shapes(native: Path, raw: Array) -> None:
    stream = Stream(native)
    assert stream.push(raw[0]).shape == (1, 2)
    assert stream.push(raw[:0]).shape == (0, 2)
    assert stream.push(raw[:3].tolist()).shape == (3, 2)
    assert stream.push(np.asfortranarray(raw[:50])).shape == (50, 2)
    assert stream.push({"x": raw[:2]}).shape == (2, 2)


@pytest.mark.parametrize("dtype", ["f4", ">f8", "f2", "i2", "u1", "?", "g"])
@pytest.mark.parametrize("delay", [0, 2])
def test_a_frame_per_push_equals_one_push(
    library: bytes, tmp_path: Path, raw: Array, dtype: str, delay: int
) -> None:
    folder = artifact(tmp_path / "a", {"native": library}, delay=delay)
    raw = np.clip(raw[:300], 0, 200).astype(dtype) if dtype in ("u1", "i2", "f2") else raw[:300]
    raw = np.asfortranarray(raw.astype(dtype))
    whole, stream = Stream(folder).push(raw), Stream(folder)
    parts, places = [], []
    for i, frame in enumerate(raw):
        parts.append(stream.push(frame[None] if i % 2 else frame))
        places.append(stream.positions)
        assert parts[-1].dtype == np.float64 and stream.frames == i + 1
        if i == 150:
            state = stream.state()
            stream.push(frame)
            stream.restore(state)
    np.testing.assert_array_equal(np.concatenate(parts), whole)  # none overwritten by a later one
    np.testing.assert_array_equal(np.concatenate(places), np.arange(300 - delay))


@pytest.mark.filterwarnings("error")
def test_a_frame_per_push_takes_what_any_push_takes(native: Path) -> None:
    stream, other = Stream(native), Stream(native)
    stream.push(np.zeros(2))
    other.push(np.zeros(2))
    before = stream.state()
    for bad in ([0.0, np.nan], [-np.inf, 0.0]):
        for dtype in (np.float32, np.float64):
            with pytest.raises(DataError, match="frame 1, channel"):
                stream.push(np.array(bad, dtype))
    for shape in ((3,), (1, 3), (2, 1), (1, 1, 2), ()):
        with pytest.raises(DataError, match="shape"):
            stream.push(np.zeros(shape))
    for key, value in stream.state().items():
        np.testing.assert_array_equal(value, before[key])
    for huge in (1e37, 3e38, 1e200, np.finfo(np.float64).max):
        frame = np.array([huge, -huge])
        np.testing.assert_array_equal(stream.push(frame), other.push([frame, frame])[:1])
        other.restore(stream.state())


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (np.zeros((4, 3)), r"shape \[4, 3\]"),
        (np.zeros(3), r"shape \[3\]"),
        (np.float64(1), r"shape \[\]"),
        (np.zeros((1, 4, 2)), "shape"),
        ([[1.0, 2.0], [3.0]], "not an array"),
        (["a", "b"], "not real numbers"),
        (np.zeros((4, 2), complex), "complex128"),
        ({"y": np.zeros((4, 2))}, "inputs"),
        ([[0.0, 1.0], [np.nan, 1.0]], "frame 1, channel 'left' is nan"),
        ([[0.0, np.inf]], "frame 0, channel 'right' is inf"),
    ],
)
def test_bad_frames_are_refused_whole(native: Path, raw: Array, frames: Any, says: str) -> None:
    stream = Stream(native)
    stream.push(raw[:10])
    before = stream.state()
    with pytest.raises(DataError, match=says if "frame" not in says else None) as caught:
        stream.push(frames)
    if "frame" in says:  # counted from the reset, as `positions` are
        number = int(says.split()[1].rstrip(",")) + 10
        assert f"frame {number}," in str(caught.value)
    for key, value in stream.state().items():
        np.testing.assert_array_equal(value, before[key])


def test_bad_stored_frames(native: Path) -> None:
    stream = Stream(native)
    np.testing.assert_array_equal(
        stream.push_stored(np.array([[1, 2]], np.int64)), reference(np.array([[1, 2]]))
    )
    for bad in (np.array([[1, 40000]]), np.array([[1.0, 2.0]])):
        with pytest.raises(DataError, match="not all int16"):
            stream.push_stored(bad)


def test_a_late_bad_frame_of_a_long_push_consumes_nothing(native: Path, raw: Array) -> None:
    stream = Stream(native)
    bad = raw.copy()
    bad[2500, 1] = np.nan
    with pytest.raises(DataError, match="frame 2500, channel 'right'"):
        stream.push(bad)
    np.testing.assert_array_equal(stream.push(raw), reference(stored_of(raw)) * SCALE_OUT)


def test_huge_finite_values_are_no_error(native: Path) -> None:
    huge = np.full((2, 2), np.finfo(np.float64).max)
    np.testing.assert_array_equal(
        Stream(native).push(huge), reference(np.full((2, 2), 32767)) * SCALE_OUT
    )


def test_foreign_states_are_refused(native: Path, raw: Array) -> None:
    stream = Stream(native)
    stream.push(raw[:20])
    good = stream.state()
    want = stream.push(raw[20:30])
    for key, value, says in [
        ("edgeseq.model", np.array("other"), "model 'other'"),
        ("edgeseq.backend", np.array("onnx_int"), "backend 'onnx_int'"),
        ("edgeseq.counters", np.array([-1, 0]), "does not fit"),
        ("edgeseq.counters", np.array([1.0, 0.0]), "does not fit"),
        ("edgeseq.pending.0", np.zeros((5, 2), np.int16), "does not fit"),
        ("struct", np.zeros(7, np.uint8), "not a state"),
    ]:
        with pytest.raises(DataError, match=says):
            stream.restore({**good, key: value})
    with pytest.raises(DataError, match="model"):
        stream.restore({})
    stream.restore(good)
    np.testing.assert_array_equal(stream.push(raw[20:30]), want)


def test_decide(native: Path) -> None:
    stream = Stream(native)
    decisions = stream.decide(np.array([[0.0, np.log(3.0)], [2.0, 2.0]]))
    assert [(d.label, d.index) for d in decisions] == [("b", 1), ("a", 0)]
    assert decisions[0].score == pytest.approx(0.75)
    assert stream.decide(np.empty((0, 2))) == []
    with pytest.raises(DataError, match="shape"):
        stream.decide(np.zeros((1, 3)))


# -- opening -------------------------------------------------------------------------------------


def test_what_cannot_be_opened(native: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        Stream(tmp_path / "absent")
    with pytest.raises(UsageError, match="unknown backend 'natve'; did you mean 'native'"):
        Stream(native, backend="natve")
    (native / "leaky_native.bin").write_bytes(b"changed")
    with pytest.raises(ArtifactError, match="is not the file"):
        Stream(native)


def test_a_library_that_is_none(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a", {"native": b"not an ELF file"})
    if sys.platform == "linux":
        with pytest.raises(ArtifactError, match="cannot load the library"):
            Stream(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"triple": "riscv64-unknown-linux-gnu"}, "made for riscv64"),
        ({"triple": f"{MACHINE}-unknown-freebsd-gnu"}, "made for freebsd"),
        ({"triple": f"{MACHINE}-linux-android21"}, "made for android"),
        ({"format": "archive"}, "static library"),
    ],
)
def test_an_error_lists_what_would_be_needed(
    native: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], says: str
) -> None:
    made = m.read(native)
    target = dataclasses.replace(made.target, **change)  # type: ignore[arg-type]
    m.write(dataclasses.replace(made, target=target), native / "manifest.json")
    with pytest.raises(ArtifactError, match=says) as caught:
        Stream(native)
    assert "onnx_int: the artifact does not hold it" in str(caught.value)
    assert "compile for this machine" in str(caught.value)


def test_a_processor_without_the_instructions(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseq.runtime import native as module

    made = m.read(native)
    target = dataclasses.replace(made.target, cpu="x86-64-v3")
    m.write(dataclasses.replace(made, target=target), native / "manifest.json")
    flags = set(module._V3)
    monkeypatch.setattr(module, "_cpu_flags", lambda: flags)
    Stream(native)
    flags.discard("avx2")
    with pytest.raises(ArtifactError, match="this processor lacks avx2"):
        Stream(native)


def test_the_runtime_imports_numpy_alone(native: Path) -> None:
    code = (
        "import sys\n"
        "from edgeseq.runtime import Stream\n"
        f"Stream({str(native)!r}).push([[1.0, 2.0]])\n"
        "bad = {'torch', 'numba', 'llvmlite', 'onnx', 'onnxruntime', 'pydantic', 'rich', 'click',"
        " 'matplotlib', 'ai_edge_litert', 'edgeseq.ir', 'edgeseq.target'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- the fallbacks -------------------------------------------------------------------------------


def onnx_step() -> bytes:
    """The leaky sum in real numbers, raw frames in: h = 0.75 h + prepared."""
    onnx = pytest.importorskip("onnx")
    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    consts = {
        "offset": OFFSET,
        "factor": AFFINE,
        "keep": [0.75],
        "half": [SCALE_OUT / SCALE_IN / 8],
    }
    nodes = [
        helper.make_node("Sub", ["x", "offset"], ["c"]),
        helper.make_node("Div", ["c", "factor"], ["p"]),
        helper.make_node("Mul", ["h", "keep"], ["k"]),
        helper.make_node("Add", ["k", "p"], ["h_next"]),
        helper.make_node("Mul", ["h_next", "half"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "leaky",
        [info("x", FLOAT, [1, 2]), info("h", FLOAT, [1, 2])],
        [info("y", FLOAT, [1, 2]), info("h_next", FLOAT, [1, 2])],
        [
            helper.make_tensor(k, FLOAT, [len(v)], np.asarray(v, np.float32).tolist())
            for k, v in consts.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture
def fallback(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    return artifact(tmp_path / "onnx", {"onnx_int": onnx_step()})


def test_onnx_stands_in(fallback: Path, raw: Array) -> None:
    stream = Stream(fallback)
    assert stream.backend == "onnx_int"
    got = stream.push(raw[:200])
    want = reference(stored_of(raw[:200])) * SCALE_OUT
    assert np.abs(got - want)[10:].max() <= 1.01 * SCALE_OUT  # truncation against real numbers
    stream.reset()
    parts = [stream.push(raw[:80])]
    state = stream.state()
    parts.append(stream.push(raw[80:200]))
    np.testing.assert_array_equal(np.concatenate(parts), got)
    stream.restore(state)
    np.testing.assert_array_equal(stream.push(raw[80:200]), got[80:])
    stream.reset()
    np.testing.assert_array_equal(np.concatenate([stream.push(x) for x in raw[:200]]), got)
    with pytest.raises(DataError, match=r"has no float32 array 'h'"):
        stream.restore({**state, "h": np.zeros(3)})


def test_a_damaged_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = artifact(tmp_path / "a", {"onnx_int": onnx_step()[:-40]})
    with pytest.raises(ArtifactError, match="ONNX Runtime refuses"):
        Stream(folder)


def test_without_any_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = artifact(tmp_path / "a", {"onnx_int": b"?", "tflite_int8": b"?"})
    for name in ("onnxruntime", "ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ArtifactError) as caught:
        Stream(folder)
    text = str(caught.value)
    assert "pip install onnxruntime" in text and "pip install ai-edge-litert" in text
    assert "native: the artifact does not hold it" in text


class FakeInterpreter:
    """An int8 leaky sum behind LiteRT's interface, with a zero point; x and h share no scale."""

    UNIT, ZERO = 0.25, -3

    def __init__(self, model_path: str, num_threads: int) -> None:
        assert Path(model_path).is_file() and num_threads == 1
        self.tensors: dict[int, Array] = {}

    def allocate_tensors(self) -> None:
        pass

    def _detail(self, name: str, index: int) -> dict[str, Any]:
        return {
            "name": name,
            "index": index,
            "shape": np.array([1, 2]),
            "dtype": np.int8,
            "quantization": (self.UNIT, self.ZERO),
        }

    def get_input_details(self) -> list[dict[str, Any]]:
        return [self._detail("x", 4), self._detail("h", 5)]

    def get_output_details(self) -> list[dict[str, Any]]:
        return [self._detail("h_next", 6), self._detail("y", 7)]

    def set_tensor(self, index: int, value: Array) -> None:
        assert value.dtype == np.int8 and value.shape == (1, 2)
        self.tensors[index] = value

    def invoke(self) -> None:
        x, h = (self.tensors[i].astype(int) - self.ZERO for i in (4, 5))
        new = np.clip(h // 2 + x + self.ZERO, -128, 127).astype(np.int8)
        self.tensors[6] = self.tensors[7] = new

    def get_tensor(self, index: int) -> Array:
        return self.tensors[index].copy()


def test_tflite_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("ai_edge_litert.interpreter")
    fake.Interpreter = FakeInterpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", fake)
    folder = artifact(tmp_path / "a", {"tflite_int8": b"a model"})
    stream = Stream(folder)
    assert stream.backend == "tflite_int8"
    prepared = np.array([[1.0, -2.0], [0.5, 0.25], [0.0, 0.0]])
    raw = prepared * AFFINE + OFFSET
    h, want = np.zeros(2, int), []  # 5 * SCALE_IN is far below the unit of the file
    for p in prepared:
        h = h // 2 + np.floor(p / 0.25 + 0.5).astype(int)
        want.append(h * 0.25)
    got = stream.push(raw)
    np.testing.assert_allclose(got, want, atol=SCALE_OUT / 2)
    stream.reset()
    state = [stream.push(raw[:1]), stream.state()][1]
    rest = stream.push(raw[1:])
    stream.restore(state)  # type: ignore[arg-type]
    np.testing.assert_array_equal(stream.push(raw[1:]), rest)
    np.testing.assert_array_equal(rest, got[1:])
