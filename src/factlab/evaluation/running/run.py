"""`evaluate`: edit, measure, forget; record after record, in a run that can be killed and go on.

Records are worked on in blocks: the edits of a block are made together and measured together, each
row of a batch carrying its own edit. A block that a kill cut short is done again as a whole, so
that a run that was killed ends with the same numbers as one that was not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from factlab.arguments import checked
from factlab.data.fact_files import check_conflicts
from factlab.data.record_files import record_hash
from factlab.data.records import Record, References, as_records
from factlab.documents import JsonValue, validated
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig, Mode
from factlab.editing.edit import current_versions
from factlab.editing.method import Method, Settled
from factlab.editing.methods import method_named
from factlab.errors import EditError, FactlabError, InvalidRequestError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import TokenisedRecords
from factlab.evaluation.measuring.baseline import Unedited, ordinary_text_hash, references_hash
from factlab.evaluation.measuring.rows import Measurement, Row
from factlab.evaluation.measuring.yardstick import Yardstick, is_finite
from factlab.evaluation.running.extension import check_streams, extend_run
from factlab.evaluation.running.modes import (
    Edited,
    EditedEach,
    EditedSequence,
    EditedTogether,
    Outcome,
)
from factlab.evaluation.running.saved_run import ADVICE, FORMAT, Run, load_run
from factlab.facts import Fact
from factlab.journal import Journal, Line, Shard
from factlab.models.generation import STREAMS
from factlab.models.identity.run_model import run_model
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent

BATCH_SIZE = 16
_KINDS: dict[Mode, type[Edited]] = {
    "each": EditedEach,
    "together": EditedTogether,
    "sequence": EditedSequence,
}
# If no fact of so many can be written, none will be.
_TRIED = 32


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate.

    Attributes:
        records: the cases.
        method: name of the editing method.
        config: of the method; None for its defaults.
        mode: a model of its own for each record; one model with all facts, written together; or
            one with all facts, written one after the other.
        measure: what to measure.
        references: texts to compare generated ones with.
        ordinary_text: passages for the drift, if that is measured.
        data_name: what to call the records in reports.
    """

    records: Sequence[Record]
    method: str
    config: MethodConfig | None
    mode: Mode
    measure: MeasureConfig
    references: References
    ordinary_text: Sequence[str]
    data_name: str


