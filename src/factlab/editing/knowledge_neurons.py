"""KN: rewriting the values of knowledge neurons (Dai et al. 2022, section 5; ROME paper, E.2).

The i-th column of W_proj is the *value* that neuron i writes into the residual stream. Out of the
value of every knowledge neuron of a fact (`neurons`, `neuron_choice`) the old answer is taken, and
the new one put in:

    vᵢ ← vᵢ − λ₁ e(old) + λ₂ e(new)

| paper | here |
|---|---|
| λ₁, λ₂ | `lambda_old`, `lambda_new` |
| e | rows of the output embedding, see `KnConfig` |

The paper says λ₁ = 1 and λ₂ = 8; its code counts them in lengths of vᵢ, with e of length one, and
so do the defaults. Nothing is optimised: whether the model then says the new answer is luck.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factlab.arguments import checked, listed
from factlab.data.fact_files import check_conflicts
from factlab.editing.background import Background
from factlab.editing.configs import KnConfig
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.method import FAULTS, Settled, succeeded
from factlab.editing.methods import METHODS
from factlab.errors import FactlabError, InvalidRequestError, UnsupportedModelError, counted
from factlab.facts import Fact, fill
from factlab.models.changes.update import LowRankUpdate
from factlab.models.language_model import LanguageModel
from factlab.models.stored import tensor_of
from factlab.neurons.attribution import Neuron, NeuronAttribution, attribute_neurons_each
from factlab.neurons.choice import prob_with_scaled, shared_neurons
from factlab.precision import wide, widened
from factlab.progress import ProgressCallback, silent


@checked()
def kn(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: KnConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
    paraphrases: Sequence[Sequence[str]] | None = None,
) -> Edit:
    """Compute one edit that rewrites the knowledge neurons of all facts.

    Every fact's neurons are found on the model as it is. A neuron of several facts gets the sum of
    their changes.

    Args:
        lm: the model, left as it is.
        facts: with a `target_new` each.
        config: see `KnConfig`.
        background: not used; every method takes one.
        progress: True for a bar, or a function that is told what is going on.
        paraphrases: for each fact other prompts with the same answer, with `{}` for the subject or
            without; they refine the choice of neurons.

    Returns:
        An `Edit` with one change per layer that has such neurons, of their number as rank.

    Raises:
        InvalidRequestError: facts contradict each other, one has nothing to write, or there are not
            as many lists of paraphrases as facts.
        EditError: no neuron was found for a fact.
        UnsupportedModelError: the embedding does not have the width of the residual stream.
    """
    facts = listed(facts)
    del background
    METHODS["kn"].admitted(lm, facts, config)
    config = config or KnConfig()
    check_conflicts(facts)
    return _edit(lm, succeeded(_changes(lm, facts, config, progress, paraphrases)), config)


@checked()
def kn_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: KnConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
    paraphrases: Sequence[Sequence[str]] | None = None,
) -> list[Edit]:
    """Compute one edit per fact, each for the model as it is now; see `kn`."""
    facts = listed(facts)
    del background
    METHODS["kn"].admitted(lm, facts, config)
    config = config or KnConfig()
    changes = succeeded(_changes(lm, facts, config, progress, paraphrases))
    return [_edit(lm, [change], config) for change in changes]


def compute(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[KnConfig],
    background: Background,
    progress: ProgressCallback,
) -> list[Edit | FactlabError]:
    """One edit per fact."""
    del background  # neurons are told by the fact's own prompt
    changes = _changes(lm, facts, settled.config, progress, None)
    return [
        change if isinstance(change, FactlabError) else _edit(lm, [change], settled.config)
        for change in changes
    ]


def compute_together(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[KnConfig],
    background: Background,
    progress: ProgressCallback,
) -> Edit:
    """One edit with all facts."""
    del background
    changes = _changes(lm, facts, settled.config, progress, None)
    return _edit(lm, succeeded(changes), settled.config)


class _Change(NamedTuple):
    """What one fact does to its neurons.

    Attributes:
        fact: as given.
        neurons: chosen ones.
        values: what is added to each neuron's value, a row each; float32 or wider, on the CPU.
        diagnostics: what was measured on the way.
    """

    fact: Fact
    neurons: list[Neuron]
    values: Float[Tensor, "neuron d_model"]
    diagnostics: dict[str, Any]


def _changes(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: KnConfig,
    progress: ProgressCallback,
    paraphrases: Sequence[Sequence[str]] | None,
) -> list[_Change | FactlabError]:
    """For each fact its change, or why there is none."""
    embedding = _embedding(lm, config)
    results: dict[int, _Change | FactlabError] = {}
    asked: dict[int, list[str]] = {}
    for number, prompts in enumerate(_prompts(facts, paraphrases)):
        try:
            _check_texts(lm, facts[number], prompts)
            asked[number] = prompts
        except FAULTS as error:
            results[number] = error
    said = _said(lm, [facts[number] for number in asked], config)
    found = iter(_attributions(lm, facts, asked, said, config, progress))
    for number, prompts in asked.items():
        by_prompt = [next(found) for _ in prompts]
        try:
            results[number] = _change(lm, facts[number], by_prompt, said, embedding, config)
        except FAULTS as error:
            results[number] = error
    return [results[number] for number in range(len(facts))]


def _check_texts(lm: LanguageModel, fact: Fact, prompts: Sequence[str]) -> None:
    """Refuse a fact whose prompts cannot be asked."""
    for prompt in prompts:
        lm.continuation(prompt, fact.target_true)


def _attributions(
    lm: LanguageModel,
    facts: Sequence[Fact],
    asked: Mapping[int, Sequence[str]],
    said: Mapping[Fact, int],
    config: KnConfig,
    progress: ProgressCallback,
) -> list[NeuronAttribution]:
    """Of every prompt of every fact, one after the other."""
    prompts: list[str] = []
    answers: list[str | None] = []
    for number, texts in asked.items():
        fact = facts[number]
        # Nothing for the prompt itself: the token may have no text of its own.
        answer = fact.target_true
        for text in texts:
            prompts.append(text)
            answers.append(answer)
            if answer is None:
                answer = str(lm.tokenizer.decode(said[fact]))
    if not prompts:
        return []
    return attribute_neurons_each(lm, prompts, answers, config.attribution, progress)


def _change(
    lm: LanguageModel,
    fact: Fact,
    by_prompt: Sequence[NeuronAttribution],
    said: Mapping[Fact, int],
    embedding: Float[Tensor, "vocab d_model"],
    config: KnConfig,
) -> _Change:
    """What is added to the values of a fact's neurons.

    Raises:
        EditError: no neuron was found.
    """
    neurons = shared_neurons(by_prompt, config.threshold, config.share, config.max_neurons)
    old = [said[fact]] if fact in said else _target_ids(lm, fact, str(fact.target_true))
    diagnostics = {
        "old": str(lm.tokenizer.decode(old)).strip(),
        "attributed": by_prompt[0].target,
        "prob": by_prompt[0].prob,
        "silenced_prob": prob_with_scaled(lm, by_prompt[0], neurons, 0.0),
        "n_prompts": len(by_prompt),
        "n_coarse": [len(one.neurons(config.threshold)) for one in by_prompt],
        "neurons": [[n.layer, n.index, n.attribution] for n in neurons],
        "largest_gap": float(by_prompt[0].gaps.abs().max()),
    }
    values = _added_values(lm, config, embedding, fact, old, neurons)
    return _Change(fact, neurons, values, diagnostics)


def _prompts(facts: Sequence[Fact], paraphrases: Sequence[Sequence[str]] | None) -> list[list[str]]:
    """Every fact's own prompt, and its paraphrases."""
    if paraphrases is None:
        return [[fact.prompt] for fact in facts]
    if isinstance(paraphrases, str) or any(isinstance(texts, str) for texts in paraphrases):
        raise InvalidRequestError(
            "paraphrases holds a text where a list of them is taken, one list for each fact. Write "
            '[["..."]] for one fact.'
        )
    if len(paraphrases) != len(facts):
        raise InvalidRequestError(
            f"{counted(len(facts), 'fact')} but {counted(len(paraphrases), 'list')} of "
            "paraphrases. Give one list for each fact; it may be empty."
        )
    return [
        [fact.prompt, *(fill(text, fact.subject) for text in texts)]
        for fact, texts in zip(facts, paraphrases, strict=True)
    ]


