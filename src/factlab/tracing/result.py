"""What a causal trace returns, and its file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError
from torch import Tensor

from factlab.errors import StorageError
from factlab.facts import TokenSpan
from factlab.storage import read_tensors, write_tensors
from factlab.tracing.corruption import GaussianNoise

Kind = Literal["block", "mlp", "attn"]
KINDS: tuple[Kind, ...] = ("block", "mlp", "attn")
KIND_NAMES: dict[str, str] = {"block": "hidden state", "mlp": "MLP", "attn": "attention"}

_FORMAT = "factlab causal trace 1"


class TraceConfig(BaseModel):
    """How to trace.

    Attributes:
        samples: noise samples to average over.
        window: how many layers of `mlp` or `attn` outputs are restored together; layer l stands
            for layers l − window//2 up to l + (window−1)//2, clipped to the model. The default,
            10, restores [l−5, l+4] as the paper's code does.
        noise: what is added to the subject's embeddings.
        kinds: which states to restore; single hidden states for `block`.
        seed: of the noise.
        max_batch_tokens: how many tokens of restored runs to run at once (at least one run of all
            samples); bounds memory and changes no result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: PositiveInt = 10
    window: PositiveInt = 10
    noise: GaussianNoise = GaussianNoise()
    kinds: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    max_batch_tokens: PositiveInt = 8192


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
            its centre.
        noise_level: ν, the standard deviation of the noise.
        config: as given.
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
    noise_level: float
    config: TraceConfig
    model_name: str
    fingerprint: str

    @property
    def total_effect(self) -> float:
        """How much of the answer's probability the corruption takes away."""
        return self.clean_prob - self.corrupted_prob

    @property
    def token_labels(self) -> list[str]:
        """Tokens for axes: line breaks and tabs visible, outer spaces dropped, subject starred."""
        labels = (t.replace("\n", "↵").replace("\t", "→").strip() or "␣" for t in self.tokens)
        start, stop = self.subject_span
        return [label + "*" * (start <= i < stop) for i, label in enumerate(labels)]

    def peak(self, kind: str) -> tuple[int, int, float]:
        """Position, layer and effect of the strongest state of a kind."""
        effects = self.effects[kind]
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
        """Everything, with effects as nested lists."""
        return self.summary() | {"effects": {k: v.tolist() for k, v in self.effects.items()}}

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
