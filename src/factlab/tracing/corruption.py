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
from typing import Annotated, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from torch import Tensor, nn

from factlab.errors import InvalidRequestError
from factlab.facts import Fact, TokenSpan
from factlab.models.decoder import Decoder

Noise = Float[Tensor, "sample corrupted_token width"]


class _Noise(BaseModel):
    """What all kinds of noise have in common.

    Attributes:
        replace: put the noise in place of the embedding instead of adding it.
        extra_tokens: corrupt this many tokens behind the subject too, as far as the prompt goes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    replace: bool = False
    extra_tokens: NonNegativeInt = 0

    def corrupted_span(self, subject_span: TokenSpan, n_tokens: int) -> TokenSpan:
        """The tokens whose embeddings change."""
        return TokenSpan(subject_span.start, min(subject_span.stop + self.extra_tokens, n_tokens))


class _EntrywiseNoise(_Noise):
    """Noise whose entries are independent, of one level ν.

    Attributes:
        sigmas: ν as a multiple of σ, the standard deviation of embedding entries.
        level: ν itself; when given, `sigmas` and `over` are not used.
        over: whose embeddings σ is taken over: the subject of the traced fact, the subjects of all
            facts at hand (the paper's choice; the same thing when one fact is traced), or all
            tokens of the vocabulary.
    """

    sigmas: PositiveFloat = 3.0
    level: PositiveFloat | None = None
    over: Literal["subject", "facts", "vocabulary"] = "facts"


class GaussianNoise(_EntrywiseNoise):
    """ε = ν·N(0, 1): ν is the standard deviation."""

    type: Literal["gaussian"] = "gaussian"


class UniformNoise(_EntrywiseNoise):
    """ε uniform between −ν and ν."""

    type: Literal["uniform"] = "uniform"


class MultivariateNoise(_Noise):
    """ε ~ N(0, scale²·Σ), Σ being the covariance of all rows of the token embedding.

    With `replace` the mean embedding is added: what takes the subject's place is then distributed
    like a token.
    """

    type: Literal["multivariate"] = "multivariate"
    scale: PositiveFloat = 1.0


class StudentNoise(_Noise):
    """As `MultivariateNoise`, but Student-t: divided by √(u/(dof−2)), u ~ χ²(dof).

    One u is drawn for each token. The covariance is the Gaussian's.
    """

    type: Literal["student"] = "student"
    scale: PositiveFloat = 1.0
    dof: int = Field(default=5, ge=3)


class Substitution(BaseModel):
    """Other subjects in place of the subject; one corrupted run for each.

    States are copied from the clean sentence into the other one, token by token: the subjects'
    tokens are paired from their last one leftwards, and what stands before and after the subject
    is paired with itself. Tokens without a partner are not restored.

    Attributes:
        subjects: what to write instead. `samples` and `seed` play no part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["substitution"] = "substitution"
    subjects: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _not_empty(self) -> "Substitution":
        if not all(subject.strip() for subject in self.subjects):
            raise ValueError("a substitute subject is empty")
        return self

    def corrupted_span(self, subject_span: TokenSpan, n_tokens: int) -> TokenSpan:
        """The subject's tokens."""
        del n_tokens
        return subject_span


AnyNoise = GaussianNoise | UniformNoise | MultivariateNoise | StudentNoise
Corruption = Annotated[AnyNoise | Substitution, Field(discriminator="type")]
_PARSER: TypeAdapter[AnyNoise | Substitution] = TypeAdapter(Corruption)


def parse_corruption(text: str) -> AnyNoise | Substitution:
    """Read a corruption as it is written on the command line.

    | text | meaning |
    |---|---|
    | `3s`, `gaussian:3s` | Gaussian, three standard deviations |
    | `0.35`, `gaussian:0.35` | Gaussian of level 0.35 |
    | `uniform:3s`, `uniform:0.3` | uniform between minus and plus so much |
    | `multivariate`, `multivariate:2` | with the covariance of the embeddings, times 2² |
    | `student:5` | the same, Student-t with 5 degrees of freedom |
    | `subject:Megan Rapinoe` | this subject instead; several with a bar between them |

    Noise takes options behind commas: `replace`, `extra=1` (tokens behind the subject), and
    `over=subject`, `over=facts`, `over=vocabulary` (what σ is taken over).

    Raises:
        InvalidRequestError: it is none of these, or a number is not allowed.
    """
    kind, has_kind, rest = text.partition(":")
    if has_kind and kind == "subject":
        values: dict[str, object] = {"subjects": tuple(s.strip() for s in rest.split("|"))}
        return _validated("substitution", values, text)
    amount, *options = [part.strip() for part in (rest if has_kind else text).split(",")]
    if not has_kind:
        kind = amount if amount in ("multivariate", "student") else "gaussian"
        amount = "" if kind == amount else amount
    values = {}
    if amount:
        name = {"multivariate": "scale", "student": "dof"}.get(kind, "level")
        if name == "level" and amount.endswith("s"):
            name, amount = "sigmas", amount[:-1]
        values[name] = amount
    for option in options:
        name, _, value = option.partition("=")
        name = {"extra": "extra_tokens"}.get(name, name)
        values[name] = True if option == "replace" else value
    return _validated(kind, values, text)


def _validated(kind: str, values: dict[str, object], text: str) -> AnyNoise | Substitution:
    try:
        return _PARSER.validate_python({"type": kind} | values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        raise InvalidRequestError(
            f"Noise '{text}' is not understood{f' ({place})' if place else ''}: "
            f"{first['msg'][0].lower()}{first['msg'][1:]}. Write 3s for three standard deviations, "
            "0.35 for a level, or uniform:3s, multivariate, student:5 or subject:Another Name."
        ) from error


# -- levels -----------------------------------------------------------------------------------


def with_level(
    corruption: AnyNoise | Substitution, lm: Decoder, fact: Fact | None, facts: Sequence[Fact]
) -> AnyNoise | Substitution:
    """The same corruption with its level worked out, so that it no longer depends on any fact.

    Args:
        corruption: what was asked for.
        lm: whose embeddings are meant.
        fact: the fact about to be traced; None if many are, in which case a level that each fact
            has of its own is left open.
        facts: all facts at hand; σ is over their subjects if `over` says so.
    """
    if not isinstance(corruption, _EntrywiseNoise) or corruption.level is not None:
        return corruption
    if corruption.over == "vocabulary":
        sigma = float(_vocabulary(lm).std())
    elif corruption.over == "facts" and facts:
        sigma = embedding_sigma(lm, facts)
    elif fact is not None:
        sigma = embedding_sigma(lm, [fact])
    else:
        return corruption
    # Six digits, so that machines whose last bits differ agree on it.
    return corruption.model_copy(update={"level": float(f"{corruption.sigmas * sigma:.6g}")})


@torch.no_grad()
def embedding_sigma(lm: Decoder, facts: Sequence[Fact]) -> float:
    """σ: standard deviation of all entries of the embeddings of the facts' subject tokens."""
    ids: list[int] = []
    for fact in facts:
        tokens, span = lm.encode_fact(fact)
        ids += tokens.ids[span.start : span.stop]
    return float(lm.embedding(torch.tensor(ids, device=lm.device)).float().std())


# -- drawing ----------------------------------------------------------------------------------


def draw_noise(
    corruption: AnyNoise, lm: Decoder, samples: int, n_tokens: int, seed: int
) -> tuple[Noise, float]:
    """The noise of every sample and corrupted token, and its size.

    Args:
        corruption: with its level worked out (`with_level`).
        lm: the model.
        samples: how many.
        n_tokens: number of corrupted tokens.
        seed: the same seed gives the same noise, whatever else is traced.

    Returns:
        The noise, float32 on the CPU; and ν, or for noise with a covariance the root mean square
        standard deviation of its entries.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (samples, n_tokens, lm.embedding.weight.shape[1])
    if isinstance(corruption, _EntrywiseNoise):
        if corruption.level is None:
            raise RuntimeError("with_level() comes first")
        if isinstance(corruption, UniformNoise):
            unit = 2 * torch.rand(shape, generator=generator) - 1
        else:
            unit = torch.randn(shape, generator=generator)
        return corruption.level * unit, corruption.level
    mean, root = _fit_embeddings(lm)
    noise = torch.randn(shape, generator=generator) @ root
    if isinstance(corruption, StudentNoise):
        normals = torch.randn(samples, n_tokens, corruption.dof, generator=generator)
        chi_squared = normals.square().sum(-1, keepdim=True)
        noise = noise * ((corruption.dof - 2) / chi_squared).sqrt()
    noise = corruption.scale * noise
    level = corruption.scale * float(root.square().sum(0).mean().sqrt())
    return noise + mean if corruption.replace else noise, level


@torch.no_grad()
def _vocabulary(lm: Decoder) -> Float[Tensor, "vocab width"]:
    """The embedding of every token, with any scaling that the model applies."""
    n_tokens = lm.embedding.weight.shape[0]
    return lm.embedding(torch.arange(n_tokens, device=lm.device)).cpu().float()


# By embedding: where its weights were, how often they had changed, and what was fitted.
_fitted: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], tuple[Tensor, Tensor]]] = (
    WeakKeyDictionary()
)


def _fit_embeddings(lm: Decoder) -> tuple[Tensor, Tensor]:
    """Mean of the token embeddings and the symmetric root of their covariance."""
    weight = lm.embedding.weight
    version, fit = _fitted.get(lm.embedding, (None, None))
    if fit is None or version != (weight.data_ptr(), weight._version):
        fit = _fit(_vocabulary(lm))
        _fitted[lm.embedding] = (weight.data_ptr(), weight._version), fit
    return fit


def _fit(rows: Float[Tensor, "vocab width"]) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(rows.T.cov().double())
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
