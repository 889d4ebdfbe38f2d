"""What the study of localisation varies; nothing here needs PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from factlab.config import Config
from factlab.data.records import Record
from factlab.editing.configs import MethodConfig
from factlab.editing.method import Method
from factlab.editing.methods import method_named
from factlab.editing.variants import VARIANTS, Variant, check_variant, variant_named
from factlab.errors import InvalidRequestError, counted
from factlab.evaluation.studies.method_specs import StudiedMethod
from factlab.settings import made_of
from factlab.words import CountList, NumberList

# Facts without which the regression with an effect in every layer has no degree of freedom left.
LEAST_FACTS = 3
_MEMIT_WIDTH = 5
_N_LAYERS = 8
_WINDOWS = (1, 3, 5, 10)
_MAIN_WINDOW = 5


class LocalisedMethod(Config):
    """A method of the study, which is put at one layer after the other.

    Attributes:
        label: what to call it in tables and pictures.
        name: of the method.
        width: how many layers are edited together, the one in question in their middle.
        settings: of the method.
        by_variant: settings that hold for one variant only.
    """

    label: str
    name: str
    width: PositiveInt
    settings: dict[str, Any] = Field(default_factory=dict)
    by_variant: dict[Variant, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "LocalisedMethod":
        """Read `rome`, `ft+l:width=5` or `ft+l:epsilon=1e-4,forcing.steps=50`.

        `width` is that of the study, and what begins with a variant holds for that alone; all else
        are settings of the method.

            >>> from factlab.evaluation.localising.configs import LocalisedMethod
            >>> LocalisedMethod.parse("ft+l:width=5,forcing.steps=50").label
            'ft+l ×5'

        Raises:
            InvalidRequestError: it cannot be read so, or there is no such method or setting, or the
                method edits no layer of one's choice.
        """
        spec = StudiedMethod.parse(text)
        name, settings = spec.method.name, {**spec.method.settings}
        method = method_named(name)
        is_wide = method.config.layer_setting == "layers"
        width = settings.pop("width", _MEMIT_WIDTH if is_wide else 1)
        of_variants = {v: settings.pop(v) for v in VARIANTS if v in settings}
        plain = name if width == (_MEMIT_WIDTH if is_wide else 1) else f"{name} ×{width}"
        made = cls(label=plain, name=name, width=width, settings=settings, by_variant=of_variants)
        made.check()
        return made

    @property
    def method(self) -> Method:
        """The method itself."""
        return method_named(self.name)

    def check(self) -> None:
        """Refuse what cannot be put at a layer, or has settings that are not allowed.

        Raises:
            InvalidRequestError: it is so.
        """
        config = self.method.config
        if config.layer_setting is None:
            raise InvalidRequestError(
                f"Method '{self.name}' is not put at a layer of one's choice. Use rome, memit, "
                "emmet, alphaedit, ft, ft+l or attn."
            )
        can_be_wide = "layers" in config.model_fields
        if self.width > 1 and not can_be_wide:
            raise InvalidRequestError(
                f"Method '{self.name}' edits one layer, so width={self.width} makes no sense."
            )
        for variant in (None, *self.by_variant):
            self._config(variant, 0, 1)

    def layers(self, layer: int, n_layers: int) -> tuple[int, ...]:
        """The layers that are edited around one, as far as the model goes.

        Of an odd width as many on either side; of an even one the larger half below, as in traces.
        Methods that write what leaves their top layer stay below the last one, unless it is the
        layer in question: nothing that follows a subject sees what leaves it.
        """
        is_seen = self.method.config.layer_setting == "layer"
        last = n_layers if is_seen else max(layer + 1, n_layers - 1)
        first = layer - self.width // 2
        return tuple(range(max(0, first), min(last, first + self.width)))

    def config(self, variant: Variant, layer: int, n_layers: int) -> MethodConfig:
        """The settings of the method at a layer, for a variant."""
        return self._config(variant, layer, n_layers)

    def _config(self, variant: Variant | None, layer: int, n_layers: int) -> MethodConfig:
        kind, own = self.method.config, self.by_variant.get(variant, {}) if variant else {}
        values = _merged(self.settings, own)
        if kind.layer_setting == "layer" and self.width == 1:
            return made_of(kind, values | {"layer": layer})
        return made_of(kind, values | {"layers": self.layers(layer, n_layers)})


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others that win, tables inside them likewise."""
    merged = {**base}
    for name, value in over.items():
        inner = merged.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            merged[name] = _merged({**inner}, {**value})
        else:
            merged[name] = value
    return merged


