"""How large a human study is; nothing here needs PyTorch."""

from pydantic import Field, model_validator

from factlab.config import Config


class HumanConfig(Config):
    """A study in which people compare texts. Defaults are the ROME paper's (appendix J).

    Attributes:
        items: records whose texts are shown.
        per_rater: how many of them each rater sees, a page each.
        raters: how many people there are pages for.
        words: a passage is cut behind so many words.
        unedited: whether the unedited model's texts are compared too.
        contact: whom raters may ask, in words; they read it before they begin.
        seed: of the records, the plan and the order of passages.
    """

    items: int = Field(default=50, ge=1)
    per_rater: int = Field(default=10, ge=1)
    raters: int = Field(default=15, ge=1)
    words: int = Field(default=100, ge=5)
    unedited: bool = False
    contact: str = ""
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _possible(self) -> "HumanConfig":
        if self.per_rater > self.items:
            raise ValueError(
                f"a rater cannot see {self.per_rater} different items of {self.items}; ask for "
                "more items, or for fewer per rater"
            )
        if self.raters * self.per_rater < self.items:
            raise ValueError(
                f"{self.raters} raters of {self.per_rater} items see "
                f"{self.raters * self.per_rater} of {self.items}; ask for fewer items, or for more "
                "raters"
            )
        return self
