"""Saved programs: the same Graph as the live module, and no way to run code from a file."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from edgeseq.errors import ModelError, UnsupportedError, UsageError  # noqa: E402
from edgeseq.frontend.pt2 import load_pt2  # noqa: E402
from edgeseq.frontend.summary import summarise  # noqa: E402
from edgeseq.frontend.torch_export import from_torch  # noqa: E402
from edgeseq.ir import to_text  # noqa: E402


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)
        self.offset = torch.arange(3.0)

    def forward(self, x: Any) -> Any:
        batch, length, _ = x.shape
        y, _ = self.rnn(self.norm(x * 0.5 + self.offset))
        y = torch.relu_(self.fc(y.reshape(batch * length, -1)))
        return y.view(batch, length, -1)


def save(module: Any, example: Any, path: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), (example,), **options)
        torch.export.save(program, path)
    return program


@pytest.fixture(scope="module")
def module() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def saved(module: Net, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    save(module, torch.randn(2, 6, 3), path)
    return path


@pytest.fixture(scope="module")
def members(saved: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(saved) as z:
        return {n: z.read(n) for n in z.namelist()}


def rewritten(
    members: dict[str, bytes], path: Path, *, compress: bool = False, **changes: Any
) -> Path:
    """An archive with some members changed; keys are the end of their names, None drops one."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as z:
        for name, data in members.items():
            for end, change in changes.items():
                if name.endswith(end):
                    data = change(data) if callable(change) else change
            if data is not None:
                z.writestr(name, data)
    return path


