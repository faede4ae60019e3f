from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_manifest import manifest

import edgeseq
from edgeseq import manifest as m
from edgeseq.errors import ArtifactError

DOCS = Path(edgeseq.__file__).parents[1] / "docs" / "artifact.md"


def test_round_trip_and_reproducible_bytes(tmp_path: Path) -> None:
    made = manifest()
    m.write(made, tmp_path / "manifest.json")
    assert m.read(tmp_path / "manifest.json") == made
    assert m.read(tmp_path) == made  # the folder does as well
    first = (tmp_path / "manifest.json").read_bytes()
    m.write(m.read(tmp_path), tmp_path / "manifest.json")
    assert (tmp_path / "manifest.json").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_numpy_scalars_and_lists_are_taken(tmp_path: Path) -> None:
    made = manifest()
    memory = dataclasses.replace(made.memory.ram, scratch=np.int64(320))
    changed = dataclasses.replace(
        made,
        memory=m.Memory(flash=made.memory.flash, ram=memory),
        notes=["a note"],  # type: ignore[arg-type]
    )
    m.write(changed, tmp_path / "manifest.json")
    assert m.read(tmp_path).memory.ram.scratch == 320
    assert m.read(tmp_path).notes == ("a note",)


@pytest.mark.parametrize(
    ("path", "value", "key", "says"),
    [
        (["schema"], 3, "schema", "version 3"),
        (["schema"], True, "schema", "version True"),
        (["extra"], 1, "extra", "unknown key"),
        (["inputs", 0, "scales"], 1, "inputs[0].scales", "did you mean 'scale'"),
        (["inputs", 0, "scale"], "1", "inputs[0].scale", "finite number"),
        (["inputs", 0, "scale"], 0.0, "inputs[0].scale", "above 0"),
        (["inputs", 0, "shape"], [-1], "inputs[0].shape", "shape of a frame"),
        (["inputs", 0, "shape"], [1 << 40], "inputs[0].shape", "shape of a frame"),
        (["inputs", 0, "affine_scale"], [1.0], "inputs[0].affine_scale", "per channel"),
        (["inputs", 0, "affine_scale"], [1.0, 0.0], "inputs[0].affine_scale", "not be 0"),
        (["inputs", 0, "dtype"], "i64", "inputs[0].dtype", "'i8', 'i16'"),
        (["nodes", 1, "macs"], 1.5, "nodes[1].macs", "whole number"),
        (["nodes", 1, "macs"], True, "nodes[1].macs", "whole number"),
        (["nodes"], {}, "nodes", "not a list"),
        (["memory", "ram"], [], "memory.ram", "not an object"),
        (["memory", "ram", "state"], -1, "memory.ram.state", "size in bytes"),
        (["states", 0, "offset"], 1000, "states[0].offset", "outside"),
        (["states", 0, "init"], [1, 2], "states[0].init", "1 or 16"),
        (["files", 0, "name"], "../x", "files[0]", "not the name of a file"),
        (["formats", 0, "file"], "other.a", "formats[0].file", "not in `files`"),
        (["formats", 0, "states"], [["a"]], "formats[0].states[0]", "needs 2"),
        (["name"], "a b", "name", "C identifier"),
        (["versions", "numpy"], 2, "versions.numpy", "a string"),
        (["outputs", 0, "delay"], -1, "outputs[0]", "hop"),
        (["outputs", 0, "labels"], ["a"], "outputs[0].labels", "does not fit"),
        (["confusion", "counts"], [[1, 2, 3]], "confusion.counts", "3 rows of 3"),
        (["verification", 0, "status"], "failed", "verification[0].status", "'passed', 'not run'"),
    ],
)
def test_a_wrong_value_names_the_file_and_the_key(
    tmp_path: Path, path: list[str | int], value: object, key: str, says: str
) -> None:
    raw = json.loads(m.to_json(manifest()))
    at = raw
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(ArtifactError) as caught:
        m.read(file)
    assert caught.value.where == f"{file}: {key}"
    assert says in caught.value.what


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    raw = json.loads(m.to_json(manifest()))
    del raw["memory"]["flash"]["code"]
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ArtifactError, match=r"memory\.flash\.code: the key is missing"):
        m.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": NaN}', "[" * 100_000, "\xff"])
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match="manifest.json"):
        m.read(tmp_path)


@given(st.data())
def test_any_truncation_ends_in_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    text = m.to_json(manifest())
    file = tmp_path_factory.getbasetemp() / "truncated.json"
    file.write_text(text[: data.draw(st.integers(0, len(text) - 3))])
    with pytest.raises(ArtifactError):
        m.read(file)


def test_a_value_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    bad = manifest(latency=m.Latency(kind="estimate", cycles=None, seconds=np.nan, model="x"))
    with pytest.raises(ArtifactError, match=r"latency\.seconds"):
        m.write(bad, tmp_path / "manifest.json")
    assert not list(tmp_path.iterdir())


def test_missing_and_read_only(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read"):
        m.read(tmp_path)
    with pytest.raises(ArtifactError, match="cannot write"):
        m.write(manifest(), tmp_path / "absent" / "manifest.json")


def test_load_artifact_checks_hashes(tmp_path: Path) -> None:
    file = tmp_path / "libwatch_gru16.a"
    file.write_bytes(b"!<arch>\n")
    made = manifest(files=(m.describe_file(file, "native"),))
    m.write(made, tmp_path / "manifest.json")
    assert m.load_artifact(tmp_path) == made
    file.write_bytes(b"!<arch>?")
    with pytest.raises(ArtifactError, match=r"libwatch_gru16\.a: is not the file"):
        m.load_artifact(tmp_path)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"libwatch_gru16\.a: cannot read"):
        m.load_artifact(tmp_path)


def test_lookup_by_format() -> None:
    made = manifest()
    native = made.format("native")
    assert native is not None and native.file == "libwatch_gru16.a"
    assert made.format("onnx_int") is None
    assert made.result("tflite_int16x8") is not None
    assert made.result("native") is None


def test_only_the_standard_library_is_imported() -> None:
    code = (
        "import sys, edgeseq.manifest\n"
        "bad = {'numpy', 'torch', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_key_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    records = [r for r in vars(m).values() if isinstance(r, type) and dataclasses.is_dataclass(r)]
    assert len(records) > 15
    for record in records:
        for field in dataclasses.fields(record):
            assert f"`{field.name}`" in text, f"{record.__name__}.{field.name}"
    assert f"version {m.SCHEMA}" in text
