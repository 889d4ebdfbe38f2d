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
from factlab.models.answering import answers
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
        before_in_chat: the same as `before` in the model's chat template, if the fact was edited
            in it too.
        after_in_chat: the same with the edit.
    """

    fact: Fact
    edit: Edit
    before: TopTokens
    after: TopTokens
    already_said: str | None
    shares: tuple[tuple[str, float], ...]
    before_in_chat: TopTokens = ()
    after_in_chat: TopTokens = ()

    def __repr__(self) -> str:
        lines = [f"EditedFact by {self.edit.method}: {self.fact.prompt} …"]
        stages = (self.before, self.after), (self.before_in_chat, self.after_in_chat)
        for (befores, afters), where in zip(stages, ("", " in the chat template"), strict=True):
            for was, now in zip(befores[:1], afters[:1], strict=True):
                lines.append(f"  {was[0]!r} {was[1]:.3f} -> {now[0]!r} {now[1]:.3f}{where}")
        return "\n".join([*lines, f"  {self.changes_in_words()}"])

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

    def _tables(self) -> dict[str, list[dict[str, Any]]]:
        shares = dict(self.shares)
        changed = [row | {"share of its norm": shares[row["weight"]]} for row in self.edit.rows()]
        return {"What the model says next": self.rows(), "What is changed": changed}

    def to_json(self) -> dict[str, Any]:
        """All but the numbers of the edit, ready for JSON."""
        in_chat = {"before_in_chat": self.before_in_chat, "after_in_chat": self.after_in_chat}
        return {
            "prompt": self.fact.prompt,
            "before": _listed(self.before),
            "after": _listed(self.after),
            **{name: _listed(tokens) for name, tokens in in_chat.items() if tokens},
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
    chosen, prompts = method_named(method), [fact.prompt]
    if config is not None and config.chat_contexts is not None:
        prompts.append(lm.chat_forms().of(fact.prompt).around(fact.prompt))
    before = [tuple(lm.top_tokens(prompt, _N_TOKENS)) for prompt in prompts]
    (answer,) = answers(lm, [fact])
    (edit,) = chosen.each(lm, [fact], config, background, progress)
    with nullcontext() if edit.prefix else edit.applied(lm):
        after = [tuple(lm.top_tokens(edit.in_front_of(each), _N_TOKENS)) for each in prompts]
    return EditedFact(
        fact=fact,
        edit=edit,
        before=before[0],
        after=after[0],
        already_said=answer.said if answer.says_new else None,
        shares=_shares(lm, edit),
        before_in_chat=before[1] if before[1:] else (),
        after_in_chat=after[1] if after[1:] else (),
    )


def _listed(tokens: TopTokens) -> list[dict[str, Any]]:
    return [{"token": token, "prob": prob} for token, prob in tokens]


def _shares(lm: LanguageModel, edit: Edit) -> tuple[tuple[str, float], ...]:
    """How large the change of each weight is beside the weight."""
    shares: list[tuple[str, float]] = []
    for update in edit.updates:
        weight = lm.layers.weight(update.weight_name).detach().cpu().double().norm()
        shares.append((update.weight_name, update.norm / float(weight)))
    return tuple(shares)
