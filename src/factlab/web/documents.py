"""What the page reads of the model that it works with."""

from typing import Any

from factlab.editing.presets import preset_of
from factlab.errors import InvalidRequestError
from factlab.models.language_model import LanguageModel


def model_document(lm: LanguageModel) -> dict[str, Any]:
    """What the page needs to know of a model."""
    try:
        chats = bool(lm.chat_forms())
    except InvalidRequestError:
        chats = False
    preset = preset_of(lm)
    return {
        "name": lm.name,
        "family": lm.family,
        "n_layers": lm.n_layers,
        "d_model": lm.d_model,
        "fingerprint": lm.fingerprint,
        "chats": chats,
        "layer": None if preset is None else preset.rome_layer,
        "layer_source": None if preset is None else f"preset ({preset.rome_source})",
    }
