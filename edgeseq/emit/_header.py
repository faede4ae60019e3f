"""The C header of a compiled step: everything a caller needs, in one file, C99 and C++."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import edgeseq
from edgeseq.fixed import INT_RANGE
from edgeseq.ir.graph import Graph
from edgeseq.ir.io import affine_of

if TYPE_CHECKING:
    from edgeseq.kernels import CompiledStep, Port

__all__ = ["C_TYPES", "PortNames", "c_string", "header_text", "numbers", "port_names"]

C_TYPES = {"i8": "int8_t", "i16": "int16_t", "i32": "int32_t"}


class PortNames:
    """How one input or output is called in C.

    Attributes:
        port: its layout.
        ident: parameter name.
        macro: prefix of its macros.
        suffix: of its helper functions: empty where it is the only one.
    """

    def __init__(self, port: Port, kind: str, name: str, ident: str, only: bool) -> None:
        self.port = port
        self.ident = kind if only else f"{kind}_{ident}"
        self.macro = f"{name.upper()}_{self.ident.upper()}"
        self.suffix = "" if only else f"_{ident}"
        self.ctype = C_TYPES[port.dtype]


def port_names(ports: Sequence[Port], kind: str, name: str) -> list[PortNames]:
    """C names of the inputs (`kind` "input") or outputs ("output") of the step `name`."""
    idents = identifiers(p.name for p in ports)
    return [
        PortNames(p, kind, name, i, len(ports) == 1) for p, i in zip(ports, idents, strict=True)
    ]


def identifiers(names: Iterable[str]) -> list[str]:
    """Distinct C identifiers made from any names."""
    out: list[str] = []
    for given in names:
        base = re.sub(r"\W+", "_", given, flags=re.ASCII).strip("_") or "v"
        base = f"v{base}" if base[0].isdigit() else base
        ident, i = base, 1
        while ident.lower() in (o.lower() for o in out):  # macros are upper case
            i += 1
            ident = f"{base}_{i}"
        out.append(ident)
    return out


def c_string(text: str) -> str:
    """`text` as a C string literal; anything but plain ASCII as octal escapes of UTF-8."""
    plain = {*range(0x20, 0x7F)} - {*b'"\\?'}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def comment(text: str) -> str:
    """`text` made safe inside a C comment: printable, and it cannot end the comment."""
    flat = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in flat).replace("*/", "* /")


def c_float(value: float) -> str:
    """A float constant that reads back to the nearest float32."""
    text = f"{np.float32(value):.9g}"
    return text + ("F" if any(c in text for c in ".en") else ".0F")


def _scale(scale: object) -> str:
    """A scale as people read it: powers of two as such."""
    mantissa, exponent = math.frexp(scale) if isinstance(scale, float) else (0.0, 0)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{scale}"


def numbers(values: Iterable[int | str], indent: str = "    ") -> str:
    """Values separated by commas, wrapped."""
    return textwrap.fill(
        ", ".join(map(str, values)),
        96,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def header_text(compiled: CompiledStep, graph: Graph, info: Mapping[str, Any]) -> str:
    """The header.

    Args:
        compiled: the step.
        graph: its integer Graph (normalisation of the inputs, delay, emission).
        info: optional facts, see `edgeseq.emit.Job`.
    """
    name = compiled.name
    ins = port_names(compiled.inputs, "input", name)
    outs = port_names(compiled.outputs, "output", name)
    labels = [str(v) for v in info.get("classes") or ()]
    if len(outs) != 1 or len(labels) != outs[0].port.size:
        labels = []
    parts = [
        _banner(compiled, graph, info, ins, outs, labels),
        _guard_open(compiled),
        _sizes(compiled, graph, ins, outs, labels),
        _structs(compiled),
        _prototypes(name, ins, outs),
        *(_quantise(name, graph, p) for p in ins),
        *(_dequantise(name, p) for p in outs),
        *(_argmax(name, p) for p in outs if p.port.size > 1),
        _labels(name, labels),
        f'#ifdef __cplusplus\n}} /* extern "C" */\n#endif\n\n#endif /* {name.upper()}_H */\n',
    ]
    return "\n".join(p for p in parts if p)


def _banner(
    compiled: CompiledStep,
    graph: Graph,
    info: Mapping[str, Any],
    ins: list[PortNames],
    outs: list[PortNames],
    labels: list[str],
) -> str:
    name, n = compiled.name, compiled.name.upper()
    target = compiled.target
    one = all(graph.frames_of(p.port.name) == 1 for p in outs)
    given = "one result" if one else "several results"
    block = int(graph.meta.get("frames_per_step", 1))
    taken = "one frame" if block == 1 else f"{block} frames"
    board = f"{target.name} ({target.description})" if target else compiled.machine.triple
    lines = [
        f"{name}.h - {comment(str(info.get('description') or 'a streaming sequence model'))}",
        "",
        f"Made by edgeseq {edgeseq.__version__} for {comment(board)}. Do not edit.",
        "",
        f"A step takes {taken} and returns {given}; between steps everything the model",
        "remembers is in its state. All arithmetic is integer. Nothing is allocated, no library",
        "is called, no global is written, so calls with different state and scratch may run at",
        "the same time, from threads and interrupts alike.",
        "",
        *_usage(name, n, ins, outs, labels),
        "",
        *_memory(compiled, info),
        "",
        *_facts(graph, info, ins, outs),
    ]
    return "/* " + "\n".join(f" * {x}".rstrip() for x in lines)[3:] + "\n */"


def _usage(
    name: str, n: str, ins: list[PortNames], outs: list[PortNames], labels: list[str]
) -> list[str]:
    ports = [*(f"{p.ident}" for p in ins), *(p.ident for p in outs)]
    lines = [
        f"  static {name}_state state;      // one per stream, carried from frame to frame",
        f"  static {name}_scratch scratch;  // working memory of a call, one per thread",
    ]
    lines += [f"  {p.ctype} {p.ident}[{p.macro}_SIZE];" for p in (*ins, *outs)]
    lines += ["", f"  {name}_reset(&state);           // before the first frame of a stream"]
    lines += ["  for each frame:"]
    lines += [
        f"      {name}_quantise_frame{p.suffix}(raw, {p.ident});  // float frame to integers"
        for p in ins
    ]
    lines += [f"      {name}_step(&state, &scratch, {', '.join(ports)});"]
    if outs[0].port.size > 1:
        call = f"{name}_argmax{outs[0].suffix}({outs[0].ident})"
        text = f"{n}_CLASS_NAMES[{call}]" if labels else call
        lines += [f"      best = {name}_class_name({call});" if labels else f"      best = {text};"]
    else:
        lines += [f"      {name}_dequantise_output{outs[0].suffix}({outs[0].ident}, real);"]
    return lines


def _memory(compiled: CompiledStep, info: Mapping[str, Any]) -> list[str]:
    sizes = ", ".join(f"{k} {v}" for k, v in compiled.sizes.items() if v)
    lines = [
        "Memory in bytes:",
        f"  flash   {compiled.flash_bytes} ({sizes})",
        f"  RAM     {compiled.state_bytes} state, {compiled.scratch_bytes} scratch, "
        f"both aligned to {compiled.align}",
    ]
    memory, executed = info.get("memory"), info.get("instructions")
    if memory is not None and memory.ram.stack is not None:
        lines.append(f"  stack   {memory.ram.stack} ({comment(memory.ram.stack_method)})")
    lines.append(f"Work per step: {compiled.macs} multiply-accumulates")
    if executed is not None and executed.mean is not None:
        lines.append(
            f"               {executed.mean:.0f} machine instructions ({comment(executed.method)})"
        )
    return lines


def _facts(
    graph: Graph, info: Mapping[str, Any], ins: list[PortNames], outs: list[PortNames]
) -> list[str]:
    lines = []
    for kind, ports in (("Input", ins), ("Output", outs)):
        for p in ports:
            shape = "x".join(map(str, p.port.shape)) or "1"
            lines.append(
                f"{kind} {comment(p.port.name)}: {shape} of {p.ctype}, "
                f"real = stored * {_scale(p.port.scale)}"
            )
    channels = info.get("channels")
    if channels:
        lines += textwrap.wrap(
            f"Channels of a frame, in order: {comment(', '.join(map(str, channels)))}", 92
        )
    if info.get("rate_hz"):
        lines.append(f"Frames per second: {info['rate_hz']:g}")
    for kind, ports, verb in (("input", ins, "takes"), ("output", outs, "gives")):
        for p in ports:
            several = graph.frames_of(p.port.name)
            if several > 1:
                lines.append(
                    f"A step {verb} {several} frames of {kind} {comment(p.port.name)} at once, one "
                    "after another."
                )
    delay = graph.meta.get("delay", 0)
    if delay:
        lines.append(f"The result lags the input by {delay} frame{'s' if delay > 1 else ''}.")
    emission = graph.meta.get("emission", {})
    window = f" of {info['window']} frames" if info.get("window") else ""
    for p in outs:
        if emission.get(p.port.name) == "last":
            what = p.ident.replace("_", " ", 1)
            lines += [
                f"The {what} is a running value, trained to be right at the last frame of a",
                f"window{window}: reset, feed the window, take what the last frame gives.",
            ]
    if info.get("accuracy") is not None:
        lines.append(f"Accuracy on the test set: {100 * float(info['accuracy']):.2f} %")
    return lines


def _guard_open(compiled: CompiledStep) -> str:
    n = compiled.name.upper()
    return (
        f"#ifndef {n}_H\n#define {n}_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n"
        '#ifdef __cplusplus\nextern "C" {\n#endif\n'
    )


def _sizes(
    compiled: CompiledStep,
    graph: Graph,
    ins: list[PortNames],
    outs: list[PortNames],
    labels: list[str],
) -> str:
    n = compiled.name.upper()
    lines = ["/* Elements of one frame, and the real value of one stored unit. */"]
    for p in (*ins, *outs):
        assert isinstance(p.port.scale, float)
        lines += [
            f"#define {p.macro}_SIZE {p.port.size}",
            f"#define {p.macro}_SCALE {c_float(p.port.scale)}",
        ]
    lines += [
        "",
        "/* Frames by which the result lags the input. */",
        f"#define {n}_DELAY {int(graph.meta.get('delay', 0))}",
        "",
        "/* Bytes. */",
        f"#define {n}_STATE_BYTES {_padded(compiled.state_bytes, compiled.align)}",
        f"#define {n}_SCRATCH_BYTES {_padded(compiled.scratch_bytes, compiled.align)}",
        f"#define {n}_FLASH_BYTES {compiled.flash_bytes}",
    ]
    if labels:
        lines += [
            "",
            "/* Classes, in the order of the output. */",
            f"#define {n}_CLASS_COUNT {len(labels)}",
            f"#define {n}_CLASS_NAMES \\\n    {{ {', '.join(map(c_string, labels))} }}",
        ]
    return "\n".join(lines) + "\n"


def _padded(size: int, align: int) -> int:
    """Size of a struct that holds `size` bytes: a multiple of its alignment, never 0."""
    return max(-(-size // align) * align, align)


def _structs(compiled: CompiledStep) -> str:
    name, n, align = compiled.name, compiled.name.upper(), compiled.align
    idents = identifiers(s.name for s in compiled.states)
    fields, checks, at, pads = [], [], 0, 0
    for s, ident in zip(compiled.states, idents, strict=True):
        if s.offset > at:
            fields.append(f"    uint8_t pad{pads}_[{s.offset - at}];")
            pads += 1
        member = f"    {C_TYPES[s.dtype]} {ident}_[{s.size}];"
        fields.append(f"{member:<40} /* {comment(s.name)}: real = stored * {_scale(s.scale)} */")
        checks.append((f"{name}_{ident}_offset", f"offsetof({name}_state, {ident}_) == {s.offset}"))
        at = s.offset + s.nbytes
    total, scratch = (_padded(v, align) for v in (compiled.state_bytes, compiled.scratch_bytes))
    if total > at:
        fields.append(f"    uint8_t pad{pads}_[{total - at}];")
    checks += [
        (f"{name}_state_size", f"sizeof({name}_state) == {n}_STATE_BYTES"),
        (f"{name}_scratch_size", f"sizeof({name}_scratch) == {n}_SCRATCH_BYTES"),
    ]
    asserts = "\n".join(f"typedef char {k}_check_[({test}) ? 1 : -1];" for k, test in checks)
    body = "\n".join(fields)
    return f"""\
