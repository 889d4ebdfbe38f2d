"""The study as its organiser keeps it: which method stands behind which letter."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from factlab.documents import Growing, check_format, validated
from factlab.errors import StorageError
from factlab.human.configs import HumanConfig
from factlab.human.passages import Comparison, Source
from factlab.human.plan import PlannedPage
from factlab.storage import read_json, write_json

FORMAT = "factlab human study 1"
KEY, PAGE = "key.json", "study.html"
_ADVICE = "Take the key that was written with the page."
_ID_DIGITS = 12


class StudiedMethod(BaseModel):
    """What wrote one of the passages.

    Attributes:
        label: what it is called.
        method: of the edits.
        model: that was edited.
        data: the records.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    method: str
    model: str
    data: str


class StudyItem(BaseModel):
    """A made-up fact and what was shown of it.

    Attributes:
        case_id: of the record.
        prompt: its rewriting prompt.
        target_new: what was made up.
        passages: in the order of the methods.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    case_id: int
    prompt: str
    target_new: str
    passages: tuple[str, ...]

    @property
    def statement(self) -> str:
        """The made-up fact in one sentence."""
        said = f"{self.prompt.rstrip()} {self.target_new.strip()}"
        return said if said.endswith((".", "!", "?")) else f"{said}."


class StudyPage(BaseModel):
    """A page of one rater.

    Attributes:
        item: number of the item, from 0.
        order: which method stands behind each letter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: int
    order: tuple[int, ...]


class HumanStudy(Growing):
    """A study and its key, which raters must not see.

    Attributes:
        format: of the file.
        study: what the page and its answers name it by.
        config: how large it is.
        methods: what is compared.
        items: what is shown.
        pages: of every rater, in their order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    study: str
    config: HumanConfig
    methods: tuple[StudiedMethod, ...]
    items: tuple[StudyItem, ...]
    pages: tuple[tuple[StudyPage, ...], ...]

    @model_validator(mode="after")
    def _fits(self) -> "HumanStudy":
        everyone = [*range(len(self.methods))]
        if any(len(item.passages) != len(everyone) for item in self.items):
            raise ValueError("an item has more or fewer passages than there are methods")
        for page in (page for pages in self.pages for page in pages):
            if not 0 <= page.item < len(self.items) or sorted(page.order) != everyone:
                raise ValueError("a page shows what is not in the study")
        return self

    @classmethod
    def of(
        cls,
        sources: list[Source],
        items: list[Comparison],
        pages: list[list[PlannedPage]],
        config: HumanConfig,
    ) -> "HumanStudy":
        """A study of what was drawn and planned."""
        known: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "methods": [
                {
                    "label": source.label,
                    "method": source.run.request.method,
                    "model": source.run.request.model.name,
                    "data": source.run.request.data.name,
                }
                for source in sources
            ],
            "items": [asdict(item) for item in items],
            "pages": [[page._asdict() for page in own] for own in pages],
        }
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        return cls.model_validate({"format": FORMAT, "study": digest[:_ID_DIGITS], **known})

    @classmethod
    def load(cls, path: str | Path) -> "HumanStudy":
        """Read a key.

        Args:
            path: of `key.json`, or of the folder with it.

        Raises:
            StorageError: there is none, or it is damaged or something else.
        """
        path = Path(path)
        file = path / KEY if path.is_dir() else path
        if not file.is_file():
            raise StorageError(f"There is no key '{file}'. Give the key.json of the study.")
        found, where = read_json(file), f"'{file}'"
        check_format(found.get("format"), FORMAT, where, "the key of a human study")
        return validated(cls, found, where, _ADVICE)

    def save(self, file: str | Path) -> None:
        """Write the key.

        Raises:
            StorageError: it cannot be written.
        """
        write_json(Path(file), self.model_dump(mode="json"))

    @property
    def labels(self) -> tuple[str, ...]:
        """What the methods are called."""
        return tuple(method.label for method in self.methods)

    @property
    def letters(self) -> str:
        """What passages are called on a page."""
        return ascii_uppercase[: len(self.methods)]

    @property
    def raters_per_item(self) -> tuple[int, int]:
        """How many raters an item has, at least and at most."""
        counts = Counter(page.item for pages in self.pages for page in pages)
        return min(counts.values()), max(counts.values())

    @property
    def n_same(self) -> int:
        """Items with two passages that are the same, whose order is by chance."""
        return sum(len({*item.passages}) < len(item.passages) for item in self.items)
