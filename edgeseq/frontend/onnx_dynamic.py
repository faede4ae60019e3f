"""Files whose activations are quantised while they run, as the real models that they round.

``DynamicQuantizeLinear`` chooses the scale of its input's integers by their largest value, an
integer product reads them, and what it gives is multiplied by that scale. Without the rounding the
scale says nothing: the numbers themselves are multiplied by the weights that the file stores.
edgeseq quantises the result with formats of its own, as it does a float model.

The contributed LSTM is laid out as ONNX Runtime's documentation of ``DynamicQuantizeLSTM`` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.frontend.program import Operation, Program, Ref, refs_of

__all__ = ["ROUNDED", "lstm_weight", "product_weight", "without_dynamic_scales"]

Array = npt.NDArray[Any]

ROUNDED = (
    "holds quantised activations: their rounding is not imitated, edgeseq quantises the real "
    "model with formats of its own"
)
"""What a user of a quantised file should know."""

DYNAMIC_LSTM = "com.microsoft.DynamicQuantizeLSTM"
_CHOOSES = "onnx.DynamicQuantizeLinear"
_PRODUCTS = {"onnx.MatMulInteger": "onnx.MatMul", "onnx.ConvInteger": "onnx.Conv"}


def without_dynamic_scales(program: Program) -> tuple[Program, bool]:
    """`program` with real products in the place of those whose scale is chosen while it runs.

    What is not of the known form stays as it is, and is refused later.

    Returns:
        The program, and whether there was anything of the kind.
    """
    known = _constants(program)
    programs = list(_programs(program))
    readers: dict[str, list[Operation]] = {}
    for part in programs:
        for op in part.operations:
            for ref in refs_of(list(op.args.values())):
                readers.setdefault(ref.name, []).append(op)
        for ref in refs_of(part.outputs):
            readers.setdefault(ref.name, []).append(Operation("", {}, ()))
    chosen = {
        op.outputs: op
        for part in programs
        for op in part.operations
        if op.target == _CHOOSES and _is_undone(op, readers, known)
    }
    stored = {outputs[0] for outputs in chosen}
    if not chosen and not any(op.target == DYNAMIC_LSTM for p in programs for op in p.operations):
        return program, False
    constants: dict[str, Any] = {}
    try:
        made = _rewritten(program, stored, known, constants)
    except ValueError:  # scales or zero points that do not fit: the node is refused as it is
        return program, False
    return replace(made, constants={**made.constants, **constants}), True


def product_weight(weight: Array, zero: Array | None, *, rows: bool = False) -> Array:
    """The integers of a product's weight as real numbers, without its scale.

    Args:
        weight: [K, N] or batched of a matrix, [out, in, ...] of a convolution.
        zero: its zero point: one, or one for each column (rows of a convolution).
        rows: whether it is that of a convolution.

    Raises:
        ValueError: the zero point does not fit the weight.
    """
    real = weight.astype(np.float32)
    if zero is None:
        return real
    axis = 0 if rows else weight.ndim - 1
    if weight.ndim < 1 or zero.size not in (1, weight.shape[axis]):
        raise ValueError("a zero point that does not fit its weight")
    spread = [-1 if i == axis and zero.size > 1 else 1 for i in range(weight.ndim)]
    return real - zero.astype(np.float32).reshape(spread)


def lstm_weight(weight: Array, scale: Array, zero: Array) -> Array:
    """Weights [directions, inputs, 4 H] of a `DynamicQuantizeLSTM` as ONNX's [directions, 4 H,
    inputs]; scale and zero point are [directions] or [directions, 4 H].

    Raises:
        ValueError: they do not fit the weights.
    """
    ways, _, gates = weight.shape
    if any(a.size not in (ways, ways * gates) for a in (scale, zero)):
        raise ValueError("a scale or zero point that does not fit its weight")
    wide = [np.reshape(a, (weight.shape[0], 1, -1)).astype(np.float32) for a in (scale, zero)]
    real = (weight.astype(np.float32) - wide[1]) * wide[0]
    return np.ascontiguousarray(np.swapaxes(real, 1, 2))


def _programs(program: Program) -> Iterator[Program]:
    yield program
    for op in program.operations:
        for arg in op.args.values():
            if isinstance(arg, Program):
                yield from _programs(arg)


def _constants(program: Program) -> dict[str, Array]:
    return {
        name: value
        for part in _programs(program)
        for name, value in part.constants.items()
        if isinstance(value, np.ndarray)
    }


def _input(op: Operation, i: int) -> Any:
    inputs = op.args.get("inputs", [])
    return inputs[i] if i < len(inputs) else None


def _array(op: Operation, i: int, known: dict[str, Array]) -> Array | None:
    ref = _input(op, i)
    return known.get(ref.name) if isinstance(ref, Ref) else None


def _is_undone(op: Operation, readers: dict[str, list[Operation]], known: dict[str, Array]) -> bool:
    """Whether all that read the integers of `op` undo its scale and zero point again.

    ``Mul(Cast(MatMulInteger(integers, W, zero, ...)), Mul(scale, scale of W))``, once or several
    times, or ``DequantizeLinear(integers, scale, zero)``.
    """
    value, scale, zero = (*op.outputs, "", "")[:3]
    undoing = ("onnx.DequantizeLinear", *_PRODUCTS)
    if not (value and scale and zero) or any(
        q.target not in undoing for q in readers.get(zero, [])
    ):
        return False
    ends = set()
    for q in readers.get(scale, []):
        if q.target == "onnx.DequantizeLinear":
            continue
        if q.target != "onnx.Mul" or all(_array(q, i, known) is None for i in (0, 1)):
            return False
        ends |= {id(end) for end in readers.get(q.outputs[0], [])}
    reached = set()
    for q in readers.get(value, []):
        if _input(q, 0) != Ref(value):
            return False
        if q.target == "onnx.DequantizeLinear":
            if (_input(q, 1), _input(q, 2)) != (Ref(scale), Ref(zero)):
                return False
            continue
        end = _end(q, readers)
        weights = [_input(q, 1), _input(q, 3)]
        if (
            end is None
            or _input(q, 2) != Ref(zero)
            or any(r is not None and r.name not in known for r in weights)
        ):
            return False
        reached.add(id(end))
    return ends == reached


def _end(product: Operation, readers: dict[str, list[Operation]]) -> Operation | None:
    """What multiplies a product by its scales, where nothing else reads the product."""
    if product.target not in _PRODUCTS:
        return None
    casts = readers.get(product.outputs[0], [])
    if len(casts) != 1 or casts[0].target != "onnx.Cast":
        return None
    ends = readers.get(casts[0].outputs[0], [])
    return ends[0] if len(ends) == 1 and ends[0].target == "onnx.Mul" else None


def _rewritten(
    program: Program, stored: set[str], known: dict[str, Array], constants: dict[str, Any]
) -> Program:
    def constant(like: Operation, value: Array, what: str) -> Ref:
        name = f"{like.outputs[0]}.{what}"
        constants[name] = value
        return Ref(name)

    operations = []
    for op in program.operations:
        args = {
            k: _rewritten(a, stored, known, constants) if isinstance(a, Program) else a
            for k, a in op.args.items()
        }
        source = _input(op, 0)
        reads = isinstance(source, Ref) and source.name in stored
        if op.target == _CHOOSES and op.outputs[0] in stored:
            constants[op.outputs[1]] = np.float32(1.0).reshape(())
            if len(op.outputs) > 2 and op.outputs[2]:
                constants[op.outputs[2]] = np.zeros((), np.uint8)
            op = replace(op, target="onnx.Identity", args=args, outputs=op.outputs[:1])
        elif op.target == "onnx.DequantizeLinear" and reads:
            op = replace(op, target="onnx.Identity", args={"inputs": [source]})
        elif op.target in _PRODUCTS and reads:
            weight = known[_input(op, 1).name]
            rows = op.target == "onnx.ConvInteger"
            real = product_weight(weight, _array(op, 3, known), rows=rows)
            inputs = [source, constant(op, real, "weight")] + ([None] if rows else [])
            args = {**args, "inputs": inputs}
            op = replace(op, target=_PRODUCTS[op.target], args=args)
        elif op.target == DYNAMIC_LSTM:
            op = _lstm(op, args, known, constant)
        else:
            op = replace(op, args=args)
        operations.append(op)
    return replace(program, operations=operations)


def _lstm(op: Operation, args: dict[str, Any], known: dict[str, Array], constant: Any) -> Operation:
    """The LSTM that a `DynamicQuantizeLSTM` of constant weights rounds."""
    inputs = [*args.get("inputs", []), *[None] * 12][:12]
    weights = []
    for what, places in (("input_weight", (1, 8, 9)), ("recurrent_weight", (2, 10, 11))):
        weight, scale, zero = (_array(op, i, known) for i in places)
        if weight is None or scale is None or zero is None or weight.ndim != 3:
            return op
        weights.append(constant(op, lstm_weight(weight, scale, zero), what))
    names = [*op.outputs, "", "", ""][:3]
    defaults = {"direction": "forward", "layout": 0, "input_forget": 0}
    return replace(
        op,
        target="onnx.LSTM",
        args={**defaults, **args, "inputs": [inputs[0], *weights, *inputs[3:8]]},
        outputs=tuple(names),
    )