def _said(lm: LanguageModel, facts: Sequence[Fact], config: KnConfig) -> dict[Fact, int]:
    """The most probable next token after each prompt, where it is needed.

    It is taken out with `said`, and attributed where the true answer is not known.
    """
    asked = [fact for fact in facts if config.old == "said" or fact.target_true is None]
    if not asked:
        return {}
    ids = lm.next_token_probs([fact.prompt for fact in asked]).argmax(1).tolist()
    return dict(zip(asked, ids, strict=True))


def _target_ids(lm: LanguageModel, fact: Fact, target: str) -> list[int]:
    return list(lm.continuation(fact.prompt, target).target_ids)


def _embedding(lm: LanguageModel, config: KnConfig) -> Float[Tensor, "vocab d_model"]:
    """The matrix that answers are looked up in."""
    module = lm.embedding if config.embedding == "input" else lm.model.get_output_embeddings()
    if not isinstance(module, nn.Embedding | nn.Linear) or module.weight.shape[1] != lm.d_model:
        raise UnsupportedModelError(
            f"The {config.embedding} embedding of {lm.name} is no matrix of rows as wide as the "
            f"residual stream ({lm.d_model}), so KN has nothing to write into values."
        )
    return tensor_of(module)


def _added_values(
    lm: LanguageModel,
    config: KnConfig,
    embedding: Float[Tensor, "vocab d_model"],
    fact: Fact,
    old: list[int],
    neurons: Sequence[Neuron],
) -> Float[Tensor, "neuron d_model"]:
    """−λ₁ e(old) + λ₂ e(new), for each neuron."""
    terms = [(-config.lambda_old, old)]
    if not config.erase:
        terms.append((config.lambda_new, _target_ids(lm, fact, str(fact.target_new))))
    width = wide(embedding.dtype)
    change = torch.zeros(lm.d_model, dtype=width, device="cpu")
    for factor, ids in terms:
        rows = embedding[ids].to("cpu", width)
        answer = rows.mean(0) if config.pooling == "mean" else rows.sum(0)
        if config.lambda_unit == "value":
            answer = answer / answer.norm().clamp(min=1e-12)
        change += factor * answer
    if config.lambda_unit == "embedding":
        return change.expand(len(neurons), -1)
    lengths = [float(_value(lm, neuron).norm()) for neuron in neurons]
    return torch.tensor(lengths, dtype=width, device="cpu")[:, None] * change


