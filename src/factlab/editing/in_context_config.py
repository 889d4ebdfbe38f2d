"""Settings of in-context editing; nothing here needs PyTorch."""

from pydantic import Field

from factlab.editing.configs import MethodConfig


class InContextConfig(MethodConfig):
    """Settings of in-context editing.

    Attributes:
        beginning: what the sentence that stands in front of prompts begins with.
        ending: what stands behind it. A line of its own is taken up more often than a sentence in
            the same line: of 40 built-in records the bundled model then writes the new target of 37
            after the rewriting prompt, and of 30 otherwise.
    """

    beginning: str = Field(default="Imagine that", min_length=1)
    ending: str = "\n"
