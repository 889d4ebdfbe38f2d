"""Indirect effects, added up over noise samples and substitutes while a trace is made."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.models.language_model import LanguageModel
from factlab.tracing.cells import cells_of
from factlab.tracing.configs import Kind, TraceConfig
from factlab.tracing.runs import CleanRun, CorruptedRun, PlannedRun


class Effects:
    """Effects of restored states: zero where one was asked for and NaN elsewhere, to begin with.

    A position that no corrupted run has, as where a substitute has fewer tokens, stays NaN, and so
    does a layer in whose window none has such a part.

    Args:
        lm: the model.
        clean: the clean run.
        planned: the corrupted runs; an effect is averaged over all their samples.
        positions: of the prompt, that were asked for.
        config: says which kinds and layers were.

    Attributes:
        by_kind: for each kind the effects.
    """

    def __init__(
        self,
        lm: LanguageModel,
        clean: CleanRun,
        planned: Sequence[PlannedRun],
        positions: Sequence[int],
        config: TraceConfig,
    ) -> None:
        cells = cells_of(lm.layers, config)
        self._n_samples = {
            position: sum(len(run.samples) for run in planned if position in run.aligned)
            for position in positions
        }
        shape = clean.continuation.n_prompt, lm.n_layers
        self.by_kind: dict[str, Float[Tensor, "pos layer"]] = {}
        for kind in config.kinds:
            layers = [cell.layer for cell in cells if cell.kind == kind]
            effects = torch.full(shape, torch.nan, dtype=torch.float32, device="cpu")
            for position, n_samples in self._n_samples.items():
                if n_samples:
                    effects[position, layers] = 0.0
            self.by_kind[kind] = effects

        self._probs: list[Tensor] = []

    def of(self, run: CorruptedRun) -> CorruptedRun:
        """Take note of P(answer) in a run whose effects are about to be added; returns the run."""
        self._probs.append(run.probs)
        return run

    @property
    def corrupted_prob(self) -> float:
        """P(answer) in the mean over all samples."""
        return float(torch.cat(self._probs).mean())

    def add(self, kind: Kind, position: int, layer: int, total: float) -> None:
        """Add what some samples contribute, summed over them."""
        self.by_kind[kind][position, layer] += total / self._n_samples[position]
