"""What a user may say about a model file that the file does not say itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgeseq.errors import UsageError, unknown_name

__all__ = ["ImportOptions", "Number"]

Number = int | float | bool

_AXES = 8
_SIZE = 1 << 24
_RATES = ("sr", "fs", "rate", "sample_rate", "samplerate", "sampling_rate", "sample_rate_hz")


@dataclass(frozen=True)
class ImportOptions:
    """How to read a model file.

    Attributes:
        values: fixes symbolic dimensions and scalar inputs, by name: {"sr": 16000, "batch": 1}.
        states: pairs (input, output) that carry the same state from step to step, beyond those
            that are recognised.
        time_axis: axis of the inputs that is time: one number for all, or one by input name; None
            finds it.
        batch_axis: axis of the inputs that is the batch; None finds it.
        window: compile for windows of so many frames, each by itself, instead of for a stream.
        hop: frames from the start of one window to that of the next; `window` if None.
        context: frames of keys and values that an attention layer keeps in a stream; None takes
            what the model states.

    Raises:
        UsageError: values that contradict each other or cannot be meant.
    """

    values: Mapping[str, Number] = field(default_factory=dict)
    states: tuple[tuple[str, str], ...] = ()
    time_axis: int | Mapping[str, int] | None = None
    batch_axis: int | None = None
    window: int | None = None
    hop: int | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        axes = dict(self.time_axis) if isinstance(self.time_axis, Mapping) else {"": self.time_axis}
        for name, axis in (*axes.items(), (None, self.batch_axis)):
            if axis is not None and not 0 <= axis < _AXES:
                of = "batch" if name is None else f"time of {name!r}" if name else "time"
                raise UsageError(
                    f"axis {axis} as {of}", fix=f"count axes from 0; a tensor has at most {_AXES}"
                )
        if self.batch_axis is not None and self.batch_axis in axes.values():
            raise UsageError(
                f"axis {self.batch_axis} as time and as batch",
                fix="name different axes, or leave one to be found",
            )
        for what, size in (("window", self.window), ("hop", self.hop), ("context", self.context)):
            if size is not None and not 1 <= size <= _SIZE:
                raise UsageError(f"a {what} of {size} frames", fix="give 1 to 2^24")
        if self.hop is not None and self.window is not None and self.hop > self.window:
            raise UsageError(
                f"a hop of {self.hop} frames with a window of {self.window}",
                fix="give a hop of at most the window: no frame may be left out",
            )
        if self.hop is not None and self.window is None:
            raise UsageError(
                "a hop without a window", fix="give --window too; of audio frames, give --frame-hop"
            )
        for side, names in zip(("input", "output"), zip(*self.states, strict=True), strict=False):
            for name in names:
                if not name or names.count(name) > 1:
                    raise UsageError(
                        f"{side} {name!r} carries several states" if name else f"no {side} named",
                        where="states",
                        fix="name each state once, as INPUT:OUTPUT",
                    )

    @property
    def step(self) -> int | None:
        """Frames from one window to the next; None where the model is a stream."""
        return None if self.window is None else self.hop or self.window

    @property
    def sample_rate(self) -> tuple[str, float] | None:
        """The fixed input that is called like a sample rate, and its value in Hz."""
        for name, value in self.values.items():
            if name.lower() in _RATES and not isinstance(value, bool) and value > 0:
                return name, float(value)
        return None

    def time_axis_of(self, name: str) -> int | None:
        """Axis that is time of the input `name`; None: to be found."""
        if isinstance(self.time_axis, Mapping):
            return self.time_axis.get(name)
        return self.time_axis

    def time_axes(self, data: Iterable[str], known: Iterable[str], where: str) -> dict[str, int]:
        """Axes that are stated as time of the inputs `data`.

        Args:
            data: inputs that bring frames.
            known: all inputs of the model, states among them.
            where: the model, for messages.

        Raises:
            UsageError: an axis is stated of an input that does not exist.
        """
        known = list(known)
        for name in self.time_axis if isinstance(self.time_axis, Mapping) else ():
            if name not in known:
                raise UsageError(
                    unknown_name("input", name, known),
                    where=where,
                    fix="name an input of the model for its axis of time",
                )
        return {n: a for n in data if (a := self.time_axis_of(n)) is not None}
