"""The text form: printed, parsed back without loss, and clear about what does not parse."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from graphs import CELLS as STEP_CELLS
from graphs import functions_step, step
from hypothesis import given, settings
from hypothesis import strategies as st
from timed_graphs import CELLS, model

from edgeseq.errors import GraphError
from edgeseq.ir import Graph, State, Time, Type, check, from_text, run, to_text

GOLDEN = Path(__file__).parent / "golden" / "gru_integer_step.txt"


def same(a: Graph, b: Graph) -> None:
    assert to_text(a) == to_text(b)
    assert (a.types, a.inputs, a.outputs, a.meta) == (b.types, b.inputs, b.outputs, b.meta)
    for name, array in a.consts.items():
        assert array.dtype == b.consts[name].dtype
        assert np.array_equal(array, b.consts[name])
    for s, t in zip(a.states, b.states, strict=True):
        assert (s.name, s.input, s.output, s.bound) == (t.name, t.input, t.output, t.bound)
        assert s.init.dtype == t.init.dtype and np.array_equal(s.init, t.init)


@settings(max_examples=25, deadline=None)
@given(
    cells=st.lists(st.sampled_from(sorted(CELLS)), max_size=3),
    hidden=st.integers(1, 6),
    norm=st.booleans(),
    affine=st.booleans(),
    emit=st.sampled_from(["last", "frame", "both"]),
    seed=st.integers(0, 99),
)
def test_round_trip_over_time(
    cells: list[str], hidden: int, norm: bool, affine: bool, emit: str, seed: int
) -> None:
    g = model(*cells, hidden=hidden, norm=norm, affine=affine, emit=emit, seed=seed)
    back = from_text(to_text(g))
    check(back)
    same(g, back)
    x = np.random.default_rng(seed).normal(size=(2, 4, 5))
    for a, b in zip(run(g, x), run(back, x), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("cell", STEP_CELLS)
def test_round_trip_of_steps(cell: str, integer: bool) -> None:
    g = step(cell, integer=integer, layers=2, norm=True, residual=True, affine=True)
    back = from_text(to_text(g))
    check(back)
    same(g, back)
    g = functions_step(integer=integer)
    same(g, from_text(to_text(g)))


NAME = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(node=NAME, hint=NAME, note=NAME)
def test_names_and_notes_of_any_characters_survive(node: str, hint: str, note: str) -> None:
    g = Graph("g", meta={"note": note, "nested": {"list": [1, 2.5, None, True]}})
    x = g.add_input("x", Type((2,), time=Time(3, 2)))
    y = g.add_node("clamp", [x], name=node, hint=hint, lo=-1.5e-300, hi=None)
    g.outputs = [y]
    check(g)
    same(g, from_text(to_text(g)))


@given(st.floats(1e-300, 1e300), st.lists(st.floats(1e-30, 1e30), min_size=3, max_size=3))
def test_scales_survive_to_the_last_bit(scale: float, rows: list[float]) -> None:
    g = Graph("g")
    x = g.add_input("x", Type((2,), "i16", np.float64(scale)))
    g.add_const("w", np.ones((3, 2)), Type((3, 2), "i8", tuple(np.array(rows))))
    g.states.append(State("own.name", g.fresh("h"), x, np.arange(2, dtype=np.int16), 0.1))
    g.types["h"] = g.types[x]
    g.outputs = [x]
    same(g, from_text(to_text(g)))


def test_without_data_long_arrays_are_hashes_and_do_not_parse() -> None:
    text = to_text(step("gru", integer=True), data=False)
    assert "sha256:" in text and len(text) < 8000
    with pytest.raises(GraphError, match=r"^line \d+: .*print the graph with data"):
        from_text(text)


# -- what does not parse ---------------------------------------------------------------------------

BROKEN = {
    "empty": ("", 'line 0: the text ends inside a graph'),
    "no graph": ("hello", "line 1: expected"),
    "name": ('graph "a" "b" {\n}', "line 1: "),
    "unclosed": ('graph "g" {\n  input x: f32[2]', "line 2: the text ends"),
    "after": ('graph "g" {\n}\n\ninput x: f32[2]', "line 4: text after"),
    "keyword": ('graph "g" {\n  inputs x: f32[2]\n}', "line 2: cannot read"),
    "nested keyword": ('graph "g" {\n  graph "h" {\n}\n}', "line 2: cannot read"),
    "dtype": ('graph "g" {\n  input x: f64[2]\n}', "line 2: cannot read"),
    "scale": ('graph "g" {\n  input x: i8[2]*half\n}', "line 2: could not convert"),
    "too large": ('graph "g" {\n  state h: i8[999999,999999]*1.0 -> h = zeros\n}', "line 2: "),
    "twice": ('graph "g" {\n  input x: f32[2]\n  input x: f32[2]\n}', "line 3: value 'x' is"),
    "base64": ('graph "g" {\n  const c: f32[1] = base64:!!!\n}', "line 2: "),
    "short": ('graph "g" {\n  const c: f32[2] = base64:AAAAAA==\n}', "line 2: cannot reshape"),
    "ragged": ('graph "g" {\n  const c: f32[1] = base64:AAAA\n}', "line 2: buffer size"),
    "meta": ('graph "g" {\n  meta {"a": }\n}', "line 2: "),
    "attributes": ('graph "g" {\n  node "n" y: f32[1] = lut(x) {"fn": }\n}', "line 2: "),
    "tail": ('graph "g" {\n  node "n" y: f32[1] = lut(x) {"fn": "tanh"} !\n}', "line 2: unexp"),
    "bound": ('graph "g" {\n  state h: f32[1] -> h bound=big = zeros\n}', "line 2: "),
    "integers": ('graph "g" {\n  node "n" y: f32[1] = lut(x) {"m": {"i32": 3}}\n}', "line 2: "),
    "body": ('graph "g" {\n  node "n" y: f32[1]@t = scan(x) {} graph "b" {\n    what\n  }\n}',
             "line 3: cannot read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_parse_names_its_line(case: str) -> None:
    text, message = BROKEN[case]
    with pytest.raises(GraphError) as e:
        from_text(text)
    assert str(e.value).startswith(message), str(e.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_text_parses_or_says_so(data: st.DataObject) -> None:
    text = to_text(model("gru", hidden=2, inputs=2, outputs=1, affine=True))
    at = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 12))
    new = data.draw(st.text("{}[]()\"'=:,*@ \n0a-.", max_size=4))
    try:
        g = from_text(text[:at] + new + text[at + length :])
        check(g)
    except GraphError as e:
        assert str(e)


def test_golden_gru(update_golden: bool) -> None:
    """The printed integer GRU is a contract: it changes only with --update-golden."""
    text = to_text(step("gru", integer=True, inputs=2, hidden=2, outputs=1, affine=True))
    if update_golden:
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "see the difference, then pytest --update-golden"
    check(from_text(text))
    ops = [line.split(" = ")[1].split("(")[0] for line in text.splitlines() if "node" in line]
    assert all(a != "rescale" or b != "rescale" for a, b in pairwise(ops))
