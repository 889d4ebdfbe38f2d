"""What a causal trace returns, and its file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)
from torch import Tensor

from factlab.errors import InvalidRequestError, StorageError
from factlab.facts import TokenSpan
from factlab.storage import read_tensors, write_tensors
from factlab.tracing.corruption import Corruption, GaussianNoise

Kind = Literal["block", "mlp", "attn", "mlp_severed", "attn_severed"]
KINDS: tuple[Kind, ...] = ("block", "mlp", "attn", "mlp_severed", "attn_severed")
ORDINARY_KINDS: tuple[Kind, ...] = ("block", "mlp", "attn")
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
_FORMAT = "factlab causal trace 2"


class TraceConfig(BaseModel):
    """How to trace.

    Attributes:
        samples: noise samples to average over.
        window: how many layers of `mlp` or `attn` outputs are restored together; by default 10, or
            half of the model if that is less. Windows are clipped to the model.
        window_convention: which layers a window of 10 around layer l covers: [l−5, l+4] as in the
            paper's code, or [l−4, l+5] as in its text. Odd windows are the same in both.
        corruption: what is done to the subject; see `factlab.tracing.corruption`.
        kinds: which states to restore. `block` is a single hidden state; `mlp` and `attn` are
            windows of outputs; `mlp_severed` and `attn_severed` are a single hidden state while the
            MLP (attention) outputs of its token keep their corrupted values in all later layers.
        positions: tokens to restore: all, the subject's last, or these.
        layers: layers to restore (centres of windows); all by default.
        answer: follow the answer's first token, the product of its tokens' probabilities, or their
            geometric mean.
        method: `exact` runs every restoration; `gradient` estimates all of them from one backward
            pass (`factlab.tracing.gradient`).
        seed: of the noise.
        max_batch_tokens: how many tokens of restored runs go through a layer at once; sixteen times
            as many are held. Bounds memory and changes no result; by default chosen for speed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: PositiveInt = 10
    window: PositiveInt | None = None
    window_convention: Literal["code", "paper"] = "code"
    corruption: Corruption = GaussianNoise()
    kinds: tuple[Kind, ...] = Field(default=ORDINARY_KINDS, min_length=1)
    positions: Literal["all", "last_subject"] | tuple[NonNegativeInt, ...] = "all"
    layers: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    answer: AnswerRule = "first_token"
    method: Literal["exact", "gradient"] = "exact"
    seed: int = Field(default=0, ge=0, lt=2**32)
    max_batch_tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "TraceConfig":
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds must not repeat")
        severed = [kind for kind in self.kinds if kind.endswith("severed")]
        if severed and self.method == "gradient":
            raise ValueError(f"method 'gradient' cannot sever paths, so not with {severed[0]}")
        return self

    def window_of(self, n_layers: int) -> int:
        """The window that is used in a model of so many layers."""
        return self.window or min(_DEFAULT_WINDOW, max(1, n_layers // 2))

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


@dataclass(frozen=True, slots=True)
class CausalTrace:
    """Where a model's answer comes from: indirect effects by position and layer.

    The indirect effect of a state is P(answer) in the corrupted run with that state restored, minus
    P(answer) in the corrupted run, averaged over noise samples (ROME paper, section 2.1).

    Attributes:
        prompt: the text.
        tokens: its tokens, as text.
        subject_span: the subject's tokens.
        answer: the token whose probability is followed.
        clean_prob: its probability in the clean run.
        corrupted_prob: its mean probability over the corrupted runs.
        effects: for each kind a tensor (position, layer), float32. A window of layers is entered at
            its centre. NaN where nothing was traced.
        noise_level: ν, the size of the noise; None for a substitution.
        config: as given, with the window that was used.
        model_name: the model traced.
        fingerprint: of its weights.
    """

    prompt: str
    tokens: tuple[str, ...]
    subject_span: TokenSpan
    answer: str
    clean_prob: float
    corrupted_prob: float
    effects: dict[str, Float[Tensor, "pos layer"]]
    noise_level: float | None
    config: TraceConfig
    model_name: str
    fingerprint: str

    @property
    def total_effect(self) -> float:
        """How much of the answer's probability the corruption takes away."""
        return self.clean_prob - self.corrupted_prob

    @property
    def corrupted_span(self) -> TokenSpan:
        """The tokens that the corruption touches."""
        return self.config.corruption.corrupted_span(self.subject_span, len(self.tokens))

    @property
    def token_labels(self) -> list[str]:
        """Tokens for axes: line breaks and tabs visible, no outer spaces, corrupted starred."""
        labels = (t.replace("\n", "↵").replace("\t", "→").strip() or "␣" for t in self.tokens)
        start, stop = self.corrupted_span
        return [label + "*" * (start <= i < stop) for i, label in enumerate(labels)]

    def fraction_recovered(self, kind: str) -> Float[Tensor, "pos layer"]:
        """Effects as a share of the total effect, at least 0 (Hase et al. 2023, section 3).

        Raises:
            InvalidRequestError: the corruption did not lower the answer's probability.
        """
        if self.total_effect <= 0:
            raise InvalidRequestError(
                f"The corruption raised P({self.answer!r}) from {self.clean_prob:.3g} to "
                f"{self.corrupted_prob:.3g}: there is no drop to recover. Corrupt more strongly."
            )
        return (self.effects[kind] / self.total_effect).clamp(min=0)

    def peak(self, kind: str) -> tuple[int, int, float]:
        """Position, layer and effect of the strongest state of a kind."""
        effects = self.effects[kind].nan_to_num(nan=-torch.inf)
        place = int(effects.argmax())
        position, layer = divmod(place, effects.shape[1])
        return position, layer, float(effects[position, layer])

    def summary(self) -> dict[str, Any]:
        """All but the effects, ready for JSON."""
        return {
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "subject_span": list(self.subject_span),
            "answer": self.answer,
            "clean_prob": self.clean_prob,
            "corrupted_prob": self.corrupted_prob,
            "noise_level": self.noise_level,
            "config": self.config.model_dump(mode="json"),
            "model_name": self.model_name,
            "fingerprint": self.fingerprint,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, with effects as nested lists; null where nothing was traced."""
        effects = {
            kind: [[None if isnan(x) else x for x in row] for row in rows.tolist()]
            for kind, rows in self.effects.items()
        }
        return self.summary() | {"effects": effects}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        metadata = {"format": _FORMAT, "summary": json.dumps(self.summary())}
        write_tensors(Path(path), self.effects, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "CausalTrace":
        """Read what `save` wrote.

        Raises:
            StorageError: the file is missing, damaged, or something else.
        """
        effects, metadata = read_tensors(Path(path))
        if metadata.get("format") != _FORMAT:
            raise StorageError(f"'{path}' is not a causal trace of this version of factlab.")
        try:
            summary = json.loads(metadata["summary"])
            fixed = {
                "tokens": tuple(summary.pop("tokens")),
                "subject_span": TokenSpan(*summary.pop("subject_span")),
                "config": TraceConfig.model_validate(summary.pop("config")),
            }
            ordered = {kind: effects[kind] for kind in KINDS if kind in effects}
            return cls(**summary, **fixed, effects=ordered)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise StorageError(f"'{path}' is damaged: {error}.") from error

    def plot(self, path: str | Path) -> None:
        """Draw the heat maps to a PNG, PDF or SVG file; see `factlab.tracing.plot`."""
        from factlab.tracing.plot import plot_trace  # noqa: PLC0415 - matplotlib only when drawing

        plot_trace(self, Path(path))