def edit(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return apply


MODEL, WEIGHTS = "models/model.json", "model_weights_config.json"


# -- the same Graph ------------------------------------------------------------------------------


def test_file_and_module_give_one_graph(module: Net, saved: Path) -> None:
    live = from_torch(module, torch.randn(2, 6, 3), name="net")
    loaded = load_pt2(saved)
    assert to_text(loaded) == to_text(live)


def test_dynamic_batch_gives_the_same_graph(module: Net, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    save(module, torch.randn(2, 6, 3), path, dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert to_text(load_pt2(path)) == to_text(load_pt2(saved))


def test_functional_program_gives_the_same_graph(module: Net, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    program = save(module, torch.randn(2, 6, 3), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program.run_decompositions({}), path)
    assert to_text(load_pt2(path)) == to_text(load_pt2(saved))


def test_tied_and_strided_weights(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = nn.Parameter(self.a.weight.data.t())
            self.c = nn.Linear(4, 4)
            self.c.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.c(self.b(self.a(x)))

    tied = Tied()
    save(tied, torch.randn(1, 5, 4), tmp_path / "tied.pt2")
    graph = load_pt2(tmp_path / "tied.pt2")
    w = tied.a.weight.detach().numpy()
    first, second, _ = (graph.consts[n.inputs[1]] for n in graph.nodes)
    assert np.array_equal(first, w) and np.array_equal(second, w.T)
    assert graph.nodes[2].inputs[1] == graph.nodes[0].inputs[1]


def test_reading_needs_no_torch(saved: Path) -> None:
    code = (
        "import sys; from edgeseq.frontend import load_pt2; load_pt2(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True, timeout=60)


def test_summary(saved: Path) -> None:
    facts = summarise(load_pt2(saved))
    assert facts["inputs"] == {"x": "f32[3]@t"}
    assert facts["layers"] == ["rnn.l0"]
    assert facts["states"] == {"rnn.l0.h": 4}
    assert facts["macs_per_frame"] == 12 * (3 + 4) + 8
    assert facts["operations"]["linear"] == 4


# -- no code runs --------------------------------------------------------------------------------


class Bomb:
    """A pickle that would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "ran")


def test_pickled_weights_are_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"

    def mark(document: Any) -> None:
        document["config"]["fc.weight"]["use_pickle"] = True

    config = json.loads(next(v for k, v in members.items() if k.endswith(WEIGHTS)))
    leaf = config["config"]["fc.weight"]["path_name"]
    bomb = io.BytesIO()
    torch.save(Bomb(evidence), bomb)
    path = rewritten(
        members, tmp_path / "p.pt2", **{WEIGHTS: edit(mark), f"/{leaf}": bomb.getvalue()}
    )
    with pytest.raises(ModelError, match=r"fc\.weight.*pickle"):
        load_pt2(path)
    assert not evidence.exists()


def test_sample_inputs_are_never_opened(
    members: dict[str, bytes], saved: Path, tmp_path: Path
) -> None:
    evidence = tmp_path / "evidence"
    hostile = io.BytesIO()
    torch.save(Bomb(evidence), hostile)
    path = rewritten(
        members, tmp_path / "net.pt2", **{"sample_inputs/model.pt": hostile.getvalue()}
    )
    assert to_text(load_pt2(path)) == to_text(load_pt2(saved))
    assert not evidence.exists()


def test_expressions_are_never_evaluated(
    members: dict[str, bytes], saved: Path, tmp_path: Path
) -> None:
    evidence = tmp_path / "evidence"
    code = f"__import__('pathlib').Path({str(evidence)!r}).write_text('ran')"

    def hide(document: Any) -> None:
        program = document["graph_module"]["graph"]
        for meta in program["tensor_values"].values():
            for size in [*meta["sizes"], *meta["strides"]]:
                hint = {"as_int": size.pop("as_int")}
                size["as_expr"] = {"expr_str": code, "hint": hint}
        document["guards_code"] = [code]
        document["range_constraints"] = {code: {"min_val": 0, "max_val": 9}}

    path = rewritten(members, tmp_path / "net.pt2", **{MODEL: edit(hide)})
    assert to_text(load_pt2(path)) == to_text(load_pt2(saved))

    def unhinted(document: Any) -> None:
        hide(document)
        document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][1] = {
            "as_expr": {"expr_str": code, "hint": None}
        }

    path = rewritten(members, tmp_path / "u.pt2", **{MODEL: edit(unhinted)})
    with pytest.raises(UnsupportedError, match="depends on the data"):
        load_pt2(path)
    assert not evidence.exists()


def test_foreign_operators_are_not_taken_for_known_ones(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    def rename(document: Any) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            node["target"] = node["target"].replace("aten.linear", "mylib.linear")

    path = rewritten(members, tmp_path / "net.pt2", **{MODEL: edit(rename)})
    with pytest.raises(UnsupportedError, match=r"mylib\.linear\.default in 'fc'"):
        load_pt2(path)


# -- damaged files -------------------------------------------------------------------------------


def refused(path: Path) -> str:
    """The message of the ModelError; loading is quick and takes little memory."""
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        load_pt2(path)
    assert time.perf_counter() - begin < 10
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert str(path) in str(caught.value) and "\n  -> " in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 30, 0.3, 0.9, 0.999])
def test_truncated(saved: Path, tmp_path: Path, keep: float) -> None:
    data = saved.read_bytes()
    path = tmp_path / "cut.pt2"
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    refused(path)


def test_flipped_bits_never_escape_as_other_errors(saved: Path, tmp_path: Path) -> None:
    data = saved.read_bytes()
    expected = to_text(load_pt2(saved))
    rng = np.random.default_rng(0)
    path = tmp_path / "net.pt2"
    for _ in range(150):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with contextlib.suppress(ModelError, UsageError):
            assert to_text(load_pt2(path)) == expected  # a bit nobody reads, e.g. a date


def test_flipped_json_never_escapes_as_other_errors(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    """Checksums right, contents wrong: every value of the program replaced by something odd."""
    rng = np.random.default_rng(0)
    name = next(n for n in members if n.endswith(MODEL))
    document = json.loads(members[name])
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, child in list(node.items() if isinstance(node, dict) else enumerate(node)):
            places.append((node, key))
            if isinstance(child, dict | list):
                visit(child)

    visit(document["graph_module"]["graph"])
    visit(document["graph_module"]["signature"])
    odd = [None, -1, 0, 3, 10**30, 1.5, "", "x", "relu_", [], {}, [[]], True, {"as_int": 1 << 40}]
    path = tmp_path / "net.pt2"
    survived = 0
    for i in rng.choice(len(places), 250, replace=False):
        node, key = places[i]
        kept, node[key] = node[key], odd[rng.integers(len(odd))]
        rewritten(members, path, **{MODEL: json.dumps(document).encode()})
        node[key] = kept
        try:
            load_pt2(path)
            survived += 1
        except (ModelError, UsageError):
            pass
    assert survived < 250


def test_missing_and_short_weights(members: dict[str, bytes], tmp_path: Path) -> None:
    assert "weight_0" in refused(rewritten(members, tmp_path / "a.pt2", **{"/weight_0": None}))
    short = refused(rewritten(members, tmp_path / "b.pt2", **{"/weight_0": b"\0" * 8}))
    assert "norm.weight" in short and "its storage holds 2" in short
    assert "NaN" in refused(rewritten(members, tmp_path / "c.pt2", **{"/weight_0": b"\xff" * 12}))
    assert "missing" in refused(rewritten(members, tmp_path / "d.pt2", **{WEIGHTS: None}))


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, 1 << 62, -3])
def test_absurd_sizes(members: dict[str, bytes], tmp_path: Path, size: int) -> None:
    def weights(document: Any) -> None:
        meta = document["config"]["fc.weight"]["tensor_meta"]
        meta["sizes"] = [{"as_int": size}, {"as_int": 8}]
        meta["strides"] = [{"as_int": 0}, {"as_int": 0}]

    refused(rewritten(members, tmp_path / "w.pt2", **{WEIGHTS: edit(weights)}))

    def program(document: Any) -> None:
        document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][2] = {"as_int": size}

    refused(rewritten(members, tmp_path / "x.pt2", **{MODEL: edit(program)}))


def test_huge_constants_are_not_computed(members: dict[str, bytes], tmp_path: Path) -> None:
    def zeros(document: Any) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            if "zeros" in node["target"]:
                node["inputs"][0]["arg"] = {"as_ints": [1 << 20, 1 << 20, 4]}

    message = refused(rewritten(members, tmp_path / "z.pt2", **{MODEL: edit(zeros)}))
    assert "too large" in message


def test_many_views_of_one_storage(members: dict[str, bytes], tmp_path: Path) -> None:
    def weights(document: Any) -> None:
        one = document["config"]["norm.weight"]
        for i in range(400):
            meta = {
                **one["tensor_meta"],
                "sizes": [{"as_int": 1 << 20}],
                "strides": [{"as_int": 0}],
                "storage_offset": {"as_int": i % 3},
                "dtype": [7, 4, 6, 5][i % 4] if i % 3 == 0 else 7,
            }
            document["config"][f"w{i}"] = {**one, "tensor_meta": meta}

    def program(document: Any) -> None:
        specs = document["graph_module"]["signature"]["input_specs"]
        for i in range(400):
            specs.insert(0, {"parameter": {"arg": {"name": f"p{i}"}, "parameter_name": f"w{i}"}})

    path = rewritten(members, tmp_path / "v.pt2", **{WEIGHTS: edit(weights), MODEL: edit(program)})
    load_pt2(path)  # equal views share one array; none is used


def test_endless_programs_are_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    def longer(document: Any) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        nodes.extend({**nodes[0], "outputs": []} for _ in range(6000))

    assert "operations" in refused(rewritten(members, tmp_path / "l.pt2", **{MODEL: edit(longer)}))


def test_compressed_members_are_refused(members: dict[str, bytes], tmp_path: Path) -> None:
    bomb = rewritten(
        members, tmp_path / "bomb.pt2", compress=True, **{"/weight_0": bytes(64 << 20)}
    )
    assert "compressed" in refused(bomb)


def test_other_archives_are_named(tmp_path: Path) -> None:
    def archive(*names: str) -> Path:
        path = tmp_path / f"{len(names)}{names[0].replace('/', '_')}.pt2"
        with zipfile.ZipFile(path, "w") as z:
            for n in names:
                z.writestr(n, b"{}")
        return path

    assert "older torch" in refused(archive("serialized_exported_program.json"))
    assert "TorchScript" in refused(archive("m/constants.pkl", "m/code/a.py"))
    assert "pickled checkpoint" in refused(archive("m/data.pkl"))
    assert "2 models" in refused(archive("m/models/a.json", "m/models/b.json"))
    deep = tmp_path / "deep.pt2"
    with zipfile.ZipFile(deep, "w") as z:
        z.writestr("m/models/model.json", b"[" * 200_000)
    assert "not JSON" in refused(deep)
    with pytest.raises(ModelError, match="no such file"):
        load_pt2(tmp_path / "none.pt2")
    with pytest.raises(ModelError, match="cannot be read"):
        load_pt2(tmp_path)


def test_version_of_the_schema(members: dict[str, bytes], tmp_path: Path) -> None:
    def newer(document: Any) -> None:
        document["schema_version"]["major"] = 9

    path = rewritten(members, tmp_path / "net.pt2", **{MODEL: edit(newer)})
    assert "schema version 9" in refused(path)


def test_names_become_identifiers(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "7-net v1.pt2"
    path.write_bytes(saved.read_bytes())
    assert load_pt2(path).name == "m7_net_v1"
    with pytest.raises(UsageError, match="identifier"):
        load_pt2(path, name="a-b")
    with pytest.raises(UsageError, match="time_axis 5"):
        load_pt2(path, time_axis=5)
