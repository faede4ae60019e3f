"""Turn a real step and its formats into the integer step."""

from __future__ import annotations

from edgeseq.ir.graph import Graph
from edgeseq.quant import elementwise, functions, products
from edgeseq.quant.calibrate import Stats
from edgeseq.quant.converter import Converter, Handler, Shared, Weights
from edgeseq.quant.formats import Formats
from edgeseq.quant.options import QuantOptions

__all__ = ["convert", "convert_named"]

_HANDLERS: dict[str, Handler] = {
    "linear": products.linear,
    "depthwise": products.depthwise,
    "matmul": products.matmul,
    "norm": products.norm,
    "add": elementwise.add,
    "sub": elementwise.sub,
    "mul": elementwise.mul,
    "clamp": elementwise.clamp,
    "max": elementwise.choice,
    "min": elementwise.choice,
    "select": elementwise.choice,
    "concat": elementwise.choice,
    "compare": elementwise.compare,
    "rescale": elementwise.rescale,
    "reshape": elementwise.move,
    "slice": elementwise.move,
    "strided": elementwise.move,
    "embed": elementwise.embed,
    "lut": functions.lut,
    "softmax": functions.softmax,
    "wide": functions.wide,
}


def convert(
    step: Graph, stats: dict[str, Stats], options: QuantOptions, weights: Weights | None = None
) -> Graph:
    """The integer step of the real `step`.

    Args:
        step: real step Graph.
        stats: ranges of its values (`calibrate`).
        options: widths and method.
        weights: what earlier conversions of the same step with the same stats left.

    Raises:
        QuantiseError: a value or product fits no integer format; names the node.
    """
    return convert_named(step, stats, options, weights)[0]


def convert_named(
    step: Graph, stats: dict[str, Stats], options: QuantOptions, weights: Weights | None = None
) -> tuple[Graph, dict[str, str]]:
    """As `convert`, and by each real value of the step the integer one."""
    shared = Shared(Formats(step, stats, options), options, weights or Weights(), _HANDLERS)
    converter = Converter(step, "", shared)
    converter.inputs()
    converter.states()
    converter.nodes()
    graph = converter.finish()
    return graph, {k: v for k, v in converter.env.items() if v in graph.types}
