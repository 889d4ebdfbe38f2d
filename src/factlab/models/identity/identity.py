"""`Identity`: what a model is, for everything that is made on it and must not be used on another.

Three things say which model it is: the bits of its weights, the entries of its config that change
what is computed with them, and its tokenizer. An edit depends on the first two: it is a change of
weights. Statistics, measurements and runs depend on all three: they came from text.

How the model was loaded, what it is padded with, or which release of transformers describes it are
no part of it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factlab.models.changes.change import Change
from factlab.models.identity import computation
from factlab.models.identity.tokenizer import TokenizerDigest
from factlab.models.identity.weights import WeightDigests
from factlab.models.stored import Elsewhere, stored
from factlab.progress import ProgressCallback, silent

# Fingerprints begin with the way in which they were made. Those of factlab 0.1 have no such sign.
_SIGN = "v2-"

# Of fingerprints without a sign: entries of the config that were not hashed. All others were.
_UNSIGNED_LEFT_OUT = {
    "_name_or_path", "architectures", "dtype", "output_attentions", "output_hidden_states",
    "quantization_config", "return_dict", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


class Identity(NamedTuple):
    """What a model is.

    Attributes:
        fingerprint: of its weights and of what is computed with them.
        tokenizer: of how it reads text.
    """

    fingerprint: str
    tokenizer: str


class Identifier:
    """Tells what a model is now.

    Args:
        model: whose weights and config.
        tokenizer: that belongs to it.
        originals: gives the unedited values of the weights that are edited now, by name.
        carried: gives the changes that are on beside the weights.
        lock: the model's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        originals: Callable[[], Mapping[str, Tensor]],
        carried: Callable[[], Sequence[Change]],
        lock: AbstractContextManager[Any],
    ) -> None:
        self._model, self._lock = model, lock
        self._originals, self._carried = originals, carried
        self._digests, self._tokenizer = WeightDigests(), TokenizerDigest(tokenizer)

    def steady(self) -> AbstractContextManager[None]:
        """A block in which nobody changes weights behind PyTorch's back; see `WeightDigests`."""
        return self._digests.steady()

    def now(self, live: bool = False, progress: ProgressCallback = silent) -> Identity:
        """What the model is, with applied edits taken off.

        Args:
            live: with applied edits instead.
            progress: called with MiB of weights hashed and in all, if there are any to hash.
        """
        with self._lock:
            return Identity(self._signed(live, False, progress), self._tokenizer())

    def matches(self, fingerprint: str, live: bool = False, roughly: bool = False) -> bool:
        """Whether a fingerprint, made by this factlab or an earlier one, is of this model.

        Args:
            fingerprint: that something was saved with.
            live: ask about the weights as they are now, applied edits included.
            roughly: look only at some numbers of each weight that was hashed before. Notices whole
                matrices that were changed, in a tenth of the time.
        """
        with self._lock:
            if fingerprint.startswith(_SIGN):
                return fingerprint == self._signed(live, roughly, silent)
            return fingerprint == self._unsigned(live, roughly)

    def as_of_old(self, live: bool = False) -> str:
        """The fingerprint that factlab 0.1 gave this model; what it kept has names made of it.

        Args:
            live: of the weights as they are now, applied edits included.
        """
        with self._lock:
            return self._unsigned(live, roughly=False)

    def _signed(self, live: bool, roughly: bool, progress: ProgressCallback) -> str:
        settings = computation.described(self._model.config)
        return _SIGN + self._hash(settings, live, roughly, progress)

    def _unsigned(self, live: bool, roughly: bool) -> str:
        """Of all of the config, but for ten entries."""
        config = self._model.config.to_dict()
        settings = {k: v for k, v in config.items() if k not in _UNSIGNED_LEFT_OUT}
        described = json.dumps(settings, sort_keys=True, default=str)
        return self._hash(described, live, roughly, silent)

    def _hash(self, settings: str, live: bool, roughly: bool, progress: ProgressCallback) -> str:
        weights: dict[str, Tensor | Elsewhere] = dict(sorted(stored(self._model).items()))
        if not live:
            weights |= self._originals()
        made = self._digests.of(weights, roughly, progress)
        digest = hashlib.sha256(settings.encode())
        for name in weights:
            digest.update(made[name])
        for change in self._carried() if live else ():
            digest.update(change.digest.encode())
        return digest.hexdigest()
