"""Every invariant of a Graph is checked, and the message names the pass and the place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graphs import CELLS as STEP_CELLS
from graphs import functions_step, step
from timed_graphs import CELLS, model

from edgeseq.errors import GraphError
from edgeseq.ir import Graph, Node, Time, Type, check


def first(g: Graph, op: str) -> Node:
    return next(n for n in g.nodes if n.op == op)


def retype(g: Graph, value: str, **changes: Any) -> None:
    g.types[value] = replace(g.types[value], **changes)


def attr(op: str, **changes: Any) -> Callable[[Graph], None]:
    def change(g: Graph) -> None:
        node = first(g, op)
        node.attrs = {k: v for k, v in {**node.attrs, **changes}.items() if v != "drop"}

    return change


def output(op: str, **changes: Any) -> Callable[[Graph], None]:
    return lambda g: retype(g, first(g, op).output, **changes)


def operand(op: str, i: int, **changes: Any) -> Callable[[Graph], None]:
    return lambda g: retype(g, first(g, op).inputs[i], **changes)


def rewire(op: str, inputs: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Callable[..., None]:
    def change(g: Graph) -> None:
        node = first(g, op)
        node.inputs = inputs(node.inputs)

    return change


def do(*actions: Callable[[Graph], Any]) -> Callable[[Graph], None]:
    def change(g: Graph) -> None:
        for action in actions:
            action(g)

    return change


REAL: dict[str, tuple[Callable[[Graph], Any], str, str]] = {
    "graph name": (lambda g: setattr(g, "name", "é"), "not a C identifier", "the graph"),
    "no outputs": (lambda g: g.outputs.clear(), "there are none", "the outputs"),
    "undefined output": (lambda g: g.outputs.append("ghost"), "'ghost' is not defined", "outputs"),
    "input twice": (lambda g: g.inputs.append("x"), "defined twice", "the inputs"),
    "untyped input": (lambda g: g.inputs.append("y9"), "has no type", "the inputs"),
    "dangling type": (lambda g: g.types.update(odd=Type((1,))), "no definition", "value 'odd'"),
    "value name": (lambda g: g.types.update({"a b": Type((1,))}), "letters, digits", "'a b'"),
    "dtype": (lambda g: retype(g, "x", dtype="f64"), "unknown element type", "value 'x'"),
    "empty axis": (lambda g: retype(g, "x", shape=(0,)), "empty axis", "value 'x'"),
    "real with scale": (lambda g: retype(g, "x", scale=0.5), "has a scale", "value 'x'"),
    "integer without": (lambda g: retype(g, "x", dtype="i8"), "has no scale", "value 'x'"),
    "const shape": (operand("linear", 1, shape=(1, 1)), "array is float32", "constant"),
    "const nan": (lambda g: g.consts.update({first(g, "linear").inputs[1]: np.full(
        g.types[first(g, "linear").inputs[1]].shape, np.nan, np.float32)}), "NaN", "constant"),
    "unnamed node": (lambda g: setattr(g.nodes[0], "name", ""), "unique and not empty", "node ''"),
    "same name": (lambda g: setattr(g.nodes[1], "name", g.nodes[0].name), "unique", "node"),
    "unknown op": (lambda g: setattr(g.nodes[0], "op", "conv"), "unknown operation", "conv"),
    "no node output": (lambda g: setattr(g.nodes[-1], "outputs", ()), "has no output", "node"),
    "order": (lambda g: g.nodes.reverse(), "before it is defined", "node"),
    "missing attribute": (attr("norm", eps="drop"), "'eps' is missing", "(norm)"),
    "unknown attribute": (attr("norm", axis=1), "'axis' is unknown", "(norm)"),
    "eps": (attr("norm", eps=-1.0), "negative", "(norm)"),
    "eps nan": (attr("norm", eps=float("nan")), "not a finite number", "(norm)"),
    "eps text": (attr("norm", eps="small"), "not a finite number", "(norm)"),
    "function": (attr("lut", fn="swosh"), "unknown function 'swosh'", "(lut)"),
    "slice": (attr("slice", stop=99), "has no elements", "(slice)"),
    "slice text": (attr("slice", stop="99"), "", "(slice)"),
    "inputs": (rewire("norm", lambda v: v[:2]), "takes 3 inputs", "node"),
    "matrix": (rewire("linear", lambda v: (v[0], v[0])), "does not multiply", "(linear)"),
    "bias": (rewire("linear", lambda v: (*v[:2], v[1])), "bias is", "(linear)"),
    "shape": (output("norm", shape=(3,)), "expected", "(norm)"),
    "time": (output("norm", time=Time(2)), "only a step has states", "the states"),
    "state name": (lambda g: setattr(g.states[1], "name", g.states[0].name), "unique", "state"),
    "state label": (lambda g: setattr(g.states[0], "name", "a b"), "letters", "state 'a b'"),
    "state init": (lambda g: setattr(g.states[0], "init", np.zeros(3)), "init is", "state"),
    "state nan": (lambda g: setattr(g.states[0], "init", np.full_like(
        g.states[0].init, np.nan)), "NaN", "state"),
    "state bound": (lambda g: setattr(g.states[0], "bound", -1.0), "bound -1.0", "state"),
    "state open": (lambda g: setattr(g.states[0], "output", "ghost"), "not defined", "state"),
    "state shape": (lambda g: setattr(g.states[0], "output", g.outputs[0]),
                    "before the step", "state"),
    "state twice": (lambda g: g.states.append(g.states[0]), "unique", "state"),
}  # fmt: skip

INTEGER: dict[str, tuple[Callable[[Graph], Any], str, str]] = {
    "scale 0": (lambda g: retype(g, "x", scale=0.0), "not a positive", "value 'x'"),
    "scale inf": (lambda g: retype(g, "x", scale=float("inf")), "not a positive", "value 'x'"),
    "scale int": (lambda g: retype(g, "x", scale=1), "not a positive", "value 'x'"),
    "scale per channel": (lambda g: retype(g, "x", scale=(1.0,) * 8), "only rows", "value 'x'"),
    "scales short": (operand("linear", 1, scale=(1.0,)), "1 scales", "value"),
    "real operand": (lambda g: retype(g, "x", dtype="f32", scale=None), "real operand", "(lin"),
    "multipliers": (attr("linear", m=[]), "0 multipliers", "(linear)"),
    "multiplier type": (do(lambda g: first(g, "linear").attrs.update(m=[
        m.astype(np.int64) for m in first(g, "linear").attrs["m"]])), "not int32", "(linear)"),
    "shift 0": (do(lambda g: first(g, "linear").attrs.update(s=[
        0 for _ in first(g, "linear").attrs["s"]])), "shift 0", "(linear)"),
    "wide operand": (lambda g: retype(g, "x", dtype="i32"), "not 8 or 16 bits", "(linear)"),
    "bias scale": (output("linear", scale=0.123), "in the scale of", "(linear)"),
    "table": (rewire("lut", lambda v: v[:1]), "constant table", "(lut)"),
    "table scale": (output("lut", scale=0.123), "for output", "(lut)"),
    "table width": (output("lut", dtype="i8"), "for output", "(lut)"),
    "lut shape": (output("lut", shape=(3,)), "makes", "(lut)"),
    "lut function": (attr("lut", fn="swosh"), "unknown function", "(lut)"),
    "lut lo": (attr("lut", lo=1 << 31), "not an int32", "(lut)"),
    "lut end": (attr("lut", lo=(1 << 31) - 9), "beyond int32", "(lut)"),
    "lut k": (attr("lut", k=17), "2^17", "(lut)"),
    "add multiplier": (attr("add", ma=1 << 31), "not an int32", "(add)"),
    "add float": (attr("add", mb=1.0), "not an int32", "(add)"),
    "add shift": (attr("add", s=63), "not within 0..62", "(add)"),
    "add 64 bits": (do(attr("add", ma=-(1 << 31), mb=-(1 << 31), s=62),
                       operand("add", 0, dtype="i32")), "64 bits", "(add)"),
    "mul": (attr("mul", m=(1 << 31) - 1), "does not fit 64 bits", "(mul)"),
    "rescale": (attr("rescale", s=-1), "shift -1", "(rescale)"),
    "slice format": (output("slice", scale=0.123), "operand", "(slice)"),
    "norm width": (operand("norm", 0, dtype="i32"), "normalises", "(norm)"),
    "norm gain": (operand("norm", 1, dtype="i16"), "", ""),
    "norm inputs": (rewire("norm", lambda v: v[:2]), "constant gain", "(norm)"),
    "norm const": (rewire("norm", lambda v: (v[0], v[0], v[2])), "constant gain", "(norm)"),
    "norm eps": (attr("norm", eps=0), "not within 1..2^60", "(norm)"),
    "norm eps float": (attr("norm", eps=1.0), "not within 1..2^60", "(norm)"),
    "norm shift": (attr("norm", s=0), "shift 0", "(norm)"),
    "norm shape": (output("norm", shape=(3,)), "makes", "(norm)"),
    "real only": (do(lambda g: setattr(first(g, "add"), "op", "sub")), "real graphs only", "(sub"),
    "state scale": (lambda g: retype(g, g.states[0].input, scale=0.123), "before the step", "st"),
}  # fmt: skip


def case_of(integer: bool) -> Graph:
    g = step("gru", integer=integer, inputs=8, hidden=8, layers=2, norm=True, residual=True).copy()
    g.nodes = [Node(n.op, n.inputs, n.outputs, dict(n.attrs), n.name) for n in g.nodes]
    return g


@pytest.mark.parametrize(("integer", "case"), [(i, c) for i in (False, True)
                                               for c in (INTEGER if i else REAL)])  # fmt: skip
def test_every_invariant_is_checked(integer: bool, case: str) -> None:
    change, what, where = (INTEGER if integer else REAL)[case]
    g = case_of(integer)
    check(g)
    change(g)
    with pytest.raises(GraphError) as e:
        check(g, after="the mutation")
    message = str(e.value)
    assert "after pass 'the mutation'" in message and what in message and where in message, message
    assert "None" not in str(e.value.where)


@pytest.mark.parametrize(
    "clamp", [{"lo": 3, "hi": 2}, {"lo": 0.5, "hi": None}, {"lo": None, "hi": 1 << 40}]
)
def test_bounds_of_an_integer_clamp(clamp: dict[str, Any]) -> None:
    g = step("rnn_relu", integer=True).copy()
    first(g, "clamp").attrs = clamp
    with pytest.raises(GraphError, match=r"\(clamp\)"):
        check(g)


def scan_of(g: Graph) -> Node:
    return first(g, "scan")


SCANS: dict[str, tuple[Callable[[Graph], Any], str]] = {
    "body": (lambda g: scan_of(g).attrs.update(body=3), ""),
    "body missing": (lambda g: scan_of(g).attrs.pop("body"), "'body' is missing"),
    "inner": (lambda g: setattr(scan_of(g).attrs["body"].nodes[0], "op", "conv"), "unknown op"),
    "inner state": (lambda g: setattr(scan_of(g).attrs["body"].states[0], "output", "q"), "'q'"),
    "over time": (lambda g: retype(scan_of(g).attrs["body"], "x", time=Time()), ""),
    "inputs": (lambda g: setattr(scan_of(g), "inputs", ("x", "x")), "2 inputs for a body of 1"),
    "not a sequence": (lambda g: retype(g, "x", time=None), ""),
    "outer state": (lambda g: g.set_state(g.add_state("s", Type((2,))), "s"), "belong in a scan"),
}


@pytest.mark.parametrize("case", SCANS)
def test_scans_and_their_bodies_are_checked(case: str) -> None:
    change, what = SCANS[case]
    g = model("gru").copy()
    change(g)
    with pytest.raises(GraphError) as e:
        check(g, after="mutation")
    assert what in str(e.value) and "after pass 'mutation'" in str(e.value)


def test_an_error_inside_a_body_names_the_scan_and_the_node() -> None:
    g = model("gru").copy()
    scan_of(g).attrs["body"].nodes[0].op = "conv"
    with pytest.raises(GraphError, match=r"node 'layer0' \(scan\), node 'rz' \(conv\)"):
        check(g, after="fuse")


@pytest.mark.parametrize("cell", STEP_CELLS)
def test_what_is_right_passes(cell: str) -> None:
    for integer in (False, True):
        check(step(cell, integer=integer, layers=2, norm=True, residual=True, affine=True))
        check(functions_step(integer=integer))
    for emit in ("last", "frame", "both"):
        check(model(*CELLS, norm=True, affine=True, emit=emit))


def test_building_refuses_at_once() -> None:
    g = Graph("g")
    x = g.add_input("x", Type((4,)))
    with pytest.raises(GraphError, match=r"reads undefined value 'y'.*|node 'add'"):
        g.add_node("add", [x, "y"])
    with pytest.raises(GraphError, match="did you mean 'linear'"):
        g.add_node("liner", [x])
    with pytest.raises(GraphError, match="do not match"):
        g.add_node("add", [x, g.add_const("c", np.zeros(3))])
    with pytest.raises(GraphError, match="only a constant is broadcast"):
        g.add_node("add", [x, g.add_input("s", Type(()))])
    with pytest.raises(GraphError, match="no state 'h'"):
        g.set_state("h", x)
    with pytest.raises(GraphError, match=r"node 'cut' \(slice\)"):
        g.add_node("slice", [x], name="cut", start=0)


@pytest.mark.parametrize("hint", ["", "9", ".a", "a b", "ä", "x", "x y.z", "-"])
def test_fresh_names_are_valid_and_new(hint: str) -> None:
    g = Graph("g")
    for _ in range(3):
        g.add_input(hint, Type((1,)))
    g.outputs = list(g.inputs)
    check(g)
    assert len(set(g.inputs)) == 3
