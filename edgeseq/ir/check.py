"""Invariants of a Graph, checked after every pass."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from edgeseq.errors import GraphError, unknown_name
from edgeseq.fixed import INT_RANGE, wide_table
from edgeseq.ir import ops
from edgeseq.ir.functions import FUNCTIONS, WIDE
from edgeseq.ir.graph import Graph, Node
from edgeseq.ir.types import DTYPES, VALUE_NAME, Type

__all__ = ["check"]


def check(graph: Graph, *, after: str = "construction") -> None:
    """Raise if `graph` breaks an invariant.

    Checked: every value is defined once and before it is read; operations, arity and attributes
    are those of the op table; types of real nodes are what the table infers; integer nodes have
    integer operands, scales and in-range parameters; states are closed (the value after the step
    has the type of the value before it); constants have their declared shape and width.

    Args:
        graph: over time or a step; real or integer.
        after: the pass that made it, for the message.

    Raises:
        GraphError: names the pass, the Graph and the node or value.
    """
    try:
        _check(graph)
    except GraphError as e:
        where = f"after pass {after!r}, graph {graph.name!r}, {e.where}"
        raise GraphError(e.what, where=where) from None


def _fail(what: str, where: str) -> NoReturn:
    raise GraphError(what, where=where)


def _check(graph: Graph) -> None:
    if not (graph.name.isascii() and graph.name.isidentifier()):
        _fail(f"the name {graph.name!r} is not a C identifier", "the graph")
    for name, t in graph.types.items():
        if VALUE_NAME.fullmatch(name) is None:
            _fail("a value's name is letters, digits, _ and .", f"value {name!r}")
        _check_type(t, f"value {name!r}", constant=name in graph.consts)

    defined: set[str] = set()

    def define(name: str, where: str) -> None:
        if name in defined:
            _fail(f"value {name!r} is defined twice", where)
        if name not in graph.types:
            _fail(f"value {name!r} has no type", where)
        defined.add(name)

    for name in graph.inputs:
        define(name, "the inputs")
    if graph.states and not graph.is_step:
        _fail("only a step has states; over time they belong in a scan", "the states")
    labels: set[str] = set()
    for state in graph.states:
        where = f"state {state.name!r}"
        if VALUE_NAME.fullmatch(state.name) is None or state.name in labels:
            _fail("a state's name must be unique, of letters, digits, _ and .", where)
        labels.add(state.name)
        define(state.input, where)
        t = graph.types[state.input]
        if state.init.shape != t.shape or state.init.dtype != t.numpy:
            _fail(f"init is {state.init.dtype}{list(state.init.shape)}, not {t}", where)
        if not np.all(np.isfinite(state.init)):
            _fail("init holds NaN or infinity", where)
        if state.bound is not None and not (np.isfinite(state.bound) and state.bound > 0):
            _fail(f"bound {state.bound} is not positive and finite", where)
    for name, array in graph.consts.items():
        define(name, "the constants")
        t = graph.types[name]
        if array.shape != t.shape or array.dtype != t.numpy:
            _fail(f"array is {array.dtype}{list(array.shape)}, not {t}", f"constant {name!r}")
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            _fail("array holds NaN or infinity", f"constant {name!r}")

    names: set[str] = set()
    for node in graph.nodes:
        where = f"node {node.name!r} ({node.op})"
        if not node.name or node.name in names:
            _fail("a node's name must be unique and not empty", where)
        names.add(node.name)
        for v in node.inputs:
            if v not in defined:
                _fail(f"value {v!r} is read before it is defined", where)
        for v in node.outputs:
            define(v, where)
        _check_node(graph, node, where)

    if not graph.outputs:
        _fail("there are none", "the outputs")
    for v in graph.outputs:
        if v not in defined:
            _fail(f"value {v!r} is not defined", "the outputs")
    for state in graph.states:
        if state.output not in defined:
            _fail(f"value {state.output!r} is not defined", f"state {state.name!r}")
        a, b = graph.types[state.input], graph.types[state.output]
        if (a.shape, a.dtype, a.scale) != (b.shape, b.dtype, b.scale):
            _fail(f"is {a} before the step and {b} after it", f"state {state.name!r}")
    undefined = set(graph.types) - defined
    if undefined:
        _fail("has a type but no definition", f"value {min(undefined)!r}")


def _check_type(t: Type, where: str, *, constant: bool) -> None:
    if t.dtype not in DTYPES:
        _fail(f"unknown element type {t.dtype!r}", where)
    if any(d < 1 for d in t.shape):
        _fail(f"shape {list(t.shape)} has an empty axis", where)
    if t.is_integer != (t.scale is not None):
        _fail(f"{'integer' if t.is_integer else 'real'} type {t} has "
              f"{'no' if t.is_integer else 'a'} scale", where)  # fmt: skip
    if isinstance(t.scale, tuple) and not (constant and t.shape[:1] == (len(t.scale),)):
        _fail(f"{t} has {len(t.scale)} scales; only rows of a constant have their own", where)
    for s in t.scale if isinstance(t.scale, tuple) else (t.scale,):
        if s is not None and not (isinstance(s, float) and np.isfinite(s) and s > 0):
            _fail(f"scale {s!r} is not a positive, finite float", where)


def _check_node(graph: Graph, node: Node, where: str) -> None:
    if node.op not in ops.OPS:
        _fail(unknown_name("operation", node.op, ops.OPS), where)
    op = ops.OPS[node.op]
    if not node.outputs:
        _fail("has no output", where)
    outs = [graph.types[v] for v in node.outputs]
    integer = outs[0].is_integer
    if integer and op.integer is None:
        _fail("exists in real graphs only", where)
    want = op.integer if integer and op.integer is not None else op.real
    have = frozenset(node.attrs)
    if have != want:
        odd = have ^ want
        _fail(f"attribute {min(odd)!r} is {'missing' if min(odd) in want else 'unknown'}", where)
    inferred = None
    if not integer or node.op not in ("lut", "norm", "wide", "softmax"):  # tables are inputs
        inferred = ops.infer(graph, node)
        have_lies = [(t.shape, t.time) for t in outs]
        want_lies = [(t.shape, t.time) for t in inferred]
        if have_lies != want_lies or (not integer and any(t.is_integer for t in outs)):
            _fail(f"outputs are {_join(outs)}, expected {_join(inferred)}", where)
    if not integer:
        _check_real(graph, node, where)
    if node.op in ("scan", "loop"):
        _check_body(node.attrs["body"], integer, where)
    if not integer:
        return
    for v in node.inputs:
        if not graph.types[v].is_integer:
            _fail(f"real operand {v!r} of an integer node", where)
    if node.op in _CHECKS:
        _CHECKS[node.op](graph, node, where)


def _join(types: list[Type]) -> str:
    return ", ".join(map(str, types))


def _check_real(graph: Graph, node: Node, where: str) -> None:
    for v in node.inputs:
        if graph.types[v].is_integer:
            _fail(f"integer operand {v!r} of a real node", where)
    for key in ("eps", "lo", "hi"):
        number = node.attrs.get(key)
        if number is not None and not (isinstance(number, int | float) and np.isfinite(number)):
            _fail(f"attribute {key!r} is {number!r}, not a finite number", where)
    if node.op == "norm" and not node.attrs["eps"] >= 0:
        _fail(f"eps {node.attrs['eps']!r} is negative", where)


def _check_body(body: Graph, integer: bool, where: str) -> None:
    try:
        _check(body)
    except GraphError as e:
        _fail(e.what, f"{where}, {e.where}")
    if not body.is_step or (integer and not body.is_integer):
        _fail(f"the body of a scan must be {'an integer' if integer else 'a'} step", where)


def _shift(s: object, where: str, least: int = 0) -> None:
    if not isinstance(s, int) or not least <= s <= 62:
        _fail(f"shift {s!r} is not within {least}..62", where)


def _int32(v: object, where: str) -> None:
    lo, hi = INT_RANGE["i32"]
    if not isinstance(v, int) or not lo <= v <= hi:
        _fail(f"{v!r} is not an int32", where)


def _check_linear(graph: Graph, node: Node, where: str) -> None:
    ms, ss = node.attrs["m"], node.attrs["s"]
    pairs = len(node.inputs) // 2
    if len(ms) != pairs or len(ss) != pairs:
        _fail(f"{len(ms)} multipliers and {len(ss)} shifts for {pairs} groups", where)
    for m, s, g in zip(ms, ss, range(pairs), strict=True):
        rows = graph.types[node.inputs[2 * g + 1]].shape[0]
        if getattr(m, "dtype", None) != np.int32 or m.shape != (rows,):
            _fail(f"multipliers of group {g} are not int32[{rows}]", where)
        _shift(s, where, 1)
        if node.inputs[2 * g + 1] not in graph.consts:
            _fail(f"matrix {node.inputs[2 * g + 1]!r} is not a constant", where)
        for v in node.inputs[2 * g : 2 * g + 2]:
            if graph.types[v].dtype not in ("i8", "i16"):
                _fail(f"operand {v!r} is {graph.types[v]}, not 8 or 16 bits wide", where)
    if len(node.inputs) % 2:
        bias, out = graph.types[node.inputs[-1]], graph.types[node.output]
        if node.inputs[-1] not in graph.consts:
            _fail(f"bias {node.inputs[-1]!r} is not a constant", where)
        if (bias.dtype, bias.scale) != ("i32", out.scale):
            _fail(f"bias {bias} is not int32 in the scale of {out}", where)


def _check_lut(graph: Graph, node: Node, where: str) -> None:
    if len(node.inputs) != 2 or node.inputs[1] not in graph.consts:
        _fail("needs an input and a constant table", where)
    if node.attrs["fn"] not in FUNCTIONS:
        _fail(unknown_name("function", str(node.attrs["fn"]), FUNCTIONS), where)
    x, table, y = (graph.types[v] for v in (*node.inputs, node.output))
    n = table.shape[0] - 1
    if len(table.shape) != 1 or n < 1 or n & (n - 1) or table.dtype != y.dtype:
        _fail(f"table {table} for output {y}", where)
    if table.dtype not in ("i8", "i16") or table.scale != y.scale:
        _fail(f"table {table} for output {y}", where)
    _same_place(x, y, where)
    _int32(node.attrs["lo"], where)
    if not isinstance(node.attrs["k"], int) or not 0 <= node.attrs["k"] <= 16:
        _fail(f"interval width 2^{node.attrs['k']}", where)
    if node.attrs["lo"] + (n << node.attrs["k"]) - 1 > INT_RANGE["i32"][1]:
        _fail("the table ends beyond int32", where)


def _check_add(graph: Graph, node: Node, where: str) -> None:
    for key in ("ma", "mb"):
        _int32(node.attrs[key], where)
    _shift(node.attrs["s"], where)
    a, b = (-INT_RANGE[graph.types[v].dtype][0] for v in node.inputs)
    half = (1 << node.attrs["s"]) >> 1
    if a * abs(node.attrs["ma"]) + b * abs(node.attrs["mb"]) + half >= 1 << 63:
        _fail("the sum does not fit 64 bits", where)


def _check_mul(graph: Graph, node: Node, where: str) -> None:
    _int32(node.attrs["m"], where)
    _shift(node.attrs["s"], where)
    widths = {"i8": 7, "i16": 15, "i32": 31}
    product = sum(widths[graph.types[v].dtype] for v in node.inputs)
    if product + abs(node.attrs["m"]).bit_length() > 62:
        _fail("the product does not fit 64 bits", where)


def _check_rescale(graph: Graph, node: Node, where: str) -> None:
    _int32(node.attrs["m"], where)
    _shift(node.attrs["s"], where)


def _check_clamp(graph: Graph, node: Node, where: str) -> None:
    for key in ("lo", "hi"):
        if node.attrs[key] is not None:
            _int32(node.attrs[key], where)
    lo, hi = node.attrs["lo"], node.attrs["hi"]
    if lo is not None and hi is not None and lo > hi:
        _fail(f"clamps to {lo}..{hi}", where)
    _same_format(graph, node, where)


def _same_format(graph: Graph, node: Node, where: str) -> None:
    out = graph.types[node.output]
    for v in node.inputs:
        t = graph.types[v]
        if (t.dtype, t.scale) != (out.dtype, out.scale):
            _fail(f"operand {v!r} is {t}, the result {out}", where)


def _check_norm(graph: Graph, node: Node, where: str) -> None:
    if len(node.inputs) != 3 or any(v not in graph.consts for v in node.inputs[1:]):
        _fail("needs an input, a constant gain and a constant bias", where)
    x, gain, bias, y = (graph.types[v] for v in (*node.inputs, node.output))
    if x.dtype not in ("i8", "i16") or not x.shape or not 2 <= x.shape[-1] <= 1024:
        _fail(f"normalises {x}; needs 8 or 16 bits and 2..1024 elements", where)
    n = x.shape[-1:]
    if (gain.shape, gain.dtype, bias.shape, bias.dtype) != (n, "i32", n, "i32"):
        _fail(f"gain {gain} and bias {bias}", where)
    eps = node.attrs["eps"]
    if not isinstance(eps, int) or not 1 <= eps <= 1 << 60:
        _fail(f"eps {eps!r} is not within 1..2^60", where)
    _shift(node.attrs["s"], where, 1)
    _same_place(x, y, where)


def _same_place(x: Type, y: Type, where: str) -> None:
    if (x.shape, x.time) != (y.shape, y.time):
        _fail(f"makes {y} of {x}", where)


def _check_depthwise(graph: Graph, node: Node, where: str) -> None:
    x, w, out = (graph.types[v] for v in (*node.inputs[:2], node.output))
    if any(v not in graph.consts for v in node.inputs[1:]):
        _fail("weights and bias must be constants", where)
    if x.dtype not in ("i8", "i16") or w.dtype not in ("i8", "i16"):
        _fail(f"multiplies {x} by {w}; needs 8 or 16 bits", where)
    m = np.asarray(node.attrs["m"])
    if m.shape != (w.shape[1],) or m.dtype != np.int32:
        _fail(f"multipliers {m.dtype}{list(m.shape)}", where)
    _shift(node.attrs["s"], where)
    if len(node.inputs) == 3:
        bias = graph.types[node.inputs[2]]
        if (bias.dtype, bias.scale) != ("i32", out.scale):
            _fail(f"bias {bias} is not int32 in the scale of {out}", where)


def _check_matmul(graph: Graph, node: Node, where: str) -> None:
    a, b = (graph.types[v] for v in node.inputs)
    if {a.dtype, b.dtype} - {"i8", "i16"}:
        _fail(f"multiplies {a} by {b}; needs 8 or 16 bits", where)
    if a.shape[-1] >= 1 << 16 or abs(node.attrs["m"]) >= 1 << 15:
        _fail("the product does not fit 64 bits", where)
    _shift(node.attrs["s"], where)


def _check_softmax(graph: Graph, node: Node, where: str) -> None:
    if len(node.inputs) != 2 or node.inputs[1] not in graph.consts:
        _fail("needs an input and a constant table", where)
    x, table, y = (graph.types[v] for v in (*node.inputs, node.output))
    n = table.shape[0] - 1 if len(table.shape) == 1 else 0
    if n < 1 or n & (n - 1) or (table.dtype, y.dtype, y.scale) != ("i16", "i16", 2.0**-15):
        _fail(f"table {table} for output {y}", where)
    if int(graph.consts[node.inputs[1]].min()) < 0 or graph.consts[node.inputs[1]][-1] < 1 << 14:
        _fail("the table is not that of exp", where)
    m, lo, k = node.attrs["m"], node.attrs["lo"], node.attrs["k"]
    _shift(node.attrs["s"], where)
    if not isinstance(k, int) or not 0 <= k <= 16 or lo != -(n << k) or not 0 <= m <= 1 << 30:
        _fail(f"multiplier {m}, first argument {lo}, interval width 2^{k}", where)
    if x.shape[-1] >= 1 << 16:
        _fail(f"{x.shape[-1]} elements", where)
    _same_place(x, y, where)


def _check_wide(graph: Graph, node: Node, where: str) -> None:
    fn = node.attrs["fn"]
    if fn not in WIDE:
        _fail(unknown_name("function", str(fn), WIDE), where)
    if len(node.inputs) != 2 or node.inputs[1] not in graph.consts:
        _fail("needs an input and a constant table", where)
    x, table, y = (graph.types[v] for v in (*node.inputs, node.output))
    if not np.array_equal(graph.consts[node.inputs[1]], wide_table(fn)) or table.dtype != "i32":
        _fail(f"the table is not that of {fn}", where)
    for key in ("m", "b"):
        _int32(node.attrs[key], where)
    low, high = {"sqrt": (15, 62), "rsqrt": (0, 47), "reciprocal": (0, 32), "log": (0, 62)}[fn]
    if not isinstance(node.attrs["s"], int) or not low <= node.attrs["s"] <= high:
        _fail(f"a shift of {node.attrs['s']!r} is not within {low}..{high}", where)
    if fn == "log" and abs(node.attrs["m"]) > 1 << 29:  # times 2^33 at most, within 63 bits
        _fail(f"a multiplier of {node.attrs['m']} does not fit 64 bits", where)
    if fn == "reciprocal" and node.attrs["b"] != 0:
        _fail("a reciprocal has no offset", where)
    _same_place(x, y, where)


def _check_compare(graph: Graph, node: Node, where: str) -> None:
    a, b, out = (graph.types[v] for v in (*node.inputs, node.output))
    if (a.dtype, a.scale) != (b.dtype, b.scale) or (out.dtype, out.scale) != ("i8", 1.0):
        _fail(f"compares {a} and {b} to {out}", where)


def _check_select(graph: Graph, node: Node, where: str) -> None:
    out = graph.types[node.output]
    for v in node.inputs[1:]:
        t = graph.types[v]
        if (t.dtype, t.scale) != (out.dtype, out.scale):
            _fail(f"operand {v!r} is {t}, the result {out}", where)


def _check_embed(graph: Graph, node: Node, where: str) -> None:
    index, table, out = (graph.types[v] for v in (*node.inputs, node.output))
    if index.scale != 1.0 or (table.dtype, table.scale) != (out.dtype, out.scale):
        _fail(f"rows of {table} by {index} as {out}", where)


_CHECKS = {
    "linear": _check_linear,
    "lut": _check_lut,
    "add": _check_add,
    "mul": _check_mul,
    "rescale": _check_rescale,
    "clamp": _check_clamp,
    "norm": _check_norm,
    "reshape": _same_format,
    "slice": _same_format,
    "concat": _same_format,
    "strided": _same_format,
    "max": _same_format,
    "min": _same_format,
    "depthwise": _check_depthwise,
    "matmul": _check_matmul,
    "softmax": _check_softmax,
    "wide": _check_wide,
    "compare": _check_compare,
    "select": _check_select,
    "embed": _check_embed,
}
