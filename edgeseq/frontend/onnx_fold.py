"""ONNX operators on constants alone: shapes, masks, tables, packed weights.

Operators are in the normal form of `edgeseq.frontend.onnx_file`. The frequent ones are written with
numpy (`_onnx_direct`, `_onnx_shapes`), others are left to onnx's reference (`_onnx_reference`), and
loops and branches whose inputs are constants run here. Everything is bounded before it is made;
what is random, or not listed, is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseq.frontend import _onnx_direct, _onnx_shapes  # noqa: F401 (they fill DIRECT)
from edgeseq.frontend._onnx_calls import DIRECT, Array, Budget, Call, FoldError, Room, axis_of
from edgeseq.frontend._onnx_reference import REFERENCE, by_reference
from edgeseq.frontend.fold import MAX_ELEMENTS
from edgeseq.frontend.program import Operation, Program

__all__ = ["Budget", "FoldError", "can_fold", "fold_onnx"]

# Operators that the loops and branches of one call run.
MAX_STEPS = 20_000
_CONTROL = frozenset({"If", "Loop", "Scan"})
_RANDOM = ("Random", "Bernoulli", "Multinomial")

# Operators trust the schema, which a damaged file does not keep to; so does onnx's reference.
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def can_fold(op: Operation) -> bool:
    """Whether there is a rule for the operator on constants; its arguments may be refused yet."""
    name = op.target.removeprefix("onnx.")
    return op.target.startswith("onnx.") and (
        name in DIRECT or name in REFERENCE or name in _CONTROL
    )


def fold_onnx(
    op: Operation,
    args: Sequence[Array | None],
    bound: int = MAX_ELEMENTS,
    *,
    outer: Mapping[str, Array] | None = None,
    budget: Budget | None = None,
) -> list[Any]:
    """Results of one operator on constants.

    Args:
        op: an operation of a program that `read_onnx` made.
        args: its inputs, None where left out.
        bound: elements of the largest result, or of all that a loop makes.
        outer: values that a body or branch reads from outside (`Program.free`).
        budget: one for all operators of a model bounds the time they take together.

    Returns:
        An array for each of the operation's outputs; possibly None where the name is ''. Arrays may
        share memory with the inputs.

    Raises:
        FoldError: there is no rule, the arguments do not fit the operator, or the result would be
            too large.
    """
    room = Room(bound, Budget() if budget is None else budget)
    return _Folding(room, dict(outer or {})).operation(op, list(args))


@dataclass
class _Folding:
    """One call, loops and branches inside included.

    Attributes:
        room: bounds each result.
        values: what is known by name.
        steps, made: operators run and elements made by bodies so far.
    """

    room: Room
    values: dict[str, Any]
    steps: int = 0
    made: int = 0

    def operation(self, op: Operation, args: list[Any]) -> list[Any]:
        name = op.target.removeprefix("onnx.")
        if not op.target.startswith("onnx."):
            raise FoldError(f"{op.target} is not an operator of ONNX")
        if name.startswith(_RANDOM):
            raise FoldError(f"{name} gives other numbers each time")
        if any(a is not None and a.dtype.kind == "O" for a in args):
            raise FoldError("strings are not computed with")
        for a in args:
            if a is not None:  # an axis of no elements hides the sizes of the others
                self.room.sizes([max(n, 1) for n in a.shape])
        attrs = {k: v for k, v in op.args.items() if k != "inputs"}
        call = Call(name, args, attrs, self.room)
        count = max((i + 1 for i, out in enumerate(op.outputs) if out), default=0)
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results = self._results(call, count)
        except FoldError:
            raise
        except _FAILURES as e:
            text = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise FoldError(f"{name} does not fit its arguments: {text[:120]}") from None
        results = list(results) if isinstance(results, list | tuple) else [results]
        found: list[Any] = [None if r is None else np.asarray(r) for r in results[:count]]
        found += [None] * (len(op.outputs) - len(found))
        for out, value in zip(op.outputs, found, strict=True):
            if out and (value is None or value.dtype.kind not in "biufc"):
                raise FoldError(f"{name} does not make {out[:80]!r}")
            if value is not None:
                self.room.sizes([value.size])
                self.room.budget.spend(5 * value.size)
        return found

    def _results(self, call: Call, count: int) -> Any:
        if call.name in DIRECT:
            self.room.budget.spend(5_000 + 5 * sum(a.size for a in call.inputs if a is not None))
            return DIRECT[call.name](call)
        if call.name in REFERENCE:
            return by_reference(call, count)
        if call.name == "If":
            taken = "then_branch" if _truth(call.inputs[0]) else "else_branch"
            return self._run(call.attrs[taken], [])
        if call.name == "Loop":
            return self._loop(call)
        if call.name == "Scan":
            return self._scan(call)
        raise FoldError(f"{call.name} is not computed on constants")

    # -- bodies ----------------------------------------------------------------------------

    def _run(self, program: Program, args: Sequence[Any]) -> list[Any]:
        """Outputs of a nested program; a name stands for one value, so all share one table."""
        self._spend(1, 0)
        self.values |= program.constants
        self.values |= dict(zip(program.inputs, args, strict=True))
        for op in program.operations:
            given = [None if r is None else self._value(r.name) for r in op.args["inputs"]]
            results = self.operation(op, given)
            self._spend(1, sum(r.size for r in results if r is not None))
            self.values |= {n: r for n, r in zip(op.outputs, results, strict=True) if n}
        return [self._value(r.name) for r in program.outputs]

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise FoldError(f"{name[:80]!r} is not a constant")
        return self.values[name]

    def _spend(self, steps: int, elements: int) -> None:
        self.steps += steps
        self.made += elements
        if self.steps > MAX_STEPS or self.made > 4 * self.room.bound:
            raise FoldError(f"a loop of more than {MAX_STEPS} steps, or too large")

    def _loop(self, call: Call) -> list[Any]:
        trips, going, *state = call.inputs
        body = call.attrs["body"]
        stacked: list[list[Any]] = [[] for _ in range(len(body.outputs) - 1 - len(state))]
        turn = 0
        alive = going is None or _truth(going)
        while alive and (trips is None or turn < int(trips.reshape(()))):
            going, *results = self._run(body, [np.array(turn, np.int64), np.array(True), *state])
            alive = _truth(going)
            state = results[: len(state)]
            for column, value in zip(stacked, results[len(state) :], strict=True):
                column.append(value)
            turn += 1
        return state + [self._stack(column, 0) for column in stacked]

    def _scan(self, call: Call) -> list[Any]:
        body, attrs = call.attrs["body"], call.attrs
        count = len(call.inputs) - attrs["num_scan_inputs"]
        state, scanned = call.inputs[:count], call.inputs[count:]
        axes = [axis_of(a, x.ndim) for a, x in zip(attrs["scan_input_axes"], scanned, strict=True)]
        lengths = {x.shape[a] for a, x in zip(axes, scanned, strict=True)}
        if len(lengths) != 1:
            raise FoldError(f"scans lengths {sorted(lengths)}")
        length = lengths.pop()
        stacked: list[list[Any]] = [[] for _ in range(len(body.outputs) - count)]
        for turn in range(length):
            slices = []
            back = attrs["scan_input_directions"]
            for x, axis, reverse in zip(scanned, axes, back, strict=True):
                slices.append(np.take(x, length - 1 - turn if reverse else turn, axis))
            results = self._run(body, [*state, *slices])
            state = results[:count]
            for column, value in zip(stacked, results[count:], strict=True):
                column.append(value)
        outs = zip(stacked, attrs["scan_output_axes"], attrs["scan_output_directions"], strict=True)
        return state + [self._stack(c[::-1] if reverse else c, axis) for c, axis, reverse in outs]

    def _stack(self, column: list[Any], axis: int) -> Array:
        if not column:
            raise FoldError("a loop that makes nothing")
        self.room.sizes([sum(np.size(v) for v in column)])
        return np.stack(column, axis)


def _truth(x: Array) -> bool:
    """A condition: one element."""
    if x.size != 1:
        raise FoldError(f"a condition of {x.size} elements")
    return bool(x.reshape(()))
