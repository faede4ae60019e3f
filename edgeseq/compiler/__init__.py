"""The whole way: a project or a model file in, verified artifact folders out."""

from __future__ import annotations

from edgeseq.compiler.build import (
    Built,
    Settings,
    compile_graph,
    compile_model,
    compile_project,
    settings_of,
)
from edgeseq.compiler.models import Progress

__all__ = [
    "Built",
    "Progress",
    "Settings",
    "compile_graph",
    "compile_model",
    "compile_project",
    "settings_of",
]
