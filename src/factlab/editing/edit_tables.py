"""What a notebook shows of an edit, beside the weights that it changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from factlab.facts import Fact


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
