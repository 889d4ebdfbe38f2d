"""How a model takes targets after prompts, for many prompts and many edited models at once.

A prompt is run once for all its targets. A target's tokens follow it: those of the longest target
in the same row, those of the others behind the prompt's keys and values. The last token of a target
is predicted, never read; logits are computed where a token is predicted, and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.evaluation.measuring.rows import Heard
from factlab.models.cache import Prefix, RecordingCache
from factlab.models.changes.carried import Carried, carrying
from factlab.models.language_model import LanguageModel
from factlab.tokens import groups, pad

# Tokens in a batch that keep a CPU busy.
_ENOUGH_ON_CPU = 384
# Logits that are held at once, in tokens.
_READ_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, what is asked of it, and which edited model is asked.

    Attributes:
        prompt: ends where a target would follow.
        targets: at least one.
        owner: number of the edit.
    """

    prompt: str
    targets: tuple[str, ...]
    owner: int = 0


@dataclass(frozen=True, slots=True)
class _Path:
    """One target behind a prompt: the ids of both, and where the prompt ends."""

    ids: tuple[int, ...]
    n_prompt: int


@dataclass(frozen=True, slots=True)
class _Branches:
    """A prompt with its targets. The longest is the stem; others leave it after `n_shared` ids."""

    owner: int
    paths: tuple[_Path, ...]

    @property
    def stem(self) -> _Path:
        """The longest path: what goes through the model in a row of its own."""
        return max(self.paths, key=lambda path: len(path.ids))

    def n_shared(self, number: int) -> int:
        """How many of the ids that a path reads are the stem's."""
        own = self.paths[number].ids[:-1]
        pairs = enumerate(zip(own, self.stem.ids, strict=False))
        return next((i for i, (one, other) in pairs if one != other), len(own))

    @property
    def twigs(self) -> list[int]:
        """Numbers of the paths that read ids which the stem does not have."""
        every = enumerate(self.paths)
        return [i for i, path in every if self.n_shared(i) < len(path.ids) - 1]


@torch.no_grad()
def hear(
    lm: LanguageModel,
    questions: Sequence[Question],
    changes: Mapping[str, Carried],
    max_batch_tokens: int,
) -> list[tuple[Heard, ...]]:
    """Ask the questions; one `Heard` per target of each.

    Args:
        lm: the model.
        questions: what to ask. Equal questions are asked once.
        changes: what owners stand for (`row_changes`); none ask the model as it is.
        max_batch_tokens: most tokens that go through the model at once.

    Raises:
        InvalidRequestError: a target is empty.
        TokenizationError: a prompt is empty or too long, or a target makes no token of its own.
    """
    asked = {question: _branches(lm, question) for question in dict.fromkeys(questions)}
    branches = list(asked.values())
    found: list[list[Heard]] = [[] for _ in branches]
    lengths = [len(b.stem.ids) - 1 for b in branches]
    enough = _ENOUGH_ON_CPU if lm.device.type == "cpu" else None
    with lm.frozen():
        for numbers in groups(lengths, max_batch_tokens, enough):
            heard = _hear_batch(lm, [branches[i] for i in numbers], changes)
            for i, answers in zip(numbers, heard, strict=True):
                found[i] = answers
    by_question = dict(zip(asked, found, strict=True))
    return [tuple(by_question[question]) for question in questions]


def _branches(lm: LanguageModel, question: Question) -> _Branches:
    paths: list[_Path] = []
    for target in question.targets:
        made = lm.continuation(question.prompt, target)
        paths.append(_Path(made.ids, made.n_prompt))
    return _Branches(question.owner, tuple(paths))


def _hear_batch(
    lm: LanguageModel, batch: Sequence[_Branches], changes: Mapping[str, Carried]
) -> list[list[Heard]]:
    twigs = [(row, number) for row, branch in enumerate(batch) for number in branch.twigs]
    stems = pad([branch.stem.ids[:-1] for branch in batch], lm.device)
    cache = RecordingCache(lm.n_layers, stems.width) if twigs else None
    with carrying(lm, changes, [branch.owner for branch in batch]):
        stem_states = lm.run(lm.frame(stems, cache))
    twig_states = {} if cache is None else _run_twigs(lm, batch, twigs, cache, changes)

    states: list[Tensor] = []
    for row, branch in enumerate(batch):
        for number, path in enumerate(branch.paths):
            own = stem_states[row]
            if (row, number) in twig_states:
                own = torch.cat([own[: branch.n_shared(number)], twig_states[row, number]])
            states.append(own[path.n_prompt - 1 : len(path.ids) - 1])
    wanted = [i for branch in batch for path in branch.paths for i in path.ids[path.n_prompt :]]
    heard = iter(_read(lm, states, wanted))
    return [[next(heard) for _ in branch.paths] for branch in batch]


def _run_twigs(
    lm: LanguageModel,
    batch: Sequence[_Branches],
    twigs: Sequence[tuple[int, int]],
    cache: RecordingCache,
    changes: Mapping[str, Carried],
) -> dict[tuple[int, int], Float[Tensor, "_ d_model"]]:
    """Last states of the ids of each twig that its stem does not have."""
    rows = [row for row, _ in twigs]
    read = [batch[row].paths[number].ids[:-1] for row, number in twigs]
    shared = [batch[row].n_shared(number) for row, number in twigs]
    prefix = Prefix.of(cache, shared, rows=rows)
    with carrying(lm, changes, [batch[row].owner for row in rows]):
        states = lm.run(lm.frame(pad(read, lm.device, align=shared), prefix, max(shared)))
    return {
        twig: states[i, : len(ids) - n]
        for i, (twig, ids, n) in enumerate(zip(twigs, read, shared, strict=True))
    }


def _read(
    lm: LanguageModel, states: Sequence[Float[Tensor, "_ d_model"]], wanted: Sequence[int]
) -> list[Heard]:
    """What the states before each target's tokens say of these tokens."""
    logprobs: list[float] = []
    top: list[bool] = []
    ids = torch.tensor(wanted, device="cpu")
    for some, some_ids in zip(
        torch.cat(list(states)).split(_READ_AT_ONCE), ids.split(_READ_AT_ONCE), strict=True
    ):
        logits = lm.readout(some)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        found = logits.gather(1, some_ids.to(logits.device)[:, None])[:, 0]
        logprobs += (found - logits.logsumexp(-1)).tolist()
        top += (logits.argmax(-1).cpu() == some_ids).tolist()
    heard: list[Heard] = []
    at = 0
    for state in states:
        stop = at + len(state)
        heard.append(Heard(logprobs=tuple(logprobs[at:stop]), top=tuple(top[at:stop])))
        at = stop
    return heard
