"""Values of one length: norm-anchor scaling (NAS, arXiv 2602.02543).

In a long sequence optimised values grow: each edit makes states longer, and the next has to outdo
them. So every value v* = v₀ + δ is brought to one length m, the mean over the values of the first
edit, found on the unedited model; and a fact whose value came out longer than 2 m, as if it had
exploded, is not written at all.

v₀ is what the MLP of the layer gives at the lookup token of the bare prompt; δ is what is added.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.closed_form.lookup import keys_and_outputs, prompt_rows
from factlab.editing.remembered import Remembered
from factlab.facts import Fact, LookupToken
from factlab.models.language_model import LanguageModel

# A value longer than so many anchors has exploded.
TOO_LONG = 2.0


class Anchored(NamedTuple):
    """Values of one length.

    Attributes:
        deltas: δ after scaling; of a fact that is not written 0.
        anchor: m.
        skipped: places of the facts that are not written.
        ratios: how many times m each value was, before.
    """

    deltas: Float[Tensor, "fact d_model"]
    anchor: float
    skipped: tuple[int, ...]
    ratios: tuple[float, ...]


def anchored(
    lm: LanguageModel,
    facts: Sequence[Fact],
    deltas: Float[Tensor, "fact d_model"],
    layer: int,
    anchor: float | None,
    lookup: LookupToken = "last",
) -> Anchored:
    """Bring values to the length of the anchor.

    Args:
        lm: the model, with all edits so far.
        facts: whose values they are.
        deltas: δ of each, in float64.
        layer: 0-based; whose MLP gives v₀.
        anchor: m; None for the mean over these values.
        lookup: which token of a prompt is looked up.
    """
    rows = [row for fact in facts for row in prompt_rows(lm, fact, [""], lookup)]
    initial = keys_and_outputs(lm, rows, layer).outputs.cpu().double()
    values = initial + deltas
    lengths = values.norm(dim=1)
    found = float(lengths.mean()) if anchor is None else anchor
    ratios = lengths / found
    scaled = values / ratios.clamp(min=1e-12)[:, None] - initial
    is_skipped = ratios > TOO_LONG
    return Anchored(
        torch.where(is_skipped[:, None], 0.0, scaled),
        found,
        tuple(torch.nonzero(is_skipped).flatten().tolist()),
        tuple(ratios.tolist()),
    )


def anchor_name(layer: int) -> str:
    """What the anchor of values at a layer is called among what an edit leaves."""
    return f"anchor.{layer}"


def remembered_anchor(past: Sequence[Remembered], layer: int) -> float | None:
    """The anchor of the first edit that has one; None if there is none."""
    name = anchor_name(layer)
    return next((float(block.tensors[name]) for block in past if name in block.tensors), None)
