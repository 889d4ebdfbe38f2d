"""Second moments on demand: from the cache if they are there, else collected and kept."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from factlab.arguments import checked
from factlab.errors import StorageError
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.collect import collect_second_moments
from factlab.stats.configs import StatsConfig
from factlab.stats.corpus import Corpus, corpus_from_model
from factlab.stats.expert_moments import ExpertMoments, Moment
from factlab.stats.moments import SecondMoment
from factlab.storage import cache_dir, first_there


@checked()
def second_moments(
    lm: LanguageModel,
    layers: Sequence[int],
    config: StatsConfig | None = None,
    corpus: Corpus | None = None,
    progress: ProgressCallback = silent,
    recompute: bool = False,
    shared: bool = False,
) -> dict[int, Moment]:
    """Second moments of some layers, cached under a hash of weights, layer and corpus.

    Args:
        lm: the model.
        layers: 0-based.
        config: the budget; used when no corpus is given.
        corpus: text to use; by default the model writes its own.
        progress: True for a bar, or a function that is told how far sampling and collecting are.
        recompute: ignore what is in the cache, and replace it.
        shared: of mixtures of experts, the keys of the one that every token goes through.

    Raises:
        StorageError: a file in the cache is damaged.
    """
    config = config or StatsConfig()
    lm.identity.now(live=True, progress=progress)
    with _one_at_a_time(cache_dir()):
        if corpus is None:
            n_tokens = config.n_tokens(lm, layers, shared)
            corpus = corpus_from_model(
                lm, n_tokens, config.row_length, config.seed, progress, not recompute
            )
        known_as = lm.live_fingerprint, lm.identity.as_of_old(live=True)
        paths = {
            layer: first_there(*(_path(lm, each, layer, corpus, shared) for each in known_as))
            for layer in layers
        }
        found: dict[int, Moment] = {}
        if not recompute:
            for layer, path in paths.items():
                if path.exists():
                    found[layer] = _load(path, lm, layer, shared)
        missing = [layer for layer in layers if layer not in found]
        if missing:
            new = collect_second_moments(lm, missing, corpus, progress, shared)
            for layer, moment in new.items():
                moment.save(paths[layer])
            found |= new
    return {layer: found[layer] for layer in layers}


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """A block that one process is in at a time: the others wait, and find what it has kept.

    Where nothing can be locked, such as in a cache that cannot be written, they do not wait.
    """
    lock = FileLock(folder / ".second-moments.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _path(lm: LanguageModel, fingerprint: str, layer: int, corpus: Corpus, shared: bool) -> Path:
    """Where the second moment of a model is to be. What its tokenizer has done is in the corpus."""
    kind = "moment 1" if lm.layers.mixture(layer) is None else "expert moments 1"
    kind = "shared moment 1" if shared else kind
    recipe = f"{kind}|{fingerprint}|{lm.dtype}|{layer}|{corpus.digest}"
    name = hashlib.sha256(recipe.encode()).hexdigest()[:24]
    return cache_dir() / "second-moments" / f"layer-{layer}-{name}.safetensors"


def _load(path: Path, lm: LanguageModel, layer: int, shared: bool) -> Moment:
    is_dense = shared or lm.layers.mixture(layer) is None
    width = lm.layers.d_shared(layer) if shared else lm.layers.d_mlp(layer)
    try:
        moment = SecondMoment.load(path) if is_dense else ExpertMoments.load(path)
        if moment.layer != layer or moment.width != width:
            raise StorageError(
                f"'{path}' is of layer {moment.layer} and {moment.width} dimensions, not of "
                f"layer {layer} and {width}."
            )
        return moment
    except StorageError as error:
        raise StorageError(
            f"The cached statistics are damaged ({error}) Delete that file, or collect them again "
            "with 'factlab stats --recompute'."
        ) from error
