"""The clean and the corrupted run, and what they leave behind for restorations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.facts import Fact, TokenSpan
from factlab.hooks import Site, Stream, intervene, record
from factlab.models.engines.engine import Hidden
from factlab.models.engines.kept import Prefix, Recording
from factlab.models.language_model import LanguageModel
from factlab.models.reading import token_logprobs, wide_logits
from factlab.models.texts import check_length
from factlab.tokens import TokenBatch, encode, pad
from factlab.tracing.configs import AnswerRule, TraceConfig
from factlab.tracing.corruption import draw_noise, put_noise, with_level
from factlab.tracing.corruption_kinds import Substitution


@dataclass(frozen=True, slots=True)
class CleanRun:
    """The prompt as it is.

    Attributes:
        continuation: the prompt and the answer that is followed: just its first token, or all.
        rule: how the probabilities of several tokens become one.
        prob: of the answer.
        said_id: the token that the model finds most probable after the prompt.
        expected_id: the first token of the answer that was given or is known, if one is and it has
            tokens of its own.
        states: for each site of the clean run (pos, width).
    """

    continuation: Continuation
    rule: AnswerRule
    prob: float
    said_id: int
    expected_id: int | None
    states: dict[Site, Tensor]

    @property
    def span(self) -> TokenSpan:
        """The subject's tokens."""
        return self.continuation.subject

    def probs(
        self, lm: LanguageModel, states: Float[Tensor, "row read d_model"]
    ) -> Float[Tensor, " row"]:
        """P(answer) of each row, given what leaves the last layer where answer tokens are read."""
        return self.logprobs(lm, states).exp()

    def logprobs(
        self, lm: LanguageModel, states: Float[Tensor, "row read d_model"]
    ) -> Float[Tensor, " row"]:
        """Log P(answer) of each row, on the CPU."""
        return answer_logprobs(lm, states, self.continuation.target_ids, self.rule)


