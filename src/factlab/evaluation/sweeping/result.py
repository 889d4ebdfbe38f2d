"""`Sweep`: scores of edits by layer and token, beside what causal tracing says (figure 5)."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factlab.editing.configs import LOOKUP_TOKENS, LookupToken, RomeConfig
from factlab.errors import StorageError, counted
from factlab.estimate import Estimate
from factlab.evaluation.running.saved_run import Run, load_run
from factlab.evaluation.scoring.scores import METRICS, SCORE
from factlab.evaluation.sweeping.estimates import columns_of, estimates_of
from factlab.evaluation.sweeping.groups import GROUP_OF
from factlab.results import Drawn, Tabular, known
from factlab.storage import write_json, write_text
from factlab.tracing.average import AverageTrace
from factlab.tracing.groups import GROUPS

if TYPE_CHECKING:
    from factlab.figures import Picture

Cell = tuple[int, LookupToken]

_WORDS = {name: metric.column for metrics in METRICS.values() for name, metric in metrics.items()}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sweep(Tabular, Drawn):
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

    @classmethod
    def of_runs(
        cls,
        runs: Mapping[Cell, Run],
        impossible: Mapping[Cell, str],
        layers: Sequence[int],
        tokens: Sequence[LookupToken],
        trace: AverageTrace | None,
    ) -> "Sweep":
        """Scores of finished or unfinished evaluations.

        Args:
            runs: by layer and token; at least one.
            impossible: why others could not be.
            layers: ascending.
            tokens: that were looked up.
            trace: of the model, if there is one.
        """
        first = next(iter(runs.values()))
        columns = columns_of(first)
        cells: list[Cell] = [(layer, token) for layer in layers for token in tokens]
        nowhere = dict.fromkeys(columns, Estimate(math.nan, math.nan))
        return cls(
            layers=tuple(layers),
            tokens=tuple(tokens),
            n_records=max(len(run.rows) for run in runs.values()),
            columns=columns,
            scores={
                cell: estimates_of(runs[cell], "after") if cell in runs else nowhere
                for cell in cells
            },
            unedited=estimates_of(first, "before"),
            model_name=first.request.model.name,
            trace=trace,
            impossible=impossible,
        )

    @classmethod
    def load(cls, folder: str | Path) -> "Sweep":
        """Read the evaluations of a sweep, finished or not, and its trace if there is one.

        Raises:
            StorageError: there are none, or they are damaged.
        """
        folder = Path(folder)
        runs: dict[Cell, Run] = {}
        impossible: dict[Cell, str] = {}
        for path in sorted(folder.glob("layer-*/run.json")):
            run = load_run(path.parent)
            config = RomeConfig.model_validate(run.request.config)
            if config.layer is None:
                continue
            if run.impossible is None:
                runs[config.layer, config.lookup] = run
            else:
                impossible[config.layer, config.lookup] = run.impossible
        if not runs:
            raise StorageError(f"'{folder}' holds no sweep: there is no folder layer-… in it.")
        has_trace = (folder / "trace" / "run.json").exists()
        trace = AverageTrace.load(folder / "trace") if has_trace else None
        cells = [*runs, *impossible]
        layers = sorted({layer for layer, _ in cells})
        tokens: set[LookupToken] = {token for _, token in cells}
        return cls.of_runs(runs, impossible, layers, sorted(tokens, key=LOOKUP_TOKENS.index), trace)

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

    def trace_line(self, token: LookupToken) -> list[float]:
        """Mean indirect effect of MLP windows by layer at a token; empty if that was not traced."""
        if self.trace is None or "mlp" not in self.trace.effects:
            return []
        return self.trace.effects["mlp"][GROUPS.index(GROUP_OF[token])].tolist()

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

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per layer, token and score.

        Its keys: layer, token, score, mean, low and high (ends of the 95 % interval); None where
        nothing was measured. Scores are as measured, not times 100.
        """
        return [
            {
                "layer": layer,
                "token": token,
                "score": name,
                "mean": known(estimate.mean),
                "low": known(estimate.interval[0]),
                "high": known(estimate.interval[1]),
            }
            for (layer, token), scores in self.scores.items()
            for name, estimate in scores.items()
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
        from factlab.evaluation.sweeping.plot import plot_sweep  # noqa: PLC0415 - when drawing only

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


def _or_less(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _estimates(found: Mapping[str, Estimate]) -> dict[str, object]:
    return {
        name: {
            "mean": known(e.mean),
            "half_width": known(e.half_width),
            "low": known(e.interval[0]),
            "high": known(e.interval[1]),
        }
        for name, e in found.items()
    }


def column_title(column: str) -> str:
    """Short name of a score."""
    return "S" if column == SCORE else _WORDS[column]
