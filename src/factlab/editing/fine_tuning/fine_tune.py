"""Fine-tuning baselines: FT, FT+L and AttnEdit (ROME paper, appendix E.1 and appendix I).

Adam on the weights of one layer until the model says the target, and nothing else:

| method | weights | bound |
|---|---|---|
| `ft` | MLP output projection | none |
| `ft+l` | MLP output projection | every entry stays within ±ε of where it was (Zhu et al. 2020) |
| `attn` | attention's input projections (q, k, v), without biases | the same |

The loss is −log P per token of the whole target, each token after those before it. (The original
code reads every token of the target off the prompt's last position.) Nothing below the layer is run
more than once. The caller's weights are not touched: every fact brings a copy of them along.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked, listed
from factlab.continuations import Continuation
from factlab.data.fact_files import check_conflicts
from factlab.editing.configs import FineTuneConfig, FineTuneMethod
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.fine_tuning.adam import Adam
from factlab.editing.presets import fine_tune_place
from factlab.editing.requests import ValueRequest, value_requests
from factlab.errors import EditError, TokenizationError
from factlab.facts import Fact
from factlab.models.allocator import memory_bounded_by
from factlab.models.changes.carried import owners_of, substituted
from factlab.models.changes.update import DenseUpdate
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, target_logprobs, target_nll, wide_logits
from factlab.models.replay import Hidden
from factlab.precision import wide
from factlab.progress import ProgressCallback, silent, tell_step
from factlab.tokens import TokenBatch, groups, pad

# A stack of weights for each parameter name, one per fact, or one for all.
Weights = dict[str, Tensor]

# Entries of weights that are tuned at once; five tensors of so many are held.
_ENTRIES = 2**25


@checked()
def fine_tune(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    method: FineTuneMethod = "ft+l",
    config: FineTuneConfig | None = None,
    progress: ProgressCallback = silent,
) -> Edit:
    """Tune one set of weights to all facts; the loss is the mean over them.

    Args:
        lm: the model, left as it is.
        facts: with a `target_new` each.
        method: see the module.
        config: see `FineTuneConfig`.
        progress: True for a bar, or a function that is told what is going on.

    Returns:
        An `Edit` with a dense change of each weight.

    Raises:
        InvalidRequestError: facts contradict each other, or one has nothing to write.
        EditError: the loss became NaN.
    """
    facts = listed(facts)
    check_conflicts(facts)
    return _fine_tune(lm, facts, method, config, [range(len(facts))], progress)[0]


@checked()
def fine_tune_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    method: FineTuneMethod = "ft+l",
    config: FineTuneConfig | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Tune weights of its own to each fact, many facts in a batch; see `fine_tune`."""
    facts = listed(facts)
    groups = [[i] for i in range(len(facts))]
    return _fine_tune(lm, facts, method, config, groups, progress)


