"""`Identity`: what a model is, for everything that is made on it and must not be used on another.

Three things say which model it is: the bits of its weights, the entries of its config that change
what is computed with them, and its tokenizer. An edit depends on the first two: it is a change of
weights. Statistics, measurements and runs depend on all three: they came from text.

How the model was loaded, what it is padded with, or which release of transformers describes it are
no part of it.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factlab.models.identity import computation
from factlab.models.identity.tokenizer import TokenizerDigest
from factlab.models.identity.weights import WeightDigests
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
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._digests = WeightDigests()
        self.tokenizer = TokenizerDigest(tokenizer)

    def steady(self) -> AbstractContextManager[None]:
        """A block in which nobody changes weights behind PyTorch's back; see `WeightDigests`."""
        return self._digests.steady()

    def fingerprint(
        self,
        instead: Mapping[str, Tensor],
        roughly: bool = False,
        progress: ProgressCallback = silent,
    ) -> str:
        """SHA-256 of what is computed and with which weights.

        Args:
            instead: other tensors in the place of weights of these names.
            roughly: look only at a sample of the bits of weights that were hashed before.
            progress: called with MiB hashed and in all.
        """
        settings = computation.described(self._model.config)
        return _SIGN + self._hash(settings, instead, roughly, progress)

    def matches(
        self, fingerprint: str, instead: Mapping[str, Tensor], roughly: bool = False
    ) -> bool:
        """Whether a fingerprint, of this factlab or an earlier one, is of this model.

        Args:
            fingerprint: that is asked about.
            instead: other tensors in the place of weights of these names.
            roughly: see `fingerprint`.
        """
        if fingerprint.startswith(_SIGN):
            return fingerprint == self.fingerprint(instead, roughly)
        return fingerprint == self.unsigned(instead, roughly)

    def unsigned(self, instead: Mapping[str, Tensor], roughly: bool = False) -> str:
        """The fingerprint that factlab 0.1 gave: of all of the config, but for ten entries."""
        config = self._model.config.to_dict()
        settings = {k: v for k, v in config.items() if k not in _UNSIGNED_LEFT_OUT}
        described = json.dumps(settings, sort_keys=True, default=str)
        return self._hash(described, instead, roughly, silent)

    def _hash(
        self,
        settings: str,
        instead: Mapping[str, Tensor],
        roughly: bool,
        progress: ProgressCallback,
    ) -> str:
        weights = dict(sorted(self._model.named_parameters()))
        weights |= {name: weight for name, weight in instead.items() if name in weights}
        made = self._digests.of(weights, roughly, progress)
        digest = hashlib.sha256(settings.encode())
        for name in weights:
            digest.update(made[name])
        return digest.hexdigest()
