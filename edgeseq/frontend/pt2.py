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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ModelError, UnsupportedError
from edgeseq.frontend._archive import Archive
from edgeseq.frontend._json import Json
from edgeseq.frontend.lower import lower
from edgeseq.frontend.program import Operation, Program, Ref, Symbol, TensorMeta
from edgeseq.ir import Graph

__all__ = ["load_pt2", "read_program"]

SCHEMA_MAJOR = 8

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
    12: "bool",
}
_BFLOAT16 = 13
_STRIDED = 7


def load_pt2(
    path: str | Path,
    *,
    name: str | None = None,
    time_axis: int | None = None,
    batch_axis: int | None = None,
) -> Graph:
    """Read a saved exported model into a real Graph over time, running nothing from the file.

    Args:
        path: a file written by `torch.export.save`.
        name: of the Graph, a C identifier; made from the file's name if None.
        time_axis, batch_axis: axes of the sequence inputs; found from the recurrent layers (else
            batch 0, time 1) if None. See `edgeseq.frontend.lower.lower`.

    Raises:
        ModelError: the file is missing, damaged, or not what `torch.export.save` writes.
        UnsupportedError: it holds operations that cannot be compiled (all are listed).
    """
    path = Path(path)
    if name is None:
        name = re.sub(r"\W", "_", path.name.split(".")[0], flags=re.ASCII) or "model"
        name = name if not name[0].isdigit() else f"m{name}"
    program = read_program(path)
    return lower(program, name=name, time_axis=time_axis, batch_axis=batch_axis)


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
        if any(n.endswith("constants.pkl") or "/code/" in n for n in names):
            return UnsupportedError(
                "is a TorchScript archive, which holds code",
                where=archive.where,
                fix="save the model with torch.export.save(torch.export.export(model, (example,)))",
            )
        if any(n.endswith("/data.pkl") for n in names):
            return UnsupportedError(
                "is a pickled checkpoint (torch.save), which can run code and holds no program",
                where=archive.where,
                fix="save the model with torch.export.save(torch.export.export(model, (example,)))",
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
        metas = {k: _meta(v) for k, v in graph["tensor_values"].items()}
        signature = top["graph_module"]["signature"]
        inputs, constants = self._inputs(signature["input_specs"])
        outputs = self._outputs(signature["output_specs"])
        operations = [_operation(n) for n in graph["nodes"].elements()]
        return Program(inputs, constants, operations, outputs, metas, numbers, self.where)

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
                raise self._unsupported(
                    f"the model writes its buffer {body['buffer_name'].text()!r}",
                    "keep state in a recurrent layer (nn.RNN, nn.GRU, nn.LSTM), and call eval() "
                    "before exporting",
                )
            elif kind in ("user_input_mutation", "parameter_mutation"):
                raise self._unsupported(
                    "the model writes to its input or a parameter",
                    "use the operation that returns a new tensor",
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
    array = np.array(view, dtype=_DTYPES[code])
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
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
    sizes = tuple(_sym_int(s) for s in value["sizes"].elements())
    return TensorMeta(sizes, "bfloat16" if code == _BFLOAT16 else _DTYPES.get(code, f"type {code}"))


def _operation(node: Json) -> Operation:
    target = node["target"].text()[:200].removeprefix("torch.ops.")
    args: dict[str, Any] = {}
    for i, item in enumerate(node["inputs"].elements()):
        args[item["name"].text() or f"arg{i}"] = _argument(item["arg"])
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
    path, leaf = _module(node["metadata"].get("nn_module_stack"))
    return Operation(target, args, tuple(outputs), path, leaf)


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
