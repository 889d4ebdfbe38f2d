"""Ways to corrupt a prompt so that a model loses the fact (ROME paper, section 2.1, B.1, B.4).

| class | what happens to the subject |
|---|---|
| `GaussianNoise` | ε = ν·N(0, 1) on every embedding entry: the paper's choice, ν = 3σ |
| `UniformNoise` | ε uniform in ±ν |
| `MultivariateNoise` | ε drawn from a Gaussian with the covariance of the token embeddings |
| `StudentNoise` | the same with heavy tails: Student-t with `dof` degrees of freedom |
| `Substitution` | another subject in its place |

Noise is added to the embeddings of the subject's tokens, or takes their place (`replace`), and may
reach tokens behind the subject (`extra_tokens`). It is always drawn in float32 on the CPU, so the
same seed gives the same noise on every device and in every dtype.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.facts import Fact, TokenSpan
from factlab.models.language_model import LanguageModel
from factlab.tracing.corruption_kinds import (
    AnyNoise,
    EntrywiseNoise,
    StudentNoise,
    Substitution,
    UniformNoise,
)

Noise = Float[Tensor, "sample corrupted_token width"]


# -- levels -----------------------------------------------------------------------------------


def with_level(
    corruption: AnyNoise | Substitution,
    lm: LanguageModel,
    subject_ids: Sequence[int] | None,
    facts: Sequence[Fact],
) -> AnyNoise | Substitution:
    """The same corruption with its level worked out, so that it no longer depends on any fact.

    Args:
        corruption: what was asked for.
        lm: whose embeddings are meant.
        subject_ids: the subject's tokens of the fact about to be traced; None if many are, and
            then a level that each fact has of its own is left open.
        facts: all facts at hand; σ is over their subjects if `over` says so.
    """
    if not isinstance(corruption, EntrywiseNoise) or corruption.level is not None:
        return corruption
    if corruption.over == "vocabulary":
        sigma = float(_vocabulary(lm).std())
    elif corruption.over == "facts" and facts:
        sigma = embedding_sigma(lm, facts)
    elif subject_ids is not None:
        sigma = _sigma(lm, subject_ids)
    else:
        return corruption
    # Six digits, so that machines whose last bits differ agree on it.
    return corruption.model_copy(update={"level": float(f"{corruption.sigmas * sigma:.6g}")})


def embedding_sigma(lm: LanguageModel, facts: Sequence[Fact]) -> float:
    """σ: standard deviation of all entries of the embeddings of the facts' subject tokens."""
    ids: list[int] = []
    for fact in facts:
        ids += lm.fact_continuation(fact).subject_ids
    return _sigma(lm, ids)


@torch.no_grad()
def _sigma(lm: LanguageModel, ids: Sequence[int]) -> float:
    """Standard deviation of all entries of some tokens' embeddings."""
    return float(lm.embedding(torch.tensor(ids, device=lm.device)).float().std())


# -- drawing ----------------------------------------------------------------------------------


def draw_noise(
    corruption: AnyNoise, lm: LanguageModel, samples: int, n_tokens: int, seed: int, before: int = 0
) -> tuple[Noise, float]:
    """The noise of every sample and corrupted token, and its size.

    Args:
        corruption: with its level worked out (`with_level`).
        lm: the model.
        samples: how many.
        n_tokens: number of corrupted tokens.
        seed: the same seed gives the same noise, whatever else is traced.
        before: leave out so many draws of this size first: what one generator gives next.

    Returns:
        The noise, float32 on the CPU; and ν, or for noise with a covariance the root mean square
        standard deviation of its entries.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for _ in range(before):
        _draw(corruption, lm, samples, n_tokens, generator)
    return _draw(corruption, lm, samples, n_tokens, generator)


def _draw(
    corruption: AnyNoise,
    lm: LanguageModel,
    samples: int,
    n_tokens: int,
    generator: torch.Generator,
) -> tuple[Noise, float]:
    shape = (samples, n_tokens, lm.embedding.weight.shape[1])
    if isinstance(corruption, EntrywiseNoise):
        if corruption.level is None:
            raise RuntimeError("with_level() comes first")
        if isinstance(corruption, UniformNoise):
            unit = 2 * torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") - 1
        else:
            unit = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        return corruption.level * unit, corruption.level
    mean, root = _fit_embeddings(lm)
    noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu") @ root
    if isinstance(corruption, StudentNoise):
        normals = torch.randn(
            samples,
            n_tokens,
            corruption.dof,
            generator=generator,
            dtype=torch.float32,
            device="cpu",
        )
        chi_squared = normals.square().sum(-1, keepdim=True)
        noise = noise * ((corruption.dof - 2) / chi_squared).sqrt()
    noise = corruption.scale * noise
    level = corruption.scale * float(root.square().sum(0).mean().sqrt())
    return noise + mean if corruption.replace else noise, level


@torch.no_grad()
def _vocabulary(lm: LanguageModel) -> Float[Tensor, "vocab width"]:
    """The embedding of every token, with any scaling that the model applies."""
    n_tokens = lm.embedding.weight.shape[0]
    return lm.embedding(torch.arange(n_tokens, device=lm.device)).cpu().float()


def _fit_embeddings(lm: LanguageModel) -> tuple[Tensor, Tensor]:
    """Mean of the token embeddings and the symmetric root of their covariance."""
    return lm.recall.of("embeddings", lm.identity.now(live=True), partial(_fit, lm))


def _fit(lm: LanguageModel) -> tuple[Tensor, Tensor]:
    rows = _vocabulary(lm)
    values, vectors = torch.linalg.eigh(rows.T.cov().cpu().double())
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return rows.mean(0), root.float()


def put_noise(
    embedded: Float[Tensor, "sample pos width"], noise: Noise, span: TokenSpan, replace: bool
) -> Float[Tensor, "sample pos width"]:
    """Embeddings with row i's noise added to, or in place of, the corrupted tokens of row i."""
    corrupted = embedded.clone()
    if replace:
        corrupted[:, span.start : span.stop] = 0
    corrupted[:, span.start : span.stop] += noise.to(embedded)
    return corrupted