class LocalisationConfig(Config):
    """What to trace, edit and ask.

    Attributes:
        layers: to edit, 0-based; by default eight, spread over the model.
        methods: each at every one of these layers.
        variants: problems that each method is asked to solve.
        window: MLPs that are restored together, for the effect that scores are compared with.
        windows: others that are traced as well; by default 1, 3, 5 and 10, as far as they fit.
        samples: of the noise, in traces and in forcing.
        sigmas: level of the noise, in standard deviations of the facts' subject embeddings.
        seed: of the noise, the same in traces, reversal and forcing; and of the texts.
        answer_tokens: a fact is known if its object is among what the model says greedily, the
            prompt's tokens counted; 0 to take every fact for known.
        least_prob: a fact is left out if its object is less probable than this.
        said_tokens: of what the corrupted run says that a reversal writes.
        essence_texts: texts about each subject whose perplexity is watched; 0 for none.
        essence_tokens: length of these, "{subject} is a" included.
    """

    layers: NumberList | None = Field(default=None, min_length=1)
    methods: tuple[LocalisedMethod, ...] = (
        LocalisedMethod(label="ft+l", name="ft+l", width=1, by_variant={"forcing": {"steps": 50}}),
        LocalisedMethod(
            label="ft+l ×5", name="ft+l", width=5, by_variant={"forcing": {"steps": 50}}
        ),
        LocalisedMethod(label="rome", name="rome", width=1),
        LocalisedMethod(label="memit", name="memit", width=5),
    )
    variants: tuple[Variant, ...] = Field(default=VARIANTS, min_length=1)
    window: PositiveInt = _MAIN_WINDOW
    windows: CountList | None = Field(default=None, min_length=1)
    samples: PositiveInt = 10
    sigmas: PositiveFloat = 3.0
    seed: int = Field(default=0, ge=0, lt=2**32)
    answer_tokens: NonNegativeInt = 36
    least_prob: float = Field(default=0.02, ge=0, lt=1)
    said_tokens: PositiveInt = 4
    essence_texts: NonNegativeInt = 5
    essence_tokens: int = Field(default=100, ge=8)

    N_LAYERS: ClassVar[int] = _N_LAYERS

    @field_validator("methods", mode="before")
    @classmethod
    def _read_methods(cls, value: Any) -> Any:
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list | tuple):
            return value
        return tuple(LocalisedMethod.parse(one) if isinstance(one, str) else one for one in listed)

    @field_validator("methods")
    @classmethod
    def _apart(cls, value: tuple[LocalisedMethod, ...]) -> tuple[LocalisedMethod, ...]:
        if not value:
            raise InvalidRequestError("There is no method to study. Name at least one.")
        labels = [one.label for one in value]
        for label in labels:
            if labels.count(label) > 1:
                raise InvalidRequestError(
                    f"Method '{label}' is named twice. Give each once, or with another width."
                )
        return value

    @field_validator("variants", mode="before")
    @classmethod
    def _read_variants(cls, value: Any) -> Any:
        listed = value.split(",") if isinstance(value, str) else value
        if not isinstance(listed, list | tuple):
            return value
        found = {variant_named(str(one).strip()) for one in listed}
        return tuple(variant for variant in VARIANTS if variant in found)

    def check(self) -> None:
        """Refuse a variant that a method cannot do, before a model is loaded.

        Raises:
            InvalidRequestError: there is one.
        """
        for one in self.methods:
            one.check()
            for variant in self.variants:
                check_variant(one.method, variant)

    def layers_of(self, n_layers: int) -> tuple[int, ...]:
        """The layers to edit in a model of so many.

        Raises:
            InvalidRequestError: one is not there.
        """
        if self.layers is None:
            # Nothing that follows sees what is written to the last layer.
            last, count = max(0, n_layers - 2), min(self.N_LAYERS, max(1, n_layers - 1))
            return tuple(sorted({round(i * last / max(1, count - 1)) for i in range(count)}))
        outside = [layer for layer in self.layers if layer >= n_layers]
        if outside:
            raise InvalidRequestError(
                f"Layer {outside[0]} is out of range: the model has layers 0 to {n_layers - 1}."
            )
        return tuple(sorted(set(self.layers)))

    def windows_of(self, n_layers: int) -> tuple[int, ...]:
        """The windows to trace, the main one among them.

        Raises:
            InvalidRequestError: one is wider than a model of so many layers.
        """
        main = self.main_window(n_layers)
        if self.windows is None:
            return tuple(sorted({main, *(w for w in _WINDOWS if w <= n_layers)}))
        if max(self.windows) > n_layers:
            raise InvalidRequestError(
                f"A window of {max(self.windows)} layers is wider than the model, which has "
                f"{n_layers}. Choose at most {n_layers}."
            )
        return tuple(sorted({main, *self.windows}))

    def main_window(self, n_layers: int) -> int:
        """The window of the effect that scores are compared with."""
        return min(self.window, n_layers)


def check_records(records: Sequence[Record], config: LocalisationConfig) -> None:
    """Refuse records that the study can make nothing of.

    Raises:
        InvalidRequestError: there are too few, or none has what is needed.
    """
    if len(records) < LEAST_FACTS:
        raise InvalidRequestError(
            f"There {'is' if len(records) == 1 else 'are'} {counted(len(records), 'record')}, and "
            f"the regressions need {LEAST_FACTS} facts that the model knows. Give more."
        )
    if not any(record.fact.target_true for record in records):
        raise InvalidRequestError(
            "No record says what is true (target_true), and traces follow that. Give records of "
            "CounterFact's kind."
        )
    if "injection" in config.variants and not any(r.fact.target_new for r in records):
        raise InvalidRequestError("No record has a target_new to inject. Give others.")
    for name, what in (
        ("paraphrase_prompts", "paraphrases"),
        ("neighborhood_prompts", "neighbours"),
    ):
        if not any(getattr(record, name) for record in records):
            raise InvalidRequestError(
                f"No record has {what} ({name}), and the study scores them. Give records of "
                "CounterFact's kind."
            )