#if defined(__GNUC__) || defined(__clang__) || defined(__ICCARM__) || defined(__CC_ARM)
#define {n}_ALIGNED __attribute__((aligned({align})))
#elif defined(_MSC_VER)
#define {n}_ALIGNED __declspec(align({align}))
#else
#error "define {n}_ALIGNED: how this compiler aligns a struct to {align} bytes"
#endif

/* What a stream carries from frame to frame. */
typedef struct {n}_ALIGNED {name}_state {{
{body}
}} {name}_state;

/* Working memory of one call; its contents are of no use afterwards. */
typedef struct {n}_ALIGNED {name}_scratch {{
    uint8_t bytes_[{scratch}];
}} {name}_scratch;

/* Compilation stops here if the compiler lays the structs out differently. */
{asserts}
"""


def _prototypes(name: str, ins: list[PortNames], outs: list[PortNames]) -> str:
    frames = [f"const {p.ctype} *{p.ident}" for p in ins] + [f"{p.ctype} *{p.ident}" for p in outs]
    own = f"{name}_state *state, {name}_scratch *scratch"
    return f"""\
/* Put the state back to its initial value. */
void {name}_reset({name}_state *state);

/* One frame: reads one frame of each input, writes one of each output. */
void {name}_step({own},
    {", ".join(frames)});

