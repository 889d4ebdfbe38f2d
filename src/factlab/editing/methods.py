"""The editing methods by name."""

from collections.abc import Callable

from factlab.editing.edit import Edit
from factlab.editing.rome import RomeConfig, rome
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback
from factlab.stats.moments import SecondMoment

Method = Callable[
    [LanguageModel, Fact, RomeConfig | None, SecondMoment | None, ProgressCallback], Edit
]

METHODS: dict[str, Method] = {"rome": rome}
