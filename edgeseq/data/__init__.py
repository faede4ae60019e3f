"""Recordings: sets to train and test on, windows cut from them, frames to calibrate with.

```
load_set(name or path) -> SequenceSet      labelled recordings, grouped (by person, by device, ...)
windows(set, length, hop) -> Windows       fixed-length pieces, each with its label and group
split(set, test, validation) -> Split      by group: nobody is in two parts
normalisation(recordings) -> mean, std     from the training part only
load_inputs(name or path, inputs)          unlabelled frames, for `--calib` and `edgeseq stream`
load_frames(name or path) -> [sequence]    the same for one input of any number of channels
```

Own data may be a folder with a manifest, one NPZ, or a folder of CSV files: `sets.py` describes the
three layouts. Files are data: nothing here unpickles.
"""

from __future__ import annotations

from edgeseq.data.frames import load_frames
from edgeseq.data.inputs import InputSpec, Recordings, load_inputs
from edgeseq.data.sequences import (
    Recording,
    SequenceSet,
    Split,
    Windows,
    normalisation,
    split,
    windows,
)
from edgeseq.data.sets import list_sets, load_set

__all__ = [
    "InputSpec",
    "Recording",
    "Recordings",
    "SequenceSet",
    "Split",
    "Windows",
    "list_sets",
    "load_frames",
    "load_inputs",
    "load_set",
    "normalisation",
    "split",
    "windows",
]
