"""Which layout a file has, told by the fields of its first value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from factlab.data import counterfact, zsre
from factlab.data.fact_files import record_of
from factlab.data.layouts import (
    flat_edits,
    knowedit,
    mquake,
    qaedit,
    ripple_edits,
    uniedit,
    wiki_big_edit,
)
from factlab.data.left_out import LeftOut
from factlab.data.records import Record
from factlab.errors import StorageError


@dataclass(frozen=True, slots=True)
class Layout:
    """How a kind of file holds records.

    Attributes:
        name: what a value of it is called.
        fits: whether a value has its fields.
        read: makes a record of a value, of where it stands and of its place; None where there is
            nothing to edit. It tells what does not become part of a record.
    """

    name: str
    fits: Callable[[Mapping[str, object]], bool]
    read: Callable[[object, str, int, LeftOut], Record | None]


def layout_of(value: object, where: str) -> Layout:
    """The layout of a file's first value.

    Raises:
        StorageError: it has none of them; says what it looks like.
    """
    layout = _known(value)
    if layout is not None:
        return layout
    fields = list(value) if isinstance(value, Mapping) else []
    for needed, what in _OTHERS.items():
        if {*needed} <= {*fields}:
            raise StorageError(f"{where}: this looks like {what}, which is no file of records.")
    shown = ", ".join(map(str, fields[:_SHOWN])) + (", ..." if len(fields) > _SHOWN else "")
    what = f"has the fields {shown}" if fields else f"is a {type(value).__name__}"
    raise StorageError(
        f"{where}: the first record {what}. A CounterFact record has requested_rewrite, a zsRE "
        "record src and answers, a fact of one's own template and subject; of KnowEdit, MQuAKE, "
        "RippleEdits, QAEdit, WikiBigEdit and UniEdit the published fields are read."
    )


def check_same(value: object, where: str, layout: Layout) -> None:
    """Refuse a value of another layout than the first one of its file.

    Raises:
        StorageError: it has another.
    """
    other = _known(value)
    if other is not None and other is not layout:
        raise StorageError(
            f"{where}: this is {other.name}, and the first one is {layout.name}. A file holds "
            "records of one kind."
        )


def _known(value: object) -> Layout | None:
    if not isinstance(value, Mapping):
        return None
    return next((layout for layout in _LAYOUTS if layout.fits(value)), None)


def _whole(
    read: Callable[[object, str, int], Record],
) -> Callable[[object, str, int, LeftOut], Record]:
    """Reads a layout of which nothing is left out."""
    return partial(_read_whole, read)


def _read_whole(
    read: Callable[[object, str, int], Record],
    value: object,
    where: str,
    index: int,
    left_out: LeftOut,
) -> Record:
    del left_out
    return read(value, where, index)


def _has(*fields: str) -> Callable[[Mapping[str, object]], bool]:
    """Tells values that have all of some fields."""
    return partial(_has_all, {*fields})


def _has_all(fields: set[str], value: Mapping[str, object]) -> bool:
    return value.keys() >= fields


# Those with fields of their own first: a flat record has fields that others have too.
_LAYOUTS = (
    Layout("a case of MQuAKE", mquake.fits, mquake.from_json),
    Layout("a CounterFact record", _has("requested_rewrite"), _whole(counterfact.from_json)),
    Layout("a zsRE record", _has("src", "answers"), _whole(zsre.from_json)),
    Layout("a fact of one's own", _has("template"), _whole(record_of)),
    Layout("a sample of UniEdit", uniedit.fits, uniedit.from_json),
    Layout("an edit of RippleEdits", ripple_edits.fits, ripple_edits.from_json),
    Layout("a record of WikiBigEdit", wiki_big_edit.fits, wiki_big_edit.from_json),
    Layout("a record of QAEdit", qaedit.fits, qaedit.from_json),
    Layout("a record of KnowEdit", knowedit.fits, knowedit.from_json),
    Layout("a flat record of one edit", flat_edits.fits, flat_edits.from_json),
)
_OTHERS = {
    ("relation_id", "target_id", "samples"): "reference texts (attribute_snippets.json)",
    ("known_id", "attribute"): "facts that a model knows (known_1000.json)",
    ("success", "locality"): "Sanitation of KnowEdit, which has questions without subjects",
    ("src", "alt"): "examples to train another editor with (zsre_mend_train.json)",
    ("image", "src"): "edits of models that see",
}
_SHOWN = 12
