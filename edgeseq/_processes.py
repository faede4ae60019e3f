"""What other processes are doing to the same folders."""

from __future__ import annotations

import os

__all__ = ["runs_elsewhere"]


def runs_elsewhere(pid: int) -> bool:
    """Whether another living process has that number: then its unfinished files are in use.

    False for this process, for what is no process number, and where it cannot be told (Windows).
    """
    if pid in (0, os.getpid()) or os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # alive, of another user
    except (OSError, OverflowError):
        return False
    return True
