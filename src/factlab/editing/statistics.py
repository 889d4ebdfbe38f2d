"""The second moments that edits of a model need, collected beforehand."""

from factlab.arguments import checked
from factlab.editing.presets import preset_of
from factlab.errors import InvalidRequestError
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.configs import StatisticsRequest
from factlab.stats.corpus import corpus_of
from factlab.stats.expert_moments import Moment
from factlab.stats.store import second_moments


@checked()
def edit_statistics(
    lm: LanguageModel, request: StatisticsRequest, progress: ProgressCallback = silent
) -> dict[int, Moment]:
    """Collect second moments of MLP keys, or fetch them from the cache.

    Args:
        lm: the model.
        request: which layers, and from which text.
        progress: True for a bar, or a function that is told how far sampling and collecting are.

    Returns:
        By layer.

    Raises:
        InvalidRequestError: no layer is named and the model has no preset, or there is no such
            layer.
        StorageError: the text cannot be read, or a file in the cache is damaged.
    """
    preset, config = preset_of(lm), request.config
    layers = request.layers or (() if preset is None else (preset.rome_layer,))
    if not layers:
        raise InvalidRequestError(f"No preset for {lm.name}. Name the layer with --layer.")
    for layer in layers:
        lm.layer(layer)
    corpus = None
    if request.source.text is not None or request.source.dataset is not None:
        corpus = corpus_of(lm, request.source, config.n_tokens(lm, layers), config.row_length)
    return second_moments(lm, layers, config, corpus, progress, request.recompute)
