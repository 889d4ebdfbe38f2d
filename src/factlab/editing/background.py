"""What methods need of a model besides facts, worked out once and used for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from factlab.editing.configs import ContextConfig, Needs
from factlab.editing.contexts import chat_contexts, sample_contexts, thinned
from factlab.editing.protection import Protection
from factlab.editing.values.cache import ValueCache
from factlab.editing.values.source import ValueSource
from factlab.errors import InvalidRequestError
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.configs import StatsConfig
from factlab.stats.expert_moments import Moment
from factlab.stats.moments import SecondMoment
from factlab.stats.store import second_moments
from factlab.wrapping import Context


@dataclass(slots=True)
class Background:
    """Contexts and second moments of one model, kept while many edits of it are made.

    When edits are made one on top of the other, all of them use what was found on the model before
    the first.

    Attributes:
        moments: second moments at hand, by layer; others are collected when they are asked for.
        shared: the same of mixtures of experts, for the one that every token goes through.
        protection: of keys that edits on the model wrote at, kept from one edit to the next.
        given: layers of moments that someone gave: an edit elsewhere is a mistake.
        values: where values that were optimised before come from: the cache, or `load_values` of a
            folder; None for nowhere.
    """

    moments: dict[int, Moment] = field(default_factory=dict[int, Moment])
    shared: dict[int, Moment] = field(default_factory=dict[int, Moment])
    protection: Protection = field(default_factory=Protection)
    given: frozenset[int] = frozenset()
    values: ValueSource | None = field(default_factory=ValueCache.default)
    _weighed: set[tuple[int, bool]] = field(default_factory=set[tuple[int, bool]])
    # What was collected, and how; moments that somebody gave serve whatever is asked for.
    _collected: dict[tuple[int, bool], StatsConfig] = field(
        default_factory=dict[tuple[int, bool], StatsConfig]
    )

    @classmethod
    def of(cls, moments: Sequence[Moment] | Mapping[int, Moment]) -> "Background":
        """With second moments that are at hand."""
        found = moments.values() if isinstance(moments, Mapping) else moments
        shared: dict[int, Moment] = {
            m.layer: m for m in found if isinstance(m, SecondMoment) and m.part == "shared"
        }
        by_layer = {m.layer: m for m in found if m is not shared.get(m.layer)}
        return cls(by_layer, shared, given=frozenset({*by_layer, *shared}))

    def contexts(self, lm: LanguageModel, config: ContextConfig) -> list[Context]:
        """Texts to put before prompts; the first is empty. Then what a chat template puts around.

        Texts are the model's own without its edits, and sampled once.

        Raises:
            InvalidRequestError: the tokenizer has no fitting chat template, where one is needed.
        """
        given = None if self.values is None else self.values.contexts(lm, config)
        if given is not None:
            return given
        in_chat = chat_contexts(lm, config.chat)
        texts = config.model_copy(update={"chat": None, "left_out": 0.0})
        sampled = lm.recall.of(("contexts", texts), lm.identity.now(), partial(_sampled, lm, texts))
        return [*thinned(sampled, config), *in_chat]

    def second_moments(
        self,
        lm: LanguageModel,
        layers: Sequence[int],
        config: StatsConfig,
        progress: ProgressCallback = silent,
        shared: bool = False,
    ) -> dict[int, Moment]:
        """C of some layers: those at hand, the others from the cache or collected.

        Raises:
            WrongModelError: those at hand are of another model.
            StatisticsError: they are of fewer keys than these have dimensions.
            InvalidRequestError: moments of other layers were given, and none of these.
        """
        moments = self.shared if shared else self.moments
        missing = [
            layer
            for layer in layers
            if layer not in moments or self._collected.get((layer, shared), config) != config
        ]
        if self.given and not self.given.intersection(layers):
            given, wanted = (", ".join(map(str, sorted(x))) for x in (self.given, layers))
            raise InvalidRequestError(
                f"The statistics are of layer {given}, but the edit is at layer {wanted}."
            )
        if missing:
            moments |= second_moments(lm, missing, config, progress=progress, shared=shared)
            self._collected |= {(layer, shared): config for layer in missing}
            self._weighed -= {(layer, shared) for layer in missing}
        for layer in layers:
            moments[layer].check_model(lm)
            if (layer, shared) not in self._weighed:  # said once, not at every edit of a sequence
                moments[layer].check_enough()
                self._weighed.add((layer, shared))
        return {layer: moments[layer] for layer in layers}

    def gather(self, lm: LanguageModel, needs: Needs, progress: ProgressCallback = silent) -> None:
        """Have contexts and second moments at hand, of the model as it is now.

        Raises:
            StatisticsError: second moments cannot be collected.
        """
        if needs.stats is not None and needs.layers:
            shared = needs.shared and lm.layers.is_mixed(needs.layers[0])
            self.second_moments(lm, needs.layers, needs.stats, progress, shared)
        if needs.contexts is not None:
            self.contexts(lm, needs.contexts)


def _sampled(lm: LanguageModel, config: ContextConfig) -> list[str]:
    with lm.patches.lifted():
        return sample_contexts(lm, config)
