"""How a model takes targets after prompts, for many prompts and many edited models at once.

A prompt is run once for all its targets. A target's tokens follow it: those of the longest target
in the same row, those of the others behind the keys and values of what they share with it. Logits
are computed where a token of a target is predicted, and nowhere else. What many prompts begin with,
such as the head of a chat template, is run once for each edited model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.evaluation.measuring.rows import TargetScore
from factlab.models.changes.carried import Carried, carrying
from factlab.models.engines.kept import Prefix, Recording
from factlab.models.language_model import LanguageModel
from factlab.models.reading import read_tokens
from factlab.tokens import groups, pad


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with the targets it is asked for, and which edited model is asked.

    The longest continuation goes through the model in a row of its own. The others share a prefix
    with it, and what they have behind that, their suffix, is run on the keys and values of it.

    Attributes:
        continuations: the prompt with each target; at least one.
        owner: number of the edit.
        n_head: how many tokens of the prompt, not all of them, other questions to the same owner
            begin with too; they are run once.
    """

    continuations: tuple[Continuation, ...]
    owner: int = 0
    n_head: int = 0

    @classmethod
    def of(
        cls, lm: LanguageModel, prompt: str, targets: Sequence[str], owner: int = 0
    ) -> "Question":
        """Tokenise a prompt with each of its targets.

        Raises:
            InvalidRequestError: a target is empty.
            TokenizationError: a prompt is empty or too long, or a target makes no token of its own.
        """
        return cls(tuple(lm.continuation(prompt, target) for target in targets), owner)

    @property
    def longest(self) -> Continuation:
        """The one with most tokens."""
        return max(self.continuations, key=lambda each: len(each.inputs))

    def n_shared(self, number: int) -> int:
        """How many inputs of a continuation are the longest one's."""
        inputs = self.continuations[number].inputs
        pairs = enumerate(zip(inputs, self.longest.inputs, strict=False))
        return next((i for i, (one, other) in pairs if one != other), len(inputs))

    @property
    def branching(self) -> list[int]:
        """Numbers of the continuations that have a suffix: inputs which the longest has not."""
        every = enumerate(self.continuations)
        return [i for i, each in every if self.n_shared(i) < len(each.inputs)]


@torch.no_grad()
def score_targets(
    lm: LanguageModel,
    questions: Sequence[Question],
    changes: Mapping[str, Carried],
) -> list[tuple[TargetScore, ...]]:
    """Ask the questions; one score per target of each.

    Args:
        lm: the model.
        questions: what to ask. Equal questions are asked once.
        changes: what owners stand for (`row_changes`); none ask the model as it is.
    """
    unique: dict[int, list[Question]] = {}
    for question in dict.fromkeys(questions):
        unique.setdefault(question.n_head, []).append(question)
    scores: dict[Question, tuple[TargetScore, ...]] = {}
    with lm.frozen():
        for alike in unique.values():
            lengths = [len(question.longest.inputs) for question in alike]
            for numbers in groups(lengths, lm.budget.cached_tokens(), lm.budget.enough_tokens):
                batch = [alike[i] for i in numbers]
                scores |= zip(batch, _score_batch(lm, batch, changes), strict=True)
    return [scores[question] for question in questions]


def _score_batch(
    lm: LanguageModel, batch: Sequence[Question], changes: Mapping[str, Carried]
) -> list[tuple[TargetScore, ...]]:
    suffixes = [(row, number) for row, each in enumerate(batch) for number in each.branching]
    rows, n_head = pad([question.longest.inputs for question in batch], lm.device), batch[0].n_head
    cache = lm.recording(rows.width) if suffixes else None
    left = _heads(lm, batch, changes) if n_head else None
    if left is not None and cache is not None:
        cache.begin_with(left)
    with carrying(lm, changes, [question.owner for question in batch]):
        by_row = lm.run(lm.frame(rows, left if cache is None else cache, n_head))
    by_suffix = {} if cache is None else _run_suffixes(lm, batch, suffixes, cache, changes)

    states: list[Tensor] = []
    for row, question in enumerate(batch):
        for number, each in enumerate(question.continuations):
            inputs = by_row[row]  # those behind the head
            if (row, number) in by_suffix:
                shared = inputs[: question.n_shared(number) - n_head]
                inputs = torch.cat([shared, by_suffix[row, number]])
            states.append(inputs[each.reads[0] - n_head : len(each.inputs) - n_head])
    ids = [i for question in batch for each in question.continuations for i in each.target_ids]
    scores = iter(_read(lm, states, ids))
    return [tuple(next(scores) for _ in question.continuations) for question in batch]


def _heads(lm: LanguageModel, batch: Sequence[Question], changes: Mapping[str, Carried]) -> Prefix:
    """What is kept of the heads of some questions, a row for each; those of an owner run once."""
    heads = [(each.owner, each.longest.inputs[: each.n_head]) for each in batch]
    unique = list(dict.fromkeys(heads))
    rows = pad([ids for _, ids in unique], lm.device)
    cache = lm.recording(rows.width)
    with carrying(lm, changes, [owner for owner, _ in unique]):
        lm.run(lm.frame(rows, cache))
    place = {head: i for i, head in enumerate(unique)}
    return cache.prefix([rows.width] * len(heads), rows=[place[head] for head in heads])


def _run_suffixes(
    lm: LanguageModel,
    batch: Sequence[Question],
    suffixes: Sequence[tuple[int, int]],
    cache: Recording,
    changes: Mapping[str, Carried],
) -> dict[tuple[int, int], Float[Tensor, "_ d_model"]]:
    """Last states of each suffix."""
    rows = [row for row, _ in suffixes]
    inputs = [batch[row].continuations[number].inputs for row, number in suffixes]
    shared = [batch[row].n_shared(number) for row, number in suffixes]
    prefix = cache.prefix(shared, rows=rows)
    with carrying(lm, changes, [batch[row].owner for row in rows]):
        states = lm.run(lm.frame(pad(inputs, lm.device, align=shared), prefix, max(shared)))
    return {
        suffix: states[i, : len(ids) - n]
        for i, (suffix, ids, n) in enumerate(zip(suffixes, inputs, shared, strict=True))
    }


def _read(
    lm: LanguageModel, states: Sequence[Float[Tensor, "_ d_model"]], ids: Sequence[int]
) -> list[TargetScore]:
    """What the states before each target's tokens say of these tokens."""
    wanted = torch.tensor(ids, dtype=torch.long, device="cpu")
    logprobs, top = read_tokens(lm, torch.cat(list(states)), wanted)
    lengths = [len(state) for state in states]
    return [
        TargetScore(logprobs=tuple(values.tolist()), top=tuple(flags.tolist()))
        for values, flags in zip(logprobs.split(lengths), top.split(lengths), strict=True)
    ]
