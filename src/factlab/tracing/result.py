"""What a causal trace returns, and its file."""

import json
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.documents import check_format, described, parse_json
from factlab.equality import EqualByContent
from factlab.errors import InvalidRequestError, StorageError
from factlab.facts import TokenSpan
from factlab.pages.frames import Drawing
from factlab.results import Drawn, Tabular, known
from factlab.storage import read_tensors, write_tensors
from factlab.tracing.configs import KINDS, TraceConfig
from factlab.tracing.describe import trace_in_words, trace_notes
from factlab.tracing.document import trace_document

if TYPE_CHECKING:
    from factlab.figures import Picture

_FORMAT = "factlab causal trace 2"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CausalTrace(Tabular, Drawn, EqualByContent):
    """Where a model's answer comes from: indirect effects by position and layer.

    The indirect effect of a state is P(answer) in the corrupted run with that state restored, minus
    P(answer) in the corrupted run, averaged over noise samples (ROME paper, section 2.1). With
    `config.method == "gradient"` it is an estimate, in the same unit but not of the same size.

    `print(trace)` says the main things in a few lines; a notebook draws the heat maps, in which the
    mouse tells of each state. Two traces are equal if all of this is.

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
        said: the model's most probable next token; None in traces saved before it was kept.
        expected: the answer that was asked for, or the fact's `target_true`; None without one.
        says_expected: whether the former is the first token of the latter.
        engine: how the model was run; see `factlab.models.engines.engine`. None in older traces.
        part_names: what its mixers ("attn") and MLPs ("mlp") are in words, such as "state space"
            and "experts". None in older traces.
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
    said: str | None = None
    expected: str | None = None
    says_expected: bool | None = None
    engine: str | None = None
    part_names: dict[str, str] | None = None

    def __repr__(self) -> str:
        return trace_in_words(self)

    def _drawing(self) -> Drawing:
        document = {"kind": "trace", "trace": trace_document(self)}
        return Drawing(document, len(self.tokens), len(self.notes))

    @property
    def subject(self) -> str:
        """The part of the prompt that was corrupted."""
        return "".join(self.tokens[self.subject_span.start : self.subject_span.stop]).strip()

    @property
    def notes(self) -> tuple[str, ...]:
        """What to beware of, a sentence each; nothing for most traces.

        A trace says little where the model does not give the expected answer, where it gives its
        answer with a probability below 0.2 (in four of five continuations it would say something
        else, and no effect can be larger than that), or where the corruption takes nothing away.
        """
        return trace_notes(self)

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
            "said": self.said,
            "expected": self.expected,
            "says_expected": self.says_expected,
            "engine": self.engine,
            "part_names": self.part_names,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, with effects as nested lists; null where nothing was traced."""
        effects = {
            kind: [[*map(known, row)] for row in rows.tolist()]
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
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"'{path}' is damaged: {described(error)}.") from error

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per state that was traced.

        Its keys: kind, position, token, in_subject, corrupted, layer, effect.
        """
        corrupted = range(*self.corrupted_span)
        return [
            {
                "kind": kind,
                "position": position,
                "token": self.tokens[position],
                "in_subject": position in range(*self.subject_span),
                "corrupted": position in corrupted,
                "layer": layer,
                "effect": effect,
            }
            for kind, effects in self.effects.items()
            for position, row in enumerate(effects.tolist())
            for layer, effect in enumerate(row)
            if not isnan(effect)
        ]

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw the heat maps; see `factlab.tracing.plot`.

        Args:
            path: where to write them too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.tracing.plot import plot_trace  # noqa: PLC0415 - matplotlib only when drawing

        return plot_trace(self, path)