@checked(in_steps=True)
def evaluate(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    method: str | Method,
    out: str | Path,
    config: MethodConfig | None = None,
    mode: Mode = "each",
    measure: MeasureConfig | None = None,
    references: References | None = None,
    ordinary_text: Sequence[str] = (),
    data_name: str = "records",
    background: Background | None = None,
    batch_size: int = BATCH_SIZE,
    shard: Shard | None = None,
    resume: bool = False,
    cache: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> Run:
    """Measure what a method does to benchmark records.

    Args:
        lm: the model, left as it is.
        records: the cases; see `load_records`. Of a plain fact the rewriting prompt alone is asked;
            a `Record` has paraphrases and other prompts beside it.
        method: see `METHODS`; or one that is at hand, such as a trained editor's.
        out: folder for one row per record; new or empty, or with `resume` of this run.
        config: of the method.
        mode: `each`: every record is measured on a model with its own edit only. `together` and
            `sequence`: all are measured on one model with all edits, written in one edit or one
            after the other; in a sequence each also right after its own.
        measure: what to measure; see `MeasureConfig`.
        references: texts to compare generated ones with; see `load_references`.
        ordinary_text: passages for the drift.
        data_name: what to call the records in reports.
        background: statistics and contexts that are at hand.
        batch_size: records of a block: the run can be stopped after each, and a block that a kill
            cuts short is done again. Results depend on it only by rounding.
        shard: do only this part of the records; parts may share a folder, and need not have the
            same `batch_size`.
        resume: go on with what is in the folder. A run in mode `each` of the first of these
            records becomes one of all of them.
        cache: folder for measurements of the unedited model; factlab's cache by default.
        should_stop: asked after every block, and between the edits of a sequence; the run can be
            resumed after it stopped.
        progress: True for a bar, or a function that is called with records done and in all.

    Returns:
        The run as it lies in the folder.

    Raises:
        InvalidRequestError: there are no records, none can be asked, or something asked for does
            not exist.
        EditError: no fact can be written, or all together cannot.
        ModelLoadError: the model's own probabilities are NaN or infinite.
        StorageError: the folder is not empty, belongs to another run, or cannot be written.
    """
    shard = (shard or Shard()).checked()
    chosen = method_named(method)
    cases_given = as_records(records)
    _check_request(cases_given, chosen, mode, batch_size)
    config = _admitted(lm, cases_given, chosen, config)
    asked = Evaluation(
        cases_given, chosen.name, config, mode, measure or MeasureConfig(), references or {},
        ordinary_text, data_name,
    )  # fmt: skip
    background = background or Background()
    folder = Path(out)
    yardstick = Yardstick(lm, asked.measure, asked.references, ordinary_text)
    unedited = Unedited(yardstick, asked.references, ordinary_text, Path(cache) if cache else None)
    request = _request(asked, run_model(lm, folder, progress))
    check_streams(folder, request)
    if resume:
        look_at = partial(_usable, yardstick.texts, asked.records)
        extend_run(folder, request, cases_given, look_at, batch_size)
    journal = Journal.open(
        folder,
        request,
        lambda: _findings(lm, asked, yardstick.texts, chosen, background, progress),
        resume=resume or shard.total > 1,
    )
    cases = journal.cases(len(asked.records))
    where = f"The config in '{folder / 'run.json'}'"
    settled = validated(chosen.config, journal.findings.get("config"), where, ADVICE)
    generated = _generated(asked, cases)
    with journal.writing(shard, current_versions()) as writer:
        own = _blocks(cases, shard, batch_size)
        todo = [block for block in own if any(case not in journal.records for case in block)]
        total = sum(map(len, own))
        if not todo:
            return load_run(folder)
        before: dict[int, Measurement] = {}
        for block in todo:
            progress("measuring the unedited model", len(before), total)
            some = [asked.records[case] for case in block]
            flags = [generated[case] for case in block]
            before |= zip(block, unedited.of(some, flags), strict=True)
            if should_stop():
                return load_run(folder)
        progress("measuring the unedited model", total, total)
        with _KINDS[mode](
            lm=lm, records=asked.records, cases=cases, method=chosen, config=settled,
            background=background, yardstick=yardstick, folder=folder, should_stop=should_stop,
        ) as edited:  # fmt: skip
            if not edited.prepare(progress):
                return load_run(folder)
            failures: list[str] = []
            for block in todo:
                done = sum(case in journal.records for each in own for case in each)
                progress(f"evaluating {chosen.name}", done, total)
                flags = [generated[case] for case in block]
                for case, outcome in zip(block, edited.outcomes(block, flags), strict=True):
                    failures.append(outcome.failed)
                    if case not in journal.records:
                        row = _row(asked.records[case], before[case], outcome, asked)
                        writer.append(case, row.model_dump(mode="json"))
                _check_some_written(failures, sum(map(len, todo)))
                if should_stop():
                    return load_run(folder)
        progress(f"evaluating {chosen.name}", total, total)
    return load_run(folder)


def _check_request(records: Sequence[Record], method: Method, mode: Mode, batch_size: int) -> None:
    """Refuse what cannot end well before anything is computed or written."""
    if not records:
        raise InvalidRequestError("The list of records is empty. Give at least one.")
    benchmarks = sorted({record.benchmark for record in records})
    if len(benchmarks) > 1:
        raise InvalidRequestError(
            f"The records are of {' and '.join(benchmarks)}. Evaluate them one after the other."
        )
    if batch_size < 1:
        raise InvalidRequestError(f"batch_size={batch_size} must be at least 1.")
    if mode not in _KINDS:
        raise InvalidRequestError(f"There is no mode '{mode}'. Choose from {', '.join(_KINDS)}.")
    if mode == "together":
        method.check_many()


def _admitted(
    lm: LanguageModel, records: Sequence[Record], method: Method, config: MethodConfig | None
) -> MethodConfig | None:
    """The config as the method admits it for those records that have something to write."""
    facts = [record.fact for record in records if record.fact.target_new is not None]
    return method.admitted(lm, facts, config) if facts else config


def _blocks(cases: Sequence[int], shard: Shard, batch_size: int) -> list[Sequence[int]]:
    """The cases of a shard, block by block.

    Which cases they are does not depend on the batch size: shards with different ones must neither
    leave cases out nor do them twice.
    """
    size = min(BATCH_SIZE, -(-len(cases) // shard.total))
    starts = shard.of(range(0, len(cases), size))
    own = [case for start in starts for case in cases[start : start + size]]
    return [own[i : i + batch_size] for i in range(0, len(own), batch_size)]


# -- what a run is ----------------------------------------------------------------------------


def _request(asked: Evaluation, model: JsonValue) -> Line:
    """What makes two runs the same run. Batch size and memory do not."""
    measure, drift_tokens = asked.measure, asked.measure.drift_tokens
    texts: Line = {
        "n_records": measure.n_generated,
        "text_tokens": measure.text_tokens,
        "top_k": measure.top_k,
    }
    if any(record.generation_prompts for record in asked.records):
        texts["streams"] = STREAMS
    return {
        "format": FORMAT,
        "model": model,
        "data": {
            "name": asked.data_name,
            "sha256": record_hash(asked.records),
            "references": references_hash(asked.references),
            "ordinary_text": ordinary_text_hash(asked.ordinary_text) if drift_tokens else None,
            "n_records": len(asked.records),
            "benchmark": asked.records[0].benchmark,
        },
        "method": asked.method,
        "config": None if asked.config is None else asked.config.model_dump(mode="json"),
        "mode": asked.mode,
        "generation": None if measure.n_generated == 0 else texts,
        "essence": measure.essence,
        "drift_tokens": drift_tokens,
        "seed": measure.seed,
    }


def _findings(
    lm: LanguageModel,
    asked: Evaluation,
    texts: TokenisedRecords,
    method: Method,
    background: Background,
    progress: ProgressCallback,
) -> Line:
    """Which records can be asked, and what is settled for all of them, such as a layer."""
    cases, unusable = _usable(texts, asked.records)
    if not cases:
        raise InvalidRequestError(f"None of the records can be used. The first: {unusable['0']}")
    if asked.mode == "together":
        check_conflicts([asked.records[case].fact for case in cases])
    settled = _settled(lm, asked, cases, method, background, progress)
    return {
        "cases": [*cases],
        "unusable": {**unusable},
        "config": settled.model_dump(mode="json"),
        "versions": {**current_versions()},
    }


def _usable(
    texts: TokenisedRecords, records: Sequence[Record], start: int = 0
) -> tuple[list[int], dict[str, str]]:
    """Which records from a place on can be asked, and why the others cannot."""
    unusable: dict[str, str] = {}
    for i in range(start, len(records)):
        try:
            texts.check(records[i])
        except FactlabError as error:
            unusable[str(i)] = str(error)
    return [i for i in range(start, len(records)) if str(i) not in unusable], unusable


def _settled(
    lm: LanguageModel,
    asked: Evaluation,
    cases: Sequence[int],
    method: Method,
    background: Background,
    progress: ProgressCallback,
) -> MethodConfig:
    """The config with all settled that is the same for every case; the rest is left open."""
    facts = [asked.records[case].fact for case in cases]
    found = method.settled(lm, facts, asked.config, background, progress)
    configs = [one.config for one in found if isinstance(one, Settled)]
    if not configs:
        raise next(one for one in found if isinstance(one, FactlabError))
    open_config = asked.config or method.config()
    differing = {
        name
        for name in method.config.model_fields
        if any(getattr(one, name) != getattr(configs[0], name) for one in configs)
    }
    return configs[0].model_copy(update={name: getattr(open_config, name) for name in differing})


def _check_some_written(failures: Sequence[str], n_cases: int) -> None:
    """Refuse to go on where no fact can be written; what was found out stays in the folder.

    Args:
        failures: of those cases that were tried, why they could not be written; empty if they were.
        n_cases: that there are.
    """
    if len(failures) >= min(_TRIED, n_cases) and all(failures):
        which = (
            "No fact" if len(failures) == n_cases else f"None of the first {len(failures)} facts"
        )
        raise EditError(f"{which} could be written. The first: {failures[0]}")


def _generated(asked: Evaluation, cases: Sequence[int]) -> dict[int, bool]:
    """For which cases to generate texts: the first so many."""
    count = asked.measure.n_generated
    return {case: count is None or place < count for place, case in enumerate(cases)}


def _row(record: Record, before: Measurement, outcome: Outcome, asked: Evaluation) -> Row:
    after, failed = outcome.after, outcome.failed
    if after is not None and not is_finite(after):
        after, failed = None, "The edited model's probabilities are not finite."
    fact = record.fact
    return Row(
        case_id=record.case_id,
        benchmark=record.benchmark,
        relation_id=record.relation_id,
        subject=fact.subject,
        prompt=fact.prompt,
        target_new=str(fact.target_new),
        target_true=fact.target_true,
        before=before,
        right_after=outcome.right_after,
        after=after,
        failed=failed,
        edit_s=outcome.edit_s,
        measure_s=outcome.measure_s,
        seed=asked.measure.seed,
    )
