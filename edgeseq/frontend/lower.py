"""From the neutral program to a real Graph over time.

Batch and time are found by propagation: the axes of the inputs are labelled, and every operator's
lowering says where they lie in its result (`edgeseq.frontend.axes`). Where a recurrent layer reads
them in the other order than assumed, the assumption is swapped. An operation for which there is no
lowering, or which would mix time into the features, is collected, and all of them are reported in
one error.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseq.errors import GraphError, ModelError, UnsupportedError, UsageError
from edgeseq.frontend import lowerings
from edgeseq.frontend.advice import advice_for
from edgeseq.frontend.axes import Atom, LayoutError, Value
from edgeseq.frontend.context import LOWER, AxisConflict, Context
from edgeseq.frontend.fold import FOLD, MAX_ELEMENTS
from edgeseq.frontend.program import Operation, Program, Ref, Symbol, TensorMeta, refs_of
from edgeseq.ir import Graph, Time, Type, check

__all__ = ["lower", "supported"]

# Each module registers its lowerings when imported; they are found by their place.
for _module in pkgutil.iter_modules(lowerings.__path__):
    importlib.import_module(f"{lowerings.__name__}.{_module.name}")

_SUPPORTED = (
    "supported: nn.RNN, nn.GRU, nn.LSTM, Linear, LayerNorm, BatchNorm, activations, arithmetic, "
    "concatenation and slices of features, views that keep batch and time apart, y[:, -1]; "
    "edgeseq.frontend.lower.supported() lists the operators"
)
_DAMAGED = "the program contradicts itself: export the model again"
_NAMESPACES = ("aten", "_operator", "prims")
_FLOATS = ("float16", "float32", "float64", "bfloat16")
MAX_OPERATIONS = 5_000
MAX_FOLDED = 1 << 27
"""Elements of all computed constants together."""


def supported() -> list[str]:
    """Names of the operators that can be compiled (without namespace and overload)."""
    return sorted(LOWER)


@dataclass(frozen=True)
class _Lost:
    """Stands for a value that could not be made; the problem is already recorded."""

    problem: int


def lower(
    program: Program, *, name: str, time_axis: int | None = None, batch_axis: int | None = None
) -> Graph:
    """Lower `program` to a real Graph over time.

    Args:
        program: from a reader.
        name: of the Graph, a C identifier.
        time_axis: axis of the inputs that is time. If None: found from the recurrent layers, else
            1 of an input with three or more axes and 0 of one with two.
        batch_axis: axis that is the batch. If None: found likewise, else the first axis that is
            not time; an input with two axes has none.

    Returns:
        A checked Graph. ``meta["axes"]`` says how the tensors of the original model lay, one
        letter per axis ('B' batch, 'T' time, 'F' features, '1' size one), for inputs and outputs.

    Raises:
        UnsupportedError: operations that cannot be compiled; all are listed.
        ModelError: the program contradicts itself.
        UsageError: `name` is not an identifier, or an axis does not exist.
    """
    if not (name.isidentifier() and name.isascii()):
        raise UsageError(
            f"the name {name!r} is not a C identifier", fix="use letters, digits and underscores"
        )
    swapped = False
    while True:
        try:
            return _Lowering(program, name, time_axis, batch_axis, swapped).run()
        except AxisConflict as e:
            if swapped or time_axis is not None or batch_axis is not None:
                raise UnsupportedError(
                    f"{e} reads time and batch in another order than the input has them",
                    where=program.where,
                    fix="check batch_first of the recurrent layers, and time_axis and batch_axis",
                ) from None
            swapped = True


class _Lowering:
    def __init__(
        self,
        program: Program,
        name: str,
        time_axis: int | None,
        batch_axis: int | None,
        swapped: bool,
    ) -> None:
        self.program = program
        self.time_axis, self.batch_axis, self.swapped = time_axis, batch_axis, swapped
        self.graph = Graph(name)
        self.context = Context(self.graph, program.used())
        self.env: dict[str, Any] = {**program.constants, **program.numbers}
        self.views: dict[str, set[str]] = {}
        self.problems: list[str] = []
        self.folded = 0

    def run(self) -> Graph:
        layouts = {"inputs": [self._input(n) for n in self.program.inputs], "outputs": []}
        if len(self.program.operations) > MAX_OPERATIONS:
            raise UnsupportedError(
                f"has {len(self.program.operations)} operations",
                where=self.program.where,
                fix="a Python loop is unrolled by the exporter: use nn.RNN, nn.GRU or nn.LSTM",
            )
        for op in self.program.operations:
            self._operation(op)
        lost = False
        for i, arg in enumerate(self.program.outputs):
            value = self._resolve(arg) if arg is not None else None
            if isinstance(value, _Lost):
                lost = True
            elif isinstance(value, Value):
                layouts["outputs"].append(self._output(value, i))
                lost = lost or not layouts["outputs"][-1]
            elif value is not None:
                lost = True
                self.problems.append(f"output {i} does not depend on the input: do not return it")
        self._check_length()
        if lost:
            self._report()
        if not self.graph.outputs:
            raise ModelError("has no output", where=self.program.where, fix="return a tensor")
        self.graph.prune()
        self.graph.meta = {"source": "torch.export", "axes": layouts}
        try:
            check(self.graph, after="lower")
        except GraphError as e:
            where = f"{self.program.where}: {e.where}"
            raise ModelError(e.what, where=where, fix=_DAMAGED) from None
        return self.graph

    def _report(self) -> None:
        count = len(self.problems)
        head = "an operation cannot" if count == 1 else f"{count} operations cannot"
        raise UnsupportedError(
            f"{head} be compiled:\n" + "\n".join(f"  - {p}" for p in self.problems),
            where=self.program.where,
            fix=_SUPPORTED,
        )

    # -- inputs and outputs ----------------------------------------------------------------

    def _input(self, name: str) -> str:
        meta = self.program.metas.get(name)
        if meta is None:
            raise ModelError(
                f"input {name!r} has no description", where=self.program.where, fix=_DAMAGED
            )
        if meta.dtype not in _FLOATS:
            self.problems.append(
                f"input {name!r} is {meta.dtype}: pass float frames (embed indices beforehand)"
            )
            self.env[name] = _Lost(len(self.problems))
            return ""
        batch, time = self._axes_of(name, meta)
        axes = []
        for i, size in enumerate(meta.sizes):
            if not 1 <= size <= 1 << 24:
                raise ModelError(
                    f"input {name!r} has size {size}",
                    where=self.program.where,
                    fix="axes have 1 to 2^24 elements",
                )
            axes.append((Atom("B" if i == batch else "T" if i == time else "F", size),))
        value = Value("", tuple(axes))
        if math.prod(value.frame) > 1 << 20:
            raise ModelError(
                f"a frame of input {name!r} has {math.prod(value.frame)} elements",
                where=self.program.where,
                fix="frames have at most 2^20 elements; check time_axis and batch_axis",
            )
        graph_name = self.graph.add_input(_ascii(name), Type(value.frame, time=Time()))
        self.env[name] = Value(graph_name, value.axes)
        return value.layout

    def _axes_of(self, name: str, meta: TensorMeta) -> tuple[int | None, int]:
        """Batch axis (None: there is none) and time axis of an input."""
        rank = len(meta.sizes)
        for what, axis in (("time_axis", self.time_axis), ("batch_axis", self.batch_axis)):
            if axis is not None and not -rank <= axis < rank:
                raise UsageError(f"{what} {axis}: input {name!r} has {rank} axes")
        time = None if self.time_axis is None else self.time_axis % rank
        batch = None if self.batch_axis is None else self.batch_axis % rank
        if rank == 0 or (rank == 1 and time is None):
            raise UsageError(
                f"input {name!r} has {rank} axes", fix="pass sequences: [batch, time, features]"
            )
        if rank < 3 and batch is None:
            time = 0 if time is None else time
        elif time is None:
            first, second = (1, 0) if self.swapped else (0, 1)
            if batch is None:
                batch, time = first, second
            else:
                time = 0 if batch else 1
        elif batch is None:
            batch = 0 if time else 1
        if batch == time:
            raise UsageError(f"time and batch are both axis {time}")
        return batch, time

    def _output(self, value: Value, index: int) -> str:
        try:
            value = self.context.real(value)
            layout = value.layout
        except LayoutError as e:
            self.problems.append(f"output {index}: {_sentence(e)}")
            return ""
        if "?" in layout:
            self.problems.append(
                f"output {index} merges batch, time or features into one axis: "
                "return it with axes of their own"
            )
            return ""
        self.graph.outputs.append(value.name)
        return layout

    def _check_length(self) -> None:
        for name in self.program.inputs:
            value = self.env[name]
            if isinstance(value, Value):
                for axis in value.axes:
                    if axis and axis[0] == Atom("T", 1):
                        raise ModelError(
                            f"input {name!r} was exported with one frame, which does not show "
                            "where time goes",
                            where=self.program.where,
                            fix="export with an example of at least 2 frames (16 is a good length)",
                        )

    # -- operations ------------------------------------------------------------------------

    def _resolve(self, arg: Any) -> Any:
        if isinstance(arg, Ref):
            if arg.name not in self.env:
                raise ModelError(
                    f"value {arg.name[:80]!r} is read before it is defined",
                    where=self.program.where,
                    fix=_DAMAGED,
                )
            return self.env[arg.name]
        if isinstance(arg, list):
            return [self._resolve(a) for a in arg]
        return arg

    def _operation(self, op: Operation) -> None:
        if op.base in _CHECKS and not any(op.outputs):
            return
        args = {k: self._resolve(a) for k, a in op.args.items()}
        lost = next(_find(args.values(), _Lost), None)
        if lost is not None:
            self._bind(op, [lost] * len(op.outputs))
            return
        moving = next(_find(args.values(), Value), None) is not None
        try:
            if op.in_place:
                self._check_in_place(op)
            results = self._lowered(op, args) if moving else self._folded(op, args)
        except LayoutError as e:
            self._lose(op, f"{op}: {_sentence(e)}")
            return
        except GraphError as e:
            self._lose(op, f"{op}: {e.what}")
            return
        except (
            ArithmeticError,
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
        ) as e:
            # The lowerings trust the schema of the operators; a damaged file does not keep to it.
            text = str(e).splitlines()[0] if str(e) else type(e).__name__
            self._lose(op, f"{op}: arguments that do not fit the operator ({text[:120]})")
            return
        self._bind(op, results if isinstance(results, list) else [results])

    def _lose(self, op: Operation, problem: str) -> None:
        self.problems.append(problem)
        self._bind(op, [_Lost(len(self.problems))] * len(op.outputs))

    def _lowered(self, op: Operation, args: dict[str, Any]) -> Any:
        fn = LOWER.get(op.base) if op.target.split(".")[0] in _NAMESPACES else None
        if fn is None:
            raise LayoutError(*advice_for(op.base))
        self._refuse_symbols(args)
        self.context.op = op
        return fn(self.context, **args)

    def _folded(self, op: Operation, args: dict[str, Any]) -> Any:
        fn = FOLD.get(op.base) if op.target.split(".")[0] in _NAMESPACES else None
        if fn is None:
            raise LayoutError("has no rule for constants", advice_for(op.base)[1])
        symbolic = next(_find(args.values(), Symbol), None) is not None
        if op.target.startswith("_operator.") and symbolic:
            return Symbol(fn(**args))
        self._refuse_symbols(args)
        with np.errstate(all="ignore"):
            result = fn(**args)
        for r in result if isinstance(result, list) else [result]:
            # Broadcast views cost nothing; what will be stored is bounded here.
            self.folded += int(np.size(r))
            if np.size(r) > MAX_ELEMENTS or self.folded > MAX_FOLDED:
                raise LayoutError("the model's constants are too large to be computed")
        return result

    @staticmethod
    def _refuse_symbols(args: dict[str, Any]) -> None:
        """Sizes stand in lists (of a view or a constant); anywhere else they fix the length."""
        if any(isinstance(a, Symbol) for a in args.values()):
            raise LayoutError(
                "computes with the length or the batch of the input", "use a constant instead"
            )

    def _bind(self, op: Operation, results: list[Any]) -> None:
        if len(results) < len(op.outputs):
            raise ModelError(
                f"{op} defines {len(op.outputs)} values", where=self.program.where, fix=_DAMAGED
            )
        for name, result in zip(op.outputs, results, strict=False):
            if name:
                self.env[name] = result
        tensors = [r.name for a in op.args.values() for r in refs_of(a)]
        if op.in_place and tensors:
            self.env[tensors[0]] = results[0]
        elif op.base in _ALIASING:
            group = set(tensors) | set(op.outputs)
            for name in list(group):
                group |= self.views.get(name, set())
            for name in group:
                self.views[name] = group

    def _check_in_place(self, op: Operation) -> None:
        tensor = next((r.name for a in op.args.values() for r in refs_of(a)), "")
        if len(self.views.get(tensor, ())) > 1:
            raise LayoutError(
                "writes into a view of another tensor",
                "save exported.run_decompositions({}), which has no in-place operations",
            )


# Operators whose result shares memory with their input.
_ALIASING = frozenset(
    {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "t"}
    | {"select", "slice", "narrow", "expand", "alias", "detach", "contiguous", "split", "chunk"}
    | {"unbind", "split_with_sizes", "dropout", "to", "movedim"}
)

# Assertions about sizes that the exporter adds; they compute nothing.
_CHECKS = frozenset({"_assert_scalar", "_assert_async", "_assert_tensor_metadata"})


def _find(values: Iterable[Any], kind: type) -> Any:
    for v in values:
        if isinstance(v, kind):
            yield v
        elif isinstance(v, list):
            yield from _find(v, kind)


def _sentence(e: LayoutError) -> str:
    return f"{e.what}; {e.fix}" if e.fix else e.what


def _ascii(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name)[:60]
