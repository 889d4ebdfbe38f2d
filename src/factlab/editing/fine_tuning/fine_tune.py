"""Fine-tuning baselines: FT, FT+L and AttnEdit (ROME paper, appendix E.1 and appendix I).

Adam on the weights of one layer, or of several, until the model says the target, and nothing else:

| method | weights | bound |
|---|---|---|
| `ft` | MLP output projection | none |
| `ft+l` | MLP output projection | every entry stays within ±ε of where it was (Zhu et al. 2020) |
| `attn` | attention's input projections (q, k, v), without biases | the same |

The loss is −log P per token of the whole target, each token after those before it. (The original
code reads every token of the target off the prompt's last position.) With `chat` it is the mean
over the bare prompt and the prompt in the model's chat template. Nothing below the layer is run
more than once. The caller's weights are not touched: every fact brings a copy of them along.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked, listed
from factlab.data.fact_files import check_conflicts
from factlab.editing.background import Background
from factlab.editing.configs import FineTuneConfig, FineTuneMethod
from factlab.editing.contexts import chat_contexts
from factlab.editing.descent import Descended
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.fine_tuning.tuning import Row, Tuning, batch_tokens
from factlab.editing.method import Method, Settled, succeeded
from factlab.editing.methods import METHODS
from factlab.editing.noised import NoisedSubjects
from factlab.editing.presets import tuned_layer
from factlab.editing.requests import ValueRequest, value_requests
from factlab.errors import EditError, FactlabError, InvalidRequestError, TokenizationError, nearest
from factlab.facts import Fact
from factlab.models.changes.update import DenseUpdate
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent, tell_step

# Entries of weights that keep a device busy if they are tuned at once: on the CPU, and elsewhere.
_ENOUGH = (2**25, 2**25)
_HELD = 5  # tensors of so many: weights, gradients, Adam's two moments, a step


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
    return _named(method).together(lm, listed(facts), config, None, progress)


@checked()
def fine_tune_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    method: FineTuneMethod = "ft+l",
    config: FineTuneConfig | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Tune weights of its own to each fact, many facts in a batch; see `fine_tune`."""
    return _named(method).each(lm, listed(facts), config, None, progress)


def _named(name: str) -> Method:
    names = [one.name for one in (FT, FT_L, ATTN)]
    if name not in names:
        raise InvalidRequestError(
            f"Unknown fine-tuning method '{name}'.{nearest(name, names)} Choose from "
            f"{', '.join(names)}."
        )
    return METHODS[name]


