"""The picture of fluency against consistency."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlab.evaluation.probing.scores import written_points
from factlab.evaluation.studies.drawing import finish_panel
from factlab.figures import LINE_COLOURS, Picture, footnote, new_picture, save_picture

if TYPE_CHECKING:
    from factlab.evaluation.probing.result import Probes


def draw_written(probes: "Probes", path: str | Path | None = None) -> Picture:
    """A point for every fact, before and after its edit."""
    figure = new_picture(4.6, 3.8)
    panel = figure.subplots()
    for stage, colour in zip(("before", "after"), LINE_COLOURS, strict=False):
        points = [
            (entropy, near)
            for entropy, near in written_points(probes.facts, stage)
            if near is not None
        ]
        panel.scatter(
            [entropy for entropy, _ in points], [near for _, near in points], s=12, alpha=0.7,
            color=colour, label=f"{stage} the edit",
        )  # fmt: skip
    panel.set_xlabel("fluency (GE, bits)", fontsize=9)
    panel.set_ylabel("consistency (RS)", fontsize=9)
    finish_panel(panel, "Texts about the subject")
    panel.legend(fontsize=8, frameon=False)
    asked = probes.asked
    footnote(figure, f"{asked.data.method} on {asked.data.name}, {asked.model.name}")
    save_picture(figure, path)
    return figure
