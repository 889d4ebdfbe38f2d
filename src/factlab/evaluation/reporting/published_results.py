"""Scores that the ROME paper gives, to hold beside one's own.

CounterFact: table 4, on 7,500 records with GPT-2 XL and 2,000 with GPT-J. zsRE: table 1, on 10,000
records with GPT-2 XL. All times 100, with half-widths of 95 % confidence intervals where the paper
prints them. They were measured with other data, texts and rounding: compare by eye only.

Source: Meng, Bau, Andonian, Belinkov, "Locating and Editing Factual Associations in GPT",
NeurIPS 2022, https://arxiv.org/abs/2202.05262.
"""

import math
from typing import NamedTuple

from factlab.data.records import Benchmark
from factlab.estimate import Estimate
from factlab.evaluation.scoring.scores import METRICS, SCORE, MetricSummary, Summary

_COUNTERFACT = """
GPT-2 XL 7500: S ES EM PS PM NS NM GE RS
unedited 30.5 22.2±0.9 -4.8±0.3 24.7±0.8 -5.0±0.3 78.1±0.6 5.0±0.2 626.6±0.3 31.9±0.2
FT 65.1 100.0±0.0 98.8±0.1 87.9±0.6 46.6±0.8 40.4±0.7 -6.2±0.4 607.1±1.1 40.5±0.3
FT+L 66.9 99.1±0.2 91.5±0.5 48.7±1.0 28.9±0.8 70.3±0.7 3.5±0.3 621.4±1.0 37.4±0.3
KN 35.6 28.7±1.0 -3.4±0.3 28.0±0.9 -3.3±0.2 72.9±0.7 3.7±0.2 570.4±2.3 30.3±0.3
KE 52.2 84.3±0.8 33.9±0.9 75.4±0.8 14.6±0.6 30.9±0.7 -11.0±0.5 586.6±2.1 31.2±0.3
KE-CF 18.1 99.9±0.1 97.0±0.2 95.8±0.4 59.2±0.8 6.9±0.3 -63.2±0.7 383.0±4.1 24.5±0.4
MEND 57.9 99.1±0.2 70.9±0.8 65.4±0.9 12.2±0.6 37.9±0.7 -11.6±0.5 624.2±0.4 34.8±0.3
MEND-CF 14.9 100.0±0.0 99.2±0.1 97.0±0.3 65.6±0.7 5.5±0.3 -69.9±0.6 570.0±2.1 33.2±0.3
ROME 89.2 100.0±0.1 97.9±0.2 96.4±0.3 62.7±0.8 75.4±0.7 4.2±0.2 621.9±0.5 41.9±0.3
GPT-J 2000: S ES EM PS PM NS NM GE RS
unedited 23.6 16.3±1.6 -7.2±0.7 18.6±1.5 -7.4±0.6 83.0±1.1 7.3±0.5 621.8±0.6 29.8±0.5
FT 25.5 100.0±0.0 99.9±0.0 96.6±0.6 71.0±1.5 10.3±0.8 -50.7±1.3 387.8±7.3 24.6±0.8
FT+L 68.7 99.6±0.3 95.0±0.6 47.9±1.9 30.4±1.5 78.6±1.2 6.8±0.5 622.8±0.6 35.5±0.5
MEND 63.2 97.4±0.7 71.5±1.6 53.6±1.9 11.0±1.3 53.9±1.4 -6.0±0.9 620.5±0.7 32.6±0.5
ROME 91.5 99.9±0.1 99.4±0.3 99.1±0.3 74.1±1.3 78.9±1.2 5.2±0.5 620.1±0.9 43.0±0.6
"""

_ZSRE = """
GPT-2 XL 10000: Efficacy Paraphrase Specificity
unedited 22.2 21.3 24.2
FT 99.6 82.1 23.2
FT+L 92.3 47.2 23.4
KE 65.5 61.4 24.9
KE-zsRE 92.4 90.0 23.8
MEND 75.9 65.3 24.1
MEND-zsRE 99.4 99.3 24.1
ROME 99.8 88.1 24.2
"""

# What the paper calls its records; they are not those of any run.
PUBLISHED_DATA: dict[Benchmark, str] = {
    "counterfact": "CounterFact (paper)",
    "zsre": "zsRE (paper)",
}
_TEXTS: dict[Benchmark, str] = {"counterfact": _COUNTERFACT, "zsre": _ZSRE}


class PublishedResult(NamedTuple):
    """One line of a table of the paper."""

    model: str
    method: str
    summary: Summary


def published_results(benchmark: Benchmark) -> list[PublishedResult]:
    """The paper's table for a benchmark, in its order."""
    names = {metric.column: name for name, metric in METRICS[benchmark].items()} | {"S": SCORE}
    found: list[PublishedResult] = []
    model, n_records, columns = "", 0, [""]
    for line in _TEXTS[benchmark].strip().splitlines():
        if ":" in line:
            head, _, header = line.partition(":")
            model, _, count = head.rpartition(" ")
            n_records, columns = int(count), header.split()
            continue
        method, *cells = line.split()
        metrics = {
            names[column]: MetricSummary(_estimate(cell), n_records, {})
            for column, cell in zip(columns, cells, strict=True)
        }
        found.append(PublishedResult(model, method, Summary(n_records, metrics)))
    return found


def _estimate(cell: str) -> Estimate:
    mean, _, half_width = cell.partition("±")
    return Estimate(float(mean) / 100, float(half_width) / 100 if half_width else math.nan)
