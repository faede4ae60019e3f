"""A program without operations in place: what they write is a new value that later reads see.

``torch.export.export`` alone keeps ``y[:, t] = h`` as a copy into a view. Here every operation in
place becomes the one that returns its result, and the tensors that the written one is a view of
are made anew, step by step: a `select` by a `select_scatter`, a `slice` by a `slice_scatter`,
a transpose by the transpose back. Views of them are taken again when somebody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from edgeseq.frontend.program import Operation, Program, Ref, TensorMeta, refs_of

__all__ = ["functional"]

_ALIASES = frozenset({"alias", "detach", "view_of"})
# Their result may be a copy: whether it is depends on how the tensor lies in memory.
_PERHAPS = frozenset({"contiguous", "to", "dropout", "reshape", "flatten", "expand", "movedim"})
_VIEWS = _ALIASES | _PERHAPS | {
    "select", "slice", "narrow", "view", "unflatten", "unsqueeze", "squeeze", "transpose",
    "permute", "t", "split", "chunk", "unbind", "split_with_sizes", "view_as",
}  # fmt: skip
_MOST = 20_000


def functional(program: Program) -> Program:
    """`program` without operations in place; those that cannot be replaced stay as they are."""
    if not any(op.in_place for op in program.operations):
        return program
    return _Functional(program).run()


class _Functional:
    def __init__(self, program: Program) -> None:
        self.program, self.metas = program, dict(program.metas)
        self.made: list[Operation] = []
        # Of a view: the operation that made it and the tensor it looks at.
        self.views: dict[str, tuple[Operation, str]] = {}
        self.current: dict[str, str] = {}  # what a name of the program stands for now
        self.stale: set[str] = set()  # views of something that was written since
        self.count = self.position = 0
        self.last: dict[str, int] = {}  # where each name is read last
        for i, op in enumerate(program.operations):
            for a in op.args.values():
                self.last.update((r.name, i) for r in refs_of(a))
        end = len(program.operations)
        self.last.update((r.name, end) for o in program.outputs for r in refs_of(o))
        self.last.update((n, end) for n in (*program.buffers, *program.inputs))
        self.written: dict[str, Any] = dict(program.written)

    def run(self) -> Program:
        program = self.program
        for self.position, op in enumerate(program.operations):
            if len(self.made) > _MOST:
                return program
            if op.in_place and not self._replaced(op):
                self._emit(op)
                continue
            if op.in_place:
                continue
            self._emit(op)
            if op.base in _VIEWS:
                source = op.args.get("self", op.args.get("input"))
                if isinstance(source, Ref):
                    for out in op.outputs:
                        self.views[out] = (op, source.name)
        outputs = [self._seen(o) for o in program.outputs]
        for name in (*program.buffers, *program.inputs):
            if name in self.current:
                self.written[name] = Ref(self._name(name))
        return replace(
            program, operations=self.made, outputs=outputs, metas=self.metas, written=self.written
        )

    # -- reading ---------------------------------------------------------------------------

    def _seen(self, arg: Any) -> Any:
        """An argument with every name as what it stands for now."""
        if isinstance(arg, Ref):
            return Ref(self._name(arg.name))
        if isinstance(arg, list):
            return [self._seen(a) for a in arg]
        return arg

    def _name(self, name: str) -> str:
        if name in self.stale:
            self.stale.discard(name)
            op, _ = self.views[name]
            fresh = {o: self._fresh(o) for o in op.outputs if o}
            self._emit(replace(op, outputs=tuple(fresh.get(o, "") for o in op.outputs)))
            for old, new in fresh.items():
                self.current[old] = new
                self.stale.discard(old)
        return self.current.get(name, name)

    def _emit(self, op: Operation) -> None:
        self.made.append(replace(op, args={k: self._seen(a) for k, a in op.args.items()}))

    def _fresh(self, name: str) -> str:
        self.count += 1
        new = f"{name}@{self.count}w"
        if name in self.metas:
            self.metas[new] = self.metas[name]
        return new

    # -- writing ---------------------------------------------------------------------------

    def _replaced(self, op: Operation) -> bool:
        """Let what an operation in place writes be a new value; False where it cannot be."""
        key = next((k for k, a in op.args.items() if any(refs_of(a))), "")
        target = op.args.get(key)
        if not isinstance(target, Ref) or not self._can_write(target.name):
            return False
        parts = op.target.split(".")
        plain = op.target.replace(f".{parts[1]}", f".{parts[1][:-1]}", 1)
        result = self._fresh(target.name)
        outputs = (result, *op.outputs[1:])
        self._emit(replace(op, target=plain, outputs=outputs))
        self._write(target.name, result, op.path)
        if op.outputs and op.outputs[0]:
            # The result is the tensor itself: a view of it as long as nobody writes again.
            out = op.outputs[0]
            alias = Operation("aten.alias.default", {"self": target}, (out,), op.path)
            self._emit(alias)
            self.views[out] = (alias, target.name)
        return True

    def _chain(self, name: str) -> Iterator[tuple[str, Operation, str]]:
        """The views from a tensor down to what they look at: (view, operation, tensor)."""
        while name in self.views:
            op, source = self.views[name]
            yield name, op, source
            name = source

    def _can_write(self, name: str) -> bool:
        for view, op, source in self._chain(name):
            if op.base in _PERHAPS:
                return not self._read_later(name, source)
            if op.base not in _ALIASES and _back(op, self.metas, view, source) is None:
                return False
        return True

    def _read_later(self, name: str, source: str) -> bool:
        """Whether anything that may share memory with `source` is read again, `name` aside."""
        below = {source, *(s for _, _, s in self._chain(source))}
        for view in self.views:
            steps = [s for _, _, s in self._chain(view)]
            if view != name and name not in steps and below & set(steps):
                below.add(view)
        return any(self.last.get(n, -1) > self.position for n in below)

    def _write(self, name: str, value: str, path: str) -> None:
        """`name` holds `value` now, and so do the tensors it is a view of."""
        self._set(name, value)
        written = {name}
        for view, op, source in list(self._chain(name)):
            if op.base in _PERHAPS:
                break  # nothing reads what lies below
            if op.base not in _ALIASES:
                back = _back(op, self.metas, view, source)
                assert back is not None
                target, args, scatters = back
                new = self._fresh(source)
                given: dict[str, Any] = {"self": Ref(value), **args}
                if scatters:
                    given = {"self": Ref(self._name(source)), "src": Ref(value), **args}
                self.made.append(Operation(target, given, (new,), path))
                value = new
            self._set(source, value)
            written.add(source)
        # Other views of what was written are taken again when they are read.
        for view in self.views:
            if view not in written and any(s in written for _, _, s in self._chain(view)):
                self.stale.add(view)

    def _set(self, name: str, value: str) -> None:
        self.current[name] = value
        self.stale.discard(name)


_Back = tuple[str, dict[str, Any], bool]


def _back(op: Operation, metas: dict[str, TensorMeta], view: str, source: str) -> _Back | None:
    """How a tensor is made from its view: (operator, arguments, whether a part is replaced)."""
    args, meta = op.args, metas.get(source)
    if op.base == "select":
        return "aten.select_scatter.default", _kept(args, "dim", "index"), True
    if op.base == "slice":
        return "aten.slice_scatter.default", _kept(args, "dim", "start", "end", "step"), True
    if op.base in ("unbind", "split", "chunk", "split_with_sizes") and meta is not None:
        return _part(op, metas, view, meta)
    if op.base in ("view", "unflatten", "unsqueeze", "squeeze", "view_as"):
        return ("aten.view.default", {"size": list(meta.sizes)}, False) if meta else None
    if op.base == "transpose":
        return "aten.transpose.int", _kept(args, "dim0", "dim1"), False
    if op.base == "t":
        return "aten.t.default", {}, False
    if op.base == "permute":
        rank = len(args["dims"])
        dims = [int(i) for i in np.argsort([d % rank for d in args["dims"]])]
        return "aten.permute.default", {"dims": dims}, False
    return None


def _kept(args: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: args[k] for k in keys if k in args}


def _part(op: Operation, metas: dict[str, TensorMeta], view: str, meta: TensorMeta) -> _Back | None:
    """Of one of several parts of a tensor."""
    dim = op.args.get("dim", 0)
    if not isinstance(dim, int) or not meta.sizes:
        return None
    dim %= len(meta.sizes)
    index = op.outputs.index(view)
    if op.base == "unbind":
        return "aten.select_scatter.default", {"dim": dim, "index": index}, True
    sizes = [metas[o].sizes[dim] if o in metas else -1 for o in op.outputs]
    if -1 in sizes:
        return None
    start = sum(sizes[:index])
    place = {"dim": dim, "start": start, "end": start + sizes[index]}
    return "aten.slice_scatter.default", place, True
