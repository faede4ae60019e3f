from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_up_manifest import accuracies, manifest

from edgeseq import manifest as m
from edgeseq.errors import ArtifactError
from edgeseq.report import facts_of, read_tiers, terminal_table, write_report
from edgeseq.report.chart import nice_range, scatter, size_range, size_ticks
from edgeseq.report.page import node_bars, render_page
from edgeseq.report.words import joined, seconds_text, size_text

BIG_FLASH = m.FlashUse(
    code=2_500, tables=2_052, weights=57_000, bias=900, multipliers=1_600, other=60, total=64_112
)


def tier(made: m.Manifest, name: str, flash: int) -> m.Manifest:
    return dataclasses.replace(
        made, tier=m.TierInfo(name=name, flash_bytes=flash, ram_bytes=flash // 4, latency_s=0.02)
    )


def big(value: float, **changes: Any) -> m.Manifest:
    """A made-up larger model, for tier M."""
    made = manifest(accuracy=accuracies(value + 0.001, value), **changes)
    return dataclasses.replace(
        tier(made, "M", 163_840),
        model=dataclasses.replace(made.model, name="GRU-64", digest="cd" * 32),
        memory=m.Memory(flash=BIG_FLASH, ram=made.memory.ram),
    )


def imported() -> m.Manifest:
    """A model brought without a test set, for a target without an emulator."""
    made = manifest()
    results = tuple(
        dataclasses.replace(
            a, value=None, samples=0, reason="no test set", snr_db=None if i == 0 else 50.0 + i
        )
        for i, a in enumerate(made.accuracy)
    )
    return dataclasses.replace(
        made,
        accuracy=results,
        confusion=None,
        candidates=(),
        latency=None,
        instructions_per_step=m.Instructions(
            mean=None, largest=None, steps=0, method="no emulator for this CPU"
        ),
        memory=m.Memory(
            flash=made.memory.flash,
            ram=dataclasses.replace(made.memory.ram, stack=None, stack_method="no emulator"),
        ),
    )


class Page(HTMLParser):
    """Checks that tags nest, and collects the text and whatever points outside the file."""

    void = frozenset({"meta", "br", "hr", "img", "line", "circle", "path", "link"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(source)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [v or "" for k, v in attrs if k in ("href", "src", "action", "srcset")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] in ("tr", "td", "th", "p", "li") and tag == "table":
            self.open.pop()
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts).replace("\u202f", " "))


def page_of(*manifests: m.Manifest) -> Page:
    return Page(render_page(facts_of(manifests)))


def on_terminal(*manifests: m.Manifest) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(manifests))
    console.file.close()
    return console.export_text().replace("\u202f", " ")


# -- advice --------------------------------------------------------------------------------------


def test_the_smaller_model_is_shipped_if_the_other_is_not_measurably_better() -> None:
    facts = facts_of([big(0.873), manifest()])
    assert (facts.advice.model, facts.advice.tier) == ("GRU-16", "S")
    text = " ".join(facts.advice.reasons)
    # 0.873 - 0.859, and sqrt(0.873 * 0.127 / 161)
    assert "1.4 points better" in text and "2.6 points, 161 samples" in text
    assert "10.7 times the flash" in text


def test_the_better_model_is_shipped_if_it_is_measurably_better() -> None:
    facts = facts_of([manifest(), big(0.95)])
    assert (facts.advice.model, facts.advice.tier) == ("GRU-64", "M")
    assert "less accurate by more than one standard error" in " ".join(facts.advice.reasons)


def test_a_model_that_fills_several_tiers_is_told_once() -> None:
    small = manifest()
    page = page_of(tier(small, "L", 409_600), small, tier(small, "M", 163_840))
    assert page.text.count("Confusion matrix") == 1
    assert "The same model fills tiers S, M and L: a bigger budget bought nothing." in page.text
    facts = facts_of([tier(small, "L", 409_600), small])
    assert [t.tier.name for t in facts.manifests] == ["S", "L"]
    assert len(facts.groups) == 1 and facts.advice.tier == "S"


def test_cautions_name_what_a_person_must_know() -> None:
    made = manifest(
        saturation=(m.Saturation(node="gru.new", stores=1_000, saturated=80),),
        notes=("Calibrated with 3 frames only.",),
    )
    made = dataclasses.replace(
        made, tier=dataclasses.replace(made.tier, flash_bytes=6_100, latency_s=1e-4)
    )
    text = " ".join(facts_of([made]).advice.cautions).replace("\u202f", " ")
    for part in (
        "tflite-runtime 2.14 against interpreter (tflite-runtime is not installed)",
        "TFLite int8 file is 3.2 points less accurate",
        "Accuracy not measured for TFLite int16x8: LiteRT is not installed",
        "gru.new clamps 8.0 %",
        "98 % of the tier's flash",
        "Calibrated with 3 frames only.",
    ):
        assert part in text
    assert "time per step" not in text  # 70 of 100 µs leave headroom


