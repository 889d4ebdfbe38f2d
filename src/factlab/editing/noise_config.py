"""Noise on the subject's embeddings while an edit is computed, as settings."""

from pydantic import Field, PositiveFloat, PositiveInt

from factlab.config import Config


class SubjectNoise(Config):
    """Gaussian noise of one level, added to the embeddings of the subject's tokens.

    The same level, seed and number of samples give the noise of a causal trace
    (`TraceConfig.corruption`), so that an edit can be made for what a trace corrupts.

    Attributes:
        level: ν, the standard deviation of every entry.
        samples: how many were drawn; fine-tuning is on the mean over all of them, a value is
            optimised under the first, and answers are asked for under the first.
        seed: of the noise.
    """

    level: PositiveFloat
    samples: PositiveInt = 10
    seed: int = Field(default=0, ge=0, lt=2**32)
