"""The kernels' own front end means what Numba means."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_models import frames, gru
from kernel_nets import NETS

from edgeseq.emulate import Emulator
from edgeseq.errors import BackendError
from edgeseq.ir.graph import Graph
from edgeseq.kernels import HostStep, codegen, compile_step
from edgeseq.kernels.lower import lower_kernel
from edgeseq.target import load_target


def graphs() -> dict[str, Graph]:
    return {"gru": gru(), "attention": NETS["attention"](), "speech": NETS["speech"]()}


@pytest.mark.parametrize("name", graphs())
def test_kernels_compute_the_same_when_numba_lowers_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseq.kernels import reference
    from edgeseq.kernels.host import host_machine
    from edgeseq.kernels.toolchain import Machine

    graph = graphs()[name]
    x = frames(graph, 1, 8)
    want = HostStep(graph).run(*x)
    target = load_target("cortex-m4")
    emulated = Emulator(compile_step(graph, target, "net")).sequence(*(a[0] for a in x))
    for machine, run in (
        (host_machine(), lambda: HostStep(graph).run(*x)),
        (
            Machine.of(target),
            lambda: Emulator(compile_step(graph, target, "net")).sequence(*(a[0] for a in x)),
        ),
    ):
        monkeypatch.setattr(
            codegen, "lowered", lambda k, machine=machine: reference.lower_source(k, machine)
        )
        answers = run()
        for got, a, b in zip(answers, want, emulated, strict=True):
            np.testing.assert_array_equal(got.reshape(b.shape), a[0])
            np.testing.assert_array_equal(a[0], b)


@pytest.mark.parametrize(
    "body",
    [
        "x = p.real", "x = [1]", "x = eval('1')", "for i in range(3): pass", "x, y = 1, 2",
        "x = 1.5", "import os", "x = unknown(3)", "x = p + 1", "return",
    ],
)  # fmt: skip
def test_other_python_is_refused(body: str) -> None:
    source = f"def kernel(p, n):\n    {body}\n"
    with pytest.raises(BackendError, match="does not compile"):
        lower_kernel(source, ("ptr", "i32"), "k")