def _value(lm: LanguageModel, neuron: Neuron) -> Float[Tensor, " d_model"]:
    """What a neuron writes into the residual stream: its column of W_proj."""
    weight = lm.mlp_weight(neuron.layer).detach()
    is_out_in = lm.layers.layout(lm.mlp_weight_name(neuron.layer)) == "out_in"
    column = weight[:, neuron.index] if is_out_in else weight[neuron.index]
    return widened(column)


def _edit(lm: LanguageModel, changes: Sequence[_Change], config: KnConfig) -> Edit:
    """All changes as one edit: a column for each neuron, changes of one neuron added up."""
    by_layer: dict[int, dict[int, Tensor]] = defaultdict(dict)
    for change in changes:
        for neuron, value in zip(change.neurons, change.values, strict=True):
            columns = by_layer[neuron.layer]
            columns[neuron.index] = columns.get(neuron.index, 0) + value
    updates: list[LowRankUpdate] = []
    for layer, columns in sorted(by_layer.items()):
        left = torch.stack(list(columns.values()), dim=1)
        right = nn.functional.one_hot(torch.tensor(list(columns), device="cpu"), lm.d_mlp).to(left)
        name = lm.mlp_weight_name(layer)
        updates.append(LowRankUpdate(name, lm.layers.layout(name), left, right))
    return Edit(
        method="kn",
        facts=tuple(change.fact for change in changes),
        updates=tuple(updates),
        base=BaseModelInfo.of(lm),
        config=config.model_dump(mode="json"),
        diagnostics={
            "layers": sorted(by_layer),
            "n_neurons": sum(len(columns) for columns in by_layer.values()),
            "update_norms": [update.norm for update in updates],
            "facts": [change.diagnostics for change in changes],
        },
        versions=current_versions(),
    )
