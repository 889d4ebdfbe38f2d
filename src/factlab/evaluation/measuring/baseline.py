"""What the unedited model says of records: measured once, and kept for every later run."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from factlab.data.records import Record, References
from factlab.documents import validated
from factlab.errors import ModelLoadError, StorageError
from factlab.evaluation.measuring.rows import Measurement
from factlab.evaluation.measuring.yardstick import Wanted, Yardstick, is_finite
from factlab.storage import cache_dir, read_json, write_json

# Of what is measured and how: another one for texts that are drawn or tokenised otherwise.
_FORMAT = "factlab unedited 3"


class Unedited:
    """Measurements of the model as it is when this is made, one file per record in a cache.

    Args:
        yardstick: measures what is not there yet.
        references: as the yardstick has them.
        ordinary_text: as the yardstick has it.
        cache: folder of all such measurements; factlab's own cache by default.
    """

    def __init__(
        self,
        yardstick: Yardstick,
        references: References,
        ordinary_text: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        lm = yardstick.lm
        settings = yardstick.config.of_unedited()
        identity = lm.identity.now(live=True)
        key = [_FORMAT, *identity, str(lm.dtype), settings, references_hash(references)]
        if yardstick.forms is not None:
            key += [yardstick.forms.to_json()]
        if yardstick.config.drift_tokens:  # which is from the model without any edits
            key += [lm.fingerprint, ordinary_text_hash(ordinary_text)]
        self._yardstick = yardstick
        self._folder = (cache or cache_dir() / "unedited") / _hash(key)

    def of(self, records: Sequence[Record], generated: Sequence[bool]) -> list[Measurement]:
        """Measurements of some records; if any are missing, all are measured, together.

        Raises:
            StorageError: the cache cannot be written, or a file in it is damaged.
            ModelLoadError: the model's own probabilities are NaN or infinite.
        """
        paths = [
            self._folder / f"{_hash([record.to_json(), with_texts, *self._asked(record)])}.json"
            for record, with_texts in zip(records, generated, strict=True)
        ]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        if missing:
            # All of them, whatever is there: what a kill left out is then rounded as it would have
            # been, since the batch is the same.
            measured = self._yardstick.measure(records, None, generated, Wanted(conditions=True))
            for i in missing:
                found = measured[i]
                if not is_finite(found):
                    raise ModelLoadError(
                        f"What {self._yardstick.lm.name} says of record {records[i].case_id} is "
                        "not finite, without any edit. Load it in float32 or bfloat16."
                    )
                self._folder.mkdir(parents=True, exist_ok=True)
                write_json(paths[i], found.model_dump(mode="json"))
        return [_read(path) for path in paths]

    def _asked(self, record: Record) -> list[str]:
        """The questions to be answered freely: those of the built-in records are not in them."""
        return [question.prompt for question in self._yardstick.texts.of(record).free]


def references_hash(references: References) -> str:
    """SHA-256 of reference texts."""
    listed = [[*key, *map(asdict, texts)] for key, texts in sorted(references.items())]
    return _hash(listed)


def ordinary_text_hash(passages: Sequence[str]) -> str:
    """SHA-256 of ordinary text."""
    return _hash([*passages])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


def _read(path: Path) -> Measurement:
    try:
        return validated(Measurement, read_json(path), f"'{path}'", "Delete it.")
    except StorageError as error:
        raise StorageError(
            f"'{path}' in the cache of the unedited model is damaged. Delete it; it is measured "
            "again."
        ) from error
