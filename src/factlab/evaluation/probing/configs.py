"""What probes ask; nothing here needs PyTorch."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from factlab.config import Config
from factlab.errors import InvalidRequestError


class ProbeConfig(Config):
    """What to ask of every edit.

    Attributes:
        candidates: most subjects of the relation that the edited one is compared with, after the
            inverse prompts; 0 asks none.
        essence_texts: texts about each subject whose perplexity is compared; 0 for none.
        essence_tokens: length of these, "{subject} is a" included.
        generated: whether to have texts written with and without the edit, for fluency against
            consistency. Texts that an evaluation has kept are used without it.
        text_tokens: length of such a text, its prompt included.
        traced: whether to trace the true facts, for those that another token than the subject's
            last decides.
        window: MLPs that are restored together; by default 10, or half of the model if that is
            less.
        samples: of the noise.
        sigmas: level of the noise, in standard deviations of the facts' subject embeddings.
        least_prob: a fact counts as known, and is traced, if its object is as probable as this.
        seed: of the candidates that are drawn, of the texts, and of the noise.
    """

    candidates: NonNegativeInt = 50
    essence_texts: NonNegativeInt = 5
    essence_tokens: int = Field(default=100, ge=8)
    generated: bool = False
    text_tokens: int = Field(default=100, ge=2)
    traced: bool = True
    window: PositiveInt | None = None
    samples: PositiveInt = 10
    sigmas: PositiveFloat = 3.0
    least_prob: float = Field(default=0.02, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**32)

    def window_of(self, n_layers: int) -> int:
        """The window in a model of so many layers.

        Raises:
            InvalidRequestError: it is wider than the model.
        """
        if self.window is not None and self.window > n_layers:
            raise InvalidRequestError(
                f"A window of {self.window} layers is wider than the model, which has {n_layers}. "
                f"Choose at most {n_layers}."
            )
        return self.window or min(10, max(1, n_layers // 2))
