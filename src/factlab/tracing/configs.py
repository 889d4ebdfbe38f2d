"""How to trace: the kinds of states and the settings; nothing here needs PyTorch."""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from factlab.config import Config
from factlab.errors import InvalidRequestError, nearest
from factlab.facts import TokenSpan
from factlab.tracing.corruption_kinds import (
    Corruption,
    GaussianNoise,
    Substitution,
    parse_corruption,
)
from factlab.words import NumberList, numbers_listed

Kind = Literal["block", "mlp", "attn", "mlp_severed", "attn_severed"]

KINDS: tuple[Kind, ...] = ("block", "mlp", "attn", "mlp_severed", "attn_severed")

ORDINARY_KINDS: tuple[Kind, ...] = ("block", "mlp", "attn")

SEVERED: dict[str, Kind] = {"mlp": "mlp_severed", "attn": "attn_severed"}

KIND_NAMES: dict[str, str] = {
    "block": "hidden state",
    "mlp": "MLP",
    "attn": "attention",
    "mlp_severed": "hidden state, MLP severed",
    "attn_severed": "hidden state, attention severed",
}

WINDOWED: tuple[Kind, ...] = ("mlp", "attn")

AnswerRule = Literal["first_token", "product", "per_token"]

_DEFAULT_WINDOW = 10


class TraceConfig(Config):
    """How to trace.

    Attributes:
        samples: noise samples to average over.
        window: how many layers of `mlp` or `attn` outputs are restored together; by default 10, or
            half of the model if that is less. Windows are clipped to the model.
        window_convention: which layers a window of 10 around layer l covers: [l−5, l+4] as in the
            paper's code, or [l−4, l+5] as in its text. Odd windows are the same in both.
        corruption: what is done to the subject; see `factlab.tracing.corruption`. A text is read
            by `parse_corruption`: `3s`, `uniform:3s`, `subject:Another Name`.
        kinds: which states to restore. `block` is a single hidden state; `mlp` and `attn` are
            windows of outputs; `mlp_severed` and `attn_severed` are a single hidden state while the
            MLP (attention) outputs of its token keep their corrupted values in all later layers.
        positions: tokens to restore: all, the subject's last, or these, as numbers or as a text
            such as `0,3-5`.
        layers: layers to restore (centres of windows), likewise; all by default.
        answer: follow the answer's first token, the product of its tokens' probabilities, or their
            geometric mean.
        method: `exact` runs every restoration; `gradient` estimates all of them from one backward
            pass (`factlab.tracing.gradient`).
        seed: of the noise.
        severed_noise: the noise of the run in which a state is restored and a path severed: the
            `same` as that of the corrupted run whose outputs are held, or drawn `anew`, as in the
            paper's code. There a generator goes on from the first of the two runs to the second,
            and the outputs of all layers are held, those below the restored state too.
    """

    added: ClassVar[frozenset[str]] = frozenset({"severed_noise"})
    samples: PositiveInt = 10
    window: PositiveInt | None = None
    window_convention: Literal["code", "paper"] = "code"
    corruption: Corruption = GaussianNoise()
    kinds: tuple[Kind, ...] = Field(default=ORDINARY_KINDS, min_length=1)
    positions: Literal["all", "last_subject"] | tuple[NonNegativeInt, ...] = "all"
    layers: NumberList | None = Field(default=None, min_length=1)
    answer: AnswerRule = "first_token"
    method: Literal["exact", "gradient"] = "exact"
    seed: int = Field(default=0, ge=0, lt=2**32)
    severed_noise: Literal["same", "anew"] = "same"

    @field_validator("corruption", mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        return parse_corruption(value) if isinstance(value, str) else value

    @field_validator("positions", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        name = value.replace("-", "_")
        return name if name in {"all", "last_subject"} else numbers_listed(value)

    @model_validator(mode="after")
    def _consistent(self) -> "TraceConfig":
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds must not repeat")
        severed = [kind for kind in self.kinds if kind.endswith("severed")]
        if severed and self.method == "gradient":
            raise ValueError(f"method 'gradient' cannot sever paths, so not with {severed[0]}")
        if self.severed_noise == "anew" and not severed:
            raise ValueError("severed_noise is about severed paths, and no kind severs one")
        if self.severed_noise == "anew" and isinstance(self.corruption, Substitution):
            raise ValueError("severed_noise 'anew' needs noise, and a substitution draws none")
        return self

    @property
    def redraws(self) -> bool:
        """Whether the noise of severed paths is drawn anew."""
        return self.severed_noise == "anew"

    @property
    def is_estimate(self) -> bool:
        """Whether effects are estimated by a gradient: ranks to go by, not probabilities."""
        return self.method == "gradient"

    @property
    def effect_name(self) -> str:
        """What the numbers are, for axes and tables."""
        return "estimated effect (gradient)" if self.is_estimate else "indirect effect"

    def window_of(self, n_layers: int) -> int:
        """The window that is used in a model of so many layers."""
        return self.window or min(_DEFAULT_WINDOW, max(1, n_layers // 2))

    def is_window(self, kind: str) -> bool:
        """Whether several layers of a kind of state were restored together."""
        return kind in WINDOWED and self.window not in {None, 1}

    def layers_of(self, n_layers: int) -> Sequence[int]:
        """The layers that are traced in a model of so many."""
        return range(n_layers) if self.layers is None else sorted(set(self.layers))

    def check(self, n_layers: int) -> None:
        """Refuse what a model of so many layers cannot do.

        Raises:
            InvalidRequestError: the window is wider than the model, or a layer is not in it.
        """
        if self.window is not None and self.window > n_layers:
            raise InvalidRequestError(
                f"A window of {self.window} layers is wider than the model, which has {n_layers}. "
                f"Choose at most {n_layers}."
            )
        outside = [layer for layer in self.layers or () if layer >= n_layers]
        if outside:
            raise InvalidRequestError(
                f"Layer {outside[0]} is out of range: the model has layers 0 to {n_layers - 1}."
            )

    def positions_of(self, span: TokenSpan, n_tokens: int) -> list[int]:
        """The positions that are traced in a prompt of so many tokens.

        Raises:
            InvalidRequestError: one lies behind its end.
        """
        if self.positions == "all":
            return list(range(n_tokens))
        if self.positions == "last_subject":
            return [span.last]
        outside = [position for position in self.positions if position >= n_tokens]
        if outside:
            raise InvalidRequestError(
                f"Token {outside[0]} is out of range: the prompt has tokens 0 to {n_tokens - 1}."
            )
        return sorted(set(self.positions))


def kinds_with_severed(kinds: Collection[str], severed: Collection[str]) -> tuple[str, ...] | None:
    """What to restore, if paths are to be severed: hidden states, whole and with each path cut.

    Args:
        kinds: of states that were asked for, if any.
        severed: paths to cut: `mlp`, `attn` or both.

    Returns:
        Kinds for a `TraceConfig`; None where nothing was asked for.

    Raises:
        InvalidRequestError: there is no such path, or other states than hidden ones were asked for
            too.
    """
    if not severed:
        return tuple(kinds) or None
    unknown = [path for path in severed if path not in SEVERED]
    if unknown:
        raise InvalidRequestError(
            f"There is no path '{unknown[0]}' to sever. Choose from {', '.join(SEVERED)}."
            f"{nearest(unknown[0], SEVERED)}"
        )
    others = [kind for kind in kinds if kind != "block"]
    if others:
        raise InvalidRequestError(
            "Severing restores hidden states, so --severed goes with --kind block or with no "
            f"--kind, not with --kind {others[0]}."
        )
    return ("block", *(SEVERED[path] for path in severed))
