"""The learning curve of a trained editor as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

from factlab.errors import InvalidRequestError
from factlab.figures import Picture, new_picture, save_picture

# One colour for what an editor never saw, in all panels; grey for what it learns from.
_TRAINING, _VALIDATION = "0.6", "#0072b2"
_NARROW = 3.0
# What an editor is kept for, with how its line is drawn; trainings of 0.1.0 have not all of them.
_SHARES = (
    ("says_prompt", "says it behind the prompt", "-"),
    ("says", "in other words", "--"),
    ("stays", "elsewhere as before", ":"),
)


def plot_curve(
    history: Mapping[int, Mapping[str, Any]], name: str, path: str | Path | None = None
) -> Picture:
    """Draw the loss, its two parts, and what came of it, over the steps of a training.

    Args:
        history: what each validation found, by step; see `Trained.history`.
        name: of the editor.
        path: where to write it too; ends in `.png`, `.pdf` or `.svg`.

    Raises:
        InvalidRequestError: there is nothing to draw, or the file name's ending is none of these.
        StorageError: the file cannot be written.
    """
    if not history:
        raise InvalidRequestError("The training has no validations yet: nothing to draw.")
    figure = new_picture(12.0, 3.1)
    loss, edit, kept, shares = figure.subplots(1, 4)
    best = best_step(history)
    _line(loss, history, "train_loss", "training", _TRAINING)
    for panel, key in ((loss, "loss"), (edit, "edit_nll"), (kept, "loc_kl")):
        _line(panel, history, key, "validation", _VALIDATION)
        value = history[best][key]
        if value is not None:
            panel.plot(
                [best], [value], "o", color=_VALIDATION, markersize=7, fillstyle="none",
                label=f"kept: step {best}",
            )  # fmt: skip
    loss.legend(fontsize=8, frameon=False)
    for key, label, style in _SHARES:
        _line(shares, history, key, label, _VALIDATION, style)
    shares.set_ylim(-0.02, 1.02)
    if shares.lines:
        shares.legend(fontsize=8, frameon=False)
    titles = ("loss", "−log P(new target)", "KL where nothing should change", "shares")
    for panel, title in zip((loss, edit, kept, shares), titles, strict=True):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step", fontsize=9)
        if panel is not shares:
            panel.set_ylabel("nats", fontsize=9)
            _scale(panel)
        panel.tick_params(labelsize=8, length=2)
        panel.grid(axis="y", color="0.92", linewidth=0.6)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.suptitle(f"{name}: best at step {best}", fontsize=11, parse_math=False)
    save_picture(figure, path)
    return figure


def best_step(history: Mapping[int, Mapping[str, Any]]) -> int:
    """The step whose editor was kept: by score, and of equals by loss."""
    return min(
        sorted(history), key=lambda step: (-history[step].get("score", 0), history[step]["loss"])
    )


def _line(
    panel: Axes,
    history: Mapping[int, Mapping[str, Any]],
    key: str,
    label: str,
    colour: str,
    style: str = "-",
) -> None:
    steps = [step for step in sorted(history) if history[step].get(key) is not None]
    if steps:
        values = [history[step][key] for step in steps]
        panel.plot(
            steps, values, style, color=colour, label=label, linewidth=1.5, marker=".",
            markersize=4,
        )  # fmt: skip


def _scale(panel: Axes) -> None:
    """A logarithmic axis: the first step is often a hundred times above the last ones."""
    values = [float(value) for line in panel.lines for value in np.asarray(line.get_ydata())]
    above = [value for value in values if value > 0]
    if not above:
        return
    if min(values) > 0:
        panel.set_yscale("log")
        panel.set_ylabel("nats (log scale)", fontsize=9)
    else:  # linear around zero, which a logarithm lacks
        panel.set_yscale("symlog", linthresh=min(above))
        panel.set_ylabel(f"nats (log scale above {min(above):.2g})", fontsize=9)
    narrow = max(above) < _NARROW * min(above)  # there may be no round number in between
    if narrow or min(values) <= 0:
        panel.yaxis.set_major_locator(MaxNLocator(5))
    else:
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
