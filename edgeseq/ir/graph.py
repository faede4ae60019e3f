"""Graph, Node and State: the one program representation of edgeseq."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import GraphError
from edgeseq.ir.types import VALUE_NAME, Type

__all__ = ["Graph", "Node", "State"]

Array = npt.NDArray[Any]


@dataclass
class Node:
    """One operation of the closed op table (`edgeseq.ir.ops`).

    Attributes:
        op: its name in the op table.
        inputs: names of the values it reads; a trailing optional input is left out.
        outputs: names of the values it defines.
        attrs: its settings; per-op meaning in the op table. A scan keeps its body Graph here.
        name: unique in the Graph, for messages and reports (the module path where there is one).
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def output(self) -> str:
        """The only output."""
        (out,) = self.outputs
        return out


@dataclass
class State:
    """A value carried from one step to the next.

    Attributes:
        name: of the state, for headers and manifests.
        input: value that holds it before the step.
        output: value that holds it after the step.
        init: what it holds after a reset, [*shape], stored units.
        bound: if not None, abs(real value) never exceeds it, by the mathematics of the cell.
    """

    name: str
    input: str
    output: str
    init: Array
    bound: float | None = None


@dataclass
class Graph:
    """A sequence model, or one step of it, as a list of primitive operations.

    Values are named; each is an input, a state's input, a constant or the output of one node.
    Nodes are in an order in which every value is defined before it is read. Batch is implicit.

    A Graph over time has sequence inputs (`Type.time` set) and recurrences as `scan` nodes whose
    body is a Graph with states. A *step* Graph has no time and its states are its own.

    Attributes:
        name: a C identifier.
        types: type of every value.
        inputs, outputs: names, in the order of the model's signature.
        states: what a step carries.
        consts: stored arrays of the constants.
        nodes: in topological order.
        meta: facts about the model that are not operations: delay, emission, frames_per_step,
            elements (`edgeseq.passes.stream`), source.
    """

    name: str
    types: dict[str, Type] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    consts: dict[str, Array] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    # What `fresh` and `_node_name` remember, so that building a Graph takes linear time.
    _next: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _named: tuple[list[Node], set[str]] = field(
        default_factory=lambda: ([], set()), init=False, repr=False, compare=False
    )

    # -- reading ---------------------------------------------------------------------------

    @property
    def is_step(self) -> bool:
        """True where no value has a time: the Graph is one step."""
        return all(t.time is None for t in self.types.values())

    @property
    def is_integer(self) -> bool:
        """True where every value is an integer."""
        return all(t.is_integer for t in self.types.values())

    def frames_of(self, name: str) -> int:
        """Frames of an input or output that a step takes or gives at once.

        They are the leading axis of its shape; a single frame has none.
        """
        if name not in self.inputs and name not in self.outputs:
            return 1
        block = int(self.meta.get("frames_per_step", 1))
        return int(self.meta.get("elements", {}).get(name, block))

    @property
    def tick(self) -> int:
        """Ticks of an input frame, of a Graph over time: what periods of inputs have in common."""
        times = (self.types[v].time for v in self.inputs)
        return math.gcd(*(t.period for t in times if t is not None)) or 1

    def producers(self) -> dict[str, Node]:
        """The node that defines each value (inputs, states and constants have none)."""
        return {out: node for node in self.nodes for out in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each value."""
        uses: dict[str, list[Node]] = {name: [] for name in self.types}
        for node in self.nodes:
            for value in node.inputs:
                uses[value].append(node)
        return uses

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Every node, bodies of scans included, with the Graph it stands in."""
        for node in self.nodes:
            yield self, node
            body = node.attrs.get("body")
            if isinstance(body, Graph):
                yield from body.walk()

    # -- building --------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """A value name not yet in use, made from `hint`."""
        base = "".join(c if c.isascii() and (c.isalnum() or c in "_.") else "_" for c in hint)
        if VALUE_NAME.fullmatch(base) is None:  # empty, or starts with a digit or a dot
            base = f"v{base}"
        if base not in self.types:
            return base
        i = self._next.get(base, 2)
        while f"{base}_{i}" in self.types:
            i += 1
        self._next[base] = i
        return f"{base}_{i}"

    def add_input(self, name: str, type: Type) -> str:
        name = self.fresh(name)
        self.types[name] = type
        self.inputs.append(name)
        return name

    def add_const(self, name: str, array: Array, type: Type | None = None) -> str:
        """A constant; without `type` it is a real one (stored as float32)."""
        name = self.fresh(name)
        if type is None:
            array = np.asarray(array, np.float32, order="C")
            type = Type(tuple(array.shape))
        self.types[name] = type
        self.consts[name] = np.asarray(array, type.numpy, order="C")
        return name

    def add_state(
        self, name: str, type: Type, init: Array | None = None, *, bound: float | None = None
    ) -> str:
        """A state; returns the value that holds it before the step. Set its output later."""
        value = self.fresh(name)
        self.types[value] = type
        array = np.zeros(type.shape, type.numpy) if init is None else np.asarray(init, type.numpy)
        self.states.append(State(value, value, "", array, bound))
        return value

    def set_state(self, value: str, output: str) -> None:
        """Name the value that holds the state `value` after the step."""
        for state in reversed(self.states):  # most often it is a new one
            if state.input == value:
                state.output = output
                return
        raise GraphError(f"no state {value!r}", where=f"graph {self.name!r}")

    def add_node(
        self,
        op: str,
        inputs: Iterable[str],
        *,
        name: str = "",
        types: Iterable[Type] | None = None,
        hint: str | None = None,
        **attrs: Any,
    ) -> str:
        """Append a node and return its (first) output.

        Args:
            op: name in the op table.
            inputs: values it reads.
            name: of the node; made from `op` if empty.
            types: of its outputs; inferred by the op table if not given (real Graphs).
            hint: for the name of its output.
            attrs: its settings.
        """
        from edgeseq.ir import ops

        names = tuple(inputs)
        unknown = [v for v in names if v not in self.types]
        if unknown:
            raise GraphError(f"reads undefined value {unknown[0]!r}", where=f"node {name or op!r}")
        node = Node(op, names, (), dict(attrs), self._node_name(name or op))
        if types is None:
            types = ops.infer(self, node)
        outs = []
        for i, t in enumerate(types):
            out = self.fresh(hint or node.name if i == 0 else f"{hint or node.name}.{i}")
            self.types[out] = t
            outs.append(out)
        node.outputs = tuple(outs)
        self.nodes.append(node)
        seen, taken = self._named
        seen.append(node)
        taken.add(node.name)
        return outs[0]

    def _node_name(self, base: str) -> str:
        """A node name not yet in use, made from `base`."""
        seen, taken = self._named
        # The list of nodes belongs to everybody: what is remembered holds only while the list has
        # the length and the ends it had.
        if len(seen) != len(self.nodes) or (
            seen and (seen[-1] is not self.nodes[-1] or seen[0] is not self.nodes[0])
        ):
            self._named = seen, taken = list(self.nodes), {n.name for n in self.nodes}
            self._next = {k: v for k, v in self._next.items() if not k.startswith("node ")}
        if base not in taken:
            return base
        i = self._next.get(f"node {base}", 2)
        while f"{base}.{i}" in taken:
            i += 1
        self._next[f"node {base}"] = i
        return f"{base}.{i}"

    def copy(self) -> Graph:
        """A deep copy that shares the constants' arrays."""
        twin = copy.copy(self)
        twin._next, twin._named = {}, ([], set())
        twin.types = dict(self.types)
        twin.inputs, twin.outputs = list(self.inputs), list(self.outputs)
        twin.states = [copy.copy(s) for s in self.states]
        twin.consts = dict(self.consts)
        twin.meta = dict(self.meta)
        twin.nodes = [
            Node(
                n.op,
                n.inputs,
                n.outputs,
                {k: v.copy() if isinstance(v, Graph) else v for k, v in n.attrs.items()},
                n.name,
            )
            for n in self.nodes
        ]
        return twin

    # -- rewriting -------------------------------------------------------------------------

    def rename_uses(self, table: Mapping[str, str]) -> None:
        """Let every reader of a key of `table` read its value instead."""

        def to(v: str) -> str:
            while v in table:
                v = table[v]
            return v

        for node in self.nodes:
            node.inputs = tuple(to(v) for v in node.inputs)
        self.outputs = [to(v) for v in self.outputs]
        for state in self.states:
            state.output = to(state.output)

    def rename(self, value: str, name: str) -> str:
        """Call a value `name` (made unique); returns what it is called now."""
        if value == name:
            return value
        new = self.fresh(name)
        self.types = {new if k == value else k: t for k, t in self.types.items()}
        self.consts = {new if k == value else k: a for k, a in self.consts.items()}
        for node in self.nodes:
            node.inputs = tuple(new if v == value else v for v in node.inputs)
            node.outputs = tuple(new if v == value else v for v in node.outputs)
        for state in self.states:
            state.input = new if state.input == value else state.input
            state.output = new if state.output == value else state.output
        self.inputs = [new if v == value else v for v in self.inputs]
        self.outputs = [new if v == value else v for v in self.outputs]
        return new

    def call(self, value: str, name: str) -> str:
        """Call an output `name`; a value that is called so becomes ``name.now``.

        Returns:
            What the output is called now: `value` where an input, a state, a constant or another
            output has the name, or where the value is an output twice.
        """
        fixed = {*self.inputs, *self.outputs, *self.consts, *(s.input for s in self.states)}
        if value == name or name in fixed or self.outputs.count(value) != 1:
            return value
        if name in self.types:
            self.rename(name, f"{name}.now")
        return self.rename(value, name)

    def prune(self) -> bool:
        """Drop nodes, states and constants that no output depends on; True if any was dropped."""
        live = set(self.outputs)
        state_of = {s.input: s for s in self.states}
        producers = self.producers()
        stack = list(live)
        while stack:
            value = stack.pop()
            sources: tuple[str, ...] = ()
            if value in producers:
                sources = producers[value].inputs + producers[value].outputs
            elif value in state_of:
                sources = (state_of[value].output,)
            for source in sources:
                if source not in live:
                    live.add(source)
                    stack.append(source)
        before = len(self.types)
        keep = live | set(self.inputs)
        self.nodes = [n for n in self.nodes if any(o in live for o in n.outputs)]
        self.states = [s for s in self.states if s.input in live]
        self.consts = {k: v for k, v in self.consts.items() if k in live}
        self.types = {k: v for k, v in self.types.items() if k in keep}
        self._next = {}
        return len(self.types) != before

    def __str__(self) -> str:
        from edgeseq.ir.text import to_text

        return to_text(self, data=False)
