"""The clean and the corrupted run, and what they leave behind for restorations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import InvalidRequestError, TokenizationError
from factlab.facts import Fact, TokenSpan
from factlab.hooks import Site, Stream, intervene, record
from factlab.models.cache import RecordingCache
from factlab.models.language_model import LanguageModel
from factlab.models.replay import Hidden
from factlab.tokens import TokenBatch, Tokens, pad
from factlab.tracing.configs import AnswerRule, TraceConfig
from factlab.tracing.corruption import draw_noise, put_noise, with_level
from factlab.tracing.corruption_kinds import Substitution


@dataclass(frozen=True, slots=True)
class Answer:
    """What is followed, and how likely it is in a run.

    Attributes:
        ids: the answer's tokens; just the first of them unless the whole answer is followed.
        rule: how the probabilities of several tokens become one.
    """

    ids: tuple[int, ...]
    rule: AnswerRule

    def probs(
        self, lm: LanguageModel, states: Float[Tensor, "row read d_model"]
    ) -> Float[Tensor, " row"]:
        """P(answer) of each row, given what leaves the last layer where answer tokens are read."""
        return self.logprobs(lm, states).exp()

    def logprobs(
        self, lm: LanguageModel, states: Float[Tensor, "row read d_model"]
    ) -> Float[Tensor, " row"]:
        """Log P(answer) of each row, on the CPU."""
        per_chunk = max(1, lm.budget.readout_tokens // len(self.ids))
        return torch.cat([self._logprobs(lm, chunk) for chunk in states.split(per_chunk)])

    def _logprobs(self, lm: LanguageModel, states: Tensor) -> Tensor:
        logits = lm.readout(states.flatten(0, 1)).float().unflatten(0, states.shape[:2])
        ids = torch.tensor(self.ids, device=logits.device).expand(len(states), -1)
        logprobs = logits.gather(2, ids[..., None])[..., 0] - logits.logsumexp(-1)
        total = logprobs.mean(1) if self.rule == "per_token" else logprobs.sum(1)
        return total.cpu()


@dataclass(frozen=True, slots=True)
class CleanRun:
    """The prompt as it is.

    Attributes:
        tokens: of the prompt, without the answer.
        span: the subject's tokens.
        answer: what is followed.
        prob: its probability.
        said_id: the token that the model finds most probable after the prompt.
        states: for each site of the clean run (pos, width).
    """

    tokens: Tokens
    span: TokenSpan
    answer: Answer
    prob: float
    said_id: int
    states: dict[Site, Tensor]


@dataclass(frozen=True, slots=True)
class CorruptedRun:
    """Rows of one corrupted prompt that differ in their noise.

    Attributes:
        samples: which of the noise samples they are.
        batch: its tokens, those of the answer that are read included, once per sample.
        aligned: the position in this run of each position of the clean prompt that it has.
        embedded: what the token embedding gives, corruption included, (sample, pos, width).
        inputs: the input of each layer, and of the readout, (sample, pos, d_model).
        cache: keys and values of all tokens.
        states: MLP and attention outputs, (sample, pos, d_model).
        probs: P(answer) of each sample.
        noise_level: size of the noise; None where there is none.
    """

    samples: range
    batch: TokenBatch
    aligned: dict[int, int]
    embedded: Float[Tensor, "sample pos width"]
    inputs: list[Hidden]
    cache: RecordingCache
    states: dict[Site, Tensor]
    probs: Float[Tensor, " sample"]
    noise_level: float | None


def run_clean(lm: LanguageModel, fact: Fact, answer: str | None, config: TraceConfig) -> CleanRun:
    """Run the prompt, choose the answer that is followed, and keep every state.

    Raises:
        InvalidRequestError: the whole answer is to be followed but none is known.
    """
    tokens, span = lm.encode_fact(fact)
    if config.answer != "first_token" and answer is None:
        answer = fact.target_true
        if answer is None:
            raise InvalidRequestError(
                "A whole answer is to be followed, and none was given. Pass answer=..., or a fact "
                "with target_true."
            )
    ids = list(tokens.ids)
    answer_ids: tuple[int, ...] = ()
    if answer is not None:
        whole, n_prompt = lm.encode_continuation(fact.prompt, answer)
        if whole.ids[:n_prompt] != tokens.ids:
            raise TokenizationError(
                f"The tokens of the prompt change when '{answer}' follows it. Trace another answer."
            )
        answer_ids = whole.ids[n_prompt:]
        if config.answer == "first_token":
            answer_ids = answer_ids[:1]
        ids += answer_ids[:-1]
        lm.check_length(len(ids))
    streams = (Stream.BLOCK, Stream.MLP, Stream.ATTN)
    sites = [Site(layer, stream) for layer in range(lm.n_layers) for stream in streams]
    sites.append(Site(0, Stream.EMBED))
    with record(lm, sites) as states:
        last = lm.run(lm.frame(pad([ids], lm.device)))[:, len(tokens) - 1 :]
    said_id = int(lm.readout(last[:, 0]).argmax())
    followed = Answer(answer_ids or (said_id,), config.answer)
    prob = float(followed.probs(lm, last))
    kept = {site: state[0] for site, state in states.items()}
    return CleanRun(tokens, span, followed, prob, said_id, kept)


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A corrupted run that is yet to be made.

    Attributes:
        samples: which of the noise samples it is of.
        ids: of its prompt, and of the answer's tokens that are read.
        aligned: for each position of the clean prompt that has one, the position here.
        corrupt: what is done to the embeddings.
        noise_level: size of the noise; None where there is none.
    """

    samples: range
    ids: tuple[int, ...]
    aligned: dict[int, int]
    corrupt: Callable[[Tensor], Tensor]
    noise_level: float | None

    def run(self, lm: LanguageModel, clean: CleanRun) -> CorruptedRun:
        """Run it, and keep what restorations need of it."""
        batch = pad([self.ids] * len(self.samples), lm.device)
        cache = RecordingCache(lm.n_layers, batch.width)
        at_embedding = Site(0, Stream.EMBED)
        with intervene(lm, {at_embedding: self.corrupt}), record(lm, [at_embedding]) as embedded:
            frame = lm.frame(batch, cache)
        sites = [
            Site(i, stream) for i in range(lm.n_layers) for stream in (Stream.MLP, Stream.ATTN)
        ]
        inputs = [frame.entry]
        with record(lm, sites) as states:
            for layer in range(lm.n_layers):
                inputs.append(lm.step(frame, inputs[-1], layer))
        return CorruptedRun(
            samples=self.samples,
            batch=batch,
            aligned=self.aligned,
            embedded=embedded[at_embedding],
            inputs=inputs,
            cache=cache,
            states=states,
            probs=clean.answer.probs(lm, inputs[-1][:, -len(clean.answer.ids) :]),
            noise_level=self.noise_level,
        )


