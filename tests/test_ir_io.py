"""Raw, prepared and stored frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseq.errors import DataError, GraphError
from edgeseq.ir import Graph, Type
from edgeseq.ir.io import affine_of, from_stored, prepare, to_stored


def graph(dtype: str = "i16", scale: float = 0.5) -> Graph:
    g = Graph("g")
    g.add_input("x", Type((2,), dtype, None if dtype == "f32" else scale))
    g.add_input("plain", Type((3, 2), dtype, None if dtype == "f32" else scale))
    g.meta["input_affine"] = {"x": {"scale": [2.0, 4.0], "offset": [1.0, -1.0]}}
    return g


def test_the_affine_is_per_channel_of_the_last_axis() -> None:
    g = graph()
    raw = np.array([[5.0, 7.0], [1.0, -1.0]])
    np.testing.assert_array_equal(prepare(g, "x", raw), [[2.0, 2.0], [0.0, 0.0]])
    np.testing.assert_array_equal(to_stored(g, "x", raw), [[4, 4], [0, 0]])
    np.testing.assert_array_equal(from_stored(g, "x", [[4, 4], [0, 0]]), raw)
    np.testing.assert_array_equal(prepare(g, "plain", np.ones((5, 3, 2))), np.ones((5, 3, 2)))


def test_stored_frames_round_half_up_and_saturate() -> None:
    g = graph("i8")
    raw = np.array([0.25, -0.25, 0.24, -0.26, 1e9, -np.inf]).reshape(1, 3, 2)
    stored = to_stored(g, "plain", raw)
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored.ravel(), [1, 0, 0, -1, 127, -128])


def test_a_real_graph_stores_prepared_numbers() -> None:
    g = graph("f32")
    np.testing.assert_array_equal(to_stored(g, "x", [[3.0, 3.0]]), [[1.0, 1.0]])
    np.testing.assert_array_equal(from_stored(g, "x", [[1.0, 1.0]]), [[3.0, 3.0]])


@given(st.lists(st.integers(-32768, 32767), min_size=2, max_size=2), st.floats(1e-6, 1e3))
def test_stored_integers_survive_the_round_trip(values: list[int], scale: float) -> None:
    g = graph(scale=scale)
    del g.meta["input_affine"]
    stored = np.array(values, np.int16)
    np.testing.assert_array_equal(to_stored(g, "x", from_stored(g, "x", stored)), stored)


def test_errors_name_the_value() -> None:
    g = graph()
    with pytest.raises(DataError, match=r"value 'x' of 'g': got shape \[3\], a frame is \[2\]"):
        to_stored(g, "x", np.zeros(3))
    with pytest.raises(DataError, match="1 elements are NaN"):
        prepare(g, "x", [[np.nan, 0.0]])
    with pytest.raises(GraphError, match="unknown value 'y'"):
        affine_of(g, "y")
    g.meta["input_affine"]["x"]["scale"] = [1.0, 1.0, 1.0]
    with pytest.raises(GraphError, match="3 and 2 entries for shape"):
        affine_of(g, "x")
