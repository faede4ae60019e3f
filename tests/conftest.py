"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Tiny models: threads would only get into each other's way, above all under pytest-xdist.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing a test draws or caches belongs into the user's folders.
os.environ.setdefault("MPLBACKEND", "Agg")


# In CI the same examples each time, so that a red run is about the change; people get new ones at
# every run, and what they find becomes an @example.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files anew, then compare"
    )


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """Writes a model, or bytes, and gives the path."""

    def write(model: Any, name: str = "m.onnx") -> Path:
        path = tmp_path / name
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    return write


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
