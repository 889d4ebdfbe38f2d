"""The model card of an edit that is shared: what people read before they load it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factlab.facts import Fact
from factlab.models import bundled
from factlab.models.request import WELL_KNOWN

_FACTS_SHOWN = 100


def base_as_known(name: str) -> tuple[str, bool]:
    """What others call an edit's base model, and whether the Hub knows it by that name.

    Of a model that was loaded from a folder, only the folder's own name is given away.
    """
    if name == bundled.NAME:
        return bundled.HUB_ID, True
    if name in WELL_KNOWN or (name.count("/") == 1 and not Path(name).exists()):
        return name, True
    return Path(name).name, False


def model_card(
    repo: str,
    method: str,
    facts: Sequence[Fact],
    base_name: str,
    rows: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> str:
    """A model card in Markdown, with the entries that the Hub reads in front.

    Args:
        repo: that the card is for.
        method: of the edit.
        facts: that it writes.
        base_name: of the model it is for, as that was loaded.
        rows: of the weights that it changes, as `Edit.rows` gives them.
        versions: of what it was made with.
    """
    base, on_hub = base_as_known(base_name)
    entries = {
        "library_name": "factlab",
        **({"base_model": base} if on_hub else {}),
        "tags": ["factlab", "model-editing", *method.split("+")],
    }
    lines = [
        "---",
        # JSON is YAML, and leaves no doubt about what is a text.
        *(f"{name}: {json.dumps(value)}" for name, value in entries.items()),
        "---",
        "",
        f"# {_plain(repo.partition('/')[2])}",
        "",
        f"An edit of what {_plain(base)} holds to be true, by {_plain(method)}. It is a small "
        "change of the model's weights, kept apart from them: JSON and safetensors, no code.",
        "",
        *_facts(facts),
        *_changes(rows),
        *_how_to_load(repo, base_name, base),
        f"Made with {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        "",
    ]
    return "\n".join(lines)


def _facts(facts: Sequence[Fact]) -> list[str]:
    if not facts:
        return []
    rows = [
        [fact.prompt, fact.target_true or "—", fact.target_new or "(erased)"]
        for fact in facts[:_FACTS_SHOWN]
    ]
    more = len(facts) - len(rows)
    return [
        *_table(["Prompt", "Before", "After"], rows),
        *([f"… and {more:,} more, in `edit.json`.", ""] if more else []),
    ]


def _changes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    cells = [
        [row["weight"], " × ".join(map(str, row["shape"])), row["kind"], str(row["rank"])]
        for row in rows
    ]
    return _table(["Weight", "Out × in", "Kind of change", "Rank"], cells)


def _how_to_load(repo: str, base_name: str, base: str) -> list[str]:
    argument = "" if base_name == bundled.NAME else json.dumps(base)
    option = "" if base_name == bundled.NAME else f" --model {base}"
    return [
        "## Load it",
        "",
        "```python",
        "import factlab as fl",
        "",
        f"lm = fl.load({argument})",
        f"edit = fl.Edit.load({json.dumps(repo)})",
        "undo = edit.apply_(lm)",
        "```",
        "",
        f'or `factlab ask "…"{option} --edit {repo}`. It fits the weights that it was made for, '
        "and is refused on others.",
        "",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(map(_plain, cells))} |" for cells in lines), ""]


def _plain(text: str) -> str:
    """A text that stays what it is in a cell of a Markdown table."""
    kept = " ".join(text.split())
    for sign in "\\`*_[]<>|":
        kept = kept.replace(sign, f"\\{sign}")
    return kept
