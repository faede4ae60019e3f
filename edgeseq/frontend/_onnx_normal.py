"""Checks a node against its operator's schema and gives it the newest opset's form.

The table of what comes out is in `edgeseq.frontend.onnx_file`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.errors import ModelError, UnsupportedError
from edgeseq.frontend._onnx_wire import damaged
from edgeseq.frontend.program import Program, Ref

__all__ = ["Node", "normalise", "oldest_and_newest"]

Array = npt.NDArray[Any]

OLDEST = 9
_FLOAT_MAX = float(np.finfo(np.float32).max)
_UINT8 = 2

_RULES: dict[str, Callable[[Node], None]] = {}


@dataclass
class Node:
    """A node while it is read.

    Attributes:
        op: operator, of the default domain.
        opset: version of the default domain that it is written in.
        inputs, outputs: as in the file, names resolved; None and '' where left out.
        attrs: attributes as plain values.
        label: the node in messages.
        const: adds a constant beside the node, named after it.
        value: the constant that an input is, None where it is none.
        type_of: element type number of that constant, as the file says it; 0 if unknown.
    """

    op: str
    opset: int
    inputs: list[Ref | None]
    attrs: dict[str, Any]
    outputs: list[str]
    label: str
    const: Callable[[Any, str], Ref]
    value: Callable[[Ref | None], Array | None]
    type_of: Callable[[Ref | None], int]

    def wrong(self, what: str) -> ModelError:
        return damaged(what, self.label)

    def move(self, attr: str, index: int, dtype: str, shape: tuple[int, ...] = (-1,)) -> None:
        """An attribute of an older opset becomes the input at `index`."""
        value = self.attrs.pop(attr, None)
        self.place(
            index, None if value is None else np.reshape(np.array(value, dtype), shape), attr
        )

    def place(self, index: int, value: Array | None, name: str) -> None:
        """A constant as the input at `index`; None leaves it out unless it is there."""
        self.inputs += [None] * (index + 1 - len(self.inputs))
        if value is not None:
            self.inputs[index] = self.const(value, name)


@dataclass(frozen=True)
class _Schema:
    """What is used of an operator's schema."""

    inputs: tuple[tuple[str, str], ...]  # name and option of each
    least: int
    most: int
    outputs: int
    variadic: bool
    types: dict[str, int]
    required: tuple[str, ...]
    defaults: dict[str, Any]
    deprecated: bool


@lru_cache(maxsize=1)
def oldest_and_newest() -> tuple[int, int]:
    """Opsets of the default domain that are read; the newest is what the onnx package knows."""
    import onnx.defs

    return OLDEST, int(onnx.defs.onnx_opset_version())


@lru_cache(maxsize=2048)
def _schema(op: str, opset: int) -> _Schema | None:
    """The operator's schema at an opset; None where the standard has no such operator."""
    import onnx
    import onnx.defs

    try:
        found = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None
    defaults: dict[str, Any] = {}
    for name, attr in found.attributes.items():
        has = attr.default_value.name
        value = onnx.helper.get_attribute_value(attr.default_value) if has else None
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list | tuple):
            value = [v.decode() if isinstance(v, bytes) else v for v in value]
        defaults[name] = value
    last = found.outputs[-1].option.name if found.outputs else ""
    return _Schema(
        tuple((i.name, i.option.name) for i in found.inputs),
        found.min_input,
        found.max_input,
        len(found.outputs),
        last == "Variadic",
        {k: int(v.type.value) for k, v in found.attributes.items()},
        tuple(k for k, v in found.attributes.items() if v.required),
        defaults,
        bool(found.deprecated),
    )


def normalise(node: Node, types: dict[str, int]) -> None:
    """Check `node` and give it the newest opset's form, in place.

    An operator that the standard does not have stays as it is.

    Args:
        types: AttributeProto type of each attribute.

    Raises:
        ModelError: the node breaks its operator's schema.
        UnsupportedError: it holds what has no meaning in a model for inference.
    """
    schema = _schema(node.op, node.opset)
    if schema is None:
        return
    _drop_leftovers(node)
    _check(node, schema, types)
    rule = _RULES.get(node.op)
    if rule is not None:
        rule(node)
    newest = _schema(node.op, oldest_and_newest()[1])
    if newest is None or newest.deprecated:
        return
    for name, default in newest.defaults.items():
        if name not in node.attrs or node.attrs[name] is None:
            node.attrs[name] = list(default) if isinstance(default, list) else default
    if not newest.inputs or newest.inputs[-1][1] != "Variadic":
        node.inputs += [None] * (len(newest.inputs) - len(node.inputs))
    if not newest.variadic:
        node.outputs += [""] * (newest.outputs - len(node.outputs))


