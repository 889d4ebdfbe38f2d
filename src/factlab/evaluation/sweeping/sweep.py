"""Where to edit: ROME at every layer and token, beside what causal tracing says (figure 5).

folder/
layer-03-last/    an evaluation for each layer and token
trace/            the averaged causal trace that the scores are put beside
sweep.json, sweep.csv, sweep.png
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from factlab.arguments import checked
from factlab.data.records import Record
from factlab.editing.background import Background
from factlab.editing.configs import LOOKUP_TOKENS, LookupToken, RomeConfig
from factlab.errors import (
    EditError,
    InvalidRequestError,
    StorageError,
    WrongModelError,
    counted,
    nearest,
)
from factlab.estimate import Estimate
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.running.run import BATCH_SIZE, evaluate
from factlab.evaluation.running.saved_run import Run, load_run
from factlab.evaluation.scoring.scores import SCORE, SCORE_PARTS, Stage, score_row, summarise
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.storage import write_json, write_text
from factlab.tracing.average import GROUPS, AverageTrace

if TYPE_CHECKING:
    from factlab.figures import Picture

# The group of an averaged trace that each token belongs to.
GROUP_OF: Mapping[LookupToken, str] = {
    "first": "first subject token",
    "last": "last subject token",
    "first_after_last": "first subsequent token",
    "end": "last token",
}

Cell = tuple[int, LookupToken]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sweep:
    """Scores of edits by layer and token.

    Attributes:
        layers: 0-based, ascending.
        tokens: that were looked up.
        n_records: behind each score.
        columns: short names of the scores: `score`, then its parts.
        scores: for each (layer, token) an estimate of every column, 0–1; NaN where nothing was
            measured.
        unedited: the same without an edit.
        model_name: the model edited.
        trace: the averaged trace of the model, if there is one.
        impossible: why no fact can be written at some (layer, token), such as left of the last
            token in the last layer.
    """

    layers: tuple[int, ...]
    tokens: tuple[LookupToken, ...]
    n_records: int
    columns: tuple[str, ...]
    scores: Mapping[Cell, Mapping[str, Estimate]]
    unedited: Mapping[str, Estimate]
    model_name: str
    trace: AverageTrace | None = None
    impossible: Mapping[Cell, str] = field(default_factory=dict[Cell, str])

    def __repr__(self) -> str:
        layer, token = self.best()
        return (
            f"Sweep({self.model_name}: {counted(len(self.layers), 'layer')} × "
            f"{counted(len(self.tokens), 'token')}, {counted(self.n_records, 'record')}, "
            f"best at layer {layer}, {token})"
        )

    def __eq__(self, other: object) -> bool:
        """Whether both say the same; a trace is compared as it is written to a file."""
        if not isinstance(other, Sweep):
            return NotImplemented
        traces = [None if s.trace is None else s.trace.to_json() for s in (self, other)]
        return self.to_json() == other.to_json() and traces[0] == traces[1]

    def __hash__(self) -> int:
        return hash((self.model_name, self.layers, self.tokens, self.n_records))

    def best(self) -> Cell:
        """The layer and token with the largest S."""
        return max(self.scores, key=lambda cell: _or_less(self.scores[cell][SCORE].mean))

    def as_good(self) -> list[Cell]:
        """The other layers and tokens whose S lies within the interval of the best one's."""
        best = self.best()
        low, _ = self.scores[best][SCORE].interval
        return [
            cell for cell in self.scores if cell != best and self.scores[cell][SCORE].mean >= low
        ]

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw scores and trace by layer, a line per token.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.evaluation.reporting.plot_sweep import plot_sweep  # noqa: PLC0415 - when drawing only

        return plot_sweep(self, path)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `sweep.json`, `sweep.csv` and `sweep.png` into a folder."""
        folder = Path(folder)
        write_json(folder / "sweep.json", self.to_json())
        write_text(folder / "sweep.csv", self.to_csv())
        self.plot(folder / "sweep.png")
        return [folder / name for name in ("sweep.json", "sweep.csv", "sweep.png")]

    def to_json(self) -> dict[str, object]:
        """Everything but the trace, ready for JSON; null where nothing was measured."""
        return {
            "model_name": self.model_name,
            "n_records": self.n_records,
            "unedited": _estimates(self.unedited),
            "cells": [
                {"layer": layer, "token": token, **_estimates(found)}
                for (layer, token), found in self.scores.items()
            ],
            "impossible": [
                {"layer": layer, "token": token, "reason": reason}
                for (layer, token), reason in self.impossible.items()
            ],
        }

    def to_csv(self) -> str:
        """One line per layer and token: means, then the ends of their intervals."""
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        ends = [f"{name}_{end}" for name in self.columns for end in ("low", "high")]
        table.writerow(["layer", "token", *self.columns, *ends])
        for (layer, token), found in self.scores.items():
            values = [found[name].mean for name in self.columns]
            values += [end for name in self.columns for end in found[name].interval]
            table.writerow([layer, token, *("" if math.isnan(v) else f"{v:.4f}" for v in values)])
        return text.getvalue()


@checked()
def sweep(
    lm: LanguageModel,
    records: Sequence[Record | Fact],
    out: str | Path,
    layers: Sequence[int],
    tokens: Sequence[LookupToken] = LOOKUP_TOKENS,
    config: RomeConfig | None = None,
    trace: AverageTrace | None = None,
    data_name: str = "records",
    batch_size: int = BATCH_SIZE,
    memory_gib: float = 1.0,
    cache: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback = silent,
) -> Sweep:
    """Edit records with ROME at every layer and token, and score them (ROME paper, figure 5).

    What is in the folder already is gone on with, so that a killed sweep loses nothing.

    Args:
        lm: the model, left as it is.
        records: what to edit and ask; likelihoods only.
        out: folder of the sweep.
        layers: 0-based.
        tokens: which token of the prompt to look up: the subject's first or last, the one after
            it, or the prompt's last.
        config: of ROME; its layer and token are replaced.
        trace: to put beside the scores.
        data_name: what to call the records.
        batch_size: see `evaluate`.
        memory_gib: see `evaluate`.
        cache: see `evaluate`.
        should_stop: asked after every block of records.
        progress: True for a bar, or a function that is called with cells done and in all.

    Raises:
        InvalidRequestError: there are no layers or tokens, a token or layer does not exist, or the
            trace is of another model.
        EditError: no fact can be written anywhere.
        StorageError: the folder belongs to another sweep, or cannot be written.
    """
    wanted = sorted(set(layers))
    if not wanted or not tokens:
        raise InvalidRequestError("A sweep needs at least one layer and one token.")
    for layer in wanted:
        lm.layer(layer)
    unknown = [token for token in tokens if token not in LOOKUP_TOKENS]
    if unknown:
        raise InvalidRequestError(
            f"'{unknown[0]}' is no token to look up. Choose from {', '.join(LOOKUP_TOKENS)}."
            f"{nearest(unknown[0], LOOKUP_TOKENS)}"
        )
    if trace is not None and trace.fingerprint != lm.live_fingerprint:
        raise InvalidRequestError(
            f"The trace is of {trace.model_name} (fingerprint {trace.fingerprint[:12]}), not of "
            f"{lm.name} ({lm.live_fingerprint[:12]}). Trace this model."
        )
    chosen = sorted(set(tokens), key=LOOKUP_TOKENS.index)
    config, folder, background = config or RomeConfig(), Path(out), Background()
    background.second_moments(lm, wanted, config.stats, progress)
    cells: list[Cell] = [(layer, token) for layer in wanted for token in chosen]
    runs: dict[Cell, Run] = {}
    impossible: dict[Cell, str] = {}
    for done, (layer, token) in enumerate(cells):
        progress("sweeping layers and tokens", done, len(cells))
        try:
            runs[layer, token] = evaluate(
                lm, records, "rome", folder / f"layer-{layer:02d}-{token}",
                config=config.model_copy(update={"layer": layer, "lookup": token}),
                measure=MeasureConfig(n_generated=0), data_name=data_name, background=background,
                batch_size=batch_size, memory_gib=memory_gib, resume=True, cache=cache,
                should_stop=should_stop,
            )  # fmt: skip
        except WrongModelError:
            raise
        except EditError as error:
            impossible[layer, token] = str(error)
        if should_stop():
            break
    progress("sweeping layers and tokens", len(cells), len(cells))
    if not runs:
        raise EditError(f"Nothing could be swept. The first reason: {impossible[cells[0]]}")
    return _of_runs(runs, impossible, wanted, chosen, trace)


def load_sweep(folder: str | Path) -> Sweep:
    """Read the evaluations of a sweep, finished or not, and its trace if there is one.

    Raises:
        StorageError: there are none, or they are damaged.
    """
    folder = Path(folder)
    runs: dict[Cell, Run] = {}
    for path in sorted(folder.glob("layer-*/run.json")):
        run = load_run(path.parent)
        config = RomeConfig.model_validate(run.request.config)
        if config.layer is not None:
            runs[config.layer, config.lookup] = run
    if not runs:
        raise StorageError(f"'{folder}' holds no sweep: there is no folder layer-… in it.")
    has_trace = (folder / "trace" / "run.json").exists()
    trace = AverageTrace.load(folder / "trace") if has_trace else None
    layers = sorted({layer for layer, _ in runs})
    tokens: set[LookupToken] = {token for _, token in runs}
    return _of_runs(runs, {}, layers, sorted(tokens, key=LOOKUP_TOKENS.index), trace)


def _of_runs(
    runs: Mapping[Cell, Run],
    impossible: Mapping[Cell, str],
    layers: Sequence[int],
    tokens: Sequence[LookupToken],
    trace: AverageTrace | None,
) -> Sweep:
    first = next(iter(runs.values()))
    benchmark = first.request.data.benchmark
    columns = (SCORE, *SCORE_PARTS[benchmark])

    def means(run: Run, stage: Stage) -> dict[str, Estimate]:
        found = summarise([score_row(row, stage) for row in run.rows], benchmark)
        return {name: found.metrics[name].estimate for name in columns}

    cells: list[Cell] = [(layer, token) for layer in layers for token in tokens]
    nowhere = dict.fromkeys(columns, Estimate(math.nan, math.nan))
    return Sweep(
        layers=tuple(layers),
        tokens=tuple(tokens),
        n_records=max(len(run.rows) for run in runs.values()),
        columns=columns,
        scores={cell: means(runs[cell], "after") if cell in runs else nowhere for cell in cells},
        unedited=means(first, "before"),
        model_name=first.request.model.name,
        trace=trace,
        impossible=impossible,
    )


def trace_line(trace: AverageTrace, token: LookupToken) -> list[float]:
    """Mean indirect effect of MLP windows by layer at a token's group; empty if not traced."""
    if "mlp" not in trace.effects:
        return []
    return trace.effects["mlp"][GROUPS.index(GROUP_OF[token])].tolist()


def _or_less(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _estimates(found: Mapping[str, Estimate]) -> dict[str, object]:
    return {
        name: {
            "mean": _known(e.mean),
            "half_width": _known(e.half_width),
            "low": _known(e.interval[0]),
            "high": _known(e.interval[1]),
        }
        for name, e in found.items()
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
