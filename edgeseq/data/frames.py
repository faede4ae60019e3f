"""Unlabelled frames of one input with any number of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeseq.data.inputs import InputSpec, load_inputs
from edgeseq.data.recordings import sources

Sequences = list[npt.NDArray[np.float32]]


def load_frames(
    name_or_path: str | Path, channels: int | None = None, *, constant_ok: bool = False
) -> Sequences:
    """Read sequences of frames, each [T, C] float32 with the same C.

    See `edgeseq.data.load_inputs` for what can be read, which also knows frames of other shapes
    and several inputs.

    Args:
        name_or_path: a path, or the name of a set in ``calib/``.
        channels: the number of channels the model takes; None takes that of the first recording.
        constant_ok: accept a channel that never changes (streaming silence is legitimate;
            calibrating with it is not).

    Raises:
        DataError: missing, truncated or damaged files, another number of channels, NaN or infinite
            values, no frames, or a constant channel. The message names the file and the channel.
    """
    if channels is None:
        first = sources(name_or_path)[0](None)
        arrays = {k: v for k, v in first.arrays.items() if k != "offsets"}
        array = arrays.get("x", next(iter(arrays.values()), np.empty(0)))
        channels = array.shape[-1] if array.ndim > 1 else 1
    found = load_inputs(name_or_path, [InputSpec("x", (channels,))], constant_ok=constant_ok)
    return [frames for (frames,) in found.sequences]
