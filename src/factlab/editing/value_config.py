"""How a value is optimised."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from factlab.config import Config

_SEVERAL = (
    "{} is a", "{} was born in", "{} is located in", "{} works as", "{} was made by",
)  # fmt: skip


def _named(value: Any) -> Any:
    return _SEVERAL if value == "several" else value


_Essence = Annotated[tuple[str, ...], BeforeValidator(_named)]


class ValueConfig(Config):
    """How to optimise δ.

    The defaults need about half of the steps of the published rule, which is `published()`.

    Attributes:
        steps: most evaluations of the loss.
        step_rule: `polyak`: along the gradient, as far as would bring the loss to zero if it went
            on falling like this (Polyak 1969), with momentum and a bound; or `adam`, the paper's.
        largest_step: bound of a Polyak step, as a share of ‖v₀‖.
        momentum: of Polyak steps.
        learning_rate: of Adam.
        kl_factor: weight of the essence term (0.0625 in the code; the paper's text has 100).
        essence: prompts behind which the model shall go on as it did, with `{}` for the subject.
            The papers have one. More of them spare more of what else is known of the subject, and
            take more time; "several" stands for the five of docs/results/evaluation.md.
        kl_position: where the essence prompt is read: at its last token, as the paper says, or at
            the subject's last token, as its code does (there " is a" has no influence).
        weight_decay: factor of ‖δ‖ / ‖v₀‖².
        clamp_factor: ‖δ‖ is kept below this many times ‖v₀‖; by default the preset's, or the
            method's (4; 0.75 for MEMIT and AlphaEdit).
        stop_loss: stop when the total loss is below this; of an erasure, below this share of what
            it was at first.
        stop_nll: stop when the target's NLL is below this in the mean over contexts; of an erasure,
            whose loss is −log(1 − P), below this share of what that was at first.
        stop_when_said: stop one step after greedy decoding first writes the target behind every
            context (MPES, arXiv 2502.01636).
    """

    added: ClassVar[frozenset[str]] = frozenset({"essence"})

    steps: PositiveInt = 20
    step_rule: Literal["polyak", "adam"] = "polyak"
    largest_step: PositiveFloat = 0.3
    momentum: float = Field(default=0.5, ge=0, lt=1)
    learning_rate: PositiveFloat = 0.5
    kl_factor: NonNegativeFloat = 0.0625
    essence: _Essence = Field(default=("{} is a",), min_length=1)
    kl_position: Literal["essence_end", "subject_end"] = "essence_end"
    weight_decay: NonNegativeFloat = 0.0
    clamp_factor: PositiveFloat | None = None
    stop_loss: NonNegativeFloat = 0.05
    stop_nll: NonNegativeFloat = 0.1
    stop_when_said: bool = False

    @field_validator("essence")
    @classmethod
    def _check_essence(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        for prompt in prompts:
            if prompt.count("{}") != 1:
                raise ValueError(f"'{prompt}' must have {{}} once, where the subject stands")
        return prompts

    def clamped(self, factor: float) -> "ValueConfig":
        """With this `clamp_factor`, unless one is set."""
        if self.clamp_factor is not None:
            return self
        return self.model_copy(update={"clamp_factor": factor})

    @classmethod
    def published(cls, steps: int = 20) -> "ValueConfig":
        """The values of the papers' code for GPT-2 XL and GPT-J."""
        return cls(
            steps=steps,
            step_rule="adam",
            kl_position="subject_end",
            weight_decay=0.5,
            stop_nll=0.0,
        )
