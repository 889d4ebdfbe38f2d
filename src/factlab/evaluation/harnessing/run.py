"""One call that has lm_eval measure a model without edits and with them."""

import json
import re
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from factlab.arguments import checked
from factlab.editing.edit import Edit, current_versions
from factlab.errors import InvalidRequestError, MemoryLimitError
from factlab.evaluation.harnessing.package import (
    check_settings,
    find_tasks,
    load_package,
    random_state_kept,
    wrapped,
)
from factlab.evaluation.harnessing.result import HarnessResult, HarnessStage
from factlab.evaluation.harnessing.scores import read_scores
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent


@checked()
def harness(
    lm: LanguageModel,
    tasks: str | Sequence[str],
    edits: Edit | Sequence[Edit] = (),
    every: int | None = None,
    include_path: str | Path | None = None,
    batch_size: int | str = 1,
    progress: ProgressCallback = silent,
    **settings: object,
) -> HarnessResult:
    """Measure general abilities with EleutherAI's lm-evaluation-harness, unedited and edited.

    The model that is in memory is read, so nothing is exported. Each stage is measured with the
    same settings, on the same questions in the same order, so changes can be paired by question.

    Args:
        lm: the model, left as it is, as are its tokenizer and all random states. Edits that are
            on it already belong to the first stage.
        tasks: names that lm_eval knows, of tasks or groups, such as `mmlu`; `*` stands for
            anything.
        edits: put on one after the other, in this order, such as `run.edits` of a sequence.
        every: measure after so many edits each time, and at the end; by default at the end only.
        include_path: folder of task files (YAML) of your own.
        batch_size: texts at once. Results depend on it by rounding only.
        progress: True for a bar, or a function that is told of each stage. lm_eval shows bars of
            its own in any case.
        settings: of `lm_eval.simple_evaluate`, such as `num_fewshot=5` or `limit=100`.

    Raises:
        MissingPackageError: lm_eval is not installed.
        InvalidRequestError: there is no such task or setting, a number is below 1, or the tokenizer
            closes every text.
        WrongModelError: an edit was made for another model, or is out of its order.
        MemoryLimitError: memory ran out.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    stack = [edits] if isinstance(edits, Edit) else list(edits)
    _check_numbers(names, every, batch_size)
    package = load_package()
    check_settings(package, settings)
    if stack:
        stack[0].check_model(lm)
    manager, found = find_tasks(names, None if include_path is None else Path(include_path))
    given = {**settings, "tasks": found, "task_manager": manager, "log_samples": True}
    stages: list[HarnessStage] = []
    due = _due(len(stack), every)
    try:
        with lm.frozen(), random_state_kept(), ExitStack() as applied:
            reader = wrapped(lm, batch_size)
            for n_edits in due:
                for edit in stack[stages[-1].n_edits if stages else 0 : n_edits]:
                    applied.enter_context(edit.applied(lm))
                progress("measuring with lm_eval", len(stages), len(due))
                scores = read_scores(package.simple_evaluate(reader, **given))
                n_facts = sum(len(edit.facts) - len(edit.skipped) for edit in stack[:n_edits])
                stages.append(HarnessStage(n_edits=n_edits, n_facts=n_facts, scores=scores))
    except MemoryLimitError as error:
        raise MemoryLimitError(
            "Memory ran out while lm_eval read texts. Give a smaller batch_size."
        ) from error
    progress("measuring with lm_eval", len(due), len(due))
    said = {"tasks": found, "include_path": include_path, "batch_size": batch_size, **settings}
    return HarnessResult(
        model=lm.name,
        fingerprint=lm.fingerprint,
        stages=tuple(stages),
        settings=json.loads(json.dumps(said, default=str)),
        versions={**current_versions(), "lm_eval": version("lm_eval")},
    )


def _check_numbers(names: Sequence[str], every: int | None, batch_size: int | str) -> None:
    if not names:
        raise InvalidRequestError("The list of tasks is empty. Give at least one.")
    if every is not None and every < 1:
        raise InvalidRequestError(f"every={every}: measure after at least one edit.")
    is_auto = isinstance(batch_size, str) and re.fullmatch(r"auto(:\d+)?", batch_size)
    if not is_auto and (isinstance(batch_size, str) or batch_size < 1):
        raise InvalidRequestError(f"batch_size={batch_size!r} must be at least 1, or 'auto'.")


def _due(n_edits: int, every: int | None) -> list[int]:
    """With how many edits to measure: none, every so many, and all."""
    return sorted({*range(0, n_edits, every or n_edits or 1), 0, n_edits})
