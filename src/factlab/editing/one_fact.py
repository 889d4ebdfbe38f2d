"""One fact edited: what the model says next before and after, and what was changed."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from factlab.arguments import checked
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig
from factlab.editing.edit import Edit
from factlab.editing.method import Method
from factlab.editing.methods import method_named
from factlab.errors import counted
from factlab.facts import Fact
from factlab.models.answers import answers
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.results import Tabular

_N_TOKENS = 3

# Tokens and their probabilities, the most probable first.
TopTokens = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, repr=False)
class EditedFact(Tabular):
    """An edit of one fact, and what the model says next without and with it.

    Attributes:
        fact: what was written.
        edit: the edit.
        before: the most probable next tokens after the fact's prompt.
        after: the same with the edit.
        already_said: what the model said before, if that was the new target already.
        shares: each changed weight, and the size of its change as a share of its norm.
    """

    fact: Fact
    edit: Edit
    before: TopTokens
    after: TopTokens
    already_said: str | None
    shares: tuple[tuple[str, float], ...]

    def __repr__(self) -> str:
        was, now = self.before[0], self.after[0]
        return (
            f"EditedFact by {self.edit.method}: {self.fact.prompt} …\n"
            f"  {was[0]!r} {was[1]:.3f} -> {now[0]!r} {now[1]:.3f}\n"
            f"  {self.changes_in_words()}"
        )

    def changes_in_words(self) -> str:
        """Which weights were changed, by how much, why there, and in how many steps."""
        if self.edit.prefix:
            return (
                f"No weight is changed. In front of every prompt stands: {self.edit.prefix.strip()}"
            )
        parts = [f"{name} by {share:.1%} of its norm" for name, share in self.shares]
        how: list[str] = []
        if source := self.edit.diagnostics.get("layer_source"):
            how.append(f"layer: {source}")
        if steps := len(self.edit.diagnostics.get("loss", [])):
            how.append(counted(steps, "step"))
        return f"Changed: {'; '.join(parts)}" + (f" ({'; '.join(how)})." if how else ".")

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per rank among the next tokens.

        Its keys: before, prob_before, after, prob_after.
        """
        return [
            {"before": was, "prob_before": prob_was, "after": now, "prob_after": prob_now}
            for (was, prob_was), (now, prob_now) in zip(self.before, self.after, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """All but the numbers of the edit, ready for JSON."""
        return {
            "prompt": self.fact.prompt,
            "before": [{"token": token, "prob": prob} for token, prob in self.before],
            "after": [{"token": token, "prob": prob} for token, prob in self.after],
            "already_said": self.already_said is not None,
            "edit": {
                "method": self.edit.method,
                "config": self.edit.config,
                "diagnostics": self.edit.diagnostics,
            },
        }


@checked(several="fl.edit_each")
def edit_fact(
    lm: LanguageModel,
    fact: Fact,
    method: str | Method = "rome",
    config: MethodConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> EditedFact:
    """Edit one fact, and ask the model before and after.

    Args:
        lm: the model, left as it is.
        fact: what to write.
        method: see `METHODS`.
        config: of that method.
        background: statistics and contexts that are at hand.
        progress: True for a bar, or a function that is told what is going on.

    Raises:
        InvalidRequestError: there is no such method, or the fact has nothing to write.
        EditError: the edit failed.

    Examples:
        >>> result = fl.editing.edit_fact(lm, fact)
        >>> token, probability = result.after[0]
        >>> result.edit.save("the-tower-in-rome")
    """
    chosen = method_named(method)
    before = tuple(lm.top_tokens(fact.prompt, _N_TOKENS))
    (answer,) = answers(lm, [fact])
    (edit,) = chosen.each(lm, [fact], config, background, progress)
    with nullcontext() if edit.prefix else edit.applied(lm):
        after = tuple(lm.top_tokens(edit.in_front_of(fact.prompt), _N_TOKENS))
    return EditedFact(
        fact=fact,
        edit=edit,
        before=before,
        after=after,
        already_said=answer.said if answer.says_new else None,
        shares=_shares(lm, edit),
    )


def _shares(lm: LanguageModel, edit: Edit) -> tuple[tuple[str, float], ...]:
    """How large the change of each weight is beside the weight."""
    shares: list[tuple[str, float]] = []
    for update in edit.updates:
        weight = lm.layers.weight(update.weight_name).detach().cpu().double().norm()
        shares.append((update.weight_name, update.norm / float(weight)))
    return tuple(shares)
