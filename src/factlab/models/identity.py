"""What a model is: a digest of its config and of its weights."""

import hashlib
import json
import weakref

import torch
from torch import Tensor
from transformers import PreTrainedModel

# Config entries that say how a model was loaded or saved, not what it computes.
_NOT_THE_MODEL = {
    "_name_or_path", "architectures", "dtype", "output_attentions", "output_hidden_states",
    "quantization_config", "return_dict", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


class Fingerprints:
    """SHA-256 of config and weights; a weight's part is made anew when the weight has changed.

    Values are rounded to bfloat16 first, so that a checkpoint has the same fingerprint loaded in
    float32 and in bfloat16 (in float16 only if it was stored in 16 bits).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # By name: a tensor (the weight, or its original under an edit), how often it had changed
        # when its digest was made, and the digest.
        self._digests: dict[str, list[tuple[weakref.ref[Tensor], int, bytes]]] = {}

    def of(self, instead: dict[str, Tensor]) -> str:
        """The fingerprint with other tensors in the place of weights of these names."""
        config = self.model.config.to_dict()
        settings = {k: v for k, v in config.items() if k not in _NOT_THE_MODEL}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(self._weight_digest(name, instead.get(name, parameter)))
        return digest.hexdigest()

    def _weight_digest(self, name: str, weight: Tensor) -> bytes:
        """Of one weight; made anew only when the weight has changed."""
        version = -1 if weight.is_inference() else weight._version
        known = [entry for entry in self._digests.get(name, []) if entry[0]() is not None]
        for tensor, at, digest in known:
            if tensor() is weight and at == version != -1:
                return digest
        made = hashlib.sha256(f"{name} {tuple(weight.shape)}\n".encode())
        rounded = weight.detach().to(torch.bfloat16).contiguous().view(torch.int16)
        made.update(rounded.cpu().numpy().data)
        others = [entry for entry in known if entry[0]() is not weight]
        self._digests[name] = [*others, (weakref.ref(weight), version, made.digest())]
        return made.digest()
