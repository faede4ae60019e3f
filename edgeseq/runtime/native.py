"""Runs the compiled step of a shared library through ctypes."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ArtifactError, DataError
from edgeseq.manifest import FormatInfo, Manifest, TargetInfo
from edgeseq.runtime.backends import Unavailable

__all__ = ["Native", "open_file"]

Array = npt.NDArray[Any]

_ALIGN = 64
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}

# What the code of a CPU model may use beyond the architecture's baseline, as /proc/cpuinfo names
# it: an instruction the processor lacks ends the process without a message.
_V2 = {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_NEEDS: dict[str, set[str]] = {
    "x86-64-v2": _V2,
    "x86-64-v3": _V3,
    "x86-64-v4": _V4,
    "cortex-a76": {"asimddp"},
}


def open_file(path: Path, manifest: Manifest, info: FormatInfo) -> Native:
    """The step in the shared library at `path`.

    Raises:
        Unavailable: it is for another machine.
        ArtifactError: it cannot be loaded or lacks a function.
    """
    del info
    _check_machine(manifest.target)
    return Native(path, manifest)


def _check_machine(target: TargetInfo) -> None:
    if target.format != "shared":
        raise Unavailable(f"a static library for {target.board}, not loadable")
    parts = target.triple.split("-")
    here = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    bits = struct.calcsize("P") * 8
    if parts[0] != here or bits != 64:
        raise Unavailable(f"made for {parts[0]}; this is a {bits}-bit Python on {here}")
    android = hasattr(sys, "getandroidapilevel")
    system = "android" if android else sys.platform
    made_for = "android" if any(p.startswith("android") for p in parts) else parts[2]
    if made_for != system:
        raise Unavailable(f"made for {made_for}; this is {system}")
    missing = _NEEDS.get(target.cpu, set()) - _cpu_flags()
    if missing:
        raise Unavailable(f"made for {target.cpu}; this processor lacks {', '.join(missing)}")


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


class Native:
    """NAME_reset and NAME_run of a library; the caller's side of the ABI in its header."""

    name = "native"

    def __init__(self, path: Path, manifest: Manifest) -> None:
        try:
            library = ctypes.CDLL(str(path.resolve()))
            self._reset = library[f"{manifest.name}_reset"]
            self._run = library[f"{manifest.name}_run"]
        except (OSError, AttributeError) as error:
            raise ArtifactError(
                f"cannot load the library: {error}",
                where=str(path),
                fix="compile the artifact again",
            ) from error
        self._library = library  # keeps it loaded as long as its functions are used
        pointers = 2 + len(manifest.inputs) + len(manifest.outputs)
        self._reset.restype = self._run.restype = None
        self._reset.argtypes = [ctypes.c_void_p]
        self._run.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int32]
        self._state = _aligned(manifest.memory.ram.state)
        self._scratch = _aligned(manifest.memory.ram.scratch)
        self._own = (_address(self._state), _address(self._scratch))
        self.reset()

    def reset(self) -> None:
        """See `Backend`."""
        self._reset(self._own[0])

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """See `Backend`."""
        self._run(*self._own, *map(_address, inputs), *map(_address, outputs), len(inputs[0]))

    def bind(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> Callable[[], object]:
        """See `Backend`."""
        pointers = [*self._own, *map(_address, inputs), *map(_address, outputs)]
        # Of these types already, the arguments cost no conversion per call.
        return partial(self._run, *map(ctypes.c_void_p, pointers), ctypes.c_int32(len(inputs[0])))

    def state(self) -> dict[str, Array]:
        """See `Backend`."""
        return {"struct": self._state.copy()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `Backend`."""
        given = state.get("struct")
        if given is None or given.dtype != np.uint8 or given.shape != self._state.shape:
            raise DataError(
                "is not a state of this model's native step",
                where="state",
                fix="restore what state() of a Stream of the same artifact and backend returned",
            )
        self._state[...] = given


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that start at a multiple of a cache line."""
    room = np.zeros(size + _ALIGN, np.uint8)
    start = -_address(room) % _ALIGN
    return room[start : start + size]


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
