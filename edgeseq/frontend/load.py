"""A model file in, whatever its format; what it is and whether it compiles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edgeseq.errors import ModelError, UnsupportedError
from edgeseq.frontend.options import ImportOptions, Number
from edgeseq.ir import Graph

__all__ = ["from_onnx", "kind_of", "load_model"]

_EXPORT = (
    "save the model with torch.export.save(torch.export.export(model, (example,)), 'model.pt2'), "
    "or give the nn.Module to edgeseq.from_torch"
)
_TORCH = (".pt", ".pth", ".jit", ".ts", ".ckpt", ".bin", ".zip")
# What people have besides, and where to go from there.
_ELSEWHERE: Mapping[str, tuple[str, str]] = {
    ".tflite": ("is a TFLite model", "convert it to ONNX with tf2onnx, or export it again as ONNX"),
    ".h5": ("is a Keras model", "export it as ONNX: model.export('model.onnx', format='onnx')"),
    ".keras": ("is a Keras model", "export it as ONNX: model.export('model.onnx', format='onnx')"),
    ".pb": ("is a TensorFlow graph", "convert it to ONNX with tf2onnx"),
    ".safetensors": ("holds weights and no program", _EXPORT),
    ".ort": ("is in ONNX Runtime's own format", "give the .onnx file it was made from"),
}


def kind_of(path: Path) -> str:
    """The format of a model file: "onnx" or "pt2", by its name, else by its first bytes.

    Raises:
        ModelError, UnsupportedError: there is no such file, or it is of a format that is not read.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise ModelError("is a folder", where=str(path), fix="name a .onnx or .pt2 file")
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except FileNotFoundError:
        raise ModelError("no such file", where=str(path), fix="name a .onnx or .pt2 file") from None
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror or error}", where=str(path), fix="check the file"
        ) from error
    if suffix in (".onnx", ".pt2"):
        return suffix[1:]
    if suffix in _ELSEWHERE:
        what, fix = _ELSEWHERE[suffix]
        raise UnsupportedError(what, where=str(path), fix=fix)
    if head[:2] == b"\x80\x02" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        raise UnsupportedError(
            "is a pickled checkpoint (torch.save), which can run code and holds no program",
            where=str(path),
            fix=_EXPORT,
        )
    if head == b"PK\x03\x04":  # the reader of .pt2 files knows what else torch writes
        return "pt2"
    raise ModelError(
        "is no model file that is known"
        if suffix in _TORCH
        else f"models of type {suffix or '(none)'} are not read",
        where=str(path),
        fix=f"give an ONNX file (.onnx); of a PyTorch model, {_EXPORT}",
    )


def load_model(
    path: str | Path, *, name: str | None = None, options: ImportOptions | None = None
) -> Graph:
    """Read a model file into a real Graph, running nothing from it.

    Args:
        path: a `.onnx` file, or a `.pt2` file as `torch.export.save` writes it.
        name: of the Graph, a C identifier; made from the file's name if None.
        options: what the file does not say itself.

    Returns:
        A real Graph over time, or a step where the file is one: its states are then recognised.

    Raises:
        ModelError: the file is missing, damaged or of another format.
        UnsupportedError: it holds operations that cannot be compiled (all are listed).
        UsageError: `options` name what the model does not have.
    """
    path, options = Path(path), options or ImportOptions()
    kind = kind_of(path)
    if name is None:
        name = re.sub(r"\W", "_", path.stem, flags=re.ASCII) or "model"
        name = name if not name[0].isdigit() else f"m{name}"
    if kind == "onnx":
        from edgeseq.frontend.onnx_import import load_onnx

        graph: Graph = load_onnx(path, name=name, options=options)
        return graph
    from edgeseq.frontend.pt2 import load_pt2

    return load_pt2(path, name=name, options=options)


def from_onnx(
    path: str | Path,
    *,
    name: str | None = None,
    values: Mapping[str, Number] | None = None,
    states: Mapping[str, str] | None = None,
    time_axis: int | Mapping[str, int] | None = None,
    batch_axis: int | None = None,
    window: int | None = None,
    hop: int | None = None,
    context: int | None = None,
) -> Graph:
    """Read an ONNX file into a real Graph, running nothing from it.

    Args:
        path: of the file.
        name: of the Graph, a C identifier; made from the file's name if None.
        values: fixes symbolic dimensions and scalar inputs, by name: {"sr": 16000}.
        states: output that carries on the state of an input, by the input's name, beyond those that
            are recognised.
        time_axis, batch_axis, window, hop, context: as of `ImportOptions`.

    Raises:
        ModelError, UnsupportedError, UsageError: as `load_model`.
    """
    path = Path(path)
    if kind_of(path) != "onnx":
        raise ModelError("is not an ONNX file", where=str(path), fix="use edgeseq.from_torch")
    options = ImportOptions(
        values=values or {},
        states=tuple((states or {}).items()),
        time_axis=time_axis,
        batch_axis=batch_axis,
        window=window,
        hop=hop,
        context=context,
    )
    return load_model(path, name=name, options=options)
