"""A model as it is now, edits and all, as an ordinary Hugging Face checkpoint."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from factlab.destinations import check_new_folder
from factlab.errors import EditError
from factlab.models.accept import foreign_layers
from factlab.models.changes.change import Change
from factlab.models.language_model import LanguageModel
from factlab.models.quiet import quiet_transformers
from factlab.models.stored import is_packed
from factlab.storage import folder_written_atomically


def check_ordinary(lm: LanguageModel) -> None:
    """Refuse a model whose weights are not those that its config stands for.

    Whoever loads a checkpoint makes the model of its config and fills in the weights by name: what
    has another name or shape is lost, and what is missing is drawn at random.

    Raises:
        EditError: names the first weight that would be lost.
    """
    for name, layer in foreign_layers(lm.model):
        raise EditError(
            f"'{name}' is an adapter's layer ({type(layer).__name__} of peft), which no ordinary "
            "checkpoint holds. Merge the adapter first: wrap what merge_and_unload() returns."
        )
    for change in lm.patches.carried():
        raise EditError(
            f"The edit of '{change.weight_name}' is carried beside a weight that cannot be written "
            "(quantised, offloaded or of a class of its own), so no checkpoint of this model holds "
            "it. Write it as an adapter (Edit.to_peft), or merge it into the unquantised model."
        )
    if any(is_packed(module) for module in lm.model.modules()):
        return  # quantised: only its own library knows which weights it writes
    with torch.random.fork_rng([]), torch.device("meta"):
        plain = type(lm.model)(copy.deepcopy(lm.model.config))
    expected = {name: weight.shape for name, weight in plain.state_dict().items()}
    shapes = {name: weight.shape for name, weight in lm.model.state_dict().items()}
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            one, other = (
                "no such weight" if each is None else f"one of shape {tuple(each)}"
                for each in (shapes.get(name), expected.get(name))
            )
            raise EditError(
                f"This model cannot be written as an ordinary checkpoint: it has {one} for "
                f"'{name}', its config stands for {other}. Undo the change to its modules, or save "
                "the edit alone (Edit.save)."
            )


def check_not_on(lm: LanguageModel, updates: Sequence[Change]) -> None:
    """Refuse to merge an edit into a model that it is on.

    Raises:
        EditError: one of its updates is on the model.
    """
    if {change.digest for change in lm.patches.active} & {update.digest for update in updates}:
        raise EditError(
            "This edit is on the model already and would be merged twice. Undo it first."
        )


def write_checkpoint(lm: LanguageModel, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer: all of it or nothing.

    Raises:
        StorageError: the folder is not empty, or cannot be written.
        EditError: the model is not what its config says, so nothing could read the folder back.
    """
    check_new_folder(folder)
    check_ordinary(lm)
    config = lm.model.config
    # transformers notes in the live config what it is about to save.
    before = {name: vars(config).get(name) for name in ("dtype", "architectures")}
    with folder_written_atomically(folder) as unfinished:
        try:
            with quiet_transformers():
                lm.model.save_pretrained(unfinished)
                lm.tokenizer.save_pretrained(unfinished)
        finally:
            vars(config).update(before)
