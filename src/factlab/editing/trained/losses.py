"""What a trained editor is trained for (MEND, equation 2).

L = c_edit · (−log p_W̃(y | x')) + c_loc · KL(p_W(· | x_loc) ‖ p_W̃(· | x_loc))

W̃ is the model with the edit; x' the edited fact's prompt, and the same in other words; x_loc what
must stay. Of both it is the mean over texts, and within a text over the tokens that are read:
published is one rephrasing, and a mean over all tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factlab.editing.trained.examples import Example
from factlab.editing.trained.gradients import OuterProducts, token_gradients
from factlab.editing.trained.network import EditorNetwork
from factlab.editing.trained.states import RowBatch, States
from factlab.models.changes.carried import ChangeFactors, carrying, owners_of
from factlab.models.language_model import LanguageModel
from factlab.models.reading import target_logprobs


@dataclass(frozen=True, slots=True)
class Losses:
    """Of each of some examples.

    Attributes:
        edit_nll: −log P per token of the target, mean of the prompt and of other words, nats.
        loc_kl: divergence from the unedited model, mean over texts that must stay, nats.
        ordinary_kl: the same of ordinary text alone; None where there is none.
        says: whether every token of the target is the most probable one, in other words.
        says_prompt: the same behind the edit's own prompt.
        stays: share of what is read of texts that must stay whose most probable token is as before,
            mean over texts.
    """

    edit_nll: Float[Tensor, " example"]
    loc_kl: Float[Tensor, " example"]
    ordinary_kl: Float[Tensor, " example"] | None
    says: Bool[Tensor, " example"]
    says_prompt: Bool[Tensor, " example"]
    stays: Float[Tensor, " example"]

    @property
    def measured(self) -> dict[str, Float[Tensor, " example"]]:
        """All that there is, by name, as numbers."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: values.detach() * 1.0 for name, values in found.items() if values is not None}


def observe(
    lm: LanguageModel,
    network: EditorNetwork,
    states: States,
    picked: Sequence[Example],
    mixed_precision: bool = False,
) -> None:
    """Let an editor take note of the gradients of some examples, and do nothing else.

    Args:
        lm: the model, frozen.
        network: the editor.
        states: of the examples' texts.
        picked: the examples.
        mixed_precision: see `changes_of`.
    """
    if network.takes_note:
        batch = states.batch([example.edit for example in picked])
        network.observe(_gradients(lm, network, batch, mixed_precision))


def changes_of(
    lm: LanguageModel,
    network: EditorNetwork,
    batch: RowBatch,
    observe: bool = False,
    mixed_precision: bool = False,
) -> dict[str, ChangeFactors]:
    """What an editor makes of some facts, each for itself.

    Args:
        lm: the model, frozen.
        network: the editor.
        batch: the facts with their targets.
        observe: let the editor take note of the gradients first.
        mixed_precision: run the model in bfloat16 where that is safe; the editor itself never.
    """
    gradients = _gradients(lm, network, batch, mixed_precision)
    if observe:
        network.observe(gradients)
    device = next(network.parameters()).device
    with torch.no_grad():
        rows = lm.embedding.weight
        texts = [
            rows[torch.tensor(text.ids, device=rows.device)].to(device)
            for text in batch.continuations
        ]
    return network(gradients, texts)


def losses(
    lm: LanguageModel,
    network: EditorNetwork,
    states: States,
    picked: Sequence[Example],
    observe: bool = False,
    mixed_precision: bool = False,
) -> Losses:
    """Edit the model with each example and measure what comes of it.

    Args:
        lm: the model, frozen.
        network: the editor.
        states: of the examples' texts.
        picked: examples with one rephrasing each, and with equally many texts that must stay.
        observe: see `changes_of`.
        mixed_precision: see `changes_of`.
    """
    edits = states.batch([example.edit for example in picked])
    changes = changes_of(lm, network, edits, observe, mixed_precision)
    n, n_unrelated = len(picked), len(picked[0].unrelated)
    asked = states.batch([text for e in picked for text in (e.edit, e.rephrased[0])])
    others = states.batch([text for e in picked for text in (*e.unrelated, *e.ordinary)])
    n_others = len(others.continuations)
    with _autocast(lm, mixed_precision):
        with carrying(lm, changes, owners_of(2 * n, n)):
            logits = asked.logits(lm)
        with carrying(lm, changes, owners_of(n_others, n)):
            after = others.logits(lm)
    logprobs, counts = target_logprobs(logits, asked.reads.ids, asked.reads.rows, 2 * n)
    nll = (-logprobs / counts).view(n, 2)
    with torch.no_grad():
        before = others.unedited_logits(lm).log_softmax(-1)
        right = (logits.argmax(-1).cpu() == asked.reads.ids).float()
        said = _by_text(right, asked.reads.rows, 2 * n).view(n, 2) == 1
        same = (before.argmax(-1) == after.argmax(-1)).float()
        stays = _by_text(same, others.reads.rows, n_others).view(n, -1).mean(1)
    kl = (before.exp() * (before - after.log_softmax(-1))).sum(-1)
    kl = _by_text(kl, others.reads.rows, n_others).view(n, -1)
    ordinary = kl[:, n_unrelated:].mean(1) if picked[0].ordinary else None
    return Losses(nll.mean(1), kl.mean(1), ordinary, said[:, 1], said[:, 0], stays)


def _by_text(
    values: Float[Tensor, " read"], rows: Int[Tensor, " read"], n_texts: int
) -> Float[Tensor, " text"]:
    """Mean over what is read of each text."""
    rows = rows.to(values.device)
    total, count = (
        values.new_zeros(n_texts).index_add(0, rows, each)
        for each in (values, torch.ones_like(values))
    )
    return total / count


def _gradients(
    lm: LanguageModel, network: EditorNetwork, batch: RowBatch, mixed_precision: bool
) -> dict[str, OuterProducts]:
    """The facts' gradients, on the network's device: the model's blocks may be on several."""
    with _autocast(lm, mixed_precision):
        gradients = token_gradients(lm, batch, network.matrices)
    device = next(network.parameters()).device
    return {name: gradient.to(device) for name, gradient in gradients.items()}


def _autocast(lm: LanguageModel, enabled: bool) -> torch.autocast:
    return torch.autocast(lm.device.type, torch.bfloat16, enabled=enabled)
