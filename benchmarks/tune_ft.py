"""Which bound ε of fine-tuning for which problem? Chosen on facts that the study does not see.

    python benchmarks/tune_ft.py --model tiny:llama --facts 2 --layers 0,1   # to try it out
    python benchmarks/tune_ft.py --facts 8                                   # the bundled model

Hase et al. 2023 (appendix A) tune the bound of every entry's change for each problem. Here facts
behind `--after` of the built-in ones that the model knows are edited with every bound at every
layer, and the one with the largest mean *overall* score (rewrite, paraphrases, neighbours) is taken
for each problem and width. The last lines are what `factlab study localisation` takes; a study of
the first facts (`--limit`) with them has been tuned on none of its own. A bound at an end of the
list is marked: give more on that side.
"""

import argparse
import statistics
from collections import defaultdict
from functools import partial

import factlab as fl
from factlab.editing import Background, SubjectNoise
from factlab.editing.noised import level_of
from factlab.editing.variants import VARIANTS
from factlab.evaluation import LocalisationConfig, LocalisedMethod
from factlab.evaluation.localising.configs import LEAST_FACTS
from factlab.evaluation.localising.known_facts import known_facts
from factlab.evaluation.localising.plan import Cell, Grid
from factlab.evaluation.localising.worker import Worker
from factlab.evaluation.scoring.problem_scores import problem_scores
from factlab.progress import silent


def main() -> None:
    args = arguments()
    fl.models.keep_freed_memory()
    lm = fl.load(args.model)
    is_tiny = (args.model or "").startswith("tiny:")
    toy = {"answer_tokens": 0, "least_prob": 0} if is_tiny else {}
    methods = [f"ft+l:width={width},forcing.steps=50" for width in args.widths]
    config = LocalisationConfig(
        layers=args.layers, methods=methods, variants=args.variants, window=1, windows=[1],
        samples=args.samples, essence_texts=0, **toy,
    )  # fmt: skip
    worker = worker_of(lm, config, args.after, args.facts)
    facts = {place: worker.fact_row(place) for place in range(len(worker.records))}
    batch = worker.batch(facts)
    scores: dict[tuple[int, str, float], list[float]] = defaultdict(list)
    for method in config.methods:
        for epsilon in args.bounds:
            bound = method.settings | {"epsilon": epsilon}
            bounded = method.model_copy(update={"settings": bound})
            for layer in worker.grid.layers:
                rows = worker.edit_rows(batch, facts, Cell(layer, bounded, 0))
                for (_, variant), row in rows.items():
                    if row.failed is None:
                        found = problem_scores(row.before, row.after, variant)
                        scores[method.width, variant, epsilon].append(found["overall"])
    print(f"{lm.name}: mean overall score of {len(facts)} facts at layers "
          f"{', '.join(map(str, worker.grid.layers))}\n")  # fmt: skip
    means = {key: statistics.mean(values) for key, values in scores.items()}
    print(f"| layers together | problem | {' | '.join(f'{e:g}' for e in args.bounds)} |")
    print(f"|---:|---|{'---:|' * len(args.bounds)}")
    for method in config.methods:
        for variant in config.variants:
            shown = [f"{means[method.width, variant, e]:.3f}" for e in args.bounds]
            print(f"| {method.width} | {variant} | {' | '.join(shown)} |")
    print()
    for method in config.methods:
        print(f"--method {specified(method, config.variants, args.bounds, means)}")


def specified(
    method: LocalisedMethod,
    variants: tuple[str, ...],
    bounds: list[float],
    means: dict[tuple[int, str, float], float],
) -> str:
    """The method with the best bound of every problem, as the study takes it."""
    parts, at_end = [f"width={method.width}", "forcing.steps=50"], list[str]()
    for variant in variants:
        best = max(bounds, key=lambda epsilon: means[method.width, variant, epsilon])
        parts.append(f"{variant}.epsilon={best:g}")
        if best in (bounds[0], bounds[-1]):
            at_end.append(variant)
    spec = f"ft+l:{','.join(parts)}"
    LocalisedMethod.parse(spec)
    return f"{spec}   # at an end: {', '.join(at_end)}" if at_end else spec


def worker_of(lm: fl.LanguageModel, config: LocalisationConfig, after: int, n: int) -> Worker:
    """The study's worker on known facts behind the first so many."""
    records = fl.load_records("builtin")[after:]
    known = known_facts(lm, records, config, max(n, LEAST_FACTS), silent).places[:n]
    level = level_of(lm, [record.fact for record in records])
    noise = SubjectNoise(level=level, samples=config.samples, seed=config.seed)
    grid = Grid.of(config, lm.n_layers)
    return Worker(lm, [records[i] for i in known], known, grid, noise, Background())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--after", type=int, default=1000, help="leave the first facts out")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--layers", default=None, help="by default those of the study")
    parser.add_argument("--widths", type=partial(listed, int), default=[1, 5])
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument(
        "--bounds", type=partial(listed, float), default=[1e-5, 5e-5, 1e-4, 5e-4, 1e-3]
    )
    args = parser.parse_args()
    args.bounds.sort()
    return args


def listed(kind: type, text: str) -> list:
    return [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
