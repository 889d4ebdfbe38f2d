"""Corrupted runs with restoration by whole forward passes, for any model.

For a model whose layers cannot be run one by one (`factlab.models.engines.plain`), and for severed
paths whose noise is drawn anew. Every cell is a
run of the whole text, with hooks that put clean states in; as many cells and positions go through
the model together as memory has room for, and logits are worked out where the answer is read, only.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.hooks import Site, Stream, intervene
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback
from factlab.tracing.cells import SEVERED, Cell, cells_of, redrawn, restored_sites
from factlab.tracing.configs import TraceConfig
from factlab.tracing.effects import Effects
from factlab.tracing.runs import CleanRun, CorruptedRun, PlannedRun

# A state that is put in: in the rows of which restoration, in which column, and the state itself.
Put = tuple[int, int, Tensor]


def effects_by_whole_passes(
    lm: LanguageModel,
    clean: CleanRun,
    planned: Sequence[PlannedRun],
    positions: Sequence[int],
    config: TraceConfig,
    progress: ProgressCallback,
) -> Effects:
    """Indirect effects, as `causal_trace` has them."""
    effects = Effects(lm, clean, planned, positions, config)
    cells = cells_of(lm.layers, config)
    # Left of the subject a state is what it was, and changes nothing unless the noise is another.
    todo = [
        (cell, position)
        for position in positions
        for cell in cells
        if position >= clean.span.start or redrawn(cell, config)
    ]
    n_steps = len(planned) * len(todo)
    for done, plan in enumerate(planned):
        run = effects.of(plan.run(lm, clean))
        report = partial(_report, progress, done * len(todo), n_steps)
        add_by_whole_passes(effects, lm, clean, run, todo, report)
    progress("tracing", n_steps, n_steps)
    return effects


def add_by_whole_passes(
    effects: Effects,
    lm: LanguageModel,
    clean: CleanRun,
    run: CorruptedRun,
    restorations: Sequence[tuple[Cell, int]],
    report: Callable[[int], None] | None = None,
) -> None:
    """Add the effects of some cells at some positions, in one corrupted run.

    Args:
        effects: what they are added to.
        lm: the model.
        clean: where restored states come from.
        run: where they go, and where the outputs of severed paths come from.
        restorations: what is restored, and at which position of the prompt.
        report: told how many restorations are done.
    """
    todo = [(cell, position) for cell, position in restorations if position in run.aligned]
    tokens = run.batch.width * run.batch.n_rows
    at_once = max(1, lm.budget.pass_tokens() // tokens)
    for i in range(0, len(todo), at_once):
        if report is not None:
            report(i)
        some = todo[i : i + at_once]
        for (cell, position), effect in zip(some, _effects(lm, clean, run, some), strict=True):
            effects.add(cell.kind, position, cell.layer, float(effect.sum()))


def _report(progress: ProgressCallback, before: int, total: int, done: int) -> None:
    progress("tracing", before + done, total)


def _effects(
    lm: LanguageModel,
    clean: CleanRun,
    run: CorruptedRun,
    restorations: Sequence[tuple[Cell, int]],
) -> Float[Tensor, "restoration sample"]:
    """P(answer) with restoration minus without, of some restorations in one pass."""
    n, n_reads = len(restorations), len(clean.continuation.target_ids)
    puts: dict[Site, list[Put]] = {}
    for row, (cell, position) in enumerate(restorations):
        column = run.aligned[position]
        for site in restored_sites(lm.layers, cell):
            puts.setdefault(site, []).append((row, column, clean.states[site][position]))
        if cell.kind in SEVERED:
            # Below the restored state outputs are what they are anyway, unless noise is drawn anew.
            for layer in range(0 if run.redrawn is not None else cell.stop, lm.n_layers):
                site = Site(layer, SEVERED[cell.kind])
                if lm.layers.has(site):
                    puts.setdefault(site, []).append((row, column, run.states[site][:, column]))
    interventions: dict[Site, Callable[[Tensor], Tensor]] = {
        site: partial(_put, some, n) for site, some in puts.items()
    }
    embedded = [_starts(run, cell) for cell, _ in restorations]
    interventions[Site(0, Stream.EMBED)] = partial(_embedded, torch.cat(embedded))
    with intervene(lm, interventions):
        last = lm.run(lm.frame(run.batch, rows=n * run.batch.n_rows))
    return clean.probs(lm, last[:, -n_reads:]).view(n, -1) - run.probs


def _starts(run: CorruptedRun, cell: Cell) -> Float[Tensor, "sample pos width"]:
    """The embeddings with which a restoration begins."""
    if run.redrawn is not None and cell.kind in SEVERED:
        return run.redrawn
    return run.embedded


def _embedded(embedded: Tensor, _state: Tensor) -> Tensor:
    return embedded


def _put(puts: Sequence[Put], n: int, state: Tensor) -> Tensor:
    """A state with others in some columns of some restorations' rows."""
    changed = state.clone()
    by_restoration = changed.view(n, -1, *state.shape[1:])
    for row, column, value in puts:
        by_restoration[row, :, column] = value.to(state)
    return changed
