"""What the page offers to begin with: facts to click, and methods with their settings."""

from functools import cache
from typing import Any

from factlab.data.record_files import load_records
from factlab.data.records import Record
from factlab.editing.methods import METHODS
from factlab.facts import Fact

_N_EXAMPLES = 24
_FIRST = Record(
    fact=Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris"),
    paraphrase_prompts=["To see the Eiffel Tower, travel to", "The Eiffel Tower stands in"],
    neighborhood_prompts=["The Louvre is located in the city of", "The Colosseum is located in"],
)


@cache
def examples() -> list[dict[str, Any]]:
    """Some of the facts that factlab brings along, of as many relations as there are."""
    chosen = {"": _FIRST}
    for record in load_records("builtin"):
        chosen.setdefault(record.relation_id, record)
    return [
        {
            "template": record.fact.template,
            "subject": record.fact.subject,
            "prompt": record.fact.prompt,
            "target_true": (record.fact.target_true or "").strip(),
            "target_new": (record.fact.target_new or "").strip(),
            "paraphrases": [*record.paraphrase_prompts[:2]],
            "neighbours": [*record.neighborhood_prompts[:3]],
        }
        for record in [*chosen.values()][:_N_EXAMPLES]
    ]


@cache
def methods() -> list[dict[str, Any]]:
    """Built-in methods, with what a person may want to know of each."""
    return [
        {
            "name": method.name,
            "about": method.about,
            "needs_subject": method.needs_subject,
            "has_layer": method.config.layer_setting is not None,
        }
        for method in METHODS.values()
    ]
