"""Options that `factlab trace` and `factlab trace-average` share."""

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.registration import CORRUPTION, RESTORED
from factlab.cli.session import validated
from factlab.errors import InvalidRequestError

if TYPE_CHECKING:
    from factlab.tracing.configs import TraceConfig


class OrdinaryKind(StrEnum):
    """States that can be restored."""

    BLOCK = "block"
    MLP = "mlp"
    ATTN = "attn"


class SeveredPath(StrEnum):
    """Paths that can be cut."""

    MLP = "mlp"
    ATTN = "attn"


class Method(StrEnum):
    """Ways to trace."""

    EXACT = "exact"
    GRADIENT = "gradient"


class AnswerRule(StrEnum):
    """What is followed of an answer."""

    FIRST_TOKEN = "first_token"  # noqa: S105 - not a password
    PRODUCT = "product"
    PER_TOKEN = "per_token"  # noqa: S105 - not a password


class WindowConvention(StrEnum):
    """Which layers a window of 10 around layer l covers."""

    CODE = "code"
    PAPER = "paper"


SamplesOption = Annotated[
    int | None,
    typer.Option(
        help="Noise samples to average over.", show_default="10", rich_help_panel=CORRUPTION
    ),
]
NoiseOption = Annotated[
    str | None,
    typer.Option(
        help="3s (standard deviations), 0.35 (level), uniform:3s, multivariate, student:5 or "
        "subject:Another Name; with ',replace', ',extra=1', ',over=vocabulary' behind it.",
        show_default="3s",
        rich_help_panel=CORRUPTION,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(help="Seed of the noise.", show_default="0", rich_help_panel=CORRUPTION),
]
KindOption = Annotated[
    list[OrdinaryKind] | None,
    typer.Option(
        help="State to restore; may be given several times.",
        show_default="all three",
        rich_help_panel=RESTORED,
    ),
]
SeveredOption = Annotated[
    list[SeveredPath] | None,
    typer.Option(
        help="Restore hidden states with this path cut; may be given twice.",
        rich_help_panel=RESTORED,
    ),
]
WindowOption = Annotated[
    int | None,
    typer.Option(
        help="Layers of MLP or attention outputs to restore together.",
        show_default="10, or half of the model if that is less",
        rich_help_panel=RESTORED,
    ),
]
ConventionOption = Annotated[
    WindowConvention | None,
    typer.Option(
        help="A window of 10 is [l-5, l+4] in the paper's code, [l-4, l+5] in its text.",
        show_default="code",
        rich_help_panel=RESTORED,
    ),
]
TokensOption = Annotated[
    str | None,
    typer.Option(
        help="all, last-subject, or positions such as 0,3-5.",
        show_default="all",
        rich_help_panel=RESTORED,
    ),
]
LayersOption = Annotated[
    str | None,
    typer.Option(help="Layers such as 0-9,12.", show_default="all", rich_help_panel=RESTORED),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        help="Run every restoration, or estimate all from one gradient.",
        show_default="exact",
        rich_help_panel=RESTORED,
    ),
]
AnswerRuleOption = Annotated[
    AnswerRule | None,
    typer.Option(
        help="Follow the first token, or the whole answer (product or per token).",
        show_default="first_token",
    ),
]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        help="Tokens to run at once: less memory, same result.", show_default="chosen for speed"
    ),
]


def trace_config(
    *,
    samples: int | None,
    window: int | None,
    window_convention: WindowConvention | None,
    noise: str | None,
    kind: list[OrdinaryKind] | None,
    severed: list[SeveredPath] | None,
    method: Method | None,
    answer_rule: AnswerRule | None,
    tokens: str | None,
    layers: str | None,
    seed: int | None,
    max_batch_tokens: int | None,
) -> "TraceConfig":
    """The config that these options ask for.

    Raises:
        InvalidRequestError: an option makes no sense, alone or with another.
    """
    from factlab.tracing.configs import TraceConfig
    from factlab.tracing.corruption_kinds import parse_corruption

    if severed and kind and kind != [OrdinaryKind.BLOCK]:
        raise InvalidRequestError(
            f"--severed restores hidden states, so it goes with --kind block or with no --kind, "
            f"not with --kind {next(k for k in kind if k is not OrdinaryKind.BLOCK)}."
        )
    kinds = [k.value for k in kind] if kind else None
    if severed:
        kinds = ["block", *(f"{path.value}_severed" for path in severed)]
    positions: str | tuple[int, ...] | None = None
    if tokens is not None:
        named = {"all": "all", "last-subject": "last_subject"}
        positions = named.get(tokens) or _numbers(tokens, "--tokens")
    return validated(
        TraceConfig,
        samples=samples,
        window=window,
        window_convention=window_convention and window_convention.value,
        corruption=parse_corruption(noise) if noise is not None else None,
        kinds=kinds,
        method=method and method.value,
        answer=answer_rule and answer_rule.value,
        positions=positions,
        layers=_numbers(layers, "--layers") if layers is not None else None,
        seed=seed,
        max_batch_tokens=max_batch_tokens,
    )


def _numbers(text: str, option: str) -> tuple[int, ...]:
    """`0-2,5` as (0, 1, 2, 5)."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?", part.strip()):
            raise InvalidRequestError(
                f"{option} '{text}' is not understood. Write numbers such as 0-9,12."
            )
        numbers += range(int(first), int(last or first) + 1)
    if not numbers:
        raise InvalidRequestError(f"{option} '{text}' names nothing: a range goes upwards.")
    return tuple(numbers)