def test_delay_widened_matrices_and_float_operations_are_told() -> None:
    made = manifest()
    plain = facts_of([made]).advice
    assert not any("lags" in t or "16-bit" in t for t in plain.reasons)
    outputs = tuple(dataclasses.replace(o, delay=5) for o in made.outputs)
    formats = tuple(
        m.FormatInfo(format=f, file=made.formats[0].file, float_nodes=("norm1", "norm2"))
        for f in ("tflite_int8", "tflite_int16x8")
    )
    told = dataclasses.replace(
        made,
        outputs=outputs,
        formats=(*made.formats, *formats),
        model=dataclasses.replace(made.model, widened=tuple(f"layer{i}" for i in range(10))),
    )
    advice = facts_of([told]).advice
    reasons = " ".join(advice.reasons).replace("\u202f", " ")
    assert "Its output lags the input by 5 frames (100 ms): it looks that far ahead." in reasons
    assert "10 matrices have 16-bit weights" in reasons and "layer7 and 2 more." in reasons
    name = made.formats[0].file
    text = f"{name} and {name} compute 2 operations in float32: norm1 and norm2."
    assert text in advice.cautions
    page = render_page(facts_of([told]))
    assert "delay 5 frames" in page and "<code>layer9</code>" in page
    two = (*outputs, dataclasses.replace(outputs[0], name="z", delay=1))
    text = " ".join(facts_of([dataclasses.replace(made, outputs=two)]).advice.reasons)
    assert "Its output z lags the input by 1 frame (20 ms)" in text


def test_without_test_set_and_emulator() -> None:
    facts = facts_of([imported()])
    assert facts.quality == "snr"
    assert "no test set" in facts.advice.reasons[0] and "51.0 dB" in facts.advice.reasons[0]
    text = page_of(imported()).text
    assert "Instructions per step not measured: no emulator for this CPU." in text
    assert "RAM is without the stack: no emulator." in text
    assert "Signal-to-noise ratio against size" in text
    assert "not measured" in on_terminal(imported())
    larger = dataclasses.replace(
        tier(imported(), "M", 163_840),
        model=dataclasses.replace(imported().model, name="other", digest="ee" * 32),
        memory=dataclasses.replace(imported().memory, flash=BIG_FLASH),
        accuracy=(m.Accuracy(format="integer", value=None, snr_db=70.0, reason="no test set"),),
    )
    assert facts_of([imported(), larger]).advice.tier == "M"  # 70 dB against 51 dB
    blank = dataclasses.replace(imported(), accuracy=())
    assert "quality was not measured" in " ".join(facts_of([blank]).advice.reasons)
    assert "chart" not in render_page(facts_of([blank])).split("</style>")[1]


@pytest.mark.parametrize(("snr", "low"), [(12.3, True), (0.0, True), (40.0, False)])
def test_a_low_signal_to_noise_ratio_is_a_caution(snr: float, low: bool) -> None:
    """Without a test set nothing else says that the integer outputs are mostly noise."""
    result = m.Accuracy(format="integer", value=None, snr_db=snr, reason="no test set")
    text = " ".join(facts_of([manifest(accuracy=(result,))]).advice.cautions)
    assert (f"only {snr:.1f} dB above their error" in text) == low


def test_points_hold_every_candidate_in_every_format_once() -> None:
    facts = facts_of([manifest(), tier(manifest(), "M", 163_840)])
    keys = [(p.model, p.format) for p in facts.points]
    assert len(keys) == len(set(keys)) == 10
    own = next(p for p in facts.points if (p.model, p.format) == ("GRU-16", "integer"))
    assert (own.bytes, own.tiers) == (6_000, ("S", "M"))  # flash, not the parameters alone
    other = next(p for p in facts.points if (p.model, p.format) == ("GRU-64", "integer"))
    assert (other.bytes, other.tiers) == (70_000, ())
    assert facts.rejected[0][0] == "GRU-64"
    assert "needs 70 000 B" in facts.rejected[0][1][0]
    assert "GRU-64 is 1.4 points better on the test set and fills no tier: needs" in " ".join(
        facts.advice.reasons
    )
    assert facts_of([imported()]).quality == "snr"
    assert "onnx_float" not in {p.format for p in facts_of([imported()]).points}


# -- files ---------------------------------------------------------------------------------------


def test_write_report(tmp_path: Path) -> None:
    for made in (manifest(), big(0.873)):
        (tmp_path / made.tier.name).mkdir()
        m.write(made, tmp_path / made.tier.name / "manifest.json")
    (tmp_path / ".S.part-1").mkdir()
    m.write(manifest(), tmp_path / ".S.part-1" / "manifest.json")  # an interrupted compilation
    assert [t.tier.name for t in read_tiers(tmp_path)] == ["S", "M"]
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    first = {n: (tmp_path / n).read_bytes() for n in ("report.html", "report.json", "report.png")}
    assert first["report.png"].startswith(b"\x89PNG")
    written = json.loads(first["report.json"])
    assert written["advice"]["tier"] == "S" and set(written["tiers"]) == {"S", "M"}
    assert written["tiers"]["S"]["memory"]["flash"]["total"] == 6_000
    write_report(tmp_path / "M")  # a tier's folder means its target
    assert first == {n: (tmp_path / n).read_bytes() for n in first}
    assert not list(tmp_path.glob("*.part"))


