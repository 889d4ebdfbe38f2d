"""Asking a method for one of the five editing problems (`variants`)."""

from collections.abc import Sequence

from factlab.arguments import checked
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig
from factlab.editing.edit import Edit
from factlab.editing.method import Method
from factlab.editing.methods import method_named
from factlab.editing.noise_config import SubjectNoise
from factlab.editing.noised import level_of, said_under_noise
from factlab.editing.variants import (
    SAID_TOKENS,
    Problem,
    Variant,
    check_variant,
    nothing_said,
    problem,
    variant_named,
)
from factlab.errors import FactlabError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent


@checked()
def edit_variant(
    lm: LanguageModel,
    facts: Sequence[Fact],
    variant: Variant,
    method: str | Method = "rome",
    config: MethodConfig | None = None,
    noise: SubjectNoise | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit | FactlabError]:
    """Ask a method for one of the five problems: one edit per fact, or why there is none.

    Args:
        lm: the model, left as it is.
        facts: with a `target_new` for `injection`, and a `target_true` for the others.
        variant: which of the five.
        method: see `METHODS`.
        config: of that method.
        noise: for `reversal` and `forcing`; by default Gaussian of three standard deviations of the
            facts' subject embeddings, as a causal trace has it.
        background: statistics, contexts and values that are at hand.
        progress: True for a bar, or a function that is told what is going on.

    Raises:
        InvalidRequestError: there is no such method, it cannot do it, or a fact lacks what it
            needs.

    Source: Hase et al. 2023, section 4.

    Examples:
        >>> (edit,) = fl.editing.edit_variant(lm, [fact], "erasure", "ft")
        >>> edit.facts[0].target_new == fact.target_true
        True
    """
    chosen, variant = method_named(method), variant_named(variant)
    check_variant(chosen, variant)
    said: Sequence[str | None] = [None] * len(facts)
    if variant in {"reversal", "forcing"} and noise is None:
        noise = SubjectNoise(level=level_of(lm, facts))
    if variant == "reversal" and noise is not None:
        said = said_under_noise(lm, facts, noise, SAID_TOKENS)
    found: dict[int, Edit | FactlabError] = {}
    problems: dict[int, Problem] = {}
    for number, (fact, target) in enumerate(zip(facts, said, strict=True)):
        if target == "":
            found[number] = nothing_said(fact.prompt)
        else:
            problems[number] = problem(chosen, fact, variant, config, target, noise)
    asked = [each.fact for each in problems.values()]
    settings = next((each.config for each in problems.values()), config)
    found |= zip(problems, chosen.attempts(lm, asked, settings, background, progress), strict=True)
    return [found[number] for number in range(len(facts))]
