"""Averages of causal traces over many facts (ROME paper, section 2.2 and figure 2).

Facts differ in length, so effects are averaged by what a token is to its fact: the first, middle or
last token of the subject, the first token after it, further tokens, or the prompt's last token. A
subject of one token counts as its first and as its last; a token right behind the subject that ends
the prompt counts as the last.

Two groups may have several tokens of one fact, the middle ones of its subject and the further ones
behind it. `pooling` says what counts once there: each fact, its own tokens averaged first, or each
token of all facts, as in the notebook of the paper's authors (`average_causal_effects.ipynb`):
long facts then weigh more. Tokens of one fact are not independent, so intervals are over facts:
Student's, and of pooled tokens that of a ratio of two sums (`Estimate.of_clusters`). A run that is
kept in a folder can be read either way, since it holds the effects of every token.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.documents import check_format, validated
from factlab.equality import EqualByContent
from factlab.errors import FactlabError, StorageError
from factlab.estimate import Estimate
from factlab.facts import TokenSpan
from factlab.journal import Journal
from factlab.pages.frames import Drawing
from factlab.results import Drawn, Tabular, known
from factlab.storage import write_json
from factlab.tracing.configs import TraceConfig
from factlab.tracing.describe import average_in_words
from factlab.tracing.document import average_document
from factlab.tracing.groups import (
    GROUPS,
    LAST_SUBJECT,
    Pooling,
    group_positions,
    pooling_named,
)

if TYPE_CHECKING:
    from factlab.figures import Picture

FORMAT = "factlab average trace 1"
_DIGITS = 7  # of a number in a record: more than float32 results are good for


FigureName = Literal["heatmaps", "lines", "severed"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AverageTrace(Tabular, Drawn, EqualByContent):
    """Average indirect effects by token group and layer.

    With `config.method == "gradient"` they are averages of estimates, which may be larger than any
    difference of probabilities: good for ranks, not for sizes. `print(average)` says the main
    things in a few lines; a notebook adds the pictures.

    Attributes:
        n_facts: how many facts were averaged.
        n_wrong: how many were left out because the model's answer is not theirs.
        unusable: why others could not be traced, by their number in the list of facts.
        n_missing: how many of those that were selected have not been traced yet.
        clean_prob: of the answer.
        corrupted_prob: of the answer.
        total_effect: clean minus corrupted.
        effects: for each kind the mean effect by group and layer; NaN where nothing was traced.
        half_widths: of their 95 % confidence intervals.
        group_counts: how many facts have a token of each group.
        config: as traced; the level of the noise is worked out.
        model_name: the model traced.
        fingerprint: of its weights.
        n_one_token: how many of the facts have a subject of one token, which is entered as the
            first and as the last subject token.
        part_names: as of `CausalTrace`; None in older averages.
        pooling: what counts once in groups that may have several tokens of a fact: `facts` or
            `tokens`.
        token_counts: how many tokens all facts have of each group.
    """

    n_facts: int
    n_wrong: int
    unusable: dict[int, str]
    n_missing: int
    clean_prob: Estimate
    corrupted_prob: Estimate
    total_effect: Estimate
    effects: dict[str, Float[Tensor, "group layer"]]
    half_widths: dict[str, Float[Tensor, "group layer"]]
    group_counts: tuple[int, ...]
    config: TraceConfig
    model_name: str
    fingerprint: str
    n_one_token: int = 0
    part_names: dict[str, str] | None = None
    pooling: Pooling = "facts"
    token_counts: tuple[int, ...] = (0,) * len(GROUPS)

    def __repr__(self) -> str:
        return average_in_words(self)

    def _drawing(self) -> Drawing | None:
        if not self.n_facts:
            return None
        return Drawing({"kind": "average", "average": average_document(self)}, len(GROUPS))

    def _pictures(self) -> "Sequence[Picture]":
        from factlab.tracing.plot_average import average_figures  # noqa: PLC0415 - when drawing only

        return [*average_figures(self).values()]

    def peak(self, kind: str, group: int) -> tuple[int, Estimate]:
        """The layer with the largest mean effect of a group, and that effect."""
        effects = self.effects[kind][group].nan_to_num(nan=-torch.inf)
        layer = int(effects.argmax())
        width = float(self.half_widths[kind][group, layer])
        return layer, Estimate(float(effects[layer]), width)

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; null where nothing was traced."""
        # Said only where it is not what it always was, so that older summaries stay the same.
        token_counts = dict(zip(GROUPS, self.token_counts, strict=True))
        pooled = {"pooling": self.pooling, "token_counts": token_counts}
        return {
            "format": FORMAT,
            "n_facts": self.n_facts,
            "n_wrong": self.n_wrong,
            "unusable": {str(case): reason for case, reason in self.unusable.items()},
            "n_missing": self.n_missing,
            "clean_prob": _estimate(self.clean_prob),
            "corrupted_prob": _estimate(self.corrupted_prob),
            "total_effect": _estimate(self.total_effect),
            "groups": dict(zip(GROUPS, self.group_counts, strict=True)),
            "effects": {kind: rounded_rows(mean) for kind, mean in self.effects.items()},
            "half_widths": {kind: rounded_rows(width) for kind, width in self.half_widths.items()},
            "config": self.config.model_dump(mode="json"),
            "model_name": self.model_name,
            "fingerprint": self.fingerprint,
            "n_one_token": self.n_one_token,
            "part_names": self.part_names,
            **({} if self.pooling == "facts" else pooled),
        }

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per kind, group of tokens and layer that was traced.

        Its keys: kind, group, layer, effect, half_width (None where there is no interval), n_facts
        (that have a token of the group).
        """
        return [
            {
                "kind": kind,
                "group": group,
                "layer": layer,
                "effect": effect,
                "half_width": known(width),
                "n_facts": n_facts,
            }
            for kind, effects in self.effects.items()
            for group, n_facts, means, widths in zip(
                GROUPS, self.group_counts, effects.tolist(), self.half_widths[kind].tolist(),
                strict=True,
            )
            for layer, (effect, width) in enumerate(zip(means, widths, strict=True))
            if not math.isnan(effect)
        ]  # fmt: skip

    def plot(self, path: str | Path | None = None, name: FigureName | None = None) -> "Picture":
        """Draw one of the figures; see `factlab.tracing.plot_average`.

        Args:
            path: where to write it too, as .png, .pdf or .svg.
            name: `heatmaps` of all groups of tokens, `lines` by layer for two of them, or
                `severed`, paths whole and severed side by side; by default the first that what was
                traced allows.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: there is no such figure, or not of what was traced.
            StorageError: the file cannot be written.
        """
        from factlab.tracing.plot_average import plot_figure  # noqa: PLC0415 - when drawing only

        return plot_figure(self, path, name)

    def save(self, folder: str | Path) -> None:
        """Write `summary.json` and the figures into a folder."""
        from factlab.tracing.plot_average import plot_average  # noqa: PLC0415 - when drawing only

        write_json(Path(folder) / "summary.json", self.to_json())
        if self.n_facts:
            plot_average(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, pooling: Pooling = "facts") -> "AverageTrace":
        """Average the records of a folder, finished or not.

        Args:
            folder: of a run.
            pooling: what counts once in groups that may have several tokens of a fact; see
                `factlab.tracing.average`. Nothing is traced anew for it.

        Raises:
            StorageError: the folder holds no such run, or is damaged.
        """
        journal = Journal.load(Path(folder))
        check_format(journal.request.get("format"), FORMAT, f"'{folder}'", "an average trace")
        return average_records(journal.request, journal.findings, journal.records, pooling)


# -- averaging --------------------------------------------------------------------------------


def average_records(
    request: Mapping[str, Any],
    findings: Mapping[str, Any],
    records: Mapping[int, Mapping[str, Any]],
    pooling: Pooling = "facts",
) -> AverageTrace:
    """Average records in the order of their facts, so that their order on disk does not matter.

    Raises:
        InvalidRequestError: there is no such pooling.
        StorageError: a record is damaged.
    """
    pooling_named(pooling)
    try:
        unusable = {int(case): str(reason) for case, reason in findings["unusable"].items()}
        for case in sorted(records):
            if "unusable" in records[case]:
                unusable[case] = str(records[case]["unusable"])
        ordered = [records[case] for case in sorted(records) if case not in unusable]
        where, advice = "The config in the run.json of the run", "Trace again, in a new folder."
        config = validated(TraceConfig, findings["config"], where, advice)
        for record in ordered:
            _check_sizes(record)
        groups = [
            group_positions(TokenSpan(*record["subject_span"]), record["n_tokens"])
            for record in ordered
        ]
        effects: dict[str, Tensor] = {}
        half_widths: dict[str, Tensor] = {}
        for kind in config.kinds if ordered else ():
            maps = [
                torch.tensor(_with_nan(record["effects"][kind]), dtype=torch.float32, device="cpu")
                for record in ordered
            ]
            effects[kind], half_widths[kind] = _by_group(maps, groups, pooling)
        clean = [float(record["clean_prob"]) for record in ordered]
        corrupted = [float(record["corrupted_prob"]) for record in ordered]
        model = request["model"]
        return AverageTrace(
            n_facts=len(ordered),
            n_wrong=int(findings["n_wrong"]),
            unusable=unusable,
            n_missing=len(findings["cases"]) - len(records),
            clean_prob=Estimate.of(clean),
            corrupted_prob=Estimate.of(corrupted),
            total_effect=Estimate.of([c - n for c, n in zip(clean, corrupted, strict=True)]),
            effects=effects,
            half_widths=half_widths,
            group_counts=tuple(sum(len(g[i]) > 0 for g in groups) for i in range(len(GROUPS))),
            config=config,
            model_name=str(model["name"]),
            fingerprint=str(model["fingerprint"]),
            n_one_token=sum(len(g[0]) and g[0] == g[LAST_SUBJECT] for g in groups),
            part_names=findings.get("part_names"),
            pooling=pooling,
            token_counts=tuple(sum(len(g[i]) for g in groups) for i in range(len(GROUPS))),
        )
    except (
        ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        if isinstance(error, FactlabError):
            raise
        raise StorageError(f"A record of the run is damaged: {error!r}.") from error


def _check_sizes(record: Mapping[str, Any]) -> None:
    """ValueError if a record has other sizes than it says, or a probability that is none."""
    n_tokens, (start, stop) = record["n_tokens"], record["subject_span"]
    if any(len(rows) != n_tokens for rows in record["effects"].values()):
        raise ValueError(f"it has {n_tokens} tokens, and effects of another number")
    if not 0 <= start < stop <= n_tokens:
        raise ValueError(f"its subject is tokens {start} to {stop} of {n_tokens}")
    for name in ("clean_prob", "corrupted_prob"):
        if not 0 <= record[name] <= 1 + 1e-6:
            raise ValueError(f"its {name} is {record[name]}")


def _with_nan(rows: list[list[float | None]]) -> list[list[float]]:
    return [[math.nan if value is None else value for value in row] for row in rows]


def _by_group(
    maps: Sequence[Float[Tensor, "_ layer"]], groups: Sequence[Sequence[range]], pooling: Pooling
) -> tuple[Float[Tensor, "group layer"], Float[Tensor, "group layer"]]:
    """Mean over the facts that have tokens of a group, or over all their tokens."""
    n_layers = maps[0].shape[1]
    means = torch.full((len(GROUPS), n_layers), torch.nan, dtype=torch.float32, device="cpu")
    widths = torch.full((len(GROUPS), n_layers), torch.nan, dtype=torch.float32, device="cpu")
    for i in range(len(GROUPS)):
        of_group = [m[g[i]] for m, g in zip(maps, groups, strict=True) if len(g[i])]
        for layer, estimate in enumerate(_pooled(of_group, n_layers, pooling)):
            if not math.isnan(estimate.mean):
                means[i, layer], widths[i, layer] = estimate.mean, estimate.half_width
    return means, widths


def _pooled(
    of_group: Sequence[Float[Tensor, "_ layer"]], n_layers: int, pooling: Pooling
) -> list[Estimate]:
    """By layer, of the tokens of one group, those of each fact together."""
    if pooling == "facts":
        means = [tokens.nanmean(0) for tokens in of_group]
        by_layer = [[float(mean[i]) for mean in means] for i in range(n_layers)]
        return [Estimate.of([x for x in values if not math.isnan(x)]) for values in by_layer]
    counts = [(~tokens.isnan()).sum(0).tolist() for tokens in of_group]
    sums = [tokens.nansum(0).tolist() for tokens in of_group]
    return [
        Estimate.of_clusters(
            [one[i] for one, count in zip(sums, counts, strict=True) if count[i]],
            [count[i] for count in counts if count[i]],
        )
        for i in range(n_layers)
    ]


# -- numbers in files ------------------------------------------------------------------------


def rounded(value: float) -> float | None:
    """A number as it is written; None for NaN, which JSON lacks."""
    return None if math.isnan(value) else float(f"{value:.{_DIGITS}g}")


def rounded_rows(values: Float[Tensor, "row layer"]) -> list[Any]:
    """A matrix as it is written."""
    return [[rounded(value) for value in row] for row in values.tolist()]


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"mean": rounded(estimate.mean), "half_width": rounded(estimate.half_width)}
