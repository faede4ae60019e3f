"""Targets: what a board is, read from one TOML file per board and validated.

A target names the CPU for the code generator, the memory and clock of the board, and its *tiers*:
budgets of flash, RAM and time per step that a compiled model has to meet. The files in `targets/`
are data only; a file of your own is loaded by giving its path instead of a name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseq._resources import resource_folder
from edgeseq.errors import TargetError, unknown_name

__all__ = ["Target", "Tier", "list_targets", "load_target", "read_target"]


@dataclass(frozen=True)
class Tier:
    """A budget.

    Attributes:
        name: such as "S".
        flash_bytes: limit for weights, tables and code together (on Linux: the library file).
        ram_bytes: limit for state, scratch and stack together.
        latency_s: limit for one step in seconds, or None for no limit.
    """

    name: str
    flash_bytes: int
    ram_bytes: int
    latency_s: float | None = None


@dataclass(frozen=True)
class Target:
    """A board, or a generic core with assumed memory. All sizes in bytes.

    Attributes:
        triple, cpu, features, abi: as LLVM names them; `features` are "+name" or "-name".
        isa: kernel sets that may be used, "generic" first, faster ones after it.
        float_abi: "soft", "hard", or "any" where no float crosses the interface and objects
            have to link with either convention.
        format: "archive" (a static library and a header) or "shared" (a loadable library).
        emulator: the CPU model that runs its machine code in verification; None where this
            machine has to be of that kind.
        cycles_per_instruction: rough average, for figures labelled as estimates.
        flash_bytes, ram_bytes: what the board has.
        tiers: by name, from the smallest up.
    """

    name: str
    aliases: tuple[str, ...]
    description: str
    board: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    isa: tuple[str, ...]
    abi: str
    float_abi: str
    endian: str
    pointer_bits: int
    format: str
    emulator: str | None
    clock_hz: int
    cycles_per_instruction: float
    flash_bytes: int
    ram_bytes: int
    tiers: Mapping[str, Tier] = field(default_factory=dict, hash=False)

    @property
    def feature_string(self) -> str:
        """The features as LLVM takes them: comma separated."""
        return ",".join(self.features)

    def estimate_seconds(self, instructions: float) -> float:
        """Estimated time of that many executed instructions; not a measurement."""
        return instructions * self.cycles_per_instruction / self.clock_hz

    def tier(self, name: str) -> Tier:
        """The tier of that name.

        Raises:
            TargetError: this target has no such tier.
        """
        if name not in self.tiers:
            raise TargetError(
                unknown_name("tier", name, self.tiers),
                where=f"target {self.name}",
                fix="name one of its tiers, or write a target file of your own",
            )
        return self.tiers[name]


def list_targets() -> tuple[Target, ...]:
    """Every target that comes with edgeseq, by name.

    Raises:
        TargetError: one of the files is malformed.
    """
    return tuple(read_target(path) for path in sorted(resource_folder("targets").glob("*.toml")))


def load_target(name: str | Path) -> Target:
    """The target of that name or alias, or the one described by the TOML file at that path.

    Raises:
        TargetError: no such target (the message lists the known ones), no such file, or the file
            is malformed.
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith(".toml") or "/" in text:
        return read_target(Path(name))
    exact = resource_folder("targets") / f"{text}.toml"
    if exact.is_file():
        return read_target(exact)
    known = list_targets()
    for target in known:
        if text.lower() in (target.name, *target.aliases):
            return target
    names = [n for t in known for n in (t.name, *t.aliases)]
    raise TargetError(
        unknown_name("target", text, names),
        fix="name one of these (`edgeseq targets` describes them) or a path to a target file",
    )


