"""Reading and writing manifest.json, strictly: every complaint names the file and the key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import types
import typing
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from edgeseq.errors import ArtifactError, unknown_name
from edgeseq.manifest.schema import SCHEMA, FileInfo, InputInfo, Manifest, StateInfo

__all__ = [
    "MANIFEST",
    "check_files",
    "describe_file",
    "load_artifact",
    "read",
    "to_json",
    "write",
    "write_file",
]

MANIFEST = "manifest.json"
"""Name of the file in an artifact folder."""

# -- writing -------------------------------------------------------------------------------------


def write(manifest: Manifest, path: Path) -> None:
    """Write `manifest` to `path` (a manifest.json), in one step and byte for byte reproducible.

    Raises:
        ArtifactError: a value does not fit the schema (the message names the key), or the file
            cannot be written.
    """
    write_file(path, to_json(manifest, where=str(path)).encode(), "the manifest")


def write_file(path: Path, content: bytes, what: str) -> None:
    """Write a file in one step: it is there whole, or as it was before.

    Raises:
        ArtifactError: `what` cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ArtifactError(
            f"cannot write {what}: {error.strerror}",
            where=str(path),
            fix="choose a folder that can be written, on a disk with space",
        ) from error


def to_json(manifest: Manifest, where: str = "manifest") -> str:
    """The text of a manifest.json, checked against the schema.

    Raises:
        ArtifactError: a value does not fit the schema; the message names `where` and the key.
    """
    plain = _plain(manifest)
    _consistent(_decode(Manifest, plain, _Place(where)), _Place(where))
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def describe_file(path: Path, kind: str) -> FileInfo:
    """Name, size and SHA-256 of a file of an artifact folder."""
    digest, size = _hash(path)
    return FileInfo(name=path.name, sha256=digest, bytes=size, kind=kind)


def _hash(path: Path) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return digest, file.tell()
    except OSError as error:
        raise ArtifactError(
            f"cannot read the file: {error.strerror}",
            where=str(path),
            fix="compile again: the artifact folder is incomplete",
        ) from error


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy scalars as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # a numpy scalar or array, without importing numpy
        return value.tolist()
    return value


# -- reading -------------------------------------------------------------------------------------


def read(path: Path) -> Manifest:
    """Read and check a manifest.json (or the one in the folder `path`).

    Raises:
        ArtifactError: missing, not JSON, of another schema version, or a key is unknown, missing
            or of the wrong type; the message names the file and the key.
    """
    if path.is_dir():
        path = path / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise ArtifactError(
            f"cannot read the manifest: {error.strerror}",
            where=str(path),
            fix="give the folder of one tier, such as build/rpi/S",
        ) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"not a valid JSON file: {error}", where=str(path), fix="compile the artifact again"
        ) from error
    place = _Place(str(path))
    if not isinstance(raw, dict):
        raise place.error("is not an object")
    schema = raw.get("schema")
    if schema != SCHEMA or isinstance(schema, bool):
        raise ArtifactError(
            f"schema version {schema!r}; this edgeseq reads version {SCHEMA}",
            where=f"{path}: schema",
            fix="use the edgeseq that made the artifact, or compile it again",
        )
    manifest: Manifest = _decode(Manifest, raw, place)
    _consistent(manifest, place)
    return manifest


def load_artifact(folder: Path) -> Manifest:
    """Read the manifest of an artifact folder and check every file against size and SHA-256.

    Raises:
        ArtifactError: as `read`, or a file is missing or was changed.
    """
    manifest = read(folder)
    check_files(folder, manifest)
    return manifest


def check_files(folder: Path, manifest: Manifest, names: Collection[str] | None = None) -> None:
    """Check files of an artifact folder against the manifest.

    Args:
        names: only these; None checks all.

    Raises:
        ArtifactError: a file is missing, or differs in size or SHA-256.
    """
    for info in manifest.files:
        if names is not None and info.name not in names:
            continue
        digest, size = _hash(folder / info.name)
        if (digest, size) != (info.sha256, info.bytes):
            raise ArtifactError(
                f"is not the file the manifest describes ({size} bytes, SHA-256 {digest[:12]}…; "
                f"expected {info.bytes} bytes, {info.sha256[:12]}…)",
                where=str(folder / info.name),
                fix="compile the artifact again, or restore the file",
            )


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number JSON allows")


@dataclass(frozen=True)
class _Place:
    """File and key path, for messages."""

    file: str
    key: str = ""

    def at(self, key: str | int) -> _Place:
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.key else key
        return _Place(self.file, self.key + step)

    def error(self, what: str) -> ArtifactError:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return ArtifactError(what, where=where, fix="compile the artifact again")


@cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _decode(kind: Any, raw: Any, place: _Place) -> Any:
    """`raw` (from JSON) as a value of the annotation `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _record(kind, raw, place)
    if origin is Literal:
        if not isinstance(raw, str) or raw not in args:
            raise place.error(f"{raw!r} is not one of " + ", ".join(map(repr, args)))
        return raw
    if origin in (typing.Union, types.UnionType):
        if raw is None:
            return None
        (inner,) = (a for a in args if a is not type(None))
        return _decode(inner, raw, place)
    if origin is tuple:
        return _sequence(args, raw, place)
    if origin is dict:
        if not isinstance(raw, dict):
            raise place.error(f"{raw!r} is not an object")
        return {k: _decode(args[1], v, place.at(k)) for k, v in raw.items()}
    return _scalar(kind, raw, place)


def _record(kind: Any, raw: Any, place: _Place) -> Any:
    if not isinstance(raw, dict):
        raise place.error(f"{raw!r} is not an object")
    hints = _hints(kind)
    for key in raw:
        if key not in hints:
            raise place.at(key).error(unknown_name("key", key, hints))
    for key in hints:
        if key not in raw:
            raise place.at(key).error("the key is missing")
    return kind(**{key: _decode(hint, raw[key], place.at(key)) for key, hint in hints.items()})


def _sequence(args: tuple[Any, ...], raw: Any, place: _Place) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise place.error(f"{raw!r} is not a list")
    if args[-1] is Ellipsis:
        return tuple(_decode(args[0], v, place.at(i)) for i, v in enumerate(raw))
    if len(raw) != len(args):
        raise place.error(f"has {len(raw)} elements, needs {len(args)}")
    return tuple(_decode(a, v, place.at(i)) for i, (a, v) in enumerate(zip(args, raw, strict=True)))


def _scalar(kind: Any, raw: Any, place: _Place) -> Any:
    number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if kind is float and number and math.isfinite(raw):
        return float(raw)
    if kind is int and number and isinstance(raw, int):
        return raw
    if kind in (str, bool) and isinstance(raw, kind):
        return raw
    names = {float: "a finite number", int: "a whole number", str: "a string", bool: "true/false"}
    raise place.error(f"{raw!r} is not {names[kind]}")


def _consistent(m: Manifest, place: _Place) -> None:
    """What types cannot say. A manifest is data from outside: sizes are used to allocate."""
    for i, f in enumerate(m.files):
        if f.name != Path(f.name).name or f.name in ("", ".", "..", MANIFEST):
            raise place.at("files").at(i).error(f"{f.name!r} is not the name of a file here")
    held = {f.name for f in m.files}
    for i, g in enumerate(m.formats):
        if g.file not in held:
            raise place.at("formats").at(i).at("file").error(f"{g.file!r} is not in `files`")
    if not m.name.isidentifier() or not m.name.isascii():
        raise place.at("name").error(f"{m.name!r} is not a C identifier")
    ram = m.memory.ram
    for key, value in (("state", ram.state), ("scratch", ram.scratch), ("io", ram.io)):
        if not 0 <= value <= 1 << 31:
            raise place.at(f"memory.ram.{key}").error(f"{value} is not a size in bytes")
    if m.confusion is not None:
        n = len(m.confusion.labels)
        if len(m.confusion.counts) != n or any(len(row) != n for row in m.confusion.counts):
            raise place.at("confusion.counts").error(f"needs {n} rows of {n} numbers")
    if not 1 <= m.model.frames_per_step <= 1 << 24:
        raise place.at("model.frames_per_step").error("must be a number of frames, above 0")
    for group in ("inputs", "outputs"):
        if not getattr(m, group):
            raise place.at(group).error("is empty: a model has at least one")
    for group in ("inputs", "outputs", "states"):
        for i, v in enumerate(getattr(m, group)):
            here = place.at(group).at(i)
            size = math.prod(v.shape)
            if min(v.shape, default=1) < 1 or size > 1 << 24:
                raise here.at("shape").error(f"{list(v.shape)} is not the shape of a frame")
            if v.scale <= 0:
                raise here.at("scale").error(f"{v.scale} is not above 0")
            if not isinstance(v, StateInfo):
                several = v.frames != 1 and v.shape[:1] != (v.frames,)
                odd = v.frames < 1
                # Outputs may have any number of elements for the frames of a step.
                if not odd and isinstance(v, InputInfo):
                    odd = m.model.frames_per_step % v.frames > 0
                if odd or several:
                    raise here.at("frames").error(f"{v.frames} does not fit the shape and the step")
            if isinstance(v, InputInfo):
                width = v.shape[-1] if v.shape else 1
                for key in ("affine_scale", "affine_offset", "channels"):
                    if len(getattr(v, key)) not in (0, width):
                        raise here.at(key).error(f"needs one value per channel ({width})")
                if v.hop is not None and not 1 <= v.hop <= 1 << 24:
                    raise here.at("hop").error("must be a number of samples, above 0")
                if 0.0 in v.affine_scale:
                    raise here.at("affine_scale").error("must not be 0")
            elif isinstance(v, StateInfo):
                if not 0 <= v.offset <= v.offset + v.bytes <= ram.state:
                    raise here.at("offset").error("lies outside the state struct")
                if len(v.init) not in (1, size):
                    raise here.at("init").error(f"needs 1 or {size} values")
            elif len(v.labels) not in (0, v.shape[-1] if v.shape else 1):
                raise here.at("labels").error(f"does not fit the shape {list(v.shape)}")
            elif v.delay < 0 or any(n is not None and n < 1 for n in (v.window, v.hop)):
                raise here.error("delay must not be negative; window and hop must be above 0")