/* Many frames, one after another in memory: the same as that many steps. */
void {name}_run({own},
    {", ".join(frames)}, int32_t frames);
"""


def _quantise(name: str, graph: Graph, p: PortNames) -> str:
    scale, offset = affine_of(graph, p.port.name)
    assert isinstance(p.port.scale, float)
    lo, hi = INT_RANGE[p.port.dtype]
    if p.port.dtype == "i32":
        hi = 2147483520  # the largest float below 2^31
    per = p.port.shape[-1] if p.port.shape else 1
    gain = np.broadcast_to(1.0 / (scale * p.port.scale), (per,))
    centre = np.broadcast_to(offset, (per,))
    channel = "i" if p.port.size == per else f"i % {per}"
    tables, value = "", "raw[i]"
    if np.any(centre != 0):
        tables += f"    static const float offset[{per}] = {{\n{_floats(centre)}\n    }};\n"
        value = f"({value} - offset[{channel}])"
    if np.ptp(gain) == 0:
        value = f"{value} * {c_float(gain[0])}"
    else:
        tables += f"    static const float gain[{per}] = {{\n{_floats(gain)}\n    }};\n"
        value = f"{value} * gain[{channel}]"
    return f"""\
/* A raw float frame to stored integers: normalised, rounded half up, saturated; NaN becomes 0.
   Computed in float: where a value lies within float rounding of a half, it may be one unit off
   what edgeseq computes in double. */
