"""What a causal trace returns, and its file."""

import json
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import (
    ValidationError,
)
from torch import Tensor

from factlab.documents import check_format, parse_json
from factlab.errors import InvalidRequestError, StorageError
from factlab.facts import TokenSpan
from factlab.storage import read_tensors, write_tensors
from factlab.tracing.configs import KINDS, TraceConfig

_FORMAT = "factlab causal trace 2"


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
        check_format(metadata.get("format"), _FORMAT, f"'{path}'", "a causal trace")
        try:
            summary: Any = parse_json(metadata["summary"], f"The summary in '{path}'", finite=False)
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
