"""Reads a `.pt2` file (what `torch.export.save` writes) as data, without torch.

`torch.export.load` runs code from a hostile file by three routes: weights marked `use_pickle`,
the pickled `sample_inputs`, and `expr_str` strings, which it evaluates. Here the first is refused,
the second is never opened, and of the third only the recorded number (`hint`) is used.

Layout (schema major version 8, as torch 2.13 writes it): `NAME/models/model.json` holds the
program, `NAME/data/weights/model_weights_config.json` and its like in `data/constants` say where
each tensor lies, and one raw little-endian member holds each storage.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ModelError, UnsupportedError
from edgeseq.frontend._archive import Archive
from edgeseq.frontend._json import Json
from edgeseq.frontend.functional import functional
from edgeseq.frontend.lower import lower
from edgeseq.frontend.options import ImportOptions
from edgeseq.frontend.pairing import check_values, pair_states, written_states
from edgeseq.frontend.program import Operation, Program, Ref, Symbol, TensorMeta, refs_of
from edgeseq.frontend.reroll import LOOP, Collected, Loop
from edgeseq.ir import Graph

__all__ = ["load_pt2", "read_program"]

SCHEMA_MAJOR = 8
_MAX_GRAPHS = 200

# Element types of the schema (torch/_export/serde/schema.py, ScalarType) that have a numpy type.
_DTYPES: dict[int, str] = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
}
_FLOAT16, _BFLOAT16 = 6, 13
_STRIDED = 7


def load_pt2(
    path: str | Path,
    *,
    name: str | None = None,
    options: ImportOptions | None = None,
    time_axis: int | None = None,
    batch_axis: int | None = None,
) -> Graph:
    """Read a saved exported model into a real Graph, running nothing from the file.

    Args:
        path: a file written by `torch.export.save`.
        name: of the Graph, a C identifier; made from the file's name if None.
        options: axes, states, window, context; `values` are what states begin with.
        time_axis, batch_axis: of `options`, for short.

    Returns:
        A Graph over time; or a step where the file passes states in and out (or writes its
        buffers) and was exported with one frame.

    Raises:
        ModelError: the file is missing, damaged, or not what `torch.export.save` writes.
        UnsupportedError: it holds operations that cannot be compiled (all are listed).
        UsageError: `options` name what the model does not have.
    """
    path, options = Path(path), options or ImportOptions()
    if time_axis is not None or batch_axis is not None:
        options = replace(
            options,
            time_axis=options.time_axis if time_axis is None else time_axis,
            batch_axis=options.batch_axis if batch_axis is None else batch_axis,
        )
    if name is None:
        name = re.sub(r"\W", "_", path.name.split(".")[0], flags=re.ASCII) or "model"
        name = name if not name[0].isdigit() else f"m{name}"
    program = read_program(path)
    states = [
        *pair_states(program, options.states, options.values, options),
        *written_states(program),
    ]
    check_values(program, options.values, states)
    return lower(program, name=name, options=options, states=states)


def read_program(source: str | Path | bytes, *, where: str | None = None) -> Program:
    """The program in a `.pt2` archive.

    Args:
        source: a path, or the archive's bytes.
        where: for messages; the path if None.

    Raises:
        ModelError, UnsupportedError: as `load_pt2`.
    """
    label = where or (str(source) if not isinstance(source, bytes) else "exported model")
    archive = Archive(source if isinstance(source, bytes) else Path(source), label)
    try:
        return _Reader(archive).program()
    finally:
        archive.close()


class _Reader:
    def __init__(self, archive: Archive) -> None:
        self.archive, self.where = archive, archive.where
        models = [n for n in archive.names() if re.fullmatch(r"[^/]+/models/[^/]+\.json", n)]
        if len(models) != 1:
            raise self._not_ours(archive, models)
        self.root, _, member = models[0].split("/", 2)
        self.model = member.removesuffix(".json")
        order = f"{self.root}/byteorder"
        if order in archive.names() and archive.read(order).strip() != b"little":
            raise archive.damaged("it was written on a big-endian machine")
        self._storages: dict[str, bytes] = {}
        self._tensors: dict[tuple[Any, ...], npt.NDArray[Any]] = {}
        self._room = max(8 * archive.size, 64 << 20)
        self._buffers: set[str] = set()
        self._written: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    @staticmethod
    def _not_ours(archive: Archive, models: list[str]) -> ModelError:
        names = archive.names()
        if models:
            return UnsupportedError(
                f"holds {len(models)} models", where=archive.where, fix="save one model per file"
            )
        if any(n.endswith("serialized_exported_program.json") for n in names):
            return ModelError(
                "was saved by an older torch, whose files hold pickles",
                where=archive.where,
                fix="save it again with torch 2.13",
            )
        return archive.damaged("it has no models/*.json")

    # -- the program -----------------------------------------------------------------------

    def program(self) -> Program:
        member = f"{self.root}/models/{self.model}.json"
        top = Json(self.archive.json(member), f"{self.where}: {member}")
        major = top["schema_version"]["major"].integer()
        if major != SCHEMA_MAJOR:
            raise ModelError(
                f"is written in schema version {major}; this reader knows {SCHEMA_MAJOR}",
                where=self.where,
                fix="save it again with torch 2.13",
            )
        graph = top["graph_module"]["graph"]
        numbers = {k: Symbol(_sym_int(v)) for k, v in graph["sym_int_values"].items()}
        metas = _metas(graph)
        signature = top["graph_module"]["signature"]
        inputs, constants = self._inputs(signature["input_specs"])
        outputs = self._outputs(signature["output_specs"])
        operations = _Operations(metas, numbers).of(graph["nodes"])
        program = Program(inputs, constants, operations, outputs, metas, numbers, self.where)
        program.buffers, program.written = self._buffers, self._written
        return functional(program)

    def _inputs(self, specs: Json) -> tuple[list[str], dict[str, Any]]:
        weights = self._payloads("weights")
        tensors = self._payloads("constants")
        inputs: list[str] = []
        constants: dict[str, Any] = {}
        for spec in specs.elements():
            kind, body = spec.union()
            if kind == "user_input":
                which, arg = body["arg"].union()
                if which == "as_tensor":
                    inputs.append(arg["name"].text())
                elif which == "as_none":
                    continue
                else:
                    raise self._unsupported(f"an input of kind {which!r}", "pass tensors only")
            elif kind == "parameter":
                key = body["parameter_name"].text()
                constants[body["arg"]["name"].text()] = self._tensor(weights, key)
            elif kind == "buffer":
                key = body["buffer_name"].text()
                table = weights if key in weights else tensors
                constants[body["arg"]["name"].text()] = self._tensor(table, key)
                self._buffers.add(body["arg"]["name"].text())
                self._names[key] = body["arg"]["name"].text()
            elif kind == "tensor_constant":
                key = body["tensor_constant_name"].text()
                constants[body["arg"]["name"].text()] = self._tensor(tensors, key)
            elif kind == "constant_input":
                which, value = body["value"].union()
                constants[body["name"].text()] = None if which == "as_none" else value.raw
            else:
                raise self._unsupported(
                    f"an input of kind {kind!r}", "remove custom objects and effects from the model"
                )
        return inputs, constants

    def _outputs(self, specs: Json) -> list[Any]:
        outputs: list[Any] = []
        for spec in specs.elements():
            kind, body = spec.union()
            if kind == "user_output":
                outputs.append(_argument(body["arg"]))
            elif kind == "buffer_mutation":
                key = body["buffer_name"].text()
                if key not in self._names:
                    raise self.archive.damaged(f"buffer {key[:120]!r} is missing")
                self._written[self._names[key]] = Ref(body["arg"]["name"].text())
            elif kind == "user_input_mutation":
                self._written[body["user_input_name"].text()] = Ref(body["arg"]["name"].text())
            elif kind == "parameter_mutation":
                raise self._unsupported(
                    "the model writes to a parameter",
                    "keep what changes in a buffer (register_buffer)",
                )
            else:
                raise self._unsupported(f"an output of kind {kind!r}", "export for inference")
        return outputs

    def _unsupported(self, what: str, fix: str) -> UnsupportedError:
        return UnsupportedError(what, where=self.where, fix=fix)

    # -- tensors ---------------------------------------------------------------------------

    def _payloads(self, kind: str) -> dict[str, Json]:
        member = f"{self.root}/data/{kind}/{self.model}_{kind}_config.json"
        if member not in self.archive.names():
            return {}
        top = Json(self.archive.json(member), f"{self.where}: {member}")
        return {k: v.at("_folder", kind) for k, v in top["config"].items()}

    def _tensor(self, table: dict[str, Json], key: str) -> npt.NDArray[Any]:
        where = f"{self.where}: tensor {key!r}"
        if key not in table:
            raise self.archive.damaged(f"tensor {key[:120]!r} is missing")
        entry = table[key]
        if entry["use_pickle"].raw is not False:
            raise ModelError(
                "is stored as a pickle, which can run code, and is not read",
                where=where,
                fix="use plain dense tensors (no subclasses, not sparse or quantised) for weights",
            )
        meta = entry["tensor_meta"]
        sizes = [_sym_int(s) for s in meta["sizes"].elements()]
        strides = [_sym_int(s) for s in meta["strides"].elements()]
        offset = _sym_int(meta["storage_offset"])
        if meta["layout"].integer() != _STRIDED or len(strides) != len(sizes) or len(sizes) > 8:
            raise ModelError("is not a dense tensor", where=where, fix="use dense weights")
        folder = entry.raw["_folder"]
        leaf = entry["path_name"].text()
        if "/" in leaf or "\\" in leaf or leaf.startswith("."):
            raise self.archive.damaged(f"tensor {key[:120]!r} points to {leaf[:80]!r}")
        member = f"{self.root}/data/{folder}/{leaf}"
        if member not in self._storages:
            self._storages[member] = self.archive.read(member)
        code = meta["dtype"].integer()
        view = (member, code, tuple(sizes), tuple(strides), offset)
        if view not in self._tensors:
            tensor = _strided(self._storages[member], code, sizes, strides, offset, where)
            self._room -= tensor.nbytes  # thousands of views of one storage would fill the memory
            if self._room < 0:
                raise self.archive.damaged("its tensors are far larger than the file")
            self._tensors[view] = tensor
        return self._tensors[view]


def _strided(
    raw: bytes, code: int, sizes: list[int], strides: list[int], offset: int, where: str
) -> npt.NDArray[Any]:
    """A contiguous copy of a tensor that lies in the storage `raw`."""
    if code != _BFLOAT16 and code not in _DTYPES:
        raise UnsupportedError(
            f"has element type number {code}, which has no numpy type",
            where=where,
            fix="use float32 weights",
        )
    dtype = np.dtype("<u2") if code == _BFLOAT16 else np.dtype(_DTYPES[code]).newbyteorder("<")
    have = len(raw) // dtype.itemsize
    if min([offset, *sizes, *strides]) < 0:
        raise ModelError(
            "has a negative size, stride or offset", where=where, fix="the file is damaged"
        )
    count = math.prod(sizes)
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    # A stride of 0 repeats elements, so a small storage can state any size: bound it by the file.
    if count and (last >= have or count > max(have, 1 << 20)):
        raise ModelError(
            f"states {sizes} elements with strides {strides}, its storage holds {have}",
            where=where,
            fix="the file is damaged: save it again",
        )
    if count == 0:
        return np.zeros(sizes, _DTYPES.get(code, "float32"))
    flat = np.frombuffer(raw, dtype, have)[offset:]
    view = np.lib.stride_tricks.as_strided(
        flat, sizes, [s * dtype.itemsize for s in strides], writeable=False
    )
    if code == _BFLOAT16:
        return (view.astype(np.uint32) << 16).view(np.float32).reshape(sizes)
    # Half precision is kept as float32, of which it is a part.
    array = np.array(view, dtype="float32" if code == _FLOAT16 else _DTYPES[code])
    if array.dtype.kind in "fc" and not np.all(np.isfinite(array)):
        raise ModelError("holds NaN or infinity", where=where, fix="check the training")
    return array


# -- pieces of the schema --------------------------------------------------------------------


def _sym_int(value: Json) -> int:
    """A size: a number, or the example's number of a symbolic one (`expr_str` is never read)."""
    kind, body = value.union()
    if kind == "as_int":
        return body.integer()
    if kind == "as_expr":
        hint = body["hint"]
        if hint.raw is None:
            raise UnsupportedError(
                "a size depends on the data", where=value.where, fix="export with fixed sizes"
            )
        which, number = hint.union()
        if which == "as_int":
            return number.integer()
    raise value.wrong("a size")