def _drop_leftovers(node: Node) -> None:
    """Attributes of opsets before 9 that old exporters went on writing, where they say nothing."""
    node.attrs.pop("consumed_inputs", None)
    if node.op in ("BatchNormalization", "Dropout"):
        for name in ("is_test", "spatial"):
            value = node.attrs.get(name)
            if isinstance(value, int) and value == 1:
                del node.attrs[name]


def _check(node: Node, schema: _Schema, types: dict[str, int]) -> None:
    count = len(node.inputs)
    if not schema.least <= count <= schema.most:
        raise node.wrong(f"has {count} inputs, {node.op} takes {schema.least} to {schema.most}")
    for (name, option), ref in zip(schema.inputs, node.inputs, strict=False):
        if option == "Single" and ref is None:
            raise node.wrong(f"leaves out input {name!r}")
    if not schema.variadic and len(node.outputs) > schema.outputs:
        raise node.wrong(f"has {len(node.outputs)} outputs, {node.op} has {schema.outputs}")
    for name in node.attrs:
        if name not in schema.types:
            raise node.wrong(
                f"has attribute {name[:60]!r}, which {node.op} of opset {node.opset} does not have"
            )
        if types.get(name, schema.types[name]) != schema.types[name]:
            raise node.wrong(f"has attribute {name!r} of the wrong type")
    for name in schema.required:
        if name not in node.attrs:
            raise node.wrong(f"lacks attribute {name!r}")


def _rule(*ops: str) -> Callable[[Callable[[Node], None]], Callable[[Node], None]]:
    def register(fn: Callable[[Node], None]) -> Callable[[Node], None]:
        for op in ops:
            _RULES[op] = fn
        return fn

    return register


def _is_empty(node: Node, index: int) -> bool:
    """Whether the input at `index` is a constant without elements."""
    value = node.value(node.inputs[index]) if index < len(node.inputs) else None
    return value is not None and value.size == 0


# -- axes, sizes and bounds that were attributes -----------------------------------------------


@_rule("Squeeze", "Unsqueeze", *(f"Reduce{k}" for k in ("L1", "L2", "LogSum", "LogSumExp")),
       *(f"Reduce{k}" for k in ("Max", "Mean", "Min", "Prod", "Sum", "SumSquare")))  # fmt: skip
def _axes(node: Node) -> None:
    node.move("axes", 1, "int64")
    if _is_empty(node, 1) and node.op != "Unsqueeze":
        node.inputs[1] = None


@_rule("Slice")
def _slice(node: Node) -> None:
    if node.opset < 10:
        for i, name in enumerate(("starts", "ends", "axes"), 1):
            node.move(name, i, "int64")


@_rule("Clip")
def _clip(node: Node) -> None:
    if node.opset < 11:
        for i, name in enumerate(("min", "max"), 1):
            # The default, and what exporters write for "none": it differs for infinity only.
            if abs(node.attrs.get(name, 0.0)) >= _FLOAT_MAX:
                del node.attrs[name]
            node.move(name, i, "float32", ())


@_rule("Pad")
def _pad(node: Node) -> None:
    if node.opset < 11:
        node.move("pads", 1, "int64")
        if node.attrs.get("value") == 0.0:
            del node.attrs["value"]
        node.move("value", 2, "float32", ())


@_rule("Split")
def _split(node: Node) -> None:
    node.move("split", 1, "int64")
    count = node.attrs.get("num_outputs")
    if node.inputs[1] is None:
        node.attrs["num_outputs"] = len(node.outputs) if count is None else count
        if node.attrs["num_outputs"] != len(node.outputs):
            raise node.wrong(f"splits into {count}, it has {len(node.outputs)} outputs")
    elif count is not None:
        raise node.wrong("states sizes and a number of outputs")


@_rule("TopK")
def _topk(node: Node) -> None:
    node.move("k", 1, "int64")


@_rule("Dropout")
def _dropout(node: Node) -> None:
    node.move("ratio", 1, "float32", ())


@_rule("DFT")
def _dft(node: Node) -> None:
    if node.opset < 20:
        node.attrs.setdefault("axis", 1)
    elif len(node.inputs) < 3 or node.inputs[2] is None:
        node.attrs["axis"] = -2
    node.move("axis", 2, "int64", ())


# -- operators whose meaning changed -------------------------------------------------------------


