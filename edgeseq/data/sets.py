"""Reading a `SequenceSet` from disk: three layouts, one reader each.

**Manifest folder** (what `calib/` holds)::

    manifest.toml   format = 1, name, rate_hz, classes = ["walk", "run"]
                    recordings = [{ name = "a1", frames = 812, label = "walk", group = "1" }, ...]
                    [data]       file = "data.npz", sha256 = "...", array = "x"
                    [[channel]]  name = "ax", unit = "g", scale = 0.000244140625
    data.npz        array x [sum of frames, C], integers (times scale) or floats

**NPZ**: ``x`` [frames, C] with ``offsets`` [R + 1] (recording r is ``x[offsets[r]:offsets[r+1]]``),
or ``x`` [R, T, C] when all recordings have one length; ``y`` [R] labels, integers or names;
``group`` [R] integers or names; optional ``classes``, ``channels``, ``units`` (names), ``rate_hz``.

**CSV folder**: ``index.csv`` with the columns ``file,label,group``, and one CSV file per recording
whose first line names the channels. Files are read in the order of the index.

Nothing is unpickled: an array that needs it is refused.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq._resources import resource_folder
from edgeseq.data import _files
from edgeseq.data.sequences import Recording, SequenceSet
from edgeseq.errors import DataError, unknown_name

MANIFEST = "manifest.toml"
INDEX = "index.csv"
_FORMAT = 1


def list_sets() -> tuple[str, ...]:
    """Names of the sets that come with edgeseq (the folders of ``calib/``)."""
    root = resource_folder("calib")
    return tuple(sorted(p.parent.name for p in root.glob(f"*/{MANIFEST}")))


def find_set(name_or_path: str | Path) -> Path:
    """The path of a set: an existing file or folder, else the name of one in ``calib/``.

    Raises:
        DataError: neither a path nor a known name.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    if str(name_or_path) in list_sets():
        return resource_folder("calib") / str(name_or_path)
    raise DataError(
        f"no such file or folder, and {unknown_name('set', str(name_or_path), list_sets())}",
        where=str(name_or_path),
        fix="give a path that exists or the name of a known set",
    )


def load_set(name_or_path: str | Path, channels: Sequence[str] | None = None) -> SequenceSet:
    """Read labelled recordings.

    Args:
        name_or_path: a name from `list_sets`, or a path in one of the layouts above.
        channels: keep only these channels, in this order (None: all, as stored).

    Raises:
        DataError: missing, truncated or damaged files, a checksum that does not match, NaN or
            infinite values, a channel that is constant everywhere, an unknown channel, or labels
            and groups that do not fit the recordings. The message names file, recording, channel.
    """
    path = find_set(name_or_path)
    if path.is_dir():
        if (path / MANIFEST).exists():
            loaded = _from_manifest(path)
        elif (path / INDEX).exists():
            loaded = _from_csv_folder(path)
        else:
            raise DataError(
                f"holds neither {MANIFEST} nor {INDEX}",
                where=str(path),
                fix="see the module edgeseq.data.sets for the layouts that can be read",
            )
    elif path.suffix.lower() == ".npz":
        loaded = _from_npz(path)
    else:
        raise DataError(
            f"a data set is a folder or an .npz file, not {path.suffix or 'a file like this'}",
            where=str(path),
            fix="see the module edgeseq.data.sets for the layouts that can be read",
        )
    return _check(loaded if channels is None else _choose(loaded, channels))


