"""`main.c` beside a native step: runs golden frames compiled in and compares every integer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeseq.emit._header import C_TYPES, PortNames, identifiers, numbers, port_names
from edgeseq.emit.golden import Golden

if TYPE_CHECKING:
    from edgeseq.kernels import CompiledStep

__all__ = ["main_text"]


def main_text(compiled: CompiledStep, golden: Golden, build: str) -> str:
    """The C file.

    Args:
        compiled: the step.
        golden: frames to compile in, from a reset on.
        build: how to compile it, for its first comment.
    """
    name, n = compiled.name, compiled.name.upper()
    ins = port_names(compiled.inputs, "input", name)
    outs = port_names(compiled.outputs, "output", name)
    states = list(zip(compiled.states, identifiers(s.name for s in compiled.states), strict=True))
    tables = [_table(p, golden.inputs[p.port.name], p.ident) for p in ins]
    tables += [_table(p, golden.outputs[p.port.name], f"expected_{p.ident}") for p in outs]
    for s, ident in states:
        values = numbers(golden.states[s.name].reshape(-1).tolist())
        ctype = C_TYPES[s.dtype]
        tables.append(f"static const {ctype} final_{ident}[{s.size}] = {{\n{values}\n}};\n")
    got = "".join(f"static {p.ctype} got_{p.ident}[FRAMES][{p.macro}_SIZE];\n" for p in outs)
    each = ", ".join([*(f"{p.ident}[t]" for p in ins), *(f"got_{p.ident}[t]" for p in outs)])
    whole = ", ".join([*(f"{p.ident}[0]" for p in ins), *(f"got_{p.ident}[0]" for p in outs)])
    checks = "".join(
        f"""\
    for (t = 0; t < FRAMES; ++t) {{
        for (i = 0; i < {p.macro}_SIZE; ++i) {{
            if (got_{p.ident}[t][i] != expected_{p.ident}[t][i]) {{
                return differs(call, "{p.ident}", t, i, got_{p.ident}[t][i],
                               expected_{p.ident}[t][i]);
            }}
        }}
    }}
"""
        for p in outs
    )
    checks += "".join(
        f"""\
    for (i = 0; i < {s.size}; ++i) {{
        if (state.{ident}_[i] != final_{ident}[i]) {{
            return differs(call, "state {ident}", FRAMES - 1, i, state.{ident}_[i],
                           final_{ident}[i]);
        }}
    }}
"""
        for s, ident in states
    )
    return f"""\
/* Golden test of {name}: runs {golden.frames} frames and compares every output and the final state.
 * Returns 0 if all are equal; else prints the first difference and returns 1.
 *
 * Build: {build}
 * Without stdio (-ffreestanding or -D{n}_NO_STDIO) it only returns the result.
 */
#include "{name}.h"

#if !defined({n}_NO_STDIO) && defined(__STDC_HOSTED__) && __STDC_HOSTED__
#include <stdio.h>
#define SAY(...) ((void)printf(__VA_ARGS__))
#else
#define SAY(...) ((void)0)
#endif

enum {{ FRAMES = {golden.frames} }};

{chr(10).join(tables)}
{got}static {name}_state state;
static {name}_scratch scratch;

static int differs(const char *call, const char *what, int t, int i, long got, long expected)
{{
    SAY("{name}: %s: %s, frame %d, element %d is %ld, expected %ld\\n", call, what, t, i, got,
        expected);
    (void)call, (void)what, (void)t, (void)i, (void)got, (void)expected;
    return 1;
}}

static int check(const char *call)
{{
    int t, i;
{checks}    (void)t, (void)i, (void)call;
    return 0;
}}

int main(void)
{{
    int t;
    {name}_reset(&state);
    for (t = 0; t < FRAMES; ++t) {{
        {name}_step(&state, &scratch, {each});
    }}
    if (check("{name}_step") != 0) {{
        return 1;
    }}
    {name}_reset(&state);
    {name}_run(&state, &scratch, {whole}, FRAMES);
    if (check("{name}_run") != 0) {{
        return 1;
    }}
    SAY("{name}: %d frames, every integer as expected\\n", (int)FRAMES);
    return 0;
}}
"""


def _table(p: PortNames, frames: npt.NDArray[Any], ident: str) -> str:
    rows = ",\n".join(_row(row.tolist()) for row in np.asarray(frames).reshape(len(frames), -1))
    return f"static const {p.ctype} {ident}[FRAMES][{p.macro}_SIZE] = {{\n{rows}\n}};\n"


def _row(values: list[int]) -> str:
    line = f"    {{{', '.join(map(str, values))}}}"
    return line if len(line) < 100 else f"    {{\n{numbers(values, '        ')}\n    }}"
