"""Tracing many facts, one record each, so that a run can be killed, resumed and shared out."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from factlab.arguments import checked
from factlab.config import without_retired
from factlab.documents import JsonValue, validated
from factlab.errors import InvalidRequestError, StorageError, TokenizationError, counted
from factlab.facts import Fact
from factlab.journal import Journal, Line, Shard, selected_cases
from factlab.models.language_model import LanguageModel
from factlab.models.run_model import run_model
from factlab.progress import ProgressCallback, silent
from factlab.tracing.average import FORMAT, AverageTrace, average_records, rounded, rounded_rows
from factlab.tracing.cells import with_kinds_of
from factlab.tracing.configs import TraceConfig
from factlab.tracing.corruption import with_level
from factlab.tracing.groups import Pooling, pooling_named
from factlab.tracing.knowns import knows
from factlab.tracing.result import CausalTrace
from factlab.tracing.trace import trace_fact


@checked(in_steps=True)
def average_trace(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: TraceConfig | None = None,
    folder: str | Path | None = None,
    limit: int | None = None,
    shard: Shard | None = None,
    resume: bool = False,
    progress: ProgressCallback = silent,
    pooling: Pooling = "facts",
) -> AverageTrace:
    """Trace many facts and average.

    Facts that have a `target_true` whose first token is not the model's most probable one are left
    out and counted; so are facts that cannot be traced, such as one too long for the model.

    Args:
        lm: the model, left as it is.
        facts: what to trace.
        config: see `TraceConfig`. σ is taken over the subjects of all `facts` unless it says else.
        folder: where to keep one record per fact, so that a killed run can go on; by default
            nothing is kept.
        limit: trace this many of the facts that the model knows, the first ones. With `resume` a
            run goes on to a higher limit, and becomes what a run with that limit would have been; a
            lower one changes nothing.
        shard: trace only this part of them; needs a folder.
        resume: go on with what is in the folder.
        progress: True for a bar, or a function that is called with facts done and in all.
        pooling: what counts once in groups that may have several tokens of a fact, such as the
            middle ones of its subject: every fact (`facts`), or every token as in the notebook of
            the paper's authors (`tokens`). No part of what a run is: a folder can be read either
            way (`AverageTrace.load`).

    Raises:
        InvalidRequestError: no fact is left, there is no such pooling, or the config or the shard
            cannot be used.
        StorageError: the folder is not empty, belongs to another run, or cannot be written.

    Examples:
        >>> asked = [fl.Fact(fact.template, "The Louvre"), fl.Fact(fact.template, "Big Ben")]
        >>> average = fl.average_trace(lm, asked, folder="traces")
        >>> average.n_facts
        2
    """
    config = config or TraceConfig()
    pooling_named(pooling)
    lm.abilities.need("trace")
    config.check(lm.n_layers)
    config = with_kinds_of(lm.layers, config, lm.name)
    shard = (shard or Shard()).checked()
    if limit is not None and limit < 1:
        raise InvalidRequestError(f"limit={limit} must be at least 1.")
    if not facts:
        raise InvalidRequestError("The list of facts is empty. Give at least one.")
    run = None if folder is None else Path(folder)
    request = _request(lm, facts, config, limit, run, progress)

    def select() -> Line:
        return _select(lm, facts, config, limit, progress)

    if run is None:
        if shard.is_part:
            raise InvalidRequestError("A shard needs a folder in which to leave its records.")
        findings = select()
        cases = selected_cases(findings, len(facts), "what was found out")
        settled, traced = _settled(findings), dict[int, Line]()
        for case in cases:
            progress("tracing facts", len(traced), len(cases))
            traced[case] = _traced(lm, facts[case], settled)
        progress("tracing facts", len(cases), len(cases))
        return average_records(request, findings, traced, pooling)
    if resume or shard.is_part:
        request["limit"] = _go_on_to(run, request, select)
    journal = Journal.open(run, request, select, resume, shard)
    settled = _settled(journal.findings)
    with journal.writing(shard) as writer:
        blocks = shard.blocks(journal.cases(len(facts)), 1, 1)

        def tell() -> None:
            done = sum(block[0] in journal.records for block in blocks)
            progress("tracing facts", done, len(blocks))

        tell()
        for (case,) in writer.to_do(blocks, waiting=tell):
            writer.append(case, _traced(lm, facts[case], settled))
            tell()
    return AverageTrace.load(run, pooling)


def _go_on_to(folder: Path, request: Line, select: Callable[[], Line]) -> JsonValue:
    """Make the run in a folder one of more facts, if that is asked for; the limit it then has.

    What is found of one fact does not depend on how many others are traced: σ is that of all facts
    of the file in any case.

    Raises:
        StorageError: the run differs in something else too, or another process is at it.
    """
    limit = request["limit"]
    if not (folder / "run.json").exists():
        return limit
    journal = Journal.load(folder)
    before = journal.request.get("limit")
    journal.check_request({**request, "limit": before})
    if not isinstance(before, int) or (isinstance(limit, int) and limit <= before):
        return before
    findings = select()
    others = {name: value for name, value in findings.items() if name != "cases"}
    n_given = int(str(request["n_facts"]))
    cases = selected_cases(findings, n_given, "what was found out")
    cases_before = journal.cases(n_given)
    if cases[: len(cases_before)] != cases_before or any(
        without_retired(journal.findings.get(name)) != value for name, value in others.items()
    ):
        raise StorageError(
            f"The model answers the facts of '{folder}' otherwise than when its run began, so the "
            "run cannot go on to more of them. Begin again in another folder."
        )
    journal.extend(request, findings, ())
    return limit


# -- one fact ---------------------------------------------------------------------------------


def _request(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: TraceConfig,
    limit: int | None,
    folder: Path | None,
    progress: ProgressCallback,
) -> Line:
    """What makes two runs the same run."""
    listed = json.dumps([asdict(fact) for fact in facts], ensure_ascii=False)
    return {
        "format": FORMAT,
        "model": run_model(lm, folder, progress),
        "facts": hashlib.sha256(listed.encode()).hexdigest(),
        "n_facts": len(facts),
        "limit": limit,
        "config": config.model_dump(mode="json"),
    }


def _select(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: TraceConfig,
    limit: int | None,
    progress: ProgressCallback,
) -> Line:
    """Which facts to trace, and at which level of noise."""
    unusable = _unusable(lm, facts)
    usable = [i for i in range(len(facts)) if str(i) not in unusable]
    if not usable:
        raise InvalidRequestError(f"None of the facts can be traced. The first: {unusable['0']}")
    known = knows(lm, [facts[i] for i in usable], progress=progress)
    selected = [i for i, is_known in zip(usable, known, strict=True) if is_known]
    if not selected:
        raise InvalidRequestError(
            f"Of {counted(len(usable), 'fact')} the model knows none, so there is nothing to "
            "average. Make a file of facts that it knows with `factlab knowns build`."
        )
    settled = config.model_copy(
        update={
            "window": config.window_of(lm.n_layers),
            "corruption": with_level(config.corruption, lm, None, [facts[i] for i in usable]),
        }
    )
    return {
        "n_wrong": len(usable) - len(selected),
        "unusable": unusable,
        "cases": [*selected[:limit]],
        "config": settled.model_dump(mode="json"),
        "part_names": lm.layers.part_names,
    }


def _unusable(lm: LanguageModel, facts: Sequence[Fact]) -> Line:
    """Why some facts cannot be traced, by their number."""
    reasons: Line = {}
    for i, fact in enumerate(facts):
        try:
            lm.fact_continuation(fact)
            if fact.target_true is not None:
                lm.continuation(fact.prompt, fact.target_true, first_token=True)
        except (InvalidRequestError, TokenizationError) as error:
            reasons[str(i)] = str(error)
    return reasons


def _settled(findings: Line) -> TraceConfig:
    """The config with all that was worked out."""
    where, advice = "The config in the run.json of the run", "Begin again in a new folder."
    return validated(TraceConfig, findings.get("config"), where, advice)


def _traced(lm: LanguageModel, fact: Fact, config: TraceConfig) -> Line:
    """The record of a fact, or why it has none."""
    answer = fact.target_true if config.answer != "first_token" else None
    try:
        return _record(trace_fact(lm, fact, answer, config))
    except (InvalidRequestError, TokenizationError) as error:
        return {"unusable": str(error)}


def _record(trace: CausalTrace) -> Line:
    return {
        "prompt": trace.prompt,
        "subject_span": [*trace.subject_span],
        "n_tokens": len(trace.tokens),
        "answer": trace.answer,
        "clean_prob": rounded(trace.clean_prob),
        "corrupted_prob": rounded(trace.corrupted_prob),
        "effects": {kind: rounded_rows(effects) for kind, effects in trace.effects.items()},
    }
