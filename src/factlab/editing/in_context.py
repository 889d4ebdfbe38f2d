"""In-context editing: a sentence in front of every prompt, and no weight changed.

Source: Cohen et al. 2023, section 5, where it passes more ripple queries than editors of weights
do. It is the line of a table that they must beat: what a model makes of a fact that it is told.
"""

from collections.abc import Sequence

from factlab.editing.background import Background
from factlab.editing.edit import Edit, current_versions
from factlab.editing.in_context_config import InContextConfig
from factlab.editing.method import Settled
from factlab.editing.shipping.document import BaseModelInfo
from factlab.errors import EditError, FactlabError, counted
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.models.texts import tokenise
from factlab.progress import ProgressCallback
from factlab.writing import behind

NAME = "in-context"


def compute(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[InContextConfig],
    background: Background,
    progress: ProgressCallback,
) -> list[Edit | FactlabError]:
    """For each fact its sentence."""
    made: list[Edit | FactlabError] = []
    for fact in facts:
        try:
            made.append(compute_together(lm, [fact], settled, background, progress))
        except EditError as error:
            made.append(error)
    return made


def compute_together(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[InContextConfig],
    background: Background,
    progress: ProgressCallback,
) -> Edit:
    """The sentences of all facts, one after the other.

    Raises:
        EditError: they leave less than half of the model's context to prompts.
    """
    del background, progress  # there is nothing to wait for
    config = settled.config
    sentences = (fact.sentence(config.beginning) + config.ending for fact in facts)
    prefix = behind(*sentences)
    n_tokens = check_room(lm, prefix, len(facts))
    return Edit(
        method=NAME,
        facts=tuple(facts),
        updates=(),
        base=BaseModelInfo.of(lm),
        config=config.model_dump(mode="json"),
        diagnostics={"n_tokens": n_tokens},
        versions=current_versions(),
        prefix=prefix,
    )


def check_room(lm: LanguageModel, prefix: str, n_facts: int) -> int:
    """Refuse sentences that leave too little of the context to prompts.

    Args:
        lm: the model.
        prefix: all sentences.
        n_facts: of how many facts they are.

    Returns:
        How many tokens they have.

    Raises:
        EditError: they take more than half of the context.
    """
    n_tokens, limit = len(tokenise(lm, prefix)), lm.context_length
    if limit is not None and 2 * n_tokens > limit:
        raise EditError(
            f"The {counted(n_facts, 'sentence')} in front of a prompt would have {n_tokens:,} "
            f"tokens, more than half of the {limit:,} that {lm.name} reads. Write fewer facts."
        )
    return n_tokens
