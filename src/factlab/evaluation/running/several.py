"""Several methods on the same records: a run for each."""

from collections.abc import Callable
from pathlib import Path

from factlab.arguments import checked
from factlab.evaluation.requests import EvaluationMaterial, EvaluationRequest
from factlab.evaluation.running.planning import BATCH_SIZE
from factlab.evaluation.running.run import evaluate
from factlab.evaluation.running.saved_run import Run
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard


@checked(in_steps=True)
def evaluate_methods(
    lm: LanguageModel,
    request: EvaluationRequest,
    out: str | Path,
    material: EvaluationMaterial | None = None,
    batch_size: int = BATCH_SIZE,
    shard: Shard | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> list[Run]:
    """Evaluate each of some methods on the same records.

    Args:
        lm: the model, left as it is.
        request: which methods, on which records.
        out: folder of the run; of several methods, of their folders.
        material: what the request asks for, if that has been read already.
        batch_size: see `evaluate`.
        shard: see `evaluate`.
        resume: go on with what is in the folders.
        should_stop: asked after every block of records; the runs can be resumed.
        progress: True for a bar, or a function that is called with records done and in all.

    Returns:
        The runs, in the order of the methods; fewer if they were stopped.

    Raises:
        InvalidRequestError: as `EvaluationMaterial.of` and `evaluate`.
        EditError: a method can write none of the facts.
        StorageError: a file cannot be read, or a folder not be used.
    """
    material = material or EvaluationMaterial.of(request, progress)
    runs: list[Run] = []
    for choice, folder in zip(material.choices, request.folders(Path(out)), strict=True):
        done = evaluate(
            lm, material.records, choice.method, folder, config=choice.config,
            mode=request.mode, turn=request.turn, measure=request.measure,
            references=material.references, ordinary_text=material.passages,
            data_name=request.records.name, batch_size=batch_size, shard=shard,
            resume=resume, should_stop=should_stop, progress=progress,
        )  # fmt: skip
        runs.append(done)
        if should_stop():
            break
    return runs