def _from_manifest(folder: Path) -> SequenceSet:
    path = folder / MANIFEST
    manifest = _read_toml(path)
    version = manifest.get("format")
    if version != _FORMAT:
        raise DataError(
            f"format is {version!r}, this version of edgeseq reads {_FORMAT}",
            where=str(path),
            fix="make the manifest again, or use a matching version of edgeseq",
        )
    classes = _strings(manifest, "classes", path)
    channel_tables = _tables(manifest, "channel", path)
    recording_tables = _tables(manifest, "recordings", path)
    data = manifest.get("data")
    if not isinstance(data, dict):
        raise _malformed(path, "[data]", "a table with file, sha256 and array")
    file = folder / str(_value(data, "file", str, path, "[data]"))
    if file.parent != folder:
        raise _malformed(path, "[data] file", "the name of a file beside the manifest")
    _verify_sha256(file, str(_value(data, "sha256", str, path, "[data]")), path)
    name = str(_value(data, "array", str, path, "[data]"))
    arrays = _files.read_npz(file, [name])
    values = _files.as_matrix(arrays[name], f"{file}, array {name!r}")
    scales, names, units = [], [], []
    for number, table in enumerate(channel_tables):
        where = f"[[channel]] {number}"
        names.append(str(_value(table, "name", str, path, where)))
        units.append(str(table.get("unit", "")))
        scale = _value(table, "scale", (int, float), path, where)
        if not 0 < abs(scale) <= float(np.finfo(np.float32).max):
            raise _malformed(path, f"{where} scale", "a finite number other than 0")
        scales.append(float(scale))
    if values.shape[1] != len(names):
        raise DataError(
            f"array {name!r} has {values.shape[1]} channels, the manifest names {len(names)}",
            where=str(file),
            fix="correct the [[channel]] tables or restore the file",
        )
    lengths, labels, groups, titles = [], [], [], []
    for number, table in enumerate(recording_tables):
        where = f"recordings[{number}]"
        titles.append(str(_value(table, "name", str, path, where)))
        lengths.append(int(_value(table, "frames", int, path, where)))
        labels.append(str(_value(table, "label", str, path, where)))
        groups.append(str(_value(table, "group", (str, int), path, where)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if min(lengths, default=0) < 1 or offsets[-1] != len(values):
        raise DataError(
            f"the manifest's recordings have {offsets[-1]} frames, the array has {len(values)}",
            where=str(file),
            fix="restore the file, or correct frames in the manifest",
        )
    frames = values.astype(np.float32) * np.asarray(scales, np.float32)
    return _assemble(
        str(manifest.get("name", folder.name)), path, frames, offsets, labels, groups, titles,
        classes, names, units, manifest.get("rate_hz"), manifest,
    )  # fmt: skip


def _from_npz(path: Path) -> SequenceSet:
    arrays = _files.read_npz(path, ["x", "y", "group"])
    x = arrays["x"]
    if x.ndim == 3:
        offsets = np.arange(len(x) + 1, dtype=np.int64) * x.shape[1]
        values = _files.as_matrix(x.reshape(-1, x.shape[2]), f"{path}, array 'x'")
    else:
        values = _files.as_matrix(x, f"{path}, array 'x'")
        if "offsets" not in arrays:
            raise DataError(
                "array 'offsets' is missing",
                where=str(path),
                fix="store offsets [R + 1], the first frame of each recording and the end, "
                "or x as [recordings, frames, channels]",
            )
        offsets = _files.offsets(arrays["offsets"], len(values), f"{path}, array 'offsets'")
    count = len(offsets) - 1
    labels = _per_recording(arrays["y"], count, f"{path}, array 'y'")
    groups = _per_recording(arrays["group"], count, f"{path}, array 'group'")
    if "classes" in arrays:
        classes = tuple(str(name) for name in np.ravel(arrays["classes"]))
        if arrays["y"].dtype.kind in "iu":
            labels = [
                classes[int(label)] if 0 <= int(label) < len(classes) else label for label in labels
            ]
    else:
        numeric = arrays["y"].dtype.kind in "iu"
        classes = tuple(sorted(set(labels), key=int if numeric else str))
    channels = [f"c{i}" for i in range(values.shape[1])]
    if "channels" in arrays:
        channels = [str(name) for name in np.ravel(arrays["channels"])]
    units = [""] * len(channels)
    if "units" in arrays:
        units = [str(unit) for unit in np.ravel(arrays["units"])]
    rate: float | None = None
    if "rate_hz" in arrays:
        stored = arrays["rate_hz"]
        if stored.size != 1 or stored.dtype.kind not in "iuf":
            raise DataError(
                f"is {stored.dtype} {list(stored.shape)}, expected one number",
                where=f"{path}, array 'rate_hz'",
                fix="store frames per second, or leave the array out",
            )
        rate = float(stored.item())
    titles = [str(i) for i in range(count)]
    return _assemble(
        path.stem, path, values.astype(np.float32), offsets, labels, groups, titles, classes,
        channels, units, rate, {},
    )  # fmt: skip


def _from_csv_folder(folder: Path) -> SequenceSet:
    index = folder / INDEX
    rows = _files.read_csv_table(index, ("file", "label", "group"))
    if not rows:
        raise DataError("names no recording", where=str(index), fix="add a line per recording")
    pieces: list[npt.NDArray[Any]] = []
    channels: tuple[str, ...] = ()
    for line, row in enumerate(rows, start=2):
        if not row["file"] or Path(row["file"]).is_absolute() or ".." in Path(row["file"]).parts:
            raise DataError(
                f"file {row['file']!r} is not a path inside the folder",
                where=f"{index}, line {line}",
                fix="name a CSV file below the folder",
            )
        names, values = _files.read_csv(folder / row["file"])
        if pieces and names != channels:
            raise DataError(
                f"channels are {', '.join(names)}, in the recordings before {', '.join(channels)}",
                where=str(folder / row["file"]),
                fix="give every recording the same columns in the same order",
            )
        channels = names
        pieces.append(values)
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in pieces])]).astype(np.int64)
    labels = [row["label"] for row in rows]
    return _assemble(
        folder.name, index, np.concatenate(pieces).astype(np.float32), offsets, labels,
        [row["group"] for row in rows], [row["file"] for row in rows],
        tuple(sorted(set(labels))), list(channels), [""] * len(channels), None, {},
    )  # fmt: skip