def read_target(path: Path) -> Target:
    """Read and validate one target file.

    Raises:
        TargetError: the file cannot be read, is not TOML, lacks a key, holds an unknown one, or a
            value of the wrong type or range; the message names the file and the key.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise TargetError(
            f"cannot read the target file: {reason}",
            where=str(path),
            fix="check the path, or name a target that `edgeseq targets` lists",
        ) from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(
            f"not a valid TOML file: {error}", where=str(path), fix="mend the file at that place"
        ) from error
    return _Reader(path).target(raw)


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else "a string"


def _positive_int(value: Any) -> str | None:
    ok = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return None if ok else "a whole number above 0"


def _positive(value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if number and 0 < value < float("inf") else "a number above 0"


def _texts(value: Any) -> str | None:
    ok = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    return None if ok else "a list of strings"


def _features(value: Any) -> str | None:
    ok = _texts(value) is None and all(item[0] in "+-" and len(item) > 1 for item in value)
    return None if ok else 'a list of strings like "+name" or "-name"'


def _isa(value: Any) -> str | None:
    ok = _texts(value) is None and value[:1] == ["generic"] and set(value) <= _KERNEL_SETS
    known = ", ".join(sorted(_KERNEL_SETS))
    return None if ok else f'a list of kernel sets that starts with "generic" (known: {known})'


def _one_of(*allowed: Any) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        ok = any(type(value) is type(a) and value == a for a in allowed)
        return None if ok else "one of " + ", ".join(map(repr, allowed))

    return check


def _tables(value: Any) -> str | None:
    ok = isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values())
    return None if ok else "at least one table [tiers.NAME]"


# "dsp" is the Armv7E-M and Armv8-M DSP extension; the others follow from the CPU.
_KERNEL_SETS = {"generic", "dsp"}
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

_Check = Callable[[Any], str | None]
_TARGET_KEYS: dict[str, _Check] = {
    "name": _text,
    "aliases": _texts,
    "description": _text,
    "board": _text,
    "triple": _text,
    "cpu": _text,
    "features": _features,
    "isa": _isa,
    "abi": _text,
    "float_abi": _one_of("soft", "hard", "any"),
    "endian": _one_of("little"),
    "pointer_bits": _one_of(32, 64),
    "format": _one_of("archive", "shared"),
    "emulator": _text,
    "clock_hz": _positive_int,
    "cycles_per_instruction": _positive,
    "flash_bytes": _positive_int,
    "ram_bytes": _positive_int,
    "tiers": _tables,
}
_TARGET_OPTIONAL: dict[str, Any] = {"aliases": [], "emulator": None}
_TIER_KEYS: dict[str, _Check] = {
    "flash_bytes": _positive_int,
    "ram_bytes": _positive_int,
    "latency_s": _positive,
}
_TIER_OPTIONAL: dict[str, Any] = {"latency_s": None}


class _Reader:
    """Turns the tables of one file into a Target; every complaint names the file and the key."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def target(self, raw: dict[str, Any]) -> Target:
        values = self._table(raw, "", _TARGET_KEYS, _TARGET_OPTIONAL)
        for key in ("aliases", "features", "isa"):
            values[key] = tuple(values[key])
        for key in ("name", "triple", "cpu"):
            if not values[key]:
                raise self._error(key, "must not be empty")
        self._folder_name("name", values["name"])
        tiers = tuple(self._tiers(values["tiers"]))
        for tier in tiers:
            for key in ("flash_bytes", "ram_bytes"):
                if getattr(tier, key) > values[key]:
                    raise self._error(
                        f"tiers.{tier.name}.{key}",
                        f"{getattr(tier, key)} is more than the board has ({values[key]})",
                    )
        values["tiers"] = {tier.name: tier for tier in tiers}
        return Target(**values)

    def _tiers(self, raw: dict[str, Any]) -> Iterator[Tier]:
        for name in raw:
            self._folder_name(f"tiers.{name}", name)
        tiers = [
            Tier(name, **self._table(table, f"tiers.{name}.", _TIER_KEYS, _TIER_OPTIONAL))
            for name, table in raw.items()
        ]
        yield from sorted(tiers, key=lambda tier: tier.flash_bytes)

    def _folder_name(self, key: str, name: str) -> None:
        """Artifacts lie in OUT/TARGET/TIER, and nothing may be written anywhere else."""
        if not _FOLDER_NAME.fullmatch(name):
            raise self._error(
                key, f"{name!r} cannot name a folder: use letters, digits, and . _ + - after them"
            )

    def _table(
        self,
        raw: dict[str, Any],
        prefix: str,
        keys: dict[str, _Check],
        optional: dict[str, Any],
    ) -> dict[str, Any]:
        for key in raw:
            if key not in keys:
                raise self._error(prefix + key, unknown_name("key", key, keys))
        values: dict[str, Any] = {}
        for key, check in keys.items():
            if key in raw:
                expected = check(raw[key])
                if expected is not None:
                    raise self._error(prefix + key, f"{raw[key]!r} is not {expected}")
                values[key] = raw[key]
            elif key in optional:
                values[key] = optional[key]
            else:
                raise self._error(prefix + key, "the key is missing")
        return values

    def _error(self, key: str, what: str) -> TargetError:
        return TargetError(
            what, where=f"{self._path}: {key}", fix="mend this key of the target file"
        )
