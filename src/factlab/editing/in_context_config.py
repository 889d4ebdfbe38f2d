"""Settings of in-context editing; nothing here needs PyTorch."""

from pydantic import Field

from factlab.editing.configs import MethodConfig


class InContextConfig(MethodConfig):
    """Settings of in-context editing.

    Attributes:
        beginning: what the sentence that stands in front of prompts begins with.
    """

    beginning: str = Field(default="Imagine that", min_length=1)
