"""From the program in an ONNX file to a real Graph, given where time lies and what is carried.

What depends on constants only is folded, shapes among it: sizes are known, since every axis of the
inputs has a size here (a sequence one of an example, followed by its label and never recognised by
its size). Branches are taken at once, or both where the input decides; loops over elements become
recurrences.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeseq.errors import GraphError, ModelError, Problem, UnsupportedError
from edgeseq.frontend import onnx_ops
from edgeseq.frontend._onnx_calls import Budget
from edgeseq.frontend.advice import onnx_advice
from edgeseq.frontend.axes import Atom, LayoutError, Value
from edgeseq.frontend.build import arith, views
from edgeseq.frontend.context import Context
from edgeseq.frontend.onnx_fold import can_fold
from edgeseq.frontend.onnx_loops import LOOPS, Counter
from edgeseq.frontend.onnx_registry import ONNX, SEQUENCES, Frames, Growing, Several
from edgeseq.frontend.onnx_rolled import run_rolled
from edgeseq.frontend.past import file_sizes, refuse_scores, still_scores
from edgeseq.frontend.program import Operation, Program, Ref, graph_name, refs_of
from edgeseq.frontend.rolled import LOOP
from edgeseq.ir import Graph, Time, Type

__all__ = ["Carried", "InputPlan", "Lost", "Lowering", "outside"]

for _module in pkgutil.iter_modules(onnx_ops.__path__):
    importlib.import_module(f"{onnx_ops.__name__}.{_module.name}")

_PLAIN = frozenset({"If", "Shape", "Size"})
_MAX_FOLDED = 1 << 27
_MAX_OPERATIONS = 200_000
_KINDS_OF_ERROR = (
    ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class InputPlan:
    """How one input is read.

    Attributes:
        sizes: of every axis.
        time: the axis that is time, or None.
        dtype: element type in the file.
    """

    sizes: tuple[int, ...]
    time: int | None
    dtype: str = "float32"


@dataclass(frozen=True)
class Carried:
    """A state that the file passes in and out.

    Attributes:
        input, output: names in the file.
        init: what it is before the first step, or None for zeros.
        how: how it was recognised, for people.
    """

    input: str
    output: str
    init: Any = None
    how: str = ""


@dataclass(frozen=True)
class Lost:
    """Stands for a value that could not be made; the problem is already recorded."""

    problem: int


@dataclass
class _Spent:
    """Work done so far, over all nested programs."""

    elements: int = 0
    budget: Budget = field(default_factory=Budget)
    operations: int = 0
    lost: int = 0
    problems: list[Problem] = field(default_factory=list)


class Lowering:
    """Lowers one program (or the body of a loop) into a Graph.

    Args:
        program: what to lower.
        graph: where to.
        context: frames that attention may look back on.
        outer: the lowering around it; its constants can be read.
        tick: ticks of an input frame, 1 unless it makes more frames than come in.
    """

    def __init__(
        self,
        program: Program,
        graph: Graph,
        *,
        context: int | None = None,
        outer: Lowering | None = None,
        tick: int = 1,
    ) -> None:
        self.program, self.outer = program, outer
        self.c = Context(graph, program.used(), context, tick)
        self.env: dict[str, Any] = dict(program.constants)
        self.spent: _Spent = outer.spent if outer is not None else _Spent()
        # Of the body of a loop: outer sequences that it reads element by element, and its turns.
        self.gathered: dict[tuple[str, int], Value] = {}
        self.sources: list[tuple[Value, int]] = []
        self.turns = 0
        # Inputs and states of the Graph, by name in the file.
        self.held: dict[str, str] = {}
        self._readers: dict[str, set[str]] | None = None

    # -- the whole program ---------------------------------------------------------------------

    def bind_inputs(
        self, plans: Mapping[str, InputPlan], carried: Sequence[Carried], *, stream: bool
    ) -> None:
        """Make the inputs: sequences, frames of a step, or states.

        Args:
            plans: how each is read.
            carried: states; of a stream they start at their `init` and are the scans' own.
            stream: whether the Graph runs over time.
        """
        states = {s.input: s for s in carried}
        g = self.c.graph
        for name in self.program.inputs:
            if name in self.env:
                continue
            plan = plans[name]
            axes = tuple(
                (Atom("T", n),) if i == plan.time else ((Atom("F", n),) if n != 1 else ())
                for i, n in enumerate(plan.sizes)
            )
            value = Value("", axes)
            shape = value.frame or (1,)
            if math.prod(shape) > self.c.most_frame:
                raise ModelError(
                    f"a frame of input {name!r} has {math.prod(shape)} elements",
                    where=self.program.where,
                    fix="frames have at most 2^20 elements; check --time-axis and --set",
                )
            if name in states:
                init = states[name].init
                full = np.zeros(plan.sizes) if init is None else np.broadcast_to(init, plan.sizes)
                if stream:
                    self.env[name] = full.astype(
                        plan.dtype if plan.dtype.startswith(("int", "uint", "bool")) else np.float32
                    )
                    continue
                made = g.add_state(graph_name(name), Type(shape), full.reshape(shape))
            else:
                # What has no axis of time comes with every frame all the same.
                time = Time(self.c.tick) if stream else None
                made = g.add_input(graph_name(name), Type(shape, time=time))
                if not plan.dtype.startswith(("float", "double", "bfloat")):
                    self.c.indices.add(made)
            self.held[name] = made
            self.env[name] = self.c.view(Value(made, axes), axes)

    def run(self) -> None:
        """Lower every operation; what cannot be is noted in `spent.problems`."""
        for op in self.program.operations:
            self.operation(op)

    def result(self, name: str) -> Any:
        """The value, array or `Lost` behind a name of the program."""
        return self.resolve(Ref(name))

    # -- operations ----------------------------------------------------------------------------

    def resolve(self, arg: Any) -> Any:
        """What an argument stands for."""
        if not isinstance(arg, Ref):
            return arg
        if arg.name in self.env:
            return self.env[arg.name]
        if self.outer is not None:
            found = self.outer.resolve(arg)
            if isinstance(found, Value | Frames | Several | _Outside):
                return _Outside(found)
            return found
        raise ModelError(
            f"value {arg.name[:80]!r} is read before it is defined",
            where=self.program.where,
            fix="export the model again",
        )

    def operation(self, op: Operation) -> None:
        """Lower or fold one operation and bind its outputs."""
        self.spent.operations += 1
        if self.spent.operations > _MAX_OPERATIONS:
            raise UnsupportedError(
                f"runs more than {_MAX_OPERATIONS} operations", where=self.program.where,
                fix="export a recurrence as one operator instead of unrolling it",
            )  # fmt: skip
        kind = op.target.removeprefix("onnx.") if op.target.startswith("onnx.") else op.target
        attrs = {k: v for k, v in op.args.items() if k != "inputs"}
        args = [self.resolve(a) for a in op.args.get("inputs", [])]
        lost = next((a for a in args if isinstance(a, Lost)), None)
        if lost is not None:
            self.spent.lost += 1
            known = kind in ONNX or kind in LOOPS or kind in _PLAIN or kind == LOOP or can_fold(op)
            if not known and kind not in {p[0] for p in self.spent.problems}:
                self._lose(op, kind, *onnx_advice(kind))
            self.bind(op, [lost] * len(op.outputs))
            return
        self.c.op = _named(op, kind)
        try:
            results = self._dispatch(kind, op, args, attrs)
        except LayoutError as e:
            if (sized := self._sized(op, args)) is None:
                self._lose(op, kind, e.what, e.fix)
            else:
                self.bind(op, sized)
            return
        except GraphError as e:
            self._lose(op, kind, e.what, "")
            return
        except _KINDS_OF_ERROR as e:
            # The lowerings trust what the standard says of operators; a damaged file may not.
            text = str(e).splitlines()[0] if str(e) else type(e).__name__
            self._lose(op, kind, f"arguments that do not fit the operator ({text[:120]})", "")
            return
        self.bind(op, results if isinstance(results, list) else [results])

    def _dispatch(self, kind: str, op: Operation, args: list[Any], attrs: dict[str, Any]) -> Any:
        if kind == "If":
            return self._branch(op, args, attrs)
        if kind in LOOPS:
            _refuse(args)
            return LOOPS[kind](self, op, args, attrs)
        if kind == LOOP:
            return run_rolled(self, attrs["loop"])
        if any(isinstance(a, Counter) for a in args):
            return Counter.operate(self, kind, args, attrs)
        if any(isinstance(a, _Outside) for a in args):
            return self._hoisted(kind, op, args, attrs)
        if any(isinstance(a, Sized) for a in args):
            if kind == "Shape":
                return self._shape(args[0], attrs)
            if kind == "Size":
                return np.array(math.prod(args[0].sizes), np.int64)
            raise LayoutError("reads what could not be computed")
        if any(isinstance(a, Several | Frames | Growing) for a in args) or kind in SEQUENCES:
            if kind not in SEQUENCES:
                raise LayoutError("reads a sequence of tensors", "stack them before")
            _refuse(args)
            return ONNX[kind](self.c, args, **attrs)
        if not any(isinstance(a, Value) for a in args):
            return self._folded(op, args)
        if kind == "Shape":
            return self._shape(args[0], attrs)
        if kind == "Size":
            return np.array(math.prod(file_sizes(args[0])), np.int64)
        if kind == "ConstantOfShape" or kind not in ONNX:
            raise LayoutError(*onnx_advice(kind))
        self.c.weighted.clear()
        made = ONNX[kind](self.c, args, **attrs)
        found = made if isinstance(made, list) else [made]
        still_scores(args, found, self.c.weights)
        return made

    def _hoisted(
        self, kind: str, op: Operation, args: list[Any], attrs: dict[str, Any]
    ) -> list[Any]:
        """What a body computes of values around it alone, computed around it."""
        outer = self.outer
        if outer is None or any(isinstance(a, Value | Several | Frames | Growing) for a in args):
            raise LayoutError(
                "reads inside a loop what is computed outside of it",
                "pass it into the loop, or compute it inside",
            )
        before, outer.c.op = outer.c.op, self.c.op
        outer.c.used |= set(op.outputs)
        given = [a.value if isinstance(a, _Outside) else a for a in args]
        try:
            results = outer._dispatch(kind, op, given, attrs)
        finally:
            outer.c.op = before
        found = results if isinstance(results, list) else [results]
        kept = (Value, Frames, Several, _Outside)
        return [_Outside(r) if isinstance(r, kept) else r for r in found]

    def _sized(self, op: Operation, args: list[Any]) -> list[Any] | None:
        """Results of an operation of which nothing but the sizes is asked for; else None."""
        if self._readers is None:
            self._readers = {}
            for reader in self.program.operations:
                for arg in reader.args.values():
                    for ref in refs_of(arg):
                        self._readers.setdefault(ref.name, set()).add(reader.target)
            for out in self.program.outputs:
                for ref in refs_of(out):
                    self._readers.setdefault(ref.name, set()).add("output")
        read: set[str] = set()
        for name in op.outputs:
            read |= self._readers.get(name, set())
        plain = all(isinstance(a, Value | np.ndarray) or a is None for a in args)
        if not read or not read <= {"onnx.Shape", "onnx.Size"} or not plain:
            return None
        blank = [np.zeros(a.sizes, np.float32) if isinstance(a, Value) else a for a in args]
        try:
            results = self._folded(op, blank)
        except (LayoutError, GraphError, *_KINDS_OF_ERROR):
            return None
        return [Sized(np.shape(r)) for r in results]

    @staticmethod
    def _shape(v: Value | Sized, attrs: Mapping[str, Any]) -> Any:
        sizes = list(file_sizes(v) if isinstance(v, Value) else v.sizes)
        stop = attrs.get("end")
        return np.array(sizes[attrs.get("start") or 0 : stop], np.int64)

    def _folded(self, op: Operation, args: list[Any]) -> Any:
        from edgeseq.frontend.onnx_fold import fold_onnx

        if not op.target.startswith("onnx."):
            raise LayoutError(*onnx_advice(op.target))
        with np.errstate(all="ignore"):
            results = fold_onnx(op, args, budget=self.spent.budget)
        for r in results:
            self.spent.elements += int(np.size(r))
            if self.spent.elements > _MAX_FOLDED:
                raise LayoutError("the model's constants are too large to be computed")
        return results

    def _branch(self, op: Operation, args: list[Any], attrs: Mapping[str, Any]) -> list[Any]:
        if isinstance(args[0], Value) and _one(args[0]):
            return self._either(args[0], attrs["then_branch"], attrs["else_branch"])
        if isinstance(args[0], Value | Counter | _Outside):
            names = self._behind(op.args["inputs"][0])
            raise LayoutError(
                "chooses a branch by a value that depends on the input",
                f"fix what it depends on (--set {names[0] if names else 'NAME'}=VALUE), or use "
                "Where",
            )
        taken = attrs["then_branch"] if bool(np.all(args[0])) else attrs["else_branch"]
        return self.inline(taken)

    def _either(self, condition: Value, first: Program, second: Program) -> list[Any]:
        """Both branches, and of each pair of outputs the one that the condition chooses.

        A branch has no effects, so that it may be computed and not used.
        """
        chosen: list[Any] = []
        condition = views.squeeze(self.c, condition, range(len(condition.axes)))
        for a, b in zip(self.inline(first), self.inline(second), strict=True):
            lost = next((v for v in (a, b) if isinstance(v, Lost)), None)
            if lost is not None:
                chosen.append(lost)
                continue
            if not all(isinstance(v, Value | np.ndarray) for v in (a, b)):
                raise LayoutError("chooses between values that are not tensors", "use Where")
            _refuse([a, b])
            if _sizes(a) != _sizes(b):
                raise LayoutError(
                    f"chooses by a value that depends on the input between tensors of sizes "
                    f"{list(_sizes(a))} and {list(_sizes(b))}",
                    "give both branches one shape",
                )
            chosen.append(arith.where(self.c, condition, a, b))
        return chosen

    def _behind(self, arg: Ref) -> list[str]:
        """Inputs of the program that a value is made of, the smallest first."""
        made = {name: op for op in self.program.operations for name in op.outputs}
        seen: set[str] = set()
        stack = [arg.name]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in made:
                stack += [r.name for a in made[name].args.values() for r in refs_of(a)]
        shapes = {n: self.program.declared[n].shape or () for n in self.program.inputs if n in seen}
        return sorted(shapes, key=lambda n: len(shapes[n]))

    def inline(self, program: Program) -> list[Any]:
        """Lower a nested program in place; returns its outputs."""
        self.env |= program.constants
        self.c.used |= program.used()
        op = self.c.op
        for inner in program.operations:
            self.operation(inner)
        self.c.op = op
        return [self.resolve(r) for r in program.outputs]

    def _lose(self, op: Operation, kind: str, why: str, fix: str) -> None:
        self.spent.lost += 1
        self.spent.problems.append((kind, op.path or op.outputs[0], why, fix))
        self.bind(op, [Lost(len(self.spent.problems))] * len(op.outputs))

    def bind(self, op: Operation, results: Sequence[Any]) -> None:
        """Give the outputs of an operation their values."""
        if len(results) < len([o for o in op.outputs if o]):
            raise ModelError(
                f"{op} defines {len(op.outputs)} values", where=self.program.where,
                fix="export the model again",
            )  # fmt: skip
        for name, result in zip(op.outputs, results, strict=False):
            if name:
                self.env[name] = result


def _one(v: Value) -> bool:
    """Whether a value has one element, whatever the number of frames."""
    return math.prod(v.sizes) == 1 and not any(a.label == "T" for axis in v.axes for a in axis)


def _sizes(x: Value | np.ndarray) -> tuple[int, ...]:
    return file_sizes(x) if isinstance(x, Value) else x.shape


def _refuse(args: list[Any]) -> None:
    """Refuse scores of past frames in loops and sequences, which take them apart."""
    for v in args:
        if isinstance(v, Value):
            refuse_scores(v)


@dataclass(frozen=True)
class Sized:
    """Stands for a value of which only the sizes are known, and asked for."""

    sizes: tuple[int, ...]


@dataclass(frozen=True)
class _Outside:
    """A value of the program around a loop, read inside it; of that around both, it is nested."""

    value: Any


def outside(x: Any) -> Any:
    """The value of the program around, or None."""
    return x.value if isinstance(x, _Outside) else None


def _named(op: Operation, kind: str) -> Operation:
    """The operation with a path that serves as a name of nodes."""
    path = op.path or op.outputs[0]
    path = "".join(ch if ch.isascii() and (ch.isalnum() or ch in "_.") else "_" for ch in path)
    return Operation(f"onnx.{kind}", op.args, op.outputs, path.strip("._")[:100] or kind, True)
