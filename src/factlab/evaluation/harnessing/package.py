"""The package lm_eval, which factlab itself does not need: found, and given a model as it runs."""

import copy
import importlib
import inspect
import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factlab.errors import InvalidRequestError, MissingPackageError, nearest
from factlab.models.language_model import LanguageModel
from factlab.tokens import special_around

# Settings of `lm_eval.simple_evaluate` that say what is said here in another way, or must be as
# they are.
_OURS = {
    "model": "give the model as lm",
    "model_args": "give the model as lm",
    "device": "the model is read where it is",
    "max_batch_size": "say batch_size='auto'",
    "log_samples": "answers are always kept, since changes are paired by question",
    "predict_only": "without scores there is nothing to compare",
    "task_manager": "say include_path for a folder of task files",
    "use_cache": "an edited model would be given the answers of the unedited one",
}


def load_package() -> Any:
    """The package.

    Raises:
        MissingPackageError: it is not there, or cannot be imported.
    """
    try:
        package = importlib.import_module("lm_eval")
        importlib.import_module("lm_eval.models.huggingface")
    except ImportError as error:
        raise MissingPackageError(
            f"Measuring with lm_eval needs that package, which cannot be imported ({error}): "
            "pip install 'factlab[harness]'."
        ) from error
    return package


def check_settings(package: Any, settings: Mapping[str, object]) -> None:
    """Refuse settings that `lm_eval.simple_evaluate` does not have, or that are not a caller's.

    Raises:
        InvalidRequestError: names the first one.
    """
    known = {*inspect.signature(package.simple_evaluate).parameters} - _OURS.keys()
    for name in settings:
        if name in _OURS:
            raise InvalidRequestError(f"'{name}' cannot be set here: {_OURS[name]}.")
        if name not in known:
            raise InvalidRequestError(
                f"lm_eval has no setting '{name}'.{nearest(name, known)} "
                f"Choose from {', '.join(sorted(known))}."
            )


def find_tasks(names: Sequence[str], include_path: Path | None) -> tuple[Any, list[str]]:
    """A task manager of lm_eval, and the tasks that it knows by some names.

    Where all names are tasks of the caller's own folder, nothing else is looked through.

    Args:
        names: of tasks, groups of tasks or tags; `*` stands for anything.
        include_path: folder of further task files.

    Raises:
        InvalidRequestError: there is no such folder, or no such task.
    """
    managers = importlib.import_module("lm_eval.tasks")
    if include_path is not None:
        if not include_path.is_dir():
            raise InvalidRequestError(f"include_path: '{include_path}' is not a folder.")
        own = managers.TaskManager(include_path=str(include_path), include_defaults=False)
        if {*names} <= {*own.all_subtasks}:
            return own, list(names)
    folder = None if include_path is None else str(include_path)
    manager = managers.TaskManager(include_path=folder)
    found: dict[str, None] = {}
    for name in names:
        matches: list[str] = manager.match_tasks([name])
        if not matches:
            raise InvalidRequestError(
                f"lm_eval knows no task '{name}'.{nearest(name, manager.all_tasks)} "
                "List them with: lm-eval ls tasks. For a task file of your own, say include_path."
            )
        found |= dict.fromkeys(matches)
    return manager, list(found)


def wrapped(lm: LanguageModel, batch_size: int | str) -> Any:
    """A model, with whatever is done to it, as lm_eval takes it.

    Its tokenizer is a copy: lm_eval gives it a token for padding. A text begins as it does in
    factlab: with BOS where the tokenizer puts it there, and without it elsewhere.

    Args:
        lm: the model.
        batch_size: texts at once, or `auto`.

    Raises:
        InvalidRequestError: the tokenizer closes texts, so that nothing can follow them.
    """
    n_before, n_behind = special_around(lm.tokenizer)
    if n_behind:
        raise InvalidRequestError(
            f"The tokenizer of {lm.name} closes every text with a special token, and lm_eval would "
            "ask what follows that. Use a tokenizer that does not, such as one loaded with "
            "add_eos_token=False."
        )
    made: Any = importlib.import_module("lm_eval.models.huggingface").HFLM
    return made(
        pretrained=lm.model,
        tokenizer=copy.deepcopy(lm.tokenizer),
        backend="causal",
        batch_size=batch_size,
        add_bos_token=n_before > 0,
    )


@contextmanager
def random_state_kept() -> Generator[None, None, None]:
    """Put back the random states of Python, NumPy and PyTorch, all of which lm_eval seeds."""
    ours, numpys = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices):  # pyright: ignore[reportUnknownMemberType]
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