def _assemble(
    name: str, source: Path, frames: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64],
    labels: list[str], groups: list[str], titles: list[str], classes: Sequence[str],
    channels: Sequence[str], units: Sequence[str], rate: Any, manifest: dict[str, Any],
) -> SequenceSet:  # fmt: skip
    if len(channels) != frames.shape[1] or len(units) != len(channels):
        raise DataError(
            f"{frames.shape[1]} channels are stored, {len(channels)} named, {len(units)} units",
            where=str(source),
            fix="name every channel once",
        )
    twice = sorted({name for name in channels if list(channels).count(name) > 1})
    if twice:
        raise DataError(
            f"two channels are called {', '.join(map(repr, twice))}",
            where=str(source),
            fix="give every channel its own name",
        )
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < float("inf")):
        raise DataError(
            f"rate_hz is {rate!r}", where=str(source), fix="give frames per second, above zero"
        )
    recordings = []
    for number, (title, label, group) in enumerate(zip(titles, labels, groups, strict=True)):
        if label not in classes:
            raise DataError(
                unknown_name("class", label, classes),
                where=f"{source}, recording {title}",
                fix="correct the label, or add the class to the list",
            )
        piece = frames[offsets[number] : offsets[number + 1]]
        recordings.append(Recording(title, piece, list(classes).index(label), group))
    return SequenceSet(
        name=name,
        source=str(source),
        recordings=tuple(recordings),
        classes=tuple(classes),
        channels=tuple(channels),
        units=tuple(units),
        rate_hz=None if rate is None else float(rate),
        sha256=_content_sha256(recordings, classes, channels),
        manifest=manifest,
    )


def _content_sha256(
    recordings: Sequence[Recording], classes: Sequence[str], channels: Sequence[str]
) -> str:
    digest = hashlib.sha256(repr((tuple(classes), tuple(channels))).encode())
    for recording in recordings:
        digest.update(repr((recording.frames.shape, recording.label, recording.group)).encode())
        digest.update(np.ascontiguousarray(recording.frames, dtype="<f4").tobytes())
    return digest.hexdigest()


def _choose(data: SequenceSet, channels: Sequence[str]) -> SequenceSet:
    for name in channels:
        if name not in data.channels:
            raise DataError(
                unknown_name("channel", name, data.channels),
                where=data.source,
                fix="correct [data] channels",
            )
    if not channels or len(set(channels)) != len(channels):
        raise DataError(
            f"[data] channels is {list(channels)}",
            where=data.source,
            fix="name at least one channel, each once",
        )
    index = [data.channels.index(name) for name in channels]
    recordings = tuple(
        Recording(r.name, np.ascontiguousarray(r.frames[:, index]), r.label, r.group) for r in data
    )
    return SequenceSet(
        data.name, data.source, recordings, data.classes, tuple(channels),
        tuple(data.units[i] for i in index), data.rate_hz,
        _content_sha256(recordings, data.classes, tuple(channels)), data.manifest,
    )  # fmt: skip


def _check(data: SequenceSet) -> SequenceSet:
    """Refuse what no model can be trained on, naming recording and channel."""
    if len(data.classes) < 2 or len(set(data.classes)) != len(data.classes):
        raise DataError(
            f"classes are {list(data.classes)}",
            where=data.source,
            fix="a classifier needs at least two classes with different names",
        )
    low = np.full(len(data.channels), np.inf)
    high = -low
    for recording in data:
        _files.check_finite(
            recording.frames, f"{data.source}, recording {recording.name}", data.channels
        )
        low = np.minimum(low, recording.frames.min(axis=0))
        high = np.maximum(high, recording.frames.max(axis=0))
    _files.check_varying(low, high, data.channels, data.source)
    return data


def _per_recording(array: npt.NDArray[Any], count: int, where: str) -> list[str]:
    if array.shape != (count,) or array.dtype.kind not in "iuU":
        raise DataError(
            f"is {array.dtype} {list(array.shape)}, expected [{count}] integers or names",
            where=where,
            fix="store one entry per recording",
        )
    return [str(entry) for entry in array]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(
            f"cannot be read: {error}", where=str(path), fix="restore or correct the manifest"
        ) from error


def _verify_sha256(file: Path, expected: str, manifest: Path) -> None:
    try:
        actual = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror or error}",
            where=str(file),
            fix="restore the file that the manifest names",
        ) from error
    if actual != expected:
        raise DataError(
            f"SHA-256 is {actual}, {manifest.name} says {expected}: the file is damaged or changed",
            where=str(file),
            fix="restore the file, or make file and manifest again",
        )


def _malformed(path: Path, key: str, expected: str) -> DataError:
    return DataError(
        f"{key} is missing or malformed, expected {expected}",
        where=str(path),
        fix="see the module edgeseq.data.sets for the layout",
    )


def _value(table: dict[str, Any], key: str, kind: Any, path: Path, where: str) -> Any:
    value = table.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        names = kind if isinstance(kind, tuple) else (kind,)
        raise _malformed(path, f"{where} {key}", " or ".join(k.__name__ for k in names))
    return value


def _tables(manifest: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    value = manifest.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise _malformed(path, key, "a list of tables")
    return value


def _strings(manifest: dict[str, Any], key: str, path: Path) -> tuple[str, ...]:
    value = manifest.get(key)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _malformed(path, key, "a list of names")
    return tuple(value)
