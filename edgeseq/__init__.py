"""edgeseq: sequence models as verified streaming steps for small devices."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseq.frontend.load import from_onnx
    from edgeseq.frontend.torch_export import from_torch
    from edgeseq.ir import Graph
    from edgeseq.runtime import Stream
    from edgeseq.target import load_target

__version__ = "0.1.0"

__all__ = ["Graph", "Stream", "__version__", "from_onnx", "from_torch", "load_target"]

_HOME = {
    "Graph": "edgeseq.ir",
    "Stream": "edgeseq.runtime",
    "from_onnx": "edgeseq.frontend.load",
    "from_torch": "edgeseq.frontend.torch_export",
    "load_target": "edgeseq.target",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import edgeseq` costs nothing and never pulls in torch or numba.
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'edgeseq' has no attribute {name!r}")