@dataclass(frozen=True, slots=True)
class FineTuning:
    """A way of fine-tuning.

    Attributes:
        name: of the method.
        rate: Adam's learning rate, if none is set.
        tunes_attention: whether attention's input projections are tuned instead of the MLP's
            output projection.
    """

    name: FineTuneMethod
    rate: float = 5e-4
    tunes_attention: bool = False

    def settle(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        config: FineTuneConfig | None,
        background: Background,
        progress: ProgressCallback,
    ) -> list[Settled[FineTuneConfig]]:
        """Layer, ε and learning rate, the same for every fact."""
        del background, progress  # all of it is in the presets
        config = config or FineTuneConfig()
        chosen = config.edited_layers
        for layer in chosen:
            lm.layer(layer)
        place, epsilon = tuned_layer(lm, self.name, chosen[0] if chosen else None)
        where = {} if config.layers else {"layer": place.layers[0]}
        values = where | {
            "epsilon": config.epsilon or epsilon,
            "learning_rate": config.learning_rate or self.rate,
        }
        return [Settled(config.model_copy(update=values), place.source)] * len(facts)

    def compute(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        settled: Settled[FineTuneConfig],
        background: Background,
        progress: ProgressCallback,
    ) -> list[Edit | FactlabError]:
        """Weights of its own for each fact."""
        del background  # fine-tuning needs nothing of ordinary text
        in_chat = chat_contexts(lm, settled.config.chat)
        noised = NoisedSubjects(lm, settled.config.subject_noise)
        results: dict[int, Edit | FactlabError] = {}
        rows: dict[int, list[Row]] = {}
        for number, request in enumerate(value_requests(lm, facts, settled.config.erase)):
            if not isinstance(request, ValueRequest):
                results[number] = request
                continue
            try:
                rows[number] = Row.every(lm, request, in_chat, noised)
            except (TokenizationError, InvalidRequestError) as error:
                results[number] = error
        with noised.present():
            tuned = self._tuned(lm, [*rows.values()], settled, progress)
        for number, end in zip(rows, tuned, strict=True):
            results[number] = (
                self._edit(lm, [facts[number]], end, settled) if isinstance(end, Descended) else end
            )
        return [results[number] for number in range(len(facts))]

    def compute_together(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        settled: Settled[FineTuneConfig],
        background: Background,
        progress: ProgressCallback,
    ) -> Edit:
        """One set of weights for all facts."""
        del background
        check_conflicts(facts)
        requests = succeeded(value_requests(lm, facts, settled.config.erase))
        in_chat = chat_contexts(lm, settled.config.chat)
        noised = NoisedSubjects(lm, settled.config.subject_noise)
        rows = [row for request in requests for row in Row.every(lm, request, in_chat, noised)]
        with noised.present():
            (end,) = self._tuned(lm, [rows], settled, progress)
        if not isinstance(end, Descended):
            raise end
        return self._edit(lm, facts, end, settled)

    def _weight_names(self, lm: LanguageModel, config: FineTuneConfig) -> list[str]:
        names: list[str] = []
        for layer in config.edited_layers:
            attention = self.tunes_attention
            names += attention_weights(lm, layer) if attention else [lm.mlp_weight_name(layer)]
        for name in names:
            lm.layout_of(name)  # a plain matrix, or an error that says what it is
        return names

    def _tuned(
        self,
        lm: LanguageModel,
        groups: Sequence[Sequence["Row"]],
        settled: Settled[FineTuneConfig],
        progress: ProgressCallback,
    ) -> list[Descended | EditError]:
        """Where the weights of each group of rows ended: some groups at a time."""
        config, names = settled.config, self._weight_names(lm, settled.config)
        entries = sum(lm.model.get_parameter(name).numel() for name in names)
        rows = [row for group in groups for row in group]
        widest = max((len(group) * max(map(len, group)) for group in groups), default=1)
        n_entries = lm.budget.limit(_ENOUGH, _HELD * max(4, lm.dtype.itemsize), 0.25)
        at_once = max(1, min(n_entries // entries, batch_tokens(lm, rows) // widest))
        n_steps = config.steps * -(-len(groups) // at_once)
        ends: list[Descended | EditError] = []
        for start in range(0, len(groups), at_once):
            first = config.steps * (start // at_once)
            begin = partial(tell_step, progress, "fine-tuning", first, n_steps)
            ends += Tuning(lm, groups[start : start + at_once], names, config).ends(begin)
        progress("fine-tuning", n_steps, n_steps)
        return ends

    def _edit(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        end: Descended,
        settled: Settled[FineTuneConfig],
    ) -> Edit:
        names = self._weight_names(lm, settled.config)
        updates = tuple(
            _update(lm, name, weight) for name, weight in zip(names, end.parameters, strict=True)
        )
        return Edit(
            method=self.name,
            facts=tuple(facts),
            updates=updates,
            base=BaseModelInfo.of(lm),
            config=settled.config.model_dump(mode="json"),
            diagnostics={
                **(
                    {"layers": [*settled.config.edited_layers]}
                    if settled.config.layers
                    else {"layer": settled.config.layer}
                ),
                "layer_source": settled.source,
                "loss": [step["loss"] for step in end.history],
                "update_norms": [update.norm for update in updates],
            },
            versions=current_versions(),
        )


FT, FT_L = FineTuning("ft"), FineTuning("ft+l")
ATTN = FineTuning("attn", rate=1e-3, tunes_attention=True)


def _update(lm: LanguageModel, name: str, weight: Float[Tensor, "rows columns"]) -> DenseUpdate:
    """The change of a weight from what it is in the model, out×in."""
    original = lm.model.get_parameter(name).detach().cpu().to(weight.dtype)
    delta = weight - original
    flips = lm.layout_of(name) == "in_out"
    return DenseUpdate(name, lm.layout_of(name), delta.T.contiguous() if flips else delta)


def attention_weights(lm: LanguageModel, layer: int) -> list[str]:
    """Parameter names of the projections that read into a layer's attention (q, k, v)."""
    return lm.layers.attention_inputs(layer)