def _fine_tune(
    lm: LanguageModel,
    facts: Sequence[Fact],
    method: FineTuneMethod,
    config: FineTuneConfig | None,
    sets: Sequence[Sequence[int]],
    progress: ProgressCallback,
) -> list[Edit]:
    config = config or FineTuneConfig()
    requests = value_requests(lm, facts, config.erase)
    layer, epsilon, source = fine_tune_place(lm, method, config.layer)
    values = {
        "layer": layer,
        "epsilon": config.epsilon or epsilon,
        "learning_rate": config.learning_rate or (1e-3 if method == "attn" else 5e-4),
    }
    settled = config.model_copy(update=values)
    names = lm.attn_weight_names(layer) if method == "attn" else [lm.mlp_weight_name(layer)]
    entries = sum(lm.model.get_parameter(name).numel() for name in names)
    rows = [_Row.of(lm, request) for request in requests]
    longest = max(map(len, rows))
    at_once = max(1, min(_ENTRIES // entries, settled.max_batch_tokens // longest))
    edits: list[Edit] = []
    n_steps = settled.steps * -(-len(sets) // at_once)
    for start in range(0, len(sets), at_once):
        first = settled.steps * (start // at_once)
        some = [[rows[i] for i in group] for group in sets[start : start + at_once]]
        tuning = _Tuning(lm, some, names, layer, settled)
        with memory_bounded_by(f"max_batch_tokens, which is {settled.max_batch_tokens}"):
            tuned = tuning.run(partial(tell_step, progress, "fine-tuning", first, n_steps))
        for number, (deltas, history) in enumerate(tuned, start):
            updates = tuple(
                DenseUpdate(name, lm.layout_of(name), delta) for name, delta in deltas.items()
            )
            edits.append(
                Edit(
                    method=method,
                    facts=tuple(facts[i] for i in sets[number]),
                    updates=updates,
                    base=BaseModelInfo.of(lm),
                    config=settled.model_dump(mode="json"),
                    diagnostics={
                        "layer": layer,
                        "layer_source": source,
                        "loss": history,
                        "update_norms": [update.norm for update in updates],
                    },
                    versions=current_versions(),
                )
            )
    progress("fine-tuning", n_steps, n_steps)
    return edits


@dataclass(frozen=True, slots=True)
class _Row:
    """A prompt with its target, and whether that is to become improbable."""

    continuation: Continuation
    erase: bool

    @classmethod
    def of(cls, lm: LanguageModel, request: ValueRequest) -> "_Row":
        prompt = request.fact.prompt
        try:
            return cls(lm.continuation(prompt, request.target), request.erase)
        except TokenizationError as error:
            raise TokenizationError(f"Fact '{prompt}': {error}") from error

    def __len__(self) -> int:
        return len(self.continuation.inputs)


class _Tuning:
    """Weights for some groups of rows: each fact its own, or one group with all facts.

    Args:
        lm: the model.
        groups: rows by the weights they share; either one group, or groups of one row.
        names: of the weights.
        layer: they are in.
        config: with everything filled in.
    """

    def __init__(
        self,
        lm: LanguageModel,
        groups: Sequence[Sequence[_Row]],
        names: Sequence[str],
        layer: int,
        config: FineTuneConfig,
    ) -> None:
        self._lm, self._layer, self._config = lm, layer, config
        self._groups = [list(group) for group in groups]
        width = wide(lm.dtype)
        self._originals = {name: lm.model.get_parameter(name).detach().to(width) for name in names}

    @torch.inference_mode(False)
    def run(self, begin: Callable[[int], None]) -> list[tuple[Weights, list[float]]]:
        """For each group the change of each weight, out×in on the CPU, and the losses.

        Args:
            begin: called with the number of every step before it is done.
        """
        results: dict[int, tuple[Weights, list[float]]] = {}
        histories: list[list[float]] = [[] for _ in self._groups]
        there = list(range(len(self._groups)))
        weights = {
            name: original.expand(len(there), -1, -1).clone()
            for name, original in self._originals.items()
        }
        rate = self._config.learning_rate or 0.0
        rules = {name: Adam(weight, rate) for name, weight in weights.items()}
        with self._lm.frozen():
            batches = self._batches()
            for step in range(self._config.steps):
                begin(step)
                losses, gradients = self._gradients(batches, weights)
                going: list[int] = []
                for i, loss in enumerate(losses.tolist()):
                    histories[there[i]].append(loss)
                    if not abs(loss) < float("inf"):
                        raise EditError(
                            f"The loss became {loss} at step {step}. Lower the learning rate, or "
                            "use float32."
                        )
                    if loss < self._config.stop_nll or step == self._config.steps - 1:
                        final = {name: weight[i] for name, weight in weights.items()}
                        results[there[i]] = self._deltas(final), histories[there[i]]
                    else:
                        going.append(i)
                if not going:
                    break
                if len(going) < len(there):
                    index = torch.tensor(going, device=losses.device)
                    there = [there[i] for i in going]
                    weights = {name: w[index.to(w.device)] for name, w in weights.items()}
                    gradients = {name: g[index.to(g.device)] for name, g in gradients.items()}
                    for rule in rules.values():
                        rule.keep(index)
                    losses, batches = losses[index], [batches[0].of_rows(self._lm, going)]
                for name, weight in weights.items():
                    weight.add_(rules[name].move(gradients[name], losses))
                    self._bound(weight, self._originals[name])
        return [results[i] for i in range(len(self._groups))]

    def _batches(self) -> list["_Batch"]:
        """All rows: in one batch, or if they share weights in as many as it takes."""
        rows = [row for group in self._groups for row in group]
        if len(self._groups) > 1:
            return [_Batch.of(self._lm, rows, self._layer)]
        costs = [len(row) for row in rows]
        return [
            _Batch.of(self._lm, [rows[i] for i in numbers], self._layer)
            for numbers in groups(costs, self._config.max_batch_tokens)
        ]

    def _gradients(
        self, batches: Sequence["_Batch"], weights: Weights
    ) -> tuple[Float[Tensor, " group"], Weights]:
        """Mean loss of every group, and its gradient."""
        n_groups = len(next(iter(weights.values())))
        n_rows = sum(batch.n_rows for batch in batches) / n_groups
        leaves = {name: weight.detach().requires_grad_(True) for name, weight in weights.items()}
        totals = torch.zeros(n_groups, dtype=torch.float64, device="cpu")
        gradients = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for batch in batches:
            with (
                torch.enable_grad(),
                substituted(self._lm, leaves, owners_of(batch.n_rows, n_groups)),
            ):
                nll = batch.nll(self._lm, self._layer).view(n_groups, -1).sum(1) / n_rows
            found = torch.autograd.grad(nll.sum(), list(leaves.values()))
            for total, part in zip(gradients.values(), found, strict=True):
                total.add_(part)
            totals += nll.detach().cpu().double()
        return totals, gradients

    def _bound(self, weight: Tensor, original: Tensor) -> None:
        """Keep every entry within ±ε of where it was."""
        epsilon = self._config.epsilon
        if epsilon is not None:
            torch.minimum(torch.maximum(weight, original - epsilon), original + epsilon, out=weight)

    def _deltas(self, weights: Weights) -> Weights:
        deltas: Weights = {}
        for name, weight in weights.items():
            delta = (weight - self._originals[name]).cpu()
            flips = self._lm.layout_of(name) == "in_out"
            deltas[name] = delta.T.contiguous() if flips else delta
        return deltas


class _Batch:
    """Rows at the input of the layer.

    Args:
        lm: the model.
        rows: one for each prompt.
        tokens: of the rows.
        entry: what enters the layer.
    """

    def __init__(
        self, lm: LanguageModel, rows: Sequence[_Row], tokens: TokenBatch, entry: Hidden
    ) -> None:
        self.n_rows, self._row_list = len(rows), rows
        self._tokens, self._entry, self._frame = tokens, entry, lm.frame(tokens)
        self._reads = Reads.of([row.continuation for row in rows])
        self._erased = torch.tensor([row.erase for row in rows], device="cpu")

    @classmethod
    def of(cls, lm: LanguageModel, rows: Sequence[_Row], layer: int) -> "_Batch":
        """Run the layers below."""
        tokens = pad([row.continuation.inputs for row in rows], lm.device)
        with torch.no_grad():
            return cls(lm, rows, tokens, lm.run(lm.frame(tokens), stop=layer))

    def of_rows(self, lm: LanguageModel, numbers: Sequence[int]) -> "_Batch":
        """Some of the rows; nothing is run again."""
        index = torch.tensor(numbers, device=self._entry.device)
        some = [self._row_list[i] for i in numbers]
        return _Batch(lm, some, self._tokens.rows(numbers), self._entry[index])

    def nll(self, lm: LanguageModel, layer: int) -> Float[Tensor, " row"]:
        """Loss of every row."""
        hidden = lm.run(self._frame, self._entry, first=layer)
        logits = wide_logits(lm, self._reads.states(hidden))
        totals, counts = target_logprobs(logits, self._reads.ids, self._reads.rows, self.n_rows)
        return target_nll(totals, counts, self._erased.to(totals.device))
