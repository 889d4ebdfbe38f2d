"""Estimating every restoration at once from one backward pass.

To first order, putting a state h back to its clean value changes P(answer) by

    (h_clean − h_corrupted) · ∂P/∂h

and putting back a window of outputs by the sum over its layers (which counts twice what one layer
of the window does through a later one). One forward and one backward pass give this for all tokens
and layers. (Nanda 2023 calls it attribution patching.)

P is far from linear in h, so where the gradient is taken matters. The corrupted run itself is often
on a plateau where the answer is hopeless; the clean run is on another. Here every noise sample has
its own place on the way between them, from half to wholly corrupted, spread evenly over the
samples. How well this ranks cells is in `docs/results/tracing.md`; sizes are rougher than ranks.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.hooks import Site, Stream, intervene
from factlab.models.language_model import LanguageModel
from factlab.precision import widened
from factlab.progress import ProgressCallback
from factlab.tracing.cells import cells_of, restored_sites
from factlab.tracing.configs import Kind, TraceConfig
from factlab.tracing.corruption_kinds import Substitution
from factlab.tracing.effects import Effects
from factlab.tracing.runs import CleanRun, CorruptedRun, PlannedRun

_STREAMS: dict[Kind, Stream] = {"block": Stream.BLOCK, "mlp": Stream.MLP, "attn": Stream.ATTN}


def gradient_effects(
    lm: LanguageModel,
    clean: CleanRun,
    planned: Sequence[PlannedRun],
    positions: Sequence[int],
    config: TraceConfig,
    progress: ProgressCallback,
) -> Effects:
    """First-order indirect effects, as `causal_trace` returns them."""
    effects = Effects(lm, clean, planned, positions, config)
    for done, plan in enumerate(planned):
        progress("estimating", done, len(planned))
        shares = _shares(lm, clean, effects.of(plan.run(lm, clean)), config)
        changing = [i for i in positions if i in plan.aligned and i >= clean.span.start]
        for cell in cells_of(lm.layers, config):
            of_window = [shares[site] for site in restored_sites(lm.layers, cell)]
            total = torch.stack(of_window).sum(0)
            for position in changing:
                summed = float(total[plan.aligned[position]])
                effects.add(cell.kind, position, cell.layer, summed)
    progress("estimating", len(planned), len(planned))
    return effects


def _shares(
    lm: LanguageModel, clean: CleanRun, run: CorruptedRun, config: TraceConfig
) -> dict[Site, Float[Tensor, " pos"]]:
    """Of every single state, summed over samples: difference times gradient, by position."""
    in_clean, in_corrupted = list(run.aligned), list(run.aligned.values())
    shares: dict[Site, Tensor] = {}
    probs, gradients = _gradients(lm, clean, run, config)
    for site, gradient in gradients.items():
        corrupted = run.state(site)
        difference = clean.states[site][in_clean] - corrupted[:, in_corrupted]
        by_sample = (widened(difference) * widened(gradient[:, in_corrupted])).sum(2).cpu()
        # Some families give logits in float32 whatever their weights are.
        summed = probs.to(by_sample.dtype) @ by_sample
        shares[site] = summed.new_zeros(run.batch.width).index_put(
            (torch.tensor(in_corrupted),), summed
        )
    return shares


def _gradients(
    lm: LanguageModel, clean: CleanRun, run: CorruptedRun, config: TraceConfig
) -> tuple[Float[Tensor, " sample"], dict[Site, Float[Tensor, "sample pos d_model"]]]:
    """P and ∂ log P/∂h of every state, each sample at its own place from clean to corrupted.

    ∂P/∂h is their product; log P keeps its gradient where P is too small for the model's dtype.
    """
    embedded = run.embedded
    if not isinstance(config.corruption, Substitution):
        start = clean.states[Site(0, Stream.EMBED)]
        places = torch.tensor(run.samples, dtype=torch.float32, device="cpu")
        share = 0.5 + 0.5 * (places + 0.5) / config.samples
        embedded = start + share.to(embedded)[:, None, None] * (embedded - start)
    streams = {_STREAMS[kind] for kind in config.kinds}
    every = [Site(layer, stream) for layer in range(lm.n_layers) for stream in sorted(streams)]
    sites = [site for site in every if lm.layers.has(site)]
    offsets: dict[Site, Tensor] = {}

    def offset(site: Site) -> Callable[[Tensor], Tensor]:
        # The gradient for an offset of zero is the state's, whatever the layer does with it next.
        def function(state: Tensor) -> Tensor:
            offsets[site] = torch.zeros_like(state, requires_grad=True)
            return state + offsets[site]

        return function

    interventions = {site: offset(site) for site in sites}
    interventions[Site(0, Stream.EMBED)] = lambda _: embedded
    with torch.enable_grad():
        with intervene(lm, interventions):
            last = lm.run(lm.frame(run.batch))[:, -len(clean.continuation.target_ids) :]
        logprobs = clean.logprobs(lm, last)
        gradients = torch.autograd.grad(logprobs.sum(), [offsets[site] for site in sites])
    return logprobs.detach().exp(), dict(zip(sites, gradients, strict=True))
