"""Collecting second moments: one pass over a corpus, any number of layers, none above them."""

from collections.abc import Sequence
from typing import Literal

import torch

from factlab.models.budget import GIB
from factlab.models.keys import recorded_keys
from factlab.models.language_model import LanguageModel
from factlab.models.stored import device_of
from factlab.progress import ProgressCallback, silent
from factlab.stats.corpus import Corpus
from factlab.stats.expert_moments import ExpertAccumulator, Moment
from factlab.stats.moments import MomentAccumulator
from factlab.tokens import groups, pad


@torch.no_grad()
def collect_second_moments(
    lm: LanguageModel,
    layers: Sequence[int],
    corpus: Corpus,
    progress: ProgressCallback = silent,
    shared: bool = False,
) -> dict[int, Moment]:
    """E[k kᵀ] of every key that a corpus produces at some layers, of experts each by itself.

    Args:
        lm: the model, left as it is.
        layers: 0-based; the forward pass stops above the highest.
        corpus: the text.
        progress: called with tokens done and in all.
        shared: of mixtures, the keys of the expert that every token goes through.
    """
    layers = list(dict.fromkeys(layers))
    lm.abilities.need("closed_form")
    done, stop = 0, max(layers) + 1
    lm.layer(stop - 1)
    # Of each token a key for every layer, as it is recorded and as it is added.
    batch_tokens = lm.budget.pass_tokens(kept=(len(layers) + 2) * lm.budget.sizes.hidden)
    with lm.frozen(), recorded_keys(lm, layers, shared) as recorded:
        sums = _accumulators(lm, layers, shared)
        for numbers in groups([len(row) for row in corpus.rows], batch_tokens):
            batch = pad([corpus.rows[i] for i in numbers], lm.device)
            lm.run(lm.frame(batch), stop=stop)
            n_tokens = sum(len(corpus.rows[i]) for i in numbers)
            for layer, total in sums.items():
                total.begin(n_tokens)
                for block, keys in recorded[layer].blocks(batch.is_token):
                    total.add(keys, block)
            done += n_tokens
            progress("collecting key statistics", done, corpus.n_tokens)
    fingerprint = lm.live_fingerprint
    part: Literal["mlp", "shared"] = "shared" if shared else "mlp"
    # Each sum goes as its moment is made, so that not all of both are held.
    return {
        layer: sums.pop(layer).moment(layer, corpus.source, fingerprint, part) for layer in [*sums]
    }


def _accumulators(
    lm: LanguageModel, layers: Sequence[int], shared: bool
) -> dict[int, MomentAccumulator | ExpertAccumulator]:
    """Where the keys are, if sums of all layers fit into half of the memory; else on the CPU."""
    widths = {layer: _blocks_of(lm, layer, shared) for layer in layers}
    held = sum(n * MomentAccumulator.bytes_of(width) for n, width in widths.values())
    fits = held <= lm.budget.gib * GIB / 2
    sums: dict[int, MomentAccumulator | ExpertAccumulator] = {}
    for layer, (n, width) in widths.items():
        device = device_of(lm.layer(layer)) if fits else torch.device("cpu")
        mixed = not shared and lm.layers.mixture(layer) is not None
        sums[layer] = (
            ExpertAccumulator(n, width, device) if mixed else MomentAccumulator(width, device)
        )
    return sums


def _blocks_of(lm: LanguageModel, layer: int, shared: bool) -> tuple[int, int]:
    """How many blocks the second moment of a layer has, and how wide each is."""
    if shared:
        return 1, lm.layers.d_shared(layer)
    mixture = lm.layers.mixture(layer)
    return (1, lm.layers.d_mlp(layer)) if mixture is None else (mixture.n_experts, mixture.d_expert)