def test_page_is_one_file_without_network_or_script() -> None:
    page = page_of(manifest(), big(0.873))
    assert not page.links and "script" not in page.tags
    source = render_page(facts_of([manifest()]))
    assert "http" not in source and "@import" not in source and "url(" not in source
    for part in (
        "Ship GRU-16 (tier S) on cortex-m4.",
        "85.9 %",
        "5.9 KiB",
        "4 322",
        "per step, estimated",
        "4 321.5 instructions x 1.3 cycles at 80 MHz",
        "Exact",
        "tflite-runtime is not installed",
        "libwatch_gru16.a",
    ):
        assert part in page.text, part


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'$x^2$"
    made = manifest(
        verification=(
            m.Verification(
                stage=evil,
                reference=evil,
                level=evil,
                steps=1,
                worst=None,
                status="not run",
                reason=evil,
            ),
        ),
        nodes=(m.NodeCost(name=evil, op=evil, macs=3, weight_bytes=1),),
        confusion=m.Confusion(format="integer", labels=(evil,), counts=((1,),)),
        notes=(evil,),
        versions={evil: evil},
    )
    made = dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, name=evil, source=evil),
        outputs=(dataclasses.replace(made.outputs[0], shape=(1,), labels=(evil,)),),
    )
    page = page_of(made)
    assert "script" not in page.tags
    assert "<script" not in scatter(facts_of([made]))
    write_report(tmp_path, [made])


def test_many_tiers_nodes_and_classes_are_drawn(tmp_path: Path) -> None:
    labels = tuple(f"a rather long class name {i}" for i in range(35))
    made = manifest(
        nodes=tuple(
            m.NodeCost(name=f"layer.{i}.linear", op="linear", macs=i, weight_bytes=i)
            for i in range(60)
        ),
        confusion=m.Confusion(
            format="integer",
            labels=labels,
            counts=tuple(tuple(int(i == j) for j in range(35)) for i in range(35)),
        ),
    )
    made = dataclasses.replace(
        made, outputs=(dataclasses.replace(made.outputs[0], shape=(35,), labels=labels),)
    )
    unit, bars = node_bars(made)
    assert unit == "MACs" and len(bars) == 15 and bars[-1].name == "46 other nodes"
    assert sum(bar.value for bar in bars) == sum(range(60))
    many = [tier(made, f"T{i}", 65_536 << i) for i in range(6)]
    write_report(tmp_path, many)


def test_node_bars_show_instructions_where_all_are_known() -> None:
    nodes = tuple(dataclasses.replace(n, instructions=10.5) for n in manifest().nodes)
    assert node_bars(manifest(nodes=nodes))[0] == "instructions"
    assert node_bars(manifest(nodes=()))[1] == []


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no artifact"):
        write_report(tmp_path)
    other = dataclasses.replace(manifest(), target=dataclasses.replace(manifest().target, name="b"))
    with pytest.raises(ArtifactError, match="tiers of b, cortex-m4"):
        write_report(tmp_path, [manifest(), other])
    with pytest.raises(ArtifactError, match="cannot write the report"):
        write_report(tmp_path / "absent", [manifest()])


def test_terminal() -> None:
    text = on_terminal(manifest(), big(0.873))
    for part in (
        "Ship GRU-16",
        "5.9 KiB of 64 KiB (9 %)",
        "~70.2 µs",
        "not run",
        "Before shipping",
    ):
        assert part in text, part


def test_importing_the_report_is_light() -> None:
    code = (
        "import sys, edgeseq.report\n"
        "bad = {'matplotlib', 'jinja2', 'rich', 'torch', 'numba', 'numpy'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- words and axes ------------------------------------------------------------------------------


def test_words() -> None:
    assert [size_text(n) for n in (0, 490, 6_000, 65_536, 1 << 24)] == [
        "0 B",
        "490 B",
        "5.9 KiB",
        "64 KiB",
        "16 MiB",
    ]
    assert [seconds_text(t) for t in (2.0, 0.0123, 7.02e-5, 3e-9)] == [
        "2 s",
        "12.3 ms",
        "70.2 µs",
        "3 ns",
    ]
    assert [joined(["S", "M", "L"][:n]) for n in (1, 2, 3)] == ["S", "S and M", "S, M and L"]


@given(st.lists(st.integers(1, 1 << 40), min_size=1, max_size=8))
def test_size_axis_has_a_few_ticks(sizes: list[int]) -> None:
    low, high = size_range(sizes)
    ticks = size_ticks(low, high)
    assert low < min(sizes) <= max(sizes) < high
    assert 1 <= len(ticks) <= 10 and all(low <= t <= high for t in ticks)


@example([1.0])
@example([0.0])
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_value_axis_holds_the_values(values: list[float]) -> None:
    bottom, top, step = nice_range(min(values), max(values), 1.0)
    assert (bottom <= min(values) and max(values) <= top <= 1.0) or max(values) == top
    assert bottom < top and 1 <= (top - bottom) / step <= 12
