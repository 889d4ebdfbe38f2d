"""Files of facts that people write: TOML, JSON, and tables with commas or tabs."""

import csv
import difflib
import io
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from factlab.arguments import checked
from factlab.data.json_lines import read_values
from factlab.data.records import Record
from factlab.documents import parse_toml
from factlab.errors import FactlabError, InvalidRequestError, StorageError, counted, nearest
from factlab.facts import SLOT, Fact, has_slot, joint_named, words_of
from factlab.storage import read_text, write_text
from factlab.writing import short_repr

SUFFIXES = (".toml", ".jsonl", ".json", ".csv", ".tsv")
_FIELDS: tuple[str, ...] = ("template", "subject", "target_new", "target_true")
# What a record has beside its fact: lists, of which a table has one column for each text.
_PROMPTS = ("paraphrase", "neighborhood", "generation", "question")
_PROMPT_COLUMN = re.compile(rf"({'|'.join(_PROMPTS)})(_prompts|_\d+)?|new_(alias)(es|_\d+)?")
_ALL_FIELDS = (
    *_FIELDS, "joint", "relation", *(f"{kind}_prompts" for kind in _PROMPTS), "new_aliases",
)  # fmt: skip
_SHOWN = 5
_TOML_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*fact[ \t]*\]\]", re.MULTILINE)
_Row = tuple[str, object]  # where it stands, such as "line 3", and what stands there
# From this likeness on, by difflib, an unknown name is taken for a known one that is misspelled.
_MISSPELLED = 0.75

_log = logging.getLogger(__name__)


def load_facts(path: str | Path) -> list[Fact]:
    """Read facts from a file that ends with .toml, .jsonl, .json, .csv or .tsv.

    The fields are those of `Fact`: `template`, `subject` unless the template has no `{}`, and if
    wanted `target_new`, `target_true` and `joint`; one that is empty is not given. In TOML every
    fact begins with `[[fact]]`. In a table the first line names the columns; cells may be quoted,
    spaces before them are dropped. Names may be capitalised, with spaces for underscores. Fields of
    other names, such as a comment, are not used, and that is logged; one that looks like a
    misspelled name is refused. What `load_fact_records` reads beside these is checked and left out.

    Raises:
        StorageError: the file is missing, not UTF-8, of an unknown kind, broken or empty; or a fact
            has a misspelled field, lacks one, is not a valid `Fact`, or came before with the same
            template, subject and target_new. The message names the line.

    Examples:
        >>> fl.data.save_facts(facts, "facts.csv")
        >>> fl.load_facts("facts.csv") == facts
        True
    """
    return [record.fact for record in load_fact_records(path)]


def load_fact_records(path: str | Path) -> list[Record]:
    """Read facts, and the prompts that tell what an edit of them did, from such a file.

    A table may have any number of columns `paraphrase_1`, `paraphrase_2` … (the fact in other
    words; `{}` stands for the subject), `neighborhood_1` … (about other subjects of which
    `target_true` is true), `generation_1` … (beginnings of texts), `question_1` … (questions whose
    answer the fact is) and `new_alias_1` … (other names of `target_new`), with empty cells where a
    fact has fewer, and a column `relation`. In JSON and TOML `paraphrase_prompts`,
    `neighborhood_prompts`, `generation_prompts`, `question_prompts` and `new_aliases` are lists.

    Returns:
        Records, numbered from 0.

    Raises:
        StorageError: see `load_facts`.
    """
    path = Path(path)
    match _known_suffix(path, *SUFFIXES):
        case ".toml":
            rows = _toml_rows(path)
        case ".csv":
            rows = _table_rows(path, ",", "commas")
        case ".tsv":
            rows = _table_rows(path, "\t", "tabs")
        case _:
            rows = ((f"line {line}", value) for line, value in read_values(path))
    unused: dict[str, None] = {}
    records = _all_different(
        (
            (where, record_of(row, f"{where.capitalize()} of '{path}'", index, unused))
            for index, (where, row) in enumerate(rows)
        ),
        path,
    )
    if unused:
        _log.warning("Of '%s' these fields are not used: %s.", path, ", ".join(unused))
    return records


