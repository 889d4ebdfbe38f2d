"""The settings of neuron attribution, on their own: nothing here needs PyTorch."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from factlab.config import Config
from factlab.errors import InvalidRequestError
from factlab.facts import SLOT, fill

Rule = Literal["gauss", "midpoint", "right", "left", "closed"]


class NeuronConfig(Config):
    """How to attribute.

    Attributes:
        steps: m, how many gradients are summed for each layer.
        rule: where on the way from 0 to w they are taken: `gauss`, Gauss and Legendre's nodes and
            weights, which with ten are exact to four digits in nearly every layer; `midpoint`
            (k−½)/m; `right` k/m, the paper's equation; `left` (k−1)/m, its code; `closed`
            (k−1)/(m−1), the ROME paper's code. The last three err by about half a step.
        tolerance: layers whose attributions miss P(w) − P(0) by more than this share of P(w) are
            done again with four times the steps; None for the steps as they are. In bfloat16 at
            least 3 %: more steps do not help against rounding.
        max_steps: most of them.
        answer: attribute the probability of the target's first token, or the product of its tokens'
            probabilities. The first token is what the last token of the prompt decides.
    """

    steps: PositiveInt = 10
    rule: Rule = "gauss"
    tolerance: PositiveFloat | None = 0.01
    max_steps: PositiveInt = 640
    answer: Literal["first_token", "product"] = "first_token"

    @classmethod
    def published(cls) -> "NeuronConfig":
        """The paper's equation: 20 steps to the right."""
        return cls(steps=20, rule="right", tolerance=None)


class NeuronRequest(Config):
    """Which knowledge neurons to look for.

    Attributes:
        prompt: a text that ends where the answer would follow.
        paraphrases: other prompts with the same answer.
        subject: what takes the place of `{}` in prompt and paraphrases, or occurs in them.
        target: the answer; by default what the model says after the prompt.
        threshold: share of a prompt's largest attribution that a neuron must exceed.
        share: of the prompts that must have a neuron in common.
        config: how to attribute.
    """

    prompt: str
    paraphrases: tuple[str, ...] = ()
    subject: str | None = None
    target: str | None = None
    threshold: float = Field(default=0.2, ge=0, lt=1)
    share: float = Field(default=0.7, gt=0, le=1)
    config: NeuronConfig = NeuronConfig()

    @model_validator(mode="after")
    def _complete(self) -> "NeuronRequest":
        if self.target is not None and not self.target.strip():
            raise InvalidRequestError("The target is empty.")
        prompts = (self.prompt, *self.paraphrases)
        if not all(prompt.strip() for prompt in prompts):
            raise InvalidRequestError("The prompt is empty.")
        if self.subject is None:
            if any(SLOT in prompt for prompt in prompts):
                raise InvalidRequestError(
                    f"A prompt holds '{SLOT}'. Say with --subject what is there."
                )
        elif not self.subject.strip():
            raise InvalidRequestError(f"--subject is empty. Give what takes the place of '{SLOT}'.")
        else:
            for prompt in prompts:
                if SLOT not in prompt and self.subject not in prompt:
                    raise InvalidRequestError(
                        f"Subject '{self.subject}' does not occur in prompt '{prompt}'. "
                        f"Write it there, or '{SLOT}'."
                    )
        return self

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt and its paraphrases, with the subject in its place."""
        prompts = (self.prompt, *self.paraphrases)
        if self.subject is None:
            return prompts
        return tuple(fill(prompt, self.subject) for prompt in prompts)
