"""Which weights of a model were changed, in what way, and on what the change acts.

An edit leaves traces: one matrix that differs, by a matrix of low rank, which does much to the key
of one subject and little to those of others.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from factlab.arguments import checked
from factlab.editing.closed_form.lookup import keys_and_outputs, prompt_rows
from factlab.errors import InvalidRequestError, counted
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.models.stored import is_packed, offloaded
from factlab.progress import ProgressCallback, silent
from factlab.results import Tabular

_SHOWN = 5
_TEMPLATE = "{} is"
# A subject is looked up alone and behind another sentence: where it is one token, the first of a
# text, many models have nothing to say of it there.
_CONTEXTS = ("", "Yes. ")
# A change of more than this share of the largest rank possible is not called low rank.
_LOW = 1 / 4


class SubjectEffect(BaseModel):
    """How strongly the change of an MLP output projection acts on one subject.

    Attributes:
        subject: as given.
        strength: ‖ΔW k‖ / ‖W k‖ for the subject's key k in the base model; the larger of two, at
            the beginning of a text and after a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    strength: float


class WeightDiff(BaseModel):
    """One weight that differs.

    Attributes:
        weight_name: parameter name.
        shape: in the layer's own layout.
        relative_norm: ‖ΔW‖ / ‖W‖; None if W is zero.
        rank: singular values of ΔW that rounding does not explain; None if it is not a matrix.
        top_share: share of ‖ΔW‖² in the largest singular value, 0–1; None if it is not a matrix.
        verdict: `looks like a rank-one edit`, `low rank (r)`, `dense`, `rounding only`, or
            `not a matrix`.
        subjects: for an MLP output projection, strongest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight_name: str
    shape: tuple[int, ...]
    relative_norm: float | None
    rank: int | None
    top_share: float | None
    verdict: str
    subjects: tuple[SubjectEffect, ...] = ()


class ModelDiff(Tabular, BaseModel):
    """How an edited model differs from its base; `model_dump(mode="json")` makes JSON of it.

    `print(diff)` says the main things in a few lines.

    Attributes:
        base: name of the base model.
        edited: name of the other one.
        n_weights: how many were compared.
        weights: those that differ, in the model's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    edited: str
    n_weights: int
    weights: tuple[WeightDiff, ...]

    def __repr__(self) -> str:
        more = len(self.weights) - _SHOWN
        return "\n".join(
            [
                f"ModelDiff of {self.base} and {self.edited}: {len(self.weights)} of "
                f"{counted(self.n_weights, 'weight')} differ",
                *(f"  {weight.weight_name}: {weight.verdict}" for weight in self.weights[:_SHOWN]),
                *([f"  and {more} more"] if more > 0 else []),
            ]
        )

    __str__ = __repr__

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per weight that differs.

        Its keys: weight, shape, relative_norm, rank, top_share, verdict, and subject and strength
        of the subject that its change acts on most (None where none was looked up).
        """
        return [
            {
                "weight": weight.weight_name,
                "shape": list(weight.shape),
                "relative_norm": weight.relative_norm,
                "rank": weight.rank,
                "top_share": weight.top_share,
                "verdict": weight.verdict,
                "subject": weight.subjects[0].subject if weight.subjects else None,
                "strength": weight.subjects[0].strength if weight.subjects else None,
            }
            for weight in self.weights
        ]


@checked()
def compare(
    base: LanguageModel,
    edited: LanguageModel,
    subjects: Sequence[str] = (),
    progress: ProgressCallback = silent,
) -> ModelDiff:
    """Find the weights that differ between two versions of one model, and describe the change.

    Singular values are computed in float64; those within the rounding of the edited weights' dtype
    do not count as rank. Weights whose values all fit into 16 bits count as 16-bit weights,
    whatever they were loaded as.

    Args:
        base: the model before.
        edited: the model after, with the same weights in name and shape.
        subjects: what to look up in every changed MLP output projection: the key of each is that
            of its last token in the base model.
        progress: True for a bar, or a function that is told about every weight.

    Raises:
        InvalidRequestError: they are of different families or sizes, or a subject is empty.
        TokenizationError: a subject is longer than the model's context.
    """
    before, after = _checked_weights(base, edited)
    subjects = list(dict.fromkeys(subjects))
    rows = [row for s in subjects for row in prompt_rows(base, Fact(_TEMPLATE, s), _CONTEXTS)]
    dense = filter(base.layers.is_dense, range(base.n_layers))
    layers = {base.mlp_weight_name(layer): layer for layer in dense}
    found: list[WeightDiff] = []
    for number, (name, old) in enumerate(before.items()):
        progress("comparing weights", number, len(before))
        if _same(old, after[name]):
            continue
        diff = _described(name, old, after[name])
        if name in layers and rows:
            keys = keys_and_outputs(base, rows, layers[name]).keys.cpu().double()
            change, weight = after[name].cpu().double() - old.cpu().double(), old.cpu().double()
            if base.layers.layout(name) == "in_out":
                change, weight = change.T, weight.T
            effects = _effects(change, weight, keys, subjects)
            diff = diff.model_copy(update={"subjects": effects})
        found.append(diff)
    progress("comparing weights", len(before), len(before))
    return ModelDiff(
        base=base.name, edited=edited.name, n_weights=len(before), weights=tuple(found)
    )


def _checked_weights(
    base: LanguageModel, edited: LanguageModel
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    for lm in (base, edited):
        if offloaded(lm.model) or any(is_packed(module) for module in lm.model.modules()):
            raise InvalidRequestError(
                f"{lm.name} is quantised or offloaded: its weights are no plain tensors that could "
                "be compared number by number. Compare the unquantised checkpoints."
            )
    families = (base.family, edited.family)
    if families[0] != families[1]:
        raise InvalidRequestError(
            f"{base.name} is of family {families[0]} and {edited.name} of {families[1]}. Compare "
            "two versions of one model."
        )
    before, after = (
        {n: p.detach() for n, p in lm.model.named_parameters()} for lm in (base, edited)
    )
    for name in [*before, *(name for name in after if name not in before)]:
        sizes = [tuple(side[name].shape) if name in side else None for side in (before, after)]
        if sizes[0] != sizes[1]:
            said = [f"has shape {size}" if size else "does not exist" for size in sizes]
            raise InvalidRequestError(
                f"'{name}' {said[0]} in {base.name} and {said[1]} in {edited.name}. Compare two "
                "versions of one model."
            )
    return before, after


def _same(old: Tensor, new: Tensor) -> bool:
    dtype = torch.promote_types(old.dtype, new.dtype)
    return torch.equal(old.to("cpu", dtype), new.to("cpu", dtype))


def _described(name: str, old: Tensor, new: Tensor) -> WeightDiff:
    weight, edited = old.cpu().double(), new.cpu().double()
    change = edited - weight
    norm, size = float(change.norm()), float(weight.norm())
    rank: int | None = None
    top_share: float | None = None
    verdict = "not a matrix"
    if change.ndim == 2:
        values = torch.linalg.svdvals(change)
        rank = int((values > _tolerance(edited, new, float(values[0]))).sum())
        top_share = float(values[0] / values.norm()) ** 2
        verdict = _verdict(rank, len(values))
    return WeightDiff(
        weight_name=name,
        shape=tuple(old.shape),
        relative_norm=norm / size if size else None,
        rank=rank,
        top_share=top_share,
        verdict=verdict,
    )


def _verdict(rank: int, largest: int) -> str:
    match rank:
        case 0:
            return "rounding only"
        case 1:
            return "looks like a rank-one edit"
        case _:
            return f"low rank ({rank})" if rank <= _LOW * largest else "dense"


def _tolerance(edited: Float[Tensor, "row column"], stored: Tensor, top: float) -> float:
    """What a singular value can be if rounding is all there is.

    Rounding errors are independent and no larger than the last bit of each weight. The norm of such
    a matrix is about that of its largest row of errors plus that of its largest column.
    """
    largest_row = float(torch.linalg.vector_norm(edited, dim=1).max())
    largest_column = float(torch.linalg.vector_norm(edited, dim=0).max())
    in_float64 = max(edited.shape) * torch.finfo(torch.float64).eps * top
    return _epsilon(stored) * (largest_row + largest_column) + in_float64


def _epsilon(stored: Tensor) -> float:
    """Spacing of numbers at 1 in the narrowest dtype that holds these values."""
    for narrow in (torch.bfloat16, torch.float16):
        if torch.equal(stored.to(narrow).to(stored.dtype), stored):
            return torch.finfo(narrow).eps
    return torch.finfo(stored.dtype).eps


def _effects(
    change: Float[Tensor, "d_out d_in"],
    weight: Float[Tensor, "d_out d_in"],
    keys: Float[Tensor, "row d_in"],
    subjects: Sequence[str],
) -> tuple[SubjectEffect, ...]:
    acted = torch.linalg.vector_norm(keys @ change.T, dim=1)
    usual = torch.linalg.vector_norm(keys @ weight.T, dim=1)
    ratios = acted / usual.clamp(min=torch.finfo(torch.float64).tiny)
    strengths = ratios.view(len(subjects), len(_CONTEXTS)).amax(dim=1).tolist()
    ranked = sorted(zip(subjects, strengths, strict=True), key=lambda pair: -pair[1])
    return tuple(SubjectEffect(subject=s, strength=x) for s, x in ranked)
