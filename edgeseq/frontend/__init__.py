"""Front ends: a model made elsewhere in, a real Graph over time out.

`torch_export.from_torch` takes a live module, `pt2.load_pt2` a file saved by `torch.export.save`.
Both go through one reader (`pt2`), one neutral program (`program`) and one lowering (`lower`).
"""

from __future__ import annotations

from edgeseq.frontend.pt2 import load_pt2
from edgeseq.frontend.summary import summarise
from edgeseq.frontend.torch_export import from_torch

__all__ = ["from_torch", "load_pt2", "summarise"]
