"""RNN, GRU and LSTM operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeseq.frontend import cells
from edgeseq.frontend.axes import LayoutError, Value, size_of
from edgeseq.frontend.build import views
from edgeseq.frontend.build.recurrent import (
    Direction,
    Initial,
    both_directions,
    run_layer,
    stacked_states,
)
from edgeseq.frontend.cells import Activation, Weights
from edgeseq.frontend.context import Array, Context
from edgeseq.frontend.onnx_registry import Inputs, constant, ints, onnx

_PLAIN = {"sigmoid": "sigmoid", "tanh": "tanh", "softsign": "softsign", "softplus": "softplus"}


def _activations(names: Sequence[str], alpha: Any, beta: Any) -> list[Activation]:
    """ONNX's activation names with their parameters, which are given to those that take any."""
    alphas, betas = list(alpha or []), list(beta or [])
    default = {
        "hardsigmoid": (0.2, 0.5),
        "affine": (1.0, 0.0),
        "leakyrelu": (0.01, None),
        "scaledtanh": (1.0, 1.0),
        "elu": (1.0, None),
        "thresholdedrelu": (1.0, None),
    }
    out = []
    for name in names:
        key = name.lower()
        first, second = default.get(key, (None, None))
        a = float(alphas.pop(0)) if first is not None and alphas else first
        b = float(betas.pop(0)) if second is not None and betas else second
        if key in _PLAIN:
            out.append(Activation(_PLAIN[key]))
        elif key == "relu":
            out.append(cells.RELU)
        elif key == "affine":
            out.append(Activation("affine", a or 0.0, b or 0.0))
        elif key == "hardsigmoid":
            out.append(Activation("hard_sigmoid", a or 0.0, b or 0.0))
        elif key == "leakyrelu":
            out.append(Activation("leaky", 0.0 if a is None else a))
        elif key == "scaledtanh":
            out.append(Activation("tanh", a or 0.0, b or 0.0, scaled=True))
        elif key == "elu" and a == 1.0:
            out.append(Activation("elu"))
        else:
            raise LayoutError(f"has the activation {name!r}", "use Sigmoid, Tanh, Relu, ...")
    return out


def _directions(direction: str) -> list[tuple[str, bool]]:
    known = {
        "forward": [("forward", False)],
        "reverse": [("backward", True)],
        "bidirectional": [("forward", False), ("backward", True)],
    }
    if direction not in known:
        raise LayoutError(f"has the direction {direction!r}")
    return known[direction]


def _initial(c: Context, x: Any, i: int, layout: int, hidden: int) -> Initial:
    """State of direction i: [batch, H]."""
    if x is None:
        return np.zeros(hidden)
    width = x.sizes[-1:] if isinstance(x, Value) else np.shape(x)[-1:]
    if width != (hidden,):
        raise LayoutError(f"starts from a state of {list(width)} elements, not {hidden}")
    if isinstance(x, Value):
        return views.select(c, x, 1 if layout else 0, i)
    return np.take(np.asarray(x, np.float64), i, axis=1 if layout else 0)


def _weights(x: Inputs, i: int, gates: int, hidden: int, order: Sequence[int]) -> Weights:
    """Weights of direction i with gates in PyTorch's order."""
    w, r = (constant(x[k], "weight")[i].astype(np.float64) for k in (1, 2))
    if w.ndim != 2 or r.shape != (gates * hidden, hidden) or w.shape[0] != gates * hidden:
        raise LayoutError(f"has weights of {list(w.shape)} and {list(r.shape)} for {hidden} units")

    def turned(a: Array) -> Array:
        parts = a.reshape(gates, hidden, *a.shape[1:])
        return parts[list(order)].reshape(a.shape)

    if len(x) > 3 and x[3] is not None:
        b = constant(x[3], "bias")[i].astype(np.float64)
        half = gates * hidden
        return Weights(turned(w), turned(r), turned(b[:half]), turned(b[half:]))
    return Weights(turned(w), turned(r), None, None)


def _check_lengths(x: Inputs, v: Value) -> None:
    lengths = ints(x[4], "sequence lengths") if len(x) > 4 else None
    if lengths is not None and any(n != size_of(v.axes[0]) for n in lengths):
        raise LayoutError("runs over sequences of different lengths", "leave sequence_lens out")


