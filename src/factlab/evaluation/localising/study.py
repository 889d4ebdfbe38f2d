"""`study_localisation`: the whole study in one folder, which can be killed and gone on with.

folder/
    run.json                what was asked for, which facts are studied, and the level of the noise
    records-1-of-1.jsonl    a row of every fact, and one of every edit of it
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from factlab.arguments import checked
from factlab.data.record_files import record_hash
from factlab.data.records import Record, as_records
from factlab.documents import validated
from factlab.editing.background import Background
from factlab.editing.edit import current_versions
from factlab.editing.noise_config import SubjectNoise
from factlab.errors import InvalidRequestError
from factlab.evaluation.localising.configs import LocalisationConfig, check_records
from factlab.evaluation.localising.fact_batch import Key
from factlab.evaluation.localising.known_facts import known_facts
from factlab.evaluation.localising.plan import Grid
from factlab.evaluation.localising.result import FORMAT, Localisation
from factlab.evaluation.localising.rows import FactRow, StudyFindings, as_line, row_of
from factlab.evaluation.localising.worker import Worker
from factlab.facts import Fact
from factlab.journal import Journal, Line, Shard, Writer
from factlab.models.language_model import LanguageModel
from factlab.models.run_model import run_model
from factlab.progress import ProgressCallback, silent
from factlab.tracing.corruption import with_level
from factlab.tracing.corruption_kinds import GaussianNoise

BATCH_SIZE = 4


@checked(in_steps=True)
def study_localisation(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    out: str | Path,
    config: LocalisationConfig | None = None,
    limit: int | None = None,
    data_name: str = "records",
    background: Background | None = None,
    batch_size: int = BATCH_SIZE,
    shard: Shard | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> Localisation:
    """Trace facts, edit each at every layer with every method for every problem, and compare.

    Args:
        lm: the model, left as it is.
        records: with paraphrases and neighbours; of these the facts that the model knows.
        out: folder for a row of every fact and edit; new or empty, or with `resume` of this study.
        config: see `LocalisationConfig`.
        limit: study so many facts, the first ones that are known.
        data_name: what to call the records.
        background: statistics, contexts and values that are at hand.
        batch_size: facts that are edited together. Results depend on it only by rounding.
        shard: do only this part of the facts; parts may share a folder.
        resume: go on with what is in the folder.
        should_stop: asked after every block of edits.
        progress: True for a bar, or a function that is called with rows done and in all.

    Returns:
        The study as it lies in the folder, finished or not.

    Raises:
        InvalidRequestError: a method cannot do what it is asked, a layer is not there, the records
            lack what is needed, or the model knows too few of them.
        StorageError: the folder is not empty, belongs to another study, or cannot be written.

    Source: Hase et al. 2023.

    Examples:
        >>> records = fl.load_records("builtin", limit=3)
        >>> config = fl.evaluation.LocalisationConfig(
        ...     layers=[0, 1], methods=["ft:steps=2"], variants=["injection"], windows=[1],
        ...     samples=2, answer_tokens=0, least_prob=0, essence_texts=0,
        ... )
        >>> study = fl.evaluation.study_localisation(lm, records, "localisation", config)
        >>> study.n_facts, len(study.rows())
        (3, 6)
    """
    config, shard = config or LocalisationConfig(), (shard or Shard()).checked()
    given = as_records(records)
    config.check()
    check_records(given, config)
    if batch_size < 1 or (limit is not None and limit < 1):
        raise InvalidRequestError("batch_size and limit must be at least 1.")
    lm.abilities.need("trace")
    grid, folder = Grid.of(config, lm.n_layers), Path(out)
    config.windows_of(lm.n_layers)
    for cell in grid.cells:
        for layer in grid.edited_layers(cell):
            lm.layer(layer)
    request = _request(lm, given, config, limit, data_name, folder, progress)
    find = partial(_found, lm, given, config, limit, progress)
    journal = Journal.open(folder, request, find, resume, shard)
    places = journal.cases(len(given))
    where, advice = f"'{folder / 'run.json'}'", "Begin again in a new folder."
    level = validated(StudyFindings, journal.findings, where, advice).noise_level
    noise = SubjectNoise(level=level, samples=config.samples, seed=config.seed)
    studied = [given[i] for i in places]
    worker = Worker(lm, studied, places, grid, noise, background or Background(), progress)
    with journal.writing(shard, current_versions()) as writer:
        parts = shard.blocks(range(len(places)), batch_size, BATCH_SIZE)
        blocks = {grid.fact_case(part[0]): part for part in parts}
        cases = [grid.cases_in_turn(part) for part in parts]
        for block in writer.to_do(cases, should_stop):
            if not _do_batch(worker, journal, writer, blocks[block[0]], should_stop, progress):
                break
    return Localisation.load(folder)


def _do_batch(
    worker: Worker,
    journal: Journal,
    writer: Writer,
    places: Sequence[int],
    should_stop: Callable[[], bool],
    progress: ProgressCallback,
) -> bool:
    """Make the rows of some facts that are missing; whether to go on."""
    grid, records = worker.grid, journal.records
    n_rows = len(worker.places) * grid.n_rows
    facts: dict[int, FactRow] = {}
    for number, place in enumerate(places):
        progress("tracing facts", number, len(places))
        case = grid.fact_case(place)
        if case not in records:
            writer.append(case, as_line(worker.fact_row(place)))
        row = row_of(records[case])
        if isinstance(row, FactRow):
            facts[place] = row
    if should_stop():
        return False
    batch = worker.batch(facts)
    for cell in grid.cells:
        progress("editing facts", len(records), n_rows)
        missing: dict[Key, int] = {
            (place, variant): case
            for place in facts
            for variant, case in zip(grid.variants, grid.cases(place, cell), strict=True)
            if case not in records
        }
        if missing:
            # As a whole, so that what a kill cut short comes out as it would have.
            rows = worker.edit_rows(batch, facts, cell)
            for key, case in missing.items():
                writer.append(case, as_line(rows[key]))
            if should_stop():
                return False
    return True


def _request(
    lm: LanguageModel,
    records: Sequence[Record],
    config: LocalisationConfig,
    limit: int | None,
    data_name: str,
    folder: Path,
    progress: ProgressCallback,
) -> Line:
    """What makes two studies the same study."""
    return {
        "format": FORMAT,
        "model": run_model(lm, folder, progress),
        "data": {
            "name": data_name, "sha256": record_hash(records), "n_records": len(records),
        },
        "limit": limit,
        "config": config.model_dump(mode="json"),
    }  # fmt: skip


def _found(
    lm: LanguageModel,
    records: Sequence[Record],
    config: LocalisationConfig,
    limit: int | None,
    progress: ProgressCallback,
) -> Line:
    """Which facts are studied, and with which noise."""
    known = known_facts(lm, records, config, limit, progress)
    # Of all records, so that the level does not depend on how many facts are studied.
    facts = [record.fact for record in records if _has_subject(lm, record.fact)]
    noise = with_level(GaussianNoise(sigmas=config.sigmas), lm, None, facts)
    if not isinstance(noise, GaussianNoise) or noise.level is None:
        raise RuntimeError("with_level() left the level open")
    return {
        "cases": known.places,
        "n_asked": known.n_asked,
        "n_unknown": known.n_unknown,
        "unusable": {**known.unusable},
        "noise_level": noise.level,
        "n_layers": lm.n_layers,
        "versions": {**current_versions()},
    }


def _has_subject(lm: LanguageModel, fact: Fact) -> bool:
    """Whether a fact has a subject with tokens of its own."""
    try:
        lm.fact_continuation(fact)
    except InvalidRequestError:
        return False
    return True
