"""Second moments of a mixture's stacked keys: a block for each expert.

C = diag(C_1 … C_E) with C_e = E[κ_e κ_eᵀ], over all tokens: the router's weight is in κ_e, and a
token that was not sent to e counts as zero. What experts that are chosen together have in common,
E[κ_e κ_fᵀ], is left out (`factlab.models.experts` tells why C is all that is needed, and what that
neglects).
"""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.documents import check_format
from factlab.equality import EqualByContent
from factlab.errors import (
    RareExpertError,
    StatisticsError,
    StorageError,
    WrongModelError,
    counted,
)
from factlab.large_matrices import cholesky, cholesky_solve
from factlab.models.language_model import LanguageModel
from factlab.results import Result
from factlab.stats.moments import (
    MomentAccumulator,
    SecondMoment,
    check_fingerprint,
    keys_in_words,
    numbers_digest,
)
from factlab.storage import read_tensors, write_tensors

_FORMAT = "factlab expert moments 1"
_SHOWN = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class ExpertMoments(Result, EqualByContent):
    """E[κ_e κ_eᵀ] of each expert of a layer, with what they were computed from.

    Two are equal if all of this is.

    Attributes:
        blocks: (expert, d_expert, d_expert), float64, on the CPU, symmetric each.
        counts: how many tokens were sent to each expert, (expert,).
        layer: 0-based.
        n_tokens: number of tokens averaged, wherever they were sent.
        source: the text, in words.
        fingerprint: of the model whose keys these are.
    """

    blocks: Float[Tensor, "expert d_expert d_expert"]
    counts: Int[Tensor, " expert"]
    layer: int
    n_tokens: int
    source: str
    fingerprint: str

    def __post_init__(self) -> None:
        shape = tuple(self.blocks.shape)
        if len(shape) != 3 or shape[1] != shape[2] or tuple(self.counts.shape) != shape[:1]:
            raise StatisticsError(
                "Second moments of experts are a square matrix and a number of tokens for each, "
                f"not of shapes {shape} and {tuple(self.counts.shape)}."
            )
        if self.blocks.dtype is not torch.float64 or self.counts.dtype is not torch.int64:
            raise StatisticsError(
                "Second moments of experts are kept in float64, and their numbers of tokens in "
                f"int64, not in {str(self.blocks.dtype)[6:]} and {str(self.counts.dtype)[6:]}."
            )

    @property
    def n_experts(self) -> int:
        """How many blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Of a stacked key."""
        return self.blocks.shape[0] * self.blocks.shape[1]

    def __repr__(self) -> str:
        fewest, most = int(self.counts.min()), int(self.counts.max())
        return (
            f"ExpertMoments of layer {self.layer}: {self.n_experts} experts of "
            f"{self.blocks.shape[1]:,} dimensions\n"
            f"  {self.n_tokens:,} tokens of {self.source}; {fewest:,} to {most:,} for an expert\n"
            f"  E‖κ‖² = {self._trace:.3g}; model {self.fingerprint[:12]}"
        )

    @property
    def _trace(self) -> float:
        return float(self.blocks.diagonal(dim1=1, dim2=2).sum())

    def summary(self) -> dict[str, Any]:
        """What it is of and how large it is, ready for JSON; eigenvalues are of all blocks."""
        eigenvalues = torch.linalg.eigvalsh(self.blocks)
        return {
            "layer": self.layer,
            "n_tokens": self.n_tokens,
            "source": self.source,
            "trace": self._trace,
            "smallest_eigenvalue": float(eigenvalues.min()),
            "largest_eigenvalue": float(eigenvalues.max()),
            "tokens_of_experts": self.counts.tolist(),
        }

    def check_enough(self) -> None:
        """Warn of experts that got fewer tokens than they have dimensions.

        That is no reason to refuse: a fact needs those experts only that its key is sent to, and
        `solve` refuses it if they are among these.
        """
        width = self.blocks.shape[1]
        rare = torch.nonzero(self.counts < width).flatten().tolist()
        if rare:
            _log.warning(
                "In layer %d %s of %d (%s) got fewer tokens than their %d dimensions. Facts that "
                "are sent there cannot be written. %s",
                self.layer, counted(len(rare), "expert"), self.n_experts, _listed(rare), width,
                self._more(rare[0]),
            )  # fmt: skip

    def _more(self, expert: int) -> str:
        """How much text it would take for an expert, in words."""
        count, width = int(self.counts[expert]), self.blocks.shape[1]
        if count == 0:
            return "Collect it from more or other text (factlab stats --tokens-per-dim 40, --text)."
        factor = -(-2 * width // count)
        return (
            f"Collect it from about {factor} times as much text (factlab stats --tokens-per-dim), "
            "or from text of the kind that is sent there (--text)."
        )

    @cached_property
    def _factors(self) -> dict[int, Tensor]:
        """Cholesky factors of the blocks that were asked for."""
        return {}

    def _factor(self, expert: int) -> Float[Tensor, "d_expert d_expert"]:
        if expert not in self._factors:
            count, width = int(self.counts[expert]), self.blocks.shape[1]
            factor, info = cholesky(self.blocks[expert])
            if count < width or int(info) != 0:
                why = f"{count} cannot fill" if count < width else f"{count} are too alike for"
                raise RareExpertError(
                    f"A key is sent to expert {expert} of layer {self.layer}, whose second moment "
                    f"is singular: of {self.n_tokens} tokens of {self.source} it got {count}, and "
                    f"{why} {width} dimensions. {self._more(expert)} Or edit another layer."
                )
            self._factors[expert] = factor
        return self._factors[expert]

    def solve(self, keys: Float[Tensor, "key width"]) -> Float[Tensor, "key width"]:
        """C⁻¹ κ of every key, in float64; blocks that are zero in all keys are not looked at.

        Raises:
            RareExpertError: a key is sent to an expert that got too few tokens.
        """
        blocks = keys.cpu().double().unflatten(1, (self.n_experts, -1))
        solved = torch.zeros_like(blocks)
        for expert in active_experts(blocks):
            some = torch.nonzero(blocks[:, expert].any(-1)).flatten()
            there = blocks[some, expert].T
            solved[some, expert] = cholesky_solve(there, self._factor(expert)).T
        return solved.flatten(1)

    def check_model(self, lm: LanguageModel) -> None:
        """Refuse statistics of another model. Those of the model before its edits will do.

        Raises:
            WrongModelError: they were collected on different weights, or are of other experts.
        """
        mixture = lm.layers.mixture(self.layer) if self.layer < lm.n_layers else None
        if mixture is None or (mixture.n_experts, mixture.d_expert) != self.blocks.shape[:2]:
            raise WrongModelError(
                f"These statistics are of layer {self.layer} and {self.n_experts} experts of "
                f"{self.blocks.shape[1]} dimensions, but {lm.name} has "
                f"{keys_in_words(lm, self.layer)}."
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
            "counts": " ".join(map(str, self.counts.tolist())),
        }
        metadata["digest"] = numbers_digest(self.blocks, metadata)
        write_tensors(path, {"second_moments": self.blocks}, metadata)

    @classmethod
    def load(cls, path: Path) -> "ExpertMoments":
        """Read what `save` wrote.

        Raises:
            StorageError: the file is missing, damaged, or something else.
        """
        tensors, metadata = read_tensors(path)
        check_format(metadata.get("format"), _FORMAT, f"'{path}'", "second moments of experts")
        blocks, digest = tensors.get("second_moments"), metadata.pop("digest", None)
        if blocks is None or digest != numbers_digest(blocks, metadata):
            raise StorageError(f"'{path}' is damaged: its numbers are not those that were written.")
        try:
            counts = torch.tensor([int(n) for n in metadata["counts"].split()], device="cpu")
            layer, n_tokens = int(metadata["layer"]), int(metadata["n_tokens"])
            source, fingerprint = metadata["source"], metadata["fingerprint"]
            if layer < 0 or n_tokens < 1 or not blocks.isfinite().all():
                raise ValueError(f"it is of {n_tokens} tokens at layer {layer}, or not finite")
            return cls(blocks, counts, layer, n_tokens, source, fingerprint)
        except KeyError as error:
            raise StorageError(f"'{path}' is damaged: it does not say its {error}.") from error
        except (ValueError, StatisticsError) as error:
            raise StorageError(f"'{path}' is damaged: {str(error).rstrip('.')}.") from error


# What edits of a layer need to know of its keys: of one MLP, or of experts.
Moment = SecondMoment | ExpertMoments


def load_moment(path: Path) -> Moment:
    """Read the statistics of a layer, whichever kind they are of.

    Raises:
        StorageError: the file is missing, damaged, or something else.
    """
    _, metadata = read_tensors(path)
    of_experts = metadata.get("format", "").startswith(_FORMAT.rstrip("0123456789"))
    return ExpertMoments.load(path) if of_experts else SecondMoment.load(path)


def active_experts(blocks: Float[Tensor, "key expert d_expert"]) -> list[int]:
    """Experts in whose block a key is not zero."""
    return torch.nonzero(blocks.any(-1).any(0)).flatten().tolist()


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + (", …" if numbers[_SHOWN:] else "")


class ExpertAccumulator:
    """Running sums of κ_e κ_eᵀ in float64; see `MomentAccumulator`.

    Args:
        n_experts: how many.
        width: of the key of each.
        device: where the sums are.
    """

    def __init__(self, n_experts: int, width: int, device: torch.device | str = "cpu") -> None:
        self._sums = [MomentAccumulator(width, device) for _ in range(n_experts)]
        self.n_tokens = 0

    def begin(self, n_tokens: int) -> None:
        """Count tokens whose keys are added next."""
        self.n_tokens += n_tokens

    def add(self, keys: Float[Tensor, "token width"], block: int) -> None:
        """Count in keys of one expert."""
        if len(keys):
            self._sums[block].add(keys)

    def moment(self, layer: int, source: str, fingerprint: str, part: str) -> ExpertMoments:
        """The second moments so far.

        Raises:
            StatisticsError: there was no token.
        """
        del part  # the experts themselves
        if self.n_tokens == 0:
            raise StatisticsError("No keys were collected: the corpus is empty.")
        counts = torch.tensor([each.n_tokens for each in self._sums], device="cpu")
        blocks = torch.stack([each.total / self.n_tokens for each in self._sums])
        return ExpertMoments(blocks, counts, layer, self.n_tokens, source, fingerprint)