static inline void {name}_quantise_frame{p.suffix}(
    const float raw[{p.macro}_SIZE], {p.ctype} stored[{p.macro}_SIZE])
{{
{tables}    int32_t i;
    for (i = 0; i < {p.macro}_SIZE; ++i) {{
        const float v = {value} + 0.5F;
        int32_t n = 0;
        if (v >= {c_float(hi)}) {{
            n = {hi};
        }} else if (v <= {c_float(lo)}) {{
            n = {_int(lo)};
        }} else if (v > {c_float(lo)}) {{
            n = (int32_t)v;
            n -= (float)n > v; /* towards minus infinity */
        }}
        stored[i] = ({p.ctype})n;
    }}
}}
"""


def _int(value: int) -> str:
    return f"{value + 1} - 1" if value == -(1 << 31) else str(value)


def _floats(values: Any) -> str:
    return numbers((c_float(float(v)) for v in values), "        ")


def _dequantise(name: str, p: PortNames) -> str:
    return f"""\
/* Stored integers of an output to real numbers. */
static inline void {name}_dequantise_output{p.suffix}(
    const {p.ctype} stored[{p.macro}_SIZE], float real[{p.macro}_SIZE])
{{
    int32_t i;
    for (i = 0; i < {p.macro}_SIZE; ++i) {{
        real[i] = (float)stored[i] * {p.macro}_SCALE;
    }}
}}
"""


def _argmax(name: str, p: PortNames) -> str:
    return f"""\
/* Index of the largest element, the first of equal ones. */
static inline int32_t {name}_argmax{p.suffix}(const {p.ctype} stored[{p.macro}_SIZE])
{{
    int32_t i, best = 0;
    for (i = 1; i < {p.macro}_SIZE; ++i) {{
        if (stored[i] > stored[best]) {{
            best = i;
        }}
    }}
    return best;
}}
"""


def _labels(name: str, labels: list[str]) -> str:
    if not labels:
        return ""
    n = name.upper()
    return f"""\
/* Name of a class, or "" for an index out of range. */
static inline const char *{name}_class_name(int32_t index)
{{
    static const char *const names[{n}_CLASS_COUNT] = {n}_CLASS_NAMES;
    return index >= 0 && index < {n}_CLASS_COUNT ? names[index] : "";
}}
"""
