"""Finding out what a model knows, and in which words (ROME paper, appendix B.1).

A fact counts as known when the model, going on greedily from a template, names the right object
before any other capitalised word. The prompt is then the template with everything up to the object,
so that the object's first token is what the model would say next.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from factlab.arguments import checked
from factlab.data.known import KnownFact
from factlab.data.relations import Triple
from factlab.errors import InvalidRequestError, counted
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.models.texts import room_behind
from factlab.progress import ProgressCallback, silent
from factlab.writing import find_words

_MAX_NEW_TOKENS = 10
# Facts whose probabilities of all next tokens are held together, and before it is looked whether
# enough are known.
_ASKED_AT_ONCE = 64


@checked()
def knows(
    lm: LanguageModel, facts: Sequence[Fact], progress: ProgressCallback = silent
) -> list[bool]:
    """Whether the model's most probable next token is the first of each fact's true target.

    A fact without a `target_true` has no wrong answer.

    Args:
        lm: the model.
        facts: what to ask.
        progress: True for a bar, or a function that is called with facts asked and in all.
    """
    known: list[bool] = []
    for start in range(0, len(facts), _ASKED_AT_ONCE):
        progress("asking the model", start, len(facts))
        known += _known_of(lm, facts[start : start + _ASKED_AT_ONCE])
    progress("asking the model", len(facts), len(facts))
    return known


def _known_of(lm: LanguageModel, facts: Sequence[Fact]) -> list[bool]:
    top = lm.next_token_probs([fact.prompt for fact in facts]).argmax(-1).tolist()
    known: list[bool] = []
    for fact, token_id in zip(facts, top, strict=True):
        if fact.target_true is None:
            known.append(True)
            continue
        asked = lm.continuation(fact.prompt, fact.target_true, first_token=True)
        known.append(asked.target_ids[0] == token_id)
    return known


@checked()
def known_among(
    lm: LanguageModel,
    prompts: Sequence[KnownFact],
    limit: int | None = None,
    progress: ProgressCallback = silent,
) -> list[KnownFact]:
    """Those of some prompts that a model completes with the right first token, as they are.

    Each is numbered anew, and says how the model went on.

    Args:
        lm: the model.
        prompts: as read; see `factlab.data.known_sources`.
        limit: the first ones, so many.
        progress: True for a bar, or a function that is called with prompts asked and in all.

    Raises:
        InvalidRequestError: no prompt is known.
    """
    is_known = knows(lm, [prompt.fact for prompt in prompts], progress=progress)
    known = [prompt for prompt, yes in zip(prompts, is_known, strict=True) if yes][:limit]
    if not known:
        raise InvalidRequestError(f"The model knows none of {counted(len(prompts), 'prompt')}.")
    texts = [prompt.prompt for prompt in known]
    n_tokens = room_behind(lm, texts, _MAX_NEW_TOKENS)
    said = lm.generate_batch(texts, max_new_tokens=n_tokens, return_full_text=False)
    return [
        replace(prompt, known_id=number, prediction=text)
        for number, (prompt, text) in enumerate(zip(known, said, strict=True))
    ]


@checked(in_steps=True)
def build_known(
    lm: LanguageModel,
    triples: Sequence[Triple],
    templates: Mapping[str, Sequence[str]],
    limit: int | None = None,
    progress: ProgressCallback = silent,
) -> list[KnownFact]:
    """Ask the model for every fact, template after template until one is answered right.

    Args:
        lm: the model.
        triples: facts to ask for.
        templates: by relation; each ends where the object would follow.
        limit: stop when so many are known.
        progress: True for a bar, or a function that is called with facts asked for and in all.

    Raises:
        InvalidRequestError: no relation has a template, or no fact is known.
    """
    askable = [triple for triple in triples if templates.get(triple.relation_id)]
    if not askable:
        raise InvalidRequestError(
            "No fact has a template: the two files have no relation in common."
        )
    known: list[KnownFact] = []
    for i in range(0, len(askable), _ASKED_AT_ONCE):
        progress("asking the model", i, len(askable))
        known += _ask(lm, askable[i : i + _ASKED_AT_ONCE], templates)
        if limit is not None and len(known) >= limit:
            break
    progress("asking the model", len(askable), len(askable))
    if not known:
        raise InvalidRequestError(f"The model knows none of {counted(len(askable), 'fact')}.")
    return [
        KnownFact(number, f.subject, f.attribute, f.template, f.prediction, f.prompt, f.relation_id)
        for number, f in enumerate(known[:limit])
    ]


def _ask(
    lm: LanguageModel, triples: Sequence[Triple], templates: Mapping[str, Sequence[str]]
) -> Iterator[KnownFact]:
    """The known ones among some facts, in their order."""
    found: dict[int, KnownFact] = {}
    for attempt in range(max(len(templates[triple.relation_id]) for triple in triples)):
        asked = {
            i: triple.phrased(templates[triple.relation_id][attempt])
            for i, triple in enumerate(triples)
            if i not in found and attempt < len(templates[triple.relation_id])
        }
        if not asked:
            continue
        prompts = [fact.prompt for fact in asked.values()]
        n_tokens = room_behind(lm, prompts, _MAX_NEW_TOKENS)
        texts = lm.generate_batch(prompts, max_new_tokens=n_tokens, return_full_text=False)
        candidates = {
            i: known
            for (i, fact), text in zip(asked.items(), texts, strict=True)
            if (known := _read(fact, triples[i], text)) is not None
        }
        # Cut off before the object, the prompt may split into other tokens: ask once more.
        confirmed = knows(lm, [known.fact for known in candidates.values()]) if candidates else []
        for (i, known), is_known in zip(candidates.items(), confirmed, strict=True):
            if is_known:
                found[i] = known
    for i in sorted(found):
        yield found[i]


def _read(fact: Fact, triple: Triple, continuation: str) -> KnownFact | None:
    """The known fact, if the continuation names the object before another capitalised word."""
    at = find_words(continuation, triple.object)
    if at is None:
        return None
    before = continuation[:at]
    if any(word[0].isupper() for word in re.findall(r"\w+", before)):
        return None
    return KnownFact(
        known_id=0,
        subject=triple.subject,
        attribute=triple.object,
        template=fact.template,
        prediction=continuation,
        prompt=(fact.prompt.rstrip(" ") + before).rstrip(),
        relation_id=triple.relation_id,
    )
