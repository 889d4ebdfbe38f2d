"""UniEdit (Chen et al. 2025, arXiv 2505.12345): facts of 25 domains, and chains of facts beside.

A file is one object, with an entry for each sample:

    {"0": {"edit": {"prompt": "The river through Oslo is", "subject": "Oslo", "target": "Loire",
                    "property": {"id": "P206", ...},
                    "tail_entity": {"datatype": "wikibase-item",
                                    "value": {"id": "Q1", "label": "Loire", "aliases": [...]}}},
           "generality": {"0": {"path_type": "single", "prompt": "...", "target": "...",
                                "paths": [["h_e", "r_e", "t_e", "f", "s"], ...],
                                "one_hops": [{"path": ["t_e", "r_0", "e_0"], "prompt": "...",
                                              "target": "...", "subject": "...",
                                              "reverse_in_multi_hop": false}, ...]}},
           "locality": {"0": {"path_type": "single", "prompt": "...", "target": "...", ...}}}}

`h_e`, `r_e` and `t_e` are head, relation and tail of the edit; `b` marks a relation that is
followed backwards. A chain of the edit alone is a paraphrase, a query by another name of the
subject (`alias`), or the reversed relation (`reversal`); a longer one is of an axis of composition;
two chains that meet (`double`) are a question to be answered yes or no (`logic`). The other facts
of a chain are the conditions of its query. Scored as zsRE is.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from factlab.data.json_fields import Fields
from factlab.data.layouts.parts import (
    Answered,
    answered,
    fact_of,
    questions_among,
    subject_of,
    target_of,
)
from factlab.data.left_out import LeftOut
from factlab.data.records import Record
from factlab.data.ripple_query import Axis, Condition, RippleQuery
from factlab.errors import StorageError
from factlab.facts import Fact, words_of
from factlab.writing import short_repr

_EDIT = ["h_e", "r_e", "t_e"]
_NUMBER = re.compile(r"[0-9]{1,15}")
_YES_OR_NO = " Answer yes or no:"


class _Beside(NamedTuple):
    """What one item of generality becomes: one of these."""

    paraphrase: str | None = None
    alias: str | None = None
    query: RippleQuery | None = None


def is_entry(value: object) -> bool:
    """Whether a value is a sample."""
    return isinstance(value, Mapping) and value.keys() >= {"edit", "generality"}


def fits(value: Mapping[str, object]) -> bool:
    """Whether a value is a sample, or an object that holds one under its name."""
    return is_entry(value) or (len(value) == 1 and is_entry(next(iter(value.values()))))


def from_json(value: object, where: str, index: int, left_out: LeftOut) -> Record | None:
    """One record, or None where there is nothing to write; see `knowedit.from_json`."""
    sample, case_id = Fields(value, where), index
    if not is_entry(sample.value) and len(sample.names) == 1:
        (name,) = sample.names
        case_id = int(name) if _NUMBER.fullmatch(name) else index
        sample = sample.inner(name)
    sample = Fields(sample.value, f"{where}, record {case_id}")
    edit = sample.inner("edit")
    prompt, subject = edit.text("prompt"), subject_of(edit, "subject")
    new = target_of(edit, "target", left_out)
    if new is None:
        return None
    fact = fact_of(edit, prompt, subject, (new, None), left_out)
    if fact is None:
        return None
    items = _items(sample, "generality")
    beside = [found for item in items if (found := _beside(item, fact, subject, left_out))]
    local = [found for item in _items(sample, "locality") if (found := _asked(item, left_out))]
    paraphrases = [one.paraphrase for one in beside if one.paraphrase is not None]
    new_id, aliases = _object(edit)
    others = (*aliases, *(one.alias for one in beside if one.alias is not None))
    return Record(
        case_id=case_id,
        benchmark="zsre",
        relation_id=edit.inner("property").text_or_empty("id") if edit.has("property") else "",
        fact=fact,
        new_id=new_id,
        paraphrase_prompts=paraphrases,
        neighborhood_prompts=[asked.prompt for asked in local],
        neighborhood_answers=[asked.answers[0] for asked in local],
        question_prompts=questions_among((fact.prompt, *paraphrases)),
        new_aliases=[name for name in dict.fromkeys(others) if words_of(name) != words_of(new)],
        ripple=[one.query for one in beside if one.query is not None],
    )


def _items(sample: Fields, field: str) -> Iterator[Fields]:
    if sample.has(field):
        items = sample.inner(field)
        yield from (items.inner(name) for name in items.names)


def _object(edit: Fields) -> tuple[str, tuple[str, ...]]:
    """Id and other names of the new object; none of what is a number or a date."""
    if edit.has("tail_entity"):
        tail = edit.inner("tail_entity")
        if tail.text_or_empty("datatype") == "wikibase-item":
            entity = tail.inner("value")
            aliases = entity.answers("aliases") if entity.has("aliases") else ()
            return entity.text_or_empty("id"), (*entity.answers("label"), *aliases)
    return "", ()


def _asked(item: Fields, left_out: LeftOut) -> Answered | None:
    """The question of an item; of two chains that meet, with what to answer."""
    asked = answered(item, left_out, "prompt", "target")
    if asked is None or item.text_or_empty("path_type") != "double":
        return asked
    return Answered(asked.prompt.rstrip() + _YES_OR_NO, asked.answers)


def _beside(item: Fields, fact: Fact, subject: str, left_out: LeftOut) -> _Beside | None:
    asked = _asked(item, left_out)
    if asked is None:
        return None
    if item.text("path_type") == "double":
        sides = [item.inner(name) for name in ("single_path1", "single_path2")]
        hops = [hop for side in sides for hop in side.inner_list_or_empty("one_hops")]
        return _Beside(query=_query("logic", asked, hops, left_out))
    paths, hops = _paths(item), item.inner_list_or_empty("one_hops")
    if not paths:
        raise StorageError(f"{item.where}: generality without paths. Give at least one.")
    if len(paths) > 1:
        first = {*paths[0][:3]} == {*_EDIT}
        return _Beside(
            query=_query("composition" if first else "composition_from", asked, hops, left_out)
        )
    if paths[0][:3] != _EDIT:
        return _Beside(query=_query("reversal", asked, (), left_out))
    named = next((hop.text_or_empty("subject") for hop in hops), "")
    if named and words_of(named) != words_of(subject):
        answers = dict.fromkeys((*asked.answers, fact.target_new or ""))
        return _Beside(query=_query("alias", Answered(asked.prompt, tuple(answers)), (), left_out))
    return _Beside(paraphrase=asked.prompt, alias=asked.answers[0])


def _paths(item: Fields) -> list[list[str]]:
    paths = item.value.get("paths")
    if not isinstance(paths, list) or not all(
        isinstance(path, list) and all(isinstance(step, str) for step in path) for path in paths
    ):
        raise StorageError(f"{item.where}: paths is {short_repr(paths)}, not a list of lists.")
    return paths


def _query(
    axis: Axis, asked: Answered, hops: "list[Fields] | tuple[()]", left_out: LeftOut
) -> RippleQuery | None:
    conditions: list[Condition] = []
    for hop in hops:
        if hop.value.get("path") == _EDIT:
            continue
        backwards = hop.value.get("reverse_in_multi_hop") is True and hop.has("reversed")
        known = answered(hop.inner("reversed") if backwards else hop, left_out, "prompt", "target")
        if known is None:
            return None
        conditions.append(Condition(known.prompt, known.answers))
    return RippleQuery(axis=axis, prompt=asked.prompt, answers=asked.answers, conditions=conditions)
