"""How good are edits? Efficacy, paraphrase and neighbourhood success over many facts and methods.

Facts come from two TSV files in the form of ParaRel: facts (relation, subject, object) and patterns
(relation, a sentence with [X] for the subject that ends in [Y]). For every record a subject and its
true object are drawn, a new object of the same relation (weighted by frequency), a rewriting
prompt, up to two paraphrases, and up to ten neighbours: other subjects with the same true object.

    python benchmarks/edit_quality.py --facts facts.tsv --patterns patterns.tsv --out FOLDER
    python benchmarks/edit_quality.py ... --together 1,3,10,32,100

The first writes a table with one edit measured at a time; the second puts n facts into one model by
each method and measures all n. A line per case is appended to a file of its own for each method;
run the same command again to go on after an interruption.

Scores as in CounterFact, by mean log-probability per token: an edit or paraphrase succeeds if the
new object is more probable than the true one, a neighbour if it is not (ES, PS, NS, in per cent);
magnitudes are differences of the two probabilities (EM, PM, NM); S is the harmonic mean of the
first three.
"""

import argparse
import json
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import BaseModel

import factlab as fl
from factlab.editing.background import Background
from factlab.editing.methods import method_named
from factlab.editing.rome import RomeConfig
from factlab.models.allocator import keep_freed_memory

Scores = dict[str, float]
LEGACY = "rome legacy"
EACH = ["unedited", "ft", "ft+l", "rome", LEGACY, "memit", "attn", "emmet", "alphaedit"]
TOGETHER = ["rome", "memit", "emmet", "alphaedit", "ft+l"]


@dataclass(frozen=True)
class Record:
    relation: str
    fact: fl.Fact
    paraphrases: list[str]
    neighbours: list[str]


