"""Text form of a Graph: printed for people and golden tests, parsed back without loss.

```
graph "gru" {
  meta {"source": "torch"}
  input x: f32[6]@t
  const w: f32[12,6] = base64:...
  state h: i32[4]*9.313225746154785e-10 -> h_next bound=1.0 = zeros
  node "rnn.r" y: f32[12]@t = linear(x, w)
  node "rnn" z: f32[4]@t = scan(y) {"reverse": false} {
    ...
  }
  output z
}
```

Attributes are JSON; arrays are base64 of their little-endian bytes. With `data=False` long
constants are shown by hash only, and cannot be parsed back.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import GraphError
from edgeseq.ir.graph import Graph, Node, State
from edgeseq.ir.types import DTYPES, VALUE_NAME, Time, Type

__all__ = ["from_text", "to_text"]

_HASH_ABOVE = 16
_MOST_ELEMENTS = 1 << 28


def to_text(graph: Graph, *, data: bool = True) -> str:
    """Print `graph`; with `data` every constant in full, so that `from_text` restores it."""
    return "\n".join(_lines(graph, data, "")) + "\n"


def _lines(g: Graph, data: bool, pad: str) -> list[str]:
    inner = pad + "  "
    out = [f"{pad}graph {json.dumps(g.name)} {{"]
    if g.meta:
        out.append(f"{inner}meta {json.dumps(g.meta, sort_keys=True)}")
    for v in g.inputs:
        out.append(f"{inner}input {v}: {_type(g.types[v])}")
    for v, a in g.consts.items():
        out.append(f"{inner}const {v}: {_type(g.types[v], data)} = {_array(a, data)}")
    for s in g.states:
        bound = "" if s.bound is None else f" bound={s.bound!r}"
        label = "" if s.name == s.input else f" as {s.name}"
        init = "zeros" if not np.any(s.init) else _array(s.init, data)
        out.append(
            f"{inner}state {s.input}{label}: {_type(g.types[s.input])} -> {s.output}{bound}"
            f" = {init}"
        )
    for n in g.nodes:
        defs = ", ".join(f"{v}: {_type(g.types[v])}" for v in n.outputs)
        line = f"{inner}node {json.dumps(n.name)} {defs} = {n.op}({', '.join(n.inputs)})"
        body = n.attrs.get("body")
        attrs = {k: _attr(v, data) for k, v in sorted(n.attrs.items()) if k != "body"}
        if attrs:
            line += f" {json.dumps(attrs)}"
        if isinstance(body, Graph):
            nested = _lines(body, data, inner)
            out.append(line + " " + nested[0].lstrip())
            out.extend(nested[1:])
        else:
            out.append(line)
    for v in g.outputs:
        out.append(f"{inner}output {v}")
    out.append(f"{pad}}}")
    return out


def _type(t: Type, data: bool = True) -> str:
    text = f"{t.dtype}[{','.join(map(str, t.shape))}]"
    if isinstance(t.scale, float):
        text += f"*{float(t.scale)!r}"
    elif t.scale is not None:
        text += f"*({','.join(repr(float(s)) for s in t.scale)})" if data else "*per-channel"
    if t.time is not None:
        text += f"@t/{t.time.period}-{t.time.delay}" if t.time != Time() else "@t"
    return text


def _array(a: npt.NDArray[Any], data: bool) -> str:
    raw = a.astype(a.dtype.newbyteorder("<")).tobytes()
    if data:
        return "base64:" + base64.b64encode(raw).decode("ascii")
    if a.size <= _HASH_ABOVE:
        return json.dumps(a.ravel().tolist())
    return "sha256:" + hashlib.sha256(raw).hexdigest()[:16]


def _attr(v: Any, data: bool) -> Any:
    if isinstance(v, np.ndarray):
        return {"i32": _array(v, data)}
    if isinstance(v, list | tuple):
        return [_attr(x, data) for x in v]
    return v


# -- parsing -------------------------------------------------------------------------------------

_TYPE = r"(?:f32|i8|i16|i32)\[[0-9,]*\](?:\*(?:\([^)]*\)|[^\s@,]+))?(?:@t(?:/[0-9]+-[0-9]+)?)?"
_NAME = VALUE_NAME.pattern
_RE = {
    "graph": re.compile(r'graph (".*") \{'),
    "meta": re.compile(r"meta (\{.*\})"),
    "input": re.compile(rf"input ({_NAME}): ({_TYPE})"),
    "const": re.compile(rf"const ({_NAME}): ({_TYPE}) = (\S.*)"),
    "state": re.compile(
        rf"state ({_NAME})(?: as ({_NAME}))?: ({_TYPE}) -> ({_NAME})(?: bound=(\S+))? = (\S.*)"
    ),
    "node": re.compile(
        rf'node ("(?:[^"\\]|\\.)*") ((?:{_NAME}: {_TYPE})(?:, {_NAME}: {_TYPE})*)'
        rf" = (\w+)\(([^)]*)\)(.*)"
    ),
    "output": re.compile(rf"output ({_NAME})"),
}


def from_text(text: str) -> Graph:
    """Parse what `to_text` printed with ``data=True``.

    Raises:
        GraphError: names the line that does not parse.
    """
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        graph, rest = _parse(lines, 0)
    except IndexError:
        raise GraphError("the text ends inside a graph", where=f"line {len(lines)}") from None
    if rest != len(lines):
        raise GraphError("text after the graph", where=f"line {lines[rest][0]}")
    return graph


def _parse(lines: list[tuple[int, str]], at: int) -> tuple[Graph, int]:
    number, line = lines[at]
    head = _RE["graph"].fullmatch(line)
    if head is None:
        raise GraphError('expected: graph "name" {', where=f"line {number}")
    try:
        g = Graph(json.loads(head[1]))
    except ValueError as e:
        raise GraphError(f"{e}: {line[:60]!r}", where=f"line {number}") from None
    at += 1
    while lines[at][1] != "}":
        number, line = lines[at]
        kind = line.split(" ", 1)[0]
        m = _RE[kind].fullmatch(line) if kind in _RE and kind != "graph" else None
        if m is None:
            raise GraphError(f"cannot read {line[:60]!r}", where=f"line {number}")
        try:
            at = _statement(g, kind, m, lines, at)
        except (ValueError, TypeError, KeyError, binascii.Error, MemoryError) as e:
            raise GraphError(f"{e}: {line[:60]!r}", where=f"line {number}") from None
    return g, at + 1


def _statement(g: Graph, kind: str, m: re.Match[str], lines: list[tuple[int, str]], at: int) -> int:
    if kind == "meta":
        g.meta = json.loads(m[1])
    elif kind == "input":
        _define(g, m[1], m[2])
        g.inputs.append(m[1])
    elif kind == "const":
        t = _define(g, m[1], m[2])
        g.consts[m[1]] = _parse_array(m[3], t)
    elif kind == "state":
        t = _define(g, m[1], m[3])
        init = np.zeros(t.shape, t.numpy) if m[6] == "zeros" else _parse_array(m[6], t)
        bound = None if m[5] is None else float(m[5])
        g.states.append(State(m[2] or m[1], m[1], m[4], init, bound))
    elif kind == "output":
        g.outputs.append(m[1])
    else:
        outs = []
        for d in re.finditer(rf"({_NAME}): ({_TYPE})", m[2]):
            _define(g, d[1], d[2])
            outs.append(d[1])
        tail = m[5].strip()
        attrs: dict[str, Any] = {}
        if tail.startswith("{"):
            parsed, end = json.JSONDecoder().raw_decode(tail)
            attrs = {k: _parse_attr(v) for k, v in parsed.items()}
            tail = tail[end:].strip()
        inputs = tuple(v.strip() for v in m[4].split(",") if v.strip())
        node = Node(m[3], inputs, tuple(outs), attrs, json.loads(m[1]))
        g.nodes.append(node)
        if tail.startswith("graph"):
            nested = [(lines[at][0], tail), *lines[at + 1 :]]
            node.attrs["body"], used = _parse(nested, 0)
            return at + used
        if tail:
            raise ValueError(f"unexpected {tail[:30]!r}")
    return at + 1


def _define(g: Graph, value: str, type_text: str) -> Type:
    if value in g.types:
        raise ValueError(f"value {value!r} is defined twice")
    t = g.types[value] = _parse_type(type_text)
    return t


def _parse_type(text: str) -> Type:
    m = re.fullmatch(
        r"(\w+)\[([\d,]*)\](?:\*(?:\(([^)]*)\)|([^\s@,]+)))?(@t(?:/(\d+)-(\d+))?)?", text
    )
    if m is None or m[1] not in DTYPES:
        raise ValueError(f"not a type: {text!r}")
    scale: float | tuple[float, ...] | None = None
    if m[3] is not None:
        scale = tuple(float(s) for s in m[3].split(","))
    elif m[4] == "per-channel":
        raise ValueError("the scales are left out; print the graph with data")
    elif m[4] is not None:
        scale = float(m[4])
    time = None
    if m[5]:
        time = Time(int(m[6]), int(m[7])) if m[6] else Time()
    shape = tuple(int(d) for d in m[2].split(",") if d)
    if math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(f"{m[1]}[{m[2]}] is too large")
    return Type(shape, m[1], scale, time)


def _parse_array(text: str, t: Type) -> npt.NDArray[Any]:
    if not text.startswith("base64:"):
        raise ValueError("the array is shown by hash or rounded; print the graph with data")
    raw = base64.b64decode(text[7:], validate=True)
    a = np.frombuffer(raw, np.dtype(t.numpy).newbyteorder("<")).astype(t.numpy)
    return a.reshape(t.shape)


def _parse_attr(v: Any) -> Any:
    if isinstance(v, dict) and set(v) == {"i32"}:
        raw = base64.b64decode(str(v["i32"]).removeprefix("base64:"), validate=True)
        return np.frombuffer(raw, "<i4").astype(np.int32)
    return [_parse_attr(x) for x in v] if isinstance(v, list) else v
