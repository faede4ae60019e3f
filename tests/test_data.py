"""Data sets: what comes with edgeseq, own data in three layouts, windows and splits."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq._resources import resource_folder
from edgeseq.data import (
    Recording,
    SequenceSet,
    list_sets,
    load_set,
    normalisation,
    split,
    windows,
)
from edgeseq.errors import DataError


def made_up(lengths: list[int], channels: int = 2, groups: int = 3) -> SequenceSet:
    rng = np.random.default_rng(0)
    recordings = tuple(
        Recording(
            f"r{i}",
            rng.normal(size=(length, channels)).astype(np.float32),
            (i // groups) % 2,
            str(i % groups + 1),
        )
        for i, length in enumerate(lengths)
    )
    names = tuple(f"c{i}" for i in range(channels))
    return SequenceSet("s", "s", recordings, ("a", "b"), names, ("",) * channels, None, "0")


def write_npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(1)
    arrays: dict[str, object] = {
        "x": rng.normal(size=(60, 2)),
        "offsets": np.array([0, 10, 30, 60]),
        "y": np.array([0, 1, 0]),
        "group": np.array([1, 1, 2]),
    }
    arrays.update(changes)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})  # type: ignore[arg-type]
    return path


def write_csv_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "index.csv").write_text("file,label,group\na.csv,walk,ann\nb.csv,run,bob\n")
    (folder / "a.csv").write_text("ax,ay\n1,2\n3,4\n")
    (folder / "b.csv").write_text("ax,ay\n5,6\n7,8.5\n9,10\n")
    return folder


def test_watch_is_what_its_manifest_says() -> None:
    assert "watch" in list_sets()
    data = load_set("watch")
    assert (len(data), data.frame_count) == (140, 244102)
    assert data.channels == ("ax", "ay", "az", "wx", "wy", "wz")
    assert data.units == ("g", "g", "g", "rad/s", "rad/s", "rad/s")
    assert data.groups == tuple(str(i) for i in range(1, 11))
    assert data.classes == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
    assert data.rate_hz == 50.0
    assert (resource_folder("calib") / "watch" / data.manifest["licence"]["file"]).is_file()
    # Every person does every exercise, once with each arm.
    assert {(r.group, r.label) for r in data} == {
        (str(g), c) for g in range(1, 11) for c in range(7)
    }
    assert len({r.name for r in data}) == 140
    # Gravity: a resting arm measures about 1 g.
    size = np.linalg.norm(np.concatenate([r.frames[:, :3] for r in data]), axis=1)
    assert 0.9 < np.median(size) < 1.1


def test_watch_windows_are_the_task() -> None:
    data = load_set("watch")
    parts = split(data, [8, 9, 10])
    assert parts.test == ("8", "9", "10")
    assert not set(parts.train) & set(parts.validation)
    test = windows(data, 100, 25, parts.test)
    assert test.x.shape == (2940, 100, 6)
    assert test.x.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=3, max_size=8),
    length=st.integers(1, 40),
    hop=st.integers(1, 50),
)
def test_windows_are_slices_of_one_recording(lengths: list[int], length: int, hop: int) -> None:
    data = made_up(lengths)
    expected = sum(len(range(0, n - length + 1, hop)) for n in lengths)
    if expected == 0:
        with pytest.raises(DataError, match="no window"):
            windows(data, length, hop)
        return
    cut = windows(data, length, hop)
    assert len(cut) == expected
    for i in range(len(cut)):
        recording = data.recordings[cut.recording[i]]
        start = cut.start[i]
        assert np.array_equal(cut.x[i], recording.frames[start : start + length])
        assert (cut.y[i], cut.group[i]) == (recording.label, recording.group)


@settings(max_examples=40, deadline=None)
@given(groups=st.integers(3, 12), test=st.integers(1, 10))
def test_split_shares_nobody(groups: int, test: int) -> None:
    data = made_up([5] * (4 * groups), groups=groups)
    names = list(data.groups)[: min(test, groups - 2)]
    parts = split(data, names)
    assert sorted(parts.train + parts.validation + parts.test) == sorted(data.groups)
    assert parts == split(data, list(reversed(names)))


def test_split_errors() -> None:
    data = made_up([5] * 12)
    for test, validation, text in [
        ([9], None, "unknown group '9'"),
        ([1], [1], "in the test part and in the validation part"),
        ([1, 2, 3], None, "no group is left for the train part"),
        ([1], [2, 3], "no group is left for the train part"),
        ([], None, "no group is left for the test part"),
    ]:
        with pytest.raises(DataError, match=text):
            split(data, test, validation)


def test_split_needs_every_class_in_training() -> None:
    data = made_up([5, 5, 5, 5, 5, 5])
    recordings = [r for r in data.recordings if not (r.label == 1 and r.group == "1")]
    missing = SequenceSet(
        "s", "s", tuple(recordings), data.classes, data.channels, data.units, None, "0"
    )
    with pytest.raises(DataError, match="no training recording shows class b"):
        split(missing, [3], [2])


def test_normalisation_is_of_the_given_recordings() -> None:
    data = made_up([50, 60, 70])
    mean, std = normalisation(data.take(["1"]), data.channels)
    assert np.allclose(mean, data.recordings[0].frames.mean(axis=0), atol=1e-6)
    assert np.allclose(std, data.recordings[0].frames.std(axis=0), rtol=1e-5)
    still = Recording("r", np.full((9, 2), 3.0, np.float32), 0, "1")
    with pytest.raises(DataError, match="channel 'c0' is constant"):
        normalisation([still], data.channels)


def test_npz(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "own.npz", channels=np.array(["u", "v"]))
    data = load_set(path)
    assert [len(r.frames) for r in data] == [10, 20, 30]
    assert data.classes == ("0", "1")
    assert data.groups == ("1", "2")
    assert data.channels == ("u", "v")
    named = load_set(
        write_npz(tmp_path / "n.npz", y=np.array(["sit", "run", "sit"]), group=np.array(["b"] * 3))
    )
    assert (named.classes, [r.label for r in named]) == (("run", "sit"), [1, 0, 1])
    cube = load_set(
        write_npz(tmp_path / "c.npz", x=np.random.default_rng(0).normal(size=(3, 7, 2)),
                  offsets=None, classes=np.array(["p", "q"]))
    )  # fmt: skip
    assert ([len(r.frames) for r in cube], cube.classes) == ([7, 7, 7], ("p", "q"))
    assert load_set(path).sha256 == data.sha256 != cube.sha256


def test_csv_folder(tmp_path: Path) -> None:
    data = load_set(write_csv_folder(tmp_path / "own"))
    assert data.channels == ("ax", "ay")
    assert data.classes == ("run", "walk")
    assert data.groups == ("ann", "bob")
    assert np.array_equal(data.recordings[1].frames, np.float32([[5, 6], [7, 8.5], [9, 10]]))


def test_channels_are_chosen_by_name(tmp_path: Path) -> None:
    folder = write_csv_folder(tmp_path / "own")
    data = load_set(folder, ["ay"])
    assert np.array_equal(data.recordings[0].frames, np.float32([[2], [4]]))
    assert data.sha256 != load_set(folder).sha256
    with pytest.raises(DataError, match=r"unknown channel 'axis'.*\(known: ax, ay\)"):
        load_set(folder, ["axis"])


def bad_npz(**changes: object):  # type: ignore[no-untyped-def]
    return lambda folder: write_npz(folder / "bad.npz", **changes)


def nan_at(frame: int, channel: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(60, 2))
    x[frame, channel] = np.nan
    return x


def truncated(folder: Path) -> Path:
    path = write_npz(folder / "bad.npz")
    path.write_bytes(path.read_bytes()[:-200])
    return path


def flipped(folder: Path) -> Path:
    path = write_npz(folder / "bad.npz")
    payload = bytearray(path.read_bytes())
    payload[300] ^= 0xFF
    path.write_bytes(bytes(payload))
    return path


def text_file(folder: Path) -> Path:
    (folder / "bad.npz").write_text("hello")
    return folder / "bad.npz"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda folder: folder / "no.npz", "no such file or folder"),
        (truncated, "truncated, damaged"),
        (flipped, "array 'x': is truncated, damaged"),
        (text_file, "truncated, damaged or of another format"),
        (lambda folder: folder, "holds neither manifest.toml nor index.csv"),
        (bad_npz(x=None), "array 'x' is missing"),
        (bad_npz(offsets=None), "array 'offsets' is missing"),
        (bad_npz(offsets=np.array([0, 10, 30, 61])), "must rise from 0"),
        (bad_npz(offsets=np.array([0, 30, 10, 60])), "must rise from 0"),
        (bad_npz(x=np.array([{"a": 1}] * 60, dtype=object)), "never unpickled"),
        (bad_npz(x=np.zeros(60)), r"expected numbers \[frames, channels\]"),
        (bad_npz(x=nan_at(12, 1)), "recording 1: value nan at frame 2, channel 'c1'"),
        (bad_npz(x=np.ones((60, 2))), "constant channel 'c0'"),
        (bad_npz(y=np.array([0, 1])), r"expected \[3\] integers or names"),
        (bad_npz(y=np.array([0, 0, 0])), "at least two classes"),
        (bad_npz(channels=np.array(["u"])), "2 channels are stored, 1 named"),
        (bad_npz(y=np.array([0, 1, 7]), classes=np.array(["a", "b"])), "unknown class '7'"),
        (bad_npz(y=np.array([0, 1, -1]), classes=np.array(["a", "b"])), "unknown class '-1'"),
        (bad_npz(channels=np.array(["u", "u"])), "two channels are called 'u'"),
        (bad_npz(channels=np.array("u")), "2 channels are stored, 1 named"),
        (bad_npz(units=np.array("g")), "2 channels are stored, 2 named, 1 units"),
        (bad_npz(rate_hz=np.array("fast")), "array 'rate_hz': is <U4 .*expected one number"),
        (bad_npz(rate_hz=np.array([])), "array 'rate_hz': is float64 .*expected one number"),
    ],
)
def test_bad_npz(tmp_path: Path, make, text: str) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path)
    with pytest.raises(DataError, match=text) as caught:
        load_set(path)
    assert str(path) in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("file", "content", "text"),
    [
        ("a.csv", None, "a.csv: does not exist"),
        ("a.csv", "", "is empty"),
        ("a.csv", "ax,ay\n", "holds no frames"),
        ("a.csv", "ax,ay\n1,2\n3\n", "line 3: has 1 fields, the first line has 2"),
        ("a.csv", "ax,ay\n1,2\n3,x\n", "line 3, column 'ay': 'x' is not a number"),
        ("b.csv", "ax,az\n1,2\n", "channels are ax, az, in the recordings before ax, ay"),
        ("b.csv", "ax,ax\n1,2\n", "occurs twice"),
        ("a.csv", "ax,ay\n1,inf\n3,4\n", "value inf at frame 0, channel 'ay'"),
        ("index.csv", "file,label\na.csv,x\n", "column 'group' is missing"),
        ("index.csv", "file,label,group\n../a.csv,x,1\n", "not a path inside the folder"),
        ("index.csv", "file,label,group\n", "names no recording"),
        ("index.csv", "file,label,group\na\0.csv,x,1\n", "embedded null"),
    ],
)
def test_bad_csv_folder(tmp_path: Path, file: str, content: str | None, text: str) -> None:
    folder = write_csv_folder(tmp_path / "own")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(DataError, match=text):
        load_set(folder)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("format = 1", "format = 9", "format is 9"),
        ("format = 1", "format = ", "cannot be read"),
        ('label = "PEN"', 'label = "PAN"', "unknown class 'PAN'; did you mean 'PEN'"),
        ("frames = 1333", "frames = 1334", "recordings have 244103 frames"),
        ('data.npz"\nsha256 = "', 'data.npz"\nsha256 = "0', "the file is damaged or changed"),
        ('file = "data.npz"', 'file = "../data.npz"', "beside the manifest"),
        ('file = "data.npz"', 'file = "gone.npz"', "cannot be read"),
        ('[[channel]]\nname = "ax"', '[[chanel]]\nname = "ax"', "the manifest names 5"),
        ("scale = 0.0009765625", 'scale = "big"', "scale is missing or malformed"),
        ("scale = 0.0009765625", "scale = 1" + "0" * 400, "a finite number other than 0"),
        ("scale = 0.0009765625", "scale = nan", "a finite number other than 0"),
        ("recordings = [", "tapes = [", "recordings is missing or malformed"),
    ],
)
def test_bad_manifest(tmp_path: Path, old: str, new: str, text: str) -> None:
    folder = tmp_path / "watch"
    shutil.copytree(resource_folder("calib") / "watch", folder)
    manifest = folder / "manifest.toml"
    content = manifest.read_text(encoding="utf-8")
    assert old in content
    manifest.write_text(content.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=text) as caught:
        load_set(folder)
    assert str(folder) in str(caught.value)


def test_damaged_data_file_is_found_by_its_hash(tmp_path: Path) -> None:
    folder = tmp_path / "watch"
    shutil.copytree(resource_folder("calib") / "watch", folder)
    payload = (folder / "data.npz").read_bytes()
    (folder / "data.npz").write_bytes(payload[: len(payload) // 2])
    with pytest.raises(DataError, match="SHA-256"):
        load_set(folder)
    assert hashlib.sha256(payload).hexdigest() in (folder / "manifest.toml").read_text()
