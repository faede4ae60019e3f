"""Integer steps as machine code: one source in Python, compiled for this machine and for targets.

`compile_step` makes an object for a target, `HostStep` runs the same kernels in this process.
Numba and LLVM are imported when something is compiled, not before.
"""

from __future__ import annotations

from edgeseq.kernels.compiled import CompiledStep, NodeCost, Port, StateField, compile_step
from edgeseq.kernels.host import HostStep

__all__ = ["CompiledStep", "HostStep", "NodeCost", "Port", "StateField", "compile_step"]
