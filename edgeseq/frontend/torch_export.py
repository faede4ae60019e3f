"""A live `torch.nn.Module` in, a Graph out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.errors import ModelError, UnsupportedError, UsageError
from edgeseq.frontend.lower import lowered
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.pairing import pair_states
from edgeseq.frontend.program import Program, renamed
from edgeseq.frontend.pt2 import read_program
from edgeseq.frontend.readings import Carried, Lowered
from edgeseq.ir import Graph

if TYPE_CHECKING:
    import torch

    from edgeseq.frontend.torch_calls import Subject

__all__ = ["TORCH_TOLERANCE", "from_torch", "to_graph_layout", "to_torch_layout"]

TORCH_TOLERANCE = 1e-4
"""Largest difference between a module and its Graph, relative to the largest output. Float32
against float64 differs by about 1e-6; a wrong axis or gate by far more than 1e-2."""

_State = tuple[int | str, int | str]


def from_torch(
    module: torch.nn.Module,
    example: Any,
    *,
    state: Sequence[_State] | Mapping[int | str, int | str] | None = None,
    window: int | None = None,
    hop: int | None = None,
    context: int | None = None,
    time_axis: int | Mapping[str, int] | None = None,
    batch_axis: int | None = None,
    name: str = "model",
    confirm: bool = True,
) -> Graph:
    """Read a module into a real Graph.

    The module is exported in eval mode, written to a `.pt2` in memory and read as data, so that a
    live module and a saved file take one way. It is left exactly as it was.

    What a Graph becomes: a stream over time where the example has several frames; one step where
    the module passes its states in and out, or keeps them in its attributes, and the example has
    one frame; one step, too, where the module has ``step(x_t, state) -> (y_t, state)`` and
    ``initial_state(batch)``; a window where `window` is given.

    Args:
        module: takes tensors with a batch and a time axis, e.g. [batch, time, features].
        example: its input, or a tuple of its inputs (which may be nested, as LSTM states are); at
            least 2 frames, where it is no step. Its length and batch are examples: a stream takes
            any. Exporting takes longer with more frames; 16 are enough.
        state: pairs (input, output) that carry the same state, each by number (of all tensors, in
            order) or name, beyond those that are recognised. A state begins at its value in the
            example where that is one number throughout, else at zero.
        window: frames of a window: the model is compiled for whole windows, each by itself.
        hop: new frames from one window to the next; `window` if None.
        context: frames that attention looks back on in a stream, its own included; None takes the
            width of a banded mask.
        time_axis: axis of the inputs that is time, or by name of the input; found if None.
        batch_axis: axis of the inputs that is the batch; found if None.
        name: of the Graph, a C identifier.
        confirm: run the module and the Graph on other data, at another length and batch where it
            takes one, and compare them; measure how far the module looks ahead.

    Returns:
        The Graph. ``meta["mode"]`` is 'stream', 'step' or 'window'; ``meta["axes"]`` holds the
        layouts of the module's inputs and outputs, ``meta["states"]`` what was recognised.

    Raises:
        UnsupportedError: the module cannot be exported, is random, depends on the example's length,
            or holds operations that cannot be compiled (all are listed in `problems`).
        ModelError: the module fails on the example.
        UsageError: options that do not fit the module.
    """
    import torch

    from edgeseq.frontend.torch_calls import subject_of

    where = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise UnsupportedError(
            "is TorchScript, which torch.export does not take",
            where=where,
            fix="pass the nn.Module it was made from; a file: torch.export.save("
            "torch.export.export(model.eval(), (example,)), 'model.pt2')",
        )
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            "needs an nn.Module and an example of tensors",
            where=where,
            fix="edgeseq.from_torch(module, torch.zeros(1, 16, features))",
        )
    options = ImportOptions(
        time_axis=_positive(time_axis, example),
        batch_axis=_positive(batch_axis, example),
        window=window,
        hop=hop,
        context=context,
    )
    with _undisturbed(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own notes, about torch's own modules
        subject = subject_of(module, example, options, where)
        program = _program(subject, where)
        states = _states(program, subject, state, options)
        return _first(subject, program, states, options, name, confirm).graph


def _first(
    subject: Subject,
    program: Program,
    states: Sequence[Carried],
    options: ImportOptions,
    name: str,
    confirm: bool,
) -> Lowered:
    """The first way to read the program that can be lowered, and agrees with the module."""
    from edgeseq.frontend.torch_confirm import compare

    options = replace(options, values={})
    if subject.is_step:
        options = replace(options, time_axis=None, batch_axis=None)
    refused: UnsupportedError | None = None
    ways = lowered(program, name=name, options=options, states=states, compared=confirm)
    if subject.is_step:
        ways = (w for w in ways if w.reading.mode == "step")
    for way in ways:
        way.graph.meta.setdefault("notes", [])
        way.graph.meta["notes"] += [n for n in subject.notes if n not in way.graph.meta["notes"]]
        if not way.graph.meta["notes"]:
            del way.graph.meta["notes"]
        if not confirm:
            return way
        try:
            compare(way, program, subject)
        except UnsupportedError as e:
            refused = refused or e
            continue
        return way
    if refused is not None:
        raise refused
    raise UnsupportedError(
        "cannot be read as a step", where=subject.where, fix="let step take and return tensors"
    )


def _positive(axis: Any, example: Any) -> Any:
    """Axes counted from the end, from the front: by the first tensor of the example."""
    import torch
    from torch.utils._pytree import tree_leaves

    if isinstance(axis, Mapping):
        return {k: _positive(v, example) for k, v in axis.items()}
    first = next((x for x in tree_leaves(example) if isinstance(x, torch.Tensor)), None)
    if axis is None or first is None:
        return axis
    rank = first.dim()
    if not -rank <= axis < rank:
        raise UsageError(f"axis {axis}: the example has {rank} axes")
    return axis % rank


@contextmanager
def _undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """The module in eval mode; afterwards everything as it was."""
    import torch

    from edgeseq.frontend.torch_attributes import Attributes

    flags = [(m, m.training) for m in module.modules()]
    kept = Attributes(module).snapshot()
    fast = torch.backends.mha.get_fastpath_enabled()
    random = torch.get_rng_state()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.set_rng_state(random)
        kept.restore()
        for m, training in flags:
            m.training = training


# -- the program ---------------------------------------------------------------------------------


def _program(subject: Subject, where: str) -> Program:
    """What the exporter makes of the subject, read as data."""
    import torch

    from edgeseq.frontend.torch_calls import RAISED, first_line

    buffer = io.BytesIO()
    try:
        with subject.exporting():
            exported = torch.export.export(subject.module, subject.inputs, strict=False)
            torch.export.save(exported.run_decompositions({}), buffer)
    except RAISED as e:
        raise UnsupportedError(
            f"torch.export cannot export it: {first_line(e)}",
            where=where,
            fix="no control flow that depends on the data; "
            "torch.export.export(module, (example,)) shows the details",
        ) from e
    program = read_program(buffer.getvalue(), where=where)
    if subject.prefix:
        for op in program.operations:
            path = op.path.removeprefix(subject.prefix)
            op.path = path.lstrip(".")
        program = renamed(program, dict(zip(program.inputs, subject.names(), strict=False)))
    return program


def _states(
    program: Program, subject: Subject, state: Any, options: ImportOptions
) -> list[Carried]:
    """The states of the subject: its own, those that the user states, those that are recognised."""
    from edgeseq.frontend.pairing import written_states

    given = list(state.items()) if isinstance(state, Mapping) else list(state or ())
    if subject.states:
        count = len(subject.states)
        if given and not subject.is_step:
            raise UsageError(
                "the module keeps its state in its attributes, and `state` names inputs",
                where=subject.where,
                fix="pass all states as inputs, or none",
            )
        names = program.inputs[len(program.inputs) - count :]
        first = len(program.outputs) - count
        return [
            Carried(name, program.outputs[first + i], s.init, s.label, s.label, s.how, first + i)
            for i, (name, s) in enumerate(zip(names, subject.states, strict=True))
        ]
    given += [p for p in subject.pairs if p[0] not in {g[0] for g in given}]
    states = pair_states(program, given, {}, options)
    begun = []
    for s in states:
        value = subject.example_of(program.inputs.index(s.name))
        if value is not None and value.size and np.ptp(value) == 0:
            s = replace(s, init=np.broadcast_to(value, s.init.shape))
        begun.append(s)
    return [*begun, *written_states(program)]


# -- layouts -------------------------------------------------------------------------------------


def to_graph_layout(array: np.ndarray, layout: str) -> np.ndarray:
    """A tensor of the module in the layout of the Graph: [batch, time, *frame].

    Args:
        array: as the module takes or returns it.
        layout: one letter per axis, from ``graph.meta["axes"]``.
    """
    order = sorted(range(len(layout)), key=lambda i: ("BT1F".index(layout[i]), i))
    order = [i for i in order if layout[i] != "1"]
    squeezed = np.transpose(array, [*order, *(i for i, k in enumerate(layout) if k == "1")])
    squeezed = squeezed.reshape(squeezed.shape[: len(order)])
    if "F" not in layout:  # a frame of one number is [1]
        squeezed = squeezed[..., None]
    return squeezed if "B" in layout else squeezed[None]


def to_torch_layout(array: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `to_graph_layout`."""
    order = sorted(
        (i for i in range(len(layout)) if layout[i] != "1"),
        key=lambda i: ("BTF".index(layout[i]), i),
    )
    back = array if "B" in layout else array[0]
    back = back.reshape(back.shape[: len(order)])  # a frame of one number is [1]
    back = np.transpose(back, [order.index(i) for i in sorted(order)])
    for i, k in enumerate(layout):
        if k == "1":
            back = np.expand_dims(back, i)
    return back
