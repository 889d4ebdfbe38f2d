"""A model as it is now, edits and all, as an ordinary Hugging Face checkpoint."""

from pathlib import Path

from factlab.editing.folders import check_new_folder
from factlab.models.decoder import Decoder
from factlab.models.quiet import quiet_transformers
from factlab.storage import folder_written_atomically


def write_checkpoint(lm: Decoder, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer: all of it or nothing.

    Raises:
        StorageError: the folder is not empty, or cannot be written.
    """
    check_new_folder(folder)
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
