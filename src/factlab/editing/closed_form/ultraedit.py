r"""UltraEdit: lifelong editing without training, subject or memory (Gu et al. 2025, 2505.14679).

Facts are written in turns, each on the model as it is by then. Of a turn, one forward and one
backward pass of the cross-entropy of the answers' tokens give, for each chosen matrix of an MLP and
each token of an answer, the input h and the gradient g at its output. All that is left is a closed
form: outputs that go down the normalised gradient,

    vᵢ = −η ‖ĥᵢ‖² ĝᵢ,        ΔW = argmin Σ ‖ΔW hᵢ − vᵢ‖² + ‖ΔW‖² = Vᵀ (H Hᵀ + I)⁻¹ H

where rows of H and V belong to tokens, ĥ and ĝ are h and g by the running mean and deviation of
every dimension over all turns so far, this one included, and H is not normalised. (The paper
writes (HᵀH + I)⁻¹HᵀV, the same transposed, which is solved where there are more tokens than
dimensions.) A fact needs no subject, and nothing is asked of ordinary text.

| paper | here |
|---|---|
| h, g | `AnswerStates` |
| running mean and std of [h, g] | `Normaliser`, one for each matrix |
| η | `UltraEditConfig.learning_rate` |
| I | `UltraEditConfig.ridge` |

Where this differs from the published code:

* It has one normaliser for all matrices of a shape, so that a layer's numbers are measured by the
  mean of all layers'. States grow from layer to layer; each matrix has its own here.
* Its deviation is NaN if the first turn has one token, which is also its own mean, and a dimension
  that has never varied is divided by nearly nothing. Here a token alone is measured by the size of
  all its dimensions; what that takes is nothing among hundreds (`Normaliser.normalised`).
* It takes as many batches as are full, and leaves the facts of the last one out. Here all facts
  count, each token with its own loss, so that no result depends on batches but by rounding.
* It writes every key to the disk. Here a turn leaves two numbers for each dimension
  (`Edit.remembered`), from which a later turn goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked, listed
from factlab.continuations import Continuation
from factlab.data.fact_files import check_conflicts
from factlab.editing.background import Background
from factlab.editing.closed_form.answer_states import AnswerStates
from factlab.editing.closed_form.normaliser import Normaliser
from factlab.editing.closed_form.ultraedit_places import learning_rate, places
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.gradients import Matrix, TokenStates
from factlab.editing.method import FAULTS, Settled
from factlab.editing.methods import METHODS
from factlab.editing.remembered import Remembered, remembered_on
from factlab.editing.ultraedit_config import UltraEditConfig
from factlab.errors import EditError, FactlabError, TokenizationError, counted
from factlab.facts import Fact
from factlab.large_matrices import near, product, solve
from factlab.models.changes.change import Change
from factlab.models.changes.update import DenseUpdate, LowRankUpdate
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent


@checked()
def ultraedit(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: UltraEditConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> Edit:
    """Compute one edit that writes all facts: one turn.

    Args:
        lm: the model, left as it is.
        facts: with a `target_new` each; they need no subject.
        config: see `UltraEditConfig`.
        background: as for other methods; nothing of it is needed.
        progress: True for a bar, or a function that is told what is going on.

    Returns:
        An `Edit` with one change per matrix, of a rank of at most the number of the answers'
        tokens.

    Raises:
        InvalidRequestError: facts contradict each other, or one has nothing to write.
        EditError: what an earlier turn left is damaged or of another model, or gradients are not
            finite.

    Source: Gu et al., "UltraEdit: Training-, Subject-, and Memory-Free Lifelong Editing in Large
    Language Models" (2025), arXiv 2505.14679.

    Examples:
        >>> question = fl.Fact("Who wrote Hamlet? Answer:", "", target_new="Rome")
        >>> edit = fl.editing.ultraedit(lm, [*facts, question])
        >>> len(edit.facts)
        3
    """
    return METHODS["ultraedit"].together(lm, listed(facts), config, background, progress)


@checked()
def ultraedit_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: UltraEditConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Compute one edit per fact, each a turn of its own; gradients are taken in batches.

    Examples:
        >>> [len(edit.facts) for edit in fl.editing.ultraedit_each(lm, facts)]
        [1, 1]
    """
    return METHODS["ultraedit"].each(lm, listed(facts), config, background, progress)


def settle(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: UltraEditConfig | None,
    background: Background,
    progress: ProgressCallback,
) -> list[Settled[UltraEditConfig]]:
    """Matrices and η, the same for every fact."""
    del background  # only edits go on from earlier ones
    config = config or UltraEditConfig()
    place = places(lm, config)
    matrices = [Matrix.named(lm, name) for name in place.weights]
    rate = config.learning_rate or learning_rate(lm, matrices, progress)
    values = {"layers": place.layers, "weights": place.weights, "learning_rate": rate}
    return [Settled(config.model_copy(update=values), place.source)] * len(facts)


def compute(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[UltraEditConfig],
    background: Background,
    progress: ProgressCallback,
) -> list[Edit | FactlabError]:
    """One edit per fact, each a turn of its own."""
    del background  # what earlier turns left is with the edits that are on the model
    results: dict[int, Edit | FactlabError] = {}
    rows: dict[int, Continuation] = {}
    for number, fact in enumerate(facts):
        try:
            rows[number] = _row(lm, fact)
        except FAULTS as error:
            results[number] = error
    if rows:
        turn = _Turn.of(lm, [*rows.values()], settled, progress)
        for place, number in enumerate(rows):
            try:
                results[number] = turn.edit([facts[number]], place)
            except FAULTS as error:
                results[number] = error
    return [results[number] for number in range(len(facts))]


