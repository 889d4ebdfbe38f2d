"""What the page reads: the library's own documents, with what pictures of them say besides."""

from typing import Any

from factlab.editing.presets import preset_of
from factlab.errors import InvalidRequestError
from factlab.models.language_model import LanguageModel
from factlab.tracing.average import AverageTrace
from factlab.tracing.groups import GROUPS
from factlab.tracing.result import CausalTrace


def trace_document(trace: CausalTrace) -> dict[str, Any]:
    """A trace, with the labels of its tokens and what to beware of."""
    return trace.to_json() | {"labels": trace.token_labels, "notes": [*trace.notes]}


def average_document(average: AverageTrace) -> dict[str, Any]:
    """An average of traces, with the labels of its groups of tokens."""
    return average.to_json() | {"labels": [*GROUPS]}


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
