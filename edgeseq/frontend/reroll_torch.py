"""What operators of PyTorch say of an unrolled loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgeseq.frontend.program import Operation, Program, Ref, refs_of
from edgeseq.frontend.reroll_slots import by_slots
from edgeseq.frontend.rolled import Element, Write, names_of

__all__ = ["TorchDialect"]

_CUTS = ("unbind", "split", "chunk", "split_with_sizes")
_LIKE = {"zeros_like": "zeros", "ones_like": "ones", "full_like": "full", "new_zeros": "zeros",
         "new_ones": "ones", "new_full": "full"}  # fmt: skip
_RANDOM = ("rand", "bernoulli", "dropout", "normal", "multinomial", "empty", "exponential")


class TorchDialect:
    """A `Dialect`: a program as `torch.export` writes it."""

    def __init__(self) -> None:
        self.program: Program | None = None

    def prepared(self, program: Program) -> Program:
        """Without operations that nothing reads; what is written into a slot is seen as it is.

        ``out[:, t] = y`` becomes ``copy(select(out), y)`` and a `select_scatter`; the old element
        only gives the copy its shape. So does the frame in ``zeros_like(x[:, 0])``.
        """
        operations = []
        for op in program.operations:
            op = _by_sizes(program, op)
            src = op.args.get("src")
            if op.base == "copy" and not op.in_place and isinstance(src, Ref):
                have, want = program.metas.get(src.name), program.metas.get(op.outputs[0])
                if have is not None and want is not None and have.sizes == want.sizes:
                    op = replace(op, target="aten.alias.default", args={"self": src})
            operations.append(op)
        elements = self.elements(replace(program, operations=operations))
        selects = {o for op in operations if op.base == "select" for o in op.outputs}
        takes = {n: e for n, e in elements.items() if n in selects}
        operations = by_slots(operations, takes, self)
        results = (*program.outputs, *program.written.values())
        read = {r.name for out in results for r in refs_of(out)}
        kept: list[Operation] = []
        for op in reversed(operations):
            if op.in_place or not any(op.outputs) or any(o in read for o in op.outputs):
                read.update(names_of(op.args))
                kept.append(op)
        return replace(program, operations=kept[::-1])

    def taken_from(self, op: Operation, name: str) -> Operation:
        """See `by_slots`."""
        return replace(op, args={**op.args, "self": Ref(name)})

    def taken_back(self, op: Operation, written: Ref, element: Element) -> Operation:
        """See `by_slots`."""
        return replace(op, target="aten.alias.default", args={"self": written})

    def joined(self, op: Operation, parts: list[Ref], dim: int) -> Operation:
        """See `by_slots`."""
        return replace(op, target="aten.stack.default", args={"tensors": parts, "dim": dim})

    def elements(self, program: Program) -> dict[str, Element]:
        """See `Dialect`."""
        self.program = program
        found: dict[str, Element] = {}
        for op in program.operations:
            source, dim = op.args.get("self"), op.args.get("dim", 0)
            if op.in_place or not isinstance(source, Ref) or source.name not in program.metas:
                continue
            sizes = program.metas[source.name].sizes
            if not isinstance(dim, int) or not -len(sizes) <= dim < len(sizes):
                continue
            dim %= len(sizes)
            n, name = sizes[dim], source.name
            if op.base == "select":
                index = op.args.get("index")
                if isinstance(index, int) and 0 <= index < n:
                    found[op.outputs[0]] = Element(name, dim, index, False, n)
            elif op.base == "slice":
                lo, hi = op.args.get("start") or 0, op.args.get("end")
                if isinstance(lo, int) and isinstance(hi, int) and 0 <= lo < n and hi == lo + 1:
                    found[op.outputs[0]] = Element(name, dim, lo, True, n)
            elif op.base in _CUTS and len(op.outputs) == n:
                for i, out in enumerate(op.outputs):
                    found[out] = Element(name, dim, i, op.base != "unbind", n)
        return found

    def together(self, op: Operation) -> tuple[list[Any], str, int] | None:
        """See `Dialect`."""
        tensors = op.args.get("tensors")
        if op.base not in ("stack", "cat", "concat") or not isinstance(tensors, list):
            return None
        return tensors, "stack" if op.base == "stack" else "cat", op.args.get("dim", 0)

    def write(self, op: Operation) -> Write | None:
        """See `Dialect`."""
        if op.base != "select_scatter" or self.program is None:
            return None
        meta = self.program.metas.get(op.outputs[0])
        src, base, index = op.args.get("src"), op.args.get("self"), op.args.get("index")
        if meta is None or not isinstance(src, Ref) or not isinstance(base, Ref):
            return None
        dim = op.args["dim"] % len(meta.sizes)
        if not isinstance(index, int) or not 0 <= index < meta.sizes[dim]:
            return None
        return Write(base, src, dim, index, False, meta.sizes[dim])

    def neutral(self, op: Operation, arg: Any) -> Any:
        """See `Dialect`; `torch.export` leaves out nothing."""
        return None

    def swapped(self, op: Operation) -> Operation | None:
        """See `Dialect`; `torch.export` keeps the order."""
        return None

    def chosen(self, out: str, condition: str, a: str, b: str) -> Operation:
        """See `Dialect`."""
        args = {"condition": Ref(condition), "self": Ref(a), "other": Ref(b)}
        return Operation("aten.where.self", args, (out,))

    def at_least_one(self, out: str, x: str) -> Operation:
        """See `Dialect`."""
        return Operation("aten.clamp_min.default", {"self": Ref(x), "min": 1.0}, (out,))

    def repeats(self, op: Operation) -> bool:
        """See `Dialect`."""
        return not any(word in op.base for word in _RANDOM)

    def evaluated(self, op: Operation, values: Mapping[str, Any]) -> dict[str, Any]:
        """See `Dialect`; `torch.export` computes nothing."""
        return {}


def _by_sizes(program: Program, op: Operation) -> Operation:
    """A constant in the shape of a tensor as one of known sizes, which reads no tensor."""
    meta = program.metas.get(op.outputs[0]) if op.outputs else None
    if op.base not in _LIKE or op.in_place or meta is None:
        return op
    sizes, fill = list(meta.sizes), op.args.get("fill_value")
    known = all(isinstance(n, int) for n in sizes) and isinstance(fill, int | float | None)
    if not known or meta.dtype != "float32":
        return op
    args = {} if fill is None else {"fill_value": float(fill)}
    return replace(op, target=f"aten.{_LIKE[op.base]}.default", args={"size": sizes, **args})