@checked()
def save_facts(facts: Sequence[Fact], path: str | Path) -> None:
    """Write a .jsonl or .csv file that `load_facts` reads back.

    Raises:
        StorageError: the name ends otherwise, the file cannot be written, or `load_facts` would
            refuse it: there are no facts, or two have the same template, subject and target_new.
    """
    path = Path(path)
    suffix = _known_suffix(path, ".jsonl", ".csv")
    _all_different(((f"fact {i}", Record(fact=fact)) for i, fact in enumerate(facts, 1)), path)
    rows = [{k: v for k, v in asdict(fact).items() if v is not None} for fact in facts]
    text = io.StringIO(newline="")
    if suffix == ".csv":
        table = csv.DictWriter(text, _FIELDS, quoting=csv.QUOTE_ALL, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text.getvalue())


def check_conflicts(facts: Sequence[Fact]) -> None:
    """Refuse facts that cannot be asked for together; several relations of one subject can.

    Raises:
        InvalidRequestError: facts with the same template and subject, outer spaces aside, ask for a
            different `target_new`, or for the same one twice. The message counts them and shows up
            to five.
    """
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, fact in enumerate(facts):
        places[fact.question].append(i)
    problems: list[str] = []
    for found in places.values():
        asked = [_target(facts[i]) for i in found]
        wanted = [f"'{target}'" for target in dict.fromkeys(asked) if target is not None]
        which = f"facts {', '.join(str(i + 1) for i in found)}: '{facts[found[0]].prompt}'"
        if len(wanted) > 1:
            problems.append(f"{which} should become {' and '.join(wanted)}")
        elif len(set(asked)) < len(asked):
            problems.append(f"{which} is given more than once")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InvalidRequestError(
            f"Conflicts between facts: {len(problems)} ({'; '.join(problems[:_SHOWN])}{more}). "
            "Keep one fact for each template and subject."
        )


def _target(fact: Fact) -> str | None:
    """The new target, however it is joined to the prompt."""
    return None if fact.target_new is None else words_of(fact.target_new)


def _known_suffix(path: Path, *known: str) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        names = f"{', '.join(known[:-1])} or {known[-1]}"
        raise StorageError(f"'{path}' is of no known kind: the name must end with {names}.")
    return suffix


def _toml_rows(path: Path) -> Iterator[_Row]:
    text = read_text(path)
    document = parse_toml(text, f"'{path}'")
    tables: object = document.get("fact", [])
    if document.keys() - {"fact"} or not isinstance(tables, list):
        raise StorageError(
            f"'{path}' has {', '.join(document)} outside of a list of facts. "
            "Begin every fact with a line [[fact]], in two pairs of brackets."
        )
    places = [f"line {text.count(chr(10), 0, m.start()) + 1}" for m in _TOML_HEADER.finditer(text)]
    if len(places) != len(tables):  # an inline list, or text that looks like a header
        places = [f"fact {i + 1}" for i in range(len(tables))]
    yield from zip(places, tables, strict=True)


