"""Graphs, subgraphs and functions of an ONNX model to nested `Program`s.

Names are resolved here: a name stands for one value in the whole result. A value that is defined
under a name already taken (in another branch, in a second call of a function) is renamed 'x#2'.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import UnsupportedError
from edgeseq.frontend._onnx_interface import check_opset, domain_of, opset_of
from edgeseq.frontend._onnx_normal import Node, normalise
from edgeseq.frontend._onnx_tensor import TensorReader, text
from edgeseq.frontend._onnx_wire import MAX_NODES, damaged
from edgeseq.frontend.program import Operation, Program, Ref, refs_of

__all__ = ["GraphReader"]

Array = npt.NDArray[Any]
_Function = tuple[str, str, str]

# Subgraphs and calls of functions inside each other.
MAX_NESTING = 40
# Names, elements of lists and attributes that are read; functions are read once per call.
MAX_PARTS = 2_000_000

# AttributeProto.AttributeType: the field that holds the value.
_ATTRIBUTES = {
    1: "f",
    2: "i",
    3: "s",
    4: "t",
    5: "g",
    6: "floats",
    7: "ints",
    8: "strings",
    9: "tensors",
    10: "graphs",
}
# Attributes of Constant: AttributeProto type and the element type of the array.
_CONSTANT = {
    "value": (4, ""),
    "value_float": (1, "float32"),
    "value_floats": (6, "float32"),
    "value_int": (2, "int64"),
    "value_ints": (7, "int64"),
    "value_string": (3, "object"),
    "value_strings": (8, "object"),
}
_GRAPHS = (5, 10)  # types of attributes


class Scope:
    """Names that can be read: those of a graph, then those of the graph around it.

    A name of None is an optional input that the call of a function leaves out.
    """

    def __init__(self, parent: Scope | None = None) -> None:
        self.names: dict[str, str | None] = {}
        self.parent = parent

    def find(self, name: str) -> str | None:
        """The value's own name.

        Raises:
            KeyError: nothing defines it.
        """
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        raise KeyError(name)


@dataclass(frozen=True)
class _Place:
    """Where nodes are read: the program they go to, and what surrounds them.

    Attributes:
        program: takes the operations and constants.
        scope: names they may read.
        opset: version of the default domain; 0 where none is stated.
        given: attributes of the call, by name, inside a function; None outside.
        calls: functions that are being read.
        nesting: subgraphs and calls around.
        path: of the call.
    """

    program: Program
    scope: Scope
    opset: int
    given: Mapping[str, Any] | None = None
    calls: tuple[_Function, ...] = ()
    nesting: int = 0
    path: tuple[str, ...] = ()


@dataclass
class GraphReader:
    """Reads the graphs of one model.

    Args:
        where: the file, for messages.
        tensors: decodes its tensors.
        opset: version of the default domain, 0 if the model states none.
        functions: its local functions by domain, name and overload.
    """

    where: str
    tensors: TensorReader
    opset: int
    functions: dict[_Function, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.constants: dict[str, Array] = {}
        self.types: dict[str, int] = {}
        self.nodes = self.parts = 0

    def add_function(self, function: Any) -> None:
        """Make a local function known.

        Raises:
            ModelError: there are two of its name.
        """
        name = text(function.name, self.where, "a function's name", 200)
        overload = text(getattr(function, "overload", ""), self.where, "an overload", 200)
        key = (domain_of(function.domain, self.where), name, overload)
        if key in self.functions:
            raise damaged(f"defines function {name!r} twice", self.where)
        self.functions[key] = function

    # -- graphs ----------------------------------------------------------------------------

    def top(self, graph: Any, fixed: Mapping[str, Array]) -> Program:
        """The model's graph.

        Args:
            fixed: values of inputs that become constants.
        """
        place = _Place(self._program(), Scope(), self.opset)
        for name, value in fixed.items():
            self._define(place, name, self.where)
            self._keep(place, name, value)
        self._initializers(graph, place, fixed)
        self._graph(graph, place)
        return place.program

    def _subgraph(self, graph: Any, around: _Place, label: str) -> Program:
        if around.nesting >= MAX_NESTING:
            raise UnsupportedError(
                f"nests subgraphs and functions deeper than {MAX_NESTING}",
                where=label,
                fix="unnest If, Loop, Scan and functions",
            )
        place = replace(
            around,
            program=self._program(),
            scope=Scope(around.scope),
            nesting=around.nesting + 1,
        )
        self._initializers(graph, place, {})
        self._graph(graph, place)
        return place.program

    def _program(self) -> Program:
        return Program([], {}, [], [], {}, where=self.where)

    def _initializers(self, graph: Any, place: _Place, skip: Mapping[str, Array]) -> None:
        if len(graph.sparse_initializer):
            raise UnsupportedError(
                "holds sparse initializers", where=self.where, fix="store the weights densely"
            )
        for tensor in graph.initializer:
            name = text(tensor.name, self.where, "an initializer's name")
            if name in skip:
                continue
            label = f"initializer {name!r}"
            if not name:
                raise damaged("an initializer has no name", self.where)
            own = self._define(place, name, f"{self.where}: {label}")
            self._keep(place, own, self.tensors.read(tensor, label), tensor.data_type)

    def _graph(self, graph: Any, place: _Place) -> None:
        program, scope = place.program, place.scope
        seen: set[str] = set()
        for value in graph.input:
            name = text(value.name, self.where, "an input's name")
            if not name or name in seen:
                raise damaged(f"has two inputs {name!r}" if name else "has an input without name",
                              self.where)  # fmt: skip
            seen.add(name)
            # An initializer of the same name is the input's value (before IR 4 all are listed so).
            if name not in scope.names:
                program.inputs.append(self._define(place, name, self.where))
            elif place.nesting:
                raise damaged(f"has an initializer for input {name!r} of a subgraph", self.where)
        nodes = list(graph.node)
        self._outputs_of(nodes, place, {})
        for node in nodes:
            self._node(node, place)
        seen.clear()
        for value in graph.output:
            name = text(value.name, self.where, "an output's name")
            if name in seen and not place.nesting:
                raise damaged(f"has two outputs {name!r}", self.where)
            seen.add(name)
            try:
                found = scope.find(name)
            except KeyError:
                found = None
            if found is None:
                raise damaged(f"output {name!r} is not defined by any node", self.where)
            program.outputs.append(Ref(found))
        program.operations = self._ordered(program.operations)

    # -- names -----------------------------------------------------------------------------

    def _fresh(self, name: str) -> str:
        """`name`, numbered where it is taken."""
        self._spend(1)
        if name not in self.taken:
            self.taken[name] = 1
            return name
        while True:
            self.taken[name] += 1
            found = f"{name}#{self.taken[name]}"
            if found not in self.taken:
                self.taken[found] = 1
                return found

    def _define(self, place: _Place, name: str, label: str) -> str:
        if name in place.scope.names:
            raise damaged(f"defines {name!r}, which is defined already", label)
        place.scope.names[name] = own = self._fresh(name)
        return own

    def _keep(self, place: _Place, name: str, value: Array, code: int = 0) -> None:
        place.program.constants[name] = self.constants[name] = value
        self.types[name] = code

    def _spend(self, parts: int) -> None:
        self.parts += parts
        if self.parts > MAX_PARTS or self.nodes > MAX_NODES:
            raise UnsupportedError(
                f"has more than {MAX_NODES} nodes or {MAX_PARTS} names and attributes, "
                "calls of functions counted one by one",
                where=self.where,
                fix="a loop was unrolled by the exporter: export it as a loop or as a layer",
            )

    # -- nodes -----------------------------------------------------------------------------

    def _label(self, node: Any) -> str:
        """A node in messages."""
        op = text(node.op_type, self.where, "an operator's name", 200)
        if not op:
            raise damaged("a node has no operator", self.where)
        name = text(node.name, self.where, f"the name of a node ({op})")
        if name:
            return f"{self.where}: node {name!r} ({op})"
        out = next((text(o, self.where, f"an output of a node ({op})") for o in node.output), "")
        return f"{self.where}: node {op} of {out!r}" if out else f"{self.where}: node {op}"

    def _outputs_of(self, nodes: Iterable[Any], place: _Place, given: Mapping[str, str]) -> None:
        """Define what nodes define; `given` are own names of a function's outputs."""
        for node in nodes:
            label = self._label(node)
            for out in node.output:
                name = text(out, label, "an output's name")
                if not name:
                    continue
                if name in place.scope.names:
                    raise damaged(f"defines {name!r}, which is defined already", label)
                place.scope.names[name] = given[name] if name in given else self._fresh(name)

    def _node(self, node: Any, place: _Place) -> None:
        label = self._label(node)
        self.nodes += 1
        self._spend(1 + len(node.input) + len(node.output))
        domain = domain_of(node.domain, label)
        op = text(node.op_type, label, "its operator", 200)
        inputs = [self._read(name, place, label) for name in node.input]
        outputs = [place.scope.names[name] or "" if name else "" for name in node.output]
        key = (domain, op, text(getattr(node, "overload", ""), label, "its overload", 200))
        if key in self.functions:
            self._call(key, node, inputs, outputs, place, label)
            return
        if domain == "onnx":  # would be taken for the default domain
            raise damaged("is of domain 'onnx'", label)
        attrs, protos = self._attributes(node, place, label)
        if "inputs" in attrs:
            raise damaged("has an attribute 'inputs'", label)
        target = f"{domain or 'onnx'}.{op}"
        if not domain:
            check_opset(place.opset, self.where)
            if op == "Constant":
                self._constant(attrs, protos, outputs, place, label)
                return
            add = self._adder(place, outputs)
            plain = Node(
                op, place.opset, inputs, attrs, outputs, label, add, self._value, self._type
            )
            normalise(plain, {k: p.type for k, p in protos.items()})
            target = f"onnx.{plain.op}"
            inputs, attrs, outputs = plain.inputs, plain.attrs, plain.outputs
        path = _path((*place.path, node.name))
        place.program.operations.append(
            Operation(target, {"inputs": inputs, **attrs}, tuple(outputs), path, bool(path))
        )

    def _read(self, raw: Any, place: _Place, label: str) -> Ref | None:
        name = text(raw, label, "an input's name")
        if not name:
            return None
        try:
            found = place.scope.find(name)
        except KeyError:
            raise damaged(f"reads {name!r}, which nothing defines", label) from None
        return None if found is None else Ref(found)

    def _adder(self, place: _Place, outputs: list[str]) -> Any:
        def add(value: Array, name: str) -> Ref:
            own = self._fresh(f"{next(filter(None, outputs), 'node')}.{name}")
            value.setflags(write=False)
            self._keep(place, own, value)
            return Ref(own)

        return add

    def _value(self, ref: Ref | None) -> Array | None:
        return None if ref is None else self.constants.get(ref.name)

    def _type(self, ref: Ref | None) -> int:
        return 0 if ref is None else self.types.get(ref.name, 0)

    def _constant(
        self,
        attrs: dict[str, Any],
        protos: dict[str, Any],
        outputs: list[str],
        place: _Place,
        label: str,
    ) -> None:
        """A Constant node: its value among the program's constants."""
        name = next(iter(attrs), "")
        if len(attrs) != 1 or name not in _CONSTANT or len(outputs) != 1 or not outputs[0]:
            raise damaged(f"is a constant of {sorted(attrs)[:3]}, {len(outputs)} outputs", label)
        kind, dtype = _CONSTANT[name]
        if protos[name].type != kind:
            raise damaged(f"has attribute {name!r} of the wrong type", label)
        array = attrs[name] if name == "value" else np.array(attrs[name], dtype)
        array.setflags(write=False)
        code = protos[name].t.data_type if name == "value" else 0
        self._keep(place, outputs[0], array, code)

    # -- attributes ------------------------------------------------------------------------

    def _attributes(
        self, node: Any, place: _Place, label: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Attributes as plain values, and the AttributeProtos they come from."""
        protos: dict[str, Any] = {}
        for attr in node.attribute:
            name = text(attr.name, label, "an attribute's name", 200)
            if name in protos or not name:
                raise damaged(f"has two attributes {name!r}", label)
            proto = self._referred(attr, place, label)
            if proto is not None:
                protos[name] = proto
        values = {k: self._attribute(k, p, place, label) for k, p in protos.items()}
        return values, protos

    def _referred(self, attr: Any, place: _Place, label: str) -> Any | None:
        """The attribute itself, or the one of the call that it refers to; None if it is absent."""
        if not attr.ref_attr_name:
            return attr
        ref = text(attr.ref_attr_name, label, "the name of an attribute", 200)
        if place.given is None:
            raise damaged(f"refers to attribute {ref!r} of a function", label)
        proto = place.given.get(ref)
        if proto is not None and proto.type in _GRAPHS:
            raise UnsupportedError(
                f"attribute {ref!r} passes a graph to a function",
                where=label,
                fix="export the model without functions",
            )
        if proto is not None and proto.type != attr.type:
            raise damaged(f"refers to attribute {ref!r}, which is of another type", label)
        return proto

    def _attribute(self, name: str, attr: Any, place: _Place, label: str) -> Any:
        kind = _ATTRIBUTES.get(attr.type)
        what = f"attribute {name[:60]!r}"
        if kind is None:
            if 0 < attr.type <= 14:
                raise UnsupportedError(
                    f"{what} is a sparse tensor or a type", where=label, fix="store tensors densely"
                )
            raise damaged(f"{what} has type number {attr.type}", label)
        value = getattr(attr, kind)
        plural = kind.endswith("s") and len(kind) > 1
        self._spend(1 + len(value) if plural else 1)
        items = list(value) if plural else [value]
        if kind in ("s", "strings"):
            items = [text(v, label, what, 1 << 20) for v in items]
        elif kind in ("t", "tensors"):
            short = label.removeprefix(f"{self.where}: ")
            items = [self.tensors.read(v, f"{short}: {what}") for v in items]
        elif kind in ("g", "graphs"):
            items = [self._subgraph(v, place, label) for v in items]
        return items if plural else items[0]

    # -- functions -------------------------------------------------------------------------

    def _call(
        self,
        key: _Function,
        node: Any,
        inputs: list[Ref | None],
        outputs: list[str],
        place: _Place,
        label: str,
    ) -> None:
        """The nodes of a local function in place of its call."""
        function = self.functions[key]
        if key in place.calls:
            raise damaged(f"function {key[1]!r} calls itself", label)
        if place.nesting >= MAX_NESTING:
            raise UnsupportedError(
                f"nests subgraphs and functions deeper than {MAX_NESTING}",
                where=label,
                fix="unnest If, Loop, Scan and functions",
            )
        formal = [text(n, label, "an input of its function") for n in function.input]
        results = [text(n, label, "an output of its function") for n in function.output]
        if len(set(results)) < len(results):
            raise damaged("its function returns a value twice", label)
        if len(inputs) > len(formal) or len(outputs) > len(results):
            raise damaged(f"passes {len(inputs)} inputs and {len(outputs)} outputs, its function "
                          f"has {len(formal)} and {len(results)}", label)  # fmt: skip
        scope = Scope()
        for i, name in enumerate(formal):
            if not name or name in scope.names:
                raise damaged(f"its function has two inputs {name!r}", label)
            ref = inputs[i] if i < len(inputs) else None
            scope.names[name] = None if ref is None else ref.name
        given: dict[str, Any] = {}
        for attr in function.attribute_proto:
            given[text(attr.name, label, "an attribute of its function", 200)] = attr
        for attr in node.attribute:
            proto = self._referred(attr, place, label)
            if proto is not None:
                given[text(attr.name, label, "an attribute's name", 200)] = proto
        inner = _Place(
            place.program,
            scope,
            opset_of(function.opset_import, label)[0] or place.opset,
            given,
            (*place.calls, key),
            place.nesting + 1,
            (*place.path, node.name),
        )
        passed = dict(scope.names)
        owns = {n: own for n, own in zip(results, outputs, strict=False) if own}
        self._outputs_of(function.node, inner, {n: o for n, o in owns.items() if n not in passed})
        for child in function.node:
            self._node(child, inner)
        for name, own in owns.items():
            if name in passed:
                source = passed[name]
                if source is None:
                    raise damaged(f"returns {name!r}, which the call leaves out", label)
                args = {"inputs": [Ref(source)]}
                place.program.operations.append(Operation("onnx.Identity", args, (own,)))
            elif name not in scope.names:
                raise damaged(f"its function does not define its output {name!r}", label)

    # -- order -----------------------------------------------------------------------------

    def _ordered(self, operations: list[Operation]) -> list[Operation]:
        """Operations so that each stands behind those it reads; as they are if they do already."""
        maker = {name: i for i, op in enumerate(operations) for name in op.outputs if name}
        needs = [
            {maker[r.name] for a in op.args.values() for r in refs_of(a) if r.name in maker}
            for op in operations
        ]
        if all(j < i for i, need in enumerate(needs) for j in need):
            return operations
        readers: list[list[int]] = [[] for _ in operations]
        for i, need in enumerate(needs):
            for j in need:
                readers[j].append(i)
        missing = [len(need) for need in needs]
        ready = deque(i for i, count in enumerate(missing) if not count)
        order = []
        while ready:
            i = ready.popleft()
            order.append(operations[i])
            for reader in readers[i]:
                missing[reader] -= 1
                if not missing[reader]:
                    ready.append(reader)
        if len(order) < len(operations):
            stuck = operations[next(i for i, count in enumerate(missing) if count)]
            out = next(filter(None, stuck.outputs), "")
            raise damaged(f"{stuck} of {out!r} reads what depends on itself", self.where)
        return order


def _path(names: Iterable[str]) -> str:
    """A node's name as a path: '/encoder/layer.0/Conv' is 'encoder.layer.0.Conv'."""
    path = ".".join(name.strip("/").replace("/", ".") for name in names if name)
    return re.sub(r"[^\w.]+", "_", path, flags=re.ASCII)[:100].strip("._")
