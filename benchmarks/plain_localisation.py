"""The study of localisation as a straightforward loop does it: the other way of `localisation.py`.

Plain hooks, whole forward passes with all logits, torch's Adam; one cell of a trace, one edit and
one evaluation after the other. Tokens, noise, contexts, statistics and the closed forms of ROME and
MEMIT once their value is known are the library's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

import factlab as fl
from factlab.continuations import Continuation
from factlab.data.records import Record
from factlab.editing import Background, Edit, SubjectNoise
from factlab.editing.closed_form.value import DEFAULT_CLAMP, OptimisedValue
from factlab.editing.closed_form.value_batch import prepare_requests
from factlab.editing.configs import FineTuneConfig, ValueConfig
from factlab.editing.noised import NoisedSubjects
from factlab.editing.presets import tuned_layer
from factlab.editing.requests import ValueRequest
from factlab.editing.variants import Problem
from factlab.evaluation.localising.asked import AskedRows
from factlab.evaluation.localising.plan import Cell
from factlab.evaluation.scoring.problem_scores import Told
from factlab.hooks import Site, Stream
from factlab.models.reading import target_nll
from factlab.tokens import pad
from factlab.tracing.corruption import draw_noise
from factlab.tracing.corruption_kinds import GaussianNoise

VALUES = "factlab.editing.closed_form.values.optimise_values"


@torch.no_grad()
def restored_prob(
    lm: fl.LanguageModel, fact: fl.Fact, noise: SubjectNoise, layers: range, position: int
) -> float:
    """P(true object) with MLPs of some layers restored at a position: one pass of all rows."""
    row = lm.fact_continuation(fact, str(fact.target_true))
    start, stop = row.subject
    kind = GaussianNoise(level=noise.level)
    added, _ = draw_noise(kind, lm, noise.samples, stop - start, noise.seed)

    def corrupt(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        output[1:, start:stop] += added.to(output)
        return output

    def restore(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        output[1:, position] = output[0, position]
        return output

    mlps = [lm.module(Site(layer, Stream.MLP)) for layer in layers]
    with hooked([(lm.embedding, corrupt), *((mlp, restore) for mlp in mlps)]):
        rows = torch.tensor([row.inputs] * (1 + noise.samples), device=lm.device)
        logprobs = lm.model(rows).logits[1:].float().log_softmax(-1)
    return float(logprobs[:, list(row.reads), list(row.target_ids)].double().sum(1).exp().mean())


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, object]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def nlls(
    lm: fl.LanguageModel, logprobs: Tensor, rows: Sequence[Continuation], erase: bool
) -> Tensor:
    """Loss of every row."""
    totals = torch.stack([
        logprobs[i, list(row.reads), list(row.target_ids)].sum() for i, row in enumerate(rows)
    ])  # fmt: skip
    counts = torch.tensor([len(row.target_ids) for row in rows], device=lm.device)
    return target_nll(totals, counts, torch.tensor(erase, device=lm.device).expand(len(rows)))


def all_logprobs(lm: fl.LanguageModel, rows: Sequence[Sequence[int]]) -> Tensor:
    """Of every token of the vocabulary at every place of a padded batch."""
    batch = pad(rows, lm.device)
    logits = lm.model(batch.input_ids, attention_mask=batch.is_token.long()).logits
    return logits.float().log_softmax(-1)


# -- edits ------------------------------------------------------------------------------------


@contextmanager
def edited(
    lm: fl.LanguageModel, cell: Cell, asked: Problem, background: Background
) -> Iterator[list[float]]:
    """A block in which the model has one edit, made here; yields the losses."""
    if isinstance(asked.config, FineTuneConfig):
        with tuned(lm, cell, asked) as losses:
            yield losses
        return
    with patch(VALUES, values_one_by_one):
        (edit,) = cell.method.method.attempts(lm, [asked.fact], asked.config, background)
    if not isinstance(edit, Edit):
        raise edit
    with edit.applied(lm):
        yield list(edit.diagnostics["loss"])


@contextmanager
def tuned(lm: fl.LanguageModel, cell: Cell, asked: Problem) -> Iterator[list[float]]:
    """Fine-tuning of the model itself; its weights are put back behind the block."""
    config = asked.config
    layers = config.edited_layers
    _, preset = tuned_layer(lm, cell.method.name, layers[0])
    epsilon, rate = config.epsilon or preset, config.learning_rate or 5e-4
    weights = [lm.model.get_parameter(lm.mlp_weight_name(layer)) for layer in layers]
    start = [weight.detach().clone() for weight in weights]
    noised = NoisedSubjects(lm, config.subject_noise)
    row = lm.fact_continuation(asked.fact, asked.target)
    rows = [noised.of(row, asked.fact, sample) for sample in range(noised.n_samples)]
    flags = [(parameter, parameter.requires_grad) for parameter in lm.model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(weights, lr=rate)
    losses: list[float] = []
    try:
        with noised.present():
            while True:
                logprobs = all_logprobs(lm, [each.inputs for each in rows])
                loss = nlls(lm, logprobs, rows, getattr(config, "erase", False)).mean()
                losses.append(float(loss.detach()))
                if losses[-1] < config.stop_nll or len(losses) > config.steps:
                    break
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                with torch.no_grad():
                    for weight, original in zip(weights, start, strict=True):
                        weight.clamp_(original - epsilon, original + epsilon)
        yield losses
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, start, strict=True):
                weight.copy_(original)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None


def values_one_by_one(
    lm: fl.LanguageModel,
    requests: Sequence[ValueRequest],
    contexts: Sequence[str],
    site: Site,
    config: ValueConfig,
    _progress: object,
    _lookup: str,
    noise: SubjectNoise | None,
) -> list[OptimisedValue]:
    """What `optimise_values` finds, by whole passes."""
    noised = NoisedSubjects(lm, noise)
    with noised.present():
        return [value(lm, one, contexts, site, config, noised) for one in requests]


def value(
    lm: fl.LanguageModel,
    request: ValueRequest,
    contexts: Sequence[str],
    site: Site,
    config: ValueConfig,
    noised: NoisedSubjects,
) -> OptimisedValue:
    """Equation 4 of the ROME paper: all contexts and the essence in one padded batch."""
    (prepared,) = prepare_requests(lm, [request], contexts, noised=noised)
    *rows, essence = prepared.rows
    inputs = [row.inputs for row in prepared.rows]
    places = [row.lookup for row in prepared.rows]
    read = places[-1] if config.kl_position == "subject_end" else len(essence.inputs) - 1
    delta = torch.zeros(lm.d_model, device=lm.device, requires_grad=True)
    before: list[Tensor] = []
    with torch.no_grad(), hooked([(lm.module(site), partial(note, before, places[0]))]):
        reference = all_logprobs(lm, inputs)[-1, read]
    initial = float(before[0].norm())
    clamp = (config.clamp_factor or DEFAULT_CLAMP) * initial
    moved, history = torch.zeros_like(delta), list[dict[str, float]]()
    flags = [(parameter, parameter.requires_grad) for parameter in lm.model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    while True:
        with hooked([(lm.module(site), partial(add, delta, places))]):
            logprobs = all_logprobs(lm, inputs)
        nll = nlls(lm, logprobs[:-1], rows, request.erase).mean()
        kl = (logprobs[-1, read].exp() * (logprobs[-1, read] - reference)).sum()
        loss = nll + config.kl_factor * kl + config.weight_decay * delta.norm() / initial**2
        history.append({
            "loss": loss.item(), "nll": nll.item(), "kl": kl.item(),
            "delta_norm": delta.norm().item(), "target_prob": 0.0,
        })  # fmt: skip
        is_done = loss < config.stop_loss or nll < config.stop_nll
        if is_done or len(history) == config.steps:
            break
        (gradient,) = torch.autograd.grad(loss, [delta])
        with torch.no_grad():
            slope = gradient.norm().clamp(min=1e-12)
            length = min(float(loss / slope), config.largest_step * initial)
            moved = config.momentum * moved - length / slope * gradient
            delta += moved
            delta *= (clamp / delta.norm().clamp(min=1e-12)).clamp(max=1)
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    return OptimisedValue(delta.detach().cpu(), history, initial)


def note(states: list[Tensor], place: int, _module: nn.Module, _args: object, out: object) -> None:
    states.append((out[0] if isinstance(out, tuple) else out)[0, place].detach().float())


def add(delta: Tensor, places: Sequence[int], _module: nn.Module, _args: object, out: object):
    state = (out[0] if isinstance(out, tuple) else out).clone()
    state[range(len(places)), places] += delta.to(state)
    return (state, *out[1:]) if isinstance(out, tuple) else state


# -- questions --------------------------------------------------------------------------------


@torch.no_grad()
def told(
    lm: fl.LanguageModel,
    record: Record,
    target: str,
    texts: Sequence[str],
    noise: SubjectNoise | None,
    text_tokens: int,
) -> tuple[Told, tuple[int, ...]]:
    """Everything that is asked, padded, with all logits; the texts in a batch of their own."""
    noised = NoisedSubjects(lm, noise)
    asked = AskedRows.of(lm, record, target, texts, noised, text_tokens)
    n_texts, found = len(asked.text_lengths), list[float]()
    n_prompts = len(asked.rows) - n_texts
    with noised.present():
        for rows in (asked.rows[:n_prompts], asked.rows[n_prompts:]):
            if rows:
                logprobs = all_logprobs(lm, [row.inputs for row in rows])
                found += [
                    float(logprobs[i, list(row.reads), list(row.target_ids)].double().sum())
                    for i, row in enumerate(rows)
                ]
    return asked.told(found), asked.text_lengths
