"""Raw frames to the integers a step reads, and its integers back to numbers.

The same arithmetic as `edgeseq.ir.io`, in float64 and bit for bit, without allocating per call.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import DataError
from edgeseq.manifest import InputInfo

__all__ = ["DTYPES", "Converter", "FrameConverter", "as_frames"]

Array = npt.NDArray[Any]

# A sum of squares below it has no NaN, no infinity, and no element beyond those of float32: with
# such numbers, the arithmetic below overflows nowhere.
_MODEST = 1e76
# Character codes of the element types that float64 takes without overflow: not long double.
_NARROW = "?bBhHiIlLqQefd"

DTYPES: dict[str, np.dtype[Any]] = {
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "f32": np.dtype(np.float32),
}
"""Element type of stored values by the manifest's name for it."""


def as_frames(info: InputInfo, frames: npt.ArrayLike) -> Array:
    """`frames` as [n, *shape]: one frame gets its axis, and [n] is n frames of one channel.

    Args:
        info: the input; `shape` is that of one frame, also where a step takes several.
        frames: what was pushed.

    Raises:
        DataError: not an array of real numbers, or another shape.
    """
    try:
        array = np.asarray(frames)
    except ValueError as error:  # rows of unequal length
        raise DataError(
            f"is not an array: {error}", where=f"input {info.name!r}", fix=_want(info)
        ) from error
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"holds {array.dtype}, not real numbers", where=f"input {info.name!r}", fix=_want(info)
        )
    if array.shape == info.shape:
        return array[None]
    if array.shape[1:] == info.shape and array.ndim:
        return array
    if array.ndim == 1 and info.shape == (1,):
        return array[:, None]
    if info.frames > 1 and array.shape[1:] == (info.frames, *info.shape):
        return array.reshape(-1, *info.shape)
    raise DataError(
        f"got shape {list(array.shape)}, a frame is {list(info.shape)}",
        where=f"input {info.name!r}",
        fix=_want(info),
    )


def _want(info: InputInfo) -> str:
    shape = ", ".join(map(str, info.shape))
    return f"push frames of shape [n, {shape}], or one of shape [{shape}]"


class Converter:
    """Turns raw frames of one input into stored ones, `block` frames at a time.

    Args:
        block: the most frames of one call; the work buffer stays in the cache.
    """

    def __init__(self, info: InputInfo, block: int) -> None:
        self._info = info
        self._dtype = DTYPES[info.dtype]
        self._work = np.empty((block, *info.shape), np.float64)
        scale = np.asarray(info.affine_scale or 1.0, np.float64)
        offset = np.asarray(info.affine_offset or 0.0, np.float64)
        unit = info.scale
        if math.frexp(unit)[0] == 0.5:
            # Dividing by a power of two is exact, so both divisions are one with the same result.
            scale, unit = scale * unit, 1.0
        self._offset = None if not offset.any() else offset
        self._scale = None if bool((scale == 1.0).all()) else scale
        self._unit = None if unit == 1.0 else unit
        if self._dtype.kind == "i":
            limits = np.iinfo(self._dtype)
            self._low, self._high = float(limits.min), float(limits.max)

    def store(self, raw: Array, out: Array, position: int) -> None:
        """Write the stored values of raw[n, *shape] to out[n, *shape], n at most `block`.

        Huge finite values saturate; call it where numpy ignores overflow.

        Args:
            position: index of the first frame, for messages.

        Raises:
            DataError: a value is NaN or infinite; the message names the frame and the channel.
        """
        work = self._work[: len(raw)]
        if self._offset is None:
            work[...] = raw
        else:
            np.subtract(raw, self._offset, out=work, dtype=np.float64)
        # A sum of squares is NaN or infinite if an element is: one fast pass and no mask.
        if not math.isfinite(np.vdot(work, work)):
            self._refuse(raw, position)
        if self._scale is not None:
            np.divide(work, self._scale, out=work)
        if self._dtype.kind == "f":
            out[...] = work
            return
        if self._unit is not None:
            np.divide(work, self._unit, out=work)
        np.add(work, 0.5, out=work)
        np.floor(work, out=work)
        np.maximum(work, self._low, out=work)
        np.minimum(work, self._high, out=work)
        out[...] = work

    def single(self) -> FrameConverter | None:
        """The same for one frame at a time; None if the step reads real numbers."""
        if self._dtype.kind == "f":
            return None
        limits = (self._low, self._high)
        return FrameConverter(
            self._info, self._dtype, self._offset, (self._scale, self._unit), limits
        )

    def _refuse(self, raw: Array, position: int) -> None:
        bad = np.argwhere(~np.isfinite(raw))
        if not len(bad):
            return  # finite numbers whose squares overflow
        frame, *place = (int(i) for i in bad[0])
        names = self._info.channels
        channel = f"channel {names[place[-1]]!r}" if names and place else f"element {place or [0]}"
        raise DataError(
            f"frame {position + frame}, {channel} is {raw[tuple(bad[0])]}",
            where=f"input {self._info.name!r}",
            fix="replace missing samples before pushing, for example by the last good value",
        )


class FrameConverter:
    """`Converter.store` for one ordinary frame: every array is there beforehand.

    With so few elements the time goes into calling numpy, not into its arithmetic. All operands
    have the same shape and type: numpy takes several times as long over mixed ones.

    Args:
        offset, divisors: subtracted, then divided by, one after the other; None does nothing.
        limits: least and greatest stored value.

    Attributes:
        stored: [1, *shape], what `store` fills.
    """

    def __init__(
        self,
        info: InputInfo,
        dtype: np.dtype[Any],
        offset: Array | None,
        divisors: tuple[Array | float | None, ...],
        limits: tuple[float, float],
    ) -> None:
        shape = (1, *info.shape)

        def filled(value: Array | float) -> Array:
            return np.array(np.broadcast_to(value, shape), np.float64)

        self.stored = np.zeros(shape, dtype)
        self._shapes = (shape, info.shape)
        self._work = np.zeros(shape, np.float64)
        self._offset = None if offset is None else filled(offset)
        self._divisors = [filled(d) for d in divisors if d is not None]
        self._half, self._low, self._high = filled(0.5), filled(limits[0]), filled(limits[1])

    def store(self, frame: Any) -> bool:
        """Convert `frame` into `stored`.

        Returns:
            False, `stored` unchanged, if it is not one frame as an array of modest finite
            numbers: `Converter.store` knows what to do about it.
        """
        if (
            type(frame) is not np.ndarray
            or frame.shape not in self._shapes
            or frame.dtype.char not in _NARROW
        ):
            return False
        work = self._work
        work[...] = frame
        if not np.vdot(work, work) < _MODEST:  # of numpy's products, the one that never warns
            return False
        if self._offset is not None:
            np.subtract(work, self._offset, work)
        for divisor in self._divisors:
            np.divide(work, divisor, work)
        np.add(work, self._half, work)
        np.floor(work, work)
        np.maximum(work, self._low, out=work)
        np.minimum(work, self._high, out=work)
        self.stored[...] = work
        return True
