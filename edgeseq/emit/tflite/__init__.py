"""TFLite step models: int16x8 and int8, written without TensorFlow.

`emit_tflite` makes a model of an integer step Graph, `run_tflite` runs one in LiteRT or
tflite-runtime, `compare_tflite` measures how far it is from the integer interpreter.

What runs as what:

==========================  ==================================================================
operation                   TFLite
==========================  ==================================================================
linear                      FULLY_CONNECTED per input group (int8 weights, a scale per channel),
                            partial sums added in 16 bits; 16-bit weights as high and low bytes
... of windows of a frame   CONV_2D, without copies of the windows
depthwise                   DEPTHWISE_CONV_2D
matmul                      BATCH_MATMUL
lut of sigmoid, tanh        LOGISTIC and TANH, 16 bits in and out
lut of anything else        the Graph's own table: GATHER and int32 arithmetic, exact
add, sub, mul, clamp        ADD, SUB, MUL, MINIMUM, MAXIMUM on int16
... towards a 32-bit state  plain int32 (or int64) arithmetic, exact
max, min, compare, select   MAXIMUM, MINIMUM; GREATER and the like on the Graph's integers, exact;
                            SELECT_V2
rescale                     QUANTIZE
softmax                     SOFTMAX on int16 (within 5 units of 2^-15), on float32 where its input
                            has 32 bits, as masked scores have
norm, wide                  float32 operators between DEQUANTIZE and QUANTIZE
embed                       GATHER
slice, concat, reshape,     SLICE, CONCATENATION, RESHAPE, TRANSPOSE, GATHER
strided
scan                        its body, once for each element
==========================  ==================================================================

Float32 also holds the 32-bit values on the way to a `wide` function or a softmax, of which 16 bits
would keep too little, and nodes with a factor of their own in a multiplier; the file's metadata
names all of them (`TfliteModel.float_nodes`).

States have the Graph's own formats: a 32-bit state stays an int32 tensor with all its bits, since
a 16-bit one would stall where gates are slow.  Differences to the integer interpreter come from
16-bit (in an int8 model 8-bit) pre-activations, the runtimes' LOGISTIC and TANH (within 3 units of
2^-15), and their rounding, so the level of comparison is `Close(n LSB)`.
"""

from __future__ import annotations

from pathlib import Path

from edgeseq.emit import Format, Job
from edgeseq.emit.tflite.compare import TfliteDifference, compare_tflite
from edgeseq.emit.tflite.emit import emit_tflite
from edgeseq.emit.tflite.model import StateInfo, TensorInfo, TfliteModel, read_tflite
from edgeseq.emit.tflite.runner import (
    ENGINES,
    EngineStatus,
    TfliteRun,
    engine_status,
    run_tflite,
)

__all__ = [
    "ENGINES",
    "FORMAT",
    "EngineStatus",
    "StateInfo",
    "TensorInfo",
    "TfliteDifference",
    "TfliteModel",
    "TfliteRun",
    "compare_tflite",
    "emit_tflite",
    "engine_status",
    "read_tflite",
    "run_tflite",
    "write_tflite",
]


def write_tflite(job: Job) -> list[Path]:
    """Write model_int16x8.tflite and model_int8.tflite of a job.

    Ranges of pre-activations are taken from `job.calibration`.
    """
    frames = job.calibration
    paths = []
    for name, width in (("int16x8", "int16"), ("int8", "int8")):
        model = emit_tflite(
            job.integer, activations="int8" if width == "int8" else "int16", frames=frames
        )
        path = job.folder / f"model_{name}.tflite"
        path.write_bytes(model.data)
        paths.append(path)
    return paths


FORMAT = Format(
    "tflite",
    "TFLite step models: int16x8 and int8, explicit state",
    write_tflite,
    ("flatbuffers", "ai_edge_litert"),
)