def answer_logprobs(
    lm: LanguageModel,
    states: Float[Tensor, "row read d_model"],
    answer_ids: Sequence[int],
    rule: AnswerRule,
) -> Float[Tensor, " row"]:
    """Log P of an answer in each row, on the CPU; gradients flow.

    Args:
        lm: the model.
        states: what leaves the last layer where each of the answer's tokens is predicted.
        answer_ids: these tokens.
        rule: how the probabilities of several tokens become one.
    """
    ids = torch.tensor(answer_ids, dtype=torch.long, device="cpu")
    by_row: list[Tensor] = []
    for part in states.split(max(1, lm.budget.readout_tokens // len(ids))):
        logits = wide_logits(lm, part.flatten(0, 1))
        logprobs = token_logprobs(logits, ids.repeat(len(part))).view(len(part), -1)
        by_row.append(logprobs.mean(1) if rule == "per_token" else logprobs.sum(1))
    return torch.cat(by_row).cpu()


@dataclass(frozen=True, slots=True)
class CorruptedRun:
    """Rows of one corrupted prompt that differ in their noise.

    Attributes:
        samples: which of the noise samples they are.
        batch: its tokens, those of the answer that are read included, once per sample.
        aligned: the position in this run of each position of the clean prompt that it has.
        embedded: what the token embedding gives, corruption included, (sample, pos, width).
        inputs: the input of each layer, and of the readout, (sample, pos, d_model); of a model
            whose layers are not run one by one, of the readout alone.
        cache: what layers kept of all tokens; None of such a model.
        states: MLP and mixer outputs, (sample, pos, d_model); of such a model also those of blocks.
        probs: P(answer) of each sample.
        noise_level: size of the noise; None where there is none.
        redrawn: as `embedded`, with the noise that severed paths have if it is drawn anew.
    """

    samples: range
    batch: TokenBatch
    aligned: dict[int, int]
    embedded: Float[Tensor, "sample pos width"]
    inputs: list[Hidden]
    cache: Recording | None
    states: dict[Site, Tensor]
    probs: Float[Tensor, " sample"]
    noise_level: float | None
    redrawn: Float[Tensor, "sample pos width"] | None = None

    def state(self, site: Site) -> Float[Tensor, "sample pos width"]:
        """The state at a site of a layer."""
        found = self.states.get(site)
        return self.inputs[site.layer + 1] if found is None else found

    def left_of(self, column: int) -> Prefix:
        """What layers kept of the tokens left of a column."""
        if self.cache is None:
            raise RuntimeError("nothing is kept of a run in one pass")
        return self.cache.prefix(column)


def run_clean(lm: LanguageModel, fact: Fact, answer: str | None, config: TraceConfig) -> CleanRun:
    """Run the prompt, choose the answer that is followed, and keep every state.

    Raises:
        InvalidRequestError: the whole answer is to be followed but none is known.
    """
    first_token = config.answer == "first_token"
    if not first_token and answer is None:
        answer = fact.target_true
        if answer is None:
            raise InvalidRequestError(
                "A whole answer is to be followed, and none was given. Pass answer=..., or a fact "
                "with target_true."
            )
    prompt = lm.fact_continuation(fact)
    followed = prompt
    if answer is not None:
        followed = lm.continuation(fact.prompt, answer, first_token)
        if followed.prompt_ids != prompt.inputs:
            raise TokenizationError(
                f"The tokens of the prompt change when '{answer}' follows it. Trace another answer."
            )
    streams = (Stream.BLOCK, Stream.MLP, Stream.ATTN)
    sites = [*_sites(lm, streams), Site(0, Stream.EMBED)]
    with record(lm, sites) as states:
        hidden = lm.run(lm.frame(pad([followed.inputs], lm.device)))
    last = hidden[:, prompt.n_prompt - 1 :]
    said_id = int(lm.readout(last[:, 0]).argmax())
    expected_id = followed.target_ids[0] if answer is not None else _first_id(lm, fact)
    followed = replace(
        followed,
        target_ids=followed.target_ids or (said_id,),
        lookup=prompt.lookup,
        subject=prompt.subject,
    )
    prob = float(answer_logprobs(lm, last, followed.target_ids, config.answer).exp())
    kept = {site: state[0] for site, state in states.items()}
    return CleanRun(followed, config.answer, prob, said_id, expected_id, kept)


def _sites(lm: LanguageModel, streams: Sequence[Stream]) -> list[Site]:
    """All that a model has of some streams."""
    every = [Site(layer, stream) for layer in range(lm.n_layers) for stream in streams]
    return [site for site in every if lm.layers.has(site)]


def _first_id(lm: LanguageModel, fact: Fact) -> int | None:
    """The first token of the true target, if that is known and has tokens of its own."""
    if fact.target_true is None:
        return None
    try:
        whole = encode(lm.tokenizer, fact.prompt, fact.target_true)
    except TokenizationError:  # an answer that is not followed need not have them
        return None
    return whole.ids[whole.n_prompt]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A corrupted run that is yet to be made.

    Attributes:
        samples: which of the noise samples it is of.
        ids: of its prompt, and of the answer's tokens that are read.
        aligned: for each position of the clean prompt that has one, the position here.
        corrupt: what is done to the embeddings.
        noise_level: size of the noise; None where there is none.
        redraw: the same with noise drawn anew, for severed paths; None where they keep the same.
    """

    samples: range
    ids: tuple[int, ...]
    aligned: dict[int, int]
    corrupt: Callable[[Tensor], Tensor]
    noise_level: float | None
    redraw: Callable[[Tensor], Tensor] | None = None

    def run(self, lm: LanguageModel, clean: CleanRun) -> CorruptedRun:
        """Run it, and keep what restorations need of it."""
        batch = pad([self.ids] * len(self.samples), lm.device)
        if not lm.engine.replays_other_texts:
            return self._run_in_one_pass(lm, clean, batch)
        cache = lm.recording(batch.width)
        at_embedding = Site(0, Stream.EMBED)
        with intervene(lm, {at_embedding: self.corrupt}), record(lm, [at_embedding]) as embedded:
            frame = lm.frame(batch, cache)
        sites = _sites(lm, (Stream.MLP, Stream.ATTN))
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
            probs=clean.probs(lm, inputs[-1][:, -len(clean.continuation.target_ids) :]),
            noise_level=self.noise_level,
            redrawn=self._redrawn(clean),
        )

    def _run_in_one_pass(
        self, lm: LanguageModel, clean: CleanRun, batch: TokenBatch
    ) -> CorruptedRun:
        at_embedding = Site(0, Stream.EMBED)
        sites = [*_sites(lm, (Stream.BLOCK, Stream.MLP, Stream.ATTN)), at_embedding]
        with intervene(lm, {at_embedding: self.corrupt}), record(lm, sites) as states:
            last = lm.run(lm.frame(batch))
        return CorruptedRun(
            samples=self.samples,
            batch=batch,
            aligned=self.aligned,
            embedded=states[at_embedding],
            inputs=[last],
            cache=None,
            states=states,
            probs=clean.probs(lm, last[:, -len(clean.continuation.target_ids) :]),
            noise_level=self.noise_level,
            redrawn=self._redrawn(clean),
        )

    def _redrawn(self, clean: CleanRun) -> Float[Tensor, "sample pos width"] | None:
        if self.redraw is None:
            return None
        return self.redraw(clean.states[Site(0, Stream.EMBED)].expand(len(self.samples), -1, -1))


def plan_corrupted(
    lm: LanguageModel, fact: Fact, clean: CleanRun, config: TraceConfig, facts: Sequence[Fact]
) -> list[PlannedRun]:
    """How to run the corrupted prompt: the noise samples in batches, or a run per substitute."""
    corruption = with_level(config.corruption, lm, clean.continuation.subject_ids, facts)
    n_prompt = clean.continuation.n_prompt
    if isinstance(corruption, Substitution):
        return [_substituted(lm, fact, clean, subject) for subject in corruption.subjects]
    span = corruption.corrupted_span(clean.span, n_prompt)
    draw = partial(draw_noise, corruption, lm, config.samples, span.stop - span.start, config.seed)
    noise, level = draw()
    noise = noise.to(lm.device)
    second = draw(before=1)[0].to(lm.device) if config.redraws else None
    aligned = {i: i for i in range(n_prompt)}
    at_once = _samples_at_once(lm, len(clean.continuation.inputs), config)
    planned: list[PlannedRun] = []
    for start in range(0, config.samples, at_once):
        samples = range(start, min(start + at_once, config.samples))
        put = partial(_put_some, samples=samples, span=span, replace=corruption.replace)
        corrupt = partial(put, noise=noise)
        redraw = None if second is None else partial(put, noise=second)
        ids = clean.continuation.inputs
        planned.append(PlannedRun(samples, ids, aligned, corrupt, level, redraw))
    return planned


def _put_some(
    embedded: Tensor, noise: Tensor, samples: range, span: TokenSpan, replace: bool
) -> Tensor:
    return put_noise(embedded, noise[samples.start : samples.stop], span, replace)


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
    prompt = lm.fact_continuation(other)
    span, n_tokens = prompt.subject, prompt.n_prompt
    aligned = _aligned(clean, n_tokens, span)
    if aligned is None:
        raise TokenizationError(
            f"With '{subject}' for '{fact.subject}' the text around the subject splits into "
            f"{n_tokens - (span.stop - span.start)} tokens instead of "
            f"{clean.continuation.n_prompt - (clean.span.stop - clean.span.start)}. Choose another "
            "subject."
        )
    ids = (*prompt.inputs, *clean.continuation.target_ids[:-1])
    check_length(lm, len(ids))
    return PlannedRun(range(1), ids, aligned, _as_it_is, None)


def _as_it_is(embedded: Tensor) -> Tensor:
    return embedded


def _aligned(clean: CleanRun, n_tokens: int, span: TokenSpan) -> dict[int, int] | None:
    """Positions of a sentence with another subject, by positions of the clean one."""
    n_clean = clean.continuation.n_prompt
    before, after = clean.span.start, n_clean - clean.span.stop
    if (before, after) != (span.start, n_tokens - span.stop):
        return None
    shared = min(clean.span.stop - clean.span.start, span.stop - span.start)
    pairs = {i: i for i in range(before)}
    behind = range(1, after + shared + 1)
    return pairs | {n_clean - i: n_tokens - i for i in reversed(behind)}
