"""The settings of neuron attribution, on their own: nothing here needs PyTorch."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from factlab.config import Config

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
        max_batch_tokens: tokens to hold for one backward pass. Bounds memory and changes no result;
            by default chosen for speed.
    """

    steps: PositiveInt = 10
    rule: Rule = "gauss"
    tolerance: PositiveFloat | None = 0.01
    max_steps: PositiveInt = 640
    answer: Literal["first_token", "product"] = "first_token"
    max_batch_tokens: PositiveInt | None = None

    @classmethod
    def published(cls) -> "NeuronConfig":
        """The paper's equation: 20 steps to the right."""
        return cls(steps=20, rule="right", tolerance=None)
