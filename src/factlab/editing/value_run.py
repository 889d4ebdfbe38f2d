"""Values of many facts, optimised beforehand: in a run that can be killed, resumed and shared out.

Nearly all of the time that MEMIT takes goes into values, each by itself. They can be optimised on
as many machines as there are, and the one system of equations be solved in one place afterwards.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.values import stored, values_of
from factlab.editing.configs import MethodConfig
from factlab.editing.edit import current_versions
from factlab.editing.method import Method
from factlab.editing.methods import method_named
from factlab.editing.requests import ValueRequest, value_requests
from factlab.editing.values.folder import (
    BATCH_SIZE,
    FORMAT,
    SavedValues,
    load_values,
    recipe_of,
    record_of,
)
from factlab.editing.values.recipe import ValuePlan, ValueRecipe, with_values
from factlab.errors import FactlabError, InvalidRequestError, WrongModelError
from factlab.facts import Fact
from factlab.journal import Journal, Line, Shard
from factlab.models.language_model import LanguageModel
from factlab.models.run_model import run_model
from factlab.progress import ProgressCallback, silent
from factlab.wrapping import context_to_json


@checked(in_steps=True)
def compute_values(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    out: str | Path,
    method: str | Method = "memit",
    config: MethodConfig | None = None,
    background: Background | None = None,
    batch_size: int = BATCH_SIZE,
    shard: Shard | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> SavedValues:
    """Optimise the values of facts, for edits that are computed later.

    Args:
        lm: the model, left as it is.
        facts: to be written later.
        out: folder for one record per fact; new or empty, or with `resume` of this run.
        method: that will write them; see `METHODS`. Others with the same settings of values, such
            as the same top layer, can use them too.
        config: of that method; where it leaves open where to edit, that is settled for all facts
            as for the first.
        background: contexts that are at hand; and where values come from that were optimised
            before.
        batch_size: facts of a block: the run can be stopped after each, and a block that a kill
            cuts short is done again. Values depend on it only by rounding.
        shard: do only this part of the facts; parts may share a folder.
        resume: go on with what is in the folder.
        should_stop: asked after every block.
        progress: True for a bar, or a function that is called with facts done and in all.

    Returns:
        What is in the folder then. A fact whose value cannot be optimised is in it with the reason.

    Raises:
        InvalidRequestError: the method optimises no values, or a fact has nothing to write.
        WrongModelError: there are edits on the model.
        StorageError: the folder is not empty, belongs to another run, or cannot be written.

    Examples:
        >>> part = fl.editing.compute_values(lm, facts, "values", shard=fl.Shard(1, 2))
        >>> part.missing
        (1,)
        >>> fl.editing.compute_values(lm, facts, "values", shard=fl.Shard(2, 2)).missing
        ()
    """
    facts, folder, shard = listed(facts), Path(out), (shard or Shard()).checked()
    background = background or Background()
    if batch_size < 1:
        raise InvalidRequestError(f"batch_size={batch_size} must be at least 1.")
    with lm.alone():
        plan = _plan(lm, facts, method_named(method), config, background, progress)
        request: Line = {
            "format": FORMAT,
            "model": run_model(lm, folder, progress),
            "n_facts": len(facts),
            "facts": _hash_of(facts),
            "plan": plan.model_dump(mode="json"),
        }
        find = partial(_findings, lm, facts, plan, background)
        journal = Journal.open(folder, request, find, resume, shard)
    recipe = recipe_of(journal)
    with journal.writing(shard, current_versions()) as writer:
        blocks = shard.blocks(journal.cases(len(facts)), batch_size, BATCH_SIZE)

        def tell() -> None:
            done = sum(case in journal.records for block in blocks for case in block)
            progress("optimising values of facts", done, sum(map(len, blocks)))

        tell()
        for block in writer.to_do(blocks, should_stop, tell):
            # As a whole, so that what a kill cut short comes out as it would have.
            with lm.alone():
                records = _records(lm, [facts[case] for case in block], recipe, background)
            for case, record in zip(block, records, strict=True):
                if case not in journal.records:
                    writer.append(case, record)
            tell()
            if should_stop():
                break
    return load_values(folder)


def _plan(
    lm: LanguageModel,
    facts: Sequence[Fact],
    method: Method,
    config: MethodConfig | None,
    background: Background,
    progress: ProgressCallback,
) -> ValuePlan:
    """Which values a method asks for, as for the first fact.

    Raises:
        InvalidRequestError: it optimises none, or a fact has nothing to write.
        WrongModelError: there are edits on the model.
    """
    with_values(method.name, config or method.config())
    method.admitted(lm, facts, config)
    if lm.patches.active:
        raise WrongModelError(
            "Values for later edits are those of the model without edits, and there is one on it. "
            "Take it off first."
        )
    (settled,) = method.settled(lm, facts[:1], config, background, progress)
    if isinstance(settled, FactlabError):
        raise settled
    return ValuePlan.of(with_values(method.name, settled.config))


def _hash_of(facts: Sequence[Fact]) -> str:
    listed = json.dumps([asdict(fact) for fact in facts], ensure_ascii=False)
    return hashlib.sha256(listed.encode()).hexdigest()


def _findings(
    lm: LanguageModel, facts: Sequence[Fact], plan: ValuePlan, background: Background
) -> Line:
    """Of shards that share a folder, the first finds the texts for all of them."""
    cases, contexts = [*range(len(facts))], background.contexts(lm, plan.contexts)
    return {"cases": cases, "contexts": [*map(context_to_json, contexts)]}


def _records(
    lm: LanguageModel, facts: Sequence[Fact], recipe: ValueRecipe, background: Background
) -> list[Line]:
    """Of some facts, on the model that the recipe names."""
    plan = recipe.plan
    requests = value_requests(lm, facts, plan.erase)
    values = values_of(lm, requests, plan, recipe.contexts, background.values)
    return [
        record_of(
            recipe,
            fact,
            request.target if isinstance(request, ValueRequest) else "",
            value if isinstance(value, FactlabError) else stored(value, plan),
        )
        for fact, request, value in zip(facts, requests, values, strict=True)
    ]
