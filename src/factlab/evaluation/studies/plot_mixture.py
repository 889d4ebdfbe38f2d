"""The picture of mixtures: a column of panels for each pair of relations."""

from typing import TYPE_CHECKING

from matplotlib.ticker import FixedLocator

from factlab.evaluation.scoring.scores import SCORE, SCORE_PARTS
from factlab.evaluation.studies.drawing import (
    MEANINGS,
    Curve,
    caption,
    draw_curves,
    finish_panel,
    label_ends,
)
from factlab.evaluation.studies.tables import pair_name, relation_name
from factlab.figures import LINE_COLOURS, Picture, new_picture

if TYPE_CHECKING:
    from factlab.evaluation.studies.result import Study


def draw_mixture(study: "Study") -> Picture:
    """S and its parts against the number of facts, for each pair."""
    pairs = list(dict.fromkeys(str(point.place["pair"]) for point in study.points))
    names = (SCORE, *SCORE_PARTS[study.benchmark])
    figure = new_picture(3.1 * max(2, len(pairs)) + 0.4, 1.3 + 1.75 * len(names))
    panels = figure.subplots(len(names), len(pairs), squeeze=False, sharex="col", sharey="row")
    for column, pair in enumerate(pairs):
        curves = {name: _curves(study, pair, name) for name in names}
        for line, name in enumerate(names):
            panel = panels[line, column]
            draw_curves(panel, curves[name], 100.0)
            finish_panel(panel, "")
            panel.xaxis.set_major_locator(FixedLocator(curves[name][0].xs))
        panels[0, column].set_title(pair_name(pair), fontsize=10, loc="left")
        panels[-1, column].set_xlabel("facts in one edit", fontsize=9)
    for line, name in enumerate(names):
        _, high = panels[line, 0].get_ylim()
        panels[line, 0].set_ylim(top=min(high, 101))
        panels[line, 0].set_ylabel(f"{_short(name)} × 100", fontsize=9)
    for column, pair in enumerate(pairs):
        label_ends(panels[0, column], _curves(study, pair, SCORE), 100.0, 0.13)
    meanings = " · ".join(MEANINGS[name] for name in names)
    caption(figure, study, f"{meanings}\nBars: 95 % intervals.")
    return figure


def _curves(study: "Study", pair: str, name: str) -> list[Curve]:
    """Either relation alone, their mean, and the mixture on top."""
    first, second = pair.split(":")
    looks = {
        first: (relation_name(first), LINE_COLOURS[0], "-", 1.2),
        second: (relation_name(second), LINE_COLOURS[1], "-", 1.2),
        "mean": ("mean of the two", "0.45", "--", 1.2),
        "mixture": ("both, mixed", "0.05", "-", 2.0),
    }
    found: list[Curve] = []
    for of, (label, colour, style, width) in looks.items():
        own = [p for p in study.points if p.place["pair"] == pair and p.place["of"] == of]
        if own:
            xs = [float(point.place["facts"]) for point in own]
            estimates = [point.scores[name] for point in own]
            if of == "mean":  # its interval would lie on that of the mixture
                estimates = [
                    estimate._replace(half_width=float("nan"), bounds=None)
                    for estimate in estimates
                ]
            found.append(Curve(label, xs, estimates, colour, style, width))
    return found


def _short(name: str) -> str:
    return MEANINGS[name].partition(":")[0]
