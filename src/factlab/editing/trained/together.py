"""How many texts a trained editor works on at once, by the memory that may be used.

A text runs through the last blocks only, and all that these, and the editor's own network, make of
it is kept for a backward pass. These are upper estimates, as those of `models.budget`.
"""

from collections.abc import Sequence

from factlab.continuations import Continuation
from factlab.editing.trained.examples import Example
from factlab.editing.trained.network import EditorNetwork
from factlab.models.language_model import LanguageModel
from factlab.tokens import groups

# Tokens that keep a device busy where a few blocks and a network run: on the CPU, and elsewhere.
_ENOUGH = (2048, 16_384)
# Numbers that a network keeps of each that enters it; and so much more a block takes that carries
# changes, and logits that are compared with others.
_KEPT, _CARRYING, _COMPARED = 16, 1.5, 2


def edits_together(
    lm: LanguageModel, network: EditorNetwork, n_blocks: int, texts: Sequence[Continuation]
) -> list[list[int]]:
    """Numbers of facts that are edited in one batch.

    Args:
        lm: the model.
        network: the editor.
        n_blocks: how many blocks it edits.
        texts: the facts with their targets.
    """
    costs = [len(text.inputs) for text in texts]
    read = max((len(t.reads) / c for t, c in zip(texts, costs, strict=True)), default=0.0)
    return groups(costs, _tokens(lm, network, n_blocks, 1.0, read))


def examples_together(
    lm: LanguageModel, network: EditorNetwork, n_blocks: int, picked: Sequence[Example]
) -> list[list[Example]]:
    """Examples in parts, each of which goes through the model together.

    Args:
        lm: the model.
        network: the editor.
        n_blocks: how many blocks it edits.
        picked: with one rephrasing each, and equally many texts that must stay.
    """
    by_example = [[e.edit, *e.texts] for e in picked]  # the edit is written, and asked
    n_texts = max(map(len, by_example), default=1)
    # Every text of an example as wide as its widest, so that no padding is left out.
    costs = [len(texts) * max(len(t.inputs) for t in texts) for texts in by_example]
    reads = [sum(len(t.reads) for t in texts) for texts in by_example]
    read = max((n / cost for n, cost in zip(reads, costs, strict=True)), default=0.0)
    parts = groups(costs, _tokens(lm, network, n_blocks, 1 / n_texts, read))
    return [[picked[i] for i in sorted(numbers)] for numbers in parts]


def _tokens(
    lm: LanguageModel, network: EditorNetwork, n_blocks: int, edited: float, read: float
) -> int:
    """Tokens in a batch.

    Args:
        lm: the model.
        network: the editor.
        n_blocks: how many blocks it edits.
        edited: share of the tokens whose gradients the network is given.
        read: share of the tokens at which logits are read.
    """
    sizes = lm.budget.sizes
    width = next(network.parameters()).element_size()
    in_network = _KEPT * width * sum(m.d_in + m.d_out for m in network.matrices)
    in_blocks = _CARRYING * sizes.gradient * n_blocks / lm.n_layers + 4 * sizes.state
    of_reads = _COMPARED * sizes.logits
    return lm.budget.limit(_ENOUGH, in_blocks + edited * in_network + read * of_reads, 0.5)
