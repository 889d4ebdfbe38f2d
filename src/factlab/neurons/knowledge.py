"""The knowledge neurons of a fact, and what the model says without them (Dai et al. 2022)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factlab.arguments import checked
from factlab.equality import EqualByContent
from factlab.errors import InvalidRequestError, counted
from factlab.models.language_model import LanguageModel
from factlab.neurons.attribution import Neuron, NeuronAttribution, attribute_neurons_each
from factlab.neurons.choice import prob_with_scaled, shared_neurons
from factlab.neurons.configs import NeuronRequest
from factlab.progress import ProgressCallback, silent
from factlab.results import Drawn, Tabular

if TYPE_CHECKING:
    from factlab.figures import Picture

_SHOWN = 3


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KnowledgeNeurons(Tabular, Drawn, EqualByContent):
    """The neurons that account for an answer, after all prompts that ask for it.

    Attributes:
        attributions: of every neuron, one for each prompt.
        neurons: the knowledge neurons, the largest mean attribution first.
        threshold: share of a prompt's largest attribution that each exceeds.
        share: of the prompts in which it does.
        silenced_prob: of the answer after the first prompt, with these neurons at zero.
        doubled_prob: the same with twice their values.
    """

    attributions: tuple[NeuronAttribution, ...]
    neurons: tuple[Neuron, ...]
    threshold: float
    share: float
    silenced_prob: float
    doubled_prob: float

    @property
    def target(self) -> str:
        """The answer."""
        return self.attributions[0].target

    @property
    def prob(self) -> float:
        """Its probability after the first prompt."""
        return self.attributions[0].prob

    @property
    def title(self) -> str:
        """How many neurons there are, and of what."""
        said = f"{counted(len(self.neurons), 'neuron')} for {self.target!r}"
        n_prompts = len(self.attributions)
        if n_prompts == 1:
            return said
        return f"{said}, each in at least {self.share:.0%} of {n_prompts} prompts; means over them"

    def __repr__(self) -> str:
        first = self.attributions[0]
        strong = ", ".join(
            f"{n.attribution:+.3f} layer {n.layer} #{n.index}" for n in self.neurons[:_SHOWN]
        )
        return (
            f"KnowledgeNeurons after {first.prompt!r} ({first.model_name})\n"
            f"  {self.title}; strongest: {strong}\n"
            f"  {self.in_words()}"
        )

    def in_words(self) -> str:
        """What the model says with these neurons as they are, silenced and doubled."""
        return (
            f"The model gives {self.target!r} with probability {self.prob:.3f}; with these neurons "
            f"silenced, {self.silenced_prob:.3f}; with them doubled, {self.doubled_prob:.3f}."
        )

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per knowledge neuron.

        Its keys: layer, neuron, attribution.
        """
        return [
            {"layer": neuron.layer, "neuron": neuron.index, "attribution": neuron.attribution}
            for neuron in self.neurons
        ]

    def to_json(self, count: int | None = None) -> dict[str, Any]:
        """All but the attributions of other neurons, ready for JSON.

        Args:
            count: how many of the knowledge neurons to list, the strongest ones; all by default.
        """
        first = self.attributions[0]
        return {
            **first.summary(),
            "prompts": [one.prompt for one in self.attributions],
            "threshold": self.threshold,
            "share": self.share,
            "n_neurons": len(self.neurons),
            "neurons": [asdict(neuron) for neuron in self.neurons[:count]],
            "layer_sums": first.attributions.sum(1).tolist(),
            "silenced_prob": self.silenced_prob,
            "doubled_prob": self.doubled_prob,
        }

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw the attributions by layer, the knowledge neurons in colour.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.neurons.plot import plot_neurons  # noqa: PLC0415 - matplotlib when drawing

        return plot_neurons(self.attributions, path, self.neurons, self.threshold)


@checked()
def find_neurons(
    lm: LanguageModel, request: NeuronRequest, progress: ProgressCallback = silent
) -> KnowledgeNeurons:
    """Find the knowledge neurons of a fact, and what the model says without them.

    Args:
        lm: the model, left as it is.
        request: the prompts, the answer, and what tells a knowledge neuron.
        progress: True for a bar, or a function that is told what is going on.

    Raises:
        InvalidRequestError: no target is given, and the model says nothing that could be one.
        EditError: no neuron accounts for the answer, or none after enough of the prompts.
        TokenizationError: the target makes no token of its own, or a text is too long.
    """
    prompts, target = request.prompts, request.target
    answers = [target] * len(prompts)
    if target is None and prompts[1:]:
        # What the model says after the first prompt is attributed as a token, which may have no
        # text of its own; the others are asked for the same in words.
        said = str(lm.tokenizer.decode([int(lm.next_token_probs(prompts[:1])[0].argmax())]))
        answers[1:] = [_an_answer(said, prompts[0])] * len(prompts[1:])
    attributions = attribute_neurons_each(lm, prompts, answers, request.config, progress)
    first = attributions[0]
    if target is None:
        _an_answer("".join(first.target_tokens), prompts[0])
    neurons = shared_neurons(attributions, request.threshold, request.share)
    progress("silencing neurons", 0, 2)
    silenced_prob = prob_with_scaled(lm, first, neurons, 0.0)
    progress("silencing neurons", 1, 2)
    doubled_prob = prob_with_scaled(lm, first, neurons, 2.0)
    progress("silencing neurons", 2, 2)
    return KnowledgeNeurons(
        attributions=tuple(attributions),
        neurons=tuple(neurons),
        threshold=request.threshold,
        share=request.share,
        silenced_prob=silenced_prob,
        doubled_prob=doubled_prob,
    )


def _an_answer(said: str, prompt: str) -> str:
    """What the model says, if it is more than space."""
    if not said.strip():
        raise InvalidRequestError(
            f"After '{prompt}' the model says {said!r}, which is no answer. Give one with --target."
        )
    return said.strip()
