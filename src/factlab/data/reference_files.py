"""`load_references`: texts about subjects of which a fact is true, such as attribute_snippets.json.

[{"relation_id": "P103", "target_id": "Q1860",
  "samples": [{"name": "Winston Churchill", "text": "..."}, ...]}, ...]
"""

import json
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path

from factlab.arguments import checked
from factlab.data.json_fields import Fields
from factlab.data.json_lines import read_values
from factlab.data.published import published_file
from factlab.data.record_files import is_file_name
from factlab.data.records import Record, Reference, References
from factlab.data.shipped import Shipped
from factlab.errors import InvalidRequestError, nearest
from factlab.progress import ProgressCallback, silent
from factlab.storage import write_text

_NAMES = ("builtin", "attribute-snippets")


@checked()
def load_references(
    source: str | Path,
    needed: Collection[tuple[str, str]] | None = None,
    progress: ProgressCallback = silent,
) -> References:
    """Reference texts by relation and object.

    Args:
        source: `builtin`; `attribute-snippets`, which is downloaded once (900 MB); or a file in
            that layout (.json, .jsonl, either with .gz). It is read piece by piece.
        needed: keep the texts of these only; see `reference_key`. One that the source does not
            have is not in the answer.
        progress: True for a bar, or a function that is called while a file is downloaded.

    Raises:
        InvalidRequestError: there is no such source.
        StorageError: it cannot be read, or an entry is wrong; names the line and the field.
    """
    if source == "builtin":
        return Shipped.load().references(needed)
    if source == "attribute-snippets":
        path = published_file("attribute-snippets", progress)
    elif is_file_name(source):
        path = Path(source)
    else:
        raise InvalidRequestError(
            f"No references are called '{source}', and it is no file. There are "
            f"{', '.join(_NAMES)}, and files.{nearest(str(source), _NAMES)}"
        )
    references: References = {}
    with closing(read_values(path)) as values:
        for line, value in values:
            entry = Fields(value, f"Line {line} of '{path}'")
            key = (entry.text("relation_id"), entry.text("target_id"))
            if needed is None or key in needed:
                texts = (_reference(sample) for sample in entry.inner_list("samples"))
                references[key] = (*references.get(key, ()), *texts)
    return references


def save_references(references: References, path: str | Path) -> None:
    """Write the layout that `load_references` reads, one entry per line.

    Raises:
        StorageError: the file cannot be written.
    """
    rows = ",\n".join(
        json.dumps(
            {
                "relation_id": relation_id,
                "target_id": target_id,
                "samples": [{"name": text.subject, "text": text.text} for text in texts],
            },
            ensure_ascii=False,
        )
        for (relation_id, target_id), texts in references.items()
    )
    write_text(Path(path), f"[\n{rows}\n]\n")


def references_beside(path: Path) -> Path:
    """Where the texts lie that go with a file of records."""
    return path.with_name(f"{path.stem}-references.json")


def reference_key(record: Record) -> tuple[str, str]:
    """Under which key `References` have the texts that a record is compared with."""
    return record.relation_id, record.new_id or record.fact.target_new or ""


def needed_references(records: Iterable[Record]) -> set[tuple[str, str]]:
    """The keys of all records."""
    return {reference_key(record) for record in records}


def _reference(sample: Fields) -> Reference:
    return Reference(sample.text_or_empty("name"), sample.text("text"))
