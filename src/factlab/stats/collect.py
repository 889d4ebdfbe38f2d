"""Collecting second moments: one pass over a corpus, any number of layers, none above them."""

from collections.abc import Sequence

import torch

from factlab.models.budget import GIB
from factlab.models.keys import recorded_keys
from factlab.models.language_model import LanguageModel
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
) -> dict[int, Moment]:
    """E[k kᵀ] of every key that a corpus produces at some layers, of experts each by itself.

    Args:
        lm: the model, left as it is.
        layers: 0-based; the forward pass stops above the highest.
        corpus: the text.
        progress: called with tokens done and in all.
    """
    layers = list(dict.fromkeys(layers))
    done, stop = 0, max(layers) + 1
    lm.layer(stop - 1)
    # Of each token a key for every layer, as it is recorded and as it is added.
    batch_tokens = lm.budget.pass_tokens(kept=(len(layers) + 2) * lm.budget.sizes.hidden)
    with lm.frozen(), recorded_keys(lm, layers) as recorded:
        sums = _accumulators(lm, layers)
        for numbers in groups([len(row) for row in corpus.rows], batch_tokens):
            batch = pad([corpus.rows[i] for i in numbers], lm.device)
            lm.run(lm.frame(batch), stop=stop)
            for layer, total in sums.items():
                total.begin(int(batch.is_token.sum()))
                for block, keys in recorded[layer].blocks(batch.is_token):
                    total.add(keys, block)
            done += sum(len(corpus.rows[i]) for i in numbers)
            progress("collecting key statistics", done, corpus.n_tokens)
    fingerprint = lm.live_fingerprint
    return {layer: total.moment(layer, corpus.source, fingerprint) for layer, total in sums.items()}


def _accumulators(
    lm: LanguageModel, layers: Sequence[int]
) -> dict[int, MomentAccumulator | ExpertAccumulator]:
    """Where the keys are, if sums of all layers fit into half of the memory; else on the CPU."""
    held = 0
    for layer in layers:
        mixture = lm.layers.mixture(layer)
        held += (
            MomentAccumulator.bytes_of(lm.layers.d_mlp(layer))
            if mixture is None
            else ExpertAccumulator.bytes_of(mixture.n_experts, mixture.d_expert)
        )
    fits = held <= lm.budget.gib * GIB / 2
    return {layer: _accumulator(lm, layer, fits) for layer in layers}


def _accumulator(
    lm: LanguageModel, layer: int, fits: bool
) -> MomentAccumulator | ExpertAccumulator:
    mixture = lm.layers.mixture(layer)
    weight = lm.model.get_parameter(lm.layers.memory_name(layer))
    device = weight.device if fits else torch.device("cpu")
    if mixture is None:
        return MomentAccumulator(lm.layers.d_mlp(layer), device)
    return ExpertAccumulator(mixture.n_experts, mixture.d_expert, device)
