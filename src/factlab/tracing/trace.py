"""Causal tracing of one fact (ROME paper, section 2.1).

Three runs: *clean*; *corrupted*, with noise on the subject's embeddings; and *corrupted with
restoration*, where one state of the corrupted run is put back to its clean value and everything
after it runs freely. How much of P(answer) comes back is the indirect effect of that state.

| paper | here |
|---|---|
| h_i^(l), m_i^(l), a_i^(l) | `Stream.BLOCK`, `MLP`, `ATTN` at layer l, position i |
| P[o], P*[o] | `clean_prob`, `corrupted_prob` |
| P*, clean h_i^(l) [o] − P*[o] | `effects["block"][i, l]` |

A restoration at position i and layer l changes nothing left of i and nothing below l. So the cells
of one position are run together over the tokens from i on: the walk goes up the layers once, with
the keys and values of the tokens on the left taken from the corrupted run, and each cell joins the
batch at the layer where it is restored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import InvalidRequestError
from factlab.facts import Fact, TokenSpan
from factlab.hooks import Site, Stream, intervene, record
from factlab.models.cache import Prefix, RecordingCache
from factlab.models.decoder import Decoder
from factlab.models.language_model import LanguageModel
from factlab.models.replay import Frame, Hidden
from factlab.progress import ProgressCallback, silent
from factlab.tokens import TokenBatch, Tokens, encode_continuation, pad, shown
from factlab.tracing.corruption import add_at, draw_noise, embedding_sigma
from factlab.tracing.result import CausalTrace, Kind, TraceConfig

_STREAMS: dict[Kind, Stream] = {"mlp": Stream.MLP, "attn": Stream.ATTN}


@torch.no_grad()
def causal_trace(
    lm: LanguageModel,
    fact_or_prompt: Fact | str,
    subject: str | None = None,
    answer: str | None = None,
    config: TraceConfig | None = None,
    sigma_facts: Sequence[Fact] | None = None,
    progress: ProgressCallback = silent,
) -> CausalTrace:
    """Find which states carry a fact.

    Args:
        lm: the model, left as it is.
        fact_or_prompt: a fact, or a whole prompt together with `subject`.
        subject: the part of the prompt to corrupt; its first occurrence is used.
        answer: whose first token to follow; by default the clean run's most probable token.
        config: see `TraceConfig`.
        sigma_facts: facts over whose subjects σ is taken; by default over this subject alone.
        progress: called with positions done and in all.

    Raises:
        InvalidRequestError: the subject is missing or not in the prompt, or a text is empty.
        TokenizationError: the prompt is longer than the model's context.
    """
    config = config or TraceConfig()
    fact = _as_fact(fact_or_prompt, subject)
    tokens, span = lm.encode_fact(fact)
    with lm.frozen():
        runs = _record_runs(lm, fact, tokens, span, answer, config, sigma_facts)
        positions = range(span.start, len(tokens))
        effects = {kind: torch.zeros(len(tokens), lm.n_layers) for kind in config.kinds}
        for done, position in enumerate(positions):
            progress("tracing", done, len(positions))
            for cell, effect in _effects_at(lm, runs, position, config):
                effects[cell.kind][position, cell.layer] = effect
        progress("tracing", len(positions), len(positions))
    return CausalTrace(
        prompt=tokens.text,
        tokens=tuple(shown(lm.tokenizer, tokens.ids)),
        subject_span=span,
        answer=shown(lm.tokenizer, [runs.answer_id])[0],
        clean_prob=runs.clean_prob,
        corrupted_prob=runs.corrupted_prob,
        effects=effects,
        noise_level=runs.noise_level,
        config=config,
        model_name=lm.name,
        fingerprint=lm.live_fingerprint,
    )


@torch.no_grad()
def strongest_mlp_layer(lm: LanguageModel, fact: Fact) -> int:
    """The layer whose MLP window has the largest effect at the last subject token.

    A quick look for where to edit: one position and one kind of a causal trace, with windows of a
    fifth of the model.
    """
    config = TraceConfig(kinds=("mlp",), window=max(1, lm.n_layers // 5))
    tokens, span = lm.encode_fact(fact)
    with lm.frozen():
        runs = _record_runs(lm, fact, tokens, span, None, config, None)
        cells = list(_effects_at(lm, runs, span.last, config))
    return max(cells, key=lambda item: item[1])[0].layer


def _as_fact(fact_or_prompt: Fact | str, subject: str | None) -> Fact:
    if isinstance(fact_or_prompt, Fact):
        return fact_or_prompt
    if subject is None:
        raise InvalidRequestError(
            "A prompt is traced by corrupting its subject, and none was given. "
            "Pass subject=..., exactly as written in the prompt."
        )
    return Fact.from_prompt(fact_or_prompt, subject)


# -- the clean and the corrupted run ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Runs:
    """What the clean and corrupted runs leave behind for restorations.

    `clean[site]` is (pos, width); `corrupted[l]` is the input of layer l, (sample, pos, d_model),
    for l up to and including n_layers; `cache` has its keys and values; `batch` holds the prompt
    once per sample.
    """

    batch: TokenBatch
    clean: dict[Site, Tensor]
    corrupted: list[Hidden]
    cache: RecordingCache
    answer_id: int
    clean_prob: float
    corrupted_prob: float
    noise_level: float


def _record_runs(
    lm: LanguageModel,
    fact: Fact,
    tokens: Tokens,
    span: TokenSpan,
    answer: str | None,
    config: TraceConfig,
    sigma_facts: Sequence[Fact] | None,
) -> _Runs:
    streams = (Stream.BLOCK, Stream.MLP, Stream.ATTN)
    sites = [Site(layer, stream) for layer in range(lm.n_layers) for stream in streams]
    single = pad([tokens.ids], lm.device)
    with record(lm, sites) as states:
        clean_out = lm.run(lm.frame(single))
    clean_probs = lm.readout(clean_out[:, -1]).float().softmax(-1)[0]
    if answer is None:
        answer_id = int(clean_probs.argmax())
    else:
        whole, n_prompt = encode_continuation(lm.tokenizer, fact.prompt, answer)
        answer_id = whole.ids[n_prompt]

    level = config.noise.resolve(lambda: embedding_sigma(lm, sigma_facts or [fact]))
    width = lm.embedding.weight.shape[1]
    noise = draw_noise(config.samples, span.stop - span.start, width, level, config.seed)
    batch = pad([tokens.ids] * config.samples, lm.device)
    cache = RecordingCache(lm.n_layers, len(tokens))
    with intervene(lm, {Site(0, Stream.EMBED): add_at(noise.to(lm.device), span)}):
        frame = lm.frame(batch, cache)
    corrupted = [frame.entry]
    for layer in range(lm.n_layers):
        corrupted.append(lm.step(frame, corrupted[-1], layer))
    return _Runs(
        batch=batch,
        clean={site: state[0] for site, state in states.items()},
        corrupted=corrupted,
        cache=cache,
        answer_id=answer_id,
        clean_prob=float(clean_probs[answer_id]),
        corrupted_prob=float(_answer_probs(lm, corrupted[-1][:, -1], answer_id).mean()),
        noise_level=level,
    )


def _answer_probs(
    lm: Decoder, last: Float[Tensor, "n d_model"], answer_id: int
) -> Float[Tensor, " n"]:
    return lm.readout(last).float().softmax(-1)[:, answer_id].cpu()


# -- restorations -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cell:
    """One restoration: a kind of state at layers `first` up to `stop`, entered at `layer`."""

    kind: Kind
    layer: int
    first: int
    stop: int

    @property
    def joins(self) -> int:
        """The first layer that runs differently from the corrupted run."""
        return self.stop if self.kind == "block" else self.first


def _cells(n_layers: int, config: TraceConfig) -> list[_Cell]:
    """Every restoration at one position, in the order in which they join the walk."""
    half = config.window // 2
    cells = [
        _Cell(kind, layer, layer, layer + 1)
        if kind == "block"
        else _Cell(kind, layer, max(0, layer - half), min(n_layers, layer - half + config.window))
        for kind in config.kinds
        for layer in range(n_layers)
    ]
    return sorted(cells, key=lambda cell: cell.joins)


def _effects_at(
    lm: Decoder, runs: _Runs, position: int, config: TraceConfig
) -> Iterator[tuple[_Cell, float]]:
    """The indirect effect of every cell at a position."""
    n_samples, width = runs.batch.n_rows, runs.batch.width - position
    cells = _cells(lm.n_layers, config)
    cells_at_once = max(1, config.max_batch_tokens // (n_samples * width))
    for i in range(0, len(cells), cells_at_once):
        chunk = cells[i : i + cells_at_once]
        last = _walk(lm, runs, position, chunk)
        probs = _answer_probs(lm, last, runs.answer_id).view(len(chunk), n_samples).mean(1)
        for cell, prob in zip(chunk, probs.tolist(), strict=True):
            yield cell, prob - runs.corrupted_prob


def _walk(
    lm: Decoder, runs: _Runs, position: int, cells: Sequence[_Cell]
) -> Float[Tensor, "row d_model"]:
    """Run cells up the layers over the tokens from `position` on; rows are (cell, sample).

    Returns:
        What leaves the last layer at the last token.
    """
    n_samples, prefix = runs.batch.n_rows, Prefix.of(runs.cache, position)
    frames: dict[int, Frame] = {}
    hidden = runs.corrupted[cells[0].joins][:0, position:]
    waiting = list(cells)
    for layer in range(cells[0].joins, lm.n_layers + 1):
        joining = [cell for cell in waiting if cell.joins == layer]
        waiting = waiting[len(joining) :]
        hidden = torch.cat([hidden, *(_start(runs, cell, position) for cell in joining)])
        if layer == lm.n_layers:
            break
        rows = len(hidden)
        if rows not in frames:
            frames[rows] = lm.frame(runs.batch, prefix, position, rows)
        walking = cells[: rows // n_samples]
        with intervene(lm, _restorations(runs, walking, layer, position)):
            hidden = lm.step(frames[rows], hidden, layer)
    return hidden[:, -1]


def _start(runs: _Runs, cell: _Cell, position: int) -> Hidden:
    """The state with which a cell joins: the corrupted run's, restored if it is a block's."""
    state = runs.corrupted[cell.joins][:, position:]
    if cell.kind == "block":
        state = state.clone()
        state[:, 0] = runs.clean[Site(cell.layer, Stream.BLOCK)][position]
    return state


def _restorations(
    runs: _Runs, cells: Sequence[_Cell], layer: int, position: int
) -> dict[Site, Callable[[Tensor], Tensor]]:
    """Interventions that put back MLP and attention outputs of the cells whose window is open."""
    interventions: dict[Site, Callable[[Tensor], Tensor]] = {}
    for kind, stream in _STREAMS.items():
        is_open = [c.kind == kind and c.first <= layer < c.stop for c in cells]
        if any(is_open):
            site = Site(layer, stream)
            rows = torch.tensor(is_open).repeat_interleave(runs.batch.n_rows)
            interventions[site] = _put_back(runs.clean[site][position], rows)
    return interventions


def _put_back(clean: Tensor, rows: Tensor) -> Callable[[Tensor], Tensor]:
    def function(state: Tensor) -> Tensor:
        restored = state.clone()
        restored[rows.to(state.device), 0] = clean.to(state.device)
        return restored

    return function
