"""Every target file is valid, means something to LLVM, and mistakes in one are named."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from edgeseq._resources import resource_folder
from edgeseq.errors import TargetError
from edgeseq.target import Target, list_targets, load_target, read_target

FILES = sorted(resource_folder("targets").glob("*.toml"))
REQUIRED = {
    "rpi", "rpi3", "rpi5", "cortex-m0plus", "cortex-m4", "cortex-m7", "cortex-m33", "rp2040",
    "stm32f4", "nrf52840", "stm32h7", "rp2350", "riscv32", "android-arm64", "linux-x86-64",
}  # fmt: skip
EMULATORS = {
    "cortex-m0", "cortex-m4", "cortex-m7", "cortex-m33",
    "cortex-a53", "cortex-a72", "aarch64-max", "riscv32", None,
}  # fmt: skip

# LLVM only warns of an unknown CPU or feature, on the process's stderr: hence a process of its own.
PROBE = """
import sys
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
triple, cpu, features, abi, relocation = sys.argv[1:]
machine = llvm.Target.from_triple(triple).create_target_machine(
    cpu=cpu, features=features, reloc=relocation, abiname=abi)
module = llvm.parse_assembly('define i32 @f(i32 %a) { %b = mul i32 %a, %a ret i32 %b }')
module.triple, module.data_layout = triple, str(machine.target_data)
code = machine.emit_object(module)
print(code[:4], code[4], "")
"""


def ask_llvm(triple: str, cpu: str, features: str, abi: str, shared: bool) -> tuple[str, str]:
    relocation = "pic" if shared else "static"
    done = subprocess.run(
        [sys.executable, "-c", PROBE, triple, cpu, features, abi, relocation],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path: Path) -> None:
    target = read_target(path)
    assert target.name == path.stem
    assert load_target(target.name) == target
    assert target.emulator in EMULATORS
    assert target.description and target.board
    for small, large in pairwise(target.tiers.values()):
        assert small.flash_bytes < large.flash_bytes and small.ram_bytes < large.ram_bytes
    known = {"XS", "S", "M", "L"} if target.format == "archive" else {"S", "M", "L"}
    assert set(target.tiers) <= known and "S" in target.tiers

    llvm_abi = target.abi if target.triple.startswith("riscv") else ""
    out, err = ask_llvm(
        target.triple, target.cpu, target.feature_string, llvm_abi, target.format == "shared"
    )
    assert err == ""
    bits = {32: 1, 64: 2}[target.pointer_bits]
    assert out.split(maxsplit=1)[0] == r"b'\x7fELF'" and f" {bits} " in out


def test_llvm_probe_notices_an_unknown_cpu() -> None:
    assert "not a recognized processor" in ask_llvm("thumbv7em-none-eabi", "m99", "", "", False)[1]
    assert (
        "not a recognized feature"
        in ask_llvm("thumbv7em-none-eabi", "cortex-m4", "+no-such", "", False)[1]
    )


def test_required_targets_exist_and_names_are_unique() -> None:
    targets = list_targets()
    assert {target.name for target in targets} >= REQUIRED
    names = [name for target in targets for name in (target.name, *target.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


def test_hello_edge_tiers_of_microcontrollers() -> None:
    """S, M, L hold 80, 200, 500 KB in all; XS is 32 KB flash and 2 KB RAM."""
    total = {"S": 80, "M": 200, "L": 500}
    for target in list_targets():
        if target.format != "archive":
            continue
        for name, tier in target.tiers.items():
            if name == "XS":
                assert (tier.flash_bytes, tier.ram_bytes) == (32 * 1024, 2 * 1024)
            else:
                assert tier.flash_bytes + tier.ram_bytes == total[name] * 1024


@pytest.mark.parametrize("alias", ["rpi4", "raspberry-pi-4", "RPI", "Cortex-M4", "esp32-c3"])
def test_alias(alias: str) -> None:
    target = load_target(alias)
    assert alias.lower() in (target.name, *target.aliases)


def test_dsp_kernels_only_where_the_core_has_them() -> None:
    with_dsp = {target.cpu for target in list_targets() if "dsp" in target.isa}
    assert with_dsp == {"cortex-m4", "cortex-m7", "cortex-m33"}


def test_target_is_hashable_and_frozen() -> None:
    target = load_target("cortex-m4")
    assert {target: 1}[load_target("cortex-m4")] == 1
    with pytest.raises(AttributeError):
        target.name = "other"  # type: ignore[misc]


def test_estimate() -> None:
    target = load_target("cortex-m4")
    expected = 1000 * target.cycles_per_instruction / target.clock_hz
    assert target.estimate_seconds(1000) == pytest.approx(expected)


def test_tier_by_name() -> None:
    target = load_target("rpi")
    assert target.tier("S").name == "S"
    with pytest.raises(TargetError, match=r"target rpi: unknown tier 'XXL'.*known: L, M, S"):
        target.tier("XXL")


def test_unknown_target_lists_known_ones_and_the_closest() -> None:
    with pytest.raises(TargetError) as caught:
        load_target("cortex-m44")
    assert "did you mean 'cortex-m4'" in str(caught.value)
    assert "rp2040" in str(caught.value)


# A file of one's own.


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text((resource_folder("targets") / "cortex-m4.toml").read_text())
    return path


def changed(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def test_own_file_by_path(own: Path) -> None:
    changed(own, 'name = "cortex-m4"', 'name = "my-board"')
    for given in (own, str(own)):
        target = load_target(given)
        assert isinstance(target, Target) and target.name == "my-board"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("clock_hz = 80", "clock_mhz = 80", "clock_mhz: unknown key 'clock_mhz'.*clock_hz"),
        ("clock_hz = 80_000_000", 'clock_hz = "80 MHz"', "clock_hz: '80 MHz' is not a whole"),
        ("clock_hz = 80_000_000", "clock_hz = true", "clock_hz: True is not a whole number"),
        ("clock_hz = 80_000_000", "clock_hz = -1", "clock_hz: -1 is not a whole number above 0"),
        ("clock_hz = 80_000_000", "", "clock_hz: the key is missing"),
        ("cycles_per_instruction = 1.3", "cycles_per_instruction = inf", ".*: inf is not a number"),
        ("cycles_per_instruction = 1.3", "cycles_per_instruction = nan", ".*: nan is not a number"),
        ('features = ["-fpregs"]', 'features = ["fpregs"]', "features: .* list of strings like"),
        ('features = ["-fpregs"]', 'features = "-fpregs"', "features: .* list of strings like"),
        ('isa = ["generic", "dsp"]', 'isa = ["dsp"]', 'isa: .* starts with "generic"'),
        ("pointer_bits = 32", "pointer_bits = 16", "pointer_bits: 16 is not one of 32, 64"),
        ('format = "archive"', 'format = "exe"', "format: 'exe' is not one of"),
        ('endian = "little"', 'endian = "big"', "endian: 'big' is not one of 'little'"),
        ('name = "cortex-m4"', 'name = ""', "name: must not be empty"),
        ("[tiers.S]", "[tiers.S]\nflash = 1", r"tiers\.S\.flash: unknown key 'flash'"),
        ("flash_bytes = 409_600", "flash_bytes = 4_096_000", r"tiers\.L\.flash_bytes: .* more"),
        ("latency_s = 0.02", "latency_s = 0", r"tiers\.XS\.latency_s: 0 is not a number above 0"),
        ('name = "cortex-m4"', "name = ", "not a valid TOML file: .*line 1"),
    ],
)  # fmt: skip
def test_mistake_names_file_and_key(own: Path, old: str, new: str, expected: str) -> None:
    changed(own, old, new)
    with pytest.raises(TargetError, match=f"mine.toml: {expected}") as caught:
        load_target(own)
    assert caught.value.fix


def test_no_tiers(own: Path) -> None:
    own.write_text(own.read_text().split("[tiers.XS]")[0] + "[tiers]\n")
    with pytest.raises(TargetError, match="tiers: {} is not at least one table"):
        load_target(own)


def test_optional_keys(own: Path) -> None:
    changed(own, 'emulator = "cortex-m4"\n', "")
    changed(own, 'aliases = ["cortex-m4f"]\n', "")
    changed(own, "latency_s = 0.02\n", "")
    target = load_target(own)
    assert target.emulator is None
    assert target.aliases == ()
    assert target.tiers["XS"].latency_s is None


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_file_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "board.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match=r"board\.toml: cannot read the target file"):
        load_target(str(path))
