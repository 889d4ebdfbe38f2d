"""What is shown of an edit: a few lines, and tables in a notebook."""

from collections.abc import Mapping, Sequence
from typing import Any

from factlab.errors import counted
from factlab.facts import Fact
from factlab.models.changes.change import Change

_FACTS_SHOWN, _UPDATES_SHOWN = 3, 5


def fact_lines(facts: Sequence[Fact], left_out: Sequence[Fact]) -> list[str]:
    """The first facts of an edit, and those that it did not write."""
    written = [f"{fact.prompt} -> {fact.target_new or '(erased)'}" for fact in facts]
    more = len(written) - _FACTS_SHOWN
    return [
        *(f"  {fact}" for fact in written[:_FACTS_SHOWN]),
        *([f"  and {more} more"] if more > 0 else []),
        *(f"  not written, its value exploded: {fact.prompt}" for fact in left_out),
    ]


def update_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first weights of those that an edit changes."""
    more = len(rows) - _UPDATES_SHOWN
    return [
        *(
            f"  {row['weight']}: {_rank_in_words(row)}, norm of the change {row['norm']:.3g}"
            for row in rows[:_UPDATES_SHOWN]
        ),
        *([f"  and {counted(more, 'more weight')}"] if more > 0 else []),
    ]


def update_rows(updates: Sequence[Change]) -> list[dict[str, Any]]:
    """One dictionary per weight that an edit changes; see `Edit.rows`."""
    return [
        {
            "weight": update.weight_name,
            "kind": update.kind.replace("_", " "),
            "shape": list(update.shape),
            "rank": update.rank,
            "norm": update.norm,
        }
        for update in updates
    ]


def _rank_in_words(row: Mapping[str, Any]) -> str:
    match row["kind"]:
        case "low rank":
            return f"rank {row['rank']}"
        case "experts":
            return f"rank {row['rank']} in each of its experts that are changed"
        case kind:
            return str(kind)


def layers_in_words(diagnostics: Mapping[str, Any]) -> list[str]:
    """A line that says which layers were edited, and why these; none if that was not noted."""
    layers = diagnostics.get("layers", [diagnostics["layer"]] if "layer" in diagnostics else [])
    if not layers:
        return []
    source = f" ({diagnostics['layer_source']})" if "layer_source" in diagnostics else ""
    return [f"  layer {', '.join(map(str, layers))}{source}"]


def fact_rows(facts: Sequence[Fact], diagnostics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One dictionary per fact, with the probability of its target that the method came to."""
    rows: list[dict[str, Any]] = [
        {"prompt": fact.prompt, "true": fact.target_true, "new": fact.target_new or "(erased)"}
        for fact in facts
    ]
    found = diagnostics.get("target_prob", [])
    probs: list[Any] = found if isinstance(found, list) else [found]
    if len(probs) == len(rows):
        for row, prob in zip(rows, probs, strict=True):
            row["p(new) when optimised"] = prob
    return rows
