"""Executes the operations of a program on Values and constants, building a Graph.

What depends on constants alone is folded; everything else goes to the operator's lowering.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeseq.errors import GraphError, ModelError, Problem
from edgeseq.frontend import fold_spectrum, fold_tensors  # noqa: F401 - register their rules
from edgeseq.frontend.advice import advice_for
from edgeseq.frontend.axes import Atom, LayoutError, Value
from edgeseq.frontend.build.spectrum import Complex
from edgeseq.frontend.context import LOWER, LOWER_COMPLEX, AxisConflict, Context
from edgeseq.frontend.fold import FOLD, MAX_ELEMENTS
from edgeseq.frontend.past import still_scores
from edgeseq.frontend.program import Operation, Program, Ref, Symbol, graph_name, refs_of
from edgeseq.frontend.readings import Carried, Reading
from edgeseq.frontend.reroll import LOOP
from edgeseq.ir import Graph, Time, Type

__all__ = ["DAMAGED", "Lost", "Lowering", "Outside"]

DAMAGED = "the program contradicts itself: export the model again"
_NAMESPACES = ("aten", "_operator", "prims", "edgeseq", "math")
_RAISED = (
    ArithmeticError, AssertionError, AttributeError, IndexError, KeyError, StopIteration, TypeError,
    ValueError,
)  # fmt: skip
_MAX_FOLDED = 1 << 27
"""Elements of all computed constants together."""


@dataclass(frozen=True)
class Lost:
    """Stands for a value that could not be made; the problem is already recorded."""

    problem: int


@dataclass(frozen=True)
class Outside:
    """A value of the program around a loop, read inside it."""

    value: Value | Complex


class Lowering:
    """Lowers one program, or the body of a loop, into a Graph.

    Args:
        program: what to lower.
        graph: where to.
        context: frames that attention may look back on.
        mode: 'stream', 'step' or 'window'.
        outer: the lowering around a loop's body; its constants can be read.
        tick: ticks of an input frame, 1 unless it makes more frames than come in.

    Attributes:
        c: what the lowerings of operators work with.
        env: what each name of the program stands for.
        problems: operations that could not be lowered.
        ports: the Graph's inputs by the program's.
        held: values of the Graph that hold the states, by the program's names.
        reached: the last operation before the first that could not be lowered.
        open: the file leaves open how many frames a sequence has.
    """

    def __init__(
        self,
        program: Program,
        graph: Graph,
        *,
        context: int | None = None,
        mode: str = "stream",
        outer: Lowering | None = None,
        tick: int = 1,
    ) -> None:
        self.program, self.mode, self.outer = program, mode, outer
        used = program.used() if outer is None else program.used() | outer.c.used
        self.c: Context = Context(graph, used, context, tick)
        # Names whose values are read, not their shapes alone.
        self.read = used if outer is not None else program.used(but=_SHAPED)
        self.env: dict[str, Any] = {**program.constants, **program.numbers}
        self.views: dict[str, set[str]] = {}
        self.problems: list[Problem] = outer.problems if outer is not None else []
        self.open = False
        self.ports: dict[str, str] = {}
        self.held: dict[str, str] = {}
        self.folded = 0
        self.reached = 0

    # -- inputs ----------------------------------------------------------------------------

    def bind(self, reading: Reading, states: Sequence[Carried]) -> None:
        """Make the inputs: sequences, frames or whole windows; and the states.

        The states of a stream start at their `init` and are the recurrences' own.
        """
        used = self.program.used()
        if reading.mode == "stream":
            metas = self.program.metas
            self.open = any(t in metas[n].open for n, t in reading.time.items())
        carried = {s.name: s for s in states}
        for name in self.program.inputs:
            if name not in carried and name in used:
                self._input(name, reading)
        for name, state in carried.items():
            if reading.mode == "stream":
                self.env[name] = state.init
            else:
                self._state(name, state)

    def _input(self, name: str, reading: Reading) -> None:
        meta = self.program.metas[name]
        letters = reading.layout(self.program, name)
        axes = tuple(
            () if letter == "1" else (Atom(letter, n),)
            for letter, n in zip(letters, meta.sizes, strict=True)
        )
        value = Value("", axes)
        shape = value.frame or (1,)
        if math.prod(shape) > self.c.most_frame:
            raise ModelError(
                f"a frame of input {name!r} has {math.prod(shape)} elements",
                where=self.program.where,
                fix="frames have at most 2^20 elements; check time_axis and batch_axis",
            )
        time = Time(self.c.tick) if "T" in letters else None
        port = self.c.graph.add_input(graph_name(name), Type(shape, time=time))
        if not meta.dtype.startswith(("float", "double", "bfloat")):
            self.c.indices.add(port)
        self.ports[name] = port
        self.env[name] = self.c.view(Value(port, axes), axes)
        if not meta.dtype.startswith(("float", "double", "bfloat")):
            self.c.indices.add(self.env[name].name)

    def _state(self, name: str, state: Carried) -> None:
        axes = tuple(((Atom("F", n),) if n != 1 else ()) for n in state.init.shape)
        shape = Value("", axes).frame or (1,)
        made = self.c.graph.add_state(
            graph_name(state.label), Type(shape), np.asarray(state.init, np.float32).reshape(shape)
        )
        self.held[name] = made
        self.env[name] = self.c.view(Value(made, axes), axes)

    # -- operations ------------------------------------------------------------------------

    def run(self) -> None:
        """Lower every operation; what cannot be is noted in `problems`."""
        for i, op in enumerate(self.program.operations):
            self.operation(op)
            if not self.problems:
                self.reached = i + 1

    def resolve(self, arg: Any) -> Any:
        """What an argument stands for."""
        if isinstance(arg, Ref):
            if arg.name in self.env:
                return self.env[arg.name]
            if self.outer is not None:
                found = self.outer.resolve(arg)
                return Outside(found) if isinstance(found, Value | Complex) else found
            raise ModelError(
                f"value {arg.name[:80]!r} is read before it is defined",
                where=self.program.where,
                fix=DAMAGED,
            )
        if isinstance(arg, list):
            return [self.resolve(a) for a in arg]
        return arg

    def operation(self, op: Operation) -> None:
        """Lower or fold one operation and bind its outputs."""
        if op.base in _CHECKS and not any(op.outputs):
            return
        self.c.op = op
        try:
            if op.target == LOOP:
                from edgeseq.frontend.loops import run_loop

                run_loop(self, op)
                return
            args = {k: self.resolve(a) for k, a in op.args.items()}
            lost = next(_find(args.values(), Lost), None)
            if lost is not None and op.base in _SHAPED and op.outputs[0] in self.program.metas:
                lost = None  # only the shape of a value that cannot be had is asked for
                sizes = self.program.metas[op.outputs[0]].sizes
                args = {k: np.zeros(sizes) if isinstance(v, Lost) else v for k, v in args.items()}
            if lost is not None:
                self.bind_outputs(op, [lost] * len(op.outputs))
                return
            if next(_find(args.values(), Outside), None) is not None:
                raise LayoutError(
                    "reads inside a loop over the frames what is computed outside of it",
                    "compute it inside the loop",
                )
            moving = next(_find(args.values(), (Value, Complex)), None) is not None
            if op.in_place:
                self._check_in_place(op)
            results = self._lowered(op, args) if moving else self._folded(op, args)
            self._check_length(op, results)
        except LayoutError as e:
            self.lose(op, e.what, e.fix)
            return
        except GraphError as e:
            self.lose(op, e.what)
            return
        except AxisConflict:
            raise
        except _RAISED as e:
            # The lowerings trust the schema of the operators; a damaged file does not keep to it.
            text = str(e).splitlines()[0] if str(e) else type(e).__name__
            self.lose(op, f"arguments that do not fit the operator ({text[:120]})")
            return
        self.bind_outputs(op, results if isinstance(results, list) else [results])

    def lose(self, op: Operation, why: str, fix: str = "") -> None:
        """Note that an operation cannot be compiled; what it makes is lost."""
        if not any(name in self.read for name in op.outputs):  # its shape at most
            self.bind_outputs(op, [Lost(0)] * len(op.outputs))
            return
        self.problems.append((op.target, op.path, why, fix))
        self.bind_outputs(op, [Lost(len(self.problems))] * len(op.outputs))

    def _lowered(self, op: Operation, args: dict[str, Any]) -> Any:
        of_parts = any(map(_is_complex, _find(args.values(), (Complex, np.ndarray, complex))))
        table = LOWER_COMPLEX if of_parts else LOWER
        fn = table.get(op.base) if op.target.split(".")[0] in _NAMESPACES else None
        if fn is None:
            why, fix = advice_for(op.base)
            raise LayoutError(*((_NOT_COMPLEX, _PARTS) if of_parts else (why, fix)))
        self._refuse_symbols(op, args)
        self.c.weighted.clear()
        made = fn(self.c, **args)
        results = made if isinstance(made, list) else [made]
        still_scores(list(_reals(args.values())), list(_reals(results)), self.c.weights)
        return made

    def _folded(self, op: Operation, args: dict[str, Any]) -> Any:
        fn = FOLD.get(op.base) if op.target.split(".")[0] in _NAMESPACES else None
        if fn is None:
            raise LayoutError("has no rule for constants", advice_for(op.base)[1])
        symbolic = next(_find(args.values(), Symbol), None) is not None
        if op.target.startswith(("_operator.", "math.")) and symbolic:
            return Symbol(fn(**args))
        self._refuse_symbols(op, args)
        with np.errstate(all="ignore"):
            result = fn(**args)
        for r in result if isinstance(result, list) else [result]:
            # Broadcast views cost nothing; what will be stored is bounded here.
            self.folded += int(np.size(r))
            if np.size(r) > MAX_ELEMENTS or self.folded > _MAX_FOLDED:
                raise LayoutError("the model's constants are too large to be computed")
        return result

    @staticmethod
    def _refuse_symbols(op: Operation, args: dict[str, Any]) -> None:
        """Sizes stand in lists (of views, constants) and in cuts; elsewhere they fix a length."""
        if op.base in _SIZED:
            return
        if any(isinstance(a, Symbol) for a in args.values()):
            raise LayoutError(
                "computes with the length or the batch of the input", "use a constant instead"
            )

    # -- results ---------------------------------------------------------------------------

    def bind_outputs(self, op: Operation, results: Sequence[Any]) -> None:
        """Give the outputs of an operation their values."""
        if len(results) < len(op.outputs):
            raise ModelError(
                f"{op} defines {len(op.outputs)} values", where=self.program.where, fix=DAMAGED
            )
        for name, result in zip(op.outputs, results, strict=False):
            if name:
                self.env[name] = result
        if op.in_place and results and isinstance(results[0], Lost):
            # Whatever shares memory with a tensor that was not written is lost with it.
            target = next((r.name for a in op.args.values() for r in refs_of(a)), "")
            for name in {target, *self.views.get(target, ())}:
                self.env[name] = results[0]
        tensors = [r.name for a in op.args.values() for r in refs_of(a)]
        if op.in_place and tensors:
            self.env[tensors[0]] = results[0]
        elif op.base in _ALIASING:
            group = set(tensors) | set(op.outputs)
            for name in list(group):
                group |= self.views.get(name, set())
            for name in group:
                self.views[name] = group

    def _check_length(self, op: Operation, results: Any) -> None:
        """Where the file leaves the length open, no sequence has a fixed number of frames in it."""
        if not self.open or (op.base in _RECURRENT) or self._is_fixed(op):
            return
        for name, v in zip(op.outputs, results if isinstance(results, list) else [results],
                           strict=False):  # fmt: skip
            meta = self.program.metas.get(name)
            if not isinstance(v, Value) or meta is None or len(meta.sizes) != len(v.axes):
                continue
            for d, axis in enumerate(v.axes):
                if any(a.label == "T" for a in axis) and d not in meta.open:
                    raise LayoutError(
                        f"makes {meta.sizes[d]} frames of a sequence of any length",
                        "derive sizes from x.shape, or compile in window mode (--window N --hop N)",
                    )

    def _is_fixed(self, op: Operation) -> bool:
        """Whether all sequences that an operation reads have a fixed length in the file already."""
        found = False
        for ref in (r for a in op.args.values() for r in refs_of(a)):
            v, meta = self.env.get(ref.name), self.program.metas.get(ref.name)
            if not isinstance(v, Value) or meta is None or len(meta.sizes) != len(v.axes):
                continue
            times = [d for d, axis in enumerate(v.axes) if any(a.label == "T" for a in axis)]
            if any(d in meta.open for d in times):
                return False
            found = found or bool(times)
        return found

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
_CHECKS = frozenset(
    {"_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range_for_size"}
)

# Layers that answer every frame; the exporter may state the example's length of their results.
_RECURRENT = frozenset({"gru", "lstm", "rnn_tanh", "rnn_relu"})

# Operators that make a constant of the shape of a value.
_SHAPED = frozenset({"zeros_like", "ones_like", "full_like", "empty_like"})

# Operators that take a size where a stream knows what it means.
_SIZED = frozenset(
    {"slice", "narrow", "arange", "full", "new_full", "linspace", "eye", "sym_size", "one_hot"}
)


_NOT_COMPLEX = "has no rule for complex numbers"
_PARTS = "compute with the real and imaginary parts (torch.view_as_real)"


def _is_complex(x: Any) -> bool:
    return isinstance(x, Complex) or bool(np.iscomplexobj(x))


def _reals(values: Iterable[Any]) -> Any:
    """All Values, of complex ones both parts."""
    for v in _find(values, (Value, Complex)):
        yield from (v.re, v.im) if isinstance(v, Complex) else (v,)


def _find(values: Iterable[Any], kind: type | tuple[type, ...]) -> Any:
    for v in values:
        if isinstance(v, kind):
            yield v
        elif isinstance(v, list):
            yield from _find(v, kind)
