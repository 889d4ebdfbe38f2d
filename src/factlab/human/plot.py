"""The picture of a human study, as the ROME paper's figure 26: who is first and last how often."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from factlab.figures import (
    LINE_COLOURS,
    Picture,
    clear_spines,
    footnote,
    new_picture,
    printable,
    save_picture,
)
from factlab.human.report_page import PUBLISHED
from factlab.human.scores import QuestionScores

_WIDTH = 0.8  # of a group of bars
_TITLES = {"consistent": "Consistent with the made-up fact", "fluent": "Fluent"}


def draw_places(questions: Sequence[QuestionScores], path: str | Path | None = None) -> Picture:
    """A panel for each question, a group of bars for first and one for last places."""
    figure = new_picture(7.2, 3.4)
    panels = figure.subplots(1, len(questions), sharey=True, squeeze=False)[0]
    for panel, one in zip(panels, questions, strict=True):
        _draw(panel, one)
    for panel in panels[1:]:
        panel.tick_params(axis="y", length=0)
    panels[0].set_ylabel("share of ratings, %", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    footnote(
        figure,
        f"n = {questions[0].n} ratings for each question · Wilson's 95 % intervals\n"
        f"ROME paper (GPT-2 XL, n = {PUBLISHED[0].n}): "
        + ", ".join(
            f"{one.above} {one.times}× as often above {one.below} ({one.question})"
            for one in PUBLISHED
        ),
    )
    save_picture(figure, path)
    return figure


def _draw(panel: Axes, one: QuestionScores) -> None:
    width = _WIDTH / len(one.methods)
    for number, method in enumerate(one.methods):
        xs = [group - _WIDTH / 2 + (number + 0.5) * width for group in (0, 1)]
        shares = method.most, method.least
        panel.bar(
            xs, [100 * each.mean for each in shares], width * 0.92,
            color=LINE_COLOURS[number % len(LINE_COLOURS)], label=printable(method.method),
        )  # fmt: skip
        for x, each in zip(xs, shares, strict=True):
            if each.has_interval:
                low, high = each.interval
                panel.plot([x, x], [100 * low, 100 * high], color="0.15", linewidth=0.9)
    panel.set_xticks([0, 1], [f"most {one.question}", f"least {one.question}"], fontsize=9)
    panel.set_ylim(0, 100)
    panel.set_title(_TITLES[one.question], fontsize=9.5, loc="left")
    clear_spines(panel)
    panel.grid(axis="y", color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)
