"""The command line. The only part of edgeseq that prints; everything heavy is imported inside a
command, so that help is instant and a device needs no more than NumPy and this."""

from __future__ import annotations

from edgeseq.cli.app import app, main

__all__ = ["app", "main"]
