"""`probe`: the probes of many edits in one folder, which can be killed and gone on with.

folder/
    run.json                what was asked for, which edits are probed, and the level of the noise
    records-1-of-1.jsonl    a row of every edited fact
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from factlab.arguments import checked
from factlab.data.ripple.world import RippleWorld
from factlab.documents import validated
from factlab.editing.background import Background
from factlab.editing.edit import Edit, current_versions
from factlab.editing.noise_config import SubjectNoise
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.evaluation.measuring.baseline import references_hash
from factlab.evaluation.probing.configs import ProbeConfig
from factlab.evaluation.probing.edits import ProbedEdits
from factlab.evaluation.probing.result import ADVICE, FORMAT, Probes
from factlab.evaluation.probing.rows import ProbeFindings
from factlab.evaluation.probing.worker import Prober
from factlab.evaluation.probing.written import TextWriter
from factlab.evaluation.running.planning import check_batch_size, settled_config
from factlab.facts import Fact
from factlab.journal import Journal, Line
from factlab.models.language_model import LanguageModel
from factlab.models.run_model import run_model
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard
from factlab.tracing.corruption import with_level
from factlab.tracing.corruption_kinds import GaussianNoise

BATCH_SIZE = 8


@checked(in_steps=True)
def probe(
    lm: LanguageModel,
    edits: ProbedEdits | Sequence[Edit],
    out: str | Path,
    config: ProbeConfig | None = None,
    world: RippleWorld | None = None,
    background: Background | None = None,
    batch_size: int = BATCH_SIZE,
    shard: Shard | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> Probes:
    """Probe what edits do beside their benchmark: inverse prompts, the subject's essence, texts.

    Args:
        lm: the model, left as it is.
        edits: facts with their edits, or a list of edits.
        out: folder for one row per fact; new or empty, or with `resume` of these probes.
        config: see `ProbeConfig`.
        world: facts and words for inverse prompts; by default those that come with factlab.
        background: statistics, contexts and values that are at hand.
        batch_size: facts that are probed together: what a kill costs. Results depend on it only by
            rounding.
        shard: do only this part of the facts; parts may share a folder.
        resume: go on with what is in the folder.
        should_stop: asked after every block.
        progress: True for a bar, or a function that is called with rows done and in all.

    Returns:
        The probes as they lie in the folder, finished or not.

    Raises:
        InvalidRequestError: something asked for does not go together.
        WrongModelError: an edit is for another model.
        EditError: no fact can be written.
        StorageError: the folder is not empty, belongs to other probes, or cannot be written.

    Source: Meng et al. 2022 (ROME), section 3.7; Hase et al. 2023, section 3.4 (essence).

    Examples:
        >>> edits = fl.evaluation.ProbedEdits.of_method(facts, "ft")
        >>> config = fl.evaluation.ProbeConfig(essence_texts=0, traced=False)
        >>> probes = fl.evaluation.probe(lm, edits, "probes", config)
        >>> [row["no_inverse"] for row in probes.rows()]
        ['', 'the relation of the fact is not known']
    """
    config, shard = config or ProbeConfig(), (shard or Shard()).checked()
    edits = edits if isinstance(edits, ProbedEdits) else ProbedEdits.of_saved(edits)
    check_batch_size(batch_size)
    _check(lm, edits, config)
    folder, background = Path(out), background or Background()
    world = world or RippleWorld.load()
    request: Line = {
        "format": FORMAT,
        "model": run_model(lm, folder, progress),
        "data": edits.data().model_dump(mode="json"),
        "references": references_hash(edits.references) if config.generated else "",
        "world": world.digest,
        "config": config.model_dump(mode="json"),
    }
    find = partial(_found, lm, edits, config, background, progress)
    journal = Journal.open(folder, request, find, resume, shard)
    where = f"'{folder / 'run.json'}'"
    found = validated(ProbeFindings, journal.findings, where, ADVICE)
    prober = Prober(
        lm, edits, config, world,
        method_config=None
        if edits.method is None
        else validated(edits.method.config, found.method_config, where, ADVICE),
        noise=None
        if found.noise_level is None
        else SubjectNoise(level=found.noise_level, samples=config.samples, seed=config.seed),
        writer=TextWriter(lm, config, edits.references) if config.generated else None,
        background=background, progress=progress,
    )  # fmt: skip
    cases = journal.cases(len(edits.records))

    def tell() -> None:
        progress("probing edits", len(journal.records), len(cases))

    with journal.writing(shard, current_versions()) as rows:
        tell()
        for block in rows.to_do(shard.blocks(cases, batch_size, BATCH_SIZE), should_stop, tell):
            # As a whole, so that what a kill cut short comes out as it would have.
            for case, row in zip(block, prober.rows(block), strict=True):
                if case not in journal.records:
                    rows.append(case, row.as_line())
            tell()
            if should_stop():
                break
    return Probes.load(folder)


def _check(lm: LanguageModel, edits: ProbedEdits, config: ProbeConfig) -> None:
    """Refuse what does not go together, before anything is asked."""
    config.window_of(lm.n_layers)
    edits.check_model(lm)
    if config.generated and not any(record.generation_prompts for record in edits.records):
        raise InvalidRequestError(
            "There are no beginnings of texts to have written: saved edits and evaluations do not "
            "keep them. Probe records (--data), or leave generated out (--generate)."
        )
    if config.traced:
        lm.abilities.need("trace")


def _found(
    lm: LanguageModel,
    edits: ProbedEdits,
    config: ProbeConfig,
    background: Background,
    progress: ProgressCallback,
) -> Line:
    """What is settled for all facts: the method's config, and the level of the noise."""
    facts = [record.fact for record in edits.records]
    settled = None
    if edits.method is not None:
        method = edits.method
        admitted = method.admitted(lm, facts, edits.config)
        made = settled_config(lm, method, admitted, facts, background, progress)
        settled = made.model_dump(mode="json")
    level = None
    traceable = [fact for fact in facts if _has_subject(lm, fact)]
    if config.traced and traceable:
        noise = with_level(GaussianNoise(sigmas=config.sigmas), lm, None, traceable)
        level = noise.level if isinstance(noise, GaussianNoise) else None
    return {
        "cases": [*range(len(facts))],
        "method_config": settled,
        "noise_level": level,
        "versions": {**current_versions()},
    }


def _has_subject(lm: LanguageModel, fact: Fact) -> bool:
    """Whether a fact has a subject with tokens of its own."""
    try:
        lm.fact_continuation(fact)
    except (InvalidRequestError, TokenizationError):
        return False
    return True
