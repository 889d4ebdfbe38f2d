"""A causal trace as coloured cells in the terminal."""

from rich.text import Text

from factlab.tracing.heatmap import heat_map
from factlab.tracing.result import CausalTrace


def heatmap(trace: CausalTrace, kind: str) -> Text:
    """One kind of state; see `factlab.tracing.heatmap`."""
    made = heat_map(trace, kind)
    text = Text()
    text.append(made.kind, style="bold")
    text.append(f"   {made.peak}\n")
    for note in made.notes:
        text.append(f"{note}\n", style="dim")
    for row in made.rows:
        text.append(f"{row.label} ", style="bold" if row.is_corrupted else "")
        for cell in row.cells:
            colour = cell.colour
            text.append(
                cell.text, style="dim" if colour is None else f"rgb{colour}".replace(" ", "")
            )
        text.append("\n")
    below = f"{' ' * (len(made.rows[0].label) + 1)}{made.ruler}{made.legend}"
    text.append(below, style="dim")
    return text
