"""Which neurons are knowledge neurons, and what the model says without them (Dai et al. 2022).

A prompt's *coarse* neurons are those above a share of its largest attribution. Some of them belong
to the answer and some to the wording; several wordings of one fact tell them apart: *refined*
neurons are coarse ones that at least a share p of the prompts have in common.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from factlab.arguments import checked
from factlab.continuations import Continuation
from factlab.errors import EditError, InvalidRequestError
from factlab.hooks import Site, Stream, intervene
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, read_tokens
from factlab.neurons.attribution import Neuron, NeuronAttribution, check_threshold
from factlab.tokens import pad


@checked()
def shared_neurons(
    found: Sequence[NeuronAttribution],
    threshold: float = 0.2,
    share: float = 0.7,
    max_neurons: int | None = None,
) -> list[Neuron]:
    """The neurons that prompts for one fact have in common, largest attribution first.

    Args:
        found: attributions of one answer, a prompt each. With one prompt nothing is refined.
        threshold: t, as a share of each prompt's largest attribution.
        share: p, in at least how many of the prompts a neuron must be. The paper begins with 0.7
            and moves it until two to five neurons of a fact remain.
        max_neurons: keep the strongest so many; by default all.

    Returns:
        Neurons with their attribution averaged over all prompts.

    Raises:
        InvalidRequestError: there are no prompts, or a number is out of range.
        EditError: no neuron is left; says why, and what would leave some.
    """
    if not found:
        raise InvalidRequestError("The list of attributions is empty. Give at least one.")
    check_choice(threshold, share)
    if max_neurons is not None and max_neurons < 1:
        raise InvalidRequestError(f"max_neurons={max_neurons} must be at least 1.")
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for one in found:
        for neuron in one.neurons(threshold):
            counts[neuron.layer, neuron.index] += 1
    first = found[0]
    if not counts:
        raise EditError(
            f"No neuron makes '{first.target}' more probable after '{first.prompt}' "
            f"(its probability is {first.prob:.3g}). Choose an answer that the model knows."
        )
    # A little less, so that a share of 0.7 of ten prompts is seven whatever the rounding.
    needed = share * len(found) - 1e-9
    kept = [place for place, count in counts.items() if count >= needed]
    if not kept:
        most = max(counts.values()) / len(found)
        raise EditError(
            f"No neuron is in {share:.0%} of the {len(found)} prompts for '{first.target}'; the "
            f"most shared is in {most:.0%}. Lower the share to that, or the threshold."
        )
    mean = torch.stack([one.attributions for one in found]).mean(0)
    neurons = [Neuron(layer, index, float(mean[layer, index])) for layer, index in kept]
    neurons.sort(key=lambda neuron: (-neuron.attribution, neuron.layer, neuron.index))
    return neurons[:max_neurons]


def check_choice(threshold: float, share: float) -> None:
    """Refuse numbers that choose nothing, or everything.

    Raises:
        InvalidRequestError: the threshold or the share is out of range.
    """
    check_threshold(threshold)
    if not 0 < share <= 1:
        raise InvalidRequestError(
            f"Share {share} of the prompts is out of range. Choose it above 0, up to 1."
        )


@checked()
@torch.no_grad()
def prob_with_scaled(
    lm: LanguageModel, found: NeuronAttribution, neurons: Sequence[Neuron], factor: float
) -> float:
    """Probability of an attributed answer when some neurons at the last token are scaled.

    Args:
        lm: the model, left as it is.
        found: says the prompt and the answer.
        neurons: which ones.
        factor: 0 silences them, 2 amplifies them, as in the paper's section 4.

    Raises:
        InvalidRequestError: a layer is not in the model.
    """
    asked = Continuation.behind(found.prompt_ids, found.target_ids)
    last = asked.n_prompt - 1
    by_layer: dict[int, list[int]] = defaultdict(list)
    for neuron in neurons:
        by_layer[neuron.layer].append(neuron.index)

    def scale(indices: list[int]) -> Callable[[Tensor], Tensor]:
        def function(state: Tensor) -> Tensor:
            scaled = state.clone()
            scaled[:, last, indices] *= factor
            return scaled

        return function

    interventions = {Site(i, Stream.MLP_HIDDEN): scale(some) for i, some in by_layer.items()}
    with lm.frozen(), intervene(lm, interventions):
        hidden = lm.run(lm.frame(pad([asked.inputs], lm.device)))
        reads = Reads.of([asked])
        logprobs, _ = read_tokens(lm, reads.states(hidden), reads.ids)
    return float(logprobs.sum().exp())
