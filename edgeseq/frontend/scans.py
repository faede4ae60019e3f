"""Linear recurrences that a model computes for all frames at once, as the loops that they are.

A running sum over the frames has no end in a stream; what these forms make of sums has: the state
h_t = a_t h_{t-1} + b_t.

- ``exp(A + logcumsumexp(V - A))`` with ``A = cumsum(L)``: a = exp(L), b = exp(V)
- ``exp(A) * cumsum(V * exp(-A))`` or ``exp(A) * cumsum(V / exp(A))``: a = exp(L), b = V
- ``P * cumsum(V / P)`` with ``P = cumprod(L)``: a = L, b = V

Source: Heinsen, "Efficient Parallelization of a Ubiquitous Sequential Computation" (2023, arXiv
2311.06281), which minGRU and minLSTM use; Feng et al., "Were RNNs All We Needed?" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeseq.frontend.program import Operation, Program, Ref, TensorMeta
from edgeseq.frontend.rolled import LOOP, Collected, Loop

__all__ = ["as_loops"]


def as_loops(program: Program) -> Program:
    """`program` with its parallel scans as loops; itself where it has none."""
    if not any(op.base in ("cumsum", "cumprod") for op in program.operations):
        return program
    finder = _Finder(program)
    operations = [finder.loop(op) or op for op in program.operations]
    return replace(program, operations=operations) if finder.count else program


@dataclass(frozen=True)
class _Scan:
    """h_t = a_t h_{t-1} + b_t along an axis; where `powers` say so, a or b is the exponential."""

    a: Ref
    b: Ref
    dim: int
    powers: tuple[bool, bool]


class _Finder:
    """Looks for the forms at the operation that ends them."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.made = {o: op for op in program.operations for o in op.outputs}
        self.count = 0

    def loop(self, op: Operation) -> Operation | None:
        """The loop that `op` ends, under its name."""
        scan = self._of_logarithms(op) if op.base == "exp" else None
        if op.base == "mul":
            for factor, total in self._both(op):
                scan = scan or self._of_factors(factor, total)
        if scan is None:
            return None
        metas = [self.program.metas.get(r.name) for r in (scan.a, scan.b)]
        first = metas[0]
        if first is None or metas[1] is None or first.sizes != metas[1].sizes:
            return None
        return self._written(op, scan, first)

    # -- forms -----------------------------------------------------------------------------

    def _of_logarithms(self, op: Operation) -> _Scan | None:
        for sums, rest in self._both(self._maker(op.args.get("self"), "add")):
            total = self._maker(rest, "logcumsumexp")
            at = self._maker(sums, "cumsum")
            less = self._maker(total and total.args.get("self"), "sub")
            if total is None or at is None or less is None or not _plain(less):
                continue
            dim = self._axis(at)
            if less.args.get("other") == sums and dim is not None and dim == self._axis(total):
                value = less.args.get("self")
                if isinstance(value, Ref):
                    return _Scan(at.args["self"], value, dim, (True, True))
        return None

    def _of_factors(self, factor: Any, total: Any) -> _Scan | None:
        """Of ``factor * total``."""
        added = self._maker(total, "cumsum")
        grown = self._maker(factor, "exp")
        at = (
            self._maker(grown.args.get("self"), "cumsum")
            if grown
            else self._maker(factor, "cumprod")
        )
        if added is None or at is None:
            return None
        dim = self._axis(at)
        if dim is None or dim != self._axis(added):
            return None
        value = self._divided(added.args.get("self"), factor, at if grown else None)
        if value is None:
            return None
        return _Scan(at.args["self"], value, dim, (grown is not None, False))

    def _divided(self, name: Any, factor: Any, sums: Operation | None) -> Ref | None:
        """x of ``x / factor``, or of ``x * exp(-sums)``."""
        ratio = self._maker(name, "div")
        rounds = ratio is not None and ratio.args.get("rounding_mode") is not None
        if ratio is not None and not rounds and self._same(ratio.args.get("other"), factor):
            value = ratio.args.get("self")
            return value if isinstance(value, Ref) else None
        if sums is None:
            return None
        for value, shrunk in self._both(self._maker(name, "mul")):
            power = self._maker(shrunk, "exp")
            minus = self._maker(power.args.get("self"), "neg") if power else None
            if minus is not None and minus.args.get("self") == Ref(sums.outputs[0]):
                return value if isinstance(value, Ref) else None
        return None

    # -- operations ------------------------------------------------------------------------

    def _same(self, a: Any, b: Any) -> bool:
        """Whether two values are one, or exponentials of one."""
        powers = [self._maker(name, "exp") for name in (a, b)]
        if a == b or None in powers:
            return bool(a == b)
        first, second = (op.args.get("self") for op in powers if op is not None)
        return bool(first == second)

    def _maker(self, name: Any, base: str) -> Operation | None:
        """The operation that makes a value, if it is a `base`."""
        op = self.made.get(name.name) if isinstance(name, Ref) else None
        return op if op is not None and op.base == base and not op.in_place else None

    def _both(self, op: Operation | None) -> list[tuple[Any, Any]]:
        """The operands of a sum or product, in both orders."""
        if op is None or not _plain(op):
            return []
        a, b = op.args.get("self"), op.args.get("other")
        return [(a, b), (b, a)]

    def _axis(self, op: Operation) -> int | None:
        source, dim = op.args.get("self"), op.args.get("dim")
        meta = self.program.metas.get(source.name) if isinstance(source, Ref) else None
        return None if meta is None or not isinstance(dim, int) else dim % len(meta.sizes)

    def _written(self, op: Operation, scan: _Scan, meta: TensorMeta) -> Operation:
        self.count += 1
        out, rest = op.outputs[0], [n for i, n in enumerate(meta.sizes) if i != scan.dim]
        names = {k: f"{out}.{k}" for k in ("a", "b", "before", "kept", "after", "gain", "more")}
        metas = {name: TensorMeta(tuple(rest), meta.dtype) for name in names.values()}
        body, read = [], []
        for key, made, power in zip("ab", ("gain", "more"), scan.powers, strict=True):
            read.append(Ref(names[made] if power else names[key]))
            if power:
                body.append(
                    Operation("aten.exp.default", {"self": Ref(names[key])}, (names[made],))
                )
        kept = {"self": read[0], "other": Ref(names["before"])}
        body.append(Operation("aten.mul.Tensor", kept, (names["kept"],)))
        after = {"self": Ref(names["kept"]), "other": read[1]}
        body.append(Operation("aten.add.Tensor", after, (names["after"],)))
        inner = Program(
            [names["a"], names["b"], names["before"]], {}, body, [Ref(names["after"])], metas,
            where=self.program.where,
        )  # fmt: skip
        loop = Loop(
            [(scan.a, scan.dim, False), (scan.b, scan.dim, False)], inner,
            [np.zeros((), np.float32)], [Collected(out, Ref(names["after"]), "stack", scan.dim)],
            [], meta.sizes[scan.dim], False,
        )  # fmt: skip
        return Operation(LOOP, {"loop": loop, "inputs": [scan.a, scan.b]}, (out,), op.path)


def _plain(op: Operation) -> bool:
    """Whether a sum or difference has no factor of its own."""
    return op.args.get("alpha", 1) in (1, None)
