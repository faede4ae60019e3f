"""Assemble the file: subgraphs, states, signatures, metadata."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeseq.emit._unroll import unroll_scans
from edgeseq.emit.tflite.forms import Form
from edgeseq.emit.tflite.lower import Lowering
from edgeseq.emit.tflite.memory import overwritten
from edgeseq.emit.tflite.model import METADATA, StateInfo, TensorInfo, TfliteModel
from edgeseq.emit.tflite.ranges import observe
from edgeseq.emit.tflite.writer import ModelWriter, Quant, SubgraphWriter
from edgeseq.errors import BackendError, UsageError
from edgeseq.ir.graph import Graph, State
from edgeseq.quant.calibrate import Stats

__all__ = ["emit_tflite"]

Array = npt.NDArray[Any]

_MOST_SAMPLED = 2_000
"""Nodes of a step beyond which calibration keeps the ends of the ranges only, to save memory."""

_DTYPE = {"i8": "int8", "i16": "int16", "i32": "int32"}


def emit_tflite(
    graph: Graph,
    *,
    activations: Literal["int8", "int16"] = "int16",
    state: Literal["explicit", "internal"] = "explicit",
    frames: Sequence[Array] | None = None,
) -> TfliteModel:
    """The TFLite model of an integer step.

    Signature `step` takes the inputs (and the states) of one frame with a batch axis before it,
    and gives the outputs (and the states after the step, named with `_next`).  With internal
    states the batch is 1, and signature `reset` puts the states back to their initial values;
    loading the model does so too.

    Args:
        graph: an integer step Graph.
        activations: width of what matrix products take and give, and of the inputs and outputs:
            'int16' (int16x8) or 'int8'.  Gates keep 16 bits and wide states 32 in both; so do
            inputs that become an index or are compared.
        state: 'explicit' or 'internal'.
        frames: calibration frames, one array per input, [batch, T, *shape], stored integers of
            the Graph.  They give 32-bit pre-activations their 16-bit (or 8-bit) ranges; without
            them proved bounds are used, which cost accuracy, most of all with 'int8'.

    Raises:
        BackendError: the Graph is not an integer step, or the schema classes are missing.
        UnsupportedError: a node has no TFLite form, or there are too many once the loops in the
            step are written out; names it.
        UsageError: an unknown option.
    """
    where = f"TFLite emitter, graph {graph.name!r}"
    if activations not in ("int8", "int16"):
        raise UsageError(f"activations {activations!r}", where=where, fix="int8 or int16")
    if state not in ("explicit", "internal"):
        raise UsageError(f"state {state!r}", where=where, fix="explicit or internal")
    if not (graph.is_step and graph.is_integer):
        raise BackendError(
            "only an integer step can be emitted",
            where=where,
            fix="run the stream pass and quantise first",
        )
    if len(set(graph.outputs)) != len(graph.outputs):
        raise BackendError(
            "two outputs are the same value", where=where, fix="give the model each output once"
        )
    graph = unroll_scans(graph)
    sampled = activations == "int8" and len(graph.nodes) <= _MOST_SAMPLED
    observed = observe(graph, frames, sampled=sampled) if frames else {}
    return _Emitter(graph, activations, state == "internal", observed).run()


class _Emitter:
    def __init__(
        self, graph: Graph, matrix: str, internal: bool, observed: dict[str, Stats]
    ) -> None:
        self.graph, self.matrix, self.internal = graph, matrix, internal
        self.writer = ModelWriter(
            f"edgeseq step of {graph.name}: {'int8' if matrix == 'int8' else 'int16x8'}, "
            f"{'internal' if internal else 'explicit'} state"
        )
        self.main = self.writer.subgraph("step")
        self.low = Lowering(graph, self.main, matrix, observed)
        self._delicate = self.low.delicate()
        self.handles: dict[str, int] = {}

    def run(self) -> TfliteModel:
        graph, low, main = self.graph, self.low, self.main
        inputs = {name: self._input(name) for name in graph.inputs}
        if self.internal and graph.states:
            reset = self._reset()
            main.op(
                "CALL_ONCE",
                [],
                [],
                options=("CallOnceOptions", {"initSubgraphIndex": 1}),
            )
            self.writer.signature("reset", reset, {}, {})
        states = {s.name: self._state_in(s) for s in graph.states}
        for node in graph.nodes:
            low.node(node)
        taken = {f.tensor for f in (*inputs.values(), *states.values())}
        outputs = {v: self._distinct(self._output(v), taken) for v in graph.outputs}
        nexts = {}
        for s in graph.states:
            low.tensors.where = f"{s.name}_next"
            form = low.stored(s.output)
            if self.internal:
                main.op(
                    "ASSIGN_VARIABLE",
                    [self.handles[s.name], form.tensor],
                    [],
                    options=("AssignVariableOptions", {}),
                )
            else:
                nexts[s.name] = self._distinct(form, taken)
        return self._finish(inputs, outputs, states, nexts)

    # -- ends of the step ------------------------------------------------------------------

    def _input(self, name: str) -> Form:
        t = self.graph.types[name]
        narrow = self.matrix == "int8" and t.dtype == "i16" and name not in self._delicate
        dtype = "int8" if narrow else _DTYPE[t.dtype]
        scale = self.low.scale(name, dtype)
        form = self.low.tensors.new(t.shape, dtype, scale, name)
        self.low.define(name, form)
        self.low.tensors.origin = form
        return form

    def _state_in(self, s: State) -> Form:
        """The state before the step, in the Graph's own format: the same before and after."""
        t = self.graph.types[s.input]
        if not self.internal:
            form = self.low.tensors.new(t.shape, _DTYPE[t.dtype], t.scalar_scale, s.name)
        else:
            handle = self._handle(self.main, s)
            self.handles[s.name] = handle
            # A variable has a fixed shape: batch 1.
            quant = Quant(t.scalar_scale)
            tensor = self.main.tensor(s.name, (1, *t.shape), _DTYPE[t.dtype], quant)
            self.main.op("READ_VARIABLE", [handle], [tensor], options=("ReadVariableOptions", {}))
            form = Form(tensor, _DTYPE[t.dtype], t.scalar_scale, t.shape)
        self.low.define(s.input, form)
        return form

    def _output(self, value: str) -> Form:
        low, t = self.low, self.graph.types[value]
        low.tensors.where = f"{value}_out"
        if self.matrix == "int8" and t.dtype != "i32" and value not in self._delicate:
            return low.form(value, "int8", low.scale(value, "int8"))
        return low.stored(value)

    def _distinct(self, form: Form, taken: set[int]) -> Form:
        """A tensor of its own for each output: neither an input nor a constant nor shared."""
        form = self.low.tensors.batched(form)
        if form.tensor in taken:
            form = self.low.tensors.copy(form, form.shape)
        taken.add(form.tensor)
        return form

    # -- internal state --------------------------------------------------------------------

    def _handle(self, graph: SubgraphWriter, s: State) -> int:
        """The resource of a state; subgraphs share it by name."""
        handle = graph.tensor(f"{s.name}_resource", (), "resource")
        options = {"container": "", "sharedName": s.name}
        graph.op("VAR_HANDLE", [], [handle], options=("VarHandleOptions", options))
        return handle

    def _reset(self) -> SubgraphWriter:
        """The subgraph that initialises every state; called once on load, and as `reset`.

        Without it a runtime would read memory nobody wrote.
        """
        graph = self.writer.subgraph("reset")
        for s in self.graph.states:
            t = self.graph.types[s.input]
            value = graph.constant(f"{s.name}_init", s.init[None], Quant(t.scalar_scale))
            graph.op(
                "ASSIGN_VARIABLE",
                [self._handle(graph, s), value],
                [],
                options=("AssignVariableOptions", {}),
            )
        return graph

    # -- the file --------------------------------------------------------------------------

    def _finish(
        self,
        inputs: dict[str, Form],
        outputs: dict[str, Form],
        states: dict[str, Form],
        nexts: dict[str, Form],
    ) -> TfliteModel:
        main = self.main
        ins = {n: f.tensor for n, f in inputs.items()}
        outs = {n: f.tensor for n, f in outputs.items()}
        if not self.internal:
            ins |= {n: f.tensor for n, f in states.items()}
            outs |= {f"{n}_next": f.tensor for n, f in nexts.items()}
        main.inputs, main.outputs = list(ins.values()), list(outs.values())
        self.writer.signature("step", main, ins, outs)
        self.writer.drop_unused()
        for place, index in reversed(overwritten(main)):
            main.copy(place, index)
        state_of = {s.name: s for s in self.graph.states}
        model = TfliteModel(
            b"",
            self.matrix,
            "internal" if self.internal else "explicit",
            tuple(self._info(n, f) for n, f in inputs.items()),
            tuple(self._info(n, f) for n, f in outputs.items()),
            tuple(
                StateInfo(n, f"{n}_next", self._info(state_of[n].input, f, n), state_of[n].init)
                for n, f in states.items()
            ),
            tuple(self.low.float_nodes),
            dict(sorted(Counter(o.kind for o in main.operators).items())),
        )
        facts = model.facts()
        self.writer.metadata(METADATA, json.dumps(facts, sort_keys=True))
        return TfliteModel.from_facts(self.writer.finish(), facts)

    def _info(self, value: str, form: Form, name: str | None = None) -> TensorInfo:
        t = self.graph.types[value]
        entry = self.graph.meta.get("input_affine", {}).get(value)
        affine = None
        if entry is not None:
            pair = (np.atleast_1d(np.asarray(entry[k], np.float64)) for k in ("scale", "offset"))
            first, second = (v.tolist() for v in pair)
            affine = (first, second)
        # Runtimes read scales as float32.
        scale = float(np.float32(form.scale))
        graph_scale = t.scalar_scale
        if form.scale == graph_scale:
            graph_scale = scale = form.scale
        group = self.graph.frames_of(value)
        return TensorInfo(
            name or value, form.shape, form.dtype, scale, 0, graph_scale, affine, group
        )
