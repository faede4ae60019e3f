"""Front ends: a model made elsewhere in, a real Graph over time out.

`load.load_model` reads a file of any known format, `inspection.inspect_model` says what it is.
`torch_export.from_torch` takes a live module, `pt2.load_pt2` a file saved by `torch.export.save`.
Both go through one reader (`pt2`), one neutral program (`program`) and one lowering (`lower`).
"""

from __future__ import annotations

from edgeseq.frontend.inspection import Inspection, inspect_model
from edgeseq.frontend.load import from_onnx, load_model
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.pt2 import load_pt2
from edgeseq.frontend.summary import summarise
from edgeseq.frontend.torch_export import from_torch

__all__ = [
    "ImportOptions",
    "Inspection",
    "from_onnx",
    "from_torch",
    "inspect_model",
    "load_model",
    "load_pt2",
    "summarise",
]