@_rule("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: Node) -> None:
    node.attrs.setdefault("axis", 1 if node.opset < 13 else -1)
    # Before opset 13 over all axes from `axis` on together; the last axis alone is the same.
    node.attrs["legacy"] = node.opset < 13 and node.attrs["axis"] != -1


@_rule("GroupNormalization")
def _group_normalization(node: Node) -> None:
    node.attrs["legacy"] = node.opset < 21


@_rule("BatchNormalization")
def _batch_normalization(node: Node) -> None:
    if node.opset < 14:
        if any(node.outputs[1:]):
            raise UnsupportedError(
                "is in training mode", where=node.label, fix="call eval() before exporting"
            )
        del node.outputs[1:]


@_rule("Upsample")
def _upsample(node: Node) -> None:
    node.op = "Resize"
    _resize_10(node)


@_rule("Resize")
def _resize(node: Node) -> None:
    if node.opset < 11:
        _resize_10(node)
    for i in range(1, len(node.inputs)):
        if _is_empty(node, i):
            node.inputs[i] = None


def _resize_10(node: Node) -> None:
    node.inputs = [node.inputs[0], None, node.inputs[1], None]
    node.attrs |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@_rule("RoiAlign")
def _roi_align(node: Node) -> None:
    if node.opset < 16:
        node.attrs["coordinate_transformation_mode"] = "output_half_pixel"


@_rule("GridSample")
def _grid_sample(node: Node) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    if "mode" in node.attrs:
        node.attrs["mode"] = names.get(node.attrs["mode"], node.attrs["mode"])


@_rule("Scatter")
def _scatter(node: Node) -> None:
    node.op = "ScatterElements"


@_rule("ConstantOfShape")
def _constant_of_shape(node: Node) -> None:
    value = node.attrs.setdefault("value", np.zeros(1, np.float32))
    if value.size != 1:
        raise node.wrong(f"has a value of {value.size} elements")


@_rule("QuantizeLinear")
def _quantize(node: Node) -> None:
    if not node.attrs.get("output_dtype"):
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        node.attrs["output_dtype"] = _UINT8 if zero is None else node.type_of(zero)


# -- recurrent layers and control flow -------------------------------------------------------------

_ACTIVATIONS = {
    "RNN": ["Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
}


@_rule("RNN", "GRU", "LSTM")
def _recurrent(node: Node) -> None:
    directions = {"forward": 1, "reverse": 1, "bidirectional": 2}
    word = node.attrs.setdefault("direction", "forward")
    if word not in directions:
        raise node.wrong(f"has direction {word[:40]!r}")
    default = _ACTIVATIONS[node.op] * directions[word]
    given = node.attrs.get("activations") or default
    # Exporters write the schema's default for two directions into layers of one.
    if len(given) < len(default) or given[len(default) :] not in ([], given[: len(default)]):
        raise node.wrong(f"has {len(given)} activations, {len(default)} are needed")
    node.attrs["activations"] = given[: len(default)]


def _body(node: Node, name: str, inputs: int, outputs: int | None = None) -> Program:
    body = node.attrs[name]
    assert isinstance(body, Program)
    if len(body.inputs) != inputs:
        raise node.wrong(f"has a {name} of {len(body.inputs)} inputs, {inputs} are passed")
    have = len(body.outputs) if outputs is None else outputs
    if len(node.outputs) > have or len(body.outputs) != have:
        raise node.wrong(f"has {len(node.outputs)} outputs, its {name} gives {len(body.outputs)}")
    node.outputs += [""] * (have - len(node.outputs))
    return body


@_rule("If")
def _if(node: Node) -> None:
    first = _body(node, "then_branch", 0)
    _body(node, "else_branch", 0, len(first.outputs))


@_rule("Loop")
def _loop(node: Node) -> None:
    node.inputs += [None] * (2 - len(node.inputs))
    body = node.attrs["body"]
    carried = len(node.inputs) - 2
    if len(body.outputs) < 1 + carried:
        raise node.wrong(f"has a body of {len(body.outputs)} outputs for {carried} carried values")
    if len(body.inputs) != len(node.inputs) or len(node.outputs) > len(body.outputs) - 1:
        raise node.wrong(
            f"has {len(node.inputs)} inputs and {len(node.outputs)} outputs, its body "
            f"{len(body.inputs)} and {len(body.outputs)}"
        )
    node.outputs += [""] * (len(body.outputs) - 1 - len(node.outputs))


@_rule("Scan")
def _scan(node: Node) -> None:
    body = _body(node, "body", len(node.inputs))
    scanned = node.attrs["num_scan_inputs"]
    states = len(node.inputs) - scanned
    if scanned < 1 or states < 0 or len(body.outputs) < states or None in node.inputs:
        raise node.wrong(f"scans {scanned} of {len(node.inputs)} inputs")
    stacked = len(body.outputs) - states
    for prefix, count in (("scan_input", scanned), ("scan_output", stacked)):
        for kind in ("axes", "directions"):
            given = node.attrs.get(f"{prefix}_{kind}") or [0] * count
            if len(given) != count:
                raise node.wrong(f"has {len(given)} {prefix}_{kind} for {count} values")
            node.attrs[f"{prefix}_{kind}"] = given
