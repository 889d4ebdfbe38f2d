"""The ways to corrupt a prompt, as settings, and how they are written on the command line.

What each does is told in `corruption`. Nothing here needs PyTorch.
"""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from factlab.config import Config
from factlab.errors import InvalidRequestError
from factlab.facts import TokenSpan


class _Noise(Config):
    """What all kinds of noise have in common.

    Attributes:
        replace: put the noise in place of the embedding instead of adding it.
        extra_tokens: corrupt this many tokens behind the subject too, as far as the prompt goes.
    """

    replace: bool = False
    extra_tokens: NonNegativeInt = 0

    def corrupted_span(self, subject_span: TokenSpan, n_tokens: int) -> TokenSpan:
        """The tokens whose embeddings change."""
        return TokenSpan(subject_span.start, min(subject_span.stop + self.extra_tokens, n_tokens))


class EntrywiseNoise(_Noise):
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


class GaussianNoise(EntrywiseNoise):
    """ε = ν·N(0, 1): ν is the standard deviation."""

    type: Literal["gaussian"] = "gaussian"


class UniformNoise(EntrywiseNoise):
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


class Substitution(Config):
    """Other subjects in place of the subject; one corrupted run for each.

    States are copied from the clean sentence into the other one, token by token: the subjects'
    tokens are paired from their last one leftwards, and what stands before and after the subject
    is paired with itself. Tokens without a partner are not restored.

    Attributes:
        subjects: what to write instead. `samples` and `seed` play no part.
    """

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
    """Read a corruption as it is written in a setting or on the command line.

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
