"""Labelled recordings, windows cut from them, and splits that share no group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import DataError, unknown_name

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recording:
    """One uninterrupted recording of one class.

    Attributes:
        name: unique within its set; errors name it.
        frames: [T, C] float32, in the units of the set's channels.
        label: index into the set's classes.
        group: who or what it came from (a person, a device); splits are made of whole groups.
    """

    name: str
    frames: Floats
    label: int
    group: str


@dataclass(frozen=True)
class SequenceSet:
    """Recordings with the same channels and classes.

    Attributes:
        name: short name, such as ``watch``.
        source: the file or folder it was read from.
        recordings: in stored order.
        classes: class names; a label is an index into them.
        channels: channel names, C of them.
        units: one unit per channel ("" where it is not known).
        rate_hz: frames per second, or None where it is not known.
        sha256: of the values, labels and groups: equal sets have equal hashes.
        manifest: the manifest as read ({} where the format has none).
    """

    name: str
    source: str
    recordings: tuple[Recording, ...]
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    units: tuple[str, ...]
    rate_hz: float | None
    sha256: str
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def groups(self) -> tuple[str, ...]:
        """All groups, numbers in numeric order and before other names."""
        return tuple(sorted({r.group for r in self.recordings}, key=_natural))

    @property
    def frame_count(self) -> int:
        """Frames in all recordings together."""
        return sum(len(r.frames) for r in self.recordings)

    def __iter__(self) -> Iterator[Recording]:
        return iter(self.recordings)

    def __len__(self) -> int:
        return len(self.recordings)

    def take(self, groups: Iterable[str | int]) -> tuple[Recording, ...]:
        """Recordings of the named groups, in stored order.

        Raises:
            DataError: a group that the set does not have.
        """
        wanted = _known_groups(self, groups)
        return tuple(r for r in self.recordings if r.group in wanted)


@dataclass(frozen=True)
class Windows:
    """Fixed-length pieces of recordings.

    Attributes:
        x: [N, length, C] float32.
        y: [N] int64 labels.
        group: [N] group of each window.
        recording: [N] index of the recording (in the sequence given to `windows`).
        start: [N] first frame of the window within its recording.
        classes: class names.
    """

    x: Floats
    y: Ints
    group: npt.NDArray[np.str_]
    recording: Ints
    start: Ints
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Split:
    """Groups of the three parts; no group is in two of them."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def windows(
    data: SequenceSet,
    length: int,
    hop: int,
    groups: Iterable[str | int] | None = None,
) -> Windows:
    """Cut every recording into windows at frames 0, hop, 2*hop, ...

    Windows never cross the end of a recording and are never padded: what does not fill a window is
    left out.

    Args:
        data: the set.
        length: frames per window, >= 1.
        hop: frames from one window's start to the next one's, >= 1.
        groups: only these groups (None: all).

    Raises:
        DataError: `length` or `hop` below 1, an unknown group, or no recording of the chosen groups
            has `length` frames.
    """
    if length < 1 or hop < 1:
        raise DataError(
            f"window {length} and hop {hop} must both be at least 1",
            where=data.source,
            fix="set [data] window and hop in edgeseq.toml",
        )
    recordings = data.recordings if groups is None else data.take(groups)
    pieces, labels, names, index, starts = [], [], [], [], []
    for number, recording in enumerate(recordings):
        first = np.arange(0, len(recording.frames) - length + 1, hop)
        if not len(first):
            continue
        view = np.lib.stride_tricks.sliding_window_view(recording.frames, length, axis=0)
        pieces.append(view[first].transpose(0, 2, 1))
        labels.append(np.full(len(first), recording.label))
        names.append(np.full(len(first), recording.group))
        index.append(np.full(len(first), number))
        starts.append(first)
    if not pieces:
        longest = max((len(r.frames) for r in recordings), default=0)
        raise DataError(
            f"no window of {length} frames fits: the longest of {len(recordings)} recordings has "
            f"{longest}",
            where=data.source,
            fix="make [data] window shorter, or add longer recordings",
        )
    return Windows(
        x=np.ascontiguousarray(np.concatenate(pieces), dtype=np.float32),
        y=np.concatenate(labels).astype(np.int64),
        group=np.concatenate(names).astype(np.str_),
        recording=np.concatenate(index).astype(np.int64),
        start=np.concatenate(starts).astype(np.int64),
        classes=data.classes,
    )


def split(
    data: SequenceSet,
    test: Sequence[str | int],
    validation: Sequence[str | int] | None = None,
) -> Split:
    """Divide the groups into training, validation and test.

    Without `validation`, one fifth of the groups that are not test groups (rounded, at least one)
    validate: the last ones in natural order, so that the choice depends on the names alone.

    Raises:
        DataError: an unknown group, a group in two parts, a part without groups, or a class that no
            training recording shows.
    """
    tested = _known_groups(data, test)
    rest = [group for group in data.groups if group not in tested]
    if validation is None:
        count = max(1, round(len(rest) / 5))
        checked = set(rest[-count:]) if len(rest) > 1 else set()
    else:
        checked = _known_groups(data, validation)
    both = sorted(tested & checked, key=_natural)
    if both:
        raise DataError(
            f"group {', '.join(both)} is in the test part and in the validation part",
            where=data.source,
            fix="name it in only one of [data] test_groups and validation_groups",
        )
    parts = Split(
        train=tuple(g for g in rest if g not in checked),
        validation=tuple(g for g in rest if g in checked),
        test=tuple(g for g in data.groups if g in tested),
    )
    for part in ("train", "validation", "test"):
        if not getattr(parts, part):
            raise DataError(
                f"no group is left for the {part} part (groups: {', '.join(data.groups)})",
                where=data.source,
                fix="change [data] test_groups and validation_groups; three groups are the least",
            )
    shown = {recording.label for recording in data.take(parts.train)}
    missing = [name for label, name in enumerate(data.classes) if label not in shown]
    if missing:
        raise DataError(
            f"no training recording shows class {', '.join(missing)}",
            where=data.source,
            fix="move a group that has it from test or validation to training",
        )
    return parts


def normalisation(
    recordings: Sequence[Recording], channels: Sequence[str], where: str = "training data"
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel over all frames: two float32 arrays [C].

    Pass the training recordings only, or the test set leaks into the model.

    Raises:
        DataError: no recordings, or a channel that never changes.
    """
    if not recordings:
        raise DataError("no recordings to normalise with", where=where, fix="add recordings")
    # float64, two passes: the values may sit far from zero (a barometer in pascal).
    frames = np.concatenate([r.frames for r in recordings]).astype(np.float64)
    mean = frames.mean(axis=0)
    std = frames.std(axis=0)
    for name, centre, spread in zip(channels, mean, std, strict=True):
        if not spread > 1e-6 * max(abs(centre), 1e-30):
            raise DataError(
                f"channel {name!r} is constant ({centre:g}) over {len(frames)} training frames",
                where=where,
                fix="leave the channel out with [data] channels, or repair the recording",
            )
    return mean.astype(np.float32), std.astype(np.float32)


def _natural(group: str) -> tuple[int, int, str]:
    return (0, int(group), group) if group.isdecimal() else (1, 0, group)


def _known_groups(data: SequenceSet, groups: Iterable[str | int]) -> set[str]:
    known = set(data.groups)
    chosen = {str(group) for group in groups}
    for group in sorted(chosen - known):
        raise DataError(
            unknown_name("group", group, known),
            where=data.source,
            fix="use the groups that the set has",
        )
    return chosen
