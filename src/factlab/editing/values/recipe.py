"""What a value depends on, and the hash of it under which the value is kept.

A value δ is the same whenever the same is asked: of which fact and target, behind which texts, on
which weights and tokenizer, at which site, and with which settings of the optimisation. Which
method asks, and what it does with δ afterwards, makes no difference; MEMIT and AlphaEdit with the
same top layer share their values, whatever λ is.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from factlab.config import Config
from factlab.documents import JsonValue
from factlab.editing.configs import (
    ContextConfig,
    LayerwiseConfig,
    MethodConfig,
    RomeConfig,
    ValueConfig,
)
from factlab.editing.noise_config import SubjectNoise
from factlab.errors import InvalidRequestError
from factlab.facts import LookupToken
from factlab.models.run_model import run_model
from factlab.wrapping import Context, context_to_json

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

# Goes up whenever the same request would give another value than before, to write or to erase.
_SCHEME, _SCHEME_ERASING = 1, 2
# How much the bare prompt counts in a key says nothing of the texts that values are optimised over.
_NOT_OF_TEXTS = {"bare_weight": None}
# The setting that matters only if it was ever reached; see `StoredValue.stays_clear_of`.
_CLAMP = "clamp_factor"


class Asked(NamedTuple):
    """What a value is to make a model say, or no longer say.

    Attributes:
        template: of the fact.
        subject: of the fact.
        target: an object.
    """

    template: str
    subject: str
    target: str


class ValuePlan(Config):
    """Which values a method asks for, all facts alike.

    Attributes:
        layer: 0-based, of the site that δ is added to.
        stream: of the site: an MLP's output, or a layer's.
        lookup: where in a prompt δ is added.
        erase: whether targets are made improbable.
        value: how δ is optimised.
        contexts: which texts are put before the prompts.
        noise: on the subjects.
    """

    added: ClassVar[frozenset[str]] = frozenset({"noise"})

    layer: int
    stream: Literal["mlp", "block"]
    lookup: LookupToken
    erase: bool
    value: ValueConfig
    contexts: ContextConfig
    noise: SubjectNoise | None = None

    @classmethod
    def of(cls, config: RomeConfig | LayerwiseConfig) -> "ValuePlan":
        """What a method with these settings, which name its layers, asks for."""
        is_rome = isinstance(config, RomeConfig)
        return cls(
            layer=config.edited_layers[-1],
            stream="mlp" if is_rome else "block",
            lookup=config.lookup if is_rome else "last",
            erase=config.erase,
            value=config.value,
            contexts=config.contexts.model_copy(update=_NOT_OF_TEXTS),
            noise=config.subject_noise,
        )

    @classmethod
    def like(cls, config: RomeConfig | LayerwiseConfig, other: "ValuePlan") -> "ValuePlan":
        """The same where these settings leave open what another plan says: the layer, the bound."""
        layer = {} if config.edited_layers else config.at_layer(other.layer)
        clamp = other.value.clamp_factor
        value = config.value if clamp is None else config.value.clamped(clamp)
        return cls.of(config.model_copy(update={**layer, "value": value}))

    def without_clamp(self) -> dict[str, Any]:
        """As JSON, without the bound of δ."""
        plan = self.model_dump(mode="json")
        del plan["value"][_CLAMP]
        return plan


def with_values(method: str, config: MethodConfig) -> RomeConfig | LayerwiseConfig:
    """The settings of a method that optimises values.

    Raises:
        InvalidRequestError: it optimises none.
    """
    if not isinstance(config, RomeConfig | LayerwiseConfig):
        raise InvalidRequestError(
            f"Method '{method}' optimises no values. Use rome, memit, emmet or alphaedit."
        )
    return config


def same_texts(one: ContextConfig, other: ContextConfig) -> bool:
    """Whether two settings ask for the same texts."""
    return one.model_copy(update=_NOT_OF_TEXTS) == other.model_copy(update=_NOT_OF_TEXTS)


@dataclass(frozen=True, slots=True)
class ValueRecipe:
    """All that values depend on besides their facts.

    Attributes:
        model: what it is, as `run_model` says it: name, fingerprint, tokenizer and dtype.
        plan: with its layer.
        contexts: the texts before the prompts.
    """

    model: dict[str, JsonValue]
    plan: ValuePlan
    contexts: tuple[Context, ...]

    @classmethod
    def of(cls, lm: "LanguageModel", plan: ValuePlan, contexts: Sequence[Context]) -> "ValueRecipe":
        """Of a model as it is now."""
        return cls(run_model(lm, None), plan, tuple(contexts))

    def key(self, asked: Asked) -> str:
        """SHA-256 of everything that a value depends on, but for the bound of δ."""
        model = {name: value for name, value in self.model.items() if name != "name"}
        plan = self.plan.without_clamp()
        del plan["contexts"]  # the texts themselves say more
        contexts = [*map(context_to_json, self.contexts)]
        scheme = _SCHEME_ERASING if self.plan.erase else _SCHEME
        whole = [scheme, model, plan, contexts, asked]
        text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
