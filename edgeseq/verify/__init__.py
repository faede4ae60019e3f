"""Stage against stage, back end against back end, at named levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeseq.verify.levels import EXACT, Close, Exact, Level, Snr, Within, compare, not_run
from edgeseq.verify.stability import LONG, check_sensitivity, check_stability, long_run

if TYPE_CHECKING:
    from edgeseq.verify.artifact import verify_artifact

__all__ = [
    "EXACT",
    "LONG",
    "Close",
    "Exact",
    "Level",
    "Snr",
    "Within",
    "check_sensitivity",
    "check_stability",
    "compare",
    "long_run",
    "not_run",
    "verify_artifact",
]


def __getattr__(name: str) -> Any:
    # The kernels and runtimes an artifact is checked with are loaded only when one is.
    if name == "verify_artifact":
        from edgeseq.verify.artifact import verify_artifact

        return verify_artifact
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
