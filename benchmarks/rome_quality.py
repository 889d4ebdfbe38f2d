"""How good are ROME's edits: efficacy, paraphrase and neighbourhood success over many facts.

Facts come from two TSV files in the form of ParaRel: facts (relation, subject, object) and patterns
(relation, a sentence with [X] for the subject that ends in [Y]). For every record a subject and its
true object are drawn, a new object of the same relation (weighted by frequency), a rewriting
prompt, up to two paraphrases, and up to ten neighbours: other subjects with the same true object.

    python benchmarks/rome_quality.py --facts facts.tsv --patterns patterns.tsv --out scores.jsonl

One line per record is appended to --out; run the same command again to go on after an interruption.
Scores as in CounterFact: an edit or paraphrase counts if the new object is more probable than the
true one, a neighbour if it is not, by mean log-probability per token.
"""

import argparse
import json
import random
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import factlab as fl
from factlab.stats.corpus import corpus_from_files
from factlab.stats.store import StatsConfig, second_moments


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


def successes(lm: fl.LanguageModel, record: Record) -> dict[str, float]:
    """Share of prompts of each kind on which the record succeeds."""
    prompts = [record.fact.prompt, *record.paraphrases, *record.neighbours]
    new = lm.score(prompts, [record.fact.target_new] * len(prompts))
    true = lm.score(prompts, [record.fact.target_true] * len(prompts))
    prefers_new = [n.mean_nll < t.mean_nll for n, t in zip(new, true, strict=True)]
    n = len(record.paraphrases)
    return {
        "ES": float(prefers_new[0]),
        "PS": statistics.mean(prefers_new[1 : 1 + n]),
        "NS": 1 - statistics.mean(prefers_new[1 + n :]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--patterns", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--records", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model")
    parser.add_argument("--corpus", type=Path, help="text for C instead of the model's own")
    parser.add_argument("--config", default="{}", help="RomeConfig as JSON")
    args = parser.parse_args()

    lm = fl.load(args.model)
    records = build_records(args.facts, args.patterns, args.records, args.seed)
    config = fl.RomeConfig.model_validate_json(args.config)
    done = args.out.read_text().count("\n") if args.out.exists() else 0
    moment = None
    for number, record in enumerate(records[done:], start=done):
        if moment is None and args.corpus is not None:
            first = fl.rome(lm, record.fact, config)  # finds the layer
            layer, stats = first.config["layer"], StatsConfig()
            corpus = corpus_from_files(lm, args.corpus, stats.n_tokens(lm), stats.row_length)
            moment = second_moments(lm, [layer], corpus=corpus)[layer]
        before = successes(lm, record)
        start = time.perf_counter()
        edit = fl.rome(lm, record.fact, config, second_moment=moment)
        edit_s = time.perf_counter() - start
        with edit.applied(lm):
            after = successes(lm, record)
        row = {"record": number, "relation": record.relation, "subject": record.fact.subject}
        row |= {"before": before, "after": after, "edit_s": edit_s}
        row |= {"steps": len(edit.diagnostics["loss"]), "prob": edit.diagnostics["target_prob"]}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")

    rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    for when in ("before", "after"):
        means = {k: 100 * statistics.mean(r[when][k] for r in rows) for k in ("ES", "PS", "NS")}
        s = statistics.harmonic_mean(means.values())
        print(when, {k: round(v, 1) for k, v in means.items()}, "S", round(s, 1), "n", len(rows))
    print("seconds per edit", round(statistics.mean(r["edit_s"] for r in rows), 1))


if __name__ == "__main__":
    main()
