"""Are other kinds of knowledge held where facts are? Traces at the paper's two sites, by kind.

    python benchmarks/kinds.py /tmp/kinds --prompts 10 --samples 2 --layers 1-29:4

Traces prompts of `builtin-reasoning` and of `builtin` that the model knows, one of each kind in
turn, at the last subject token and at the last token only: the other tokens take most of the time
(`factlab trace-average builtin-reasoning --relation arithmetic` has them all). Every trace is kept,
so the same command goes on where it was stopped. Writes the table and the figure of
`factlab trace-compare`.
"""

import argparse
import json
import time
from pathlib import Path

import factlab as fl
from factlab.data.known_sources import known_facts
from factlab.tracing.average import average_records
from factlab.tracing.comparison import compare_averages

KINDS = ("facts", "arithmetic", "temporal", "spatial", "logical")
ASKED = 200  # of the built-in facts; far more than are traced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--prompts", type=int, default=10, help="of each kind")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--layers", default="1-29:4")
    parser.add_argument("--noise", default="0.35")
    args = parser.parse_args()
    lm = fl.load(device="cpu")
    settings = {"samples": args.samples, "corruption": args.noise, "layers": args.layers}
    config = fl.tracing.TraceConfig.model_validate(settings | {"window": 10})
    known, n_asked = {}, {}
    for kind in KINDS:
        facts = [k.fact for k in _facts(kind)]
        n_asked[kind] = len(facts)
        is_known = fl.tracing.knows(lm, facts)
        known[kind] = [fact for fact, yes in zip(facts, is_known, strict=True) if yes]
        print(f"{kind}: the model knows {len(known[kind])} of {len(facts)}", flush=True)
    for i in range(args.prompts):
        for kind in KINDS:
            if i < len(known[kind]):
                _trace(lm, known[kind][i], config, args.out / kind / f"{i:03}.json")
        _compare(lm, config, args.out, known, n_asked)


def _facts(kind: str) -> list[fl.data.KnownFact]:
    return (
        known_facts("builtin")[:ASKED]
        if kind == "facts"
        else known_facts("builtin-reasoning", kind)
    )


def _trace(lm: fl.LanguageModel, fact: fl.Fact, config: fl.tracing.TraceConfig, path: Path) -> None:
    if path.exists():
        return
    began, used = time.perf_counter(), time.process_time()
    place = lm.fact_continuation(fact)
    sites = (place.subject.last, place.n_prompt - 1)
    here = config.model_copy(update={"positions": sites})
    trace = fl.causal_trace(lm, fact, config=here)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = trace.to_json() | {"n_tokens": len(trace.tokens)}
    path.write_text(json.dumps(document))
    print(
        f"{path.parent.name} {path.stem}: {time.perf_counter() - began:.0f} s, "
        f"{time.process_time() - used:.0f} s of the processor",
        flush=True,
    )


def _compare(
    lm: fl.LanguageModel,
    config: fl.tracing.TraceConfig,
    out: Path,
    known: dict[str, list[fl.Fact]],
    n_asked: dict[str, int],
) -> None:
    averages = {}
    for kind in KINDS:
        paths = sorted((out / kind).glob("*.json"))
        records = {int(path.stem): json.loads(path.read_text()) for path in paths}
        findings = {
            "unusable": {},
            "cases": [*records],
            "n_wrong": n_asked[kind] - len(known[kind]),
            "config": config.model_dump(mode="json"),
            "part_names": lm.layers.part_names,
        }
        model = {"name": lm.name, "fingerprint": lm.identity.now().fingerprint}
        averages[kind] = average_records({"model": model}, findings, records)
    compare_averages(averages).save(out)


if __name__ == "__main__":
    main()
