"""A live `torch.nn.Module` in, a Graph over time out: the only front end file that uses torch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseq.errors import ModelError, UnsupportedError
from edgeseq.frontend.lower import lower
from edgeseq.frontend.pt2 import read_program
from edgeseq.ir import Graph, run

if TYPE_CHECKING:
    import torch

__all__ = ["TORCH_TOLERANCE", "from_torch", "to_graph_layout", "to_torch_layout"]

TORCH_TOLERANCE = 1e-4
"""Largest difference between a module and its Graph, relative to the largest output. Float32
against float64 differs by about 1e-6; a wrong axis or gate by far more than 1e-2."""

# Whatever a user's forward or torch's exporter may raise; one message is made of all of them.
_RAISED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


def from_torch(
    module: torch.nn.Module,
    example: torch.Tensor | Sequence[torch.Tensor],
    *,
    name: str = "model",
    time_axis: int | None = None,
    batch_axis: int | None = None,
    confirm: bool = True,
) -> Graph:
    """Read a module into a real Graph over time.

    The module is exported in eval mode (its training flags are restored), written to a `.pt2` in
    memory and read as data, so that a live module and a saved file take one way.

    Args:
        module: takes float tensors with a batch and a time axis, e.g. [batch, time, features].
        example: its input, or a tuple of them; at least 2 frames. Its length and batch are
            examples: the Graph takes any. Exporting takes longer with more frames; 16 are enough.
        name: of the Graph, a C identifier.
        time_axis, batch_axis: of the inputs; found from the recurrent layers (else batch 0,
            time 1) if None. See `edgeseq.frontend.lower.lower`.
        confirm: run the module and the Graph at another length and batch, and compare them.

    Returns:
        The Graph; ``meta["axes"]`` holds the layouts of the module's inputs and outputs.

    Raises:
        UnsupportedError: the module cannot be exported, keeps state of its own, depends on the
            example's length, or holds operations that cannot be compiled (all are listed).
        ModelError: the module fails on the example.
    """
    import torch

    inputs = tuple(example) if isinstance(example, tuple | list) else (example,)
    where = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedError(
            "is a ScriptModule, which torch.export does not take",
            where=where,
            fix="pass the nn.Module it was made from",
        )
    if not isinstance(module, torch.nn.Module) or not all(
        isinstance(x, torch.Tensor) for x in inputs
    ):
        raise ModelError(
            "needs an nn.Module and an example of tensors",
            where=where,
            fix="edgeseq.from_torch(module, torch.zeros(1, 16, features))",
        )
    with _evaluating(module), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own notes, about torch's own modules
        _check_stateless(module, inputs, where)
        program = read_program(_exported(module, inputs, where), where=where)
        graph = lower(program, name=name, time_axis=time_axis, batch_axis=batch_axis)
        if confirm:
            _confirm(graph, module, inputs, where)
    return graph


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    flags = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in flags:
            m.training = training


def _call(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[Any]:
    """The tensors the module returns, in the order in which the exporter lists them."""
    from torch.utils._pytree import tree_leaves

    return [y for y in tree_leaves(module(*inputs)) if y is not None]


def _check_stateless(module: torch.nn.Module, inputs: Sequence[torch.Tensor], where: str) -> None:
    """Two calls on the same input must agree, or the exporter would lose what they carry."""
    import torch

    try:
        first, second = _call(module, inputs), _call(module, inputs)
    except _RAISED as e:
        raise ModelError(
            f"fails on the example {[list(x.shape) for x in inputs]}: {_first_line(e)}",
            where=where,
            fix="pass an example that the module accepts, [batch, time, features]",
        ) from e
    for a, b in zip(first, second, strict=False):
        if not isinstance(a, torch.Tensor) or not a.is_floating_point():
            continue
        # Exact on the CPU; a GPU may add in another order.
        slack = 0.0 if a.device.type == "cpu" else 1e-5
        if a.shape != b.shape or not torch.allclose(a, b, rtol=slack, atol=slack, equal_nan=True):
            raise UnsupportedError(
                "two calls on the same input give different outputs: the module is random or keeps "
                "state in its attributes, which an export loses",
                where=where,
                fix="keep state in a recurrent layer (nn.RNN, nn.GRU, nn.LSTM), and use no random "
                "numbers in forward",
            )


def _exported(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], where: str) -> bytes:
    import torch

    buffer = io.BytesIO()
    try:
        program = torch.export.export(module, inputs, strict=False).run_decompositions({})
        torch.export.save(program, buffer)
    except _RAISED as e:
        raise UnsupportedError(
            f"torch.export cannot export it: {_first_line(e)}",
            where=where,
            fix="no packed sequences and no control flow that depends on the data; "
            "torch.export.export(module, (example,)) shows the details",
        ) from e
    return buffer.getvalue()


def _first_line(e: BaseException) -> str:
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return (lines[0] if lines else type(e).__name__)[:300]


# -- comparing -----------------------------------------------------------------------------------


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
    return squeezed if "B" in layout else squeezed[None]


def to_torch_layout(array: np.ndarray, layout: str) -> np.ndarray:
    """The inverse of `to_graph_layout`."""
    order = sorted(
        (i for i in range(len(layout)) if layout[i] != "1"),
        key=lambda i: ("BTF".index(layout[i]), i),
    )
    back = array if "B" in layout else array[0]
    back = np.transpose(back, [order.index(i) for i in sorted(order)])
    for i, k in enumerate(layout):
        if k == "1":
            back = np.expand_dims(back, i)
    return back


def _confirm(
    graph: Graph, module: torch.nn.Module, inputs: Sequence[torch.Tensor], where: str
) -> None:
    """Compare the module with the Graph at a length and batch that are not the example's."""
    import torch

    layouts = graph.meta["axes"]
    rng = np.random.default_rng(0)
    for grow in (True, False):
        trial = []
        for x, layout in zip(inputs, layouts["inputs"], strict=True):
            array = x.detach().cpu().double().numpy()
            for axis, kind in enumerate(layout):
                n = array.shape[axis]
                if kind == "T" and grow:
                    array = np.take(array, np.arange(13 if n == 11 else 11) % n, axis)
                elif kind == "B" and grow and n > 1:
                    array = np.take(array, np.arange(n + 1) % n, axis)
            spread = float(array.std()) or 1.0
            trial.append(array + rng.normal(0, spread, array.shape))
        tensors = [
            torch.as_tensor(a).to(x.dtype).to(x.device) for a, x in zip(trial, inputs, strict=True)
        ]
        try:
            wanted = _call(module, tensors)
        except _RAISED:
            continue  # the module takes the example's sizes only: compare at those
        _compare(graph, tensors, wanted, where)
        return


