"""The second moment of MLP keys: C = E[k kᵀ], uncentred.

ROME's closed form measures the size of a change by what it does to ordinary keys, and C is all it
needs to know about them (ROME paper, section 3.1 and appendix A).
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.documents import check_format
from factlab.equality import EqualByContent
from factlab.errors import StatisticsError, StorageError, WrongModelError
from factlab.large_matrices import cholesky, cholesky_inverse, cholesky_solve, eigh
from factlab.models.language_model import LanguageModel
from factlab.models.products import gram
from factlab.precision import widened
from factlab.results import Result
from factlab.storage import read_tensors, write_tensors

_FORMAT = "factlab second moment 1"
_KEYS_AT_ONCE = 4096
# Below this many keys for each dimension C⁻¹ is mostly noise (arXiv 2506.04226).
_FEW_KEYS_PER_DIM = 2.0

_MORE_TEXT = "Collect it from more text (factlab stats --tokens-per-dim 10)."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class SecondMoment(Result, EqualByContent):
    """E[k kᵀ] of one layer's MLP keys, with what it was computed from.

    Two are equal if all of this is.

    Attributes:
        matrix: (d_mlp, d_mlp), float64, on the CPU, symmetric.
        layer: 0-based.
        n_tokens: number of keys averaged.
        source: the text, in words.
        fingerprint: of the model whose keys these are.
        part: "mlp", or at a mixture of experts "shared": of the one that every token goes through.
    """

    matrix: Float[Tensor, "d_mlp d_mlp"]
    layer: int
    n_tokens: int
    source: str
    fingerprint: str
    part: Literal["mlp", "shared"] = "mlp"

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise StatisticsError(
                f"A second moment is a square matrix, not of shape {tuple(self.matrix.shape)}."
            )
        if self.matrix.dtype is not torch.float64:
            raise StatisticsError(
                f"A second moment is kept in float64, not {str(self.matrix.dtype)[6:]}: C⁻¹ needs "
                "its digits."
            )

    @property
    def width(self) -> int:
        """Of the keys."""
        return len(self.matrix)

    def __repr__(self) -> str:
        return (
            f"SecondMoment of layer {self.layer}: {len(self.matrix):,} dimensions\n"
            f"  {self.n_tokens:,} tokens of {self.source}\n"
            f"  E‖k‖² = {float(self.matrix.trace()):.3g}; model {self.fingerprint[:12]}"
        )

    def summary(self) -> dict[str, Any]:
        """What it is of and how large it is, ready for JSON: all but the matrix."""
        eigenvalues = torch.linalg.eigvalsh(self.matrix)
        return {
            "layer": self.layer,
            "n_tokens": self.n_tokens,
            "source": self.source,
            "trace": float(self.matrix.trace()),
            "smallest_eigenvalue": float(eigenvalues[0]),
            "largest_eigenvalue": float(eigenvalues[-1]),
        }

    def check_enough(self) -> None:
        """Refuse statistics that cannot know all directions, and warn of few keys.

        Raises:
            StatisticsError: there were fewer keys than dimensions, so C is singular.
        """
        width = len(self.matrix)
        if self.n_tokens < width:
            raise StatisticsError(
                f"The second moment of layer {self.layer} is singular: {self.n_tokens} tokens of "
                f"{self.source} cannot fill {width} dimensions. {_MORE_TEXT}"
            )
        if self.n_tokens < _FEW_KEYS_PER_DIM * width:
            _log.warning(
                "The second moment of layer %d is of %d tokens, %.1f for each of its %d "
                "dimensions: edits by its inverse come out several times too large. %s",
                self.layer, self.n_tokens, self.n_tokens / width, width, _MORE_TEXT,
            )  # fmt: skip

    @cached_property
    def eigen(self) -> tuple[Float[Tensor, " d_mlp"], Float[Tensor, "d_mlp d_mlp"]]:
        """Eigenvalues, ascending, and eigenvectors (columns)."""
        return eigh(self.matrix)

    def check_full_rank(self) -> None:
        """Refuse a C that keys which are too alike have left singular.

        Raises:
            StatisticsError: its smallest eigenvalue is 0 but for rounding.
        """
        values, _ = self.eigen
        if values[0] <= len(values) * torch.finfo(values.dtype).eps * values[-1]:
            raise self._singular()

    def _singular(self) -> StatisticsError:
        return StatisticsError(
            f"The second moment of layer {self.layer} is singular: {self.n_tokens} tokens of "
            f"{self.source} for {len(self.matrix)} dimensions are too few or too alike. "
            f"{_MORE_TEXT}"
        )

    @cached_property
    def _cholesky(self) -> Float[Tensor, "d_mlp d_mlp"]:
        factor, info = cholesky(self.matrix)
        if int(info) != 0:
            raise self._singular()
        return factor

    def solve(self, keys: Float[Tensor, "key d_mlp"]) -> Float[Tensor, "key d_mlp"]:
        """C⁻¹ k of every key, by Cholesky in float64.

        Raises:
            StatisticsError: C is not positive definite: there were too few independent keys.
        """
        return cholesky_solve(keys.cpu().double().T, self._cholesky).T

    def inverse(self) -> Float[Tensor, "d_mlp d_mlp"]:
        """C⁻¹ itself.

        Raises:
            StatisticsError: C is not positive definite: there were too few independent keys.
        """
        return cholesky_inverse(self._cholesky)

    def check_model(self, lm: LanguageModel) -> None:
        """Refuse statistics of another model. Those of the model before its edits will do.

        Raises:
            WrongModelError: they were collected on different weights, or are of another width.
        """
        width = len(self.matrix)
        shared = self.part == "shared"
        fits = self.layer < lm.n_layers and (shared or lm.layers.mixture(self.layer) is None)
        of = lm.layers.d_shared if shared else lm.layers.d_mlp
        if not fits or width != of(self.layer):
            raise WrongModelError(
                f"These statistics are of layer {self.layer} and {width} dimensions, but "
                f"{lm.name} has {keys_in_words(lm, self.layer)}."
            )
        check_fingerprint(self.fingerprint, self.layer, lm)

    def save(self, path: Path) -> None:
        """Write a portable safetensors file."""
        metadata = {
            "format": _FORMAT,
            "layer": str(self.layer),
            "n_tokens": str(self.n_tokens),
            "source": self.source,
            "fingerprint": self.fingerprint,
        }
        if self.part != "mlp":
            metadata["part"] = self.part
        metadata["digest"] = numbers_digest(self.matrix, metadata)
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
        digest = metadata.pop("digest", None)  # files of earlier versions have none
        if digest is not None and digest != numbers_digest(matrix, metadata):
            raise StorageError(f"'{path}' is damaged: its numbers are not those that were written.")
        is_square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
        if not is_square or matrix.dtype is not torch.float64 or not matrix.isfinite().all():
            raise StorageError(
                f"'{path}' is damaged: it does not hold a square matrix of finite float64 numbers."
            )
        try:
            layer, n_tokens = int(metadata["layer"]), int(metadata["n_tokens"])
            source, fingerprint = metadata["source"], metadata["fingerprint"]
            if layer < 0 or n_tokens < 1:
                raise ValueError(f"it is of {n_tokens} tokens at layer {layer}")
            part = metadata.get("part", "mlp")
            if part not in {"mlp", "shared"}:
                raise ValueError(f"it is of '{part}', which this factlab does not know")
            return cls(
                matrix, layer, n_tokens, source, fingerprint, "mlp" if part == "mlp" else "shared"
            )
        except KeyError as error:
            raise StorageError(f"'{path}' is damaged: it does not say its {error}.") from error
        except (ValueError, StatisticsError) as error:
            raise StorageError(f"'{path}' is damaged: {str(error).rstrip('.')}.") from error


def numbers_digest(matrix: Tensor, metadata: Mapping[str, str]) -> str:
    """SHA-256 of a file's numbers and of what it says about them."""
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    digest.update(f"{matrix.dtype} {tuple(matrix.shape)}\n".encode())
    digest.update(matrix.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def keys_in_words(lm: LanguageModel, layer: int) -> str:
    """How many layers a model has, and how long the keys of one of them are."""
    if layer < lm.n_layers and (mixture := lm.layers.mixture(layer)) is not None:
        return f"{mixture.n_experts} experts of {mixture.d_expert} dimensions there"
    widths = {lm.layers.d_mlp(i) for i in range(lm.n_layers) if lm.layers.is_dense(i)}
    known = " or ".join(map(str, sorted(widths))) or "no plain"
    return f"{lm.n_layers} layers with keys of {known} dimensions"


def check_fingerprint(fingerprint: str, layer: int, lm: LanguageModel) -> None:
    """Refuse what was collected on another model than this one or the one before its edits.

    Raises:
        WrongModelError: it was.
    """
    # The live one only if need be: of an edited model it is made anew every time.
    if not lm.identity.matches(fingerprint) and not lm.identity.matches(fingerprint, live=True):
        raise WrongModelError(
            f"These statistics of layer {layer} were collected on a model with "
            f"fingerprint {fingerprint[:12]}, but {lm.name} has {lm.fingerprint[:12]}. "
            "Collect them again on this model."
        )


class MomentAccumulator:
    """A running sum of k kᵀ in float64: any chunking of the keys gives the same result.

    Keys in single or half precision are multiplied in single precision, some thousand at a time, so
    that rounding stays far below the noise of any sample of text.

    Args:
        width: of the keys.
        device: where the sum is; the CPU in place of one without float64 (Apple's MPS).
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        has_double = device.type != "mps"
        self._sum = torch.zeros(
            width, width, dtype=torch.float64, device=device if has_double else "cpu"
        )
        self.n_tokens = 0

    @staticmethod
    def bytes_of(width: int) -> int:
        """What the sum takes, and a product on its way there."""
        return (8 + 4) * width**2

    def begin(self, n_tokens: int) -> None:
        """Each token has a key, so they are counted when these are added."""

    def add(self, keys: Float[Tensor, "token width"], block: int = 0) -> None:
        """Count in more keys, all of them of the one block."""
        del block
        precise = widened(keys)
        for some in precise.split(_KEYS_AT_ONCE):
            self._sum += gram(some).to(self._sum.device)
        self.n_tokens += len(keys)

    @property
    def total(self) -> Float[Tensor, "width width"]:
        """The sum so far, on the CPU."""
        return self._sum.cpu()

    def moment(
        self, layer: int, source: str, fingerprint: str, part: Literal["mlp", "shared"]
    ) -> SecondMoment:
        """The second moment so far, as a thing of its own.

        Raises:
            StatisticsError: no key was added.
        """
        return SecondMoment(self.mean(), layer, self.n_tokens, source, fingerprint, part)

    def mean(self) -> Float[Tensor, "width width"]:
        """The second moment so far, on the CPU.

        Raises:
            StatisticsError: no key was added.
        """
        if self.n_tokens == 0:
            raise StatisticsError("No keys were collected: the corpus is empty.")
        return (self._sum / self.n_tokens).cpu()
