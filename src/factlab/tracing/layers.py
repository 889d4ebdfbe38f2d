"""Which layer to edit: where MLPs at the last subject token matter most (ROME, section 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked
from factlab.data.well_known import WELL_KNOWN
from factlab.equality import EqualByContent
from factlab.errors import counted
from factlab.estimate import Estimate
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.results import Drawn, Tabular, known
from factlab.tracing.average_run import average_trace
from factlab.tracing.configs import TraceConfig
from factlab.tracing.groups import LAST_SUBJECT
from factlab.words import listed_ranges

if TYPE_CHECKING:
    from factlab.figures import Picture

_MEMIT_LAYERS = 5
_FEW_FACTS = 10


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LayerChoice(Tabular, Drawn, EqualByContent):
    """Where to edit a model.

    The peak of a noisy curve is a layer in any case; `candidates` says which others it may as well
    be. `print(choice)` says the main things in a few lines; a notebook adds a picture.

    Attributes:
        layer: for an edit of one layer (ROME): the peak of the averaged effect, the last layer
            aside.
        memit_layers: for an edit spread over layers: up to five that end with the peak, as MEMIT's
            do (section 4.1 there).
        effects: average indirect effect of an MLP window at the last subject token, by layer.
        half_widths: of 95 % confidence intervals.
        n_facts: how many facts were averaged.
        window: how many layers were restored together.
    """

    layer: int
    memit_layers: tuple[int, ...]
    effects: Float[Tensor, " layer"]
    half_widths: Float[Tensor, " layer"]
    n_facts: int
    window: int

    def __repr__(self) -> str:
        return "\n".join(
            [
                f"LayerChoice from {counted(self.n_facts, 'fact')} (windows of "
                f"{counted(self.window, 'MLP')} at the last subject token)",
                f"  layer {self.layer}: {self.estimate(self.layer).in_words(signed=True)}; for an "
                f"edit of several layers {listed_ranges(self.memit_layers)}",
                *(f"  {note}" for note in self.notes),
            ]
        )

    def estimate(self, layer: int) -> Estimate:
        """The mean effect of a layer and its 95 % confidence interval."""
        return Estimate(float(self.effects[layer]), float(self.half_widths[layer]))

    @property
    def candidates(self) -> tuple[int, ...]:
        """The layers that cannot be told apart from the best: their intervals overlap with its own.

        All but the last, which is never edited, if there is one fact only: it has no interval.
        """
        lowest = self.estimate(self.layer).interval[0]
        return tuple(
            layer
            for layer in range(max(1, len(self.effects) - 1))
            if not self.estimate(layer).interval[1] < lowest  # NaN: nothing is known
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What to beware of, a sentence each."""
        notes: list[str] = []
        if len(self.candidates) > 1:
            notes.append(
                f"Layers {listed_ranges(self.candidates)} cannot be told apart: "
                + ("one fact has no interval." if self.n_facts < 2 else "their intervals overlap.")
            )
        if self.n_facts < _FEW_FACTS:
            notes.append(
                f"{counted(self.n_facts, 'fact').capitalize()} "
                f"{'is' if self.n_facts == 1 else 'are'} few to choose a layer by. Trace "
                f"{_FEW_FACTS} or more (limit=, --limit)."
            )
        return tuple(notes)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per layer.

        Its keys: layer, effect, half_width (None where there is no interval), is_candidate.
        """
        return [
            {
                "layer": layer,
                "effect": effect,
                "half_width": known(width),
                "is_candidate": layer in self.candidates,
            }
            for layer, (effect, width) in enumerate(
                zip(self.effects.tolist(), self.half_widths.tolist(), strict=True)
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; null where there is no interval."""
        return {
            "layer": self.layer,
            "memit_layers": list(self.memit_layers),
            "window": self.window,
            "n_facts": self.n_facts,
            "effects": self.effects.tolist(),
            "half_widths": [*map(known, self.half_widths.tolist())],
            "candidates": list(self.candidates),
        }

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw the effect by layer with its intervals, candidates in colour.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.tracing.plot_layers import plot_layers  # noqa: PLC0415 - when drawing only

        return plot_layers(self, path)


@checked()
def recommend_layer(
    lm: LanguageModel,
    facts: Sequence[Fact] | None = None,
    limit: int = 20,
    progress: ProgressCallback = silent,
) -> LayerChoice:
    """Find the layer to edit from causal traces of MLP windows at the last subject token.

    Never the last one: nothing that follows the subject depends on it. Where layers differ in kind,
    one whose MLP can be edited.

    Args:
        lm: the model.
        facts: what to trace, such as the facts that are to be edited; by default well-known ones.
            Facts with a `target_true` that the model does not know are left out.
        limit: how many of those that it knows.
        progress: True for a bar, or a function that is called with facts done and in all.

    Raises:
        InvalidRequestError: the model knows none of the facts.
        UnsupportedModelError: no layer has an MLP that can be edited.

    Examples:
        >>> choice = fl.recommend_layer(lm, [fl.Fact(fact.template, fact.subject)])
        >>> choice.layer in choice.candidates
        True
    """
    lm.abilities.need("closed_form")
    # Narrow windows: wide ones are cut off at the first layers, which moves the peak inwards.
    window = max(1, lm.n_layers // 5)
    config = TraceConfig(kinds=("mlp",), positions="last_subject", window=window)
    average = average_trace(
        lm, WELL_KNOWN if facts is None else facts, config, limit=limit, progress=progress
    )
    effects = average.effects["mlp"][LAST_SUBJECT]
    # No token looks at another behind the last layer, so an edit there reaches no later word. (A
    # window that is cut off at the end gives that layer an effect all the same.)
    editable = lm.abilities.rungs["closed_form"].layers or ()
    below_last = [i for i in editable if i < max(1, lm.n_layers - 1)] or list(editable)
    means = effects[below_last].nan_to_num(nan=-torch.inf)
    layer = below_last[int(means.argmax())]
    up_to_it = [i for i in editable if i <= layer]
    return LayerChoice(
        layer=layer,
        memit_layers=tuple(up_to_it[-_MEMIT_LAYERS:]),
        effects=effects,
        half_widths=average.half_widths["mlp"][LAST_SUBJECT],
        n_facts=average.n_facts,
        window=window,
    )
