"""The second moment of MLP keys: C = E[k kᵀ], uncentred.

ROME's closed form measures the size of a change by what it does to ordinary keys, and C is all it
needs to know about them (ROME paper, section 3.1 and appendix A).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.documents import check_format
from factlab.errors import StatisticsError, StorageError, WrongModelError
from factlab.models.decoder import Decoder
from factlab.models.products import gram
from factlab.storage import read_tensors, write_tensors

_FORMAT = "factlab second moment 1"
_KEYS_AT_ONCE = 4096


@dataclass(frozen=True)
class SecondMoment:
    """E[k kᵀ] of one layer's MLP keys, with what it was computed from.

    Attributes:
        matrix: (d_mlp, d_mlp), float64, on the CPU, symmetric.
        layer: 0-based.
        n_tokens: number of keys averaged.
        source: the text, in words.
        fingerprint: of the model whose keys these are.
    """

    matrix: Float[Tensor, "d_mlp d_mlp"]
    layer: int
    n_tokens: int
    source: str
    fingerprint: str

    @cached_property
    def eigen(self) -> tuple[Float[Tensor, " d_mlp"], Float[Tensor, "d_mlp d_mlp"]]:
        """Eigenvalues, ascending, and eigenvectors (columns)."""
        values, vectors = torch.linalg.eigh(self.matrix)
        return values, vectors

    @cached_property
    def _cholesky(self) -> Float[Tensor, "d_mlp d_mlp"]:
        factor, info = torch.linalg.cholesky_ex(self.matrix)
        if int(info) != 0:
            raise StatisticsError(
                f"The second moment of layer {self.layer} is singular: {self.n_tokens} tokens of "
                f"{self.source} for {len(self.matrix)} dimensions are too few or too alike. "
                "Collect it from more text (factlab stats --tokens-per-dim 10)."
            )
        return factor

    def solve(self, keys: Float[Tensor, "key d_mlp"]) -> Float[Tensor, "key d_mlp"]:
        """C⁻¹ k of every key, by Cholesky in float64.

        Raises:
            StatisticsError: C is not positive definite: there were too few independent keys.
        """
        return torch.cholesky_solve(keys.cpu().double().T, self._cholesky).T

    def check_model(self, lm: Decoder) -> None:
        """Refuse statistics of another model. Those of the model before its edits will do.

        Raises:
            WrongModelError: they were collected on different weights.
        """
        if self.fingerprint not in (lm.fingerprint, lm.live_fingerprint):
            raise WrongModelError(
                f"These statistics of layer {self.layer} were collected on a model with "
                f"fingerprint {self.fingerprint[:12]}, but {lm.name} has {lm.fingerprint[:12]}. "
                "Collect them again on this model."
            )

    def save(self, path: Path) -> None:
        """Write a portable safetensors file."""
        metadata = {
            "format": _FORMAT,
            "layer": str(self.layer),
            "n_tokens": str(self.n_tokens),
            "source": self.source,
            "fingerprint": self.fingerprint,
        }
        write_tensors(path, {"second_moment": self.matrix}, metadata)

    @classmethod
    def load(cls, path: Path) -> "SecondMoment":
        """Read what `save` wrote.

        Raises:
            StorageError: the file is missing, damaged, or something else.
        """
        tensors, metadata = read_tensors(path)
        matrix = tensors.get("second_moment")
        check_format(metadata.get("format"), _FORMAT, f"'{path}'", "a second moment")
        if matrix is None:
            raise StorageError(f"'{path}' is damaged: it has no matrix.")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.isfinite().all():
            raise StorageError(f"'{path}' is damaged: its matrix is not square and finite.")
        return cls(
            matrix,
            int(metadata["layer"]),
            int(metadata["n_tokens"]),
            metadata["source"],
            metadata["fingerprint"],
        )


class MomentAccumulator:
    """A running sum of k kᵀ in float64: any chunking of the keys gives the same result.

    Keys in single or half precision are multiplied in single precision, some thousand at a time, so
    that rounding stays far below the noise of any sample of text.
    """

    def __init__(self, width: int) -> None:
        self._sum = torch.zeros(width, width, dtype=torch.float64, device="cpu")
        self.n_tokens = 0

    def add(self, keys: Float[Tensor, "token width"]) -> None:
        """Count in more keys."""
        precise = keys.to(torch.promote_types(keys.dtype, torch.float32))
        for some in precise.split(_KEYS_AT_ONCE):
            self._sum += gram(some).cpu().double()
        self.n_tokens += len(keys)

    def mean(self) -> Float[Tensor, "width width"]:
        """The second moment so far.

        Raises:
            StatisticsError: no key was added.
        """
        if self.n_tokens == 0:
            raise StatisticsError("No keys were collected: the corpus is empty.")
        return self._sum / self.n_tokens
