"""An ONNX file as it is, run in ONNX Runtime: what the Graph that was read from it must answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.frontend.onnx_unrounded import unrounded
from edgeseq.ir.graph import Graph

__all__ = ["NotComparable", "OnnxFile"]

Array = npt.NDArray[Any]

_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bool)": np.dtype(np.bool_),
    **{f"tensor({s}int{n})": np.dtype(f"{s}int{n}") for s in ("", "u") for n in (8, 16, 32, 64)},
}


class NotComparable(Exception):
    """The file cannot be run beside the Graph; the text says why. Never leaves this package."""


class OnnxFile:
    """Runs a file over the frames of the Graph that was read from it.

    Args:
        path: of the file.
        graph: as `edgeseq.frontend` read it; ``meta["onnx"]`` says how the file's inputs lie.
        values: inputs that were fixed, by name.
        rounding: keep the rounding of a quantised file, which the Graph does not imitate; else
            the real model that it rounds is run, and ``rounds`` says whether it is another.

    Raises:
        NotComparable: ONNX Runtime is missing or refuses the file, or it is not known how the
            file's inputs lie.
    """

    def __init__(
        self, path: Path, graph: Graph, values: Mapping[str, float], *, rounding: bool = False
    ) -> None:
        self._path, self._graph, self._values = path, graph, values
        said = graph.meta.get("onnx", {})
        self._mode = said.get("mode")
        self._sizes: dict[str, list[int]] = said["inputs"]
        self._time: dict[str, int] = said["time"]
        self._states = dict(said["states"])
        self._counts: list[str] = said.get("lengths", [])
        self._layouts: dict[str, str] = said["outputs"]
        try:
            import onnxruntime
        except ImportError as error:
            raise NotComparable(f"ONNX Runtime cannot be imported ({error})") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # At its highest level ONNX Runtime 1.31 crashes on recurrent operators of half precision.
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.graph_optimization_level = level
        try:
            real = None if rounding else unrounded(path)
        except Exception as error:  # a file may hold anything that the Graph does not need
            raise NotComparable(f"its rounding cannot be left out: {_line(error)}") from error
        self.rounds = real is not None
        try:
            self._session = onnxruntime.InferenceSession(
                str(path) if real is None else real,
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise NotComparable(f"ONNX Runtime refuses the file: {_line(error)}") from error
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._names = self._matched()
        self._windows = self._window_axes() if self._mode == "window" else []

    @property
    def halves(self) -> bool:
        """Whether the file computes in half precision."""
        from edgeseq.frontend.onnx_file import read_onnx

        constants = read_onnx(self._path).constants.values()
        return any(isinstance(a, np.ndarray) and a.dtype == np.float16 for a in constants)

    @property
    def longest(self) -> int | None:
        """Frames that the file takes at once, where it takes one length only."""
        fixed = [
            s for n, axis in self._time.items() if isinstance(s := self._inputs[n].shape[axis], int)
        ]
        return min(fixed, default=None)

    def __call__(self, frames: Sequence[Array]) -> list[Array]:
        """Outputs [B, T, *frame] of the Graph, from frames [B, T, *frame] of its inputs.

        Raises:
            NotComparable: ONNX Runtime fails on them, or an output lies in another way.
        """
        rows = []
        for b in range(len(frames[0])):
            one = [x[b] for x in frames]
            try:
                rows.append(self._whole(one) if self._mode == "stream" else self._steps(one))
            except NotComparable:
                raise
            except Exception as error:
                raise NotComparable(f"ONNX Runtime fails: {_line(error)}") from error
        return [np.stack(parts) for parts in zip(*rows, strict=True)]

    # -- internals -------------------------------------------------------------------------

    def _matched(self) -> list[str]:
        """The file's name of each input of the Graph."""
        known = self._graph.meta["onnx"].get("names", {})
        names = [n if (n := known.get(v)) in self._inputs else None for v in self._graph.inputs]
        if None in names or set(self._layouts) - {o.name for o in self._session.get_outputs()}:
            raise NotComparable("its inputs and outputs have other names than the Graph's")
        return [n for n in names if n is not None]

    def _window_axes(self) -> list[int]:
        """The axis of each of the file's inputs along which a window lies."""
        window, hop = (int(self._graph.meta.get(key, 0)) for key in ("window", "hop"))
        axes = []
        for value, name in zip(self._graph.inputs, self._names, strict=True):
            sizes, new = self._sizes[name], self._graph.types[value].size
            fits = [i for i, n in enumerate(sizes) if n == window]
            if self._states or len(fits) != 1 or math.prod(sizes) * hop != new * window:
                raise NotComparable("how windows lie in the file's inputs is not known")
            axes += fits
        return axes

    def _fixed(self) -> dict[str, Array]:
        """What is fed besides frames: fixed inputs, states before the first step, unread inputs."""
        feeds = {}
        for name, info in self._inputs.items():
            if name in self._names:
                continue
            sizes = self._sizes.get(name) or [s if isinstance(s, int) else 1 for s in info.shape]
            value = self._values.get(name, 0)
            feeds[name] = np.full(sizes, value, _type(info))
        return feeds

    def _feed(self, name: str, array: Array) -> Array:
        return np.ascontiguousarray(array, _type(self._inputs[name]))

    def _steps(self, frames: Sequence[Array]) -> list[Array]:
        feeds = self._fixed()
        wanted = [*self._layouts, *self._states.values()]
        rows: list[list[Array]] = [[] for _ in self._layouts]
        given = [self._seen(k, x) for k, x in enumerate(frames)]
        for t in range(len(frames[0])):
            for name, seen in zip(self._names, given, strict=True):
                feeds[name] = self._feed(name, seen(t))
            got = self._session.run(wanted, feeds)
            for row, y, out in zip(rows, got, self._graph.outputs, strict=False):
                row.append(self._shaped(y, self._graph.types[out].shape))
            for before, y in zip(self._states, got[len(rows) :], strict=True):
                feeds[before] = y.reshape(feeds[before].shape)
        return [np.stack(row) for row in rows]

    def _seen(self, k: int, frames: Array) -> Callable[[int], Array]:
        """What the file's k-th input sees at each step of the Graph."""
        sizes = self._sizes[self._names[k]]
        if not self._windows:
            return lambda t: frames[t].reshape(sizes)
        axis, length = self._windows[k], self._graph.meta["window"]
        rest = [n for i, n in enumerate(sizes) if i != axis]
        hop = frames.shape[1]
        joined = frames.reshape(-1, *rest)
        padded = np.concatenate([np.zeros((length - hop, *rest)), joined])
        return lambda t: np.moveaxis(padded[t * hop : t * hop + length], 0, axis)

    def _whole(self, frames: Sequence[Array]) -> list[Array]:
        feeds = self._fixed()
        for name in self._counts:
            feeds[name] = np.full_like(feeds[name], len(frames[0]))
        for name, x in zip(self._names, frames, strict=True):
            sizes = self._sizes[name]
            if name not in self._time:  # the file takes it once for all frames
                if np.any(x != x[:1]):
                    raise NotComparable(f"input {name!r}, which holds for a sequence, changes")
                feeds[name] = self._feed(name, x[0].reshape(sizes))
                continue
            axis = self._time[name]
            rest = [s for i, s in enumerate(sizes) if i != axis]
            feeds[name] = self._feed(name, np.moveaxis(x.reshape(len(x), *rest), 0, axis))
        outs = []
        for label, y, out in zip(
            self._layouts,
            self._session.run(list(self._layouts), feeds),
            self._graph.outputs,
            strict=True,
        ):
            layout, t = self._layouts[label], self._graph.types[out]
            if t.time is None:
                outs.append(self._shaped(y, t.shape))
            elif layout.count("T") != 1 or len(layout) != y.ndim:
                raise NotComparable(f"output {label!r} lies as {layout}")
            else:
                y = np.moveaxis(y, layout.index("T"), 0)
                outs.append(self._shaped(y, (len(y), *t.shape)))
        return outs

    @staticmethod
    def _shaped(y: Array, shape: tuple[int, ...]) -> Array:
        if y.size != math.prod(shape):
            raise NotComparable(f"an output is {list(y.shape)}, that of the Graph {list(shape)}")
        return np.asarray(y, np.float64).reshape(shape)


def _type(info: Any) -> np.dtype[Any]:
    return _TYPES.get(info.type, np.dtype(np.float32))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
