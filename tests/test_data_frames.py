"""Unlabelled frames in every format, and what is refused."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from edgeseq.data import load_frames
from edgeseq.errors import DataError


def write_wav(path: Path, samples: np.ndarray, width: int) -> Path:
    """`samples` [T, tracks] in [-1, 1) as PCM of `width` bytes."""
    if width == 1:
        payload = (np.round(samples * 128) + 128).astype(np.uint8).tobytes()
    else:
        wide = np.round(samples * 2.0 ** (8 * width - 1)).astype("<i4")
        payload = wide.reshape(-1).view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(samples.shape[1])
        stream.setsampwidth(width)
        stream.setframerate(16000)
        stream.writeframes(payload)
    return path


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def test_arrays(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x)
    np.savez(tmp_path / "one.npz", anything=x)
    np.savetxt(tmp_path / "a.csv", x, delimiter=",", fmt="%.9g")
    (tmp_path / "h.csv").write_text("a,b,c\n" + (tmp_path / "a.csv").read_text())
    for name in ("a.npy", "a.npz", "one.npz", "a.csv", "h.csv"):
        (frames,) = load_frames(tmp_path / name, 3)
        assert frames.dtype == np.float32
        assert np.array_equal(frames, x), name


def test_several_sequences(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "b.npy", x.reshape(2, 6, 3))
    np.savez(tmp_path / "a.npz", x=x, offsets=np.array([0, 5, 12]))
    both = load_frames(tmp_path)  # a folder, in the order of the names
    assert [f.shape for f in both] == [(5, 3), (7, 3), (6, 3), (6, 3)]
    assert np.array_equal(np.concatenate(both[:2]), x)
    assert np.array_equal(np.concatenate(both[2:]), x)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav(tmp_path: Path, width: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, size=(100, 2)) * 0.99
    (frames,) = load_frames(write_wav(tmp_path / "a.wav", samples, width))
    assert frames.shape == (100, 2)
    assert np.abs(frames - samples).max() <= max(2.0 ** -(8 * width), 1e-7)


def test_a_set_by_name() -> None:
    frames = load_frames("watch", 6)
    assert sum(map(len, frames)) == 244102


def test_one_channel(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    (frames,) = load_frames(tmp_path / "a.npy")
    assert frames.shape == (5, 1)


def test_silence_can_be_streamed_but_not_calibrated_with(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 2)))
    assert len(load_frames(tmp_path / "a.npy", constant_ok=True)) == 1
    with pytest.raises(DataError, match="constant channel '0'"):
        load_frames(tmp_path / "a.npy")


@pytest.mark.filterwarnings("ignore::UserWarning")  # numpy's, about headers of old versions
@pytest.mark.parametrize("name", ["a.npz", "packed.npz", "a.npy", "a.wav", "a.csv"])
def test_damage_anywhere_ends_in_one_kind_of_error(
    tmp_path: Path, x: np.ndarray, name: str
) -> None:
    np.savez(tmp_path / "a.npz", x=x)
    np.savez_compressed(tmp_path / "packed.npz", x=x)
    np.save(tmp_path / "a.npy", x)
    write_wav(tmp_path / "a.wav", np.clip(x, -1, 0.99), 2)
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    payload = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(0)
    damaged = tmp_path / f"damaged{Path(name).suffix}"
    for _ in range(400):
        copy = bytearray(payload)
        for position in rng.integers(0, len(copy), size=int(rng.integers(1, 4))):
            copy[position] = int(rng.integers(256))
        if rng.random() < 0.3:
            del copy[int(rng.integers(len(copy))) :]
        damaged.write_bytes(bytes(copy))
        try:
            for frames in load_frames(damaged):
                assert np.isfinite(frames).all()
        except DataError as error:
            assert "damaged." in str(error)


def test_refused(tmp_path: Path, x: np.ndarray) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{}, 1], dtype=object))
    np.save(tmp_path / "nan.npy", np.where(np.arange(36).reshape(12, 3) == 7, np.nan, x))
    np.save(tmp_path / "a.npy", x)
    (tmp_path / "short.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-10])
    np.savez(tmp_path / "two.npz", a=x, b=x)
    np.save(tmp_path / "empty.npy", np.zeros((0, 3)))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    (tmp_path / "a.mp3").write_bytes(b"")
    wav = write_wav(tmp_path / "cut.wav", np.zeros((50, 1)), 2)
    wav.write_bytes(wav.read_bytes()[:-30])
    (tmp_path / "no.wav").write_bytes(b"RIFFxxxx")
    (tmp_path / "folder").mkdir()
    for name, text in {
        "pickled.npy": "never unpickled",
        "nan.npy": "value nan at frame 2, channel '1'",
        "short.npy": "truncated",
        "two.npz": "array 'x' is missing",
        "empty.npy": "expected numbers",
        "text.npy": "expected numbers",
        "a.mp3": "files of type .mp3 are not read",
        "cut.wav": "truncated",
        "no.wav": "truncated, damaged or of another format",
        "folder": "holds no .csv, .npy, .npz, .wav file",
        "gone.npy": "does not exist",
        "wach": "unknown set 'wach'; did you mean 'watch'",
    }.items():
        with pytest.raises(DataError, match=text) as caught:
            load_frames(tmp_path / name if name != "wach" else name)
        assert name in str(caught.value)
    with pytest.raises(DataError, match="has 3 channels, the model takes 6"):
        load_frames(tmp_path / "a.npy", 6)
