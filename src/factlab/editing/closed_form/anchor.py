"""Values of one length: norm-anchor scaling (NAS, arXiv 2602.02543).

In a long sequence optimised values grow: each edit makes states longer, and the next has to outdo
them. So every value v* = v₀ + δ is brought to one length m, the mean over the values of the first
edit, found on the unedited model; and a fact whose value came out longer than 2 m, as if it had
exploded, is not written at all.

v₀ is what the MLP of the layer gives at the lookup token of the bare prompt; δ is what is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.closed_form.lookup import keys_and_outputs, prompt_rows
from factlab.editing.edit import SKIPPED
from factlab.editing.noised import NoisedSubjects
from factlab.editing.remembered import remembered_on
from factlab.facts import Fact, LookupToken
from factlab.models.language_model import LanguageModel

# A value longer than so many anchors has exploded.
TOO_LONG = 2.0


@dataclass(frozen=True, slots=True)
class Anchored:
    """Values of one length.

    Attributes:
        deltas: δ of every fact; 0 of one that is not written.
        kept: places of the facts that are written; if none is, of all, whose δ is 0.
        notes: for the edit's diagnostics: the anchor, how many times as long each value was, and
            the places of the facts that are not written.
        left: for later edits of a sequence.
    """

    deltas: Float[Tensor, "fact d_model"]
    kept: list[int]
    notes: dict[str, Any] = field(default_factory=dict[str, Any])
    left: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


def anchored(
    lm: LanguageModel,
    facts: Sequence[Fact],
    deltas: Float[Tensor, "fact d_model"],
    layer: int,
    anchor: float | Literal["first"] | None,
    lookup: LookupToken = "last",
    noised: NoisedSubjects | None = None,
) -> Anchored:
    """Bring values to the length of the anchor.

    Args:
        lm: the model, with all edits so far.
        facts: whose values they are.
        deltas: δ of each, in float64.
        layer: 0-based; whose MLP gives v₀.
        anchor: m; "first" for the mean length of the first edit's values, which are these if no
            edit on the model has an anchor; None to leave values as they are.
        lookup: which token of a prompt is looked up.
        noised: puts noise on the subjects; make this call in its block.
    """
    if anchor is None:
        return Anchored(deltas, [*range(len(facts))])
    name = f"anchor.{layer}"
    rows = [row for fact in facts for row in prompt_rows(lm, fact, [""], lookup, noised)]
    initial = keys_and_outputs(lm, rows, layer).outputs.cpu().double()
    lengths = (initial + deltas).norm(dim=1).clamp(min=1e-30)
    if anchor == "first":
        known = (b.tensors[name] for b in remembered_on(lm) if name in b.tensors)
        anchor = float(next(known, lengths.mean()))
    ratios = lengths / anchor
    is_skipped = ratios > TOO_LONG
    scaled = (initial + deltas) / ratios[:, None] - initial
    kept = torch.nonzero(~is_skipped).flatten().tolist()
    return Anchored(
        torch.where(is_skipped[:, None], 0.0, scaled),
        kept or [*range(len(facts))],
        {
            "norm_anchor": anchor,
            "value_ratios": ratios.tolist(),
            SKIPPED: torch.nonzero(is_skipped).flatten().tolist(),
        },
        {name: torch.tensor(anchor, dtype=torch.float64, device="cpu")},
    )
