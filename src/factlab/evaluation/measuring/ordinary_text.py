"""How probable whole texts are to edited models: drift, and the essence of a subject."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import InvalidRequestError, counted
from factlab.evaluation.measuring.rows import Drift
from factlab.models.changes.carried import Carried, carrying
from factlab.models.language_model import LanguageModel
from factlab.models.reading import log_distribution
from factlab.models.texts import tokenise
from factlab.tokens import groups, pad
from factlab.writing import check_texts

_PIECE = 64  # tokens of a row of ordinary text, BOS included


def text_nlls(
    lm: LanguageModel,
    texts: Sequence[str],
    owners: Sequence[int],
    changes: Mapping[str, Carried],
    max_tokens: int,
) -> list[float | None]:
    """Mean negative log-probability of each text's tokens after the first, in nats per token.

    Args:
        lm: the model.
        texts: each of at least two tokens; of one that is shorter the result is None. They may be
            longer than the model's context.
        owners: for each text the number of the edit with which it is read.
        changes: what owners stand for; none for the model as it is.
        max_tokens: no more of a text is read.
    """
    rows = [tokenise(lm, text).ids[:max_tokens] for text in texts]
    found: list[float | None] = [None] * len(rows)
    readable = [i for i, row in enumerate(rows) if len(row) > 1]
    read = _last_states(lm, [rows[i] for i in readable], [owners[i] for i in readable], changes)
    with closing(read):
        for number, states in read:
            i = readable[number]
            found[i] = _nll(log_distribution(lm, states), rows[i])
    return found


class OrdinaryText:
    """Text on which an edited model should be what it was; keeps the unedited model's last states.

    Args:
        lm: the model; edits that are applied to it are left out for the comparison.
        passages: the text.
        n_tokens: of it to read, BOS not counted.

    Raises:
        InvalidRequestError: there is not enough text, or a single token, after which nothing comes.
    """

    def __init__(self, lm: LanguageModel, passages: Sequence[str], n_tokens: int) -> None:
        if n_tokens < 2:
            raise InvalidRequestError(
                f"Drift cannot be measured on {n_tokens} token. Ask for 2 or more drift tokens."
            )
        check_texts(passages, "passages of ordinary text")
        encoded = [tokenise(lm, passage) for passage in passages if passage.strip()]
        ids = [i for tokens in encoded for i in tokens.ids[tokens.n_special :]][:n_tokens]
        if len(ids) < n_tokens:
            raise InvalidRequestError(
                f"The ordinary text has {counted(len(ids), 'token')}, not {n_tokens}. Give more, "
                "or ask for fewer drift tokens."
            )
        # Every row begins as the model would see the start of a text: with BOS, if it has one.
        start = encoded[0].ids[: encoded[0].n_special]
        step = _PIECE - len(start)
        pieces = [(*start, *ids[i : i + step]) for i in range(0, n_tokens, step)]
        self._lm = lm
        self._rows = [piece for piece in pieces if len(piece) > 1]
        with lm.patches.lifted():
            read = _last_states(lm, self._rows, [0] * len(self._rows), {})
            with closing(read):
                by_row = {number: states.clone() for number, states in read}
        # States, not the distributions that are read off them: these take far more room.
        self._unedited = [by_row[i] for i in range(len(self._rows))]

    def drift(self, n_owners: int, changes: Mapping[str, Carried]) -> list[Drift]:
        """Of the models with edits 0 to `n_owners` − 1."""
        # Piece by piece, so that what the unedited model says of one is worked out once for all.
        rows = [row for row in self._rows for _ in range(n_owners)]
        owners = [*range(n_owners)] * len(self._rows)
        kl, nll, count = ([0.0] * n_owners for _ in range(3))
        piece, before = -1, torch.empty(0, device="cpu")
        with closing(_last_states(self._lm, rows, owners, changes)) as read:
            for number, states in read:
                logprobs, owner, n_read = (
                    log_distribution(self._lm, states),
                    owners[number],
                    len(states),
                )
                if number // n_owners != piece:
                    piece = number // n_owners
                    before = log_distribution(self._lm, self._unedited[piece])
                apart = before.exp() * (before - logprobs)
                kl[owner] += float(apart.cpu().double().sum())
                nll[owner] += n_read * _nll(logprobs, rows[number])
                count[owner] += n_read
        return [
            # Rounding may take it below 0. NaN must stay NaN, which max(0.0, …) would not do.
            Drift(kl=0.0 if k < 0 else k / n, nll=total / n)
            for k, total, n in zip(kl, nll, count, strict=True)
        ]


def _last_states(
    lm: LanguageModel,
    rows: Sequence[Sequence[int]],
    owners: Sequence[int],
    changes: Mapping[str, Carried],
) -> Generator[tuple[int, Float[Tensor, "read d_model"]], None, None]:
    """Each row's number, and what leaves the last layer at its tokens but the last.

    The model is frozen until this is closed.
    """
    with lm.frozen():
        for numbers in groups([len(row) for row in rows], lm.budget.pass_tokens()):
            batch = pad([rows[i][:-1] for i in numbers], lm.device)
            with torch.no_grad(), carrying(lm, changes, [owners[i] for i in numbers]):
                states = lm.run(lm.frame(batch))
            for place, i in enumerate(numbers):
                yield i, states[place, : len(rows[i]) - 1]


def _nll(logprobs: Float[Tensor, "read vocab"], row: Sequence[int]) -> float:
    said = torch.tensor(row[1:], device=logprobs.device)
    return -float(logprobs.gather(1, said[:, None]).mean())
