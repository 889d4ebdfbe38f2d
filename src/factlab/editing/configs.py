"""The settings of every editing method and of what they are made of, on their own.

Nothing here needs PyTorch, so that a setting can be checked, or listed, before it is imported.
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from factlab.config import Config, with_none
from factlab.editing.context_config import ChatContexts, ContextConfig, Switchable
from factlab.editing.noise_config import SubjectNoise
from factlab.editing.value_config import ValueConfig
from factlab.errors import InvalidRequestError
from factlab.facts import LookupToken
from factlab.neurons.configs import NeuronConfig
from factlab.stats.configs import StatsConfig

# Which token is looked up. The paper's methods use the subject's last; figure 5 tries all four.
LOOKUP_TOKENS: tuple[LookupToken, ...] = ("first", "last", "first_after_last", "end")

FineTuneMethod = Literal["ft", "ft+l", "attn"]

# Many facts: each in an edit of its own, all in one edit, or one edit on top of the other.
Mode = Literal["each", "together", "sequence"]
MODES: tuple[Mode, ...] = ("each", "together", "sequence")
_ChatSetting = Literal["chat", "contexts.chat"] | None


class Needs(NamedTuple):
    """What an edit needs to know of the model as it is before the first edit.

    Attributes:
        contexts: which texts to sample; None for none.
        stats: how much text to collect second moments from; None for none.
        layers: of which layers.
        shared: at mixtures of experts, of the one that every token goes through.
    """

    contexts: ContextConfig | None = None
    stats: StatsConfig | None = None
    layers: tuple[int, ...] = ()
    shared: bool = False


class MethodConfig(Config):
    """What can be asked of the settings of any method, without knowing which method it is.

    Attributes:
        layer_setting: the setting that says where to edit: `layer` for one layer, `layers` for
            several; None if the method has none.
        can_erase: whether there is a setting `erase`.
        can_force: whether there is a setting `subject_noise`, to edit under noise.
        can_look_up: whether there is a setting `lookup`, for the token to edit at.
        chat_setting: the setting that puts facts into the chat template as well, if there is one.
    """

    layer_setting: ClassVar[Literal["layer", "layers"] | None] = None
    can_erase: ClassVar[bool] = False
    can_force: ClassVar[bool] = False
    can_look_up: ClassVar[bool] = False
    chat_setting: ClassVar[_ChatSetting] = None

    @property
    def is_erasing(self) -> bool:
        """Whether targets are made improbable instead of probable."""
        return False

    @property
    def chat_contexts(self) -> ChatContexts | None:
        """How facts are put into the chat template as well, if they are."""
        return attrgetter(self.chat_setting)(self) if self.chat_setting else None

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers that are set, ascending; empty where they are left open."""
        return ()

    @property
    def needs(self) -> Needs:
        """What an edit with these settings needs of the model before the first edit."""
        return Needs()

    @classmethod
    def at_layer(cls, layer: int) -> dict[str, Any]:
        """The values that put an edit at one layer; empty if the method has no such setting."""
        if cls.layer_setting is None:
            return {}
        return {cls.layer_setting: layer if cls.layer_setting == "layer" else (layer,)}

    @classmethod
    def in_chat(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by name, with facts in the chat template as well; empty if that cannot be."""
        if cls.chat_setting is None:
            return {}
        table = dict(values if cls.chat_setting == "chat" else values.get("contexts") or {})
        table["chat"] = table.get("chat") or True
        return table if cls.chat_setting == "chat" else {**values, "contexts": table}


class ErasingConfig(MethodConfig):
    """Settings of a method that can also erase.

    Attributes:
        erase: make the true target improbable instead of a new one probable.
    """

    can_erase: ClassVar[bool] = True

    erase: bool = False

    @property
    def is_erasing(self) -> bool:
        """Whether targets are made improbable instead of probable."""
        return self.erase


class RomeConfig(ErasingConfig):
    """Settings of ROME.

    The defaults keep the paper's objective and reach it with fewer contexts and steps, which costs
    no quality (docs/results/editing.md); `published()` gives the original code's settings.

    Attributes:
        layer: 0-based edit layer; by default the model's preset, or else the layer that causal
            traces point to.
        value: optimisation of v*; its `clamp_factor` is the preset's unless you set it.
        contexts: texts before the prompt.
        stats: how much text to collect C from, if it is not at hand.
        legacy: the original code's mismatch of keys (and equal weights for all contexts);
            `published()` sets all that goes with it.
        lookup: which token of the prompt is looked up and edited at; the subject's last as in the
            paper, whose figure 5 tries the others.
        erase: make the true target improbable instead of a new one probable.
        experts: which of a mixture's to write to: all "active" ones, those that the subject is sent
            to, each by its share (`factlab.models.experts`); only the "top" one of these, with the
            largest share; or only the "shared" one beside them, which every token goes through, if
            the model has one. No matter at other layers.
        norm_anchor: length that every value v* is brought to, so that long sequences do not grow
            (NAS, `closed_form.anchor`); "first" for the mean of the first edit's. A fact whose
            value is more than twice as long is not written, and the diagnostics name it.
        subject_noise: on the subject's embeddings wherever the edit looks: in keys, values and the
            essence (fact forcing, Hase et al. 2023); by default none.
    """

    added: ClassVar[frozenset[str]] = frozenset({"subject_noise"})
    can_force: ClassVar[bool] = True
    layer_setting: ClassVar[Literal["layer", "layers"] | None] = "layer"
    can_look_up: ClassVar[bool] = True
    chat_setting: ClassVar[_ChatSetting] = "contexts.chat"

    layer: int | None = Field(default=None, ge=0)
    value: ValueConfig = ValueConfig()
    contexts: ContextConfig = ContextConfig()
    stats: StatsConfig = StatsConfig()
    legacy: bool = False
    lookup: LookupToken = "last"
    experts: Literal["active", "top", "shared"] = "active"
    norm_anchor: PositiveFloat | Literal["first"] | None = None
    subject_noise: SubjectNoise | None = None

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layer, if it is set."""
        return () if self.layer is None else (self.layer,)

    @property
    def needs(self) -> Needs:
        """Contexts, and the second moment of the layer."""
        return Needs(self.contexts, self.stats, self.edited_layers, self.experts == "shared")

    @classmethod
    def published(cls) -> "RomeConfig":
        """What the paper's code does: its contexts, steps, keys that do not match, and all."""
        return cls(
            value=ValueConfig.published(), contexts=ContextConfig.published_rome(), legacy=True
        )


class LayerwiseConfig(ErasingConfig):
    """What the methods of this kind have in common.

    Attributes:
        layers: 0-based, ascending; by default those of the model's preset, or recommended ones.
        value: optimisation of δ at the output of the last of them.
        contexts: texts before the prompt.
        stats: how much text to collect C from, if it is not at hand.
        erase: make the true targets improbable instead of new ones probable.
        remember: in a sequence, keep away from the keys that earlier edits wrote at.
        norm_anchor: as in `RomeConfig`.
        subject_noise: as in `RomeConfig`.
    """

    added: ClassVar[frozenset[str]] = frozenset({"subject_noise"})
    can_force: ClassVar[bool] = True
    layer_setting: ClassVar[Literal["layer", "layers"] | None] = "layers"
    chat_setting: ClassVar[_ChatSetting] = "contexts.chat"

    layers: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    value: ValueConfig = ValueConfig()
    contexts: ContextConfig = ContextConfig()
    stats: StatsConfig = StatsConfig()
    remember: bool = True
    norm_anchor: PositiveFloat | Literal["first"] | None = None
    subject_noise: SubjectNoise | None = None

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers, if they are set."""
        return self.layers or ()

    @property
    def needs(self) -> Needs:
        """Contexts, and the second moments of the layers."""
        return Needs(self.contexts, self.stats, self.edited_layers)


class MemitConfig(LayerwiseConfig):
    """Settings of MEMIT.

    Attributes:
        second_moment_weight: λ, how much the old keys count against one new fact; by default the
            preset's.
    """

    second_moment_weight: PositiveFloat = 15_000.0


class EmmetConfig(LayerwiseConfig):
    """Settings of EMMET; by default it edits ROME's layer.

    Attributes:
        damping: added to the diagonal of K₁ᵀC⁻¹K₁, as a share of its mean. 0 stores every pair to
            the last digit.
        second_moment_weight: λ, how much ordinary keys count against one that an earlier edit of
            the sequence wrote at; without such edits it makes no difference.
    """

    second_moment_weight: PositiveFloat = 15_000.0
    damping: NonNegativeFloat = 0.01


class AlphaEditConfig(LayerwiseConfig):
    """Settings of AlphaEdit; its layers are MEMIT's.

    Attributes:
        null_share: how much of C, as a share of its trace, the directions hold that may change.
        ridge: ε, as a share of the mean squared length of the projected keys; in a sequence, of the
            first edit's.
    """

    null_share: float = Field(default=0.2, gt=0, le=1)
    ridge: PositiveFloat = 0.1


class FineTuneConfig(ErasingConfig):
    """Settings of FT, FT+L and AttnEdit.

    Attributes:
        layer: 0-based; by default the preset's.
        epsilon: bound on the change of every entry; by default the preset's. FT has none.
        steps: most steps of Adam, as in the ROME paper's code; the loss is evaluated once more.
        learning_rate: of Adam; by default 5e-4, and 1e-3 for AttnEdit.
        stop_nll: stop when the target's NLL is below this (0.01 in the code; the paper has 0.03).
        erase: make the true target improbable instead of a new one probable.
        chat: tune on the fact in the chat template as well, as in `ContextConfig`.
        layers: several layers to tune together, instead of one.
        subject_noise: on the subject's embeddings, the mean loss over all samples of it (fact
            forcing, Hase et al. 2023); by default none.
    """

    can_force: ClassVar[bool] = True

    layer_setting: ClassVar[Literal["layer", "layers"] | None] = "layer"
    chat_setting: ClassVar[_ChatSetting] = "chat"
    added: ClassVar[frozenset[str]] = frozenset({"chat", "layers", "subject_noise"})

    layer: int | None = Field(default=None, ge=0)
    epsilon: PositiveFloat | None = None
    steps: PositiveInt = 25
    learning_rate: PositiveFloat | None = None
    stop_nll: NonNegativeFloat = 0.01
    chat: Switchable = None
    layers: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    subject_noise: SubjectNoise | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "FineTuneConfig":
        if self.layer is not None and self.layers is not None:
            raise InvalidRequestError("Give layer for one layer or layers for several, not both.")
        return self

    @property
    def edited_layers(self) -> tuple[int, ...]:
        """The layers, if they are set."""
        if self.layers is not None:
            return tuple(sorted({*self.layers}))
        return () if self.layer is None else (self.layer,)


class KnConfig(ErasingConfig):
    """Settings of KN.

    Attributes:
        attribution: how to find the neurons. Its settings may also be given without this name, as
            `steps=20`.
        threshold: a prompt's neurons are those above this share of its largest attribution.
        share: of several prompts for a fact, in how many a neuron must be; see `shared_neurons`.
        max_neurons: keep the strongest so many of a fact; by default all.
        lambda_old: λ₁, how much of the old answer to take out.
        lambda_new: λ₂, how much of the new one to put in.
        lambda_unit: what λ counts: lengths of the neuron's own value, as in the paper's code; or
            embeddings as they are, as in its equation and in the ROME paper's code.
        embedding: of the answers. Values are read by the output embedding, whose row for a token is
            the direction that raises its logit; the input embedding is another matrix in models
            that do not tie the two, and means nothing there.
        pooling: of an answer's tokens: their `mean`, or their `sum` (ROME's code).
        old: the old answer: `true`, the fact's `target_true` if it has one; or `said`, the model's
            most probable next token.
        erase: only take the old answer out.
    """

    attribution: NeuronConfig = NeuronConfig()
    threshold: float = Field(default=0.2, ge=0, lt=1)
    share: float = Field(default=0.7, gt=0, le=1)
    max_neurons: PositiveInt | None = None
    lambda_old: NonNegativeFloat = 1.0
    lambda_new: NonNegativeFloat = 8.0
    lambda_unit: Literal["value", "embedding"] = "value"
    embedding: Literal["output", "input"] = "output"
    pooling: Literal["mean", "sum"] = "mean"
    old: Literal["true", "said"] = "true"

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, values: Any) -> Any:
        """Put settings of the attribution where they belong; until 0.1.0 they stood beside it."""
        flat = NeuronConfig.model_fields.keys()
        if not isinstance(values, dict) or flat.isdisjoint(values):
            return values
        lifted = {name: value for name, value in values.items() if name in flat}
        lifted = with_none(NeuronConfig, lifted)
        inner = values.get("attribution", {})
        if isinstance(inner, NeuronConfig):
            inner = inner.model_dump(exclude_unset=True)
        rest = {name: value for name, value in values.items() if name not in flat}
        return {**rest, "attribution": {**inner, **lifted} if isinstance(inner, dict) else inner}

    @classmethod
    def published(cls) -> "KnConfig":
        """What the ROME paper's code does to GPT-2: −2 of the token said, +1 of each new token.

        But for two things: it drops the answers' leading space, and takes neurons before the
        activation.
        """
        return cls(
            attribution=NeuronConfig(steps=20, rule="closed", tolerance=None),
            lambda_old=2.0,
            lambda_new=1.0,
            lambda_unit="embedding",
            embedding="input",
            pooling="sum",
            old="said",
        )
