"""Collecting second moments: one pass over a corpus, any number of layers, none above them."""

from collections.abc import Sequence

import torch

from factlab.hooks import Site, Stream, record
from factlab.models.budget import GIB
from factlab.models.language_model import LanguageModel
from factlab.models.stored import device_of
from factlab.progress import ProgressCallback, silent
from factlab.stats.corpus import Corpus
from factlab.stats.moments import MomentAccumulator, SecondMoment
from factlab.tokens import groups, pad


@torch.no_grad()
def collect_second_moments(
    lm: LanguageModel,
    layers: Sequence[int],
    corpus: Corpus,
    progress: ProgressCallback = silent,
) -> dict[int, SecondMoment]:
    """E[k kᵀ] of every key that a corpus produces at some layers.

    Args:
        lm: the model, left as it is.
        layers: 0-based; the forward pass stops above the highest.
        corpus: the text.
        progress: called with tokens done and in all.
    """
    sites = {layer: Site(layer, Stream.MLP_HIDDEN) for layer in layers}
    done, stop = 0, max(layers) + 1
    lm.layer(stop - 1)
    # Of each token a key for every layer, as it is recorded and as it is added.
    batch_tokens = lm.budget.pass_tokens(kept=(len(sites) + 2) * lm.budget.sizes.hidden)
    with lm.frozen(), record(lm, sites.values()) as states:
        sums = _accumulators(lm, layers)
        for numbers in groups([len(row) for row in corpus.rows], batch_tokens):
            batch = pad([corpus.rows[i] for i in numbers], lm.device)
            lm.run(lm.frame(batch), stop=stop)
            for layer, site in sites.items():
                keys = states[site]
                sums[layer].add(keys[batch.is_token.to(keys.device)])
            done += sum(len(corpus.rows[i]) for i in numbers)
            progress("collecting key statistics", done, corpus.n_tokens)
    fingerprint = lm.live_fingerprint
    return {
        layer: SecondMoment(total.mean(), layer, total.n_tokens, corpus.source, fingerprint)
        for layer, total in sums.items()
    }


def _accumulators(lm: LanguageModel, layers: Sequence[int]) -> dict[int, MomentAccumulator]:
    """Where the keys are, if sums of all layers fit into half of the memory; else on the CPU."""
    held = len(layers) * MomentAccumulator.bytes_of(lm.d_mlp)
    fits = held <= lm.budget.gib * GIB / 2
    cpu = torch.device("cpu")
    return {
        layer: MomentAccumulator(
            lm.d_mlp, device_of(lm.module(Site(layer, Stream.MLP_HIDDEN))) if fits else cpu
        )
        for layer in layers
    }