def plan_corrupted(
    lm: LanguageModel, fact: Fact, clean: CleanRun, config: TraceConfig, facts: Sequence[Fact]
) -> list[PlannedRun]:
    """How to run the corrupted prompt: the noise samples in batches, or a run per substitute."""
    corruption = with_level(config.corruption, lm, fact, facts)
    tail = clean.answer.ids[:-1]
    if isinstance(corruption, Substitution):
        return [_substituted(lm, fact, clean, subject) for subject in corruption.subjects]
    span = corruption.corrupted_span(clean.span, len(clean.tokens))
    noise, level = draw_noise(corruption, lm, config.samples, span.stop - span.start, config.seed)
    noise = noise.to(lm.device)
    ids = (*clean.tokens.ids, *tail)
    aligned = {i: i for i in range(len(clean.tokens))}
    at_once = _samples_at_once(lm, len(ids), config)
    planned: list[PlannedRun] = []
    for start in range(0, config.samples, at_once):
        samples = range(start, min(start + at_once, config.samples))
        some = noise[samples.start : samples.stop]
        corrupt = partial(put_noise, noise=some, span=span, replace=corruption.replace)
        planned.append(PlannedRun(samples, ids, aligned, corrupt, level))
    return planned


def _samples_at_once(lm: LanguageModel, width: int, config: TraceConfig) -> int:
    """Noise samples whose run fits into half of the memory, of which much is kept."""
    sizes = lm.budget.sizes
    # The input of every layer, outputs of attention and MLP, and each of these put back once.
    kept = (5 * lm.n_layers + 2) * sizes.state + sizes.cached
    if config.method == "gradient":
        kept += sizes.gradient
    return lm.budget.at_most(width * kept, 0.5)


def _substituted(lm: LanguageModel, fact: Fact, clean: CleanRun, subject: str) -> PlannedRun:
    other = Fact(fact.template, subject)
    tokens, span = lm.encode_fact(other)
    aligned = _aligned(clean, len(tokens), span)
    if aligned is None:
        raise TokenizationError(
            f"With '{subject}' for '{fact.subject}' the text around the subject splits into "
            f"{len(tokens) - (span.stop - span.start)} tokens instead of "
            f"{len(clean.tokens) - (clean.span.stop - clean.span.start)}. Choose another subject."
        )
    ids = (*tokens.ids, *clean.answer.ids[:-1])
    lm.check_length(len(ids))
    return PlannedRun(range(1), ids, aligned, _as_it_is, None)


def _as_it_is(embedded: Tensor) -> Tensor:
    return embedded


def _aligned(clean: CleanRun, n_tokens: int, span: TokenSpan) -> dict[int, int] | None:
    """Positions of a sentence with another subject, by positions of the clean one."""
    before, after = clean.span.start, len(clean.tokens) - clean.span.stop
    if (before, after) != (span.start, n_tokens - span.stop):
        return None
    shared = min(clean.span.stop - clean.span.start, span.stop - span.start)
    pairs = {i: i for i in range(before)}
    behind = range(1, after + shared + 1)
    return pairs | {len(clean.tokens) - i: n_tokens - i for i in reversed(behind)}
