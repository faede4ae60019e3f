"""Manifests for tests. Every figure here is made up."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgeseq import manifest as m

LABELS = ("abduction", "flexion", "rest")


def manifest(**changes: Any) -> m.Manifest:
    """A made-up manifest of a GRU-16 for a Cortex-M4; `changes` replace fields."""
    made = m.Manifest(
        name="watch_gru16",
        edgeseq="0.1.0",
        target=m.TargetInfo(
            name="cortex-m4",
            description="Arm Cortex-M4, generic",
            board="any Cortex-M4 part",
            triple="thumbv7em-none-eabi",
            cpu="cortex-m4",
            features=("-fpregs",),
            isa=("generic", "dsp"),
            format="archive",
            emulator="cortex-m4",
            clock_hz=80_000_000,
            cycles_per_instruction=1.3,
            flash_bytes=524_288,
            ram_bytes=131_072,
        ),
        tier=m.TierInfo(
            name="S", flash_bytes=65_536, ram_bytes=16_384, latency_s=0.02, min_accuracy=0.8
        ),
        model=m.ModelInfo(
            name="GRU-16",
            source="trained from edgeseq.toml",
            cell="gru",
            parameters=1_251,
            nodes=9,
            macs=1_104,
            weight_bits=8,
            activation_bits=16,
            digest="ab" * 32,
        ),
        inputs=(
            m.InputInfo(
                name="x",
                shape=(2,),
                dtype="i16",
                scale=2**-12,
                affine_scale=(2.0, 0.5),
                affine_offset=(1.0, -3.0),
                channels=("ax", "ay"),
                rate_hz=50.0,
            ),
        ),
        outputs=(
            m.OutputInfo(
                name="y",
                shape=(3,),
                dtype="i16",
                scale=2**-10,
                labels=LABELS,
                emission="last",
                window=100,
                hop=25,
            ),
        ),
        states=(m.StateInfo(name="h", shape=(16,), dtype="i32", scale=2**-30, bytes=64, offset=0),),
        memory=m.Memory(
            flash=m.FlashUse(
                code=2_100,
                tables=2_052,
                weights=1_200,
                bias=204,
                multipliers=396,
                other=48,
                total=6_000,
            ),
            ram=m.RamUse(state=64, scratch=320, stack=96, io=10, total=490, stack_method="made up"),
        ),
        nodes=(
            m.NodeCost(name="gru.input", op="linear", macs=288, weight_bytes=480),
            m.NodeCost(name="gru.hidden", op="linear", macs=768, weight_bytes=960),
            m.NodeCost(name="gru.sigmoid", op="lut", macs=0, weight_bytes=0),
            m.NodeCost(name="head", op="linear", macs=48, weight_bytes=60),
        ),
        instructions_per_step=m.Instructions(
            mean=4_321.5, largest=4_400, steps=1_000, method="made up: counted by unicorn"
        ),
        latency=m.Latency(
            kind="estimate",
            cycles=5_618.0,
            seconds=7.02e-5,
            model="4 321.5 instructions x 1.3 cycles at 80 MHz",
        ),
        accuracy=accuracies(0.861, 0.859),
        confusion=m.Confusion(
            format="integer", labels=LABELS, counts=((40, 2, 1), (3, 50, 0), (0, 4, 61))
        ),
        saturation=(m.Saturation(node="gru.input", stores=48_000, saturated=3),),
        verification=(
            m.Verification(
                stage="Graph",
                reference="torch",
                level="Close(1e-5)",
                steps=1_000,
                worst=2.1e-7,
                unit="absolute",
                status="passed",
            ),
            m.Verification(
                stage="emulated cortex-m4",
                reference="interpreter",
                level="Exact",
                steps=1_000,
                worst=0.0,
                status="passed",
            ),
            m.Verification(
                stage="tflite-runtime 2.14",
                reference="interpreter",
                level="Close(7 LSB)",
                steps=0,
                worst=None,
                status="not run",
                reason="tflite-runtime is not installed",
            ),
        ),
        candidates=(
            m.Candidate(
                name="GRU-16",
                cell="gru",
                parameters=1_251,
                flash_bytes=6_000,
                ram_bytes=490,
                results=accuracies(0.861, 0.859),
                chosen=True,
                reason="most accurate that fits",
            ),
            m.Candidate(
                name="GRU-64",
                cell="gru",
                parameters=14_215,
                flash_bytes=70_000,
                ram_bytes=1_400,
                results=accuracies(0.874, 0.873),
                chosen=False,
                reason="needs 70 000 B of flash, the tier has 65 536 B",
            ),
        ),
        formats=(m.FormatInfo(format="native", file="libwatch_gru16.a"),),
        files=(m.FileInfo(name="libwatch_gru16.a", sha256="00" * 32, bytes=9_000, kind="native"),),
        versions={"numpy": "2.4.0", "python": "3.11.9"},
    )
    return dataclasses.replace(made, **changes)


def accuracies(real: float, integer: float) -> tuple[m.Accuracy, ...]:
    """Made-up results of every format."""
    return (
        m.Accuracy(format="float", value=real, samples=161, bytes=5_004),
        m.Accuracy(format="integer", value=integer, samples=161, snr_db=61.0, bytes=1_800),
        m.Accuracy(format="onnx_float", value=real, samples=161, bytes=6_800),
        m.Accuracy(format="onnx_int", value=integer, samples=161, snr_db=60.0, bytes=9_100),
        m.Accuracy(format="tflite_int8", value=integer - 0.03, samples=161, bytes=8_000),
        m.Accuracy(
            format="tflite_int16x8", value=None, bytes=8_600, reason="LiteRT is not installed"
        ),
    )
