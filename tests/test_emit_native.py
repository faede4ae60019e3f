"""Native artifacts: libraries, headers and golden tests in C."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from graphs import raw_frames, step, stored_frames
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseq.emit import Job, format_of
from edgeseq.emit._header import c_string, comment, identifiers
from edgeseq.emit.golden import Golden, make_golden, read_golden, write_golden
from edgeseq.emit.linker import link_shared, make_archive, neutral_float_abi, read_archive, zig
from edgeseq.emit.native import check_native, write_native
from edgeseq.errors import ArtifactError, BackendError, DataError, EdgeseqError
from edgeseq.ir import Graph, Type
from edgeseq.ir.io import to_stored
from edgeseq.kernels import CompiledStep, compile_step
from edgeseq.manifest import FlashUse, Instructions, Memory, RamUse
from edgeseq.target import load_target

MODELS = {
    "gru": {"cell": "gru", "affine": True},
    "lstm": {"cell": "lstm", "layers": 2, "norm": True},
    "dense": {"cell": "dense"},
}
INFO = {
    "description": "a model */ that ends the comment",
    "classes": ["left", 'quo"ted\\ ??/', "grün"],
    "channels": ["ax", "ay", "az", "gx", "gy"],
    "rate_hz": 50.0,
    "accuracy": 0.875,
    "window": 100,
    "memory": Memory(
        flash=FlashUse(code=1, tables=1, weights=1, bias=1, multipliers=1, other=1, total=6),
        ram=RamUse(state=1, scratch=1, stack=100, io=1, total=103, stack_method="made up"),
    ),
    "instructions": Instructions(mean=12345.0, largest=12400, steps=1, method="made up"),
}
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
SYMBOLS = {"demo_reset", "demo_run", "demo_step"}
ZIG_TARGETS = {
    "cortex-m4": ["-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4"],
    "cortex-m0plus": ["-target", "thumb-freestanding-eabi", "-mcpu=cortex_m0plus"],
    "riscv32": ["-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+c"],
}


@dataclass
class Built:
    graph: Graph
    golden: Golden
    compiled: CompiledStep
    folder: Path
    files: list[Path]


def _runs_here() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return platform.machine() == "x86_64" and " avx2 " in flags


needs_x86 = pytest.mark.skipif(not _runs_here(), reason="needs an x86-64 with AVX2")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory):
    """Native artifacts by (model, target), each made once."""
    done: dict[tuple[str, str], Built] = {}

    def make(model: str, target: str) -> Built:
        if (model, target) not in done:
            graph = step(integer=True, name="demo", **MODELS[model])
            golden = make_golden(graph, [x[0] for x in stored_frames(graph, steps=60)])
            compiled = compile_step(graph, load_target(target), "demo")
            folder = tmp_path_factory.mktemp(f"{model}-{target}")
            files = write_native(compiled, graph, folder, golden=golden, info=INFO)
            done[model, target] = Built(graph, golden, compiled, folder, files)
        return done[model, target]

    return make


@pytest.fixture(scope="session")
def run_zig(tmp_path_factory: pytest.TempPathFactory):
    """Runs Zig's compiler or linker with a cache of its own."""
    cache = str(tmp_path_factory.mktemp("zig"))
    env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}

    def run(folder: Path, *args: str) -> None:
        if args[0] != "ld.lld":
            args = (*args, "-fno-sanitize=all")  # Zig turns UBSan on, which needs a run time
        result = subprocess.run(
            [zig(), *args], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr

    return run


def _load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


@needs_x86
@pytest.mark.parametrize("model", MODELS)
def test_shared_library_is_exact(build, model: str) -> None:
    built = build(model, "linux-x86-64")
    library = _load(built.files[0])
    c = built.compiled
    room = np.zeros(c.state_bytes + c.scratch_bytes + 256, np.uint8)
    state = room.ctypes.data + (-room.ctypes.data % 64)
    scratch = state + -(-c.state_bytes // 64) * 64
    x = np.ascontiguousarray(built.golden.inputs["x"])
    want = built.golden.outputs[built.graph.outputs[0]]
    got = np.zeros_like(want)
    library.demo_reset(ctypes.c_void_p(state))
    library.demo_run(
        *map(ctypes.c_void_p, (state, scratch, x.ctypes.data, got.ctypes.data)), len(x)
    )
    np.testing.assert_array_equal(got, want)
    image = np.frombuffer(ctypes.string_at(state, c.state_bytes), np.uint8)
    for name, array in c.unpack_state(image).items():
        np.testing.assert_array_equal(array, built.golden.states[name])


@pytest.mark.parametrize("target", ["linux-x86-64", "rpi", "android-arm64"])
def test_shared_library_stands_alone(build, target: str) -> None:
    from elftools.elf.elffile import ELFFile

    built = build("gru", target)
    facts = check_native(built.files[0])
    assert set(facts.exports) == SYMBOLS
    assert facts.needed == () and facts.writable == 0
    assert facts.file == built.files[0].stat().st_size
    assert facts.flash >= built.compiled.sizes["weights"]
    with built.files[0].open("rb") as file:
        elf = ELFFile(file)
        assert elf["e_type"] == "ET_DYN"
        tags = {t.entry.d_tag: t for t in elf.get_section_by_name(".dynamic").iter_tags()}
        assert tags["DT_SONAME"].soname == "libdemo.so"
        assert not {"DT_NEEDED", "DT_TEXTREL", "DT_RELA", "DT_REL", "DT_JMPREL"} & set(tags)
        for segment in elf.iter_segments("PT_LOAD"):
            assert segment["p_flags"] & 3 != 3, "writable and executable"
            # 16 KB pages: Android 15 and the Raspberry Pi 5.
            assert target == "linux-x86-64" or segment["p_align"] >= 1 << 14
    data = built.files[0].read_bytes()
    assert data == link_shared(built.compiled.object_bytes, "libdemo.so")
    assert str(Path.home()).encode() not in data and b"/tmp" not in data


@pytest.mark.parametrize("target", ZIG_TARGETS)
def test_archive_links_for_the_microcontroller(build, run_zig, target: str) -> None:
    built = build("lstm", target)
    flags = ["-std=c99", "-Os", "-ffreestanding", *STRICT, *ZIG_TARGETS[target]]
    run_zig(built.folder, "cc", *flags, "-c", "main.c", "-o", "main.o")
    link = ["--no-undefined", "-e", "main", "main.o", "-L.", "-ldemo", "-o", "main.elf"]
    run_zig(built.folder, "ld.lld", *link)
    facts = check_native(built.files[0])
    assert set(facts.exports) == SYMBOLS and facts.needed == () and facts.writable == 0
    assert facts.code + facts.rodata + facts.other == built.compiled.flash_bytes
    # The object in the archive is the compiled one, but for the floating-point mark.
    (held,) = read_archive(built.files[0].read_bytes()).items()
    assert held == ("demo.o", neutral_float_abi(built.compiled.object_bytes))


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m0plus"])
def test_firmware_with_the_golden_test_passes_on_an_emulated_core(
    build, run_zig, target: str
) -> None:
    import unicorn
    from elftools.elf.elffile import ELFFile
    from unicorn import arm_const

    folder = build("lstm", target).folder
    flags = ["-std=c99", "-Os", "-ffreestanding", *ZIG_TARGETS[target]]
    run_zig(folder, "cc", *flags, "-c", "main.c", "-o", "fw.o")
    run_zig(folder, "ld.lld", "-e", "main", "fw.o", "-L.", "-ldemo", "-o", "fw.elf")
    cpu = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
    cpu.ctl_set_cpu_model(
        arm_const.UC_CPU_ARM_CORTEX_M4 if target == "cortex-m4" else arm_const.UC_CPU_ARM_CORTEX_M0
    )
    page = 0x10000
    with (folder / "fw.elf").open("rb") as file:
        elf = ELFFile(file)
        segments = [s for s in elf.iter_segments("PT_LOAD") if s["p_memsz"]]
        top = max(s["p_vaddr"] + s["p_memsz"] for s in segments)
        cpu.mem_map(0, (top // page + 1) * page)
        for segment in segments:
            cpu.mem_write(segment["p_vaddr"], segment.data())
        entry = elf["e_entry"]
    stack, stop = 0x20000000, 0x30000000
    cpu.mem_map(stack, page)
    cpu.mem_map(stop, page)
    cpu.reg_write(arm_const.UC_ARM_REG_SP, stack + page)
    cpu.reg_write(arm_const.UC_ARM_REG_LR, stop | 1)
    cpu.emu_start(entry | 1, stop, count=20_000_000)
    assert cpu.reg_read(arm_const.UC_ARM_REG_PC) == stop
    assert cpu.reg_read(arm_const.UC_ARM_REG_R0) == 0


def test_arm_object_does_not_claim_a_float_abi(build) -> None:
    data = build("lstm", "cortex-m4").compiled.object_bytes
    neutral = neutral_float_abi(data)
    assert len(neutral) == len(data)
    changed = [i for i, (a, b) in enumerate(zip(data, neutral, strict=True)) if a != b]
    assert len(changed) <= 1
    x86 = build("gru", "linux-x86-64").compiled.object_bytes
    assert neutral_float_abi(x86) == x86


@needs_gcc
@needs_x86
@pytest.mark.parametrize("model", MODELS)
def test_main_compiles_and_passes_with_gcc(build, model: str) -> None:
    folder = build(model, "linux-x86-64").folder
    tail = ["main.c", "-L.", "-ldemo", "-Wl,-rpath,.", "-o", "golden"]
    compilers = [["gcc", "-std=c99", "-Wstrict-prototypes"]]
    if shutil.which("g++"):
        compilers.append(["g++", "-std=c++11", "-x", "c++"])
    for compiler in compilers:
        subprocess.run([*compiler, "-O1", *STRICT, *tail], cwd=folder, check=True)
        result = subprocess.run(
            ["./golden"], cwd=folder, capture_output=True, text=True, check=True
        )
        assert result.stdout == "demo: 32 frames, every integer as expected\n"


@needs_x86
def test_main_compiles_and_passes_with_zig(build, run_zig) -> None:
    folder = build("gru", "linux-x86-64").folder
    run_zig(folder, "c++", "-x", "c++", "-std=c++17", *STRICT, "-c", "main.c", "-o", "cpp.o")
    flags = ["-std=c99", *STRICT, "-fPIC", "-DDEMO_NO_STDIO", "-Dmain=golden_main"]
    run_zig(folder, "cc", *flags, "-c", "main.c", "-o", "c.o")
    run_zig(folder, "ld.lld", "-shared", "c.o", "libdemo.so", "-rpath", str(folder), "-o", "g.so")
    assert _load(folder / "g.so").golden_main() == 0


@needs_gcc
@needs_x86
def test_main_names_the_first_difference(build, tmp_path: Path) -> None:
    built = build("gru", "linux-x86-64")
    outputs = {k: v.copy() for k, v in built.golden.outputs.items()}
    frames = outputs[built.graph.outputs[0]]
    frames[7, 2] += 1
    wrong = Golden("demo", built.golden.inputs, outputs, built.golden.states)
    wrong = Golden(
        "demo",
        {k: v[:9] for k, v in wrong.inputs.items()},
        {k: v[:9] for k, v in wrong.outputs.items()},
        wrong.states,
    )
    write_native(built.compiled, built.graph, tmp_path, golden=wrong)
    tail = ["main.c", "-L.", "-ldemo", "-Wl,-rpath,.", "-o", "golden"]
    subprocess.run(["gcc", "-std=c99", *STRICT, *tail], cwd=tmp_path, check=True)
    result = subprocess.run(["./golden"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    value = int(frames[7, 2])
    assert result.stdout == (
        f"demo: demo_step: output, frame 7, element 2 is {value - 1}, expected {value}\n"
    )


HELPERS = """
#include "demo.h"
void quantise(const float *raw, int16_t *q) { demo_quantise_frame(raw, q); }
void dequantise(const int16_t *q, float *y) { demo_dequantise_output(q, y); }
int argmax(const int16_t *q) { return demo_argmax(q); }
const char *label(int i) { return demo_class_name(i); }
const char *const names[] = DEMO_CLASS_NAMES;
int count(void) { return (int)(sizeof names / sizeof *names); }
"""


@needs_x86
def test_helpers_of_the_header(build, run_zig) -> None:
    built = build("gru", "linux-x86-64")
    (built.folder / "helpers.c").write_text(HELPERS, encoding="utf-8")
    flags = ["-std=c99", *STRICT, "-Wno-missing-prototypes", "-fPIC", "-O2"]
    run_zig(built.folder, "cc", *flags, "-c", "helpers.c", "-o", "helpers.o")
    run_zig(built.folder, "ld.lld", "-shared", "helpers.o", "-o", "helpers.so")
    library = _load(built.folder / "helpers.so")
    library.label.restype = ctypes.c_char_p

    def call(name: str, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        getattr(library, name)(*map(ctypes.c_void_p, (x.ctypes.data, out.ctypes.data)))
        return out

    (raw,) = raw_frames(built.graph, steps=300)
    raw[0, 0], raw[0, 1], raw[0, 2] = 1e9, -1e9, np.inf
    frames = raw[0].astype(np.float32)
    want = to_stored(built.graph, "x", frames).astype(int)
    got = np.array([call("quantise", f, np.zeros(5, np.int16)) for f in frames])
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() < 0.02
    np.testing.assert_array_equal(got[:3], want[:3])
    assert not call("quantise", np.full(5, np.nan, np.float32), np.ones(5, np.int16)).any()
    y = np.array([-32768, 5, 32767], np.int16)
    np.testing.assert_array_equal(
        call("dequantise", y, np.zeros(3, np.float32)), y * np.float32(2.0**-12)
    )
    for q, best in (([1, 1, 0], 0), ([-3, -2, -1], 2), ([-5, 7, 7], 1)):
        assert library.argmax(ctypes.c_void_p(np.array(q, np.int16).ctypes.data)) == best
    assert library.count() == 3
    assert [library.label(i).decode() for i in (-1, 0, 1, 2, 3)] == ["", *INFO["classes"], ""]


def test_header_says_what_is_measured_and_no_more(build) -> None:
    built = build("gru", "cortex-m4")
    text = built.files[1].read_text(encoding="utf-8")
    assert "12345 machine instructions (made up)" in text and "stack   100 (" in text
    assert "87.50 %" in text and "a model * / that ends the comment" in text
    assert f"#define DEMO_FLASH_BYTES {built.compiled.flash_bytes}\n" in text
    text = write_native(built.compiled, built.graph, built.folder, golden=built.golden)[
        1
    ].read_text(encoding="utf-8")
    assert not {"instructions", "stack", "Accuracy"} & set(text.split())
    assert "CLASS" not in text


def test_several_ports_get_distinct_c_names(build, run_zig, tmp_path: Path) -> None:
    from edgeseq.ir import Type

    graph = Graph("multi")
    t = Type((4,), "i16", 2.0**-12)
    for name in ("in.a", "in-a", "9"):
        graph.types[name] = t
        graph.inputs.append(name)
    a = graph.add_node("add", ["in.a", "in-a"], types=[t], ma=1, mb=1, s=0)
    graph.types["9"] = Type((4,), "i16", 2.0**-12)
    b = graph.add_node("mul", [a, "9"], types=[t], m=1, s=12)
    graph.outputs += [a, b]
    rng = np.random.default_rng(0)
    golden = make_golden(graph, list(rng.integers(-5000, 5000, (3, 40, 4)).astype(np.int16)))
    compiled = compile_step(graph, load_target("cortex-m4"), "multi")
    files = write_native(compiled, graph, tmp_path, golden=golden)
    text = files[1].read_text(encoding="utf-8")
    assert "multi_quantise_frame_in_a_2(" in text and "MULTI_INPUT_V9_SIZE 4" in text
    flags = ["-std=c99", "-ffreestanding", *STRICT, *ZIG_TARGETS["cortex-m4"]]
    run_zig(tmp_path, "cc", *flags, "-c", "main.c", "-o", "main.o")
    link = ["--no-undefined", "-e", "main", "main.o", "libmulti.a", "-o", "m.elf"]
    run_zig(tmp_path, "ld.lld", *link)


def test_format_writes_through_the_registry(build, tmp_path: Path) -> None:
    built = build("gru", "cortex-m4")
    job = Job(
        tmp_path, load_target("cortex-m4"), built.graph, built.graph, built.compiled, built.golden
    )
    files = format_of("native").write(job)
    assert [f.name for f in files] == ["libdemo.a", "demo.h", "main.c"]
    with pytest.raises(BackendError, match="needs a compiled step"):
        format_of("native").write(Job(tmp_path, job.target, built.graph, built.graph))
    with pytest.raises(ArtifactError, match="cannot write the native files"):
        write_native(built.compiled, built.graph, tmp_path / "no", golden=built.golden)


@given(st.text(max_size=30))
def test_any_text_is_safe_in_c(text: str) -> None:
    literal = c_string(text)
    assert literal.isascii() and literal.isprintable()
    plain = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), literal[1:-1])
    assert plain.encode("latin-1") == text.encode()
    inside = comment(text)
    assert "*/" not in inside and "\n" not in inside


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_names_become_distinct_identifiers(names: list[str]) -> None:
    made = identifiers(names)
    assert len({m.lower() for m in made}) == len(names)
    assert all(m.isidentifier() and m.isascii() for m in made)


# -- archives and objects --------------------------------------------------------------------------


def test_archive_round_trip_with_long_names_and_odd_sizes() -> None:
    members = [("a_name_longer_than_fifteen.o", b"odd"), ("b.o", b"even"), ("c" * 40 + ".o", b"")]
    data = make_archive(members, [["f"], ["g", "h"], []])
    assert read_archive(data) == dict(members)
    # The symbol table points at the member's headers.
    count = int.from_bytes(data[68:72], "big")
    offsets = [int.from_bytes(data[72 + 4 * i : 76 + 4 * i], "big") for i in range(count)]
    assert [data[o + 60 :][:4] for o in offsets] == [b"odd\n", b"even", b"even"]


@pytest.mark.skipif(shutil.which("ar") is None, reason="needs binutils")
def test_archive_is_what_ar_reads(build) -> None:
    path = build("lstm", "cortex-m4").files[0]
    listed = subprocess.run(["ar", "t", path], capture_output=True, text=True, check=True)
    assert listed.stdout == "demo.o\n"
    if shutil.which("nm"):
        index = subprocess.run(["nm", "-s", path], capture_output=True, text=True, check=False)
        assert {f"{s} in demo.o" for s in SYMBOLS} <= set(index.stdout.splitlines())


@pytest.mark.parametrize("cut", [4, 50, 200, -1])
def test_damaged_files_are_refused(build, tmp_path: Path, cut: int) -> None:
    data = build("lstm", "cortex-m4").files[0].read_bytes()
    with pytest.raises(BackendError, match="compile the model again"):
        check_native(data[:cut] if cut > 0 else data[:-9])
    with pytest.raises(ArtifactError, match="cannot read the library"):
        check_native(tmp_path / "missing.a")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    header=st.booleans(),
)
def test_flipped_bytes_end_in_our_errors(
    build, tmp_path: Path, flips: list[tuple[float, int]], header: bool
) -> None:
    golden = tmp_path / "golden.npz"
    write_golden(build("lstm", "cortex-m4").golden, golden)
    library = build("gru", "rpi").files[0].read_bytes()
    for data, read in ((library, check_native), (golden.read_bytes(), None)):
        broken = bytearray(data)
        for where, value in flips:
            broken[int(where * (200 if header else len(data)))] = value
        golden.write_bytes(broken)
        with contextlib.suppress(EdgeseqError):
            read(bytes(broken)) if read else read_golden(golden)


def test_a_library_that_does_not_stand_alone_is_refused(run_zig, tmp_path: Path) -> None:
    sources = {
        "calls.c": (
            "extern int helper(int); int f(int x) { return helper(x); }",
            "needs helper",
        ),
        "writes.c": ("int counter = 1; int f(void) { return ++counter; }", "writable bytes"),
    }
    for name, (text, message) in sources.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        run_zig(tmp_path, "cc", *ZIG_TARGETS["riscv32"], "-O1", "-c", name, "-o", "o.o")
        with pytest.raises(BackendError, match=message):
            check_native(tmp_path / "o.o")


def test_linker_errors_are_reported() -> None:
    with pytest.raises(BackendError, match="the linker refused the object"):
        link_shared(b"no object", "libx.so")


# -- golden data -----------------------------------------------------------------------------------


def test_golden_round_trip(tmp_path: Path) -> None:
    graph = step("lstm", integer=True)
    frames = [x[0] for x in stored_frames(graph, steps=30)]
    golden = make_golden(graph, frames)
    path = write_golden(golden, tmp_path / "golden.npz")
    again = read_golden(path)
    assert again.model == graph.name and again.frames == 30
    for part in ("inputs", "outputs", "states"):
        mine, read = getattr(golden, part), getattr(again, part)
        assert list(mine) == list(read)
        for name in mine:
            assert mine[name].dtype == read[name].dtype
            np.testing.assert_array_equal(mine[name], read[name])
    before = path.read_bytes()
    assert write_golden(golden, path).read_bytes() == before
    head = golden.head(graph, 10)
    assert head.frames == 10
    np.testing.assert_array_equal(
        head.outputs[graph.outputs[0]], golden.outputs[graph.outputs[0]][:10]
    )
    assert (head.states["c0"] != golden.states["c0"]).any()


def test_golden_data_that_is_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    for content in (b"", b"PK\x03\x04 no zip", b"\x80\x04N."):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"golden\.npz: cannot be read"):
            read_golden(path)
    np.savez(path, version=np.int32(1), model="m")
    with pytest.raises(ArtifactError, match="is not golden data"):
        read_golden(path)
    np.savez(path, model=np.array([object()], object))
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_golden(path)
    with pytest.raises(DataError, match="at least one frame"):
        make_golden(step("gru", integer=True), [np.zeros((0, 5), np.int16)])


def test_the_header_tells_of_delay_and_of_several_frames() -> None:
    from edgeseq.emit._header import _facts, port_names
    from edgeseq.kernels import Port

    graph = Graph("g")
    graph.meta = {"delay": 3, "frames_per_step": 4, "elements": {"y": 2}}
    graph.add_input("x", Type((4, 2), "i16", 1.0))
    graph.types["y"] = Type((2, 5), "i16", 1.0)
    graph.outputs = ["y"]
    ins, outs = (
        port_names([Port(v, "i16", graph.types[v].shape, 1.0)], kind, "g")
        for v, kind in (("x", "input"), ("y", "output"))
    )
    lines = _facts(graph, {}, ins, outs)
    assert "A step takes 4 frames of input x at once, one after another." in lines
    assert "A step gives 2 frames of output y at once, one after another." in lines
    assert "The result lags the input by 3 frames." in lines
