"""`evaluate`: edit, measure, forget; record after record, in a run that can be killed and go on.

What is to be done is planned, a worker does it block by block, and what comes of it is collected in
a folder.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from factlab.arguments import checked
from factlab.data.record_files import record_hash
from factlab.data.records import Record, References, as_records
from factlab.documents import JsonValue
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig, Mode
from factlab.editing.method import Method
from factlab.editing.methods import method_named
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.baseline import ordinary_text_hash, references_hash
from factlab.evaluation.measuring.yardstick import Yardstick
from factlab.evaluation.running.collecting import collect
from factlab.evaluation.running.extension import check_streams, extend_run
from factlab.evaluation.running.planning import (
    BATCH_SIZE,
    Evaluation,
    Plan,
    check_batch_size,
    usable_cases,
)
from factlab.evaluation.running.saved_run import FORMAT, Run, load_run
from factlab.evaluation.running.worker import Worker
from factlab.facts import Fact
from factlab.journal import Journal, Line, Shard
from factlab.models.generation import STREAMS
from factlab.models.language_model import LanguageModel
from factlab.models.run_model import run_model
from factlab.progress import ProgressCallback, silent
from factlab.wrapping import ChatForms


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
    turn: int = 1,
    waits: bool = True,
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
            same `batch_size` if they are numbered.
        resume: go on with what is in the folder. A run in mode `each` of the first of these
            records becomes one of all of them.
        cache: folder for measurements of the unedited model; factlab's cache by default.
        turn: in a sequence, facts of one edit.
        waits: with a shard that takes any part, whether to stay until what other processes are at
            is done, and to do it if they are lost.
        should_stop: asked after every block, and between the edits of a sequence; the run can be
            resumed after it stopped.
        progress: True for a bar, or a function that is called with records done and in all.

    Returns:
        The run as it lies in the folder.

    Raises:
        InvalidRequestError: there are no records, none can be asked, something asked for does not
            exist, or facts of one edit contradict each other.
        EditError: no fact can be written, or all together cannot.
        ModelLoadError: the model's own probabilities are NaN or infinite.
        StorageError: the folder is not empty, belongs to another run, or cannot be written.

    Examples:
        >>> run = fl.evaluate(lm, facts, "ft", "out")
        >>> run.n_cases, run.n_missing
        (2, 0)
        >>> scores = fl.report([run])
    """
    shard = (shard or Shard()).checked()
    chosen = method_named(method)
    asked = Evaluation(
        as_records(records), chosen, config, mode, measure or MeasureConfig(), references or {},
        ordinary_text, data_name, turn,
    )  # fmt: skip
    check_batch_size(batch_size)
    asked = asked.admitted(lm)
    folder, background = Path(out), background or Background()
    yardstick = Yardstick(lm, asked.measure, asked.references, ordinary_text)
    request = run_request(asked, run_model(lm, folder, progress), yardstick.forms)
    check_streams(folder, request)
    if resume:
        look_at = partial(usable_cases, yardstick.texts, asked.records)
        extend_run(folder, request, asked.records, look_at, batch_size)
    make_plan = partial(Plan.of, asked, request, yardstick.texts, batch_size, background, progress)
    journal = Journal.open(folder, request, lambda: make_plan().findings, resume, shard)
    plan = Plan.of_journal(journal, asked, batch_size)
    worker = Worker(
        yardstick,
        asked,
        plan,
        folder,
        background,
        Path(cache) if cache else None,
        should_stop,
        waits,
    )
    collect(plan, shard, worker, journal, waits, should_stop, progress)
    return load_run(folder)


def run_request(asked: Evaluation, model: JsonValue, forms: ChatForms | None = None) -> Line:
    """What makes two runs the same run. Batch size and memory do not.

    Args:
        asked: what is evaluated.
        model: in JSON.
        forms: of its chat template, if prompts are asked in it.
    """
    measure, drift_tokens = asked.measure, asked.measure.drift_tokens
    texts: Line = {
        "n_records": measure.n_generated,
        "text_tokens": measure.text_tokens,
        "top_k": measure.top_k,
    }
    if any(record.generation_prompts for record in asked.records):
        texts["streams"] = STREAMS
    sequence: Line = {}  # not of runs that are as they were before there were turns
    if asked.turn != 1:
        sequence["turn"] = asked.turn
    if measure.checkpoints:
        sequence["checkpoints"] = [*measure.checkpoints]
    answers: Line = {"forms": [*measure.answers], "tokens": measure.answer_tokens}
    ripple: Line = {"ripple": {"per_axis": measure.ripple_per_axis}} if measure.ripple else {}
    chat: Line = {}
    if forms is not None:
        chat["chat"] = forms.to_json()
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
        "method": asked.method.name,
        "config": None if asked.config is None else asked.config.model_dump(mode="json"),
        "mode": asked.mode,
        **sequence,
        "generation": None if measure.n_generated == 0 else texts,
        "essence": measure.essence,
        "drift_tokens": drift_tokens,
        **({"answers": answers} if measure.answers else {}),
        "seed": measure.seed,
        **ripple,
        **chat,
    }
