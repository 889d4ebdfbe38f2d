"""Values of facts: those that were optimised before, and the others optimised now."""

from collections.abc import Sequence

import numpy as np
import torch

from factlab.editing.closed_form.value import OptimisedValue, optimise_values
from factlab.editing.requests import ValueRequest
from factlab.editing.values.recipe import Asked, ValuePlan, ValueRecipe
from factlab.editing.values.source import ValueSource
from factlab.editing.values.stored import StoredValue
from factlab.errors import FactlabError
from factlab.hooks import Site, Stream
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.wrapping import Context

_STREAMS = {"mlp": Stream.MLP, "block": Stream.BLOCK}


def values_of(
    lm: LanguageModel,
    requests: Sequence[ValueRequest | FactlabError],
    plan: ValuePlan,
    contexts: Sequence[Context],
    source: ValueSource | None,
    progress: ProgressCallback = silent,
) -> list[OptimisedValue | FactlabError]:
    """For every request its value, or why there is none; see `optimise_values`.

    Args:
        lm: the model, left as it is.
        requests: what to make the model say; an error in place of one is passed on.
        plan: which values.
        contexts: texts before the prompts; the first is empty.
        source: where values that were optimised before come from, and the others go.
        progress: called with steps done and most of them in all.

    Raises:
        MemoryLimitError: memory ran out.
        FactlabError: the source has other values, and nothing may be optimised instead.
    """
    site = Site(plan.layer, _STREAMS[plan.stream])
    more = (contexts, site, plan.value, progress, plan.lookup, plan.noise)
    if source is None or not source.has_values_of(lm):
        return optimise_values(lm, requests, *more)
    recipe = ValueRecipe.of(lm, plan, contexts)
    asked = {i: asked_by(one) for i, one in enumerate(requests) if isinstance(one, ValueRequest)}
    found = source.find(recipe, [*asked.values()])
    results = {
        i: _of_stored(value) if isinstance(value, StoredValue) else value
        for i, value in zip(asked, found, strict=True)
        if value is not None
    }
    missing = [i for i in range(len(requests)) if i not in results]
    if missing:
        new = optimise_values(lm, [requests[i] for i in missing], *more)
        results |= zip(missing, new, strict=True)
        made = {i: value for i in missing if isinstance(value := results[i], OptimisedValue)}
        source.keep(recipe, [(asked[i], stored(value, plan)) for i, value in made.items()])
    return [results[i] for i in range(len(requests))]


def asked_by(request: ValueRequest) -> Asked:
    """What a request asks for, beside what its plan says."""
    return Asked(request.fact.template, request.fact.subject, request.target)


def stored(value: OptimisedValue, plan: ValuePlan) -> StoredValue:
    """A value without PyTorch, ready to be kept."""
    numbers = value.delta.cpu().numpy()
    return StoredValue(
        numbers=numbers.astype(numbers.dtype.newbyteorder("<")).tobytes(),
        dtype=str(numbers.dtype),
        clamp=plan.value.clamp_factor,
        initial_norm=value.initial_norm,
        history=value.history,
    )


def _of_stored(value: StoredValue) -> OptimisedValue:
    kind = np.dtype(value.dtype)
    numbers = np.frombuffer(value.numbers, kind.newbyteorder("<")).astype(kind)
    return OptimisedValue(torch.from_numpy(numbers), value.history, value.initial_norm)
