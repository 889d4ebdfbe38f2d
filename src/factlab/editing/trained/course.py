"""A training as a person asks for it: from records or text to an editor on the disk."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from factlab.arguments import checked
from factlab.editing.trained.examples import (
    TrainingSet,
    examples_of_records,
    examples_of_text,
)
from factlab.editing.trained.gradients import last_matrices
from factlab.editing.trained.passages import PASSAGE_TOKENS
from factlab.editing.trained.requests import TrainMaterial, TrainRequest
from factlab.editing.trained.training import Trained, train_editor
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.corpus import corpus_of

CURVE = "curve.png"


@checked()
def examples_for(
    lm: LanguageModel,
    request: TrainRequest,
    material: TrainMaterial | None = None,
    progress: ProgressCallback = silent,
) -> TrainingSet:
    """What an editor is to learn from.

    Args:
        lm: the model that it is for.
        request: which editor, and from what.
        material: what the request asks for, if that has been read already.
        progress: True for a bar, or a function that is told what is going on.

    Raises:
        InvalidRequestError: the model has no such blocks, or there is too little to learn from.
        StorageError: something cannot be read.
    """
    material = material or TrainMaterial.of(request, progress)
    last_matrices(lm, request.network.n_blocks)  # refuses before there is work to lose
    n_tokens = request.passages * PASSAGE_TOKENS
    text = partial(
        corpus_of, lm, request.source, n_tokens, PASSAGE_TOKENS, request.seed, progress
    )  # made only where it is needed: the model may have to write it
    if material.records is not None:
        return examples_of_records(
            lm, material.records, request.seed, request.validation_share, request.test_share,
            material.kept_out, text() if request.config.n_ordinary else None,
        )  # fmt: skip
    return examples_of_text(lm, text(), request.seed, request.validation_share, progress)


@checked(in_steps=True)
def train(
    lm: LanguageModel,
    request: TrainRequest,
    out: str | Path,
    examples: TrainingSet | None = None,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> Trained:
    """Train the editor that is asked for, and draw its learning curve in the folder.

    Args:
        lm: the model, without edits; left as it is.
        request: which editor, and from what.
        out: folder for the editor; new or empty, or with `resume` of this training.
        examples: what to learn from, if that has been made already; see `examples_for`.
        resume: go on with what is in the folder.
        should_stop: asked after every step; the training can be resumed after it stopped.
        progress: True for a bar, or a function that is called with steps done and in all.

    Raises:
        InvalidRequestError: as `examples_for`, or the model carries edits.
        EditError: the training diverged; the best editor and the last checkpoint are kept.
        StorageError: the folder belongs to another training, or cannot be written.
    """
    if examples is None:
        examples = examples_for(lm, request, progress=progress)
    trained = train_editor(
        lm, examples, out, request.network, request.config, resume, should_stop, progress
    )
    trained.plot(Path(out) / CURVE)
    return trained
