"""`Asking`: records that are measured together, each on an edited model of its own."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from factlab.data.records import Record
from factlab.models.changes.carried import Carried, carrying
from factlab.models.language_model import LanguageModel

# From the numbers of rows that go through the model together, the block that they run in.
Under = Callable[[Sequence[int]], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Asking:
    """Records, and the edited model that each is asked of.

    Attributes:
        lm: the model.
        records: what is asked.
        owners: for each record the number of its edit.
        prefixes: for each record the text of an edit in context, which stands in front of all its
            prompts; empty for none.
        changes: what owners stand for (`row_changes`); none ask the model as it is.
    """

    lm: LanguageModel
    records: Sequence[Record]
    owners: Sequence[int]
    prefixes: Sequence[str]
    changes: Mapping[str, Carried]

    def under(self, owners: Sequence[int]) -> Under:
        """What rows run in, each with its own edit.

        Args:
            owners: of all rows.
        """
        return partial(_carrying, self, owners)


def _carrying(
    asking: Asking, owners: Sequence[int], rows: Sequence[int]
) -> AbstractContextManager[None]:
    return carrying(asking.lm, asking.changes, [owners[i] for i in rows])