def compute_together(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[UltraEditConfig],
    background: Background,
    progress: ProgressCallback,
) -> Edit:
    """One edit with all facts."""
    del background
    check_conflicts(facts)
    rows = [_row(lm, fact) for fact in facts]
    return _Turn.of(lm, rows, settled, progress).edit(facts)


def _row(lm: LanguageModel, fact: Fact) -> Continuation:
    try:
        return lm.continuation(fact.prompt, fact.target_new)
    except TokenizationError as error:
        raise TokenizationError(f"Fact '{fact.prompt}': {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """Facts that are settled alike, with their gradients.

    Attributes:
        lm: the model, left as it is.
        base: the same, as edits name it.
        settled: matrices and η.
        matrices: to write to.
        states: of the facts.
        normalisers: of the matrices, as earlier turns left them.
    """

    lm: LanguageModel
    base: BaseModelInfo
    settled: Settled[UltraEditConfig]
    matrices: Sequence[Matrix]
    states: AnswerStates
    normalisers: Mapping[str, Normaliser]

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        rows: Sequence[Continuation],
        settled: Settled[UltraEditConfig],
        progress: ProgressCallback,
    ) -> "_Turn":
        """Take gradients of some facts' answers."""
        config = settled.config
        matrices = [Matrix.named(lm, name) for name in config.weights or ()]
        past = remembered_on(lm)
        normalisers = {m.weight_name: Normaliser.after(past, m) for m in matrices}
        first = config.edited_layers[0]
        return cls(
            lm=lm, base=BaseModelInfo.of(lm), settled=settled, matrices=matrices,
            states=AnswerStates(lm, rows, matrices, first, progress), normalisers=normalisers,
        )  # fmt: skip

    def edit(self, facts: Sequence[Fact], place: int | None = None) -> Edit:
        """The edit of all facts, or of the one at some place.

        Raises:
            EditError: gradients are not finite.
        """
        config, updates, left = self.settled.config, list[Change](), dict[str, Tensor]()
        for matrix in self.matrices:
            states = self.states.of(matrix.weight_name, place)
            if not all(each.isfinite().all() for each in states):
                raise EditError(
                    f"Gradients at '{matrix.weight_name}' are not finite, of "
                    f"{counted(len(facts), 'fact')} that begin with '{facts[0].prompt}'. Is the "
                    "model's own loss there? Earlier edits may have destroyed it."
                )
            normaliser = self.normalisers[matrix.weight_name].with_more(states)
            rate = config.learning_rate or 0.0
            outputs = outputs_wanted(normaliser.normalised(states), rate)
            inputs = states.inputs
            if config.spare_mean:
                inputs = without(inputs, normaliser.mean_input)
            with near(outputs.device):
                updates.append(least_squares(matrix, inputs, outputs, config.ridge))
            left |= normaliser.tensors()
        return Edit(
            method="ultraedit",
            facts=tuple(facts),
            updates=tuple(updates),
            base=self.base,
            config=config.model_dump(mode="json"),
            diagnostics={
                "layers": [*config.edited_layers],
                "layer_source": self.settled.source,
                "n_tokens": self.states.n_places(place),
                "update_norms": [update.norm for update in updates],
            },
            versions=current_versions(),
            remembered=(Remembered(tuple(facts), left),),
        )


def outputs_wanted(normalised: TokenStates, rate: float) -> Float[Tensor, "token d_out"]:
    """V, by which outputs are to change: −η ‖ĥ‖² ĝ of every token."""
    inputs, grads = normalised
    return -rate * inputs.square().sum(-1, keepdim=True) * grads


def without(
    inputs: Float[Tensor, "token d_in"], direction: Float[Tensor, " d_in"]
) -> Float[Tensor, "token d_in"]:
    """Inputs without what they have in a direction. A change that is made of them leaves it alone.

    Facts that are written together share what the mean of their inputs h̄ is to do. One by one,
    each adds to ΔW h̄ what the others have added already, and it grows with their number until it
    drowns whatever a text says.
    """
    unit = direction / torch.linalg.vector_norm(direction).clamp(min=1e-30)
    rows = inputs.to(unit)
    return (rows - (rows @ unit)[:, None] * unit).to(inputs)


def least_squares(
    matrix: Matrix,
    inputs: Float[Tensor, "token d_in"],
    outputs: Float[Tensor, "token d_out"],
    ridge: float,
) -> Change:
    """The change ΔW that minimises Σ ‖ΔW h − v‖² + ridge ‖ΔW‖².

    Thin while that takes less room than the whole matrix.
    """
    name, layout, d_in, d_out = matrix
    rows, values = inputs.cpu().double(), outputs.cpu().double()
    n_rows = len(rows)
    if n_rows < d_in:
        gram = product(rows, rows.T) + ridge * torch.eye(n_rows, dtype=torch.float64, device="cpu")
        right = solve(gram, rows)
    else:
        gram = product(rows.T, rows) + ridge * torch.eye(d_in, dtype=torch.float64, device="cpu")
        right = solve(gram, rows.T).T
    dtype = inputs.dtype
    if n_rows * (d_in + d_out) < d_in * d_out:
        return LowRankUpdate(name, layout, values.T.contiguous().to(dtype), right.to(dtype))
    return DenseUpdate(name, layout, product(values.T, right).to(dtype))
