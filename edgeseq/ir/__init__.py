"""The Graph: values, operations, checks, text form and interpreter."""

from edgeseq.ir.check import check
from edgeseq.ir.graph import Graph, Node, State
from edgeseq.ir.interp import Interpreter, run
from edgeseq.ir.text import from_text, to_text
from edgeseq.ir.types import Time, Type

__all__ = [
    "Graph",
    "Interpreter",
    "Node",
    "State",
    "Time",
    "Type",
    "check",
    "from_text",
    "run",
    "to_text",
]