def _meta(value: Json) -> TensorMeta:
    code = value["dtype"].integer()
    axes = value["sizes"].elements()
    sizes = tuple(_sym_int(s) for s in axes)
    free = frozenset(i for i, s in enumerate(axes) if s.union()[0] == "as_expr")
    dtype = "bfloat16" if code == _BFLOAT16 else _DTYPES.get(code, f"type {code}")
    return TensorMeta(sizes, dtype, free)


def _metas(graph: Json) -> dict[str, TensorMeta]:
    return {k: _meta(v) for k, v in graph["tensor_values"].items()}


class _Operations:
    """Reads the nodes of a graph; what torch wraps into a graph of its own is written out."""

    def __init__(self, metas: dict[str, TensorMeta], numbers: dict[str, Symbol]) -> None:
        self.metas, self.numbers = metas, numbers
        self.made: list[Operation] = []
        self.graphs = 0

    def of(self, nodes: Json) -> list[Operation]:
        """The operations of the outermost graph."""
        for node in nodes.elements():
            self._node(node, {}, 0)
        return self.made

    def _node(self, node: Json, names: dict[str, Any], depth: int) -> None:
        target = node["target"].text()[:200].removeprefix("torch.ops.")
        inputs = node["inputs"].elements()
        path, leaf = _module(node["metadata"].get("nn_module_stack"))
        outputs = tuple(self._fresh(n, names, depth) for n in _outputs(node))
        if target.startswith("higher_order."):
            args = [item["arg"] for item in inputs]
            self._wrapped(target, args, outputs, names, depth, path)
            return
        named = {
            item["name"].text() or f"arg{i}": _renamed(_argument(item["arg"]), names)
            for i, item in enumerate(inputs)
        }
        self.made.append(Operation(target, named, outputs, path, leaf))

    @staticmethod
    def _fresh(name: str, names: dict[str, Any], depth: int) -> str:
        """A name in the whole program of one that an inner graph defines."""
        if not depth or not name:
            return name
        names[name] = Ref(f"{name}@{depth}")
        return f"{name}@{depth}"

    def _wrapped(
        self,
        target: str,
        args: list[Json],
        outputs: tuple[str, ...],
        names: dict[str, Any],
        depth: int,
        path: str,
    ) -> None:
        kind = target.split(".")[1]
        graphs = [i for i, a in enumerate(args) if a.union()[0] == "as_graph"]
        if kind not in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "scan") or not graphs:
            refs = [
                r for a in args if a.union()[0] in ("as_tensor", "as_tensors")
                for r in refs_of(_renamed(_argument(a), names))
            ]  # fmt: skip
            self.made.append(Operation(target, {"operands": refs}, outputs, path, False))
            return
        self.graphs += 1
        if self.graphs > _MAX_GRAPHS:
            raise args[0].wrong(f"at most {_MAX_GRAPHS} graphs")
        graph = args[graphs[0]].union()[1]["graph"]
        inner = self.graphs
        known = [i["as_tensor"]["name"].text() for i in graph["inputs"].elements()]
        self.metas.update({f"{k}@{inner}": v for k, v in _metas(graph).items()})
        if kind == "scan":
            self._scan(args, graph, known, outputs, names, inner, path)
            return
        given = [_renamed(_argument(a), names) for a in args[graphs[0] + 1 :]]
        table: dict[str, Any] = dict(zip(known, given, strict=False))
        results = self._inside(graph, table, inner)
        for name, result in zip(outputs, results, strict=False):
            if name:
                alias = Operation("aten.alias.default", {"self": result}, (name,), path)
                self.made.append(alias)

    def _inside(self, graph: Json, table: dict[str, Any], inner: int) -> list[Any]:
        for node in graph["nodes"].elements():
            self._node(node, table, inner)
        return [_renamed(_argument(o), table) for o in graph["outputs"].elements()]

    def _scan(
        self,
        args: list[Json],
        graph: Json,
        known: list[str],
        outputs: tuple[str, ...],
        names: dict[str, Any],
        inner: int,
        path: str,
    ) -> None:
        """torch's `scan`: (carry, x, more) -> (carry, y), over the first axis of the xs."""
        init, xs = (_renamed(_argument(a), names) for a in args[1:3])
        more = _renamed(_argument(args[3]), names) if len(args) > 3 else []
        table: dict[str, Any] = {n: Ref(f"{n}@{inner}") for n in known[: len(init) + len(xs)]}
        table.update(zip(known[len(init) + len(xs) :], more, strict=True))
        outer, self.made = self.made, []
        results = self._inside(graph, table, inner)
        body, self.made = self.made, outer
        carries = [f"{n}@{inner}" for n in known[: len(init)]]
        elements = [f"{n}@{inner}" for n in known[len(init) : len(init) + len(xs)]]
        sizes = self.metas[xs[0].name].sizes if xs and xs[0].name in self.metas else ()
        if not sizes or any(not isinstance(r, Ref) for r in results):
            raise args[2].wrong("sequences")
        program = Program(
            [*elements, *carries], {}, body, results[: len(init)], self.metas, self.numbers
        )
        collected = [
            Collected(name, result, "last" if i < len(init) else "stack")
            for i, (name, result) in enumerate(zip(outputs, results, strict=True))
            if name
        ]
        loop = Loop([(x, 0, False) for x in xs], program, init, collected, [], sizes[0], False)
        reads = [*refs_of(init), *xs, *refs_of(more)]
        self.made.append(
            Operation(LOOP, {"loop": loop, "inputs": reads}, tuple(c.name for c in collected), path)
        )