def _layer(
    c: Context,
    x: Inputs,
    layout: int,
    directions: list[Direction],
    hidden: int,
    states: int,
) -> list[Any]:
    """Outputs Y, Y_h (and Y_c) as ONNX lays them out."""
    v = x[0]
    if not isinstance(v, Value):
        raise LayoutError("has a constant input")
    if layout:
        v = views.permute(c, v, [1, 0, 2])
    _check_lengths(x, v)
    read = [bool(o) and o in c.used for o in c.op.outputs]
    read += [False] * (1 + states - len(read))
    outcomes = [run_layer(c, v, d, final=read[1 : 1 + states]) for d in directions]
    # Y [time, directions, batch, H]
    if len(outcomes) == 1:
        y = views.unsqueeze(c, outcomes[0].output, [1])
    else:
        flat = both_directions(c, outcomes)  # [time, batch, directions * H]
        n = len(outcomes)
        split = views.reshape(c, flat, [*flat.sizes[:2], n, hidden])
        y = views.permute(c, split, [0, 2, 1, 3])
    results: list[Any] = [views.permute(c, y, [2, 0, 1, 3]) if layout else y]
    for k in range(states):
        finals = [o.finals[k] for o in outcomes]
        if not read[1 + k]:
            results.append(y)
            continue
        if all(f is None for f in finals):
            raise LayoutError(
                "gives the state of its backward direction at the first frame",
                "use its outputs, or compile in window mode (--window N --hop N)",
            )
        h = stacked_states(c, finals)
        results.append(views.permute(c, h, [1, 0, 2]) if layout else h)
    return results


def _hidden(x: Inputs, hidden_size: int | None) -> int:
    return hidden_size or int(constant(x[2], "recurrence").shape[-1])


@onnx("RNN")
def _rnn(
    c: Context, x: Inputs, activations: Any = None, activation_alpha: Any = None,
    activation_beta: Any = None, clip: float | None = None, direction: str = "forward",
    hidden_size: int | None = None, layout: int = 0, **_: Any,
) -> list[Any]:  # fmt: skip
    size = _hidden(x, hidden_size)
    ways = _directions(direction)
    acts = _activations(activations or ["Tanh"] * len(ways), activation_alpha, activation_beta)
    directions = []
    for i, (label, reverse) in enumerate(ways):
        w = _weights(x, i, 1, size, [0])
        h0 = _initial(c, x[5] if len(x) > 5 else None, i, layout, size)

        def body(name: str, rows: Any, init: Any, w: Weights = w, act: Activation = acts[i]) -> Any:
            return cells.rnn(name, w, init[0], act=act, clip=clip or None, rows=rows)

        directions.append(Direction(label, body, [h0], reverse))
    return _layer(c, x, layout, directions, size, 1)


@onnx("GRU")
def _gru(
    c: Context, x: Inputs, activations: Any = None, activation_alpha: Any = None,
    activation_beta: Any = None, clip: float | None = None, direction: str = "forward",
    hidden_size: int | None = None, layout: int = 0, linear_before_reset: int = 0, **_: Any,
) -> list[Any]:  # fmt: skip
    size = _hidden(x, hidden_size)
    ways = _directions(direction)
    names = activations or ["Sigmoid", "Tanh"] * len(ways)
    acts = _activations(names, activation_alpha, activation_beta)
    directions = []
    for i, (label, reverse) in enumerate(ways):
        w = _weights(x, i, 3, size, [1, 0, 2])  # ONNX: z, r, h
        h0 = _initial(c, x[5] if len(x) > 5 else None, i, layout, size)
        pair = acts[2 * i : 2 * i + 2]

        def body(name: str, rows: Any, init: Any, w: Weights = w, pair: Any = pair) -> Any:
            return cells.gru(
                name, w, init[0], acts=pair, clip=clip or None,
                reset_before=not linear_before_reset, rows=rows,
            )  # fmt: skip

        directions.append(Direction(label, body, [h0], reverse))
    return _layer(c, x, layout, directions, size, 1)


@onnx("LSTM")
def _lstm(
    c: Context, x: Inputs, activations: Any = None, activation_alpha: Any = None,
    activation_beta: Any = None, clip: float | None = None, direction: str = "forward",
    hidden_size: int | None = None, input_forget: int = 0, layout: int = 0, **_: Any,
) -> list[Any]:  # fmt: skip
    size = _hidden(x, hidden_size)
    ways = _directions(direction)
    names = activations or ["Sigmoid", "Tanh", "Tanh"] * len(ways)
    acts = _activations(names, activation_alpha, activation_beta)
    peep = None if len(x) < 8 or x[7] is None else constant(x[7], "peephole").astype(np.float64)
    cell_read = len(c.op.outputs) > 2 and c.op.outputs[2] in c.used
    directions = []
    for i, (label, reverse) in enumerate(ways):
        w = _weights(x, i, 4, size, [0, 2, 3, 1])  # ONNX: i, o, f, c
        h0 = _initial(c, x[5] if len(x) > 5 else None, i, layout, size)
        c0 = _initial(c, x[6] if len(x) > 6 else None, i, layout, size)
        three = acts[3 * i : 3 * i + 3]
        # ONNX: i, o, f
        p = None if peep is None else peep[i].reshape(3, size)[[0, 2, 1]]
        if p is not None and not np.any(p):
            p = None

        def body(
            name: str, rows: Any, init: Any, w: Weights = w, three: Any = three, p: Any = p
        ) -> Any:
            return cells.lstm(
                name, w, init[0], init[1], cell_output=cell_read, acts=three, clip=clip or None,
                peephole=p, coupled=bool(input_forget), rows=rows,
            )  # fmt: skip

        directions.append(Direction(label, body, [h0, c0], reverse))
    return _layer(c, x, layout, directions, size, 2)
