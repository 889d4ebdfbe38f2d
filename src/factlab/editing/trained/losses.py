"""What a trained editor is trained for (MEND, equation 2).

L = c_edit · (−log p_W̃(y' | x')) + c_loc · KL(p_W(· | x_loc) ‖ p_W̃(· | x_loc))

W̃ is the model with the edit; x', y' the edited fact in other words; x_loc unrelated text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
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
        edit_nll: −log P per token of the target, asked in other words, nats.
        loc_kl: mean divergence from the unedited model on unrelated text, nats.
        says: whether every token of the target is the most probable one.
    """

    edit_nll: Float[Tensor, " example"]
    loc_kl: Float[Tensor, " example"]
    says: Bool[Tensor, " example"]


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
        picked: examples with one rephrasing each, and with equally many unrelated texts.
        observe: see `changes_of`.
        mixed_precision: see `changes_of`.
    """
    edits = states.batch([example.edit for example in picked])
    changes = changes_of(lm, network, edits, observe, mixed_precision)
    asked = states.batch([example.rephrased[0] for example in picked])
    others = states.batch([text for example in picked for text in example.unrelated])
    with _autocast(lm, mixed_precision):
        with carrying(lm, changes, owners_of(len(asked.continuations), len(picked))):
            logits = asked.logits(lm)
        with carrying(lm, changes, owners_of(len(others.continuations), len(picked))):
            after = others.logits(lm)
    logprobs, counts = target_logprobs(logits, asked.reads.ids, asked.reads.rows, len(picked))
    with torch.no_grad():
        before = others.unedited_logits(lm).log_softmax(-1)
        missed = (logits.argmax(-1).cpu() != asked.reads.ids).long()
        n_missed = torch.zeros(len(picked), dtype=torch.long, device="cpu").index_add(
            0, asked.reads.rows, missed
        )
    kl = (before.exp() * (before - after.log_softmax(-1))).sum(-1)
    # An example's unrelated texts stand next to each other, equally many for each.
    owners = others.reads.rows.to(kl.device) // (len(others.continuations) // len(picked))
    zeros = kl.new_zeros(len(picked))
    total = zeros.index_add(0, owners, kl)
    n_reads = zeros.index_add(0, owners, torch.ones_like(kl))
    return Losses(-logprobs / counts, total / n_reads, n_missed == 0)


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