def _renamed(arg: Any, names: dict[str, Any]) -> Any:
    if isinstance(arg, Ref):
        return names.get(arg.name, arg)
    if isinstance(arg, list):
        return [_renamed(a, names) for a in arg]
    return arg


def _outputs(node: Json) -> list[str]:
    outputs: list[str] = []
    for out in node["outputs"].elements():
        kind, body = out.union()
        if kind == "as_tensor":
            outputs.append(body["name"].text())
        elif kind == "as_tensors":
            outputs.extend(t["name"].text() for t in body.elements())
        elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            outputs.append(body["as_name"].text())
        elif kind == "as_none":
            outputs.append("")
        else:
            raise out.wrong("an output of an operation")
    return outputs


def _module(stack: Json | None) -> tuple[str, bool]:
    """Path and kind of the innermost module in 'key,path,class;key,path,class'."""
    if stack is None:
        return "", False
    parts = stack.text().rpartition(";")[2].split(",", 2)
    if len(parts) != 3 or parts[1].startswith("empty_nn_module_stack"):
        return "", False
    path = re.sub(r"@\d+$", "", parts[1])
    path = re.sub(r"[^\w.]+", "_", path, flags=re.ASCII)[:100].strip("._")
    return path, parts[2].startswith("torch.nn.modules.")


def _argument(arg: Json) -> Any:
    kind, body = arg.union()
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return Ref(body["name"].text())
    if kind in ("as_tensors",):
        return [Ref(t["name"].text()) for t in body.elements()]
    if kind == "as_optional_tensors":
        return [_argument(t) for t in body.elements()]
    if kind == "as_optional_tensor":
        return _argument(body)
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return _symbol(body)
    if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
        return [_symbol(b) for b in body.elements()]
    if kind in ("as_int", "as_bool", "as_float", "as_string", "as_scalar_type"):
        return body.scalar()
    if kind in ("as_ints", "as_bools", "as_floats", "as_strings"):
        return [b.scalar() for b in body.elements()]
    if kind == "as_complex":
        return complex(*(float(body[part].scalar()) for part in ("real", "imag")))
    if kind in ("as_memory_format", "as_layout", "as_device"):
        return None  # where and how torch stores a tensor; no meaning here
    raise UnsupportedError(
        f"an argument of kind {kind!r} (control flow or a custom object)",
        where=arg.where,
        fix="write the model without torch.cond, while_loop, map or custom objects",
    )


def _symbol(value: Json) -> Any:
    kind, body = value.union()
    return Ref(body.text()) if kind == "as_name" else body.scalar()