def _compare(graph: Graph, tensors: Sequence[Any], wanted: Sequence[Any], where: str) -> None:
    layouts = graph.meta["axes"]
    arrays = [
        to_graph_layout(t.detach().cpu().double().numpy(), layout)
        for t, layout in zip(tensors, layouts["inputs"], strict=True)
    ]
    for i, (y, t, layout) in enumerate(
        zip(run(graph, *arrays), wanted, layouts["outputs"], strict=True)
    ):
        want = t.detach().cpu().double().numpy()
        shape = [list(x.shape) for x in tensors]
        fix = (
            "something in the model depends on the example's length or batch: derive sizes from "
            "x.shape, and do not use literals equal to them"
        )
        have = to_torch_layout(y, layout)
        if have.shape != want.shape:
            raise UnsupportedError(
                f"output {i} is {list(want.shape)} for inputs {shape}, by the exported program "
                f"{list(have.shape)}",
                where=where,
                fix=fix,
            )
        error = float(np.abs(have - want).max(initial=0.0))
        limit = TORCH_TOLERANCE * max(1.0, float(np.abs(want).max(initial=0.0)))
        if not error <= limit:
            raise UnsupportedError(
                f"output {i} of the exported program differs by {error:.2g} from the module for "
                f"inputs {shape} (allowed: {limit:.2g})",
                where=where,
                fix=fix,
            )
