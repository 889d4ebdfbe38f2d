"""Which texts an edit is found behind, so that it does not depend on one exact wording."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from factlab.config import Config

# How a fact is put into the chat template as well.
ChatContexts = Literal["fitting", "asked", "begun", "both"]


def _switched(value: Any) -> Any:
    """A switch that is on stands for the form that fits."""
    return ("fitting" if value else None) if isinstance(value, bool) else value


Switchable = Annotated[ChatContexts | None, BeforeValidator(_switched)]


class ContextConfig(Config):
    """Which texts to sample.

    Attributes:
        groups: (how many, tokens of each) pairs; the start token counts as one of them, as in the
            paper's code.
        top_k: sample among this many most probable tokens.
        seed: of the sampling.
        bare_weight: share of the bare prompt in the mean key, the rest going to the others in equal
            parts; None gives every context the same weight, as the ROME paper does. Where a
            tokenizer puts no BOS in front, a subject that opens the bare prompt has a key of its
            own (see docs/results/bundled-model.md), and one part in 21 does not reach it. One half
            is what MEMIT's code uses.
        left_out: behind the texts, leave out every word of the prompt but the subject and the last
            one with this probability (`Thinned`). A value that is found so holds for other ways of
            asking, and for other questions about the subject too; docs/results/evaluation.md has
            both sides of it.
        chat: add the prompt in the model's own chat template (`LanguageModel.chat_forms`): `asked`
            as what the user says, `begun` as how the assistant's answer begins, `both`, or
            `fitting` for the one that fits the prompt, which is what True stands for. None, or
            False, for neither.
    """

    added: ClassVar[frozenset[str]] = frozenset({"chat", "left_out"})

    groups: tuple[tuple[NonNegativeInt, PositiveInt], ...] = ((3, 5), (2, 10))
    top_k: PositiveInt = 5
    seed: int = 0
    bare_weight: float | None = Field(default=0.5, ge=0, le=1)
    left_out: float = Field(default=0.0, ge=0, lt=1)
    chat: Switchable = None

    @classmethod
    def published_rome(cls) -> "ContextConfig":
        """The bare prompt and twenty others, all alike (ROME paper, appendix E.5)."""
        return cls(groups=((10, 5), (10, 10)), bare_weight=None)
