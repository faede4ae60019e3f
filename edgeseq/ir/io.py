"""What goes into a Graph and what comes out of it: raw, prepared and stored frames.

Three forms of one value:

*raw*       as the sensor or the user has it, real;
*prepared*  ``(raw - offset) / scale``, the input normalisation that was taken out of the model,
            per channel of the last axis, in ``Graph.meta["input_affine"]``; a real Graph reads it;
*stored*    the integers an integer Graph reads:
            ``sat(floor(prepared / type.scale + 0.5))``, rounded half up.

A value without an entry in ``input_affine`` (every output, every state) is prepared as it is raw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import DataError, GraphError, unknown_name
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Graph

__all__ = ["affine_of", "from_stored", "prepare", "store_prepared", "to_stored"]

Array = npt.NDArray[Any]


def affine_of(graph: Graph, name: str) -> tuple[Array, Array]:
    """Scale and offset of an input, ``raw = prepared * scale + offset``.

    Returns:
        Two float64 arrays that broadcast against the last axis: [C] each, or [] where the input
        has no affine (1 and 0).

    Raises:
        GraphError: no value of that name, or an affine that does not fit its shape.
    """
    if name not in graph.types:
        raise GraphError(
            unknown_name("value", name, [*graph.inputs, *graph.outputs]),
            where=f"graph {graph.name!r}",
        )
    entry = graph.meta.get("input_affine", {}).get(name)
    if entry is None:
        return np.ones(()), np.zeros(())
    scale, offset = (np.asarray(entry[key], np.float64) for key in ("scale", "offset"))
    shape = graph.types[name].shape
    if any(a.ndim > 1 or (a.ndim and a.shape != shape[-1:]) for a in (scale, offset)):
        raise GraphError(
            f"the input affine has {scale.size} and {offset.size} entries for shape {list(shape)}",
            where=f"input {name!r}",
        )
    return scale, offset


def prepare(graph: Graph, name: str, raw: npt.ArrayLike) -> Array:
    """Prepared frames of an input: ``(raw - offset) / scale`` in float64.

    Args:
        graph: real or integer.
        name: of the input.
        raw: [..., *shape], any real dtype.

    Returns:
        float64 of the same shape.

    Raises:
        DataError: wrong trailing shape, or NaN.
        GraphError: no such value.
    """
    array = _frames(graph, name, raw)
    scale, offset = affine_of(graph, name)
    return (array - offset) / scale


def to_stored(graph: Graph, name: str, raw: npt.ArrayLike) -> Array:
    """What the Graph reads for raw frames of an input.

    Args:
        graph: an integer Graph (a real one stores what `prepare` returns).
        name: of the input.
        raw: [..., *shape], any real dtype; infinities saturate.

    Returns:
        Array of the value's element type, same shape.

    Raises:
        DataError: wrong trailing shape, or NaN.
        GraphError: no such value.
    """
    return store_prepared(graph, name, prepare(graph, name, raw))


def store_prepared(graph: Graph, name: str, prepared: Array) -> Array:
    """What the Graph reads for prepared frames of an input: the last step of `to_stored`."""
    t = graph.types[name]
    if not t.is_integer:
        return prepared
    lo, hi = INT_RANGE[t.dtype]
    return np.clip(np.floor(prepared / t.scalar_scale + 0.5), lo, hi).astype(t.numpy)


def from_stored(graph: Graph, name: str, stored: npt.ArrayLike) -> Array:
    """The real (raw) numbers that stored integers of a value mean.

    Args:
        graph: an integer Graph (a real one: its numbers are returned, affine undone).
        name: of an input, output or state.
        stored: [..., *shape].

    Returns:
        float64 of the same shape.

    Raises:
        DataError: wrong trailing shape, or NaN.
        GraphError: no such value.
    """
    array = _frames(graph, name, stored)
    t = graph.types[name]
    scale, offset = affine_of(graph, name)
    return (array * t.scalar_scale if t.is_integer else array) * scale + offset


def _frames(graph: Graph, name: str, values: npt.ArrayLike) -> Array:
    affine_of(graph, name)
    array = np.asarray(values, np.float64)
    shape = graph.types[name].shape
    if graph.frames_of(name) > 1:  # the axis of a step's frames belongs to the caller's [...]
        shape = shape[1:]
    if array.shape[array.ndim - len(shape) :] != shape or array.ndim < len(shape):
        raise DataError(
            f"got shape {list(array.shape)}, a frame is {list(shape)}",
            where=f"value {name!r} of {graph.name!r}",
            fix="give [..., channels] in the order of the model's input",
        )
    if np.isnan(array).any():
        raise DataError(
            f"{int(np.isnan(array).sum())} elements are NaN",
            where=f"value {name!r} of {graph.name!r}",
            fix="remove or fill the gaps in the recording",
        )
    return array
