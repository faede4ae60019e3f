"""Every error edgeseq raises on purpose, in one tree.

```
EdgeseqError                 anything below: one message that says what, where and what to do
├── UsageError               the call or command line is wrong (exit code 2)
├── ConfigError              edgeseq.toml or another settings file
├── TargetError              a target or a tier: unknown, malformed
├── DataError                recordings, calibration frames, input files
├── TrainError               training could not run or continue
├── ModelError               a model file or module that cannot be read
│   └── UnsupportedError     ... or holds an operation that cannot be compiled
├── GraphError               a Graph that breaks an invariant (names the pass that made it)
├── QuantiseError            no format satisfies the bounds or the accuracy asked for
├── BackendError             code generation, linking or an emitter
├── EmulationError           the emulated CPU stopped or wrote where it may not
├── VerifyError              two stages or two back ends disagree
│   └── BudgetError          ... or a tier or an accuracy floor is missed
└── ArtifactError            an artifact folder that cannot be read or written
```
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = [
    "ArtifactError",
    "BackendError",
    "BudgetError",
    "ConfigError",
    "DataError",
    "EdgeseqError",
    "EmulationError",
    "GraphError",
    "ModelError",
    "Problem",
    "QuantiseError",
    "TargetError",
    "TrainError",
    "UnsupportedError",
    "UsageError",
    "VerifyError",
    "unknown_name",
]


class EdgeseqError(Exception):
    """Base of the tree.

    Args:
        what: what is wrong, one sentence.
        where: the file, key, node or stage it concerns.
        fix: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}\n  -> {fix}" if fix else text)


class UsageError(EdgeseqError):
    """The call or command line is wrong."""

    exit_code = 2


class ConfigError(EdgeseqError):
    """A settings file is missing, malformed or contradicts itself."""


class TargetError(EdgeseqError):
    """A target or tier is unknown or its description is malformed."""


class DataError(EdgeseqError):
    """Recordings or frames are missing, damaged or not usable."""


class TrainError(EdgeseqError):
    """Training could not start, continue or finish."""


class ModelError(EdgeseqError):
    """A model file or module cannot be read."""


Problem = tuple[str, str, str, str]
"""An operation that cannot be compiled: what it is called, where it sits, why not, what to do."""


class UnsupportedError(ModelError):
    """A model holds an operation that cannot be compiled.

    Args:
        what, where, fix: as of every error; the message tells all problems.
        problems: the same one by one, for `edgeseq inspect`; empty where the message is about one
            thing only.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        fix: str | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.problems: tuple[Problem, ...] = tuple(problems)


class GraphError(EdgeseqError):
    """A Graph breaks one of its invariants."""


class QuantiseError(EdgeseqError):
    """No integer format satisfies the bounds or the accuracy asked for."""


class BackendError(EdgeseqError):
    """An emitter, the code generator or the linker failed."""


class EmulationError(EdgeseqError):
    """The emulated CPU stopped, or touched memory it must not touch."""


class VerifyError(EdgeseqError):
    """Two stages or two back ends that must agree do not."""


class LevelError(VerifyError):
    """Two runs agree less closely than their level asks for.

    Args:
        what, where, fix: as of `EdgeseqError`.
        figure: what was measured, with its unit.
    """

    def __init__(
        self, what: str, *, figure: str, where: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.figure = figure


class BudgetError(VerifyError):
    """A tier's memory, latency or accuracy budget is missed."""


class ArtifactError(EdgeseqError):
    """An artifact folder cannot be read or written."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Text for an unknown name: the closest known ones first, then all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})"
