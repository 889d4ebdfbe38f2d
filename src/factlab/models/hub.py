"""The Hugging Face Hub, asked once before its client begins to try again and again.

The client tries each file five times, with pauses, before it says that there is no network: a
minute of silence. One question with a short wait finds out, and then what is in the Hub's cache on
this machine serves, or one sentence says what is wrong.
"""

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from factlab.errors import ModelLoadError, nearest
from factlab.models.request import WELL_KNOWN, adapter_instead

_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class HubAnswer:
    """What asking for a model has shown.

    Attributes:
        is_reached: whether the Hub answered; otherwise only its cache on this machine can serve.
        objection: why it would not give the model, in its own words; empty if it would.
        folder: where its cache keeps the model, if that is to be read instead. By the model's
            name transformers would try the network for some files all the same.
    """

    is_reached: bool
    objection: str = ""
    folder: str | None = None


def ask_hub(name: str, revision: str | None) -> HubAnswer:
    """Find out whether the Hub can be reached and has a model.

    Args:
        name: id on the Hub.
        revision: branch, tag or commit.

    Raises:
        ModelLoadError: it was not reached, and its cache on this machine lacks the model; or the
            id is an adapter's.
    """
    try:
        info = huggingface_hub.model_info(name, revision=revision, timeout=_WAIT_S)
    except HFValidationError as error:
        raise ModelLoadError(
            f"Cannot load model '{name}': there is no such folder or file here, and it is no name "
            f"on the Hugging Face Hub ({first_line(error)}).{nearest(name, WELL_KNOWN)}"
        ) from error
    except HfHubHTTPError as error:
        return HubAnswer(is_reached=True, objection=first_line(error))
    except Exception as error:  # whatever the HTTP library of the day raises without a network
        cached = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            return HubAnswer(False, first_line(error), str(Path(cached).parent))
        raise ModelLoadError(
            f"Cannot load model '{name}': it is neither a folder here nor in the Hub's cache, and "
            f"the Hugging Face Hub was not reached ({first_line(error)})."
            f"{nearest(name, WELL_KNOWN)} Check the name and the network, or pass a local folder "
            "or .gguf file."
        ) from error
    if any(file.rfilename == "adapter_config.json" for file in info.siblings or ()):
        raise adapter_instead(name)
    return HubAnswer(is_reached=True)


def first_line(error: Exception) -> str:
    """What an error of the Hub's client says, without the lines about requests below it."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
