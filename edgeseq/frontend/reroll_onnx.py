"""What operators of ONNX say of an unrolled loop: as both of PyTorch's exporters write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend._onnx_calls import Budget
from edgeseq.frontend.onnx_fold import FoldError, can_fold, fold_onnx
from edgeseq.frontend.program import Operation, Program, Ref, refs_of
from edgeseq.frontend.reroll import LOOP, Loop, chained
from edgeseq.frontend.reroll_slots import by_slots
from edgeseq.frontend.rolled import Element, Write, names_of

__all__ = ["OnnxDialect", "unrolled"]

_RANDOM = ("Random", "Bernoulli", "Multinomial", "Dropout")
_LARGEST = 1 << 16
"""Elements of a result that is computed here; larger ones are left to the lowering."""
_SAME_SIZES = frozenset({"ScatterND", "ScatterElements", "Identity", "Cast"})


class OnnxDialect:
    """A `Dialect`: a program as `read_onnx` makes it."""

    def __init__(self) -> None:
        self.constants: dict[str, Any] = {}
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.budget = Budget()

    # -- the form in which loops show ------------------------------------------------------

    def prepared(self, program: Program) -> Program:
        """Constants computed, lists of tensors joined as tensors, what nothing reads left out."""
        program = replace(
            program, operations=list(program.operations), constants=dict(program.constants)
        )
        self._compute(program)
        _join(program)
        elements = self.elements(program)
        gathers = {o for op in program.operations if op.target == "onnx.Gather" for o in op.outputs}
        takes = {n: e for n, e in elements.items() if n in gathers}
        program.operations = by_slots(program.operations, takes, self)
        read = {r.name for out in program.outputs for r in refs_of(out)}
        kept: list[Operation] = []
        for op in reversed(program.operations):
            if any(o in read for o in op.outputs):
                read.update(names_of(op.args))
                kept.append(op)
        program.operations = kept[::-1]
        return program

    def _compute(self, program: Program) -> None:
        """Compute what depends on constants, and on sizes that are known, alone.

        Branches whose condition is then known are taken: the older exporter writes one for each
        `squeeze` of a frame whose sizes it does not know.
        """
        self._look(program)
        results = {r.name for out in program.outputs for r in refs_of(out)}
        made: dict[str, Operation] = {}
        units: set[tuple[str, int]] = set()
        kept: list[Operation] = []
        left = program.operations[::-1]
        while left:
            op = left.pop()
            taken = _branch(op, program)
            if taken is not None:
                left += taken[::-1]
                continue
            fixed = any(o in results for o in op.outputs)
            found = {} if fixed else self._constant(op, program, made, units)
            program.constants |= found
            if not found:
                kept.append(op)
            made.update((o, op) for o in op.outputs if o)
            units |= {(n, d) for n, _, d, _, keep in self._taken(op, made, program) if keep}
            self._size(op, program)
        program.operations = kept

    def _constant(
        self,
        op: Operation,
        program: Program,
        made: Mapping[str, Operation],
        units: set[tuple[str, int]],
    ) -> dict[str, Any]:
        """The results of an operation if they are known; `units`: axes of values that are 1."""
        inputs = op.args.get("inputs", [])
        if op.target == "onnx.Shape" and isinstance(inputs[0], Ref):
            sizes = self.sizes.get(inputs[0].name)
            if sizes is not None:
                part = sizes[op.args.get("start") or 0 : op.args.get("end")]
                return {op.outputs[0]: np.array(part, np.int64)}
        shape = made.get(getattr(inputs[0], "name", "")) if inputs else None
        if op.target == "onnx.Gather" and shape is not None and shape.target == "onnx.Shape":
            index = _whole(program.constants, inputs[1])
            of = shape.args["inputs"][0]
            at = int(index.item()) if index is not None and index.size == 1 else -1
            if isinstance(of, Ref) and (of.name, at) in units and not shape.args.get("start"):
                return {op.outputs[0]: np.ones(np.shape(index), np.int64)}
        known = [r is None or r.name in program.constants for r in inputs]
        return self.evaluated(op, program.constants) if all(known) else {}

    def _look(self, program: Program) -> None:
        """Sizes that the file says, of inputs, and that constants have."""
        self.constants = program.constants
        self.sizes = {n: program.metas[n].sizes for n in program.inputs if n in program.metas}

    def _size(self, op: Operation, program: Program) -> None:
        """Note the sizes of a result that are those of what is written to or taken from."""
        inputs = op.args.get("inputs", [])
        if not inputs or not isinstance(inputs[0], Ref):
            return
        name = inputs[0].name
        constant = program.constants.get(name)
        sizes = np.shape(constant) if constant is not None else self.sizes.get(name)
        if sizes is None:
            return
        if op.base in _SAME_SIZES:
            self.sizes[op.outputs[0]] = sizes
        elif op.base == "Gather":
            index = _whole(program.constants, inputs[1])
            axis = op.args.get("axis") or 0
            if index is not None and -len(sizes) <= axis < len(sizes):
                axis %= len(sizes)
                shape = np.shape(index)
                self.sizes[op.outputs[0]] = (*sizes[:axis], *shape, *sizes[axis + 1 :])

    # -- slots -----------------------------------------------------------------------------

    def taken_from(self, op: Operation, name: str) -> Operation:
        """See `by_slots`."""
        return replace(op, args={**op.args, "inputs": [Ref(name), *op.args["inputs"][1:]]})

    def taken_back(self, op: Operation, written: Ref, element: Element) -> Operation:
        """See `by_slots`: what is written has the axis, with size 1."""
        if element.keep:
            return replace(op, target="onnx.Identity", args={"inputs": [written]})
        axes = f"{op.outputs[0]}.axes"
        self.constants[axes] = np.array([element.dim], np.int64)
        return replace(op, target="onnx.Squeeze", args={"inputs": [written, Ref(axes)]})

    def joined(self, op: Operation, parts: list[Ref], dim: int) -> Operation:
        """See `by_slots`."""
        return replace(op, target="onnx.Concat", args={"inputs": parts, "axis": dim})

    # -- elements --------------------------------------------------------------------------

    def elements(self, program: Program) -> dict[str, Element]:
        """See `Dialect`."""
        self._look(program)
        made = {o: op for op in program.operations for o in op.outputs if o}
        found: dict[str, Element] = {}
        for op in program.operations:
            self._size(op, program)
            for name, source, dim, index, keep in self._taken(op, made, program):
                if source in program.constants:
                    continue
                rank, n = self._axis(program, source, dim)
                dim = dim % rank if rank and -rank <= dim < rank else dim
                index = index + n if index < 0 and n is not None else index
                found[name] = Element(source, dim, index, keep, n)
        return _counted(found)

    def _axis(self, program: Program, name: str, dim: int) -> tuple[int | None, int | None]:
        """Number of axes of a value, and the size of one, where they are known."""
        info = program.declared.get(name)
        shape: Sequence[Any] | None = None if info is None else info.shape
        if shape is None:
            shape = self.sizes.get(name)
        if shape is None or not -len(shape) <= dim < len(shape):
            return None, None
        n = shape[dim]
        return len(shape), n if isinstance(n, int) else None

    def _taken(
        self, op: Operation, made: Mapping[str, Operation], program: Program
    ) -> list[tuple[str, str, int, int, bool]]:
        """(name, of what, axis, which, whether the axis stays) of elements that `op` takes."""
        inputs, table = op.args.get("inputs", []), program.constants
        if not inputs or not isinstance(inputs[0], Ref):
            return []
        out, source = op.outputs[0], inputs[0].name
        if op.target == "onnx.Gather":
            index = _whole(table, inputs[1])
            if index is None or index.size != 1 or index.ndim > 1:
                return []
            return [(out, source, op.args.get("axis") or 0, int(index.item()), index.ndim == 1)]
        if op.target == "onnx.Slice":
            numbers = [_one(table, r) for r in inputs[1:5]]
            start, end, axis, step = (*numbers, None, None)[:4]
            if start is None or end is None or (inputs[4:5] != [None] and step != 1):
                return []
            if inputs[3] is None:
                axis = 0
            last = start == -1 and end > 1 << 30
            if axis is None or not ((end == start + 1 and end != 0) or last):
                return []
            return [(out, source, axis, start, True)]
        if op.target == "onnx.Split":
            axis = op.args.get("axis") or 0
            sizes = _whole(table, inputs[1])
            n = self._axis(program, source, axis)[1]
            ones = sizes is not None and sizes.size == len(op.outputs) and bool(np.all(sizes == 1))
            if not ones and (inputs[1] is not None or n != len(op.outputs)):
                return []
            return [(o, source, axis, i, True) for i, o in enumerate(op.outputs) if o]
        if op.target == "onnx.SequenceAt" and source in made:
            cut, index = made[source], _one(table, inputs[1])
            if cut.target != "onnx.SplitToSequence" or index is None:
                return []
            x, sizes = cut.args["inputs"][0], cut.args["inputs"][1]
            if not isinstance(x, Ref) or (sizes is not None and _scalar(table, sizes) != 1):
                return []
            keep = sizes is not None or bool(cut.args.get("keepdims"))
            return [(out, x.name, cut.args.get("axis") or 0, index, keep)]
        return []

    # -- results ---------------------------------------------------------------------------

    def together(self, op: Operation) -> tuple[list[Any], str, int] | None:
        """See `Dialect`."""
        if op.target != "onnx.Concat":
            return None
        return op.args["inputs"], "cat", op.args["axis"]

    def write(self, op: Operation) -> Write | None:
        """See `Dialect`: of `out[:, t] = y`, which exporters write as a Scatter."""
        if op.base not in ("ScatterElements", "ScatterND") or op.args.get("reduction") != "none":
            return None
        base, at, source = op.args["inputs"][:3]
        index = _whole(self.constants, at)
        if index is None or not isinstance(base, Ref) or not isinstance(source, Ref):
            return None
        constant = self.constants.get(base.name)
        sizes = self.sizes.get(base.name) if constant is None else np.shape(constant)
        if sizes is None or index.size == 0:
            return None
        if op.base == "ScatterND":
            dim = index.shape[-1] - 1
            if dim < 0 or index.ndim != dim + 2 or dim >= len(sizes):
                return None
            first = int(index[..., dim].flat[0])
            rows = [np.arange(n) for n in sizes[:dim]] + [np.array([first])]
            grid = np.stack(np.meshgrid(*rows, indexing="ij"), -1)
            if index.shape != grid.shape or not np.array_equal(index, grid):
                return None
        else:
            dim = int(op.args.get("axis") or 0)
            if not -len(sizes) <= dim < len(sizes):
                return None
            dim %= len(sizes)
            first = int(index.flat[0])
            if index.shape != (*sizes[:dim], 1, *sizes[dim + 1 :]) or not np.all(index == first):
                return None
        first += sizes[dim] if first < 0 else 0
        return Write(base, source, dim, first, True, sizes[dim])

    def neutral(self, op: Operation, arg: Any) -> Any:
        """See `Dialect`: onnxscript's optimiser leaves out sums with zero."""
        inputs = op.args.get("inputs", [])
        if op.target == "onnx.Add" and arg in inputs:
            return inputs[1 - inputs.index(arg)]
        if op.target == "onnx.Sub" and inputs[1] == arg:
            return inputs[0]
        return None

    def swapped(self, op: Operation) -> Operation | None:
        """See `Dialect`: exporters put a constant second, which the state of turn 0 may be."""
        inputs = op.args.get("inputs", [])
        if op.target not in ("onnx.Add", "onnx.Mul") or len(inputs) != 2:
            return None
        return replace(op, args={**op.args, "inputs": inputs[::-1]})

    def chosen(self, out: str, condition: str, a: str, b: str) -> Operation:
        """See `Dialect`."""
        return Operation("onnx.Where", {"inputs": [Ref(condition), Ref(a), Ref(b)]}, (out,))

    def at_least_one(self, out: str, x: str) -> Operation:
        """See `Dialect`."""
        return Operation("onnx.Max", {"inputs": [Ref(x), np.ones(1, np.float32)]}, (out,))

    def repeats(self, op: Operation) -> bool:
        """See `Dialect`."""
        return not op.base.startswith(_RANDOM)

    def evaluated(self, op: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Dialect`."""
        if not can_fold(op) or any(isinstance(a, Program) for a in op.args.values()):
            return {}
        args = [None if r is None else values.get(r.name) for r in op.args.get("inputs", [])]
        if any((r is None) != (a is None) for r, a in zip(op.args["inputs"], args, strict=True)):
            return {}
        if not all(a is None or isinstance(a, np.ndarray) for a in args):
            return {}
        try:
            results = fold_onnx(op, args, _LARGEST, budget=self.budget)
        except FoldError:
            return {}
        return {n: r for n, r in zip(op.outputs, results, strict=True) if n}


def _branch(op: Operation, program: Program) -> list[Operation] | None:
    """What an If does whose condition is known, in its place."""
    if op.target != "onnx.If":
        return None
    condition = program.constants.get(getattr(op.args["inputs"][0], "name", ""))
    if not isinstance(condition, np.ndarray) or condition.size != 1:
        return None
    taken: Program = op.args["then_branch" if bool(condition.item()) else "else_branch"]
    program.constants |= taken.constants
    ends = [
        replace(op, target="onnx.Identity", args={"inputs": [out]}, outputs=(name,))
        for name, out in zip(op.outputs, taken.outputs, strict=True)
        if name
    ]
    return [*taken.operations, *ends]


def _whole(constants: Mapping[str, Any], ref: Any) -> Any:
    """A constant of whole numbers, or None."""
    value = constants.get(ref.name) if isinstance(ref, Ref) else None
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "iu" else None


def _one(constants: Mapping[str, Any], ref: Any) -> int | None:
    """A constant that is one whole number, or None."""
    value = _whole(constants, ref)
    return None if value is None or value.size != 1 else int(value.item())


def _scalar(constants: Mapping[str, Any], ref: Any) -> int | None:
    """A constant that is one whole number without an axis, or None."""
    value = _whole(constants, ref)
    return None if value is None or value.ndim else int(value.item())


def _counted(found: dict[str, Element]) -> dict[str, Element]:
    """Elements counted from the front.

    Where a size is not known, it is taken to be that of the elements taken: whether it is, the
    lowering sees.
    """
    groups: dict[tuple[str, int], list[str]] = {}
    for name, e in found.items():
        groups.setdefault((e.source, e.dim), []).append(name)
    for names in groups.values():
        taken = [found[n].index for n in names]
        if min(taken) >= 0:
            continue
        least = min(taken)
        for n in names:
            e = found.pop(n)
            if max(taken) < 0 and e.size is None:
                found[n] = replace(e, index=e.index - least)
    return found


def _join(program: Program) -> None:
    """Write lists of tensors that are joined as Concat, of tensors with an axis more if stacked."""
    lists: dict[str, list[Any]] = {}
    operations: list[Operation] = []
    for op in program.operations:
        inputs = op.args.get("inputs", [])
        name = getattr(inputs[0], "name", "") if inputs else ""
        if op.target == "onnx.SequenceConstruct":
            lists[op.outputs[0]] = list(inputs)
        elif op.target == "onnx.SequenceEmpty":
            lists[op.outputs[0]] = []
        elif op.target == "onnx.SequenceInsert" and name in lists and inputs[2] is None:
            lists[op.outputs[0]] = [*lists[name], inputs[1]]
        elif op.target == "onnx.ConcatFromSequence" and lists.get(name):
            axis, parts = op.args["axis"], lists[name]
            if op.args.get("new_axis"):
                at = f"{op.outputs[0]}/axis"
                program.constants[at] = np.array([axis], np.int64)
                for i, part in enumerate(parts):
                    made = f"{op.outputs[0]}/{i}"
                    operations.append(
                        replace(op, target="onnx.Unsqueeze", outputs=(made,),
                                args={"inputs": [part, Ref(at)]})
                    )  # fmt: skip
                parts = [Ref(f"{op.outputs[0]}/{i}") for i in range(len(parts))]
            op = replace(op, target="onnx.Concat", args={"inputs": parts, "axis": axis})
        operations.append(op)
    program.operations = operations


def unrolled(program: Program) -> list[str]:
    """What a user should know of loops in a file that is read as one step: maybe they are time."""
    notes = []
    for op in program.operations:
        if op.target == LOOP:
            loop: Loop = op.args["loop"]
            source, dim, _ = loop.sources[0]
            notes.append(
                f"a loop that the exporter unrolled takes {loop.turns} elements of axis {dim} of "
                f"{source.name!r} one by one; it is part of one step here, which takes all of them "
                "at once. If they are frames in time, say "
                + _axis_option(program, source.name, dim)
            )
    if notes:
        return notes
    found = chained(program, OnnxDialect())
    if found is None:
        return []
    return [
        f"elements of axis {found.dim} of {found.source!r} are taken one by one, each with what "
        "was made of the one before: this seems to be an unrolled loop over time, but its turns "
        "are not alike. The file is read as one step, which takes all of them at once. If they are "
        "frames in time, export a model that uses nn.RNN, nn.GRU or nn.LSTM, its length open; what "
        f"stops this file as a stream, {_axis_option(program, found.source, found.dim)} shows"
    ]


def _axis_option(program: Program, name: str, dim: int) -> str:
    return f"--time-axis {name}:{dim}" if name in program.inputs else "--time-axis INPUT:N"
