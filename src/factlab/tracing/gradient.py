"""Estimating every restoration at once from one backward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from factlab.models.decoder import Decoder
from factlab.progress import ProgressCallback
from factlab.tracing.result import TraceConfig
from factlab.tracing.runs import CleanRun, CorruptedRun


def gradient_effects(
    lm: Decoder,
    clean: CleanRun,
    runs: Sequence[CorruptedRun],
    positions: Sequence[int],
    config: TraceConfig,
    progress: ProgressCallback,
) -> dict[str, Tensor]:
    raise NotImplementedError