def _table_rows(path: Path, delimiter: str, separator: str) -> Iterator[_Row]:
    lines = io.StringIO(read_text(path), newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"line {line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip() for cell in cells]
                _check_columns(columns, path, separator)
            elif len(cells) != len(columns):
                raise StorageError(
                    f"{where.capitalize()} of '{path}' has {counted(len(cells), 'cell')} for "
                    f"{counted(len(columns), 'column')}. Keep {separator} around empty "
                    "cells; quote a cell that holds them."
                )
            else:
                yield where, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise StorageError(f"Line {line} of '{path}': {error}. Mend its quotes.") from error


def _check_columns(columns: list[str], path: Path, separator: str) -> None:
    names = [_plain(name) for name in columns]
    unknown = [name for name in names if name not in _ALL_FIELDS and not _is_prompts(name)]
    misspelled = [name for name in unknown if _misspelled(name)]
    if misspelled or "template" not in names or len({*names}) < len(names):
        near = nearest(unknown[0], (*_ALL_FIELDS, *_PROMPTS)) if unknown else ""
        if misspelled:
            near = f" Did you mean '{_misspelled(misspelled[0])}'?"
        raise StorageError(
            f"The first line of '{path}' names the columns {', '.join(columns)}. It must name "
            f"template, and subject where a template holds '{SLOT}', and may name target_new, "
            "target_true, joint, relation, and paraphrase_1, paraphrase_2 ..., neighborhood_1 "
            "..., generation_1 ..., question_1 ..., new_alias_1 ..., each once, with "
            f"{separator} between.{near}"
        )


def _plain(name: object) -> str:
    """The name of a field, however it is capitalised and spaced."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def _is_prompts(name: str) -> bool:
    return _PROMPT_COLUMN.fullmatch(name) is not None


def _misspelled(name: str) -> str | None:
    """The field that was probably meant; an id of something is a thing of its own."""
    if name.endswith("_id"):
        return None
    close = difflib.get_close_matches(name, (*_ALL_FIELDS, *_PROMPTS), n=1, cutoff=_MISSPELLED)
    return close[0] if close else None


def record_of(row: object, where: str, index: int, unused: dict[str, None] | None = None) -> Record:
    """A record of what stands in one row of a facts file.

    Args:
        row: what was read; anything.
        where: where it stands, such as "Line 3 of 'facts.csv'".
        index: its `case_id`.
        unused: is told the fields that are not used.

    Raises:
        StorageError: it is no fact, or a field is misspelled, missing or of the wrong type.
    """
    if not isinstance(row, Mapping):
        raise StorageError(f"{where}: a fact has named fields; this is a {type(row).__name__}.")
    given: dict[str, str] = {}
    prompts: dict[str, list[str]] = defaultdict(list)
    for given_name, value in row.items():
        name = _plain(given_name)
        column = _PROMPT_COLUMN.fullmatch(name)
        if column is not None:
            prompts[column[1] or column[3]] += _texts(value, where, name)
            continue
        if name not in _ALL_FIELDS:
            if meant := _misspelled(name):
                raise StorageError(
                    f"{where}: field '{given_name}' is none of {', '.join(_ALL_FIELDS)}. "
                    f"Did you mean '{meant}'?"
                )
            if unused is not None:
                unused[str(given_name)] = None
            continue
        if not isinstance(value, str | None):
            raise StorageError(
                f"{where}: {name} is {short_repr(value)}, not a text. Put it in quotes."
            )
        if name in given:
            raise StorageError(f"{where}: {name} is given twice. Remove one of them.")
        if value and value.strip():
            given[name] = value
    relation = given.pop("relation", "").strip()
    needed = ("template", "subject") if has_slot(given.get("template", "")) else ("template",)
    missing = [name for name in needed if name not in given]
    if missing:
        raise StorageError(f"{where}: {missing[0]} is missing or empty. Give a text.")
    beside = next((text for text in prompts["neighborhood"] if SLOT in text), None)
    if beside is not None:
        raise StorageError(
            f"{where}: the neighborhood prompt '{beside}' holds '{SLOT}', which stands for the "
            "fact's own subject. Write out the other subject."
        )
    try:
        joint = joint_named(given.pop("joint", "").strip().lower() or None)
        fact = Fact(**{"subject": ""} | given, joint=joint)
        filled = {kind: [_filled(text, fact) for text in prompts[kind]] for kind in _PROMPTS}
    except FactlabError as error:
        raise StorageError(f"{where}: {error}") from error
    return Record(
        case_id=index,
        relation_id=relation,
        fact=fact,
        paraphrase_prompts=filled["paraphrase"],
        neighborhood_prompts=filled["neighborhood"],
        generation_prompts=filled["generation"],
        question_prompts=filled["question"],
        new_aliases=prompts["alias"],
    )


def _texts(value: object, where: str, name: str) -> list[str]:
    """The prompts of a cell or of a list."""
    given: list[object] = list(value) if isinstance(value, list) else [value]
    texts: list[str] = []
    for text in given:
        if not isinstance(text, str | None):
            raise StorageError(
                f"{where}: {name} holds {short_repr(text)}, not a text. Put it in quotes."
            )
        if text and text.strip():
            texts.append(text)
    return texts


def _filled(text: str, fact: Fact) -> str:
    """A prompt with the fact's subject in its slot, if it has one."""
    return Fact(text, fact.subject).prompt if SLOT in text else text


def _all_different(rows: Iterable[tuple[str, Record]], path: Path) -> list[Record]:
    records: list[Record] = []
    seen: dict[tuple[str, str, str | None], str] = {}
    for where, record in rows:
        fact = record.fact
        request = (*fact.question, _target(fact))
        if request in seen:
            raise StorageError(
                f"{where.capitalize()} of '{path}' has the template, subject and target_new of "
                f"{seen[request]}. Remove one of them."
            )
        seen[request] = where
        records.append(record)
    if not records:
        raise StorageError(f"There are no facts in '{path}'. Give at least one.")
    return records
