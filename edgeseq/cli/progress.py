"""Progress on stderr: the stage that runs, and a bar with figures for a training.

On a terminal both are drawn in place; elsewhere (a log, CI) each stage and each epoch is a line.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import TaskID

    from edgeseq.train import Event

__all__ = ["Screen"]


class Screen:
    """Shows what a long command does; a context manager.

    `stage` and `training` are given to the functions that do the work as their callbacks.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._text = ""
        self._start = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_stage(finished=kind is None)
        self._progress.stop()

    def stage(self, text: str) -> None:
        """A new stage begins, and the one before it is done."""
        self._end_stage(finished=True)
        self._text, self._start = text, time.monotonic()
        self._task = self._progress.add_task(text, total=None, figures="")
        if self._progress.disable:
            self._console.print(f"{text} ...", markup=False)

    def training(self, event: Event) -> None:
        """Where a training is: redraw its bar; without a terminal, a line per epoch."""
        if event.done:
            self._end_stage(finished=False)
            kept = "" if event.val_accuracy is None else f", validation {event.val_accuracy:.1%}"
            how = "trained before, nothing changed" if event.cached else "trained"
            self._line(f"{event.name}: {how} ({event.epoch} epochs{kept})")
            return
        if self._task is None or self._text != event.name:
            self._end_stage(finished=True)
            self._text, self._start = event.name, time.monotonic()
            self._task = self._progress.add_task(event.name, total=event.steps, figures="")
        figures = f"loss {event.loss:.3f}  accuracy {event.accuracy:.1%}"
        if event.val_accuracy is not None:
            figures += f"  validation {event.val_accuracy:.1%}"
            if self._progress.disable:
                self._line(f"{event.name}: epoch {event.epoch}/{event.epochs}  {figures}")
        self._progress.update(
            self._task,
            description=f"training {event.name}, epoch {event.epoch}/{event.epochs}",
            completed=event.step,
            total=event.steps,
            figures=f"{figures}  {_duration(event.seconds_left)} left",
        )

    def _end_stage(self, finished: bool) -> None:
        if self._task is None:
            return
        self._progress.remove_task(self._task)
        self._task = None
        if finished and not self._progress.disable:
            self._line(f"{self._text}  ({_duration(time.monotonic() - self._start)})")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)


def _duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "12 s", "3 min 05 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
