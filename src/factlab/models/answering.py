"""What a model says of facts: the text it goes on with, and how probable each target is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factlab.arguments import checked
from factlab.facts import Fact, words_of
from factlab.models.generation import decode_continuation
from factlab.models.language_model import LanguageModel
from factlab.models.texts import room_behind
from factlab.writing import behind, says


@dataclass(frozen=True, slots=True)
class Answer:
    """How a model answers one fact's prompt.

    Attributes:
        said: what it goes on with, greedily, for one token more than the longest target has.
        new_prob: length-normalised probability of `target_new`; None if there is none.
        true_prob: of `target_true`; None if that is not known.
        says_new: whether what it says begins with `target_new`, as whole words.
    """

    said: str
    new_prob: float | None
    true_prob: float | None
    says_new: bool

    @property
    def prefers_new(self) -> bool | None:
        """Whether the new target is more probable than the true one; None if one is not known."""
        if self.new_prob is None or self.true_prob is None:
            return None
        return self.new_prob > self.true_prob

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "said": self.said,
            "new_prob": self.new_prob,
            "true_prob": self.true_prob,
            "says_new": self.says_new,
            "prefers_new": self.prefers_new,
        }


@checked()
def answers(lm: LanguageModel, facts: Sequence[Fact], prefix: str = "") -> tuple[Answer, ...]:
    """How the model, as it is now, answers the prompts of some facts.

    Args:
        lm: the model, with whatever edits are on it.
        facts: to be asked; what they are to say may be missing.
        prefix: stands in front of every prompt, such as that of an in-context edit.

    Examples:
        >>> (answer,) = fl.models.answers(lm, [fact])
        >>> 0 <= answer.new_prob <= 1
        True
    """
    asked: list[tuple[int, str, str]] = []
    for i, fact in enumerate(facts):
        for kind, target in (("new", fact.target_new), ("true", fact.target_true)):
            if target is not None:
                asked.append((i, kind, target))
    prompts = [behind(prefix, fact.prompt) for fact in facts]
    scores = lm.score([prompts[i] for i, _, _ in asked], [target for _, _, target in asked])
    found: dict[tuple[int, str], float] = {}
    longest = 1
    for (i, kind, _), score in zip(asked, scores, strict=True):
        found[i, kind] = score.length_normalised_prob
        longest = max(longest, len(score.token_ids))
    # One token more, which tells whether the last word ends there: "Russian" is not "Russia".
    n_tokens = max(longest, room_behind(lm, prompts, longest + 1))
    texts = lm.generate_batch(prompts, max_new_tokens=n_tokens, return_full_text=False)
    result: list[Answer] = []
    for i, (fact, text) in enumerate(zip(facts, texts, strict=True)):
        said = text.strip()
        says_new = fact.target_new is not None and (
            says(said, words_of(fact.target_new))
            or says(said, _read(lm, prompts[i], fact.target_new))
        )
        result.append(Answer(said, found.get((i, "new")), found.get((i, "true")), says_new))
    return tuple(result)


def _read(lm: LanguageModel, prompt: str, target: str) -> str:
    """How a target reads where the model says it: some tokenizers know no capitals or accents."""
    made = lm.continuation(prompt, target)
    return decode_continuation(lm, made.prompt_ids, made.target_ids).strip()
