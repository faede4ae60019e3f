"""Training: PyTorch through Lightning Fabric (any number of GPUs, or the CPU).

```
train(config, folder, progress) -> TrainResult          one candidate
train_candidates(config, folder, progress) -> [...]     every entry of [model] hidden
load_trained(folder) -> (module, description)
evaluate_float(module, windows) -> Evaluation
```

A run that is killed at any moment continues from its last whole epoch and ends with the same bits
as one that was never interrupted; one whose data, settings and code are unchanged is not repeated.
"""

from __future__ import annotations

from edgeseq.train.evaluate import Evaluation, evaluate_float, score
from edgeseq.train.loop import train, train_candidates
from edgeseq.train.result import (
    EpochMetrics,
    Event,
    Progress,
    TrainResult,
    fingerprint,
    load_trained,
)

__all__ = [
    "EpochMetrics",
    "Evaluation",
    "Event",
    "Progress",
    "TrainResult",
    "evaluate_float",
    "fingerprint",
    "load_trained",
    "score",
    "train",
    "train_candidates",
]
