"""Averages of traces of several kinds of prompts, beside each other.

Facts, sums, directions: are they held in the same places? Each run is one row of a table and one
line of a figure; runs that differ in how they were traced are refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factlab.arguments import checked
from factlab.equality import EqualByContent
from factlab.errors import InvalidRequestError
from factlab.estimate import Estimate
from factlab.results import Drawn, Tabular, known
from factlab.storage import write_text
from factlab.tracing.average import AverageTrace
from factlab.tracing.describe import kind_in_words
from factlab.tracing.groups import GROUPS, LAST, LAST_SUBJECT, POOLED

if TYPE_CHECKING:
    from factlab.figures import Picture


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TraceComparison(Tabular, Drawn, EqualByContent):
    """Averages by name, of one model and traced alike.

    Attributes:
        averages: by the name that each has in tables and in the figure.
    """

    averages: dict[str, AverageTrace]

    def __repr__(self) -> str:
        return f"TraceComparison of {', '.join(self.averages)} ({self.model_name})"

    @property
    def model_name(self) -> str:
        """The model traced."""
        return next(iter(self.averages.values())).model_name

    @property
    def kinds(self) -> list[str]:
        """The kinds of states that were restored."""
        return [*next(iter(self.averages.values())).effects]

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per run, group of tokens and kind of state: where its effect is largest.

        Its keys: name, group, n_facts (that have such a token), kind, layer, effect, half_width
        (None where there is no interval).
        """
        return [
            {
                "name": name,
                "group": GROUPS[group],
                "n_facts": average.group_counts[group],
                "kind": kind,
                "layer": layer,
                "effect": peak.mean,
                "half_width": known(peak.half_width),
            }
            for name, average in self.averages.items()
            for group in range(len(GROUPS))
            for kind, layer, peak in self._peaks(average, group)
        ]

    def _peaks(self, average: AverageTrace, group: int) -> Iterator[tuple[str, int, Estimate]]:
        for kind in self.kinds:
            if not average.effects[kind][group].isnan().all():
                yield kind, *average.peak(kind, group)

    def to_markdown(self) -> str:
        """Two tables: the runs with their peaks at two tokens, and the peaks of all groups."""
        first = next(iter(self.averages.values()))
        names = [kind_in_words(kind, first.config, first.part_names) for kind in self.kinds]
        ends = [f"{name}, {GROUPS[group]}" for group in (LAST_SUBJECT, LAST) for name in names]
        lines = [_line(["prompts", "n", "p clean", "p corrupted", "total effect", *ends])]
        lines += [_line(["---", *["---:"] * (4 + len(ends))])]
        for name, average in self.averages.items():
            clean, corrupted = average.clean_prob.mean, average.corrupted_prob.mean
            cells = [f"{clean:.3f}", f"{corrupted:.3f}", average.total_effect.in_words()]
            peaks = [self._cell(average, k, g) for g in (LAST_SUBJECT, LAST) for k in self.kinds]
            lines.append(_line([name, str(average.n_facts), *cells, *peaks]))
        lines += ["", _line(["tokens", "prompts", "n", *names])]
        lines += [_line(["---", "---", "---:", *["---:"] * len(names)])]
        for group, label in enumerate(GROUPS):
            for name, average in self.averages.items():
                peaks = [self._cell(average, kind, group) for kind in self.kinds]
                lines.append(_line([label, name, str(average.group_counts[group]), *peaks]))
        lines += ["", f"Largest average effect and its layer. {self._pooled()}", ""]
        return "\n".join(lines)

    def _cell(self, average: AverageTrace, kind: str, group: int) -> str:
        if average.effects[kind][group].isnan().all():
            return "–"
        layer, peak = average.peak(kind, group)
        return f"{peak.in_words()} ({layer})"

    def _pooled(self) -> str:
        pooling = next(iter(self.averages.values())).pooling
        return f"In groups of several tokens {POOLED[pooling]}."

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw effects by layer, a line a run; see `factlab.tracing.plot_comparison`.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.tracing.plot_comparison import plot_comparison  # noqa: PLC0415 - when drawing

        return plot_comparison(self, path)

    def save(self, folder: str | Path) -> None:
        """Write `comparison.md` and `comparison.png` into a folder.

        Raises:
            StorageError: a file cannot be written.
        """
        write_text(Path(folder) / "comparison.md", self.to_markdown())
        self.plot(Path(folder) / "comparison.png")


@checked()
def compare_averages(averages: Mapping[str, AverageTrace]) -> TraceComparison:
    """Put averages of traces beside each other.

    Args:
        averages: by the name that each is to have.

    Raises:
        InvalidRequestError: there are none, one is of no facts, or two are of different models or
            were traced or pooled differently. σ of the noise is over the subjects of a run, so give
            all runs the same level.

    Examples:
        >>> asked = [fl.Fact(fact.template, "The Louvre"), fl.Fact(fact.template, "Big Ben")]
        >>> config = fl.tracing.TraceConfig(corruption="0.5")
        >>> averages = {fact.subject: fl.average_trace(lm, [fact], config) for fact in asked}
        >>> comparison = fl.tracing.compare_averages(averages)
        >>> comparison.rows()[0]["name"]
        'The Louvre'
    """
    if not averages:
        raise InvalidRequestError("There is nothing to compare. Give at least one average.")
    first_name, first = next(iter(averages.items()))
    for name, average in averages.items():
        if not average.n_facts:
            raise InvalidRequestError(f"Nothing of '{name}' has been traced yet.")
        for what, one, other in (
            ("models", first.fingerprint, average.fingerprint),
            ("settings", _settings(first), _settings(average)),
            ("poolings", first.pooling, average.pooling),
        ):
            if one != other:
                raise InvalidRequestError(
                    f"'{first_name}' and '{name}' are of different {what}, so their effects cannot "
                    f"be compared{_difference(one, other)}. Trace both alike."
                )
    return TraceComparison(dict(averages))


def _settings(average: AverageTrace) -> dict[str, Any]:
    """How it was traced, the corruption's own settings among the others."""
    settings = average.config.model_dump(mode="json")
    return settings | {f"corruption.{k}": v for k, v in settings.pop("corruption").items()}


def _difference(one: object, other: object) -> str:
    """Such as `: samples is 2, and 3`; nothing where they are no settings."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return ""
    name = next(name for name in {**one, **other} if one.get(name) != other.get(name))
    return f": {name} is {one.get(name)}, and {other.get(name)}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
