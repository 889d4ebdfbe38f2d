"""How well does the gradient estimate rank cells, beside exact traces of the same facts?

    factlab trace-average known.json --limit 50 --out exact
    python benchmarks/gradient.py known.json exact

For every fact traced in the folder: Spearman's rank correlation of estimate and exact effect over
all cells from the subject on, and over the layers at the last subject token.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

import factlab as fl
from factlab.journal import Journal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("facts", type=Path, help="the file of known facts that was traced")
    parser.add_argument("exact", type=Path, help="the folder of factlab trace-average")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--model", default=None)
    args = parser.parse_args()

    fl.models.keep_freed_memory()
    lm = fl.load(args.model)
    facts = [known.fact for known in fl.data.load_known(args.facts)]
    journal = Journal.load(args.exact)
    config = fl.tracing.TraceConfig.model_validate(journal.findings["config"])
    config = config.model_copy(update={"method": "gradient"})
    everywhere: dict[str, list[float]] = {kind: [] for kind in config.kinds}
    at_subject: dict[str, list[float]] = {kind: [] for kind in config.kinds}
    peaks: dict[str, list[float]] = {kind: [] for kind in config.kinds}
    seconds = []
    for case in sorted(journal.records)[: args.limit]:
        record = journal.records[case]
        began = time.perf_counter()
        estimate = fl.causal_trace(lm, facts[case], config=config)
        seconds.append(time.perf_counter() - began)
        start, stop = record["subject_span"]
        for kind in config.kinds:
            exact = torch.tensor(record["effects"][kind])
            found = estimate.effects[kind]
            everywhere[kind].append(spearman(exact[start:].flatten(), found[start:].flatten()))
            at_subject[kind].append(spearman(exact[stop - 1], found[stop - 1]))
            peaks[kind].append(float(found.max()) / max(float(exact.max()), 1e-9))
    print(f"{len(seconds)} facts, {statistics.median(seconds):.1f} s each (median)")
    for kind in config.kinds:
        print(
            f"{kind:6s} all cells {summary(everywhere[kind])}, "
            f"layers at the last subject token {summary(at_subject[kind])}, "
            f"estimated peak {statistics.median(peaks[kind]):.2f} of the exact one (median)"
        )


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; ties are rare among float effects and are broken by place."""
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def summary(values: list[float]) -> str:
    low, high = torch.tensor(values).quantile(torch.tensor([0.1, 0.9])).tolist()
    return f"{statistics.fmean(values):.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