def read_tsv(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def build_records(facts_path: Path, patterns_path: Path, count: int, seed: int) -> list[Record]:
    templates = defaultdict(list)
    for relation, pattern in read_tsv(patterns_path):
        sentence = pattern.rstrip(" .")
        if sentence.endswith("[Y]") and sentence.count("[X]") == 1:
            templates[relation].append(sentence.removesuffix("[Y]").rstrip().replace("[X]", "{}"))
    facts = defaultdict(list)
    for relation, subject, obj in read_tsv(facts_path):
        facts[relation].append((subject, obj))
    relations = sorted(r for r in facts if len(templates[r]) >= 3)
    rng = random.Random(seed)
    records: list[Record] = []
    while len(records) < count:
        relation = rng.choice(relations)
        subject, true = rng.choice(facts[relation])
        frequency = Counter(obj for _, obj in facts[relation] if obj != true)
        same = sorted({s for s, obj in facts[relation] if obj == true and s != subject})
        if not frequency or not same:
            continue
        new = rng.choices(list(frequency), list(frequency.values()))[0]
        rewriting, *others = rng.sample(templates[relation], 3)
        neighbours = rng.sample(same, min(10, len(same)))
        records.append(
            Record(
                relation,
                fl.Fact(rewriting, subject, new, true),
                [t.replace("{}", subject) for t in others],
                [rewriting.replace("{}", s) for s in neighbours],
            )
        )
    return records


def measured(lm: fl.LanguageModel, records: Sequence[Record]) -> list[Scores]:
    """Scores of the model as it is now."""
    prompts, news, trues = [], [], []
    for record in records:
        own = [record.fact.prompt, *record.paraphrases, *record.neighbours]
        prompts += own
        news += [record.fact.target_new] * len(own)
        trues += [record.fact.target_true] * len(own)
    scores = lm.score(prompts + prompts, news + trues, batch_size=64)
    pairs = list(zip(scores[: len(prompts)], scores[len(prompts) :], strict=True))
    rows: list[Scores] = []
    for record in records:
        n, total = 1 + len(record.paraphrases), 1 + len(record.paraphrases + record.neighbours)
        own, pairs = pairs[:total], pairs[total:]
        wins = [float(new.mean_nll < true.mean_nll) for new, true in own]
        gaps = [new.length_normalised_prob - true.length_normalised_prob for new, true in own]
        row = {"ES": wins[0], "PS": statistics.mean(wins[1:n])}
        row |= {"NS": 1 - statistics.mean(wins[n:]), "EM": gaps[0]}
        row |= {"PM": statistics.mean(gaps[1:n]), "NM": -statistics.mean(gaps[n:])}
        rows.append(row)
    return rows


def summary(rows: Sequence[Scores]) -> dict[str, str]:
    cells = {}
    for name in ("ES", "PS", "NS", "EM", "PM", "NM"):
        values = [100 * row[name] for row in rows]
        width = 1.96 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        cells[name] = f"{statistics.mean(values):.1f} ± {width:.1f}"
    means = [100 * statistics.mean(row[name] for row in rows) for name in ("ES", "PS", "NS")]
    return {"S": f"{statistics.harmonic_mean([max(m, 1e-9) for m in means]):.1f}"} | cells


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, row: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def named(method: str, configs: dict[str, dict]) -> tuple[str, BaseModel | None]:
    if method == LEGACY:
        return "rome", RomeConfig.published()
    values = configs.get(method)
    return method, method_named(method).config.model_validate(values) if values else None


def each(lm, records, methods, configs, out, background) -> None:
    print("| | n | S | ES | PS | NS | EM | PM | NM | s per edit |\n|---|" + "---:|" * 9)
    for method in methods:
        path = out / f"each-{method.replace(' ', '-')}.jsonl"
        done = len(read_lines(path))
        for start in range(done, len(records), 20):
            some = records[start : start + 20]
            if method == "unedited":
                for row in measured(lm, some):
                    append(path, row | {"edit_s": 0.0})
                continue
            name, config = named(method, configs)
            began = time.perf_counter()
            edits = method_named(name).each(
                lm, [r.fact for r in some], config, background, lambda *_: None
            )
            edit_s = (time.perf_counter() - began) / len(some)
            for record, edit in zip(some, edits, strict=True):
                with edit.applied(lm):
                    append(path, measured(lm, [record])[0] | {"edit_s": edit_s})
        rows = read_lines(path)[: len(records)]
        seconds = statistics.mean(row["edit_s"] for row in rows)
        print(f"| {method} | {len(rows)} | {' | '.join(summary(rows).values())} | {seconds:.2f} |",
              flush=True)  # fmt: skip


def together(lm, records, counts, methods, configs, out, background) -> None:
    print("| | n | S | ES | PS | NS | EM | PM | NM | s |\n|---|" + "---:|" * 9)
    for method in methods:
        for n in counts:
            path = out / f"together-{method}-{n}.json"
            if not path.exists():
                name, config = named(method, configs)
                some = [record.fact for record in records[:n]]
                began = time.perf_counter()
                run = fl.edit_sequence if name == "rome" else fl.edit_together
                edit = run(lm, some, name, config, background).combined()
                seconds = time.perf_counter() - began
                with edit.applied(lm):
                    rows = measured(lm, records[:n])
                path.write_text(json.dumps({"rows": rows, "edit_s": seconds}))
            found = json.loads(path.read_text())
            cells = " | ".join(summary(found["rows"]).values())
            print(f"| {method} | {n} | {cells} | {found['edit_s']:.0f} |", flush=True)
    plot(out, counts, methods)


def plot(out: Path, counts: list[int], methods: list[str]) -> None:
    figure = Figure(figsize=(6, 3.6), dpi=150, layout="constrained")
    panel = figure.subplots()
    for method in methods:
        found = [json.loads((out / f"together-{method}-{n}.json").read_text()) for n in counts]
        label = f"{method} (one after another)" if method == "rome" else method
        scores = [float(summary(f["rows"])["S"]) for f in found]
        panel.plot(counts, scores, marker="o", markersize=3, label=label)
    panel.set(xscale="log", xlabel="facts in one model", ylabel="S", ylim=(0, 100))
    panel.set_xticks(counts, labels=counts)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)
    figure.savefig(out / "together.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--patterns", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--methods", help="comma-separated; all by default")
    parser.add_argument("--configs", default="{}", help="JSON: settings by method")
    parser.add_argument("--together", help="numbers of facts, such as 1,3,10,32,100")
    args = parser.parse_args()

    keep_freed_memory()
    lm = fl.load(args.model)
    configs = json.loads(args.configs)
    args.out.mkdir(parents=True, exist_ok=True)
    counts = [int(n) for n in args.together.split(",")] if args.together else []
    wanted = max([args.records, *counts])
    records = build_records(args.facts, args.patterns, wanted, args.seed)
    methods = args.methods.split(",") if args.methods else TOGETHER if counts else EACH
    background = Background()
    if counts:
        together(lm, records, counts, methods, configs, args.out, background)
    else:
        each(lm, records, methods, configs, args.out, background)


if __name__ == "__main__":
    main()
